//! Summing up topics.

use std::collections::{BTreeMap, HashMap};

use aionis_core::{
    clock::Timestamp,
    derive_id::reference_scope_key,
    error::{DomainError, ErrorKind},
    ids::{NodeId, ScopeKey},
    jobs::{
        JobInfo, Over, Schedule,
        rollup::{ROLLUP_KIND, Rolled, RollupParams, Wanted, is_summed_up, roll_up, wanted},
    },
    ports::store::{SourceNode, TopicEvent},
    write::WriteOutcome,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    Job, Report, Step, Stepped,
    derived_write::{Derived, TRIES, Writing, never_still},
};

pub(super) const INFO: JobInfo = JobInfo {
    name: "compression-rollup",
    about: "Sum up topics by what their newest events say",
    changes: true,
    over: Over::Scopes,
    schedule: Some(Schedule { every: std::time::Duration::from_secs(86_400), only_changed: true }),
};

/// Events of one topic that are looked at, the newest.
const EVENTS_SEEN_MAX: usize = 10_000;
/// A day, in microseconds.
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// What topics are summed up by.
#[derive(Clone, Debug)]
pub struct RollupSettings {
    /// How old an event may be, in days.
    pub lookback_days: u32,
    /// Least events of a topic.
    pub events_min: u32,
    /// Topics of one step.
    pub topics_max: usize,
    /// Most events one summary is made of.
    pub events_max: usize,
    /// Longest text, in UTF-16 units.
    pub text_max_len: usize,
    /// Tenant whose scope names stay unprefixed in derived ids.
    pub default_tenant: String,
    /// Whether there is a provider that derives vectors.
    pub can_embed: bool,
}

impl Default for RollupSettings {
    fn default() -> Self {
        Self {
            lookback_days: 30,
            events_min: 4,
            topics_max: 50,
            events_max: 12,
            text_max_len: 1_800,
            default_tenant: "default".to_owned(),
            can_embed: true,
        }
    }
}

/// Writes a summary of each active topic, for each audience that sees other events of it; one transaction per step.
#[derive(Clone, Debug, Default)]
pub struct CompressionRollup {
    settings: RollupSettings,
}

/// What a step amounts to.
#[derive(Default)]
struct Counts {
    scanned: u64,
    compressed: u64,
    created: u64,
    updated: u64,
    unchanged: u64,
    left_alone: u64,
    citations: u64,
    commit: Option<(String, String)>,
}

impl CompressionRollup {
    /// The job with these settings.
    pub const fn new(settings: RollupSettings) -> Self {
        Self { settings }
    }

    fn rollup_params(&self, scope: &ScopeKey) -> RollupParams {
        RollupParams {
            events_min: self.settings.events_min as usize,
            events_max: self.settings.events_max,
            text_max_len: self.settings.text_max_len,
            reference_key: reference_scope_key(scope.tenant(), scope.scope(), &self.settings.default_tenant),
        }
    }

    /// Which summaries some topics are to have.
    async fn wanted(&self, on: &Step<'_>, topics: &[SourceNode]) -> Result<Vec<Wanted>, DomainError> {
        let scope = on.scope()?;
        let ids: Vec<NodeId> = topics.iter().map(|topic| topic.id).collect();
        let since = Timestamp(on.now.0.saturating_sub(i64::from(self.settings.lookback_days) * DAY_US));
        let mut events: BTreeMap<NodeId, Vec<TopicEvent>> = BTreeMap::new();
        for event in on.store.topic_events(scope, &ids, since, EVENTS_SEEN_MAX).await? {
            events.entry(event.topic).or_default().push(event);
        }
        let params = self.rollup_params(scope);
        let of = |topic: &SourceNode| events.get(&topic.id).map(|events| wanted(&params, topic, events));
        Ok(topics.iter().filter_map(of).flatten().collect())
    }

    /// Sums up topics; nothing is returned when what they say changed meanwhile.
    async fn sum_up(&self, on: &Step<'_>, ids: &[NodeId]) -> Result<Option<Counts>, DomainError> {
        let scope = on.scope()?;
        let mut counts = Counts { scanned: ids.len() as u64, ..Counts::default() };
        let mut topics = on.store.source_nodes(scope, ids).await?;
        topics.retain(is_summed_up);
        let wanted = self.wanted(on, &topics).await?;
        let mut sources: Vec<NodeId> = wanted.iter().flat_map(|summary| summary.events.iter().copied()).collect();
        sources.sort_unstable();
        sources.dedup();
        let mut nodes: HashMap<NodeId, SourceNode> = topics.into_iter().map(|topic| (topic.id, topic)).collect();
        nodes.extend(on.store.source_nodes(scope, &sources).await?.into_iter().map(|node| (node.id, node)));
        let ids: Vec<NodeId> = wanted.iter().map(|summary| summary.id).collect();
        let stored = on.store.source_nodes(scope, &ids).await?;
        let stored: HashMap<NodeId, SourceNode> = stored.into_iter().map(|node| (node.id, node)).collect();
        let params = self.rollup_params(scope);
        let mut derived = Derived { kind: ROLLUP_KIND, nodes: Vec::new(), edges: Vec::new(), expected: Vec::new() };
        let mut summed_up: Vec<NodeId> = wanted.iter().map(|summary| summary.topic).collect();
        summed_up.dedup();
        counts.compressed = summed_up.len() as u64;
        for summary in &wanted {
            match roll_up(&params, summary, &nodes, stored.get(&summary.id), on.now) {
                Rolled::Unchanged => counts.unchanged += 1,
                Rolled::LeftAlone => counts.left_alone += 1,
                Rolled::Gone => return Ok(None),
                Rolled::Written(summary) => {
                    counts.created += u64::from(summary.is_new);
                    counts.updated += u64::from(!summary.is_new);
                    counts.citations += summary.citations as u64;
                    derived.nodes.push(summary.node);
                    derived.edges.extend(summary.edges);
                    derived.expected.extend(summary.expected);
                }
            }
        }
        if derived.nodes.is_empty() || on.dry_run {
            return Ok(Some(counts));
        }
        let written = self.writing(on, scope).write(derived).await?;
        let commit = |outcome: WriteOutcome| (outcome.commit_id.to_string(), outcome.commit_hash);
        Ok(written.map(|outcome| Counts { commit: Some(commit(outcome)), ..counts }))
    }

    fn writing<'a>(&'a self, on: &'a Step<'_>, scope: &'a ScopeKey) -> Writing<'a> {
        Writing {
            store: on.store,
            scope,
            default_tenant: &self.settings.default_tenant,
            can_embed: self.settings.can_embed,
            now: on.now,
        }
    }
}

impl Counts {
    fn report(&self) -> Report {
        let mut report = Report::default();
        for (name, by) in [
            ("scanned_topics", self.scanned),
            ("compressed_topics", self.compressed),
            ("created_summaries", self.created),
            ("updated_summaries", self.updated),
            ("unchanged_summaries", self.unchanged),
            ("left_alone_summaries", self.left_alone),
            ("citations_written", self.citations),
        ] {
            report.count(name, by);
        }
        if let Some((id, hash)) = &self.commit {
            report.set("commit_id", id.as_str());
            report.set("commit_hash", hash.as_str());
        }
        report
    }
}

fn after(cursor: Option<&Value>) -> Result<Option<NodeId>, DomainError> {
    let read = |cursor: &Value| {
        let id = cursor.as_str().and_then(|text| text.parse().ok()).map(NodeId);
        id.ok_or_else(|| {
            DomainError::new(ErrorKind::Internal, "internal_error", "the cursor of compression-rollup cannot be read")
        })
    };
    cursor.map(read).transpose()
}

#[async_trait]
impl Job for CompressionRollup {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        let settings = &self.settings;
        json!({
            "MEMORY_COMPRESSION_LOOKBACK_DAYS": settings.lookback_days,
            "MEMORY_COMPRESSION_TOPIC_MIN_EVENTS": settings.events_min,
            "MEMORY_COMPRESSION_MAX_TOPICS_PER_RUN": settings.topics_max,
            "MEMORY_COMPRESSION_MAX_EVENTS_PER_TOPIC": settings.events_max,
            "MEMORY_COMPRESSION_MAX_TEXT_LEN": settings.text_max_len,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let ids = on.store.topics(on.scope()?, after(on.cursor)?, self.settings.topics_max).await?;
        let next = ids.last().filter(|_| ids.len() >= self.settings.topics_max).map(|id| json!(id));
        if ids.is_empty() {
            return Ok(Stepped { report: Counts::default().report(), next: None });
        }
        for _ in 0..TRIES {
            if let Some(counts) = self.sum_up(on, &ids).await? {
                return Ok(Stepped { report: counts.report(), next });
            }
        }
        Err(never_still())
    }
}

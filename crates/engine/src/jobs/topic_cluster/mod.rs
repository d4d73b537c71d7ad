//! Putting events that are alike into topics.

mod density;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use aionis_core::{
    derive_id::reference_scope_key,
    error::DomainError,
    ids::{NodeId, ScopeKey},
    jobs::{
        JobInfo, Over, Schedule,
        topics::{
            CLUSTER_KIND, ClusterParams, ClusterPlan, KnownTopic, events_by_group, group_of, is_eligible,
            plan_clusters, plan_online, topic_id,
        },
    },
    ports::store::{EventQuery, SourceNode, Store, TopicGroup},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::progress::Progress;
use super::{
    Job, Step, Stepped,
    derived_write::{Derived, TRIES, Writing, never_still},
};

pub(super) const INFO: JobInfo = JobInfo {
    name: "topic-cluster",
    about: "Put events that are alike into topics",
    changes: true,
    over: Over::Scopes,
    schedule: Some(Schedule { every: std::time::Duration::from_secs(3_600), only_changed: true }),
};

/// Stored nodes one step looks at.
const SCAN_MAX: usize = 5_000;
/// Events that are clustered at once by density: it takes time by the square of their number.
const DENSITY_EVENTS_MAX: usize = 4_000;

/// How events are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other, each to the topic most like it; one that is like none begins its own.
    OnlineKnn,
    /// Where they lie densely (HDBSCAN); what lies alone stays without a topic.
    OfflineHdbscan,
}

impl Strategy {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnlineKnn => "online_knn",
            Self::OfflineHdbscan => "offline_hdbscan",
        }
    }
}

/// What clustering is done by.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Least cosine at which an event joins a topic, −1…1.
    pub similarity_min: f64,
    /// Members from which on a topic is active.
    pub events_min: u32,
    /// Stored topics that are compared with an event at most.
    pub candidates_max: usize,
    /// Events of one step.
    pub batch_size: usize,
    /// How.
    pub strategy: Strategy,
    /// Tenant whose scope names stay unprefixed in derived ids.
    pub default_tenant: String,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            similarity_min: 0.78,
            events_min: 5,
            candidates_max: 5,
            batch_size: 200,
            strategy: Strategy::OnlineKnn,
            default_tenant: "default".to_owned(),
        }
    }
}

/// Puts the events of scopes into topics, a batch after the other; one transaction per batch.
#[derive(Clone, Debug, Default)]
pub struct TopicCluster {
    settings: TopicSettings,
}

impl TopicCluster {
    /// The job with these settings.
    pub const fn new(settings: TopicSettings) -> Self {
        Self { settings }
    }

    fn params(&self, scope: &ScopeKey) -> ClusterParams {
        ClusterParams {
            similarity_min: self.settings.similarity_min,
            events_min: u64::from(self.settings.events_min),
            reference_key: reference_scope_key(scope.tenant(), scope.scope(), &self.settings.default_tenant),
        }
    }

    /// Topics an event may join, for the events of one group.
    async fn topics_near(
        &self,
        (store, scope): (&dyn Store, &ScopeKey),
        group: &TopicGroup,
        events: &[&SourceNode],
    ) -> Result<BTreeSet<NodeId>, DomainError> {
        let vectors: Vec<Vec<f32>> = events.iter().filter_map(|event| event.vector.clone()).collect();
        let found = store.nearest_topics(scope, group, &vectors, self.settings.candidates_max).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn known(&self, at: (&dyn Store, &ScopeKey), events: &[SourceNode]) -> Result<Vec<KnownTopic>, DomainError> {
        let (store, scope) = at;
        let mut near = BTreeSet::new();
        for (group, events) in events_by_group(events) {
            near.extend(self.topics_near(at, &group, &events).await?);
        }
        if near.is_empty() {
            return Ok(Vec::new());
        }
        let nodes = store.source_nodes(scope, &near.into_iter().collect::<Vec<_>>()).await?;
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let means = store.topic_means(scope, &ids).await?;
        Ok(nodes.into_iter().zip(means).map(|(node, members)| KnownTopic { node, members }).collect())
    }

    async fn plan(&self, on: &Step<'_>, events: &[SourceNode]) -> Result<ClusterPlan, DomainError> {
        let scope = on.scope()?;
        let params = self.params(scope);
        let known = self.known((on.store, scope), events).await?;
        match self.settings.strategy {
            Strategy::OnlineKnn => Ok(plan_online(&params, events, known, on.now)),
            Strategy::OfflineHdbscan => {
                let mut plan = ClusterPlan::default();
                for (group, events) in events_by_group(events) {
                    let events: Vec<SourceNode> = events.into_iter().cloned().collect();
                    let clusters = density::clusters(&events, self.settings.events_min as usize).await?;
                    let of_group = known.iter().filter(|topic| group_of(&topic.node).as_ref() == Some(&group));
                    plan.add(plan_clusters(&params, &events, &clusters, of_group.cloned().collect(), on.now));
                }
                plan.counts.processed = events.len() as u64;
                Ok(plan)
            }
        }
    }

    /// Events whose own topic would have the id of a node that is stored and takes no events: they stay without one.
    async fn blocked(&self, on: &Step<'_>, plan: &ClusterPlan) -> Result<HashSet<NodeId>, DomainError> {
        let new: Vec<NodeId> = plan.expected.iter().filter(|(_, digest)| digest.is_none()).map(|(id, _)| *id).collect();
        if new.is_empty() {
            return Ok(HashSet::new());
        }
        let stored = on.store.source_nodes(on.scope()?, &new).await?;
        Ok(stored.into_iter().map(|node| node.id).collect())
    }

    /// Puts events together, anew when what they are changes meanwhile.
    async fn cluster(&self, on: &Step<'_>, events: Vec<SourceNode>, so_far: &mut Progress) -> Result<(), DomainError> {
        let scope = on.scope()?;
        let ids: Vec<NodeId> = events.iter().map(|event| event.id).collect();
        let (mut events, mut taken) = (events, HashSet::new());
        for _ in 0..TRIES {
            let key = self.params(scope).reference_key;
            events.retain(|event| is_eligible(event) && !taken.contains(&topic_id(&key, event)));
            let plan = self.plan(on, &events).await?;
            let blocked = self.blocked(on, &plan).await?;
            if !blocked.is_empty() {
                let before = events.len();
                events.retain(|event| !blocked.contains(&topic_id(&key, event)));
                so_far.blocked += (before - events.len()) as u64;
                taken.extend(blocked);
                continue;
            }
            if plan.edges.is_empty() || on.dry_run {
                so_far.add(&plan.counts, None);
                return Ok(());
            }
            let counts = plan.counts;
            let writing = Writing {
                store: on.store,
                scope,
                default_tenant: &self.settings.default_tenant,
                can_embed: false,
                now: on.now,
            };
            let ClusterPlan { nodes, edges, expected, .. } = plan;
            if let Some(outcome) = writing.write(Derived { kind: CLUSTER_KIND, nodes, edges, expected }).await? {
                so_far.add(&counts, Some(&outcome));
                return Ok(());
            }
            events = on.store.source_nodes(scope, &ids).await?;
        }
        Err(never_still())
    }
}

#[async_trait]
impl Job for TopicCluster {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        let settings = &self.settings;
        json!({
            "TOPIC_SIM_THRESHOLD": settings.similarity_min,
            "TOPIC_MIN_EVENTS_PER_TOPIC": settings.events_min,
            "TOPIC_MAX_CANDIDATES_PER_EVENT": settings.candidates_max,
            "TOPIC_CLUSTER_BATCH_SIZE": settings.batch_size,
            "TOPIC_CLUSTER_STRATEGY": settings.strategy.as_str(),
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let mut so_far = Progress::read(on.cursor)?;
        let limit = match self.settings.strategy {
            Strategy::OnlineKnn => self.settings.batch_size,
            Strategy::OfflineHdbscan => DENSITY_EVENTS_MAX,
        };
        let query =
            EventQuery { after: so_far.after, limit, scan_max: SCAN_MAX, merged_since: Progress::merged_since(on.now) };
        let page = on.store.unassigned_events(on.scope()?, query).await?;
        so_far.begin_step(&page.counts);
        if !page.events.is_empty() {
            self.cluster(on, page.events, &mut so_far).await?;
        }
        so_far.after = page.next;
        let report = so_far.report(self.settings.strategy);
        Ok(Stepped { report, next: page.next.map(|_| so_far.cursor()) })
    }

    /// Vectors come without a commit, and with them events that can be put together.
    fn comes_back(&self, report: &super::Report) -> bool {
        report.number("pending_events") > 0
    }
}

//! Merging queued pairs, the best first.

use aionis_core::{
    error::DomainError,
    jobs::{
        JobInfo, Over,
        consolidation::{CandidateQuery, CandidateState, MergeAction},
    },
    lifecycle::DecayPolicy,
    model::NodeType,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    super::{Job, Report, Step, Stepped},
    merge, tell, unreadable,
};

/// Pairs merged in one commit.
const PAIRS_PER_STEP: usize = 100;

pub(in crate::jobs) const INFO: JobInfo = JobInfo {
    name: "consolidation-apply",
    about: "Merge queued pairs: one node of a group stays, the others become its aliases",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Merges queued pairs. Pairs that cannot be merged are passed over and do not use up the limit.
#[derive(Debug)]
pub struct ConsolidationApply {
    /// Kinds of nodes that are merged.
    pub types: Vec<NodeType>,
    /// Most pairs in one scope and run.
    pub limit: usize,
    /// Whether pairs under review are merged too.
    pub allow_contradictory: bool,
    /// How salience fades.
    pub decay: DecayPolicy,
}

/// Where a run stands in a scope.
#[derive(Default)]
struct Place {
    applied: usize,
    after: Option<(f64, String)>,
}

impl Place {
    fn read(cursor: Option<&Value>) -> Result<Self, DomainError> {
        let Some(stored) = cursor else { return Ok(Self::default()) };
        let read = || {
            let applied = usize::try_from(stored.get("applied")?.as_u64()?).ok()?;
            let (score, key) = (stored.get("score")?.as_f64()?, stored.get("pair_key")?.as_str()?);
            Some(Self { applied, after: Some((score, key.to_owned())) })
        };
        read().ok_or_else(|| unreadable(cursor))
    }
}

#[async_trait]
impl Job for ConsolidationApply {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!({
            "types": self.types,
            "limit_apply": self.limit,
            "allow_contradictory": self.allow_contradictory,
            "decay": self.decay,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let place = Place::read(on.cursor)?;
        let mut states = vec![CandidateState::Open];
        if self.allow_contradictory {
            states.push(CandidateState::Review);
        }
        let limit = self.limit.saturating_sub(place.applied).min(PAIRS_PER_STEP);
        let pairs = on.store.candidates(scope, &CandidateQuery { states, after: place.after, limit }).await?;
        let mut report = Report::default();
        let Some(last) = pairs.last() else { return Ok(Stepped { report, next: None }) };
        let action = MergeAction::Apply {
            pairs: pairs.iter().map(|pair| pair.pair_key.clone()).collect(),
            types: self.types.clone(),
            allow_contradictory: self.allow_contradictory,
            decay: self.decay.clone(),
        };
        let done = merge(on, action).await?;
        let applied = pairs.len() - done.skipped.len();
        report.count("selected", pairs.len() as u64);
        report.count(if on.dry_run { "planned_apply" } else { "applied_pairs" }, applied as u64);
        report.count("merged_nodes", done.merges.iter().filter(|merge| merge.cause_id.is_none()).count() as u64);
        report.count("followed_aliases", done.merges.iter().filter(|merge| merge.cause_id.is_some()).count() as u64);
        report.count("skipped_pairs", done.skipped.len() as u64);
        for skipped in &done.skipped {
            report.list("skipped", json!(skipped));
        }
        tell(&mut report, &done);
        let applied = place.applied + applied;
        let goes_on = applied < self.limit && pairs.len() == limit;
        let next = json!({ "applied": applied, "score": last.score.score, "pair_key": last.pair_key });
        Ok(Stepped { report, next: goes_on.then_some(next) })
    }
}

//! Jobs: what runs them, and what they are.
//!
//! A job is a [`Job`]: one step loads a bounded page, plans and applies. [`run`](Runner::run) takes the lease, goes from
//! step to step, stores the cursor between them and notes the run; the [`Scheduler`] runs what is due by itself.
//! `aionis job`, the scheduler, the documents and the tests all take their jobs from [`ALL`].

mod compression_rollup;
mod consistency_check;
#[cfg(test)]
mod consistency_seeds;
#[cfg(test)]
mod consistency_tests;
mod consolidation;
mod derived_write;
mod embedding_backfill;
mod outbox_replay;
mod owner_review;
#[cfg(test)]
mod privacy_tests;
mod report;
#[cfg(test)]
mod report_tests;
mod reports;
mod retention;
mod runner;
mod salience_decay;
mod scheduler;
mod scope_purge;
#[cfg(test)]
mod tests;
mod topic_cluster;

use aionis_core::{
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    jobs::{JobInfo, Target},
    ports::store::Store,
};
use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

pub use self::{
    compression_rollup::{CompressionRollup, RollupSettings},
    consistency_check::ConsistencyCheck,
    consolidation::{
        CandidateSettings, ConsolidationApply, ConsolidationCandidates, ConsolidationRedirect, ConsolidationUndo,
        Decisions,
    },
    embedding_backfill::EmbeddingBackfill,
    outbox_replay::OutboxReplay,
    owner_review::OwnerReview,
    report::Report,
    reports::{ExecutionLoop, GovernanceWeeklyReport, PolicyAdaptation, QualityEval, RulePromotionSuggest},
    retention::Retention,
    runner::{JobReport, NoProgress, Progress, RunOptions, Runner, STEP_MAX, Selection, TargetReport, TargetStatus},
    salience_decay::SalienceDecay,
    scheduler::{Round, Scheduler, SchedulerSettings},
    scope_purge::ScopePurge,
    topic_cluster::{Strategy, TopicCluster, TopicSettings},
};

/// Every job there is, in the order of their names.
pub const ALL: &[&JobInfo] = &[
    &compression_rollup::INFO,
    &consistency_check::OF_SCOPES,
    &consistency_check::OF_THE_DEPLOYMENT,
    &consolidation::APPLY,
    &consolidation::CANDIDATES,
    &consolidation::REDIRECT,
    &consolidation::UNDO,
    &embedding_backfill::INFO,
    &reports::EXECUTION_LOOP,
    &reports::GOVERNANCE,
    &outbox_replay::INFO,
    &owner_review::INFO,
    &reports::POLICY_ADAPTATION,
    &reports::QUALITY_EVAL,
    &retention::INFO,
    &reports::RULE_PROMOTION,
    &salience_decay::INFO,
    &scope_purge::INFO,
    &topic_cluster::INFO,
];

/// Name of the job that a write may ask for.
pub const TOPIC_CLUSTER: &str = topic_cluster::INFO.name;

/// Work that maintains a memory.
#[async_trait]
pub trait Job: Send + Sync {
    /// What it is.
    fn info(&self) -> &'static JobInfo;

    /// The one target it was made for, whether a scope of that name is listed or not; most jobs are for any.
    fn target(&self) -> Option<Target> {
        None
    }

    /// What it was started with, for the history: no text of a memory, no secrets.
    fn params(&self) -> Value;

    /// Does one bounded step: loads, plans and, unless [`Step::dry_run`], applies. A step that is done twice must do no
    /// harm: the runner may have died after it and before its cursor was stored.
    ///
    /// # Errors
    /// Whatever keeps it from going on; the run ends as failed, and the next one begins this step again.
    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError>;

    /// Whether what it judges holds, after the last step; for jobs that judge.
    fn holds(&self, _report: &Report) -> bool {
        true
    }

    /// Whether it has to look again when it is due the next time, even where nothing is committed until then.
    fn comes_back(&self, _report: &Report) -> bool {
        false
    }
}

/// One step of a job.
pub struct Step<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// What it is about.
    pub target: &'a Target,
    /// Where the step before left off.
    pub cursor: Option<&'a Value>,
    /// Whether nothing may be changed.
    pub dry_run: bool,
    /// The time now.
    pub now: Timestamp,
    /// Id of the run.
    pub run: Uuid,
}

impl Step<'_> {
    /// The scope.
    ///
    /// # Errors
    /// The job was started for the deployment.
    pub fn scope(&self) -> Result<&ScopeKey, DomainError> {
        match self.target {
            Target::Scope(scope) => Ok(scope),
            Target::Deployment => Err(DomainError::new(
                ErrorKind::Internal,
                "internal_error",
                "a job over scopes was started for the deployment as a whole",
            )),
        }
    }
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// What it did, or would do: counts, and samples of ids. No text of a memory: it is kept.
    pub report: Report,
    /// Where the next step goes on; nothing at the end.
    pub next: Option<Value>,
}

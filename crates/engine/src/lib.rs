//! The use cases of Aionis: each takes a checked request and ports, and gives an answer of the domain.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admission;
pub mod audit;
pub mod backoff;
mod cursor;
mod derive;
mod forget;
pub mod gate;
pub mod jobs;
mod lately;
mod operate;
pub mod pulse;
mod queue;
mod read;
pub mod recall;
pub mod reembed;
mod sampler;
pub mod stages;
mod tools;
mod usage;
pub mod verify;
pub mod worker;
mod write;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{
    clock::Clock,
    deadline,
    lifecycle::DecayPolicy,
    ports::{
        embed::QueryVectors,
        store::{NodeRow, OutboxStatus, Store, StoreError},
    },
    recall::{Adaptive, ProfilePolicy},
    write::WriteSettings,
};

use tokio::sync::Semaphore;

use self::{audit::AuditWriter, gate::Gate, usage::UsageWriter};
pub use self::{
    cursor::CursorKey,
    forget::ForgetRequest,
    operate::{Activation, Rehydration, RuleFeedback},
    read::{CommitView, FindRequest, Found, erased_json},
    tools::{EvaluateRequest, Replayed, SelectRequest, ToolChoice, ToolFeedback, ToolFeedbackAnswer},
    write::{WriteAnswer, WriteLimits},
};

/// Earlier states that are recalled from at once.
const PAST_MAX: usize = 2;

/// Why questions get no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoVectors {
    /// `EMBEDDING_PROVIDER=none`.
    Disabled,
    /// The built-in model is chosen but its files are not there.
    ModelMissing,
}

/// Settings of the use cases.
#[derive(Debug)]
pub struct EngineSettings {
    /// How writes are prepared.
    pub write: WriteSettings,
    /// How large writes may be.
    pub write_limits: WriteLimits,
    /// Which profile a recall gets.
    pub profiles: ProfilePolicy,
    /// When it gets a cheaper one.
    pub adaptive: Adaptive,
    /// Recalls at once, waiting, and how long one may wait.
    pub recall_gate: GateSettings,
    /// Writes at once, waiting, and how long one may wait.
    pub write_gate: GateSettings,
    /// Recalls that may wait for a commit (`min_commit`), of which one tenant has at most half.
    pub commit_waiters_max: usize,
    /// How salience fades.
    pub decay: DecayPolicy,
    /// Whether the seeds of answered recalls count as used.
    pub recall_activates: bool,
    /// Audit rows that may wait to be stored; further ones are dropped and counted.
    pub audit_queue_max: usize,
    /// Nodes of a scope up to which recall answers from an earlier state, which it has to build first.
    pub as_of_nodes_max: u64,
    /// With what cursors are sealed.
    pub cursor_key: CursorKey,
}

/// Size of a gate.
#[derive(Clone, Copy, Debug)]
pub struct GateSettings {
    /// Requests at once.
    pub max_inflight: usize,
    /// Requests waiting.
    pub max_queue: usize,
    /// Longest wait.
    pub queue_timeout: Duration,
}

/// Where question vectors come from.
pub type QuerySource = Result<Arc<dyn QueryVectors>, NoVectors>;

/// The use cases over one store.
pub struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queries: QuerySource,
    pub(crate) settings: EngineSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: AuditWriter,
    pub(crate) usage: Option<UsageWriter>,
    pub(crate) rule_cache: tools::RuleCache,
    pub(crate) chain_height: sampler::ChainHeight,
    recall_gate: Gate,
    write_gate: Gate,
    pub(crate) commit_waiters: recall::CommitWaiters,
    outbox: lately::Lately<Result<OutboxStatus, StoreError>>,
    pub(crate) verifying: Arc<Semaphore>,
    /// Few earlier states at a time: each is held in memory as a whole.
    pub(crate) building_past: Arc<Semaphore>,
}

impl Engine {
    /// Puts the use cases together. Must be called inside a tokio runtime: the audit writer runs on it.
    pub fn new(store: Arc<dyn Store>, queries: QuerySource, settings: EngineSettings, clock: Arc<dyn Clock>) -> Self {
        let audit = AuditWriter::start(Arc::clone(&store), settings.audit_queue_max);
        let usage = settings.recall_activates.then(|| UsageWriter::start(Arc::clone(&store)));
        let recall_gate = Gate::new("recall", settings.recall_gate, Arc::clone(&clock));
        let write_gate = Gate::new("write", settings.write_gate, Arc::clone(&clock));
        let commit_waiters = recall::CommitWaiters::new(settings.commit_waiters_max);
        Self {
            store,
            queries,
            settings,
            clock,
            audit,
            usage,
            rule_cache: tools::RuleCache::default(),
            chain_height: sampler::ChainHeight::default(),
            recall_gate,
            write_gate,
            commit_waiters,
            outbox: lately::Lately::default(),
            verifying: Arc::new(Semaphore::new(1)),
            building_past: Arc::new(Semaphore::new(PAST_MAX)),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The settings.
    pub const fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// Where question vectors come from.
    pub const fn queries(&self) -> &QuerySource {
        &self.queries
    }

    /// Admission of recalls.
    pub const fn recall_gate(&self) -> &Gate {
        &self.recall_gate
    }

    /// Admission of writes.
    pub const fn write_gate(&self) -> &Gate {
        &self.write_gate
    }

    /// Recalls that wait for a commit.
    pub fn commit_waiters(&self) -> usize {
        self.commit_waiters.waiting()
    }

    /// What waits in the outbox, as it was at most five seconds ago: however often it is asked, the database is
    /// asked about once a second and by one caller at a time.
    ///
    /// # Errors
    /// What storage failed with; remembered as long as a success is.
    pub async fn outbox_lately(&self) -> Result<OutboxStatus, StoreError> {
        self.outbox
            .get(&*self.clock, async || {
                let bounded = deadline::within(Instant::now() + lately::STALE_MAX, self.store.outbox_status());
                let late = |_| Err(StoreError::Unavailable("the database took too long".to_owned()));
                tokio::time::timeout(lately::STALE_MAX, bounded).await.unwrap_or_else(late)
            })
            .await
    }

    /// A row with the salience it has now.
    pub(crate) fn aged(&self, row: NodeRow) -> NodeRow {
        NodeRow { salience: self.settings.decay.salience(row.salience, &row.decay, self.clock.now()), ..row }
    }

    /// Stores what still waits: rows of the audit, and what recalls used.
    pub async fn flush(&self) {
        self.audit.flush().await;
        if let Some(usage) = &self.usage {
            usage.flush().await;
        }
    }
}

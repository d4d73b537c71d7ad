//! The storage port. Narrow verbs, batch in and batch out; both engines implement all of them, and the conformance
//! suite proves that they agree.

mod backfill;
mod consistency;
mod consolidation;
mod error;
mod forget;
mod integrity;
mod jobs;
mod keys;
mod lifecycle;
mod maintenance;
mod operate;
mod outbox;
mod purge;
mod read;
mod recall;
mod reports;
mod retention;
mod topics;
mod write;

pub use backfill::{BackfillStore, LackingPage, Queued};
pub use consistency::{ConsistencyStore, ConsistencyView};
pub use consolidation::ConsolidationStore;
pub use error::StoreError;
pub use forget::ForgetStore;
pub use integrity::{
    CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoredEdgeRow, StoredFeedbackRow, StoredNodeRow,
};
pub use jobs::{JobStore, RUN_LEASE};
pub use keys::KeyStore;
pub use lifecycle::{LifecycleStore, TierPage};
pub use maintenance::{GenerationCounts, GivenUp, Lacking, MaintenanceStore, NodePlace};
pub use operate::{OperateStore, StoredRule};
pub use outbox::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText};
pub use purge::PurgeStore;
pub use read::{FindPage, FindQuery, ReadStore, StoredErasure};
pub use recall::{
    DenseHit, DenseQuery, EdgeQuery, HeldState, LexicalQuery, NodeFilter, NodeRow, RecallAudit, RecallReader,
    RecallStore, ScopeStatus, SeedRules, SurroundingsQuery,
};
pub use reports::{ReportStore, RuleSignalQuery};
pub use retention::{ExpiredDecisions, RetentionStore};
pub use topics::{EventPage, EventQuery, ScanCounts, SourceNode, TopicEvent, TopicGroup, TopicMean, TopicStore};
pub use write::WriteStore;

/// Everything a deployment stores.
pub trait Store:
    WriteStore
    + RecallStore
    + ReadStore
    + OutboxStore
    + IntegrityStore
    + MaintenanceStore
    + OperateStore
    + ForgetStore
    + KeyStore
    + JobStore
    + ConsistencyStore
    + ConsolidationStore
    + LifecycleStore
    + PurgeStore
    + ReportStore
    + RetentionStore
    + BackfillStore
    + TopicStore
{
}

impl<T> Store for T where
    T: WriteStore
        + RecallStore
        + ReadStore
        + OutboxStore
        + IntegrityStore
        + MaintenanceStore
        + OperateStore
        + ForgetStore
        + KeyStore
        + JobStore
        + ConsistencyStore
        + ConsolidationStore
        + LifecycleStore
        + PurgeStore
        + ReportStore
        + RetentionStore
        + BackfillStore
        + TopicStore
{
}

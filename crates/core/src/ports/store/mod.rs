//! The storage port. Narrow verbs, batch in and batch out; both engines implement all of them, and the conformance
//! suite proves that they agree.

mod error;
mod integrity;
mod maintenance;
mod operate;
mod outbox;
mod recall;
mod write;

pub use error::StoreError;
pub use integrity::{
    CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoredEdgeRow, StoredFeedbackRow, StoredNodeRow,
};
pub use maintenance::{GenerationCounts, GivenUp, Lacking, MaintenanceStore, NodePlace};
pub use operate::{OperateStore, StoredRule};
pub use outbox::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText};
pub use recall::{
    DenseHit, DenseQuery, EdgeQuery, LexicalQuery, NameQuery, NodeFilter, NodeRow, RecallAudit, RecallStore,
    ScopeStatus, SeedRules,
};
pub use write::WriteStore;

/// Everything a deployment stores.
pub trait Store: WriteStore + RecallStore + OutboxStore + IntegrityStore + MaintenanceStore + OperateStore {}

impl<T: WriteStore + RecallStore + OutboxStore + IntegrityStore + MaintenanceStore + OperateStore> Store for T {}

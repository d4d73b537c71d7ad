//! The storage port. Narrow verbs, batch in and batch out; both engines implement all of them, and the conformance
//! suite proves that they agree.

mod error;
mod integrity;
mod maintenance;
mod outbox;
mod recall;
mod write;

pub use error::StoreError;
pub use integrity::{CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoredEdgeRow, StoredNodeRow};
pub use maintenance::{GenerationCounts, GivenUp, Lacking, MaintenanceStore, NodePlace};
pub use outbox::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText};
pub use recall::{
    DenseHit, DenseQuery, EdgeQuery, LexicalQuery, NameQuery, NodeFilter, NodeRow, RecallAudit, RecallStore,
    ScopeStatus, SeedRules,
};
pub use write::WriteStore;

/// Everything a deployment stores.
pub trait Store: WriteStore + RecallStore + OutboxStore + IntegrityStore + MaintenanceStore {}

impl<T: WriteStore + RecallStore + OutboxStore + IntegrityStore + MaintenanceStore> Store for T {}

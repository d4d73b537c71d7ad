use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
};

/// Asks for work.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Who will do it.
    pub worker: String,
    /// Now.
    pub now: Timestamp,
    /// Until when it is theirs unless they extend it.
    pub lease: Duration,
    /// How many items at most.
    pub limit: usize,
}

/// One piece of work: derive the vectors of some nodes of one commit.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// Scope.
    pub scope: ScopeKey,
    /// Id of the item.
    pub id: Uuid,
    /// Fencing token of this claim; a later claim has a larger one.
    pub fence: u64,
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// Derive again where a vector is stored.
    pub force: bool,
    /// How often it was claimed, this time included.
    pub attempts: u32,
    /// When it was enqueued.
    pub created_at: Timestamp,
}

/// A node and the text its vector derives from, as stored now.
#[derive(Clone, Debug)]
pub struct PendingText {
    /// Scope.
    pub scope: ScopeKey,
    /// The node.
    pub id: NodeId,
    /// The text, or none when the node has none.
    pub text: Option<String>,
    /// Content digest of the node the text was read from.
    pub digest: Digest,
    /// Whether a vector of this content is stored already.
    pub ready: bool,
}

/// A derived vector, or why there is none.
#[derive(Clone, Debug)]
pub struct EmbeddedNode {
    /// Scope.
    pub scope: ScopeKey,
    /// The node.
    pub id: NodeId,
    /// Content digest the vector derives from; stored only while the node still has it.
    pub digest: Digest,
    /// The vector, or the reason why the node will have none.
    pub result: Result<Vec<f32>, String>,
}

/// An item that did not succeed.
#[derive(Clone, Debug)]
pub struct FailedItem {
    /// The claim.
    pub item: OutboxItem,
    /// What happened, for an operator.
    pub error: String,
    /// When to try again; none sends it to the dead letters and marks its pending nodes failed.
    pub retry_at: Option<Timestamp>,
    /// Whether this try counts towards the limit of attempts.
    pub counts: bool,
}

/// State of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Items waiting or claimed.
    pub pending: u64,
    /// Items given up.
    pub dead: u64,
    /// When the oldest waiting item was enqueued.
    pub oldest_pending: Option<Timestamp>,
}

/// The queue of derived work.
#[async_trait]
pub trait OutboxStore: Send + Sync {
    /// Claims available items: fair among tenants, oldest first within one. Expired leases are available again.
    ///
    /// # Errors
    /// A failure of storage.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<OutboxItem>, StoreError>;

    /// Extends the leases of claims that are still held.
    ///
    /// # Errors
    /// A failure of storage.
    async fn extend(&self, items: &[OutboxItem], until: Timestamp) -> Result<(), StoreError>;

    /// The texts of the items' nodes as stored now; nodes that are gone are left out.
    ///
    /// # Errors
    /// A failure of storage.
    async fn pending_texts(&self, items: &[OutboxItem]) -> Result<Vec<PendingText>, StoreError>;

    /// Stores vectors (only for contents that still stand) and publishes the items, both only for claims still held.
    /// Returns how many vectors were stored.
    ///
    /// # Errors
    /// A failure of storage.
    async fn complete(
        &self,
        items: &[OutboxItem],
        nodes: Vec<EmbeddedNode>,
        model: &str,
        now: Timestamp,
    ) -> Result<usize, StoreError>;

    /// Records failures, for claims still held.
    ///
    /// # Errors
    /// A failure of storage.
    async fn fail(&self, items: Vec<FailedItem>, now: Timestamp) -> Result<(), StoreError>;

    /// State of the queue.
    ///
    /// # Errors
    /// A failure of storage.
    async fn outbox_status(&self) -> Result<OutboxStatus, StoreError>;

    /// Returns when new work may be there; a wake-up only, never a promise.
    async fn work_arrived(&self);
}

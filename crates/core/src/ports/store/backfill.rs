use async_trait::async_trait;

use super::{PendingText, StoreError};
use crate::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::owner_review::OwnerlessNode,
    ports::embed::EmbeddingSpace,
};

/// A page of a scope's nodes without a vector of a generation for their present content.
#[derive(Clone, Debug, Default)]
pub struct LackingPage {
    /// The nodes with their texts, ordered by id, whatever the state of their vector.
    pub nodes: Vec<PendingText>,
    /// Where the next page begins; none at the end.
    pub next: Option<NodeId>,
}

/// What became of nodes that should get a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Nodes that were queued.
    pub queued: u64,
    /// Nodes that work in the queue names already.
    pub waiting: u64,
    /// Nodes without a text to derive a vector from; they count as failed.
    pub without_text: u64,
    /// Nodes that have a vector by now, or other content, or are gone.
    pub moved_on: u64,
}

/// Nodes that lack something: a vector, an owner.
#[async_trait]
pub trait BackfillStore: Send + Sync {
    /// Nodes of a scope without a vector of a generation for their present content, after an id. At most `limit` nodes are
    /// looked at, so a page may be short, even empty, before the end.
    ///
    /// # Errors
    /// A failure of storage.
    async fn lacking_in(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<LackingPage, StoreError>;

    /// Queues nodes of a scope that have no vector of a generation, those of them that still have none and the content they
    /// had, each once. No vector gets another label by it.
    ///
    /// # Errors
    /// A failure of storage.
    async fn queue_lacking(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        nodes: Vec<PendingText>,
        now: Timestamp,
    ) -> Result<Queued, StoreError>;

    /// Private nodes of a scope without owner, after an id, ordered by id, at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn ownerless(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<OwnerlessNode>, StoreError>;
}

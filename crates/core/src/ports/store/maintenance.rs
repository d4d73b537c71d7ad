use async_trait::async_trait;

use super::{EmbeddedNode, PendingText, StoreError};
use crate::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    ports::embed::EmbeddingSpace,
};

/// Derived work of a scope that was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GivenUp {
    /// Dead letters that can be tried again.
    pub dead_items: u64,
    /// Dead letters whose payload cannot be read: trying again would not help.
    pub unreadable_items: u64,
    /// Nodes without vector that have a text to derive one from.
    pub failed_nodes: u64,
}

/// A place in the order of all nodes: scope, then id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlace {
    /// Scope.
    pub scope: ScopeKey,
    /// Node.
    pub id: NodeId,
}

/// A page of nodes that have no vector of a model.
#[derive(Clone, Debug, Default)]
pub struct Lacking {
    /// The nodes with their texts, in order.
    pub texts: Vec<PendingText>,
    /// Where the next page begins; none at the end.
    pub next: Option<NodePlace>,
}

/// How far a generation of vectors is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GenerationCounts {
    /// Nodes whose vector is wanted: ready or pending ones.
    pub wanted: u64,
    /// Those that have a vector of the generation for their present content.
    pub present: u64,
}

/// What an operator does to derived data.
#[async_trait]
pub trait MaintenanceStore: Send + Sync {
    /// Forgets answers kept for repeated requests that are older than `before`, the oldest first, at most `limit`.
    /// Returns how many.
    ///
    /// # Errors
    /// A failure of storage.
    async fn forget_requests(&self, before: Timestamp, limit: usize) -> Result<u64, StoreError>;

    /// Derived work of a scope that was given up.
    ///
    /// # Errors
    /// A failure of storage.
    async fn given_up(&self, scope: &ScopeKey) -> Result<GivenUp, StoreError>;

    /// Puts given-up work of a scope back into the queue: dead letters with all their attempts, and failed nodes that have
    /// a text and no item waiting for them. Returns what was put back.
    ///
    /// # Errors
    /// A failure of storage.
    async fn replay(&self, scope: &ScopeKey, now: Timestamp) -> Result<GivenUp, StoreError>;

    /// Nodes that want a vector and have none of the generation for their present content, after a place. A page may be
    /// short, even empty, before the end.
    ///
    /// # Errors
    /// A failure of storage.
    async fn lacking(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Lacking, StoreError>;

    /// How far a generation is.
    ///
    /// # Errors
    /// A failure of storage.
    async fn generation_counts(&self, generation: &EmbeddingSpace) -> Result<GenerationCounts, StoreError>;

    /// Stores vectors of a generation beside those of others, for contents that still stand. Readers do not see them
    /// before the switch. Returns how many were stored.
    ///
    /// # Errors
    /// A failure of storage.
    async fn put_generation(
        &self,
        generation: &EmbeddingSpace,
        nodes: Vec<EmbeddedNode>,
        now: Timestamp,
    ) -> Result<usize, StoreError>;

    /// Makes a generation the one that is compared with, in one transaction. After that nodes that have no vector of it become
    /// pending and are queued; those without a text fail. Returns how many are queued. Doing it again goes on with the rest.
    ///
    /// # Errors
    /// A failure of storage.
    async fn switch_generation(&self, generation: &EmbeddingSpace, now: Timestamp) -> Result<u64, StoreError>;

    /// Writes the name of a generation on the nodes after a place that have a vector of it; looks at most `limit` nodes.
    /// Returns where to go on; none at the end.
    ///
    /// # Errors
    /// A failure of storage.
    async fn label_generation(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Option<NodePlace>, StoreError>;

    /// The generation the store compares with now, as it is stored.
    ///
    /// # Errors
    /// A failure of storage.
    async fn present_generation(&self) -> Result<EmbeddingSpace, StoreError>;

    /// Removes a scope's vectors of all generations but the present one. Returns how many.
    ///
    /// # Errors
    /// A failure of storage.
    async fn drop_other_generations(&self, scope: &ScopeKey) -> Result<u64, StoreError>;
}

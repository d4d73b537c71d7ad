use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{RecallReader, StoreError};
use crate::{
    canon::Digest,
    chain::StoredCommit,
    ids::{NodeId, ScopeKey},
    read::{AsOf, ErasedNode, Eyes, FindFilter, FoundNode, NodeVersion, Place, Position},
};

/// A page of nodes.
#[derive(Clone, Debug)]
pub struct FindQuery {
    /// Scope.
    pub scope: ScopeKey,
    /// Which nodes.
    pub filter: FindFilter,
    /// Who asks.
    pub eyes: Eyes,
    /// As it was right after this commit.
    pub as_of: Option<u64>,
    /// Where the page before ended.
    pub after: Option<Position>,
    /// How many nodes are passed over first.
    pub offset: usize,
    /// Most nodes of the page.
    pub limit: usize,
    /// Most stored nodes looked at, whether they are let through or not; the page ends there. Nodes that are named one by
    /// one are all looked at.
    pub scan_max: usize,
    /// Nodes that may have had one of the client ids named, where an earlier state is asked for. They are looked at too;
    /// the filter decides by the client id of that state.
    pub maybe_named: Vec<NodeId>,
}

/// What a page holds.
#[derive(Clone, Debug, Default)]
pub struct FindPage {
    /// The nodes, newest first.
    pub nodes: Vec<FoundNode>,
    /// Where the next page begins, when there may be one. A page may be short, or empty, and yet not the last.
    pub next: Option<Place>,
}

/// What is kept of an erased node, as verification reads it.
#[derive(Clone, Debug)]
pub struct StoredErasure {
    /// The node.
    pub id: Uuid,
    /// Digest it had.
    pub digest: Digest,
    /// Commit that erased it.
    pub commit_seq: u64,
}

/// Reading what is stored, apart from recall.
#[async_trait]
pub trait ReadStore: Send + Sync {
    /// Nodes that a filter lets through and the eyes see, newest first.
    ///
    /// # Errors
    /// A failure of storage.
    async fn find(&self, query: FindQuery) -> Result<FindPage, StoreError>;

    /// Contents of a node, newest first, the present one included; at most `limit` older than version `before`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn history(
        &self,
        scope: &ScopeKey,
        id: NodeId,
        before: Option<u32>,
        limit: usize,
    ) -> Result<Vec<NodeVersion>, StoreError>;

    /// Those of some nodes that were erased and not written again.
    ///
    /// # Errors
    /// A failure of storage.
    async fn erased(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<ErasedNode>, StoreError>;

    /// Commits with a number below `before`, newest first, at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn newest_commits(
        &self,
        scope: &ScopeKey,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredCommit>, StoreError>;

    /// The commit a state is named by.
    ///
    /// # Errors
    /// A failure of storage.
    async fn commit_at(&self, scope: &ScopeKey, state: AsOf) -> Result<Option<StoredCommit>, StoreError>;

    /// A scope as it was right after a commit, for recall. It is built for this question alone.
    ///
    /// # Errors
    /// `TooLarge` for a scope of more than `nodes_max` nodes; a failure of storage.
    async fn past(&self, scope: &ScopeKey, seq: u64, nodes_max: u64) -> Result<Arc<dyn RecallReader>, StoreError>;
}

use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::consolidation::{Candidate, CandidateQuery, CandidateState, MergeNode, MergeOutcome, PreparedMerge, Queued},
    model::NodeType,
};

/// Nodes that are looked through for those that are alike, the queue of pairs, and merges.
#[async_trait]
pub trait ConsolidationStore: Send + Sync {
    /// Ids and kinds of the scope's nodes after an id, ordered by id; at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn node_ids(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, NodeType)>, StoreError>;

    /// Nodes with what is compared and decided by, those that are stored, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn merge_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<MergeNode>, StoreError>;

    /// Stores pairs that were found, each named once. A pair that waits is brought up to date, and asks for review if it contradicts itself
    /// now and nobody has accepted it; one that was decided stays as it is. Pairs whose nodes are not stored are left out.
    ///
    /// # Errors
    /// A failure of storage.
    async fn queue_candidates(
        &self,
        scope: &ScopeKey,
        found: &[Candidate],
        now: Timestamp,
    ) -> Result<Queued, StoreError>;

    /// Queued pairs, the best first.
    ///
    /// # Errors
    /// A failure of storage.
    async fn candidates(&self, scope: &ScopeKey, query: &CandidateQuery) -> Result<Vec<Candidate>, StoreError>;

    /// Decides a pair that waits: open or rejected. False if no such pair waits.
    ///
    /// # Errors
    /// A failure of storage.
    async fn decide_candidate(
        &self,
        scope: &ScopeKey,
        pair_key: &str,
        state: CandidateState,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Aliases that merges made and that still are, after an id, ordered by id; at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn aliases(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError>;

    /// Merges, moves edges or takes merges back: planned inside the transaction that applies it, in one commit. Nothing is
    /// committed when nothing changes.
    ///
    /// # Errors
    /// A merge that is not there or cannot be taken back, a scope that is being copied in, a failure of storage.
    async fn merge(&self, asked: &PreparedMerge) -> Result<MergeOutcome, StoreError>;
}

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{StoreError, StoredErasure};
use crate::{
    canon::Digest,
    chain::StoredCommit,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::scope_purge::PurgeRecord,
    model::RuleState,
};

/// A scope and its stored head.
#[derive(Clone, Debug)]
pub struct ScopeSummary {
    /// Scope key as stored.
    pub scope_key: String,
    /// Stored number of the newest commit.
    pub head_seq: u64,
    /// Stored hash of the newest commit.
    pub head_hash: Digest,
    /// Stored count of nodes.
    pub nodes: u64,
    /// Stored count of edges.
    pub edges: u64,
}

/// A page of commits in order of their number.
#[derive(Clone, Debug, Default)]
pub struct CommitPage {
    /// The commits; what cannot even be read back is described instead.
    pub commits: Vec<Result<StoredCommit, (u64, String)>>,
}

/// A node's recomputed digest and last commit.
#[derive(Clone, Debug)]
pub struct StoredNodeRow {
    /// The node.
    pub id: Uuid,
    /// Digest recomputed from the stored columns, or why it cannot be.
    pub recomputed: Result<Digest, String>,
    /// Stored digest.
    pub stored: Digest,
    /// Stored number of its last commit.
    pub commit_seq: u64,
    /// Stored id of its last commit.
    pub commit_id: CommitId,
}

/// An edge's recomputed digest and last commit.
#[derive(Clone, Debug)]
pub struct StoredEdgeRow {
    /// The edge.
    pub id: Uuid,
    /// Digest recomputed from the stored columns, or why it cannot be.
    pub recomputed: Result<Digest, String>,
    /// Stored number of its last commit.
    pub commit_seq: u64,
    /// Kind, and from and to, as stored; none if that cannot be read, which `recomputed` says.
    pub place: Option<(String, Uuid, Uuid)>,
    /// Whether both ends are stored.
    pub ends_stored: bool,
}

/// Feedback's recomputed digest and its commit.
#[derive(Clone, Debug)]
pub struct StoredFeedbackRow {
    /// The feedback.
    pub id: Uuid,
    /// Digest recomputed from the stored columns, or why it cannot be.
    pub recomputed: Result<Digest, String>,
    /// Stored number of its commit.
    pub commit_seq: u64,
}

/// A kept earlier version of a node.
#[derive(Clone, Debug)]
pub struct NodeVersionRow {
    /// The node.
    pub id: Uuid,
    /// Number, from 1.
    pub version: u32,
    /// Commit that made it.
    pub from_seq: u64,
    /// Digest recomputed from the kept content.
    pub recomputed: Digest,
}

/// Reading for verification: pages in a fixed order, straight from durable storage, never from a cache.
#[async_trait]
pub trait IntegrityStore: Send + Sync {
    /// Scopes, ordered by key; all, those of a tenant, or one.
    ///
    /// # Errors
    /// A failure of storage.
    async fn scopes(&self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError>;

    /// Commits with a number above `after`, at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn commits(&self, scope: &ScopeKey, after: u64, limit: usize) -> Result<CommitPage, StoreError>;

    /// Nodes with an id above `after`, at most `limit`, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn nodes(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredNodeRow>, StoreError>;

    /// Edges with an id above `after`, at most `limit`, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn edges(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredEdgeRow>, StoreError>;

    /// Kept versions with a (node, version) above `after`, at most `limit`, ordered by it.
    ///
    /// # Errors
    /// A failure of storage.
    async fn versions(
        &self,
        scope: &ScopeKey,
        after: Option<(Uuid, u32)>,
        limit: usize,
    ) -> Result<Vec<NodeVersionRow>, StoreError>;

    /// Rules with an id above `after` and their states, at most `limit`, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn rule_states(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(NodeId, RuleState)>, StoreError>;

    /// Feedback with an id above `after`, at most `limit`, ordered by id: its id, its recomputed digest or why there is
    /// none, and the number of its commit.
    ///
    /// # Errors
    /// A failure of storage.
    async fn feedback(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredFeedbackRow>, StoreError>;

    /// What is kept of erased nodes with an id above `after`, at most `limit`, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn erasures(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredErasure>, StoreError>;

    /// Records of purges with a number above `after`, at most `limit`, ordered by it; of all tenants.
    ///
    /// # Errors
    /// A failure of storage.
    async fn purges(&self, after: u64, limit: usize) -> Result<Vec<PurgeRecord>, StoreError>;

    /// Stored number and digest of the newest record of a purge.
    ///
    /// # Errors
    /// A failure of storage.
    async fn purges_head(&self) -> Result<Option<(u64, Digest)>, StoreError>;

    /// Runs the medium's own check of its files, if it has one; an empty list means sound.
    ///
    /// # Errors
    /// A failure of storage.
    async fn physical_check(&self) -> Result<Vec<String>, StoreError>;

    /// The same reading, of one state of the database: what is written meanwhile is not seen. It is held until it is
    /// dropped, and holds back what clears old rows away until then.
    ///
    /// # Errors
    /// A failure of storage.
    async fn snapshot(&self) -> Result<Arc<dyn IntegrityStore>, StoreError>;
}

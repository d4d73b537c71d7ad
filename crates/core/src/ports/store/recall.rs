use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    lifecycle::DecayBasis,
    model::{EmbeddingStatus, Lane, NodeType, Tier, Viewer},
    recall::{EdgeView, NodeVitals, Surroundings, bm25::LexicalHits, context::ContextRule},
};

/// State of a scope as a reader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeStatus {
    /// Number of the newest visible commit; zero for an empty scope.
    pub head_seq: u64,
    /// Nodes.
    pub nodes: u64,
    /// Nodes whose vector is still to come.
    pub pending: u64,
    /// Since when the oldest of them waits.
    pub oldest_pending: Option<Timestamp>,
}

/// Which state of a scope a look at what is held in memory was taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldState {
    /// Number of the last change in it.
    pub change_no: i64,
    /// Which scope of its name it is: one that was purged and written again is another.
    pub incarnation: Uuid,
}

/// Which nodes may be seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeedRules {
    /// The vector endpoint's: event, topic, concept, entity and live rules (runtime specification 3.10).
    Reference,
    /// The text endpoint's: every type; rules only when live, topics only when active.
    Everything,
}

/// What every reading query of recall filters by, inside storage: hot and warm tiers, no alias, no topic draft, no rule
/// that is not live, and the lane predicate of the viewer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeFilter {
    /// Who asks.
    pub viewer: Viewer,
    /// Which kinds may be seeds.
    pub rules: SeedRules,
}

/// Nearest vectors.
#[derive(Clone, Debug)]
pub struct DenseQuery {
    /// Scope.
    pub scope: ScopeKey,
    /// Filter, applied inside the search.
    pub filter: NodeFilter,
    /// Vector of the store's dimension, not zero.
    pub vector: Vec<f32>,
    /// How many.
    pub limit: usize,
    /// How many of the best have to be scored from the stored vectors. In a large scope a store may leave those after them with
    /// an estimate, and so read that many vectors less.
    pub scored: usize,
    /// Compare with every stored vector in full precision, for measuring.
    pub exact: bool,
}

/// One near vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DenseHit {
    /// The node.
    pub id: NodeId,
    /// Cosine, −1…1, from the stored vectors in full precision, or estimated from codes (see [`DenseQuery::scored`]).
    pub similarity: f64,
}

/// Documents that hold terms.
#[derive(Clone, Debug)]
pub struct LexicalQuery {
    /// Scope.
    pub scope: ScopeKey,
    /// Filter, applied inside the search.
    pub filter: NodeFilter,
    /// Analysed terms, distinct.
    pub terms: Vec<String>,
    /// How many, best by BM25 first.
    pub limit: usize,
}

/// Edges around nodes.
#[derive(Clone, Debug)]
pub struct EdgeQuery {
    /// Scope.
    pub scope: ScopeKey,
    /// Who asks: edges to what recall does not show them are left out, before the limit.
    pub viewer: Viewer,
    /// The nodes.
    pub around: Vec<NodeId>,
    /// Edges below are left out.
    pub min_weight: f64,
    /// Edges below are left out.
    pub min_confidence: f64,
    /// Strongest edges (weight, confidence, id) per direction.
    pub limit: usize,
}

/// Candidates of a text question and what is around them.
#[derive(Clone, Debug)]
pub struct SurroundingsQuery {
    /// Edges around the candidates, which are distinct and ordered by id.
    pub edges: EdgeQuery,
    /// Analysed titles the question may name nodes by: every run of one to five of its terms, joined by one space.
    pub names: Vec<String>,
}

/// A node in full, as responses show it.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// The node.
    pub id: NodeId,
    /// Kind.
    pub node_type: NodeType,
    /// Caller's key.
    pub client_id: Option<String>,
    /// Title.
    pub title: Option<String>,
    /// Summary.
    pub text_summary: Option<String>,
    /// Attributes.
    pub slots: Value,
    /// Tier.
    pub tier: Tier,
    /// Lane.
    pub lane: Lane,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// Owner.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
    /// Pointer.
    pub raw_ref: Option<String>,
    /// Pointer.
    pub evidence_ref: Option<String>,
    /// State of the vector.
    pub embedding_status: EmbeddingStatus,
    /// Label of the vector's model.
    pub embedding_model: Option<String>,
    /// 0…1, as stored.
    pub salience: f64,
    /// What its fading depends on.
    pub decay: DecayBasis,
    /// 0…1.
    pub importance: f64,
    /// 0…1.
    pub confidence: f64,
    /// When it was last activated.
    pub last_activated: Option<Timestamp>,
    /// When it was first written.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Number of its last commit.
    pub commit_seq: u64,
    /// Id of its last commit.
    pub commit_id: CommitId,
    /// Executable part, for rules.
    pub rule: Option<ContextRule>,
}

/// One answered recall, for the audit.
#[derive(Clone, Debug)]
pub struct RecallAudit {
    /// Scope.
    pub scope: ScopeKey,
    /// `recall` or `recall_text`.
    pub endpoint: &'static str,
    /// Who asked.
    pub viewer: Viewer,
    /// Digest of the question.
    pub query_sha256: String,
    /// Counts of the answer.
    pub seeds: u32,
    /// Counts of the answer.
    pub nodes: u32,
    /// Counts of the answer.
    pub edges: u32,
    /// When.
    pub at: Timestamp,
}

/// Reading for recall: a scope as it is, or as it was.
#[async_trait]
pub trait RecallReader: Send + Sync {
    /// Head and pending vectors of a scope.
    ///
    /// # Errors
    /// A failure of storage.
    async fn scope_status(&self, scope: &ScopeKey) -> Result<ScopeStatus, StoreError>;

    /// The same from memory, without asking whether it is still so, where a change since is unlikely. What is then found holds
    /// only if [`Self::dense_if_unchanged`] confirms that state. None if storage has to be asked.
    ///
    /// # Errors
    /// A failure of storage.
    async fn held_status(&self, scope: &ScopeKey) -> Result<Option<(ScopeStatus, HeldState)>, StoreError> {
        let _ = scope;
        Ok(None)
    }

    /// As [`Self::dense`], by a look at storage that also tells whether the scope is still in that state. None if it is not, or
    /// if that cannot be told.
    ///
    /// # Errors
    /// A failure of storage.
    async fn dense_if_unchanged(
        &self,
        query: DenseQuery,
        held: HeldState,
    ) -> Result<Option<Vec<DenseHit>>, StoreError> {
        let _ = (query, held);
        Ok(None)
    }

    /// The nearest vectors, best first, ties by id; never fewer than asked while matches exist.
    ///
    /// # Errors
    /// A failure of storage.
    async fn dense(&self, query: DenseQuery) -> Result<Vec<DenseHit>, StoreError>;

    /// The documents best by BM25, with the statistics to score them.
    ///
    /// # Errors
    /// A failure of storage.
    async fn lexical(&self, query: LexicalQuery) -> Result<LexicalHits, StoreError>;

    /// Nodes whose id or client id is one of `literals`, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn quoted(
        &self,
        scope: &ScopeKey,
        filter: &NodeFilter,
        literals: &[String],
    ) -> Result<Vec<NodeId>, StoreError>;

    /// The strongest edges leaving and entering nodes, each once, in no particular order.
    ///
    /// # Errors
    /// A failure of storage.
    async fn edges_around(&self, query: EdgeQuery) -> Result<Vec<EdgeView>, StoreError>;

    /// Candidates with the strongest edges leaving and entering them, what those lead to, and which of all the question
    /// names by title, an alias's title being one of what it stands for. A neighbour is open if a candidate of everything
    /// ([`SeedRules::Everything`]) could be it.
    ///
    /// # Errors
    /// A failure of storage.
    async fn surroundings(&self, query: SurroundingsQuery) -> Result<Surroundings, StoreError>;

    /// Vitals of those of `ids` that the viewer may see and recall may show (draft topics included, marked as such), in
    /// the order asked.
    ///
    /// # Errors
    /// A failure of storage.
    async fn vitals(&self, scope: &ScopeKey, ids: &[NodeId], viewer: &Viewer) -> Result<Vec<NodeVitals>, StoreError>;

    /// Full rows of those of `ids` that exist, in the order asked.
    ///
    /// # Errors
    /// A failure of storage.
    async fn rows(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<NodeRow>, StoreError>;

    /// Stored vectors of nodes, in the order asked, for debugging.
    ///
    /// # Errors
    /// A failure of storage.
    async fn stored_vectors(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<(NodeId, Vec<f32>)>, StoreError>;
}

/// What recall needs besides reading.
#[async_trait]
pub trait RecallStore: RecallReader {
    /// Returns once the scope's head reaches `seq`; the caller bounds the wait by dropping the future.
    ///
    /// # Errors
    /// A failure of storage.
    async fn wait_for_commit(&self, scope: &ScopeKey, seq: u64) -> Result<(), StoreError>;

    /// Ids of commits by number, in the order asked; numbers without commit are left out.
    ///
    /// # Errors
    /// A failure of storage.
    async fn commit_ids(&self, scope: &ScopeKey, seqs: &[u64]) -> Result<Vec<(u64, CommitId)>, StoreError>;

    /// Stores audit rows.
    ///
    /// # Errors
    /// A failure of storage.
    async fn record_recalls(&self, audits: Vec<RecallAudit>) -> Result<(), StoreError>;
}

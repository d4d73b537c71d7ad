//! What a recall answers, before it is put on the wire.

use aionis_core::{
    ids::{CommitId, NodeId},
    ports::store::{NodeRow, ScopeStatus},
    recall::{ContextBlock, EdgeView, Profile, Ranked, Seed},
    rules::Evaluation,
    write::Warning,
};
use hashbrown::HashMap;

/// The answer.
#[derive(Debug)]
pub struct RecallAnswer {
    /// What the question matched by itself, best first.
    pub seeds: Vec<Seed>,
    /// Nodes of the subgraph, in order.
    pub nodes: Vec<NodeId>,
    /// Edges of the subgraph, strongest first.
    pub edges: Vec<EdgeView>,
    /// Everything reached, best first, at most `ranked_limit`.
    pub ranked: Vec<Ranked>,
    /// Rows of seeds and subgraph.
    pub rows: HashMap<NodeId, NodeRow>,
    /// Ids of the commits of edges, when asked for.
    pub commit_ids: HashMap<u64, CommitId>,
    /// What a model reads.
    pub context: ContextBlock,
    /// Nodes and edges looked at.
    pub neighborhood: (usize, usize),
    /// Embeddings of the first seeds, when asked for.
    pub debug_embeddings: Option<Vec<DebugEmbedding>>,
    /// The question as it was used, for text.
    pub query: Option<QueryInfo>,
    /// Newest commit the answer includes.
    pub as_of_commit: u64,
    /// Vectors still to come.
    pub pending: ScopeStatus,
    /// Which rules apply, when asked for.
    pub rules: Option<Evaluation>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
    /// Profile the knobs came from.
    pub profile: Profile,
    /// Where the time went.
    pub timings: Timings,
}

/// The question as it was used.
#[derive(Clone, Debug)]
pub struct QueryInfo {
    /// Normalised and redacted.
    pub text: String,
    /// Name of the space it was embedded in, or `none`.
    pub embedding_provider: String,
}

/// A stored vector in short.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DebugEmbedding {
    /// The node.
    pub node_id: NodeId,
    /// Dimension.
    pub dims: usize,
    /// SHA-256 of the vector as JSON text.
    pub sha256: String,
    /// First sixteen numbers.
    pub preview: Vec<f32>,
}

/// Milliseconds per stage.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Timings {
    /// Embedding the question.
    pub embed_ms: f64,
    /// Finding seeds, embedding included.
    #[serde(rename = "stage1_candidates")]
    pub candidates_ms: f64,
    /// Edges around them.
    #[serde(rename = "stage2_edges")]
    pub edges_ms: f64,
    /// Vitals and rows.
    #[serde(rename = "stage2_nodes")]
    pub nodes_ms: f64,
}

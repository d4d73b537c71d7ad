//! What a caller asks to be written, after its shape was checked.

use serde_json::Value;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    ids::ScopeKey,
    model::{EdgeType, Lane, NodeType, Tier, Viewer},
};

/// A key under which a request may be repeated without a second effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's text.
    pub key: String,
    /// Whether the same key with another body is the caller's error (`Idempotency-Key`) or merely a new request that
    /// shares a correlation id (`x-request-id`).
    pub strict: bool,
}

/// One write.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Scope of everything that names no other.
    pub scope: ScopeKey,
    /// Who writes.
    pub actor: Option<String>,
    /// A commit the caller has seen; it must exist.
    pub parent_commit_id: Option<Uuid>,
    /// The text this write comes from.
    pub input_text: Option<String>,
    /// Digest of the input; wins over the text.
    pub input_sha256: Option<String>,
    /// Caller's label.
    pub model_version: Option<String>,
    /// Caller's label.
    pub prompt_version: Option<String>,
    /// Whether vectors are derived; default yes.
    pub auto_embed: bool,
    /// Default lane of nodes.
    pub memory_lane: Option<Lane>,
    /// Default producer of nodes.
    pub producer_agent_id: Option<String>,
    /// Default owner of nodes.
    pub owner_agent_id: Option<String>,
    /// Default owning team of nodes.
    pub owner_team_id: Option<String>,
    /// Derive vectors again even where one is stored.
    pub force_reembed: bool,
    /// Whether the caller explicitly asked for topic clustering.
    pub trigger_topic_cluster: Option<bool>,
    /// Nodes, in request order.
    pub nodes: Vec<NodeInput>,
    /// Edges, in request order.
    pub edges: Vec<EdgeInput>,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// Who writes, when that is known: private nodes of others are not written to. None may write to everything.
    pub writer: Option<Viewer>,
}

/// One node as asked for.
#[derive(Clone, Debug)]
pub struct NodeInput {
    /// Explicit id.
    pub id: Option<Uuid>,
    /// Caller's key; the id is derived from it.
    pub client_id: Option<String>,
    /// Scope override.
    pub scope: Option<ScopeKey>,
    /// Kind.
    pub node_type: NodeType,
    /// Storage tier.
    pub tier: Option<Tier>,
    /// Lane override.
    pub memory_lane: Option<Lane>,
    /// Producer override.
    pub producer_agent_id: Option<String>,
    /// Owner override.
    pub owner_agent_id: Option<String>,
    /// Team override.
    pub owner_team_id: Option<String>,
    /// Display name.
    pub title: Option<String>,
    /// Readable summary.
    pub text_summary: Option<String>,
    /// Attributes.
    pub slots: Option<Value>,
    /// Pointer to a raw payload.
    pub raw_ref: Option<String>,
    /// Pointer to evidence.
    pub evidence_ref: Option<String>,
    /// Vector brought by the caller.
    pub embedding: Option<Vec<f32>>,
    /// Label of that vector's model.
    pub embedding_model: Option<String>,
    /// 0…1.
    pub salience: Option<f64>,
    /// 0…1.
    pub importance: Option<f64>,
    /// 0…1.
    pub confidence: Option<f64>,
    /// The node as received without unknown members; present when there is neither id nor client_id, because the id is
    /// then derived from it.
    pub received: Option<Value>,
}

/// One end of an edge as asked for.
#[derive(Clone, Debug)]
pub struct EndInput {
    /// Node id; wins.
    pub id: Option<Uuid>,
    /// Node id exactly as sent, which edge ids derive from.
    pub id_as_sent: Option<String>,
    /// Key of a node of this request or an earlier one.
    pub client_id: Option<String>,
}

/// One edge as asked for.
#[derive(Clone, Debug)]
pub struct EdgeInput {
    /// Explicit id.
    pub id: Option<Uuid>,
    /// Scope override.
    pub scope: Option<ScopeKey>,
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: EndInput,
    /// To.
    pub dst: EndInput,
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// 0…1 per day.
    pub decay_rate: f64,
}

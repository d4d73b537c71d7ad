//! A write that is prepared: its parts, nodes and edges, and the settings that shape it.

use serde_json::Value;

use super::request::IdempotencyKey;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{EdgeId, NodeId, ScopeKey},
    jobs::rollup::ROLLUP_TITLE,
    model::{EdgeType, Lane, NodeType, RuleScope, Tier, Viewer},
    redact::Redactor,
};

/// Settings that shape a write.
#[derive(Debug)]
pub struct WriteSettings {
    /// Tenant whose scope names stay unprefixed in derived ids (`MEMORY_TENANT_ID`).
    pub default_tenant: String,
    /// Longest text in UTF-16 units (`MAX_TEXT_LEN`).
    pub text_max_len: usize,
    /// Redactor, when `PII_REDACTION` is on.
    pub redactor: Option<Redactor>,
    /// Dimension of every vector.
    pub embedding_dim: usize,
    /// Whether a provider can derive vectors, now or once its model is there.
    pub can_embed: bool,
}

/// A write ready to be planned against what is stored.
#[derive(Clone, Debug)]
pub struct PreparedWrite {
    /// Changes per scope; the first part is the request's own scope and is always there.
    pub parts: Vec<PreparedPart>,
    /// Who writes.
    pub actor: String,
    /// Digest of the input.
    pub input_sha256: String,
    /// Caller's label.
    pub model_version: Option<String>,
    /// Caller's label.
    pub prompt_version: Option<String>,
    /// A commit the caller has seen.
    pub parent_commit_id: Option<uuid::Uuid>,
    /// Derive vectors again even where one is stored.
    pub force_reembed: bool,
    /// Digest of everything asked for: equal requests are equal here.
    pub request_digest: Digest,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// (part, index in part) of each node in request order.
    pub node_order: Vec<(usize, usize)>,
    /// (part, index in part) of each edge in request order.
    pub edge_order: Vec<(usize, usize)>,
    /// Who writes, when that is known.
    pub writer: Option<Viewer>,
    /// What a job says about its write.
    pub job: Option<JobWrite>,
}

/// What a job says about its write beyond what a caller may say.
#[derive(Clone, Debug)]
pub struct JobWrite {
    /// Kind of its commits.
    pub kind: &'static str,
    /// What it was made of: nodes among those of the write and the ends of its edges, each with the content digest it was
    /// read with, or none where there must be no such node. Where one says something else by now, the write is refused.
    pub stands: Vec<(NodeId, Option<Digest>)>,
}

/// The items of one scope.
#[derive(Clone, Debug)]
pub struct PreparedPart {
    /// The scope.
    pub scope: ScopeKey,
    /// Its nodes.
    pub nodes: Vec<PreparedNode>,
    /// Its edges.
    pub edges: Vec<PreparedEdge>,
}

/// A node ready to be stored.
#[derive(Clone, Debug)]
pub struct PreparedNode {
    /// Position in the request, for messages.
    pub position: usize,
    /// Id.
    pub id: NodeId,
    /// Caller's key, trimmed.
    pub client_id: Option<String>,
    /// Kind.
    pub node_type: NodeType,
    /// Title, normalised and redacted.
    pub title: Option<String>,
    /// Summary, normalised and redacted.
    pub text_summary: Option<String>,
    /// Attributes, redacted.
    pub slots: Value,
    /// Pointer to a raw payload.
    pub raw_ref: Option<String>,
    /// Pointer to evidence.
    pub evidence_ref: Option<String>,
    /// Lane.
    pub lane: Lane,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// Owner.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
    /// Tier, when asked for.
    pub tier: Option<Tier>,
    /// Salience, when asked for.
    pub salience: Option<f64>,
    /// Importance, when asked for.
    pub importance: Option<f64>,
    /// Confidence, when asked for.
    pub confidence: Option<f64>,
    /// Vector brought by the caller.
    pub embedding: Option<Vec<f32>>,
    /// Its label, or `client`.
    pub embedding_model: Option<String>,
    /// Whether a vector is to be derived.
    pub wants_embedding: bool,
    /// Why there is no vector and none will come, when so.
    pub no_embedding_reason: Option<&'static str>,
    /// Executable part, for rules.
    pub rule: Option<PreparedRule>,
    /// Content digest.
    pub digest: Digest,
}

impl PreparedNode {
    /// The text a vector is derived from (runtime specification 3.5 step 7).
    pub fn embed_text(&self) -> Option<&str> {
        embed_text(self.node_type, self.title.as_deref(), self.text_summary.as_deref())
    }
}

/// The text a node's vector is derived from: the summary first for what was said or done, the title first for names. The title
/// of a rolled up summary names its topic, and the vector is to be that of what it says.
pub fn embed_text<'a>(node_type: NodeType, title: Option<&'a str>, summary: Option<&'a str>) -> Option<&'a str> {
    let text = match node_type {
        NodeType::Concept if title.is_some_and(|title| title.starts_with(ROLLUP_TITLE)) => summary.or(title),
        NodeType::Entity | NodeType::Topic | NodeType::Concept => title.or(summary),
        _ => summary.or(title),
    };
    text.filter(|text| !text.trim().is_empty())
}

/// The executable form of a rule node.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRule {
    /// Condition.
    pub if_json: Value,
    /// Policy patch.
    pub then_json: Value,
    /// Exceptions.
    pub exceptions_json: Value,
    /// Audience.
    pub rule_scope: RuleScope,
    /// Agent of an agent rule.
    pub target_agent_id: Option<String>,
    /// Team of a team rule.
    pub target_team_id: Option<String>,
}

/// One end of an edge, resolved to an id.
#[derive(Clone, Copy, Debug)]
pub struct EdgeEnd {
    /// The node.
    pub id: NodeId,
    /// Whether the node is written by the same request.
    pub in_request: bool,
}

/// An edge ready to be stored.
#[derive(Clone, Debug)]
pub struct PreparedEdge {
    /// Position in the request, for messages.
    pub position: usize,
    /// Id for a new edge.
    pub id: EdgeId,
    /// Whether the caller chose the id.
    pub explicit_id: bool,
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: EdgeEnd,
    /// To.
    pub dst: EdgeEnd,
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// 0…1 per day.
    pub decay_rate: f64,
}

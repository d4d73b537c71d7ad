//! `POST /v1/memory/write` (runtime specification 2.6).

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    ids::{CommitId, EdgeId, NodeId, ScopeKey, TenantId},
    model::{EdgeType, Lane, NodeType, Tier},
    write::{EdgeInput, EndInput, IdempotencyKey, NodeInput, Warning, WriteRequest},
};
use aionis_engine::WriteAnswer;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{schema, tenancy::scope_of};
use crate::{
    fields::{Fields, Issues, Null},
    limits::{CLIENT_ID_MAX, LABEL_MAX, REF_MAX},
    state::ApiSettings,
};

/// Members of a node that count when its id is derived from what was received.
const NODE_MEMBERS: &[&str] = &[
    "id",
    "client_id",
    "scope",
    "type",
    "tier",
    "memory_lane",
    "producer_agent_id",
    "owner_agent_id",
    "owner_team_id",
    "title",
    "text_summary",
    "slots",
    "raw_ref",
    "evidence_ref",
    "embedding",
    "embedding_model",
    "salience",
    "importance",
    "confidence",
];

/// Reads a write.
///
/// # Errors
/// Every problem of the body, each with its path.
pub fn parse_write(
    body: &Value,
    header_tenant: Option<&str>,
    settings: &ApiSettings,
    idempotency: Option<IdempotencyKey>,
    received_at: Timestamp,
) -> Result<WriteRequest, DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (tenant, scope) = scope_of(&body, header_tenant, settings, &mut issues)?;
    let input_text = body.text("input_text", &mut issues);
    let input_sha256 = body.sha256("input_sha256", &mut issues);
    if !body.has("input_text") && !body.has("input_sha256") {
        issues.add("", "one of input_text or input_sha256 is required");
    }
    let nodes: Vec<NodeInput> =
        body.list("nodes", &mut issues).iter().filter_map(|node| read_node(node, &tenant, &mut issues)).collect();
    let edges: Vec<EdgeInput> =
        body.list("edges", &mut issues).iter().filter_map(|edge| read_edge(edge, &tenant, &mut issues)).collect();
    let request = WriteRequest {
        scope,
        actor: body.short_text("actor", LABEL_MAX, &mut issues),
        parent_commit_id: body.uuid("parent_commit_id", &mut issues),
        input_text,
        input_sha256,
        model_version: body.short_text("model_version", LABEL_MAX, &mut issues),
        prompt_version: body.short_text("prompt_version", LABEL_MAX, &mut issues),
        auto_embed: body.flag("auto_embed", &mut issues).unwrap_or(true),
        memory_lane: lane(&body, &mut issues),
        producer_agent_id: body.short_text("producer_agent_id", LABEL_MAX, &mut issues),
        owner_agent_id: body.short_text("owner_agent_id", LABEL_MAX, &mut issues),
        owner_team_id: body.short_text("owner_team_id", LABEL_MAX, &mut issues),
        force_reembed: body.flag("force_reembed", &mut issues).unwrap_or(false),
        trigger_topic_cluster: body.flag("trigger_topic_cluster", &mut issues),
        nodes,
        edges,
        idempotency,
        received_at,
        writer: None,
    };
    body.flag("topic_cluster_async", &mut issues);
    issues.finish()?;
    Ok(request)
}

fn lane(fields: &Fields<'_>, issues: &mut Issues) -> Option<Lane> {
    fields.choice("memory_lane", &Lane::choices(), Lane::parse, issues)
}

/// A scope override; blank falls back to the request's scope.
fn scope_override(fields: &Fields<'_>, tenant: &TenantId, issues: &mut Issues) -> Option<ScopeKey> {
    let scope = fields.text("scope", issues).filter(|scope| !scope.trim().is_empty())?;
    ScopeKey::new(tenant, &scope).map_err(|e| issues.add(fields.path("scope"), e.message)).ok()
}

fn read_node(node: &Fields<'_>, tenant: &TenantId, issues: &mut Issues) -> Option<NodeInput> {
    let node_type = node.choice("type", &NodeType::choices(), NodeType::parse, issues);
    if !node.has("type") {
        issues.add(node.path("type"), format!("is required: one of {}", NodeType::choices()));
    }
    let (id, client_id) = (node.uuid("id", issues), node.short_text("client_id", CLIENT_ID_MAX, issues));
    let derived = !node.has("id") && !node.has("client_id");
    let input = NodeInput {
        id,
        client_id,
        scope: scope_override(node, tenant, issues),
        node_type: node_type.unwrap_or(NodeType::Event),
        tier: node.choice("tier", &Tier::choices(), Tier::parse, issues),
        memory_lane: lane(node, issues),
        producer_agent_id: node.short_text("producer_agent_id", LABEL_MAX, issues),
        owner_agent_id: node.short_text("owner_agent_id", LABEL_MAX, issues),
        owner_team_id: node.short_text("owner_team_id", LABEL_MAX, issues),
        title: node.text("title", issues),
        text_summary: node.text("text_summary", issues),
        slots: node.object("slots", issues),
        raw_ref: node.short_text("raw_ref", REF_MAX, issues),
        evidence_ref: node.short_text("evidence_ref", REF_MAX, issues),
        embedding: node.vector("embedding", issues),
        embedding_model: node.short_text("embedding_model", LABEL_MAX, issues),
        salience: node.share("salience", Null::Refused, issues),
        importance: node.share("importance", Null::Refused, issues),
        confidence: node.share("confidence", Null::Refused, issues),
        received: derived.then(|| node.received(NODE_MEMBERS)),
    };
    node_type.map(|_| input)
}

fn read_edge(edge: &Fields<'_>, tenant: &TenantId, issues: &mut Issues) -> Option<EdgeInput> {
    let edge_type = edge.choice("type", &EdgeType::choices(), EdgeType::parse, issues);
    if !edge.has("type") {
        issues.add(edge.path("type"), format!("is required: one of {}", EdgeType::choices()));
    }
    let id = edge.uuid("id", issues);
    let scope = scope_override(edge, tenant, issues);
    let (src, dst) = (read_end(edge, "src", issues), read_end(edge, "dst", issues));
    let mut share = |name, default| edge.share(name, Null::Refused, issues).unwrap_or(default);
    let (weight, confidence, decay_rate) = (share("weight", 0.5), share("confidence", 0.5), share("decay_rate", 0.01));
    Some(EdgeInput { id, scope, edge_type: edge_type?, src: src?, dst: dst?, weight, confidence, decay_rate })
}

fn read_end(edge: &Fields<'_>, name: &str, issues: &mut Issues) -> Option<EndInput> {
    if !edge.has(name) {
        issues.add(edge.path(name), "is required: an object with id or client_id");
        return None;
    }
    let end = edge.fields(name, issues)?;
    let id = end.uuid("id", issues);
    let client_id = end.text("client_id", issues);
    if !end.has("id") && !end.has("client_id") {
        issues.add(edge.path(name), "needs id or client_id");
        return None;
    }
    Some(EndInput { id, id_as_sent: id.map(|id| id.to_string()), client_id })
}

/// Answer of a write.
#[derive(Serialize, ToSchema)]
pub(crate) struct WriteResponse {
    tenant_id: String,
    scope: String,
    #[schema(value_type = uuid::Uuid)]
    commit_id: CommitId,
    commit_hash: String,
    nodes: Vec<WrittenNode>,
    edges: Vec<WrittenEdge>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    embedding_backfill: Option<Backfill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    topic_cluster: Option<Clustering>,
    commit_seq: u64,
    replayed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::warnings, required = false)]
    warnings: Vec<Warning>,
}

#[derive(Serialize, ToSchema)]
struct WrittenNode {
    #[schema(value_type = uuid::Uuid)]
    id: NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<String>,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::node_type)]
    node_type: NodeType,
    #[schema(schema_with = schema::write_status)]
    status: String,
}

#[derive(Serialize, ToSchema)]
struct WrittenEdge {
    #[schema(value_type = uuid::Uuid)]
    id: EdgeId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::edge_type)]
    edge_type: EdgeType,
    #[schema(value_type = uuid::Uuid)]
    src_id: NodeId,
    #[schema(value_type = uuid::Uuid)]
    dst_id: NodeId,
    #[schema(schema_with = schema::write_status)]
    status: String,
}

#[derive(Serialize, ToSchema)]
struct Clustering {
    enqueued: bool,
}

#[derive(Serialize, ToSchema)]
struct Backfill {
    enqueued: bool,
    pending_nodes: usize,
}

impl WriteResponse {
    pub(crate) fn new(scope: &ScopeKey, answer: WriteAnswer) -> Self {
        let WriteAnswer { outcome, nodes, edges, topic_cluster_enqueued } = answer;
        let pending_nodes = outcome.pending_nodes;
        Self {
            tenant_id: scope.tenant().to_owned(),
            scope: scope.scope().to_owned(),
            commit_id: outcome.commit_id,
            commit_hash: outcome.commit_hash,
            nodes: outcome
                .nodes
                .into_iter()
                .zip(nodes)
                .map(|((id, status), (client_id, node_type))| WrittenNode { id, client_id, node_type, status })
                .collect(),
            edges: outcome
                .edges
                .into_iter()
                .zip(edges)
                .map(|((id, status), (edge_type, src_id, dst_id))| WrittenEdge {
                    id,
                    edge_type,
                    src_id,
                    dst_id,
                    status,
                })
                .collect(),
            topic_cluster: topic_cluster_enqueued.then_some(Clustering { enqueued: true }),
            embedding_backfill: (pending_nodes > 0).then_some(Backfill { enqueued: true, pending_nodes }),
            commit_seq: outcome.commit_seq,
            replayed: outcome.replayed,
            warnings: outcome.warnings,
        }
    }
}

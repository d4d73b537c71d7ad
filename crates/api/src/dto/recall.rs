//! `POST /v1/memory/recall` and `/recall_text` (runtime specification 2.7 and 2.8).

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    ids::{CommitId, NodeId, ScopeKey},
    model::{EdgeType, EmbeddingStatus, Lane, NodeType, Tier, Viewer},
    ports::store::NodeRow,
    recall::{Adaptation, EdgeView, KnobOverrides, Ranked, RecallEndpoint, ResolvedProfile},
    slots::{member_count, topic_state},
    text::is_ecmascript_whitespace,
    write::Warning,
};
use aionis_engine::recall::{
    ArmChoice, DebugEmbedding, Question, RecallAnswer, RecallRequest, RulesAsked, pending_json,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{schema, tenancy::scope_of, tools::recall_rules};
use crate::{
    fields::{Fields, Issues, Null},
    limits::{self, LABEL_MAX},
    state::ApiSettings,
};

/// What of a node the answer shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) meta: bool,
    pub(crate) slots: bool,
    pub(crate) slots_preview: bool,
    pub(crate) slots_preview_keys: usize,
    pub(crate) debug: bool,
}

/// Which profile a recall got, and why.
#[derive(Clone, Copy)]
pub(crate) struct ProfileChoice {
    pub(crate) resolved: ResolvedProfile,
    pub(crate) adapted: Adaptation,
}

/// Reads a recall.
pub(crate) fn parse_recall(
    body: &Value,
    endpoint: RecallEndpoint,
    header_tenant: Option<&str>,
    settings: &ApiSettings,
) -> Result<(RecallRequest, Shown), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, header_tenant, settings, &mut issues)?;
    let question = read_question(&body, endpoint, &mut issues);
    let knobs = read_knobs(&body, &mut issues);
    let viewer = viewer_of(&body, &mut issues);
    let mut flag = |name| body.flag(name, &mut issues).unwrap_or(false);
    let (return_debug, include_embeddings) = (flag("return_debug"), flag("include_embeddings"));
    let shown = Shown {
        meta: flag("include_meta"),
        slots: flag("include_slots"),
        slots_preview: flag("include_slots_preview"),
        slots_preview_keys: 10,
        debug: return_debug,
    };
    let rules_include_shadow = flag("rules_include_shadow");
    let mut number = |name, range| body.integer(name, range, Null::Refused, &mut issues);
    let preview_keys = number("slots_preview_keys", limits::SLOTS_PREVIEW_KEYS);
    let rules_limit = as_count(number("rules_limit", limits::RULES)).unwrap_or(50);
    let wait_limit_ms = u64::try_from(settings.max_wait_limit.as_millis()).unwrap_or(u64::MAX);
    let max_wait = Duration::from_millis(number("max_wait_ms", 0..=wait_limit_ms).unwrap_or(0));
    let min_commit = number("min_commit", limits::COMMIT);
    let token_budget = number("token_budget", limits::TOKEN_BUDGET);
    let as_of = body.state("as_of", &mut issues);
    let rules_context = body.value("rules_context", &mut issues);
    issues.finish()?;
    let shown = Shown { slots_preview_keys: as_count(preview_keys).unwrap_or(10), ..shown };
    let request = RecallRequest {
        scope,
        viewer,
        question: question.ok_or_else(|| DomainError::field("", "the question is missing"))?,
        knobs,
        profile: None,
        return_debug,
        include_embeddings,
        include_meta: shown.meta,
        rules: rules_context.map(|context| RulesAsked {
            context,
            include_shadow: rules_include_shadow,
            limit: rules_limit,
        }),
        as_of,
        min_commit,
        max_wait,
        token_budget: as_count(token_budget),
        arms: ArmChoice::Hybrid,
    };
    Ok((request, shown))
}

/// For whom a request reads: the agent and team it names.
pub(crate) fn viewer_of(body: &Fields<'_>, issues: &mut Issues) -> Viewer {
    let mut name = |field| {
        // As owners are trimmed when they are written.
        let text = body.short_text(field, LABEL_MAX, issues)?;
        Some(text.trim_matches(is_ecmascript_whitespace).to_owned()).filter(|text| !text.is_empty())
    };
    Viewer { agent: name("consumer_agent_id"), team: name("consumer_team_id") }
}

pub(crate) fn as_count(number: Option<u64>) -> Option<usize> {
    number.and_then(|n| usize::try_from(n).ok())
}

fn read_question(body: &Fields<'_>, endpoint: RecallEndpoint, issues: &mut Issues) -> Option<Question> {
    let (field, question) = match endpoint {
        RecallEndpoint::Recall => ("query_embedding", body.vector("query_embedding", issues).map(Question::Vector)),
        RecallEndpoint::RecallText => ("query_text", body.text("query_text", issues).map(Question::Text)),
    };
    if !body.has(field) {
        issues.add(field, "is required");
    }
    question
}

fn read_knobs(body: &Fields<'_>, issues: &mut Issues) -> KnobOverrides {
    let mut number = |name, range| as_count(body.integer(name, range, Null::Absent, issues));
    let (limit, max_nodes) = (number("limit", limits::LIMIT), number("max_nodes", limits::MAX_NODES));
    let max_edges = number("max_edges", limits::MAX_EDGES);
    let ranked_limit = number("ranked_limit", limits::RANKED_LIMIT);
    let hops = number("neighborhood_hops", limits::HOPS);
    KnobOverrides {
        limit,
        neighborhood_hops: hops.and_then(|hops| u8::try_from(hops).ok()),
        max_nodes,
        max_edges,
        ranked_limit,
        min_edge_weight: body.share("min_edge_weight", Null::Absent, issues),
        min_edge_confidence: body.share("min_edge_confidence", Null::Absent, issues),
    }
}

/// Answer of a recall.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecallResponse {
    scope: String,
    tenant_id: String,
    seeds: Vec<SeedDto>,
    subgraph: SubgraphDto,
    #[schema(schema_with = schema::ranked)]
    ranked: Vec<Ranked>,
    context: ContextDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    debug: Option<DebugDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::rules, required = false)]
    rules: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::query, required = false)]
    query: Option<Value>,
    as_of_commit: u64,
    #[schema(schema_with = schema::pending)]
    pending: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::warnings, required = false)]
    warnings: Vec<Warning>,
}

#[derive(Serialize, ToSchema)]
struct SeedDto {
    #[schema(value_type = uuid::Uuid)]
    id: NodeId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::node_type)]
    node_type: NodeType,
    #[schema(required = true)]
    title: Option<String>,
    #[schema(required = true)]
    text_summary: Option<String>,
    #[schema(schema_with = schema::tier)]
    tier: Tier,
    salience: f64,
    confidence: f64,
    similarity: f64,
}

#[derive(Serialize, ToSchema)]
struct SubgraphDto {
    nodes: Vec<NodeDto>,
    edges: Vec<EdgeDto>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct NodeDto {
    #[schema(value_type = uuid::Uuid)]
    id: NodeId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::node_type)]
    node_type: NodeType,
    #[schema(required = true)]
    title: Option<String>,
    #[schema(required = true)]
    text_summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    topic_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_count: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    slots: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    slots_preview: Option<Value>,
    #[serde(flatten)]
    #[schema(ignore)]
    meta: Option<NodeMeta>,
}

/// What a node shows with `include_meta`.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeMeta {
    #[schema(required = true)]
    raw_ref: Option<String>,
    #[schema(required = true)]
    evidence_ref: Option<String>,
    #[schema(schema_with = schema::embedding_status)]
    embedding_status: EmbeddingStatus,
    #[schema(required = true)]
    embedding_model: Option<String>,
    #[schema(schema_with = schema::lane)]
    memory_lane: Lane,
    #[schema(required = true)]
    producer_agent_id: Option<String>,
    #[schema(required = true)]
    owner_agent_id: Option<String>,
    #[schema(required = true)]
    owner_team_id: Option<String>,
    created_at: String,
    updated_at: String,
    #[schema(required = true)]
    last_activated: Option<String>,
    salience: f64,
    importance: f64,
    confidence: f64,
    #[schema(value_type = uuid::Uuid)]
    commit_id: CommitId,
}

#[derive(Serialize, ToSchema)]
struct EdgeDto {
    #[schema(value_type = uuid::Uuid)]
    from_id: NodeId,
    #[schema(value_type = uuid::Uuid)]
    to_id: NodeId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::edge_type)]
    edge_type: EdgeType,
    weight: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = uuid::Uuid, nullable = false, required = false)]
    commit_id: Option<CommitId>,
}

#[derive(Serialize, ToSchema)]
struct ContextDto {
    text: String,
    #[schema(schema_with = schema::context_items)]
    items: Vec<Value>,
    #[schema(schema_with = schema::citations)]
    citations: Vec<Value>,
}

#[derive(Serialize, ToSchema)]
struct DebugDto {
    #[schema(schema_with = schema::counts)]
    neighborhood_counts: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::debug_embeddings, required = false)]
    embeddings: Option<Vec<DebugEmbedding>>,
    profile: &'static str,
    profile_source: &'static str,
    adaptive_profile_applied: bool,
    adaptive_profile_reason: &'static str,
    estimated_tokens: usize,
    #[schema(schema_with = schema::timings)]
    timings_ms: Value,
}

impl RecallResponse {
    pub(crate) fn new(
        scope: &ScopeKey,
        answer: RecallAnswer,
        choice: ProfileChoice,
        shown: Shown,
        now: Timestamp,
    ) -> Self {
        let RecallAnswer { seeds, nodes, edges, ranked, rows, commit_ids, context, .. } = answer;
        let nodes = nodes.iter().filter_map(|id| rows.get(id)).map(|row| node_dto(row, shown)).collect();
        let edges = edges.iter().map(|edge| edge_dto(edge, commit_ids.get(&edge.commit_seq).copied())).collect();
        let debug = shown.debug.then(|| DebugDto {
            neighborhood_counts: json!({ "nodes": answer.neighborhood.0, "edges": answer.neighborhood.1 }),
            embeddings: answer.debug_embeddings,
            profile: answer.profile.as_str(),
            profile_source: choice.resolved.source.as_str(),
            adaptive_profile_applied: choice.adapted.applied(),
            adaptive_profile_reason: choice.adapted.reason.as_str(),
            estimated_tokens: context.estimated_tokens,
            timings_ms: json!(answer.timings),
        });
        Self {
            scope: scope.scope().to_owned(),
            tenant_id: scope.tenant().to_owned(),
            seeds: seeds.iter().filter_map(|seed| Some(seed_dto(rows.get(&seed.id)?, seed.similarity))).collect(),
            subgraph: SubgraphDto { nodes, edges },
            ranked,
            context: ContextDto { text: context.text, items: context.items, citations: context.citations },
            debug,
            rules: answer.rules.as_ref().map(|rules| recall_rules(scope, rules)),
            query: answer.query.map(|q| json!({ "text": q.text, "embedding_provider": q.embedding_provider })),
            as_of_commit: answer.as_of_commit,
            pending: pending_json(&answer.pending, now),
            warnings: answer.warnings,
        }
    }
}

fn seed_dto(row: &NodeRow, similarity: f64) -> SeedDto {
    SeedDto {
        id: row.id,
        node_type: row.node_type,
        title: row.title.clone(),
        text_summary: row.text_summary.clone(),
        tier: row.tier,
        salience: row.salience,
        confidence: row.confidence,
        similarity,
    }
}

pub(crate) fn node_dto(row: &NodeRow, shown: Shown) -> NodeDto {
    let is_topic = row.node_type == NodeType::Topic;
    NodeDto {
        id: row.id,
        node_type: row.node_type,
        title: row.title.clone(),
        text_summary: row.text_summary.clone(),
        topic_state: topic_state(row.node_type, &row.slots),
        member_count: is_topic.then(|| json!(member_count(row.node_type, &row.slots))),
        slots: shown.slots.then(|| row.slots.clone()),
        slots_preview: (!shown.slots && shown.slots_preview).then(|| preview(&row.slots, shown.slots_preview_keys)),
        meta: shown.meta.then(|| node_meta(row)),
    }
}

/// The first members in order of UTF-16 code units; null when the slots are no object.
fn preview(slots: &Value, keys: usize) -> Value {
    let Some(members) = slots.as_object() else { return Value::Null };
    let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
    sorted.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
    Value::Object(sorted.into_iter().take(keys).map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn node_meta(row: &NodeRow) -> NodeMeta {
    NodeMeta {
        raw_ref: row.raw_ref.clone(),
        evidence_ref: row.evidence_ref.clone(),
        embedding_status: row.embedding_status,
        embedding_model: row.embedding_model.clone(),
        memory_lane: row.lane,
        producer_agent_id: row.producer_agent_id.clone(),
        owner_agent_id: row.owner_agent_id.clone(),
        owner_team_id: row.owner_team_id.clone(),
        created_at: row.created_at.to_iso(),
        updated_at: row.updated_at.to_iso(),
        last_activated: row.last_activated.map(Timestamp::to_iso),
        salience: row.salience,
        importance: row.importance,
        confidence: row.confidence,
        commit_id: row.commit_id,
    }
}

const fn edge_dto(edge: &EdgeView, commit_id: Option<CommitId>) -> EdgeDto {
    EdgeDto { from_id: edge.src, to_id: edge.dst, edge_type: edge.edge_type, weight: edge.weight, commit_id }
}

//! What the service answers: one entry per route and method. A route without an entry fails a test.

use serde_json::Value;

use super::{readings, requests, schema::reference};
use crate::dto::history::{OF_COMMITS, OF_HISTORY, OF_NODE, PLACE};

/// A header a route reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Tenant,
    RequestId,
    IdempotencyKey,
    AdminToken,
}

/// What a good answer holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// JSON of this component.
    Json(&'static str),
    /// JSON of this component with 200, and with 503 too.
    JsonAlsoUnavailable(&'static str),
    /// The OpenAPI document.
    Document,
    /// Text of this media type.
    Text(&'static str),
}

/// The name of a schema, and what makes it.
type Schema = (&'static str, fn() -> Value);

/// One route with one method.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// The body.
    pub(super) request: Option<Schema>,
    /// Members of the query.
    pub(super) query: &'static [&'static str],
    pub(super) answer: Body,
    pub(super) headers: &'static [Header],
    /// Codes of errors it can answer with, in groups.
    pub(super) codes: &'static [&'static [&'static str]],
}

const fn get(path: &'static str, id: &'static str, summary: &'static str, answer: Body) -> Operation {
    Operation {
        method: "get",
        path,
        id,
        tag: "service",
        summary,
        request: None,
        query: &[],
        answer,
        headers: &[],
        codes: &[PAGES],
    }
}

/// A reading whose question stands in its path and query.
const fn query(
    (path, id, tag): (&'static str, &'static str, &'static str),
    summary: &'static str,
    query: &'static [&'static str],
    answer: &'static str,
    codes: &'static [&'static [&'static str]],
) -> Operation {
    Operation { tag, query, headers: QUERIES, codes, ..get(path, id, summary, Body::Json(answer)) }
}

const fn post(
    (path, id, tag): (&'static str, &'static str, &'static str),
    summary: &'static str,
    request: Schema,
    answer: &'static str,
    (headers, codes): (&'static [Header], &'static [&'static [&'static str]]),
) -> Operation {
    let answer = Body::Json(answer);
    Operation { method: "post", path, id, tag, summary, request: Some(request), query: &[], answer, headers, codes }
}

/// What any request can be refused with.
const ANY: &[&str] = &[
    "invalid_request",
    "invalid_tenant_id",
    "invalid_scope",
    "unauthorized",
    "forbidden",
    "identity_mismatch",
    "host_not_allowed",
    "origin_not_allowed",
    "body_too_large",
    "body_backpressure",
    "key_lookups_busy",
    "internal_error",
    "deadline_exceeded",
    "scope_importing",
    "scope_purging",
    "storage_unavailable",
];
/// What any request with a body can be refused with besides.
const BODY: &[&str] = &["body_too_slow", "body_unreadable", "unsupported_media_type"];
/// What web pages are refused with where nobody is authenticated.
const PAGES: &[&str] = &["host_not_allowed", "origin_not_allowed"];
/// What costs a token of the category recall.
const READ: &[&str] = &["rate_limited_recall", "tenant_rate_limited_recall"];
/// What costs a token of the category write.
const WRITTEN: &[&str] = &["rate_limited_write", "tenant_rate_limited_write"];
/// What passes the gate of recalls.
const GATED: &[&str] = &["recall_backpressure"];
/// What passes the gate of writes.
const IN_TURN: &[&str] = &["write_backpressure"];
/// What stores something.
const STORES: &[&str] = &["storage_read_only", "storage_full"];
/// What is done once per key.
const KEYED: &[&str] = &["invalid_idempotency_key", "idempotency_key_reused"];
const RULE: &[&str] = &["rule_not_found_in_scope"];
const SHOWS_VECTORS: &[&str] = &[
    "min_commit_not_reached",
    "commit_waiters_full",
    "debug_embeddings_limit_too_high",
    "debug_embeddings_not_allowed",
    "debug_embeddings_requires_return_debug",
    "debug_embeddings_too_large",
    "rate_limited_debug_embeddings",
    "tenant_rate_limited_debug_embeddings",
];
/// What can be asked of an earlier state.
const PAST: &[&str] = &["commit_not_found"];
const SEARCHES_PAST: &[&str] = &["as_of_busy", "as_of_scope_too_large", "commit_not_found"];
const NODE: &[&str] = &["node_not_found", "erased"];
const EMBEDS: &[&str] = &[
    "recall_text_embed_queue_full",
    "recall_text_embed_queue_timeout",
    "rate_limited_recall_text_embed",
    "tenant_rate_limited_recall_text_embed",
    "upstream_embedding_bad_response",
    "upstream_embedding_rate_limited",
    "upstream_embedding_unavailable",
];
const FORGETS: &[&str] = &["forget_no_resolved_nodes", "forget_selection_changed", "forget_too_large"];
const GOES_LIVE: &[&str] = &[
    "invalid_private_rule_owner",
    "invalid_rule_exceptions_json",
    "invalid_rule_if_json",
    "invalid_rule_scope_target",
    "invalid_rule_then_json",
    "rule_changed",
];
const MATCHES: &[&str] = &[
    "decision_candidates_mismatch",
    "decision_has_feedback",
    "decision_not_found_in_scope",
    "decision_run_id_mismatch",
    "decision_selected_tool_mismatch",
];

const READS: &[Header] = &[Header::Tenant, Header::RequestId, Header::AdminToken];
const QUERIES: &[Header] = &[Header::Tenant, Header::RequestId];
const DOES: &[Header] = &[Header::Tenant, Header::RequestId, Header::IdempotencyKey];

/// Every route, in the order of the document.
pub(super) const OPERATIONS: &[Operation] = &[
    post(
        ("/v1/memory/write", "write", "memory"),
        "Stores nodes and edges as one commit",
        ("WriteRequest", requests::write),
        "WriteResponse",
        (
            DOES,
            &[
                ANY,
                BODY,
                WRITTEN,
                IN_TURN,
                STORES,
                KEYED,
                &["batch_too_large", "invalid_private_rule_owner", "node_belongs_to_another"],
            ],
        ),
    ),
    post(
        ("/v1/memory/recall_text", "recall_text", "memory"),
        "Recalls by the text of a question",
        ("RecallTextRequest", requests::recall_by_text),
        "RecallResponse",
        (READS, &[ANY, BODY, READ, GATED, SHOWS_VECTORS, EMBEDS, SEARCHES_PAST]),
    ),
    post(
        ("/v1/memory/recall", "recall", "memory"),
        "Recalls by the vector of a question",
        ("RecallRequest", requests::recall_by_vector),
        "RecallResponse",
        (READS, &[ANY, BODY, READ, GATED, SHOWS_VECTORS, SEARCHES_PAST]),
    ),
    post(
        ("/v1/memory/find", "find", "memory"),
        "Lists nodes by what they are, page by page, newest first",
        ("FindRequest", readings::find),
        "FindResponse",
        (DOES, &[ANY, BODY, READ, GATED, &["invalid_idempotency_key"], PAST]),
    ),
    query(
        ("/v1/memory/nodes/{id}", "node", "memory"),
        "One node as it is, or as it was",
        OF_NODE,
        "NodeResponse",
        &[ANY, READ, GATED, PAST, NODE],
    ),
    query(
        ("/v1/memory/nodes/{id}/history", "node_history", "memory"),
        "The contents a node had, newest first",
        OF_HISTORY,
        "HistoryResponse",
        &[ANY, READ, GATED, NODE],
    ),
    query(
        ("/v1/memory/commits", "commits", "memory"),
        "The commits of a scope, newest first",
        OF_COMMITS,
        "CommitsResponse",
        &[ANY, READ, GATED],
    ),
    query(
        ("/v1/memory/commits/{id}", "commit", "memory"),
        "One commit with what it changed",
        PLACE,
        "CommitResponse",
        &[ANY, READ, GATED, PAST],
    ),
    post(
        ("/v1/memory/verify", "verify", "memory"),
        "Recomputes every digest of a scope",
        ("VerifyRequest", readings::verify),
        "VerifyResponse",
        (DOES, &[ANY, BODY, READ, GATED, &["invalid_idempotency_key", "scope_not_found", "verify_in_progress"]]),
    ),
    post(
        ("/v1/memory/forget", "forget", "memory"),
        "Looks at what would be erased, or erases it with the token of that look",
        ("ForgetRequest", readings::forget),
        "ForgetResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, FORGETS]),
    ),
    post(
        ("/v1/memory/nodes/activate", "nodes_activate", "memory"),
        "Notes that nodes were used, and how that turned out",
        ("ActivateRequest", requests::activate),
        "ActivateResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, &["nodes_activate_no_resolved_nodes"]]),
    ),
    post(
        ("/v1/memory/archive/rehydrate", "archive_rehydrate", "memory"),
        "Moves colder nodes to a warmer tier",
        ("RehydrateRequest", requests::rehydrate),
        "RehydrateResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, &["rehydrate_no_resolved_nodes"]]),
    ),
    post(
        ("/v1/memory/rules/state", "rules_state", "rules"),
        "Changes the state of a rule",
        ("RuleStateRequest", requests::rule_state),
        "RuleStateResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, RULE, GOES_LIVE]),
    ),
    post(
        ("/v1/memory/rules/evaluate", "rules_evaluate", "rules"),
        "Evaluates rules on a context and merges their policies",
        ("EvaluateRequest", requests::evaluate),
        "EvaluateResponse",
        (DOES, &[ANY, BODY, READ, GATED, &["invalid_idempotency_key"]]),
    ),
    post(
        ("/v1/memory/feedback", "feedback", "rules"),
        "Reports how a rule served",
        ("FeedbackRequest", requests::feedback),
        "FeedbackResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, RULE]),
    ),
    post(
        ("/v1/memory/tools/select", "tools_select", "tools"),
        "Selects a tool by the rules of a context and stores the decision",
        ("SelectRequest", requests::select),
        "SelectResponse",
        (DOES, &[ANY, BODY, READ, GATED, STORES, KEYED, &["no_tools_allowed"]]),
    ),
    post(
        ("/v1/memory/tools/feedback", "tools_feedback", "tools"),
        "Reports how a selected tool served, and credits the rules behind it",
        ("ToolFeedbackRequest", requests::tool_feedback),
        "ToolFeedbackResponse",
        (DOES, &[ANY, BODY, WRITTEN, IN_TURN, STORES, KEYED, MATCHES]),
    ),
    post(
        ("/v1/memory/decisions/{id}/replay", "decision_replay", "tools"),
        "Makes a stored decision again from the policy stored with it",
        ("ReplayRequest", requests::replay),
        "ReplayResponse",
        (DOES, &[ANY, BODY, READ, GATED, &["invalid_idempotency_key", "decision_not_found_in_scope", "erased"]]),
    ),
    get("/health", "health", "Answers as long as the process does", Body::Json("Health")),
    get("/health/live", "health_live", "Answers as long as the process does", Body::Json("Live")),
    get("/health/ready", "health_ready", "Whether the service can do its work", Body::JsonAlsoUnavailable("Ready")),
    Operation {
        codes: &[&["metrics_disabled", "storage_unavailable", "internal_error"]],
        ..get("/metrics", "metrics", "Metrics for Prometheus", Body::Text("text/plain"))
    },
    get("/openapi.json", "openapi", "This document", Body::Document),
    get("/docs", "docs", "This document, to read", Body::Text("text/html")),
];

/// Schemas that requests refer to.
pub(super) fn parts() -> [(&'static str, Value); 3] {
    [("NodeInput", requests::node()), ("EdgeInput", requests::edge()), ("EdgeEnd", requests::end())]
}

/// The codes of an operation, each once.
pub(super) fn codes(operation: &Operation) -> Vec<&'static str> {
    operation.codes.iter().flat_map(|group| group.iter().copied()).collect()
}

/// A reference to the schema of an operation's good answer.
pub(super) fn answered(name: &str) -> Value {
    reference(name)
}

//! Bodies of answers that are put together as JSON; the others derive their schema (`dto::write`, `dto::recall`).

use aionis_core::model::{RuleScope, RuleState, Tier};
use serde_json::{Value, json};

use super::{
    readings,
    schema::{
        answer, count, flag, list, nullable, number, open, reference, said, sha256, text_or_null, uuid, uuid_or_null,
        words,
    },
};

pub(super) type Named = (&'static str, Value);

pub(super) fn string() -> Value {
    json!({ "type": "string" })
}

fn whole() -> Value {
    json!({ "type": "integer" })
}

pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// Any JSON value that was stored or sent by a caller.
pub(super) fn stored() -> Value {
    json!({})
}

pub(super) fn ids() -> Value {
    list(&uuid())
}

pub(super) fn names() -> Value {
    list(&string())
}

fn of_map(values: &Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

fn rule_state() -> Value {
    words(RuleState::ALL.iter().map(|state| state.as_str()))
}

fn rule_scope() -> Value {
    words(RuleScope::ALL.iter().map(|scope| scope.as_str()))
}

pub(super) fn place() -> [Named; 2] {
    [("tenant_id", string()), ("scope", string())]
}

/// The commit of an operation; null when there was nothing to do.
fn commit() -> Vec<Named> {
    let mut all = place().to_vec();
    all.extend([("commit_id", uuid_or_null()), ("commit_hash", nullable(sha256())), ("commit_seq", nullable(count()))]);
    all
}

pub(super) fn with(mut all: Vec<Named>, more: impl IntoIterator<Item = Named>) -> Value {
    all.extend(more);
    answer(all)
}

/// All of them by name.
pub(super) fn all() -> Vec<Named> {
    [shared(), recall_parts(), operations(), rules(), policies(), tools(), health(), readings::answers()].concat()
}

fn shared() -> Vec<Named> {
    let issue = answer([
        ("path", said(string(), "joined by dots, empty for the whole body")),
        ("message", said(string(), "what is wrong and what would be right")),
    ]);
    let mut issues = list(&reference("Issue"));
    issues["minItems"] = json!(1);
    issues["maxItems"] = json!(100);
    vec![
        ("Issue", issue),
        (
            "ValidationError",
            answer([("error", json!({ "const": "invalid_request" })), ("issues", issues), ("details?", open_answer())]),
        ),
        (
            "Error",
            answer([
                ("error", said(string(), "one of x-error-codes")),
                ("message", string()),
                ("details?", said(open_answer(), "facts, where there are any")),
            ]),
        ),
        (
            "UnknownRoute",
            answer([
                ("message", string()),
                ("error", json!({ "const": "Not Found" })),
                ("statusCode", json!({ "const": 404 })),
            ]),
        ),
        ("Warning", answer([("code", string()), ("message", string())])),
    ]
}

fn open_answer() -> Value {
    json!({ "type": "object", "additionalProperties": true })
}

fn recall_parts() -> Vec<Named> {
    let pending = answer([
        ("nodes", said(count(), "nodes of the scope still without vector")),
        ("oldest_ms", said(nullable(count()), "age of the oldest, in ms")),
    ]);
    let item = answer([
        ("node_id", uuid()),
        ("kind", string()),
        ("commit_id", uuid()),
        ("summary?", string()),
        ("title?", string()),
        ("raw_ref?", text_or_null()),
        ("evidence_ref?", text_or_null()),
        ("if_json?", stored()),
        ("then_json?", stored()),
        ("exceptions_json?", stored()),
        ("state?", rule_state()),
        ("rule_scope?", rule_scope()),
        ("target_agent_id?", string()),
        ("target_team_id?", string()),
        ("stats?", answer([("positive", count()), ("negative", count())])),
    ]);
    let citation = answer([
        ("node_id", uuid()),
        ("commit_id", uuid()),
        ("raw_ref", text_or_null()),
        ("evidence_ref", text_or_null()),
    ]);
    let embedding = answer([
        ("node_id", uuid()),
        ("dims", count()),
        ("sha256", sha256()),
        ("preview", said(list(&number()), "the first sixteen numbers")),
    ]);
    let timings = answer([
        ("embed_ms", number()),
        ("stage1_candidates", number()),
        ("stage2_edges", number()),
        ("stage2_nodes", number()),
    ]);
    vec![
        ("Pending", pending),
        ("ContextItem", item),
        ("Citation", citation),
        ("DebugEmbedding", embedding),
        ("Timings", timings),
        ("Counts", answer([("nodes", count()), ("edges", count())])),
        ("RecallQuery", answer([("text", string()), ("embedding_provider", text_or_null())])),
        ("Ranked", answer([("id", uuid()), ("activation", number()), ("score", number())])),
        ("RecallRules", answer(evaluated([("scope", string())]))),
    ]
}

/// What a recall, an evaluation and a selection say of rules alike.
fn evaluated(more: impl IntoIterator<Item = Named>) -> Vec<Named> {
    let mut all = vec![
        ("considered", count()),
        ("matched", count()),
        ("skipped_invalid_then", count()),
        ("invalid_then_sample", list(&reference("InvalidThen"))),
        ("applied", reference("AppliedPolicy")),
    ];
    all.extend(more);
    all
}

fn named_nodes() -> Vec<Named> {
    vec![
        ("requested_node_ids", count()),
        ("requested_client_ids", count()),
        ("resolved_node_ids", count()),
        ("found_nodes", count()),
        ("missing_node_ids", ids()),
        ("missing_client_ids", names()),
    ]
}

fn operations() -> Vec<Named> {
    let outcome = words(["positive", "negative", "neutral"]);
    let activated = with(
        named_nodes(),
        [("updated_nodes", count()), ("updated_ids", ids()), ("outcome?", outcome), ("activate?", flag())],
    );
    let rehydrated = with(
        named_nodes(),
        [("moved_nodes", count()), ("noop_nodes", count()), ("moved_ids", ids()), ("noop_ids", ids())],
    );
    let tiers = words(Tier::ALL.iter().filter(|tier| tier.is_recallable()).map(|tier| tier.as_str()));
    vec![
        ("RuleStateResponse", with(commit(), [("warnings?", list(&reference("Warning")))])),
        ("FeedbackResponse", with(commit(), [("feedback_id", uuid_or_null())])),
        ("ActivateResponse", with(commit(), [("activated", activated)])),
        ("RehydrateResponse", with(commit(), [("target_tier", tiers), ("rehydrated", rehydrated)])),
    ]
}

fn rules() -> Vec<Named> {
    let rule = answer([
        ("rule_node_id", uuid()),
        ("state", rule_state()),
        ("rule_scope", rule_scope()),
        ("target_agent_id", text_or_null()),
        ("target_team_id", text_or_null()),
        ("summary", text_or_null()),
        ("if_json", stored()),
        ("then_json", stored()),
        ("exceptions_json", stored()),
        ("stats", answer([("positive", count()), ("negative", count())])),
        ("rank", reference("Rank")),
        ("match_detail", answer([("condition_paths", names()), ("condition_path_count", count())])),
        ("commit_id", uuid()),
    ]);
    let visibility = answer([
        ("agent", answer([("id", text_or_null()), ("team_id", text_or_null())])),
        (
            "rule_scope",
            answer([
                ("scanned", count()),
                ("filtered_by_scope", count()),
                ("filtered_by_lane", count()),
                ("filtered_by_condition", count()),
                ("skipped_invalid_then", count()),
                ("matched_active", count()),
                ("matched_shadow", count()),
            ]),
        ),
        (
            "lane",
            answer([
                ("applied", flag()),
                ("reason", string()),
                ("legacy_unowned_private_visible", count()),
                ("legacy_unowned_private_detected", count()),
            ]),
        ),
    ]);
    let [tenant, scope] = place();
    let evaluation = answer(evaluated([
        tenant,
        scope,
        ("active", list(&reference("RuleMatch"))),
        ("shadow", list(&reference("RuleMatch"))),
        ("agent_visibility_summary", reference("VisibilitySummary")),
    ]));
    vec![
        ("RuleMatch", rule),
        ("InvalidThen", answer([("rule_node_id", uuid()), ("state", rule_state()), ("commit_id", uuid())])),
        ("VisibilitySummary", visibility),
        ("EvaluateResponse", evaluation),
    ]
}

fn ranked(first: &'static str) -> Vec<Named> {
    let mut all = vec![("evidence_score", whole()), ("priority", whole()), ("weight", number())];
    all.extend([("specificity", count()), ("score", number())]);
    if !first.is_empty() {
        all.push((first, uuid()));
    }
    all
}

fn policies() -> Vec<Named> {
    let source = answer([
        ("rule_node_id", uuid()),
        ("state", rule_state()),
        ("commit_id", uuid()),
        ("touched_paths", names()),
        ("rank", reference("Rank")),
    ]);
    let loser = answer([("rule_node_id", uuid()), ("score", number())]);
    let explained = answer([
        ("path", string()),
        ("winner", answer(ranked("rule_node_id"))),
        ("losers", list(&loser)),
        ("reason", string()),
    ]);
    let contribution = with(
        ranked("rule_node_id"),
        [("allow_n", count()), ("deny_n", count()), ("prefer_n", count()), ("first_prefer", text_or_null())],
    );
    let conflict = answer([
        ("code", string()),
        ("message", string()),
        ("details", stored()),
        ("winner_rule_node_id", uuid_or_null()),
    ]);
    let tools = answer([
        ("notes", names()),
        ("contributions", list(&contribution)),
        ("winners", answer([("prefer_by_tool", of_map(&uuid())), ("deny_by_tool", of_map(&uuid()))])),
        ("conflicts", list(&conflict)),
    ]);
    let applied = answer([
        ("policy", open()),
        ("sources", list(&reference("PolicySource"))),
        ("conflicts", list(&reference("PolicyConflict"))),
        ("conflict_explain", list(&reference("PolicyConflictExplained"))),
        ("tool_explain", reference("ToolExplain")),
        ("shadow_policy?", open()),
        ("shadow_sources?", list(&reference("PolicySource"))),
        ("shadow_conflicts?", list(&reference("PolicyConflict"))),
        ("shadow_conflict_explain?", list(&reference("PolicyConflictExplained"))),
        ("shadow_tool_explain?", reference("ToolExplain")),
    ]);
    vec![
        ("Rank", answer(ranked(""))),
        ("PolicySource", source),
        ("PolicyConflict", answer([("path", string()), ("winner_rule_node_id", uuid())])),
        ("PolicyConflictExplained", explained),
        ("ToolExplain", tools),
        ("AppliedPolicy", applied),
    ]
}

fn tools() -> Vec<Named> {
    let selection = answer([
        ("candidates", names()),
        ("allowed", names()),
        ("denied", list(&answer([("name", string()), ("reason", words(["deny_list", "not_in_allow_list"]))]))),
        ("preferred", names()),
        ("ordered", names()),
        ("selected", text_or_null()),
        (
            "fallback",
            answer([("applied", flag()), ("reason", string()), ("note", string()), ("effective_mode", string())]),
        ),
    ]);
    let rules = answer(evaluated([
        ("agent_visibility_summary", reference("VisibilitySummary")),
        ("tool_conflicts_summary", names()),
        ("shadow_selection?", reference("Selection")),
        ("shadow_tool_conflicts_summary?", names()),
    ]));
    let selected = [
        ("candidates", names()),
        ("selection", reference("Selection")),
        ("rules", rules),
        ("decision", answer(decision())),
    ];
    let credited = answer([
        ("ok", flag()),
        ("tenant_id", string()),
        ("scope", string()),
        ("updated_rules", count()),
        ("rule_node_ids", ids()),
        ("commit_id", uuid_or_null()),
        ("commit_hash", nullable(sha256())),
        ("decision_id?", uuid_or_null()),
        ("decision_link_mode?", string()),
        ("decision_policy_sha256?", nullable(sha256())),
        ("note?", string()),
    ]);
    vec![
        ("Selection", selection),
        ("SelectResponse", with(place().to_vec(), selected)),
        ("ToolFeedbackResponse", credited),
        ("ReplayResponse", replay()),
    ]
}

fn decision() -> Vec<Named> {
    vec![
        ("decision_id", uuid()),
        ("run_id", text_or_null()),
        ("selected_tool", text_or_null()),
        ("policy_sha256", sha256()),
        ("source_rule_ids", ids()),
        ("created_at", time()),
    ]
}

fn replay() -> Value {
    let replayed = with(
        decision(),
        [
            ("candidates", names()),
            ("context_sha256", sha256()),
            ("policy", stored()),
            ("metadata", stored()),
            ("commit_seq", nullable(count())),
        ],
    );
    let identical = said(flag(), "whether the policy's hash and the selected tool are those stored");
    let replay = [("identical", identical), ("selection", reference("Selection")), ("decision", replayed)];
    with(place().to_vec(), replay)
}

fn health() -> Vec<Named> {
    let embedding = answer([
        ("provider", string()),
        ("dim", said(count(), "dimension of vectors")),
        ("status", words(["ready", "model_missing", "disabled"])),
        ("hint", text_or_null()),
    ]);
    let mut outbox = answer([("pending", count()), ("dead", count()), ("oldest_pending_s", count())]);
    outbox["type"] = json!(["object", "null"]);
    vec![
        ("Health", answer([("ok", flag()), ("database_target_hash", nullable(sha256()))])),
        ("Live", answer([("ok", flag())])),
        (
            "Ready",
            answer([
                ("ok", flag()),
                ("engine", words(["embedded", "postgres"])),
                ("store", words(["ok", "unavailable"])),
                ("worker", flag()),
                ("embedding", embedding),
                ("outbox", outbox),
                ("warnings", names()),
            ]),
        ),
    ]
}

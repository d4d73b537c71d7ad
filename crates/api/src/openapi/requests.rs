//! Bodies of requests, as the readers in `dto` take them.

use aionis_core::{
    model::{EdgeType, Lane, NodeType, RuleState, Tier},
    operate::Outcome,
};
use serde_json::{Value, json};

use super::schema::{
    anything, counted, either, flag, integer, like, list, named, nullable, open, or, reference, request, said, scope,
    scope_or_blank, sha256, share, short, state, tenant, text, uuid, vector, words, wordy,
};
use crate::limits::{self, CLIENT_ID_MAX, LABEL_MAX, REF_MAX};

/// A node of the examples, with the key `note-1` in the scope `demo` of the tenant `default`.
pub(super) const NODE: &str = "5d6092c4-30a5-5d16-980f-3aedc3e11a08";
/// A rule of the examples, with the key `rule-1` in the scope `demo` of the tenant `default`.
const RULE: &str = "56e90621-99b5-5cde-b8aa-111e9e865731";
/// A decision of the examples.
pub(super) const DECISION: &str = "0b54a2b3-9c9d-4b57-8a51-6a1f6f5d2f10";

pub(super) type Member = (&'static str, Value);

pub(super) fn label(example: &str, description: &str) -> Value {
    like(short(text(), LABEL_MAX), example, description)
}

pub(super) fn id(description: &str) -> Value {
    like(uuid(), NODE, description)
}

/// Tenant and scope.
pub(super) fn place() -> Vec<Member> {
    vec![
        ("tenant_id", like(tenant(), "default", "tenant; else the header `x-tenant-id`, else `MEMORY_TENANT_ID`")),
        ("scope", like(scope(), "demo", "memory within the tenant, at most 256 bytes; else `MEMORY_SCOPE`")),
    ]
}

fn input_sha256() -> Value {
    let example = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    like(sha256(), example, "digest of the input; wins over the text")
}

/// What every operation is asked with.
fn operation(members: impl IntoIterator<Item = Member>) -> Value {
    let mut all = place();
    all.extend([
        ("actor", or(label("scribe", "who asks; bound by the commit"), "system")),
        ("input_text", like(text(), "it worked", "the text this comes from; it is hashed, not stored")),
        ("input_sha256", input_sha256()),
    ]);
    all.extend(members);
    either(request(all), &["input_text", "input_sha256"])
}

pub(super) fn lane(description: &str) -> Value {
    said(words(Lane::ALL.iter().map(|lane| lane.as_str())), description)
}

/// `POST /v1/memory/write`.
pub(super) fn write() -> Value {
    let switch = |default: bool, description: &str| or(said(flag(), description), default);
    let mut all = place();
    all.extend([
        ("actor", or(label("scribe", "who writes; bound by the commit"), "system")),
        ("input_text", like(wordy(), "the guest cannot eat peanuts", "the text this comes from; hashed, not stored")),
        ("input_sha256", input_sha256()),
        ("parent_commit_id", like(uuid(), NODE, "a commit the caller has seen; it must exist in the scope")),
        ("model_version", label("m-1", "label; bound by the commit")),
        ("prompt_version", label("p-1", "label; bound by the commit")),
        ("memory_lane", or(lane("default of the nodes"), "private")),
        ("producer_agent_id", label("ann", "default of the nodes")),
        ("owner_agent_id", label("ann", "default of the nodes")),
        ("owner_team_id", label("blue", "default of the nodes")),
        ("auto_embed", switch(true, "whether vectors are derived")),
        ("force_reembed", switch(false, "derive vectors again where one is stored")),
        ("trigger_topic_cluster", said(flag(), "whether a worker clusters topics soon and not with the next hour")),
        ("topic_cluster_async", said(flag(), "accepted; topics are never clustered within a write")),
        (
            "nodes",
            or(
                said(
                    list(&reference("NodeInput")),
                    "at most `MEMORY_WRITE_MAX_NODES` (5,000 unless set); more is 413 `batch_too_large`",
                ),
                json!([]),
            ),
        ),
        (
            "edges",
            or(
                said(
                    list(&reference("EdgeInput")),
                    "at most `MEMORY_WRITE_MAX_EDGES` (20,000 unless set); more is 413 `batch_too_large`",
                ),
                json!([]),
            ),
        ),
    ]);
    either(request(all), &["input_text", "input_sha256"])
}

fn numbers(description: &str) -> Value {
    said(vector(), description)
}

/// A node of a write.
pub(super) fn node() -> Value {
    let vital = |description: &str| or(like(share(), 0.5, description), 0.5);
    request([
        ("id", id("explicit id; with `client_id` it must be the one derived from that")),
        (
            "client_id",
            like(short(wordy(), CLIENT_ID_MAX), "note-1", "the caller's key; the id is derived from scope and key"),
        ),
        ("scope", like(scope_or_blank(), "demo", "another scope of the same tenant")),
        ("type!", said(words(NodeType::ALL.iter().map(|kind| kind.as_str())), "what it is")),
        ("tier", or(said(words(Tier::ALL.iter().map(|tier| tier.as_str())), "recall looks at hot and warm"), "hot")),
        ("memory_lane", lane("overrides the request's")),
        ("producer_agent_id", label("ann", "overrides the request's")),
        ("owner_agent_id", label("ann", "overrides the request's; defaults to the producer")),
        ("owner_team_id", label("blue", "overrides the request's")),
        ("title", like(text(), "Table 4 guest", "white space is folded, personal data replaced by tokens")),
        ("text_summary", like(text(), "The guest cannot eat peanuts.", "as for `title`")),
        ("slots", like(open(), json!({ "table": 4 }), "free attributes, at most 64 levels deep")),
        ("raw_ref", like(short(text(), REF_MAX), "s3://raw/1", "pointer")),
        ("evidence_ref", like(short(text(), REF_MAX), "s3://evidence/1", "pointer")),
        ("embedding", numbers("as many numbers as the store's dimension (`/health/ready`), not all zero")),
        ("embedding_model", label("client", "label of the vector")),
        ("salience", vital("vital")),
        ("importance", vital("vital")),
        ("confidence", vital("vital")),
    ])
}

/// An edge of a write.
pub(super) fn edge() -> Value {
    let about = "a node of this request, or one stored before; another than the other end";
    let end = |key: &str| like(reference("EdgeEnd"), json!({ "client_id": key }), about);
    request([
        ("id", like(uuid(), "00000000-0000-4000-8000-00000000000e", "explicit id, else derived")),
        ("scope", like(scope_or_blank(), "demo", "another scope of the same tenant")),
        ("type!", said(words(EdgeType::ALL.iter().map(|kind| kind.as_str())), "how they relate")),
        ("src!", end("note-1")),
        ("dst!", end("guest-4")),
        ("weight", or(like(share(), 0.5, "an edge sent again keeps the larger value"), 0.5)),
        ("confidence", or(like(share(), 0.5, "an edge sent again keeps the larger value"), 0.5)),
        ("decay_rate", or(like(share(), 0.01, "per day; kept from the first write"), 0.01)),
    ])
}

/// An end of an edge.
pub(super) fn end() -> Value {
    let members = [
        ("id", id("of the node; wins over `client_id`")),
        ("client_id", like(text(), "note-1", "of the node; more than white space unless `id` is there")),
    ];
    let mut end = request(members);
    // Only an end that is named by its key alone has to have one that says something.
    let key = json!({ "properties": { "client_id": { "pattern": wordy()["pattern"] } }, "required": ["client_id"] });
    end["anyOf"] = json!([{ "required": ["id"] }, key]);
    end
}

fn recall(question: Member) -> Value {
    let knob = |range, description: &str| said(nullable(integer(range)), description);
    let off = |description: &str| or(said(flag(), description), false);
    let waits = 0..=limits::WAIT_MS_MAX;
    let mut all = place();
    all.extend([
        question,
        ("consumer_agent_id", label("ann", "for whom: shared nodes, and private ones this agent owns")),
        ("consumer_team_id", label("blue", "for whom: shared nodes, and private ones this team owns")),
        ("limit", knob(&limits::LIMIT, "seeds; the default comes from the profile")),
        ("neighborhood_hops", knob(&limits::HOPS, "how far from the seeds")),
        ("max_nodes", knob(&limits::MAX_NODES, "size of the subgraph")),
        ("max_edges", knob(&limits::MAX_EDGES, "size of the subgraph")),
        ("ranked_limit", knob(&limits::RANKED_LIMIT, "entries of `ranked`")),
        ("min_edge_weight", said(nullable(share()), "weaker edges are not followed")),
        ("min_edge_confidence", said(nullable(share()), "weaker edges are not followed")),
        (
            "as_of",
            like(state(), 1, "an earlier state: number or id of a commit, or a time; not of scopes too large for it"),
        ),
        ("token_budget", said(integer(&limits::TOKEN_BUDGET), "longest `context.text` in estimated tokens")),
        ("min_commit", like(integer(&limits::COMMIT), 1, "the answer must include this commit")),
        ("max_wait_ms", or(said(integer(&waits), "how long to wait for it; then 409"), 0)),
        ("include_meta", off("owners, lane, times, vitals and commits")),
        ("include_slots", off("slots of each node")),
        ("include_slots_preview", off("the first slots only")),
        ("slots_preview_keys", or(said(integer(&limits::SLOTS_PREVIEW_KEYS), "how many"), 10)),
        ("return_debug", off("counts, timings in ms, profile, estimated tokens")),
        ("include_embeddings", off("with `return_debug`, `limit` up to 20 and permission: vectors of the first seeds")),
        ("rules_context", said(anything(), "evaluates rules on it beside; null counts as absent")),
        ("rules_include_shadow", off("shadow rules too")),
        ("rules_limit", or(said(integer(&limits::RULES), "how many rules are listed"), 50)),
    ]);
    request(all)
}

/// `POST /v1/memory/recall`.
pub(super) fn recall_by_vector() -> Value {
    recall(("query_embedding!", numbers("as many numbers as the store's dimension (`/health/ready`), not all zero")))
}

/// `POST /v1/memory/recall_text`.
pub(super) fn recall_by_text() -> Value {
    recall(("query_text!", like(text(), "Which food could trigger an allergic reaction?", "the question")))
}

fn outcome() -> Value {
    said(words([Outcome::Positive, Outcome::Negative, Outcome::Neutral].map(Outcome::as_str)), "how it turned out")
}

fn run_id() -> Value {
    label("run-1", "the caller's run")
}

fn remark() -> Value {
    like(text(), "as expected", "a remark")
}

/// `POST /v1/memory/feedback`.
pub(super) fn feedback() -> Value {
    operation([
        ("rule_node_id!", like(uuid(), RULE, "the rule")),
        ("outcome!", outcome()),
        ("run_id", run_id()),
        ("note", remark()),
    ])
}

/// `POST /v1/memory/rules/state`.
pub(super) fn rule_state() -> Value {
    let states = words(RuleState::ALL.iter().map(|state| state.as_str()));
    operation([("rule_node_id!", like(uuid(), RULE, "the rule")), ("state!", said(states, "its new state"))])
}

fn context() -> Member {
    ("context", like(anything(), json!({ "intent": "deploy" }), "what the rules' conditions are evaluated on"))
}

fn listed(name: &'static str) -> Member {
    (name, or(said(integer(&limits::RULES), "how many rules are listed; all are merged"), 50))
}

fn shadow(default: bool) -> Member {
    ("include_shadow", or(said(flag(), "shadow rules too"), default))
}

/// `POST /v1/memory/rules/evaluate`.
pub(super) fn evaluate() -> Value {
    let mut all = place();
    all.extend([context(), shadow(true), listed("limit")]);
    request(all)
}

fn candidates() -> Value {
    let mut candidates = counted(&short(text(), LABEL_MAX), &limits::CANDIDATES);
    candidates["contains"] = named();
    like(candidates, json!(["psql", "curl"]), "names of tools; at least one is not blank")
}

/// `POST /v1/memory/tools/select`.
pub(super) fn select() -> Value {
    let mut all = place();
    all.extend([
        ("candidates!", candidates()),
        context(),
        ("run_id", run_id()),
        ("strict", or(said(flag(), "whether allowing nothing is an error"), true)),
        shadow(false),
        listed("rules_limit"),
    ]);
    request(all)
}

/// `POST /v1/memory/tools/feedback`.
pub(super) fn tool_feedback() -> Value {
    operation([
        ("outcome!", outcome()),
        ("candidates!", candidates()),
        ("selected_tool!", label("psql", "the tool that was used")),
        context(),
        ("decision_id", like(uuid(), DECISION, "the decision; else it is found by run, tool and context")),
        ("run_id", run_id()),
        ("target", or(said(words(["tool", "all"]), "which rules are credited"), "tool")),
        ("note", remark()),
        shadow(false),
        listed("rules_limit"),
    ])
}

/// `POST /v1/memory/decisions/{id}/replay`.
pub(super) fn replay() -> Value {
    request(place())
}

fn named_nodes(more: impl IntoIterator<Item = Member>) -> Value {
    let client_id = short(text(), CLIENT_ID_MAX);
    let mut all = vec![
        ("node_ids", like(counted(&uuid(), &limits::NODES), json!([NODE]), "nodes by id")),
        ("client_ids", like(counted(&client_id, &limits::NODES), json!(["note-1"]), "nodes by the caller's key")),
    ];
    all.extend(more);
    let mut body = operation(all);
    let input = body["anyOf"].take();
    if let Some(members) = body.as_object_mut() {
        members.remove("anyOf");
    }
    let named = json!([{ "required": ["node_ids"] }, { "required": ["client_ids"] }]);
    body["allOf"] = json!([{ "anyOf": input }, { "anyOf": named }]);
    body
}

/// `POST /v1/memory/nodes/activate`.
pub(super) fn activate() -> Value {
    named_nodes([
        ("outcome", or(outcome(), "neutral")),
        ("activate", or(said(flag(), "whether the nodes count as used"), true)),
        ("run_id", run_id()),
        ("reason", remark()),
    ])
}

/// `POST /v1/memory/archive/rehydrate`.
pub(super) fn rehydrate() -> Value {
    let tiers = Tier::ALL.iter().filter(|tier| tier.is_recallable()).map(|tier| tier.as_str());
    named_nodes([("target_tier", or(said(words(tiers), "colder nodes are moved here"), "warm")), ("reason", remark())])
}

//! Reading apart from recall, and forgetting: what is asked, and the answers that are put together as JSON.

use aionis_core::{
    chain::{ChangeOp, ObjectKind},
    model::{EmbeddingStatus, NodeType, Tier},
};
use serde_json::{Value, json};

use super::{
    answers::{Named, ids, names, place as placed, stored, string, time as told, with},
    requests::{DECISION, Member, NODE, id, label, lane, place},
    schema::{
        answer, commit_in_path, count, counted, cursor, either, flag, integer, like, list, nullable, open, or,
        reference, request, said, sha256, short, state, text, text_or_null, time, uri, uuid, words,
    },
};
use crate::{
    dto::find::FILTER_MEMBERS,
    limits::{self, CLIENT_ID_MAX, LABEL_MAX, NEEDLE_MAX},
};

const TOKEN: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
const TIME: &str = "2026-02-16T09:36:07Z";

/// An object that is kept as it is, with at least one member.
fn some_members() -> Value {
    let mut object = open();
    object["minProperties"] = json!(1);
    object
}

fn client_id() -> Value {
    short(text(), CLIENT_ID_MAX)
}

fn set(of: &Value) -> Value {
    counted(of, &limits::WORDS)
}

/// The members of a filter: each restricts, but for those that name nodes, of which one is enough.
fn filter() -> Vec<Member> {
    let kind = || words(NodeType::ALL.iter().map(|kind| kind.as_str()));
    let tier = || words(Tier::ALL.iter().map(|tier| tier.as_str()));
    let status = words(EmbeddingStatus::ALL.iter().map(|status| status.as_str()));
    let needle = |example: &str, said: &str| like(short(text(), NEEDLE_MAX), example, said);
    let at = |said: &str| like(time(), TIME, said);
    vec![
        ("id", id("a node by id")),
        ("ids", like(counted(&uuid(), &limits::FIND_NAMES), json!([NODE]), "nodes by id")),
        ("uri", like(uri(), format!("aionis://default/demo/event/{NODE}"), "a node of this scope by its address")),
        ("client_id", like(client_id(), "note-1", "a node by the caller's key")),
        (
            "client_ids",
            like(counted(&client_id(), &limits::FIND_NAMES), json!(["note-1"]), "nodes by the caller's key"),
        ),
        ("type", said(kind(), "what it is")),
        ("types", like(set(&kind()), json!(["event"]), "one of these")),
        ("tier", said(tier(), "where it is kept")),
        ("tiers", like(set(&tier()), json!(["hot"]), "one of these")),
        ("memory_lane", lane("the lane it is in")),
        ("owner_agent_id", label("ann", "its owner")),
        ("owner_team_id", label("blue", "its owning team")),
        ("producer_agent_id", label("ann", "who produced it")),
        ("embedding_status", said(status, "state of its vector")),
        ("title_contains", needle("table", "the title holds this, whatever the case")),
        ("text_contains", needle("peanuts", "title or summary holds this, whatever the case")),
        (
            "slots_contains",
            like(some_members(), json!({ "table": 4 }), "the slots contain this JSON, as `@>` of PostgreSQL says"),
        ),
        ("created_from", at("first written at or after")),
        ("created_before", at("first written before")),
        ("updated_from", at("last changed at or after")),
        ("updated_before", at("last changed before")),
    ]
}

fn viewer() -> [Member; 2] {
    [
        ("consumer_agent_id", label("ann", "for whom: shared nodes, and private ones this agent owns")),
        ("consumer_team_id", label("blue", "for whom: shared nodes, and private ones this team owns")),
    ]
}

fn as_of() -> Member {
    ("as_of", like(state(), 1, "an earlier state: number or id of a commit, or a time"))
}

/// `POST /v1/memory/find`.
pub(super) fn find() -> Value {
    let off = |description: &str| or(said(flag(), description), false);
    let mut all = place();
    all.extend(viewer());
    all.extend(filter());
    all.extend([
        as_of(),
        ("cursor", said(cursor(), "`next_cursor` of the page before; the rest of the question has to be the same")),
        ("offset", or(said(integer(&limits::OFFSET), "nodes passed over first"), 0)),
        ("limit", or(said(integer(&limits::PAGE), "nodes of a page"), limits::FIND_PAGE)),
        ("include_meta", off("owners, lane, times, vitals and commit")),
        ("include_slots", off("slots of each node")),
        ("include_slots_preview", off("the first slots only")),
        ("slots_preview_keys", or(said(integer(&limits::SLOTS_PREVIEW_KEYS), "how many"), 10)),
    ]);
    request(all)
}

/// `POST /v1/memory/forget`.
pub(super) fn forget() -> Value {
    let restricts = either(request(filter()), FILTER_MEMBERS);
    let client_ids = counted(&client_id(), &limits::FORGET_NAMES);
    let token = like(sha256(), TOKEN, "of the look before; needed to erase, and good for exactly what was looked at");
    let mut all = place();
    all.extend([
        ("actor", or(short(label("scribe", "who asks; bound by the commit"), LABEL_MAX), "system")),
        ("node_ids", like(counted(&uuid(), &limits::FORGET_NAMES), json!([NODE]), "nodes by id")),
        ("client_ids", like(client_ids, json!(["note-1"]), "nodes by the caller's key")),
        ("filter", said(restricts, "all nodes it lets through, as in find; it has to restrict something")),
        ("dry_run", like(flag(), true, "whether this is only a look; true unless there is a token")),
        ("confirmation_token", token),
    ]);
    let mut forget = either(request(all), &["node_ids", "client_ids", "filter"]);
    forget["if"] = json!({ "properties": { "dry_run": { "const": false } }, "required": ["dry_run"] });
    forget["then"] = json!({ "required": ["confirmation_token"] });
    forget
}

/// `POST /v1/memory/verify`.
pub(super) fn verify() -> Value {
    request(place())
}

/// Members of queries by name.
pub(super) fn queries() -> Vec<Member> {
    let mut all = place();
    all.extend(viewer());
    all.extend([
        as_of(),
        ("before", like(integer(&limits::COMMIT), 2, "only what is older: `next_before` of the page before")),
        ("limit", or(said(integer(&limits::PAGE), "entries of a page"), limits::LIST_PAGE)),
    ]);
    all
}

/// The id in a path.
pub(super) fn named(path: &str) -> Value {
    match path.strip_prefix("/v1/memory/").and_then(|rest| rest.split('/').next()) {
        Some("nodes") => id("id of the node"),
        Some("commits") => like(commit_in_path(), "1", "number or id of the commit"),
        _ => like(uuid(), DECISION, "id of the decision"),
    }
}

/// Bodies of answers by name.
pub(super) fn answers() -> Vec<Named> {
    let erased = answer([
        ("node_id", uuid()),
        ("erased", json!({ "const": true })),
        ("erased_at", told()),
        ("digest", said(sha256(), "of the last content")),
        ("commit_id", uuid()),
        ("commit_seq", count()),
    ]);
    [vec![("ErasedNode", erased)], histories(), commits(), vec![("ForgetResponse", forgotten())], verified()].concat()
}

fn next() -> Named {
    ("next_before", said(nullable(count()), "`before` of the next page; null when this is the last"))
}

fn histories() -> Vec<Named> {
    let version = answer([
        ("version", said(count(), "from 1")),
        ("commit_id", uuid()),
        ("commit_seq", count()),
        ("created_at", told()),
        ("replaced_by_commit_seq", said(nullable(count()), "null for the present content")),
        ("digest", said(sha256(), "of `content` as canonical JSON")),
        ("content", said(stored(), "as it was hashed")),
    ]);
    let versions = said(list(&reference("NodeVersion")), "newest first; without those the caller does not see");
    let history = with(placed().to_vec(), [("node_id", uuid()), ("versions", versions), next()]);
    vec![("NodeVersion", version), ("HistoryResponse", history)]
}

fn commits() -> Vec<Named> {
    let commit = answer([
        ("commit_id", uuid()),
        ("seq", count()),
        ("hash", sha256()),
        ("parent_hash", sha256()),
        ("kind", string()),
        ("actor", string()),
        ("model_version", text_or_null()),
        ("prompt_version", text_or_null()),
        ("input_sha256", said(nullable(sha256()), "null for who may not see everything of the scope")),
        ("request_sha256", said(nullable(sha256()), "null for who may not see everything of the scope")),
        (
            "changes_sha256",
            said(nullable(sha256()), "null for who may not see everything, or when the change list cannot be read"),
        ),
        ("created_at", told()),
        ("created_at_us", said(json!({ "type": "integer" }), "microseconds since 1970, as it was hashed")),
    ]);
    let kinds = [ObjectKind::Node, ObjectKind::Edge, ObjectKind::Rule, ObjectKind::Feedback].map(ObjectKind::as_str);
    let ops = [ChangeOp::Create, ChangeOp::Update, ChangeOp::Touch, ChangeOp::Erase].map(ChangeOp::as_str);
    let change = answer([("kind", words(kinds)), ("op", words(ops)), ("id", uuid()), ("digest", sha256())]);
    let complete = said(flag(), "false when changes are left out that the caller does not see");
    vec![
        ("Commit", commit),
        ("Change", change),
        ("CommitsResponse", with(placed().to_vec(), [("commits", list(&reference("Commit"))), next()])),
        (
            "CommitResponse",
            with(
                placed().to_vec(),
                [
                    ("commit", reference("Commit")),
                    ("changes", list(&reference("Change"))),
                    ("changes_complete", complete),
                ],
            ),
        ),
    ]
}

fn forgotten() -> Value {
    let erased = |what: Value| said(what, "when erased");
    with(
        placed().to_vec(),
        [
            ("dry_run", said(flag(), "whether nothing was erased")),
            ("nodes", said(count(), "nodes that are, or would be, erased")),
            ("node_ids", ids()),
            ("edges", said(count(), "edges that go with them")),
            ("versions", said(count(), "earlier contents that go with them")),
            ("feedback", said(count(), "feedback that goes with them")),
            ("derived", said(count(), "topics and summaries that jobs made of them and that go with them")),
            ("missing_node_ids", ids()),
            ("missing_client_ids", names()),
            ("confirmation_token?", said(sha256(), "after a look: what erases exactly this")),
            ("commit_id?", erased(uuid())),
            ("commit_seq?", erased(count())),
            ("commit_hash?", erased(sha256())),
            ("replayed?", said(flag(), "when erased: this answer repeats an earlier one")),
        ],
    )
}

fn verified() -> Vec<Named> {
    let found = answer([
        ("scope_key", string()),
        ("seq", nullable(count())),
        ("object", string()),
        ("id", string()),
        ("problem", string()),
    ]);
    let report = with(
        placed().to_vec(),
        [
            ("ok", flag()),
            ("commits", said(count(), "commits accepted")),
            ("objects", said(count(), "objects checked")),
            ("versions", said(count(), "earlier contents checked")),
            ("head_seq", count()),
            ("head_hash", sha256()),
            ("first_break", json!({ "anyOf": [{ "type": "null" }, reference("ChainBreak")] })),
        ],
    );
    vec![("ChainBreak", found), ("VerifyResponse", report)]
}

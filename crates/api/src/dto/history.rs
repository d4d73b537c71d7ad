//! `GET /v1/memory/nodes/{id}/history`, `/commits` and `/commits/{id}`; `POST /v1/memory/verify`.

use aionis_core::{
    chain::{Change, StoredCommit, changes_sha256, parse_changes},
    error::DomainError,
    ids::{CommitId, NodeId, ScopeKey},
    model::Viewer,
    read::{AsOf, NodeVersion},
};
use aionis_engine::{CommitView, verify::ScopeReport};
use serde_json::{Value, json};

use super::{
    operate::Asked,
    recall::{as_count, viewer_of},
    tenancy::scope_of,
};
use crate::{
    fields::{Fields, Issues, Null, uuid_of},
    limits::{COMMIT, COMMIT_DIGITS_MAX, LIST_PAGE, PAGE},
};

/// What is read of a request that asks for a whole scope or one commit.
pub(crate) const PLACE: &[&str] = &["tenant_id", "scope"];
/// What is read of a request for a node.
pub(crate) const OF_NODE: &[&str] = &["tenant_id", "scope", "consumer_agent_id", "consumer_team_id", "as_of"];
/// What is read of a request for the history of a node.
pub(crate) const OF_HISTORY: &[&str] =
    &["tenant_id", "scope", "consumer_agent_id", "consumer_team_id", "before", "limit"];
/// What is read of a request for a list of commits.
pub(crate) const OF_COMMITS: &[&str] = &["tenant_id", "scope", "before", "limit"];

/// What of a scope is read: for whom, which state, which page.
pub(crate) struct Reading {
    pub(crate) scope: ScopeKey,
    pub(crate) viewer: Viewer,
    pub(crate) as_of: Option<AsOf>,
    pub(crate) before: Option<u64>,
    pub(crate) limit: usize,
}

/// Reads these members of the query of a reading, as an object; others are ignored.
pub(crate) fn reading(query: &Value, asked: &Asked<'_>, names: &[&str]) -> Result<Reading, DomainError> {
    let query = Fields::body(query)?.received(names);
    let body = Fields::body(&query)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let reading = Reading {
        scope,
        viewer: viewer_of(&body, &mut issues),
        as_of: body.state("as_of", &mut issues),
        before: body.integer("before", COMMIT, Null::Refused, &mut issues),
        limit: as_count(body.integer("limit", PAGE, Null::Refused, &mut issues)).unwrap_or(LIST_PAGE),
    };
    issues.finish()?;
    Ok(reading)
}

/// The commit a path names: by id, or by number.
pub(crate) fn path_commit(text: &str) -> Result<AsOf, DomainError> {
    let digits = text.len() <= COMMIT_DIGITS_MAX && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten().map(AsOf::Seq);
    number.or_else(|| uuid_of(text).map(|id| AsOf::Commit(CommitId(id)))).ok_or_else(|| {
        DomainError::field("id", "the path must hold the number of a commit (from 1), or its id, a lower-case UUID")
    })
}

/// Answer of a node's history.
pub(crate) fn history_answer(scope: &ScopeKey, id: NodeId, versions: &[NodeVersion], next: Option<u32>) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            json!({
                "version": version.version,
                "commit_id": version.commit_id,
                "commit_seq": version.from_seq,
                "created_at": version.at.to_iso(),
                "replaced_by_commit_seq": version.to_seq,
                "digest": version.digest,
                "content": version.content,
            })
        })
        .collect();
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "node_id": id,
        "versions": versions,
        "next_before": next,
    })
}

/// A commit's header. What its input, its request and its changes hash to lets somebody who guesses what a private node says
/// make sure of it: only who may see everything of the scope is shown that.
fn commit_json(commit: &StoredCommit, sees_all: bool) -> Value {
    let header = &commit.header;
    // What a change list hashes to is a function of it; one that cannot be read is for verification to tell.
    let changes: Option<Vec<Change>> = parse_changes(&commit.changes).ok().filter(|_| sees_all);
    json!({
        "commit_id": commit.id,
        "seq": header.seq,
        "hash": commit.hash,
        "parent_hash": header.parent_hash,
        "kind": header.kind,
        "actor": header.actor,
        "model_version": header.model_version,
        "prompt_version": header.prompt_version,
        "input_sha256": sees_all.then_some(&header.input_sha256),
        "request_sha256": sees_all.then_some(header.request_sha256),
        "changes_sha256": changes.map(|changes| changes_sha256(&changes)),
        "created_at": header.created_at.to_iso(),
        "created_at_us": header.created_at,
    })
}

/// Answer of the list of commits.
pub(crate) fn commits_answer(scope: &ScopeKey, commits: &[StoredCommit], next: Option<u64>, sees_all: bool) -> Value {
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "commits": commits.iter().map(|commit| commit_json(commit, sees_all)).collect::<Vec<_>>(),
        "next_before": next,
    })
}

/// Answer of one commit.
pub(crate) fn commit_answer(scope: &ScopeKey, view: &CommitView, sees_all: bool) -> Value {
    let changes: Vec<Value> = view
        .changes
        .iter()
        .map(|change| {
            json!({
                "kind": change.kind.as_str(),
                "op": change.op.as_str(),
                "id": change.id,
                "digest": change.digest,
            })
        })
        .collect();
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "commit": commit_json(&view.commit, sees_all),
        "changes": changes,
        "changes_complete": view.complete,
    })
}

/// Answer of a verification.
pub(crate) fn verify_answer(report: &ScopeReport) -> Value {
    json!(report)
}

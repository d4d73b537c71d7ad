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
use crate::fields::{Fields, Issues, Null};

const LIMIT: usize = 50;
const LIMIT_MAX: u64 = 200;

/// What of a scope is read: for whom, which state, which page.
pub(crate) struct Reading {
    pub(crate) scope: ScopeKey,
    pub(crate) viewer: Viewer,
    pub(crate) as_of: Option<AsOf>,
    pub(crate) before: Option<u64>,
    pub(crate) limit: usize,
}

/// Reads the query of a reading, as an object.
pub(crate) fn reading(query: &Value, asked: &Asked<'_>) -> Result<Reading, DomainError> {
    let body = Fields::body(query)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let reading = Reading {
        scope,
        viewer: viewer_of(&body, &mut issues),
        as_of: body.state("as_of", &mut issues),
        before: body.integer("before", 1..=(1 << 53), Null::Refused, &mut issues),
        limit: as_count(body.integer("limit", 1..=LIMIT_MAX, Null::Refused, &mut issues)).unwrap_or(LIMIT),
    };
    issues.finish()?;
    Ok(reading)
}

/// The commit a path names: by id, or by number.
pub(crate) fn path_commit(text: &str) -> Result<AsOf, DomainError> {
    if let Ok(seq) = text.parse::<u64>() {
        return Ok(AsOf::Seq(seq));
    }
    let problem = |_| DomainError::field("id", "must be the id or the number of a commit");
    uuid::Uuid::parse_str(text).map(|id| AsOf::Commit(CommitId(id))).map_err(problem)
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

fn commit_json(commit: &StoredCommit) -> Value {
    let header = &commit.header;
    // What a change list hashes to is a function of it; one that cannot be read is for verification to tell.
    let changes: Option<Vec<Change>> = parse_changes(&commit.changes).ok();
    json!({
        "commit_id": commit.id,
        "seq": header.seq,
        "hash": commit.hash,
        "parent_hash": header.parent_hash,
        "kind": header.kind,
        "actor": header.actor,
        "model_version": header.model_version,
        "prompt_version": header.prompt_version,
        "input_sha256": header.input_sha256,
        "request_sha256": header.request_sha256,
        "changes_sha256": changes.map(|changes| changes_sha256(&changes)),
        "created_at": header.created_at.to_iso(),
        "created_at_us": header.created_at,
    })
}

/// Answer of the list of commits.
pub(crate) fn commits_answer(scope: &ScopeKey, commits: &[StoredCommit], next: Option<u64>) -> Value {
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "commits": commits.iter().map(commit_json).collect::<Vec<_>>(),
        "next_before": next,
    })
}

/// Answer of one commit.
pub(crate) fn commit_answer(scope: &ScopeKey, view: &CommitView) -> Value {
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
        "commit": commit_json(&view.commit),
        "changes": changes,
        "changes_complete": view.complete,
    })
}

/// Answer of a verification.
pub(crate) fn verify_answer(report: &ScopeReport) -> Value {
    json!(report)
}

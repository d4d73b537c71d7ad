//! `POST /v1/memory/forget`.

use aionis_core::{canon::Digest, error::DomainError, forget::ForgetOutcome, ids::NodeId, ids::ScopeKey};
use aionis_engine::ForgetRequest;
use serde_json::{Value, json};

use super::{
    find::{FILTER_MEMBERS, filter},
    operate::Asked,
    tenancy::scope_of,
};
use crate::{
    fields::{Fields, Issues},
    limits::{CLIENT_ID_MAX, FORGET_NAMES, LABEL_MAX},
};

/// Reads `POST /v1/memory/forget`.
pub(crate) fn forget_request(body: &Value, asked: Asked<'_>) -> Result<ForgetRequest, DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let ids: Vec<NodeId> = body.uuids("node_ids", FORGET_NAMES, &mut issues).into_iter().map(NodeId).collect();
    let client_ids = body.texts("client_ids", (FORGET_NAMES, CLIENT_ID_MAX), &mut issues);
    let client_ids = client_ids.iter().map(|id| id.trim().to_owned()).collect();
    let filter = body.fields("filter", &mut issues).map(|of| {
        let filter = filter(&of, &scope, &mut issues);
        if FILTER_MEMBERS.iter().all(|name| !of.has(name)) {
            issues.add("filter", "must restrict something: an empty filter would let every node through");
        }
        filter
    });
    if !body.has("node_ids") && !body.has("client_ids") && !body.has("filter") {
        issues.add("", "one of node_ids, client_ids or filter is required");
    }
    let token = body.sha256("confirmation_token", &mut issues);
    let dry_run = body.flag("dry_run", &mut issues);
    if dry_run == Some(false) && token.is_none() {
        issues.add("confirmation_token", "is required to erase: send the request without it first, with dry_run true");
    }
    let actor = body.short_text("actor", LABEL_MAX, &mut issues);
    issues.finish()?;
    Ok(ForgetRequest {
        actor,
        ids,
        client_ids,
        filter,
        selection: body.received(&["node_ids", "client_ids", "filter"]),
        viewer: asked.viewer,
        token: token.filter(|_| dry_run != Some(true)).and_then(|token| Digest::from_hex(&token).ok()),
        idempotency: asked.idempotency,
        scope,
    })
}

/// Answer of `POST /v1/memory/forget`.
pub(crate) fn forget_answer(scope: &ScopeKey, outcome: &ForgetOutcome) -> Value {
    let mut answer = json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "dry_run": outcome.commit.is_none(),
        "nodes": outcome.nodes.len(),
        "node_ids": outcome.nodes,
        "edges": outcome.edges,
        "versions": outcome.versions,
        "feedback": outcome.feedback,
        "derived": outcome.derived,
        "missing_node_ids": outcome.missing,
        "missing_client_ids": outcome.missing_client_ids,
    });
    match &outcome.commit {
        Some(commit) => {
            answer["commit_id"] = json!(commit.id);
            answer["commit_seq"] = json!(commit.seq);
            answer["commit_hash"] = json!(commit.hash);
            answer["replayed"] = json!(outcome.replayed);
        }
        None => answer["confirmation_token"] = json!(outcome.token),
    }
    answer
}

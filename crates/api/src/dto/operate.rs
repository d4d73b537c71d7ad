//! What operations are asked with, and their answers (runtime specification 2.9, 2.10, 2.14, 2.15).

use std::collections::HashSet;

use aionis_core::{
    error::DomainError,
    ids::{NodeId, ScopeKey},
    model::{RuleState, Tier, Viewer},
    operate::{NodeNames, OperationInput, OperationOutcome, Outcome},
    write::IdempotencyKey,
};
use aionis_engine::{Activation, Rehydration, RuleFeedback};
use serde_json::{Value, json};

use super::tenancy::scope_of;
use crate::{
    fields::{Fields, Issues},
    limits::{CLIENT_ID_MAX, LABEL_MAX, NODES},
    state::ApiSettings,
};

/// What comes with every request beside its body.
pub(crate) struct Asked<'a> {
    pub(crate) header_tenant: Option<&'a str>,
    pub(crate) settings: &'a ApiSettings,
    pub(crate) idempotency: Option<IdempotencyKey>,
    /// Whose eyes it is done with.
    pub(crate) viewer: Option<Viewer>,
}

/// What every operation is asked with.
pub(crate) fn input(body: &Fields<'_>, asked: Asked<'_>, issues: &mut Issues) -> Result<OperationInput, DomainError> {
    let (_, scope) = scope_of(body, asked.header_tenant, asked.settings, issues)?;
    if !body.has("input_text") && !body.has("input_sha256") {
        issues.add("", "one of input_text or input_sha256 is required");
    }
    Ok(OperationInput {
        scope,
        actor: body.short_text("actor", LABEL_MAX, issues),
        input_text: body.text("input_text", issues),
        input_sha256: body.sha256("input_sha256", issues),
        idempotency: asked.idempotency,
        viewer: asked.viewer,
    })
}

/// A field that must be there.
pub(crate) fn required<T>(body: &Fields<'_>, name: &str, value: Option<T>, issues: &mut Issues) -> Option<T> {
    if value.is_none() && !body.has(name) {
        issues.add(body.path(name), "is required");
    }
    value
}

pub(crate) fn outcome(body: &Fields<'_>, issues: &mut Issues) -> Option<Outcome> {
    body.choice("outcome", "positive, negative or neutral", Outcome::parse, issues)
}

pub(super) fn missing() -> DomainError {
    // A required field that is not there has left an issue, which is told instead.
    DomainError::internal("a required field is missing without an issue")
}

/// Reads `POST /v1/memory/rules/state`.
pub(crate) fn rule_state(body: &Value, asked: Asked<'_>) -> Result<(OperationInput, NodeId, RuleState), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let input = input(&body, asked, &mut issues)?;
    let id = body.uuid("rule_node_id", &mut issues);
    let id = required(&body, "rule_node_id", id, &mut issues);
    let state = body.choice("state", &RuleState::choices(), RuleState::parse, &mut issues);
    let state = required(&body, "state", state, &mut issues);
    issues.finish()?;
    let (Some(id), Some(state)) = (id, state) else { return Err(missing()) };
    Ok((input, NodeId(id), state))
}

/// Reads `POST /v1/memory/feedback`.
pub(crate) fn rule_feedback(body: &Value, asked: Asked<'_>) -> Result<(OperationInput, RuleFeedback), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let input = input(&body, asked, &mut issues)?;
    let id = body.uuid("rule_node_id", &mut issues);
    let id = required(&body, "rule_node_id", id, &mut issues);
    let outcome = outcome(&body, &mut issues);
    let outcome = required(&body, "outcome", outcome, &mut issues);
    let run_id = body.short_text("run_id", LABEL_MAX, &mut issues);
    let note = body.text("note", &mut issues);
    issues.finish()?;
    let (Some(id), Some(outcome)) = (id, outcome) else { return Err(missing()) };
    Ok((input, RuleFeedback { rule: NodeId(id), outcome, run_id, note }))
}

/// Nodes as a request names them, with how many it named in each way.
pub(crate) struct Named {
    pub(crate) nodes: NodeNames,
    pub(crate) ids: usize,
    pub(crate) client_ids: usize,
}

fn named(body: &Fields<'_>, issues: &mut Issues) -> Named {
    if !body.has("node_ids") && !body.has("client_ids") {
        issues.add("", "one of node_ids or client_ids is required");
    }
    let ids = body.uuids("node_ids", NODES, issues);
    let client_ids = body.texts("client_ids", (NODES, CLIENT_ID_MAX), issues);
    let mut nodes = NodeNames::default();
    let mut seen = HashSet::new();
    nodes.ids.extend(ids.iter().copied().filter(|id| seen.insert(*id)).map(NodeId));
    let mut seen = HashSet::new();
    let trimmed = client_ids.iter().map(|id| id.trim()).filter(|id| !id.is_empty() && seen.insert(*id));
    nodes.client_ids.extend(trimmed.map(str::to_owned));
    Named { ids: nodes.ids.len(), client_ids: nodes.client_ids.len(), nodes }
}

/// Reads `POST /v1/memory/nodes/activate`.
pub(crate) fn activation(body: &Value, asked: Asked<'_>) -> Result<(OperationInput, Named, Activation), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let input = input(&body, asked, &mut issues)?;
    let named = named(&body, &mut issues);
    let activation = Activation {
        outcome: outcome(&body, &mut issues).unwrap_or(Outcome::Neutral),
        activate: body.flag("activate", &mut issues).unwrap_or(true),
        run_id: body.short_text("run_id", LABEL_MAX, &mut issues),
        reason: body.text("reason", &mut issues),
    };
    issues.finish()?;
    Ok((input, named, activation))
}

/// Reads `POST /v1/memory/archive/rehydrate`.
pub(crate) fn rehydration(body: &Value, asked: Asked<'_>) -> Result<(OperationInput, Named, Rehydration), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let input = input(&body, asked, &mut issues)?;
    let named = named(&body, &mut issues);
    let warm = |text: &str| Tier::parse(text).filter(|tier| tier.is_recallable());
    let target = body.choice("target_tier", "warm or hot", warm, &mut issues).unwrap_or(Tier::Warm);
    let reason = body.text("reason", &mut issues);
    issues.finish()?;
    Ok((input, named, Rehydration { target, reason }))
}

fn of_commit(scope: &ScopeKey, outcome: &OperationOutcome) -> Value {
    let commit = outcome.commit.as_ref();
    json!({
        "tenant_id": scope.tenant(),
        "scope": scope.scope(),
        "commit_id": commit.map(|commit| commit.id),
        "commit_hash": commit.map(|commit| &commit.hash),
        "commit_seq": commit.map(|commit| commit.seq),
    })
}

/// The answer to a change of state.
pub(crate) fn state_answer(
    scope: &ScopeKey,
    outcome: &OperationOutcome,
    warnings: &[aionis_core::write::Warning],
) -> Value {
    let mut answer = of_commit(scope, outcome);
    if !warnings.is_empty() {
        answer["warnings"] = json!(warnings);
    }
    answer
}

/// The answer to feedback.
pub(crate) fn feedback_answer(scope: &ScopeKey, outcome: &OperationOutcome) -> Value {
    let mut answer = of_commit(scope, outcome);
    answer["feedback_id"] = json!(outcome.feedback.first());
    answer
}

/// The answer to an activation.
pub(crate) fn activated_answer(
    scope: &ScopeKey,
    named: &Named,
    activation: (Outcome, bool),
    outcome: &OperationOutcome,
) -> Value {
    let mut answer = of_commit(scope, outcome);
    let mut activated = json!({
        "requested_node_ids": named.ids,
        "requested_client_ids": named.client_ids,
        "resolved_node_ids": outcome.resolved,
        "found_nodes": outcome.found.len(),
        "updated_nodes": outcome.changed.len(),
        "missing_node_ids": outcome.missing_ids,
        "missing_client_ids": outcome.missing_client_ids,
        "updated_ids": outcome.changed,
    });
    if !outcome.found.is_empty() {
        activated["outcome"] = json!(activation.0);
        activated["activate"] = json!(activation.1);
    }
    answer["activated"] = activated;
    answer
}

/// The answer to a rehydration.
pub(crate) fn rehydrated_answer(scope: &ScopeKey, named: &Named, target: Tier, outcome: &OperationOutcome) -> Value {
    let mut answer = of_commit(scope, outcome);
    let noop: Vec<NodeId> = outcome.found.iter().copied().filter(|id| !outcome.changed.contains(id)).collect();
    answer["target_tier"] = json!(target);
    answer["rehydrated"] = json!({
        "requested_node_ids": named.ids,
        "requested_client_ids": named.client_ids,
        "resolved_node_ids": outcome.resolved,
        "found_nodes": outcome.found.len(),
        "moved_nodes": outcome.changed.len(),
        "noop_nodes": noop.len(),
        "missing_node_ids": outcome.missing_ids,
        "missing_client_ids": outcome.missing_client_ids,
        "moved_ids": outcome.changed,
        "noop_ids": noop,
    });
    answer
}

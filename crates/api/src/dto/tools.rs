//! Rule evaluation and tool selection on the wire (runtime specification 2.11, 2.12, 2.13).

use aionis_core::{
    error::DomainError,
    ids::ScopeKey,
    operate::{Decision, OperationInput},
    rules::{Evaluation, FeedbackTarget, Selection},
};
use aionis_engine::{EvaluateRequest, Replayed, SelectRequest, ToolChoice, ToolFeedback, ToolFeedbackAnswer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    operate::{Asked, input, missing, outcome, required},
    tenancy::scope_of,
};
use crate::{
    fields::{Fields, Issues, Null, uuid_of},
    limits::{CANDIDATES, LABEL_MAX, RULES},
};

fn evaluate_fields(
    body: &Fields<'_>,
    scope: ScopeKey,
    (limit_name, include_shadow): (&str, bool),
    issues: &mut Issues,
) -> EvaluateRequest {
    let limit = body.integer(limit_name, RULES, Null::Refused, issues).unwrap_or(50);
    EvaluateRequest {
        scope,
        context: body.value("context", issues).unwrap_or(Value::Null),
        include_shadow: body.flag("include_shadow", issues).unwrap_or(include_shadow),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        // The body is bound to its caller before it is read, its context included.
        identity: None,
    }
}

/// Reads `POST /v1/memory/rules/evaluate`.
pub(crate) fn evaluation(body: &Value, asked: &Asked<'_>) -> Result<EvaluateRequest, DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let request = evaluate_fields(&body, scope, ("limit", true), &mut issues);
    issues.finish()?;
    Ok(request)
}

fn candidates(body: &Fields<'_>, issues: &mut Issues) -> Vec<String> {
    required(body, "candidates", body.any("candidates"), issues);
    let candidates = body.texts("candidates", (CANDIDATES, LABEL_MAX), issues);
    if !candidates.is_empty() && candidates.iter().all(|name| name.trim().is_empty()) {
        issues.add(body.path("candidates"), "must hold a name that is not blank");
    }
    candidates
}

/// Reads `POST /v1/memory/tools/select`.
pub(crate) fn selection(body: &Value, asked: Asked<'_>) -> Result<SelectRequest, DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let evaluate = evaluate_fields(&body, scope, ("rules_limit", false), &mut issues);
    let request = SelectRequest {
        evaluate,
        run_id: body.short_text("run_id", LABEL_MAX, &mut issues),
        candidates: candidates(&body, &mut issues),
        strict: body.flag("strict", &mut issues).unwrap_or(true),
        idempotency: asked.idempotency,
    };
    issues.finish()?;
    Ok(request)
}

/// Reads `POST /v1/memory/tools/feedback`.
pub(crate) fn tool_feedback(body: &Value, asked: Asked<'_>) -> Result<(OperationInput, ToolFeedback), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let input = input(&body, asked, &mut issues)?;
    let evaluate = evaluate_fields(&body, input.scope.clone(), ("rules_limit", false), &mut issues);
    let tool = body.short_text("selected_tool", LABEL_MAX, &mut issues);
    let tool = required(&body, "selected_tool", tool, &mut issues);
    let outcome = outcome(&body, &mut issues);
    let outcome = required(&body, "outcome", outcome, &mut issues);
    let target = |text: &str| match text {
        "tool" => Some(FeedbackTarget::Tool),
        "all" => Some(FeedbackTarget::All),
        _ => None,
    };
    let decision = body.uuid("decision_id", &mut issues);
    let run_id = body.short_text("run_id", LABEL_MAX, &mut issues);
    let candidates = candidates(&body, &mut issues);
    let target = body.choice("target", "tool or all", target, &mut issues).unwrap_or_default();
    let note = body.text("note", &mut issues);
    issues.finish()?;
    let (Some(selected_tool), Some(outcome)) = (tool, outcome) else { return Err(missing()) };
    Ok((input, ToolFeedback { evaluate, decision, run_id, candidates, selected_tool, target, outcome, note }))
}

/// Reads the scope of a request that has nothing else to say.
pub(crate) fn scope_only(body: &Value, asked: &Asked<'_>) -> Result<ScopeKey, DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    issues.finish()?;
    Ok(scope)
}

/// The answer to an evaluation.
pub(crate) fn evaluation_answer(scope: &ScopeKey, evaluation: &Evaluation) -> Value {
    let mut answer = json!({ "scope": scope.scope(), "tenant_id": scope.tenant() });
    extend(&mut answer, json!(evaluation));
    answer
}

/// What a recall says of rules.
pub(crate) fn recall_rules(scope: &ScopeKey, evaluation: &Evaluation) -> Value {
    json!({
        "scope": scope.scope(),
        "considered": evaluation.considered,
        "matched": evaluation.matched,
        "skipped_invalid_then": evaluation.skipped_invalid_then,
        "invalid_then_sample": evaluation.invalid_then_sample,
        "applied": evaluation.applied,
    })
}

fn extend(answer: &mut Value, more: Value) {
    if let (Some(answer), Value::Object(more)) = (answer.as_object_mut(), more) {
        answer.extend(more);
    }
}

/// The answer to a selection.
pub(crate) fn selection_answer(scope: &ScopeKey, choice: &ToolChoice) -> Value {
    let evaluation = &choice.evaluation;
    let mut rules = json!({
        "considered": evaluation.considered,
        "matched": evaluation.matched,
        "skipped_invalid_then": evaluation.skipped_invalid_then,
        "invalid_then_sample": evaluation.invalid_then_sample,
        "agent_visibility_summary": evaluation.agent_visibility_summary,
        "applied": evaluation.applied,
        "tool_conflicts_summary": choice.conflicts,
    });
    if let Some((selection, conflicts)) = &choice.shadow {
        rules["shadow_selection"] = json!(selection);
        rules["shadow_tool_conflicts_summary"] = json!(conflicts);
    }
    let decision = &choice.decision.decision;
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "candidates": choice.selection.candidates,
        "selection": choice.selection,
        "rules": rules,
        "decision": {
            "decision_id": decision.id,
            "run_id": decision.run_id,
            "selected_tool": decision.selected_tool,
            "policy_sha256": decision.policy_sha256,
            "source_rule_ids": decision.source_rules,
            "created_at": choice.decision.created_at.to_iso(),
        },
    })
}

/// The answer to feedback on a tool.
pub(crate) fn tool_feedback_answer(scope: &ScopeKey, answer: &ToolFeedbackAnswer) -> Value {
    let mut shown = json!({ "ok": true, "scope": scope.scope(), "tenant_id": scope.tenant() });
    let Some(outcome) = &answer.outcome else {
        extend(
            &mut shown,
            json!({
                "updated_rules": 0,
                "rule_node_ids": [],
                "commit_id": null,
                "commit_hash": null,
                "note": "no rule stands behind this decision, so nothing was credited",
            }),
        );
        return shown;
    };
    extend(
        &mut shown,
        json!({
            "updated_rules": outcome.feedback.len(),
            "rule_node_ids": outcome.rules,
            "commit_id": outcome.commit.as_ref().map(|commit| commit.id),
            "commit_hash": outcome.commit.as_ref().map(|commit| &commit.hash),
            "decision_id": answer.decision,
            "decision_link_mode": answer.link,
            "decision_policy_sha256": outcome.decision_policy_sha256,
        }),
    );
    if outcome.commit.is_none() {
        shown["note"] = json!("this decision was credited before; feedback on a decision counts once");
    }
    shown
}

/// The answer to a decision made again.
pub(crate) fn replay_answer(scope: &ScopeKey, replayed: &Replayed) -> Value {
    let Decision { decision, created_at, commit_seq } = &replayed.decision;
    let selection: &Selection = &replayed.selection;
    json!({
        "scope": scope.scope(),
        "tenant_id": scope.tenant(),
        "identical": replayed.identical,
        "selection": selection,
        "decision": {
            "decision_id": decision.id,
            "run_id": decision.run_id,
            "selected_tool": decision.selected_tool,
            "candidates": decision.candidates,
            "context_sha256": decision.context_sha256,
            "policy_sha256": decision.policy_sha256,
            "policy": decision.policy,
            "source_rule_ids": decision.source_rules,
            "metadata": decision.metadata,
            "created_at": created_at.to_iso(),
            "commit_seq": commit_seq,
        },
    })
}

/// Reads an id out of a path.
pub(crate) fn path_id(name: &str, text: &str) -> Result<Uuid, DomainError> {
    uuid_of(text).ok_or_else(|| DomainError::field(name, "the path must hold a lower-case UUID"))
}

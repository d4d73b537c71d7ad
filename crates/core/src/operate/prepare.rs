//! From a request to an operation that can be planned: normalised, redacted, hashed.

use serde_json::json;

use super::{Operation, PreparedOperation, maintain::described_moves};
use crate::{
    canon::{canonical_sha256, sha256_hex},
    error::DomainError,
    ids::ScopeKey,
    model::Viewer,
    redact::RedactionCounts,
    text,
    write::{IdempotencyKey, WriteSettings},
};

/// What every operation is asked with.
#[derive(Clone, Debug)]
pub struct OperationInput {
    /// Scope.
    pub scope: ScopeKey,
    /// Who; `system` if the request names nobody.
    pub actor: Option<String>,
    /// The text the operation comes from.
    pub input_text: Option<String>,
    /// Digest of the input; wins over the text.
    pub input_sha256: Option<String>,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// Whose eyes it is done with: nodes they cannot see count as not stored. None sees everything.
    pub viewer: Option<Viewer>,
}

/// Cleans the free texts of an operation and hashes the request.
///
/// # Errors
/// Neither input text nor digest.
pub fn prepare_operation(
    input: OperationInput,
    mut operation: Operation,
    settings: &WriteSettings,
) -> Result<PreparedOperation, DomainError> {
    let clean = |raw: &str| {
        let normal = text::normalize(raw, settings.text_max_len);
        match &settings.redactor {
            Some(redactor) => redactor.redact(&normal, &mut RedactionCounts::default()).into_owned(),
            None => normal,
        }
    };
    let input_sha256 = match (&input.input_sha256, &input.input_text) {
        (Some(given), _) => given.clone(),
        (None, Some(text)) => sha256_hex(clean(text)),
        (None, None) => return Err(DomainError::field("", "one of input_text or input_sha256 is required")),
    };
    let remark = match &mut operation {
        Operation::RuleState { .. } | Operation::Maintain { .. } => None,
        Operation::RuleFeedback { note, .. } | Operation::ToolFeedback { note, .. } => note.as_mut(),
        Operation::Activate { reason, .. } | Operation::Rehydrate { reason, .. } => reason.as_mut(),
    };
    if let Some(remark) = remark {
        *remark = clean(remark);
    }
    let actor = input.actor.as_deref().map(str::trim).filter(|actor| !actor.is_empty()).unwrap_or("system").to_owned();
    let request_digest = canonical_sha256(&json!({
        "v": 1,
        "kind": operation.kind(),
        "actor": actor,
        "input_sha256": input_sha256,
        "operation": described(&operation),
    }));
    Ok(PreparedOperation {
        scope: input.scope,
        actor,
        input_sha256,
        request_digest,
        idempotency: input.idempotency,
        viewer: input.viewer,
        operation,
    })
}

/// What of an operation makes two requests the same.
fn described(operation: &Operation) -> serde_json::Value {
    match operation {
        Operation::RuleState { rule, state, .. } => json!([rule, state]),
        Operation::RuleFeedback { rule, outcome, run_id, note } => json!([rule, outcome, run_id, note]),
        Operation::ToolFeedback { request, .. } => json!(request),
        Operation::Activate { nodes, outcome, activate, run_id, reason } => {
            json!([nodes.ids, nodes.client_ids, outcome, activate, run_id, reason])
        }
        Operation::Rehydrate { nodes, target, reason } => json!([nodes.ids, nodes.client_ids, target, reason]),
        Operation::Maintain { moves, .. } => described_moves(moves),
    }
}

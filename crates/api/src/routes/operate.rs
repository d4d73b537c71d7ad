//! `POST /v1/memory/feedback`, `/rules/state`, `/nodes/activate` and `/archive/rehydrate`.

use aionis_core::error::DomainError;
use axum::{Json, body::Body, extract::State, http::HeaderMap};
use serde_json::Value;

use super::{within, write::idempotency_key};
use crate::{
    body,
    dto::operate::{
        self, Asked, activated_answer, activation, feedback_answer, rehydrated_answer, rehydration, state_answer,
    },
    error::ApiError,
    middleware::tenant_header,
    state::AppState,
};

type Answer = Result<Json<Value>, ApiError>;

/// Reads the body, waits for admission, and does the work within the time a request has.
pub(super) async fn admitted<T, F>(state: &AppState, headers: &HeaderMap, body: Body, work: F) -> Result<T, ApiError>
where
    F: AsyncFnOnce(Value, Asked<'_>) -> Result<T, DomainError>,
{
    let answer = within(state.settings.request_timeout, async {
        let value = body::read(headers, body, state.settings.body_max_bytes).await?;
        let permit = state.engine.write_gate().enter().await?;
        let asked = Asked {
            header_tenant: tenant_header(headers),
            settings: &state.settings,
            idempotency: idempotency_key(headers)?,
        };
        let answer = work(value, asked).await;
        drop(permit);
        answer
    });
    Ok(answer.await?)
}

pub(crate) async fn rule_state(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = admitted(&state, &headers, body, async |value, asked| {
        let (input, rule, to) = operate::rule_state(&value, asked)?;
        let scope = input.scope.clone();
        let (outcome, warnings) = state.engine.change_rule_state(input, rule, to).await?;
        tracing::info!(scope = scope.scope(), tenant_id = scope.tenant(), rule_node_id = %rule, state = %to, "rule state");
        Ok(state_answer(&scope, &outcome, &warnings))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn feedback(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = admitted(&state, &headers, body, async |value, asked| {
        let (input, feedback) = operate::rule_feedback(&value, asked)?;
        let scope = input.scope.clone();
        let outcome = state.engine.rule_feedback(input, feedback).await?;
        Ok(feedback_answer(&scope, &outcome))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn activate(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = admitted(&state, &headers, body, async |value, asked| {
        let (input, named, activation) = activation(&value, asked)?;
        let (scope, said) = (input.scope.clone(), (activation.outcome, activation.activate));
        let outcome = state.engine.activate(input, named.nodes.clone(), activation).await?;
        Ok(activated_answer(&scope, &named, said, &outcome))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn rehydrate(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = admitted(&state, &headers, body, async |value, asked| {
        let (input, named, rehydration) = rehydration(&value, asked)?;
        let (scope, target) = (input.scope.clone(), rehydration.target);
        let outcome = state.engine.rehydrate(input, named.nodes.clone(), rehydration).await?;
        Ok(rehydrated_answer(&scope, &named, target, &outcome))
    });
    Ok(Json(answer.await?))
}

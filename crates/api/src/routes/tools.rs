//! `POST /v1/memory/rules/evaluate`, `/tools/select`, `/tools/feedback` and `/decisions/{id}/replay`.

use aionis_core::error::DomainError;
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
};
use serde_json::Value;

use super::{operate::admitted, within, write::idempotency_key};
use crate::{
    body,
    dto::{
        operate::Asked,
        tools::{
            evaluation, evaluation_answer, path_id, replay_answer, scope_only, selection, selection_answer,
            tool_feedback, tool_feedback_answer,
        },
    },
    error::ApiError,
    middleware::tenant_header,
    state::AppState,
};

type Answer = Result<Json<Value>, ApiError>;

/// Like [`admitted`], among the recalls.
async fn reading<T, F>(state: &AppState, headers: &HeaderMap, body: Body, work: F) -> Result<T, ApiError>
where
    F: AsyncFnOnce(Value, Asked<'_>) -> Result<T, DomainError>,
{
    let answer = within(state.settings.request_timeout, async {
        let value = body::read(headers, body, state.settings.body_max_bytes).await?;
        let permit = state.engine.recall_gate().enter().await?;
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

pub(crate) async fn evaluate(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = reading(&state, &headers, body, async |value, asked| {
        let request = evaluation(&value, &asked)?;
        let found = state.engine.evaluate_rules(&request).await?;
        tracing::info!(
            scope = request.scope.scope(),
            tenant_id = request.scope.tenant(),
            considered = found.considered,
            matched = found.matched,
            "rules evaluate"
        );
        Ok(evaluation_answer(&request.scope, &found))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn select(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = reading(&state, &headers, body, async |value, asked| {
        let request = selection(&value, asked)?;
        let scope = request.evaluate.scope.clone();
        let choice = state.engine.select_tool(request).await?;
        tracing::info!(
            scope = scope.scope(), tenant_id = scope.tenant(), decision_id = %choice.decision.decision.id,
            selected_tool = choice.decision.decision.selected_tool, matched = choice.evaluation.matched, "tools select"
        );
        Ok(selection_answer(&scope, &choice))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn feedback(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Answer {
    let answer = admitted(&state, &headers, body, async |value, asked| {
        let (input, feedback) = tool_feedback(&value, asked)?;
        let scope = input.scope.clone();
        let answer = state.engine.tool_feedback(input, feedback).await?;
        Ok(tool_feedback_answer(&scope, &answer))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn replay(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let answer = reading(&state, &headers, body, async |value, asked| {
        let (scope, id) = (scope_only(&value, &asked)?, path_id(&id)?);
        let replayed = state.engine.replay_decision(&scope, id).await?;
        Ok(replay_answer(&scope, &replayed))
    });
    Ok(Json(answer.await?))
}

//! `POST /v1/memory/rules/evaluate`, `/tools/select`, `/tools/feedback` and `/decisions/{id}/replay`.

use axum::{Json, extract::State};
use serde_json::Value;

use super::{Named, Posted, Through, admitted};
use crate::{
    dto::tools::{
        evaluation, evaluation_answer, path_id, replay_answer, scope_only, selection, selection_answer, tool_feedback,
        tool_feedback_answer,
    },
    error::ApiError,
    state::AppState,
};

type Answer = Result<Json<Value>, ApiError>;

pub(crate) async fn evaluate(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Recalls, async |value, asked| {
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

pub(crate) async fn select(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Recalls, async |value, asked| {
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

pub(crate) async fn feedback(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let (input, feedback) = tool_feedback(&value, asked)?;
        let scope = input.scope.clone();
        let answer = state.engine.tool_feedback(input, feedback).await?;
        Ok(tool_feedback_answer(&scope, &answer))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn replay(State(state): State<AppState>, Named(id): Named, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Recalls, async |value, asked| {
        let (scope, id) = (scope_only(&value, &asked)?, path_id("decision_id", &id)?);
        let replayed = state.engine.replay_decision(&scope, id).await?;
        Ok(replay_answer(&scope, &replayed))
    });
    Ok(Json(answer.await?))
}

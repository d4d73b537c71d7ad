//! `POST /v1/memory/feedback`, `/rules/state`, `/nodes/activate` and `/archive/rehydrate`.

use axum::{Json, extract::State};
use serde_json::Value;

use super::{Posted, Through, admitted};
use crate::{
    dto::operate::{self, activated_answer, activation, feedback_answer, rehydrated_answer, rehydration, state_answer},
    error::ApiError,
    state::AppState,
};

type Answer = Result<Json<Value>, ApiError>;

pub(crate) async fn rule_state(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let (input, rule, to) = operate::rule_state(&value, asked)?;
        let scope = input.scope.clone();
        let (outcome, warnings) = state.engine.change_rule_state(input, rule, to).await?;
        tracing::info!(scope = scope.scope(), tenant_id = scope.tenant(), rule_node_id = %rule, state = %to, "rule state");
        Ok(state_answer(&scope, &outcome, &warnings))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn feedback(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let (input, feedback) = operate::rule_feedback(&value, asked)?;
        let scope = input.scope.clone();
        let outcome = state.engine.rule_feedback(input, feedback).await?;
        Ok(feedback_answer(&scope, &outcome))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn activate(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let (input, named, activation) = activation(&value, asked)?;
        let (scope, said) = (input.scope.clone(), (activation.outcome, activation.activate));
        let outcome = state.engine.activate(input, named.nodes.clone(), activation).await?;
        Ok(activated_answer(&scope, &named, said, &outcome))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn rehydrate(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let (input, named, rehydration) = rehydration(&value, asked)?;
        let (scope, target) = (input.scope.clone(), rehydration.target);
        let outcome = state.engine.rehydrate(input, named.nodes.clone(), rehydration).await?;
        Ok(rehydrated_answer(&scope, &named, target, &outcome))
    });
    Ok(Json(answer.await?))
}

//! `POST /v1/memory/forget`.

use axum::{Json, extract::State};
use serde_json::Value;

use super::{Posted, Through, admitted};
use crate::{
    dto::forget::{forget_answer, forget_request},
    error::ApiError,
    state::AppState,
};

pub(crate) async fn forget(State(state): State<AppState>, posted: Posted) -> Result<Json<Value>, ApiError> {
    let answer = admitted(&state, posted, Through::Writes, async |value, asked| {
        let request = forget_request(&value, asked)?;
        let scope = request.scope.clone();
        let outcome = state.engine.forget(request).await?;
        tracing::info!(
            scope = scope.scope(),
            tenant_id = scope.tenant(),
            nodes = outcome.nodes.len(),
            edges = outcome.edges,
            dry_run = outcome.commit.is_none(),
            "memory forget"
        );
        Ok(forget_answer(&scope, &outcome))
    });
    Ok(Json(answer.await?))
}

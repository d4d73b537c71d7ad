//! Reading apart from recall: `POST /v1/memory/find`, `GET /v1/memory/nodes/{id}` and its history, `GET
//! /v1/memory/commits` and one of them, `POST /v1/memory/verify`.

use aionis_core::ids::NodeId;
use axum::{Json, extract::State};
use serde_json::Value;

use super::{Named, Posted, Queried, Through, admitted};
use crate::{
    dto::{
        find::{FindResponse, NodeResponse, find_request},
        history::{
            OF_COMMITS, OF_HISTORY, OF_NODE, PLACE, commit_answer, commits_answer, history_answer, path_commit,
            reading, verify_answer,
        },
        tools::path_id,
    },
    error::ApiError,
    state::AppState,
};

type Answer = Result<Json<Value>, ApiError>;

pub(crate) async fn find(State(state): State<AppState>, posted: Posted) -> Result<Json<FindResponse>, ApiError> {
    let answer = admitted(&state, posted, Through::Recalls, async |value, asked| {
        let (request, shown) = find_request(&value, &asked)?;
        let scope = request.scope.clone();
        let found = state.engine.find(request).await?;
        Ok(FindResponse::new(&scope, &found, shown))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn node(
    State(state): State<AppState>,
    Named(id): Named,
    Queried(query): Queried,
) -> Result<Json<NodeResponse>, ApiError> {
    let answer = admitted(&state, query, Through::Recalls, async |value, asked| {
        let (reading, id) = (reading(&value, &asked, OF_NODE)?, NodeId(path_id("node_id", &id)?));
        let (node, as_of_commit) = state.engine.node(&reading.scope, id, reading.viewer, reading.as_of).await?;
        Ok(NodeResponse::new(&reading.scope, &node, as_of_commit))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn history(State(state): State<AppState>, Named(id): Named, Queried(query): Queried) -> Answer {
    let answer = admitted(&state, query, Through::Recalls, async |value, asked| {
        let (reading, id) = (reading(&value, &asked, OF_HISTORY)?, NodeId(path_id("node_id", &id)?));
        let before = reading.before.map(|before| u32::try_from(before).unwrap_or(u32::MAX));
        let page = (before, reading.limit);
        let (versions, next) = state.engine.history(&reading.scope, id, reading.viewer, page).await?;
        Ok(history_answer(&reading.scope, id, &versions, next))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn commits(State(state): State<AppState>, Queried(query): Queried) -> Answer {
    let answer = admitted(&state, query, Through::Recalls, async |value, asked| {
        let reading = reading(&value, &asked, OF_COMMITS)?;
        let (commits, next) = state.engine.commits(&reading.scope, reading.before, reading.limit).await?;
        Ok(commits_answer(&reading.scope, &commits, next, asked.viewer.is_none()))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn commit(State(state): State<AppState>, Named(id): Named, Queried(query): Queried) -> Answer {
    let answer = admitted(&state, query, Through::Recalls, async |value, asked| {
        let (reading, named) = (reading(&value, &asked, PLACE)?, path_commit(&id)?);
        let sees_all = asked.viewer.is_none();
        let view = state.engine.commit(&reading.scope, named, asked.viewer).await?;
        Ok(commit_answer(&reading.scope, &view, sees_all))
    });
    Ok(Json(answer.await?))
}

pub(crate) async fn verify(State(state): State<AppState>, posted: Posted) -> Answer {
    let answer = admitted(&state, posted, Through::Recalls, async |value, asked| {
        let reading = reading(&value, &asked, PLACE)?;
        let report = state.engine.verify_scope(&reading.scope).await?;
        tracing::info!(
            scope = reading.scope.scope(),
            tenant_id = reading.scope.tenant(),
            ok = report.ok,
            commits = report.commits,
            "memory verify"
        );
        Ok(verify_answer(&report))
    });
    Ok(Json(answer.await?))
}

//! `POST /v1/memory/recall` and `/v1/memory/recall_text`.

use std::net::SocketAddr;

use aionis_core::error::{DomainError, ErrorKind};
use aionis_engine::stages::{self, Work};
use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName},
};

use super::within;
use crate::{
    auth::{Caller, same_secret},
    body,
    dto::recall::{Endpoint, RecallResponse, parse_recall},
    error::ApiError,
    middleware::tenant_header,
    state::AppState,
};

const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-admin-token");
/// Largest answer of debugged embeddings, in bytes.
const DEBUG_MAX_BYTES: usize = 65_536;

pub(crate) async fn recall(state: State<AppState>, request: Request) -> Result<Json<RecallResponse>, ApiError> {
    answer(state, request, Endpoint::Vector).await
}

pub(crate) async fn recall_text(state: State<AppState>, request: Request) -> Result<Json<RecallResponse>, ApiError> {
    answer(state, request, Endpoint::Text).await
}

async fn answer(
    State(state): State<AppState>,
    request: Request,
    endpoint: Endpoint,
) -> Result<Json<RecallResponse>, ApiError> {
    let caller = Caller::of(request.extensions())?;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (parts, body) = request.into_parts();
    let response =
        within(state.settings.request_timeout, run(&state, &caller, &parts.headers, peer, body, endpoint)).await?;
    Ok(Json(response))
}

async fn run(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    body: Body,
    endpoint: Endpoint,
) -> Result<RecallResponse, DomainError> {
    let value = body::read(caller, headers, body, state.settings.body_max_bytes).await?;
    let (request, shown) = stages::timed_now(Work::Recall, "parse", || {
        parse_recall(&value, endpoint, tenant_header(headers), &state.settings)
    })?;
    if request.include_embeddings && request.return_debug && !may_debug(state, caller, headers, peer) {
        return Err(DomainError::new(
            ErrorKind::Invalid,
            "debug_embeddings_not_allowed",
            "include_embeddings needs the role admin, or the admin token in x-admin-token",
        ));
    }
    let permit = stages::timed(Work::Recall, "gate", state.engine.recall_gate().enter()).await?;
    let started = state.engine.clock().now();
    let (scope, limit) = (request.scope.clone(), request.knobs.limit);
    let answer = state.engine.recall(request).await?;
    let now = state.engine.clock().now();
    if let Some(embeddings) = &answer.debug_embeddings
        && serde_json::to_vec(embeddings).map_or(0, |json| json.len()) > DEBUG_MAX_BYTES
    {
        return Err(DomainError::new(
            ErrorKind::Invalid,
            "debug_embeddings_too_large",
            "the embeddings to show are larger than 65536 bytes; lower limit",
        ));
    }
    let ms = now.micros_since(started) / 1_000;
    metrics::histogram!("aionis_recall_seconds", "endpoint" => name(endpoint))
        .record(std::time::Duration::from_micros(now.micros_since(started)));
    tracing::info!(
        scope = scope.scope(), tenant_id = scope.tenant(), limit, seeds = answer.seeds.len(), nodes = answer.nodes.len(),
        edges = answer.edges.len(), profile = answer.profile.as_str(),
        inflight_wait_ms = u64::try_from(permit.waited.as_millis()).unwrap_or(u64::MAX), ms,
        timings_ms = ?answer.timings, "memory {}", name(endpoint)
    );
    Ok(RecallResponse::new(&scope, answer, shown, now))
}

const fn name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Vector => "recall",
        Endpoint::Text => "recall_text",
    }
}

/// Whether a caller may see embeddings: by the role admin or the admin token; where nobody is authenticated and no token
/// is configured, from loopback outside production.
fn may_debug(state: &AppState, caller: &Caller, headers: &HeaderMap, peer: Option<SocketAddr>) -> bool {
    if caller.is_admin() {
        return true;
    }
    match &state.settings.admin_token {
        Some(token) => headers.get(ADMIN_TOKEN).is_some_and(|given| same_secret(given.as_bytes(), token.as_bytes())),
        None => {
            caller.principal().is_none()
                && state.settings.loopback_may_debug
                && peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
        }
    }
}

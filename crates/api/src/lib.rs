//! The HTTP interface of Aionis: reads requests, calls the engine, shows answers. Nothing here decides anything about
//! memory.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admission;
mod auth;
mod body;
mod body_budget;
mod browser;
mod client;
mod dto;
mod error;
mod fields;
mod health;
mod limits;
mod middleware;
mod openapi;
mod route_table;
mod routes;
mod state;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};

pub use self::{
    auth::{
        Auth, AuthConfigError, AuthMode, KeySource, Principal, Role, Source, StaticKeys, StoredKeys, TokenSettings,
        TokenVerifier, required_role,
    },
    body_budget::BodyBudget,
    browser::AllowedHosts,
    client::TrustedProxies,
    dto::write::parse_write,
    health::{EmbeddingState, HealthState},
    openapi::{document, document_text, error_table},
    route_table::{ROUTES, Route},
    state::{ApiSettings, AppState, ContinueTrace, CorsOrigins},
};

/// The service with all its routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(routes::metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route("/docs", get(openapi::docs))
        .route("/v1/memory/write", post(routes::write::write))
        .route("/v1/memory/recall", post(routes::recall::recall))
        .route("/v1/memory/recall_text", post(routes::recall::recall_text))
        .route("/v1/memory/feedback", post(routes::operate::feedback))
        .route("/v1/memory/rules/state", post(routes::operate::rule_state))
        .route("/v1/memory/rules/evaluate", post(routes::tools::evaluate))
        .route("/v1/memory/tools/select", post(routes::tools::select))
        .route("/v1/memory/tools/feedback", post(routes::tools::feedback))
        .route("/v1/memory/decisions/{id}/replay", post(routes::tools::replay))
        .route("/v1/memory/nodes/activate", post(routes::operate::activate))
        .route("/v1/memory/archive/rehydrate", post(routes::operate::rehydrate))
        .route("/v1/memory/find", post(routes::read::find))
        .route("/v1/memory/nodes/{id}", get(routes::read::node))
        .route("/v1/memory/nodes/{id}/history", get(routes::read::history))
        .route("/v1/memory/commits", get(routes::read::commits))
        .route("/v1/memory/commits/{id}", get(routes::read::commit))
        .route("/v1/memory/forget", post(routes::forget::forget))
        .route("/v1/memory/verify", post(routes::read::verify))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::unknown_route)
        .layer(from_fn_with_state(state.clone(), auth::guard))
        .layer(from_fn_with_state(state.clone(), browser::guard))
        .layer(from_fn_with_state(state.clone(), middleware::observe))
        .with_state(state)
}

/// Parses a write body as the service does, for fuzzing: must never panic, and what it accepts can be prepared.
pub fn parse_write_bytes(
    body: &[u8],
    settings: &ApiSettings,
) -> Result<aionis_core::write::WriteRequest, aionis_core::error::DomainError> {
    let value = body::parse(body)?;
    parse_write(&value, None, settings, None, aionis_core::clock::Timestamp(0))
}

//! `POST /v1/memory/write`.

use std::sync::Arc;

use aionis_core::{
    error::{DomainError, ErrorKind},
    held,
    write::IdempotencyKey,
};
use aionis_engine::stages::{self, Work};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName},
};

use super::within;
use crate::{
    admission::Asking,
    auth::Caller,
    body,
    dto::write::{WriteResponse, parse_write},
    error::ApiError,
    limits::IDEMPOTENCY_KEY_MAX,
    middleware::{CLIENT_REQUEST_ID, tenant_header},
    state::AppState,
};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(crate) async fn write(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WriteResponse>, ApiError> {
    let answer = within(state.settings.request_timeout, async {
        let (value, bytes) = body::read(&state, &caller, &headers, body).await?;
        let asking = Asking::settle(&state, &caller, &headers, &value).await?;
        let permit =
            stages::timed(Work::Write, "gate", state.engine.write_gate().enter(asking.tenant.as_str())).await?;
        let received_at = state.engine.clock().now();
        let idempotency = idempotency_key(&headers)?;
        let mut request = stages::timed_now(Work::Write, "parse", || {
            parse_write(&value, tenant_header(&headers), &state.settings, idempotency, received_at)
        })?;
        request.writer = caller.viewer();
        drop(value);
        let scope = request.scope.clone();
        let answer = held::holding(Arc::new((permit, bytes)), state.engine.write(request)).await?;
        tracing::info!(
            scope = scope.scope(), tenant_id = scope.tenant(), commit_id = %answer.outcome.commit_id,
            commit_seq = answer.outcome.commit_seq, nodes = answer.nodes.len(), edges = answer.edges.len(),
            embedding_pending_nodes = answer.outcome.pending_nodes,
            ms = state.engine.clock().now().micros_since(received_at) / 1_000, "memory write"
        );
        Ok(WriteResponse::new(&scope, answer))
    });
    Ok(Json(answer.await?))
}

/// The key under which a write may be repeated: `Idempotency-Key`, else the request id a client chose.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, DomainError> {
    if let Some(value) = headers.get(IDEMPOTENCY_KEY) {
        let key = value.to_str().unwrap_or_default().trim();
        let visible = key.bytes().all(|b| (b' '..=b'~').contains(&b));
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX || !visible {
            return Err(DomainError::new(
                ErrorKind::Invalid,
                "invalid_idempotency_key",
                "Idempotency-Key must be 1 to 255 visible ASCII characters",
            ));
        }
        return Ok(Some(IdempotencyKey { key: format!("key:{key}"), strict: true }));
    }
    let request_id = headers.get(CLIENT_REQUEST_ID).and_then(|value| value.to_str().ok());
    Ok(request_id
        .filter(|id| id.len() <= IDEMPOTENCY_KEY_MAX)
        .map(|id| IdempotencyKey { key: format!("req:{id}"), strict: false }))
}

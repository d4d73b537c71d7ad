//! Handlers: read, call, show.

pub(crate) mod forget;
pub(crate) mod metrics;
pub(crate) mod operate;
pub(crate) mod read;
pub(crate) mod recall;
pub(crate) mod tools;
pub(crate) mod write;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde_json::Value;

use self::write::{IDEMPOTENCY_KEY, idempotency_key};
use crate::{
    admission::Asking, auth::Caller, body, dto::operate::Asked, error::ApiError, middleware::tenant_header,
    state::AppState,
};

use aionis_core::{
    deadline,
    error::{DomainError, ErrorKind},
    held,
};

/// A request with a body, and who sent it.
pub(crate) struct Posted {
    caller: Caller,
    headers: HeaderMap,
    body: Body,
}

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        Ok(Self { caller: Caller::of(&parts.extensions)?, headers: parts.headers, body })
    }
}

/// A request without a body: what it asks stands in its query, which is read as a body would be.
pub(crate) struct Queried(pub(crate) Posted);

/// Members of queries that may be numbers; all others are texts.
const QUERY_NUMBERS: &[&str] = &["as_of", "before", "limit"];

impl<S: Send + Sync> FromRequest<S> for Queried {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (mut parts, _) = request.into_parts();
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|e| DomainError::field("", format!("the query cannot be read: {e}")))?;
        let mut members = serde_json::Map::new();
        for (name, text) in pairs {
            let is_number = QUERY_NUMBERS.contains(&name.as_str()) && text.bytes().all(|b| b.is_ascii_digit());
            let number = is_number.then(|| text.parse::<u64>().ok()).flatten();
            if members.insert(name.clone(), number.map_or(Value::String(text), Value::from)).is_some() {
                return Err(DomainError::field(name, "stands in the query twice").into());
            }
        }
        // Of a body there is none, and nothing is stored that a key could name.
        for of_body in [header::CONTENT_TYPE, header::CONTENT_LENGTH, IDEMPOTENCY_KEY] {
            parts.headers.remove(of_body);
        }
        let body = Body::from(Value::Object(members).to_string());
        Ok(Self(Posted { caller: Caller::of(&parts.extensions)?, headers: parts.headers, body }))
    }
}

/// What the path names, as text.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(named) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| DomainError::field("id", format!("the path cannot be read: {e}")))?;
        Ok(Self(named))
    }
}

/// Which gate a request has to pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    Writes,
    Recalls,
}

/// Reads the body, waits for admission, and does the work within the time a request has.
pub(crate) async fn admitted<T, F>(state: &AppState, posted: Posted, gate: Through, work: F) -> Result<T, ApiError>
where
    F: AsyncFnOnce(Value, Asked<'_>) -> Result<T, DomainError>,
{
    let Posted { caller, headers, body } = posted;
    let answer = within(state.settings.request_timeout, async {
        let (value, bytes) = body::read(state, &caller, &headers, body).await?;
        let asking = Asking::settle(state, &caller, &headers, &value).await?;
        let gate = match gate {
            Through::Writes => state.engine.write_gate(),
            Through::Recalls => state.engine.recall_gate(),
        };
        let permit = gate.enter(asking.tenant.as_str()).await?;
        let asked = Asked {
            header_tenant: tenant_header(&headers),
            settings: &state.settings,
            idempotency: idempotency_key(&headers)?,
            viewer: caller.viewer(),
        };
        held::holding(Arc::new((permit, bytes)), work(value, asked)).await
    });
    Ok(answer.await?)
}

/// Bounds a request in time.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DomainError>>,
) -> Result<T, DomainError> {
    let work = deadline::within(std::time::Instant::now() + limit, work);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(DomainError::new(
            ErrorKind::Unavailable,
            "deadline_exceeded",
            "the request took too long; repeat a write with the same Idempotency-Key to learn what became of it",
        )
        .with_retry_after(Duration::from_secs(1)))
    })
}

//! What happens around every request: request id, CORS, OPTIONS, metrics, log, and a panic as an ordinary 500.

use std::{panic::AssertUnwindSafe, time::Instant};

use aionis_core::error::DomainError;
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use crate::{
    error::ApiError,
    route_table::name_of,
    state::{AppState, CorsOrigins},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
/// Set on the way in when the request id is the client's own, for handlers that repeat by it.
pub(crate) const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("aionis-client-request-id");

/// The tenant named by a header. One that is no text counts as a name that no tenant can have, never as absent: that
/// would read and write the default tenant.
pub(crate) fn tenant_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(TENANT).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

pub(crate) async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = settle_request_id(request.headers_mut());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", |path| name_of(path.as_str()));
    let mut response = if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match futures_catch(next.run(request)).await {
            Ok(response) => response,
            Err(()) => ApiError(DomainError::internal(format!("a handler of {path} panicked"))).into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, request_id.clone());
    allow_origin(headers, &state.settings.cors, origin);
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    metrics::counter!("aionis_http_requests_total", "route" => route, "status" => status.to_string()).increment(1);
    metrics::histogram!("aionis_http_request_seconds", "route" => route).record(elapsed.as_secs_f64());
    tracing::debug!(
        req_id = request_id.to_str().unwrap_or_default(), %method, path, status,
        response_time_ms = elapsed.as_secs_f64() * 1e3, "request completed"
    );
    response
}

/// Runs a future and turns a panic into an error.
async fn futures_catch<F: Future<Output = Response>>(future: F) -> Result<Response, ()> {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(std::task::Poll::Ready(response)) => std::task::Poll::Ready(Ok(response)),
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Err(_) => std::task::Poll::Ready(Err(())),
        }
    })
    .await
}

/// The request id: `request-id`, else `x-request-id`, else a fresh one. A client's own is passed on to handlers.
fn settle_request_id(headers: &mut HeaderMap) -> HeaderValue {
    let own = [REQUEST_ID, X_REQUEST_ID].iter().find_map(|name| {
        let text = headers.get(name)?.to_str().ok()?.trim();
        HeaderValue::from_str(text).ok().filter(|value| !value.is_empty())
    });
    headers.remove(CLIENT_REQUEST_ID);
    match own {
        Some(own) => {
            headers.insert(CLIENT_REQUEST_ID, own.clone());
            own
        }
        None => HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown")),
    }
}

fn allow_origin(headers: &mut HeaderMap, cors: &CorsOrigins, origin: Option<HeaderValue>) {
    let allowed = match cors {
        CorsOrigins::Any => Some(HeaderValue::from_static("*")),
        CorsOrigins::Listed(list) => {
            origin.filter(|origin| origin.to_str().is_ok_and(|origin| list.iter().any(|listed| listed == origin)))
        }
    };
    let Some(allowed) = allowed else { return };
    if allowed != "*" {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET,POST,OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type,x-api-key,x-tenant-id,authorization,x-request-id,idempotency-key,x-admin-token",
        ),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-request-id"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

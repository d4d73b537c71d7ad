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
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", |path| route_name(path.as_str()));
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

fn route_name(path: &str) -> &'static str {
    match path {
        "/health" => "health",
        "/health/live" => "health_live",
        "/health/ready" => "health_ready",
        "/metrics" => "metrics",
        "/openapi.json" => "openapi",
        "/docs" => "docs",
        "/v1/memory/write" => "write",
        "/v1/memory/recall" => "recall",
        "/v1/memory/recall_text" => "recall_text",
        "/v1/memory/feedback" => "feedback",
        "/v1/memory/rules/state" => "rules_state",
        "/v1/memory/rules/evaluate" => "rules_evaluate",
        "/v1/memory/tools/select" => "tools_select",
        "/v1/memory/tools/feedback" => "tools_feedback",
        "/v1/memory/decisions/{id}/replay" => "decision_replay",
        "/v1/memory/find" => "find",
        "/v1/memory/nodes/{id}" => "node",
        "/v1/memory/nodes/{id}/history" => "node_history",
        "/v1/memory/commits" => "commits",
        "/v1/memory/commits/{id}" => "commit",
        "/v1/memory/forget" => "forget",
        "/v1/memory/verify" => "verify",
        "/v1/memory/nodes/activate" => "nodes_activate",
        "/v1/memory/archive/rehydrate" => "archive_rehydrate",
        _ => "other",
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aionis_core::clock::SystemClock;
    use aionis_engine::{GateSettings, gate::Gate};

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_gives_its_place_back() {
        let settings =
            GateSettings { max_inflight: 1, max_queue: 0, queue_timeout: std::time::Duration::from_secs(60) };
        let gate = Gate::new("write", settings, Arc::new(SystemClock));
        let panics = async {
            let _permit = gate.enter("a").await.unwrap();
            panic!("as a handler might");
        };
        assert!(futures_catch(panics).await.is_err());
        assert_eq!(gate.load(), (0, 0));
    }
}

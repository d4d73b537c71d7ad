//! What happens around every request: request id, CORS, OPTIONS, metrics, log, and a panic as an ordinary 500.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::error::DomainError;
use aionis_engine::stages::{self, RequestNotes, TRACE_TARGET};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, Span};
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
    let request_id = settle_request_id(request.headers_mut());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", |path| name_of(path.as_str()));
    let seen = Seen { method, route, request_id, notes: Arc::default(), started: Instant::now() };
    // Of the level of errors, so that every line of a request names it, whichever lines are written.
    let log_span =
        tracing::error_span!("request", request_id = seen.request_id.to_str().unwrap_or_default(), route = seen.route);
    let span = seen.trace_span(matched.as_ref().map_or("", |path| path.as_str()));
    if let Some(continue_trace) = state.settings.continue_trace {
        continue_trace(&span, request.headers());
    }
    let answered = async {
        if seen.method == Method::OPTIONS {
            return StatusCode::NO_CONTENT.into_response();
        }
        match futures_catch(next.run(request)).await {
            Ok(response) => response,
            Err(()) => ApiError(DomainError::internal(format!("a handler of {route} panicked"))).into_response(),
        }
    };
    let work = stages::noting(Arc::clone(&seen.notes), answered);
    let mut response = work.instrument(span.clone()).instrument(log_span.clone()).await;
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, seen.request_id.clone());
    allow_origin(headers, &state.settings.cors, origin);
    span.record("http.response.status_code", response.status().as_u16());
    log_span.in_scope(|| seen.completed(response.status(), state.settings.slow_request));
    response
}

/// What is known of a request from its head.
struct Seen {
    method: Method,
    route: &'static str,
    request_id: HeaderValue,
    notes: Arc<RequestNotes>,
    started: Instant,
}

impl Seen {
    /// The span that is exported as a trace: no scope, no tenant, nothing of the body.
    fn trace_span(&self, path: &str) -> Span {
        tracing::trace_span!(
            target: TRACE_TARGET,
            parent: None,
            "http",
            otel.name = format!("{} {path}", self.method),
            otel.kind = "server",
            http.request.method = %self.method,
            http.route = path,
            http.response.status_code = tracing::field::Empty,
        )
    }

    fn completed(&self, status: StatusCode, slow: Option<Duration>) {
        let (elapsed, code) = (self.started.elapsed(), status.as_u16());
        metrics::counter!("aionis_http_requests_total", "route" => self.route, "status" => code.to_string())
            .increment(1);
        metrics::histogram!("aionis_http_request_seconds", "route" => self.route, "class" => class(status))
            .record(elapsed.as_secs_f64());
        let (ms, tenant) = (elapsed.as_secs_f64() * 1e3, self.notes.tenant());
        let request_id = self.request_id.to_str().unwrap_or_default();
        tracing::info!(method = %self.method, route = self.route, status = code, ms, request_id, tenant, "request completed");
        if slow.is_some_and(|slow| elapsed >= slow) {
            let stages = self.notes.stages();
            tracing::warn!(route = self.route, status = code, ms, request_id, stages, "slow request");
        }
    }
}

const fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
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

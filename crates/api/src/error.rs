//! Failures on the wire (runtime specification 2.1, with callers' mistakes as 4xx).

use aionis_core::error::{DomainError, ErrorKind};
use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// A failure on its way out.
pub(crate) struct ApiError(pub(crate) DomainError);

impl From<DomainError> for ApiError {
    fn from(error: DomainError) -> Self {
        Self(error)
    }
}

pub(crate) const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Gone => StatusCode::GONE,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::BadGateway => StatusCode::BAD_GATEWAY,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.0;
        let status = status(error.kind);
        if status.is_server_error() {
            tracing::error!(code = error.code, internal = error.internal.as_deref(), "{}", error.message);
        }
        let mut body = json!({ "error": error.code });
        if error.issues.is_empty() {
            body["message"] = Value::String(error.message);
        } else {
            body["issues"] = json!(error.issues);
        }
        if let Some(details) = error.details {
            body["details"] = details;
        }
        let mut response = (status, Json(body)).into_response();
        if let Some(pause) = error.retry_after {
            let seconds = pause.as_millis().div_ceil(1000).max(1).to_string();
            if let Ok(value) = HeaderValue::from_str(&seconds) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

/// Answers paths and methods that do not exist; OPTIONS is answered before routing.
pub(crate) async fn unknown_route(request: Request) -> Response {
    let route = format!("Route {}:{} not found", request.method(), request.uri());
    (StatusCode::NOT_FOUND, Json(json!({ "message": route, "error": "Not Found", "statusCode": 404 }))).into_response()
}

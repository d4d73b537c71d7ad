//! The OpenAPI document: made from the table of routes, the bounds the readers enforce, the table of error codes and
//! the types of answers.

mod answers;
mod assemble;
mod operations;
mod page;
mod readings;
mod requests;
mod schema;

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

pub use self::assemble::error_table;

/// The document as JSON.
pub fn document() -> Value {
    assemble::document()
}

/// The document as text, as it is served and committed.
pub fn document_text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

/// Answers change with the program only, and may be kept for a while.
const CACHE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
const NO_SNIFF: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> Response {
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([json, CACHE, NO_SNIFF], document_text()).into_response()
}

/// `GET /docs`: a page without script, which loads nothing.
pub(crate) async fn docs() -> Response {
    static PAGE: LazyLock<String> = LazyLock::new(|| page::page(&document()));
    let html = (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::CONTENT_SECURITY_POLICY));
    let referrer = (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    ([html, policy, referrer, CACHE, NO_SNIFF], PAGE.as_str()).into_response()
}

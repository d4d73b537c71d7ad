//! Request bodies: bounded, JSON, without what storage cannot hold.

use std::time::Duration;

use aionis_core::error::{DomainError, ErrorKind};
use aionis_engine::admission::Category;
use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{auth::Caller, body_budget::BodyBytes, state::AppState};

/// Slowest that a body may come on the whole, in bytes per second, once it has had the time one pause may take.
const SLOWEST_PER_SECOND: u64 = 4 * 1_024;

/// Reads a body of at most the settings' length and binds it to its caller; the bytes are those it takes of the budget.
/// Handlers read bodies in no other way.
pub(crate) async fn read(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Value, BodyBytes), DomainError> {
    check_media_type(headers)?;
    let max_bytes = state.settings.body_max_bytes;
    // What a request says of its length, or the length of a body that is made of the query.
    let header = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let said = header.or_else(|| body.size_hint().exact());
    if said.is_some_and(|length| length > max_bytes as u64) {
        return Err(too_large(max_bytes));
    }
    let wanted = said.and_then(|length| usize::try_from(length).ok()).unwrap_or(max_bytes);
    let mut held = state.bodies.take(wanted, longest_wait(state, caller.category())).await?;
    let bytes = collect(body, max_bytes, state.settings.body_pause_max).await?;
    held.shrink_to(bytes.len());
    let mut value = parse(&bytes)?;
    caller.bind(&mut value)?;
    Ok((value, held))
}

/// How long a body waits for its bytes: as long as its request would wait at its gate.
fn longest_wait(state: &AppState, category: Category) -> Duration {
    let settings = state.engine.settings();
    match category {
        Category::Write => settings.write_gate.queue_timeout,
        Category::Recall | Category::DebugEmbeddings | Category::RecallTextEmbed => settings.recall_gate.queue_timeout,
    }
}

/// All bytes of a body. They have to keep coming: without a pause longer than `pause_max`, and after the first such time
/// not slower than [`SLOWEST_PER_SECOND`] on the whole.
async fn collect(body: Body, max_bytes: usize, pause_max: Duration) -> Result<Vec<u8>, DomainError> {
    let (mut body, started, mut bytes) = (Limited::new(body, max_bytes), Instant::now(), Vec::new());
    loop {
        let earned = Duration::from_millis(bytes.len() as u64 * 1_000 / SLOWEST_PER_SECOND);
        let until = (Instant::now() + pause_max).min(started + pause_max + earned);
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| too_slow(bytes.len()))?;
        match frame {
            None => return Ok(bytes),
            // Trailers say nothing here.
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(e)) if e.is::<http_body_util::LengthLimitError>() => return Err(too_large(max_bytes)),
            Some(Err(e)) => {
                return Err(DomainError::new(
                    ErrorKind::Invalid,
                    "body_unreadable",
                    format!("the body broke off: {e}"),
                ));
            }
        }
    }
}

fn too_slow(received: usize) -> DomainError {
    let message = format!("the body comes too slowly: {received} bytes so far; send it without pauses");
    DomainError::new(ErrorKind::TooSlow, "body_too_slow", message).with_details(json!({ "received_bytes": received }))
}

fn too_large(max_bytes: usize) -> DomainError {
    let message = format!("the body is larger than {max_bytes} bytes; split the request");
    DomainError::new(ErrorKind::TooLarge, "body_too_large", message).with_details(json!({ "max_bytes": max_bytes }))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), DomainError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(DomainError::new(
        ErrorKind::UnsupportedMediaType,
        "unsupported_media_type",
        "send the body as content-type: application/json",
    ))
}

/// Parses a body. Nesting is limited to 128 levels; NUL characters are refused wherever they stand.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, DomainError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(DomainError::field("", "the body is empty; send a JSON object"));
    }
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| DomainError::field("", format!("the body is not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(DomainError::field("", "the body must be a JSON object"));
    }
    // A NUL can only come as an escape: raw control characters are not valid JSON.
    if bytes.windows(6).any(|w| w == b"\\u0000")
        && let Some(path) = nul_path(&value)
    {
        return Err(DomainError::field(path, "must not hold NUL characters (\\u0000)"));
    }
    Ok(value)
}

/// Path of the first text with a NUL character.
fn nul_path(value: &Value) -> Option<String> {
    let mut open: Vec<(String, &Value)> = vec![(String::new(), value)];
    let join = |path: &str, key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    while let Some((path, value)) = open.pop() {
        match value {
            Value::String(text) if text.contains('\0') => return Some(path),
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(at, item)| (join(&path, &at.to_string()), item)));
            }
            Value::Object(members) => {
                if let Some(key) = members.keys().find(|key| key.contains('\0')) {
                    return Some(join(&path, &key.replace('\0', "\\u0000")));
                }
                open.extend(members.iter().map(|(key, item)| (join(&path, key), item)));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(body: &str) -> String {
        parse(body.as_bytes()).unwrap_err().issues.remove(0).path
    }

    #[test]
    fn nul_is_named_where_it_stands() {
        assert_eq!(path_of(r#"{"nodes":[{"title":"a\u0000"}]}"#), "nodes.0.title");
        assert_eq!(path_of(r#"{"nodes":[{"slots":{"k\u0000":1}}]}"#), "nodes.0.slots.k\\u0000");
        assert!(parse(br#"{"a":"\\u0000"}"#).is_ok(), "an escaped backslash is no NUL");
    }

    #[test]
    fn broken_json_is_refused_with_its_place() {
        for body in ["{", "", "   ", "[]", "1", "{\"a\":NaN}", "{\"a\":\"\\ud800\"}", "{\"a\":1}x"] {
            assert_eq!(path_of(body), "", "{body}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse(deep.as_bytes()).unwrap_err().issues[0].message.contains("recursion limit"));
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
    }
}

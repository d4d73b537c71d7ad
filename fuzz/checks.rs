// What the fuzz targets check. Used by them and, over seeds and fixed mutations, by the tests of `aionis-api`
// (`fuzz_smoke`), so it uses nothing but the crates both know.

use std::sync::LazyLock;

use aionis_api::{ApiSettings, parse_write_bytes};
use aionis_core::{
    error::{DomainError, ErrorKind},
    redact::Redactor,
    text::is_ecmascript_whitespace,
    write::{PreparedNode, WriteSettings, prepare},
};
use serde_json::Value;

static API: LazyLock<ApiSettings> = LazyLock::new(ApiSettings::default);
static SETTINGS: LazyLock<WriteSettings> = LazyLock::new(|| WriteSettings {
    default_tenant: API.default_tenant.clone(),
    text_max_len: 200,
    redactor: Some(Redactor::unkeyed()),
    embedding_dim: 4,
    can_embed: true,
});

/// A body is refused as the caller's mistake, with everything a caller needs, or prepared into what can be stored;
/// the same body is always prepared the same.
pub(crate) fn write_body(bytes: &[u8]) {
    let Some(request) = accepted(parse_write_bytes(bytes, &API)) else { return };
    let sent = request.nodes.len();
    let Some(prepared) = accepted(prepare(request.clone(), &SETTINGS)) else { return };
    assert_eq!(prepared.node_order.len(), sent, "a node got lost");
    let nodes = || prepared.parts.iter().flat_map(|part| &part.nodes);
    nodes().for_each(assert_storable);
    let again = prepare(request, &SETTINGS).expect("what was prepared once");
    assert_eq!(again.request_digest, prepared.request_digest);
    let digests = again.parts.iter().flat_map(|part| &part.nodes).map(|node| node.digest);
    assert!(digests.eq(nodes().map(|node| node.digest)), "digests of the same request differ");
}

fn accepted<T>(outcome: Result<T, DomainError>) -> Option<T> {
    let refused = match outcome {
        Ok(accepted) => return Some(accepted),
        Err(refused) => refused,
    };
    assert!(matches!(refused.kind, ErrorKind::Invalid | ErrorKind::TooLarge), "not the caller's mistake: {refused:?}");
    assert!(!refused.message.is_empty() && refused.internal.is_none(), "{refused:?}");
    assert!(refused.issues.iter().all(|issue| !issue.message.is_empty()), "{refused:?}");
    None
}

fn assert_storable(node: &PreparedNode) {
    let texts = [&node.client_id, &node.title, &node.text_summary, &node.raw_ref, &node.evidence_ref];
    for text in texts.into_iter().flatten() {
        assert!(!text.contains('\0'), "NUL in {text:?}");
    }
    for text in [&node.title, &node.text_summary].into_iter().flatten() {
        // Tokens may be longer than what they stand for, so the limit holds before redaction only.
        assert!(!text.starts_with(' ') && !text.ends_with(' ') && !text.contains("  "), "not normalised: {text:?}");
    }
    let blank = |id: &String| id.chars().all(is_ecmascript_whitespace);
    assert!(!node.client_id.as_ref().is_some_and(blank), "a blank client id");
    for share in [node.salience, node.importance, node.confidence].into_iter().flatten() {
        assert!((0.0..=1.0).contains(&share), "{share} is outside 0..1");
    }
    assert!(node.embedding.as_ref().is_none_or(|vector| vector.iter().all(|x| x.is_finite())));
}

/// Canonical JSON is JSON of the same value (numbers as doubles), and canonical already.
pub(crate) fn canonical_json(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let canonical = aionis_core::canon::canonical_json(&value);
    let reread: Value = serde_json::from_str(&canonical).expect("canonical JSON is JSON");
    assert_eq!(aionis_core::canon::canonical_json(&reread), canonical, "canonical JSON changes when read back");
    assert!(same(&value, &reread), "{value} became {canonical}");
}

/// Whether two values are equal when every number is a double.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

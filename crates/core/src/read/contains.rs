//! Containment of texts and of JSON, alike on both engines.

use serde_json::{Number, Value};

/// Whether a text holds another one, whatever its case.
pub fn holds_text(text: &str, needle: &str) -> bool {
    text.to_lowercase().contains(&needle.to_lowercase())
}

/// Whether JSON contains other JSON, as `@>` says in PostgreSQL: an object contains another one when it has each of its
/// members and contains their values; an array contains another one when each of its elements is contained in some element;
/// other values contain what they equal. Numbers compare by value: 1 equals 1.0.
pub fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|has| contains(has, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|value| whole.iter().any(|has| contains(has, value)))
        }
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (whole, part) => whole == part,
    }
}

#[expect(clippy::float_cmp, reason = "the same number written in two ways is the same bits once read")]
fn same_number(a: &Number, b: &Number) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_found_whatever_their_case() {
        assert!(holds_text("Ölpreis STEIGT", "ölpreis") && holds_text("abc", "") && !holds_text("abc", "d"));
    }

    #[test]
    fn json_contains_as_postgres_says() {
        let whole = json!({ "a": 1, "tags": ["x", { "k": [1, 2] }], "deep": { "b": { "c": null } } });
        for part in [
            json!({}),
            json!({ "a": 1.0 }),
            json!({ "tags": ["x"] }),
            json!({ "tags": [{ "k": [2] }] }),
            json!({ "tags": ["x", "x"] }),
            json!({ "deep": { "b": {} } }),
            json!({ "deep": { "b": { "c": null } } }),
        ] {
            assert!(contains(&whole, &part), "{part}");
        }
        for part in [
            json!({ "a": "1" }),
            json!({ "tags": ["y"] }),
            json!({ "tags": "x" }),
            json!({ "tags": [["x"]] }),
            json!({ "deep": { "c": null } }),
            json!([]),
        ] {
            assert!(!contains(&whole, &part), "{part}");
        }
    }
}

//! How the rule language sees JSON values: ECMAScript's idea of equality, truth and numbers.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use crate::text::is_ecmascript_whitespace;

/// Deep equality: same type, arrays in order, objects with the same keys. Numbers are doubles, so 1 equals 1.0.
/// It recurses no deeper than the flatter of the two values.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || double(a) == double(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// A JSON number as the double that ECMAScript would read.
pub(super) fn double(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

/// Whether ECMAScript takes the value for true: all but `null`, `false`, `0` and `""`.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => double(number) != 0.0,
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// ECMAScript's `Number(value)`; NaN when it is not one.
pub(super) fn to_number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => double(number),
        Value::String(text) => text_to_number(text),
        Value::Array(items) => match items.as_slice() {
            [] => 0.0,
            [one @ (Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_))] => to_number(one),
            _ => f64::NAN,
        },
        Value::Object(_) => f64::NAN,
    }
}

fn text_to_number(text: &str) -> f64 {
    let text = text.trim_matches(is_ecmascript_whitespace);
    let digits = |radix: u32| {
        let digits = &text[2..];
        let sum = digits.chars().try_fold(0.0, |sum, c| Some(sum * f64::from(radix) + f64::from(c.to_digit(radix)?)));
        sum.filter(|_| !digits.is_empty()).unwrap_or(f64::NAN)
    };
    match text {
        "" => 0.0,
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ if text.starts_with("0x") || text.starts_with("0X") => digits(16),
        _ if text.starts_with("0o") || text.starts_with("0O") => digits(8),
        _ if text.starts_with("0b") || text.starts_with("0B") => digits(2),
        // Rust also reads `inf` and `nan`, which ECMAScript does not.
        _ if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

/// Member `key` of a value: of an object, an array (index or `length`), or a text (UTF-16 index or `length`).
pub(super) fn member<'a>(value: &'a Value, key: &str) -> Option<Cow<'a, Value>> {
    match value {
        Value::Object(_) | Value::Array(_) => step(value, key),
        Value::String(text) if key == "length" => Some(length(text.encode_utf16().count())),
        Value::String(text) => {
            let unit = text.encode_utf16().nth(index(key)?)?;
            let one = char::decode_utf16([unit]).next()?.ok()?;
            Some(Cow::Owned(Value::String(one.to_string())))
        }
        _ => None,
    }
}

/// Follows dotted segments through objects and arrays.
pub(super) fn path<'a>(value: &'a Value, segments: &[String]) -> Option<Cow<'a, Value>> {
    let mut current = value;
    let (last, rest) = segments.split_last()?;
    for segment in rest {
        // The only made value is a length, which has no members.
        let Some(Cow::Borrowed(next)) = step(current, segment) else { return None };
        current = next;
    }
    step(current, last)
}

fn step<'a>(value: &'a Value, key: &str) -> Option<Cow<'a, Value>> {
    match value {
        Value::Object(members) => members.get(key).map(Cow::Borrowed),
        Value::Array(items) if key == "length" => Some(length(items.len())),
        Value::Array(items) => items.get(index(key)?).map(Cow::Borrowed),
        _ => None,
    }
}

fn length(count: usize) -> Cow<'static, Value> {
    Cow::Owned(Value::from(count))
}

/// An index in its only accepted form: decimal digits without leading zeros.
fn index(key: &str) -> Option<usize> {
    let canonical = key == "0" || (!key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit()));
    canonical.then(|| key.parse().ok()).flatten()
}

/// Whether a value nests deeper than `depth` levels (a scalar is one level).
pub(super) fn deeper_than(value: &Value, depth: usize) -> bool {
    let Some(rest) = depth.checked_sub(1) else { return true };
    match value {
        Value::Array(items) => items.iter().any(|item| deeper_than(item, rest)),
        Value::Object(members) => members.values().any(|item| deeper_than(item, rest)),
        _ => false,
    }
}

/// How many values a value is made of, itself included; call it only on values of bounded depth.
pub(super) fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum::<usize>(),
        _ => 0,
    }
}

/// Sorts by UTF-16 code units, as ECMAScript does, and drops what is said twice.
pub(super) fn sorted_distinct(mut texts: Vec<String>) -> Vec<String> {
    texts.sort_unstable_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    texts.dedup();
    texts
}

/// `prefix.key`, or `key` when there is no prefix.
pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// A non-blank text member, trimmed.
pub(super) fn trimmed<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    members.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// JSON with the keys and operators of the language, likely to collide.
    pub(in crate::rules) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3_i64..4).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop_oneof!["[ab]{0,2}", "\\PC{0,6}", "[\\\\\\[\\](){}*+?|^$.a-c0-9]{0,8}"].prop_map(Value::String),
        ];
        let key = prop::sample::select(vec![
            "a",
            "b",
            "a.b",
            "a.0",
            "length",
            "0",
            "agent",
            "agent_id",
            "id",
            "$and",
            "$or",
            "$not",
            "$eq",
            "$ne",
            "$exists",
            "$in",
            "$nin",
            "$gt",
            "$lte",
            "$contains",
            "$regex",
            "$x",
            "tool",
            "deny",
            "",
        ]);
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((key.clone(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            ]
        })
    }

    #[test]
    fn numbers_are_read_like_ecmascript_does() {
        let cases = [
            (json!(null), 0.0),
            (json!(true), 1.0),
            (json!(" 2.5 "), 2.5),
            (json!(""), 0.0),
            (json!("0x10"), 16.0),
            (json!("0b11"), 3.0),
            (json!("+.5"), 0.5),
            (json!("-Infinity"), f64::NEG_INFINITY),
            (json!([]), 0.0),
            (json!([["7"]]), 7.0),
            (json!([null]), 0.0),
        ];
        for (value, number) in cases {
            assert_eq!(to_number(&value).to_bits(), f64::to_bits(number), "{value}");
        }
        for value in [json!("inf"), json!("nan"), json!("1_0"), json!("0x"), json!({}), json!([1, 2]), json!([true])] {
            assert!(to_number(&value).is_nan(), "{value}");
        }
    }

    #[test]
    fn members_of_arrays_and_texts_are_reachable() {
        let at = |value: &Value, key: &str| member(value, key).map(Cow::into_owned);
        assert_eq!(at(&json!("aé😀"), "length"), Some(json!(4)));
        assert_eq!(at(&json!("aé😀"), "1"), Some(json!("é")));
        assert_eq!(at(&json!("aé😀"), "2"), None, "half a character is no text");
        assert_eq!(at(&json!([5]), "00"), None);
        assert_eq!(at(&json!([5]), ""), None);
        assert_eq!(at(&json!(5), "length"), None);
    }

    #[test]
    fn depth_and_size_count_levels_and_values() {
        assert!(!deeper_than(&json!([[1]]), 3) && deeper_than(&json!([[1]]), 2));
        assert_eq!(size(&json!({ "a": [1, 2], "b": {} })), 5);
    }

    #[test]
    fn equality_is_deep_and_numeric() {
        assert!(equal(&json!({ "a": [1, 2.0] }), &json!({ "a": [1.0, 2] })));
        assert!(!equal(&json!([1, 2]), &json!([2, 1])) && !equal(&json!(1), &json!("1")));
        assert!(!equal(&json!({ "a": null }), &json!({})) && !equal(&json!(1), &json!(true)));
    }
}

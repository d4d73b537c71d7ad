//! Small builders of JSON Schema (2020-12).

use std::ops::RangeInclusive;

use aionis_core::model::NodeType;
use serde_json::{Map, Value, json};

use crate::limits::{COMMIT, COMMIT_DIGITS_MAX, DEPTH_MAX, URI_MAX};

/// White space that texts, client ids and owners are trimmed of, as a character class.
const SPACE: &str = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff";
/// White space that tenants, scopes and names of tools are trimmed of, as a character class.
const UNICODE_SPACE: &str = r"\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";

/// A UUID as the service spells it.
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
/// A time as RFC 3339 writes it, but for how many days a month has.
const TIME: &str = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";

/// A schema with a description.
pub(super) fn said(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

/// A schema with an example and a description.
pub(super) fn like(mut schema: Value, example: impl Into<Value>, description: &str) -> Value {
    schema["examples"] = json!([example.into()]);
    said(schema, description)
}

/// A schema with a default.
pub(super) fn or(mut schema: Value, default: impl Into<Value>) -> Value {
    schema["default"] = default.into();
    schema
}

/// A schema that takes null too, as absent.
pub(super) fn nullable(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

/// The schema of this name among the components.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A text of at least one character, without NUL.
pub(super) fn text() -> Value {
    json!({ "type": "string", "minLength": 1, "pattern": r"^[^\u0000]*$" })
}

/// A text that is more than white space.
pub(super) fn wordy() -> Value {
    let pattern = format!(r"^[^\u0000]*[^{SPACE}\u0000][^\u0000]*$");
    json!({ "type": "string", "minLength": 1, "pattern": pattern })
}

/// A text of at most so many bytes. JSON Schema counts characters, so bytes are said beside.
pub(super) fn short(mut text: Value, max: usize) -> Value {
    text["maxLength"] = json!(max);
    text["x-max-bytes"] = json!(max);
    text
}

/// A name that is more than white space, as tools have.
pub(super) fn named() -> Value {
    json!({ "pattern": format!("[^{UNICODE_SPACE}]") })
}

/// A tenant, which is trimmed.
pub(super) fn tenant() -> Value {
    let pattern = format!("^[{UNICODE_SPACE}]*[a-zA-Z0-9][a-zA-Z0-9._-]{{0,63}}[{UNICODE_SPACE}]*$");
    json!({ "type": "string", "pattern": pattern })
}

/// A scope, which is trimmed.
pub(super) fn scope() -> Value {
    let (s, c) = (UNICODE_SPACE, CONTROL);
    let inner = aionis_core::ids::SCOPE_MAX_BYTES - 2;
    json!({
        "type": "string",
        "pattern": format!("^[{s}]*[^{s}{c}]([^{c}]{{0,{inner}}}[^{s}{c}])?[{s}]*$"),
        "not": { "anyOf": [
            { "pattern": format!("^[{s}]*tenant:(.*:)?:scope:") },
            { "pattern": format!(r"(^[{s}]*|[/\\])\.\.?([/\\]|[{s}]*$)") },
        ] },
        "x-max-bytes": aionis_core::ids::SCOPE_MAX_BYTES,
        "x-trimmed": true,
    })
}

/// A scope, or white space, which counts as absent.
pub(super) fn scope_or_blank() -> Value {
    json!({ "type": "string", "minLength": 1, "anyOf": [{ "pattern": format!("^[{UNICODE_SPACE}]*$") }, scope()] })
}

pub(super) fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid", "pattern": format!("^{UUID}$") })
}

/// A time as RFC 3339 writes it.
pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time", "pattern": format!("^{TIME}$") })
}

/// A state of a scope: the number of a commit, its id, or a time.
pub(super) fn state() -> Value {
    json!({
        "type": ["integer", "string"],
        "minimum": COMMIT.start(),
        "maximum": COMMIT.end(),
        "pattern": format!("^({UUID}|{TIME})$"),
    })
}

/// A commit in a path: its number or its id.
pub(super) fn commit_in_path() -> Value {
    json!({ "type": "string", "pattern": format!("^([1-9][0-9]{{0,{}}}|{UUID})$", COMMIT_DIGITS_MAX - 1) })
}

/// The address of a node.
pub(super) fn uri() -> Value {
    let kinds = NodeType::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join("|");
    let pattern = format!(r"^aionis://[^\u0000]*/({kinds})/{UUID}$");
    short(json!({ "type": "string", "pattern": pattern }), URI_MAX)
}

/// Where a page ended.
pub(super) fn cursor() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{91}$" })
}

pub(super) fn sha256() -> Value {
    json!({ "type": "string", "pattern": "^[a-f0-9]{64}$" })
}

pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

/// A number from 0 to 1.
pub(super) fn share() -> Value {
    json!({ "type": "number", "minimum": 0, "maximum": 1 })
}

/// A whole number from 0.
pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn integer(range: &RangeInclusive<u64>) -> Value {
    json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
}

/// One of some words.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    json!({ "type": "string", "enum": words.into_iter().collect::<Vec<_>>() })
}

pub(super) fn list(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A list of so many items.
pub(super) fn counted(items: &Value, range: &RangeInclusive<usize>) -> Value {
    json!({ "type": "array", "items": items, "minItems": range.start(), "maxItems": range.end() })
}

/// Numbers that fit 32-bit floats: below the number half-way between the largest one and the next.
pub(super) fn vector() -> Value {
    let beyond = 3.402_823_567_797_336_6e38;
    let items = json!({ "type": "number", "exclusiveMinimum": -beyond, "exclusiveMaximum": beyond });
    json!({ "type": "array", "items": items, "minItems": 1 })
}

/// An object of any members.
pub(super) fn open() -> Value {
    json!({ "type": "object", "additionalProperties": true, "x-max-depth": DEPTH_MAX })
}

/// Anything.
pub(super) fn anything() -> Value {
    json!({ "x-max-depth": DEPTH_MAX })
}

/// A text, or null.
pub(super) fn text_or_null() -> Value {
    json!({ "type": ["string", "null"] })
}

/// A UUID, or null.
pub(super) fn uuid_or_null() -> Value {
    nullable(uuid())
}

/// An object; a name with `?` may be missing, with `!` it must be there, and without either `required` decides.
fn members(required: bool, members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let (mut properties, mut needed) = (Map::new(), Vec::new());
    for (name, schema) in members {
        let (name, needs) = match (name.strip_suffix('?'), name.strip_suffix('!')) {
            (Some(name), _) => (name, false),
            (_, Some(name)) => (name, true),
            _ => (name, required),
        };
        if needs {
            needed.push(name);
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut object = json!({ "type": "object", "properties": properties });
    if !needed.is_empty() {
        object["required"] = json!(needed);
    }
    object
}

/// An object in a request: what is marked with `!` must be there.
pub(super) fn request(these: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    members(false, these)
}

/// An object in an answer: what is marked with `?` may be missing.
pub(super) fn answer(these: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    members(true, these)
}

/// At least one of some members must be there.
pub(super) fn either(mut object: Value, names: &[&str]) -> Value {
    object["anyOf"] = names.iter().map(|name| json!({ "required": [name] })).collect();
    object
}

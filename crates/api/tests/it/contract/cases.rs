//! Bodies made from the document: good ones, and every way a schema says a member can be wrong.

use serde_json::{Value, json};

use super::document::Document;

/// One request and what it shows.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) body: Value,
}

/// Good values for members whose example does not fit what is stored; null for members that have none.
pub(crate) type Known<'a> = &'a dyn Fn(&str) -> Option<Value>;

/// A body with all members, or only those that must be there.
pub(crate) fn good(document: &Document, schema: &Value, full: bool, path: &str, known: Known<'_>) -> Value {
    let schema = document.resolve(schema);
    let mut body = json!({});
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        if full || needed(schema, name) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known(&path) {
                // Nothing is good here without knowing the answer to another request.
                Some(Value::Null) => {}
                Some(known) => body[name.as_str()] = known,
                None => body[name.as_str()] = value(document, member, full, &path, known),
            }
        }
    }
    body
}

/// Whether a member must be there; of two of which one must, the first.
fn needed(schema: &Value, name: &str) -> bool {
    let first = |either: &Value| either["anyOf"][0]["required"].as_array().is_some_and(|of| of.contains(&json!(name)));
    schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)))
        || first(schema)
        || schema["allOf"].as_array().into_iter().flatten().any(first)
}

fn value(document: &Document, schema: &Value, full: bool, path: &str, known: Known<'_>) -> Value {
    let resolved = document.resolve(schema);
    for known in [&resolved["examples"][0], &resolved["default"], &resolved["enum"][0], &resolved["minimum"]] {
        let list = resolved["items"]["$ref"].is_string();
        if !known.is_null() && !list {
            return known.clone();
        }
    }
    match resolved["type"].as_str() {
        Some("object") => good(document, resolved, full, path, known),
        Some("array") => json!([good(document, &resolved["items"], full, &format!("{path}.0"), known)]),
        Some("boolean") => json!(true),
        other => other.map_or_else(|| json!({}), |kind| panic!("{path} of type {kind} has no example")),
    }
}

/// Every member of a schema with the place it has in a full body.
fn members<'a>(document: &'a Document, schema: &'a Value, at: &str, found: &mut Vec<(String, &'a Value, bool)>) {
    let schema = document.resolve(schema);
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{at}/{name}");
        let required = schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
        let resolved = document.resolve(member);
        found.push((place.clone(), resolved, required));
        members(document, resolved, &place, found);
        if let Some(items) = resolved.get("items") {
            let item = document.resolve(items);
            found.push((format!("{place}/0"), item, false));
            members(document, item, &format!("{place}/0"), found);
        }
    }
}

/// All cases of a body.
pub(crate) fn cases(document: &Document, schema: &Value, known: Known<'_>) -> Vec<Case> {
    let full = good(document, schema, true, "", known);
    let mut all = vec![
        Case { name: "minimal".to_owned(), body: good(document, schema, false, "", known) },
        Case { name: "full".to_owned(), body: full.clone() },
    ];
    let mut found = Vec::new();
    members(document, schema, "", &mut found);
    for (place, member, required) in found {
        let shown = place[1..].replace('/', ".");
        if required {
            let mut body = full.clone();
            remove(&mut body, &place);
            all.push(Case { name: format!("{shown} missing"), body });
        }
        for (what, value) in wrong_types(member).into_iter().chain(bounds(member)) {
            let mut body = full.clone();
            disambiguate(&mut body, &place);
            put(&mut body, &place, value);
            all.push(Case { name: format!("{shown} {what}"), body });
        }
    }
    for pair in pairs(document, schema) {
        let mut body = full.clone();
        pair.iter().for_each(|name| remove(&mut body, &format!("/{name}")));
        all.push(Case { name: format!("neither {}", pair.join(" nor ")), body });
    }
    all
}

/// What would contradict the member that is looked at is left out: an id and a key have to belong together, and a
/// parent has to be of the scope.
fn disambiguate(body: &mut Value, place: &str) {
    if place == "/scope" {
        remove(body, "/parent_commit_id");
    }
    if ["/tenant_id", "/scope"].contains(&place) {
        remove(body, "/uri");
        remove(body, "/filter/uri");
    }
    if let Some(node) = place.strip_suffix("/client_id").filter(|node| node.starts_with("/nodes/")) {
        remove(body, &format!("{node}/id"));
    }
}

fn pairs(document: &Document, schema: &Value) -> Vec<Vec<String>> {
    let schema = document.resolve(schema);
    let either = |of: &Value| {
        let names = of["anyOf"].as_array().into_iter().flatten().filter_map(|one| one["required"][0].as_str());
        names.map(str::to_owned).collect::<Vec<String>>()
    };
    let all = std::iter::once(schema).chain(schema["allOf"].as_array().into_iter().flatten());
    all.map(either).filter(|pair| !pair.is_empty()).collect()
}

fn put(body: &mut Value, place: &str, value: Value) {
    if let Some(member) = body.pointer_mut(place) {
        *member = value;
        return;
    }
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.unwrap_or_else(|| panic!("{place} is nowhere")).insert(name.to_owned(), value);
}

pub(crate) fn remove(body: &mut Value, place: &str) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    if let Some(object) = body.pointer_mut(parent).and_then(Value::as_object_mut) {
        object.remove(name);
    }
}

fn wrong_types(schema: &Value) -> Vec<(String, Value)> {
    let kinds = [
        ("null", json!(null)),
        ("boolean", json!(true)),
        ("number", json!(17.5)),
        ("string", json!("x")),
        ("array", json!(["x"])),
        ("object", json!({ "x": 1 })),
    ];
    let takes = |kind: &str| {
        let of = &schema["type"];
        of.is_null() || of == kind || of.as_array().is_some_and(|kinds| kinds.contains(&json!(kind)))
    };
    let mut all: Vec<(String, Value)> = kinds
        .iter()
        .filter(|(kind, _)| !takes(kind))
        .map(|(kind, value)| (format!("is {kind}"), value.clone()))
        .collect();
    if takes("null") {
        all.push(("is null, which it takes".to_owned(), Value::Null));
    }
    all
}

fn bounds(schema: &Value) -> Vec<(String, Value)> {
    let mut all = numbers(schema);
    if let Some(max) = schema["maxLength"].as_u64().or_else(|| schema["x-max-bytes"].as_u64()) {
        let text = |length: u64| json!("x".repeat(usize::try_from(length).unwrap()));
        all.push((format!("of {max} bytes"), text(max)));
        all.push((format!("of {} bytes", max + 1), text(max + 1)));
        all.push((format!("of {} bytes in fewer characters", max + 1), json!("é".repeat(max as usize / 2 + 1))));
    }
    if schema["type"] == "string" || schema["type"].as_array().is_some_and(|of| of.contains(&json!("string"))) {
        for (what, text) in [("empty", ""), ("blank", " "), ("with NUL", "a\0b"), ("of another pattern", "A/../\u{85}")]
        {
            all.push((what.to_owned(), json!(text)));
        }
        if schema["format"] == "uuid" {
            all.push(("in upper case".to_owned(), json!("5D6092C4-30A5-5D16-980F-3AEDC3E11A08")));
        }
    }
    let item = || schema["examples"][0][0].clone();
    for (bound, more) in [("minItems", false), ("maxItems", true)] {
        let Some(count) = schema[bound].as_u64() else { continue };
        let item = if item().is_null() { json!(0.5) } else { item() };
        let beyond = if more { count + 1 } else { count - 1 };
        for count in [count, beyond] {
            all.push((format!("of {count} items"), json!(vec![item.clone(); usize::try_from(count).unwrap()])));
        }
    }
    if let Some(max) = schema["x-max-depth"].as_u64() {
        for depth in [max, max + 1] {
            let nested = (1..depth).fold(json!(1), |inner, _| json!([inner]));
            all.push((format!("{depth} levels deep"), json!({ "x": nested })));
        }
    }
    all
}

fn numbers(schema: &Value) -> Vec<(String, Value)> {
    let whole = schema["type"] == "integer" || schema["type"][0] == "integer";
    let step = if whole { 1.0 } else { 0.001 };
    let mut all = Vec::new();
    for (bound, sign) in [("minimum", -1.0), ("maximum", 1.0)] {
        let Some(limit) = schema[bound].as_f64() else { continue };
        all.push((format!("at its {bound}"), schema[bound].clone()));
        let beyond = if limit >= 9e15 { limit * 2.0 } else { limit + sign * step };
        all.push((format!("beyond its {bound}"), json!(beyond)));
    }
    if whole {
        all.push(("not whole".to_owned(), json!(1.5)));
        all.push(("written as a fraction".to_owned(), json!(1.0)));
    }
    for (bound, name) in [("exclusiveMaximum", "largest"), ("exclusiveMinimum", "smallest")] {
        if let Some(limit) = schema[bound].as_f64() {
            all.push((format!("beyond the {name} 32-bit float"), json!(limit)));
        }
    }
    all.extend(schema.get("enum").map(|_| ("an unknown word".to_owned(), json!("unheard-of"))));
    all
}

//! Puts the document together.

use std::collections::{BTreeMap, BTreeSet};

use aionis_core::error_codes::{CODES, ErrorCode, Surface, find};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema, openapi::RefOr};

use super::{
    answers,
    operations::{Body, Header, OPERATIONS, Operation, answered, codes, parts},
    readings,
    schema::{reference, said},
};
use crate::{
    auth::required_role,
    dto::{
        find::{FindResponse, NodeResponse},
        recall::{NodeMeta, RecallResponse},
        write::WriteResponse,
    },
    error::status,
    limits::IDEMPOTENCY_KEY_MAX,
};

const ABOUT: &str = "A verifiable, operable memory kernel for AI agents.\n\nMembers a request has too many are ignored. \
    Texts hold no NUL characters, wherever they stand. `x-max-bytes` bounds a text in bytes of UTF-8 (of the \
    trimmed text with `x-trimmed`), `x-max-depth` the nesting of a value. `x-required-role` is the least role a \
    credential needs; with `MEMORY_AUTH_MODE=off` none is needed. `x-error-codes` lists every code with what to do.";

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        paths.entry(operation.path).or_default().insert(operation.method.to_owned(), described(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Aionis",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "memory", "description": "Writing, recalling, reading and forgetting" },
            { "name": "rules", "description": "Learned rules and their states" },
            { "name": "tools", "description": "Rules at work: tools and decisions" },
            { "name": "service", "description": "Health, metrics and this document" },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": shared_refusals(),
            "parameters": parameters(),
            "headers": response_headers(),
            "securitySchemes": {
                "apiKey": { "type": "apiKey", "in": "header", "name": "x-api-key" },
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
        },
        "x-error-codes": CODES.iter().filter(|entry| entry.surface == Surface::Http).map(code).collect::<Vec<_>>(),
    })
}

fn code(entry: &ErrorCode) -> Value {
    json!({
        "code": entry.code,
        "status": status(entry.kind).as_u16(),
        "meaning": entry.meaning,
        "remedy": entry.remedy,
    })
}

fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    add_derived::<WriteResponse>(&mut schemas);
    add_derived::<RecallResponse>(&mut schemas);
    add_derived::<FindResponse>(&mut schemas);
    add_derived::<NodeResponse>(&mut schemas);
    add_derived::<NodeMeta>(&mut schemas);
    // A node shows its meta-data beside its other members, all of them or none.
    if let Some(meta) = schemas.remove("NodeMeta") {
        flatten(&mut schemas, "NodeDto", (&meta["properties"], &Value::Null));
    }
    // What is found shows a node's members beside its own.
    if let Some(node) = schemas.get("NodeDto").cloned() {
        flatten(&mut schemas, "FoundDto", (&node["properties"], &node["required"]));
    }
    for (name, schema) in parts().into_iter().chain(answers::all()) {
        schemas.insert(name.to_owned(), schema);
    }
    for (name, schema) in OPERATIONS.iter().filter_map(|operation| operation.request) {
        schemas.insert(name.to_owned(), schema());
    }
    schemas
}

/// Gives a schema further members, some of which have to be there.
fn flatten(schemas: &mut Map<String, Value>, name: &str, (members, required): (&Value, &Value)) {
    let Some(schema) = schemas.get_mut(name) else { return };
    if let (Some(of), Some(more)) = (schema["properties"].as_object_mut(), members.as_object()) {
        of.extend(more.clone());
    }
    if let (Some(of), Some(more)) = (schema["required"].as_array_mut(), required.as_array()) {
        of.extend(more.iter().cloned());
    }
}

fn add_derived<T: ToSchema + PartialSchema>(schemas: &mut Map<String, Value>) {
    let mut found: Vec<(String, RefOr<utoipa::openapi::Schema>)> = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut found);
    // A schema that cannot be written down would be missing, which the tests of the document notice.
    schemas.extend(found.into_iter().filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?))));
}

fn described(operation: &Operation) -> Value {
    let mut shown = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": responses(operation),
        "security": [],
    });
    let mut parameters: Vec<Value> = operation.headers.iter().map(|header| parameter_reference(*header)).collect();
    if operation.path.contains("{id}") {
        let schema = readings::named(operation.path);
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": schema }));
    }
    let query = operation.query.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    parameters.extend(query);
    if !parameters.is_empty() {
        shown["parameters"] = json!(parameters);
    }
    if let Some((name, _)) = operation.request {
        shown["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": reference(name) } } });
    }
    if let Some(role) = required_role(operation.path) {
        shown["x-required-role"] = json!(role.as_str());
        // Each alone is enough; none is needed with MEMORY_AUTH_MODE=off.
        shown["security"] = json!([{ "apiKey": [] }, { "bearer": [] }, {}]);
    }
    shown
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), good(operation));
    if let Body::JsonAlsoUnavailable(name) = operation.answer {
        responses.insert("503".to_owned(), response("the service cannot do its work", &answered(name)));
    }
    for (status, codes) in refusals(operation) {
        let refusal = match shared_name(&codes) {
            Some(name) => json!({ "$ref": format!("#/components/responses/{name}") }),
            None => refusal(status, &codes),
        };
        responses.insert(status.to_string(), refusal);
    }
    if operation.path.contains('{') {
        responses.insert("404".to_owned(), of_path(refusals(operation).get(&404)));
    }
    responses
}

/// 404 of a route with an id in its path: the path has another form, or there is no such thing.
fn of_path(codes: Option<&BTreeSet<&'static str>>) -> Value {
    let unknown = reference("UnknownRoute");
    let Some(codes) = codes else { return response("a path of another form", &unknown) };
    let mut not_found = refusal(404, codes);
    let schema = not_found["content"]["application/json"]["schema"].take();
    not_found["content"]["application/json"]["schema"] = json!({ "oneOf": [schema, unknown] });
    let named = not_found["description"].as_str().unwrap_or_default();
    not_found["description"] = json!(format!("{named}; or a path of another form"));
    not_found
}

/// The codes an operation refuses with, by status.
fn refusals(operation: &Operation) -> BTreeMap<u16, BTreeSet<&'static str>> {
    let mut by_status: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    for code in codes(operation) {
        if let Some(entry) = find(code) {
            by_status.entry(status(entry.kind).as_u16()).or_default().insert(code);
        }
    }
    by_status
}

/// The name under which a refusal with few codes is kept once for all operations.
fn shared_name(codes: &BTreeSet<&'static str>) -> Option<String> {
    (codes.len() <= 4).then(|| codes.iter().copied().collect::<Vec<_>>().join("-"))
}

fn shared_refusals() -> BTreeMap<String, Value> {
    let all = OPERATIONS.iter().flat_map(refusals);
    all.filter_map(|(status, codes)| Some((shared_name(&codes)?, refusal(status, &codes)))).collect()
}

fn good(operation: &Operation) -> Value {
    match operation.answer {
        Body::Json(name) | Body::JsonAlsoUnavailable(name) => response("done", &answered(name)),
        Body::Document => response("the document", &json!({ "type": "object" })),
        Body::Text(media_type) => {
            let mut text = response("the text", &Value::Null);
            text["content"] = json!({ media_type: { "schema": { "type": "string" } } });
            text
        }
    }
}

fn response(description: &str, schema: &Value) -> Value {
    json!({
        "description": description,
        "headers": { "x-request-id": { "$ref": "#/components/headers/x-request-id" } },
        "content": { "application/json": { "schema": schema } },
    })
}

/// A refusal with one of some codes.
fn refusal(status: u16, codes: &BTreeSet<&'static str>) -> Value {
    let named: Vec<&str> = codes.iter().copied().filter(|code| *code != "invalid_request").collect();
    let plain = json!({ "$ref": "#/components/schemas/Error", "properties": { "error": { "enum": named } } });
    let schema = match (named.len() < codes.len(), named.is_empty()) {
        (true, true) => reference("ValidationError"),
        (true, false) => json!({ "oneOf": [reference("ValidationError"), plain] }),
        (false, _) => plain,
    };
    let mut response = response(&codes.iter().copied().collect::<Vec<_>>().join(", "), &schema);
    if matches!(status, 429 | 503) {
        response["headers"]["retry-after"] = json!({ "$ref": "#/components/headers/retry-after" });
    }
    if status == 401 {
        response["headers"]["www-authenticate"] = json!({ "$ref": "#/components/headers/www-authenticate" });
    }
    response
}

fn response_headers() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "x-request-id": { "description": "id of the request: the caller's, else a fresh one", "schema": text },
        "retry-after": {
            "description": "seconds after which a repetition makes sense",
            "schema": { "type": "integer", "minimum": 1 },
        },
        "www-authenticate": { "description": "which credentials are taken", "schema": text },
    })
}

const fn parameter_name(header: Header) -> &'static str {
    match header {
        Header::Tenant => "x-tenant-id",
        Header::RequestId => "x-request-id",
        Header::IdempotencyKey => "idempotency-key",
        Header::AdminToken => "x-admin-token",
    }
}

fn parameter_reference(header: Header) -> Value {
    json!({ "$ref": format!("#/components/parameters/{}", parameter_name(header)) })
}

fn parameters() -> Map<String, Value> {
    let inner = IDEMPOTENCY_KEY_MAX - 2;
    let key = json!({ "type": "string", "pattern": format!("^[\\t ]*[!-~]([ -~]{{0,{inner}}}[!-~])?[\\t ]*$") });
    let text = || json!({ "type": "string" });
    let all = [
        (Header::Tenant, said(text(), "tenant, when the body names none; of the form of `tenant_id`, or blank")),
        (Header::RequestId, said(text(), "the request's id; what stores something is done once under the same id")),
        (Header::IdempotencyKey, said(key, "the same key with the same request repeats the stored answer")),
        (Header::AdminToken, said(text(), "allows `include_embeddings` when `ADMIN_TOKEN` is set")),
    ];
    let parameter = |(header, schema): (Header, Value)| {
        let name = parameter_name(header);
        (name.to_owned(), json!({ "name": name, "in": "header", "required": false, "schema": schema }))
    };
    let asked = |(name, schema): (&str, Value)| {
        (name.to_owned(), json!({ "name": name, "in": "query", "required": false, "schema": schema }))
    };
    all.into_iter().map(parameter).chain(readings::queries().into_iter().map(asked)).collect()
}

/// The codes of the interface as a Markdown table, for `docs/http.md`.
pub fn error_table() -> String {
    let mut rows: BTreeMap<u16, Vec<&ErrorCode>> = BTreeMap::new();
    for entry in CODES.iter().filter(|entry| entry.surface == Surface::Http) {
        rows.entry(status(entry.kind).as_u16()).or_default().push(entry);
    }
    let mut table = "| status | `error` | when | what to do |\n|---|---|---|---|\n".to_owned();
    for (status, entries) in rows {
        for entry in entries {
            table += &format!("| {status} | `{}` | {} | {} |\n", entry.code, entry.meaning, entry.remedy);
        }
    }
    table
}

//! What is the same for every route: methods, media types, sizes, broken JSON, headers.

use axum::body::Body;
use serde_json::json;

use super::{
    Table,
    document::Document,
    world::{BODY_MAX, ITEMS_MAX, World, posted, setup},
};
use crate::harness::{Service, WRITE, recorder};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn contract_of_the_protocol() {
    let mut document = Document::new();
    let world = World::new(Service::with(|given| {
        setup(given);
        given.metrics = Some(recorder());
    }))
    .await;
    let mut table = Table::default();
    for path in posted(&document) {
        media_types(&world, &mut document, &mut table, &path).await;
        broken(&world, &mut document, &mut table, &path).await;
        headers(&world, &mut document, &mut table, &path).await;
    }
    too_many(&world, &mut document, &mut table).await;
    other_methods(&world, &document, &mut table).await;
    table.assert_sound();
    insta::assert_snapshot!("contract_protocol", table.text());
}

async fn media_types(world: &World, document: &mut Document, table: &mut Table, path: &str) {
    let body = world.body(document, path, true).to_string();
    for (media_type, status) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ] {
        let answer = world.send("post", path, &[("content-type", media_type)], body.clone()).await;
        let case = format!("content-type {media_type:?}");
        if answer.status.as_u16() != status {
            table.fault(path, &case, &status.to_string(), answer.text());
        }
        table.add(document, (path, "post"), &case, &answer);
    }
    let answer = world.send("post", path, &[], body).await;
    table.add(document, (path, "post"), "no content-type", &answer);
}

async fn broken(world: &World, document: &mut Document, table: &mut Table, path: &str) {
    let mut padded = world.body(document, path, true);
    padded["padding"] = json!("p".repeat(BODY_MAX));
    let mut more = world.body(document, path, true);
    more["unheard_of"] = json!({ "x": [1] });
    for (case, body, wanted) in [
        ("no body", String::new(), (400, "invalid_request")),
        ("malformed JSON", "{\"input_text\":".to_owned(), (400, "invalid_request")),
        ("an array", "[]".to_owned(), (400, "invalid_request")),
        ("a body over the limit", padded.to_string(), (413, "body_too_large")),
        ("a member too many", more.to_string(), (200, "")),
    ] {
        let answer = world.send("post", path, &[JSON], body).await;
        let got = super::told(&answer);
        if (got.0, got.1.as_str()) != wanted {
            table.fault(path, case, &format!("{wanted:?}"), answer.text());
        }
        table.add(document, (path, "post"), case, &answer);
    }
}

async fn headers(world: &World, document: &mut Document, table: &mut Table, path: &str) {
    let body = world.body(document, path, false).to_string();
    let operation = document.json["paths"][path]["post"].clone();
    let reads = |name: &str| {
        let reference = format!("#/components/parameters/{name}");
        operation["parameters"].as_array().unwrap().iter().any(|parameter| parameter["$ref"] == reference)
    };
    let keyed = if reads("idempotency-key") { (400, "invalid_idempotency_key") } else { (200, "") };
    for (name, value, wanted) in [
        ("x-tenant-id", "default".to_owned(), (200, "")),
        ("x-tenant-id", " ".to_owned(), (200, "")),
        ("x-tenant-id", "a/b".to_owned(), (400, "invalid_tenant_id")),
        ("x-tenant-id", "x".repeat(65), (400, "invalid_tenant_id")),
        ("idempotency-key", String::new(), keyed),
        ("idempotency-key", "k".repeat(256), keyed),
        ("idempotency-key", "a\tb".to_owned(), keyed),
        ("idempotency-key", format!("{}{}", path.len(), "k".repeat(253)), (200, "")),
        ("x-request-id", "one".to_owned(), (200, "")),
    ] {
        let answer = world.send("post", path, &[JSON, (name, &value)], body.clone()).await;
        let got = super::told(&answer);
        let case = format!(
            "{name} {}",
            if value.len() > 20 { format!("of {} characters", value.len()) } else { format!("{value:?}") }
        );
        if (got.0, got.1.as_str()) != wanted {
            table.fault(path, &case, &format!("{wanted:?}"), answer.text());
        }
        table.add(document, (path, "post"), &case, &answer);
    }
}

async fn too_many(world: &World, document: &mut Document, table: &mut Table) {
    for (count, status) in [(ITEMS_MAX, 200), (ITEMS_MAX + 1, 413)] {
        let nodes: Vec<_> = (0..count).map(|n| json!({ "type": "event", "client_id": n.to_string() })).collect();
        let answer = world.post(WRITE, &[], &json!({ "input_text": "x", "nodes": nodes })).await;
        let case = format!("{count} nodes");
        if answer.status.as_u16() != status {
            table.fault(WRITE, &case, &status.to_string(), answer.text());
        }
        table.add(document, (WRITE, "post"), &case, &answer);
    }
}

/// Methods a route does not have are unknown routes; HEAD is GET without its body.
async fn other_methods(world: &World, document: &Document, table: &mut Table) {
    for (path, method, _) in document.operations() {
        for other in ["get", "head", "post", "put", "patch", "delete", "options"] {
            let answer = world.send(other, &path, &[], Body::empty()).await;
            let wanted = match (method.as_str(), other) {
                (_, "options") => 204,
                ("get", "get" | "head") => 200,
                ("post", "post") => continue,
                _ => 404,
            };
            if answer.status.as_u16() != wanted {
                table.fault(&path, other, &wanted.to_string(), answer.text());
            }
            if other == "head" && !answer.body.is_empty() && wanted == 200 {
                table.fault(&path, other, "no body", answer.text());
            }
            let code = if wanted == 404 && other != "head" { answer.refusal().1 } else { String::new() };
            let (endpoint, case) = (path.clone(), format!("method {}", other.to_uppercase()));
            table.rows.push(super::Row { endpoint, case, status: answer.status.as_u16(), code });
        }
    }
}

#[tokio::test]
async fn answers_of_the_service_routes_are_as_documented() {
    let mut document = Document::new();
    let mut faults = Vec::new();
    for metrics in [false, true] {
        let world = World::new(Service::with(|given| {
            setup(given);
            given.metrics = metrics.then(recorder);
        }))
        .await;
        for (path, method, _) in document.operations() {
            if method == "get" {
                let answer = world.send("get", &path, &[], Body::empty()).await;
                faults
                    .extend(document.faults(&path, "get", &answer).into_iter().map(|fault| format!("{path}: {fault}")));
                let wanted = if path == "/metrics" && !metrics { 404 } else { 200 };
                assert_eq!(answer.status.as_u16(), wanted, "{path}");
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn the_page_is_served_under_a_strict_policy() {
    let service = Service::start();
    let page = service.get("/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(page.text().contains("/v1/memory/recall_text"));
    let document = service.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.json(), aionis_api::document());
}

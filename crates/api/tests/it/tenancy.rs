//! Tenants and scopes see only themselves.

use axum::{
    body::Body,
    http::{HeaderValue, Request, header},
};
use serde_json::{Value, json};

use crate::harness::{RECALL_TEXT, Service, WRITE, event, seeds, vector, writing};

/// Three places, each with a secret of its own under one client id.
const PLACES: [(&str, &str); 4] =
    [("default", "default"), ("default", "other"), ("acme", "default"), ("acme", "other")];

fn at(place: (&str, &str), mut body: Value) -> Value {
    body["tenant_id"] = json!(place.0);
    body["scope"] = json!(place.1);
    body
}

#[tokio::test]
async fn what_is_written_in_one_place_is_found_in_no_other() {
    let service = Service::start();
    for place in PLACES {
        let written = service.write(&at(place, writing(&[event("same", &format!("secret of {place:?}"))]))).await;
        assert_eq!(written["nodes"][0]["status"], "created", "one client id does not clash across {place:?}");
        assert_eq!((&written["tenant_id"], &written["scope"]), (&json!(place.0), &json!(place.1)));
        assert_eq!(written["commit_seq"], 1, "every place has its own chain");
    }
    service.drain().await;
    for place in PLACES {
        let own = format!("secret of {place:?}");
        for (body, path) in [
            (json!({ "query_text": "secret, same, default, other, acme" }), RECALL_TEXT),
            (json!({ "query_embedding": vector("secret"), "limit": 200 }), crate::harness::RECALL),
        ] {
            let found = service.post(path, &at(place, body)).await.ok();
            assert_eq!(seeds(&found).into_iter().collect::<Vec<_>>(), [own.as_str()], "{place:?}");
            assert_eq!(found["subgraph"]["nodes"].as_array().unwrap().len(), 1);
            assert!(!found["context"]["text"].as_str().unwrap().replace(&own, "").contains("secret"));
        }
    }
}

#[tokio::test]
async fn an_id_of_another_place_opens_nothing() {
    let service = Service::start();
    let secret = service.write(&at(("acme", "default"), writing(&[event("e1", "secret")]))).await;
    let id = secret["nodes"][0]["id"].as_str().unwrap();
    assert!(seeds(&service.ask(&format!("show {id}")).await).is_empty());
    let mut edge = writing(&[event("mine", "mine")]);
    edge["edges"] = json!([{ "type": "related_to", "src": { "client_id": "mine" }, "dst": { "id": id } }]);
    let refused = service.post(WRITE, &edge).await;
    assert_eq!(refused.issues()[0].0, "edges.0.dst");
    let parent = json!({ "input_text": "x", "parent_commit_id": secret["commit_id"] });
    assert_eq!(service.post(WRITE, &parent).await.issues()[0].0, "parent_commit_id");
    let min_commit = json!({ "query_text": "x", "min_commit": 1 });
    assert_eq!(service.post(RECALL_TEXT, &min_commit).await.json()["details"]["as_of_commit"], 0);
}

#[tokio::test]
async fn the_same_explicit_id_may_stand_in_two_places() {
    let service = Service::start();
    let node = |text: &str| json!({ "id": "00000000-0000-4000-8000-000000000001", "type": "event", "memory_lane": "shared", "text_summary": text });
    for place in PLACES {
        let written = service.write(&at(place, writing(&[node(&format!("here {}", place.1))]))).await;
        assert_eq!(written["nodes"][0]["status"], "created");
    }
    let found = service.recall_text(&at(("acme", "other"), json!({ "query_text": "here" }))).await;
    assert_eq!(seeds(&found).into_iter().collect::<Vec<_>>(), ["here other"]);
}

#[tokio::test]
async fn the_tenant_header_counts_when_the_body_names_none() {
    let service = Service::start();
    let body = writing(&[event("e1", "secret")]);
    let written = service.post_with(WRITE, &[("x-tenant-id", " acme ")], &body).await.ok();
    assert_eq!(written["tenant_id"], "acme");
    let question = json!({ "query_text": "secret" });
    let ask = async |headers: &[(&str, &str)], body: &Value| service.post_with(RECALL_TEXT, headers, body).await.ok();
    assert_eq!(seeds(&ask(&[("x-tenant-id", "acme")], &question).await).len(), 1);
    assert_eq!(seeds(&ask(&[], &question).await).len(), 0);
    assert_eq!(
        seeds(&ask(&[("x-tenant-id", "acme")], &at(("default", "default"), question.clone())).await).len(),
        0,
        "the body wins"
    );
    assert_eq!(ask(&[("x-tenant-id", "  ")], &question).await["tenant_id"], "default", "a blank header names none");
    let refused = service.post_with(WRITE, &[("x-tenant-id", "../x")], &body).await;
    assert_eq!(refused.refusal(), (400, "invalid_tenant_id".to_owned()));
}

#[tokio::test]
async fn a_tenant_header_that_cannot_be_read_is_not_taken_for_none() {
    let service = Service::start();
    let mut request = Request::post(WRITE).header(header::CONTENT_TYPE, "application/json");
    request = request.header("x-tenant-id", HeaderValue::from_bytes(b"acm\xc3\xa9").unwrap());
    let answer = service.send(request.body(Body::from(writing(&[event("e1", "secret")]).to_string())).unwrap()).await;
    assert_eq!(answer.refusal(), (400, "invalid_tenant_id".to_owned()));
    assert_eq!(service.stored().await.commits(), 0, "above all it is not written to the default tenant");
}

#[tokio::test]
async fn w_01_forged_places_are_refused_wherever_they_are_named() {
    let service = Service::start();
    let secret = at(("acme", "s1"), writing(&[event("e1", "secret")]));
    service.write(&secret).await;
    let stored = service.stored().await;
    for scope in [
        "tenant:acme::scope:s1",
        " tenant:acme::scope:s1",
        "../acme/s1",
        "..",
        "a/../b",
        "a\\..\\b",
        "a\nb",
        "a\u{7f}b",
        " ",
    ] {
        let code = (400, "invalid_scope".to_owned());
        let mut write = writing(&[event("e1", "forged")]);
        write["scope"] = json!(scope);
        assert_eq!(service.post(WRITE, &write).await.refusal(), code, "{scope:?}");
        let recall = json!({ "query_text": "secret", "scope": scope });
        assert_eq!(service.post(RECALL_TEXT, &recall).await.refusal(), code, "{scope:?}");
        if scope.trim().is_empty() {
            continue; // A blank override falls back to the request's scope.
        }
        let mut node = writing(&[event("e1", "forged")]);
        node["nodes"][0]["scope"] = json!(scope);
        assert_eq!(service.post(WRITE, &node).await.issues()[0].0, "nodes.0.scope", "{scope:?}");
        let edge = json!({
            "input_text": "x",
            "edges": [{ "scope": scope, "type": "part_of", "src": { "client_id": "a" }, "dst": { "client_id": "b" } }],
        });
        assert_eq!(service.post(WRITE, &edge).await.issues()[0].0, "edges.0.scope", "{scope:?}");
    }
    for tenant in [" ", "a/b", "-a", "acme/s1", "ä", "tenant:acme", &"x".repeat(65)] {
        let code = (400, "invalid_tenant_id".to_owned());
        let body = json!({ "input_text": "x", "tenant_id": tenant });
        assert_eq!(service.post(WRITE, &body).await.refusal(), code, "{tenant:?}");
        let body = json!({ "query_text": "secret", "tenant_id": tenant });
        assert_eq!(service.post(RECALL_TEXT, &body).await.refusal(), code, "{tenant:?}");
    }
    assert_eq!(service.stored().await, stored);
}

#[tokio::test]
async fn a_node_may_be_written_to_another_scope_of_the_tenant() {
    let service = Service::start();
    let mut elsewhere = event("e2", "written elsewhere");
    elsewhere["scope"] = json!(" side ");
    let mut blank = event("e3", "written here");
    blank["scope"] = json!("  ");
    let body = at(("acme", "main"), writing(&[event("e1", "written here"), elsewhere, blank]));
    let written = service.write(&body).await;
    assert_eq!((&written["scope"], written["nodes"].as_array().unwrap().len()), (&json!("main"), 3));
    let found = service.recall_text(&at(("acme", "side"), json!({ "query_text": "written" }))).await;
    assert_eq!(seeds(&found).into_iter().collect::<Vec<_>>(), ["written elsewhere"]);
    let found = service.recall_text(&at(("acme", "main"), json!({ "query_text": "written" }))).await;
    assert_eq!(found["seeds"].as_array().unwrap().len(), 2);
    let heads: Vec<_> = service.stored().await.heads.into_iter().map(|head| (head.0, head.1)).collect();
    assert_eq!(heads, [("acme/main".to_owned(), 1), ("acme/side".to_owned(), 1)]);
    assert_eq!(service.write(&body).await["replayed"], true, "both scopes know the request");
    service.assert_sound().await;
}

#[tokio::test]
async fn an_edge_cannot_join_two_scopes() {
    let service = Service::start();
    let mut elsewhere = event("b", "two");
    elsewhere["scope"] = json!("side");
    let mut body = writing(&[event("a", "one"), elsewhere]);
    body["edges"] = json!([{ "type": "related_to", "src": { "client_id": "a" }, "dst": { "client_id": "b" } }]);
    assert_eq!(service.post(WRITE, &body).await.issues()[0].0, "edges.0.dst");
    assert_eq!(service.stored().await.commits(), 0, "no part of the write is kept");
}

#[tokio::test]
async fn names_are_trimmed_and_configured_defaults_hold() {
    let service = Service::with(|setup| {
        setup.api.default_tenant = "acme".to_owned();
        setup.api.default_scope = "s1".to_owned();
    });
    let written = service.write(&writing(&[event("a1", "one")])).await;
    assert_eq!((&written["tenant_id"], &written["scope"]), (&json!("acme"), &json!("s1")));
    let named = service.recall_text(&at((" acme ", " s1 "), json!({ "query_text": "one" }))).await;
    assert_eq!((seeds(&named).len(), &named["scope"]), (1, &json!("s1")));
}

//! What each role may do, and that no route is forgotten.

use std::{collections::BTreeSet, net::SocketAddr};

use aionis_api::{Role, required_role};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, header},
};
use serde_json::{Value, json};

use super::{by_key, by_token, claims, keys, token, token_settings, with_key, with_token};
use crate::harness::{RECALL, RECALL_TEXT, Service, WRITE, event, vector, writing};

/// The paths the service really has, read from the debug form of its router: the only place that knows them all.
pub(crate) fn registered() -> BTreeSet<String> {
    let shown = Service::start().router_debug();
    let paths =
        shown.split('"').filter(|text| text.starts_with('/') && *text != "/" && !text.contains("axum_fallback"));
    paths.map(str::to_owned).collect()
}

#[tokio::test]
async fn auth_every_route_has_a_role() {
    let paths = registered();
    for known in [WRITE, RECALL, RECALL_TEXT, "/health", "/metrics"] {
        assert!(paths.contains(known), "the debug form of the router shows no paths any more: {paths:?}");
    }
    for path in &paths {
        let outside =
            ["/metrics", "/health", "/openapi.json", "/docs"].contains(&path.as_str()) || path.starts_with("/health/");
        assert_eq!(required_role(path).is_none(), outside, "{path} needs an entry in auth/access.rs");
    }
}

#[test]
fn auth_roles_are_as_documented() {
    for (path, role) in [
        (WRITE, Role::Writer),
        (RECALL, Role::Reader),
        (RECALL_TEXT, Role::Reader),
        ("/v1/memory/feedback", Role::Writer),
        ("/v1/memory/rules/state", Role::Writer),
        ("/v1/memory/rules/evaluate", Role::Reader),
        ("/v1/memory/tools/select", Role::Writer),
        ("/v1/memory/tools/feedback", Role::Writer),
        ("/v1/memory/nodes/activate", Role::Writer),
        ("/v1/memory/archive/rehydrate", Role::Writer),
        ("/v1/memory/find", Role::Reader),
        ("/v1/memory/nodes/{id}", Role::Reader),
        ("/v1/memory/nodes/{id}/history", Role::Reader),
        ("/v1/memory/commits", Role::Reader),
        ("/v1/memory/commits/{id}", Role::Reader),
        ("/v1/memory/forget", Role::Writer),
        ("/v1/memory/verify", Role::Admin),
    ] {
        assert_eq!(required_role(path), Some(role), "{path}");
    }
    for path in ["/v1/memory/unheard-of", "/v1/memory/write/", "/v1", "", "/health"] {
        assert_eq!(required_role(path), None, "{path}");
    }
    assert!(Role::Reader < Role::Writer && Role::Writer < Role::Admin);
}

#[tokio::test]
async fn auth_a_role_may_what_it_may() {
    let service = by_key();
    // A missing role is writer.
    for (key, may_write) in [("reader", false), ("ann", true), ("admin", true)] {
        let answer = with_key(&service, key, WRITE, &writing(&[event(key, "one")])).await;
        if may_write {
            answer.ok();
        } else {
            assert_eq!(answer.refusal(), (403, "forbidden".to_owned()), "{key}");
            let body = answer.json();
            assert!(body["message"].as_str().unwrap().contains("writer"), "{body}");
            assert_eq!(body["details"], json!({ "required_role": "writer", "role": "reader" }));
            assert!(
                answer.header("www-authenticate").is_none(),
                "another credential of the same caller would not help"
            );
            assert_eq!(service.stored().await.commits(), 0);
        }
        with_key(&service, key, RECALL_TEXT, &json!({ "query_text": "one" })).await.ok();
        with_key(&service, key, RECALL, &json!({ "query_embedding": vector("one") })).await.ok();
    }
    let tokens = by_token(&token_settings());
    for (role, may_write) in [("reader", false), ("writer", true), ("admin", true)] {
        let mut claims = claims();
        claims["role"] = json!(role);
        let answer = with_token(&tokens, &token(&claims), WRITE, &writing(&[event(role, "one")])).await;
        assert_eq!(answer.status.as_u16(), if may_write { 200 } else { 403 }, "{role}");
    }
}

/// Asks for embeddings from loopback.
async fn debug(service: &Service, headers: &[(&str, &str)]) -> (u16, Value) {
    let body = json!({ "query_text": "one", "limit": 5, "return_debug": true, "include_embeddings": true });
    let mut request = Request::post(RECALL_TEXT).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
    let answer = service.send(request).await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn auth_embeddings_are_for_administrators() {
    let service = by_key();
    assert_eq!(debug(&service, &[("x-api-key", "admin")]).await.0, 200);
    for key in ["reader", "ann"] {
        let (status, body) = debug(&service, &[("x-api-key", key)]).await;
        assert_eq!((status, &body["error"]), (400, &json!("debug_embeddings_not_allowed")), "{key}, from loopback");
    }
    let service = Service::with(|setup| {
        setup.api.auth = keys();
        setup.api.admin_token = Some("operator".to_owned());
    });
    assert_eq!(debug(&service, &[("x-api-key", "ann"), ("x-admin-token", "operator")]).await.0, 200);
    for wrong in ["operato", "operator2", "", "Operator"] {
        assert_eq!(debug(&service, &[("x-api-key", "ann"), ("x-admin-token", wrong)]).await.0, 400, "{wrong}");
    }
    assert_eq!(debug(&service, &[("x-admin-token", "operator")]).await.0, 401, "it is no credential");
    assert_eq!(debug(&Service::start(), &[]).await.0, 200, "loopback, where nobody is authenticated");
}

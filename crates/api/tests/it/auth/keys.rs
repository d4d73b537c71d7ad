//! API keys, and the modes that take them.

use std::sync::Arc;

use aionis_api::{Auth, AuthMode, KeySource, Principal, StaticKeys, TokenVerifier};
use aionis_core::{
    canon::Digest,
    error::{DomainError, ErrorKind},
};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::json;

use super::{KEYS, assert_unauthorized, bearer, by_key, claims, keys, token, token_settings, with_auth, with_key};
use crate::harness::{RECALL, RECALL_TEXT, Service, WRITE, event, recorder, vector, writing};

#[tokio::test]
async fn auth_without_a_good_key_nothing_is_done() {
    let service = by_key();
    let good_token = bearer(&token(&claims()));
    for (headers, what) in [
        (vec![], "none"),
        (vec![("x-api-key", "")], "empty"),
        (vec![("x-api-key", "  ")], "blank"),
        (vec![("x-api-key", "nobody")], "unknown"),
        (vec![("x-api-key", "ANN")], "other case"),
        (vec![("x-api-key", "ann"), ("x-api-key", "ben")], "two"),
        (vec![("authorization", "Bearer ann")], "a key as a token"),
        (vec![("authorization", good_token.as_str())], "a token where none is taken"),
        (vec![("x-admin-token", "ann")], "a key as the admin token"),
    ] {
        for (path, body) in [
            (WRITE, writing(&[event("a", "one")])),
            (RECALL_TEXT, json!({ "query_text": "one" })),
            (RECALL, json!({ "query_embedding": vector("one") })),
            (WRITE, json!("no object")),
        ] {
            let answer = service.post_with(path, &headers, &body).await;
            assert_unauthorized(&answer, &["ApiKey realm=\"aionis\""], what);
            assert!(answer.json()["message"].as_str().unwrap().contains("x-api-key"), "{what}");
        }
    }
    assert_eq!(service.stored().await.commits(), 0);
    let mut request = Request::post(WRITE);
    request = request.header("x-api-key", HeaderValue::from_bytes(b"\xff").unwrap());
    let answer = service.send(request.body(Body::from(writing(&[]).to_string())).unwrap()).await;
    assert_unauthorized(&answer, &["ApiKey"], "no text");
    with_key(&service, " ann ", WRITE, &writing(&[event("a", "one")])).await.ok();
}

/// Also a recall that no provider could answer is answered 401 first.
#[tokio::test]
async fn auth_off_asks_nobody() {
    let service = Service::start();
    for headers in [vec![], vec![("x-api-key", "nobody")], vec![("authorization", "Bearer x")]] {
        service.post_with(WRITE, &headers, &writing(&[event("a", "one")])).await.ok();
    }
    // Whoever one says one is.
    let body = json!({ "query_text": "one", "tenant_id": "acme", "consumer_agent_id": "victim" });
    assert_eq!(service.recall_text(&body).await["tenant_id"], "acme");
}

#[tokio::test]
async fn auth_a_wrong_key_is_not_rescued_by_a_token() {
    let service = with_auth(
        Auth::new(AuthMode::ApiKeyOrJwt)
            .with_keys(Arc::new(StaticKeys::parse(KEYS).unwrap()))
            .with_tokens(TokenVerifier::new(&token_settings()).unwrap()),
    );
    let (good, bad) = (bearer(&token(&claims())), bearer("a.b.c"));
    let body = writing(&[event("a", "one")]);
    let both = ["ApiKey realm=", "Bearer realm="];
    for (headers, what) in [
        (vec![], "none"),
        (vec![("x-api-key", "nobody"), ("authorization", good.as_str())], "a wrong key beside a good token"),
        (vec![("authorization", bad.as_str())], "a bad token"),
        (vec![("x-api-key", " "), ("authorization", bad.as_str())], "a blank key beside a bad token"),
    ] {
        assert_unauthorized(&service.post_with(WRITE, &headers, &body).await, &both, what);
    }
    assert_eq!(service.stored().await.commits(), 0);
    for headers in [
        vec![("x-api-key", "ann")],
        vec![("x-api-key", "ann"), ("authorization", bad.as_str())],
        vec![("authorization", good.as_str())],
        vec![("x-api-key", "  "), ("authorization", good.as_str())],
    ] {
        service.post_with(WRITE, &headers, &body).await.ok();
    }
}

#[tokio::test]
async fn auth_leaves_health_metrics_preflight_and_unknown_paths_alone() {
    let service = Service::with(|setup| {
        setup.api.auth = keys();
        setup.api.cors = aionis_api::CorsOrigins::Any;
        setup.metrics = Some(recorder());
    });
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    for path in [WRITE, RECALL, "/health", "/v1/memory/forget", "/nowhere"] {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri(path)
            .header("origin", "https://a.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-api-key");
        let answer = service.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, Some("*")), "{path}");
        assert!(answer.header("www-authenticate").is_none(), "{path}");
    }
    for path in ["/nowhere", "/v1/memory/nowhere", "/v1/memory/write/"] {
        assert_eq!(service.post(path, &json!({})).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn auth_refusals_are_counted_without_names() {
    let recorder = recorder();
    let service = by_key();
    with_key(&service, "a-secret-key", WRITE, &json!({})).await;
    let text = recorder.render();
    assert!(text.contains("aionis_auth_refusals_total{code=\"unauthorized\",reason=\"unknown_key\"}"), "{text}");
    assert!(!text.contains("a-secret-key"));
}

/// A source of keys that is asked for a digest and knows one, or is away.
struct Elsewhere(Result<Principal, ()>);

#[async_trait::async_trait]
impl KeySource for Elsewhere {
    async fn find(&self, digest: &Digest) -> Result<Option<Principal>, DomainError> {
        let away = || DomainError::new(ErrorKind::Unavailable, "storage_unavailable", "storage is away");
        let principal = self.0.clone().map_err(|()| away())?;
        Ok((*digest == aionis_core::canon::sha256("elsewhere")).then_some(principal))
    }
}

#[tokio::test]
async fn auth_keys_may_come_from_several_sources() {
    let principal = Principal::new("acme", Some("eve"), None, None, aionis_api::Source::ApiKey).unwrap();
    let service = with_auth(keys().with_keys(Arc::new(Elsewhere(Ok(principal)))));
    for key in ["ann", "elsewhere"] {
        with_key(&service, key, WRITE, &writing(&[event("a", "one")])).await.ok();
    }
    assert_eq!(with_key(&service, "nobody", WRITE, &json!({})).await.status, 401);
    let away = with_auth(keys().with_keys(Arc::new(Elsewhere(Err(())))));
    let answer = with_key(&away, "elsewhere", WRITE, &writing(&[event("a", "one")])).await;
    assert_eq!(answer.refusal(), (503, "storage_unavailable".to_owned()), "not known is not the same as unknown");
}

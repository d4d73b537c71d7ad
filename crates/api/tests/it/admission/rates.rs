//! Tokens of addresses and tenants.

use std::{sync::Arc, time::Duration};

use aionis_api::{Auth, AuthMode, StaticKeys, TrustedProxies};
use aionis_core::admission::Rate;
use aionis_embed::cached::{CacheSettings, QuerySettings};
use aionis_testkit::fixtures::ScriptedEmbedder;
use serde_json::{Value, json};

use super::{gate, only, post_from, rates};
use crate::harness::{DIM, RECALL, RECALL_TEXT, Service, Vectors, WRITE, event, vector, writing};

fn by_address(rate: Rate) -> Service {
    Service::with(|setup| setup.limits.addresses = Some(rates(rate)))
}

fn by_tenant(rate: Rate) -> Service {
    Service::with(|setup| setup.limits.tenants = Some(rates(rate)))
}

fn keys() -> Auth {
    let keys = r#"{ "ann": { "tenant_id": "acme" }, "uma": { "tenant_id": "umbrella" } }"#;
    Auth::new(AuthMode::ApiKey).with_keys(Arc::new(StaticKeys::parse(keys).unwrap()))
}

#[tokio::test]
async fn a_refused_request_is_told_when_to_come_back() {
    let slow = Rate { per_second: 0.4, burst: 1, wait_max: Duration::ZERO };
    for (service, code, tenant) in
        [(by_address(slow), "rate_limited_write", None), (by_tenant(slow), "tenant_rate_limited_write", Some("acme"))]
    {
        let mut body = writing(&[event("e", "one")]);
        body["tenant_id"] = json!("acme");
        post_from(&service, "192.0.2.1", &[], WRITE, &body).await.ok();
        let answer = post_from(&service, "192.0.2.1", &[], WRITE, &body).await;
        assert_eq!(answer.refusal(), (429, code.to_owned()));
        assert_eq!(answer.header("retry-after"), Some("3"), "whole seconds, rounded up");
        let mut details = json!({ "retry_after_ms": 2_500, "waited_ms": 0 });
        if let Some(tenant) = tenant {
            details["tenant_id"] = json!(tenant);
        }
        assert_eq!(answer.json()["details"], details);
        assert_eq!(service.stored().await.commits(), 1);
        service.clock.advance(Duration::from_millis(2_500));
        post_from(&service, "192.0.2.1", &[], WRITE, &body).await.ok();
    }
}

/// The paths below /v1, from the debug form of the router, as a request names them.
fn paths(service: &Service) -> Vec<String> {
    let shown = service.router_debug();
    let paths = shown.split('"').filter(|text| text.starts_with("/v1/") && !text.contains("axum_fallback"));
    let id = "00000000-0000-4000-8000-000000000000";
    let mut paths: Vec<String> = paths.map(|path| path.replace("{id}", id)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[tokio::test]
async fn every_route_costs_tokens_of_its_category() {
    let paths = paths(&Service::start());
    assert!(paths.len() >= 11 && paths.iter().any(|path| path == WRITE), "{paths:?}");
    for path in &paths {
        let read = [RECALL, RECALL_TEXT, "/v1/memory/rules/evaluate", "/v1/memory/tools/select"];
        let got = path.starts_with("/v1/memory/commits") || path.contains("/nodes/0") || path.ends_with("/history");
        let asked = ["/replay", "/find", "/verify"].iter().any(|end| path.ends_with(end));
        let reads = got || asked || read.contains(&path.as_str());
        let category = if reads { "recall" } else { "write" };
        for (service, code) in [
            (by_address(only(1)), format!("rate_limited_{category}")),
            (by_tenant(only(1)), format!("tenant_rate_limited_{category}")),
        ] {
            let ask = async || if got { service.get(path).await } else { service.post(path, &json!({})).await };
            let first = ask().await;
            assert_ne!(first.status.as_u16(), 429, "{path}: {}", first.text());
            let second = ask().await;
            assert_eq!(second.refusal(), (429, code), "{path} costs nothing");
        }
    }
    let service = by_address(only(1));
    for _ in 0..3 {
        assert_eq!(service.get("/health/live").await.status.as_u16(), 200, "health costs nothing");
    }
}

#[tokio::test]
async fn addresses_are_told_apart_and_a_network_of_ipv6_is_one() {
    let service = by_address(only(1));
    let body = json!({ "query_embedding": vector("x") });
    for (peer, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("::ffff:192.0.2.2", 429),
        ("2001:db8:1:1::1", 200),
        ("2001:db8:1:1:ffff::2", 429),
        ("2001:db8:1:2::1", 200),
    ] {
        assert_eq!(post_from(&service, peer, &[], RECALL, &body).await.status.as_u16(), status, "{peer}");
    }
}

#[tokio::test]
async fn guessing_credentials_costs_tokens_and_none_of_a_tenant() {
    let service = Service::with(|setup| {
        setup.api.auth = keys();
        setup.limits.addresses = Some(rates(only(3)));
        setup.limits.tenants = Some(rates(only(1)));
    });
    let body = json!({ "query_embedding": vector("x"), "tenant_id": "acme" });
    for status in [401, 401, 401, 429, 429] {
        let guess = post_from(&service, "192.0.2.1", &[("x-api-key", "guess")], RECALL, &body).await;
        assert_eq!(guess.status.as_u16(), status);
    }
    let right = post_from(&service, "192.0.2.1", &[("x-api-key", "ann")], RECALL, &body).await;
    assert_eq!(right.refusal(), (429, "rate_limited_recall".to_owned()), "nor does a right guess help now");
    post_from(&service, "192.0.2.2", &[("x-api-key", "ann")], RECALL, &body).await.ok();
}

#[tokio::test]
async fn w_28_the_tenant_that_pays_is_the_one_of_the_credential() {
    let service = Service::with(|setup| {
        setup.api.auth = keys();
        setup.limits.tenants = Some(rates(only(1)));
    });
    let body = json!({ "query_embedding": vector("x") });
    let claim = json!({ "query_embedding": vector("x"), "tenant_id": "umbrella" });
    let ann = [("x-api-key", "ann")];
    assert_eq!(service.post_with(RECALL, &ann, &claim).await.refusal(), (403, "identity_mismatch".to_owned()));
    let paid = service.post_with(RECALL, &ann, &body).await;
    assert_eq!(paid.refusal(), (429, "tenant_rate_limited_recall".to_owned()), "the claim was paid for by acme");
    assert_eq!(paid.json()["details"]["tenant_id"], "acme");
    service.post_with(RECALL, &[("x-api-key", "uma")], &claim).await.ok();
}

#[tokio::test]
async fn a_tenant_that_can_be_none_is_refused_before_it_costs() {
    let service = by_tenant(only(1));
    for bad in ["../x", "a b", " "] {
        let body = json!({ "query_embedding": vector("x"), "tenant_id": bad });
        assert_eq!(service.post(RECALL, &body).await.refusal(), (400, "invalid_tenant_id".to_owned()), "{bad:?}");
    }
    let header =
        service.post_with(RECALL, &[("x-tenant-id", "../x")], &json!({ "query_embedding": vector("x") })).await;
    assert_eq!(header.refusal(), (400, "invalid_tenant_id".to_owned()));
}

#[tokio::test]
async fn a_request_that_waits_for_its_token_holds_no_place() {
    let service = Service::with(|setup| {
        setup.limits.tenants = Some(rates(Rate { per_second: 0.5, burst: 1, wait_max: Duration::from_secs(5) }));
        setup.write_gate = gate(1, 0);
    });
    let of = |tenant: &str| {
        let mut body = writing(&[event("e", "one")]);
        body["tenant_id"] = json!(tenant);
        body
    };
    let (acme, other) = (of("acme"), of("other"));
    service.post(WRITE, &acme).await.ok();
    let mut waits = std::pin::pin!(service.post(WRITE, &acme));
    // Polled in this order: the first one waits for its token when the second one begins.
    tokio::select! {
        biased;
        early = &mut waits => panic!("it did not wait: {early:?}"),
        answer = service.post(WRITE, &other) => { answer.ok(); }
    }
    assert_eq!(service.engine.write_gate().load(), (0, 0));
    waits.await.ok();
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_gives_its_token_back() {
    let rate = Rate { per_second: 1.0, burst: 1, wait_max: Duration::from_millis(1_500) };
    let service = by_tenant(rate);
    let body = writing(&[event("e", "one")]);
    service.post(WRITE, &body).await.ok();
    for _ in 0..3 {
        let waits = std::pin::pin!(service.post(WRITE, &body));
        assert!(futures_util::FutureExt::now_or_never(waits).is_none(), "each finds the token of the one that went");
    }
}

#[tokio::test]
async fn callers_on_this_machine_may_be_left_alone() {
    let body = json!({ "query_embedding": vector("x") });
    for (bypass, headers, statuses) in [
        (true, &[][..], [200, 200]),
        (false, &[], [200, 429]),
        // Whoever asks through a proxy is somewhere else.
        (true, &[("x-forwarded-for", "127.0.0.1")], [200, 429]),
        (true, &[("forwarded", "for=127.0.0.1")], [200, 429]),
    ] {
        let service = Service::with(|setup| {
            setup.limits.addresses = Some(rates(only(1)));
            setup.api.bypass_loopback = bypass;
        });
        for status in statuses {
            let answer = post_from(&service, "127.0.0.1", headers, RECALL, &body).await;
            assert_eq!(answer.status.as_u16(), status, "{bypass} {headers:?}");
        }
    }
}

#[tokio::test]
async fn w_28_clients_behind_a_trusted_proxy_are_told_apart() {
    let service = Service::with(|setup| {
        setup.limits.addresses = Some(rates(only(1)));
        setup.api.trusted_proxies = TrustedProxies::parse("10.0.0.0/8").unwrap();
    });
    let body = json!({ "query_embedding": vector("x") });
    for (peer, listed, status) in [
        ("10.0.0.1", "198.51.100.1", 200),
        ("10.0.0.2", "9.9.9.9, 198.51.100.1", 429),
        ("10.0.0.1", "198.51.100.2, 10.0.0.7", 200),
        // A stranger's word means nothing: the first is free, the second is the same stranger.
        ("203.0.113.1", "198.51.100.3", 200),
        ("203.0.113.1", "198.51.100.4", 429),
    ] {
        let answer = post_from(&service, peer, &[("x-forwarded-for", listed)], RECALL, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{peer} for {listed}");
    }
}

fn debugging() -> Value {
    json!({ "query_embedding": vector("x"), "return_debug": true, "include_embeddings": true, "limit": 5 })
}

#[tokio::test]
async fn embeddings_are_not_shown_through_a_proxy_and_asking_in_vain_costs_nothing() {
    let service = Service::with(|setup| {
        let mut tenants = rates(only(100));
        tenants.debug_embeddings = only(1);
        setup.limits.tenants = Some(tenants);
    });
    for (peer, headers) in [("192.0.2.1", &[][..]), ("127.0.0.1", &[("x-forwarded-for", "127.0.0.1")])] {
        let answer = post_from(&service, peer, headers, RECALL, &debugging()).await;
        assert_eq!(answer.refusal(), (400, "debug_embeddings_not_allowed".to_owned()), "{peer}");
    }
    let mut too_many = debugging();
    too_many["limit"] = json!(21);
    let answer = post_from(&service, "127.0.0.1", &[], RECALL, &too_many).await;
    assert_eq!(answer.refusal(), (400, "debug_embeddings_limit_too_high".to_owned()));
    post_from(&service, "127.0.0.1", &[], RECALL, &debugging()).await.ok();
    let answer = post_from(&service, "127.0.0.1", &[], RECALL, &debugging()).await;
    assert_eq!(answer.refusal(), (429, "tenant_rate_limited_debug_embeddings".to_owned()));
}

#[tokio::test]
async fn only_questions_that_are_embedded_cost_tokens_of_embedding() {
    let service = Service::with(|setup| {
        let mut addresses = rates(only(100));
        addresses.recall_text_embed = only(2);
        setup.limits.addresses = Some(addresses);
        setup.vectors = Vectors::From(Arc::new(ScriptedEmbedder::new(DIM)));
        let cache = CacheSettings { max_keys: 10, ttl: Duration::from_secs(600) };
        setup.queries = QuerySettings { cache: Some(cache), batch: None };
    });
    let ask = async |question: &str| {
        post_from(&service, "192.0.2.1", &[], RECALL_TEXT, &json!({ "query_text": question })).await
    };
    for question in ["one", "one", "one", "two", "one", "two", " "] {
        ask(question).await.ok();
    }
    assert_eq!(ask("three").await.refusal(), (429, "rate_limited_recall_text_embed".to_owned()));
    ask("one").await.ok();
}

//! Refusals for asking too often are answers of every route they can come from.

use std::time::Duration;

use aionis_core::admission::Rate;
use aionis_engine::admission::Rates;
use serde_json::json;

use super::{
    document::Document,
    told,
    world::{World, setup},
};
use crate::harness::{RECALL, RECALL_TEXT, Service, Setup, vector};

const MANY: Rate = Rate { per_second: 1e6, burst: 1_000_000, wait_max: Duration::ZERO };
const ONE: Rate = Rate { per_second: 0.001, burst: 1, wait_max: Duration::ZERO };
const TOKEN: &str = "a token of the operator";

fn limited(setup: &mut Setup, of_tenants: bool, rates: Rates) {
    super::setup(setup);
    setup.api.admin_token = Some(TOKEN.to_owned());
    let limits = if of_tenants { &mut setup.limits.tenants } else { &mut setup.limits.addresses };
    *limits = Some(rates);
}

#[tokio::test]
async fn every_route_documents_its_limits() {
    let mut document = Document::new();
    let plain = World::new(Service::with(setup)).await;
    let mut seen = 0;
    for (path, method, _) in document.operations() {
        if !path.starts_with("/v1/") {
            continue;
        }
        for of_tenants in [false, true] {
            let rates = Rates { recall: ONE, write: ONE, debug_embeddings: MANY, recall_text_embed: MANY };
            let service = Service::with(|setup| limited(setup, of_tenants, rates));
            let url = plain.path(&path);
            for _ in 0..2 {
                let answer = if method == "get" {
                    service.get(&url).await
                } else {
                    service.post(&url, &plain.body(&document, &path, false)).await
                };
                let faults = document.faults(&path, &method, &answer);
                assert!(faults.is_empty(), "{path}: {faults:?}");
                let (status, code) = told(&answer);
                seen += usize::from(status == 429 && code.contains("rate_limited"));
            }
        }
    }
    assert_eq!(seen, 36, "each of the eighteen routes refuses the second request, of an address and of a tenant");
}

#[tokio::test]
async fn what_costs_extra_documents_its_limits() {
    let mut document = Document::new();
    for of_tenants in [false, true] {
        let rates = Rates { recall: MANY, write: MANY, debug_embeddings: ONE, recall_text_embed: ONE };
        let service = Service::with(|setup| limited(setup, of_tenants, rates));
        let shows = |mut body: serde_json::Value| {
            body["return_debug"] = json!(true);
            body["include_embeddings"] = json!(true);
            body["limit"] = json!(5);
            body
        };
        let prefix = if of_tenants { "tenant_" } else { "" };
        for (path, body, code) in [
            (RECALL, shows(json!({ "query_embedding": vector("x") })), None),
            (RECALL, shows(json!({ "query_embedding": vector("x") })), Some("debug_embeddings")),
            (RECALL_TEXT, shows(json!({ "query_text": "one" })), Some("debug_embeddings")),
            (RECALL_TEXT, json!({ "query_text": "one" }), None),
            (RECALL_TEXT, json!({ "query_text": "two" }), Some("recall_text_embed")),
        ] {
            let answer = service.post_with(path, &[("x-admin-token", TOKEN)], &body).await;
            let wanted = code.map_or((200, String::new()), |code| (429, format!("{prefix}rate_limited_{code}")));
            assert_eq!(told(&answer), wanted, "{path} {body}: {}", answer.text());
            assert_eq!(document.faults(path, "post", &answer), Vec::<String>::new(), "{path} {body}");
        }
    }
}

/// A route that did not name its limit would be noticed.
#[test]
fn a_limit_that_is_not_documented_is_a_fault() {
    let refused = crate::harness::Answer {
        status: axum::http::StatusCode::TOO_MANY_REQUESTS,
        headers: [("content-type", "application/json"), ("x-request-id", "one"), ("retry-after", "1")]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<axum::http::HeaderMap>(),
        body: json!({ "error": "rate_limited_recall", "message": "x" }).to_string().into(),
    };
    assert!(Document::new().faults(RECALL, "post", &refused).is_empty());
    assert!(!Document::new().faults(crate::harness::WRITE, "post", &refused).is_empty());
}

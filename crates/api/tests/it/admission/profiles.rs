//! Which profile a recall gets.

use std::{collections::BTreeSet, time::Duration};

use aionis_core::recall::{Profile, ProfilePolicy};
use serde_json::{Value, json};

use super::gate;
use crate::harness::{Answer, RECALL, RECALL_TEXT, Service, recorder, vector};

const HEADER: &str = "x-aionis-recall-profile";

fn asking(path: &str, tenant: &str) -> Value {
    let mut body =
        if path == RECALL { json!({ "query_embedding": vector("x") }) } else { json!({ "query_text": "x" }) };
    body["tenant_id"] = json!(tenant);
    body["return_debug"] = json!(true);
    body
}

fn told(answer: &Answer) -> (String, String, bool, String) {
    let debug = &answer.ok()["debug"];
    let text = |name: &str| debug[name].as_str().unwrap().to_owned();
    let applied = debug["adaptive_profile_applied"].as_bool().unwrap();
    (text("profile"), text("profile_source"), applied, text("adaptive_profile_reason"))
}

#[tokio::test]
async fn two_tenants_and_two_endpoints_get_four_profiles() {
    let policy = r#"{
        "endpoint": { "recall_text": "lean" },
        "tenant_default": { "acme": "quality_first" },
        "tenant_endpoint": { "acme": { "recall": "legacy" } }
    }"#;
    let profiles = ProfilePolicy::parse(Profile::StrictEdges, policy).unwrap();
    let service = Service::with(|setup| setup.profiles = profiles);
    let mut seen = BTreeSet::new();
    for (tenant, path, profile, source) in [
        ("acme", RECALL, "legacy", "tenant_endpoint_override"),
        ("acme", RECALL_TEXT, "quality_first", "tenant_default"),
        ("other", RECALL, "strict_edges", "global_default"),
        ("other", RECALL_TEXT, "lean", "endpoint_override"),
    ] {
        let answer = service.post(path, &asking(path, tenant)).await;
        let reason = "wait_below_threshold";
        assert_eq!(told(&answer), (profile.to_owned(), source.to_owned(), false, reason.to_owned()));
        assert_eq!(answer.header(HEADER), Some(&*format!("{profile}; source={source}")));
        seen.insert(profile);
    }
    assert_eq!(seen.len(), 4);
}

/// Answers to recalls that waited so long behind a full gate.
async fn waited(service: &Service, wait_ms: u64, bodies: &[Value]) -> Vec<Answer> {
    let held = service.engine.recall_gate().enter("noisy").await.unwrap();
    let recalls = futures_util::future::join_all(bodies.iter().map(|body| service.post(RECALL, body)));
    let let_in = async {
        while service.engine.recall_gate().load() != (1, bodies.len()) {
            tokio::task::yield_now().await;
        }
        service.clock.advance(Duration::from_millis(wait_ms));
        drop(held);
    };
    tokio::join!(recalls, let_in).0
}

#[tokio::test]
async fn a_full_gate_makes_unpinned_recalls_cheaper_and_leaves_pinned_ones() {
    let metrics = recorder();
    let service = Service::with(|setup| setup.recall_gate = gate(1, 10));
    let plain = asking(RECALL, "default");
    let mut pinned = plain.clone();
    pinned["max_edges"] = json!(7);
    let mut null = plain.clone();
    null["max_edges"] = json!(null);
    let answers = waited(&service, 300, &[plain.clone(), pinned.clone(), null]).await;
    let cheaper = ("lean".to_owned(), "global_default".to_owned(), true, "queue_pressure".to_owned());
    let kept = |reason: &str| ("strict_edges".to_owned(), "global_default".to_owned(), false, reason.to_owned());
    assert_eq!(told(&answers[0]), cheaper);
    assert_eq!(answers[0].header(HEADER), Some("lean; source=global_default; downgraded"));
    assert_eq!(told(&answers[1]), kept("explicit_knobs"));
    assert_eq!(answers[1].header(HEADER), Some("strict_edges; source=global_default"));
    assert_eq!(told(&answers[2]), cheaper, "null pins nothing");
    let answers = waited(&service, 199, &[plain, pinned]).await;
    assert_eq!(told(&answers[0]), kept("wait_below_threshold"));
    assert_eq!(told(&answers[1]), kept("explicit_knobs"));
    let shown = metrics.render();
    for line in [
        "aionis_recall_downgraded_total{from=\"strict_edges\",to=\"lean\"} ",
        "aionis_recall_profile_total{profile=\"lean\",source=\"global_default\"} ",
        "aionis_gate_wait_seconds",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
}

#[tokio::test]
async fn settings_of_the_degradation_hold() {
    let with = |change: fn(&mut aionis_core::recall::Adaptive)| {
        Service::with(|setup| {
            setup.recall_gate = gate(1, 10);
            change(&mut setup.adaptive);
        })
    };
    let plain = asking(RECALL, "default");
    for (service, reason) in [
        (with(|adaptive| adaptive.enabled = false), "disabled"),
        (with(|adaptive| adaptive.target = Profile::StrictEdges), "already_target_profile"),
        (with(|adaptive| adaptive.target = Profile::Legacy), "target_not_cheaper"),
    ] {
        let answers = waited(&service, 60_000, std::slice::from_ref(&plain)).await;
        let (profile, _, applied, told) = told(&answers[0]);
        assert_eq!((profile.as_str(), applied, told.as_str()), ("strict_edges", false, reason));
    }
}

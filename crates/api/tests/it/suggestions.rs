//! What jobs suggest can be sent as it is: applied through the interface, and taken back.

use std::sync::Arc;

use aionis_core::{
    clock::Clock,
    jobs::{checks::Strictness, policy_adaptation::PolicyThresholds, rule_promotion::PromotionThresholds},
};
use aionis_engine::jobs::{
    Job, NoProgress, PolicyAdaptation, Report, RulePromotionSuggest, RunOptions, Runner, Selection,
};
use aionis_testkit::fixtures::{node_id, scope_of};
use serde_json::{Value, json};

use crate::harness::Service;

const STATE: &str = "/v1/memory/rules/state";

async fn report(service: &Service, job: &dyn Job) -> Report {
    let clock: Arc<dyn Clock> = service.clock.clone();
    let selection = Selection { tenant: Some("acme".to_owned()), scope: Some("ops".to_owned()) };
    let runner = Runner::new(service.port(), clock);
    let mut report = runner.run(job, &selection, &RunOptions::default(), &NoProgress).await.unwrap();
    report.targets.remove(0).report
}

fn at(mut body: Value) -> Value {
    (body["tenant_id"], body["scope"], body["input_text"]) = (json!("acme"), json!("ops"), json!("why"));
    body
}

async fn rule(service: &Service, name: &str, state: &str, outcomes: &[&str]) -> String {
    let node = json!({ "client_id": name, "type": "rule", "text_summary": name, "memory_lane": "shared",
                       "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
    service.write(&at(json!({ "nodes": [node] }))).await;
    let id = node_id(&scope_of("acme", "ops"), name).to_string();
    service.post(STATE, &at(json!({ "rule_node_id": id, "state": state }))).await.ok();
    for (n, outcome) in outcomes.iter().enumerate() {
        let feedback = json!({ "rule_node_id": id, "outcome": outcome, "run_id": format!("{name} {n}") });
        service.post("/v1/memory/feedback", &at(feedback)).await.ok();
    }
    id
}

/// Sends what a suggestion says, and checks the state of its rule before and after.
async fn there_and_back(service: &Service, suggestion: &Value, from: &str, to: &str) {
    for (request, state) in [("apply", to), ("rollback", from)] {
        let request = &suggestion[request];
        let path = request["endpoint"].as_str().unwrap();
        let body = &request["payload"];
        assert_eq!((&body["tenant_id"], &body["scope"]), (&json!("acme"), &json!("ops")), "not a stored key");
        let answer = service.post(path, body).await.ok();
        assert_eq!(answer["tenant_id"], "acme", "{answer}");
        let id = suggestion["rule_node_id"].as_str().unwrap();
        let rule = aionis_core::ids::NodeId(id.parse().unwrap());
        let stored = service.port().rule(&scope_of("acme", "ops"), rule).await.unwrap().unwrap();
        assert_eq!(stored.def.state.as_str(), state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suggestions_are_applied_and_taken_back_on_both_engines() {
    for service in [Service::start(), Service::start_on_postgres().await] {
        let good = rule(&service, "good", "shadow", &["positive"; 12]).await;
        let draft = rule(&service, "draft", "draft", &["positive"; 3]).await;
        let bad = rule(&service, "bad", "active", &["negative"; 8]).await;
        let promote = RulePromotionSuggest { thresholds: PromotionThresholds::default(), limit: 50, strict: false };
        let found = report(&service, &promote).await;
        let suggestions = found.get("suggestions").unwrap().as_array().unwrap().clone();
        assert_eq!(suggestions.len(), 2);
        for (suggestion, (id, from, to)) in
            suggestions.iter().zip([(&good, "shadow", "active"), (&draft, "draft", "shadow")])
        {
            assert_eq!(suggestion["rule_node_id"], json!(id));
            there_and_back(&service, suggestion, from, to).await;
        }
        let policy =
            PolicyAdaptation { thresholds: PolicyThresholds::default(), limit: 200, strictness: Strictness::default() };
        let found = report(&service, &policy).await;
        let suggestions = found.get("suggestions").unwrap();
        assert_eq!(suggestions["promote_to_active"][0]["rule_node_id"], json!(good));
        there_and_back(&service, &suggestions["promote_to_active"][0], "shadow", "active").await;
        assert_eq!(suggestions["disable_active"][0]["rule_node_id"], json!(bad));
        there_and_back(&service, &suggestions["disable_active"][0], "active", "disabled").await;
        service.assert_sound().await;
    }
}

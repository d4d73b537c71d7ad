//! Rules from draft to credit: evaluated, enforced on tools, reported on.

use aionis_testkit::fixtures::{node_id, scope_of};
use serde_json::{Value, json};

use crate::harness::{Service, writing};

const STATE: &str = "/v1/memory/rules/state";
const EVALUATE: &str = "/v1/memory/rules/evaluate";
const SELECT: &str = "/v1/memory/tools/select";
const TOOL_FEEDBACK: &str = "/v1/memory/tools/feedback";
const FEEDBACK: &str = "/v1/memory/feedback";

fn id_of(client_id: &str) -> String {
    node_id(&scope_of("default", "default"), client_id).to_string()
}

fn rule(client_id: &str, condition: Value, then: Value) -> Value {
    json!({ "client_id": client_id, "type": "rule", "text_summary": client_id, "memory_lane": "shared",
            "slots": { "if": condition, "then": then } })
}

async fn live(service: &Service, client_id: &str, condition: Value, then: Value) {
    service.write(&writing(&[rule(client_id, condition, then)])).await;
    set(service, client_id, "active").await;
}

async fn set(service: &Service, client_id: &str, state: &str) -> Value {
    let body = json!({ "rule_node_id": id_of(client_id), "state": state, "input_text": "because" });
    service.post(STATE, &body).await.ok()
}

async fn positive(service: &Service, client_id: &str) -> i64 {
    let found = service.post(EVALUATE, &json!({ "context": { "intent": "deploy" } })).await.ok();
    let rules = found["active"].as_array().unwrap();
    let found = rules.iter().find(|rule| rule["rule_node_id"] == id_of(client_id)).expect("the rule applies");
    found["stats"]["positive"].as_i64().unwrap()
}

async fn services() -> [Service; 2] {
    [Service::start(), Service::start_on_postgres().await]
}

/// The whole way: a rule goes live, steers a tool, is credited, and the decision can be made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_steers_tools_and_is_credited() {
    for service in services().await {
        live(&service, "r", json!({ "intent": "deploy" }), json!({ "tool": { "deny": ["rm"], "prefer": ["psql"] } }))
            .await;
        let asked = json!({ "context": { "intent": "deploy" }, "candidates": [" curl ", "rm", "psql", "psql"] });
        let chosen = service.post(SELECT, &asked).await.ok();
        assert_eq!(chosen["candidates"], json!(["curl", "rm", "psql"]));
        assert_eq!(chosen["selection"]["ordered"], json!(["psql", "curl"]));
        assert_eq!(chosen["selection"]["denied"], json!([{ "name": "rm", "reason": "deny_list" }]));
        let decision = &chosen["decision"];
        assert_eq!((&decision["selected_tool"], &decision["source_rule_ids"]), (&json!("psql"), &json!([id_of("r")])));
        let feedback = json!({ "decision_id": decision["decision_id"], "outcome": "positive", "input_text": "it worked",
            "context": {}, "candidates": ["curl", "rm", "psql"], "selected_tool": "psql" });
        let credited = service.post(TOOL_FEEDBACK, &feedback).await.ok();
        assert_eq!((&credited["updated_rules"], &credited["decision_link_mode"]), (&json!(1), &json!("provided")));
        assert_eq!(credited["decision_policy_sha256"], decision["policy_sha256"]);
        assert_eq!(positive(&service, "r").await, 1);
        let again = service.post(TOOL_FEEDBACK, &feedback).await.ok();
        assert_eq!((&again["updated_rules"], &again["commit_id"]), (&json!(0), &Value::Null));
        assert_eq!(positive(&service, "r").await, 1, "one decision counts once");
        let replay = format!("/v1/memory/decisions/{}/replay", decision["decision_id"].as_str().unwrap());
        set(&service, "r", "disabled").await;
        let replayed = service.post(&replay, &json!({})).await.ok();
        assert_eq!((&replayed["identical"], &replayed["selection"]), (&json!(true), &chosen["selection"]));
        service.assert_sound().await;
    }
}

/// W-3: two allow lists without a common tool allow nothing.
#[tokio::test(flavor = "multi_thread")]
async fn w_03_an_empty_intersection_of_allow_lists_denies() {
    for service in services().await {
        live(&service, "a", json!({}), json!({ "tool": { "allow": ["psql"] } })).await;
        live(&service, "b", json!({}), json!({ "tool": { "allow": ["curl"] } })).await;
        let before = service.stored().await;
        let refused = service.post(SELECT, &json!({ "context": {}, "candidates": ["psql", "curl"] })).await;
        assert_eq!(refused.refusal(), (400, "no_tools_allowed".to_owned()));
        assert_eq!(refused.json()["details"], json!({ "candidates": 2, "allow": 0, "deny": 0 }));
        assert_eq!(service.stored().await, before);
        let loose = json!({ "context": {}, "candidates": ["psql", "curl"], "strict": false });
        let loose = service.post(SELECT, &loose).await.ok();
        assert_eq!(loose["selection"]["fallback"]["reason"], "allowlist_filtered_all");
    }
}

/// W-16: no number of newer rules pushes a deny out of sight.
#[tokio::test(flavor = "multi_thread")]
async fn w_16_many_rules_hide_no_deny() {
    for service in services().await {
        live(&service, "deny", json!({}), json!({ "tool": { "deny": ["rm"] } })).await;
        let others: Vec<Value> = (0..60)
            .map(|n| rule(&format!("r{n}"), json!({ "n": n }), json!({ "tool": { "prefer": ["rm"] } })))
            .collect();
        service.write(&writing(&others)).await;
        for n in 0..60 {
            set(&service, &format!("r{n}"), "active").await;
        }
        let asked = json!({ "context": { "n": 5 }, "candidates": ["rm", "ls"], "rules_limit": 1 });
        let chosen = service.post(SELECT, &asked).await.ok();
        assert_eq!(chosen["selection"]["selected"], "ls");
        assert_eq!((&chosen["rules"]["considered"], &chosen["rules"]["matched"]), (&json!(61), &json!(2)));
    }
}

/// W-15: a request sent again under its id is done once.
#[tokio::test(flavor = "multi_thread")]
async fn w_15_a_repeated_request_id_counts_once() {
    for service in services().await {
        live(&service, "r", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let headers = [("x-request-id", "one-and-the-same")];
        let body = json!({ "rule_node_id": id_of("r"), "outcome": "positive", "input_text": "well" });
        let first = service.post_with(FEEDBACK, &headers, &body).await.ok();
        let again = service.post_with(FEEDBACK, &headers, &body).await.ok();
        assert_eq!(first, again);
        assert_eq!(positive(&service, "r").await, 1);
        let asked = json!({ "context": {}, "candidates": ["psql", "curl"] });
        let first = service.post_with(SELECT, &headers, &asked).await.ok();
        set(&service, "r", "disabled").await;
        let again = service.post_with(SELECT, &headers, &asked).await.ok();
        assert_eq!(first["decision"], again["decision"]);
        assert_eq!(again["selection"]["selected"], "psql", "it is the decision that was made");
    }
}

/// W-55: feedback goes to the rules a decision was made by, not to today's.
#[tokio::test(flavor = "multi_thread")]
async fn w_55_feedback_is_credited_to_the_rules_of_the_decision() {
    for service in services().await {
        live(&service, "then", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let asked = json!({ "context": {}, "candidates": ["psql", "curl"], "run_id": "run" });
        service.post(SELECT, &asked).await.ok();
        live(&service, "now", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let feedback = json!({ "run_id": "run", "outcome": "positive", "input_text": "well", "context": {},
            "candidates": ["psql", "curl"], "selected_tool": "psql" });
        let credited = service.post(TOOL_FEEDBACK, &feedback).await.ok();
        assert_eq!(credited["rule_node_ids"], json!([id_of("then")]));
        assert_eq!(credited["decision_link_mode"], "inferred");
        assert_eq!((positive(&service, "then").await, positive(&service, "now").await), (1, 0));
    }
}

/// W-6: a context cannot say one agent to the check and another to the evaluation, and without an agent nothing private
/// is shown.
#[tokio::test(flavor = "multi_thread")]
async fn w_06_private_rules_are_shown_to_their_owner_only() {
    for service in services().await {
        let mut private = rule("r", json!({}), json!({ "tool": { "deny": ["rm"] } }));
        (private["memory_lane"], private["owner_agent_id"]) = (json!("private"), json!("ada"));
        service.write(&writing(&[private])).await;
        set(&service, "r", "active").await;
        for (context, matched) in [
            (json!({}), 0),
            (Value::Null, 0),
            (json!({ "agent": { "id": "ada" } }), 1),
            (json!({ "agent_id": "ada" }), 1),
            (json!({ "agent": { "id": "bob" }, "agent_id": "ada" }), 0),
        ] {
            let found = service.post(EVALUATE, &json!({ "context": context })).await.ok();
            assert_eq!(found["matched"], matched, "{context}");
        }
    }
}

/// A rule that cannot be enforced does not go live; one that can never match goes live with a warning (W-50).
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_live_is_checked() {
    for service in services().await {
        service.write(&writing(&[rule("bad", json!({}), json!({ "tools": {} }))])).await;
        let body = json!({ "rule_node_id": id_of("bad"), "state": "active", "input_text": "x" });
        let before = service.stored().await;
        assert_eq!(service.post(STATE, &body).await.refusal(), (400, "invalid_rule_then_json".to_owned()));
        assert_eq!(service.stored().await, before);
        service.write(&writing(&[rule("odd", json!({ "n": { "$gt": 1, "$lt": 5 } }), json!({}))])).await;
        let answer = set(&service, "odd", "shadow").await;
        assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(1), "{answer}");
        let unknown = json!({ "rule_node_id": id_of("nobody"), "state": "active", "input_text": "x" });
        let refused = service.post(STATE, &unknown).await;
        assert_eq!(refused.refusal(), (400, "rule_not_found_in_scope".to_owned()));
    }
}

/// A decision is reported on as what it was.
#[tokio::test(flavor = "multi_thread")]
async fn feedback_must_fit_its_decision() {
    for service in services().await {
        live(&service, "r", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let asked = json!({ "context": {}, "candidates": ["psql", "curl"], "run_id": "run" });
        let chosen = service.post(SELECT, &asked).await.ok();
        let id = &chosen["decision"]["decision_id"];
        let before = service.stored().await;
        for (change, code) in [
            (json!({ "selected_tool": "curl" }), "decision_selected_tool_mismatch"),
            (json!({ "candidates": ["curl", "psql"] }), "decision_candidates_mismatch"),
            (json!({ "run_id": "another" }), "decision_run_id_mismatch"),
            (json!({ "decision_id": "00000000-0000-4000-8000-000000000000" }), "decision_not_found_in_scope"),
            (json!({ "outcome": "good" }), "invalid_request"),
            (json!({ "candidates": [] }), "invalid_request"),
            (json!({ "candidates": [" "] }), "invalid_request"),
            (json!({ "target": "some" }), "invalid_request"),
        ] {
            let mut body = json!({ "decision_id": id, "outcome": "negative", "input_text": "x", "context": {},
                "candidates": ["psql", "curl"], "selected_tool": "psql" });
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            assert_eq!(service.post(TOOL_FEEDBACK, &body).await.refusal(), (400, code.to_owned()), "{change}");
        }
        assert_eq!(service.stored().await, before);
    }
}

/// W-15: equal requests under one id at the same time make one decision, and feedback that is sent again is the same
/// request whatever has happened to the rules meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn w_15_equal_requests_at_once_make_one_decision() {
    for service in services().await {
        live(&service, "r", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let headers = [("x-request-id", "at-once")];
        let asked = json!({ "context": {}, "candidates": ["psql", "curl"] });
        let select = || service.post_with(SELECT, &headers, &asked);
        let (a, b, c, d) = tokio::join!(select(), select(), select(), select());
        let first = a.ok()["decision"].clone();
        for other in [b, c, d] {
            assert_eq!(other.ok()["decision"], first);
        }
        let headers = [("x-request-id", "feedback")];
        let feedback = json!({ "outcome": "positive", "input_text": "well", "context": { "new": 1 },
            "candidates": ["psql", "curl"], "selected_tool": "psql" });
        let made = service.post_with(TOOL_FEEDBACK, &headers, &feedback).await.ok();
        assert_eq!(made["decision_link_mode"], "created_from_feedback");
        live(&service, "later", json!({}), json!({ "tool": { "prefer": ["psql"] } })).await;
        let before = service.stored().await;
        let again = service.post_with(TOOL_FEEDBACK, &headers, &feedback).await.ok();
        assert_eq!((&again["commit_id"], &again["rule_node_ids"]), (&made["commit_id"], &made["rule_node_ids"]));
        assert_eq!(service.stored().await, before);
    }
}

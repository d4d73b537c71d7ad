//! A request is made in the name of its credential and of nobody else.

use serde_json::{Value, json};

use super::{assert_mismatch, by_key, with_key};
use crate::harness::{RECALL, RECALL_TEXT, Service, WRITE, event, seeds, vector, writing};

/// One private event; `owner` is added to the node.
fn private(summary: &str, owner: &Value) -> Value {
    let mut node = json!({ "client_id": summary, "type": "event", "text_summary": summary });
    node.as_object_mut().unwrap().extend(owner.as_object().unwrap().clone());
    writing(&[node])
}

async fn found(service: &Service, key: &str) -> Vec<String> {
    let answer = with_key(service, key, RECALL_TEXT, &json!({ "query_text": "secret" })).await.ok();
    seeds(&answer).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn auth_the_tenant_is_the_credentials() {
    let service = by_key();
    let bodies = [
        (WRITE, writing(&[event("a", "one")])),
        (RECALL_TEXT, json!({ "query_text": "one" })),
        (RECALL, json!({ "query_embedding": vector("one") })),
    ];
    for (path, body) in &bodies {
        let mut theirs = body.clone();
        theirs["tenant_id"] = json!("umbrella");
        assert_mismatch(&with_key(&service, "ann", path, &theirs).await, "tenant_id", "umbrella", Some("acme"));
        let header = [("x-api-key", "ann"), ("x-tenant-id", "umbrella")];
        let answer = service.post_with(path, &header, body).await;
        assert_mismatch(&answer, "tenant_id", "umbrella", Some("acme"));
        // Also where the body says the right thing, and in the query.
        let mut ours = body.clone();
        ours["tenant_id"] = json!(" acme ");
        assert_mismatch(&service.post_with(path, &header, &ours).await, "tenant_id", "umbrella", Some("acme"));
        let answer = with_key(&service, "ann", &format!("{path}?tenant_id=umbr%65lla"), body).await;
        assert_mismatch(&answer, "tenant_id", "umbrella", Some("acme"));
        let answer = with_key(&service, "ann", &format!("{path}?consumer_agent_id=ben"), body).await;
        assert_mismatch(&answer, "consumer_agent_id", "ben", Some("ann"));
    }
    assert_eq!(service.stored().await.commits(), 0);
    for (path, body) in &bodies {
        for tenant in [json!("acme"), json!(" acme "), json!(""), json!(" "), Value::Null, json!(7)] {
            let mut body = body.clone();
            body["tenant_id"] = tenant.clone();
            let headers = [("x-api-key", "ann"), ("x-tenant-id", " acme ")];
            let answer = service.post_with(path, &headers, &body).await.ok();
            assert_eq!(answer["tenant_id"], "acme", "{path} {tenant}");
        }
        assert_eq!(with_key(&service, "other", path, body).await.ok()["tenant_id"], "umbrella", "not the default's");
    }
}

#[tokio::test]
async fn auth_w_07_a_consumer_is_who_the_credential_says() {
    let service = by_key();
    for (path, body) in
        [(RECALL_TEXT, json!({ "query_text": "x" })), (RECALL, json!({ "query_embedding": vector("x") }))]
    {
        for (key, field, provided, expected) in [
            ("ann", "consumer_agent_id", "ben", Some("ann")),
            ("ann", "consumer_agent_id", "Ann", Some("ann")),
            ("ann", "consumer_team_id", "red", Some("blue")),
            // Who is no agent may claim none: the reference lets a key of a team read every agent's memory.
            ("team", "consumer_agent_id", "ann", None),
            ("bare", "consumer_agent_id", "ann", None),
            ("bare", "consumer_team_id", "blue", None),
            ("admin", "consumer_agent_id", "ann", Some("root")),
            ("admin", "consumer_team_id", "blue", None),
        ] {
            let mut body = body.clone();
            body[field] = json!(format!(" {provided} "));
            assert_mismatch(&with_key(&service, key, path, &body).await, field, provided, expected);
        }
        for (field, value) in [
            ("consumer_agent_id", json!("ann")),
            ("consumer_agent_id", json!("\u{a0}ann ")),
            ("consumer_agent_id", json!("")),
            ("consumer_agent_id", Value::Null),
            ("consumer_team_id", json!("blue")),
        ] {
            let mut body = body.clone();
            body[field] = value;
            with_key(&service, "ann", path, &body).await.ok();
        }
        let mut wrong = body.clone();
        wrong["consumer_agent_id"] = json!(7);
        assert_eq!(with_key(&service, "ann", path, &wrong).await.issues()[0].0, "consumer_agent_id");
    }
}

#[tokio::test]
async fn auth_w_06_a_rule_context_of_a_recall_is_bound_too() {
    let service = by_key();
    for (key, context, field, provided, expected) in [
        ("ann", json!({ "agent": { "id": "ben" } }), "rules_context.agent.id", "ben", Some("ann")),
        ("ann", json!({ "agent_id": "ben" }), "rules_context.agent.id", "ben", Some("ann")),
        // The spelling that is looked at second is no way around the first.
        ("ann", json!({ "agent": { "id": " " }, "agent_id": "ben" }), "rules_context.agent.id", "ben", Some("ann")),
        ("ann", json!({ "agent": { "id": "ann" }, "agent_id": "ben" }), "rules_context.agent.id", "ben", Some("ann")),
        ("ann", json!({ "agent": { "team_id": "red" } }), "rules_context.agent.team_id", "red", Some("blue")),
        ("ann", json!({ "team_id": "red" }), "rules_context.agent.team_id", "red", Some("blue")),
        ("bare", json!({ "agent_id": "ben" }), "rules_context.agent.id", "ben", None),
    ] {
        let body = json!({ "query_text": "x", "rules_context": context });
        assert_mismatch(&with_key(&service, key, RECALL_TEXT, &body).await, field, provided, expected);
    }
    for context in [json!({}), json!({ "agent_id": "ann", "task": "t" }), json!("text"), json!({ "agent": 5 })] {
        let body = json!({ "query_text": "x", "rules_context": context });
        with_key(&service, "ann", RECALL_TEXT, &body).await.ok();
    }
}

#[tokio::test]
async fn auth_w_05_owners_of_a_write_and_of_every_node_are_bound() {
    let service = by_key();
    let nodes = [event("a", "one"), event("b", "two")];
    for (key, name, provided, expected) in [
        ("ann", "producer_agent_id", "ben", Some("ann")),
        ("ann", "owner_agent_id", "ben", Some("ann")),
        ("ann", "owner_team_id", "red", Some("blue")),
        ("team", "owner_agent_id", "ann", None),
        ("team", "producer_agent_id", "ann", None),
        ("bare", "owner_team_id", "blue", None),
        ("admin", "owner_agent_id", "ann", Some("root")),
    ] {
        let mut whole = writing(&nodes);
        whole[name] = json!(provided);
        assert_mismatch(&with_key(&service, key, WRITE, &whole).await, name, provided, expected);
        for at in 0..nodes.len() {
            let mut one = writing(&nodes);
            // Blank around it, as it would be stored.
            one["nodes"][at][name] = json!(format!("\u{a0}{provided} "));
            let answer = with_key(&service, key, WRITE, &one).await;
            assert_mismatch(&answer, &format!("nodes.{at}.{name}"), provided, expected);
        }
    }
    assert_eq!(service.stored().await.commits(), 0, "all or nothing");
    let own = json!({ "owner_agent_id": "ann", "producer_agent_id": " ann ", "owner_team_id": "blue" });
    with_key(&service, "ann", WRITE, &private("own", &own)).await.ok();
    // What is no text is refused as such.
    let answer = with_key(&service, "ann", WRITE, &private("x", &json!({ "owner_agent_id": ["ben"] }))).await;
    assert_eq!(answer.issues()[0].0, "nodes.0.owner_agent_id");
    let odd = json!({ "input_text": "x", "nodes": ["text", 5, null] });
    assert_eq!(with_key(&service, "ann", WRITE, &odd).await.status, 400);
    assert_eq!(with_key(&service, "ann", WRITE, &json!({ "input_text": "x", "nodes": {} })).await.status, 400);
}

#[tokio::test]
async fn auth_what_a_write_leaves_out_is_filled_in() {
    let service = by_key();
    with_key(&service, "ann", WRITE, &private("secret of ann", &json!({}))).await.ok();
    with_key(&service, "team", WRITE, &private("secret of blue", &json!({}))).await.ok();
    let blank = json!({ "input_text": "x", "owner_agent_id": null, "owner_team_id": " ", "producer_agent_id": "",
        "nodes": [{ "client_id": "b", "type": "event", "text_summary": "secret of ben" }] });
    let mut filled = blank.clone();
    filled.as_object_mut().unwrap().remove("owner_team_id");
    with_key(&service, "ben", WRITE, &filled).await.ok();
    service.drain().await;
    assert_eq!(found(&service, "ann").await, ["secret of ann", "secret of blue"]);
    assert_eq!(found(&service, "ben").await, ["secret of ben"]);
    assert_eq!(found(&service, "team").await, ["secret of blue"]);
    assert_eq!(found(&service, "bare").await, [""; 0], "nothing private without a name");
    assert_eq!(found(&service, "admin").await, [""; 0], "an administrator is an agent like others here");
    assert_eq!(found(&service, "other").await, [""; 0], "an agent of the same name elsewhere");
    let meta = json!({ "query_text": "secret", "include_meta": true });
    let answer = with_key(&service, "team", RECALL_TEXT, &meta).await.ok();
    let node = &answer["subgraph"]["nodes"][0];
    assert_eq!((&node["owner_team_id"], &node["owner_agent_id"]), (&json!("blue"), &Value::Null));
    assert_eq!(node["producer_agent_id"], Value::Null);
}

/// W-7: who cannot see a node can neither activate it, nor change the state of a rule, nor report on it.
#[tokio::test]
async fn auth_w_07_what_is_anothers_is_not_operated_on() {
    let service = by_key();
    let rule = json!({ "client_id": "r", "type": "rule", "text_summary": "mine", "slots": { "if": {}, "then": {} } });
    let written = with_key(&service, "ann", WRITE, &writing(&[rule])).await.ok();
    let id = written["nodes"][0]["id"].clone();
    let state = json!({ "rule_node_id": id, "state": "active", "input_text": "x" });
    let report = json!({ "rule_node_id": id, "outcome": "negative", "input_text": "x" });
    let activate = json!({ "client_ids": ["r"], "input_text": "x" });
    let before = service.stored().await;
    for key in ["ben", "bare"] {
        for (path, body) in [("/v1/memory/rules/state", &state), ("/v1/memory/feedback", &report)] {
            let refused = with_key(&service, key, path, body).await;
            assert_eq!(refused.refusal(), (400, "rule_not_found_in_scope".to_owned()), "{key} {path}");
        }
        let refused = with_key(&service, key, "/v1/memory/nodes/activate", &activate).await;
        assert_eq!(refused.refusal(), (400, "nodes_activate_no_resolved_nodes".to_owned()), "{key}");
    }
    assert_eq!(service.stored().await, before);
    with_key(&service, "ann", "/v1/memory/nodes/activate", &activate).await.ok();
    with_key(&service, "ann", "/v1/memory/rules/state", &state).await.ok();
    with_key(&service, "admin", "/v1/memory/feedback", &report).await.ok();
    let reader = with_key(&service, "reader", "/v1/memory/feedback", &report).await;
    assert_eq!(reader.refusal(), (403, "forbidden".to_owned()));
}

/// W-6: also where rules are evaluated, tools chosen and reported on, a context is the caller's own, in whichever spelling
/// and when it names nobody.
#[tokio::test]
async fn auth_w_06_a_context_is_the_callers_own() {
    let service = by_key();
    let rule = json!({ "client_id": "r", "type": "rule", "text_summary": "mine",
                       "slots": { "if": {}, "then": { "tool": { "deny": ["rm"] } } } });
    let written = with_key(&service, "ann", WRITE, &writing(&[rule])).await.ok();
    let state = json!({ "rule_node_id": written["nodes"][0]["id"], "state": "active", "input_text": "x" });
    with_key(&service, "ann", "/v1/memory/rules/state", &state).await.ok();
    let asked = |context: &Value| {
        json!({ "context": context, "candidates": ["rm"], "selected_tool": "rm", "outcome": "neutral", "input_text": "x",
                "strict": false })
    };
    for path in ["/v1/memory/rules/evaluate", "/v1/memory/tools/select", "/v1/memory/tools/feedback"] {
        for (key, expected) in [("ben", Some("ben")), ("bare", None), ("team", None)] {
            for context in [
                json!({ "agent": { "id": " " }, "agent_id": "ann" }),
                json!({ "agent": { "id": "ann" } }),
                json!({ "agent_id": "ann" }),
                json!({ "agent": { "id": null }, "agent_id": " ann " }),
            ] {
                let refused = with_key(&service, key, path, &asked(&context)).await;
                assert_mismatch(&refused, "context.agent.id", "ann", expected);
            }
        }
    }
    for context in [json!({}), Value::Null, json!("text")] {
        for (key, matched) in [("ann", 1), ("ben", 0), ("bare", 0), ("admin", 0)] {
            let found = with_key(&service, key, "/v1/memory/rules/evaluate", &asked(&context)).await.ok();
            assert_eq!(found["matched"], matched, "{key} {context}");
            let chosen = with_key(&service, key, "/v1/memory/tools/select", &asked(&context)).await.ok();
            assert_eq!(chosen["selection"]["selected"], if matched == 1 { Value::Null } else { json!("rm") }, "{key}");
            let recalled = json!({ "query_text": "x", "rules_context": context });
            let recalled = with_key(&service, key, RECALL_TEXT, &recalled).await.ok();
            let known = recalled["rules"]["matched"].as_u64().unwrap_or_default();
            assert!(known == matched || context.is_null(), "{key} {context}: {recalled}");
        }
    }
}

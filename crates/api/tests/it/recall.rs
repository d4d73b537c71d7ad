//! What a recall takes and gives.

use std::time::Duration;

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};
use std::net::SocketAddr;

use crate::harness::{Answer, RECALL, RECALL_TEXT, Service, event, seeds, vector, warnings, writing};

/// Notes that are all about the harbour, one linked to the next.
async fn harbour(notes: usize) -> Service {
    let service = Service::start();
    let nodes: Vec<Value> = (0..notes).map(|n| event(&format!("e{n}"), &format!("harbour note number{n}"))).collect();
    let edges: Vec<Value> = (1..notes)
        .map(|n| {
            let (src, dst) = (format!("e{}", n - 1), format!("e{n}"));
            json!({ "type": "related_to", "src": { "client_id": src }, "dst": { "client_id": dst }, "weight": 0.8 })
        })
        .collect();
    service.write(&json!({ "input_text": "x", "nodes": nodes, "edges": edges })).await;
    service
}

fn count(answer: &Value, path: &str) -> usize {
    answer.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("no list at {path}")).len()
}

#[tokio::test]
async fn knobs_bound_the_answer() {
    let service = harbour(40).await;
    let answer = service
        .recall_text(&json!({ "query_text": "harbour", "limit": 5, "max_nodes": 7, "max_edges": 3, "ranked_limit": 4 }))
        .await;
    assert_eq!(count(&answer, "/seeds"), 5);
    assert!(count(&answer, "/subgraph/nodes") <= 7 && count(&answer, "/subgraph/edges") <= 3);
    assert_eq!(count(&answer, "/ranked"), 4);
    let all = service.ask("harbour").await;
    assert_eq!(count(&all, "/seeds"), 24, "the default of the profile strict_edges");
}

#[tokio::test]
async fn null_knobs_and_null_rules_count_as_absent() {
    let service = harbour(30).await;
    let nulls = json!({
        "query_text": "harbour", "limit": null, "neighborhood_hops": null, "max_nodes": null, "max_edges": null,
        "ranked_limit": null, "min_edge_weight": null, "min_edge_confidence": null, "rules_context": null,
    });
    assert_eq!(service.recall_text(&nulls).await, service.ask("harbour").await);
}

#[tokio::test]
async fn weak_edges_are_left_out() {
    let service = harbour(3).await;
    let weights = |min: f64| json!({ "query_text": "harbour", "min_edge_weight": min });
    assert_eq!(count(&service.recall_text(&weights(0.8)).await, "/subgraph/edges"), 2);
    assert_eq!(count(&service.recall_text(&weights(0.81)).await, "/subgraph/edges"), 0);
    let confident = json!({ "query_text": "harbour", "min_edge_confidence": 0.51 });
    assert_eq!(count(&service.recall_text(&confident).await, "/subgraph/edges"), 0);
}

#[tokio::test]
async fn one_hop_reaches_less_than_two() {
    let service = harbour(4).await;
    service.drain().await;
    let reached = async |hops: u64| {
        let body = json!({ "query_embedding": vector("harbour note number0"), "limit": 1, "neighborhood_hops": hops });
        count(&service.recall(&body).await, "/subgraph/nodes")
    };
    assert_eq!((reached(1).await, reached(2).await), (2, 3));
}

#[tokio::test]
async fn a_budget_bounds_the_context() {
    let service = harbour(40).await;
    let text = async |budget: u64| {
        let body = json!({ "query_text": "harbour", "token_budget": budget, "max_nodes": 200, "limit": 200 });
        let answer = service.recall_text(&body).await;
        answer["context"]["text"].as_str().unwrap().to_owned()
    };
    let unlimited = service.ask("harbour").await["context"]["text"].as_str().unwrap().to_owned();
    for budget in [1, 30, 100, 400] {
        let text = text(budget).await;
        assert!(text.len() <= budget as usize * 4, "{budget} tokens: {} bytes", text.len());
        assert_eq!(text.is_empty(), budget == 1);
    }
    let generous = text(100_000).await;
    assert_eq!(generous.lines().count(), 41, "a budget that has room is filled");
    assert!(unlimited.lines().count() < 41, "without one the reference's limits hold");
}

#[tokio::test]
async fn metadata_is_shown_on_demand_only() {
    let service = harbour(2).await;
    let plain = service.ask("harbour").await;
    let with_meta = service.recall_text(&json!({ "query_text": "harbour", "include_meta": true })).await;
    let commit = &with_meta["subgraph"]["nodes"][0]["commit_id"];
    assert!(commit.is_string() && with_meta["subgraph"]["edges"][0]["commit_id"] == *commit);
    assert!(plain["subgraph"]["nodes"][0].get("commit_id").is_none());
    assert!(plain["subgraph"]["edges"][0].get("commit_id").is_none());
    assert!(plain.get("debug").is_none());
    let debug = service.recall_text(&json!({ "query_text": "harbour", "return_debug": true })).await;
    assert!(debug["subgraph"]["nodes"][0].get("commit_id").is_none(), "debugging alone adds no metadata");
}

#[tokio::test]
async fn rules_are_evaluated_when_a_context_is_given() {
    let service = harbour(1).await;
    for context in [json!({}), json!(false), json!({ "intent": "sail" })] {
        let body = json!({ "query_text": "harbour", "rules_context": context, "rules_include_shadow": true, "rules_limit": 5 });
        let answer = service.recall_text(&body).await;
        assert_eq!((&answer["rules"]["considered"], &answer["rules"]["matched"]), (&json!(0), &json!(0)));
        assert_eq!(answer["rules"]["applied"]["policy"], json!({ "tool": {} }));
        assert_eq!(answer["rules"]["applied"]["shadow_policy"], json!({ "tool": {} }));
    }
    let without = service.recall_text(&json!({ "query_text": "harbour", "rules_context": null })).await;
    assert!(without.get("rules").is_none());
}

#[tokio::test]
async fn the_question_is_normalised_and_redacted() {
    let service = Service::start();
    service.write(&writing(&[event("e1", "call bob@x.com today")])).await;
    let answer = service.ask("  what of\n bob@x.com  ? ").await;
    assert_eq!(answer["query"]["text"], "what of [EMAIL#581d5f19] ?");
    assert_eq!(answer["query"]["embedding_provider"], "fake:deterministic");
    assert!(seeds(&answer).contains("call [EMAIL#581d5f19] today"), "equal addresses have equal tokens");
}

#[tokio::test]
async fn a_question_of_white_space_finds_nothing_and_says_why() {
    let service = harbour(1).await;
    let answer = service.ask(" \u{a0}\u{feff}\n ").await;
    assert_eq!((warnings(&answer), count(&answer, "/seeds")), (vec!["blank_query"], 0));
}

#[tokio::test]
async fn a_long_question_is_answered() {
    let service = harbour(1).await;
    let answer = service.ask(&"harbour ".repeat(20_000)).await;
    assert_eq!(count(&answer, "/seeds"), 1);
}

#[tokio::test]
async fn a_node_is_found_by_its_id_and_client_id() {
    let service = Service::start();
    let written = service.write(&writing(&[event("order-17", "three barrels"), event("order-18", "two sacks")])).await;
    let id = written["nodes"][1]["id"].as_str().unwrap();
    assert!(seeds(&service.ask("what was in order-17?").await).contains("three barrels"));
    assert!(seeds(&service.ask(&format!("and {id}")).await).contains("two sacks"));
}

#[tokio::test]
async fn an_answer_names_the_newest_commit_it_includes() {
    let service = harbour(1).await;
    assert_eq!(service.ask("harbour").await["as_of_commit"], 1);
    let written = service.write(&writing(&[event("later", "harbour again")])).await;
    let body = json!({ "query_text": "harbour", "min_commit": written["commit_seq"] });
    assert_eq!(service.recall_text(&body).await["as_of_commit"], 2);
}

#[tokio::test]
async fn a_recall_waits_for_the_commit_it_asks_for() {
    let service = harbour(1).await;
    let later = writing(&[event("later", "harbour again")]);
    let body = json!({ "query_text": "again", "min_commit": 2, "max_wait_ms": 10_000 });
    let (found, written) = tokio::join!(service.recall_text(&body), service.write(&later));
    assert_eq!((&found["as_of_commit"], &written["commit_seq"]), (&json!(2), &json!(2)));
    assert!(seeds(&found).contains("harbour again"));
}

#[tokio::test]
async fn a_commit_that_does_not_come_is_a_conflict() {
    let service = harbour(1).await;
    for body in
        [json!({ "query_text": "x", "min_commit": 2 }), json!({ "query_text": "x", "min_commit": 2, "max_wait_ms": 1 })]
    {
        let answer = service.post(RECALL_TEXT, &body).await;
        assert_eq!(answer.refusal(), (409, "min_commit_not_reached".to_owned()));
        assert_eq!(answer.json()["details"], json!({ "min_commit": 2, "as_of_commit": 1 }));
    }
}

#[tokio::test]
async fn clock_and_question_do_not_change_what_is_stored() {
    let service = harbour(3).await;
    let before = service.stored().await;
    service.clock.advance(Duration::from_secs(60));
    service.ask("harbour").await;
    service.recall(&json!({ "query_embedding": vector("x") })).await;
    service.engine.flush().await;
    assert_eq!(service.stored().await, before);
}

/// A recall that wants to see embeddings, from an address and with a token.
async fn debugging(service: &Service, peer: Option<&str>, token: Option<&str>, body: &Value) -> Answer {
    let mut request = Request::post(RECALL).header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header("x-admin-token", token);
    }
    if let Some(peer) = peer {
        request = request.extension(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
    }
    service.send(request.body(Body::from(body.to_string())).unwrap()).await
}

fn embeddings(limit: u64) -> Value {
    json!({
        "query_embedding": vector("harbour note number0"), "include_embeddings": true, "return_debug": true, "limit": limit,
    })
}

#[tokio::test]
async fn embeddings_are_shown_in_short_to_those_who_may() {
    let service = harbour(9).await;
    service.drain().await;
    let answer = debugging(&service, Some("127.0.0.1:9"), None, &embeddings(20)).await.ok();
    let shown = answer["debug"]["embeddings"].as_array().unwrap();
    assert_eq!(shown.len(), 5, "of the first five seeds");
    assert_eq!(shown[0]["dims"], 16);
    assert_eq!(shown[0]["preview"].as_array().unwrap().len(), 16);
    assert_eq!(shown[0]["sha256"].as_str().unwrap().len(), 64);
    for node in answer["subgraph"]["nodes"].as_array().unwrap() {
        assert!(node.get("embedding").is_none());
    }
}

#[tokio::test]
async fn the_digest_of_a_shown_embedding_is_of_its_json_text() {
    let service = harbour(1).await;
    service.drain().await;
    let answer = debugging(&service, Some("127.0.0.1:9"), None, &embeddings(20)).await.ok();
    let shown = &answer["debug"]["embeddings"][0];
    // At sixteen dimensions the preview is the whole vector.
    assert_eq!(shown["sha256"], aionis_core::canon::sha256_hex(shown["preview"].to_string()));
}

#[tokio::test]
async fn embeddings_are_refused_with_a_code_for_each_reason() {
    let open = harbour(1).await;
    let guarded = Service::with(|setup| setup.api.admin_token = Some("s3cret".to_owned()));
    let closed = Service::with(|setup| setup.api.loopback_may_debug = false);
    let mut without_debug = embeddings(20);
    without_debug["return_debug"] = json!(false);
    let loopback = Some("127.0.0.1:9");
    let not_allowed = "debug_embeddings_not_allowed";
    for (service, peer, token, body, code) in [
        (&open, loopback, None, &without_debug, "debug_embeddings_requires_return_debug"),
        (&open, loopback, None, &embeddings(21), "debug_embeddings_limit_too_high"),
        (&open, Some("192.0.2.1:9"), None, &embeddings(20), not_allowed),
        (&open, None, None, &embeddings(20), not_allowed),
        (&open, Some("192.0.2.1:9"), Some("s3cret"), &embeddings(20), not_allowed),
        (&guarded, loopback, None, &embeddings(20), not_allowed),
        (&guarded, loopback, Some("s3cre"), &embeddings(20), not_allowed),
        (&closed, loopback, None, &embeddings(20), not_allowed),
    ] {
        let answer = debugging(service, peer, token, body).await;
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{peer:?} {token:?}");
        assert!(!answer.json()["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(debugging(&guarded, Some("192.0.2.1:9"), Some("s3cret"), &embeddings(20)).await.status, StatusCode::OK);
    assert_eq!(debugging(&open, Some("[::ffff:127.0.0.1]:9"), None, &embeddings(20)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_default_limit_is_too_high_to_show_embeddings() {
    let service = harbour(1).await;
    let mut body = embeddings(1);
    body.as_object_mut().unwrap().remove("limit");
    let answer = debugging(&service, Some("127.0.0.1:9"), None, &body).await;
    assert_eq!(answer.refusal(), (400, "debug_embeddings_limit_too_high".to_owned()));
}

#[tokio::test]
async fn keys_stand_in_the_documented_order() {
    let service = harbour(2).await;
    let body = json!({ "query_text": "harbour", "include_meta": true, "include_slots": true, "return_debug": true });
    let answer = service.post(RECALL_TEXT, &body).await;
    let raw = answer.text();
    let mut at = 0;
    for key in [
        "{\"scope\"",
        "\"tenant_id\"",
        "\"seeds\":[{\"id\"",
        "\"type\"",
        "\"title\"",
        "\"text_summary\"",
        "\"tier\"",
        "\"salience\"",
        "\"confidence\"",
        "\"similarity\"",
        "\"subgraph\":{\"nodes\":[{\"id\"",
        "\"type\"",
        "\"title\"",
        "\"text_summary\"",
        "\"slots\"",
        "\"raw_ref\"",
        "\"evidence_ref\"",
        "\"embedding_status\"",
        "\"embedding_model\"",
        "\"memory_lane\"",
        "\"producer_agent_id\"",
        "\"owner_agent_id\"",
        "\"owner_team_id\"",
        "\"created_at\"",
        "\"updated_at\"",
        "\"last_activated\"",
        "\"salience\"",
        "\"importance\"",
        "\"confidence\"",
        "\"commit_id\"",
        "\"edges\":[{\"from_id\"",
        "\"to_id\"",
        "\"type\"",
        "\"weight\"",
        "\"commit_id\"",
        "\"ranked\":[{\"id\"",
        "\"activation\"",
        "\"score\"",
        "\"context\":{\"text\"",
        "\"items\":[{",
        "\"citations\":[{",
        "\"debug\":{\"neighborhood_counts\"",
        "\"query\":{",
    ] {
        at += raw[at..].find(key).unwrap_or_else(|| panic!("{key} is not after byte {at} of {raw}")) + key.len();
    }
}

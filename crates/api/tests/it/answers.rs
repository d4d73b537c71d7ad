//! Whole answers, member by member. Everything in them is deterministic but the time spent.

use aionis_core::recall::{Profile, ProfilePolicy};
use insta::{assert_json_snapshot, rounded_redaction};
use serde_json::{Value, json};

use crate::harness::{RECALL, RECALL_TEXT, Service, WRITE, vector};

/// An event about an entity within a topic, with everything a node can carry.
fn story() -> Value {
    json!({
        "input_text": "Ada signed the lease of the harbour office.",
        "actor": "clerk",
        "model_version": "m-1",
        "prompt_version": "p-1",
        "memory_lane": "shared",
        "producer_agent_id": "scribe",
        "nodes": [
            {
                "client_id": "evt:lease", "type": "event", "title": "Lease",
                "text_summary": "Ada signed the lease, reach her at ada@example.com or 10.0.0.1",
                "slots": { "zeta": 1, "alpha": { "mail": "ada@example.com" }, "mid": [true, null] },
                "raw_ref": "s3://raw/1", "evidence_ref": "s3://evidence/1",
                "salience": 0.9, "importance": 0.8, "confidence": 0.7,
            },
            { "client_id": "ent:ada", "type": "entity", "title": "Ada" },
            {
                "client_id": "top:lease", "type": "topic", "title": "Leases", "owner_team_id": "estates",
                "slots": { "topic_state": "active", "member_count": 3 },
            },
        ],
        "edges": [
            { "type": "related_to", "src": { "client_id": "evt:lease" }, "dst": { "client_id": "ent:ada" }, "weight": 0.9 },
            { "type": "part_of", "src": { "client_id": "evt:lease" }, "dst": { "client_id": "top:lease" }, "confidence": 0.6 },
        ],
    })
}

async fn told() -> Service {
    let service = Service::start();
    service.write(&story()).await;
    service
}

/// Compares a recall; scores are rounded, because logarithms may differ in the last digit between machines.
fn assert_answer(name: &str, answer: &Value) {
    assert_json_snapshot!(name, answer, {
        ".seeds[].similarity" => rounded_redaction(9),
        ".ranked[].activation" => rounded_redaction(9),
        ".ranked[].score" => rounded_redaction(9),
        ".debug.timings_ms" => "[timings]",
    });
}

#[tokio::test]
async fn a_write() {
    let service = Service::start();
    assert_json_snapshot!("write", service.write(&story()).await);
}

#[tokio::test]
async fn the_same_write_again() {
    let service = told().await;
    assert_json_snapshot!("write_again", service.write(&story()).await);
    assert_eq!(service.stored().await.commits(), 1);
}

#[tokio::test]
async fn an_update_of_one_node_of_three() {
    let service = told().await;
    let mut body = story();
    body["nodes"][1]["text_summary"] = json!("Ada keeps the harbour office");
    assert_json_snapshot!("write_update", service.write(&body).await);
}

#[tokio::test]
async fn a_recall_by_text_with_everything_shown() {
    let service = told().await;
    service.drain().await;
    let answer = service
        .recall_text(&json!({
            "query_text": "  who signed the\tlease? ada@example.com ",
            "include_meta": true, "include_slots_preview": true, "slots_preview_keys": 2, "return_debug": true,
        }))
        .await;
    assert_answer("recall_text", &answer);
}

#[tokio::test]
async fn a_recall_by_vector_with_everything_shown() {
    let service = told().await;
    service.drain().await;
    let answer = service
        .recall(&json!({
            "query_embedding": vector("Ada"), "limit": 1, "include_meta": true, "include_slots": true,
            "include_slots_preview": true, "return_debug": true,
        }))
        .await;
    assert_answer("recall", &answer);
}

#[tokio::test]
async fn a_recall_with_nothing_asked_for() {
    let service = told().await;
    assert_answer("recall_text_plain", &service.ask("lease").await);
}

#[tokio::test]
async fn a_recall_that_finds_nothing() {
    let service = Service::start();
    let by_vector = service.recall(&json!({ "query_embedding": vector("x") })).await;
    assert_answer("recall_empty", &by_vector);
    let by_text = service.recall_text(&json!({ "query_text": "nothing", "return_debug": true })).await;
    assert_answer("recall_text_empty", &by_text);
}

#[tokio::test]
async fn profiles_are_named() {
    for profile in Profile::ALL {
        let service = Service::with(|setup| setup.profiles = ProfilePolicy::new(profile));
        let answer = service.recall_text(&json!({ "query_text": "x", "return_debug": true })).await;
        assert_eq!(answer["debug"]["profile"], profile.as_str());
    }
}

#[tokio::test]
async fn refusals() {
    let service = told().await;
    let mut shown = serde_json::Map::new();
    for (name, path, body) in [
        (
            "several mistakes at once",
            WRITE,
            json!({ "nodes": [{ "type": "evnt", "salience": 2 }, {}], "edges": [{ "type": "part_of" }] }),
        ),
        (
            "unknown edge end",
            WRITE,
            json!({
                "input_text": "x",
                "edges": [{ "type": "part_of", "src": { "client_id": "evt:lease" }, "dst": { "client_id": "gone" } }],
            }),
        ),
        (
            "unknown parent",
            WRITE,
            json!({ "input_text": "x", "parent_commit_id": "00000000-0000-4000-8000-000000000000" }),
        ),
        (
            "id and client_id apart",
            WRITE,
            json!({
                "input_text": "x",
                "nodes": [{ "type": "event", "client_id": "a", "id": "00000000-0000-4000-8000-000000000000" }],
            }),
        ),
        ("private rule", WRITE, json!({ "input_text": "x", "nodes": [{ "type": "rule", "client_id": "r" }] })),
        ("tenant", WRITE, json!({ "input_text": "x", "tenant_id": "../x" })),
        ("scope", WRITE, json!({ "input_text": "x", "scope": "tenant:x::scope:y" })),
        ("dimension", RECALL, json!({ "query_embedding": [1, 2, 3] })),
        ("knobs", RECALL_TEXT, json!({ "query_text": "x", "limit": 0, "neighborhood_hops": 3, "max_edges": 101 })),
        ("too early", RECALL_TEXT, json!({ "query_text": "x", "min_commit": 9, "max_wait_ms": 1 })),
        ("embeddings without debugging", RECALL, json!({ "query_embedding": vector("x"), "include_embeddings": true })),
        ("unknown route", "/v1/memory/none", json!({})),
    ] {
        let answer = service.post(path, &body).await;
        shown.insert(name.to_owned(), json!({ "status": answer.status.as_u16(), "body": answer.json() }));
    }
    assert_json_snapshot!("refusals", Value::Object(shown));
}

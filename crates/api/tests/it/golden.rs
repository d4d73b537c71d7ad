//! Values the reference gives too (runtime specification, appendix A).

use std::sync::Arc;

use aionis_embed::fake::FakeEmbedder;
use serde_json::{Value, json};

use crate::harness::{Service, Vectors};

const REFERENCE_DIM: usize = 1536;

fn reference_like() -> Service {
    Service::with(|setup| {
        setup.vectors = Vectors::From(Arc::new(FakeEmbedder::new(REFERENCE_DIM)));
        setup.dim = REFERENCE_DIM;
    })
}

fn golden_write() -> Value {
    json!({
        "input_text": "hello  world",
        "nodes": [{
            "client_id": " a1 ",
            "type": "event",
            "text_summary": "Mail bob@x.com  from 10.0.0.1",
            "memory_lane": "shared",
        }],
    })
}

#[tokio::test]
async fn the_golden_write_is_stored_as_the_reference_stores_it() {
    let service = reference_like();
    let written = service.write(&golden_write()).await;
    assert_eq!(written["nodes"][0]["id"], "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e");
    assert_eq!(written["nodes"][0]["client_id"], "a1");
    let found = service.ask("who sent the mail?").await;
    assert_eq!(found["seeds"][0]["id"], "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e");
    assert_eq!(found["seeds"][0]["text_summary"], "Mail [EMAIL#581d5f19] from [IP#f5047344]");
    let text = found["context"]["text"].as_str().unwrap();
    assert_eq!(
        text,
        "# Supporting Events / Evidence\n- Mail [EMAIL#581d5f19] from [IP#f5047344] \
         (node:aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e)"
    );
}

#[tokio::test]
async fn one_seed_of_similarity_one_scores_as_in_the_reference() {
    let service = reference_like();
    service.write(&golden_write()).await;
    service.drain().await;
    let question = FakeEmbedder::new(REFERENCE_DIM).vector("Mail [EMAIL#581d5f19] from [IP#f5047344]");
    let found = service.recall(&json!({ "query_embedding": question })).await;
    let (seed, ranked) = (&found["seeds"][0], &found["ranked"][0]);
    assert!((seed["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{seed}");
    assert!((ranked["activation"].as_f64().unwrap() - 0.875).abs() < 1e-6, "{ranked}");
    assert!((ranked["score"].as_f64().unwrap() - 0.762_499_999_999_999_8).abs() < 1e-6, "{ranked}");
}

#[tokio::test]
async fn derived_ids_are_the_references() {
    let service = Service::start();
    let edges = json!({
        "input_text": "x",
        "nodes": [{ "client_id": "b1", "type": "entity" }, { "client_id": "b2", "type": "entity" }],
        "edges": [{ "type": "part_of", "src": { "client_id": "b2" }, "dst": { "client_id": "b1" } }],
    });
    assert_eq!(service.write(&edges).await["edges"][0]["id"], "c3e56a64-122a-5729-a1ea-9d1cfe2a4a4f");

    let anonymous = json!({ "input_text": "x", "nodes": [{ "type": "entity", "title": "Bob" }] });
    let written = service.write(&anonymous).await;
    assert_eq!(written["nodes"][0]["id"], "fd8f0cf1-d8cb-5be8-ba9a-78b00715a11e");
    assert!(written["nodes"][0].get("client_id").is_none(), "{written}");

    let of_a_tenant = json!({
        "tenant_id": "acme", "scope": "s1", "input_text": "x", "nodes": [{ "client_id": "a1", "type": "event" }],
    });
    assert_eq!(service.write(&of_a_tenant).await["nodes"][0]["id"], "68f9eea0-3d7f-53fe-a9ff-df3865352647");
}

#[tokio::test]
async fn an_anonymous_node_is_named_by_its_known_members_as_sent() {
    let service = Service::start();
    let node = json!({ "type": "entity", "title": "Bob", "not_a_member": [1, 2] });
    let written = service.write(&json!({ "input_text": "x", "nodes": [node] })).await;
    assert_eq!(written["nodes"][0]["id"], "fd8f0cf1-d8cb-5be8-ba9a-78b00715a11e", "unknown members do not count");
    let spaced = json!({ "type": "entity", "title": "Bob " });
    let other = service.write(&json!({ "input_text": "x", "nodes": [spaced] })).await;
    assert_ne!(other["nodes"][0]["id"], written["nodes"][0]["id"], "the id is derived before any trimming");
}

/// The sample of the specification, with ids of this scope.
#[tokio::test]
async fn the_context_has_the_references_layout() {
    let service = Service::start();
    let cited = service
        .write(
            &json!({ "input_text": "x", "nodes": [shared("event", "e1", json!({ "text_summary": "raw event 1" }))] }),
        )
        .await;
    let cited = cited["nodes"][0]["id"].as_str().unwrap().to_owned();
    let slots = json!({
        "summary_kind": "compression_rollup", "source_event_count": 7, "citations": [{ "node_id": cited }],
    });
    let nodes = json!([
        shared("concept", "roll", json!({ "title": "Roll", "text_summary": "summary", "slots": slots })),
        shared("entity", "ent", json!({ "title": "Ent" })),
        shared("entity", "sum", json!({ "text_summary": "sum only" })),
        shared("event", "e2", json!({ "text_summary": "raw event 2" })),
    ]);
    let written = service.write(&json!({ "input_text": "x", "nodes": nodes })).await;
    let id = |at: usize| written["nodes"][at]["id"].as_str().unwrap();
    let found = service.ask("roll summary, ent, sum, raw event").await;
    let expected = format!(
        "# Topics / Concepts\n\
         - Roll: summary (node:{roll}, compression, covers=7)\n  evidence_node={cited}\n\n\
         # Entities\n\
         - {first}\n- {second}\n\n\
         # Supporting Events / Evidence\n\
         - raw event 2 (node:{event})",
        roll = id(0),
        first = format_args!("Ent (node:{})", id(1)),
        second = format_args!("{0}: sum only (node:{0})", id(2)),
        event = id(3),
    );
    assert_eq!(found["context"]["text"], expected);
}

fn shared(node_type: &str, client_id: &str, more: Value) -> Value {
    let mut node = json!({ "type": node_type, "client_id": client_id, "memory_lane": "shared" });
    let Value::Object(more) = more else { panic!("an object") };
    node.as_object_mut().unwrap().extend(more);
    node
}

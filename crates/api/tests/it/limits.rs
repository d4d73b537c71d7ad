//! Sizes, queues and deadlines.

use std::{convert::Infallible, time::Duration};

use aionis_engine::GateSettings;
use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::json;

use crate::harness::{RECALL, RECALL_TEXT, Service, WRITE, event, vector, writing};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_unread() {
    let service = Service::start();
    for path in [WRITE, RECALL, RECALL_TEXT] {
        let length = (6 * MIB).to_string();
        let unread = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let answer = service.post_raw(path, &[("content-length", &length)], unread).await;
        assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()), "{path}");
        assert_eq!(answer.json()["details"], json!({ "max_bytes": 5 * MIB }));
    }
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused() {
    let service = Service::start();
    for path in [WRITE, RECALL, RECALL_TEXT] {
        let chunks = stream::iter((0..96).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'['; MIB / 16]))));
        let answer = service.post_raw(path, &[], Body::from_stream(chunks)).await;
        assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()), "{path}");
    }
    assert_eq!(service.stored().await.commits(), 0);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let service = Service::with(|setup| setup.api.body_max_bytes = 4_096);
    let sized = |size: usize| {
        let empty = json!({ "input_text": "x", "padding": "" }).to_string().len();
        json!({ "input_text": "x", "padding": "p".repeat(size - empty) }).to_string()
    };
    assert_eq!(service.post_raw(WRITE, &[], sized(4_096)).await.status.as_u16(), 200);
    assert_eq!(service.post_raw(WRITE, &[], sized(4_097)).await.status.as_u16(), 413);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_callers() {
    let service = Service::start();
    let chunks = stream::iter([Ok(Bytes::from("{\"input_text\":")), Err(std::io::Error::other("reset by peer"))]);
    let answer = service.post_raw(WRITE, &[], Body::from_stream(chunks)).await;
    assert_eq!(answer.refusal(), (400, "body_unreadable".to_owned()));
    assert_eq!(service.stored().await.commits(), 0);
}

#[tokio::test]
async fn w_19_too_many_items_are_refused_with_their_number() {
    let service = Service::start();
    let nodes = vec![json!({ "type": "event" }); 100_000];
    let answer = service.post(WRITE, &json!({ "input_text": "x", "nodes": nodes })).await;
    assert_eq!(answer.refusal(), (413, "batch_too_large".to_owned()));
    assert_eq!(answer.json()["details"], json!({ "field": "nodes", "count": 100_000, "max": 5_000 }));
    let edge = json!({ "type": "part_of", "src": { "client_id": "a" }, "dst": { "client_id": "b" } });
    let answer = service.post(WRITE, &json!({ "input_text": "x", "edges": vec![edge; 20_001] })).await;
    assert_eq!(answer.json()["details"], json!({ "field": "edges", "count": 20_001, "max": 20_000 }));
    assert_eq!(service.stored().await.commits(), 0);
}

#[tokio::test]
async fn the_same_mistake_a_thousand_times_is_told_a_hundred_times() {
    let service = Service::start();
    let answer = service.post(WRITE, &json!({ "input_text": "x", "nodes": vec![json!({}); 1_000] })).await;
    assert_eq!((answer.status.as_u16(), answer.issues().len()), (400, 100));
}

#[tokio::test]
async fn labels_and_references_have_a_longest_length() {
    let service = Service::start();
    let long = |bytes: usize| "x".repeat(bytes);
    for (field, max) in [
        ("actor", 512),
        ("model_version", 512),
        ("prompt_version", 512),
        ("producer_agent_id", 512),
        ("owner_agent_id", 512),
        ("owner_team_id", 512),
    ] {
        for (bytes, status) in [(max, 200), (max + 1, 400)] {
            let mut body = json!({ "input_text": "x" });
            body[field] = json!(long(bytes));
            assert_eq!(service.post(WRITE, &body).await.status.as_u16(), status, "{field} of {bytes} bytes");
        }
    }
    for (field, max) in [
        ("client_id", 512),
        ("producer_agent_id", 512),
        ("owner_agent_id", 512),
        ("owner_team_id", 512),
        ("raw_ref", 4_096),
        ("evidence_ref", 4_096),
        ("embedding_model", 512),
    ] {
        for (bytes, status) in [(max, 200), (max + 1, 400)] {
            let mut body = writing(&[json!({ "type": "event" })]);
            body["nodes"][0][field] = json!(long(bytes));
            let answer = service.post(WRITE, &body).await;
            assert_eq!(answer.status.as_u16(), status, "nodes.0.{field} of {bytes} bytes");
            if status == 400 {
                assert_eq!(answer.issues()[0].0, format!("nodes.0.{field}"));
            }
        }
    }
    for field in ["consumer_agent_id", "consumer_team_id"] {
        let mut body = json!({ "query_text": "x" });
        body[field] = json!(long(513));
        assert_eq!(service.post(RECALL_TEXT, &body).await.issues()[0].0, field);
    }
}

#[tokio::test]
async fn a_full_gate_refuses_with_a_pause() {
    let narrow = GateSettings { max_inflight: 1, max_queue: 0, queue_timeout: Duration::from_secs(30) };
    let service = Service::with(|setup| (setup.recall_gate, setup.write_gate) = (narrow, narrow));
    let (writing_now, recalling_now) = (
        service.engine.write_gate().enter("default").await.unwrap(),
        service.engine.recall_gate().enter("default").await.unwrap(),
    );
    let recall = json!({ "query_embedding": vector("x") });
    for (path, body, code) in [
        (WRITE, &writing(&[event("e1", "one")]), "write_backpressure"),
        (RECALL, &recall, "recall_backpressure"),
        (RECALL_TEXT, &json!({ "query_text": "x" }), "recall_backpressure"),
    ] {
        let answer = service.post(path, body).await;
        assert_eq!(answer.refusal(), (429, code.to_owned()));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.json()["details"], json!({ "inflight": 1, "queued": 0, "max_inflight": 1, "max_queue": 0 }));
    }
    drop((writing_now, recalling_now));
    assert_eq!(
        service.write(&writing(&[event("e1", "one")])).await["commit_seq"],
        1,
        "nothing of the refused write was kept"
    );
    service.recall(&recall).await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_told_so() {
    let narrow = GateSettings { max_inflight: 1, max_queue: 1, queue_timeout: Duration::from_secs(30) };
    let service = Service::with(|setup| {
        setup.write_gate = narrow;
        setup.api.request_timeout = Duration::from_millis(5);
    });
    let held = service.engine.write_gate().enter("default").await.unwrap();
    let answer = service.post(WRITE, &writing(&[event("e1", "one")])).await;
    assert_eq!(answer.refusal(), (503, "deadline_exceeded".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(service.engine.write_gate().load(), (1, 0), "it does not wait any more");
    drop(held);
    assert_eq!(service.stored().await.commits(), 0);
}

#[tokio::test]
async fn deep_nesting_is_refused_and_the_deepest_allowed_comes_back() {
    let service = Service::start();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for deep in [10_000, 1_000_000] {
        for (path, body) in [
            (
                WRITE,
                format!(
                    "{{\"input_text\":\"x\",\"nodes\":[{{\"type\":\"event\",\"slots\":{{\"a\":{}}}}}]}}",
                    nested(deep)
                ),
            ),
            (WRITE, nested(deep)),
            (RECALL, format!("{{\"query_embedding\":{}}}", nested(deep))),
            (RECALL_TEXT, format!("{{\"query_text\":\"x\",\"rules_context\":{}}}", "{\"a\":".repeat(deep))),
        ] {
            let answer = service.post_raw(path, &[], body).await;
            assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()));
        }
    }
    assert_eq!(service.stored().await.commits(), 0);

    // Slots of 64 levels: the object itself and 63 arrays.
    let sized = |depth: usize| {
        let body = writing(&[
            json!({ "client_id": "deep", "type": "event", "memory_lane": "shared", "title": "deep", "slots": { "a": 0 } }),
        ]);
        body.to_string().replace("{\"a\":0}", &format!("{{\"a\":{}}}", nested(depth)))
    };
    for too_deep in [64, 100, 123] {
        let answer = service.post_raw(WRITE, &[], sized(too_deep)).await;
        assert_eq!(
            answer.issues()[0],
            ("nodes.0.slots".to_owned(), "must not be nested deeper than 64 levels".to_owned())
        );
    }
    service.post_raw(WRITE, &[], sized(63)).await.ok();
    let found = service.recall_text(&json!({ "query_text": "deep", "include_slots": true })).await;
    let shown = found["subgraph"]["nodes"][0]["slots"].to_string();
    assert_eq!(shown, format!("{{\"a\":{}}}", nested(63)), "a reader as strict as this service can read the answer");
    service.assert_sound().await;
}

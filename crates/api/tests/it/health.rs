//! Health, readiness and metrics.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use crate::harness::{OUTBOX_AGE_MAX_S, RECALL_TEXT, Service, Vectors, WRITE, event, recorder, vector, writing};

#[tokio::test]
async fn health_and_life_need_no_store() {
    let service = Service::start();
    assert_eq!(service.get("/health").await.ok(), json!({ "ok": true, "database_target_hash": null }));
    assert_eq!(service.get("/health/live").await.ok(), json!({ "ok": true }));
}

#[tokio::test]
async fn a_fresh_service_is_ready() {
    let service = Service::start();
    assert_eq!(
        service.get("/health/ready").await.ok(),
        json!({
            "ok": true, "engine": "embedded", "store": "ok", "worker": false,
            "embedding": { "provider": "fake:deterministic", "dim": 16, "status": "ready", "hint": null },
            "outbox": { "pending": 0, "dead": 0, "oldest_pending_s": 0 },
            "warnings": [],
        })
    );
}

#[tokio::test]
async fn work_that_is_stuck_makes_the_service_unready_until_it_is_done() {
    let service = Service::start();
    service.write(&writing(&[event("e1", "one")])).await;
    service.clock.advance(Duration::from_secs(OUTBOX_AGE_MAX_S));
    assert!(service.get("/health/ready").await.status.is_success(), "at the limit all is well");
    service.clock.advance(Duration::from_secs(1));
    let stuck = service.get("/health/ready").await;
    assert_eq!(stuck.status, StatusCode::SERVICE_UNAVAILABLE);
    let body = stuck.json();
    assert_eq!(
        (&body["ok"], &body["outbox"]["pending"], &body["outbox"]["oldest_pending_s"]),
        (&json!(false), &json!(1), &json!(301))
    );
    assert!(body["warnings"][0].as_str().unwrap().contains("301 s"), "{body}");
    assert!(service.get("/health").await.status.is_success() && service.get("/health/live").await.status.is_success());

    service.drain().await;
    assert_eq!(service.get("/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE, "as it was just now");
    service.clock.advance(Duration::from_secs(1));
    let body = service.get("/health/ready").await.ok();
    assert_eq!((&body["ok"], &body["outbox"]["pending"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn a_flood_of_health_calls_costs_the_database_nothing() {
    let service = Service::start();
    service.get("/health/ready").await.ok();
    // Whoever asks it from now on fails.
    let database = service.data_dir().join(aionis_store::sqlite::DATABASE_FILE);
    rusqlite::Connection::open(database).unwrap().execute_batch("DROP TABLE memory_outbox").unwrap();
    for _ in 0..200 {
        service.get("/health/ready").await.ok();
    }
    service.clock.advance(Duration::from_secs(1));
    let answer = service.get("/health/ready").await;
    assert_eq!((answer.status, &answer.json()["store"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
}

#[tokio::test]
async fn a_missing_model_is_said_but_keeps_the_service_ready() {
    let service = Service::with(|setup| setup.vectors = Vectors::ModelMissing);
    service.write(&writing(&[event("e1", "one")])).await;
    service.clock.advance(Duration::from_secs(10 * OUTBOX_AGE_MAX_S));
    let body = service.get("/health/ready").await.ok();
    assert_eq!((&body["ok"], &body["embedding"]["status"]), (&json!(true), &json!("model_missing")));
    assert!(body["embedding"]["hint"].is_string() && body["outbox"]["pending"] == 1);
    assert_eq!(body["warnings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_service_without_provider_is_ready() {
    let service = Service::with(|setup| setup.vectors = Vectors::Disabled);
    let body = service.get("/health/ready").await.ok();
    assert_eq!((&body["ok"], &body["embedding"]["status"]), (&json!(true), &json!("disabled")));
}

#[tokio::test]
async fn metrics_need_a_recorder() {
    let service = Service::start();
    assert_eq!(service.get("/metrics").await.refusal(), (404, "metrics_disabled".to_owned()));
}

#[tokio::test]
async fn metrics_count_what_happened_without_naming_tenants() {
    let handle = recorder();
    let service = Service::with(|setup| setup.metrics = Some(handle));
    let mut body = writing(&[event("e1", "one"), event("e2", "two")]);
    body["tenant_id"] = json!("zanzibar");
    service.write(&body).await;
    service.drain().await;
    service.recall_text(&json!({ "query_text": "one", "tenant_id": "zanzibar" })).await;
    service.recall(&json!({ "query_embedding": vector("one") })).await;
    service.post(WRITE, &json!({})).await;
    service.get("/nowhere").await;
    body["input_text"] = json!("again");
    body["nodes"][0]["text_summary"] = json!("waits");
    service.write(&body).await;
    service.post(RECALL_TEXT, &json!({ "query_text": "one", "tenant_id": "zanzibar" })).await;

    service.engine.sample_outbox().await.unwrap();
    let answer = service.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    for name in [
        "aionis_http_requests_total",
        "aionis_http_request_seconds",
        "aionis_commits_total",
        "aionis_nodes_written_total",
        "aionis_recall_seconds",
        "aionis_query_embed_seconds",
        "aionis_recall_with_pending_total",
        "aionis_outbox_pending",
        "aionis_outbox_dead",
        "aionis_outbox_oldest_pending_seconds",
        "aionis_outbox_published_total",
        "aionis_outbox_age_seconds",
        "aionis_vectors_derived_total",
        "aionis_embed_call_seconds",
        "aionis_gate_inflight",
        "aionis_gate_queued",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing in:\n{text}");
    }
    for line in [
        "aionis_outbox_pending 1",
        "aionis_gate_inflight{gate=\"write\"} 0",
        "aionis_http_requests_total{route=\"unmatched\",status=\"404\"}",
        "aionis_http_requests_total{route=\"write\",status=\"400\"}",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("zanzibar") && !text.contains("tenant"), "metrics name no tenant");
}

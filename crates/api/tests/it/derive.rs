//! Before, after and without the worker.

use std::{sync::Arc, time::Duration};

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, Embedder};
use aionis_testkit::fixtures::{Reply, ScriptedEmbedder};
use serde_json::json;

use crate::harness::{DIM, RECALL_TEXT, Service, Vectors, event, seeds, vector, warnings, writing};

#[tokio::test]
async fn a_write_is_found_by_its_words_before_the_worker_ran_and_by_its_vector_after() {
    let service = Service::start();
    service.write(&writing(&[event("e1", "the harbour is closed"), event("e2", "the market is open")])).await;
    service.clock.advance(Duration::from_millis(1_500));

    let by_words = service.ask("harbour").await;
    assert!(seeds(&by_words).contains("the harbour is closed"));
    assert_eq!(by_words["pending"], json!({ "nodes": 2, "oldest_ms": 1_500 }));
    let question = json!({ "query_embedding": vector("the harbour is closed") });
    assert!(seeds(&service.recall(&question).await).is_empty(), "no vector is there yet");

    let round = service.drain().await;
    assert_eq!((round.published, round.vectors, round.failed), (1, 2, 0));
    let by_vector = service.recall(&question).await;
    assert_eq!(by_vector["seeds"][0]["text_summary"], "the harbour is closed");
    assert_eq!(by_vector["pending"], json!({ "nodes": 0, "oldest_ms": null }));
    assert_eq!(service.drain().await.claimed, 0, "nothing is left to do");
}

#[tokio::test]
async fn w_12_an_update_before_the_worker_ran_is_derived_once_from_the_new_text() {
    let service = Service::start();
    service.write(&writing(&[event("e1", "the harbour is closed")])).await;
    service.write(&writing(&[event("e1", "the market is open")])).await;
    service.drain().await;
    let new = service.recall(&json!({ "query_embedding": vector("the market is open") })).await;
    assert!((new["seeds"][0]["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{new}");
    assert_eq!(new["pending"]["nodes"], 0);
}

#[tokio::test]
async fn without_a_provider_text_recall_searches_words_and_says_so() {
    for vectors in [Vectors::Disabled, Vectors::ModelMissing] {
        let service = Service::with(|setup| setup.vectors = vectors);
        service.write(&writing(&[event("e1", "the harbour is closed")])).await;
        let answer = service.ask("harbour").await;
        assert!(seeds(&answer).contains("the harbour is closed"));
        assert_eq!((warnings(&answer), &answer["query"]["embedding_provider"]), (vec!["lexical_only"], &json!("none")));
    }
}

#[tokio::test]
async fn without_a_provider_vectors_of_callers_still_work() {
    let service = Service::with(|setup| setup.vectors = Vectors::Disabled);
    let mut node = event("e1", "carried along");
    node["embedding"] = json!(vector("x"));
    service.write(&writing(&[node])).await;
    let answer = service.recall(&json!({ "query_embedding": vector("x") })).await;
    assert!(seeds(&answer).contains("carried along") && warnings(&answer).is_empty());
}

#[tokio::test]
async fn a_provider_that_fails_a_question_is_named_with_its_status() {
    for (kind, status, code, provider_status, retry_after) in [
        (EmbedErrorKind::RateLimited, 429, "upstream_embedding_rate_limited", 429, Some("30")),
        (EmbedErrorKind::Unavailable, 503, "upstream_embedding_unavailable", 503, Some("1")),
        (EmbedErrorKind::Unauthorized, 502, "upstream_embedding_bad_response", 401, None),
        (EmbedErrorKind::Rejected, 502, "upstream_embedding_bad_response", 400, None),
        (EmbedErrorKind::BadResponse, 502, "upstream_embedding_bad_response", 200, None),
    ] {
        let embedder = Arc::new(ScriptedEmbedder::new(DIM));
        embedder.then(Reply::fail(kind));
        let service = Service::with(|setup| setup.vectors = Vectors::From(embedder));
        let answer = service.post(RECALL_TEXT, &json!({ "query_text": "x" })).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()));
        assert_eq!(answer.json()["details"], json!({ "provider_status": provider_status }));
        assert_eq!(answer.header("retry-after"), retry_after);
        assert!(!answer.text().contains("scripted"), "what the provider said is for the log");
        assert!(
            service.post(RECALL_TEXT, &json!({ "query_text": "x" })).await.status.is_success(),
            "it was one failure"
        );
    }
}

#[tokio::test]
async fn a_question_without_direction_is_answered_by_its_words() {
    let embedder = Arc::new(ScriptedEmbedder::new(DIM));
    let service = Service::with(|setup| setup.vectors = Vectors::From(Arc::clone(&embedder) as Arc<dyn Embedder>));
    service.write(&writing(&[event("e1", "some words"), event("e2", "others")])).await;
    service.drain().await;
    embedder.then(Reply::Exactly(vec![vec![0.0; DIM]]));
    let answer = service.ask("words").await;
    assert!(seeds(&answer).contains("some words"));
    for seed in answer["seeds"].as_array().unwrap() {
        assert!(seed["similarity"].is_number(), "{seed}");
    }
}

#[tokio::test]
async fn a_text_the_provider_refuses_stays_found_by_its_words() {
    let embedder = Arc::new(ScriptedEmbedder::new(DIM));
    embedder.then(Reply::fail(EmbedErrorKind::Rejected));
    let service = Service::with(|setup| setup.vectors = Vectors::From(embedder));
    service.write(&writing(&[event("e1", "unspeakable words")])).await;
    let round = service.drain().await;
    assert_eq!((round.published, round.vectors), (1, 0));
    let answer = service.recall_text(&json!({ "query_text": "unspeakable", "include_meta": true })).await;
    assert_eq!(answer["subgraph"]["nodes"][0]["embedding_status"], "failed");
    assert_eq!(answer["pending"]["nodes"], 0, "nothing is still to come");

    let again = service.write(&writing(&[event("e1", "unspeakable words")])).await;
    assert_eq!(again["embedding_backfill"]["pending_nodes"], 1, "sending it again tries again");
    assert_eq!(service.drain().await.vectors, 1);
}

/// How long a provider asks to be left alone is up to it, within reason.
#[tokio::test]
async fn the_queue_rests_neither_for_no_time_nor_for_a_day() {
    for kind in [EmbedErrorKind::RateLimited, EmbedErrorKind::Unavailable] {
        for (wish, least, most) in [(0, 1, 10_000), (20, 20_000, 20_000), (86_400, 300_000, 300_000)] {
            let embedder = Arc::new(ScriptedEmbedder::new(DIM));
            let retry_after = Some(Duration::from_secs(wish));
            embedder.then(Reply::Fail(EmbedError { kind, status: None, retry_after, message: "later".to_owned() }));
            let service = Service::with(|setup| setup.vectors = Vectors::From(embedder));
            service.write(&writing(&[event("e1", "the harbour is closed")])).await;
            let round = service.drain().await;
            assert!((least..=most).contains(&round.pause_ms), "{kind:?}, {wish} s asked: {round:?}");
        }
    }
}

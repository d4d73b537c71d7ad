//! The remote providers against a local web server.

use std::sync::Arc;
use std::time::Duration;

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, EmbedPurpose, Embedder};
use serde_json::{Value, json};
use wiremock::matchers::{body_json, header, method, path, query_param};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::settings::{EmbedSettings, MiniMaxType, ProviderKind, Secret};
use crate::{Provider, build};

const KEY: &str = "sk-abcdef123456";

fn settings(provider: ProviderKind, server: &MockServer) -> EmbedSettings {
    let mut settings = EmbedSettings::new(provider, "unused");
    settings.openai.base_url = format!("{}/v1", server.uri());
    settings.openai.api_key = Some(Secret::new(KEY));
    settings.minimax.endpoint = format!("{}/v1/embeddings", server.uri());
    settings.minimax.api_key = Some(Secret::new(KEY));
    settings.minimax.group_id = Some("g 7".to_owned());
    settings.dim = Some(2);
    settings.http.base_delay = Duration::from_millis(1);
    settings.http.max_delay = Duration::from_secs(2);
    settings
}

fn provider(settings: &EmbedSettings) -> Arc<dyn Embedder> {
    match build(settings).unwrap() {
        Provider::Ready(embedder) => embedder,
        other => panic!("{other:?}"),
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("text number {at}")).collect()
}

/// An OpenAI answer with the vector `[length, position]` for every text asked.
fn answer(request: &Request) -> ResponseTemplate {
    let body: Value = request.body_json().unwrap();
    let inputs = body["input"].as_array().unwrap();
    let item = |(at, text): (usize, &Value)| json!({"index": at, "embedding": [text.as_str().unwrap().len(), at]});
    let data: Vec<Value> = inputs.iter().enumerate().map(item).rev().collect();
    ResponseTemplate::new(200).set_body_json(json!({"object": "list", "data": data}))
}

async fn respond(server: &MockServer, times: u64, response: ResponseTemplate) {
    Mock::given(method("POST")).respond_with(response).up_to_n_times(times).mount(server).await;
}

async fn embed(settings: &EmbedSettings, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
    provider(settings).embed(texts, EmbedPurpose::Document).await
}

async fn calls(server: &MockServer) -> usize {
    server.received_requests().await.unwrap().len()
}

#[tokio::test]
async fn openai_sends_chunks_and_restores_the_order() {
    let server = MockServer::start().await;
    let mut settings = settings(ProviderKind::OpenAi, &server);
    settings.openai.batch_size = 2;
    Mock::given(path("/v1/embeddings"))
        .and(header("authorization", format!("Bearer {KEY}").as_str()))
        .respond_with(answer)
        .mount(&server)
        .await;
    let vectors = embed(&settings, &texts(3)).await.unwrap();
    assert_eq!(vectors, [[13.0, 0.0], [13.0, 1.0], [13.0, 0.0]]);
    let bodies: Vec<Value> =
        server.received_requests().await.unwrap().iter().map(|request| request.body_json().unwrap()).collect();
    assert_eq!(bodies[1], json!({"model": "text-embedding-3-small", "input": ["text number 2"], "dimensions": 2}));
    assert_eq!((bodies.len(), bodies[0]["input"].as_array().unwrap().len()), (2, 2));
    assert_eq!(embed(&settings, &[]).await.unwrap(), Vec::<Vec<f32>>::new());
}

#[tokio::test]
async fn openai_sends_no_dimension_unless_it_was_set() {
    let server = MockServer::start().await;
    let mut settings = settings(ProviderKind::OpenAi, &server);
    settings.dim = None;
    let vector = vec![0.5; 1536];
    Mock::given(body_json(json!({"model": "text-embedding-3-small", "input": ["hi"]})))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"data": [{"index": 0, "embedding": vector}]})))
        .mount(&server)
        .await;
    assert_eq!(embed(&settings, &["hi".to_owned()]).await.unwrap(), [vector]);
}

#[tokio::test]
async fn transient_failures_are_tried_again() {
    let server = MockServer::start().await;
    respond(&server, 1, ResponseTemplate::new(500)).await;
    respond(&server, 1, ResponseTemplate::new(429).insert_header("retry-after", "0")).await;
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    let settings = settings(ProviderKind::OpenAi, &server);
    assert_eq!(embed(&settings, &texts(1)).await.unwrap(), [[13.0, 0.0]]);
    assert_eq!(calls(&server).await, 3);
}

#[tokio::test]
async fn attempts_are_limited() {
    let server = MockServer::start().await;
    respond(&server, 99, ResponseTemplate::new(503).set_body_string("overloaded")).await;
    let error = embed(&settings(ProviderKind::OpenAi, &server), &texts(1)).await.unwrap_err();
    assert_eq!((error.kind, error.status), (EmbedErrorKind::Unavailable, Some(503)));
    assert_eq!(error.message, "the provider answered 503 Service Unavailable: overloaded");
    assert_eq!(calls(&server).await, 3);
}

#[tokio::test]
async fn long_retry_after_ends_the_call_and_is_reported() {
    let server = MockServer::start().await;
    respond(&server, 99, ResponseTemplate::new(429).insert_header("retry-after", "60")).await;
    let error = embed(&settings(ProviderKind::OpenAi, &server), &texts(1)).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (EmbedErrorKind::RateLimited, Some(Duration::from_secs(60))));
    assert_eq!(calls(&server).await, 1);
}

#[tokio::test]
async fn refusals_are_final_and_show_neither_key_nor_text() {
    for (status, kind) in [
        (400, EmbedErrorKind::Rejected),
        (401, EmbedErrorKind::Unauthorized),
        (403, EmbedErrorKind::Unauthorized),
        (404, EmbedErrorKind::Unauthorized),
        (422, EmbedErrorKind::Rejected),
    ] {
        let server = MockServer::start().await;
        let message = format!("Cannot use key {KEY} for 'text number 0'. {}", "More words. ".repeat(90));
        let body = json!({"error": {"message": message}});
        respond(&server, 99, ResponseTemplate::new(status).set_body_json(body)).await;
        let error = embed(&settings(ProviderKind::OpenAi, &server), &texts(2)).await.unwrap_err();
        assert_eq!((error.kind, error.status, error.retry_after), (kind, Some(status), None));
        assert!(error.message.contains("Cannot use key … for '…'"), "{}", error.message);
        assert!(error.message.len() <= 512, "{}", error.message.len());
        assert_eq!(calls(&server).await, 1);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (server, other) = (MockServer::start().await, MockServer::start().await);
    let target = format!("{}/v1/embeddings", other.uri());
    respond(&server, 99, ResponseTemplate::new(307).insert_header("location", target.as_str())).await;
    let error = embed(&settings(ProviderKind::OpenAi, &server), &texts(1)).await.unwrap_err();
    assert_eq!((error.kind, error.status), (EmbedErrorKind::Unauthorized, Some(307)));
    assert_eq!((calls(&server).await, calls(&other).await), (1, 0));
}

#[tokio::test]
async fn slow_and_absent_servers_are_unavailable() {
    let server = MockServer::start().await;
    respond(&server, 1, ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    let mut settings = settings(ProviderKind::OpenAi, &server);
    settings.http.timeout = Duration::from_millis(200);
    assert!(embed(&settings, &texts(1)).await.is_ok());
    settings.http.max_retries = 0;
    server.reset().await;
    respond(&server, 9, ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let error = embed(&settings, &texts(1)).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (EmbedErrorKind::Unavailable, "no answer within 200 ms"));
    settings.openai.base_url = "http://127.0.0.1:1/v1".to_owned();
    let error = embed(&settings, &texts(1)).await.unwrap_err();
    assert_eq!((error.kind, error.status), (EmbedErrorKind::Unavailable, None));
    assert!(error.message.contains("cannot be reached") && !error.message.contains("127.0.0.1:1/v1"));
}

#[tokio::test]
async fn unusable_answers_are_not_tried_again() {
    for body in [
        "garbage",
        r#"{"data":[]}"#,
        r#"{"data":[{"index":0,"embedding":[1]}]}"#,
        r#"{"data":[{"index":0,"embedding":[1,NaN]}]}"#,
        r#"{"data":[{"index":0,"embedding":[1,1e99]}]}"#,
    ] {
        let server = MockServer::start().await;
        respond(&server, 99, ResponseTemplate::new(200).set_body_string(body)).await;
        let error = embed(&settings(ProviderKind::OpenAi, &server), &texts(1)).await.unwrap_err();
        assert_eq!((error.kind, calls(&server).await), (EmbedErrorKind::BadResponse, 1), "{body}");
    }
}

#[tokio::test]
async fn attempts_in_flight_are_limited() {
    let server = MockServer::start().await;
    let slow = |request: &Request| answer(request).set_delay(Duration::from_millis(60));
    Mock::given(method("POST")).respond_with(slow).mount(&server).await;
    let mut settings = settings(ProviderKind::OpenAi, &server);
    settings.http.max_concurrency = 1;
    let provider = provider(&settings);
    let asked = texts(1);
    let start = std::time::Instant::now();
    let both = tokio::join!(provider.embed(&asked, EmbedPurpose::Query), provider.embed(&asked, EmbedPurpose::Query));
    assert!(both.0.is_ok() && both.1.is_ok() && start.elapsed() >= Duration::from_millis(120));
}

fn minimax_answer(code: i64, message: &str, vectors: &Value) -> ResponseTemplate {
    let base = json!({"status_code": code, "status_msg": message});
    ResponseTemplate::new(200).set_body_json(json!({"vectors": vectors, "base_resp": base}))
}

#[tokio::test]
async fn minimax_sends_type_by_purpose_and_the_group() {
    let server = MockServer::start().await;
    let mut settings = settings(ProviderKind::MiniMax, &server);
    for (kind, vector) in [("db", [1, 0]), ("query", [0, 1])] {
        Mock::given(path("/v1/embeddings"))
            .and(query_param("GroupId", "g 7"))
            .and(header("authorization", format!("Bearer {KEY}").as_str()))
            .and(body_json(json!({"model": "embo-01", "type": kind, "texts": ["hi"]})))
            .respond_with(minimax_answer(0, "", &json!([vector])))
            .mount(&server)
            .await;
    }
    let asked = ["hi".to_owned()];
    let embedder = provider(&settings);
    assert_eq!(embedder.embed(&asked, EmbedPurpose::Document).await.unwrap(), [[1.0, 0.0]]);
    assert_eq!(embedder.embed(&asked, EmbedPurpose::Query).await.unwrap(), [[0.0, 1.0]]);
    settings.minimax.document_type = MiniMaxType::Query;
    assert_eq!(embed(&settings, &asked).await.unwrap(), [[0.0, 1.0]]);
}

#[tokio::test]
async fn minimax_codes_decide_what_follows() {
    for (code, kind, attempts) in [
        (1002, EmbedErrorKind::RateLimited, 3),
        (1000, EmbedErrorKind::Unavailable, 3),
        (1004, EmbedErrorKind::Unauthorized, 1),
        (2013, EmbedErrorKind::Rejected, 1),
        (9999, EmbedErrorKind::BadResponse, 1),
    ] {
        let server = MockServer::start().await;
        respond(&server, 99, minimax_answer(code, "no: text number 0", &Value::Null)).await;
        let error = embed(&settings(ProviderKind::MiniMax, &server), &texts(1)).await.unwrap_err();
        assert_eq!((error.kind, calls(&server).await), (kind, attempts));
        assert_eq!(error.message, format!("MiniMax answered with code {code}: no: …"));
    }
}

#[tokio::test]
async fn minimax_answers_are_checked() {
    for vectors in [json!([]), json!([[1, 2, 3]]), json!([[1, 2], [3, 4]]), Value::Null, json!([["a", 1]])] {
        let server = MockServer::start().await;
        respond(&server, 99, minimax_answer(0, "", &vectors)).await;
        let error = embed(&settings(ProviderKind::MiniMax, &server), &texts(1)).await.unwrap_err();
        assert_eq!(error.kind, EmbedErrorKind::BadResponse, "{vectors}");
    }
    let server = MockServer::start().await;
    respond(&server, 1, ResponseTemplate::new(502)).await;
    respond(&server, 1, minimax_answer(0, "", &json!([[1, 2]]))).await;
    assert_eq!(embed(&settings(ProviderKind::MiniMax, &server), &texts(1)).await.unwrap(), [[1.0, 2.0]]);
}

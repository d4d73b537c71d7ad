//! What a run logs, and what it never does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{place::Place, program::fake, server::Server, until};

const WAIT: Duration = Duration::from_secs(30);

fn text(place: &Place) -> String {
    std::fs::read_to_string(place.path().join("log")).unwrap()
}

fn lines(place: &Place) -> Vec<Value> {
    text(place).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn with_message<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"] == message).collect()
}

fn writing(scope: &str, text: &str) -> Value {
    json!({ "scope": scope, "input_text": text,
        "nodes": [{ "client_id": "a", "type": "event", "title": text, "text_summary": text }] })
}

#[test]
fn every_request_leaves_one_line_and_no_secret_is_logged() {
    let place = Place::new();
    let secrets = [
        ("OPENAI_API_KEY", "sk-secret-openai"),
        ("MINIMAX_API_KEY", "sk-secret-minimax"),
        ("ADMIN_TOKEN", "sk-secret-admin"),
        ("MEMORY_API_KEYS_JSON", r#"{"sk-secret-key":{"tenant_id":"acme"}}"#),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=sk-secret-otel"),
    ];
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("RUST_LOG", "debug,hyper=info").env("AIONIS_SLOW_REQUEST_MS", "1").envs(secrets);
        command.env("MEMORY_AUTH_MODE", "api_key").env("AIONIS_SLOW_STATEMENT_MS", "1");
    });
    let post = |headers: &str, path: &str, body: &Value| {
        let headers = format!("x-api-key: sk-secret-key\r\n{headers}");
        server.connect().post_with(&headers, path, body).unwrap()
    };
    post("x-request-id: asked-1\r\n", "/v1/memory/write", &writing("pond", "sk-secret-text of a heron")).ok();
    let question = json!({ "scope": "pond", "query_text": "sk-secret-question of the heron" });
    post("x-request-id: asked-2\r\n", "/v1/memory/recall_text", &question).ok();
    assert_eq!(post("x-request-id: asked-3\r\n", "/v1/memory/write", &json!("sk-secret-body")).status, 400);
    let stranger = server.connect().post_as("sk-secret-stranger", "/v1/memory/write", &json!({})).unwrap();
    assert_eq!(stranger.status, 401);
    server.connect().get("/nowhere/sk-secret-path?key=sk-secret-query").unwrap();
    server.stop();
    let all = text(&place);
    assert!(!all.contains("sk-secret"), "{all}");
    let lines = lines(&place);
    let completed = with_message(&lines, "request completed");
    let of = |id: &str| {
        let found: Vec<_> = completed.iter().filter(|line| line["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "{id}: {completed:?}");
        *found[0]
    };
    for (id, route, status) in [("asked-1", "write", 200), ("asked-2", "recall_text", 200), ("asked-3", "write", 400)] {
        let line = of(id);
        assert_eq!((&line["route"], &line["status"], &line["method"]), (&json!(route), &json!(status), &json!("POST")));
        assert_eq!(line["level"], "INFO");
        assert!(line["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
        assert_eq!(line["tenant"] == "acme", status == 200, "{line}");
    }
    let config = with_message(&lines, "memory api config");
    assert_eq!(config.len(), 1);
    for field in [
        "app_env",
        "embedding_provider",
        "embedding_dim",
        "scope",
        "tenant_id",
        "auth_mode",
        "db_pool_max",
        "memory_recall_profile",
        "recall_text_embed_cache_enabled",
        "recall_text_embed_batch_max_size",
        "api_recall_max_inflight",
        "api_write_queue_max",
    ] {
        assert!(!config[0][field].is_null(), "{field}: {}", config[0]);
    }
    let written = with_message(&lines, "memory write");
    assert_eq!((&written[0]["tenant_id"], &written[0]["span"]["request_id"]), (&json!("acme"), &json!("asked-1")));
    let recalled = with_message(&lines, "memory recall_text");
    assert_eq!(recalled.len(), 1);
    assert_eq!(
        (&recalled[0]["profile"], &recalled[0]["profile_source"]),
        (&json!("strict_edges"), &json!("global_default"))
    );
    assert_eq!(recalled[0]["adaptive_profile_applied"], false);
}

/// Runs a server with slow limits that a large write and the first recall are above.
fn slow(configure: impl FnOnce(&mut std::process::Command)) -> (Place, Vec<Value>) {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("AIONIS_SLOW_REQUEST_MS", "1").env("AIONIS_SLOW_STATEMENT_MS", "1");
        configure(command);
    });
    let nodes: Vec<Value> = (0..2_000)
        .map(|n| json!({ "client_id": format!("n{n}"), "type": "event", "text_summary": format!("secret-{n} heron") }))
        .collect();
    let body = json!({ "scope": "pond", "input_text": "x", "nodes": nodes });
    server.connect().post_with("x-request-id: slow-1\r\n", "/v1/memory/write", &body).unwrap().ok();
    let question = json!({ "scope": "pond", "query_text": "heron" });
    server.connect().post_with("x-request-id: slow-2\r\n", "/v1/memory/recall_text", &question).unwrap().ok();
    until("both are logged", WAIT, || (with_message(&lines(&place), "slow request").len() >= 2).then_some(()));
    server.kill();
    let all = text(&place);
    assert!(!all.contains("secret-"), "a parameter is logged");
    let lines = lines(&place);
    for (id, route, stages) in
        [("slow-1", "write", ["prepare=", "store="]), ("slow-2", "recall_text", ["embed=", "expand="])]
    {
        let found = with_message(&lines, "slow request").into_iter().find(|line| line["request_id"] == id).unwrap();
        assert_eq!((&found["level"], &found["route"]), (&json!("WARN"), &json!(route)), "{found}");
        let told = found["stages"].as_str().unwrap();
        assert!(stages.iter().all(|stage| told.contains(stage)), "{found}");
    }
    (place, lines)
}

#[test]
fn slow_requests_and_statements_are_named_on_the_embedded_engine() {
    let (_place, lines) = slow(|_| {});
    let statements = with_message(&lines, "slow statement");
    let transaction = statements.iter().find(|line| line["statement"] == "write transaction").unwrap();
    assert!(transaction["ms"].as_u64() >= Some(1) && transaction["commit_ms"].is_u64(), "{transaction}");
    let read = statements.iter().find(|line| line["span"]["request_id"] == "slow-2").unwrap();
    assert!(read["statement"].as_str().unwrap().contains("sqlite/recall.rs:"), "{read}");
}

#[test]
fn slow_statements_are_named_on_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(aionis_testkit::postgres::TempDatabase::new());
    let (_place, lines) = slow(|command| {
        command.env("DATABASE_URL", database.url());
    });
    let slow: Vec<_> = lines.iter().filter(|line| line["target"] == "sqlx::query").collect();
    assert!(slow.iter().any(|line| line["summary"].is_string() && line["elapsed_secs"].is_number()), "{slow:?}");
}

#[test]
fn nothing_is_slow_when_the_limits_are_off() {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("RUST_LOG", "info").env("AIONIS_SLOW_REQUEST_MS", "0").env("AIONIS_SLOW_STATEMENT_MS", "0");
    });
    server.write(&writing("pond", "a heron"));
    server.stop();
    assert!(!text(&place).contains("slow "));
    assert_eq!(with_message(&lines(&place), "memory write").len(), 1);
}

#[test]
fn the_format_of_logs_can_be_chosen() {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("RUST_LOG", "info").env("AIONIS_LOG_FORMAT", "text");
    });
    server.stop();
    let log = text(&place);
    assert!(log.contains("memory api config") && !log.starts_with('{'), "{log}");
}

//! The release gate: what is wrong with the server, or with which one it is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use serde_json::{Value, json};

use super::{
    core::{READ_ONLY, against, flags, served},
    world::{World, sound, step, texts},
};
use crate::support::program::{aionis, run};

/// A server that answers paths with what it is told; other paths with 404.
struct Stub {
    port: u16,
}

impl Stub {
    fn new(answers: Vec<(&'static str, u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // The thread ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(&stream, &answers);
            }
        });
        Self { port }
    }

    fn flags(&self) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}", self.port);
        ["--scope", "pier", "--base-url", &url].map(str::to_owned).to_vec()
    }
}

/// One request per connection.
fn answer(stream: &TcpStream, answers: &[(&'static str, u16, String)]) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let missing = ("", 404, String::new());
    let (_, status, body) = answers.iter().find(|(known, ..)| *known == path).unwrap_or(&missing);
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

/// What a sound server answers, but for `spoilt`.
fn answers(hash: &Value, spoilt: (&'static str, u16, String)) -> Vec<(&'static str, u16, String)> {
    let health = json!({ "ok": true, "database_target_hash": hash }).to_string();
    vec![
        spoilt,
        ("/health", 200, health),
        ("/health/ready", 200, json!({ "ok": true }).to_string()),
        ("/v1/memory/recall", 400, json!({ "error": "invalid_request" }).to_string()),
        ("/openapi.json", 200, aionis_api::document_text().to_owned()),
    ]
}

#[test]
fn a_server_that_does_not_answer_as_it_should_fails_and_nothing_else_is_looked_at() {
    let (world, server) = served();
    let hash = server.connect().get("/health").unwrap().ok()["database_target_hash"].clone();
    assert!(hash.is_string(), "a server says which database it uses");
    server.stop();
    // A 500 is no refusal, and a health check that fails is no health.
    for (spoilt, reason) in [
        (("/v1/memory/recall", 500), "recall_status_500"),
        (("/v1/memory/recall", 404), "recall_status_404"),
        (("/v1/memory/recall", 401), "recall_not_authorized"),
        (("/v1/memory/recall", 200), "recall_status_200"),
        (("/health", 500), "health_status_500"),
        (("/health/ready", 503), "ready_status_503"),
    ] {
        let stub = Stub::new(answers(&hash, (spoilt.0, spoilt.1, "{}".to_owned())));
        let own = stub.flags();
        let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
        let reasons = texts(&summary["fail_reasons"]);
        assert!(reasons.contains(&"api_probe") && reasons.contains(&reason), "{spoilt:?}: {reasons:?}");
        assert_eq!(step(&summary, "chain_verification")["state"], "not_run");
        assert!(reasons.contains(&"chain_verification_inconclusive"), "what was not looked at is no pass: {reasons:?}");
        assert_eq!(summary["verdict"], "fail");
    }
}

#[test]
fn a_server_that_is_stopped_fails() {
    let (world, server) = served();
    let own = against(&server);
    server.stop();
    let summary = world.judged("core", &flags(&own, &[]), 2);
    let reasons = texts(&summary["fail_reasons"]);
    for reason in
        ["api_probe", "health_unreachable", "ready_unreachable", "recall_unreachable", "perf_benchmark_inconclusive"]
    {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    // The database answers, but nobody says that it is the one.
    assert!(reasons.contains(&"db_target_unknown"), "{reasons:?}");
    assert_eq!(summary["target"]["db_target_hash_match"], Value::Null);
}

#[test]
fn a_server_of_another_contract_fails() {
    let (world, server) = served();
    let hash = server.connect().get("/health").unwrap().ok()["database_target_hash"].clone();
    server.stop();
    let mut other = aionis_api::document();
    other["paths"]["/v1/memory/write"]["post"]["summary"] = json!("something else");
    for (body, reason) in [(other.to_string(), "contract_differs"), ("<html>".to_owned(), "contract_differs")] {
        let stub = Stub::new(answers(&hash, ("/openapi.json", 200, body)));
        let own = stub.flags();
        let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
        assert_eq!(summary["fail_reasons"], json!(["contract", reason]));
    }
    let stub = Stub::new(answers(&hash, ("/openapi.json", 404, String::new())));
    let own = stub.flags();
    let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
    assert_eq!(summary["fail_reasons"], json!(["contract", "openapi_status_404"]));
    // The other steps were made: a stub that is spoilt in nothing passes.
    let stub = Stub::new(answers(&hash, ("/nothing", 200, String::new())));
    let own = stub.flags();
    world.judged("core", &flags(&own, &READ_ONLY), 0);
}

#[test]
fn another_database_than_the_servers_fails() {
    let (_world, server) = served();
    let own = against(&server);
    // As sound as can be, but no server has said which one it is.
    let unknown = World::postgres();
    unknown.serve(&[]).stop();
    unknown.execute("DELETE FROM aionis_meta WHERE key = 'deployment_id'");
    let summary = unknown.judged("core", &flags(&own, &READ_ONLY), 2);
    let reasons = texts(&summary["fail_reasons"]);
    assert!(reasons.contains(&"db_probe") && reasons.contains(&"db_target_unknown"), "{reasons:?}");
    // The database of another server.
    let other = World::postgres();
    let its = other.serve(&[]);
    sound(&its);
    let summary = other.judged("core", &flags(&own, &READ_ONLY), 2);
    assert!(texts(&summary["fail_reasons"]).contains(&"db_target_mismatch"), "{}", summary["fail_reasons"]);
    assert_eq!(summary["target"]["db_target_hash_match"], false);
    assert_eq!(step(&summary, "health_gate_scope")["state"], "not_run");
    let own = against(&its);
    other.judged("core", &flags(&own, &READ_ONLY), 0);
}

#[test]
fn a_database_that_is_away_or_behind_fails_and_is_not_touched() {
    let (world, server) = served();
    let own = against(&server);
    let away = ["--run-perf", "false", "--database-url", "postgres://127.0.0.1:1/nowhere"];
    let summary = world.judged("core", &flags(&own, &away), 2);
    assert!(texts(&summary["fail_reasons"]).contains(&"db_probe"));
    assert_eq!(step(&summary, "db_probe")["exit_code"], 1);
    world.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)");
    let before = world.digests();
    let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
    let error = step(&summary, "db_probe")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("run `aionis migrate` first"), "{error}");
    assert_eq!(before, world.digests());
}

#[test]
fn credentials_are_those_of_the_tenant() {
    let world = World::postgres();
    let keys = r#"{"key-of-acme": {"tenant_id": "acme"}, "key-of-default": {"tenant_id": "default"}}"#;
    let plain = world.serve(&[]);
    sound(&plain);
    plain.stop();
    let server = world.serve(&[("MEMORY_AUTH_MODE", "api_key"), ("MEMORY_API_KEYS_JSON", keys)]);
    let own = against(&server);
    let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
    assert!(texts(&summary["fail_reasons"]).contains(&"recall_not_authorized"), "{}", summary["fail_reasons"]);
    for (name, value) in
        [("API_KEY", "key-of-default"), ("PERF_API_KEY", "key-of-default"), ("MEMORY_API_KEYS_JSON", keys)]
    {
        let mut command = world.gate("core", &flags(&own, &READ_ONLY));
        let summary = world.summary(run(command.env(name, value)).exits(0));
        assert!(!summary.to_string().contains("key-of"), "no key is told");
    }
    for (name, value) in [("API_KEY", "wrong"), ("AUTH_BEARER", "wrong")] {
        let mut command = world.gate("core", &flags(&own, &READ_ONLY));
        world.summary(run(command.env(name, value)).exits(2));
    }
}

/// What a server that opens the database would have to do, as it is planted on PostgreSQL, and on both engines.
const NOT_PREPARED: &[(&str, &str, bool)] = &[
    ("DELETE FROM aionis_meta WHERE key = 'vector_code_form'", "codes of the database's vectors", true),
    ("UPDATE aionis_meta SET value = '2' WHERE key = 'vector_code_form'", "codes of the database's vectors", true),
    ("DELETE FROM aionis_meta WHERE key IN ('embedding_model', 'embedding_dim')", "embedding space", false),
];

#[test]
fn a_database_that_a_server_would_have_to_prepare_is_refused_and_not_touched() {
    for world in World::both() {
        let server = world.serve(&[]);
        sound(&server);
        server.stop();
        for (plant, says, of_postgres) in NOT_PREPARED {
            if *of_postgres && !world.is_postgres() {
                continue;
            }
            world.execute(plant);
            let before = world.digests();
            let ended = run(&mut world.gate("health", &["--scope", "pier"])).exits(1);
            assert!(ended.one_line().contains(says) && ended.stderr.contains("`aionis serve`"), "{plant}: {ended:#?}");
            let mut advise = aionis(world.place.path());
            let ended = run(world.at(advise.args(["scale", "advise"]))).exits(1);
            assert!(ended.one_line().contains(says), "{plant}: {ended:#?}");
            assert_eq!(before, world.digests(), "{plant}: a gate changes nothing");
            // What is said to help does.
            world.serve(&[]).stop();
            world.judged("health", &["--scope", "pier"], 0);
        }
    }
}

#[test]
fn the_release_gate_refuses_it_too() {
    let (world, server) = served();
    let own = against(&server);
    world.execute("CREATE TABLE kept AS SELECT * FROM aionis_meta");
    for (plant, says, _) in NOT_PREPARED {
        // What was planted before is healed.
        world.execute(
            "INSERT INTO aionis_meta SELECT * FROM kept ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        );
        world.execute(plant);
        // With an index in the database a server would make one: a gate does not.
        for search in ["codes", "hnsw"] {
            let before = (world.digests(), indexes(&world));
            let mut command = world.gate("core", &flags(&own, &READ_ONLY));
            let summary = world.summary(run(command.env("AIONIS_VECTOR_SEARCH", search)).exits(2));
            let probe = step(&summary, "db_probe");
            let error = probe["error"].as_str().unwrap();
            assert!(error.contains(says) && error.contains("`aionis serve`"), "{plant}: {error}");
            assert_eq!((&probe["state"], &probe["exit_code"]), (&json!("failed"), &json!(1)));
            assert_eq!(step(&summary, "health_gate_scope")["state"], "not_run");
            assert_eq!(before, (world.digests(), indexes(&world)), "{plant}: a gate changes nothing");
        }
    }
    server.stop();
    let server = world.serve(&[]);
    let own = against(&server);
    let before = indexes(&world);
    let mut command = world.gate("core", &flags(&own, &READ_ONLY));
    world.summary(run(command.env("AIONIS_VECTOR_SEARCH", "hnsw")).exits(0));
    assert_eq!(before, indexes(&world), "no index is made for a gate");
}

fn indexes(world: &World) -> Vec<String> {
    world.read("SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
}

/// Where nothing is written a copy passes, and the summary says by what it was compared; see `perf` for what tells it.
#[test]
fn a_copy_is_told_only_by_what_is_written() {
    let (world, server) = served();
    let own = against(&server);
    let copy = World::postgres();
    let its = copy.serve(&[]);
    sound(&its);
    its.stop();
    copy.passes_for(&world);
    let summary = copy.judged("core", &flags(&own, &READ_ONLY), 0);
    let target = &summary["target"];
    assert_eq!(
        (&target["db_target_hash_match"], &target["db_target_compared_by"]),
        (&json!(true), &json!(["stored_id"]))
    );
    assert_eq!(summary["decision"]["may_release"], false);
}

#[test]
fn a_first_write_that_is_refused_or_fails_ends_the_benchmark() {
    let (world, server) = served();
    let hash = server.connect().get("/health").unwrap().ok()["database_target_hash"].clone();
    server.stop();
    for (status, cleaned_up) in [(403, true), (500, false)] {
        let stub = Stub::new(answers(&hash, ("/v1/memory/write", status, "{}".to_owned())));
        let own = stub.flags();
        let summary = world.judged("core", &flags(&own, &[]), 2);
        let error = step(&summary, "perf_benchmark")["error"].as_str().unwrap();
        assert!(error.contains(&format!("the first write was answered {status}")), "{error}");
        // A server that failed may have stored it, and nobody knows where.
        let cleanup = step(&summary, "perf_cleanup");
        assert_eq!(cleanup["ok"], cleaned_up, "{status}: {cleanup}");
        let by_hand = cleanup["error"].as_str().is_some_and(|error| error.contains("removed by hand: its first write"));
        assert_eq!(by_hand, !cleaned_up, "{cleanup}");
        assert_eq!(world.scopes_of_gates(), [""; 0]);
    }
}

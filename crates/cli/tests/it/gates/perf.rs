//! The benchmark of the release gate: its bounds, and its scope, which never stays.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use super::{
    core::{against, flags, served},
    world::{PATIENCE, World, sound, step, texts},
};
use crate::support::{
    http::Connection,
    program::{ends, run},
    server::Server,
    until,
};

const WAIT: Duration = Duration::from_secs(60);
const SMALL: [&str; 2] = ["--perf-nodes", "200"];

fn slo(summary: &Value) -> &Value {
    &summary["blocking_metrics"]["availability_and_slo"]
}

#[test]
fn a_release_is_decided_from_the_summary_alone_and_no_scope_stays() {
    let (world, server) = served();
    let own = against(&server);
    let before = world.digests();
    let summary = world.judged("core", &flags(&own, &SMALL), 0);
    assert_eq!((&summary["verdict"], &summary["decision"]["may_release"]), (&json!("pass"), &json!(true)));
    assert!(summary["decision"]["text"].as_str().unwrap().starts_with("Release: "), "{}", summary["decision"]);
    let measured = slo(&summary);
    assert_eq!((&measured["pass"], &measured["observed"]["max_error_rate"]), (&json!(true), &json!(0.0)));
    assert!(measured["observed"]["recall_p95_ms"].as_f64().unwrap() > 0.0, "{measured}");
    assert!(measured["observed"]["write_p95_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&measured["samples"]["recall_ok"], &measured["samples"]["write_ok"]), (&json!(80), &json!(40)));
    assert_eq!(summary["dataset_sha256"].as_str().unwrap().len(), 64);
    let perf = world.evidence("08_perf_benchmark.json");
    assert!(perf["scope"].as_str().unwrap().starts_with("gate_"));
    assert_eq!((&perf["seen_in_the_database"], &perf["report"]["found_something"]), (&json!(true), &json!(20)));
    let vectors = &perf["vectors"];
    assert_eq!(vectors["told_by_the_server"], json!({ "pending": 0, "lexical_only": false }));
    assert!(vectors["ready"].as_u64().unwrap() > 240 && vectors["ready"] == vectors["nodes"], "{vectors}");
    assert_eq!(summary["target"]["db_target_compared_by"], json!(["stored_id", "written_nodes"]));
    // A smaller load than usual is said to be one.
    let metrics = &summary["blocking_metrics"];
    let loosened = ["availability_and_slo.recall_p95_max_ms", "availability_and_slo.write_p95_max_ms", "load.nodes"];
    assert_eq!(
        (texts(&metrics["differs_from_default"]), texts(&metrics["loosened"])),
        (loosened.to_vec(), loosened.to_vec())
    );
    assert_eq!(metrics["bounds"]["load"]["nodes"], json!({ "value": 200, "default": 2000 }));
    assert!(summary["decision"]["text"].as_str().unwrap().contains("loosened: "), "{}", summary["decision"]);
    assert_eq!(perf["report"]["cases"][0]["by_status"], json!({ "2xx": 80 }));
    let cleanup = world.evidence("09_perf_cleanup.json");
    assert!(cleanup["own"]["removed"] == true && cleanup["own"]["rows"].as_u64().unwrap() > 200, "{cleanup}");
    assert_eq!(world.scopes_of_gates(), [""; 0]);
    let after = world.digests();
    for table in ["memory_scopes", "memory_commits", "memory_nodes", "memory_edges", "memory_vectors", "memory_outbox"]
    {
        assert_eq!(before[table], after[table], "{table}: nothing of what is judged was changed");
    }
    // The same data in the next run, and under another name.
    let again = world.judged("core", &flags(&own, &SMALL), 0);
    assert_eq!(again["dataset_sha256"], summary["dataset_sha256"]);
    assert_ne!(world.evidence("08_perf_benchmark.json")["scope"], perf["scope"]);
}

#[test]
fn ops_10_every_bound_can_fail_and_too_few_answers_are_no_pass() {
    let (world, server) = served();
    let own = against(&server);
    for (more, reasons) in [
        (&["--recall-p95-max-ms", "0"][..], &["perf_benchmark", "perf_recall_p95_slo"][..]),
        (&["--write-p95-max-ms", "0"], &["perf_benchmark", "perf_write_p95_slo"]),
        (&["--perf-recall-requests", "19"], &["perf_benchmark_inconclusive", "perf_recall_p95_inconclusive"]),
        (
            &["--perf-write-requests", "0"],
            &["perf_benchmark_inconclusive", "perf_write_p95_inconclusive", "perf_error_rate_inconclusive"],
        ),
    ] {
        let summary = world.judged("core", &flags(&own, &[&SMALL[..], more].concat()), 2);
        assert_eq!(summary["fail_reasons"], json!(reasons), "{more:?}");
        assert_eq!((&slo(&summary)["pass"], &step(&summary, "perf_cleanup")["ok"]), (&json!(false), &json!(true)));
        assert_eq!(world.scopes_of_gates(), [""; 0]);
    }
}

#[test]
fn requests_that_fail_are_counted_and_not_timed() {
    let world = World::postgres();
    let plain = world.serve(&[]);
    sound(&plain);
    plain.stop();
    // Recalls above fifty are refused.
    let limits = [
        ("RATE_LIMIT_ENABLED", "true"),
        ("RATE_LIMIT_BYPASS_LOOPBACK", "false"),
        ("RECALL_RATE_LIMIT_RPS", "0.1"),
        ("RECALL_RATE_LIMIT_BURST", "50"),
        ("WRITE_RATE_LIMIT_RPS", "10000"),
        ("WRITE_RATE_LIMIT_BURST", "10000"),
    ];
    let server = world.serve(&limits);
    let own = against(&server);
    let more = ["--perf-nodes", "200", "--perf-warmup", "0"];
    let summary = world.judged("core", &flags(&own, &more), 2);
    let reasons = texts(&summary["fail_reasons"]);
    assert!(reasons.contains(&"perf_error_rate_slo") && reasons.contains(&"perf_recall_found_nothing"), "{reasons:?}");
    assert!(!reasons.contains(&"perf_recall_p95_slo"), "{reasons:?}");
    let recalls = &world.evidence("08_perf_benchmark.json")["report"]["cases"][0];
    let refused = recalls["by_status"]["429"].as_u64().unwrap();
    assert_eq!(recalls["failed"], refused);
    let rate = slo(&summary)["observed"]["max_error_rate"].as_f64().unwrap();
    assert!((rate - refused as f64 / 80.0).abs() < 1e-9, "{rate}");
    assert_eq!(world.scopes_of_gates(), [""; 0]);
}

#[test]
fn vectors_that_do_not_come_fail() {
    let (world, server) = served();
    server.stop();
    let server = crate::support::server::Server::start_with(&world.place.data(), |command| {
        world.at(command).arg("--no-worker");
    });
    let own = against(&server);
    let more = ["--perf-nodes", "200", "--perf-drain-timeout-ms", "0"];
    let summary = world.judged("core", &flags(&own, &more), 2);
    assert!(texts(&summary["fail_reasons"]).contains(&"perf_vectors_not_derived"), "{}", summary["fail_reasons"]);
    assert_eq!(world.scopes_of_gates(), [""; 0]);
}

/// A gate that seeds for long, once it has begun to.
fn seeding(world: &World, own: &[String]) -> Child {
    let more = ["--perf-nodes", "200000", "--perf-lease-ms", "300"];
    let mut command = world.gate("core", &flags(own, &more));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The first node comes before the seeded ones.
    until("it is being seeded", WAIT, || (world.nodes_of_gates() > 1).then_some(()));
    child
}

#[test]
fn what_a_killed_gate_left_is_removed_by_the_next_one() {
    let (world, server) = served();
    let own = against(&server);
    // Somebody's scope that is called as those of gates are stays.
    server.write(&json!({ "scope": "gate_of_the_harbour", "input_text": "x", "memory_lane": "shared",
        "nodes": [{ "client_id": "n", "type": "event", "text_summary": "It was shut." }] }));
    let mut child = seeding_beside(&world, &own);
    child.kill().unwrap();
    child.wait().unwrap();
    let left: Vec<String> = world.scopes_of_gates();
    assert_eq!(left.len(), 2, "{left:?}");
    std::fs::remove_dir_all(world.place.path().join("out")).unwrap();
    // The lease of the killed one runs out by itself.
    let removed = until("the lease has run out", WAIT, || {
        let _ = std::fs::remove_dir_all(world.place.path().join("out"));
        let summary = world.summary(run(&mut world.gate("core", &flags(&own, &SMALL))));
        assert_eq!(summary["verdict"], "pass", "{summary:#}");
        let cleanup = world.evidence("09_perf_cleanup.json");
        let of_others = cleanup["left_by_earlier_runs"].as_array().unwrap().clone();
        (of_others.iter().any(|scope| scope["removed"] == true)).then_some(of_others)
    });
    assert!(removed[0]["rows"].as_u64().unwrap() > 0, "{removed:?}");
    assert_eq!(world.scopes_of_gates(), ["default/gate_of_the_harbour"]);
}

/// As [`seeding`], beside a scope that is there already.
fn seeding_beside(world: &World, own: &[String]) -> Child {
    let more = ["--perf-nodes", "200000", "--perf-lease-ms", "300"];
    let mut command = world.gate("core", &flags(own, &more));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the scope is there", WAIT, || (world.scopes_of_gates().len() > 1).then_some(()));
    child
}

#[test]
fn a_gate_that_is_told_to_stop_removes_its_scope_and_says_so() {
    let (world, server) = served();
    let own = against(&server);
    let mut child = seeding(&world, &own);
    let told = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(told.success());
    let status = ends(&mut child, WAIT);
    assert_eq!(status.code(), Some(2));
    let text = std::fs::read_to_string(world.place.path().join("out/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert!(texts(&summary["fail_reasons"]).contains(&"interrupted"), "{}", summary["fail_reasons"]);
    assert_eq!((&summary["ok"], &summary["decision"]["may_release"]), (&json!(false), &json!(false)));
    assert_eq!(step(&summary, "perf_benchmark")["state"], "not_run");
    assert_eq!(step(&summary, "perf_cleanup")["ok"], true);
    assert_eq!(world.scopes_of_gates(), [""; 0]);
}

#[test]
fn a_server_that_goes_away_meanwhile_fails_and_its_scope_is_removed() {
    let (world, server) = served();
    let own = against(&server);
    let mut child = seeding(&world, &own);
    server.kill();
    assert_eq!(ends(&mut child, WAIT).code(), Some(2));
    let text = std::fs::read_to_string(world.place.path().join("out/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["fail_reasons"], json!(["perf_benchmark"]));
    assert!(step(&summary, "perf_benchmark")["error"].as_str().unwrap().starts_with("seeding: "));
    assert_eq!(world.scopes_of_gates(), [""; 0]);
}

/// Stands between a gate and a server, and changes what the server answers.
struct Between {
    port: u16,
    _runtime: Runtime,
}

impl Between {
    fn new(server: &Server, spoil: fn(&str, &mut Value)) -> Self {
        let to = server.port;
        let app = Router::new().fallback(move |request: Request| async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            tokio::task::spawn_blocking(move || {
                let path = head.uri.path();
                let mut on = Connection::open(to).unwrap();
                let answer = match head.method {
                    Method::GET => on.get(path),
                    _ => on.post(path, &serde_json::from_slice(&body).unwrap()),
                };
                let mut answer = answer.unwrap();
                spoil(path, &mut answer.body);
                (StatusCode::from_u16(answer.status).unwrap(), Json(answer.body)).into_response()
            })
            .await
            .unwrap()
        });
        let (port, runtime) = served_by(app);
        Self { port, _runtime: runtime }
    }

    fn flags(&self) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}", self.port);
        ["--scope", "pier", "--base-url", &url].map(str::to_owned).to_vec()
    }
}

fn served_by(app: Router) -> (u16, Runtime) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move { axum::serve(listener, app).await });
    (port, runtime)
}

fn of_recall(path: &str) -> bool {
    path == "/v1/memory/recall_text"
}

/// Changes what a server answered, by the path that was asked.
type Spoil = fn(&str, &mut Value);

#[test]
fn ops_10_each_thing_a_server_says_of_its_recalls_fails_on_its_own() {
    let (world, server) = served();
    let spoils: [(Spoil, &str); 4] = [
        (
            |path, answer| {
                if of_recall(path) {
                    answer["seeds"] = json!([]);
                }
            },
            "perf_recall_found_nothing",
        ),
        (
            |path, answer| {
                if of_recall(path) {
                    answer.as_object_mut().unwrap().remove("pending");
                }
            },
            "perf_vectors_not_derived",
        ),
        (
            |path, answer| {
                if of_recall(path) {
                    answer["warnings"] = json!([{ "code": "lexical_only", "message": "x" }]);
                }
            },
            "perf_vectors_not_derived",
        ),
        (
            |path, answer| {
                if of_recall(path) {
                    answer["pending"]["nodes"] = json!(1);
                }
            },
            "perf_vectors_not_derived",
        ),
    ];
    for (spoil, reason) in spoils {
        let between = Between::new(&server, spoil);
        let own = between.flags();
        // Only where the answers say that vectors are missing is nothing to wait for.
        let patience_ms = if reason == "perf_vectors_not_derived" { "3000" } else { "60000" };
        let more = ["--perf-nodes", "200", "--perf-drain-timeout-ms", patience_ms];
        let summary = world.judged("core", &flags(&own, &more), 2);
        assert_eq!(summary["fail_reasons"], json!(["perf_benchmark", reason]));
        assert_eq!(world.scopes_of_gates(), [""; 0]);
    }
    // One that changes nothing is not noticed.
    let between = Between::new(&server, |_, _| {});
    let own = between.flags();
    world.judged("core", &flags(&own, &SMALL), 0);
}

#[test]
fn a_copy_of_the_servers_database_is_told_by_the_first_node() {
    let (world, server) = served();
    let own = against(&server);
    let copy = World::postgres();
    let its = copy.serve(&[]);
    sound(&its);
    its.stop();
    copy.passes_for(&world);
    let summary = copy.judged("core", &flags(&own, &SMALL), 2);
    assert_eq!(summary["fail_reasons"], json!(["perf_benchmark", "perf_cleanup", "db_target_mismatch"]));
    let target = &summary["target"];
    assert_eq!(
        (&target["db_target_hash_match"], &target["db_target_compared_by"]),
        (&json!(false), &json!(["stored_id", "written_nodes"]))
    );
    assert_eq!(step(&summary, "perf_benchmark")["reasons"], json!(["db_target_mismatch"]));
    // One node, not all of them, and the scope it is in is named.
    assert_eq!((world.nodes_of_gates(), copy.nodes_of_gates()), (1, 0));
    let [left] = &world.scopes_of_gates()[..] else { panic!("{:?}", world.scopes_of_gates()) };
    let error = step(&summary, "perf_cleanup")["error"].as_str().unwrap();
    let by_hand = format!("aionis job scope-purge --tenant default --scope {}", left.trim_start_matches("default/"));
    assert!(error.contains(&by_hand), "{error}");
    assert_eq!(copy.read("SELECT status FROM job_runs WHERE job = 'gate-perf'"), ["failed"]);
}

#[test]
fn a_server_that_derives_no_vectors_fails() {
    let (world, server) = served();
    server.stop();
    let server = world.serve(&[("EMBEDDING_PROVIDER", "none")]);
    let own = against(&server);
    let more = ["--perf-nodes", "200", "--perf-drain-timeout-ms", "1000"];
    let summary = world.judged("core", &flags(&own, &more), 2);
    let reasons = texts(&summary["fail_reasons"]);
    assert!(reasons.contains(&"perf_benchmark") && reasons.contains(&"perf_vectors_not_derived"), "{reasons:?}");
    assert!(!reasons.contains(&"health_gate_scope"), "what is judged beside is sound: {reasons:?}");
    let vectors = &world.evidence("08_perf_benchmark.json")["vectors"];
    assert_eq!((&vectors["ready"], &vectors["told_by_the_server"]["lexical_only"]), (&json!(0), &json!(true)));
    assert_eq!(world.scopes_of_gates(), [""; 0]);
}

/// A provider of OpenAI's kind that refuses one text of those it is asked for once it is told to.
struct Choosy {
    port: u16,
    refused: Arc<Mutex<Refused>>,
    _runtime: Runtime,
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Nothing,
    TheNext,
    Text(String),
}

impl Choosy {
    fn start() -> Self {
        let refused = Arc::new(Mutex::new(Refused::Nothing));
        let state = Arc::clone(&refused);
        let app = Router::new().route("/v1/embeddings", post(async move |asked: Json<Value>| embed(&asked.0, &state)));
        let (port, runtime) = served_by(app);
        Self { port, refused, _runtime: runtime }
    }
}

fn embed(asked: &Value, refused: &Mutex<Refused>) -> Response {
    let asked = texts(&asked["input"]);
    let mut refused = refused.lock().unwrap();
    // A seeded node: no question, and not the gate's first node, which it asks for.
    if *refused == Refused::TheNext
        && let Some(text) = asked.iter().find(|text| !text.ends_with('?') && !text.contains("release gate"))
    {
        *refused = Refused::Text((*text).to_owned());
    }
    if let Refused::Text(refused) = &*refused
        && asked.contains(&refused.as_str())
    {
        return (StatusCode::BAD_REQUEST, "not this one").into_response();
    }
    let vector = |text: &str| (1..=16).map(|at| 1 + text.len() * at % 7).collect::<Vec<_>>();
    let data: Vec<Value> =
        asked.iter().enumerate().map(|(at, text)| json!({ "index": at, "embedding": vector(text) })).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

#[test]
fn one_node_without_a_vector_fails() {
    let (world, provider) = (World::postgres(), Choosy::start());
    let url = format!("http://127.0.0.1:{}/v1", provider.port);
    let server = world.serve(&[
        ("EMBEDDING_PROVIDER", "openai"),
        ("OPENAI_API_KEY", "key-of-a-test"),
        ("OPENAI_BASE_URL", &url),
        ("OUTBOX_POLL_INTERVAL_MS", "50"),
    ]);
    sound(&server);
    let own = against(&server);
    world.judged("core", &flags(&own, &SMALL), 0);
    *provider.refused.lock().unwrap() = Refused::TheNext;
    let summary = world.judged("core", &flags(&own, &SMALL), 2);
    assert!(matches!(*provider.refused.lock().unwrap(), Refused::Text(_)));
    assert_eq!(summary["fail_reasons"], json!(["perf_benchmark", "perf_vectors_not_derived"]));
    let evidence = world.evidence("08_perf_benchmark.json");
    let vectors = &evidence["vectors"];
    assert_eq!(vectors["ready"].as_u64().unwrap() + 1, vectors["nodes"].as_u64().unwrap(), "{vectors}");
    // By what the server says everything is in order.
    assert_eq!(vectors["told_by_the_server"], json!({ "pending": 0, "lexical_only": false }));
    assert_eq!(evidence["report"]["seeding"]["drain"]["state"], "drained");
}

#[test]
fn a_scope_that_comes_back_after_its_removal_is_removed_by_the_next_gate() {
    let (world, server) = served();
    let own = against(&server);
    world.judged("core", &flags(&own, &SMALL), 0);
    assert_eq!(world.read("SELECT status FROM job_runs WHERE job = 'gate-perf'"), ["done"]);
    let scope = world.evidence("08_perf_benchmark.json")["scope"].as_str().unwrap().to_owned();
    server.write(&json!({ "scope": scope, "input_text": "x", "memory_lane": "shared",
        "nodes": [{ "client_id": "late", "type": "event", "text_summary": "It was under way." }] }));
    server.vectors_are_ready(&scope, PATIENCE);
    assert_eq!(world.scopes_of_gates(), [format!("default/{scope}")]);
    world.judged("core", &flags(&own, &SMALL), 0);
    let cleanup = world.evidence("09_perf_cleanup.json");
    let [left] = &cleanup["left_by_earlier_runs"].as_array().unwrap()[..] else { panic!("{cleanup}") };
    assert_eq!((&left["scope"], &left["removed"]), (&json!(scope), &json!(true)));
    assert_eq!(world.scopes_of_gates(), [""; 0]);
    // Nothing is left to be removed.
    world.judged("core", &flags(&own, &SMALL), 0);
    assert_eq!(world.evidence("09_perf_cleanup.json")["left_by_earlier_runs"], json!([]));
}

#[test]
fn a_scope_that_cannot_be_removed_fails_and_is_removed_once_it_can_be() {
    let (world, server) = served();
    let own = against(&server);
    world.execute(
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted'; END $$; \
         CREATE TRIGGER planted BEFORE DELETE ON memory_nodes FOR EACH ROW \
         WHEN (starts_with(OLD.scope_key, 'default/gate_')) EXECUTE FUNCTION planted()",
    );
    let more = ["--perf-nodes", "200", "--perf-lease-ms", "300"];
    let summary = world.judged("core", &flags(&own, &more), 2);
    assert_eq!((&summary["fail_reasons"], &summary["verdict"]), (&json!(["perf_cleanup"]), &json!("fail")));
    let [left] = &world.scopes_of_gates()[..] else { panic!("{:?}", world.scopes_of_gates()) };
    let cleanup = step(&summary, "perf_cleanup");
    assert!(cleanup["error"].as_str().unwrap().contains(left.as_str()) && cleanup["exit_code"] == 1, "{cleanup}");
    world.execute("DROP TRIGGER planted ON memory_nodes; DROP FUNCTION planted");
    until("the lease has run out", WAIT, || {
        world.judged("core", &flags(&own, &SMALL), 0);
        world.scopes_of_gates().is_empty().then_some(())
    });
}

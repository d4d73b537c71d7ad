//! The benchmark of the release gate: its bounds, and its scope, which never stays.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    core::{against, flags, served},
    world::{World, sound, step, texts},
};
use crate::support::{
    program::{ends, run},
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
    until("the scope is there", WAIT, || (!world.scopes_of_gates().is_empty()).then_some(()));
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

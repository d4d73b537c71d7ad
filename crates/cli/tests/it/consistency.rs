//! `aionis job consistency-check` as an operator runs it.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{Ended, aionis_on, fake, run},
    server::Server,
    until,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn check(data: &Path, more: &[&str]) -> Command {
    let mut command = aionis_on(data, &[&["job", "consistency-check"], more].concat());
    fake(&mut command);
    command
}

fn checked(data: &Path, more: &[&str]) -> Ended {
    run(&mut check(data, more))
}

fn states<'a>(report: &'a Value, state: &str) -> BTreeSet<&'a str> {
    let checks = report["checks"].as_array().unwrap_or_else(|| panic!("no checks in {report:#}"));
    checks.iter().filter(|check| check["state"] == state).map(|check| check["name"].as_str().unwrap()).collect()
}

/// A scope with a topic and its event, and another one.
fn sound(data: &Path) {
    let server = Server::start(data);
    server.write(&json!({ "scope": "pier", "input_text": "x", "memory_lane": "shared", "nodes": [
        { "client_id": "t", "type": "topic", "title": "boats", "slots": { "member_count": 1 } },
        { "client_id": "e", "type": "event", "text_summary": "A boat came in." }],
        "edges": [{ "type": "part_of", "src": { "client_id": "e" }, "dst": { "client_id": "t" } }] }));
    server.write(&json!({ "scope": "quay", "input_text": "y", "memory_lane": "shared", "nodes": [
        { "client_id": "e", "type": "event", "text_summary": "A ship left." }] }));
    server.vectors_are_ready("pier", PATIENCE);
    server.vectors_are_ready("quay", PATIENCE);
    server.stop();
}

fn tamper(data: &Path, sql: &str) {
    db::writable(data).execute_batch(sql).unwrap();
}

#[test]
fn exit_codes_follow_the_verdict() {
    let place = Place::new();
    let data = place.data();
    sound(&data);
    let report = checked(&data, &["--scope", "pier", "--strict-warnings", "--json"]).exits(0).json();
    assert_eq!(report["ok"], true);
    assert_eq!(states(&report, "pass").len(), report["checks"].as_array().unwrap().len(), "{report:#}");
    assert_eq!(
        report["summary"],
        json!({ "errors": 0, "warnings": 0, "skipped": 0, "errored": 0, "sample_limit": 20 })
    );
    // A warning alone.
    tamper(&data, r#"UPDATE memory_nodes SET activity = '{"topic_state":"odd"}' WHERE type = 'topic'"#);
    let warned = checked(&data, &["--scope", "pier", "--json"]).exits(0).json();
    assert_eq!((&warned["ok"], &warned["summary"]["warnings"]), (&json!(true), &json!(1)));
    checked(&data, &["--scope", "pier", "--strict"]).exits(0);
    let strict = checked(&data, &["--scope", "pier", "--strict-warnings", "--json"]).exits(2).json();
    assert_eq!((&strict["ok"], &strict["strict"]), (&json!(false), &json!(true)));
    // An error, in the other scope.
    tamper(&data, "UPDATE memory_scopes SET node_count = 7 WHERE scope_key = 'default/quay'");
    let failed = checked(&data, &["--scope", "quay"]).exits(2);
    assert!(failed.stdout.contains("default/quay: does not hold: errors 1"), "{failed:?}");
    assert!(failed.stdout.contains("fail error scope_counters_mismatch: 1"), "{failed:?}");
    let all = checked(&data, &["--all", "--json"]).exits(2).json();
    let held: Vec<_> = all["targets"].as_array().unwrap().iter().map(|t| (&t["scope"], &t["status"])).collect();
    let expected = [(json!("pier"), json!("done")), (json!("quay"), json!("negative")), (Value::Null, json!("done"))];
    assert_eq!(held, expected.iter().map(|(scope, status)| (scope, status)).collect::<Vec<_>>());
    // What fast mode leaves out is no pass, and strictness says so.
    let fast = checked(&data, &["--scope", "quay", "--mode", "fast", "--json"]).exits(0).json();
    assert!(states(&fast, "skipped").contains("scope_counters_mismatch") && states(&fast, "fail").is_empty());
    checked(&data, &["--scope", "quay", "--mode", "fast", "--strict"]).exits(2);
}

#[test]
fn bad_flags_are_refused_and_name_the_flag() {
    let place = Place::new();
    let data = place.data();
    sound(&data);
    for (flags, named) in [
        (&["--all", "--check-set", "some"][..], "--check-set"),
        (&["--all", "--mode", "slow"], "--mode"),
        (&["--all", "--sample", "0"], "--sample"),
        (&["--all", "--sample", "201"], "--sample"),
        (&["--all", "--batch-size", "501"], "--batch-size"),
        (&["--all", "--batch-size", "x"], "--batch-size"),
        (&["--all", "--cold-below", "2"], "--cold-below"),
        (&["--all", "--stictt"], "--stictt"),
        (&["--check-set", "scope"], "--all"),
        (&["--all", "--batch-index", "1"], "--batch-index needs --batch-size"),
        (&["--all", "--batch-size", "500", "--batch-index", "1"], "batch_index 1 is past the end"),
        (&["--scope", "nowhere"], "nothing is stored for scope \"nowhere\""),
    ] {
        let refused = checked(&data, flags).exits(1);
        assert!(refused.stderr.contains(named) && refused.stdout.is_empty(), "{flags:?}: {refused:?}");
    }
}

#[test]
fn batches_cover_every_check_once() {
    let place = Place::new();
    let data = place.data();
    sound(&data);
    let whole = checked(&data, &["--scope", "pier", "--json"]).exits(0).json();
    let all = states(&whole, "pass");
    let size = all.len().div_ceil(10);
    let mut seen = Vec::new();
    for index in 0..all.len().div_ceil(size) {
        let (size, index) = (size.to_string(), index.to_string());
        let flags = ["--scope", "pier", "--batch-size", &size, "--batch-index", &index, "--json"];
        let batch = checked(&data, &flags).exits(0).json();
        assert_eq!(batch["batch"]["checks_total"], all.len());
        let named = states(&batch, "pass");
        assert_eq!(batch["batch"]["checks_seen"], named.len());
        seen.extend(named.into_iter().map(str::to_owned));
    }
    assert_eq!(seen.len(), all.len());
    assert_eq!(seen.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
}

/// A worker checks by itself; what it finds is in the metrics, the log and the history.
#[test]
fn a_worker_checks_by_itself_and_tells() {
    let place = Place::new();
    let data = place.data();
    sound(&data);
    tamper(&data, "UPDATE memory_scopes SET head_seq = 99 WHERE scope_key = 'default/quay'; DELETE FROM job_states;");
    let server = Server::start_with_jobs(&data);
    until("the checks were made", PATIENCE, || {
        let metrics = server.connect().get("/metrics").unwrap();
        let failed = metrics.body.as_str().unwrap().lines().any(|line| {
            line.starts_with("aionis_consistency_failures_total{")
                && line.contains("check=\"commit_chain_broken\"")
                && line.ends_with(" 1")
        });
        failed.then_some(())
    });
    server.stop();
    let history = aionis_on(&data, &["job", "runs", "--json", "--job", "consistency-check", "--scope", "quay"])
        .args(["--tenant", "default"])
        .stdout(std::process::Stdio::piped())
        .output()
        .unwrap();
    let runs: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(runs["runs"][0]["status"], "negative", "{runs:#}");
    assert_eq!(runs["runs"][0]["params"]["mode"], "fast");
}

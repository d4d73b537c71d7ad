//! `aionis partition` and `aionis gate partition-readiness`, as an operator runs them beside a server.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use aionis_testkit::postgres::PrivateServer;
use serde_json::{Value, json};

use crate::support::{
    http::Connection,
    place::Place,
    program::{Ended, aionis, aionis_on, fake, run},
    server::Server,
    until,
};

fn command(place: &Place, url: &str, args: &[&str]) -> Ended {
    run(aionis(place.path()).args(args).env("DATABASE_URL", url))
}

fn partition(place: &Place, url: &str, args: &[&str]) -> Value {
    command(place, url, &[&["partition"], args, &["--json"]].concat()).exits(0).json()
}

fn summary(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn the_embedded_engine_has_no_partitions_and_says_so() {
    let place = Place::new();
    for args in [&["partition", "status"][..], &["partition", "ensure"], &["gate", "partition-readiness"]] {
        let ended = run(&mut aionis_on(&place.data(), args)).exits(1);
        assert!(ended.stderr.contains("for PostgreSQL") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
    for (args, wanted) in [
        (&["partition", "ensure", "--hash-partitions", "0"][..], "--hash-partitions"),
        (&["partition", "backfill", "--batch-size", "99"], "--batch-size"),
        (&["partition", "verify", "--buckets", "100"], "power of two"),
        (&["partition", "shadow-read", "--min-overlap", "1.5"], "from 0 to 1"),
        (&["partition", "cutover", "--lock-timeout-ms", "5000"], "--lock-timeout-ms"),
        (&["partition", "promote-scope", "--tenant", "acme"], "--scope"),
    ] {
        let ended = run(&mut aionis_on(&place.data(), args)).exits(1);
        assert!(ended.stderr.contains(wanted), "{args:?}: {}", ended.stderr);
    }
}

/// Writes and recalls until it is told to stop; every answer has to be one of success.
fn load(port: u16, stop: &AtomicBool, written: &AtomicU64) {
    let mut connection = Connection::open(port).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let n = written.load(Ordering::Relaxed);
        let node = json!({ "client_id": format!("n{n}"), "type": "event", "text_summary": format!("harbour {n}"),
                           "memory_lane": "shared" });
        let body = json!({ "scope": "ops", "input_text": format!("why {n}"), "nodes": [node] });
        connection.post("/v1/memory/write", &body).unwrap().ok();
        written.fetch_add(1, Ordering::Relaxed);
        let question = json!({ "scope": "ops", "query_text": "harbour", "limit": 3 });
        connection.post("/v1/memory/recall_text", &question).unwrap().ok();
    }
}

#[test]
fn ops_10_a_cutover_beside_a_server_by_the_commands_alone() {
    let database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("DATABASE_URL", &url);
    });
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let loader = scope.spawn(|| load(server.port, &stop, &written));
        let goes_on = || {
            let from = written.load(Ordering::Relaxed);
            until("more is written", Duration::from_secs(60), || {
                (written.load(Ordering::Relaxed) > from + 3 || loader.is_finished()).then_some(())
            });
        };
        goes_on();
        until("some vectors are derived", Duration::from_secs(30), || {
            (database.lines("SELECT count(*) FROM memory_vectors") != ["0"]).then_some(())
        });
        let before = command(&place, &url, &["gate", "partition-readiness", "--out-dir", "before"]).exits(2);
        assert!(before.stdout.contains("FAIL         twins_exist"), "{}", before.stdout);
        assert_eq!(summary(&place.path().join("before"))["ok"], false);
        assert_eq!(partition(&place, &url, &["plan", "--own-from-rows", "1"])["own"][0][0], "default/ops");
        partition(&place, &url, &["ensure", "--hash-partitions", "2"]);
        let early = command(&place, &url, &["partition", "cutover"]).exits(1);
        assert!(early.stderr.contains("next is `aionis partition backfill`"), "{}", early.stderr);
        assert_eq!(partition(&place, &url, &["backfill", "--dry-run"])["state"], "ensured");
        assert_eq!(partition(&place, &url, &["backfill", "--batch-size", "100"])["state"], "backfilled");
        goes_on();
        assert_eq!(partition(&place, &url, &["verify"])["ok"], true);
        assert_eq!(partition(&place, &url, &["gap"])["ok"], true);
        assert_eq!(partition(&place, &url, &["shadow-read"])["summary"]["overlap_min"], 1.0);
        let planted = "UPDATE memory_nodes_v2 SET text_summary = 'other' WHERE client_id = 'n1'";
        database.execute(planted);
        planted_difference(&place, &url);
        database.execute("UPDATE memory_nodes SET text_summary = text_summary WHERE client_id = 'n1'");
        partition(&place, &url, &["verify"]);
        let ready = partition(&place, &url, &["readiness", "--run-id", "r1"]);
        assert_eq!((&ready["ok"], &ready["state"]), (&json!(true), &json!("ready")));
        let kept = summary(&place.path().join("artifacts/partition_cutover/r1"));
        assert_eq!((&kept["ok"], &kept["run_id"], &kept["fail_reasons"]), (&json!(true), &json!("r1"), &json!([])));
        assert_eq!(kept["checks"].as_array().unwrap().len(), 15);
        for file in kept["evidence"].as_array().unwrap() {
            assert!(
                place.path().join("artifacts/partition_cutover/r1").join(file.as_str().unwrap()).exists(),
                "{file}"
            );
        }
        assert!(partition(&place, &url, &["cutover"])["window_ms"].as_u64().unwrap() <= 2_000);
        goes_on();
        partition(&place, &url, &["rollback"]);
        goes_on();
        partition(&place, &url, &["verify"]);
        partition(&place, &url, &["readiness"]);
        partition(&place, &url, &["cutover"]);
        partition(&place, &url, &["finalize"]);
        goes_on();
        let promoted = partition(&place, &url, &["promote-scope", "--tenant", "default", "--scope", "ops"]);
        assert!(promoted["tables"].as_array().unwrap().len() > 10);
        goes_on();
        stop.store(true, Ordering::Relaxed);
        loader.join().unwrap();
    });
    server.stop();
    let status = partition(&place, &url, &["status"]);
    assert_eq!((&status["state"], &status["next"]), (&json!("finalized"), &Value::Null));
    command(&place, &url, &["gate", "partition-readiness", "--out-dir", "after"]).exits(0);
    let verified = command(&place, &url, &["verify", "--json"]).exits(0).json();
    assert!(verified["scopes"][0]["commits"].as_u64().unwrap() >= written.load(Ordering::Relaxed));
    command(&place, &url, &["job", "consistency-check", "--all", "--strict"]).exits(0);
    // All of its tables are its own: purging truncates, and deletes nothing one by one.
    let purge = ["job", "scope-purge", "--tenant", "default", "--scope", "ops", "--fail-on-delete", "--json"];
    let plan = command(&place, &url, &purge).exits(0).json();
    let hash = plan["targets"][0]["plan_hash"].as_str().unwrap();
    let done = command(&place, &url, &[&purge[..], &["--apply", "--plan", hash]].concat()).exits(0).json();
    assert_eq!(done["targets"][0]["state"], "purged");
    assert_eq!(database.lines("SELECT count(*) FROM memory_nodes"), ["0"]);
}

fn planted_difference(place: &Place, url: &str) {
    let verified = command(place, url, &["partition", "verify"]).exits(2);
    assert!(verified.stdout.contains("DIFFER memory_nodes") && verified.stdout.contains("changed: default/ops"));
    let judged = command(place, url, &["gate", "partition-readiness", "--out-dir", "planted"]).exits(2);
    assert!(judged.stdout.contains("FAIL         verify"), "{}", judged.stdout);
    let summary = summary(&place.path().join("planted"));
    let reasons = summary["fail_reasons"].as_array().unwrap();
    assert!(reasons.len() == 1 && reasons[0].as_str().unwrap().starts_with("verify: "), "{reasons:?}");
    let refused = command(place, url, &["partition", "cutover"]).exits(1);
    assert!(refused.stderr.contains("out of order"), "{}", refused.stderr);
}

/// Whatever a run ends with, its summary says the same.
#[test]
fn exit_code_and_summary_agree_also_where_something_is_accepted_or_goes_wrong() {
    let database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    command(&place, &url, &["migrate"]).exits(0);
    // Out of order: not judged, and the summary says so.
    let refused = command(&place, &url, &["partition", "readiness", "--out-dir", "early"]).exits(1);
    assert!(refused.stderr.contains("out of order"), "{refused:#?}");
    let early = summary(&place.path().join("early"));
    assert_eq!((&early["ok"], &early["verdict"]), (&json!(false), &json!("fail")));
    assert!(early["fail_reasons"][0].as_str().unwrap().starts_with("not_judged: "), "{early:#}");
    for step in ["ensure", "backfill", "verify"] {
        partition(&place, &url, &[step]);
    }
    let gate = |out: &str, more: &[&str], code: i32| {
        command(&place, &url, &[&["gate", "partition-readiness", "--out-dir", out], more].concat()).exits(code);
        summary(&place.path().join(out))
    };
    let open = gate("open", &[], 2);
    assert_eq!((&open["ok"], &open["verdict"]), (&json!(false), &json!("inconclusive")));
    assert_eq!((&open["inconclusive"], &open["accepted_inconclusive"]), (&json!(["shadow_read"]), &json!([])));
    let accepted = gate("accepted", &["--accept-inconclusive"], 0);
    assert_eq!((&accepted["ok"], &accepted["verdict"]), (&json!(true), &json!("inconclusive")));
    assert_eq!((&accepted["fail_reasons"], &accepted["accepted_inconclusive"]), (&json!([]), &json!(["shadow_read"])));
    // What fails is not accepted.
    database.execute("ALTER TABLE memory_nodes ALTER COLUMN id SET DEFAULT gen_random_uuid()");
    assert_eq!(gate("differs", &["--accept-inconclusive"], 2)["ok"], false);
}

#[test]
fn a_database_that_cannot_be_reached_or_is_behind_fails_the_gate_with_a_summary() {
    let mut database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let behind = command(&place, &url, &["gate", "partition-readiness", "--out-dir", "behind"]).exits(2);
    assert!(behind.stdout.contains("FAIL         migrations_applied"), "{}", behind.stdout);
    // What a run found is not written over.
    let again = command(&place, &url, &["gate", "partition-readiness", "--out-dir", "behind"]).exits(1);
    assert!(again.one_line().contains("--out-dir"), "{again:#?}");
    database.kill();
    command(&place, &url, &["gate", "partition-readiness", "--out-dir", "away"]).exits(2);
    let summary = summary(&place.path().join("away"));
    assert_eq!(summary["checks"][0]["name"], "db_reachable");
    assert_eq!((&summary["ok"], &summary["checks"][0]["state"]), (&json!(false), &json!("fail")));
    command(&place, &url, &["partition", "status"]).exits(1);
}

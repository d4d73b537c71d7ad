//! `aionis job scope-purge`, as an operator uses it.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{Ended, aionis_on, run},
    server::Server,
};

fn filled() -> Place {
    let place = Place::new();
    let server = Server::start(&place.data());
    for scope in ["perf_1", "perfX1"] {
        for n in 0..3 {
            let text = format!("{scope} number {n}");
            server.write(&json!({ "scope": scope, "memory_lane": "shared", "input_text": text,
                "nodes": [{ "client_id": format!("n{n}"), "type": "event", "text_summary": text }] }));
        }
    }
    server.stop();
    place
}

fn purge(place: &Place, scope: &str, more: &[&str]) -> Command {
    let args = [&["job", "scope-purge", "--tenant", "default", "--scope", scope], more].concat();
    aionis_on(&place.data(), &args)
}

fn planned(place: &Place, scope: &str) -> Value {
    run(&mut purge(place, scope, &["--json"])).exits(0).json()["targets"][0].clone()
}

fn apply(place: &Place, scope: &str, hash: &str) -> Ended {
    run(&mut purge(place, scope, &["--apply", "--plan", hash, "--by", "ann", "--json"]))
}

fn verify(place: &Place, code: i32) -> Value {
    run(&mut aionis_on(&place.data(), &["verify", "--json"])).exits(code).json()
}

#[test]
fn a_plan_is_told_applied_by_its_hash_and_kept() {
    let place = filled();
    let plan = planned(&place, "perf_1");
    assert_eq!((&plan["state"], &plan["head_seq"]), (&json!("planned"), &json!("3")));
    let nodes = plan["tables"].as_array().unwrap().iter().find(|table| table["table"] == "memory_nodes").unwrap();
    assert_eq!(*nodes, json!({ "table": "memory_nodes", "strategy": "delete", "rows": 3 }));
    let hash = plan["plan_hash"].as_str().unwrap();
    assert_eq!(planned(&place, "perf_1")["plan_hash"], hash, "a look changes nothing");
    // Of another scope, however alike, the hash purges nothing.
    let refused = apply(&place, "perfX1", hash).exits(1);
    assert!(refused.stderr.contains("purge_plan_stale"), "{refused:?}");
    let done = apply(&place, "perf_1", hash).exits(0).json()["targets"][0].clone();
    assert_eq!((&done["state"], &done["record"]["rows"]["memory_nodes"]), (&json!("purged"), &json!(3)));
    assert_eq!((&done["record"]["by"], &done["record"]["record"]), (&json!("ann"), &json!(1)));
    let again = apply(&place, "perf_1", hash).exits(0).json()["targets"][0].clone();
    assert_eq!(again["record"], done["record"], "a purge that is done says so");
    let report = verify(&place, 0);
    assert_eq!(report["purges"], json!({ "ok": true, "records": 1, "first_break": null }));
    assert_eq!(report["scopes"].as_array().unwrap().len(), 1);
    let runs = run(&mut aionis_on(&place.data(), &["job", "runs", "--job", "scope-purge", "--json"])).exits(0).json();
    let applied =
        runs["runs"].as_array().unwrap().iter().rfind(|run| run["status"] == "done" && run["dry_run"] == false);
    assert_eq!(applied.unwrap()["result"]["record"]["plan_hash"], hash);
    // A scope that is written again begins anew.
    let server = Server::start(&place.data());
    let written = server.write(&json!({ "scope": "perf_1", "memory_lane": "shared", "input_text": "again",
        "nodes": [{ "client_id": "n0", "type": "event", "text_summary": "again" }] }));
    assert_eq!(written["commit_seq"], 1);
    assert_eq!(server.recall_text("perf_1", "again", 5)["seeds"].as_array().map_or(0, Vec::len), 1);
    server.stop();
    verify(&place, 0);
}

#[test]
fn wrong_flags_and_rules_end_with_1_before_anything_is_touched() {
    let place = filled();
    let hash = planned(&place, "perf_1")["plan_hash"].as_str().unwrap().to_owned();
    for (more, wanted) in [
        (&["--apply"][..], "--plan"),
        (&["--plan", &hash], "--apply"),
        (&["--apply", "--plan", "abc"], "64 hexadecimal digits"),
        (&["--apply", "--plan", &hash, "--dry-run"], "--dry-run"),
        (&["--mode", "truncate"], "auto, partition or delete"),
        (&["--batch-size", "99"], "100..=50000"),
        (&["--by", " "], "a name of 1 to 128 bytes"),
        (&["--legacy-only"], "--legacy-only"),
        (&["--apply", "--plan", &hash, "--fail-on-delete"], "purge_refused"),
        (&["--mode", "partition"], "purge_refused"),
    ] {
        let ended = run(&mut purge(&place, "perf_1", more)).exits(1);
        assert!(ended.stderr.contains(wanted), "{more:?}: {ended:?}");
    }
    let nowhere = run(&mut purge(&place, "perf%1", &[])).exits(1);
    assert!(nowhere.stderr.contains("scope_not_found"), "{nowhere:?}");
    assert_eq!(planned(&place, "perf_1")["plan_hash"], hash);
    assert_eq!(verify(&place, 0)["scopes"].as_array().unwrap().len(), 2);
}

#[test]
fn records_that_are_removed_or_altered_fail_verification() {
    let place = filled();
    for scope in ["perf_1", "perfX1"] {
        let hash = planned(&place, scope)["plan_hash"].as_str().unwrap().to_owned();
        apply(&place, scope, &hash).exits(0);
    }
    assert_eq!(verify(&place, 0)["purges"]["records"], 2);
    for (at, (damage, wanted)) in [
        ("DELETE FROM memory_purges WHERE seq = 1", "record 1 is missing"),
        ("DELETE FROM memory_purges WHERE seq = 2", "the newest record is number 2"),
        ("DELETE FROM memory_purges", "the newest record is number 2"),
        ("UPDATE memory_purges SET purged_by = 'nobody' WHERE seq = 1", "record 1 is not what"),
        ("UPDATE memory_purges SET parent_digest = zeroblob(32) WHERE seq = 2", "record 2 does not name"),
        ("UPDATE memory_purges SET row_counts = 'x' WHERE seq = 2", "cannot be read"),
    ]
    .into_iter()
    .enumerate()
    {
        let data = place.copy(&place.data(), &format!("damage-{at}"));
        db::writable(&data).execute_batch(damage).unwrap();
        let report = run(&mut aionis_on(&data, &["verify", "--json"])).exits(2).json();
        let said = report["purges"]["first_break"].as_str().unwrap();
        assert!(said.contains(wanted), "{damage}: {said}");
    }
}

/// Where a tenant was moved away from its scopes stay marked; they go by their plan. One that is being copied in does not.
#[test]
fn a_scope_that_was_left_behind_is_purged_and_one_that_is_copied_in_is_not() {
    let place = filled();
    let marked = db::writable(&place.data());
    marked.execute_batch("UPDATE memory_scopes SET state = 'importing'").unwrap();
    marked.execute_batch("INSERT INTO aionis_meta (key, value) VALUES ('import:default/perfX1', '{}')").unwrap();
    drop(marked);
    for more in [&[][..], &["--apply", "--plan", &"0".repeat(64)]] {
        let refused = run(&mut purge(&place, "perfX1", more)).exits(1);
        assert!(refused.stderr.contains("scope_importing"), "{refused:?}");
    }
    let plan = planned(&place, "perf_1");
    let done = apply(&place, "perf_1", plan["plan_hash"].as_str().unwrap()).exits(0).json()["targets"][0].clone();
    assert_eq!((&done["state"], &done["record"]["rows"]["memory_nodes"]), (&json!("purged"), &json!(3)));
    let left = db::read_only(&place.data());
    assert_eq!(db::count(&left, "SELECT COUNT(*) FROM memory_scopes WHERE scope_key = 'default/perf_1'"), 0);
    assert_eq!(db::count(&left, "SELECT COUNT(*) FROM memory_nodes WHERE scope_key = 'default/perfX1'"), 3);
}

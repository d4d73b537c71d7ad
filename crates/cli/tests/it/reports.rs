//! Jobs that report, review, remove and queue, as an operator runs them: output, files, exit codes.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{
    place::Place,
    program::{Ended, aionis_on, run},
    server::Server,
};

fn job(place: &Place, args: &[&str]) -> Command {
    aionis_on(&place.data(), &[&["job"], args].concat())
}

fn at(mut body: Value) -> Value {
    (body["scope"], body["input_text"]) = (json!("ops"), json!("why"));
    body
}

/// A store with a scope, made by a server that is gone.
fn filled(fill: impl FnOnce(&Server)) -> Place {
    let place = Place::new();
    let server = Server::start_without_worker(&place.data());
    fill(&server);
    server.stop();
    place
}

fn private(server: &Server, name: &str) -> String {
    let node = json!({ "client_id": name, "type": "event", "text_summary": "a secret", "memory_lane": "private" });
    let written = server.write(&at(json!({ "nodes": [node] })));
    written["nodes"][0]["id"].as_str().unwrap().to_owned()
}

fn rule(server: &Server, state: &str, outcomes: &[&str]) -> String {
    let node = json!({ "client_id": "r", "type": "rule", "text_summary": "a secret", "memory_lane": "shared",
                       "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
    let written = server.write(&at(json!({ "nodes": [node] })));
    let id = written["nodes"][0]["id"].as_str().unwrap().to_owned();
    server.post("/v1/memory/rules/state", &at(json!({ "rule_node_id": id, "state": state }))).ok();
    for (n, outcome) in outcomes.iter().enumerate() {
        let feedback = json!({ "rule_node_id": id, "outcome": outcome, "run_id": format!("run {n}") });
        server.post("/v1/memory/feedback", &at(feedback)).ok();
    }
    id
}

fn facts(ended: &Ended) -> Value {
    let report = ended.json();
    assert!(!ended.stdout.contains("a secret"), "reports hold no texts: {}", ended.stdout);
    report["targets"][0].clone()
}

fn judge(place: &Place, args: &[&str], code: i32) -> Value {
    let ended = run(&mut job(place, &[args, &["--json"]].concat())).exits(code);
    let facts = facts(&ended);
    assert_eq!((&ended.json()["ok"], &facts["ok"]), (&json!(code == 0), &json!(code == 0)), "ok is the verdict");
    facts
}

#[test]
fn a_failed_error_check_is_exit_2_and_a_strict_one_no_data_too() {
    let place = filled(|server| {
        private(server, "lost");
    });
    let scope = ["--scope", "ops"];
    for name in ["execution-loop", "governance-weekly-report"] {
        let facts = judge(
            &place,
            &[&[name], &scope[..], &["--out-dir", "w", "--dry-run"][..if name.starts_with('g') { 3 } else { 0 }]]
                .concat(),
            2,
        );
        let failed = facts["summary"]["failed_errors"].to_string();
        assert!(failed.contains("private_owner_coverage_min"), "{name}: {failed}");
        assert!(!place.path().join("w").exists(), "a dry run writes no files");
    }
    let facts = judge(&place, &["quality-eval", "--scope", "ops"], 2);
    assert_eq!(facts["summary"]["failed_errors"], json!(["embedding_ready_ratio"]));
    judge(&place, &["quality-eval", "--scope", "ops", "--min-ready-ratio", "0"], 0);
    judge(&place, &["quality-eval", "--scope", "ops", "--min-ready-ratio", "0", "--strict"], 2);
    judge(&place, &["policy-adaptation", "--scope", "ops"], 0);
    judge(&place, &["policy-adaptation", "--scope", "ops", "--strict"], 2);
    judge(&place, &["policy-adaptation", "--scope", "ops", "--strict-warnings"], 2);
}

#[test]
fn suggestions_are_told_and_are_a_verdict_when_strict() {
    let place = filled(|server| {
        rule(server, "shadow", &["positive"; 12]);
    });
    let facts = judge(&place, &["rule-promotion-suggest", "--scope", "ops"], 0);
    assert_eq!((&facts["suggested"], &facts["suggestions"][0]["target_state"]), (&json!(1), &json!("active")));
    judge(&place, &["rule-promotion-suggest", "--scope", "ops", "--strict"], 2);
    judge(&place, &["rule-promotion-suggest", "--scope", "ops", "--strict", "--min-positives", "13"], 0);
    judge(&place, &["rule-promotion-suggest", "--scope", "ops", "--strict", "--min-distinct-runs", "13"], 0);
}

#[test]
fn an_urgent_case_is_exit_2_without_any_flag() {
    let place = filled(|server| {
        rule(server, "active", &["negative"; 10]);
    });
    // What is stale after an hour cannot be made by waiting: the rule is made older.
    let made = "UPDATE memory_rule_defs SET created_at = created_at - 400 * 3600000000";
    crate::support::db::writable(&place.data()).execute(made, []).unwrap();
    let facts = judge(&place, &["policy-adaptation", "--scope", "ops"], 2);
    assert_eq!(facts["summary"]["failed_errors"], json!(["urgent_disable_candidates_max"]));
    assert_eq!(facts["suggestions"]["disable_active"][0]["target_state"], "disabled");
    judge(&place, &["policy-adaptation", "--scope", "ops", "--max-urgent-disable-candidates", "1"], 0);
}

#[test]
fn the_weekly_report_leaves_its_files_and_writes_over_none() {
    let place = filled(|server| {
        rule(server, "active", &["positive"; 6]);
        let node = json!({ "client_id": "n", "type": "event", "text_summary": "x", "memory_lane": "private",
                           "owner_agent_id": "ada" });
        server.write(&at(json!({ "nodes": [node] })));
    });
    let weekly = |more: &[&str]| {
        let args =
            ["governance-weekly-report", "--scope", "ops", "--json", "--run-id", "r1", "--report-week", "2026-W08"];
        run(&mut job(&place, &[&args[..], more].concat()))
    };
    let told = facts(&weekly(&[]).exits(0));
    let dir = place.path().join("artifacts/governance/weekly/2026-W08_r1");
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!((&summary["kind"], &summary["scope"]), (&json!("governance_weekly_report"), &json!("ops")));
    assert_eq!((&summary["run_id"], &summary["report_week"]), (&json!("r1"), &json!("2026-W08")));
    assert_eq!(summary["scope_snapshot"]["feedback"]["positive"], 6);
    assert_eq!(summary["cross_tenant"]["top_tenants"][0]["tenant_id"], "default");
    assert_eq!(summary["checks"], told["checks"]);
    assert!(read("WEEKLY_STATUS.md").contains("## Recommendations"));
    let page = read("weekly_status.html");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg ") && !page.contains("<script"));
    assert!(Path::new(told["weekly_html"].as_str().unwrap()).ends_with("2026-W08_r1/weekly_status.html"));
    let refused = weekly(&[]).exits(1);
    assert!(refused.one_line().contains("--out-dir") && refused.one_line().contains("--run-id"));
    weekly(&["--out-dir", "elsewhere"]).exits(0);
    assert!(place.path().join("elsewhere/summary.json").exists());
    weekly(&["--out-dir", "strict", "--strict-warnings"]).exits(2);
}

#[test]
fn owners_are_given_only_when_it_is_said_to_whom_and_that() {
    let mut ids = Vec::new();
    let place = filled(|server| ids = vec![private(server, "a"), private(server, "b")]);
    let review = |more: &[&str]| run(&mut job(&place, &[&["owner-review", "--scope", "ops"], more].concat()));
    let told = facts(&review(&["--json"]).exits(0));
    assert_eq!((&told["without_owner"], &told["assigned"]), (&json!(2), &json!(0)));
    for wrong in [
        &["--assign-agent", "ada"][..],
        &["--all-listed"],
        &["--apply"],
        &["--assign-agent", "ada", "--assign-team", "crew", "--all-listed"],
        &["--assign-agent", "ada", "--ids", "x"],
        &["--assign-agent", " ", "--all-listed"],
        &["--assign-agent", "ada", "--all-listed", "--apply", "--dry-run"],
        &["--share"],
    ] {
        review(wrong).exits(1);
    }
    let ada = ["--assign-agent", "ada", "--ids", ids[0].as_str(), "--json"];
    let told = facts(&review(&ada).exits(0));
    assert_eq!((&told["chosen"], &told["assigned"]), (&json!(1), &json!(0)), "only told");
    let told = facts(&review(&[&ada[..], &["--apply"]].concat()).exits(0));
    assert_eq!(told["assigned"], 1);
    let told = facts(&review(&[&ada[..], &["--apply"]].concat()).exits(2));
    assert_eq!(told["ids_not_listed"], 1);
    let told = facts(&review(&["--assign-team", "crew", "--all-listed", "--apply", "--json"]).exits(0));
    assert_eq!(told["assigned"], 1);
    let database = crate::support::db::read_only(&place.data());
    let shared = "SELECT COUNT(*) FROM memory_nodes WHERE memory_lane <> 'private'";
    assert_eq!(crate::support::db::count(&database, shared), 0, "ops_09: nothing was shared");
    let kept = "SELECT COUNT(*) FROM memory_commits WHERE kind = 'private_lane_owner_backfill' AND actor = 'job'";
    assert_eq!(crate::support::db::count(&database, kept), 2);
    drop(database);
    run(&mut aionis_on(&place.data(), &["verify"])).exits(0);
}

#[test]
fn old_rows_are_removed_and_missing_vectors_queued() {
    let place = filled(|server| {
        private(server, "n");
    });
    let queue = |more: &[&str]| run(&mut job(&place, &[&["embedding-backfill", "--all", "--json"], more].concat()));
    let told = facts(&queue(&[]).exits(0));
    assert_eq!((&told["without_vector"], &told["queued"], &told["queued_before"]), (&json!(1), &json!(0), &json!(1)));
    let made = "UPDATE memory_outbox SET published_at = 1, claimed_by = NULL";
    crate::support::db::writable(&place.data()).execute(made, []).unwrap();
    let told = facts(&queue(&[]).exits(0));
    assert_eq!(told["queued"], 1);
    let retention = |more: &[&str]| facts(&run(&mut job(&place, &[&["retention", "--json"], more].concat())).exits(0));
    assert_eq!(retention(&["--dry-run"])["outbox_rows"], 1);
    assert_eq!(retention(&["--retention-outbox-days", "0"])["outbox_rows"], Value::Null);
    assert_eq!(retention(&[])["outbox_rows"], 1);
    assert_eq!(retention(&[])["outbox_rows"], 0);
    run(&mut aionis_on(&place.data(), &["verify"])).exits(0);
}

#[test]
fn wrong_flags_are_exit_1_and_name_what_is_wrong() {
    let place = Place::new();
    for (args, says) in [
        (&["quality-eval"][..], "--scope"),
        (&["quality-eval", "--all", "--min-ready-ratio", "abc"], "--min-ready-ratio"),
        (&["quality-eval", "--all", "--max-alias-rate", "NaN"], "--max-alias-rate"),
        (&["rule-promotion-suggest", "--all", "--limit", "501"], "--limit"),
        (&["rule-promotion-suggest", "--all", "--no-json"], "--no-json"),
        (&["policy-adaptation", "--all", "--window-hours", "2161"], "--window-hours"),
        (&["policy-adaptation", "--all", "--urgent-disable-confidence", "1.1"], "--urgent-disable-confidence"),
        (&["execution-loop", "--all", "--window-hours", "0"], "--window-hours"),
        (&["governance-weekly-report", "--all"], "--all"),
        (&["governance-weekly-report", "--scope", "s", "--run-id", "../x"], "--run-id"),
        (&["governance-weekly-report", "--scope", "s", "--report-week", "2026-W99"], "--report-week"),
        (&["retention", "--retention-audit-days", "-1"], "-1"),
        (&["embedding-backfill", "--all", "--model", "mine"], "--model"),
    ] {
        let ended = run(&mut job(&place, args)).exits(1);
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
}

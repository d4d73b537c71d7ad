//! The gates of scopes, on both engines.

use serde_json::{Value, json};

use super::world::{World, sound, texts};
use crate::support::{program::run, server::Server};

/// A world whose server is gone: the embedded database belongs to its server.
fn filled(world: World, fill: impl FnOnce(&Server)) -> World {
    let server = world.serve(&[]);
    sound(&server);
    fill(&server);
    server.stop();
    world
}

fn rule(server: &Server, outcomes: &[&str]) {
    let at = |mut body: Value| {
        (body["scope"], body["input_text"]) = (json!("pier"), json!("why"));
        body
    };
    let node = json!({ "client_id": "r", "type": "rule", "text_summary": "a rule", "memory_lane": "shared",
                       "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
    let written = server.write(&at(json!({ "nodes": [node] })));
    let id = written["nodes"][0]["id"].as_str().unwrap().to_owned();
    server.post("/v1/memory/rules/state", &at(json!({ "rule_node_id": id, "state": "active" }))).ok();
    for (n, outcome) in outcomes.iter().enumerate() {
        let feedback = json!({ "rule_node_id": id, "outcome": outcome, "run_id": format!("run {n}") });
        server.post("/v1/memory/feedback", &at(feedback)).ok();
    }
    server.vectors_are_ready("pier", super::world::PATIENCE);
}

const PIER: [&str; 2] = ["--scope", "pier"];

#[test]
fn a_sound_scope_passes_strictly_and_nothing_is_changed() {
    for world in World::both() {
        let world = filled(world, |_| {});
        let before = world.digests();
        let health = world.judged("health", &[&PIER[..], &["--strict-warnings", "--release"]].concat(), 0);
        assert_eq!((&health["verdict"], &health["kind"]), (&json!("pass"), &json!("health_gate")));
        assert_eq!((&health["tenant_id"], &health["scope"]), (&json!("default"), &json!("pier")));
        assert_eq!((&health["consistency"]["errors"], &health["quality"]["pass"]), (&json!(0), &json!(true)));
        assert_eq!(health["gate"]["fail_reasons"], json!([]));
        assert_eq!(health["quality"]["metrics"]["total_nodes"], 2);
        let engine = if world.is_postgres() { "PostgreSQL 1" } else { "SQLite 3" };
        assert!(health["versions"]["database"].as_str().unwrap().starts_with(engine), "{}", health["versions"]);
        assert!(health["machine"]["cores"].as_u64().unwrap() > 0);
        world.judged("consistency", &["--all", "--strict-warnings"], 0);
        world.judged("consistency", &[&PIER[..], &["--check-set", "scope", "--release"]].concat(), 0);
        assert_eq!(before, world.digests(), "a gate changes nothing it judges");
    }
}

/// What is planted, and the gate, its flags and its reason.
struct Case {
    plant: &'static str,
    heal: &'static str,
    gate: &'static str,
    flags: &'static [&'static str],
    reason: &'static str,
    /// The check that says so.
    check: &'static str,
}

const ODD_TOPIC: &str = r#"UPDATE memory_nodes SET activity = '{"topic_state":"odd"}' WHERE type = 'topic'"#;
const EVEN_TOPIC: &str = "UPDATE memory_nodes SET activity = '{}' WHERE type = 'topic'";
const FORGED: &str = "UPDATE memory_commits SET kind = kind || 'x' WHERE scope_key = 'default/pier' AND seq = 1";
const GENUINE: &str =
    "UPDATE memory_commits SET kind = replace(kind, 'x', '') WHERE scope_key = 'default/pier' AND seq = 1";
const OLD: &str = "UPDATE memory_nodes SET last_activated = 1, created_at = 1 WHERE scope_key = 'default/pier'";
const NEW: &str = "UPDATE memory_nodes SET last_activated = updated_at, created_at = updated_at \
                   WHERE scope_key = 'default/pier'";
const GHOST: &str = "UPDATE memory_edges SET scope_key = 'acme/ghost' WHERE scope_key = 'default/pier'";
const NO_GHOST: &str = "UPDATE memory_edges SET scope_key = 'default/pier' WHERE scope_key = 'acme/ghost'";
const DANGLING: &str = "DELETE FROM memory_edges WHERE scope_key = 'default/pier'";

const CASES: &[Case] = &[
    Case {
        plant: FORGED,
        heal: GENUINE,
        gate: "health",
        flags: &[],
        reason: "consistency_errors",
        check: "commit_chain_broken",
    },
    Case {
        plant: FORGED,
        heal: GENUINE,
        gate: "consistency",
        flags: &[],
        reason: "consistency_errors",
        check: "commit_chain_broken",
    },
    Case {
        plant: ODD_TOPIC,
        heal: EVEN_TOPIC,
        gate: "health",
        flags: &["--strict-warnings"],
        reason: "consistency_warnings",
        check: "topic_state_invalid",
    },
    Case {
        plant: ODD_TOPIC,
        heal: EVEN_TOPIC,
        gate: "consistency",
        flags: &["--strict-warnings"],
        reason: "consistency_warnings",
        check: "topic_state_invalid",
    },
    Case { plant: OLD, heal: NEW, gate: "health", flags: &[], reason: "quality_eval_failed", check: "fresh_30d_ratio" },
    Case {
        plant: GHOST,
        heal: NO_GHOST,
        gate: "health",
        flags: &[],
        reason: "consistency_errors",
        check: "scope_head_missing",
    },
    Case {
        plant: GHOST,
        heal: NO_GHOST,
        gate: "consistency",
        flags: &["--check-set", "cross-tenant"],
        reason: "consistency_errors",
        check: "scope_head_missing",
    },
    // The last one is not healed: an edge that is gone breaks counts and the chain's objects.
    Case {
        plant: DANGLING,
        heal: "",
        gate: "health",
        flags: &["--consistency-check-set", "scope"],
        reason: "consistency_errors",
        check: "content_digest_mismatch",
    },
];

#[test]
fn ops_10_every_planted_violation_is_found_by_its_gate() {
    for world in World::both() {
        let world = filled(world, |_| {});
        for case in CASES {
            world.execute(case.plant);
            let summary = world.judged(case.gate, &[&PIER[..], case.flags].concat(), 2);
            let reasons = texts(&summary["gate"]["fail_reasons"]);
            assert!(reasons.contains(&case.reason), "{} {:?}: {reasons:?}", case.gate, case.plant);
            assert_eq!(summary["verdict"], "fail", "{summary:#}");
            let member =
                if case.reason == "quality_eval_failed" { &summary["quality"] } else { &summary["consistency"] };
            let checks = member["checks"].as_array().unwrap();
            let failed = checks.iter().any(|check| check["name"] == case.check && check["state"] == "fail");
            assert!(failed, "{}: {member:#}", case.check);
            world.execute(case.heal);
        }
    }
}

#[test]
fn rules_that_are_refused_and_rules_without_feedback_are_found() {
    for world in World::both() {
        let world = filled(world, |server| rule(server, &["negative"; 10]));
        // What is stale after two weeks cannot be made by waiting: the rule is made older.
        world.execute("UPDATE memory_rule_defs SET created_at = created_at - 400 * 3600000000");
        let policy = world.judged("policy-adaptation", &PIER, 2);
        assert_eq!(policy["gate"]["fail_reasons"], json!(["policy_adaptation_gate_failed"]));
        let failed = &policy["policy_adaptation"]["failed_checks"];
        assert_eq!(failed, &json!(["urgent_disable_candidates_max"]));
        world.judged("policy-adaptation", &[&PIER[..], &["--max-urgent-disable-candidates", "1"]].concat(), 0);
        let all = world.judged("policy-adaptation", &["--all"], 2);
        assert_eq!(all["policy_adaptation"]["targets"].as_array().map(Vec::len), Some(2));
        let looped = world.judged("execution-loop", &PIER, 2);
        assert_eq!(looped["gate"]["fail_reasons"], json!(["execution_loop_gate_failed"]));
        assert_eq!(looped["execution_loop"]["failed_checks"][0], "feedback_negative_ratio_max");
        // As parts of the health gate they count as well, and only where they are asked for.
        let parts = ["--run-execution-loop-gate", "--run-policy-adaptation-gate"];
        let health = world.judged("health", &[&PIER[..], &parts].concat(), 2);
        let expected = json!(["execution_loop_gate_failed", "policy_adaptation_gate_failed"]);
        assert_eq!(health["gate"]["fail_reasons"], expected);
        world.judged("health", &PIER, 0);
        let bounds = [
            "--policy-adaptation-arg=--max-urgent-disable-candidates=1",
            "--execution-loop-arg=--max-negative-ratio=1",
        ];
        world.judged("health", &[&PIER[..], &parts, &bounds].concat(), 0);
    }
}

#[test]
fn no_data_is_inconclusive_and_fails_where_a_release_is_decided() {
    for world in World::both() {
        world.serve(&[]).stop();
        for gate in ["health", "consistency", "policy-adaptation", "execution-loop"] {
            let empty = world.judged(gate, &PIER, 2);
            assert_eq!((&empty["verdict"], &empty["ok"]), (&json!("inconclusive"), &json!(false)), "{gate}");
            assert_eq!(empty["gate"]["fail_reasons"], json!(["scope_inconclusive"]), "{gate}");
        }
        let empty = world.judged("consistency", &["--all", "--release"], 2);
        assert_eq!(empty["gate"]["fail_reasons"], json!(["database_inconclusive"]));
        let world = filled(world, |_| {});
        for gate in ["policy-adaptation", "execution-loop"] {
            let lax = world.judged(gate, &PIER, 0);
            assert_eq!(lax["verdict"], "inconclusive", "{gate}: no feedback says neither");
            let strict = world.judged(gate, &[&PIER[..], &["--release"]].concat(), 2);
            assert_eq!((&strict["verdict"], texts(&strict["gate"]["fail_reasons"]).len()), (&json!("inconclusive"), 1));
        }
    }
}

#[test]
fn wrong_flags_and_variables_are_exit_1_and_name_what_is_wrong() {
    let world = World::embedded();
    let refused = |gate: &str, flags: &[&str], says: &str| {
        let ended = run(&mut world.gate(gate, flags)).exits(1);
        assert!(ended.stderr.contains(says) && ended.stdout.is_empty(), "{gate} {flags:?}: {ended:#?}");
    };
    refused("health", &PIER, "there is no database at");
    world.serve(&[]).stop();
    for (gate, flags, says) in [
        ("health", &["--scope", " "][..], "scope"),
        ("health", &["--tenant-id", "a/b"], "tenant"),
        ("health", &["--consistency-sample", "0"], "--consistency-sample"),
        ("health", &["--consistency-check-set", "some"], "--consistency-check-set"),
        ("health", &["--skip-backfill"], "--skip-backfill"),
        ("health", &["--quality-arg=--min-ready-ratio=x"], "--quality-arg: "),
        ("health", &["--execution-loop-arg=--window-hours=0"], "--execution-loop-arg: "),
        ("health", &["--policy-adaptation-arg=--strict"], "--policy-adaptation-arg: "),
        ("health", &["--run-execution-loop-gate=maybe"], "--run-execution-loop-gate"),
        ("health", &["--run-id", "../x"], "--run-id"),
        ("consistency", &["--stictt"], "--stictt"),
        ("policy-adaptation", &["--limit", "abc"], "--limit"),
        ("execution-loop", &["--max-negative-ratio", "2"], "--max-negative-ratio"),
        ("core", &[], "DATABASE_URL"),
        ("core", &["--error-rate-max", "2"], "--error-rate-max"),
        ("core", &["--run-perf", "yes"], "--run-perf"),
        ("core", &["--perf-warmup", "-1"], "-1"),
        ("core", &["--database-url", "postgres://127.0.0.1:1/x", "--base-url", "https://x"], "--base-url"),
        ("core", &["--require-partition-redy", "true"], "--require-partition-redy"),
    ] {
        refused(gate, flags, says);
    }
    let mut command = world.gate("core", &[]);
    command.env("RECALL_P95_MAX_MS", "fast").env("ERROR_RATE_MAX", "-1");
    let ended = run(&mut command).exits(1);
    assert!(ended.stderr.contains("RECALL_P95_MAX_MS") && ended.stderr.contains("ERROR_RATE_MAX"), "{ended:#?}");
}

#[test]
fn evidence_is_not_written_over_and_a_schema_that_is_behind_is_not_touched() {
    for world in World::both() {
        let world = filled(world, |_| {});
        run(&mut world.gate("health", &PIER)).exits(0);
        let refused = run(&mut world.gate("health", &PIER)).exits(1);
        assert!(refused.one_line().contains("--out-dir"), "{refused:#?}");
        world.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)");
        std::fs::remove_dir_all(world.place.path().join("out")).unwrap();
        let before = world.digests();
        let refused = run(&mut world.gate("health", &PIER)).exits(1);
        assert!(refused.one_line().contains("run `aionis migrate` first"), "{refused:#?}");
        assert_eq!(before, world.digests());
    }
}

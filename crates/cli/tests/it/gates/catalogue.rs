//! Every check of every gate with a violation of it: planted in a real database, found by the gate's process, exit 2, and the
//! reason in the summary. A check without one fails here.

use std::collections::BTreeSet;

use aionis_core::{jobs::consistency::CATALOGUE, partition::Readiness};
use aionis_testkit::postgres::PrivateServer;
use serde_json::{Value, json};

use super::world::{PATIENCE, World, sound, texts};
use crate::support::{
    place::Place,
    program::{Ended, aionis, fake, run},
    server::Server,
};

const PIER: [&str; 2] = ["--scope", "pier"];

/// A violation: the check, what makes it and what takes it back, and flags the gate needs to see it.
struct Plant {
    check: &'static str,
    plant: &'static str,
    heal: &'static str,
    flags: &'static [&'static str],
}

const fn plant(check: &'static str, plant: &'static str, heal: &'static str) -> Plant {
    Plant { check, plant, heal, flags: &[] }
}

const fn warning(check: &'static str, plant: &'static str, heal: &'static str) -> Plant {
    Plant { check, plant, heal, flags: &["--strict-warnings"] }
}

const NEW_FEEDBACK: &str = "UPDATE memory_rule_feedback SET created_at = (SELECT max(updated_at) FROM memory_nodes)";
const OLD_FEEDBACK: &str = "UPDATE memory_rule_feedback SET created_at = 1";
const OWN_RUNS: &str = "UPDATE memory_rule_feedback SET run_id = 'run ' || CAST(commit_seq AS text)";
const POSITIVE: &str = "UPDATE memory_rule_feedback SET outcome = 'positive'";
const NEGATIVE: &str = "UPDATE memory_rule_feedback SET outcome = 'negative'";

const QUALITY: &[Plant] = &[
    plant(
        "embedding_ready_ratio",
        "UPDATE memory_nodes SET embedding_status = 'failed' WHERE scope_key = 'default/pier' AND client_id <> 'r'",
        "UPDATE memory_nodes SET embedding_status = 'ready' WHERE scope_key = 'default/pier' AND client_id <> 'r'",
    ),
    plant(
        "alias_rate",
        r#"UPDATE memory_nodes SET activity = '{"alias_of":"x"}' WHERE type = 'topic'"#,
        "UPDATE memory_nodes SET activity = '{}' WHERE type = 'topic'",
    ),
    plant(
        "archive_ratio",
        "UPDATE memory_nodes SET tier = 'archive' WHERE scope_key = 'default/pier'",
        "UPDATE memory_nodes SET tier = 'hot' WHERE scope_key = 'default/pier'",
    ),
    plant(
        "fresh_30d_ratio",
        "UPDATE memory_nodes SET last_activated = 1, created_at = 1 WHERE scope_key = 'default/pier'",
        "UPDATE memory_nodes SET last_activated = updated_at, created_at = updated_at WHERE scope_key = 'default/pier'",
    ),
];

const LOOP: &[Plant] = &[
    warning(
        "feedback_events_min",
        "UPDATE memory_rule_feedback SET created_at = 1 WHERE run_id <> (SELECT min(run_id) FROM memory_rule_feedback \
         WHERE scope_key = 'default/pier')",
        NEW_FEEDBACK,
    ),
    warning("feedback_distinct_runs_min", "UPDATE memory_rule_feedback SET run_id = 'one'", OWN_RUNS),
    warning("feedback_run_id_coverage_min", "UPDATE memory_rule_feedback SET run_id = NULL", OWN_RUNS),
    plant("feedback_negative_ratio_max", NEGATIVE, POSITIVE),
    warning("active_rule_feedback_coverage_min", OLD_FEEDBACK, NEW_FEEDBACK),
    Plant {
        check: "stale_active_rules_max",
        plant: OLD_FEEDBACK,
        heal: NEW_FEEDBACK,
        flags: &["--strict-warnings", "--max-stale-active-rules", "0"],
    },
    // Decisions that are not stored.
    warning(
        "decision_link_coverage_min",
        "UPDATE memory_rule_feedback SET source = 'tools_feedback'",
        "UPDATE memory_rule_feedback SET source = 'rule_feedback'",
    ),
    warning(
        "recall_identity_coverage_min",
        "UPDATE memory_recall_audit SET consumer_agent_id = NULL",
        "UPDATE memory_recall_audit SET consumer_agent_id = 'pilot'",
    ),
    plant(
        "private_owner_coverage_min",
        "UPDATE memory_nodes SET memory_lane = 'private', owner_agent_id = NULL, owner_team_id = NULL \
         WHERE scope_key = 'default/pier' AND client_id = 'e'",
        "UPDATE memory_nodes SET memory_lane = 'shared' WHERE scope_key = 'default/pier' AND client_id = 'e'",
    ),
    Plant {
        check: "tenant_active_rule_count_drift_max",
        plant: "UPDATE memory_rule_defs SET state = 'disabled' WHERE scope_key = 'acme/quay'",
        heal: "UPDATE memory_rule_defs SET state = 'active' WHERE scope_key = 'acme/quay'",
        flags: &["--strict-warnings", "--max-tenant-active-rule-count-drift", "0"],
    },
    warning(
        "tenant_negative_ratio_drift_max",
        "UPDATE memory_rule_feedback SET outcome = 'negative' WHERE scope_key = 'acme/quay'",
        POSITIVE,
    ),
];

const POLICY: &[Plant] = &[
    plant(
        "urgent_disable_candidates_max",
        "UPDATE memory_rule_feedback SET outcome = 'negative'; \
         UPDATE memory_rule_defs SET created_at = created_at - 400 * 3600000000",
        "UPDATE memory_rule_feedback SET outcome = 'positive'; \
         UPDATE memory_rule_defs SET created_at = created_at + 400 * 3600000000",
    ),
    Plant {
        check: "canary_disable_candidates_max",
        plant: NEGATIVE,
        heal: POSITIVE,
        flags: &["--strict-warnings", "--max-canary-disable-candidates", "0"],
    },
];

/// An active rule of a scope, with positive feedback of ten runs.
fn rule(server: &Server, tenant: &str, scope: &str) {
    let at = |mut body: Value| {
        (body["tenant_id"], body["scope"], body["input_text"]) = (json!(tenant), json!(scope), json!("why"));
        body
    };
    let node = json!({ "client_id": "r", "type": "rule", "text_summary": "a rule", "memory_lane": "shared",
                       "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
    let written = server.write(&at(json!({ "nodes": [node] })));
    let id = written["nodes"][0]["id"].as_str().unwrap().to_owned();
    server.post("/v1/memory/rules/state", &at(json!({ "rule_node_id": id, "state": "active" }))).ok();
    for n in 0..10 {
        let feedback = json!({ "rule_node_id": id, "outcome": "positive", "run_id": format!("run {n}") });
        server.post("/v1/memory/feedback", &at(feedback)).ok();
    }
}

/// A database in which every check has enough to judge by and none fails.
fn judgeable(world: World) -> World {
    let server = world.serve(&[]);
    sound(&server);
    for (tenant, scope) in [("default", "pier"), ("acme", "quay")] {
        rule(&server, tenant, scope);
    }
    server.vectors_are_ready("pier", PATIENCE);
    for n in 0..6 {
        server.recall_text("pier", &format!("boat {n}"), 1);
    }
    server.stop();
    world.execute("UPDATE memory_recall_audit SET consumer_agent_id = 'pilot'");
    world
}

fn named(checks: &Value, is: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let checks = checks.as_array().unwrap_or_else(|| panic!("no checks: {checks}"));
    checks.iter().filter(|check| is(check)).map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

/// Plants each, one after the other, and heals it; the table has to name every check of the report.
fn each_is_found(world: &World, gate: &str, member: &str, reason: &str, plants: &[Plant]) {
    let before = world.judged(gate, &PIER, 0);
    let checks = &before[member]["checks"];
    let planted: BTreeSet<String> = plants.iter().map(|plant| plant.check.to_owned()).collect();
    assert_eq!(named(checks, |_| true), planted, "every check of {gate} has a plant");
    assert!(named(checks, |check| check["state"] == "fail").is_empty(), "{checks:#}");
    for Plant { check, plant, heal, flags } in plants {
        world.execute(plant);
        let found = world.judged(gate, &[&PIER[..], flags].concat(), 2);
        let failing = named(&found[member]["checks"], |check| check["state"] == "fail");
        assert!(failing.contains(*check), "{check}: {failing:?}");
        assert!(texts(&found["gate"]["fail_reasons"]).contains(&reason), "{check}: {}", found["gate"]);
        assert_eq!(found["verdict"], "fail", "{check}");
        world.execute(heal);
    }
    let after = world.judged(gate, &PIER, 0);
    assert!(named(&after[member]["checks"], |check| check["state"] == "fail").is_empty(), "{after:#}");
}

#[test]
fn ops_10_every_check_of_quality_is_found_by_the_health_gate() {
    for world in World::both() {
        each_is_found(&judgeable(world), "health", "quality", "quality_eval_failed", QUALITY);
    }
}

#[test]
fn ops_10_every_check_of_the_execution_loop_is_found_by_its_gate() {
    for world in World::both() {
        let world = judgeable(world);
        each_is_found(&world, "execution-loop", "execution_loop", "execution_loop_gate_failed", LOOP);
    }
}

#[test]
fn ops_10_every_check_of_the_policy_is_found_by_its_gate() {
    for world in World::both() {
        let world = judgeable(world);
        each_is_found(&world, "policy-adaptation", "policy_adaptation", "policy_adaptation_gate_failed", POLICY);
    }
}

/// What a consistency check can say beside that it holds: how the gates get to it, and what they say.
#[test]
fn ops_10_every_way_a_consistency_check_ends_is_a_reason() {
    for world in World::both() {
        let slots = if world.is_postgres() { r#"["x"]"# } else { "{x" };
        let broken =
            format!("UPDATE memory_nodes SET slots = '{slots}' WHERE scope_key = 'default/pier' AND type = 'event'");
        let world = judgeable(world);
        let cases = [
            (
                r#"UPDATE memory_nodes SET activity = '{"topic_state":"odd"}' WHERE type = 'topic'"#,
                &["--strict-warnings"][..],
                "consistency_warnings",
                "fail",
            ),
            (
                "UPDATE memory_commits SET kind = kind || 'x' WHERE scope_key = 'default/pier' AND seq = 1",
                &[],
                "consistency_errors",
                "fail",
            ),
            (broken.as_str(), &[], "consistency_errored", "error"),
        ];
        for (sql, flags, reason, state) in cases {
            world.execute(sql);
            for gate in ["consistency", "health"] {
                let found = world.judged(gate, &[&PIER[..], flags].concat(), 2);
                assert!(texts(&found["gate"]["fail_reasons"]).contains(&reason), "{gate} {sql}: {}", found["gate"]);
                let ended = named(&found["consistency"]["checks"], |check| check["state"] == state);
                assert!(!ended.is_empty(), "{gate} {sql}: {:#}", found["consistency"]);
            }
        }
        let nothing = world.judged("consistency", &["--scope", "nowhere", "--release"], 2);
        assert_eq!(nothing["gate"]["fail_reasons"], json!(["scope_inconclusive"]));
    }
}

/// More rows than may be held: what was not looked at is no pass where a release is decided.
#[test]
fn ops_10_a_consistency_check_that_was_skipped_is_inconclusive() {
    let world = World::embedded();
    let server = world.serve(&[]);
    sound(&server);
    for batch in 0..11 {
        let nodes: Vec<Value> = (0..100)
            .map(|n| json!({ "client_id": format!("n{batch}-{n}"), "type": "event", "text_summary": "a boat" }))
            .collect();
        server.write(&json!({ "scope": "pier", "input_text": "x", "memory_lane": "shared", "nodes": nodes }));
    }
    server.stop();
    let flags = ["--scope", "pier", "--rows-max", "1000"];
    let found = world.judged("consistency", &[&flags[..], &["--release"]].concat(), 2);
    assert!(texts(&found["gate"]["fail_reasons"]).contains(&"consistency_inconclusive"), "{}", found["gate"]);
    let skipped = named(&found["consistency"]["checks"], |check| check["state"] == "skipped");
    assert!(!skipped.is_empty(), "{:#}", found["consistency"]);
}

/// The engine's tests plant each of these checks alone and compare their list with the catalogue; here it is made sure that
/// the gate shows every one and that those tests name every one.
#[test]
fn ops_10_every_consistency_check_is_planted_and_shown() {
    let jobs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/src/jobs");
    let sources = ["consistency_seeds.rs", "consistency_tests.rs"]
        .map(|file| std::fs::read_to_string(jobs.join(file)).unwrap())
        .concat();
    let missing: Vec<&str> =
        CATALOGUE.iter().map(|check| check.name).filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "not planted: {missing:?}");
    for world in World::both() {
        let world = judgeable(world);
        let engine = if world.is_postgres() {
            aionis_core::jobs::consistency::StorageEngine::Postgres
        } else {
            aionis_core::jobs::consistency::StorageEngine::Embedded
        };
        // There are budgets only where they are asked for.
        let budgets = ["--hot-budget", "1000", "--active-budget", "1000"];
        let report = world.judged("consistency", &[&PIER[..], &budgets].concat(), 0);
        let made = CATALOGUE.iter().filter(|check| check.only.is_none_or(|only| only == engine));
        let made: BTreeSet<String> = made.map(|check| check.name.to_owned()).collect();
        assert_eq!(named(&report["consistency"]["checks"], |_| true), made);
    }
}

/// A database on a server of its own, with twins that are compared and found equal, and its service.
struct Layouts {
    database: PrivateServer,
    place: Place,
    server: Server,
}

impl Layouts {
    fn verified() -> Self {
        let database = PrivateServer::start(false);
        let (place, url) = (Place::new(), database.url("postgres"));
        let server = Server::start_with(&place.data(), |command| {
            fake(command).env("DATABASE_URL", &url).env("AIONIS_JOBS_ENABLED", "false");
        });
        sound(&server);
        let layouts = Self { database, place, server };
        layouts.partition(&["ensure", "--hash-partitions", "2"]);
        for step in ["backfill", "verify"] {
            layouts.partition(&[step]);
        }
        layouts
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(fake(aionis(self.place.path()).args(args).env("DATABASE_URL", self.database.url("postgres"))))
    }

    fn partition(&self, args: &[&str]) {
        self.run(&[&["partition"], args].concat()).exits(0);
    }

    /// The summary of a gate, which is the same on stdout and in the file.
    fn judged(&self, gate: &str, more: &[&str], code: i32) -> Value {
        let out = self.place.path().join("out");
        let _ = std::fs::remove_dir_all(&out);
        let ended = self.run(&[&["gate", gate, "--json", "--out-dir", "out"], more].concat()).exits(code);
        let kept = std::fs::read_to_string(out.join("summary.json")).unwrap();
        let kept: Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(ended.json(), kept);
        assert_eq!(kept["ok"], code == 0, "{kept:#}");
        kept
    }

    fn readiness(&self, code: i32) -> Value {
        self.judged("partition-readiness", &[], code)
    }

    fn release(&self, more: &[&str], code: i32) -> Value {
        let url = format!("http://127.0.0.1:{}", self.server.port);
        let flags = ["--scope", "pier", "--base-url", &url, "--run-perf", "false", "--require-partition-ready", "true"];
        self.judged("core", &[&flags[..], more].concat(), code)
    }
}

const OFF_AND_ON: &str = "ALTER TABLE memory_edges DISABLE TRIGGER aionis_mirror_memory_edges_insert; \
                          ALTER TABLE memory_edges ENABLE ALWAYS TRIGGER aionis_mirror_memory_edges_insert";
/// More relations than locks fit, as the catalogue has it.
const RELATIONS: &str = "SET allow_system_table_mods = on; \
    INSERT INTO pg_class SELECT r.* FROM pg_class c, generate_series(1, current_setting('max_locks_per_transaction')::int \
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)) n, \
    LATERAL jsonb_populate_record(c, jsonb_build_object('oid', 3000000000 + n, 'relname', 'memory_fake_' || n, \
        'relkind', 'I')) r WHERE c.relname = 'memory_requests_pkey'";
const NO_RELATIONS: &str =
    "SET allow_system_table_mods = on; DELETE FROM pg_class WHERE relname LIKE 'memory\\_fake\\_%'";
const INVALID: &str = "SET allow_system_table_mods = on; UPDATE pg_index SET indisvalid = false \
                       WHERE indexrelid = 'memory_merges_p_h001_pkey'::regclass";
const VALID: &str = "SET allow_system_table_mods = on; UPDATE pg_index SET indisvalid = true \
                     WHERE indexrelid = 'memory_merges_p_h001_pkey'::regclass";

/// What is planted while both layouts are there. What cannot be healed comes last.
const READINESS: &[Plant] = &[
    plant(
        "verify",
        "UPDATE memory_nodes_v2 SET text_summary = 'other' WHERE client_id = 'e' AND scope_key = 'default/pier'",
        "UPDATE memory_nodes SET text_summary = text_summary",
    ),
    plant(
        "gap",
        "DELETE FROM memory_edges_v2 WHERE scope_key = 'default/pier'",
        "UPDATE memory_edges SET weight = weight",
    ),
    plant("shadow_read", "DELETE FROM memory_vectors_v2", "UPDATE memory_vectors SET model = model"),
    plant("indexes_valid", INVALID, VALID),
    plant(
        "rls_and_grants",
        "GRANT TRUNCATE ON memory_nodes_v2 TO aionis_runtime",
        "REVOKE TRUNCATE ON memory_nodes_v2 FROM aionis_runtime",
    ),
    plant(
        "backfill_complete",
        "UPDATE partition_cutover SET state = 'mirroring'",
        "UPDATE partition_cutover SET state = 'verified'",
    ),
    plant("lock_table_size", RELATIONS, NO_RELATIONS),
    plant("not_replicated", "CREATE PUBLICATION moved FOR TABLE memory_edges", "DROP PUBLICATION moved"),
    plant("mirror_uninterrupted", OFF_AND_ON, ""),
    plant("mirror_active", "ALTER TABLE memory_edges DISABLE TRIGGER aionis_mirror_memory_edges_delete", ""),
    plant(
        "mirror_probe",
        "CREATE OR REPLACE FUNCTION aionis_mirror_memory_requests() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
         AS 'BEGIN RETURN NULL; END'",
        "",
    ),
    plant("twins_match", "DROP INDEX memory_nodes_tier_v2", ""),
    plant("twins_exist", "DROP TABLE memory_merges_v2", ""),
    plant(
        "migrations_applied",
        "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)",
        "",
    ),
    // The server is killed for it.
    plant("db_reachable", "", ""),
];

fn failing(summary: &Value) -> BTreeSet<String> {
    named(&summary["checks"], |check| check["state"] == "fail")
}

#[test]
fn ops_10_every_check_of_partition_readiness_is_found_by_its_gate() {
    let planted: BTreeSet<&str> = READINESS.iter().map(|plant| plant.check).collect();
    assert_eq!(planted, Readiness::NAMES.into_iter().collect(), "every check has a plant");
    let mut layouts = Layouts::verified();
    let ready = layouts.readiness(0);
    assert_eq!((&ready["verdict"], &ready["dual_write_enabled"]), (&json!("pass"), &json!(true)));
    assert_eq!((&ready["compared"], &ready["fail_reasons"]), (&json!("all scopes"), &json!([])));
    assert!(ready["versions"]["database"].as_str().unwrap().starts_with("PostgreSQL"), "{}", ready["versions"]);
    assert!(ready["machine"]["cores"].as_u64().unwrap() > 0);
    for Plant { check, plant, heal, .. } in READINESS {
        if *check == "db_reachable" {
            layouts.database.kill();
        } else {
            layouts.database.execute(plant);
        }
        let found = layouts.readiness(2);
        assert!(failing(&found).contains(*check), "{check}: {:#}", found["checks"]);
        assert_eq!(found["verdict"], "fail");
        let reasons = texts(&found["fail_reasons"]);
        assert!(reasons.iter().any(|reason| reason.starts_with(&format!("{check}: "))), "{check}: {reasons:?}");
        if !heal.is_empty() {
            layouts.database.execute(heal);
            let healed = layouts.readiness(0);
            assert!(failing(&healed).is_empty(), "{check}: {healed:#}");
        }
    }
}

/// A text that differs between the layouts stops a cutover and, where it is asked for, a release.
#[test]
fn ops_10_a_changed_text_in_the_new_layout_stops_cutover_and_release() {
    let layouts = Layouts::verified();
    layouts.readiness(0);
    let released = layouts.release(&["--db-runner", "auto"], 0);
    let readiness = &released["blocking_metrics"]["partition_cutover_readiness"];
    assert_eq!(readiness["dual_write_enabled"], true);
    assert_eq!(readiness["accepted_inconclusive"], json!([]));
    let Plant { plant, heal, .. } = &READINESS[0];
    layouts.database.execute(plant);
    let found = layouts.readiness(2);
    assert_eq!(failing(&found), BTreeSet::from(["verify".to_owned()]));
    assert!(texts(&found["fail_reasons"])[0].contains("changed"), "{}", found["fail_reasons"]);
    let stopped = layouts.release(&[], 2);
    assert_eq!(stopped["fail_reasons"], json!(["partition_cutover_readiness"]));
    let step = super::world::step(&stopped, "partition_cutover_readiness");
    assert_eq!(step["reasons"], json!(["verify"]));
    layouts.database.execute(heal);
    layouts.release(&[], 0);
    // A scope that is not there is judged by nobody.
    let nowhere = layouts.release(&["--partition-scope", "nowhere"], 2);
    let step = super::world::step(&nowhere, "partition_cutover_readiness");
    assert_eq!(step["reasons"], json!(["scope_stored"]));
}

/// After the cutover, and when the flat tables are gone, what is left to look at is looked at.
#[test]
fn ops_10_what_is_wrong_after_the_cutover_is_found() {
    let layouts = Layouts::verified();
    for step in ["readiness", "cutover"] {
        layouts.partition(&[step]);
    }
    layouts.readiness(0);
    layouts.partition(&["verify"]);
    layouts.database.execute("ALTER TABLE memory_requests_flat RENAME TO away");
    let gone = layouts.readiness(2);
    let expected = ["twins_exist", "mirror_active", "mirror_probe", "verify", "gap"];
    assert!(expected.iter().all(|name| failing(&gone).contains(*name)), "{gone:#}");
    layouts.database.execute("ALTER TABLE away RENAME TO memory_requests_flat");
    layouts.readiness(0);
    layouts.partition(&["finalize"]);
    let finalized = layouts.readiness(0);
    let open = named(&finalized["checks"], |check| check["state"] == "not_applicable");
    assert_eq!(open.len(), 9, "{open:?}");
    assert_eq!((&finalized["dual_write_enabled"], texts(&finalized["not_applicable"]).len()), (&Value::Null, 9));
    for (plant, heal, check) in [
        (
            "GRANT TRUNCATE ON memory_nodes TO aionis_runtime",
            "REVOKE TRUNCATE ON memory_nodes FROM aionis_runtime",
            "rls_and_grants",
        ),
        (
            "ALTER TABLE memory_nodes DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE memory_nodes ENABLE ROW LEVEL SECURITY",
            "rls_and_grants",
        ),
        (
            "GRANT SELECT ON memory_nodes_p_h001 TO aionis_runtime",
            "REVOKE SELECT ON memory_nodes_p_h001 FROM aionis_runtime",
            "rls_and_grants",
        ),
        (RELATIONS, NO_RELATIONS, "lock_table_size"),
        (INVALID, VALID, "indexes_valid"),
        ("ALTER TABLE memory_merges RENAME TO away", "ALTER TABLE away RENAME TO memory_merges", "twins_exist"),
    ] {
        layouts.database.execute(plant);
        assert!(failing(&layouts.readiness(2)).contains(check), "{plant}");
        layouts.database.execute(heal);
    }
    layouts.readiness(0);
}

/// On partitioned tables the benchmark's scope can have partitions of its own, which are truncated; elsewhere its rows are
/// deleted one by one, and that is a failure where it is asked to be one.
#[test]
fn ops_06_a_benchmark_that_leaves_rows_to_be_deleted_one_by_one_fails_where_that_is_asked() {
    let layouts = Layouts::verified();
    for step in ["readiness", "cutover", "finalize"] {
        layouts.partition(&[step]);
    }
    let url = format!("http://127.0.0.1:{}", layouts.server.port);
    let bounds = ["--recall-p95-max-ms", "60000", "--write-p95-max-ms", "60000", "--perf-nodes", "100"];
    let judged = |scope: &str, code| {
        let flags = ["--scope", "pier", "--base-url", &url, "--perf-scope", scope, "--perf-fail-on-delete", "true"];
        let summary = layouts.judged("core", &[&flags[..], &bounds].concat(), code);
        let kept = std::fs::read_to_string(layouts.place.path().join("out/09_perf_cleanup.json")).unwrap();
        (summary, serde_json::from_str::<Value>(&kept).unwrap())
    };
    let (summary, cleanup) = judged("bench", 2);
    assert_eq!(summary["fail_reasons"], json!(["perf_cleanup", "perf_delete_fallback"]));
    let own = &cleanup["own"];
    assert!(own["delete_fallback"].as_str().unwrap().contains("memory_nodes") && own["removed"] == true, "{cleanup}");
    layouts.partition(&["promote-scope", "--tenant", "default", "--scope", "bench"]);
    let (summary, cleanup) = judged("bench", 0);
    assert_eq!(summary["decision"]["may_release"], true);
    assert_eq!((&cleanup["own"]["delete_fallback"], &cleanup["own"]["removed"]), (&Value::Null, &json!(true)));
    assert!(cleanup["own"]["rows"].as_u64().unwrap() > 100, "{cleanup}");
    // Nobody's memories are taken for those of a benchmark.
    let (summary, _) = judged("pier", 2);
    let step = super::world::step(&summary, "perf_benchmark");
    assert!(step["error"].as_str().unwrap().contains("--perf-scope"), "{step}");
    layouts.run(&["job", "quality-eval", "--scope", "pier"]).exits(0);
}

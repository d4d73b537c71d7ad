//! The release gate on a real server over PostgreSQL: what is stored.

use serde_json::json;

use super::world::{World, sound, step, texts};
use crate::support::server::Server;

/// A sound database with its server.
pub(super) fn served() -> (World, Server) {
    let world = World::postgres();
    let server = world.serve(&[]);
    sound(&server);
    // What recalls leave behind is stored a moment later, or at the end.
    server.stop();
    let server = world.serve(&[]);
    (world, server)
}

/// Flags of a gate against a server, without a benchmark.
pub(super) fn against(server: &Server) -> Vec<String> {
    let url = format!("http://127.0.0.1:{}", server.port);
    ["--scope", "pier", "--base-url", &url].map(str::to_owned).to_vec()
}

pub(super) fn flags<'a>(own: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    own.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

pub(super) const READ_ONLY: [&str; 2] = ["--run-perf", "false"];

#[test]
fn what_holds_passes_and_nothing_is_changed() {
    let (world, server) = served();
    let own = against(&server);
    let before = world.digests();
    let summary = world.judged("core", &flags(&own, &READ_ONLY), 0);
    assert_eq!(before, world.digests(), "a gate changes nothing it judges");
    assert_eq!((&summary["ok"], &summary["verdict"]), (&json!(true), &json!("pass")));
    // A run without figures decides no release, and says so.
    assert_eq!(summary["decision"]["may_release"], false);
    assert!(summary["decision"]["text"].as_str().unwrap().contains("--run-perf false"));
    assert_eq!(summary["target"]["db_target_hash_match"], true);
    // Nothing was written, so that a copy of the server's database would not have been told from it.
    assert_eq!(summary["target"]["db_target_compared_by"], json!(["stored_id"]));
    assert_eq!((&summary["target"]["scope"], &summary["target"]["tenant_id"]), (&json!("pier"), &json!("default")));
    let slo = &summary["blocking_metrics"]["availability_and_slo"];
    assert_eq!((&slo["run_perf"], &slo["pass"]), (&json!(false), &json!(null)));
    assert_eq!(slo["thresholds"]["error_rate_max"], 0.02);
    assert_eq!(summary["aux_regression_only"], json!(["LongMemEval", "LoCoMo"]));
    let steps: Vec<_> = summary["steps"].as_array().unwrap().iter().map(|step| step["name"].clone()).collect();
    let expected =
        ["api_probe", "db_probe", "contract", "health_gate_scope", "consistency_cross_tenant", "chain_verification"];
    assert_eq!(steps, expected);
    for step in summary["steps"].as_array().unwrap() {
        assert_eq!((&step["ok"], &step["exit_code"]), (&json!(true), &json!(0)), "{step}");
        world.evidence(step["log_file"].as_str().unwrap());
    }
    assert!(summary["versions"]["database"].as_str().unwrap().starts_with("PostgreSQL "));
    assert!(summary["versions"]["pgvector"].is_string() && summary["versions"]["schema"].is_string());
}

/// What is planted in the database, how it is healed, the step that finds it, and what that step says.
const PLANTED: &[(&str, &str, &str, &str)] = &[
    (
        "UPDATE memory_commits SET actor = actor || 'x' WHERE scope_key = 'default/pier' AND seq = 1",
        "UPDATE memory_commits SET actor = left(actor, -1) WHERE scope_key = 'default/pier' AND seq = 1",
        "chain_verification",
        "chain_broken",
    ),
    // The chain of another tenant.
    (
        "UPDATE memory_commits SET actor = actor || 'x' WHERE scope_key = 'acme/quay'",
        "UPDATE memory_commits SET actor = left(actor, -1) WHERE scope_key = 'acme/quay'",
        "chain_verification",
        "chain_broken",
    ),
    // A dangling edge.
    (
        "UPDATE memory_edges SET dst_id = '00000000-0000-4000-8000-000000000001' WHERE scope_key = 'default/pier'",
        "UPDATE memory_edges SET dst_id = (SELECT id FROM memory_nodes WHERE scope_key = 'default/pier' \
         AND client_id = 't') WHERE scope_key = 'default/pier'",
        "health_gate_scope",
        "consistency_errors",
    ),
    // A warning alone.
    (
        "UPDATE memory_nodes SET activity = '{\"topic_state\":\"odd\"}' WHERE type = 'topic'",
        "UPDATE memory_nodes SET activity = '{}' WHERE type = 'topic'",
        "health_gate_scope",
        "consistency_warnings",
    ),
    (
        "UPDATE memory_nodes SET embedding_status = 'failed' WHERE scope_key = 'default/pier'",
        "UPDATE memory_nodes SET embedding_status = 'ready' WHERE scope_key = 'default/pier'",
        "health_gate_scope",
        "quality_eval_failed",
    ),
    // A row of a scope that is not there.
    (
        "UPDATE memory_edges SET scope_key = 'acme/ghost' WHERE scope_key = 'default/pier'",
        "UPDATE memory_edges SET scope_key = 'default/pier' WHERE scope_key = 'acme/ghost'",
        "consistency_cross_tenant",
        "consistency_errors",
    ),
    // A record of a purge that nobody made.
    (
        "INSERT INTO aionis_meta (key, value) VALUES ('purges_head', \
         '1:0000000000000000000000000000000000000000000000000000000000000000')",
        "DELETE FROM aionis_meta WHERE key = 'purges_head'",
        "chain_verification",
        "purge_records_broken",
    ),
];

#[test]
fn ops_10_every_planted_violation_fails_the_release_and_is_named() {
    let (world, server) = served();
    let own = against(&server);
    for (plant, heal, name, reason) in PLANTED {
        world.execute(plant);
        let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
        assert!(texts(&summary["fail_reasons"]).contains(name), "{plant}: {}", summary["fail_reasons"]);
        let found = step(&summary, name);
        assert!(texts(&found["reasons"]).contains(reason), "{plant}: {found}");
        assert_eq!((&found["ok"], &found["exit_code"]), (&json!(false), &json!(2)));
        assert_eq!((&summary["verdict"], &summary["decision"]["may_release"]), (&json!("fail"), &json!(false)));
        let text = summary["decision"]["text"].as_str().unwrap();
        assert!(text.starts_with("Do not release: ") && text.contains(name), "{text}");
        world.execute(heal);
    }
    world.judged("core", &flags(&own, &READ_ONLY), 0);
}

#[test]
fn an_empty_database_is_inconclusive() {
    let world = World::postgres();
    let server = world.serve(&[]);
    let own = against(&server);
    let summary = world.judged("core", &flags(&own, &READ_ONLY), 2);
    assert_eq!((&summary["verdict"], &summary["decision"]["may_release"]), (&json!("inconclusive"), &json!(false)));
    let inconclusive = texts(&summary["inconclusive"]);
    for name in ["health_gate_scope", "consistency_cross_tenant", "chain_verification", "scope", "database"] {
        assert!(inconclusive.contains(&name), "{inconclusive:?}");
    }
    assert!(texts(&summary["fail_reasons"]).iter().all(|reason| reason.ends_with("_inconclusive")));
}

/// The layout is not there: a gate that is to require it must not let through.
#[test]
fn flat_tables_are_not_ready_for_a_cutover() {
    let (world, server) = served();
    let own = against(&server);
    let more = ["--run-perf", "false", "--require-partition-ready", "true", "--partition-scope", "other"];
    let summary = world.judged("core", &flags(&own, &more), 2);
    assert_eq!(summary["fail_reasons"], json!(["partition_cutover_readiness"]));
    let readiness = &summary["blocking_metrics"]["partition_cutover_readiness"];
    assert_eq!((&readiness["required"], &readiness["scope"]), (&json!(true), &json!("other")));
    let reasons = step(&summary, "partition_cutover_readiness")["reasons"].as_array().unwrap().clone();
    assert!(reasons.contains(&json!("twins_exist")) && reasons.contains(&json!("mirror_active")), "{reasons:?}");
    let file = readiness["summary_json"].as_str().unwrap();
    assert_eq!(file, "out/partition_cutover/summary.json");
    assert_eq!(world.evidence("partition_cutover/summary.json")["ok"], false);
}

#[test]
fn bounds_that_were_loosened_are_named_in_the_summary() {
    let (world, server) = served();
    let own = against(&server);
    // The bounds that hold unless others are asked for, but for those that tests have by variables.
    let usual = ["--run-perf", "false", "--recall-p95-max-ms", "1200", "--write-p95-max-ms", "800"];
    let summary = world.judged("core", &flags(&own, &usual), 0);
    let metrics = &summary["blocking_metrics"];
    for list in ["differs_from_default", "loosened"] {
        assert_eq!(metrics[list], json!(["availability_and_slo.run_perf"]), "{list}");
    }
    assert_eq!(metrics["bounds"]["quality"]["min_ready_ratio"], json!({ "value": 0.8, "default": 0.8 }));
    assert_eq!(metrics["bounds"]["consistency"]["stuck_after_s"], json!({ "value": 3600, "default": 3600 }));
    let loose = [
        "--quality-arg=--min-ready-ratio=0.1",
        "--quality-arg=--max-alias-rate=0.1",
        "--stuck-after-s=86400",
        "--error-rate-max=0.5",
        "--consistency-sample=7",
    ];
    let summary = world.judged("core", &flags(&own, &[&usual[..], &loose].concat()), 0);
    let metrics = &summary["blocking_metrics"];
    let loosened = [
        "availability_and_slo.error_rate_max",
        "availability_and_slo.run_perf",
        "consistency.stuck_after_s",
        "quality.min_ready_ratio",
    ];
    assert_eq!(texts(&metrics["loosened"]), loosened);
    let differing = texts(&metrics["differs_from_default"]);
    assert_eq!(differing.len(), 6, "{differing:?}");
    // What is stricter, or only says less, is no loosened bound.
    assert!(differing.contains(&"quality.max_alias_rate") && differing.contains(&"consistency.sample"));
    assert_eq!(metrics["bounds"]["quality"]["min_ready_ratio"], json!({ "value": 0.1, "default": 0.8 }));
    // Of the reports that are asked for too.
    let reports = [
        "--run-execution-loop-gate=true",
        "--execution-loop-arg=--max-negative-ratio=0.9",
        "--execution-loop-arg=--no-cross-tenant",
        "--run-policy-adaptation-gate=true",
        "--policy-adaptation-arg=--max-canary-disable-candidates=9",
    ];
    let summary = world.judged("core", &flags(&own, &[&usual[..], &reports].concat()), 2);
    let loosened = [
        "availability_and_slo.run_perf",
        "execution_loop.cross_tenant",
        "execution_loop.max_negative_ratio",
        "policy_adaptation.gate.max_canary_disable_candidates",
    ];
    assert_eq!(texts(&summary["blocking_metrics"]["loosened"]), loosened);
}

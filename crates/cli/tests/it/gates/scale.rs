//! `aionis scale advise`, on both engines.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::{
    core::served,
    world::{World, sound, texts},
};
use crate::support::{
    program::{aionis, run},
    server::Server,
    until,
};

fn advise(world: &World, more: &[&str], code: i32) -> Value {
    let mut command = aionis(world.place.path());
    command.args(["scale", "advise", "--json", "--window-ms", "0"]).args(more);
    let ended = run(world.at(&mut command)).exits(code);
    let summary = ended.json();
    let path = world.place.path().join(summary["artifacts"]["summary_json"].as_str().unwrap());
    let kept: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(kept, summary, "stdout and file say the same");
    summary
}

fn trigger<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let triggers = summary["triggers"].as_array().unwrap();
    triggers.iter().find(|trigger| trigger["name"] == name).unwrap_or_else(|| panic!("no {name} in {summary:#}"))
}

#[test]
fn what_cannot_be_measured_is_unknown_and_never_fine() {
    for world in World::both() {
        let server = world.serve(&[]);
        sound(&server);
        server.stop();
        let before = world.digests();
        let summary = advise(&world, &["--run-id", "r1"], 0);
        assert_eq!(before, world.digests(), "advice changes nothing");
        assert_eq!(
            (&summary["ok"], &summary["tier"], &summary["recommendation"]),
            (&json!(false), &json!("A"), &json!("stay"))
        );
        let unknown = texts(&summary["unknown"]);
        for name in ["recall_text_p95_ms", "write_p95_ms", "db_cpu_p95_percent", "top_tenant_write_capacity_share"] {
            assert!(unknown.contains(&name), "{unknown:?}");
            assert_eq!(trigger(&summary, name)["breached"], "unknown");
            assert!(!trigger(&summary, name)["evidence"].as_str().unwrap().is_empty());
        }
        assert_eq!(trigger(&summary, "tenant_cardinality")["observed"], 2.0);
        assert_eq!(
            trigger(&summary, "top_tenant_growth_share")["observed"].as_f64().map(|v| (v * 100.0).round()),
            Some(67.0)
        );
        assert_eq!(trigger(&summary, "top_tenant_growth_share")["breached"], false, "three nodes are no growth");
        // The guardrails of its tier, and what leads out of each.
        assert_eq!(summary["guardrails"], summary["tiers"][0]["guardrails"]);
        assert!(texts(&summary["guardrails"]).iter().any(|text| text.contains("commit chain")), "{summary:#}");
        assert_eq!(summary["tiers"][0]["exits"][0]["to"], "B");
        assert_eq!(summary["tiers"][2]["exits"], json!([]));
        let facts = &summary["facts"];
        assert_eq!((&facts["tenants"], &facts["nodes"], &facts["nodes_grown"]), (&json!(2), &json!(3), &json!(3)));
        assert!(facts["database_bytes"].as_u64().unwrap() > 0 && facts["commits_busiest_hour"].as_u64().unwrap() > 0);
        assert_eq!(facts["table_bytes"]["memory_nodes"].is_u64(), world.is_postgres(), "{facts:#}");
        assert_eq!(facts["connections_max"].is_u64(), world.is_postgres());
        advise(&world, &["--run-id", "r2", "--strict"], 2);
    }
}

#[test]
fn what_lasts_for_days_is_read_from_earlier_summaries_of_the_same_database() {
    let world = World::embedded();
    let server = world.serve(&[]);
    sound(&server);
    server.stop();
    let bounds = ["--tenants-max", "1", "--write-capacity-per-s", "1000", "--db-cpu-p95-percent", "80"];
    let first = advise(&world, &[&["--run-id", "today"], &bounds[..]].concat(), 0);
    assert_eq!(texts(&first["breached"]), ["db_cpu_p95_percent", "tenant_cardinality"]);
    assert_eq!(
        (&first["recommendation"], &trigger(&first, "tenant_cardinality")["days_sustained"]),
        (&json!("stay"), &json!(1))
    );
    assert_eq!(trigger(&first, "top_tenant_write_capacity_share")["breached"], false);
    // The days before, as runs of those days would have left them.
    let now = aionis_core::clock::Timestamp::parse_iso(first["timestamp_utc"].as_str().unwrap()).unwrap();
    let earlier = |days: i64, database: &str| {
        let at = aionis_core::clock::Timestamp(now.0 - days * 24 * 3_600_000_000).to_iso();
        let dir = world.place.path().join(format!("artifacts/scale/before{days}"));
        let mut summary = first.clone();
        (summary["timestamp_utc"], summary["database_target_hash"]) = (json!(at), json!(database));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("summary.json"), summary.to_string()).unwrap();
    };
    let own = first["database_target_hash"].as_str().unwrap().to_owned();
    for days in 1..=2 {
        earlier(days, &own);
    }
    let third = advise(&world, &[&["--run-id", "third"], &bounds[..]].concat(), 0);
    assert_eq!((&third["recommendation"], &third["tier"]), (&json!("promote"), &json!("B")));
    assert_eq!(third["history"]["summaries"], 3);
    for days in 3..=6 {
        earlier(days, &own);
    }
    let seventh = advise(&world, &[&["--run-id", "seventh"], &bounds[..]].concat(), 0);
    assert_eq!((&seventh["recommendation"], &seventh["tier"]), (&json!("promote"), &json!("C")));
    assert!(seventh["reason"].as_str().unwrap().contains("tenant_cardinality"), "{}", seventh["reason"]);
    // Of another database nothing is believed.
    earlier(1, "another");
    let other = advise(&world, &[&["--run-id", "other"], &bounds[..]].concat(), 0);
    assert_eq!((&other["recommendation"], &other["history"]["of_other_databases"]), (&json!("stay"), &json!(1)));
}

/// Writes and recalls until it is told to stop.
fn load(server: &Server, writer: u32, stop: &std::sync::atomic::AtomicBool) {
    let mut connection = server.connect();
    let mut n = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        n += 1;
        let text = format!("boat {n} of pilot {writer} came in");
        let node = json!({ "client_id": format!("n{writer}-{n}"), "type": "event", "text_summary": text });
        let body = json!({ "scope": "pier", "input_text": "x", "memory_lane": "shared", "nodes": [node] });
        connection.post("/v1/memory/write", &body).unwrap().ok();
        let body = json!({ "scope": "pier", "query_text": text });
        connection.post("/v1/memory/recall_text", &body).unwrap().ok();
    }
}

#[test]
fn latencies_are_read_from_the_metrics_of_a_server() {
    let (world, server) = served();
    let url = format!("http://127.0.0.1:{}/metrics", server.port);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let loaded = std::thread::scope(|scope| {
        let (server, stop) = (&server, &stop);
        for writer in 0..4 {
            scope.spawn(move || load(server, writer, stop));
        }
        // A machine that is slow needs more than one window until there are observations enough.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the window saw requests", Duration::from_secs(120), || {
                let mut command = aionis(world.place.path());
                command.args(["scale", "advise", "--json", "--window-ms", "3000", "--metrics-url", &url]);
                command.args(["--out-dir", "out", "--run-id", "loaded"]);
                let summary = run(world.at(&mut command)).exits(0).json();
                fs::remove_dir_all(world.place.path().join("out")).unwrap();
                let measured = |name: &str| trigger(&summary, name)["observed"].is_number();
                (measured("write_p95_ms") && measured("recall_text_p95_ms")).then_some(summary)
            })
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    });
    let loaded = loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    for name in ["write_p95_ms", "recall_text_p95_ms"] {
        let measured = trigger(&loaded, name);
        assert!(measured["observed"].as_f64().unwrap() > 0.0, "{measured}");
        assert!(measured["breached"].is_boolean(), "{measured}");
    }
    // Nothing was refused, which the server says from its start on.
    assert_eq!(trigger(&loaded, "queue_refused_share")["observed"], 0.0);
    assert_eq!(loaded["metrics"]["database_target_hash"], loaded["database_target_hash"]);
    assert!(loaded["facts"]["transactions_per_s"].as_f64().unwrap() > 0.0, "{}", loaded["facts"]);
    server.stop();
    let gone = advise(&world, &["--run-id", "gone", "--metrics-url", &url], 0);
    let evidence = trigger(&gone, "write_p95_ms")["evidence"].as_str().unwrap();
    assert!(evidence.contains("--metrics-url"), "{evidence}");
}

#[test]
fn metrics_of_a_server_over_another_database_are_not_taken() {
    let (judged, other) = (World::embedded(), World::embedded());
    let server = judged.serve(&[]);
    sound(&server);
    server.stop();
    let server = other.serve(&[]);
    sound(&server);
    let url = format!("http://127.0.0.1:{}/metrics", server.port);
    let summary = advise(&judged, &["--run-id", "r1", "--metrics-url", &url], 0);
    for name in ["write_p95_ms", "recall_text_p95_ms", "queue_wait_p95_ms", "queue_refused_share"] {
        let unknown = trigger(&summary, name);
        assert_eq!((&unknown["breached"], &unknown["observed"]), (&json!("unknown"), &Value::Null), "{unknown}");
        assert!(unknown["evidence"].as_str().unwrap().contains("another database"), "{unknown}");
    }
    let metrics = &summary["metrics"];
    assert_eq!(metrics["read"], false);
    assert!(metrics["database_target_hash"].is_string(), "{metrics}");
    assert_ne!(metrics["database_target_hash"], summary["database_target_hash"]);
    server.stop();
}

#[test]
fn wrong_flags_are_exit_1_and_name_what_is_wrong() {
    let world = World::embedded();
    world.serve(&[]).stop();
    for (flags, says) in [
        (&["--current-tier", "D"][..], "--current-tier"),
        (&["--write-capacity-per-s", "0"], "--write-capacity-per-s"),
        (&["--db-cpu-p95-percent", "101"], "--db-cpu-p95-percent"),
        (&["--metrics-url", "https://x"], "--metrics-url"),
        (&["--growth-days", "0"], "--growth-days"),
        (&["--windows-ms", "1"], "--windows-ms"),
    ] {
        let mut command = aionis(world.place.path());
        let ended = run(world.at(command.args(["scale", "advise"]).args(flags))).exits(1);
        assert!(ended.stderr.contains(says), "{flags:?}: {ended:#?}");
    }
}

//! What `/metrics` tells after real work, read strictly.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde_json::json;

use crate::support::{place::Place, program::fake, server::Server, until};

const WAIT: Duration = Duration::from_secs(30);

/// A scrape: type per metric, and value per series as it is written.
#[derive(Debug, Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    described: BTreeSet<String>,
    series: BTreeMap<String, f64>,
}

/// Reads the text format; whatever does not belong into it fails the test.
fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && scrape.described.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(scrape.kinds.insert(name.to_owned(), kind.to_owned()), None, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{line}");
            assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
            let family = scrape.family(name).unwrap_or_else(|| panic!("{line} has no type"));
            assert!(scrape.described.contains(&family), "{family} is not described");
            assert_eq!(scrape.series.insert(series.to_owned(), value.parse().unwrap()), None, "{line} is there twice");
        }
    }
    scrape
}

impl Scrape {
    fn family(&self, name: &str) -> Option<String> {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let is = |name: &str, histogram: bool| self.kinds.get(name).is_some_and(|k| (k == "histogram") == histogram);
        match of_histogram {
            Some(family) if is(family, true) => Some(family.to_owned()),
            _ => is(name, false).then(|| name.to_owned()),
        }
    }

    /// Sum over the series of a metric: of a histogram, its observations.
    fn total(&self, name: &str) -> f64 {
        let histogram = self.kinds.get(name).is_some_and(|kind| kind == "histogram");
        let wanted = if histogram { format!("{name}_count") } else { name.to_owned() };
        let of = |series: &str| series.split('{').next() == Some(wanted.as_str());
        self.series.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    /// Buckets only grow, and the last one holds all.
    fn histograms_are_sound(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let infinite: f64 = self
                .series
                .iter()
                .filter(|(series, _)| series.starts_with(&format!("{name}_bucket{{")) && series.contains("le=\"+Inf\""))
                .map(|(_, value)| value)
                .sum();
            let total = self.total(name);
            assert!((infinite - total).abs() < 0.5, "{name}: {infinite} of {total}");
            let buckets = self.series.keys().filter(|series| series.starts_with(&format!("{name}_bucket{{"))).count();
            assert!(buckets >= 10, "{name} has no buckets");
        }
    }
}

fn scrape(server: &Server) -> Scrape {
    let answer = server.connect().get("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    parse(answer.body.as_str().unwrap())
}

/// Name and kind of every metric of the documentation.
fn documented() -> BTreeMap<String, String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let section = docs.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `aionis_"))
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            (format!("aionis_{}", cells.next().unwrap()), cells.next().unwrap().to_owned())
        })
        .collect()
}

/// Only on PostgreSQL.
const POOL: [&str; 3] = ["aionis_pool_connections", "aionis_pool_idle_connections", "aionis_pool_wait_seconds"];
/// There from the start, at zero as long as nothing goes wrong or waits, or at what it is for a moment.
const QUIET: [&str; 14] = [
    "aionis_body_held_bytes",
    "aionis_commit_waiters",
    "aionis_gate_inflight",
    "aionis_gate_queued",
    "aionis_image_evictions_total",
    "aionis_key_checks_total",
    "aionis_outbox_dead",
    "aionis_outbox_failed_total",
    "aionis_outbox_oldest_pending_seconds",
    "aionis_outbox_pending",
    "aionis_recall_audit_dropped_total",
    "aionis_recall_usage_dropped_total",
    "aionis_recall_with_pending_total",
    "aionis_sample_failures_total",
];
/// Not there before something waits, is refused or fails, a job is due, or a scope is large; other tests see most of them.
const EVENTFUL: [&str; 9] = [
    "aionis_admission_refused_total",
    "aionis_auth_refusals_total",
    "aionis_consistency_failures_total",
    "aionis_gate_wait_seconds",
    "aionis_image_search_questions_total",
    "aionis_image_searches_total",
    "aionis_job_runs_total",
    "aionis_job_seconds",
    "aionis_recall_downgraded_total",
];

fn work(server: &Server) {
    let node = |id: &str, kind: &str| json!({ "client_id": id, "type": kind, "text_summary": format!("a heron {id}") });
    let body = json!({ "scope": "pond", "input_text": "x", "nodes": [node("a", "event"), node("b", "event")],
        "edges": [{ "type": "related_to", "src": { "client_id": "a" }, "dst": { "client_id": "b" } }] });
    server.write(&body);
    server.recall_text("pond", "where is the heron", 5);
    server.vectors_are_ready("pond", WAIT);
    let used = json!({ "scope": "pond", "input_text": "used", "client_ids": ["a"], "outcome": "positive" });
    server.post("/v1/memory/nodes/activate", &used).ok();
    let select = json!({ "scope": "pond", "run_id": "r", "context": {}, "candidates": ["psql"] });
    server.post("/v1/memory/tools/select", &select).ok();
}

fn every_documented_metric_is_there(server: &Server, elsewhere: &[&str]) {
    let documented = documented();
    assert!(documented.len() > 30);
    let shown = until("all gauges are sampled", WAIT, || {
        let shown = scrape(server);
        let sampled = shown.total("aionis_image_bytes") > 0.0 && shown.total("aionis_outbox_pending") == 0.0;
        (sampled && shown.total("aionis_job_runs_total") > 0.0).then_some(shown)
    });
    shown.histograms_are_sound();
    for (name, kind) in &shown.kinds {
        assert_eq!(documented.get(name), Some(kind), "{name} is not documented");
    }
    for (name, kind) in &documented {
        let name = name.as_str();
        if elsewhere.contains(&name) || EVENTFUL.contains(&name) || name == "aionis_embed_failures_total" {
            continue;
        }
        assert_eq!(shown.kinds.get(name), Some(kind), "{name} is missing");
        assert!(QUIET.contains(&name) || shown.total(name) > 0.0, "{name} did not move");
    }
    for stage in ["parse", "gate", "analyse", "embed", "meaning", "words", "fuse", "expand", "vitals", "rows", "pack"] {
        let series = format!("aionis_recall_stage_seconds_count{{stage=\"{stage}\"}}");
        assert!(shown.series.get(&series).is_some_and(|count| *count > 0.0), "{series}");
    }
    for stage in ["gate", "parse", "prepare", "store", "queue", "transaction"] {
        let series = format!("aionis_write_stage_seconds_count{{stage=\"{stage}\"}}");
        assert!(shown.series.get(&series).is_some_and(|count| *count > 0.0), "{series}");
    }
    for stage in ["claim", "embed", "complete"] {
        let series = format!("aionis_worker_stage_seconds_count{{stage=\"{stage}\"}}");
        assert!(shown.series.get(&series).is_some_and(|count| *count > 0.0), "{series}");
    }
    assert!(shown.total("aionis_chain_height") >= 2.0, "one commit of the write, one of the activation");
    assert!(shown.total("aionis_process_resident_memory_bytes") > 1e6);
    // The name of a job may hold the word; no series tells of a tenant or a scope.
    let tells = |series: &String| ["pond", "tenant=", "scope="].iter().any(|word| series.contains(word));
    assert!(!shown.series.keys().any(tells));
}

#[test]
fn every_documented_metric_is_there_and_moves() {
    let place = Place::new();
    let server = Server::start_with_jobs(&place.data());
    work(&server);
    every_documented_metric_is_there(&server, &POOL);
    server.stop();
}

#[test]
fn every_documented_metric_is_there_on_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(aionis_testkit::postgres::TempDatabase::new());
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("DATABASE_URL", database.url()).env("AIONIS_JOBS_ENABLED", "true");
    });
    work(&server);
    every_documented_metric_is_there(&server, &[]);
    server.stop();
}

/// What goes wrong is counted: refusals of callers, and items nobody can derive.
#[test]
fn what_goes_wrong_is_counted() {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        // Nobody listens there.
        command.envs([
            ("EMBEDDING_PROVIDER", "openai"),
            ("OPENAI_API_KEY", "sk-none"),
            ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
            ("EMBED_HTTP_MAX_RETRIES", "0"),
            ("MEMORY_AUTH_MODE", "api_key"),
            ("MEMORY_API_KEYS_JSON", r#"{"key-1":{"tenant_id":"acme"}}"#),
        ]);
    });
    let refused = server.post("/v1/memory/recall_text", &json!({ "query_text": "x" }));
    assert_eq!(refused.status, 401);
    let body =
        json!({ "input_text": "x", "nodes": [{ "client_id": "a", "type": "event", "text_summary": "a heron" }] });
    let written = server.connect().post_as("key-1", "/v1/memory/write", &body).unwrap();
    assert_eq!(written.status, 200);
    until("the failure is counted", WAIT, || {
        let shown = scrape(&server);
        let counted = shown.total("aionis_outbox_failed_total") > 0.0
            && shown.total("aionis_embed_failures_total") > 0.0
            && shown.total("aionis_auth_refusals_total") > 0.0
            && shown.total("aionis_outbox_pending") == 1.0
            && shown.total("aionis_outbox_oldest_pending_seconds") > 0.0;
        counted.then_some(())
    });
    server.kill();
}

#[test]
#[should_panic(expected = "has no type")]
fn a_series_without_a_type_is_not_accepted() {
    parse("aionis_x_total 1\n");
}

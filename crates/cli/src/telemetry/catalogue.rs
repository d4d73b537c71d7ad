//! Every metric there is: its kind, its labels and what it means. Documentation and descriptions are made from it.

use metrics::{Label, counter, describe_counter, describe_gauge, describe_histogram, histogram};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Labels, each with the values it can have where they are few and known; a metric with one such label is shown from the
    /// start, so that whoever reads it can tell that nothing happened from a server that does not count it.
    pub(crate) labels: &'static [(&'static str, &'static [&'static str])],
    pub(crate) help: &'static str,
}

type Labels = &'static [(&'static str, &'static [&'static str])];

const fn of(kind: Kind, name: &'static str, labels: Labels, help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

const ANY: &[&str] = &[];
const GATE: Labels = &[("gate", &["recall", "write"])];
const STAGE: Labels = &[("stage", ANY)];
/// Codes of refusals that tell of a burden. There are others, of callers who ask too often.
const REFUSED: Labels = &[("code", &["body_backpressure", "recall_backpressure", "write_backpressure"])];

use Kind::{Counter, Gauge, Histogram};

/// All of them, in the order of the documentation.
pub(crate) const METRICS: &[Metric] = &[
    of(Counter, "aionis_http_requests_total", &[("route", ANY), ("status", ANY)], "requests"),
    of(
        Histogram,
        "aionis_http_request_seconds",
        &[("route", ANY), ("class", ANY)],
        "their time, by class of status (`2xx`, …)",
    ),
    of(Counter, "aionis_auth_refusals_total", &[("code", ANY), ("reason", ANY)], "requests answered 401 or 403"),
    of(
        Counter,
        "aionis_key_checks_total",
        &[("result", &["known", "unknown", "failed"])],
        "keys looked for in the database or in what is remembered of it: `known`, `unknown`, `failed`",
    ),
    of(Counter, "aionis_commits_total", &[], "commits appended by writes and operations"),
    of(Gauge, "aionis_chain_height", &[], "number of the newest commit in any scope, as far as this process knows"),
    of(Counter, "aionis_nodes_written_total", &[], "nodes in writes, unchanged ones included"),
    of(
        Histogram,
        "aionis_write_stage_seconds",
        STAGE,
        "stages of writes: `gate`, `parse`, `prepare`, `store` and, within it, `queue` and `transaction`; the embedded engine's writing thread counts everything that writes into the last two",
    ),
    of(Counter, "aionis_operations_total", &[("kind", ANY)], "operations other than writes that made a commit"),
    of(Counter, "aionis_tool_decisions_total", &[], "tool selections"),
    of(
        Histogram,
        "aionis_recall_seconds",
        &[("endpoint", ANY)],
        "recalls, without reading the body and waiting for admission",
    ),
    of(
        Histogram,
        "aionis_recall_stage_seconds",
        STAGE,
        "stages of recalls: `parse`, `commit`, `gate`, `analyse`, the arms `embed`, `meaning`, `words`, `quoted`, then `fuse`, `expand`, `vitals`, `rows`, `pack`",
    ),
    of(Histogram, "aionis_query_embed_seconds", &[], "embedding a question, cache and batching included"),
    of(
        Counter,
        "aionis_query_cache_total",
        &[("outcome", &["hit", "miss", "join", "bypass"])],
        "vectors of questions: kept, asked for, shared with an equal question under way, or from a provider in this process",
    ),
    of(Counter, "aionis_recall_with_pending_total", &[], "recalls in scopes with vectors to come"),
    of(Counter, "aionis_recall_audit_dropped_total", &[], "audit rows not stored"),
    of(
        Counter,
        "aionis_recall_usage_dropped_total",
        &[],
        "nodes that recalls used and that could not be noted as used",
    ),
    of(
        Gauge,
        "aionis_gate_inflight",
        GATE,
        "requests at work, and work of requests that are over which the store has not finished",
    ),
    of(Gauge, "aionis_gate_queued", GATE, "requests waiting for admission"),
    of(Histogram, "aionis_gate_wait_seconds", GATE, "how long requests waited that had to"),
    of(
        Gauge,
        "aionis_commit_waiters",
        &[],
        "recalls waiting for a commit (`min_commit`), which hold no place at the gate",
    ),
    of(Gauge, "aionis_body_held_bytes", &[], "bytes of request bodies in memory, of at most `API_BODIES_MAX_BYTES`"),
    of(Gauge, "aionis_http_connections", &[], "open connections, of at most `API_CONNECTIONS_MAX`"),
    of(
        Counter,
        "aionis_admission_refused_total",
        REFUSED,
        "requests answered 429: too many at once or too much in memory, or more often than address or tenant may ask",
    ),
    of(Counter, "aionis_recall_profile_total", &[("profile", ANY), ("source", ANY)], "recalls by the profile they got"),
    of(
        Counter,
        "aionis_recall_downgraded_total",
        &[("from", ANY), ("to", ANY)],
        "recalls that got a cheaper profile because they had waited",
    ),
    of(Gauge, "aionis_outbox_pending", &[], "items waiting or claimed"),
    of(Gauge, "aionis_outbox_dead", &[], "items given up"),
    of(Gauge, "aionis_outbox_oldest_pending_seconds", &[], "age of the oldest waiting item"),
    of(Counter, "aionis_outbox_published_total", &[], "items done"),
    of(Counter, "aionis_outbox_failed_total", &[], "items put back or given up"),
    of(Histogram, "aionis_outbox_age_seconds", &[], "from the write to the vector"),
    of(Histogram, "aionis_worker_stage_seconds", STAGE, "stages of the worker: `claim`, `embed`, `complete`"),
    of(Counter, "aionis_vectors_derived_total", &[], "vectors stored by the worker"),
    of(Histogram, "aionis_embed_call_seconds", &[], "calls of the provider by the worker"),
    of(
        Counter,
        "aionis_embed_failures_total",
        &[("kind", &["rate_limited", "unavailable", "unauthorized", "rejected", "bad_response"])],
        "failed calls, kinds as above",
    ),
    of(
        Counter,
        "aionis_image_lookups_total",
        &[("outcome", &["hit", "load"])],
        "scope images asked for: in memory, or read from the database",
    ),
    of(Counter, "aionis_image_evictions_total", &[], "scope images dropped to make room"),
    of(Counter, "aionis_image_searches_total", &[], "PostgreSQL only: readings of the codes of a large image"),
    of(
        Counter,
        "aionis_image_search_questions_total",
        &[],
        "PostgreSQL only: questions that these answered; several at once share a reading",
    ),
    of(Gauge, "aionis_image_bytes", &[], "memory held by scope images"),
    of(Gauge, "aionis_pool_connections", &[], "PostgreSQL only: open connections"),
    of(Gauge, "aionis_pool_idle_connections", &[], "PostgreSQL only: open connections nobody uses"),
    of(
        Histogram,
        "aionis_pool_wait_seconds",
        &[],
        "PostgreSQL only: until a transaction has its connection and has begun",
    ),
    of(Counter, "aionis_sample_failures_total", &[], "gauges of the database that could not be read in time"),
    of(Gauge, "aionis_process_resident_memory_bytes", &[], "resident memory of the process"),
    of(Gauge, "aionis_process_uptime_seconds", &[], "time since the start"),
    of(Gauge, "aionis_build_info", &[("version", ANY), ("engine", ANY)], "1; which program this is"),
    of(
        Counter,
        "aionis_job_runs_total",
        &[("job", ANY), ("status", ANY)],
        "runs of jobs per scope, by how they ended: `done`, `negative`, `stopped`, `failed`, `busy`, `not_due`, `lost`",
    ),
    of(
        Counter,
        "aionis_consistency_failures_total",
        &[("check", ANY), ("severity", ANY), ("state", ANY)],
        "checks of what is stored that failed, or could not be judged, per scope",
    ),
    of(Histogram, "aionis_job_seconds", &[("job", ANY)], "time of a run of a job in one scope"),
];

/// Describes every metric, and shows counters, and histograms by a label whose values are known, that were not needed yet as
/// zero.
pub(super) fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.help),
        }
        if metric.kind == Kind::Counter {
            match metric.labels {
                [] => counter!(metric.name).increment(0),
                [(label, values)] => {
                    for &value in *values {
                        counter!(metric.name, vec![Label::new(*label, value)]).increment(0);
                    }
                }
                _ => {}
            }
        }
        if let (Kind::Histogram, [(label, values)]) = (metric.kind, metric.labels) {
            for &value in *values {
                // Known from here on, without an observation.
                let _ = histogram!(metric.name, vec![Label::new(*label, value)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    use super::*;

    impl Kind {
        const fn name(self) -> &'static str {
            match self {
                Self::Counter => "counter",
                Self::Gauge => "gauge",
                Self::Histogram => "histogram",
            }
        }
    }

    fn workspace() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn table() -> String {
        let mut table = "| name | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
        for metric in METRICS {
            let labels: Vec<String> = metric.labels.iter().map(|(label, _)| format!("`{label}`")).collect();
            let (name, kind) = (metric.name, metric.kind.name());
            table += &format!("| `{name}` | {kind} | {} | {} |\n", labels.join(", "), metric.help);
        }
        table
    }

    #[test]
    fn the_documentation_names_exactly_these_metrics() {
        let docs = std::fs::read_to_string(workspace().join("docs/operations.md")).unwrap();
        assert!(docs.contains(&table()), "docs/operations.md should hold this table:\n{}", table());
    }

    /// Names in calls of the macros that record.
    fn recorded(dir: &Path, found: &mut BTreeSet<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                recorded(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let source: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
                for kind in [Counter, Gauge, Histogram] {
                    let call = format!("{}!(\"", kind.name());
                    let names = source.split(&call).skip(1).filter_map(|rest| rest.split('"').next());
                    let own = names.filter(|name| name.starts_with("aionis_"));
                    found.extend(own.map(|name| (name.to_owned(), kind.name().to_owned())));
                }
            }
        }
    }

    #[test]
    fn every_metric_that_is_recorded_is_listed_and_the_other_way_round() {
        let mut found = BTreeSet::new();
        for crate_name in ["core", "store", "embed", "engine", "api", "cli"] {
            recorded(&workspace().join("crates").join(crate_name).join("src"), &mut found);
        }
        let listed: BTreeSet<_> = METRICS.iter().map(|m| (m.name.to_owned(), m.kind.name().to_owned())).collect();
        assert_eq!(found, listed);
    }

    #[test]
    fn names_tell_kind_and_unit() {
        for metric in METRICS {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Counter, "{}", metric.name);
            assert!(metric.kind != Histogram || metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(!metric.help.is_empty());
            assert!(metric.labels.iter().all(|(label, _)| !["tenant", "scope"].contains(label)), "{}", metric.name);
        }
    }
}

//! What `aionis partition` tells people.

use aionis_core::{
    clock::Timestamp,
    partition::{CheckState, CutoverState},
};
use aionis_store::postgres::partition::{
    BackfillReport, CutoverStatus, EnsureReport, GapReport, PlanReport, PromoteReport, ShadowReport, SwapReport,
    VerifyReport,
};

use crate::{gates::partition_readiness::Outcome, output::line};

/// The state, and what comes next.
fn state(state: CutoverState) {
    match state.next() {
        Some(next) => line(format!("state {state}; next: aionis partition {}", next.as_str())),
        None => line(format!("state {state}; nothing is left to do")),
    }
}

pub(super) fn plan(report: &PlanReport) {
    for table in &report.tables {
        let layout = if table.partitioned { "partitioned" } else { "flat" };
        line(format!("{:<34} {layout:<11} {:>12} rows {:>9} MiB", table.table, table.rows, table.bytes >> 20));
    }
    for (scope, nodes) in &report.own {
        line(format!("own partition for {scope}: {nodes} nodes"));
    }
    line(format!(
        "{} rows to copy and compare, about {} s; {} MiB more disk until finalize; the server fits {} locks",
        report.rows,
        report.expected_s,
        report.bytes >> 20,
        report.lock_capacity
    ));
    state(report.state);
}

pub(super) fn ensure(report: &EnsureReport) {
    line(format!(
        "{} twins made, {} parts of the default partition each",
        report.created.len(),
        report.hash_partitions
    ));
    report.own.iter().for_each(|scope| line(format!("own partition for {scope}")));
    state(report.state);
}

pub(super) fn backfill(report: &BackfillReport) {
    for table in &report.tables {
        let what = match (report.dry_run, table.done) {
            (true, _) => format!("{} rows, {} not in the twin", table.seen, table.copied),
            (false, done) => {
                let rest = if done { "" } else { ", to be continued" };
                format!("{} rows seen, {} copied in {} batches{rest}", table.seen, table.copied, table.batches)
            }
        };
        line(format!("{:<34} {what}", table.table));
    }
    report.indexes.iter().for_each(|index| line(format!("index {index} made")));
    state(report.state);
}

pub(super) fn verify(report: &VerifyReport) {
    for table in &report.tables {
        let (rows, other) = (table.source_rows, table.target_rows);
        if table.differing_buckets.is_empty() {
            line(format!("ok     {:<34} {rows} rows, {}", table.table, table.source_digest));
            continue;
        }
        let buckets = table.differing_buckets.len();
        line(format!("DIFFER {:<34} {rows} and {other} rows, {buckets} bucket(s)", table.table));
        for sample in &table.samples {
            line(format!("       {}: {}", sample.difference, sample.key.join(" ")));
        }
    }
    state(report.state);
}

pub(super) fn gap(report: &GapReport) {
    for row in &report.rows {
        let (from, to, delta) = (row.source_rows, row.target_rows, row.delta);
        line(format!("{} {}: {from} and {to} rows ({delta:+})", row.table, row.scope_key));
    }
    line(format!("{} pairs of table and scope compared, {} differ", report.compared, report.rows.len()));
}

pub(super) fn shadow(report: &ShadowReport) {
    let Some(summary) = &report.summary else {
        line("inconclusive: no vector is stored that could be asked for");
        return;
    };
    line(format!(
        "{} questions ({}) in {} scope(s): overlap {:.3} at least, {:.3} on average; same order {}",
        summary.queries, report.source, report.scopes, summary.overlap_min, summary.overlap_mean, summary.same_order
    ));
    line(format!(
        "latency p50/p95 in µs: flat {}/{}, partitioned {}/{}",
        summary.flat_p50_us, summary.flat_p95_us, summary.partitioned_p50_us, summary.partitioned_p95_us
    ));
}

pub(super) fn swap(report: &SwapReport) {
    line(format!(
        "{} tables, window {} ms at try {}; the longest try that failed took {} ms",
        report.tables, report.window_ms, report.attempts, report.failed_window_max_ms
    ));
    report.note.iter().for_each(line);
    state(report.state);
}

pub(super) fn promote(report: &PromoteReport) {
    for table in &report.tables {
        line(format!("{:<34} {} rows, window {} ms", table.partition, table.rows, table.window_ms));
    }
    line(format!("{} has partitions of its own", report.scope_key));
}

pub(super) fn status(report: &CutoverStatus) {
    let at = |us: i64| Timestamp(us).to_iso();
    for table in &report.tables {
        let done = if table.done { "done" } else { "under way" };
        line(format!("{:<34} {done}: {} rows seen, {} copied", table.table, table.seen, table.copied));
    }
    for event in &report.events {
        line(format!("{} {}: {} -> {} {}", at(event.at_us), event.command, event.from, event.to, event.detail));
    }
    if let (Some(run), Some(ready_at)) = (&report.ready_run, report.ready_at_us) {
        line(format!("ready since {} (run {run})", at(ready_at)));
    }
    state(report.state);
}

pub(super) fn readiness(outcome: &Outcome) {
    let readiness = &outcome.report.readiness;
    for check in &readiness.checks {
        let how = match check.state {
            CheckState::Pass => "pass",
            CheckState::Fail => "FAIL",
            CheckState::Inconclusive => "INCONCLUSIVE",
            CheckState::Skipped => "SKIPPED",
            CheckState::NotApplicable => "n/a",
        };
        let reason = if check.reason.is_empty() { String::new() } else { format!(": {}", check.reason) };
        line(format!("{how:<12} {}{reason}", check.name));
    }
    if !outcome.accepted_inconclusive.is_empty() {
        line(format!("accepted as inconclusive: {}", outcome.accepted_inconclusive.join(", ")));
    }
    line(format!("summary: {}", outcome.summary_json.display()));
    state(outcome.report.state);
}

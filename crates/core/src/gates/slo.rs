//! Judging a benchmark: latencies and errors against bounds.

use serde::Serialize;

use crate::jobs::checks::ratio;

/// Answers a percentile needs. Below 20 the 95th percentile is the slowest answer.
pub const SAMPLES_MIN: u64 = 20;

/// Bounds of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SloThresholds {
    /// Largest 95th percentile of recalls by text, in ms.
    pub recall_p95_max_ms: f64,
    /// Largest 95th percentile of writes, in ms.
    pub write_p95_max_ms: f64,
    /// Largest part of requests that fail, in the worse of the two cases; 0 to 1.
    pub error_rate_max: f64,
}

impl Default for SloThresholds {
    fn default() -> Self {
        Self { recall_p95_max_ms: 1_200.0, write_p95_max_ms: 800.0, error_rate_max: 0.02 }
    }
}

/// What was measured in one case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CaseFigures {
    /// Requests.
    pub total: u64,
    /// Answers that were as they should be. Only they count for latencies.
    pub ok: u64,
    /// 95th percentile of the answers that were ok, in ms.
    pub p95_ms: Option<f64>,
}

/// What was observed, as it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SloObserved {
    /// 95th percentile of recalls by text, in ms; nothing where there is none.
    pub recall_p95_ms: Option<f64>,
    /// 95th percentile of writes, in ms.
    pub write_p95_ms: Option<f64>,
    /// Part of requests that failed, in the worse case.
    pub max_error_rate: Option<f64>,
}

/// On how much it was observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SloSamples {
    /// Recalls that were answered well.
    pub recall_ok: u64,
    /// Recalls.
    pub recall_total: u64,
    /// Writes that were answered well.
    pub write_ok: u64,
    /// Writes.
    pub write_total: u64,
    /// Answers a percentile needs.
    pub needed: u64,
}

/// A judged benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SloReport {
    /// Bounds.
    pub thresholds: SloThresholds,
    /// What was observed.
    pub observed: SloObserved,
    /// On how much.
    pub samples: SloSamples,
    /// Whether every bound holds and was measured on enough.
    pub pass: bool,
    /// Bounds that do not hold, by name.
    pub fail_reasons: Vec<String>,
    /// Bounds that were measured on nothing, or too little.
    pub inconclusive: Vec<String>,
}

/// Judges a benchmark. A case that was not measured at all is inconclusive, like one with too few answers.
pub fn judge(thresholds: SloThresholds, recall: Option<CaseFigures>, write: Option<CaseFigures>) -> SloReport {
    let (mut failed, mut open) = (Vec::new(), Vec::new());
    for (case, max, reason, name) in [
        (recall, thresholds.recall_p95_max_ms, "perf_recall_p95_slo", "perf_recall_p95"),
        (write, thresholds.write_p95_max_ms, "perf_write_p95_slo", "perf_write_p95"),
    ] {
        match case.and_then(|case| Some((case.ok, case.p95_ms?))) {
            Some((ok, p95)) => {
                if p95 > max {
                    failed.push(reason.to_owned());
                }
                if ok < SAMPLES_MIN {
                    open.push(name.to_owned());
                }
            }
            None => open.push(name.to_owned()),
        }
    }
    let rate = |case: Option<CaseFigures>| case.and_then(|case| ratio(case.total.saturating_sub(case.ok), case.total));
    let rates = [rate(recall), rate(write)];
    let worst =
        rates.into_iter().flatten().fold(None, |worst: Option<f64>, rate| Some(worst.map_or(rate, |w| w.max(rate))));
    if worst.is_some_and(|worst| worst > thresholds.error_rate_max) {
        failed.push("perf_error_rate_slo".to_owned());
    }
    if rates.iter().any(Option::is_none) {
        open.push("perf_error_rate".to_owned());
    }
    let (r, w) = (recall.unwrap_or_default(), write.unwrap_or_default());
    SloReport {
        thresholds,
        observed: SloObserved { recall_p95_ms: r.p95_ms, write_p95_ms: w.p95_ms, max_error_rate: worst },
        samples: SloSamples {
            recall_ok: r.ok,
            recall_total: r.total,
            write_ok: w.ok,
            write_total: w.total,
            needed: SAMPLES_MIN,
        },
        pass: failed.is_empty() && open.is_empty(),
        fail_reasons: failed,
        inconclusive: open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: SloThresholds =
        SloThresholds { recall_p95_max_ms: 100.0, write_p95_max_ms: 50.0, error_rate_max: 0.02 };

    fn case(total: u64, ok: u64, p95_ms: f64) -> Option<CaseFigures> {
        Some(CaseFigures { total, ok, p95_ms: (ok > 0).then_some(p95_ms) })
    }

    #[test]
    fn every_bound_is_compared_and_a_bound_that_is_met_holds() {
        for (recall, write, failed, open) in [
            (case(80, 80, 100.0), case(40, 40, 50.0), &[][..], &[][..]),
            (case(80, 80, 100.1), case(40, 40, 50.0), &["perf_recall_p95_slo"], &[]),
            (case(80, 80, 1.0), case(40, 40, 50.1), &["perf_write_p95_slo"], &[]),
            (case(100, 98, 1.0), case(40, 40, 1.0), &[], &[]),
            (case(100, 97, 1.0), case(40, 40, 1.0), &["perf_error_rate_slo"], &[]),
            (case(80, 80, 1.0), case(40, 39, 1.0), &["perf_error_rate_slo"], &[]),
            // Too few answers, none, and a case that is missing.
            (case(19, 19, 1.0), case(40, 40, 1.0), &[], &["perf_recall_p95"]),
            (case(80, 0, 1.0), case(40, 40, 1.0), &["perf_error_rate_slo"], &["perf_recall_p95"]),
            (case(0, 0, 1.0), case(40, 40, 1.0), &[], &["perf_recall_p95", "perf_error_rate"]),
            (None, case(40, 40, 1.0), &[], &["perf_recall_p95", "perf_error_rate"]),
            (None, None, &[], &["perf_recall_p95", "perf_write_p95", "perf_error_rate"]),
        ] {
            let judged = judge(BOUNDS, recall, write);
            assert_eq!(judged.fail_reasons, failed, "{recall:?} {write:?}");
            assert_eq!(judged.inconclusive, open, "{recall:?} {write:?}");
            assert_eq!(judged.pass, failed.is_empty() && open.is_empty());
        }
    }

    #[test]
    fn the_worse_case_counts_for_errors() {
        let judged = judge(BOUNDS, case(100, 90, 1.0), case(100, 95, 1.0));
        assert_eq!(judged.observed.max_error_rate, Some(0.1));
        assert_eq!((judged.samples.recall_ok, judged.samples.write_total, judged.samples.needed), (90, 100, 20));
    }
}

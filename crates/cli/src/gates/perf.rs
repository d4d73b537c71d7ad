//! The benchmark of the release gate: over HTTP, in a scope of its own, which is removed however it ends.

use std::{sync::Arc, time::Duration};

use aionis_core::gates::slo::{CaseFigures, SloReport, SloThresholds, judge};
use aionis_store::Deployment;
use serde_json::{Value, json};

use super::perf_scope::{PerfScope, Removed, remove_left};
use crate::{
    commands::bench::{CaseReport, Counted, CountedReport, DrainState, Target},
    failure::Failure,
};

/// How much is asked.
#[derive(Clone, Debug)]
pub(crate) struct PerfAsk {
    /// Tenant the scope belongs to.
    pub(crate) tenant_id: String,
    /// Bounds.
    pub(crate) thresholds: SloThresholds,
    /// What is asked; its scope is filled in by the run.
    pub(crate) load: Counted,
    /// How long the scope stays taken when this process dies.
    pub(crate) lease: Duration,
}

/// What the benchmark found.
pub(super) struct Measured {
    pub(super) evidence: Value,
    pub(super) slo: SloReport,
    /// Reasons beside the bounds.
    pub(super) reasons: Vec<String>,
    pub(super) dataset_sha256: String,
}

/// A benchmark under way: what it has to clean up outlives whatever stops it.
pub(super) struct Bench<'a> {
    store: &'a Arc<dyn Deployment>,
    ask: &'a PerfAsk,
    scope: Option<PerfScope>,
    left: Vec<Removed>,
}

impl<'a> Bench<'a> {
    pub(super) const fn new(store: &'a Arc<dyn Deployment>, ask: &'a PerfAsk) -> Self {
        Self { store, ask, scope: None, left: Vec::new() }
    }

    /// Removes what killed runs left, seeds a scope and measures it.
    pub(super) async fn measure(&mut self, target: &Arc<Target>, run_id: &str) -> Result<Measured, Failure> {
        let PerfAsk { tenant_id, lease, .. } = self.ask;
        self.left = remove_left(self.store, tenant_id, *lease).await?;
        let scope = PerfScope::open(self.store, tenant_id, run_id, *lease).await?;
        let scope = self.scope.insert(scope);
        let load = Counted { scope: scope.scope().to_owned(), ..self.ask.load.clone() };
        let report = load.run(target).await.map_err(Failure::new)?;
        let seen = scope.is_seen().await?;
        Ok(measured(self.ask, scope.scope(), &report, seen))
    }

    /// Removes the scope. To be called in the end, whatever happened.
    pub(super) async fn clean_up(mut self) -> Result<Value, Failure> {
        let own = match self.scope.take() {
            Some(scope) => Some(scope.remove().await?),
            None => None,
        };
        if let Some(note) = own.as_ref().and_then(|own| own.note.clone()) {
            return Err(Failure::new(format!("the scope of the benchmark was not removed: {note}")));
        }
        Ok(json!({ "own": own, "left_by_earlier_runs": self.left }))
    }
}

fn measured(ask: &PerfAsk, scope: &str, report: &CountedReport, seen: bool) -> Measured {
    let case = |name: &str| report.cases.iter().find(|case| case.name == name).map(figures);
    let slo = judge(ask.thresholds, case("recall_text"), case("write"));
    let mut reasons = Vec::new();
    if !seen {
        reasons.push("db_target_mismatch".to_owned());
    }
    if report.seeding.drain.state == DrainState::TimedOut {
        reasons.push("perf_vectors_not_derived".to_owned());
    }
    if report.found_something < report.looked_at {
        reasons.push("perf_recall_found_nothing".to_owned());
    }
    let evidence = json!({
        "scope": scope,
        "tenant_id": ask.tenant_id,
        "params": {
            "nodes": ask.load.nodes,
            "warmup": ask.load.warmup,
            "recall_requests": ask.load.recalls,
            "recall_concurrency": ask.load.recall_connections,
            "write_requests": ask.load.writes,
            "write_concurrency": ask.load.write_connections,
            "timeout_ms": millis(ask.load.timeout),
            "pace_ms": millis(ask.load.pace),
        },
        "seen_in_the_database": seen,
        "report": report,
        "slo": slo,
        "reasons": reasons,
    });
    Measured { evidence, slo, reasons, dataset_sha256: report.dataset_sha256.clone() }
}

fn figures(case: &CaseReport) -> CaseFigures {
    CaseFigures { total: case.total, ok: case.ok, p95_ms: case.latency_ms.map(|latency| latency.p95) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

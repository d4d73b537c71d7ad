//! Checking whether what is stored fits together.
//!
//! One step checks one scope, or what scopes have in common, in one view that does not change meanwhile: what another table says
//! is compared with what it said at the same moment.

use std::time::{Duration, Instant};

use aionis_core::{
    error::DomainError,
    jobs::{
        JobInfo, Over, Schedule, Target,
        consistency::{
            Asked, Check, CheckOutcome, CheckSet, Judge, Known, Mode, Probe, ScanTable, Severity, State, Summary,
        },
    },
    ports::store::{ConsistencyView, StoreError},
};
use async_trait::async_trait;
use hashbrown::HashMap;
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

/// Rows of a page.
const PAGE: usize = 2_000;
const EVERY: Schedule = Schedule { every: Duration::from_secs(24 * 3_600), only_changed: false };

pub(super) const OF_SCOPES: JobInfo = JobInfo {
    name: "consistency-check",
    about: "Check whether what a scope stores fits together",
    changes: false,
    over: Over::Scopes,
    schedule: Some(EVERY),
};

pub(super) const OF_THE_DEPLOYMENT: JobInfo = JobInfo {
    name: "consistency-check-cross-tenant",
    about: "Check what scopes and tenants have in common",
    changes: false,
    over: Over::Deployment,
    schedule: Some(EVERY),
};

/// Checks what is stored; nothing is changed.
#[derive(Debug)]
pub struct ConsistencyCheck {
    info: &'static JobInfo,
    asked: Asked,
}

impl ConsistencyCheck {
    /// The checks of scopes.
    pub const fn of_scopes(asked: Asked) -> Self {
        Self { info: &OF_SCOPES, asked }
    }

    /// The checks over scopes and tenants.
    pub const fn of_the_deployment(asked: Asked) -> Self {
        Self { info: &OF_THE_DEPLOYMENT, asked }
    }

    /// The set of its checks.
    const fn set(&self) -> CheckSet {
        match self.info.over {
            Over::Scopes => CheckSet::Scope,
            Over::Deployment => CheckSet::CrossTenant,
        }
    }

    async fn outcomes(&self, on: &Step<'_>, checks: &[&'static Check]) -> Result<Vec<CheckOutcome>, DomainError> {
        let known = Known {
            now: on.now,
            engine: on.store.storage_engine(),
            space: on.store.vector_space(),
            thresholds: self.asked.thresholds.clone(),
        };
        let judge = Judge::new(on.target.key(), checks, self.asked.mode, known.clone(), self.asked.sample);
        let view = on.store.consistency_view(on.target).await?;
        let mut reading = Reading { judge, view, known, took: HashMap::new() };
        match self.asked.mode {
            Mode::Full => reading.tables(on.target).await,
            Mode::Fast => reading.probes(on.target, self.asked.sample).await,
        }
        let took = reading.took;
        Ok(reading.judge.finish(|table| took.get(&table).map_or(0, |time: &Duration| millis(*time))))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Job for ConsistencyCheck {
    fn info(&self) -> &'static JobInfo {
        self.info
    }

    fn params(&self) -> Value {
        let asked = &self.asked;
        json!({
            "check_set": asked.check_set,
            "mode": asked.mode,
            "batch": asked.batch.map(|batch| json!({ "size": batch.size, "index": batch.index })),
            "sample": asked.sample,
            "strict": asked.strict,
            "strict_warnings": asked.strict_warnings,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let (chosen, batch) = self.asked.checks(on.store.storage_engine())?;
        let checks: Vec<&'static Check> = chosen.into_iter().filter(|check| check.set == self.set()).collect();
        let outcomes = self.outcomes(on, &checks).await?;
        for outcome in outcomes.iter().filter(|outcome| matches!(outcome.state, State::Fail | State::Error)) {
            tell(on.target, outcome);
        }
        let summary = Summary::of(&outcomes, self.asked.sample);
        let mut report = Report::default();
        report.set("check_set", self.asked.check_set.as_str());
        report.set("mode", self.asked.mode.as_str());
        report.set("batch", batch.map_or(Value::Null, |batch| json!(batch)));
        report.set("strict", self.asked.strict);
        report.set("strict_warnings", self.asked.strict_warnings);
        report.set("summary", json!(summary));
        report.set("holds", self.asked.holds(&outcomes));
        report.set("checks", json!(outcomes));
        Ok(Stepped { report, next: None })
    }

    fn holds(&self, report: &Report) -> bool {
        report.get("holds").and_then(Value::as_bool).unwrap_or(false)
    }
}

/// Tells log and metrics of a check that failed.
fn tell(target: &Target, outcome: &CheckOutcome) {
    let (check, severity, state) = (outcome.name, outcome.severity.as_str(), outcome.state.as_str());
    metrics::counter!(
        "aionis_consistency_failures_total", "check" => check, "severity" => severity, "state" => state
    )
    .increment(1);
    let error = outcome.error.as_deref().unwrap_or_default();
    let scope_key = target.key();
    if outcome.severity == Severity::Error || outcome.state == State::Error {
        tracing::error!(check, state, count = outcome.count, error, scope_key, "a consistency check failed");
    } else {
        tracing::warn!(check, state, count = outcome.count, error, scope_key, "a consistency check failed");
    }
}

/// A view that is read for a judge.
struct Reading {
    judge: Judge,
    view: Box<dyn ConsistencyView>,
    known: Known,
    took: HashMap<ScanTable, Duration>,
}

impl Reading {
    /// Reads every table a check needs, once.
    async fn tables(&mut self, target: &Target) {
        if !self.opened(target).await {
            return;
        }
        for table in self.judge.tables().into_iter().filter(|table| *table != ScanTable::Scopes) {
            let started = Instant::now();
            if let Err(e) = self.table(table).await {
                self.judge.unreadable(table, None, &e.to_string());
            }
            *self.took.entry(table).or_default() += started.elapsed();
        }
    }

    async fn table(&mut self, table: ScanTable) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.view.page(table, after.as_deref(), PAGE).await?;
            page.iter().for_each(|row| self.judge.row(row));
            match page.last() {
                // Scope keys come all at once.
                Some(last) if page.len() >= PAGE && table != ScanTable::ScopeKeys => after = Some(last.key()),
                _ => return Ok(()),
            }
            // Judging a page is work; others get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Reads what indexes find.
    async fn probes(&mut self, target: &Target, sample: usize) {
        if !self.opened(target).await {
            return;
        }
        let stuck_before = self.known.ago(self.known.thresholds.stuck_after);
        for probe in self.judge.probes() {
            let (started, limit) = (Instant::now(), probe.limit(sample));
            match self.view.probe(probe, stuck_before, limit).await {
                Ok(rows) => self.judge.probed(probe, &rows, probe == Probe::ChainTail || rows.len() < limit),
                Err(e) => self.judge.unreadable(probe.table(), Some(probe), &e.to_string()),
            }
            *self.took.entry(probe.table()).or_default() += started.elapsed();
        }
    }

    /// Reads the scope's head. False when the scope is not to be judged now.
    async fn opened(&mut self, target: &Target) -> bool {
        if *target == Target::Deployment {
            return true;
        }
        match self.view.page(ScanTable::Scopes, None, 1).await {
            Ok(rows) => {
                let Some(head) = rows.into_iter().next() else { return true };
                if head.text("state") == Ok(Some("importing")) {
                    self.judge.skip_all("the scope is being copied in");
                    return false;
                }
                self.judge.head(head);
            }
            Err(e) => self.judge.unreadable(ScanTable::Scopes, None, &e.to_string()),
        }
        true
    }
}

//! Runs a job: lease, steps, cursor, history.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{
    clock::{Clock, Timestamp},
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    jobs::{BeginRun, Begun, EndRun, Over, RunLease, RunStatus, Target},
    ports::store::{RUN_LEASE, Store, StoreError},
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Job, Report, Step, Stepped};
use crate::pulse::Pulse;

/// Longest time of one step of a job; who takes longer is stuck. Steps are some statements, each with a limit of its own.
pub const STEP_MAX: Duration = Duration::from_secs(600);

/// Longest error text that is kept of a run, in bytes.
const ERROR_MAX: usize = 500;

/// What a job goes over.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this scope.
    pub scope: Option<String>,
}

/// How a job is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Who runs it, for the lease.
    pub holder: String,
    /// Only plan: nothing is changed.
    pub dry_run: bool,
    /// Most steps in one scope.
    pub max_batches: Option<u64>,
    /// Longest time for everything; what is under way is finished.
    pub deadline: Option<Duration>,
    /// How long the lease holds without a sign of life.
    pub lease: Duration,
    /// Only targets whose last run began before.
    pub due_before: Option<Timestamp>,
    /// Turns true when it has to stop after the step it is in.
    pub stop: Option<watch::Receiver<bool>>,
    /// Told before every step.
    pub pulse: Option<Pulse>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            holder: format!("{}-{}", std::process::id(), Uuid::new_v4().simple()),
            dry_run: false,
            max_batches: None,
            deadline: None,
            lease: RUN_LEASE,
            due_before: None,
            stop: None,
            pulse: None,
        }
    }
}

/// Who is told how far it is.
pub trait Progress: Send + Sync {
    /// So many targets.
    fn begin(&self, targets: u64);
    /// One more is done.
    fn step(&self);
}

/// Tells nobody.
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: u64) {}
    fn step(&self) {}
}

/// How a job ended in one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    /// It came to its end.
    Done,
    /// It came to its end, and what it judged does not hold.
    Negative,
    /// A limit stopped it; the next run goes on there.
    Stopped,
    /// An error ended it.
    Failed,
    /// Another runner is at it.
    Busy,
    /// It ran a moment ago.
    NotDue,
    /// Another runner took over meanwhile.
    Lost,
}

impl TargetStatus {
    /// Text form, also as a label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Negative => "negative",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::NotDue => "not_due",
            Self::Lost => "lost",
        }
    }

    const fn kept(self) -> Option<RunStatus> {
        match self {
            Self::Done => Some(RunStatus::Done),
            Self::Negative => Some(RunStatus::Negative),
            Self::Stopped => Some(RunStatus::Stopped),
            Self::Failed => Some(RunStatus::Failed),
            Self::Busy | Self::NotDue | Self::Lost => None,
        }
    }
}

/// What a job did in one target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// Tenant; nothing for the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Scope; nothing for the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Id of the run in the history.
    pub run_id: Uuid,
    /// How it ended.
    pub status: TargetStatus,
    /// Whether it went on where an earlier run was stopped.
    pub resumed: bool,
    /// Steps.
    pub batches: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// What ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it did.
    #[serde(flatten)]
    pub report: Report,
}

/// What a job did.
#[derive(Clone, Debug, Serialize)]
pub struct JobReport {
    /// Whether all of it was done, and everything judged holds.
    pub ok: bool,
    /// Name of the job.
    pub job: &'static str,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Counts over all targets.
    pub total: Report,
    /// Per target.
    pub targets: Vec<TargetReport>,
}

impl JobReport {
    /// Targets that ended in a way.
    pub fn with(&self, status: TargetStatus) -> impl Iterator<Item = &TargetReport> {
        self.targets.iter().filter(move |target| target.status == status)
    }
}

/// Runs jobs over a store.
#[derive(Clone)]
pub struct Runner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl Runner {
    /// A runner.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Runs a job over what is selected. A failure in one scope does not keep it from the others.
    ///
    /// # Errors
    /// The targets cannot be listed, or a named scope is not there.
    pub async fn run(
        &self,
        job: &dyn Job,
        selection: &Selection,
        options: &RunOptions,
        progress: &dyn Progress,
    ) -> Result<JobReport, DomainError> {
        let targets = self.targets(job, selection).await?;
        progress.begin(targets.len() as u64);
        let started = Instant::now();
        let mut report = JobReport {
            ok: true,
            job: job.info().name,
            dry_run: options.dry_run,
            total: Report::default(),
            targets: Vec::with_capacity(targets.len()),
        };
        for target in targets {
            let deadline = options.deadline.map(|longest| started + longest);
            let done = self.run_target(job, &target, options, deadline).await;
            report.ok &= done.status == TargetStatus::Done;
            report.total.add(&done.report.counts());
            report.targets.push(done);
            progress.step();
        }
        Ok(report)
    }

    async fn targets(&self, job: &dyn Job, selection: &Selection) -> Result<Vec<Target>, DomainError> {
        if let Some(target) = job.target() {
            return Ok(vec![target]);
        }
        if job.info().over == Over::Deployment {
            return Ok(vec![Target::Deployment]);
        }
        let (tenant, scope) = (selection.tenant.as_deref(), selection.scope.as_deref());
        let found = self.store.scopes(tenant, scope).await?;
        if found.is_empty() && (tenant.is_some() || scope.is_some()) {
            let named =
                [("tenant", tenant), ("scope", scope)].map(|(what, name)| name.map(|n| format!("{what} {n:?}")));
            return Err(DomainError::new(
                ErrorKind::NotFound,
                "scope_not_found",
                format!("nothing is stored for {}", named.into_iter().flatten().collect::<Vec<_>>().join(", ")),
            ));
        }
        found.iter().map(|summary| Ok(Target::Scope(ScopeKey::from_stored(&summary.scope_key)?))).collect()
    }

    /// Runs a job in one target.
    pub async fn run_target(
        &self,
        job: &dyn Job,
        target: &Target,
        options: &RunOptions,
        deadline: Option<Instant>,
    ) -> TargetReport {
        let (run, started) = (Uuid::new_v4(), Instant::now());
        let mut running = Running { runner: self, job, target, options, deadline, run, done: empty(target, run) };
        let status = match running.run().await {
            Ok(status) => status,
            Err(error) => {
                running.done.error = Some(said(&error));
                TargetStatus::Failed
            }
        };
        let mut done = running.done;
        (done.status, done.duration_ms) = (status, u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let name = job.info().name;
        metrics::counter!("aionis_job_runs_total", "job" => name, "status" => status.as_str()).increment(1);
        metrics::histogram!("aionis_job_seconds", "job" => name).record(started.elapsed());
        done
    }
}

fn empty(target: &Target, run_id: Uuid) -> TargetReport {
    let scope = match target {
        Target::Scope(scope) => Some(scope),
        Target::Deployment => None,
    };
    TargetReport {
        tenant_id: scope.map(|scope| scope.tenant().to_owned()),
        scope: scope.map(|scope| scope.scope().to_owned()),
        run_id,
        status: TargetStatus::Done,
        resumed: false,
        batches: 0,
        duration_ms: 0,
        error: None,
        report: Report::default(),
    }
}

/// What is kept of an error.
fn said(error: &DomainError) -> String {
    let text = match &error.internal {
        Some(internal) => format!("{}: {} ({internal})", error.code, error.message),
        None => format!("{}: {}", error.code, error.message),
    };
    aionis_core::ids::clip(&text, ERROR_MAX).to_owned()
}

/// A job at work in one target.
struct Running<'a> {
    runner: &'a Runner,
    job: &'a dyn Job,
    target: &'a Target,
    options: &'a RunOptions,
    deadline: Option<Instant>,
    run: Uuid,
    done: TargetReport,
}

impl Running<'_> {
    async fn run(&mut self) -> Result<TargetStatus, DomainError> {
        let info = self.job.info();
        let begin = BeginRun {
            run: self.run,
            job: info.name.to_owned(),
            target: self.target.clone(),
            holder: self.options.holder.clone(),
            dry_run: self.options.dry_run,
            params: self.job.params(),
            now: self.runner.now(),
            lease: info.changes.then_some(self.options.lease),
            due_before: self.options.due_before,
        };
        let (fence, mut cursor) = match self.runner.store.begin_run(begin).await? {
            // Nothing to go on at, only a mark that it comes back.
            Begun::Yes { fence, cursor } => (fence, cursor.filter(|cursor| !cursor.is_null())),
            Begun::NotDue => return Ok(TargetStatus::NotDue),
            Begun::Busy { holder, until } => {
                self.done.error = Some(format!("{holder} is at it, until {} or longer", until.to_iso()));
                return Ok(TargetStatus::Busy);
            }
        };
        self.done.resumed = cursor.is_some();
        let lease = RunLease { run: self.run, job: info.name.to_owned(), target: self.target.clone(), fence };
        let ended = self.steps(&lease, &mut cursor).await;
        let status = match &ended {
            Ok(TargetStatus::Done) if !self.job.holds(&self.done.report) => TargetStatus::Negative,
            Ok(status) => *status,
            Err(error) => {
                self.done.error = Some(said(error));
                TargetStatus::Failed
            }
        };
        let Some(kept) = status.kept() else { return Ok(status) };
        let left = match status {
            TargetStatus::Stopped | TargetStatus::Failed => cursor,
            _ => self.job.comes_back(&self.done.report).then_some(Value::Null),
        };
        let end = EndRun {
            status: kept,
            cursor: left,
            result: self.done.report.clone().into(),
            error: self.done.error.clone(),
            now: self.runner.now(),
        };
        let noted = self.runner.store.end_run(&lease, end).await?;
        Ok(if noted { status } else { TargetStatus::Lost })
    }

    /// Goes from step to step until the end, a limit, or another runner.
    async fn steps(&mut self, lease: &RunLease, cursor: &mut Option<Value>) -> Result<TargetStatus, DomainError> {
        loop {
            if self.must_stop() {
                return Ok(TargetStatus::Stopped);
            }
            if let Some(pulse) = &self.options.pulse {
                pulse.within(STEP_MAX);
            }
            let Some(stepped) = self.step(lease, cursor.as_ref()).await? else { return Ok(TargetStatus::Lost) };
            self.done.batches += 1;
            self.done.report.add(&stepped.report);
            let Some(next) = stepped.next else { return Ok(TargetStatus::Done) };
            if lease.fence > 0 && !self.keep(lease, Some(&next)).await? {
                return Ok(TargetStatus::Lost);
            }
            *cursor = Some(next);
        }
    }

    fn must_stop(&self) -> bool {
        self.options.stop.as_ref().is_some_and(|stop| *stop.borrow())
            || self.deadline.is_some_and(|at| Instant::now() >= at)
            || self.options.max_batches.is_some_and(|most| self.done.batches >= most)
    }

    /// One step; the lease is extended while it lasts. None if the lease was lost.
    async fn step(&self, lease: &RunLease, cursor: Option<&Value>) -> Result<Option<Stepped>, DomainError> {
        let on = Step {
            store: &*self.runner.store,
            target: self.target,
            cursor,
            dry_run: self.options.dry_run,
            now: self.runner.now(),
            run: self.run,
        };
        let mut step = self.job.step(&on);
        loop {
            tokio::select! {
                stepped = &mut step => return stepped.map(Some),
                () = tokio::time::sleep(self.options.lease / 3), if lease.fence > 0 => {
                    if !self.keep(lease, None).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn keep(&self, lease: &RunLease, cursor: Option<&Value>) -> Result<bool, StoreError> {
        let lasting = i64::try_from(self.options.lease.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp(self.runner.now().0.saturating_add(lasting));
        self.runner.store.keep_run(lease, until, cursor).await
    }
}

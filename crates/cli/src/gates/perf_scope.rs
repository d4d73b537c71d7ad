//! The scope a benchmark writes into: it is the gate's own, named by its run, and removed afterwards. An operator may name one
//! that has partitions of its own, so that it is removed by truncating them.
//!
//! A run is noted in the history of jobs before anything is written, and holds a lease while it lasts. What earlier runs
//! left is found there by the next one: that of a killed run once its lease has run out, and that of any other one into whose
//! scope a write came after its end. No other scope is ever touched.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aionis_core::{
    canon::Digest,
    clock::{Clock as _, SystemClock, Timestamp},
    ids::{ScopeKey, TenantId},
    jobs::{
        BeginRun, Begun, EndRun, RunLease, RunQuery, RunStatus, Target,
        scope_purge::{PurgeMode, PurgeState},
    },
};
use aionis_engine::jobs::{JobReport, NoProgress, RunOptions, Runner, ScopePurge, Selection, TargetStatus};
use aionis_store::Deployment;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use uuid::Uuid;

use crate::failure::Failure;

/// Under which name runs are noted.
const JOB: &str = "gate-perf";
/// Who removes the scope, for the record of the purge.
const BY: &str = "gate core";
/// Runs that are looked back at for scopes that were left.
const LOOKED_BACK: usize = 1_000;
/// Rows removed in one transaction.
const BATCH: usize = 5_000;
/// How often a removal is tried again: requests that were under way may write once more.
const TRIES: u32 = 5;

/// A scope in use by this run.
pub(super) struct PerfScope {
    store: Arc<dyn Deployment>,
    key: ScopeKey,
    lease: RunLease,
    keeper: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What became of a scope.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Removed {
    /// The scope.
    pub(super) scope: String,
    /// Rows that were removed.
    pub(super) rows: u64,
    /// Whether nothing of it is left. False only for one another gate is using.
    pub(super) removed: bool,
    /// Why it was left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// Why rows were deleted one by one where that was to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delete_fallback: Option<String>,
}

impl Removed {
    fn all(key: &ScopeKey, rows: u64) -> Self {
        Self { scope: key.scope().to_owned(), rows, removed: true, note: None, delete_fallback: None }
    }
}

/// What the judged database has of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Nodes.
    pub(super) nodes: u64,
    /// Those of them with a vector.
    pub(super) ready: u64,
}

/// Name of a scope that no other run has.
fn name(run_id: &str) -> String {
    format!("gate_{run_id}_{}", &Uuid::new_v4().simple().to_string()[..12])
}

impl PerfScope {
    /// Notes the run and takes its lease. Nothing is written into the scope.
    pub(super) async fn open(
        store: &Arc<dyn Deployment>,
        tenant: &str,
        (run_id, named): (&str, Option<&str>),
        lease: Duration,
    ) -> Result<Self, Failure> {
        let key = ScopeKey::new(&TenantId::parse(tenant)?, &named.map_or_else(|| name(run_id), str::to_owned))?;
        if named.is_some() && holds_something(store, &key).await? {
            make_free(store, &key, lease).await?;
        }
        match take(store, &key, lease).await? {
            Some(held) => {
                let (stop, stopped) = watch::channel(false);
                let keeper = tokio::spawn(keep(Arc::clone(store), held.clone(), lease, stopped));
                Ok(Self { store: Arc::clone(store), key, lease: held, keeper, stop })
            }
            None => Err(Failure::new(format!("{key} is in use by another gate"))),
        }
    }

    /// The scope's name within its tenant.
    pub(super) fn scope(&self) -> &str {
        self.key.scope()
    }

    /// The scope.
    pub(super) const fn key(&self) -> &ScopeKey {
        &self.key
    }

    /// Whether the database that is judged has what was written over HTTP.
    pub(super) async fn is_seen(&self) -> Result<bool, Failure> {
        Ok(!self.store.scopes(Some(self.key.tenant()), Some(self.key.scope())).await?.is_empty())
    }

    /// Counts what is stored.
    pub(super) async fn stored(&self) -> Result<Stored, Failure> {
        let counts = self.store.quality(&self.key, SystemClock.now()).await?;
        Ok(Stored { nodes: counts.nodes, ready: counts.ready })
    }

    /// Removes the scope and ends the run, which has failed if something of the scope is out of reach. Whether rows had to be
    /// deleted one by one is told with `fail_on_delete`.
    pub(super) async fn remove(self, out_of_reach: Option<String>, fail_on_delete: bool) -> Result<Removed, Failure> {
        let removed = purge(&self.store, &self.key, fail_on_delete).await;
        let removed = match (out_of_reach.map(Failure::new), removed) {
            (None, removed) => removed,
            (Some(why), Ok(_)) => Err(why),
            (Some(why), Err(failure)) => Err(Failure::all([why, failure])),
        };
        self.stop.send_replace(true);
        if let Err(e) = self.keeper.await {
            tracing::warn!(error = %e, "the lease of the benchmark's scope was not kept");
        }
        let error = match &removed {
            Ok(removed) => removed.note.clone(),
            Err(failure) => Some(failure.to_string()),
        };
        end(&self.store, &self.lease, json!({ "removed": removed.as_ref().ok() }), error).await?;
        removed
    }
}

/// Takes the lease of a scope and notes the run; nothing if another gate holds it.
async fn take(store: &Arc<dyn Deployment>, key: &ScopeKey, lease: Duration) -> Result<Option<RunLease>, Failure> {
    let (run, target) = (Uuid::new_v4(), Target::Scope(key.clone()));
    let begin = BeginRun {
        run,
        job: JOB.to_owned(),
        target: target.clone(),
        holder: format!("{}-{}", std::process::id(), run.simple()),
        dry_run: false,
        params: json!({}),
        now: SystemClock.now(),
        lease: Some(lease),
        due_before: None,
    };
    Ok(match store.begin_run(begin).await? {
        Begun::Yes { fence, .. } => Some(RunLease { run, job: JOB.to_owned(), target, fence }),
        Begun::Busy { .. } | Begun::NotDue => None,
    })
}

/// Extends the lease until it is told to stop.
async fn keep(store: Arc<dyn Deployment>, held: RunLease, lease: Duration, mut stop: watch::Receiver<bool>) {
    let lasting = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
    loop {
        tokio::select! {
            // The sender is dropped only after it has told, or with everything else.
            _ = stop.changed() => return,
            () = tokio::time::sleep(lease / 3) => {
                let until = Timestamp(SystemClock.now().0.saturating_add(lasting));
                match store.keep_run(&held, until, None).await {
                    Ok(true) => {}
                    // The next look tells: what matters is only that no other gate takes a scope in use for a left one.
                    Ok(false) => return,
                    Err(e) => tracing::warn!(error = %e, "the lease of the benchmark's scope could not be extended"),
                }
            }
        }
    }
}

/// Notes how a run ended. Its lease went with the scope, so that there is none to give back.
async fn end(
    store: &Arc<dyn Deployment>,
    held: &RunLease,
    result: Value,
    error: Option<String>,
) -> Result<(), Failure> {
    let status = if error.is_none() { RunStatus::Done } else { RunStatus::Failed };
    let ended = EndRun { status, cursor: None, result, error, now: SystemClock.now() };
    store.end_run(&RunLease { fence: 0, ..held.clone() }, ended).await?;
    Ok(())
}

/// Removes what runs before left in a tenant, whatever they ended with: a write that was under way when a scope was removed
/// makes it anew. `own` is the scope in use.
pub(super) async fn remove_left(
    store: &Arc<dyn Deployment>,
    tenant: &str,
    lease: Duration,
    own: &ScopeKey,
) -> Result<Vec<Removed>, Failure> {
    let query =
        RunQuery { job: Some(JOB.to_owned()), tenant: Some(tenant.to_owned()), target: None, limit: LOOKED_BACK };
    let runs = store.job_runs(&query).await?;
    let keys: BTreeSet<&str> = runs.iter().map(|run| run.target.key()).filter(|key| *key != own.as_str()).collect();
    let mut done = Vec::new();
    for key in keys {
        let key = ScopeKey::from_stored(key)?;
        if !holds_something(store, &key).await? {
            continue;
        }
        let Some(held) = take(store, &key, lease).await? else {
            done.push(left_alone(&key));
            continue;
        };
        let removed = purge(store, &key, false).await?;
        end(store, &held, json!({ "removed": removed }), None).await?;
        done.push(removed);
    }
    Ok(done)
}

/// Removes what is stored in a scope that was named, if an earlier gate stored it. What anybody else did is nothing to remove.
async fn make_free(store: &Arc<dyn Deployment>, key: &ScopeKey, lease: Duration) -> Result<(), Failure> {
    let target = Some(Target::Scope(key.clone()));
    let query = RunQuery { job: Some(JOB.to_owned()), tenant: None, target, limit: 1 };
    if store.job_runs(&query).await?.is_empty() {
        return Err(Failure::new(format!(
            "--perf-scope: {key} holds memories that no gate has stored; name a scope that is empty, which the benchmark \
             writes into and removes"
        )));
    }
    let Some(held) = take(store, key, lease).await? else {
        return Err(Failure::new(format!("{key} is in use by another gate")));
    };
    let removed = purge(store, key, false).await?;
    end(store, &held, json!({ "removed": removed }), None).await
}

async fn holds_something(store: &Arc<dyn Deployment>, key: &ScopeKey) -> Result<bool, Failure> {
    Ok(match store.purge_state(key).await? {
        PurgeState::Absent => store.purge_survey(key).await?.rows() > 0,
        PurgeState::Open | PurgeState::Importing | PurgeState::Purging(_) => true,
    })
}

fn left_alone(key: &ScopeKey) -> Removed {
    let note = Some("another gate is at it, or was killed a moment ago".to_owned());
    Removed { removed: false, note, ..Removed::all(key, 0) }
}

/// Removes everything of a scope, also when there is nothing. With `fail_on_delete` it is told if that needs rows to be
/// deleted one by one; they are, because nothing may stay.
async fn purge(store: &Arc<dyn Deployment>, key: &ScopeKey, fail_on_delete: bool) -> Result<Removed, Failure> {
    let (mut rows, mut delete_fallback) = (0, None);
    if fail_on_delete {
        let strict = ScopePurge { fail_on_delete, ..job(key, None) };
        let report = run(store, &strict, true).await?;
        let refused = report.targets.first().and_then(|target| target.error.clone());
        delete_fallback = refused.filter(|error| error.starts_with("purge_refused"));
    }
    for _ in 0..TRIES {
        let Some(plan) = planned(store, key).await? else {
            return Ok(Removed { delete_fallback, ..Removed::all(key, rows) });
        };
        let report = run(store, &job(key, Some(plan)), false).await?;
        rows += report.total.number("rows_removed");
        let Some(target) = report.targets.first() else { continue };
        match (target.status, &target.error) {
            (TargetStatus::Busy, _) => return Ok(left_alone(key)),
            // What was written meanwhile makes the plan anew.
            (_, Some(error)) if !error.starts_with("purge_plan_stale") => {
                return Err(Failure::new(format!("{key} could not be removed: {error}")));
            }
            _ => {}
        }
    }
    match planned(store, key).await? {
        None => Ok(Removed { delete_fallback, ..Removed::all(key, rows) }),
        Some(_) => Err(Failure::new(format!("{key} could not be removed: something writes into it again and again"))),
    }
}

/// The plan of a purge; nothing when nothing is stored.
async fn planned(store: &Arc<dyn Deployment>, key: &ScopeKey) -> Result<Option<Digest>, Failure> {
    let report = run(store, &job(key, None), true).await?;
    let Some(target) = report.targets.first() else { return Ok(None) };
    match (&target.error, target.report.get("plan_hash").and_then(Value::as_str)) {
        (Some(error), _) if error.starts_with("scope_not_found") => Ok(None),
        (Some(error), _) => Err(Failure::new(format!("{key} could not be removed: {error}"))),
        (None, Some(hash)) => Digest::from_hex(hash).map(Some).map_err(|_| Failure::new("a plan has no hash")),
        (None, None) => Err(Failure::new(format!("{key} could not be removed: its purge has no plan"))),
    }
}

fn job(key: &ScopeKey, plan: Option<Digest>) -> ScopePurge {
    ScopePurge {
        scope: key.clone(),
        plan,
        mode: PurgeMode::Auto,
        fail_on_delete: false,
        batch_size: BATCH,
        by: BY.to_owned(),
    }
}

async fn run(store: &Arc<dyn Deployment>, job: &ScopePurge, dry_run: bool) -> Result<JobReport, Failure> {
    let runner = Runner::new(Arc::clone(store) as _, Arc::new(SystemClock));
    let options = RunOptions { dry_run, ..RunOptions::default() };
    Ok(runner.run(job, &Selection::default(), &options, &NoProgress).await?)
}

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::StoreError;
use crate::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::{BeginRun, Begun, EndRun, JobRun, RunLease, RunQuery},
};

/// Leases, cursors and the history of jobs.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Begins a run: takes the lease if one is asked for and nobody holds it, and notes the run. A run of the same job and
    /// target that is still noted as running although nobody holds its lease any more is noted as lost.
    ///
    /// # Errors
    /// A failure of storage.
    async fn begin_run(&self, begin: BeginRun) -> Result<Begun, StoreError>;

    /// Extends a lease, and stores the cursor if there is one. False if another runner has taken over: then nothing is
    /// stored, and the run must stop.
    ///
    /// # Errors
    /// A failure of storage.
    async fn keep_run(&self, lease: &RunLease, until: Timestamp, cursor: Option<&Value>) -> Result<bool, StoreError>;

    /// Ends a run: gives the lease back and notes how it ended. False if another runner has taken over: then the run stays
    /// noted as lost, and the lease and the cursor are that of the other.
    ///
    /// # Errors
    /// A failure of storage.
    async fn end_run(&self, lease: &RunLease, end: EndRun) -> Result<bool, StoreError>;

    /// Scopes in which a job is due: its last run began before `before`, or was stopped, or died, or it never ran; and
    /// nobody runs it now. With `only_changed` those that got a commit since, or were left unfinished. Those that wait
    /// longest come first, at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn due_scopes(
        &self,
        job: &str,
        before: Timestamp,
        now: Timestamp,
        only_changed: bool,
        limit: usize,
    ) -> Result<Vec<ScopeKey>, StoreError>;

    /// Makes a job due in a scope as soon as a scheduler looks, as if it had not run since the last commit. One that is under
    /// way is due again afterwards.
    ///
    /// # Errors
    /// A failure of storage.
    async fn make_due(&self, job: &str, scope: &ScopeKey) -> Result<(), StoreError>;

    /// When a job last began for the deployment as a whole, if ever.
    ///
    /// # Errors
    /// A failure of storage.
    async fn last_deployment_run(&self, job: &str) -> Result<Option<Timestamp>, StoreError>;

    /// Runs, the newest first.
    ///
    /// # Errors
    /// A failure of storage.
    async fn job_runs(&self, query: &RunQuery) -> Result<Vec<JobRun>, StoreError>;
}

/// How long a lease is kept without a sign of life of its holder.
pub const RUN_LEASE: Duration = Duration::from_secs(30);

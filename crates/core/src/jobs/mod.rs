//! Jobs: work that maintains a memory, apart from requests.
//!
//! A job goes over scopes one after the other. In each it loads a bounded page, plans what to do (pure, here), and
//! applies the plan; then it goes on after a cursor, which is stored, so that a job that was killed goes on where it
//! was. One runner at a time holds the lease of a job in a scope. What is applied is checked again against what is
//! stored in the transaction that applies it: a lease that ran out while its holder was stalled costs work, never truth.

pub mod checks;
pub mod consistency;
pub mod consolidation;
pub mod counts;
pub mod execution_loop;
pub mod governance;
pub mod owner_review;
pub mod policy_adaptation;
pub mod quality_eval;
pub mod retention;
pub mod rule_promotion;
pub mod salience_decay;
pub mod scope_purge;
pub mod state_change;
pub mod tenants;

use std::{fmt, time::Duration};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{clock::Timestamp, error::DomainError, ids::ScopeKey, model::text_enum};

/// What a job is.
#[derive(Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its name, as in `aionis job NAME`.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Whether it may change what is stored; one that does not takes no lease.
    pub changes: bool,
    /// What it goes over.
    pub over: Over,
    /// When a worker runs it by itself.
    pub schedule: Option<Schedule>,
}

/// What a job goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Scopes, one after the other.
    Scopes,
    /// The deployment as a whole.
    Deployment,
}

/// When a worker runs a job by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time from the start of one run to the start of the next.
    pub every: Duration,
    /// Whether a scope that got no commit since the last run began is left out.
    pub only_changed: bool,
}

/// What one run of a job is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A scope.
    Scope(ScopeKey),
    /// Everything.
    Deployment,
}

impl Target {
    /// As stored: the scope key, or nothing.
    pub fn key(&self) -> &str {
        match self {
            Self::Scope(scope) => scope.as_str(),
            Self::Deployment => "",
        }
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// A key that is none.
    pub fn from_stored(key: &str) -> Result<Self, DomainError> {
        if key.is_empty() { Ok(Self::Deployment) } else { ScopeKey::from_stored(key).map(Self::Scope) }
    }

    /// The tenant; nothing for the deployment.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Scope(scope) => Some(scope.tenant()),
            Self::Deployment => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => f.write_str(scope.as_str()),
            Self::Deployment => f.write_str("the deployment"),
        }
    }
}

text_enum!(
    /// How a run of a job stands.
    RunStatus {
        /// Under way, or its runner died and nobody has taken over yet.
        Running = "running",
        /// It came to its end.
        Done = "done",
        /// It came to its end, and what it judged does not hold.
        Negative = "negative",
        /// A limit stopped it; the next run goes on from its cursor.
        Stopped = "stopped",
        /// An error ended it; the next run goes on from its cursor.
        Failed = "failed",
        /// Its runner went away and another one took over.
        Lost = "lost",
    }
);

/// What a job asks for when it begins in a scope.
#[derive(Clone, Debug)]
pub struct BeginRun {
    /// Id of the run.
    pub run: Uuid,
    /// Name of the job.
    pub job: String,
    /// What it is about.
    pub target: Target,
    /// Who runs it.
    pub holder: String,
    /// Whether it only plans. Such a run takes no lease and leaves the cursor alone.
    pub dry_run: bool,
    /// What it was started with: no text of a memory, no secrets.
    pub params: Value,
    /// The time now.
    pub now: Timestamp,
    /// How long the lease holds unless it is extended; none for a job that needs no lease.
    pub lease: Option<Duration>,
    /// Only if the last run began before this time: schedulers that see the same job due run it once.
    pub due_before: Option<Timestamp>,
}

/// Whether a job may begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// It may.
    Yes {
        /// Number of the lease; every holder has a higher one than the holder before. Zero without a lease.
        fence: u64,
        /// Where the run before left off, if it did not come to its end.
        cursor: Option<Value>,
    },
    /// Another runner holds the lease.
    Busy {
        /// Who.
        holder: String,
        /// Until when, unless it extends it.
        until: Timestamp,
    },
    /// It ran meanwhile.
    NotDue,
}

/// A lease as its holder names it.
#[derive(Clone, Debug)]
pub struct RunLease {
    /// Id of the run.
    pub run: Uuid,
    /// Name of the job.
    pub job: String,
    /// What it is about.
    pub target: Target,
    /// Number of the lease; zero without one.
    pub fence: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct EndRun {
    /// How.
    pub status: RunStatus,
    /// Where the next run goes on; nothing when it came to its end.
    pub cursor: Option<Value>,
    /// Counts and ids of what it did: no text of a memory.
    pub result: Value,
    /// What ended it.
    pub error: Option<String>,
    /// The time now.
    pub now: Timestamp,
}

/// A run as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRun {
    /// Id.
    pub run: Uuid,
    /// Name of the job.
    pub job: String,
    /// What it was about.
    pub target: Target,
    /// Who ran it.
    pub holder: String,
    /// Whether it only planned.
    pub dry_run: bool,
    /// How it stands.
    pub status: RunStatus,
    /// What it was started with.
    pub params: Value,
    /// What it did.
    pub result: Option<Value>,
    /// What ended it.
    pub error: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// Which runs are listed.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Only of this job.
    pub job: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this target.
    pub target: Option<Target>,
    /// Most runs.
    pub limit: usize,
}

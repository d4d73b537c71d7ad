//! Whether what is stored fits together: one catalogue of checks, all checks of a table made in one reading of it.
//!
//! Rows come as [`RawRow`]s, page by page, each once; predicates are pure functions of a row. What concerns several rows is
//! judged by compact facts that are gathered on the way (`facts`). A row that does not tell what a check needs makes that
//! check an error that names the row; the other checks and rows are not affected.

mod catalogue;
mod chain;
mod cross;
mod facts;
mod judge;
mod nodes;
mod row;
mod tally;
#[cfg(test)]
mod tests;
mod work;

use std::time::Duration;

use serde::Serialize;

pub use self::{
    catalogue::{CATALOGUE, ENFORCED_BY_THE_SCHEMA},
    judge::Judge,
    row::{Cell, Kind, RawRow, ScanTable, Told},
    tally::{CheckOutcome, State},
};
use crate::{
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    model::text_enum,
};

text_enum!(
    /// How bad a violation is.
    Severity {
        /// What is stored is wrong.
        Error = "error",
        /// What is stored is odd.
        Warning = "warning",
    }
);

text_enum!(
    /// Which checks are made.
    CheckSet {
        /// Those of scopes.
        Scope = "scope",
        /// Those of the deployment as a whole.
        CrossTenant = "cross_tenant",
        /// All of them.
        All = "all",
    }
);

text_enum!(
    /// How thoroughly.
    Mode {
        /// Every row is read, once.
        Full = "full",
        /// Only what an index finds: no table is read.
        Fast = "fast",
    }
);

text_enum!(
    /// Which engine stores it; a few checks look at what one of them alone has.
    StorageEngine {
        /// Embedded SQLite.
        Embedded = "embedded",
        /// PostgreSQL.
        Postgres = "postgres",
    }
);

/// What an index finds without reading a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The newest commits.
    ChainTail,
    /// Nodes that wait for a vector for too long, the oldest first.
    Pending,
    /// Nodes that got no vector.
    Failed,
    /// Work that was given up.
    DeadLetters,
    /// Work that is open, what is due first.
    OpenWork,
    /// Scope keys, by leaping from one to the next.
    ScopeKeys,
}

impl Probe {
    /// What its rows are of.
    pub const fn table(self) -> ScanTable {
        match self {
            Self::ChainTail => ScanTable::Commits,
            Self::Pending | Self::Failed => ScanTable::Nodes,
            Self::DeadLetters | Self::OpenWork => ScanTable::Outbox,
            Self::ScopeKeys => ScanTable::ScopeKeys,
        }
    }

    /// Most rows it finds. Where every row found is a violation, one more than the sample is enough.
    pub const fn limit(self, sample: usize) -> usize {
        match self {
            Self::Pending | Self::DeadLetters => sample + 1,
            Self::ChainTail => CHAIN_TAIL,
            Self::Failed | Self::OpenWork => PROBED_MAX,
            Self::ScopeKeys => usize::MAX,
        }
    }
}

/// Commits that fast mode looks at.
pub const CHAIN_TAIL: usize = 50;
/// Rows that a probe looks at when not every one of them is a violation.
pub const PROBED_MAX: usize = 1_000;
/// Why fast mode leaves a check out.
pub const FULL_MODE_ONLY: &str = "full mode only";

/// A check.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How bad a violation is.
    pub severity: Severity,
    /// Whether it is of scopes or of the deployment.
    pub set: CheckSet,
    /// The engine it is for; none for both.
    pub only: Option<StorageEngine>,
    /// What is read for it; the first is what it is about.
    pub reads: &'static [ScanTable],
    /// What a violation is.
    pub violation: &'static str,
    /// Fields of a sample.
    pub sample: &'static [&'static str],
    /// What finds violations without reading a table.
    pub probe: Option<Probe>,
    /// How it is judged.
    pub(self) rule: catalogue::Rule,
}

/// From which values on something is a violation, and how much is held in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Highest salience of an archived node.
    pub cold_below: f64,
    /// Most hot nodes of a scope; 0 for no limit.
    pub hot_budget: u64,
    /// Most hot and warm nodes of a scope; 0 for no limit.
    pub active_budget: u64,
    /// Attempts after which work is given up.
    pub attempts_max: u32,
    /// How long after its lease ran out claimed work is looked for.
    pub claim_timeout: Duration,
    /// How long a node may wait for its vector.
    pub stuck_after: Duration,
    /// Most rows that are held in memory for checks over several rows.
    pub rows_max: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            cold_below: 0.12,
            hot_budget: 0,
            active_budget: 0,
            attempts_max: 25,
            claim_timeout: Duration::from_secs(60),
            stuck_after: Duration::from_secs(3_600),
            rows_max: 10_000_000,
        }
    }
}

/// A part of the checks: those with the numbers `size * index` to `size * (index + 1) - 1` in the declared order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPart {
    /// Checks per batch.
    pub size: usize,
    /// Which one, from 0.
    pub index: usize,
}

/// A batch as it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchReport {
    /// Checks per batch.
    pub size: usize,
    /// Which one, from 0.
    pub index: usize,
    /// Checks in this one.
    pub checks_seen: usize,
    /// Checks in all batches.
    pub checks_total: usize,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Which checks.
    pub check_set: CheckSet,
    /// How thoroughly.
    pub mode: Mode,
    /// A part of them.
    pub batch: Option<BatchPart>,
    /// Most samples per check.
    pub sample: usize,
    /// Whether a check of severity error that was not made counts like one that failed.
    pub strict: bool,
    /// Whether every check has to pass, also those of severity warning.
    pub strict_warnings: bool,
    /// Limits.
    pub thresholds: Thresholds,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            check_set: CheckSet::All,
            mode: Mode::Full,
            batch: None,
            sample: 20,
            strict: false,
            strict_warnings: false,
            thresholds: Thresholds::default(),
        }
    }
}

impl Asked {
    /// The checks that are made on an engine, in the declared order, and the batch they are.
    ///
    /// # Errors
    /// There are not so many batches.
    pub fn checks(&self, engine: StorageEngine) -> Result<(Vec<&'static Check>, Option<BatchReport>), DomainError> {
        let applies = |check: &&Check| {
            let budgeted = match check.name {
                "scope_hot_budget_exceeded" => self.thresholds.hot_budget > 0,
                "scope_active_budget_exceeded" => self.thresholds.active_budget > 0,
                _ => true,
            };
            let wanted = self.check_set == CheckSet::All || self.check_set == check.set;
            budgeted && wanted && check.only.is_none_or(|only| only == engine)
        };
        let all: Vec<&'static Check> = CATALOGUE.iter().filter(applies).collect();
        let Some(batch) = self.batch else { return Ok((all, None)) };
        let total = all.len();
        let chosen: Vec<&'static Check> =
            all.into_iter().skip(batch.size.saturating_mul(batch.index)).take(batch.size).collect();
        if chosen.is_empty() {
            let last = total.div_ceil(batch.size.max(1)).saturating_sub(1);
            return Err(DomainError::new(
                ErrorKind::Invalid,
                "invalid_request",
                format!(
                    "batch_index {} is past the end: {total} checks in batches of {} end at {last}",
                    batch.index, batch.size
                ),
            ));
        }
        let report =
            BatchReport { size: batch.size, index: batch.index, checks_seen: chosen.len(), checks_total: total };
        Ok((chosen, Some(report)))
    }
}

/// Counts of checks, not of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Checks of severity error that failed.
    pub errors: usize,
    /// Checks of severity warning that failed.
    pub warnings: usize,
    /// Checks that were not made.
    pub skipped: usize,
    /// Checks that could not be judged, whatever their severity.
    pub errored: usize,
    /// Most samples per check.
    pub sample_limit: usize,
}

impl Summary {
    /// Counts outcomes.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a CheckOutcome>, sample_limit: usize) -> Self {
        let mut summary = Self { sample_limit, ..Self::default() };
        for outcome in outcomes {
            match (outcome.state, outcome.severity) {
                (State::Pass, _) => {}
                (State::Fail, Severity::Error) => summary.errors += 1,
                (State::Fail, Severity::Warning) => summary.warnings += 1,
                (State::Skipped, _) => summary.skipped += 1,
                (State::Error, _) => summary.errored += 1,
            }
        }
        summary
    }
}

impl Asked {
    /// Whether outcomes are good enough. Without a strict flag nothing of severity error may fail and everything that is made
    /// has to be judged; `strict` takes a skipped check of severity error for a failed one; `strict_warnings` takes everything
    /// but a pass for that.
    pub fn holds<'a>(&self, outcomes: impl IntoIterator<Item = &'a CheckOutcome>) -> bool {
        outcomes.into_iter().all(|outcome| match (outcome.state, outcome.severity) {
            (State::Pass, _) => true,
            _ if self.strict_warnings => false,
            (State::Fail, severity) => severity == Severity::Warning,
            (State::Error, _) => false,
            (State::Skipped, severity) => !self.strict || severity == Severity::Warning,
        })
    }
}

/// What checks know beside the rows.
#[derive(Clone, Debug)]
pub struct Known {
    /// The time now.
    pub now: Timestamp,
    /// The engine.
    pub engine: StorageEngine,
    /// Name of the embedding model whose vectors recall compares, and their dimension.
    pub space: (String, usize),
    /// Limits.
    pub thresholds: Thresholds,
}

impl Known {
    /// The time so long ago.
    pub fn ago(&self, time: Duration) -> Timestamp {
        Timestamp(self.now.0.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
    }
}

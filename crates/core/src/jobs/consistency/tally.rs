//! What a check has found so far.

use serde::Serialize;
use serde_json::Value;

use super::Check;
use crate::{ids::clip, model::text_enum};

text_enum!(
    /// How a check ended.
    State {
        /// Nothing violates it.
        Pass = "pass",
        /// Something does.
        Fail = "fail",
        /// It was not made, and the note says why. That is no pass.
        Skipped = "skipped",
        /// Something could not be judged, and the error says what. That is no pass.
        Error = "error",
    }
);

/// Longest error that is kept, in bytes.
const ERROR_MAX: usize = 300;

/// Counts violations of one check, and keeps the first ones.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) check: &'static Check,
    count: u64,
    lower_bound: bool,
    sample: Vec<Value>,
    sample_max: usize,
    skipped: Option<String>,
    note: Option<String>,
    unjudged: u64,
    first_error: Option<String>,
}

impl Tally {
    pub(super) fn new(check: &'static Check, sample_max: usize) -> Self {
        Self {
            check,
            count: 0,
            lower_bound: false,
            sample: Vec::new(),
            sample_max,
            skipped: None,
            note: None,
            unjudged: 0,
            first_error: None,
        }
    }

    /// One more violation.
    pub(super) fn found(&mut self, sample: Value) {
        self.found_many(1, sample);
    }

    /// More violations that one sample stands for.
    pub(super) fn found_many(&mut self, count: u64, sample: Value) {
        self.count += count;
        if self.sample.len() < self.sample_max {
            self.sample.push(sample);
        }
    }

    /// Something that could not be judged.
    pub(super) fn error(&mut self, problem: &str) {
        self.unjudged += 1;
        self.first_error.get_or_insert_with(|| clip(problem, ERROR_MAX).to_owned());
    }

    /// It is not made.
    pub(super) fn skip(&mut self, reason: &str) {
        self.skipped.get_or_insert_with(|| reason.to_owned());
    }

    pub(super) fn note(&mut self, note: &str) {
        self.note.get_or_insert_with(|| note.to_owned());
    }

    /// There may be more than were found.
    pub(super) fn at_least(&mut self) {
        self.lower_bound = true;
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// What it found in all.
    pub(super) fn outcome(self, duration_ms: u64) -> CheckOutcome {
        let state = match (&self.skipped, self.unjudged, self.count) {
            (Some(_), ..) => State::Skipped,
            (None, 1.., _) => State::Error,
            (None, 0, 1..) => State::Fail,
            (None, 0, 0) => State::Pass,
        };
        let error = self.first_error.map(|first| match self.unjudged {
            1 => first,
            more => format!("{first} (and {} more)", more - 1),
        });
        CheckOutcome {
            name: self.check.name,
            severity: self.check.severity,
            state,
            count: self.count,
            lower_bound: self.lower_bound,
            duration_ms,
            sample: self.sample,
            note: self.skipped.or(self.note),
            error,
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckOutcome {
    /// Its name.
    pub name: &'static str,
    /// How bad a violation is.
    pub severity: super::Severity,
    /// How it ended.
    pub state: State,
    /// Violations.
    pub count: u64,
    /// Whether there may be more.
    pub lower_bound: bool,
    /// How long its tables took to read, which it shares with the other checks of these tables; in ms.
    pub duration_ms: u64,
    /// The first violations: ids and codes, no text of a memory.
    pub sample: Vec<Value>,
    /// Why it was skipped, or how far it looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

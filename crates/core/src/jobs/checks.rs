//! Checks of a report: what was measured, what it should be, and what the report as a whole says.
//!
//! A check has three states. What was measured on too little says neither that all is well nor that it is not: it is
//! inconclusive, and no strict verdict takes it for a pass.

use serde::Serialize;

use crate::model::text_enum;

text_enum!(
    /// How much a check that fails matters.
    Severity {
        /// It is told; only a verdict that is strict about warnings fails by it.
        Warning = "warning",
        /// The verdict fails by it.
        Error = "error",
    }
);

text_enum!(
    /// What a check says.
    CheckState {
        /// It holds.
        Pass = "pass",
        /// It does not hold.
        Fail = "fail",
        /// There is too little to tell.
        Inconclusive = "inconclusive",
    }
);

/// What a measured value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// `>=` or `<=`.
    pub op: &'static str,
    /// The bound.
    pub value: f64,
}

/// A value and how much it was measured on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    value: f64,
    sample: u64,
    needed: u64,
}

impl Measured {
    /// A part of a whole; at least one is needed of the whole, whatever `needed` says.
    pub fn ratio(part: u64, whole: u64, needed: u64) -> Self {
        Self { value: ratio(part, whole).unwrap_or(0.0), sample: whole, needed: needed.max(1) }
    }

    /// A number that says something as soon as there are `needed` things it was taken of.
    pub fn number(value: f64, sample: u64, needed: u64) -> Self {
        Self { value, sample, needed: needed.max(1) }
    }
}

/// A part of a whole; nothing of nothing.
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Rounded to four decimals, as reports show numbers.
pub fn round4(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// Room for what binary fractions cannot say, where a value meets its bound.
const TOLERANCE: f64 = 1e-9;

/// Whether a value reaches a bound.
pub(super) fn reaches(value: f64, bound: f64) -> bool {
    value >= bound - TOLERANCE
}

/// Whether a value stays within a bound.
pub(super) fn within(value: f64, bound: f64) -> bool {
    value <= bound + TOLERANCE
}

/// One check of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it says.
    pub state: CheckState,
    /// Whether it holds; neither a failure nor too little to tell.
    pub pass: bool,
    /// What was measured, to four decimals; nothing where there was nothing to measure.
    pub value: Option<f64>,
    /// What it should be.
    pub threshold: Threshold,
    /// How many things it was measured on.
    pub sample: u64,
    /// Why it is inconclusive, or what else to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Check {
    /// A value that must not be below a bound.
    pub fn at_least(name: &'static str, severity: Severity, measured: Measured, min: f64) -> Self {
        Self::new(name, severity, measured, (">=", min), reaches(measured.value, min))
    }

    /// A value that must not be above a bound.
    pub fn at_most(name: &'static str, severity: Severity, measured: Measured, max: f64) -> Self {
        Self::new(name, severity, measured, ("<=", max), within(measured.value, max))
    }

    fn new(
        name: &'static str,
        severity: Severity,
        measured: Measured,
        (op, bound): (&'static str, f64),
        holds: bool,
    ) -> Self {
        let Measured { value, sample, needed } = measured;
        let (state, note) = if sample < needed {
            (CheckState::Inconclusive, Some(format!("measured on {sample}, needs {needed}")))
        } else if holds {
            (CheckState::Pass, None)
        } else {
            (CheckState::Fail, None)
        };
        let threshold = Threshold { op, value: bound };
        let value = (sample > 0).then(|| round4(value));
        Self { name, severity, state, pass: state == CheckState::Pass, value, threshold, sample, note }
    }

    /// A pass becomes inconclusive when something was left out that could have changed it; a failure stays one.
    #[must_use]
    pub fn unless_left_out(mut self, left_out: u64, what: &str) -> Self {
        if left_out > 0 && self.pass {
            (self.state, self.pass) = (CheckState::Inconclusive, false);
            self.note = Some(format!("{left_out} {what} were not looked at; raise the limit"));
        }
        self
    }
}

/// How a verdict is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Strictness {
    /// An error check that is inconclusive fails the verdict too.
    pub strict: bool,
    /// Warnings count as errors do; implies `strict`.
    pub strict_warnings: bool,
}

impl Strictness {
    /// The verdict: no error check fails; strict, every error check passes; strict about warnings, every check passes.
    pub fn holds(self, checks: &[Check]) -> bool {
        let strict = self.strict || self.strict_warnings;
        checks.iter().all(|check| {
            let counts = check.severity == Severity::Error || self.strict_warnings;
            !counts || check.pass || (check.state == CheckState::Inconclusive && !strict)
        })
    }
}

/// What the checks say together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckSummary {
    /// Whether every check passes.
    pub pass: bool,
    /// Error checks that fail.
    pub failed_errors: Vec<&'static str>,
    /// Warning checks that fail.
    pub failed_warnings: Vec<&'static str>,
    /// Checks there is too little for.
    pub inconclusive: Vec<&'static str>,
}

impl CheckSummary {
    /// Of checks.
    pub fn of(checks: &[Check]) -> Self {
        let named = |wanted: &dyn Fn(&Check) -> bool| -> Vec<&'static str> {
            checks.iter().filter(|check| wanted(check)).map(|check| check.name).collect()
        };
        let failed = |severity| named(&|check| check.state == CheckState::Fail && check.severity == severity);
        Self {
            pass: checks.iter().all(|check| check.pass),
            failed_errors: failed(Severity::Error),
            failed_warnings: failed(Severity::Warning),
            inconclusive: named(&|check| check.state == CheckState::Inconclusive),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(severity: Severity, state: CheckState) -> Check {
        let measured = match state {
            CheckState::Pass => Measured::ratio(9, 10, 5),
            CheckState::Fail => Measured::ratio(1, 10, 5),
            CheckState::Inconclusive => Measured::ratio(4, 4, 5),
        };
        let check = Check::at_least("c", severity, measured, 0.5);
        assert_eq!(check.state, state);
        check
    }

    #[test]
    fn a_verdict_by_severity_state_and_strictness() {
        use CheckState::{Fail, Inconclusive, Pass};
        let (lax, strict) = (Strictness::default(), Strictness { strict: true, strict_warnings: false });
        let all = Strictness { strict: false, strict_warnings: true };
        for (severity, state, expected) in [
            (Severity::Error, Pass, [true, true, true]),
            (Severity::Error, Fail, [false, false, false]),
            (Severity::Error, Inconclusive, [true, false, false]),
            (Severity::Warning, Pass, [true, true, true]),
            (Severity::Warning, Fail, [true, true, false]),
            (Severity::Warning, Inconclusive, [true, true, false]),
        ] {
            let checks = [check(severity, state)];
            assert_eq!([lax, strict, all].map(|how| how.holds(&checks)), expected, "{severity} {state}");
        }
        let error = [check(Severity::Error, Fail), check(Severity::Warning, Pass)];
        assert!(!all.holds(&error), "strict about warnings is strict about errors");
    }

    #[test]
    fn nothing_measured_has_no_value_and_what_was_left_out_is_no_pass() {
        let empty = Check::at_most("c", Severity::Error, Measured::ratio(0, 0, 0), 0.5);
        assert_eq!((empty.state, empty.value, empty.pass), (CheckState::Inconclusive, None, false));
        let pass = check(Severity::Error, CheckState::Pass);
        assert!(pass.clone().unless_left_out(0, "rules").pass);
        assert_eq!(pass.unless_left_out(3, "rules").state, CheckState::Inconclusive);
        let fail = check(Severity::Error, CheckState::Fail).unless_left_out(3, "rules");
        assert_eq!(fail.state, CheckState::Fail);
    }

    proptest! {
        #[test]
        fn stricter_never_turns_a_failed_verdict_into_a_good_one(
            seed in prop::collection::vec((any::<bool>(), 0..3_u8), 0..6)
        ) {
            let checks: Vec<Check> = seed
                .into_iter()
                .map(|(error, state)| check(
                    if error { Severity::Error } else { Severity::Warning },
                    CheckState::ALL[usize::from(state)],
                ))
                .collect();
            let verdicts = [(false, false), (true, false), (false, true)]
                .map(|(strict, strict_warnings)| Strictness { strict, strict_warnings }.holds(&checks));
            prop_assert!(verdicts[0] || !verdicts[1]);
            prop_assert!(verdicts[1] || !verdicts[2]);
            prop_assert_eq!(verdicts[2], CheckSummary::of(&checks).pass);
        }
    }
}

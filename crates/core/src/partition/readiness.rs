//! Whether a cutover may be made, from what was observed.

use serde::Serialize;
use serde_json::Value;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// There was nothing to judge it by; no pass.
    Inconclusive,
    /// It could not be made because one before it failed; no pass.
    Skipped,
    /// There is nothing in this state that it is about; neither a pass nor a failure.
    NotApplicable,
}

/// A check and what was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// How it ended.
    pub state: CheckState,
    /// What was seen, for machines.
    pub observed: Value,
    /// What it has to be.
    pub expected: String,
    /// Why it does not hold, in one line; empty where it does.
    pub reason: String,
}

/// A check that was judged. `reason` is told where it does not hold.
pub fn judged(
    name: &'static str,
    holds: bool,
    observed: impl Into<Value>,
    expected: impl Into<String>,
    reason: impl Into<String>,
) -> Check {
    let state = if holds { CheckState::Pass } else { CheckState::Fail };
    let reason = if holds { String::new() } else { reason.into() };
    Check { name, state, observed: observed.into(), expected: expected.into(), reason }
}

/// A check without anything to judge it by.
pub fn inconclusive(name: &'static str, expected: impl Into<String>, reason: impl Into<String>) -> Check {
    Check {
        name,
        state: CheckState::Inconclusive,
        observed: Value::Null,
        expected: expected.into(),
        reason: reason.into(),
    }
}

/// A check that is about nothing there is in this state, and why.
pub fn not_applicable(name: &'static str, reason: impl Into<String>) -> Check {
    let (observed, expected) = (Value::Null, String::new());
    Check { name, state: CheckState::NotApplicable, observed, expected, reason: reason.into() }
}

/// The verdict over all checks.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether every check that applies passed, and one did.
    pub ok: bool,
    /// The checks, in the order they were made.
    pub checks: Vec<Check>,
    /// `name: reason` of each check that did not pass.
    pub fail_reasons: Vec<String>,
}

impl Readiness {
    /// The names of all checks, in the order they are made.
    pub const NAMES: [&str; 15] = [
        "db_reachable",
        "migrations_applied",
        "twins_exist",
        "twins_match",
        "indexes_valid",
        "rls_and_grants",
        "lock_table_size",
        "not_replicated",
        "mirror_active",
        "mirror_uninterrupted",
        "mirror_probe",
        "backfill_complete",
        "verify",
        "gap",
        "shadow_read",
    ];

    /// Judges what was checked; a check that was not made counts as skipped.
    pub fn of(mut checks: Vec<Check>) -> Self {
        for name in Self::NAMES {
            if !checks.iter().any(|check| check.name == name) {
                let reason = "not made: a check before it failed".to_owned();
                let (state, observed, expected) = (CheckState::Skipped, Value::Null, String::new());
                checks.push(Check { name, state, observed, expected, reason });
            }
        }
        let reason = |check: &Check| format!("{}: {}", check.name, check.reason);
        let stands_against = |check: &&Check| !matches!(check.state, CheckState::Pass | CheckState::NotApplicable);
        let fail_reasons: Vec<String> = checks.iter().filter(stands_against).map(reason).collect();
        let is_any_passed = checks.iter().any(|check| check.state == CheckState::Pass);
        Self { ok: fail_reasons.is_empty() && is_any_passed, checks, fail_reasons }
    }

    /// Whether nothing failed, though there may have been nothing to judge some checks by.
    pub fn is_nothing_failed(&self) -> bool {
        let is_failed = |check: &Check| matches!(check.state, CheckState::Fail | CheckState::Skipped);
        !self.checks.iter().any(is_failed) && self.checks.iter().any(|check| check.state == CheckState::Pass)
    }

    /// The names of the checks that ended in a state.
    pub fn named(&self, state: CheckState) -> Vec<&'static str> {
        self.checks.iter().filter(|check| check.state == state).map(|check| check.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_pass() -> Vec<Check> {
        Readiness::NAMES.into_iter().map(|name| judged(name, true, true, "true", "never told")).collect()
    }

    #[test]
    fn everything_has_to_pass() {
        assert!(Readiness::of(all_pass()).ok);
        for at in 0..Readiness::NAMES.len() {
            for spoil in [CheckState::Fail, CheckState::Inconclusive, CheckState::Skipped] {
                let mut checks = all_pass();
                checks[at].state = spoil;
                checks[at].reason = "spoilt".to_owned();
                let readiness = Readiness::of(checks);
                assert_eq!(readiness.fail_reasons, [format!("{}: spoilt", Readiness::NAMES[at])]);
                assert!(!readiness.ok);
            }
            let mut checks = all_pass();
            checks.remove(at);
            assert!(!Readiness::of(checks).ok, "a check that was not made is no pass");
        }
        assert_eq!(Readiness::of(Vec::new()).fail_reasons.len(), Readiness::NAMES.len());
    }

    #[test]
    fn nothing_to_judge_by_is_no_pass() {
        let mut checks = all_pass();
        checks.pop();
        checks.push(inconclusive("shadow_read", "overlap >= 0.95", "no vectors"));
        let readiness = Readiness::of(checks);
        assert_eq!(readiness.fail_reasons, ["shadow_read: no vectors"]);
        assert!(!readiness.ok && readiness.is_nothing_failed());
        assert!(!Readiness::of(Vec::new()).is_nothing_failed());
    }

    #[test]
    fn what_does_not_apply_is_neither_a_pass_nor_a_failure() {
        let mut checks = all_pass();
        let probe = checks.iter().position(|check| check.name == "mirror_probe").unwrap();
        checks[probe] = not_applicable("mirror_probe", "nothing is mirrored");
        let readiness = Readiness::of(checks);
        assert!(readiness.ok && readiness.is_nothing_failed() && readiness.fail_reasons.is_empty());
        assert_eq!(readiness.named(CheckState::NotApplicable), ["mirror_probe"]);
        assert_eq!(readiness.named(CheckState::Pass).len(), Readiness::NAMES.len() - 1);
        let nothing = Readiness::of(Readiness::NAMES.map(|name| not_applicable(name, "nothing")).into());
        assert!(!nothing.ok && !nothing.is_nothing_failed(), "where nothing applies nothing was looked at");
        assert_eq!(serde_json::to_value(CheckState::NotApplicable).unwrap(), "not_applicable");
    }
}

//! Gates: whether what was measured holds. Everything here is pure: figures in, a verdict and its reasons out.
//!
//! What was not measured, or on too little, is inconclusive. It is no pass anywhere, and where a release is decided it
//! fails the gate.

pub mod health;
pub mod release;
pub mod scale;
#[cfg(test)]
mod scale_tests;
pub mod slo;

use serde::Serialize;

use crate::model::text_enum;

text_enum!(
    /// What a gate says.
    GateVerdict {
        /// Everything that was asked holds.
        Pass = "pass",
        /// Something does not hold.
        Fail = "fail",
        /// Nothing that was measured fails, and something could not be measured.
        Inconclusive = "inconclusive",
    }
);

/// How strictly a gate judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GateMode {
    /// Warnings fail the gate too, and so does what is inconclusive.
    pub strict_warnings: bool,
    /// A release is decided: what is inconclusive fails the gate.
    pub release: bool,
}

impl GateMode {
    /// Whether what is inconclusive fails the gate.
    pub const fn fails_inconclusive(self) -> bool {
        self.strict_warnings || self.release
    }
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Whether the gate lets through. False exactly when there are `fail_reasons`.
    pub ok: bool,
    /// What it says.
    pub verdict: GateVerdict,
    /// Why it does not let through, by name. What is inconclusive stands here as `<name>_inconclusive` where it counts.
    pub fail_reasons: Vec<String>,
    /// What could not be measured, or on too little, by name.
    pub inconclusive: Vec<String>,
}

impl Judgement {
    /// Of what failed and what is inconclusive, each named once.
    pub fn of(failed: Vec<String>, inconclusive: Vec<String>, mode: GateMode) -> Self {
        let (failed, inconclusive) = (named_once(failed), named_once(inconclusive));
        let verdict = match (failed.is_empty(), inconclusive.is_empty()) {
            (false, _) => GateVerdict::Fail,
            (true, false) => GateVerdict::Inconclusive,
            (true, true) => GateVerdict::Pass,
        };
        let mut fail_reasons = failed;
        if mode.fails_inconclusive() {
            fail_reasons.extend(inconclusive.iter().map(|name| format!("{name}_inconclusive")));
        }
        Self { ok: fail_reasons.is_empty(), verdict, fail_reasons, inconclusive }
    }

    /// A judgement of nothing: there was nothing to look at. It lets nobody through, however strict the gate is.
    pub fn of_nothing(what: &str) -> Self {
        Self {
            ok: false,
            verdict: GateVerdict::Inconclusive,
            fail_reasons: vec![format!("{what}_inconclusive")],
            inconclusive: vec![what.to_owned()],
        }
    }
}

fn named_once(names: Vec<String>) -> Vec<String> {
    let mut once: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_is_inconclusive_is_no_pass_and_fails_where_it_counts() {
        let lax = GateMode::default();
        let strict = GateMode { strict_warnings: true, release: false };
        let release = GateMode { strict_warnings: false, release: true };
        for (failed, open, mode, ok, verdict, reasons) in [
            (&[][..], &[][..], release, true, GateVerdict::Pass, &[][..]),
            (&[], &["q"], lax, true, GateVerdict::Inconclusive, &[]),
            (&[], &["q"], strict, false, GateVerdict::Inconclusive, &["q_inconclusive"]),
            (&[], &["q"], release, false, GateVerdict::Inconclusive, &["q_inconclusive"]),
            (&["f"], &["q"], lax, false, GateVerdict::Fail, &["f"]),
            (&["f", "f"], &["q", "q"], release, false, GateVerdict::Fail, &["f", "q_inconclusive"]),
        ] {
            let judged = Judgement::of(names(failed), names(open), mode);
            assert_eq!((judged.ok, judged.verdict), (ok, verdict), "{failed:?} {open:?} {mode:?}");
            assert_eq!(judged.fail_reasons, names(reasons));
        }
    }

    #[test]
    fn nothing_lets_nobody_through() {
        let judged = Judgement::of_nothing("database");
        assert!(!judged.ok && judged.verdict == GateVerdict::Inconclusive);
        assert_eq!(judged.fail_reasons, ["database_inconclusive"]);
    }
}

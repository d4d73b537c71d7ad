//! The gates of one scope: its consistency, its quality, and, where asked for, its execution loop and its policy.

use serde::Serialize;

use super::{GateMode, Judgement};
use crate::jobs::checks::CheckSummary;

/// What a consistency check found; checks, not rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsistencyCounts {
    /// Checks of severity error that fail.
    pub errors: u64,
    /// Checks of severity warning that fail.
    pub warnings: u64,
    /// Checks that were not made.
    pub skipped: u64,
    /// Checks that could not be judged because of a row or a table.
    pub errored: u64,
    /// Checks that were made and pass.
    pub passed: u64,
}

/// What the checks of a report say together, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReportOutcome {
    /// Error checks that fail.
    pub failed_errors: Vec<String>,
    /// Warning checks that fail.
    pub failed_warnings: Vec<String>,
    /// Checks there is too little for.
    pub inconclusive: Vec<String>,
}

impl From<&CheckSummary> for ReportOutcome {
    fn from(summary: &CheckSummary) -> Self {
        let owned = |names: &[&'static str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            failed_errors: owned(&summary.failed_errors),
            failed_warnings: owned(&summary.failed_warnings),
            inconclusive: owned(&summary.inconclusive),
        }
    }
}

/// A part of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<T> {
    /// It was made.
    Judged(T),
    /// It could not be made, and why.
    Broken(String),
}

/// What a gate of a scope looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthInputs {
    /// Whether what is stored fits together.
    pub consistency: Option<Part<ConsistencyCounts>>,
    /// Quality of the scope.
    pub quality: Option<Part<ReportOutcome>>,
    /// Whether rules and recalls get feedback.
    pub execution_loop: Option<Part<ReportOutcome>>,
    /// How bad it is with rules in force.
    pub policy_adaptation: Option<Part<ReportOutcome>>,
}

/// Judges a scope.
pub fn judge(inputs: &HealthInputs, mode: GateMode) -> Judgement {
    let (mut failed, mut open) = (Vec::new(), Vec::new());
    if let Some(part) = &inputs.consistency {
        consistency(part, mode, &mut failed, &mut open);
    }
    for (part, name, reason) in [
        (&inputs.quality, "quality_eval", "quality_eval_failed"),
        (&inputs.execution_loop, "execution_loop_gate", "execution_loop_gate_failed"),
        (&inputs.policy_adaptation, "policy_adaptation_gate", "policy_adaptation_gate_failed"),
    ] {
        let Some(part) = part else { continue };
        match part {
            Part::Broken(_) => failed.push(reason.to_owned()),
            Part::Judged(outcome) => {
                if !outcome.failed_errors.is_empty() || mode.strict_warnings && !outcome.failed_warnings.is_empty() {
                    failed.push(reason.to_owned());
                }
                if !outcome.inconclusive.is_empty() {
                    open.push(name.to_owned());
                }
            }
        }
    }
    Judgement::of(failed, open, mode)
}

fn consistency(part: &Part<ConsistencyCounts>, mode: GateMode, failed: &mut Vec<String>, open: &mut Vec<String>) {
    let counts = match part {
        Part::Judged(counts) => counts,
        Part::Broken(_) => return failed.push("consistency_failed".to_owned()),
    };
    if counts.errors > 0 {
        failed.push("consistency_errors".to_owned());
    }
    // A row that breaks a check is as bad as one that fails it, whatever the severity of the check.
    if counts.errored > 0 {
        failed.push("consistency_errored".to_owned());
    }
    if mode.strict_warnings && counts.warnings > 0 {
        failed.push("consistency_warnings".to_owned());
    }
    if counts.skipped > 0 || counts.passed + counts.errors + counts.warnings + counts.errored == 0 {
        open.push("consistency".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::GateVerdict;

    const LAX: GateMode = GateMode { strict_warnings: false, release: false };
    const STRICT: GateMode = GateMode { strict_warnings: true, release: false };
    const RELEASE: GateMode = GateMode { strict_warnings: false, release: true };

    fn of(counts: ConsistencyCounts) -> HealthInputs {
        HealthInputs { consistency: Some(Part::Judged(counts)), ..HealthInputs::default() }
    }

    fn sound() -> ConsistencyCounts {
        ConsistencyCounts { passed: 30, ..ConsistencyCounts::default() }
    }

    #[test]
    fn consistency_by_count_and_mode() {
        let reasons = |counts, mode| judge(&of(counts), mode).fail_reasons;
        for (counts, lax, strict, release) in [
            (sound(), &[][..], &[][..], &[][..]),
            (
                ConsistencyCounts { errors: 1, ..sound() },
                &["consistency_errors"],
                &["consistency_errors"],
                &["consistency_errors"],
            ),
            (ConsistencyCounts { warnings: 1, ..sound() }, &[], &["consistency_warnings"], &[]),
            (
                ConsistencyCounts { errored: 1, ..sound() },
                &["consistency_errored"],
                &["consistency_errored"],
                &["consistency_errored"],
            ),
            (
                ConsistencyCounts { skipped: 1, ..sound() },
                &[],
                &["consistency_inconclusive"],
                &["consistency_inconclusive"],
            ),
            (ConsistencyCounts::default(), &[], &["consistency_inconclusive"], &["consistency_inconclusive"]),
        ] {
            assert_eq!(reasons(counts, LAX), lax, "{counts:?}");
            assert_eq!(reasons(counts, STRICT), strict, "{counts:?}");
            assert_eq!(reasons(counts, RELEASE), release, "{counts:?}");
        }
    }

    #[test]
    fn every_report_has_a_reason_of_its_own() {
        let failed = ReportOutcome { failed_errors: vec!["x".to_owned()], ..ReportOutcome::default() };
        let warned = ReportOutcome { failed_warnings: vec!["x".to_owned()], ..ReportOutcome::default() };
        let open = ReportOutcome { inconclusive: vec!["x".to_owned()], ..ReportOutcome::default() };
        type Put = fn(Part<ReportOutcome>) -> HealthInputs;
        let quality: Put = |part| HealthInputs { quality: Some(part), ..HealthInputs::default() };
        let looped: Put = |part| HealthInputs { execution_loop: Some(part), ..HealthInputs::default() };
        let policy: Put = |part| HealthInputs { policy_adaptation: Some(part), ..HealthInputs::default() };
        for (put, reason, inconclusive) in [
            (quality, "quality_eval_failed", "quality_eval_inconclusive"),
            (looped, "execution_loop_gate_failed", "execution_loop_gate_inconclusive"),
            (policy, "policy_adaptation_gate_failed", "policy_adaptation_gate_inconclusive"),
        ] {
            let of = |outcome: &ReportOutcome, mode| judge(&put(Part::Judged(outcome.clone())), mode);
            assert!(judge(&put(Part::Judged(ReportOutcome::default())), STRICT).ok);
            assert_eq!(of(&failed, LAX).fail_reasons, [reason]);
            assert!(of(&warned, LAX).ok && of(&warned, RELEASE).ok);
            assert_eq!(of(&warned, STRICT).fail_reasons, [reason]);
            assert!(of(&open, LAX).ok && of(&open, LAX).verdict == GateVerdict::Inconclusive);
            assert_eq!(of(&open, RELEASE).fail_reasons, [inconclusive]);
            assert_eq!(judge(&put(Part::Broken("no".to_owned())), LAX).fail_reasons, [reason]);
        }
    }

    #[test]
    fn a_consistency_check_that_could_not_be_made_fails() {
        let inputs = HealthInputs { consistency: Some(Part::Broken("no".to_owned())), ..HealthInputs::default() };
        assert_eq!(judge(&inputs, LAX).fail_reasons, ["consistency_failed"]);
    }
}

//! The release gate: steps that have to be made and to hold, and what they say together.

use serde::Serialize;

use super::{GateMode, GateVerdict, Judgement};
use crate::model::text_enum;

text_enum!(
    /// How a step of the gate ended.
    StepState {
        /// It was made and holds.
        Passed = "passed",
        /// It was made and does not hold, or could not be made.
        Failed = "failed",
        /// It was made on too little to tell.
        Inconclusive = "inconclusive",
        /// It was not made, because a step before it failed.
        NotRun = "not_run",
    }
);

/// A step of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateStep {
    /// Its name; the reason of the gate when it fails.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// How it ended.
    pub state: StepState,
    /// What it would exit with alone: 0 holds, 2 does not hold, 1 could not be made. Nothing where it was not run.
    pub exit_code: Option<u8>,
    /// Evidence, in the directory of the run.
    pub log_file: Option<String>,
    /// How long it took, in ms.
    pub duration_ms: u64,
    /// Why it does not hold, by name.
    pub reasons: Vec<String>,
    /// What was measured on too little, by name.
    pub inconclusive: Vec<String>,
    /// What kept it from being made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl GateStep {
    /// A step that was not made.
    pub const fn not_run(name: &'static str) -> Self {
        Self {
            name,
            ok: false,
            state: StepState::NotRun,
            exit_code: None,
            log_file: None,
            duration_ms: 0,
            reasons: Vec::new(),
            inconclusive: Vec::new(),
            error: None,
        }
    }

    /// A step that was made, and what it found. What is inconclusive keeps it from holding.
    pub fn made(name: &'static str, reasons: Vec<String>, inconclusive: Vec<String>) -> Self {
        let state = match (reasons.is_empty(), inconclusive.is_empty()) {
            (true, true) => StepState::Passed,
            (true, false) => StepState::Inconclusive,
            (false, _) => StepState::Failed,
        };
        let ok = state == StepState::Passed;
        let exit_code = Some(if ok { 0 } else { 2 });
        Self { ok, state, exit_code, reasons, inconclusive, ..Self::not_run(name) }
    }

    /// A step that could not be made.
    pub fn broken(name: &'static str, error: impl Into<String>) -> Self {
        let error = Some(error.into());
        Self { state: StepState::Failed, exit_code: Some(1), error, ..Self::not_run(name) }
    }
}

/// What the gate decides, for whoever releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether this run allows a release. Only a run with a benchmark does.
    pub may_release: bool,
    /// One sentence that says so and why.
    pub text: String,
}

/// Judges a run: every step in `required` has to be there and to hold, whatever else was made. `further` are reasons that
/// are no step's own, such as bounds of the benchmark; `open` is what else is inconclusive.
pub fn judge(required: &[&'static str], steps: &[GateStep], further: &[String], open: &[String]) -> Judgement {
    let (mut failed, mut inconclusive) = (Vec::new(), Vec::new());
    for name in required {
        match steps.iter().find(|step| step.name == *name).map(|step| step.state) {
            None | Some(StepState::NotRun) => inconclusive.push((*name).to_owned()),
            Some(StepState::Inconclusive) => inconclusive.push((*name).to_owned()),
            Some(StepState::Failed | StepState::Passed) => {}
        }
    }
    for step in steps.iter().filter(|step| step.state == StepState::Failed) {
        failed.push(step.name.to_owned());
    }
    failed.extend_from_slice(further);
    inconclusive.extend_from_slice(open);
    Judgement::of(failed, inconclusive, GateMode { strict_warnings: true, release: true })
}

/// Says what a judgement means for a release.
pub fn decide(judgement: &Judgement, benchmarked: bool, interrupted: bool) -> Decision {
    let text = match judgement.verdict {
        _ if interrupted => "Do not release: the gate was stopped before its end.".to_owned(),
        GateVerdict::Pass if benchmarked => {
            "Release: every required step holds and the latency and error bounds were met.".to_owned()
        }
        GateVerdict::Pass => {
            "Integrity holds. No release is decided by this run: latency and errors were not measured \
                              (--run-perf false)."
                .to_owned()
        }
        GateVerdict::Fail => format!("Do not release: {}.", judgement.fail_reasons.join(", ")),
        GateVerdict::Inconclusive => format!(
            "Do not release: nothing that was measured fails, but there is too little to tell: {}.",
            judgement.inconclusive.join(", ")
        ),
    };
    Decision { may_release: judgement.ok && benchmarked && !interrupted, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    fn passed(name: &'static str) -> GateStep {
        GateStep::made(name, vec![], vec![])
    }

    #[test]
    fn a_step_that_is_missing_is_inconclusive_and_fails() {
        let required = ["a", "b"];
        for (steps, reasons, verdict) in [
            (vec![passed("a"), passed("b")], &[][..], GateVerdict::Pass),
            (vec![passed("a")], &["b_inconclusive"], GateVerdict::Inconclusive),
            (vec![passed("a"), GateStep::not_run("b")], &["b_inconclusive"], GateVerdict::Inconclusive),
            (vec![], &["a_inconclusive", "b_inconclusive"], GateVerdict::Inconclusive),
            (vec![passed("a"), GateStep::broken("b", "no")], &["b"], GateVerdict::Fail),
            (vec![passed("a"), GateStep::made("b", names(&["x"]), vec![])], &["b"], GateVerdict::Fail),
            (
                vec![passed("a"), GateStep::made("b", vec![], names(&["x"]))],
                &["b_inconclusive"],
                GateVerdict::Inconclusive,
            ),
            // A step that nobody required and that fails fails the gate as well.
            (vec![passed("a"), passed("b"), GateStep::broken("c", "no")], &["c"], GateVerdict::Fail),
        ] {
            let judged = judge(&required, &steps, &[], &[]);
            assert_eq!(judged.fail_reasons, names(reasons), "{steps:?}");
            assert_eq!((judged.verdict, judged.ok), (verdict, reasons.is_empty()));
        }
    }

    #[test]
    fn bounds_of_the_benchmark_are_reasons_too() {
        let judged = judge(&["a"], &[passed("a")], &names(&["perf_recall_p95_slo"]), &names(&["perf_write_p95"]));
        assert_eq!(judged.fail_reasons, ["perf_recall_p95_slo", "perf_write_p95_inconclusive"]);
    }

    #[test]
    fn exit_codes_of_steps() {
        assert_eq!(passed("a").exit_code, Some(0));
        assert_eq!(GateStep::made("a", names(&["x"]), vec![]).exit_code, Some(2));
        assert_eq!(GateStep::made("a", vec![], names(&["x"])).exit_code, Some(2));
        assert_eq!(GateStep::broken("a", "x").exit_code, Some(1));
        assert_eq!(GateStep::not_run("a").exit_code, None);
    }

    #[test]
    fn only_a_run_with_a_benchmark_that_came_to_its_end_decides_a_release() {
        let pass = Judgement::of(vec![], vec![], GateMode::default());
        assert!(decide(&pass, true, false).may_release);
        assert!(!decide(&pass, false, false).may_release);
        assert!(!decide(&pass, true, true).may_release);
        let fail = judge(&["a"], &[GateStep::broken("a", "no")], &[], &[]);
        let decision = decide(&fail, true, false);
        assert!(!decision.may_release && decision.text.contains("Do not release: a."), "{decision:?}");
        let open = judge(&["a"], &[], &[], &[]);
        assert!(decide(&open, true, false).text.contains("too little to tell: a"));
    }
}

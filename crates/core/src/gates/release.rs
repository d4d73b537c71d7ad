//! The release gate: steps that have to be made and to hold, and what they say together.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

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

/// In which direction a bound lets more through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looser {
    /// A larger value does.
    Above,
    /// A smaller value does.
    Below,
    /// Another value may, whichever it is.
    Other,
    /// None does: another value makes the gate stricter, or says more or less.
    Never,
}

/// A bound of a run, beside the one that holds unless another is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// As it was asked.
    pub value: Value,
    /// As it is unless another is asked for.
    pub default: Value,
    #[serde(skip)]
    looser: Looser,
}

impl Bound {
    fn differs(&self) -> bool {
        self.value != self.default
    }

    fn is_loosened(&self) -> bool {
        let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|is| f64::from(u8::from(is))));
        let (value, default) = (number(&self.value), number(&self.default));
        match self.looser {
            Looser::Above => value > default,
            Looser::Below => value < default,
            Looser::Other => self.differs(),
            Looser::Never => false,
        }
    }
}

/// What a run was asked with, by group and name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Bounds(BTreeMap<&'static str, BTreeMap<String, Bound>>);

impl Bounds {
    /// Adds one.
    pub fn add(&mut self, group: &'static str, name: &str, of: (Value, Value), looser: Looser) {
        let (value, default) = of;
        self.0.entry(group).or_default().insert(name.to_owned(), Bound { value, default, looser });
    }

    /// Adds every member of an object, those of inner objects as `outer.inner`.
    pub fn add_all(&mut self, group: &'static str, value: &Value, default: &Value, looser: fn(&str) -> Looser) {
        self.add_inner(group, "", (value, default), looser);
    }

    fn add_inner(&mut self, group: &'static str, outer: &str, of: (&Value, &Value), looser: fn(&str) -> Looser) {
        for (name, value) in of.0.as_object().into_iter().flatten() {
            let (name, default) = (format!("{outer}{name}"), &of.1[name]);
            if value.is_object() {
                self.add_inner(group, &format!("{name}."), (value, default), looser);
            } else {
                self.add(group, &name, (value.clone(), default.clone()), looser(&name));
            }
        }
    }

    /// Those that are not as they are unless asked otherwise, as `group.name`.
    pub fn differing(&self) -> Vec<String> {
        self.named(Bound::differs)
    }

    /// Those that let more through than they do unless asked otherwise, as `group.name`.
    pub fn loosened(&self) -> Vec<String> {
        self.named(Bound::is_loosened)
    }

    fn named(&self, is_meant: fn(&Bound) -> bool) -> Vec<String> {
        let all =
            self.0.iter().flat_map(|(group, bounds)| bounds.iter().map(move |(name, bound)| (group, name, bound)));
        all.filter(|(.., bound)| is_meant(bound)).map(|(group, name, _)| format!("{group}.{name}")).collect()
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

/// Says what a judgement means for a release. `loosened` are the bounds by which it lets more through than it does unless
/// asked otherwise.
pub fn decide(judgement: &Judgement, benchmarked: bool, interrupted: bool, loosened: &[String]) -> Decision {
    let text = match judgement.verdict {
        _ if interrupted => "Do not release: the gate was stopped before its end.".to_owned(),
        GateVerdict::Pass if benchmarked && loosened.is_empty() => {
            "Release: every required step holds and the latency and error bounds were met.".to_owned()
        }
        GateVerdict::Pass if benchmarked => format!(
            "Release: every required step holds and the latency and error bounds were met, by bounds that were loosened: {}.",
            loosened.join(", ")
        ),
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
    use serde_json::json;

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
        assert!(decide(&pass, true, false, &[]).may_release);
        assert!(!decide(&pass, false, false, &[]).may_release);
        assert!(!decide(&pass, true, true, &[]).may_release);
        let loosened = decide(&pass, true, false, &names(&["slo.x"]));
        assert!(loosened.may_release && loosened.text.ends_with("loosened: slo.x."), "{loosened:?}");
        let fail = judge(&["a"], &[GateStep::broken("a", "no")], &[], &[]);
        let decision = decide(&fail, true, false, &[]);
        assert!(!decision.may_release && decision.text.contains("Do not release: a."), "{decision:?}");
        let open = judge(&["a"], &[], &[], &[]);
        assert!(decide(&open, true, false, &[]).text.contains("too little to tell: a"));
    }

    #[test]
    fn a_bound_is_loosened_in_its_own_direction_only() {
        for (value, default, looser, differs, loosened) in [
            (json!(1.5), json!(1.0), Looser::Above, true, true),
            (json!(0.5), json!(1.0), Looser::Above, true, false),
            (json!(1.0), json!(1.0), Looser::Above, false, false),
            (json!(19), json!(20), Looser::Below, true, true),
            (json!(21), json!(20), Looser::Below, true, false),
            (json!(false), json!(true), Looser::Below, true, true),
            (json!(true), json!(false), Looser::Below, true, false),
            (json!("x"), json!("y"), Looser::Other, true, true),
            (json!("y"), json!("y"), Looser::Other, false, false),
            (json!(9), json!(0), Looser::Never, true, false),
        ] {
            let bound = Bound { value, default, looser };
            assert_eq!((bound.differs(), bound.is_loosened()), (differs, loosened), "{bound:?}");
        }
    }

    #[test]
    fn bounds_are_named_by_group_and_path() {
        let mut bounds = Bounds::default();
        bounds.add("slo", "error_rate_max", (json!(0.5), json!(0.02)), Looser::Above);
        let (value, default) =
            (json!({ "a": 1, "in": { "b": 2, "c": 9 } }), json!({ "a": 1, "in": { "b": 3, "c": 3 } }));
        bounds.add_all("loop", &value, &default, |name| if name == "in.b" { Looser::Below } else { Looser::Never });
        assert_eq!(bounds.differing(), ["loop.in.b", "loop.in.c", "slo.error_rate_max"]);
        assert_eq!(bounds.loosened(), ["loop.in.b", "slo.error_rate_max"]);
        let shown = serde_json::to_value(&bounds).unwrap();
        assert_eq!(shown["loop"]["in.b"], json!({ "value": 2, "default": 3 }));
    }
}

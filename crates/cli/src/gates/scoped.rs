//! The gates of scopes: reports are made by the jobs of the same name and judged together. The history of jobs notes each
//! as a dry run; apart from that nothing is written.

use std::sync::Arc;

use aionis_core::{
    clock::SystemClock,
    gates::{
        GateMode, Judgement,
        health::{ConsistencyCounts, HealthInputs, Part, ReportOutcome, judge},
    },
    jobs::{
        checks::Strictness,
        consistency::{Asked, CheckSet},
    },
};
use aionis_engine::jobs::{
    ConsistencyCheck, Job, JobReport, NoProgress, QualityEval, RunOptions, Runner, Selection, TargetReport,
    TargetStatus,
};
use aionis_store::Deployment;
use serde_json::{Map, Value, json};

use crate::{
    commands::job::{execution_loop::LoopArgs, policy_adaptation::PolicyArgs, quality_eval::QualityArgs},
    failure::Failure,
};

/// What a gate of scopes looks at.
#[derive(Clone, Debug)]
pub(crate) struct ScopedAsk {
    /// Tenant and scope; nothing for all of them.
    pub(crate) place: Option<(String, String)>,
    /// How strictly.
    pub(crate) mode: GateMode,
    /// The consistency check, if it is part of the gate.
    pub(crate) consistency: Option<Asked>,
    /// Quality, if it is part of the gate.
    pub(crate) quality: Option<QualityArgs>,
    /// The execution loop, if it is part of the gate.
    pub(crate) execution_loop: Option<LoopArgs>,
    /// The policy, if it is part of the gate.
    pub(crate) policy_adaptation: Option<PolicyArgs>,
}

/// What a gate of scopes found.
#[derive(Clone, Debug)]
pub(crate) struct Scoped {
    /// Its members for the summary: the verdict, what was asked, and a member per report.
    pub(crate) document: Map<String, Value>,
    /// The verdict.
    pub(crate) judgement: Judgement,
}

/// Makes the reports and judges them.
pub(crate) async fn look(store: &Arc<dyn Deployment>, ask: &ScopedAsk) -> Result<Scoped, Failure> {
    let (tenant, scope) = ask.place.as_ref().map(|(tenant, scope)| (tenant.as_str(), scope.as_str())).unzip();
    let mut inputs = HealthInputs::default();
    let mut members = Map::new();
    let judgement = if store.scopes(tenant, scope).await?.is_empty() {
        Judgement::of_nothing(if ask.place.is_some() { "scope" } else { "database" })
    } else {
        let reports = Reports { store, selection: selection(ask.place.as_ref()) };
        reports.consistency(ask, &mut inputs, &mut members).await;
        reports.others(ask, &mut inputs, &mut members).await;
        judge(&inputs, ask.mode)
    };
    let mut document = asked(ask, &judgement);
    document.append(&mut members);
    Ok(Scoped { document, judgement })
}

fn selection(place: Option<&(String, String)>) -> Selection {
    let (tenant, scope) = place.cloned().unzip();
    Selection { tenant, scope }
}

fn asked(ask: &ScopedAsk, judgement: &Judgement) -> Map<String, Value> {
    let (tenant, scope) = ask.place.clone().unzip();
    let mut document = Map::new();
    for (name, value) in [
        ("ok", json!(judgement.ok)),
        ("verdict", json!(judgement.verdict)),
        ("tenant_id", json!(tenant)),
        ("scope", json!(scope)),
        ("consistency_check_set", json!(ask.consistency.as_ref().map(|asked| asked.check_set))),
        (
            "gate",
            json!({
                "strict_warnings": ask.mode.strict_warnings,
                "release": ask.mode.release,
                "fail_reasons": judgement.fail_reasons,
                "inconclusive": judgement.inconclusive,
            }),
        ),
    ] {
        document.insert(name.to_owned(), value);
    }
    document
}

/// Makes reports of one selection.
struct Reports<'a> {
    store: &'a Arc<dyn Deployment>,
    selection: Selection,
}

impl Reports<'_> {
    /// A dry run: it leaves the times alone by which workers know what is due.
    async fn run(&self, job: &dyn Job) -> Result<JobReport, String> {
        let runner = Runner::new(Arc::clone(self.store) as _, Arc::new(SystemClock));
        let options = RunOptions { dry_run: true, ..RunOptions::default() };
        runner.run(job, &self.selection, &options, &NoProgress).await.map_err(|e| Failure::from(e).to_string())
    }

    async fn consistency(&self, ask: &ScopedAsk, inputs: &mut HealthInputs, members: &mut Map<String, Value>) {
        let Some(asked) = &ask.consistency else { return };
        let mut reports = Vec::new();
        if asked.check_set != CheckSet::CrossTenant {
            reports.push(self.run(&ConsistencyCheck::of_scopes(asked.clone())).await);
        }
        if asked.check_set != CheckSet::Scope {
            reports.push(self.run(&ConsistencyCheck::of_the_deployment(asked.clone())).await);
        }
        let (part, member) = match reports.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(reports) => consistency(&reports.iter().flat_map(|report| &report.targets).collect::<Vec<_>>()),
            Err(error) => (Part::Broken(error.clone()), json!({ "error": error })),
        };
        inputs.consistency = Some(part);
        members.insert("consistency".to_owned(), member);
    }

    async fn others(&self, ask: &ScopedAsk, inputs: &mut HealthInputs, members: &mut Map<String, Value>) {
        let strictness =
            Strictness { strict: ask.mode.fails_inconclusive(), strict_warnings: ask.mode.strict_warnings };
        if let Some(bounds) = &ask.quality {
            let job = QualityEval { thresholds: bounds.thresholds(), strictness };
            inputs.quality = Some(self.report("quality", &job, members).await);
        }
        if let Some(bounds) = &ask.execution_loop {
            inputs.execution_loop = Some(self.report("execution_loop", &bounds.job(strictness), members).await);
        }
        if let Some(bounds) = &ask.policy_adaptation {
            inputs.policy_adaptation = Some(self.report("policy_adaptation", &bounds.job(strictness), members).await);
        }
    }

    async fn report(&self, name: &str, job: &dyn Job, members: &mut Map<String, Value>) -> Part<ReportOutcome> {
        let (part, member) = match self.run(job).await {
            Ok(report) => outcome(&report.targets),
            Err(error) => (Part::Broken(error.clone()), json!({ "error": error })),
        };
        members.insert(name.to_owned(), member);
        part
    }
}

/// Why a target was not judged, if it was not.
fn broken(target: &TargetReport) -> Option<String> {
    let judged = matches!(target.status, TargetStatus::Done | TargetStatus::Negative);
    let why = || target.error.clone().unwrap_or_else(|| format!("the run ended as {}", target.status.as_str()));
    (!judged).then(|| match (&target.tenant_id, &target.scope) {
        (Some(tenant), Some(scope)) => format!("{tenant}/{scope}: {}", why()),
        _ => why(),
    })
}

/// Counts checks over all targets. Of one scope the checks are shown, of several what each scope's say.
fn consistency(targets: &[&TargetReport]) -> (Part<ConsistencyCounts>, Value) {
    if let Some(error) = targets.iter().find_map(|target| broken(target)) {
        return (Part::Broken(error.clone()), json!({ "error": error }));
    }
    let mut counts = ConsistencyCounts::default();
    let mut checks = Vec::new();
    for target in targets {
        let summary = target.report.get("summary").cloned().unwrap_or(Value::Null);
        let number = |name: &str| summary[name].as_u64().unwrap_or(0);
        counts.errors += number("errors");
        counts.warnings += number("warnings");
        counts.skipped += number("skipped");
        counts.errored += number("errored");
        let made = target.report.get("checks").and_then(Value::as_array).cloned().unwrap_or_default();
        counts.passed += made.iter().filter(|check| check["state"] == "pass").count() as u64;
        checks.extend(made);
    }
    let mut member = json!({
        "errors": counts.errors,
        "warnings": counts.warnings,
        "summary": counts,
    });
    if targets.iter().filter(|target| target.scope.is_some()).count() > 1 {
        member["targets"] = json!(targets);
    } else {
        member["checks"] = Value::Array(checks);
    }
    (Part::Judged(counts), member)
}

/// Joins what the checks of a report say in all targets.
fn outcome(targets: &[TargetReport]) -> (Part<ReportOutcome>, Value) {
    if let Some(error) = targets.iter().find_map(broken) {
        return (Part::Broken(error.clone()), json!({ "error": error }));
    }
    let mut joined = ReportOutcome::default();
    for target in targets {
        let summary = target.report.get("summary").cloned().unwrap_or(Value::Null);
        join(&mut joined.failed_errors, &summary["failed_errors"]);
        join(&mut joined.failed_warnings, &summary["failed_warnings"]);
        join(&mut joined.inconclusive, &summary["inconclusive"]);
    }
    let pass = joined.failed_errors.is_empty() && joined.failed_warnings.is_empty() && joined.inconclusive.is_empty();
    let failed: Vec<&String> = joined.failed_errors.iter().chain(&joined.failed_warnings).collect();
    let mut member = json!({ "pass": pass, "summary": joined, "failed_checks": failed });
    match targets {
        [one] => {
            for (name, value) in one.report.iter().filter(|(name, _)| *name != "summary" && *name != "ok") {
                member[name] = value.clone();
            }
        }
        several => member["targets"] = json!(several),
    }
    (Part::Judged(joined), member)
}

fn join(names: &mut Vec<String>, more: &Value) {
    for name in more.as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
}

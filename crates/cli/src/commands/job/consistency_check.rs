//! `aionis job consistency-check`.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    error::{DomainError, ErrorKind},
    jobs::consistency::{Asked, BatchPart, CATALOGUE, CheckSet, Mode, Thresholds},
};
use aionis_engine::jobs::{ConsistencyCheck, JobReport, TargetReport, TargetStatus};
use aionis_store::Deployment;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{HowArgs, SelectionArgs, place, run_on, verdict};
use crate::{
    failure::{Failure, Verdict},
    output, wiring,
};

/// Flags of `aionis job consistency-check`.
#[derive(Debug, Args)]
pub(crate) struct ConsistencyCheckArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Which checks: scope, cross-tenant or all.
    #[arg(long, default_value = "all", value_parser = check_set)]
    check_set: CheckSet,
    /// How thoroughly: full reads every row once, fast only what indexes find.
    #[arg(long, default_value = "full", value_parser = mode)]
    mode: Mode,
    /// Checks per batch; 0 makes all of them.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=500))]
    batch_size: u16,
    /// Which batch, from 0.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=50_000))]
    batch_index: u16,
    /// Most samples per check.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    sample: u16,
    /// Exit 2 also when a check of severity error was not made.
    #[arg(long)]
    strict: bool,
    /// Exit 2 when any check does not pass.
    #[arg(long)]
    strict_warnings: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// From which values on something is a violation.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of consistency checks")]
pub(crate) struct LimitArgs {
    /// Highest salience of an archived node.
    #[arg(long, env = "MEMORY_TIER_COLD_BELOW", default_value_t = 0.12, value_parser = fraction)]
    cold_below: f64,
    /// Most hot nodes of a scope; 0 for no limit.
    #[arg(long, env = "MEMORY_SCOPE_HOT_NODE_BUDGET", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    hot_budget: u64,
    /// Most hot and warm nodes of a scope; 0 for no limit.
    #[arg(long, env = "MEMORY_SCOPE_ACTIVE_NODE_BUDGET", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    active_budget: u64,
    /// Claims of an item of work before it is given up.
    #[arg(long, env = "OUTBOX_MAX_ATTEMPTS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    attempts_max: u32,
    /// How long after its claim ran out work is reported, in ms.
    #[arg(long, env = "OUTBOX_CLAIM_TIMEOUT_MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    claim_timeout_ms: u64,
    /// How long a node may wait for its vector, in seconds.
    #[arg(long, default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    stuck_after_s: u64,
    /// Most rows of a scope that are held in memory for checks over several rows.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    rows_max: u64,
}

pub(crate) fn check_set(text: &str) -> Result<CheckSet, String> {
    CheckSet::parse(&text.replace('-', "_")).ok_or_else(|| "must be scope, cross-tenant or all".to_owned())
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).ok_or_else(|| format!("must be {}", Mode::choices()))
}

fn fraction(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("must be a number from 0 to 1".to_owned()) }
}

impl LimitArgs {
    pub(crate) fn thresholds(&self) -> Thresholds {
        Thresholds {
            cold_below: self.cold_below,
            hot_budget: self.hot_budget,
            active_budget: self.active_budget,
            attempts_max: self.attempts_max,
            claim_timeout: Duration::from_millis(self.claim_timeout_ms),
            stuck_after: Duration::from_secs(self.stuck_after_s),
            rows_max: usize::try_from(self.rows_max).unwrap_or(usize::MAX),
        }
    }
}

impl ConsistencyCheckArgs {
    fn asked(&self) -> Result<Asked, Failure> {
        let (size, index) = (usize::from(self.batch_size), usize::from(self.batch_index));
        if size == 0 && index > 0 {
            return Err(invalid("--batch-index needs --batch-size above 0"));
        }
        Ok(Asked {
            check_set: self.check_set,
            mode: self.mode,
            batch: (size > 0).then_some(BatchPart { size, index }),
            sample: usize::from(self.sample),
            strict: self.strict || self.strict_warnings,
            strict_warnings: self.strict_warnings,
            thresholds: self.limits.thresholds(),
        })
    }
}

fn invalid(message: &str) -> Failure {
    DomainError::new(ErrorKind::Invalid, "invalid_request", message).into()
}

pub(crate) async fn run(args: ConsistencyCheckArgs) -> Result<Verdict, Failure> {
    let asked = args.asked()?;
    let store = wiring::open_existing(&args.how.storage).await?;
    let done = checked(&store, &asked, &args).await;
    store.close().await;
    let reports = done?;
    if args.how.json {
        output::json(&document(&reports, &asked, args.selection.all)?)?;
    } else {
        reports.iter().flat_map(|report| &report.targets).for_each(print);
    }
    let mut all_hold = true;
    for report in &reports {
        all_hold &= verdict(report)? == Verdict::Positive;
    }
    Ok(Verdict::from(all_hold))
}

/// Runs the checks of scopes, then those of the deployment, as far as some of them are asked for.
async fn checked(
    store: &Arc<dyn Deployment>,
    asked: &Asked,
    args: &ConsistencyCheckArgs,
) -> Result<Vec<JobReport>, Failure> {
    let (checks, _) = asked.checks(store.storage_engine())?;
    let selection = args.selection.selection();
    let mut reports = Vec::new();
    let jobs = [
        (CheckSet::Scope, ConsistencyCheck::of_scopes(asked.clone())),
        (CheckSet::CrossTenant, ConsistencyCheck::of_the_deployment(asked.clone())),
    ];
    for (set, job) in &jobs {
        if checks.iter().any(|check| check.set == *set) {
            reports.push(run_on(store, job, &selection, &args.how).await?);
        }
    }
    Ok(reports)
}

/// What is printed: one scope with its checks, or every target with its own.
fn document(reports: &[JobReport], asked: &Asked, all: bool) -> Result<Value, Failure> {
    let targets: Vec<&TargetReport> = reports.iter().flat_map(|report| &report.targets).collect();
    let ok = reports.iter().all(|report| report.ok);
    let of_scopes = targets.iter().filter(|target| target.scope.is_some()).count();
    let mut document = Map::new();
    document.insert("ok".to_owned(), json!(ok));
    if all || of_scopes > 1 {
        insert_asked(&mut document, asked, &targets);
        let targets: Result<Vec<Value>, _> = targets.iter().map(serde_json::to_value).collect();
        document.insert("targets".to_owned(), Value::Array(targets?));
        return Ok(Value::Object(document));
    }
    let scoped = targets.iter().find(|target| target.scope.is_some());
    document.insert("tenant_id".to_owned(), json!(scoped.and_then(|target| target.tenant_id.as_ref())));
    document.insert("scope".to_owned(), json!(scoped.and_then(|target| target.scope.as_ref())));
    insert_asked(&mut document, asked, &targets);
    let mut checks: Vec<Value> = targets.iter().flat_map(|target| checks_of(target)).cloned().collect();
    checks.sort_by_key(|check| CATALOGUE.iter().position(|known| check["name"] == known.name));
    document.insert("checks".to_owned(), Value::Array(checks));
    let errors: Vec<&str> = targets.iter().filter_map(|target| target.error.as_deref()).collect();
    if !errors.is_empty() {
        document.insert("error".to_owned(), json!(errors.join("; ")));
    }
    Ok(Value::Object(document))
}

fn checks_of(target: &TargetReport) -> &[Value] {
    target.report.get("checks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What was asked for, and counts over all targets.
fn insert_asked(document: &mut Map<String, Value>, asked: &Asked, targets: &[&TargetReport]) {
    let batch = targets.iter().find_map(|target| target.report.get("batch")).cloned().unwrap_or(Value::Null);
    let sum = |name: &str| -> u64 {
        let of = |target: &&TargetReport| target.report.get("summary").and_then(|summary| summary[name].as_u64());
        targets.iter().filter_map(of).sum()
    };
    let facts = [
        ("check_set", json!(asked.check_set)),
        ("mode", json!(asked.mode)),
        ("batch", batch),
        ("strict", json!(asked.strict)),
        ("strict_warnings", json!(asked.strict_warnings)),
        ("duration_ms", json!(targets.iter().map(|target| target.duration_ms).sum::<u64>())),
        (
            "summary",
            json!({
                "errors": sum("errors"), "warnings": sum("warnings"), "skipped": sum("skipped"),
                "errored": sum("errored"), "sample_limit": asked.sample,
            }),
        ),
    ];
    document.extend(facts.into_iter().map(|(name, value)| (name.to_owned(), value)));
}

fn print(target: &TargetReport) {
    let summary = target.report.get("summary").cloned().unwrap_or(Value::Null);
    let status = match target.status {
        TargetStatus::Done => "holds",
        TargetStatus::Negative => "does not hold",
        other => other.as_str(),
    };
    output::line(format!(
        "{}: {status}: errors {}, warnings {}, skipped {}, errored {}",
        place(target),
        summary["errors"],
        summary["warnings"],
        summary["skipped"],
        summary["errored"]
    ));
    for check in checks_of(target).iter().filter(|check| check["state"] != "pass") {
        let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let count = match check["lower_bound"] == true {
            true => format!("at least {}", check["count"]),
            false => check["count"].to_string(),
        };
        let why =
            [text("note"), text("error")].into_iter().filter(|why| !why.is_empty()).collect::<Vec<_>>().join("; ");
        output::line(format!("  {} {} {}: {count} {why}", text("state"), text("severity"), text("name")).trim_end());
    }
}

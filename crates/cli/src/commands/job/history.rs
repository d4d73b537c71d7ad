//! `aionis job list` and `aionis job runs`.

use aionis_core::{
    ids::{ScopeKey, TenantId},
    jobs::{JobInfo, JobRun, RunQuery, Target},
};
use aionis_engine::jobs::ALL;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis job list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Flags of `aionis job runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// Only of this job.
    #[arg(long, value_parser = known_job)]
    job: Option<String>,
    /// Only of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this scope of the tenant.
    #[arg(long, requires = "tenant")]
    scope: Option<String>,
    /// Most runs.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
}

fn known_job(name: &str) -> Result<String, String> {
    let names: Vec<&str> = ALL.iter().map(|info| info.name).collect();
    if names.contains(&name) { Ok(name.to_owned()) } else { Err(format!("must be one of {}", names.join(", "))) }
}

pub(crate) fn list(args: &ListArgs) -> Result<Verdict, Failure> {
    if args.json {
        let jobs: Vec<Value> = ALL.iter().map(|info| info_json(info)).collect();
        output::json(&json!({ "jobs": jobs }))?;
        return Ok(Verdict::Positive);
    }
    let width = ALL.iter().map(|info| info.name.len()).max().unwrap_or(0);
    for info in ALL {
        output::line(format!("{:width$}  {:16}  {}", info.name, by_itself(info), info.about));
    }
    Ok(Verdict::Positive)
}

/// When a worker runs a job by itself, for people.
fn by_itself(info: &JobInfo) -> String {
    match info.schedule.map(|schedule| schedule.every.as_secs()) {
        None => "when asked".to_owned(),
        Some(s) if s % 86_400 == 0 => format!("every {} day(s)", s / 86_400),
        Some(s) if s % 3_600 == 0 => format!("every {} hour(s)", s / 3_600),
        Some(s) => format!("every {} min", s / 60),
    }
}

fn info_json(info: &JobInfo) -> Value {
    json!({
        "name": info.name,
        "about": info.about,
        "changes": info.changes,
        "over": info.over,
        "every_s": info.schedule.map(|schedule| schedule.every.as_secs()),
        "only_changed_scopes": info.schedule.map(|schedule| schedule.only_changed),
    })
}

pub(crate) async fn runs(args: RunsArgs) -> Result<Verdict, Failure> {
    let tenant = args.tenant.as_deref().map(TenantId::parse).transpose()?;
    let target = match (&tenant, &args.scope) {
        (Some(tenant), Some(scope)) => Some(Target::Scope(ScopeKey::new(tenant, scope)?)),
        _ => None,
    };
    let query = RunQuery {
        job: args.job,
        tenant: tenant.map(|tenant| tenant.as_str().to_owned()),
        target,
        limit: usize::from(args.limit),
    };
    let store = wiring::open_existing(&args.storage).await?;
    let runs = store.job_runs(&query).await;
    store.close().await;
    let runs = runs?;
    if args.json {
        let runs: Vec<Value> = runs.iter().map(run_json).collect();
        output::json(&json!({ "runs": runs }))?;
    } else {
        runs.iter().for_each(print);
    }
    Ok(Verdict::Positive)
}

fn run_json(run: &JobRun) -> Value {
    let scope = match &run.target {
        Target::Scope(scope) => Some(scope.scope()),
        Target::Deployment => None,
    };
    json!({
        "run_id": run.run,
        "job": run.job,
        "tenant_id": run.target.tenant(),
        "scope": scope,
        "holder": run.holder,
        "dry_run": run.dry_run,
        "status": run.status,
        "params": run.params,
        "result": run.result,
        "error": run.error,
        "started_at": run.started_at.to_iso(),
        "finished_at": run.finished_at.map(aionis_core::clock::Timestamp::to_iso),
    })
}

fn print(run: &JobRun) {
    let took =
        run.finished_at.map_or_else(String::new, |end| format!(" {} ms", end.micros_since(run.started_at) / 1_000));
    let dry = if run.dry_run { " (dry run)" } else { "" };
    let error = run.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    output::line(format!(
        "{} {} {} {}{dry}{took} in {}{error}",
        run.started_at.to_iso(),
        run.run,
        run.job,
        run.status,
        run.target
    ));
}

//! `aionis job governance-weekly-report`: the report, and its files.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use aionis_core::jobs::governance::{GovernanceReport, GovernanceThresholds, markdown, page, parse_run_id, parse_week};
use aionis_engine::jobs::{GovernanceWeeklyReport, JobReport, Selection};
use clap::Args;

use super::{HowArgs, execution_loop::CoverageArgs, run_job_then, strictness::StrictArgs};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job governance-weekly-report`.
#[derive(Debug, Args)]
pub(crate) struct GovernanceWeeklyReportArgs {
    /// The tenant of the scope; only needed where several have a scope of that name.
    #[arg(long)]
    tenant: Option<String>,
    /// The scope the report is about.
    #[arg(long)]
    scope: String,
    /// Hours back from now in which feedback and recalls count.
    #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=2_160))]
    window_hours: u64,
    /// Feedback of a tenant without which it has no part of negative feedback to compare.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    tenant_drift_min_feedback: u64,
    #[command(flatten)]
    coverage: CoverageArgs,
    /// Id of the report [default: the time, as YYYYMMDD_HHMMSS in UTC, and eight digits of the run].
    #[arg(long, value_parser = parse_run_id)]
    run_id: Option<String>,
    /// ISO week of the report, as 2026-W08 [default: the present one].
    #[arg(long, value_parser = parse_week)]
    report_week: Option<String>,
    /// Directory for the files; without it `artifacts/governance/weekly/`, then the week, `_` and the id of the run.
    #[arg(long)]
    out_dir: Option<PathBuf>,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: GovernanceWeeklyReportArgs) -> Result<Verdict, Failure> {
    let cover = &args.coverage;
    let thresholds = GovernanceThresholds {
        min_decision_link_coverage: cover.min_decision_link_coverage,
        min_recall_identity_coverage: cover.min_recall_identity_coverage,
        min_private_owner_coverage: cover.min_private_owner_coverage,
        min_sample: cover.min_sample,
        tenants: cover.tenants(args.tenant_drift_min_feedback),
    };
    let mut job = GovernanceWeeklyReport::new(thresholds, args.window_hours, args.strict.strictness());
    job.report_week.clone_from(&args.report_week);
    job.run_id.clone_from(&args.run_id);
    job.out_dir = args.out_dir.as_ref().map(|dir| dir.display().to_string());
    let selection = Selection { tenant: args.tenant.clone(), scope: Some(args.scope.clone()) };
    let write = |report: &mut JobReport| match &job.take()[..] {
        _ if args.how.dry_run => Ok(()),
        [] => Ok(()),
        [made] => {
            let dir = args.out_dir.clone().unwrap_or_else(|| PathBuf::from(&made.out_dir));
            files(made, &dir, report)
        }
        several => Err(Failure::new(format!("{} tenants have a scope {:?}; add --tenant", several.len(), args.scope))),
    };
    run_job_then(&job, &selection, &args.how, write).await
}

/// Writes the files of a report; one that is there already stays as it is.
fn files(made: &GovernanceReport, dir: &Path, report: &mut JobReport) -> Result<(), Failure> {
    let in_dir = |e: &std::io::Error| Failure::new(format!("--out-dir {}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(|e| in_dir(&e))?;
    let summary = format!("{}\n", serde_json::to_string_pretty(made)?);
    for (fact, name, text) in [
        ("summary_json", "summary.json", summary),
        ("weekly_md", "WEEKLY_STATUS.md", markdown(made)),
        ("weekly_html", "weekly_status.html", page(made)),
    ] {
        let path = dir.join(name);
        let mut file = File::create_new(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(format!(
                "--out-dir {} holds a report already; choose another directory or --run-id",
                dir.display()
            )),
            _ => in_dir(&e),
        })?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| in_dir(&e))?;
        for target in &mut report.targets {
            target.report.set(fact, path.display().to_string());
        }
    }
    Ok(())
}

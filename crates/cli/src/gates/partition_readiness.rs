//! Whether the partitioned layout may be put into use, with a summary and evidence files.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aionis_core::{
    clock::SystemClock,
    jobs::governance::default_run_id,
    partition::{CheckState, CutoverState, Readiness, judged},
};
use aionis_store::postgres::partition::{
    PartitionAdmin, PartitionError, ReadinessOptions, ReadinessReport, ShadowOptions,
};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::artifacts::Artifacts;
use crate::{failure::Failure, settings::StorageSettings};

/// Which run this is and where its files go.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunOptions {
    /// Id of the run; the time where it is not said.
    pub(crate) run_id: Option<String>,
    /// Directory of the files; `artifacts/partition_cutover/<run id>` where it is not said.
    pub(crate) out_dir: Option<PathBuf>,
    /// How readiness is checked.
    pub(crate) checks: ReadinessOptions,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Id of the run.
    pub(crate) run_id: String,
    /// Path of `summary.json`.
    pub(crate) summary_json: PathBuf,
    /// The verdict with its evidence.
    pub(crate) report: ReadinessReport,
}

/// `summary.json`.
#[derive(Serialize)]
struct Summary<'a> {
    ok: bool,
    run_id: &'a str,
    gate_class: &'static str,
    timestamp_utc: String,
    version: &'static str,
    /// Host, port and database, without credentials.
    target: String,
    state: CutoverState,
    checks: &'a [aionis_core::partition::Check],
    fail_reasons: &'a [String],
    evidence: Vec<&'a str>,
    out_dir: String,
}

/// Connects as the owner of the schema.
///
/// # Errors
/// The store is the embedded engine's; the server cannot be reached; migrations are missing.
pub(crate) async fn connect(storage: &StorageSettings) -> Result<Result<PartitionAdmin, PartitionError>, Failure> {
    storage.check()?;
    let url = &storage.database_url.0;
    if url.is_empty() {
        return Err(Failure::new(
            "partitioning is for PostgreSQL, and this is the embedded engine; set DATABASE_URL, or do without",
        ));
    }
    let timeout = Duration::from_millis(storage.db_acquire_timeout_ms);
    Ok(PartitionAdmin::connect(url, timeout, Arc::new(SystemClock)).await)
}

/// The report where no check beyond the first ones could be made.
fn without(error: &PartitionError) -> ReadinessReport {
    let is_reached = matches!(error, PartitionError::Refused(_));
    let mut checks = vec![judged("db_reachable", is_reached, is_reached, "true", error.to_string())];
    if is_reached {
        checks.push(judged("migrations_applied", false, false, "all migrations of this program", error.to_string()));
    }
    ReadinessReport::without_evidence(CutoverState::None, Readiness::of(checks))
}

/// Makes the checks and writes the files; a verdict that is negative is no error. With `note` a verdict that is positive is
/// noted in the database, so that the cutover may be made.
///
/// # Errors
/// The store is the embedded engine's; the files cannot be written; the checks could not be made to their end; with `note`,
/// it is out of order.
pub(crate) async fn run(storage: &StorageSettings, options: &RunOptions, note: bool) -> Result<Outcome, Failure> {
    let now = aionis_core::clock::Clock::now(&SystemClock);
    let run_id = options.run_id.clone().unwrap_or_else(|| default_run_id(now, Uuid::new_v4()));
    let out_dir = options.out_dir.clone().unwrap_or_else(|| Path::new("artifacts/partition_cutover").join(&run_id));
    let report = match connect(storage).await? {
        Ok(mut admin) if note => admin.readiness(&options.checks, &run_id).await?,
        Ok(mut admin) => admin.check_readiness(&options.checks).await?,
        Err(error) => without(&error),
    };
    let evidence = evidence(&out_dir, &report)?;
    let target = crate::wiring::store_options(storage).place();
    let summary = Summary {
        ok: report.readiness.ok,
        run_id: &run_id,
        gate_class: "partition_readiness",
        timestamp_utc: now.to_iso(),
        version: env!("CARGO_PKG_VERSION"),
        target: target.split('?').next().unwrap_or_default().to_owned(),
        state: report.state,
        checks: &report.readiness.checks,
        fail_reasons: &report.readiness.fail_reasons,
        evidence,
        out_dir: out_dir.display().to_string(),
    };
    let summary_json = out_dir.join("summary.json");
    write(&summary_json, &summary)?;
    Ok(Outcome { run_id, summary_json, report })
}

/// Writes what the verdict stands on; returns the names of the files.
fn evidence(dir: &Path, report: &ReadinessReport) -> Result<Vec<&'static str>, Failure> {
    fs::create_dir_all(dir).map_err(|e| in_dir(dir, &e))?;
    write(&dir.join("definitions.json"), &json!({ "differences": report.definitions }))?;
    write(&dir.join("verify.json"), &json!({ "tables": report.verify }))?;
    let mut names = vec!["definitions.json", "verify.json"];
    if let Some(gap) = &report.gap {
        write(&dir.join("gap.json"), gap)?;
        names.push("gap.json");
    }
    if let Some(shadow) = &report.shadow {
        write(&dir.join("shadow_read.json"), shadow)?;
        names.push("shadow_read.json");
    }
    Ok(names)
}

fn in_dir(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("--out-dir: {} cannot be written: {error}", path.display()))
}

/// Writes a file as a whole or not at all.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let draft = path.with_extension("json.part");
    let text = format!("{}\n", serde_json::to_string_pretty(value)?);
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&draft, path)).map_err(|e| in_dir(path, &e))
}

/// What the release gate asks for. Rows and definitions are compared in all scopes, whichever one is judged.
#[derive(Clone, Debug)]
pub(crate) struct ReadinessAsk {
    /// Tenant of the scope that is judged.
    pub(crate) tenant_id: String,
    /// The scope that is judged.
    pub(crate) scope: String,
    /// Whether there have to be recalls to compare between the layouts; those that there are have to agree anyway.
    pub(crate) read_shadow_check: bool,
    /// Hits that are compared per recall.
    pub(crate) read_shadow_limit: u16,
    /// Smallest part of hits the layouts have in common.
    pub(crate) read_shadow_min_overlap: f64,
}

/// What a release has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// Checks that do not hold, by name; empty when it is ready.
    pub(crate) reasons: Vec<String>,
    /// What could not be measured, by name.
    pub(crate) inconclusive: Vec<String>,
    /// The summary of the readiness gate.
    pub(crate) summary_json: PathBuf,
}

/// The readiness gate as a step of the release gate, with its files beside that one's.
///
/// # Errors
/// As [`run`].
pub(crate) async fn look(
    storage: &StorageSettings,
    ask: &ReadinessAsk,
    artifacts: &Artifacts,
) -> Result<Looked, Failure> {
    let shadow = ShadowOptions {
        limit: u32::from(ask.read_shadow_limit),
        min_overlap: ask.read_shadow_min_overlap,
        ..ShadowOptions::default()
    };
    let options = RunOptions {
        run_id: Some(artifacts.run_id.clone()),
        out_dir: Some(artifacts.summary_path().with_file_name("partition_cutover")),
        checks: ReadinessOptions { shadow, ..ReadinessOptions::default() },
    };
    let outcome = run(storage, &options, false).await?;
    let (mut reasons, mut inconclusive) = (Vec::new(), Vec::new());
    for check in &outcome.report.readiness.checks {
        match check.state {
            CheckState::Pass => {}
            CheckState::Inconclusive if check.name == "shadow_read" && !ask.read_shadow_check => {}
            CheckState::Inconclusive => inconclusive.push(check.name.to_owned()),
            CheckState::Fail | CheckState::Skipped => reasons.push(check.name.to_owned()),
        }
    }
    Ok(Looked { reasons, inconclusive, summary_json: outcome.summary_json })
}

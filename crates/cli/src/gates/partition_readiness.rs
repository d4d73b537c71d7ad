//! Whether the partitioned layout may be put into use, with a summary and evidence files.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aionis_core::{
    clock::SystemClock,
    gates::GateVerdict,
    ids::{ScopeKey, TenantId},
    partition::{Check, CheckState, CutoverState, Readiness, judged},
};
use aionis_store::{
    Deployment,
    postgres::partition::{PartitionAdmin, PartitionError, ReadinessOptions, ReadinessReport, ShadowOptions},
};
use serde_json::{Value, json};

use super::{artifacts::Artifacts, surroundings};
use crate::{failure::Failure, settings::StorageSettings, wiring};

/// The check that the scope a release is asked for is stored; made where one is named.
const SCOPE: &str = "scope_stored";
/// What is compared, whichever scope is named.
const COMPARED: &str = "all scopes";

/// Which run this is and where its files go.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunOptions {
    /// Id of the run; the time where it is not said.
    pub(crate) run_id: Option<String>,
    /// Directory of the files; `artifacts/partition_cutover/<run id>` where it is not said.
    pub(crate) out_dir: Option<PathBuf>,
    /// How readiness is checked.
    pub(crate) checks: ReadinessOptions,
    /// Checks that may be inconclusive, by name. With `accept_inconclusive` among `checks` all may.
    pub(crate) accepted: &'static [&'static str],
    /// Tenant and scope that have to be stored.
    pub(crate) place: Option<(String, String)>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Whether it holds; the gate lets through exactly then.
    pub(crate) ok: bool,
    /// The summary, as it was written.
    pub(crate) summary: Value,
    /// Path of `summary.json`.
    pub(crate) summary_json: PathBuf,
    /// The verdict of the checks with its evidence.
    pub(crate) report: ReadinessReport,
    /// Checks that were inconclusive and were accepted as such.
    pub(crate) accepted_inconclusive: Vec<&'static str>,
}

/// A server is needed: the embedded engine has no partitions.
fn on_postgres(storage: &StorageSettings) -> Result<&str, Failure> {
    storage.check()?;
    let url = storage.database_url.0.as_str();
    if url.is_empty() {
        return Err(Failure::new(
            "partitioning is for PostgreSQL, and this is the embedded engine; set DATABASE_URL, or do without",
        ));
    }
    Ok(url)
}

/// Connects as the owner of the schema.
///
/// # Errors
/// The store is the embedded engine's; the server cannot be reached; migrations are missing.
pub(crate) async fn connect(storage: &StorageSettings) -> Result<Result<PartitionAdmin, PartitionError>, Failure> {
    let url = on_postgres(storage)?;
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

/// What the judged database is and holds, beside the layouts.
struct Around {
    versions: Value,
    /// Whether the scope that was named is stored; nothing where none was named.
    scope: Option<Check>,
}

impl Around {
    /// As it is told where the database could not be opened as the program opens it, and why.
    fn unknown(place: Option<&(String, String)>, why: &str) -> Self {
        let versions = json!({ "aionis": env!("CARGO_PKG_VERSION"), "error": why });
        let scope = place.map(|place| stored(place, false, format!("it was not looked up: {why}")));
        Self { versions, scope }
    }

    async fn look(storage: &StorageSettings, place: Option<&(String, String)>) -> Self {
        let opened = match wiring::open_to_judge(storage).await {
            Ok((store, schema)) => {
                let looked = Self::of(&*store, &schema, place).await;
                store.close().await;
                looked
            }
            Err(failure) => Err(failure),
        };
        opened.unwrap_or_else(|failure| Self::unknown(place, &failure.to_string()))
    }

    async fn of(store: &dyn Deployment, schema: &str, place: Option<&(String, String)>) -> Result<Self, Failure> {
        let versions = surroundings::versions(store, schema).await?;
        let scope = match place {
            Some(place) => Some(look_up(store, place).await?),
            None => None,
        };
        Ok(Self { versions, scope })
    }
}

async fn look_up(store: &dyn Deployment, place: &(String, String)) -> Result<Check, Failure> {
    let (tenant, scope) = place;
    let key = match TenantId::parse(tenant).and_then(|tenant| ScopeKey::new(&tenant, scope)) {
        Ok(key) => key,
        Err(e) => return Ok(stored(place, false, e.to_string())),
    };
    let found = !store.scopes(Some(key.tenant()), Some(key.scope())).await?.is_empty();
    Ok(stored(place, found, "nothing is stored for it".to_owned()))
}

fn stored((tenant, scope): &(String, String), holds: bool, why: String) -> Check {
    let named = format!("{tenant}/{scope}");
    judged(SCOPE, holds, named.clone(), "it is stored", format!("{named}: {why}"))
}

/// Makes the checks and writes the files; a verdict that is negative is no error. With `note` a verdict that is positive is
/// noted in the database, so that the cutover may be made.
///
/// # Errors
/// The store is the embedded engine's; the directory holds a summary already; the files cannot be written; the checks could
/// not be made to their end, which the summary then says; with `note`, it is out of order.
pub(crate) async fn run(storage: &StorageSettings, options: &RunOptions, note: bool) -> Result<Outcome, Failure> {
    on_postgres(storage)?;
    let artifacts = Artifacts::new("partition_cutover", options.run_id.as_deref(), options.out_dir.as_deref())?;
    let judgement = match looked(storage, options, note, &artifacts).await {
        Ok((report, around)) => Judged::of(report, around, options),
        Err(failure) => {
            artifacts.summary(&unjudged(storage, options, &artifacts, &failure))?;
            return Err(failure);
        }
    };
    let evidence = evidence(&artifacts, &judgement.report)?;
    let summary = judgement.summary(storage, options, &artifacts, &evidence);
    artifacts.summary(&summary)?;
    let Judged { ok, report, accepted, .. } = judgement;
    Ok(Outcome { ok, summary, summary_json: artifacts.summary_path(), report, accepted_inconclusive: accepted })
}

async fn looked(
    storage: &StorageSettings,
    options: &RunOptions,
    note: bool,
    artifacts: &Artifacts,
) -> Result<(ReadinessReport, Around), Failure> {
    let place = options.place.as_ref();
    match connect(storage).await? {
        Ok(mut admin) => {
            let around = Around::look(storage, place).await;
            let report = match note {
                true => admin.readiness(&options.checks, &artifacts.run_id).await?,
                false => admin.check_readiness(&options.checks).await?,
            };
            Ok((report, around))
        }
        Err(error) => Ok((without(&error), Around::unknown(place, &error.to_string()))),
    }
}

/// The checks with what they say together.
struct Judged {
    report: ReadinessReport,
    versions: Value,
    ok: bool,
    verdict: GateVerdict,
    /// Inconclusive checks that fail the gate.
    open: Vec<&'static str>,
    /// Inconclusive checks that do not, because they were accepted.
    accepted: Vec<&'static str>,
}

impl Judged {
    fn of(mut report: ReadinessReport, around: Around, options: &RunOptions) -> Self {
        if let Some(scope) = around.scope {
            let mut checks = std::mem::take(&mut report.readiness.checks);
            checks.push(scope);
            report.readiness = Readiness::of(checks);
        }
        let inconclusive = report.readiness.named(CheckState::Inconclusive);
        let all = options.checks.accept_inconclusive;
        let (accepted, open): (Vec<_>, Vec<_>) =
            inconclusive.iter().partition(|name| all || options.accepted.contains(name));
        let is_nothing_failed = report.readiness.is_nothing_failed();
        let verdict = match (is_nothing_failed, inconclusive.is_empty()) {
            (false, _) => GateVerdict::Fail,
            (true, false) => GateVerdict::Inconclusive,
            (true, true) => GateVerdict::Pass,
        };
        Self { ok: is_nothing_failed && open.is_empty(), versions: around.versions, verdict, open, accepted, report }
    }

    /// `name: reason` of each check that keeps the gate shut.
    fn fail_reasons(&self) -> Vec<&String> {
        let is_accepted = |reason: &str| self.accepted.iter().any(|name| reason.split(": ").next() == Some(*name));
        self.report.readiness.fail_reasons.iter().filter(|reason| !is_accepted(reason)).collect()
    }

    fn summary(
        &self,
        storage: &StorageSettings,
        options: &RunOptions,
        artifacts: &Artifacts,
        evidence: &[&'static str],
    ) -> Value {
        let report = &self.report;
        let mut summary = head(storage, options, artifacts);
        let file = |name: &str| evidence.contains(&name).then_some(name.to_owned());
        let state = |name: &str| state_of(report, name);
        let holds = |name: &str| u8::from(!matches!(state(name), Some(CheckState::Pass | CheckState::NotApplicable)));
        for (name, value) in [
            ("ok", json!(self.ok)),
            ("verdict", json!(self.verdict)),
            ("state", json!(report.state)),
            ("checks", json!(report.readiness.checks)),
            ("fail_reasons", json!(self.fail_reasons())),
            ("inconclusive", json!(self.open)),
            ("accepted_inconclusive", json!(self.accepted)),
            ("not_applicable", json!(report.readiness.named(CheckState::NotApplicable))),
            ("dual_write_enabled", json!(dual_write(report))),
            ("verify", json!({ "rc": holds("verify"), "file": file("verify.json"), "tables": report.verify.len() })),
            ("read_shadow", json!({ "rc": holds("shadow_read"), "file": file("shadow_read.json") })),
            ("cutover_gap", json!({ "rows": report.gap.as_ref().map(|gap| &gap.rows) })),
            ("evidence", json!(evidence)),
            ("versions", self.versions.clone()),
        ] {
            summary[name] = value;
        }
        summary
    }
}

fn state_of(report: &ReadinessReport, name: &str) -> Option<CheckState> {
    report.readiness.checks.iter().find(|check| check.name == name).map(|check| check.state)
}

/// Whether changes go to both layouts, as the server says; nothing where nothing is mirrored any more.
fn dual_write(report: &ReadinessReport) -> Option<bool> {
    match state_of(report, "mirror_active") {
        None | Some(CheckState::NotApplicable) => None,
        Some(state) => Some(state == CheckState::Pass),
    }
}

/// What a summary says whatever came of the run.
fn head(storage: &StorageSettings, options: &RunOptions, artifacts: &Artifacts) -> Value {
    let target = wiring::store_options(storage).place();
    let (tenant, scope) = options.place.clone().unzip();
    json!({
        "kind": "partition_readiness_gate",
        "run_id": artifacts.run_id,
        "gate_class": "partition_readiness",
        "timestamp_utc": artifacts.started.to_iso(),
        "version": env!("CARGO_PKG_VERSION"),
        // Host, port and database, without credentials.
        "target": target.split('?').next().unwrap_or_default(),
        "tenant_id": tenant,
        "scope": scope,
        "compared": COMPARED,
        "machine": surroundings::machine(),
        "artifacts": artifacts.named(),
        "out_dir": artifacts.named()["out_dir"],
        "summary_json": artifacts.summary_path().display().to_string(),
    })
}

/// The summary of checks that could not be made to their end.
fn unjudged(storage: &StorageSettings, options: &RunOptions, artifacts: &Artifacts, failure: &Failure) -> Value {
    let mut summary = head(storage, options, artifacts);
    let error = failure.to_string();
    for (name, value) in [
        ("ok", json!(false)),
        ("verdict", json!(GateVerdict::Fail)),
        ("state", Value::Null),
        ("checks", json!([])),
        ("fail_reasons", json!([format!("not_judged: {error}")])),
        ("inconclusive", json!([])),
        ("accepted_inconclusive", json!([])),
        ("not_applicable", json!([])),
        ("dual_write_enabled", Value::Null),
        ("evidence", json!([])),
        ("versions", json!({ "aionis": env!("CARGO_PKG_VERSION") })),
        ("error", json!(error)),
    ] {
        summary[name] = value;
    }
    summary
}

/// Writes what the verdict stands on; returns the names of the files.
fn evidence(artifacts: &Artifacts, report: &ReadinessReport) -> Result<Vec<&'static str>, Failure> {
    artifacts.evidence("definitions.json", &json!({ "differences": report.definitions }))?;
    artifacts.evidence("verify.json", &json!({ "tables": report.verify }))?;
    let mut names = vec!["definitions.json", "verify.json"];
    if let Some(gap) = &report.gap {
        artifacts.evidence("gap.json", gap)?;
        names.push("gap.json");
    }
    if let Some(shadow) = &report.shadow {
        artifacts.evidence("shadow_read.json", shadow)?;
        names.push("shadow_read.json");
    }
    Ok(names)
}

/// What the release gate asks for. Rows and definitions are compared in all scopes, whichever one is judged.
#[derive(Clone, Debug)]
pub(crate) struct ReadinessAsk {
    /// Tenant of the scope that is judged.
    pub(crate) tenant_id: String,
    /// The scope that is judged; it has to be stored.
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
    /// What could not be measured and was accepted so, by name.
    pub(crate) accepted_inconclusive: Vec<String>,
    /// Whether changes go to both layouts, as the server says; nothing where nothing is mirrored any more.
    pub(crate) dual_write_enabled: Option<bool>,
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
        accepted: if ask.read_shadow_check { &[] } else { &["shadow_read"] },
        place: Some((ask.tenant_id.clone(), ask.scope.clone())),
    };
    let outcome = run(storage, &options, false).await?;
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<String>>();
    let readiness = &outcome.report.readiness;
    let open = readiness.named(CheckState::Inconclusive).into_iter();
    let open = open.filter(|name| !outcome.accepted_inconclusive.contains(name)).collect();
    Ok(Looked {
        reasons: owned([readiness.named(CheckState::Fail), readiness.named(CheckState::Skipped)].concat()),
        inconclusive: owned(open),
        dual_write_enabled: dual_write(&outcome.report),
        accepted_inconclusive: owned(outcome.accepted_inconclusive),
        summary_json: outcome.summary_json,
    })
}

#[cfg(test)]
mod tests {
    use aionis_core::partition::inconclusive;

    use super::*;

    fn judged_of(spoil: Option<Check>, options: &RunOptions) -> Judged {
        let mut checks: Vec<Check> =
            Readiness::NAMES.into_iter().map(|name| judged(name, true, true, "true", "")).collect();
        if let Some(spoil) = spoil {
            checks.retain(|check| check.name != spoil.name);
            checks.push(spoil);
        }
        let report = ReadinessReport::without_evidence(CutoverState::Verified, Readiness::of(checks));
        Judged::of(report, Around { versions: Value::Null, scope: None }, options)
    }

    /// Whether it lets through and the reasons why not say the same, whatever is accepted.
    #[test]
    fn the_verdict_and_the_reasons_agree() {
        let open = || Some(inconclusive("shadow_read", "overlap", "no vector"));
        let none = RunOptions::default();
        let named = RunOptions { accepted: &["shadow_read"], ..RunOptions::default() };
        let other = RunOptions { accepted: &["gap"], ..RunOptions::default() };
        let checks = ReadinessOptions { accept_inconclusive: true, ..ReadinessOptions::default() };
        let all = RunOptions { checks, ..RunOptions::default() };
        let failing = || Some(judged("gap", false, false, "equal", "it differs"));
        for (spoil, options, ok, verdict, accepted) in [
            (None, &none, true, GateVerdict::Pass, &[][..]),
            (open(), &none, false, GateVerdict::Inconclusive, &[]),
            (open(), &other, false, GateVerdict::Inconclusive, &[]),
            (open(), &named, true, GateVerdict::Inconclusive, &["shadow_read"]),
            (open(), &all, true, GateVerdict::Inconclusive, &["shadow_read"]),
            (failing(), &all, false, GateVerdict::Fail, &[]),
        ] {
            let judged = judged_of(spoil, options);
            assert_eq!((judged.ok, judged.verdict), (ok, verdict), "{options:?}");
            assert_eq!(judged.accepted, accepted);
            assert_eq!(judged.fail_reasons().is_empty(), ok, "{:?}", judged.fail_reasons());
        }
    }
}

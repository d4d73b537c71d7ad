//! `aionis copy`: moves scopes between stores.

use std::{path::PathBuf, sync::Arc};

use aionis_core::clock::SystemClock;
use aionis_engine::verify::verify;
use aionis_store::{
    CopyProgress, CopySettings, CopyStatus, Deployment, ScopeCopy, StoreOptions, copy, sqlite::DATABASE_FILE,
};
use clap::Args;
use serde::Serialize;

use super::{job::SelectionArgs, verify::Quiet};
use crate::{
    failure::{Failure, Verdict},
    output::{self, Bar},
    settings::{LogSettings, SecretArg, StorageSettings, env_file::EnvFileArgs},
    telemetry, wiring,
};

/// Flags of `aionis copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Store to copy from: postgres://… or a data directory.
    #[arg(long)]
    from: SecretArg,
    /// Store to copy to: postgres://… or a data directory, made when missing.
    #[arg(long)]
    to: SecretArg,
    /// Only tell what would be copied. Both stores are opened for it, brought up to date, and made when missing.
    #[arg(long)]
    dry_run: bool,
    /// Rows per page, and per transaction at the destination.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    logs: LogSettings,
}

/// What a copy did.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// Whether every copied scope verifies at the destination.
    ok: bool,
    scopes: Vec<ScopeCopy>,
    /// The first break of each scope that does not verify.
    breaks: Vec<aionis_core::chain::ChainBreak>,
}

pub(crate) async fn run(args: CopyArgs) -> Result<Verdict, Failure> {
    telemetry::logs(&args.logs)?;
    let from = open(&args.storage, &args.from, "--from", true).await?;
    let to = match open(&args.storage, &args.to, "--to", false).await {
        Ok(to) => to,
        Err(failure) => {
            from.close().await;
            return Err(failure);
        }
    };
    let settings = CopySettings {
        tenant: args.selection.tenant.clone(),
        scope: args.selection.scope.clone(),
        dry_run: args.dry_run,
        page: args.batch_size as usize,
    };
    let bar = Bar::default();
    let copied = copy(&from, &to, &settings, &bar).await;
    bar.clear();
    let report = match copied {
        Ok(scopes) => report(&to, args.dry_run, scopes).await,
        Err(e) => Err(Failure::new(e)),
    };
    from.close().await;
    to.close().await;
    let report = report?;
    if report.scopes.is_empty() && !args.selection.all {
        return Err(Failure::new("no scope of --from matches --tenant and --scope"));
    }
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Verdict::from(report.ok))
}

/// Verifies what was copied, from the destination's own rows.
async fn report(to: &Arc<dyn Deployment>, dry_run: bool, scopes: Vec<ScopeCopy>) -> Result<Report, Failure> {
    let mut report = Report { dry_run, ok: true, scopes, breaks: Vec::new() };
    for scope in report.scopes.iter().filter(|_| !dry_run) {
        let which = (Some(scope.tenant_id.as_str()), Some(scope.scope.as_str()));
        let found = verify(&**to, which, false, &Quiet).await?;
        report.ok &= found.ok && found.scopes.len() == 1;
        report.breaks.extend(found.scopes.into_iter().filter_map(|scope| scope.first_break));
    }
    Ok(report)
}

async fn open(
    storage: &StorageSettings,
    place: &SecretArg,
    flag: &str,
    must_exist: bool,
) -> Result<Arc<dyn Deployment>, Failure> {
    let mut storage = storage.clone();
    if place.0.contains("://") {
        storage.database_url = place.clone();
        if !(place.0.starts_with("postgres://") || place.0.starts_with("postgresql://")) {
            return Err(Failure::new(format!("{flag} must be postgres://… or a data directory")));
        }
    } else {
        storage.database_url = SecretArg(String::new());
        storage.data_dir = PathBuf::from(&place.0);
    }
    let options = wiring::store_options(&storage).with_any_space();
    if let StoreOptions::Embedded(embedded) = &options
        && must_exist
        && !embedded.data_dir.join(DATABASE_FILE).exists()
    {
        return Err(Failure::new(format!("{flag}: there is no database in {}", embedded.data_dir.display())));
    }
    let opened = aionis_store::open(&options, Arc::new(SystemClock)).await;
    opened.map_err(|e| Failure::new(format!("{flag}: {}", Failure::from(e))))
}

fn print(report: &Report) {
    for scope in &report.scopes {
        let what = match scope.status {
            CopyStatus::Copied if scope.resumed => "copied (gone on with)",
            CopyStatus::Copied => "copied",
            CopyStatus::Present => "there already",
            CopyStatus::Planned => "would be copied",
        };
        let rows: u64 = scope.rows.values().sum();
        output::line(format!(
            "{}/{}: {what}, {} commits, {rows} rows compared, head {}",
            scope.tenant_id, scope.scope, scope.head_seq, scope.head_hash
        ));
    }
    for found in &report.breaks {
        output::line(format!("BROKEN {}: {} {}: {}", found.scope_key, found.object, found.id, found.problem));
    }
    let verdict = if report.dry_run { "nothing was copied" } else { "chains and digests verified at the destination" };
    output::line(format!("{} scope(s); {}", report.scopes.len(), if report.ok { verdict } else { "NOT sound" }));
}

impl CopyProgress for Bar {
    fn scope(&self, scope: &str, rows: u64) {
        self.start(rows, scope);
    }

    fn advance(&self, steps: u64) {
        self.step(steps);
    }
}

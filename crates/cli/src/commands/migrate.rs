//! `aionis migrate`.

use aionis_core::clock::{Clock, SystemClock};
use aionis_store::sqlite::migrate_only;
use clap::Args;
use serde_json::json;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::StorageSettings,
};

/// Flags of `aionis migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    storage: StorageSettings,
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &MigrateArgs) -> Result<Verdict, Failure> {
    args.storage.check()?;
    let report = migrate_only(&args.storage.data_dir, args.dry_run, SystemClock.now())?;
    if args.json {
        output::json(&json!({
            "dry_run": args.dry_run,
            "applied_before": report.applied_before,
            "applied_now": report.applied_now,
        }))?;
    } else if report.applied_now.is_empty() {
        output::line("the schema is up to date");
    } else {
        let what = if args.dry_run { "would apply" } else { "applied" };
        output::line(format!("{what}: {}", report.applied_now.join(", ")));
    }
    Ok(Verdict::Positive)
}

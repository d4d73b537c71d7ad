//! `aionis migrate`.

use aionis_core::clock::SystemClock;
use clap::Args;
use serde_json::json;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
}

pub(crate) async fn run(args: &MigrateArgs) -> Result<Verdict, Failure> {
    args.storage.check()?;
    let options = wiring::store_options(&args.storage);
    let report = aionis_store::migrate(&options, args.dry_run, &SystemClock).await?;
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

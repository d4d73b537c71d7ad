//! `aionis job outbox-replay`.

use aionis_core::clock::{Clock, SystemClock};
use aionis_engine::replay::{ReplayReport, replay};
use clap::Args;

use super::Selection;
use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis job outbox-replay`.
#[derive(Debug, Args)]
pub(crate) struct OutboxReplayArgs {
    /// Only tell what would be put back.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    storage: StorageSettings,
}

pub(crate) async fn run(args: OutboxReplayArgs) -> Result<Verdict, Failure> {
    let store = wiring::open_existing(&args.storage).await?;
    let which = (args.selection.tenant.as_deref(), args.selection.scope.as_deref());
    let report = replay(&*store, which, args.dry_run, SystemClock.now()).await;
    store.close().await;
    let report = report?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Verdict::Positive)
}

fn print(report: &ReplayReport) {
    let what = if report.dry_run { "would put back" } else { "put back" };
    for scope in &report.scopes {
        let found = &scope.given_up;
        output::line(format!(
            "{}/{}: {what} {} dead letter(s) and {} failed node(s)",
            scope.tenant_id, scope.scope, found.dead_items, found.failed_nodes
        ));
    }
    let total = &report.total;
    output::line(format!("{what} {} dead letter(s) and {} failed node(s)", total.dead_items, total.failed_nodes));
    if total.unreadable_items > 0 {
        output::line(format!("{} dead letter(s) cannot be read and stay", total.unreadable_items));
    }
}

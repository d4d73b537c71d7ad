//! `aionis job outbox-replay`.

use aionis_engine::jobs::OutboxReplay;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job outbox-replay`.
#[derive(Debug, Args)]
pub(crate) struct OutboxReplayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: OutboxReplayArgs) -> Result<Verdict, Failure> {
    run_job(&OutboxReplay, &args.selection.selection(), &args.how).await
}

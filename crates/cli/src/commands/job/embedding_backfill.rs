//! `aionis job embedding-backfill`.

use aionis_engine::jobs::EmbeddingBackfill;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job embedding-backfill`.
#[derive(Debug, Args)]
pub(crate) struct EmbeddingBackfillArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: EmbeddingBackfillArgs) -> Result<Verdict, Failure> {
    run_job(&EmbeddingBackfill, &args.selection.selection(), &args.how).await
}

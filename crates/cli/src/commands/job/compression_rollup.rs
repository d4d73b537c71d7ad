//! `aionis job compression-rollup`.

use aionis_embed::settings::ProviderKind;
use aionis_engine::jobs::CompressionRollup;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job, topic_cluster::DerivedIdArgs};
use crate::{
    failure::{Failure, Verdict},
    settings::topics::CompressionSettings,
};

/// Flags of `aionis job compression-rollup`.
#[derive(Debug, Args)]
pub(crate) struct CompressionRollupArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    compression: CompressionSettings,
    #[command(flatten)]
    ids: DerivedIdArgs,
    /// With `none`, summaries wait for no vector.
    #[arg(long, env = "EMBEDDING_PROVIDER", default_value = "local")]
    embedding_provider: ProviderKind,
}

pub(crate) async fn run(args: CompressionRollupArgs) -> Result<Verdict, Failure> {
    let can_embed = args.embedding_provider != ProviderKind::None;
    let settings = args.compression.to_job(args.ids.default_tenant()?.as_str(), can_embed);
    run_job(&CompressionRollup::new(settings), &args.selection.selection(), &args.how).await
}

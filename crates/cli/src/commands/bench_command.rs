//! `aionis bench`.

use clap::Args;

use super::bench;
use crate::{
    failure::{Failure, Verdict},
    output,
    settings::env_file::EnvFileArgs,
};

/// Flags of `aionis bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchCommandArgs {
    #[command(flatten)]
    bench: bench::BenchArgs,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
}

pub(crate) async fn run(args: BenchCommandArgs) -> Result<Verdict, Failure> {
    let report = bench::run(args.bench).await.map_err(Failure::new)?;
    if args.json {
        output::json(&report)?;
    } else {
        output::line(report.table());
    }
    Ok(Verdict::Positive)
}

//! `aionis gate`: judges a deployment and leaves a summary a decision can be made from. Exit 0 it holds, 2 it does not,
//! 1 it could not be judged.

use clap::{Args, Subcommand};

use super::partition::ReadinessArgs;
use crate::failure::{Failure, Verdict};

/// Flags of `aionis gate`.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    #[command(subcommand)]
    gate: Gate,
}

#[derive(Debug, Subcommand)]
enum Gate {
    /// Judge whether the partitioned layout may be put into use.
    PartitionReadiness(Box<ReadinessArgs>),
}

/// Runs one.
pub(crate) async fn run(args: GateArgs) -> Result<Verdict, Failure> {
    match args.gate {
        Gate::PartitionReadiness(args) => super::partition::judge(&args, false).await,
    }
}

//! `aionis scale`: which tier of the routing matrix a deployment belongs to.

mod advise;
mod history;
mod prometheus;
mod signals;

use clap::{Args, Subcommand};

#[cfg(test)]
pub(crate) use self::signals::POOL_WAIT_S;
use crate::failure::{Failure, Verdict};

/// Flags of `aionis scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(subcommand)]
    command: Scale,
}

#[derive(Debug, Subcommand)]
enum Scale {
    /// Measure the triggers of the routing matrix and say which tier the deployment belongs to.
    Advise(Box<advise::AdviseArgs>),
}

/// Runs one.
pub(crate) async fn run(args: ScaleArgs) -> Result<Verdict, Failure> {
    match args.command {
        Scale::Advise(args) => advise::run(*args).await,
    }
}

//! `aionis job`: maintenance that is run when it is needed.

mod outbox_replay;

use clap::{Args, Subcommand};

use crate::failure::{Failure, Verdict};

/// Flags of `aionis job`.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Put dead letters and failed nodes back into the queue of vectors to derive.
    OutboxReplay(outbox_replay::OutboxReplayArgs),
}

/// Which scopes a job works on. One of them has to be said: a job on everything is asked for by name.
#[derive(Clone, Debug, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct Selection {
    /// Only this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only this scope.
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// All tenants and scopes.
    #[arg(long, conflicts_with_all = ["tenant", "scope"])]
    pub(crate) all: bool,
}

pub(crate) async fn run(args: JobArgs) -> Result<Verdict, Failure> {
    match args.job {
        Job::OutboxReplay(args) => outbox_replay::run(args).await,
    }
}

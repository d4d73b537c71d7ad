//! `aionis gate`: judges a deployment and leaves a summary a decision can be made from. Exit 0 it holds, 2 it does not,
//! 1 it could not be judged.

mod core;
mod credentials;
mod scoped;

use std::path::PathBuf;

use aionis_core::jobs::governance::parse_run_id;
use clap::{Args, Subcommand};

use super::partition::ReadinessArgs;
use crate::{
    failure::{Failure, Verdict},
    settings::{StorageSettings, env_file::EnvFileArgs},
};

/// Flags of `aionis gate`.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    #[command(subcommand)]
    gate: Gate,
}

#[derive(Debug, Subcommand)]
enum Gate {
    /// Judge a scope: consistency, quality and, where asked for, its execution loop and policy.
    Health(Box<scoped::HealthArgs>),
    /// Judge whether what is stored fits together.
    Consistency(Box<scoped::ConsistencyArgs>),
    /// Judge how bad it is with the rules in force.
    PolicyAdaptation(Box<scoped::PolicyGateArgs>),
    /// Judge whether rules and recalls get feedback.
    ExecutionLoop(Box<scoped::LoopGateArgs>),
    /// Judge whether a version may be released: server, contract, integrity, chains, latency and errors.
    Core(Box<core::CoreArgs>),
    /// Judge whether the partitioned layout may be put into use.
    PartitionReadiness(Box<ReadinessArgs>),
}

/// Runs one.
pub(crate) async fn run(args: GateArgs) -> Result<Verdict, Failure> {
    match args.gate {
        Gate::Health(args) => scoped::health(*args).await,
        Gate::Consistency(args) => scoped::consistency(*args).await,
        Gate::PolicyAdaptation(args) => scoped::policy(*args).await,
        Gate::ExecutionLoop(args) => scoped::execution_loop(*args).await,
        Gate::Core(args) => core::run(*args).await,
        Gate::PartitionReadiness(args) => super::partition::judge(&args, false).await,
    }
}

/// Which run this is, where its files go, and which database is judged; the same for all gates.
#[derive(Clone, Debug, Args)]
struct RunArgs {
    /// Id of the run [default: the time, as YYYYMMDD_HHMMSS in UTC].
    #[arg(long, value_parser = parse_run_id)]
    run_id: Option<String>,
    /// Directory for the files; without it `artifacts/`, then the gate, `/` and the id of the run.
    #[arg(long)]
    out_dir: Option<PathBuf>,
    /// Print the summary as one JSON document too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
}

//! The `aionis` program: reads settings, wires the parts together, runs one command.
//!
//! Exit codes: 0 done, 1 an error (one line on stderr says which), 2 a verdict that is negative.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod background;
mod client;
mod commands;
#[cfg(test)]
mod docs_check;
mod failure;
mod gates;
mod heartbeat;
mod http_server;
mod memory;
mod output;
mod settings;
mod telemetry;
mod wiring;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, Verdict};

/// Many small allocations per request, on several threads: the system's allocator costs a sixth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A verifiable, operable memory kernel for AI agents.
#[derive(Debug, Parser)]
#[command(name = "aionis", version, about, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the HTTP service.
    Serve(commands::serve::ServeArgs),
    /// Derive vectors of written memory, without the HTTP service.
    Worker(commands::worker::WorkerArgs),
    /// Bring the database schema up to date.
    Migrate(commands::migrate::MigrateArgs),
    /// Recompute every commit hash and object digest; exit 2 at a break.
    Verify(commands::verify::VerifyArgs),
    /// Show that a paraphrased question finds a memory, against a server of its own or a running one.
    Demo(commands::demo::DemoArgs),
    /// Start a server on a free port with fresh data, run the demo, restart the server, ask again.
    Quickstart(commands::demo::QuickstartArgs),
    /// Check that this machine and these settings can run the service.
    Doctor(commands::doctor::DoctorArgs),
    /// Ask a running service, or a worker by its heartbeat file, whether it is healthy; exit 1 when not.
    Healthcheck(commands::healthcheck::HealthcheckArgs),
    /// Check or print the settings, or what settings there are.
    Config(commands::config::ConfigArgs),
    /// Manage the built-in embedding model.
    Model(commands::model::ModelArgs),
    /// Change the embedding model of the stored vectors, while the service runs.
    Reembed(commands::reembed::ReembedArgs),
    /// Copy scopes from one store to another, whichever engines they are, and verify them there.
    Copy(commands::copy::CopyArgs),
    /// Manage API keys that are kept in the store.
    Keys(commands::keys::KeysArgs),
    /// Run a maintenance job.
    Job(commands::job::JobArgs),
    /// Judge a deployment and leave a summary a decision can be made from.
    Gate(commands::gate::GateArgs),
    /// Say which tier of the routing matrix a deployment belongs to.
    Scale(commands::scale::ScaleArgs),
    /// Change PostgreSQL's flat tables to partitioned ones while the service runs.
    Partition(commands::partition::PartitionArgs),
    /// Measure retrieval quality.
    Eval(commands::eval::EvalArgs),
    /// Print the OpenAPI document of the HTTP interface.
    Openapi(commands::openapi::OpenapiArgs),
    /// Measure latency and throughput of a running server.
    Bench(commands::bench_command::BenchCommandArgs),
}

/// The definition of the command line, with every setting.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

fn main() -> ExitCode {
    memory::use_small_pages();
    let args: Vec<_> = std::env::args_os().collect();
    if let Err(failure) = settings::environment::prepare(&command(), &args) {
        return refuse(&args, &failure);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; anything else is exit 1, not clap's 2, which means a negative verdict here.
        Err(e) if e.use_stderr() && commands::config::wants_json(&args) => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            return refuse(&args, &Failure::new(first.trim_start_matches("error: ")));
        }
        Err(e) => {
            let code = if e.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
            if e.print().is_err() {
                return ExitCode::from(1);
            }
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return output::fail(&Failure::new(format!("the async runtime cannot start: {e}"))),
    };
    let result = runtime.block_on(run(cli.command));
    match result {
        Ok(Verdict::Positive) => ExitCode::SUCCESS,
        Ok(Verdict::Negative) => ExitCode::from(2),
        Err(failure) => refuse(&args, &failure),
    }
}

/// Tells what is wrong: as JSON to who asked for it, else on stderr. Exit 1.
fn refuse(args: &[std::ffi::OsString], failure: &Failure) -> ExitCode {
    if !commands::config::wants_json(args) {
        return output::fail(failure);
    }
    match commands::config::tell_problems(failure) {
        Ok(()) => ExitCode::from(1),
        Err(failure) => output::fail(&failure),
    }
}

async fn run(command: Command) -> Result<Verdict, Failure> {
    match command {
        Command::Serve(args) => commands::serve::run(args).await,
        Command::Worker(args) => commands::worker::run(args).await,
        Command::Migrate(args) => commands::migrate::run(&args).await,
        Command::Verify(args) => commands::verify::run(args).await,
        Command::Demo(args) => commands::demo::run(args).await,
        Command::Quickstart(args) => commands::demo::quickstart(args).await,
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Healthcheck(args) => commands::healthcheck::run(args).await,
        Command::Config(args) => commands::config::run(args),
        Command::Model(args) => commands::model::run(args).await,
        Command::Reembed(args) => commands::reembed::run(args).await,
        Command::Copy(args) => commands::copy::run(args).await,
        Command::Keys(args) => commands::keys::run(args).await,
        Command::Job(args) => commands::job::run(args).await,
        Command::Gate(args) => commands::gate::run(args).await,
        Command::Scale(args) => commands::scale::run(args).await,
        Command::Partition(args) => commands::partition::run(args).await,
        Command::Eval(args) => commands::eval::run(args).await,
        Command::Openapi(args) => commands::openapi::run(&args),
        Command::Bench(args) => commands::bench_command::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}

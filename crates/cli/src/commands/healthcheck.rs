//! `aionis healthcheck`: for who supervises containers and processes. Exit 0 healthy, 1 not.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    client::Client,
    failure::{Failure, Verdict},
    heartbeat, output,
    settings::env_file::EnvFileArgs,
};

/// Flags of `aionis healthcheck`.
#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    /// Address of the service [default: port PORT of this machine].
    #[arg(long, conflicts_with = "worker")]
    url: Option<String>,
    /// Port of the service on this machine.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    port: u16,
    /// Ask only whether the process answers, not whether it can do its work.
    #[arg(long, conflicts_with = "worker")]
    live: bool,
    /// Look at a worker's heartbeat file instead: whether its loops go round and can use the store.
    #[arg(long)]
    worker: bool,
    /// The file a worker writes once a second [default for the worker: none].
    #[arg(long, env = "AIONIS_HEARTBEAT_FILE")]
    heartbeat_file: Option<PathBuf>,
    /// Longest wait for an answer, in ms.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    #[command(flatten)]
    env_file: EnvFileArgs,
}

pub(crate) async fn run(args: HealthcheckArgs) -> Result<Verdict, Failure> {
    if args.worker {
        let path = args.heartbeat_file.as_deref().ok_or_else(|| {
            Failure::new("AIONIS_HEARTBEAT_FILE is not set; give worker and check the same --heartbeat-file")
        })?;
        output::line(heartbeat::check(path)?);
        return Ok(Verdict::Positive);
    }
    let url = args.url.unwrap_or_else(|| format!("http://127.0.0.1:{}", args.port));
    let path = if args.live { "/health/live" } else { "/health/ready" };
    let (status, answer) = Client::new(&url, Duration::from_millis(args.timeout_ms))?.get(path).await?;
    if !status.is_success() {
        return Err(Failure::new(format!("GET {path} was answered {status}: {answer}")));
    }
    output::line(format!("{path} answers {status}"));
    Ok(Verdict::Positive)
}

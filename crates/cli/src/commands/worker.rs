//! `aionis worker`: derives vectors and runs periodic jobs, without the HTTP service.

use std::path::PathBuf;

use aionis_embed::Provider;
use clap::Args;
use tokio::sync::watch;

use super::serve::StopSignal;
use crate::{
    background,
    failure::{Failure, Verdict},
    heartbeat, output,
    settings::{Settings, env_file::EnvFileArgs},
    telemetry, wiring,
};

/// Flags of `aionis worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Do what can be done now, print what was done, and end.
    #[arg(long)]
    once: bool,
    /// Write signs of life of the worker's loops into this file, for `aionis healthcheck --worker`.
    #[arg(long, env = "AIONIS_HEARTBEAT_FILE")]
    heartbeat_file: Option<PathBuf>,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(args: WorkerArgs) -> Result<Verdict, Failure> {
    args.settings.check()?;
    let traces = if args.once {
        None
    } else {
        let traces = telemetry::start(&args.settings.telemetry)?;
        telemetry::warn_of_variables();
        traces
    };
    let mut stop_signal = StopSignal::new()?;
    let parts = wiring::open(&args.settings).await?;
    let worker = parts.worker(&args.settings);
    if args.once {
        let Some(worker) = worker else { return Err(nothing_to_derive()) };
        let round = worker.drain().await?;
        parts.store.close().await;
        output::json(&round)?;
        return Ok(Verdict::from(round.failed == 0));
    }
    let scheduler = parts.scheduler(&args.settings);
    let (stop, stopped) = watch::channel(false);
    let (mut tasks, mut pulses) = (Vec::new(), Vec::new());
    match worker {
        Some(worker) => {
            pulses.push(("outbox", worker.pulse()));
            let stopped = stopped.clone();
            tasks.push(tokio::spawn(async move { worker.run(stopped).await }));
        }
        // A provider that was chosen and is not there is a mistake; none is a choice, and jobs need none.
        None if scheduler.is_none() || !matches!(parts.provider, Provider::Disabled) => return Err(nothing_to_derive()),
        None => tracing::warn!("there is no embedding provider: vectors are not derived, jobs are run"),
    }
    if let Some(scheduler) = scheduler {
        pulses.push(("scheduler", scheduler.pulse()));
        tasks.push(tokio::spawn(async move { scheduler.run(stopped).await }));
    }
    let heartbeat = args.heartbeat_file.map(|path| heartbeat::Writer::start(path, pulses)).transpose()?;
    let heartbeat = heartbeat.map(|writer| tokio::spawn(writer.run()));
    tracing::info!("worker started");
    stop_signal.wait().await;
    stop.send_replace(true);
    if let Some(heartbeat) = heartbeat {
        heartbeat.abort();
    }
    background::ended(tasks, background::DRAIN).await.map_err(|e| Failure::new(format!("the worker failed: {e}")))?;
    parts.store.close().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    tracing::info!("stopped");
    Ok(Verdict::Positive)
}

fn nothing_to_derive() -> Failure {
    Failure::new("there is no embedding provider to work with: run `aionis model pull`, or set EMBEDDING_PROVIDER")
}

//! `aionis worker`: derives vectors and runs periodic jobs, without the HTTP service.

use std::path::PathBuf;

use aionis_embed::Provider;
use clap::Args;
use tokio::sync::watch;

use super::serve::StopSignal;
use crate::{
    background::{DRAIN, Loops},
    failure::{Failure, Verdict},
    heartbeat, memory, output,
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
    let (mut loops, mut pulses) = (Loops::default(), Vec::new());
    match worker {
        Some(worker) => {
            pulses.push(("outbox", worker.pulse()));
            let stopped = stopped.clone();
            loops.start("outbox", async move { worker.run(stopped).await });
        }
        // A provider that was chosen and is not there is a mistake; none is a choice, and jobs need none.
        None if scheduler.is_none() || !matches!(parts.provider, Provider::Disabled) => return Err(nothing_to_derive()),
        None => tracing::warn!("there is no embedding provider: vectors are not derived, jobs are run"),
    }
    if let Some(scheduler) = scheduler {
        pulses.push(("scheduler", scheduler.pulse()));
        loops.start("scheduler", async move { scheduler.run(stopped).await });
    }
    let heartbeat = args.heartbeat_file.map(|path| heartbeat::Writer::start(path, pulses)).transpose()?;
    let heartbeat = heartbeat.map(|writer| tokio::spawn(writer.run()));
    tracing::info!(small_pages = memory::is_in_small_pages(), "worker started");
    let worked = work(loops, &stop, stop_signal.wait()).await;
    if let Some(heartbeat) = heartbeat {
        heartbeat.abort();
    }
    parts.store.close().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    tracing::info!("stopped");
    worked.map(|()| Verdict::Positive)
}

/// Lets the loops go round until the signal, or until one of them is lost.
async fn work(mut loops: Loops, stop: &watch::Sender<bool>, signal: impl Future<Output = ()>) -> Result<(), Failure> {
    let lost = tokio::select! {
        () = signal => None,
        lost = loops.lost() => Some(lost),
    };
    stop.send_replace(true);
    let failed = |why: String| Failure::new(format!("the worker failed: {why}"));
    let ended = loops.ended(DRAIN).await;
    match lost {
        Some(lost) => Err(failed(lost)),
        None => ended.map_err(failed),
    }
}

fn nothing_to_derive() -> Failure {
    Failure::new("there is no embedding provider to work with: run `aionis model pull`, or set EMBEDDING_PROVIDER")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop as they are; it tells when it was stopped in order.
    fn sound(stop: &watch::Sender<bool>) -> (impl Future<Output = ()> + use<>, tokio::sync::oneshot::Receiver<()>) {
        let (mut stopped, (done, seen)) = (stop.subscribe(), tokio::sync::oneshot::channel());
        let going_round = async move {
            stopped.wait_for(|stop| *stop).await.unwrap();
            done.send(()).unwrap();
        };
        (going_round, seen)
    }

    #[tokio::test]
    async fn a_loop_that_panics_ends_the_worker_and_the_others_in_order() {
        let (stop, _stopped) = watch::channel(false);
        let (scheduler, ended) = sound(&stop);
        let mut loops = Loops::default();
        loops.start("scheduler", scheduler);
        loops.start("outbox", async { panic!("planted") });
        let failure = work(loops, &stop, std::future::pending()).await.unwrap_err().to_string();
        assert!(failure.contains("the worker failed") && failure.contains("outbox"), "{failure}");
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn the_signal_ends_the_worker_well() {
        let (stop, _stopped) = watch::channel(false);
        let (scheduler, ended) = sound(&stop);
        let mut loops = Loops::default();
        loops.start("scheduler", scheduler);
        work(loops, &stop, std::future::ready(())).await.unwrap();
        ended.await.unwrap();
    }
}

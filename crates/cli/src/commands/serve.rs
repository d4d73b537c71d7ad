//! `aionis serve`: the HTTP service, with a worker inside unless told otherwise.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_api::{ApiSettings, AppState, BodyBudget, EmbeddingState, HealthState, router};
use aionis_embed::Provider;
use aionis_engine::admission::{KEYS_MAX, LimitSettings, Limits};
use aionis_store::Deployment;
use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinError,
};

use crate::{
    background::{self, Loops},
    failure::{Failure, Verdict},
    http_server::{self, Bounds},
    memory,
    settings::{HttpSettings, Settings, env_file::EnvFileArgs},
    telemetry,
    wiring::{self, Parts},
};

/// Flags of `aionis serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Do not derive vectors and run no jobs in this process.
    #[arg(long)]
    no_worker: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    http: HttpSettings,
}

/// Scope images loaded at start.
const WARM_SCOPES: usize = 8;
/// How long open requests may take once the service is told to stop.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: ServeArgs) -> Result<Verdict, Failure> {
    let started = Instant::now();
    let auth = args.settings.check_with(&args.http)?;
    let traces = telemetry::start(&args.settings.telemetry)?;
    telemetry::warn_of_variables();
    let metrics = telemetry::metrics()?;
    let mut stop_signal = StopSignal::new()?;
    let parts = wiring::open(&args.settings).await?;
    let production = args.settings.memory.is_production();
    let lookups_max = args.settings.storage.key_lookups_max();
    let auth = args.http.auth.with_stored(auth, &parts.store, &parts.clock, production, lookups_max).await?;
    let (stop, stopped) = watch::channel(false);
    let worker = if args.no_worker { None } else { parts.worker(&args.settings) };
    let limits = args.http.limits.limits(production);
    let state = AppState {
        engine: Arc::clone(&parts.engine),
        bodies: Arc::new(BodyBudget::new(args.http.connections.bodies_max_bytes())),
        limits: Arc::new(Limits::new(&limits, KEYS_MAX, &parts.clock)),
        settings: Arc::new(ApiSettings {
            continue_trace: telemetry::continue_trace(traces.as_ref()),
            ..args.http.api(&args.settings.memory, &args.settings.telemetry, auth)?
        }),
        health: Arc::new(health(&args, &parts, worker.is_some(), wiring::identify(&*parts.store).await?)),
        metrics: Some(metrics.clone()),
    };
    let listener = listen(args.http.host, args.http.port).await?;
    let address = listener.local_addr()?;
    if let Some(path) = &args.http.port_file {
        write_port(path, address)?;
    }
    announce(&args, &parts, &limits, address, started);
    let (mut work, mut measuring) = (Loops::default(), Loops::default());
    if let Some(worker) = worker {
        let stopped = stopped.clone();
        work.start("outbox", async move { worker.run(stopped).await });
    }
    let scheduler = if args.no_worker { None } else { parts.scheduler(&args.settings) };
    if let Some(scheduler) = scheduler {
        work.start("scheduler", async move { scheduler.run(stopped).await });
    }
    let warming = tokio::spawn(warm(Arc::clone(&parts.store)));
    measuring.start("upkeep of metrics", upkeep(metrics));
    let sampler = telemetry::sampler::run(Arc::clone(&parts.store), Arc::clone(&parts.engine), started);
    measuring.start("sampler", sampler);
    let lost = async {
        tokio::select! {
            lost = work.lost() => lost,
            lost = measuring.lost() => lost,
        }
    };
    let until = Until { stop: &stop, signal: stop_signal.wait(), lost };
    let served = serve(listener, router(state), args.http.connections.bounds(), until).await;
    warming.abort();
    drop(measuring);
    let worked = work.ended(background::DRAIN).await;
    parts.engine.flush().await;
    parts.store.close().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    tracing::info!("stopped");
    served?;
    worked.map_err(background_failed)?;
    Ok(Verdict::Positive)
}

fn background_failed(why: String) -> Failure {
    Failure::new(format!("work in the background failed: {why}"))
}

/// What ends the service.
struct Until<'a, S, L> {
    /// Tells everybody.
    stop: &'a watch::Sender<bool>,
    /// The signal of the system.
    signal: S,
    /// A loop of the background is lost.
    lost: L,
}

async fn serve(
    listener: TcpListener,
    app: axum::Router,
    bounds: Bounds,
    until: Until<'_, impl Future<Output = ()>, impl Future<Output = String>>,
) -> Result<(), Failure> {
    let Until { stop, signal, lost } = until;
    let mut stopping = stop.subscribe();
    let stopped = async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let mut server = tokio::spawn(http_server::run(listener, app, bounds, stopped));
    let failed = |e: JoinError| Failure::new(format!("the server task failed: {e}"));
    let lost = tokio::select! {
        () = signal => Ok(()),
        lost = lost => Err(background_failed(lost)),
        ended = &mut server => {
            stop.send_replace(true);
            return ended.map_err(failed).and(Err(Failure::new("the server ended by itself")));
        }
    };
    tracing::info!("stopping: no new connections, open requests are finished");
    stop.send_replace(true);
    match tokio::time::timeout(DRAIN, server).await {
        Ok(ended) => ended.map_err(failed)?,
        Err(_) => tracing::warn!("some requests did not end in time and are cut off"),
    }
    lost
}

/// SIGTERM or Ctrl-C.
pub(crate) struct StopSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn listen(host: IpAddr, port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((host, port)).await.map_err(|e| {
        Failure::new(format!("cannot listen on {host}:{port}: {e}; set PORT to a free port, or 0 to take one"))
    })
}

/// Writes the port beside its place and moves it there, so that a reader never sees half a number.
fn write_port(path: &Path, address: SocketAddr) -> Result<(), Failure> {
    let draft = path.with_extension("tmp");
    std::fs::write(&draft, address.port().to_string())
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|e| Failure::new(format!("cannot write --port-file {}: {e}", path.display())))
}

fn health(args: &ServeArgs, parts: &Parts, worker: bool, database: String) -> HealthState {
    let (status, hint) = match &parts.provider {
        Provider::Ready(_) => ("ready", None),
        Provider::Disabled => ("disabled", Some("set EMBEDDING_PROVIDER to search by meaning too".to_owned())),
        Provider::ModelMissing { dir } => (
            "model_missing",
            Some(format!(
                "run `aionis model pull`, or `aionis model import PATH`, for {}; then restart",
                dir.display()
            )),
        ),
    };
    let space = parts.store.space();
    HealthState {
        database_target_hash: Some(database),
        engine: parts.store.engine(),
        embedding: EmbeddingState { provider: space.name.clone(), dim: space.dim, status, hint },
        worker,
        outbox_age_max_s: args.http.ready_outbox_age_max_s,
    }
}

fn announce(args: &ServeArgs, parts: &Parts, limits: &LimitSettings, address: SocketAddr, started: Instant) {
    if let Provider::ModelMissing { dir } = &parts.provider {
        tracing::warn!(
            dir = %dir.display(),
            "the built-in embedding model is not installed: recall searches words only; run `aionis model pull`"
        );
    }
    tell_settings(args, parts, limits);
    tracing::info!(
        start_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "Server listening at http://{address}"
    );
}

/// The settings an operator asks about first; no secrets.
fn tell_settings(args: &ServeArgs, parts: &Parts, limits: &LimitSettings) {
    let (memory, storage) = (&args.settings.memory, &args.settings.storage);
    let (recall, gates) = (&args.settings.recall, &args.settings.gates);
    tracing::info!(
        app_env = ?memory.app_env,
        embedding_provider = parts.store.space().name,
        embedding_dim = parts.store.space().dim,
        scope = memory.memory_scope,
        tenant_id = memory.memory_tenant_id,
        engine = parts.store.engine(),
        small_pages = memory::is_in_small_pages(),
        store = wiring::store_options(storage).place(),
        auth_mode = ?args.http.auth.mode(),
        memory_recall_profile = recall.memory_recall_profile.as_str(),
        memory_recall_profile_policy = recall.memory_recall_profile_policy_json,
        memory_recall_adaptive_downgrade_enabled = recall.memory_recall_adaptive_downgrade_enabled,
        memory_recall_adaptive_wait_ms = recall.memory_recall_adaptive_wait_ms,
        memory_recall_adaptive_target_profile = recall.memory_recall_adaptive_target_profile.as_str(),
        rate_limit_enabled = limits.addresses.is_some(),
        tenant_quota_enabled = limits.tenants.is_some(),
        recall_text_embed_cache_enabled = memory.recall_text_embed_cache_enabled,
        recall_text_embed_cache_ttl_ms = memory.recall_text_embed_cache_ttl_ms,
        recall_text_embed_batch_enabled = memory.recall_text_embed_batch_enabled,
        recall_text_embed_batch_max_size = memory.recall_text_embed_batch_max_size,
        recall_text_embed_batch_max_wait_ms = memory.recall_text_embed_batch_max_wait_ms,
        recall_text_embed_batch_max_inflight = memory.recall_text_embed_batch_max_inflight,
        db_pool_max = storage.db_pool_max,
        api_recall_max_inflight = gates.recall_max_inflight(storage),
        api_recall_queue_max = gates.api_recall_queue_max,
        api_write_max_inflight = gates.api_write_max_inflight,
        api_write_queue_max = gates.api_write_queue_max,
        api_commit_waiters_max = gates.api_commit_waiters_max,
        api_connections_max = args.http.connections.api_connections_max,
        api_bodies_max_bytes = args.http.connections.api_bodies_max_bytes,
        slow_request_ms = args.settings.telemetry.slow_request_ms,
        slow_statement_ms = args.settings.telemetry.slow_statement_ms,
        traces = args.settings.telemetry.traces_url().is_some(),
        "memory api config"
    );
}

/// Loads what was used last, after the service answers; a failure only makes the first recall slower.
async fn warm(store: Arc<dyn Deployment>) {
    match store.warm(WARM_SCOPES).await {
        Ok(scopes) => tracing::debug!(scopes, bytes = store.image_bytes(), "scope images are loaded"),
        Err(e) => tracing::warn!(error = %e, "scope images could not be loaded ahead"),
    }
}

/// Folds recorded samples, which otherwise grow until the next scrape.
async fn upkeep(metrics: metrics_exporter_prometheus::PrometheusHandle) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn served(
        signal: impl Future<Output = ()>,
        lost: impl Future<Output = String>,
    ) -> (Result<(), Failure>, bool) {
        let (stop, _stopped) = watch::channel(false);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let bounds = Bounds { connections_max: 1, head_timeout: Duration::from_secs(1) };
        let served = serve(listener, axum::Router::new(), bounds, Until { stop: &stop, signal, lost }).await;
        (served, *stop.borrow())
    }

    #[tokio::test]
    async fn a_lost_loop_ends_the_service_with_an_error_and_the_signal_ends_it_well() {
        let mut loops = Loops::default();
        loops.start("outbox", async { panic!("planted") });
        let (failed, told) = served(std::future::pending(), loops.lost()).await;
        let failure = failed.unwrap_err().to_string();
        assert!(failure.contains("the loop outbox failed") && failure.contains("planted"), "{failure}");
        assert!(told, "the others are told to stop");
        let (well, told) = served(std::future::ready(()), std::future::pending()).await;
        well.unwrap();
        assert!(told);
    }
}

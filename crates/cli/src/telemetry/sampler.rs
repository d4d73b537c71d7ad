//! Reads gauges now and then: what the process holds, what the store holds, and, within a limit, what only the database
//! knows. A scrape reads none of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{deadline, ports::store::StoreError};
use aionis_engine::Engine;
use aionis_store::Deployment;

const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time a sample may take the database.
const SAMPLE_MAX: Duration = Duration::from_secs(2);
/// The chain's height is known for what this process writes; what others write is looked up once per so many samples.
const HEIGHT_EVERY: u32 = 12;

/// Samples until it is stopped.
pub(crate) async fn run(store: Arc<dyn Deployment>, engine: Arc<Engine>, started: Instant) {
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    metrics::gauge!("aionis_build_info", "version" => env!("CARGO_PKG_VERSION"), "engine" => store.engine()).set(1.0);
    let (mut samples, mut failing): (u32, bool) = (0, false);
    loop {
        every.tick().await;
        process(started);
        held(&*store);
        let with_height = samples.is_multiple_of(HEIGHT_EVERY);
        samples = samples.wrapping_add(1);
        match sample(&*store, &engine, with_height).await {
            Ok(()) => failing = false,
            Err(e) => {
                metrics::counter!("aionis_sample_failures_total").increment(1);
                // Said once per failure, not once per sample.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %e, "gauges of the database could not be read; they keep their values");
                }
            }
        }
    }
}

async fn sample(store: &dyn Deployment, engine: &Engine, with_height: bool) -> Result<(), StoreError> {
    let work = async {
        engine.sample_outbox().await?;
        if with_height {
            engine.note_chain_height(store.chain_height().await?);
        }
        Ok(())
    };
    let bounded = deadline::within(Instant::now() + SAMPLE_MAX, work);
    let late = |_| Err(StoreError::Unavailable("the database took too long".to_owned()));
    tokio::time::timeout(SAMPLE_MAX, bounded).await.unwrap_or_else(late)
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn held(store: &dyn Deployment) {
    let gauges = store.gauges();
    metrics::gauge!("aionis_image_bytes").set(gauges.image_bytes as f64);
    if let Some(pool) = gauges.pool {
        metrics::gauge!("aionis_pool_connections").set(pool.connections as f64);
        metrics::gauge!("aionis_pool_idle_connections").set(pool.idle as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn process(started: Instant) {
    metrics::gauge!("aionis_process_uptime_seconds").set(started.elapsed().as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("aionis_process_resident_memory_bytes").set(bytes as f64);
    }
}

/// Resident memory; none where the system does not tell it in this way.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

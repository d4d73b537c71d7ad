//! Logs and metrics of the long-running commands.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::failure::Failure;

/// Logs to stdout: JSON lines, or plain text on a terminal. The level comes from `RUST_LOG`, else `info`.
pub(crate) fn logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // A second initialisation only happens in tests and keeps the first.
    let _ = if std::io::stdout().is_terminal() {
        registry.with(fmt::layer().with_target(false)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
    };
}

/// Installs the metrics recorder.
pub(crate) fn metrics() -> Result<PrometheusHandle, Failure> {
    const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .map_err(|e| Failure::new(format!("metrics cannot be set up: {e}")))?
        .install_recorder()
        .map_err(|e| Failure::new(format!("metrics cannot be set up: {e}")))
}

//! Logs, metrics and traces of the long-running commands.

pub(crate) mod catalogue;
pub(crate) mod sampler;

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    failure::Failure,
    settings::{LogFormat, LogSettings, environment},
};

/// Logs to stdout, as the settings say.
pub(crate) fn logs(settings: &LogSettings) -> Result<(), Failure> {
    let filter = settings.filter()?;
    let is_text = match settings.log_format {
        Some(format) => format == LogFormat::Text,
        None => std::io::stdout().is_terminal(),
    };
    let lines = if is_text {
        fmt::layer().with_target(false).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|e| Failure::new(format!("logs cannot be set up: {e}")))
}

/// Names variables that have no effect.
pub(crate) fn warn_of_variables() {
    for unknown in environment::unknown() {
        tracing::warn!(name = unknown.name, nearest = unknown.nearest, "this variable is no setting; is it misspelt?");
    }
    for retired in environment::retired_and_set() {
        tracing::warn!(
            name = retired.name,
            reason = retired.reason,
            instead = retired.instead,
            "this variable of the earlier implementation is not read"
        );
    }
}

/// Bounds of the buckets of most histograms, in seconds.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Those of ages in the outbox.
const AGES: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0];

/// Installs the metrics recorder and describes all metrics.
pub(crate) fn metrics() -> Result<PrometheusHandle, Failure> {
    let refused = |e: metrics_exporter_prometheus::BuildError| Failure::new(format!("metrics cannot be set up: {e}"));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full("aionis_outbox_age_seconds".to_owned()), AGES))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(refused)?;
    catalogue::describe();
    Ok(handle)
}

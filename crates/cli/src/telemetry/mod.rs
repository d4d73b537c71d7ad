//! Logs, metrics and traces of the long-running commands.

pub(crate) mod catalogue;
pub(crate) mod sampler;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "no_traces.rs"]
mod traces;

use std::io::IsTerminal;

pub(crate) use self::traces::Traces;

use aionis_api::ContinueTrace;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{Layer, Registry, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    failure::Failure,
    settings::{LogFormat, LogSettings, TelemetrySettings, environment},
};

/// Logs to stdout, as the settings say.
pub(crate) fn logs(settings: &LogSettings) -> Result<(), Failure> {
    install(settings, None)
}

/// Logs, and traces if an endpoint is set. Must be called inside a tokio runtime.
pub(crate) fn start(settings: &TelemetrySettings) -> Result<Option<Traces>, Failure> {
    let (traces, layer) = traces::start(settings)?.unzip();
    install(&settings.logs, layer)?;
    Ok(traces)
}

/// How requests continue the traces of their callers, when there are traces.
pub(crate) fn continue_trace(traces: Option<&Traces>) -> Option<ContinueTrace> {
    traces.map(|_| traces::continue_trace as ContinueTrace)
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn install(settings: &LogSettings, traces: Option<BoxedLayer>) -> Result<(), Failure> {
    let filter = settings.filter()?;
    let is_text = match settings.log_format {
        Some(format) => format == LogFormat::Text,
        None => std::io::stdout().is_terminal(),
    };
    let lines: BoxedLayer = if is_text {
        fmt::layer().with_target(false).with_filter(filter).boxed()
    } else {
        let json = fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
        json.with_filter(filter).boxed()
    };
    let layers: Vec<BoxedLayer> = std::iter::once(lines).chain(traces).collect();
    tracing_subscriber::registry()
        .with(layers)
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

/// Bounds of the buckets of most histograms, in seconds. Whatever `aionis scale advise` compares a percentile with is one of
/// them: within a bucket a percentile is guessed.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0];
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

#[cfg(test)]
mod bucket_tests {
    use aionis_core::gates::scale::ScaleThresholds;

    use super::{AGES, SECONDS};

    #[test]
    fn every_latency_the_scale_advice_compares_is_an_edge_of_a_bucket() {
        let thresholds = serde_json::to_value(ScaleThresholds::default()).unwrap();
        let latencies: Vec<_> =
            thresholds.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_ms")).collect();
        assert!(latencies.len() >= 4, "{thresholds}");
        for (name, ms) in latencies {
            let seconds = ms.as_f64().unwrap() / 1e3;
            assert!(SECONDS.iter().any(|edge| (edge - seconds).abs() < 1e-9), "{name}: {seconds} s is within a bucket");
        }
        // The wait for a connection that is a burden.
        assert!(SECONDS.contains(&crate::commands::scale::POOL_WAIT_S));
    }

    #[test]
    fn buckets_go_up() {
        for bounds in [SECONDS, AGES] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: TelemetrySettings,
    }

    fn settings(flags: &[&str]) -> TelemetrySettings {
        Flags::parse_from(std::iter::once("aionis").chain(flags.iter().copied())).settings
    }

    #[tokio::test]
    async fn there_are_no_traces_without_an_endpoint() {
        assert!(traces::start(&settings(&[])).unwrap().is_none());
        let endpoint = "--otel-exporter-otlp-endpoint=http://127.0.0.1:1";
        assert!(traces::start(&settings(&[endpoint, "--otel-sdk-disabled=true"])).unwrap().is_none());
        assert!(traces::start(&settings(&[endpoint])).unwrap().is_some());
    }

    #[test]
    fn the_address_of_traces_wins_over_the_base_address() {
        let base = "--otel-exporter-otlp-endpoint=http://127.0.0.1:1/";
        let url = |flags: &[&str]| settings(flags).traces_url().unwrap().1;
        assert_eq!(url(&[base]), "http://127.0.0.1:1/v1/traces");
        assert_eq!(url(&[base, "--otel-exporter-otlp-traces-endpoint=http://127.0.0.1:2/x"]), "http://127.0.0.1:2/x");
    }
}

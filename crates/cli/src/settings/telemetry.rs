//! Settings of logs and traces.

use std::{str::FromStr, time::Duration};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use tracing_subscriber::EnvFilter;

use super::{SecretArg, boolean};
use crate::failure::Failure;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Which traces are kept, by the names of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sampler {
    #[value(name = "always_on")]
    AlwaysOn,
    #[value(name = "always_off")]
    AlwaysOff,
    #[value(name = "traceidratio")]
    TraceIdRatio,
    #[value(name = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    #[value(name = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    #[value(name = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// How log lines look and which are written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
pub(crate) struct LogSettings {
    /// json or text; unset for text on a terminal and JSON elsewhere.
    #[arg(long, env = "AIONIS_LOG_FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Which log lines are written: a level, or directives such as info,aionis_store=debug.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(crate) log_filter: String,
}

/// What is logged, and where traces go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
pub(crate) struct TelemetrySettings {
    /// Time of a request from which on a warning names its stages, in ms; 0 for never.
    #[arg(long, env = "AIONIS_SLOW_REQUEST_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub(crate) slow_request_ms: u64,
    /// Time of a database statement or transaction from which on a warning names it, in ms; 0 for never.
    #[arg(long, env = "AIONIS_SLOW_STATEMENT_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub(crate) slow_statement_ms: u64,
    /// Send no traces, whatever else is set.
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) otel_sdk_disabled: bool,
    /// Base address of an OTLP collector; /v1/traces is appended. Unset for no traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", default_value = "", hide_default_value = true)]
    pub(crate) otel_exporter_otlp_endpoint: String,
    /// Whole address for traces; wins over the base address.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", default_value = "", hide_default_value = true)]
    pub(crate) otel_exporter_otlp_traces_endpoint: String,
    /// Headers of requests to the collector, as name=value pairs, comma separated.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) otel_exporter_otlp_headers: SecretArg,
    /// Headers of requests with traces; they replace the others when there are any.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) otel_exporter_otlp_traces_headers: SecretArg,
    /// Protocol to the collector; http/protobuf is the one there is.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = "http/protobuf")]
    pub(crate) otel_exporter_otlp_protocol: String,
    /// Longest time of a request to the collector, in ms.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) otel_exporter_otlp_timeout: u64,
    /// Name of this service in traces.
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "aionis")]
    pub(crate) otel_service_name: String,
    /// Attributes of this service in traces, as name=value pairs, comma separated.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", default_value = "", hide_default_value = true)]
    pub(crate) otel_resource_attributes: String,
    /// Which traces are kept.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_enum, default_value = "parentbased_always_on")]
    pub(crate) otel_traces_sampler: Sampler,
    /// Share of traces that are kept, from 0 to 1, for the samplers by ratio.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "", hide_default_value = true)]
    pub(crate) otel_traces_sampler_arg: String,
    #[command(flatten)]
    pub(crate) logs: LogSettings,
}

impl LogSettings {
    /// Which lines are written.
    pub(crate) fn filter(&self) -> Result<EnvFilter, Failure> {
        EnvFilter::try_new(&self.log_filter).map_err(|e| {
            Failure::new(format!("RUST_LOG: must be a level or directives: {e} (given: {:?})", self.log_filter))
        })
    }
}

impl TelemetrySettings {
    /// What cannot be used, a line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(problem) = self.logs.filter() {
            problems.push(problem.to_string());
        }
        let Some((variable, url)) = self.traces_url() else { return problems };
        let is_http = |url: &str| {
            url.parse::<http::Uri>()
                .is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some())
        };
        if !is_http(&url) {
            problems.push(format!("{variable}: must look like http://127.0.0.1:4318"));
        }
        if self.otel_exporter_otlp_protocol != "http/protobuf" {
            problems.push(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf (given: {:?})",
                self.otel_exporter_otlp_protocol
            ));
        }
        if let Err(variable) = self.headers() {
            problems.push(format!(
                "{variable}: must be name=value pairs, comma separated (given: a value that is not shown)"
            ));
        }
        if let Err(pair) = pairs(&self.otel_resource_attributes) {
            problems
                .push(format!("OTEL_RESOURCE_ATTRIBUTES: must be name=value pairs, comma separated (given: {pair:?})"));
        }
        if self.ratio().is_none() {
            problems.push(format!(
                "OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1 (given: {:?})",
                self.otel_traces_sampler_arg
            ));
        }
        problems
    }

    /// Where traces go, and the variable that says so; none for nowhere.
    pub(crate) fn traces_url(&self) -> Option<(&'static str, String)> {
        let (own, base) = (self.otel_exporter_otlp_traces_endpoint.trim(), self.otel_exporter_otlp_endpoint.trim());
        if self.otel_sdk_disabled {
            None
        } else if !own.is_empty() {
            Some(("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own.to_owned()))
        } else if !base.is_empty() {
            Some(("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}/v1/traces", base.trim_end_matches('/'))))
        } else {
            None
        }
    }

    /// Headers of requests to the collector, percent-decoded as OpenTelemetry says.
    ///
    /// # Errors
    /// The variable that holds what is no header.
    pub(crate) fn headers(&self) -> Result<HeaderMap, &'static str> {
        let own = &self.otel_exporter_otlp_traces_headers.0;
        let (variable, text) = if own.trim().is_empty() {
            ("OTEL_EXPORTER_OTLP_HEADERS", &self.otel_exporter_otlp_headers.0)
        } else {
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", own)
        };
        let header = |(name, value): (String, String)| {
            let value = percent_decode_str(&value).decode_utf8().ok()?;
            Some((HeaderName::from_str(&name).ok()?, HeaderValue::from_str(&value).ok()?))
        };
        let pairs = pairs(text).map_err(|_| variable)?;
        pairs.into_iter().map(|pair| header(pair).ok_or(variable)).collect()
    }

    /// Share of traces kept by the samplers by ratio; none when it is not one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let text = self.otel_traces_sampler_arg.trim();
        if text.is_empty() {
            return Some(1.0);
        }
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
    }

    /// Time from which on a statement is slow; none for never.
    pub(crate) fn slow_statement(&self) -> Option<Duration> {
        (self.slow_statement_ms > 0).then(|| Duration::from_millis(self.slow_statement_ms))
    }

    /// Time from which on a request is slow; none for never.
    pub(crate) fn slow_request(&self) -> Option<Duration> {
        (self.slow_request_ms > 0).then(|| Duration::from_millis(self.slow_request_ms))
    }
}

/// `a=1,b=2` as pairs, or the part that is none.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
            _ => Err(part.to_owned()),
        })
        .collect()
}

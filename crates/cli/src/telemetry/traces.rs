//! Traces to an OpenTelemetry collector over OTLP, protobuf by HTTP. Nothing is sent unless an endpoint is set.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aionis_engine::stages::TRACE_TARGET;
use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT},
};
use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn};

use super::BoxedLayer;
use crate::{
    failure::Failure,
    settings::telemetry::{Sampler as SamplerSetting, TelemetrySettings, pairs},
};

/// Longest time the last spans may take to be sent at the end.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// More of an answer than this is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Traces under way; ended by [`Traces::end`].
pub(crate) struct Traces(SdkTracerProvider);

/// Starts traces when an endpoint is set. Must be called inside a tokio runtime: requests run on it.
pub(super) fn start(settings: &TelemetrySettings) -> Result<Option<(Traces, BoxedLayer)>, Failure> {
    let Some((_, url)) = settings.traces_url() else { return Ok(None) };
    let refused = |e: &dyn std::fmt::Display| Failure::new(format!("traces cannot be set up: {e}"));
    let timeout = Duration::from_millis(settings.otel_exporter_otlp_timeout);
    let headers = settings.headers().map_err(|variable| Failure::new(format!("{variable}: holds no headers")))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(timeout, headers).map_err(|e| refused(&e))?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(timeout)
        .build()
        .map_err(|e| refused(&e))?;
    let attributes = pairs(&settings.otel_resource_attributes).unwrap_or_default();
    let resource = Resource::builder_empty()
        .with_attributes(attributes.into_iter().map(|(name, value)| KeyValue::new(name, value)))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_service_name(settings.otel_service_name.clone())
        .build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler(settings))
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("aionis"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.target() == TRACE_TARGET))
        .boxed();
    Ok(Some((Traces(provider), layer)))
}

fn sampler(settings: &TelemetrySettings) -> Sampler {
    let ratio = settings.ratio().unwrap_or(1.0);
    let by_parent = |root| Sampler::ParentBased(Box::new(root));
    match settings.otel_traces_sampler {
        SamplerSetting::AlwaysOn => Sampler::AlwaysOn,
        SamplerSetting::AlwaysOff => Sampler::AlwaysOff,
        SamplerSetting::TraceIdRatio => Sampler::TraceIdRatioBased(ratio),
        SamplerSetting::ParentBasedAlwaysOn => by_parent(Sampler::AlwaysOn),
        SamplerSetting::ParentBasedAlwaysOff => by_parent(Sampler::AlwaysOff),
        SamplerSetting::ParentBasedTraceIdRatio => by_parent(Sampler::TraceIdRatioBased(ratio)),
    }
}

/// Makes the span of a request part of the trace its `traceparent` names.
pub(super) fn continue_trace(span: &tracing::Span, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if context.span().span_context().is_valid() {
        // A span that is not recorded has no parent to be given.
        let _ = span.set_parent(context);
    }
}

impl Traces {
    /// Sends what is left, within a limit.
    pub(crate) async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_MAX));
        match tokio::time::timeout(FLUSH_MAX + Duration::from_secs(1), ended).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last traces could not be sent"),
        }
    }
}

/// The HTTP client of this program, for the thread that sends traces.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    /// Those of the settings.
    headers: HeaderMap,
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

impl Client {
    fn new(timeout: Duration, headers: HeaderMap) -> Result<Self, reqwest::Error> {
        aionis_embed::install_crypto();
        let client = reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { client, headers, runtime: tokio::runtime::Handle::current(), failing: AtomicBool::new(false) })
    }

    /// Said once per failure, not once per batch.
    fn note(&self, failure: Option<String>) {
        let was_failing = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !was_failing => {
                tracing::warn!(failure, "traces cannot be sent to the collector; they are dropped until they can");
            }
            None if was_failing => tracing::info!("traces are sent again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        set_headers(request.headers_mut(), &self.headers);
        let client = self.client.clone();
        // The thread that sends has no runtime of its own.
        let answer = self.runtime.spawn(async move { send(&client, request).await }).await.map_err(HttpError::from);
        let answer = answer.and_then(|answer| answer);
        self.note(match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(e) => Some(e.to_string()),
        });
        answer
    }
}

/// Headers that say how a request is sent, which the exporter sets itself.
const OF_EXPORTER: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT];

/// The exporter puts the headers of the environment over all others. Those of the settings are what holds: a flag wins
/// over its variable.
fn set_headers(headers: &mut HeaderMap, settings: &HeaderMap) {
    let mut set: HeaderMap =
        OF_EXPORTER.into_iter().filter_map(|name| headers.remove(&name).map(|value| (name, value))).collect();
    set.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
    *headers = set;
}

async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (parts, body) = request.into_parts();
    let sent = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await;
    let mut answer = sent.map_err(reqwest::Error::without_url)?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err("the collector's answer is too long".into());
        }
    }
    Ok(response.body(Bytes::from(body))?)
}

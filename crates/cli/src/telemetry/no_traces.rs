//! In place of traces in a program that was built without them.

use http::HeaderMap;

use super::BoxedLayer;
use crate::{failure::Failure, settings::TelemetrySettings};

/// Traces under way: never.
pub(crate) enum Traces {}

/// Refuses an endpoint, so that nobody waits for traces in vain.
pub(super) fn start(settings: &TelemetrySettings) -> Result<Option<(Traces, BoxedLayer)>, Failure> {
    match settings.traces_url() {
        None => Ok(None),
        Some((variable, _)) => {
            Err(Failure::new(format!("{variable}: this program was built without the feature otlp; unset it")))
        }
    }
}

/// There is no trace to continue.
pub(super) fn continue_trace(_span: &tracing::Span, _headers: &HeaderMap) {}

impl Traces {
    /// There is nothing to send.
    pub(crate) async fn end(self) {
        match self {}
    }
}

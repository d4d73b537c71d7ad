//! `GET /metrics`: Prometheus text, without tenant labels. It reads nothing but memory.

use aionis_core::error::{DomainError, ErrorKind};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{error::ApiError, state::AppState};

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub(crate) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let Some(handle) = &state.metrics else {
        return Err(
            DomainError::new(ErrorKind::NotFound, "metrics_disabled", "no metrics recorder is installed").into()
        );
    };
    for (gate, load) in [("recall", state.engine.recall_gate().load()), ("write", state.engine.write_gate().load())] {
        metrics::gauge!("aionis_gate_inflight", "gate" => gate).set(load.0 as f64);
        metrics::gauge!("aionis_gate_queued", "gate" => gate).set(load.1 as f64);
    }
    metrics::gauge!("aionis_commit_waiters").set(state.engine.commit_waiters() as f64);
    metrics::gauge!("aionis_body_held_bytes").set(state.bodies.held_bytes() as f64);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response())
}

//! `GET /health`, `/health/live`, `/health/ready`.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::state::AppState;

/// What readiness reports besides the store.
#[derive(Clone, Debug)]
pub struct HealthState {
    /// What tells the database from others: a digest of an id that is stored in it. None where there is no database.
    pub database_target_hash: Option<String>,
    /// `embedded` or `postgres`.
    pub engine: &'static str,
    /// The embedding space and whether it can be used.
    pub embedding: EmbeddingState,
    /// Whether this process derives vectors itself.
    pub worker: bool,
    /// Age of the oldest waiting outbox item above which the service is not ready, in seconds.
    pub outbox_age_max_s: u64,
}

/// The embedding space as readiness shows it.
#[derive(Clone, Debug)]
pub struct EmbeddingState {
    /// `provider:model`.
    pub provider: String,
    /// Dimension of vectors.
    pub dim: usize,
    /// `ready`, `model_missing` or `disabled`.
    pub status: &'static str,
    /// What to do when it is not ready.
    pub hint: Option<String>,
}

/// Always well as long as the process answers; does no I/O.
pub(crate) async fn health(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "ok": true, "database_target_hash": state.health.database_target_hash }))
}

/// Whether the process answers.
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Whether the service can do its work: the store answers and derived work is not stuck. A missing model does not make
/// it unready (words are searched all the same) but is said.
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    let health = &state.health;
    let embedding = json!({
        "provider": health.embedding.provider,
        "dim": health.embedding.dim,
        "status": health.embedding.status,
        "hint": health.embedding.hint,
    });
    let mut warnings = Vec::new();
    if health.embedding.status != "ready" {
        warnings.push("recall searches words only: there is no embedding model".to_owned());
    }
    let (store, outbox, stuck) = match state.engine.outbox_lately().await {
        Ok(status) => {
            let age_s =
                status.oldest_pending.map_or(0, |since| state.engine.clock().now().micros_since(since) / 1_000_000);
            let stuck = health.embedding.status == "ready" && age_s > health.outbox_age_max_s;
            if stuck {
                warnings.push(format!("the oldest outbox item waits for {age_s} s: is a worker running?"));
            }
            if status.dead > 0 {
                warnings.push(format!("{} outbox item(s) were given up", status.dead));
            }
            let outbox = json!({ "pending": status.pending, "dead": status.dead, "oldest_pending_s": age_s });
            ("ok".to_owned(), outbox, stuck)
        }
        Err(e) => {
            tracing::error!(error = %e, "the store does not answer");
            ("unavailable".to_owned(), Value::Null, false)
        }
    };
    let ok = store == "ok" && !stuck;
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ok": ok,
        "engine": health.engine,
        "store": store,
        "worker": health.worker,
        "embedding": embedding,
        "outbox": outbox,
        "warnings": warnings,
    });
    (status, Json(body)).into_response()
}

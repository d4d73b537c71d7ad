//! The first steps of the release gate: is there a server that answers as it should, is it of this version's contract, and
//! does it use the database that is judged?

use std::{sync::Arc, time::Duration};

use aionis_store::Deployment;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::{
    commands::bench::{Client, Target},
    failure::Failure,
    wiring,
};

/// Longest time of one question: as long as a server works on a request unless it is told otherwise.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What a step found: evidence, and reasons why it does not hold.
pub(super) struct Probed {
    pub(super) evidence: Value,
    pub(super) reasons: Vec<String>,
}

/// An answer, or why there is none.
async fn asked(target: &Arc<Target>, method: Method, path: &str, body: &'static str) -> (Value, Option<u16>, Bytes) {
    let mut client = Client::new(Arc::clone(target), ANSWER_MAX);
    match client.fetch(method, path, Bytes::from_static(body.as_bytes())).await {
        Ok((status, answer)) => (json!({ "path": path, "status": status }), Some(status), answer),
        Err(failure) => (json!({ "path": path, "error": failure.to_string() }), None, Bytes::new()),
    }
}

/// Asks for health and readiness, and for a recall that nobody could answer: it has to be refused as the caller's mistake,
/// which a server does only behind authentication and in working order.
pub(super) async fn api(target: &Arc<Target>) -> (Probed, Option<String>) {
    let mut reasons = Vec::new();
    let (health, status, answer) = asked(target, Method::GET, "/health", "").await;
    if status != Some(200) {
        reasons.push(reason("health", status));
    }
    let told: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
    let hash = told["database_target_hash"].as_str().map(str::to_owned);
    let (ready, status, answer) = asked(target, Method::GET, "/health/ready", "").await;
    if status != Some(200) {
        reasons.push(reason("ready", status));
    }
    let readiness: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
    let (recall, status, _) = asked(target, Method::POST, "/v1/memory/recall", "{}").await;
    if status != Some(400) {
        reasons.push(reason("recall", status));
    }
    let evidence = json!({
        "requests": [health, ready, recall],
        "expected": { "/health": 200, "/health/ready": 200, "/v1/memory/recall": 400 },
        "database_target_hash": hash,
        "readiness": readiness,
        "reasons": reasons,
    });
    (Probed { evidence, reasons }, hash)
}

fn reason(what: &str, status: Option<u16>) -> String {
    match status {
        None => format!("{what}_unreachable"),
        Some(401 | 403) => format!("{what}_not_authorized"),
        Some(status) => format!("{what}_status_{status}"),
    }
}

/// Whether the server serves the very document this program was built with.
pub(super) async fn contract(target: &Arc<Target>) -> Probed {
    let (request, status, answer) = asked(target, Method::GET, "/openapi.json", "").await;
    let served: Option<Value> = serde_json::from_slice(&answer).ok();
    let own = aionis_api::document();
    let reasons = match (status, &served) {
        (Some(200), Some(served)) if *served == own => Vec::new(),
        (Some(200), _) => vec!["contract_differs".to_owned()],
        (status, _) => vec![reason("openapi", status)],
    };
    let evidence = json!({
        "request": request,
        "served_sha256": served.as_ref().map(|served| aionis_core::canon::canonical_sha256(served).to_hex()),
        "own_sha256": aionis_core::canon::canonical_sha256(&own).to_hex(),
        "served_version": served.as_ref().map(|served| served["info"]["version"].clone()),
        "own_version": own["info"]["version"],
        "reasons": reasons,
    });
    Probed { evidence, reasons }
}

/// Whether the database that is judged says it is the one the server uses. Unknown is no match. A copy says the same as what
/// it was copied from: only what is written over HTTP tells them apart, which the benchmark does.
pub(super) async fn database(store: &dyn Deployment, servers: Option<&str>) -> Result<(Probed, Option<bool>), Failure> {
    let own = wiring::identity(store).await?;
    let matches = match (own.as_deref(), servers) {
        (Some(own), Some(servers)) => Some(own == servers),
        _ => None,
    };
    let reasons = match matches {
        Some(true) => Vec::new(),
        Some(false) => vec!["db_target_mismatch".to_owned()],
        None => vec!["db_target_unknown".to_owned()],
    };
    let evidence = json!({
        "database_target_hash": own,
        "server_database_target_hash": servers,
        "match": matches,
        "reasons": reasons,
    });
    Ok((Probed { evidence, reasons }, matches))
}

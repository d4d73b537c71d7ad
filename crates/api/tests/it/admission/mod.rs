//! Who is admitted: rates, turns, and what recalls that waited get.

mod bodies;
mod browser;
mod commits;
mod fairness;
mod gone;
mod held;
mod profiles;
mod rates;

use std::{net::SocketAddr, time::Duration};

use aionis_core::admission::Rate;
use aionis_engine::{GateSettings, admission::Rates};
use axum::{
    extract::ConnectInfo,
    http::{Request, header},
};
use serde_json::Value;

use crate::harness::{Answer, Service};

/// So many at once and then practically nothing.
const fn only(burst: u32) -> Rate {
    Rate { per_second: 0.001, burst, wait_max: Duration::ZERO }
}

const fn rates(rate: Rate) -> Rates {
    Rates { recall: rate, write: rate, debug_embeddings: rate, recall_text_embed: rate }
}

const fn gate(max_inflight: usize, max_queue: usize) -> GateSettings {
    GateSettings { max_inflight, max_queue, queue_timeout: Duration::from_secs(30) }
}

/// Lets others go on until it is so.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::task::yield_now().await;
    }
}

/// Posts as somebody with an address.
async fn post_from(service: &Service, peer: &str, headers: &[(&str, &str)], path: &str, body: &Value) -> Answer {
    let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json").extension(ConnectInfo(peer));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    service.send(request.body(body.to_string().into()).unwrap()).await
}

//! Fills the scope before measuring, and waits for derived vectors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::Value;

use super::BenchError;
use super::args::Operation;
use super::body::Bodies;
use super::client::Client;
use super::progress;
use super::report::{excerpt, rounded};

/// Pause between two looks at what is pending.
const POLL: Duration = Duration::from_millis(200);
/// Pause before a refused seeding request is sent again.
const BACKOFF: Duration = Duration::from_millis(250);
/// How often a refused seeding request is sent again.
const ATTEMPTS: u32 = 120;

/// What seeding came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SeedReport {
    pub(crate) nodes: u64,
    pub(crate) edges: u64,
    pub(crate) requests: u64,
    /// Requests that were refused for load (429, 503) and sent again.
    pub(crate) retries: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) nodes_per_s: f64,
    /// Waiting for derived vectors afterwards.
    pub(crate) drain: DrainReport,
    /// CPU seconds of the server for seeding and draining.
    pub(crate) server_cpu_s: Option<f64>,
    pub(crate) database_cpu_s: Option<f64>,
}

/// What became of the derived vectors that were pending.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DrainReport {
    pub(crate) state: DrainState,
    pub(crate) elapsed_s: f64,
    /// The last number of pending nodes seen.
    pub(crate) pending: Option<u64>,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DrainState {
    /// Nothing is pending any more.
    Drained,
    /// Something was still pending when the time was up.
    TimedOut,
    /// The server does not say what is pending (no such field, or recall by text is refused).
    NotReported,
}

/// Counts of the seeding requests.
#[derive(Clone, Copy, Debug, Default)]
struct Seeded {
    edges: u64,
    requests: u64,
    retries: u64,
}

/// Stores `nodes` nodes in sequence (edges of a request point into the one before), then waits for their vectors.
pub(crate) async fn seed(
    client: &mut Client,
    bodies: &Bodies,
    nodes: u64,
    sequence: &AtomicU64,
    limit: Duration,
) -> Result<SeedReport, BenchError> {
    let begin = Instant::now();
    let seeded = store(client, bodies, nodes).await?;
    let elapsed = begin.elapsed().as_secs_f64();
    let drain = drain(client, bodies, sequence, limit).await;
    Ok(SeedReport {
        nodes,
        edges: seeded.edges,
        requests: seeded.requests,
        retries: seeded.retries,
        elapsed_s: rounded(elapsed),
        nodes_per_s: rounded(nodes as f64 / elapsed.max(1e-6)),
        drain,
        server_cpu_s: None,
        database_cpu_s: None,
    })
}

async fn store(client: &mut Client, bodies: &Bodies, nodes: u64) -> Result<Seeded, BenchError> {
    let bar = progress::counted(nodes, "seeding");
    let mut seeded = Seeded::default();
    let mut first = 0;
    while first < nodes {
        let end = nodes.min(first + bodies.seed_batch_size());
        let batch = bodies.seed(first, end);
        seeded.retries += store_batch(client, batch.body).await?;
        seeded.requests += 1;
        seeded.edges += batch.edges;
        first = end;
        bar.inc(batch.nodes);
    }
    bar.finish_and_clear();
    Ok(seeded)
}

/// Sends one seeding request, again while the server refuses it for load; says how often that was.
async fn store_batch(client: &mut Client, body: Bytes) -> Result<u64, BenchError> {
    let path = Operation::Write20.path();
    for attempt in 0..=ATTEMPTS {
        let (status, answer) = client
            .fetch(Method::POST, path, body.clone())
            .await
            .map_err(|failure| BenchError::Unanswered { what: "seeding", failure })?;
        match status {
            200..=299 => return Ok(u64::from(attempt)),
            429 | 503 if attempt < ATTEMPTS => tokio::time::sleep(BACKOFF).await,
            _ => return Err(BenchError::Refused { what: "seeding", status, answer: excerpt(&answer) }),
        }
    }
    Ok(u64::from(ATTEMPTS))
}

/// Asks what is pending until nothing is, at most for `limit`.
pub(crate) async fn drain(client: &mut Client, bodies: &Bodies, sequence: &AtomicU64, limit: Duration) -> DrainReport {
    let line = progress::plain("waiting for derived vectors".to_owned());
    let begin = Instant::now();
    let mut last = None;
    let state = loop {
        let body = bodies.measured(Operation::RecallText, sequence.fetch_add(1, Ordering::Relaxed));
        match pending(client, body).await {
            Pending::Nodes(0) => {
                last = Some(0);
                break DrainState::Drained;
            }
            Pending::Nodes(nodes) => {
                last = Some(nodes);
                line.set_message(format!("waiting for derived vectors: {nodes} pending"));
                line.tick();
            }
            Pending::Absent => break if last.is_some() { DrainState::Drained } else { DrainState::NotReported },
            Pending::Later => {}
        }
        if begin.elapsed() + POLL > limit {
            break DrainState::TimedOut;
        }
        tokio::time::sleep(POLL).await;
    };
    line.finish_and_clear();
    DrainReport { state, elapsed_s: rounded(begin.elapsed().as_secs_f64()), pending: last }
}

/// One look at what is pending.
#[derive(Debug, PartialEq)]
enum Pending {
    Nodes(u64),
    /// The server does not say.
    Absent,
    /// No answer for now.
    Later,
}

async fn pending(client: &mut Client, body: Bytes) -> Pending {
    match client.fetch(Method::POST, Operation::RecallText.path(), body).await {
        Ok((status, answer)) => read_pending(status, &answer),
        Err(_) => Pending::Later,
    }
}

fn read_pending(status: u16, answer: &[u8]) -> Pending {
    match status {
        200..=299 => serde_json::from_slice::<Value>(answer)
            .ok()
            .and_then(|value| value.pointer("/pending/nodes")?.as_u64())
            .map_or(Pending::Absent, Pending::Nodes),
        429 | 500..=599 => Pending::Later,
        _ => Pending::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_is_pending() {
        assert_eq!(read_pending(200, br#"{"seeds":[],"pending":{"nodes":7}}"#), Pending::Nodes(7));
        assert_eq!(read_pending(200, b"{}"), Pending::Absent);
        assert_eq!(read_pending(429, b"{}"), Pending::Later);
        assert_eq!(read_pending(400, b"{}"), Pending::Absent);
    }
}

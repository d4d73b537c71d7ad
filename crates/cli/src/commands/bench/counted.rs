//! A fixed number of requests, for gates: seeds a scope, warms up, measures recalls and then writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aionis_core::canon::sha256_hex;
use http::Method;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::BenchError;
use super::args::{Operation, Shape, Vectors};
use super::body::{Bodies, BodyOptions};
use super::client::{Client, Failure, Target};
use super::load::{Load, Phase};
use super::report::rounded;
use super::seed::{self, SeedReport};

/// Longest time of one phase, however many requests are left: a server that hardly answers must not hold a gate for ever.
const PHASE_MAX: Duration = Duration::from_secs(900);
/// Decides the texts, so that every run seeds the same ones.
const SEED: u64 = 1;
/// Recalls whose answers are looked at.
const LOOKED_AT: u64 = 20;

/// What is asked of a server, and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// Tenant, if it is not the server's own.
    pub(crate) tenant: Option<String>,
    /// Scope; it should be empty.
    pub(crate) scope: String,
    /// Nodes to seed.
    pub(crate) nodes: u64,
    /// Recalls, and writes, before those that are measured.
    pub(crate) warmup: u64,
    /// Recalls that are measured.
    pub(crate) recalls: u64,
    /// Connections that recall.
    pub(crate) recall_connections: usize,
    /// Writes that are measured.
    pub(crate) writes: u64,
    /// Connections that write.
    pub(crate) write_connections: usize,
    /// Longest time of one request.
    pub(crate) timeout: Duration,
    /// Rest of a connection after each answer.
    pub(crate) pace: Duration,
    /// Longest wait for the vectors of the seeded nodes.
    pub(crate) drain: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CountedReport {
    /// SHA-256 over the seeded nodes and edges, whatever the scope is called.
    pub(crate) dataset_sha256: String,
    /// Seeding.
    pub(crate) seeding: SeedReport,
    /// Recalls that were looked at, and those of them that found nothing.
    pub(crate) looked_at: u64,
    /// Of these, answered with at least one seed.
    pub(crate) found_something: u64,
    /// Measured cases.
    pub(crate) cases: Vec<CaseReport>,
}

/// Figures of one case, as the reference shows them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CaseReport {
    /// `recall_text` or `write`.
    pub(crate) name: &'static str,
    pub(crate) total: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) rps: f64,
    /// Over the answers that were ok.
    pub(crate) latency_ms: Option<CaseLatency>,
    /// Answers by status, and requests without answer as `error:<kind>`.
    pub(crate) by_status: BTreeMap<String, u64>,
    pub(crate) transport_error_count: u64,
    pub(crate) transport_error_rate: f64,
}

/// Latencies in ms; percentiles by nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CaseLatency {
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

impl Counted {
    /// Seeds the scope and measures it.
    pub(crate) async fn run(&self, target: &Arc<Target>) -> Result<CountedReport, BenchError> {
        let nonce = Uuid::new_v4().as_u64_pair().0 >> 11;
        let bodies = Arc::new(bodies(&self.scope, self.tenant.as_deref(), nonce, self.nodes));
        let sequence = Arc::new(AtomicU64::new(0));
        let mut control = Client::new(Arc::clone(target), self.timeout);
        let seeding = seed::seed(&mut control, &bodies, self.nodes, &sequence, self.drain).await?;
        let mut cases = Vec::new();
        for (name, operation, count, connections) in [
            ("recall_text", Operation::RecallText, self.recalls, self.recall_connections),
            ("write", Operation::Write1, self.writes, self.write_connections),
        ] {
            if self.warmup > 0 && count > 0 {
                self.phase(target, &bodies, &sequence, (operation, self.warmup, connections)).await?;
            }
            let phase = self.phase(target, &bodies, &sequence, (operation, count, connections)).await?;
            cases.push(CaseReport::new(name, phase));
        }
        let found_something = found(&mut control, &bodies, &sequence).await;
        let dataset_sha256 = dataset(self.nodes);
        Ok(CountedReport { dataset_sha256, seeding, looked_at: LOOKED_AT, found_something, cases })
    }

    async fn phase(
        &self,
        target: &Arc<Target>,
        bodies: &Arc<Bodies>,
        sequence: &Arc<AtomicU64>,
        (operation, count, connections): (Operation, u64, usize),
    ) -> Result<Phase, BenchError> {
        let clients = (0..connections).map(|_| Client::new(Arc::clone(target), self.timeout)).collect();
        let load = Load {
            operation,
            bodies: Arc::clone(bodies),
            sequence: Arc::clone(sequence),
            duration: PHASE_MAX,
            max_requests: count,
            pace: self.pace,
        };
        let (_, phase) = load.run(Shape::Closed { connections }, clients).await?;
        Ok(phase)
    }
}

fn bodies(scope: &str, tenant: Option<&str>, nonce: u64, seeded: u64) -> Bodies {
    Bodies::new(&BodyOptions { scope, tenant, dim: None, vectors: Vectors::Derived, seed: SEED, nonce, seeded })
}

/// Digest of what is seeded, with a fixed address in the place of the run's.
fn dataset(nodes: u64) -> String {
    let bodies = bodies("dataset", None, 0, nodes);
    let mut digests = String::new();
    let mut first = 0;
    while first < nodes {
        let end = nodes.min(first + bodies.seed_batch_size());
        digests.push_str(&sha256_hex(&bodies.seed(first, end).body));
        first = end;
    }
    sha256_hex(digests)
}

/// How many recalls find something: a server that answers quickly and finds nothing is not fast.
async fn found(control: &mut Client, bodies: &Bodies, sequence: &AtomicU64) -> u64 {
    let mut found = 0;
    for _ in 0..LOOKED_AT {
        let body = bodies.measured(Operation::RecallText, sequence.fetch_add(1, Ordering::Relaxed));
        if let Ok((200, answer)) = control.fetch(Method::POST, Operation::RecallText.path(), body).await {
            let answer: Option<Value> = serde_json::from_slice(&answer).ok();
            let seeds = answer.as_ref().and_then(|answer| answer["seeds"].as_array());
            found += u64::from(seeds.is_some_and(|seeds| !seeds.is_empty()));
        }
    }
    found
}

impl CaseReport {
    fn new(name: &'static str, phase: Phase) -> Self {
        let (elapsed, tally) = (phase.elapsed.as_secs_f64(), phase.tally);
        let (total, ok) = (tally.requests, tally.ok());
        let mut by_status: BTreeMap<String, u64> =
            tally.by_status.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        if ok > 0 {
            by_status.insert("2xx".to_owned(), ok);
        }
        for (failure, count) in &tally.transport {
            by_status.insert(format!("error:{}", kind(*failure)), *count);
        }
        let transport: u64 = tally.transport.values().sum();
        Self {
            name,
            total,
            ok,
            failed: total - ok,
            rps: rounded(total as f64 / elapsed.max(1e-6)),
            latency_ms: CaseLatency::of(tally.latencies_us),
            by_status,
            transport_error_count: transport,
            transport_error_rate: transport as f64 / total.max(1) as f64,
        }
    }
}

const fn kind(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::Exchange => "exchange",
        Failure::Body => "body",
        Failure::Timeout => "timeout",
    }
}

impl CaseLatency {
    fn of(mut us: Vec<u32>) -> Option<Self> {
        let latency = super::stats::Latency::of(&mut us)?;
        let ms = |us: u32| f64::from(us) / 1_000.0;
        Some(Self {
            min: ms(us.first().copied().unwrap_or_default()),
            p50: ms(latency.p50_us),
            p95: ms(latency.p95_us),
            p99: ms(latency.p99_us),
            max: ms(latency.max_us),
            mean: latency.mean_us / 1_000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::stats::Tally;

    #[test]
    fn the_dataset_has_a_digest_that_only_its_size_changes() {
        assert_eq!(dataset(300), dataset(300));
        assert_ne!(dataset(300), dataset(301));
        assert_eq!(dataset(300).len(), 64);
    }

    #[test]
    fn what_failed_is_counted_by_its_kind_and_not_timed() {
        let mut tally = Tally::default();
        for us in [1_000, 3_000] {
            tally.record(Duration::from_micros(us), Ok((200, 1)));
        }
        tally.record(Duration::from_secs(9), Ok((503, 1)));
        tally.record(Duration::from_secs(9), Err(Failure::Timeout));
        let case = CaseReport::new("write", Phase { tally, elapsed: Duration::from_secs(2), dispatched: None });
        assert_eq!((case.total, case.ok, case.failed, case.transport_error_count), (4, 2, 2, 1));
        assert_eq!(case.latency_ms.map(|latency| (latency.min, latency.p95)), Some((1.0, 3.0)));
        let expected = [("2xx", 2), ("503", 1), ("error:timeout", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(case.by_status, BTreeMap::from(expected));
        let none =
            CaseReport::new("write", Phase { tally: Tally::default(), elapsed: Duration::ZERO, dispatched: None });
        assert_eq!((none.total, none.latency_ms), (0, None));
    }
}

//! Applies load: the closed loop and the open loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::BenchError;
use super::args::{Operation, Shape};
use super::body::Bodies;
use super::client::Client;
use super::schedule::{Dispatched, Schedule, Timeline};
use super::stats::Tally;

/// How long a worker rests after a request without an answer, so a dead server is not hammered.
const REST: Duration = Duration::from_millis(20);

/// What all workers of a phase share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) bodies: Arc<Bodies>,
    /// Numbers every measured request of the run, so none is repeated.
    pub(crate) sequence: Arc<AtomicU64>,
    pub(crate) duration: Duration,
    pub(crate) max_requests: u64,
    /// How long a connection of the closed loop rests after each answer.
    pub(crate) pace: Duration,
}

/// What a phase came to.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) tally: Tally,
    /// From the start to the last answer.
    pub(crate) elapsed: Duration,
    /// Of the open loop only.
    pub(crate) dispatched: Option<Dispatched>,
}

impl Load {
    /// Runs the load over `clients`, which it gives back with their connections.
    pub(crate) async fn run(self, shape: Shape, clients: Vec<Client>) -> Result<(Vec<Client>, Phase), BenchError> {
        let load = Arc::new(self);
        match shape {
            Shape::Closed { .. } => closed(load, clients).await,
            Shape::Open { rate, .. } => open(load, rate, clients).await,
        }
    }

    fn next_body(&self) -> bytes::Bytes {
        self.bodies.measured(self.operation, self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends one request; the latency counts from `start`.
    async fn send(&self, client: &mut Client, body: bytes::Bytes, start: Instant, tally: &mut Tally) {
        let outcome = client.send(self.operation.path(), body).await;
        tally.record(start.elapsed(), outcome);
        if outcome.is_err() {
            tokio::time::sleep(REST).await;
        }
    }
}

/// Every connection sends its next request as soon as it has read the last answer.
async fn closed(load: Arc<Load>, clients: Vec<Client>) -> Result<(Vec<Client>, Phase), BenchError> {
    let claimed = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for mut client in clients {
        let (load, claimed) = (Arc::clone(&load), Arc::clone(&claimed));
        workers.spawn(async move {
            let mut tally = Tally::default();
            while begin.elapsed() < load.duration && claimed.fetch_add(1, Ordering::Relaxed) < load.max_requests {
                let body = load.next_body();
                load.send(&mut client, body, Instant::now(), &mut tally).await;
                if !load.pace.is_zero() {
                    tokio::time::sleep(load.pace).await;
                }
            }
            (client, tally)
        });
    }
    let (clients, tally) = gather(workers).await?;
    Ok((clients, Phase { tally, elapsed: begin.elapsed(), dispatched: None }))
}

/// Arrivals on a schedule; a thread of its own hands them out, since timers of the runtime are too coarse.
async fn open(load: Arc<Load>, rate: f64, clients: Vec<Client>) -> Result<(Vec<Client>, Phase), BenchError> {
    let schedule = Schedule::new(rate, load.duration, load.max_requests);
    let (idle, free) = blocking::channel();
    let mut workers = JoinSet::new();
    let mut slots = Vec::with_capacity(clients.len());
    for (worker, client) in clients.into_iter().enumerate() {
        let (give, take) = mpsc::channel(1);
        slots.push(give);
        workers.spawn(serve_slots(Arc::clone(&load), client, worker, idle.clone(), take));
    }
    // The dispatcher must notice when no worker is left.
    drop(idle);
    let begin = Instant::now();
    let dispatcher = tokio::task::spawn_blocking(move || {
        schedule.dispatch(&mut RealTime { begin, free, slots })
        // `slots` ends here, which ends the workers.
    });
    let (clients, tally) = gather(workers).await?;
    let dispatched = dispatcher.await.map_err(|error| BenchError::Worker(error.to_string()))?;
    Ok((clients, Phase { tally, elapsed: begin.elapsed(), dispatched: Some(dispatched) }))
}

/// A worker of the open loop: has a request ready, reports free, and sends it when given a scheduled time.
async fn serve_slots(
    load: Arc<Load>,
    mut client: Client,
    worker: usize,
    idle: blocking::Sender<usize>,
    mut slots: mpsc::Receiver<Instant>,
) -> (Client, Tally) {
    let mut tally = Tally::default();
    loop {
        let body = load.next_body();
        if idle.send(worker).is_err() {
            break;
        }
        let Some(scheduled) = slots.recv().await else { break };
        load.send(&mut client, body, scheduled, &mut tally).await;
    }
    (client, tally)
}

/// The dispatcher's view of the real clock and the real workers.
#[derive(Debug)]
struct RealTime {
    begin: Instant,
    free: blocking::Receiver<usize>,
    slots: Vec<mpsc::Sender<Instant>>,
}

impl Timeline for RealTime {
    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn sleep_until(&mut self, at: Duration) {
        let wait = at.saturating_sub(self.now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    fn hand_out(&mut self, at: Duration, until: Duration) -> bool {
        while let Ok(worker) = self.free.recv_timeout(until.saturating_sub(self.now())) {
            // A worker that ended without notice is skipped; its panic surfaces when it is joined.
            if self.slots[worker].try_send(self.begin + at).is_ok() {
                return true;
            }
        }
        false
    }
}

async fn gather(mut workers: JoinSet<(Client, Tally)>) -> Result<(Vec<Client>, Tally), BenchError> {
    let (mut clients, mut all) = (Vec::with_capacity(workers.len()), Tally::default());
    while let Some(joined) = workers.join_next().await {
        let (client, tally) = joined.map_err(|error| BenchError::Worker(error.to_string()))?;
        clients.push(client);
        all.merge(tally);
    }
    Ok((clients, all))
}

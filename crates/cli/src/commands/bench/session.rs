//! One run from start to end: prepare, seed, measure every combination.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use uuid::Uuid;

use super::args::{BenchArgs, Operation, Shape};
use super::body::{Bodies, BodyOptions};
use super::client::Client;
use super::load::{Load, Phase};
use super::process::Processes;
use super::report::{BenchReport, RunReport, Surroundings, excerpt};
use super::seed::{self, SeedReport};
use super::{BenchError, client::Target, progress};

/// Everything a run needs.
#[derive(Debug)]
pub(crate) struct Session {
    args: BenchArgs,
    combinations: Vec<(Operation, Shape)>,
    scope: String,
    nonce: u64,
    dim: Option<usize>,
    target: Arc<Target>,
    /// For everything that is not measured.
    control: Client,
    bodies: Arc<Bodies>,
    processes: Processes,
    sequence: Arc<AtomicU64>,
    /// Nodes stored so far.
    stored: u64,
}

impl Session {
    /// Checks the flags and finds the dimension.
    pub(crate) async fn prepare(args: BenchArgs) -> Result<Self, BenchError> {
        let combinations = args.combinations()?;
        let target = Arc::new(Target::new(&args.url, args.api_key.as_deref())?);
        let processes = Processes::new(args.server_pid, args.database_pid)?;
        let mut control = Client::new(Arc::clone(&target), args.timeout());
        let dim = match args.dim {
            Some(dim) => Some(dim as usize),
            None if args.needs_dim() => Some(discover_dim(&mut control).await?),
            None => None,
        };
        let scope = args.scope.clone().unwrap_or_else(|| format!("bench-{}", Uuid::new_v4().simple()));
        // 53 bits: every reader of JSON keeps them.
        let nonce = args.nonce.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 11);
        let bodies = Arc::new(Bodies::new(&BodyOptions {
            scope: &scope,
            tenant: args.tenant.as_deref(),
            dim,
            vectors: args.vectors,
            seed: args.seed,
            nonce,
            seeded: args.nodes,
        }));
        let sequence = Arc::new(AtomicU64::new(0));
        Ok(Self { args, combinations, scope, nonce, dim, target, control, bodies, processes, sequence, stored: 0 })
    }

    /// Seeds, measures and reports.
    pub(crate) async fn run(mut self) -> Result<BenchReport, BenchError> {
        let combinations = std::mem::take(&mut self.combinations);
        let seeding = self.seed().await?;
        let mut runs = Vec::with_capacity(combinations.len());
        for (operation, shape) in combinations {
            runs.push(self.combination(operation, shape).await?);
        }
        Ok(BenchReport {
            url: self.args.url,
            scope: self.scope,
            tenant: self.args.tenant,
            seed: self.args.seed,
            nonce: self.nonce,
            vectors: self.args.vectors,
            dim: self.dim,
            seeding,
            runs,
        })
    }

    async fn seed(&mut self) -> Result<Option<SeedReport>, BenchError> {
        if self.args.nodes == 0 {
            return Ok(None);
        }
        let before = self.processes.cpu();
        let limit = self.drain_limit();
        let mut report = seed::seed(&mut self.control, &self.bodies, self.args.nodes, &self.sequence, limit).await?;
        let used = self.processes.cpu().since(before);
        (report.server_cpu_s, report.database_cpu_s) = (used.server, used.database);
        self.stored = self.args.nodes;
        Ok(Some(report))
    }

    /// Warms one combination up and measures it.
    async fn combination(&mut self, operation: Operation, shape: Shape) -> Result<RunReport, BenchError> {
        let line = progress::plain(format!("{} {shape}", operation.name()));
        self.preflight(operation).await?;
        let mut clients = self.connect(shape.connections()).await?;
        if self.args.warmup_s > 0.0 {
            (clients, _) = self.phase(operation, shape, self.args.warmup_s, clients).await?;
        }
        let (nodes_in_scope, connects, cpu) = (self.stored, total_connects(&clients), self.processes.cpu());
        let (clients, phase) = self.phase(operation, shape, self.args.duration_s, clients).await?;
        let around = Surroundings {
            operation,
            shape,
            nodes_in_scope,
            warmup_s: self.args.warmup_s,
            duration_s: self.args.duration_s,
            cpu: self.processes.cpu().since(cpu),
            server_rss_bytes: self.processes.server_rss(),
            reconnects: total_connects(&clients) - connects,
        };
        line.finish_and_clear();
        let mut report = RunReport::new(&around, phase);
        if operation.nodes_written() > 0 {
            // What is still being embedded would weigh on the next measurement.
            let limit = self.drain_limit();
            report.drain = Some(seed::drain(&mut self.control, &self.bodies, &self.sequence, limit).await);
        }
        Ok(report)
    }

    async fn phase(
        &mut self,
        operation: Operation,
        shape: Shape,
        seconds: f64,
        clients: Vec<Client>,
    ) -> Result<(Vec<Client>, Phase), BenchError> {
        let load = Load {
            operation,
            bodies: Arc::clone(&self.bodies),
            sequence: Arc::clone(&self.sequence),
            duration: Duration::from_secs_f64(seconds),
            max_requests: self.args.max_requests,
            pace: Duration::ZERO,
        };
        let (clients, phase) = load.run(shape, clients).await?;
        self.stored += phase.tally.ok() * operation.nodes_written();
        Ok((clients, phase))
    }

    /// One request whose refusal says more than a column of errors would.
    async fn preflight(&mut self, operation: Operation) -> Result<(), BenchError> {
        let what = operation.name();
        let body = self.bodies.measured(operation, self.sequence.fetch_add(1, Ordering::Relaxed));
        let answer = self.control.fetch(Method::POST, operation.path(), body).await;
        let (status, answer) = answer.map_err(|failure| BenchError::Unanswered { what, failure })?;
        match status {
            200..=299 => self.stored += operation.nodes_written(),
            429 | 503 => {}
            _ => return Err(BenchError::Refused { what, status, answer: excerpt(&answer) }),
        }
        Ok(())
    }

    async fn connect(&self, count: usize) -> Result<Vec<Client>, BenchError> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = Client::new(Arc::clone(&self.target), self.args.timeout());
            let connected = client.connect().await;
            connected.map_err(|failure| BenchError::Unanswered { what: "connecting", failure })?;
            clients.push(client);
        }
        Ok(clients)
    }

    fn drain_limit(&self) -> Duration {
        Duration::from_secs_f64(self.args.drain_timeout_s)
    }
}

fn total_connects(clients: &[Client]) -> u64 {
    clients.iter().map(|client| client.connects).sum()
}

/// The dimension of the server's vectors, from its readiness report (also of a server that is not ready).
async fn discover_dim(client: &mut Client) -> Result<usize, BenchError> {
    let answer = client.fetch(Method::GET, "/health/ready", Bytes::new()).await;
    let (_, body) = answer.map_err(|failure| BenchError::Unanswered { what: "/health/ready", failure })?;
    serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|value| value.pointer("/embedding/dim")?.as_u64())
        .filter(|dim| (1..=16_384).contains(dim))
        .map(|dim| dim as usize)
        .ok_or_else(|| BenchError::Args("the server does not report a dimension; pass --dim".to_owned()))
}

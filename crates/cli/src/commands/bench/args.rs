//! Flags of `aionis bench`.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::BenchError;

/// Measure a running server: seed a scope, then time writes and recalls under load.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Address of the server (http only).
    #[arg(long, visible_alias = "target", default_value = "http://127.0.0.1:3001")]
    pub(crate) url: String,
    /// Scope to seed and to measure; by default a new one, `bench-<random>`. Seeding a scope again stores nothing new.
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Tenant to use; by default the server's.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// API key to send as `x-api-key`.
    #[arg(long, env = "AIONIS_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Nodes to seed before measuring; 0 uses the scope as it is.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub(crate) nodes: u64,
    /// Operations to measure. Reads are measured before writes, so writes do not change what they read.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Operation::value_variants().to_vec())]
    pub(crate) operations: Vec<Operation>,
    /// Numbers of connections for the closed loop.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = connections)]
    pub(crate) concurrency: Vec<usize>,
    /// Open loop: arrivals per second, whatever the answers take.
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    pub(crate) rate: Vec<f64>,
    /// Which loops to run; by default open with `--rate`, else closed.
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// Open loop: the most requests in flight; arrivals beyond wait, and count as late or dropped.
    #[arg(long, default_value_t = 64, value_parser = connections)]
    pub(crate) max_in_flight: usize,
    /// Seconds to measure each combination.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) duration_s: f64,
    /// Seconds of unmeasured load before each combination.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) warmup_s: f64,
    /// Seconds after which a request is given up.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub(crate) timeout_s: f64,
    /// The longest wait, in seconds, for derived vectors after seeding and after measured writes.
    #[arg(long, default_value_t = 300.0, value_parser = seconds)]
    pub(crate) drain_timeout_s: f64,
    /// The most requests per combination.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    pub(crate) max_requests: u64,
    /// Dimension of vectors; by default what the server reports.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) dim: Option<u32>,
    /// Whether the server derives the vectors of nodes from their text or the requests supply them.
    #[arg(long, value_enum, default_value_t = Vectors::Derived)]
    pub(crate) vectors: Vectors,
    /// Decides the seeded texts, vectors and edges. The same seed sends the same texts, so a server that caches
    /// vectors by text derives them only once.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Decides the measured requests; random by default, so that no run repeats the questions of another.
    #[arg(long)]
    pub(crate) nonce: Option<u64>,
    /// Process id of a server on this machine, to report its CPU time and memory.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Process id of the server's PostgreSQL on this machine (the first line of postmaster.pid), to report the CPU time of
    /// the database too.
    #[arg(long)]
    pub(crate) database_pid: Option<u32>,
}

/// A measured operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// One event.
    #[value(name = "write-1")]
    #[serde(rename = "write-1")]
    Write1,
    /// Twenty nodes and twenty edges.
    #[value(name = "write-20")]
    #[serde(rename = "write-20")]
    Write20,
    /// Recall by vector.
    Recall,
    /// Recall by text.
    RecallText,
}

impl Operation {
    /// Nodes one request stores.
    pub(crate) fn nodes_written(self) -> u64 {
        match self {
            Self::Write1 => 1,
            Self::Write20 => 20,
            Self::Recall | Self::RecallText => 0,
        }
    }

    /// Path of the endpoint.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Write1 | Self::Write20 => "/v1/memory/write",
            Self::Recall => "/v1/memory/recall",
            Self::RecallText => "/v1/memory/recall_text",
        }
    }

    /// The name used in flags and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write1 => "write-1",
            Self::Write20 => "write-20",
            Self::Recall => "recall",
            Self::RecallText => "recall-text",
        }
    }
}

/// Which loops to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Each connection sends its next request when it has the answer.
    Closed,
    /// Requests are sent on a schedule.
    Open,
    /// Both, closed first.
    Both,
}

/// Where the vectors of stored nodes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Vectors {
    /// Requests supply clustered vectors.
    Supplied,
    /// The server's provider embeds the texts.
    Derived,
}

/// How load is applied in one combination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// This many connections, each with one request at a time.
    Closed { connections: usize },
    /// Arrivals per second, with at most so many in flight.
    Open { rate: f64, in_flight: usize },
}

impl Shape {
    /// Connections to open.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::Closed { connections } => connections,
            Self::Open { in_flight, .. } => in_flight,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { connections } => write!(f, "closed, {connections} connections"),
            Self::Open { rate, in_flight } => write!(f, "open, {rate}/s, at most {in_flight} in flight"),
        }
    }
}

impl BenchArgs {
    /// Every combination to measure, in order: reads before writes, and per operation closed before open.
    pub(crate) fn combinations(&self) -> Result<Vec<(Operation, Shape)>, BenchError> {
        let mode = self.mode.unwrap_or(if self.rate.is_empty() { Mode::Closed } else { Mode::Open });
        if mode != Mode::Closed && self.rate.is_empty() {
            return Err(BenchError::Args("the open loop needs --rate".to_owned()));
        }
        let mut shapes = Vec::new();
        if mode != Mode::Open {
            shapes.extend(self.concurrency.iter().map(|&connections| Shape::Closed { connections }));
        }
        if mode != Mode::Closed {
            shapes.extend(self.rate.iter().map(|&rate| Shape::Open { rate, in_flight: self.max_in_flight }));
        }
        let (mut order, writes): (Vec<_>, Vec<_>) = self.operations.iter().partition(|op| op.nodes_written() == 0);
        order.extend(writes);
        Ok(order.into_iter().flat_map(|op| shapes.iter().map(move |&shape| (op, shape))).collect())
    }

    /// Whether any request carries a vector.
    pub(crate) fn needs_dim(&self) -> bool {
        self.vectors == Vectors::Supplied || self.operations.contains(&Operation::Recall)
    }

    /// `--timeout-s` as a duration.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }
}

fn connections(raw: &str) -> Result<usize, String> {
    match raw.trim().parse() {
        Ok(number @ 1..=4096) => Ok(number),
        _ => Err("must be a number from 1 to 4096".to_owned()),
    }
}

fn positive(raw: &str) -> Result<f64, String> {
    seconds(raw).and_then(|n| if n > 0.0 { Ok(n) } else { Err("must be more than 0".to_owned()) })
}

fn seconds(raw: &str) -> Result<f64, String> {
    match raw.trim().parse::<f64>() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(number),
        _ => Err("must be a number from 0 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(flags: &[&str]) -> BenchArgs {
        Cli::try_parse_from([&["bench"], flags].concat()).map(|cli| cli.bench).unwrap()
    }

    #[test]
    fn defaults_measure_reads_first() {
        let combinations = parse(&[]).combinations().unwrap();
        assert_eq!(combinations.len(), 12);
        assert_eq!(combinations[0], (Operation::Recall, Shape::Closed { connections: 1 }));
        assert_eq!(combinations[11], (Operation::Write20, Shape::Closed { connections: 32 }));
    }

    #[test]
    fn a_rate_replaces_the_closed_loop_unless_both_are_asked_for() {
        let open = parse(&["--operations", "write-1", "--rate", "50,100"]).combinations().unwrap();
        let shape = |rate| Shape::Open { rate, in_flight: 64 };
        assert_eq!(open, [(Operation::Write1, shape(50.0)), (Operation::Write1, shape(100.0))]);
        let both = parse(&["--operations", "recall", "--concurrency", "2", "--rate", "50", "--mode", "both"]);
        let expected = [(Operation::Recall, Shape::Closed { connections: 2 }), (Operation::Recall, shape(50.0))];
        assert_eq!(both.combinations().unwrap(), expected);
        assert!(parse(&["--mode", "open"]).combinations().is_err());
    }

    #[test]
    fn absurd_flags_are_refused() {
        for flags in [["--concurrency", "0"], ["--rate", "0"], ["--duration-s", "NaN"], ["--warmup-s", "-1"]] {
            assert!(Cli::try_parse_from([&["bench"], flags.as_slice()].concat()).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn vectors_need_a_dimension() {
        assert!(!parse(&["--operations", "recall-text,write-1"]).needs_dim());
        assert!(parse(&["--operations", "recall-text,recall"]).needs_dim());
        assert!(parse(&["--operations", "write-1", "--vectors", "supplied"]).needs_dim());
    }
}

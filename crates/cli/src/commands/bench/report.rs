//! The report: machine readable by serde, readable as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::args::{Operation, Shape, Vectors};
use super::client::Failure;
use super::load::Phase;
use super::process::CpuTimes;
use super::seed::{DrainReport, DrainState, SeedReport};
use super::stats::Latency;

/// Everything a run found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BenchReport {
    pub(crate) url: String,
    pub(crate) scope: String,
    pub(crate) tenant: Option<String>,
    pub(crate) seed: u64,
    /// Pass it as `--nonce` to send the very same requests again.
    pub(crate) nonce: u64,
    pub(crate) vectors: Vectors,
    pub(crate) dim: Option<usize>,
    pub(crate) seeding: Option<SeedReport>,
    pub(crate) runs: Vec<RunReport>,
}

/// One combination of operation and load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) operation: Operation,
    /// `closed` or `open`.
    pub(crate) mode: &'static str,
    /// Connections; in the open loop the bound of requests in flight.
    pub(crate) concurrency: usize,
    /// Arrivals per second (open loop).
    pub(crate) rate: Option<f64>,
    /// Nodes this run had stored in the scope when the measurement began.
    pub(crate) nodes_in_scope: u64,
    pub(crate) warmup_s: f64,
    /// The time asked for.
    pub(crate) duration_s: f64,
    /// The time it took, to the last answer.
    pub(crate) elapsed_s: f64,
    pub(crate) requests: u64,
    /// Answers with a 2xx status.
    pub(crate) ok: u64,
    /// `ok / elapsed_s`.
    pub(crate) throughput_per_s: f64,
    /// Over the answers that were ok; in the open loop from the scheduled start.
    pub(crate) latency: Option<Latency>,
    pub(crate) errors_by_status: BTreeMap<u16, u64>,
    pub(crate) transport_errors: BTreeMap<Failure, u64>,
    /// Connections made anew while measuring.
    pub(crate) reconnects: u64,
    pub(crate) bytes_read: u64,
    /// Arrivals sent more than 1 ms after their time (open loop).
    pub(crate) late: Option<u64>,
    /// Arrivals never sent (open loop).
    pub(crate) dropped: Option<u64>,
    pub(crate) client_cpu_s: Option<f64>,
    pub(crate) server_cpu_s: Option<f64>,
    /// Server CPU time by the number of requests.
    pub(crate) server_cpu_us_per_request: Option<f64>,
    pub(crate) database_cpu_s: Option<f64>,
    /// CPU time of the database by the number of requests.
    pub(crate) database_cpu_us_per_request: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
    /// Waiting for the vectors of measured writes.
    pub(crate) drain: Option<DrainReport>,
}

/// What surrounds a measured phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub(crate) operation: Operation,
    pub(crate) shape: Shape,
    pub(crate) nodes_in_scope: u64,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) cpu: CpuTimes,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) reconnects: u64,
}

impl RunReport {
    /// Works the figures of a phase out.
    pub(crate) fn new(around: &Surroundings, mut phase: Phase) -> Self {
        let (mode, rate) = match around.shape {
            Shape::Closed { .. } => ("closed", None),
            Shape::Open { rate, .. } => ("open", Some(rate)),
        };
        let elapsed = phase.elapsed.as_secs_f64();
        let (requests, ok) = (phase.tally.requests, phase.tally.ok());
        let per_request = |cpu_s: f64| rounded(cpu_s * 1e6 / requests.max(1) as f64);
        Self {
            operation: around.operation,
            mode,
            concurrency: around.shape.connections(),
            rate,
            nodes_in_scope: around.nodes_in_scope,
            warmup_s: around.warmup_s,
            duration_s: around.duration_s,
            elapsed_s: rounded(elapsed),
            requests,
            ok,
            throughput_per_s: rounded(ok as f64 / elapsed.max(1e-6)),
            latency: Latency::of(&mut phase.tally.latencies_us),
            errors_by_status: phase.tally.by_status,
            transport_errors: phase.tally.transport,
            reconnects: around.reconnects,
            bytes_read: phase.tally.bytes_read,
            late: phase.dispatched.map(|d| d.late),
            dropped: phase.dispatched.map(|d| d.dropped),
            client_cpu_s: around.cpu.client,
            server_cpu_s: around.cpu.server,
            server_cpu_us_per_request: around.cpu.server.map(per_request),
            database_cpu_s: around.cpu.database,
            database_cpu_us_per_request: around.cpu.database.map(per_request),
            server_rss_bytes: around.server_rss_bytes,
            drain: None,
        }
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let ms = |pick: fn(&Latency) -> f64| optional(self.latency.as_ref().map(pick), |us| format!("{:.2}", us / 1e3));
        [
            self.operation.name().to_owned(),
            self.rate.map_or_else(|| self.mode.to_owned(), |rate| format!("{} {rate}/s", self.mode)),
            self.concurrency.to_string(),
            self.nodes_in_scope.to_string(),
            format!("{:.1}", self.throughput_per_s),
            self.ok.to_string(),
            ms(|l| l.mean_us),
            ms(|l| l.p50_us.into()),
            ms(|l| l.p90_us.into()),
            ms(|l| l.p95_us.into()),
            ms(|l| l.p99_us.into()),
            ms(|l| l.max_us.into()),
            optional(self.client_cpu_s, |s| format!("{s:.2}")),
            optional(self.server_cpu_s, |s| format!("{s:.2}")),
            optional(self.server_cpu_us_per_request, |us| format!("{us:.0}")),
            optional(self.database_cpu_us_per_request, |us| format!("{us:.0}")),
            optional(self.server_rss_bytes, |bytes| (bytes >> 20).to_string()),
            self.remarks(),
        ]
    }

    /// What did not go well, by name.
    fn remarks(&self) -> String {
        let mut remarks: Vec<String> = Vec::new();
        remarks.extend(self.errors_by_status.iter().map(|(status, count)| format!("{count}x {status}")));
        remarks.extend(self.transport_errors.iter().map(|(failure, count)| format!("{count}x {failure:?}")));
        let open = [(self.late, "late"), (self.dropped, "dropped")];
        remarks.extend(open.iter().filter_map(|(count, name)| Some(format!("{} {name}", count.filter(|&c| c > 0)?))));
        if self.drain.as_ref().is_some_and(|drain| drain.state == DrainState::TimedOut) {
            remarks.push("vectors still pending".to_owned());
        }
        remarks.join(", ")
    }
}

const COLUMNS: [&str; 18] = [
    "operation",
    "loop",
    "conns",
    "nodes",
    "ok/s",
    "ok",
    "mean ms",
    "p50",
    "p90",
    "p95",
    "p99",
    "max",
    "client s",
    "server s",
    "server us/req",
    "db us/req",
    "rss MiB",
    "remarks",
];
/// Columns of text; the others are aligned right.
const TEXT_COLUMNS: [usize; 3] = [0, 1, 17];

impl BenchReport {
    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{} scope {} seed {} nonce {}", self.url, self.scope, self.seed, self.nonce);
        if let Some(dim) = self.dim {
            // Writing to a string cannot fail.
            let _ = write!(out, " dim {dim}");
        }
        out.push('\n');
        if let Some(seeding) = &self.seeding {
            out.push_str(&seeding.line());
        }
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(self.runs.iter().map(RunReport::cells));
        out.push('\n');
        out.push_str(&aligned(&rows));
        out
    }
}

impl SeedReport {
    fn line(&self) -> String {
        let drain = match self.drain.state {
            DrainState::Drained => format!("vectors ready {:.1} s later", self.drain.elapsed_s),
            DrainState::TimedOut => {
                let pending = optional(self.drain.pending, |n| n.to_string());
                format!("{pending} vectors still pending after {:.1} s", self.drain.elapsed_s)
            }
            DrainState::NotReported => "pending vectors not reported".to_owned(),
        };
        let used = [("server", self.server_cpu_s), ("database", self.database_cpu_s)];
        let cpu: String =
            used.iter().filter_map(|(who, cpu_s)| Some(format!(", {who} {:.2} CPU s", (*cpu_s)?))).collect();
        let (nodes, edges, elapsed) = (self.nodes, self.edges, self.elapsed_s);
        format!(
            "seeded {nodes} nodes, {edges} edges in {elapsed:.1} s ({:.0} nodes/s), {drain}{cpu}\n",
            self.nodes_per_s
        )
    }
}

fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// Rows as lines of padded columns.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a string cannot fail.
            let _ = match TEXT_COLUMNS.contains(&column) {
                true => write!(line, "{gap}{cell:<width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Three decimals: more would only pretend precision.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The beginning of an answer, for an error message.
pub(crate) fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schedule::Dispatched;
    use super::super::stats::Tally;
    use super::*;

    fn run(shape: Shape, dispatched: Option<Dispatched>, server: Option<f64>) -> RunReport {
        let mut tally = Tally::default();
        for us in [1000, 2000, 3000, 4000] {
            tally.record(Duration::from_micros(us), Ok((200, 50)));
        }
        tally.record(Duration::from_micros(1), Ok((429, 5)));
        let around = Surroundings {
            operation: Operation::Recall,
            shape,
            nodes_in_scope: 10_000,
            warmup_s: 2.0,
            duration_s: 10.0,
            cpu: CpuTimes { client: Some(0.25), server, database: server.map(|s| s / 5.0) },
            server_rss_bytes: server.map(|_| 64 << 20),
            reconnects: 0,
        };
        RunReport::new(&around, Phase { tally, elapsed: Duration::from_secs(2), dispatched })
    }

    fn report() -> BenchReport {
        let drain = DrainReport { state: DrainState::Drained, elapsed_s: 1.25, pending: Some(0) };
        let dispatched = Dispatched { sent: 5, late: 2, dropped: 1 };
        BenchReport {
            url: "http://127.0.0.1:3001".to_owned(),
            scope: "bench-x".to_owned(),
            tenant: None,
            seed: 1,
            nonce: 2,
            vectors: Vectors::Derived,
            dim: Some(384),
            seeding: Some(SeedReport {
                nodes: 10_000,
                edges: 19_599,
                requests: 50,
                retries: 0,
                elapsed_s: 2.0,
                nodes_per_s: 5000.0,
                drain,
                server_cpu_s: None,
                database_cpu_s: None,
            }),
            runs: vec![
                run(Shape::Closed { connections: 8 }, None, None),
                run(Shape::Open { rate: 50.0, in_flight: 64 }, Some(dispatched), Some(0.5)),
            ],
        }
    }

    #[test]
    fn figures_of_a_run() {
        let run = run(Shape::Closed { connections: 8 }, None, Some(0.5));
        assert_eq!((run.requests, run.ok, run.throughput_per_s, run.bytes_read), (5, 4, 2.0, 205));
        assert_eq!(run.latency.as_ref().map(|l| (l.p50_us, l.max_us)), Some((2000, 4000)));
        assert_eq!(run.server_cpu_us_per_request, Some(100_000.0));
        assert_eq!(run.database_cpu_us_per_request, Some(20_000.0));
        assert_eq!(run.errors_by_status, BTreeMap::from([(429, 1)]));
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = "\
http://127.0.0.1:3001 scope bench-x seed 1 nonce 2 dim 384
seeded 10000 nodes, 19599 edges in 2.0 s (5000 nodes/s), vectors ready 1.2 s later

operation  loop       conns  nodes  ok/s  ok  mean ms   p50   p90   p95   p99   max  client s  server s  server us/req  db us/req  rss MiB  remarks
recall     closed         8  10000   2.0   4     2.50  2.00  4.00  4.00  4.00  4.00      0.25         -              -          -        -  1x 429
recall     open 50/s     64  10000   2.0   4     2.50  2.00  4.00  4.00  4.00  4.00      0.25      0.50         100000      20000       64  1x 429, 2 late, 1 dropped
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn the_report_is_json() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(value["runs"][0]["operation"], "recall");
        assert_eq!(value["runs"][0]["errors_by_status"]["429"], 1);
        assert_eq!(value["runs"][1]["rate"], 50.0);
        assert_eq!(value["seeding"]["drain"]["state"], "drained");
    }
}

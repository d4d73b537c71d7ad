//! `aionis gate core`: flags and variables of the release gate.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    gates::{GateMode, slo::SloThresholds},
    jobs::consistency::CheckSet,
};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{
    RunArgs,
    credentials::CredentialArgs,
    scoped::{HealthParts, PlaceArgs},
};
use crate::{
    commands::bench::{Counted, Target},
    failure::{Failure, Verdict},
    gates::{
        artifacts::Artifacts,
        partition_readiness::ReadinessAsk,
        perf::PerfAsk,
        release::{self, ReleaseAsk},
    },
    output,
    settings::boolean,
};

/// Everything a release has to hold is judged strictly.
const STRICT: GateMode = GateMode { strict_warnings: true, release: true };

/// Flags of `aionis gate core`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Release gate")]
pub(crate) struct CoreArgs {
    /// Address of the server (http only) [default: port PORT, or 3001, of this machine].
    #[arg(long, env = "BASE_URL")]
    base_url: Option<String>,
    /// Port of the server on this machine, when no address is given.
    #[arg(long, env = "PORT", default_value_t = 3001, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How the database is reached: here always by its address, which both names mean.
    #[arg(long, value_enum, default_value_t = DbRunner::Local)]
    db_runner: DbRunner,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    slo: SloArgs,
    #[command(flatten)]
    perf: PerfArgs,
    #[command(flatten)]
    partition: PartitionArgs,
    #[command(flatten)]
    parts: HealthParts,
    #[command(flatten)]
    run: RunArgs,
}

/// Ways to the database that invocations of the earlier implementation name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DbRunner {
    /// From this machine.
    Local,
    /// As it turns out; from this machine.
    Auto,
}

/// Bounds of the benchmark.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Bounds of the release gate")]
struct SloArgs {
    /// Largest 95th percentile of recalls by text, in ms.
    #[arg(long, env = "RECALL_P95_MAX_MS", default_value_t = 1_200.0, value_parser = not_negative)]
    recall_p95_max_ms: f64,
    /// Largest 95th percentile of writes, in ms.
    #[arg(long, env = "WRITE_P95_MAX_MS", default_value_t = 800.0, value_parser = not_negative)]
    write_p95_max_ms: f64,
    /// Largest part of requests that fail, from 0 to 1.
    #[arg(long, env = "ERROR_RATE_MAX", default_value_t = 0.02, value_parser = part)]
    error_rate_max: f64,
}

/// The benchmark.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Benchmark of the release gate")]
struct PerfArgs {
    /// Whether latency and errors are measured; without them no release is decided.
    #[arg(long, env = "RUN_PERF", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    run_perf: bool,
    /// Nodes that are seeded before measuring.
    #[arg(long, env = "PERF_NODES", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    perf_nodes: u64,
    /// Requests of each kind before those that are measured.
    #[arg(long, env = "PERF_WARMUP", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=2_000))]
    perf_warmup: u64,
    /// Recalls that are measured.
    #[arg(long, env = "PERF_RECALL_REQUESTS", default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    perf_recall_requests: u64,
    /// Connections that recall.
    #[arg(long, env = "PERF_RECALL_CONCURRENCY", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=512))]
    perf_recall_concurrency: u16,
    /// Writes that are measured.
    #[arg(long, env = "PERF_WRITE_REQUESTS", default_value_t = 40, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    perf_write_requests: u64,
    /// Connections that write.
    #[arg(long, env = "PERF_WRITE_CONCURRENCY", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=128))]
    perf_write_concurrency: u16,
    /// Longest time of one request, in ms.
    #[arg(long, env = "PERF_TIMEOUT_MS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=120_000))]
    perf_timeout_ms: u64,
    /// Rest of a connection after each answer, in ms.
    #[arg(long, env = "PERF_PACE_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    perf_pace_ms: u64,
    /// Longest wait for the vectors of the seeded nodes, in ms.
    #[arg(long, env = "PERF_DRAIN_TIMEOUT_MS", default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    perf_drain_timeout_ms: u64,
    /// Scope the benchmark writes into and removes; it has to be empty, and may have partitions of its own (`aionis partition
    /// promote-scope`) [default: one of the run's own].
    #[arg(long, env = "PERF_SCOPE")]
    perf_scope: Option<String>,
    /// Fail when removing the benchmark's scope deletes rows one by one instead of truncating its partitions.
    #[arg(long, env = "PERF_FAIL_ON_DELETE", default_value = "false", value_parser = boolean, action = clap::ArgAction::Set)]
    perf_fail_on_delete: bool,
    /// How long the benchmark's scope stays taken when this process dies, in ms.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(300..=3_600_000))]
    perf_lease_ms: u64,
}

/// Readiness of the partitioned layout.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Partition readiness in the release gate")]
struct PartitionArgs {
    /// Whether the partitioned layout has to be ready for its cutover.
    #[arg(long, env = "CORE_GATE_REQUIRE_PARTITION_READY", default_value = "false", value_parser = boolean, action = clap::ArgAction::Set)]
    require_partition_ready: bool,
    /// Scope that has to be stored for readiness; all scopes are compared [default: the scope of the gate].
    #[arg(long, env = "CORE_GATE_PARTITION_SCOPE")]
    partition_scope: Option<String>,
    /// Tenant of that scope [default: the tenant of the gate].
    #[arg(long, env = "CORE_GATE_PARTITION_TENANT_ID")]
    partition_tenant_id: Option<String>,
    /// Whether there have to be recalls to compare between the layouts; those that there are have to agree anyway.
    #[arg(long, env = "CORE_GATE_PARTITION_READ_SHADOW_CHECK", default_value = "false", value_parser = boolean, action = clap::ArgAction::Set)]
    partition_read_shadow_check: bool,
    /// Hits that are compared per recall.
    #[arg(long, env = "CORE_GATE_PARTITION_READ_SHADOW_LIMIT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    partition_read_shadow_limit: u16,
    /// Smallest part of hits the layouts have in common, from 0 to 1.
    #[arg(long, env = "CORE_GATE_PARTITION_READ_SHADOW_MIN_OVERLAP", default_value_t = 0.95, value_parser = part)]
    partition_read_shadow_min_overlap: f64,
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| (0.0..=1e9).contains(number))
        .ok_or_else(|| "must be a number from 0 to 1000000000".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

impl PerfArgs {
    fn load(&self, tenant: &str) -> Counted {
        let ms = Duration::from_millis;
        Counted {
            tenant: Some(tenant.to_owned()),
            scope: String::new(),
            nodes: self.perf_nodes,
            warmup: self.perf_warmup,
            recalls: self.perf_recall_requests,
            recall_connections: usize::from(self.perf_recall_concurrency),
            writes: self.perf_write_requests,
            write_connections: usize::from(self.perf_write_concurrency),
            timeout: ms(self.perf_timeout_ms),
            pace: ms(self.perf_pace_ms),
            drain: ms(self.perf_drain_timeout_ms),
        }
    }
}

impl CoreArgs {
    fn ask(&self) -> Result<ReleaseAsk, Failure> {
        if self.run.storage.database_url.0.is_empty() {
            return Err(Failure::new(
                "DATABASE_URL is unset: the release gate judges a server and its PostgreSQL database together; the \
                 embedded database belongs to its server alone, so stop the server and run `aionis gate health`",
            ));
        }
        // There is one way; a further one has to be told apart here.
        match self.db_runner {
            DbRunner::Local | DbRunner::Auto => {}
        }
        let (tenant, scope) = self.place.place()?;
        let base_url = self.base_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", self.port));
        let key = self.credentials.api_key(&tenant)?;
        let named = |e: crate::commands::bench::BenchError| Failure::new(e.to_string().replace("--url", "--base-url"));
        let target = Target::new(&base_url, key.as_deref()).map_err(named)?;
        let target = Arc::new(target.with_bearer(self.credentials.bearer().as_deref()).map_err(named)?);
        let thresholds = SloThresholds {
            recall_p95_max_ms: self.slo.recall_p95_max_ms,
            write_p95_max_ms: self.slo.write_p95_max_ms,
            error_rate_max: self.slo.error_rate_max,
        };
        let perf = self.perf.run_perf.then(|| PerfAsk {
            tenant_id: tenant.clone(),
            thresholds,
            load: self.perf.load(&tenant),
            lease: Duration::from_millis(self.perf.perf_lease_ms),
            scope: self.perf.perf_scope.clone(),
            fail_on_delete: self.perf.perf_fail_on_delete,
        });
        let partition = &self.partition;
        let readiness = ReadinessAsk {
            tenant_id: partition.partition_tenant_id.clone().unwrap_or_else(|| tenant.clone()),
            scope: partition.partition_scope.clone().unwrap_or_else(|| scope.clone()),
            read_shadow_check: partition.partition_read_shadow_check,
            read_shadow_limit: partition.partition_read_shadow_limit,
            read_shadow_min_overlap: partition.partition_read_shadow_min_overlap,
        };
        Ok(ReleaseAsk {
            base_url,
            target,
            storage: self.run.storage.clone(),
            health: self.parts.ask((tenant.clone(), scope.clone()), CheckSet::Scope, STRICT)?,
            tenant_id: tenant,
            scope,
            cross_tenant: self.parts.asked(CheckSet::CrossTenant, STRICT),
            perf,
            thresholds,
            partition: (partition.require_partition_ready, readiness),
        })
    }
}

pub(super) async fn run(args: CoreArgs) -> Result<Verdict, Failure> {
    let ask = args.ask()?;
    let artifacts = Artifacts::new("core_gate", args.run.run_id.as_deref(), args.run.out_dir.as_deref())?;
    let (summary, verdict) = release::run(&ask, &artifacts).await?;
    if args.run.json {
        output::json(&summary)?;
    } else {
        tell(&summary, &artifacts);
    }
    Ok(verdict)
}

/// Steps and decision for people.
fn tell(summary: &Value, artifacts: &Artifacts) {
    for step in summary["steps"].as_array().into_iter().flatten() {
        let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
        let why = [&step["reasons"], &step["inconclusive"]]
            .map(|list| list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
        let why: Vec<String> = why.into_iter().chain([text("error")]).filter(|why| !why.is_empty()).collect();
        output::line(format!("{:<12} {} {}", text("state"), text("name"), why.join("; ")).trim_end());
    }
    output::line(summary["decision"]["text"].as_str().unwrap_or_default());
    output::line(format!("summary: {}", artifacts.summary_path().display()));
}

//! Flags of `aionis partition`.

use std::path::PathBuf;

use aionis_core::{jobs::governance::parse_run_id, partition::HASH_PARTITIONS_MAX};
use clap::Args;

use crate::settings::{StorageSettings, env_file::EnvFileArgs};

/// What all of them have.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) env_file: EnvFileArgs,
    #[command(flatten)]
    pub(super) storage: StorageSettings,
}

/// How strong locks are asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct WindowArgs {
    /// Longest wait for the locks of one try, in ms; so long requests may wait for a try that fails.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=900))]
    pub(super) lock_timeout_ms: u64,
    /// Tries before it is given up; the pause between them grows.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) attempts: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Scopes with as many nodes would get partitions of their own.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) own_from_rows: u64,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EnsureArgs {
    /// Parts of the default partition, which holds all scopes without one of their own.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(HASH_PARTITIONS_MAX)))]
    pub(super) hash_partitions: u16,
    /// Give scopes with as many nodes partitions of their own; without it none gets any.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) own_from_rows: Option<u64>,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillArgs {
    /// Rows of a batch, each of which is one transaction.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub(super) batch_size: u32,
    /// Most batches; the next run goes on there.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_batches: Option<u64>,
    /// Rest between two batches, in ms.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(super) pace_ms: u64,
    /// Only tell what is left to copy.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

fn buckets(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|n| n.is_power_of_two() && (1..=65_536).contains(n));
    number.ok_or_else(|| "must be a power of two from 1 to 65536".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Buckets that the rows of a table are put into; a power of two.
    #[arg(long, default_value_t = 256, value_parser = buckets)]
    pub(super) buckets: u32,
    /// Differing rows named per table, at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) sample_limit: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// Questions, over the scopes asked last.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) queries: u32,
    /// Answers compared per question.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) limit: u32,
    /// Smallest share of equal answers that any question may have.
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub(super) min_overlap: f64,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Flags of `aionis partition readiness` and `aionis gate partition-readiness`.
#[derive(Debug, Args)]
pub(crate) struct ReadinessArgs {
    /// Id of the run [default: the time, as YYYYMMDD_HHMMSS in UTC].
    #[arg(long, value_parser = parse_run_id)]
    pub(super) run_id: Option<String>,
    /// Directory for the files; without it `artifacts/partition_cutover/` and the id of the run.
    #[arg(long)]
    pub(super) out_dir: Option<PathBuf>,
    /// Buckets that the rows of a table are put into; a power of two.
    #[arg(long, default_value_t = 256, value_parser = buckets)]
    pub(super) buckets: u32,
    /// Differing rows named per table, at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) sample_limit: u32,
    /// Questions asked of both layouts.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) read_shadow_queries: u32,
    /// Answers compared per question.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) read_shadow_limit: u32,
    /// Smallest share of equal answers that any question may have.
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub(super) read_shadow_min_overlap: f64,
    /// Take checks that there is nothing to judge by as passed: for a database without memories.
    #[arg(long)]
    pub(super) accept_inconclusive: bool,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SwapArgs {
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Before a cutover: drop the twins with the copy they hold. Empty ones need no flag.
    #[arg(long)]
    pub(super) drop_twins: bool,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The tenant; exactly this one.
    #[arg(long)]
    pub(super) tenant: String,
    /// The scope; exactly this one.
    #[arg(long)]
    pub(super) scope: String,
    /// Rows of a batch, each of which is one transaction.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub(super) batch_size: u32,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Things that were done, the newest first.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) events: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

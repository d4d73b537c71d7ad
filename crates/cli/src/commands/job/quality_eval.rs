//! `aionis job quality-eval`.

use aionis_core::jobs::quality_eval::QualityThresholds;
use aionis_engine::jobs::QualityEval;
use clap::Args;

use super::{
    HowArgs, SelectionArgs, run_job,
    strictness::{StrictArgs, part},
};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job quality-eval`.
#[derive(Debug, Args)]
pub(crate) struct QualityEvalArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    bounds: QualityArgs,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// Bounds of quality, which the gates have too.
#[derive(Clone, Debug, Args)]
pub(crate) struct QualityArgs {
    /// Smallest part of nodes with a vector.
    #[arg(long, default_value_t = 0.8, value_parser = part)]
    min_ready_ratio: f64,
    /// Largest part of topics, concepts and entities that stand for another one.
    #[arg(long, default_value_t = 0.3, value_parser = part)]
    max_alias_rate: f64,
    /// Largest part of nodes in the archive.
    #[arg(long, default_value_t = 0.95, value_parser = part)]
    max_archive_ratio: f64,
    /// Smallest part of nodes used or written within 30 days.
    #[arg(long, default_value_t = 0.2, value_parser = part)]
    min_fresh_30d_ratio: f64,
    /// Nodes a ratio needs to say anything.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_sample: u64,
}

impl QualityArgs {
    pub(crate) const fn thresholds(&self) -> QualityThresholds {
        QualityThresholds {
            min_ready_ratio: self.min_ready_ratio,
            max_alias_rate: self.max_alias_rate,
            max_archive_ratio: self.max_archive_ratio,
            min_fresh_30d_ratio: self.min_fresh_30d_ratio,
            min_sample: self.min_sample,
        }
    }
}

pub(crate) async fn run(args: QualityEvalArgs) -> Result<Verdict, Failure> {
    let job = QualityEval { thresholds: args.bounds.thresholds(), strictness: args.strict.strictness() };
    run_job(&job, &args.selection.selection(), &args.how).await
}

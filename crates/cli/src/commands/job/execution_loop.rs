//! `aionis job execution-loop`, and the bounds it shares with the weekly report.

use aionis_core::jobs::{checks::Strictness, execution_loop::LoopThresholds, tenants::DriftThresholds};
use aionis_engine::jobs::ExecutionLoop;
use clap::Args;

use super::{
    HowArgs, SelectionArgs, run_job,
    strictness::{StrictArgs, part},
};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job execution-loop`.
#[derive(Debug, Args)]
pub(crate) struct ExecutionLoopArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    bounds: LoopArgs,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// Bounds of the execution loop, which the gates have too.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoopArgs {
    /// Hours back from now in which feedback and recalls count.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=720))]
    window_hours: u64,
    /// Feedback there should be.
    #[arg(long, default_value_t = 10)]
    min_feedback_events: u64,
    /// Different runs there should be feedback of.
    #[arg(long, default_value_t = 3)]
    min_distinct_runs: u64,
    /// Smallest part of feedback that names its run.
    #[arg(long, default_value_t = 0.8, value_parser = part)]
    min_run_id_coverage: f64,
    /// Largest part of negative feedback.
    #[arg(long, default_value_t = 0.35, value_parser = part)]
    max_negative_ratio: f64,
    /// Smallest part of active rules with feedback.
    #[arg(long, default_value_t = 0.6, value_parser = part)]
    min_active_feedback_coverage: f64,
    /// Most active rules without feedback.
    #[arg(long, default_value_t = 5)]
    max_stale_active_rules: u64,
    #[command(flatten)]
    coverage: CoverageArgs,
    /// Feedback of a tenant without which it has no part of negative feedback to compare.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    cross_tenant_drift_min_feedback: u64,
    /// Do not set tenants side by side: the checks on drift are left out.
    #[arg(long)]
    no_cross_tenant: bool,
}

/// Bounds that the weekly report has too.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CoverageArgs {
    /// Smallest part of feedback on tools whose decision is stored.
    #[arg(long, default_value_t = 0.95, value_parser = part)]
    pub(crate) min_decision_link_coverage: f64,
    /// Smallest part of recalls of which it is known who asked.
    #[arg(long, default_value_t = 0.8, value_parser = part)]
    pub(crate) min_recall_identity_coverage: f64,
    /// Smallest part of private nodes with an owner.
    #[arg(long, default_value_t = 1.0, value_parser = part)]
    pub(crate) min_private_owner_coverage: f64,
    /// Feedback or recalls a part of them needs to say anything.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) min_sample: u64,
    /// Largest difference between tenants in the part of negative feedback.
    #[arg(long, default_value_t = 0.3, value_parser = part)]
    max_tenant_negative_ratio_drift: f64,
    /// Largest difference between tenants in active rules.
    #[arg(long, default_value_t = 20)]
    max_tenant_active_rule_count_drift: u64,
}

impl CoverageArgs {
    pub(crate) fn tenants(&self, min_feedback: u64) -> DriftThresholds {
        DriftThresholds {
            tenant_drift_min_feedback: min_feedback,
            max_tenant_negative_ratio_drift: self.max_tenant_negative_ratio_drift,
            max_tenant_active_rule_count_drift: self.max_tenant_active_rule_count_drift,
        }
    }
}

impl LoopArgs {
    /// The report by these bounds.
    pub(crate) fn job(&self, strictness: Strictness) -> ExecutionLoop {
        let cover = &self.coverage;
        let thresholds = LoopThresholds {
            window_hours: self.window_hours,
            min_feedback_events: self.min_feedback_events,
            min_distinct_runs: self.min_distinct_runs,
            min_run_id_coverage: self.min_run_id_coverage,
            max_negative_ratio: self.max_negative_ratio,
            min_active_feedback_coverage: self.min_active_feedback_coverage,
            max_stale_active_rules: self.max_stale_active_rules,
            min_decision_link_coverage: cover.min_decision_link_coverage,
            min_recall_identity_coverage: cover.min_recall_identity_coverage,
            min_private_owner_coverage: cover.min_private_owner_coverage,
            min_sample: cover.min_sample,
            tenants: cover.tenants(self.cross_tenant_drift_min_feedback),
        };
        ExecutionLoop::new(thresholds, !self.no_cross_tenant, strictness)
    }
}

pub(crate) async fn run(args: ExecutionLoopArgs) -> Result<Verdict, Failure> {
    let job = args.bounds.job(args.strict.strictness());
    run_job(&job, &args.selection.selection(), &args.how).await
}

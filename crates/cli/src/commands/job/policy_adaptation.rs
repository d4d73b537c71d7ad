//! `aionis job policy-adaptation`.

use aionis_core::jobs::{
    checks::Strictness,
    policy_adaptation::{CanaryThresholds, DisableThresholds, GateThresholds, PolicyThresholds, PromoteThresholds},
};
use aionis_engine::jobs::PolicyAdaptation;
use clap::Args;

use super::{
    HowArgs, SelectionArgs, run_job,
    strictness::{StrictArgs, part},
};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job policy-adaptation`.
#[derive(Debug, Args)]
pub(crate) struct PolicyAdaptationArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    bounds: PolicyArgs,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// Bounds of the policy, which the gates have too.
#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyArgs {
    /// Hours back from now in which feedback counts.
    #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=2_160))]
    window_hours: u64,
    /// Most rules looked at in a scope, those last changed first.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    limit: u32,
    /// Positive votes a promotion needs; a run has one vote.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_promote_positives: u64,
    /// Different runs with a positive vote a promotion needs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_promote_distinct_runs: u64,
    /// Largest part of negative votes of a promotion.
    #[arg(long, default_value_t = 0.1, value_parser = part)]
    max_promote_neg_ratio: f64,
    /// Positive votes less negative ones a promotion needs [default: one less than --min-promote-positives].
    #[arg(long, allow_negative_numbers = true)]
    min_promote_score: Option<i64>,
    /// Confidence a promotion needs.
    #[arg(long, default_value_t = 0.55, value_parser = part)]
    min_promote_confidence: f64,
    /// Negative votes switching off needs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_disable_negatives: u64,
    /// Part of negative votes switching off needs.
    #[arg(long, default_value_t = 0.6, value_parser = part)]
    min_disable_neg_ratio: f64,
    /// Confidence switching off needs.
    #[arg(long, default_value_t = 0.6, value_parser = part)]
    min_disable_confidence: f64,
    /// Hours without positive feedback after which an active rule is stale.
    #[arg(long, default_value_t = 336, value_parser = clap::value_parser!(u64).range(1..=87_600))]
    stale_active_hours: u64,
    /// Votes from which on a change need not be tried on a few first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    canary_min_feedback: u64,
    /// Confidence from which on switching off is urgent.
    #[arg(long, default_value_t = 0.85, value_parser = part)]
    urgent_disable_confidence: f64,
    /// Urgent cases there may be.
    #[arg(long, default_value_t = 0)]
    max_urgent_disable_candidates: u64,
    /// Other cases there may be.
    #[arg(long, default_value_t = 3)]
    max_canary_disable_candidates: u64,
}

impl PolicyArgs {
    /// The report by these bounds.
    pub(crate) fn job(&self, strictness: Strictness) -> PolicyAdaptation {
        PolicyAdaptation { thresholds: self.thresholds(), limit: self.limit, strictness }
    }

    fn thresholds(&self) -> PolicyThresholds {
        let score = i64::try_from(self.min_promote_positives.saturating_sub(1)).unwrap_or(i64::MAX);
        PolicyThresholds {
            window_hours: self.window_hours,
            promote: PromoteThresholds {
                min_positives: self.min_promote_positives,
                min_distinct_runs: self.min_promote_distinct_runs,
                max_neg_ratio: self.max_promote_neg_ratio,
                min_score: self.min_promote_score.unwrap_or(score),
                min_confidence: self.min_promote_confidence,
            },
            disable: DisableThresholds {
                min_negatives: self.min_disable_negatives,
                min_neg_ratio: self.min_disable_neg_ratio,
                min_confidence: self.min_disable_confidence,
                stale_active_hours: self.stale_active_hours,
            },
            canary: CanaryThresholds {
                min_feedback: self.canary_min_feedback,
                urgent_disable_confidence: self.urgent_disable_confidence,
            },
            gate: GateThresholds {
                max_urgent_disable_candidates: self.max_urgent_disable_candidates,
                max_canary_disable_candidates: self.max_canary_disable_candidates,
            },
        }
    }
}

pub(crate) async fn run(args: PolicyAdaptationArgs) -> Result<Verdict, Failure> {
    let job = args.bounds.job(args.strict.strictness());
    run_job(&job, &args.selection.selection(), &args.how).await
}

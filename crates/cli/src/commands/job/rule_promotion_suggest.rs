//! `aionis job rule-promotion-suggest`.

use aionis_core::jobs::rule_promotion::PromotionThresholds;
use aionis_engine::jobs::RulePromotionSuggest;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job, strictness::part};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job rule-promotion-suggest`.
#[derive(Debug, Args)]
pub(crate) struct RulePromotionSuggestArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Most rules looked at in a scope, those last changed first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Hours back from now in which feedback counts.
    #[arg(long, default_value_t = 720, value_parser = clap::value_parser!(u64).range(1..=8_760))]
    window_hours: u64,
    /// Positive votes a shadow rule needs; a run has one vote.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_positives: u64,
    /// Different runs with a positive vote a shadow rule needs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_distinct_runs: u64,
    /// Largest part of negative votes of a shadow rule.
    #[arg(long, default_value_t = 0.1, value_parser = part)]
    max_neg_ratio: f64,
    /// Positive votes less negative ones a shadow rule needs [default: one less than --min-positives].
    #[arg(long, allow_negative_numbers = true)]
    min_score: Option<i64>,
    /// Different runs with a positive vote a draft needs; it may have no negative vote.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    min_draft_runs: u64,
    /// Exit 2 when there is something to suggest.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: RulePromotionSuggestArgs) -> Result<Verdict, Failure> {
    let by_positives = PromotionThresholds::with_positives(args.min_positives);
    let thresholds = PromotionThresholds {
        window_hours: args.window_hours,
        min_distinct_runs: args.min_distinct_runs,
        max_neg_ratio: args.max_neg_ratio,
        min_score: args.min_score.unwrap_or(by_positives.min_score),
        min_draft_runs: args.min_draft_runs,
        ..by_positives
    };
    let job = RulePromotionSuggest { thresholds, limit: args.limit, strict: args.strict };
    run_job(&job, &args.selection.selection(), &args.how).await
}

//! Which rules have earned the next state: draft to shadow, shadow to active.

use serde::Serialize;

use super::{
    checks::{round4, within},
    counts::{RuleSignalPage, RuleSignals},
    state_change::{SUGGESTIONS_MAX, StateChange},
};
use crate::{
    ids::{CommitId, NodeId, ScopeKey},
    model::RuleState,
};

/// What a rule needs. All of it is taken of the window; a run has one vote.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PromotionThresholds {
    /// Length of the window.
    pub window_hours: u64,
    /// Positive votes a shadow rule needs.
    pub min_positives: u64,
    /// Runs with a positive vote a shadow rule needs.
    pub min_distinct_runs: u64,
    /// Largest part of negative votes of a shadow rule.
    pub max_neg_ratio: f64,
    /// Positive votes less negative ones a shadow rule needs.
    pub min_score: i64,
    /// Runs with a positive vote a draft needs; it may have no negative vote.
    pub min_draft_runs: u64,
}

impl PromotionThresholds {
    /// The defaults with another number of positive votes: the score follows it.
    pub fn with_positives(min_positives: u64) -> Self {
        Self {
            window_hours: 720,
            min_positives,
            min_distinct_runs: 3,
            max_neg_ratio: 0.1,
            min_score: i64::try_from(min_positives.saturating_sub(1)).unwrap_or(i64::MAX),
            min_draft_runs: 3,
        }
    }
}

impl Default for PromotionThresholds {
    fn default() -> Self {
        Self::with_positives(10)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// Rules.
    pub rules: u64,
    /// Drafts among them.
    pub draft_rules: u64,
    /// Shadow rules among them.
    pub shadow_rules: u64,
    /// Active rules among them.
    pub active_rules: u64,
    /// Rules the limit left out.
    pub left_out: u64,
    /// The limit.
    pub limit: u64,
}

impl Scanned {
    /// Of a page.
    pub fn of(page: &RuleSignalPage, limit: u64) -> Self {
        let count = |state| page.rules.iter().filter(|rule| rule.state == state).count() as u64;
        Self {
            rules: page.rules.len() as u64,
            draft_rules: count(RuleState::Draft),
            shadow_rules: count(RuleState::Shadow),
            active_rules: count(RuleState::Active),
            left_out: page.left_out,
            limit,
        }
    }
}

/// A rule that may get the next state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promotion {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Its state.
    pub state: RuleState,
    /// The next one.
    pub target_state: RuleState,
    /// Whether that is `active`.
    pub should_promote_to_active: bool,
    /// Positive feedback so far, as counted with the rule.
    pub positive_count: u64,
    /// Negative feedback so far, as counted with the rule.
    pub negative_count: u64,
    /// Positive votes in the window.
    pub positive_votes: u64,
    /// Negative votes in the window.
    pub negative_votes: u64,
    /// Positive votes less negative ones.
    pub score: i64,
    /// Part of the votes that are negative.
    pub negative_ratio: f64,
    /// Runs with a positive vote.
    pub positive_runs: u64,
    /// Runs with a negative vote.
    pub negative_runs: u64,
    /// When it was last evaluated.
    pub last_evaluated_at: Option<String>,
    /// When its definition was last changed.
    pub updated_at: String,
    /// The commit that did.
    pub commit_id: Option<CommitId>,
    /// Why.
    pub reasons: Vec<String>,
    /// The request that gives it the next state.
    pub apply: StateChange,
    /// The request that takes that back.
    pub rollback: StateChange,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromotionReport {
    /// The verdict: strict, whether there is nothing to suggest.
    pub ok: bool,
    /// What this is.
    pub kind: &'static str,
    /// What was asked for.
    pub thresholds: PromotionThresholds,
    /// What was looked at.
    pub scanned: Scanned,
    /// Rules that may be promoted.
    pub suggested: u64,
    /// Those of them that are drafts.
    pub suggested_to_shadow: u64,
    /// Those of them that are shadow rules.
    pub suggested_to_active: u64,
    /// The first of them, best score first.
    pub suggestions: Vec<Promotion>,
    /// What to do.
    pub next_step: &'static str,
}

/// The states rules are looked at in.
pub const PROMOTABLE: &[RuleState] = &[RuleState::Draft, RuleState::Shadow];

/// Suggests promotions.
pub fn suggest(
    scope: &ScopeKey,
    page: &RuleSignalPage,
    thresholds: PromotionThresholds,
    (limit, strict): (u64, bool),
) -> PromotionReport {
    let mut found: Vec<Promotion> = page.rules.iter().filter_map(|rule| promotion(scope, rule, &thresholds)).collect();
    found.sort_by(|a, b| b.score.cmp(&a.score).then(a.rule_node_id.cmp(&b.rule_node_id)));
    let to_active = found.iter().filter(|one| one.should_promote_to_active).count() as u64;
    let suggested = found.len() as u64;
    found.truncate(SUGGESTIONS_MAX);
    PromotionReport {
        ok: !strict || suggested == 0,
        kind: "rule_promotion_suggest",
        thresholds,
        scanned: Scanned::of(page, limit),
        suggested,
        suggested_to_shadow: suggested - to_active,
        suggested_to_active: to_active,
        suggestions: found,
        next_step: "send a suggestion's apply to its endpoint; rollback takes it back",
    }
}

/// Whether a rule has earned its next state, and which.
pub fn earned(rule: &RuleSignals, t: &PromotionThresholds) -> Option<RuleState> {
    let votes = &rule.window;
    match rule.state {
        RuleState::Draft if votes.positive_runs >= t.min_draft_runs.max(1) && votes.negative == 0 => {
            Some(RuleState::Shadow)
        }
        RuleState::Shadow
            if votes.positive >= t.min_positives
                && votes.positive_runs >= t.min_distinct_runs
                && within(votes.negative_ratio(), t.max_neg_ratio)
                && votes.score() >= t.min_score =>
        {
            Some(RuleState::Active)
        }
        _ => None,
    }
}

fn promotion(scope: &ScopeKey, rule: &RuleSignals, t: &PromotionThresholds) -> Option<Promotion> {
    let to = earned(rule, t)?;
    let votes = &rule.window;
    let (apply, rollback) = StateChange::there_and_back(scope, rule.rule, (rule.state, to), "rule-promotion-suggest");
    let runs = format!("positive in {} different runs", votes.positive_runs);
    let reasons = if to == RuleState::Shadow {
        vec![runs, "no negative vote".to_owned()]
    } else {
        vec![
            format!("{} positive votes >= {}", votes.positive, t.min_positives),
            runs,
            format!("negative part {} <= {}", round4(votes.negative_ratio()), t.max_neg_ratio),
            format!("score {} >= {}", votes.score(), t.min_score),
        ]
    };
    Some(Promotion {
        rule_node_id: rule.rule,
        state: rule.state,
        target_state: to,
        should_promote_to_active: to == RuleState::Active,
        positive_count: rule.positive_count,
        negative_count: rule.negative_count,
        positive_votes: votes.positive,
        negative_votes: votes.negative,
        score: votes.score(),
        negative_ratio: round4(votes.negative_ratio()),
        positive_runs: votes.positive_runs,
        negative_runs: votes.negative_runs,
        last_evaluated_at: rule.last_evaluated_at.map(|at| at.to_iso()),
        updated_at: rule.updated_at.to_iso(),
        commit_id: rule.commit_id,
        reasons,
        apply,
        rollback,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{clock::Timestamp, ids::TenantId, jobs::counts::Votes};

    fn rule(state: RuleState, window: Votes) -> RuleSignals {
        RuleSignals {
            rule: NodeId(Uuid::from_u128(7)),
            state,
            positive_count: 900,
            negative_count: 0,
            commit_id: None,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            last_evaluated_at: None,
            window,
            lifetime: Votes { positive: 900, positive_runs: 900, runs: 900, ..Votes::default() },
            last_feedback_at: None,
            last_positive_at: None,
        }
    }

    fn votes(positive: u64, negative: u64, positive_runs: u64) -> Votes {
        Votes { positive, negative, positive_runs, runs: positive_runs, ..Votes::default() }
    }

    #[test]
    fn a_draft_needs_three_runs_and_no_negative_vote() {
        let earned = |votes| earned(&rule(RuleState::Draft, votes), &PromotionThresholds::default());
        assert_eq!(earned(votes(3, 0, 3)), Some(RuleState::Shadow));
        assert_eq!(earned(votes(30, 0, 2)), None, "feedback without a run, or one run often, is not three runs");
        assert_eq!(earned(votes(30, 1, 30)), None);
        assert_eq!(earned(Votes::default()), None);
    }

    #[test]
    fn a_shadow_rule_needs_votes_runs_ratio_and_score() {
        let earned = |votes| earned(&rule(RuleState::Shadow, votes), &PromotionThresholds::default());
        assert_eq!(earned(votes(10, 1, 3)), Some(RuleState::Active));
        for too_little in [votes(9, 0, 9), votes(10, 0, 2), votes(10, 2, 10), votes(100, 12, 90)] {
            assert_eq!(earned(too_little), None, "{too_little:?}");
        }
        let by_score = PromotionThresholds { min_score: 50, ..PromotionThresholds::default() };
        assert_eq!(super::earned(&rule(RuleState::Shadow, votes(49, 0, 9)), &by_score), None);
        for state in [RuleState::Active, RuleState::Disabled] {
            assert_eq!(super::earned(&rule(state, votes(99, 0, 99)), &PromotionThresholds::default()), None);
        }
    }

    #[test]
    fn a_suggestion_names_tenant_and_scope_as_a_caller_does_and_strict_is_no_verdict_without_one() {
        let scope = ScopeKey::new(&TenantId::parse("acme").unwrap(), "ops").unwrap();
        let page = RuleSignalPage { rules: vec![rule(RuleState::Shadow, votes(12, 0, 4))], left_out: 0 };
        let report = suggest(&scope, &page, PromotionThresholds::default(), (50, true));
        assert!(!report.ok && report.suggested_to_active == 1);
        let body = serde_json::to_value(&report.suggestions[0].apply).unwrap();
        assert_eq!(body["endpoint"], "/v1/memory/rules/state");
        assert_eq!((&body["payload"]["tenant_id"], &body["payload"]["scope"]), (&"acme".into(), &"ops".into()));
        assert_eq!(body["payload"]["state"], "active");
        assert_eq!(report.suggestions[0].rollback.payload.state, RuleState::Shadow);
        assert!(suggest(&scope, &page, PromotionThresholds::default(), (50, false)).ok);
        assert!(suggest(&scope, &RuleSignalPage::default(), PromotionThresholds::default(), (50, true)).ok);
    }

    proptest! {
        #[test]
        fn a_negative_vote_more_never_earns_anything(
            shadow in any::<bool>(), positive in 0..40_u64, negative in 0..10_u64, runs in 0..12_u64
        ) {
            let state = if shadow { RuleState::Shadow } else { RuleState::Draft };
            let t = PromotionThresholds::default();
            let before = earned(&rule(state, votes(positive, negative, runs.min(positive))), &t);
            let after = earned(&rule(state, votes(positive, negative + 1, runs.min(positive))), &t);
            prop_assert!(after.is_none() || before.is_some());
        }
    }
}

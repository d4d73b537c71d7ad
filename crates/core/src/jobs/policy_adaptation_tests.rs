use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{ids::TenantId, jobs::checks::CheckState};

const NOW: Timestamp = Timestamp(1_760_000_000_000_000);

fn hours_ago(hours: u64) -> Timestamp {
    Timestamp(NOW.0 - i64::try_from(hours * HOUR_US).unwrap())
}

fn votes(total: u64, negative: u64, runs: u64) -> Votes {
    let positive = total - negative;
    Votes { positive, negative, runs, positive_runs: runs.min(positive), ..Votes::default() }
}

fn rule(id: u128, state: RuleState, window: Votes) -> RuleSignals {
    RuleSignals {
        rule: NodeId(Uuid::from_u128(id)),
        state,
        positive_count: 0,
        negative_count: 0,
        commit_id: None,
        created_at: hours_ago(10_000),
        updated_at: hours_ago(10_000),
        last_evaluated_at: None,
        window,
        lifetime: window,
        last_feedback_at: Some(hours_ago(1)),
        last_positive_at: Some(hours_ago(1)),
    }
}

/// What nobody spoke for in 400 hours.
fn forsaken(id: u128, lifetime: Votes) -> RuleSignals {
    RuleSignals {
        lifetime,
        last_feedback_at: Some(hours_ago(400)),
        last_positive_at: Some(hours_ago(400)),
        ..rule(id, RuleState::Active, Votes::default())
    }
}

fn report_of(rules: Vec<RuleSignals>, left_out: u64, strictness: Strictness) -> PolicyReport {
    let scope = ScopeKey::new(&TenantId::parse("acme").unwrap(), "ops").unwrap();
    adapt(&scope, &RuleSignalPage { rules, left_out }, PolicyThresholds::default(), (200, strictness), NOW)
}

fn report(rules: Vec<RuleSignals>) -> PolicyReport {
    report_of(rules, 0, Strictness::default())
}

fn states(report: &PolicyReport) -> [CheckState; 2] {
    [report.checks[0].state, report.checks[1].state]
}

#[test]
fn promote_confidence_7_4() {
    let t = PolicyThresholds::default();
    for (total, negative, runs, expected) in [(20, 0, 3, 1.0), (20, 2, 3, 0.55)] {
        let confidence = promote_confidence(&votes(total, negative, runs), &t);
        assert!((confidence - expected).abs() < 1e-9, "{total} {negative}: {confidence}");
    }
    let few = promote_confidence(&votes(10, 1, 3), &t);
    assert!((few - 0.375).abs() < 1e-9, "{few}");
    let of = |votes| report(vec![rule(1, RuleState::Shadow, votes)]).suggestions.promote_to_active;
    assert!(!of(votes(20, 0, 3))[0].canary_recommended);
    assert!(of(votes(20, 2, 3))[0].canary_recommended, "eligible, on a few first");
    assert!(of(votes(10, 1, 3)).is_empty());
}

#[test]
fn disable_confidence_7_4() {
    let t = PolicyThresholds::default();
    for (total, negative, stale, expected) in
        [(10, 6, false, 0.80), (6, 5, false, 0.70), (10, 6, true, 1.0), (6, 5, true, 0.90)]
    {
        let confidence = disable_confidence(&votes(total, negative, 3), stale, &t);
        assert!((confidence - expected).abs() < 1e-9, "{total} {negative} {stale}: {confidence}");
    }
}

#[test]
fn ops_10_the_error_check_fails_with_default_settings() {
    let of = report;
    let report = of(vec![forsaken(1, votes(10, 6, 6))]);
    assert_eq!(states(&report), [CheckState::Fail, CheckState::Pass]);
    assert_eq!(report.summary.checks.failed_errors, ["urgent_disable_candidates_max"]);
    assert!(!report.ok, "an error fails the verdict however strict it is");
    let suggestion = &report.suggestions.disable_active[0];
    assert!(!suggestion.metrics.in_window && suggestion.metrics.stale == Some(true));
    assert_eq!((suggestion.target_state, suggestion.risk_level), (RuleState::Disabled, "high"));
    // Refused in the window, and nobody has spoken for it for long.
    let refused = RuleSignals { last_positive_at: None, ..rule(2, RuleState::Active, votes(10, 10, 5)) };
    assert_eq!(of(vec![refused]).summary.urgent_disable_candidates, 1);
}

#[test]
fn too_many_cases_that_are_not_urgent_fail_the_warning() {
    let cases: Vec<RuleSignals> = (0..4).map(|n| rule(n, RuleState::Active, votes(10, 6, 6))).collect();
    let lax = report(cases.clone());
    assert_eq!(states(&lax), [CheckState::Pass, CheckState::Fail]);
    assert!(lax.ok);
    let strict = Strictness { strict: false, strict_warnings: true };
    assert!(!report_of(cases.clone(), 0, strict).ok);
    assert_eq!(states(&report(cases[..3].to_vec())), [CheckState::Pass, CheckState::Pass]);
}

#[test]
fn without_votes_or_with_rules_left_out_it_is_inconclusive() {
    let both = [CheckState::Inconclusive; 2];
    assert_eq!(states(&report(Vec::new())), both);
    assert_eq!(states(&report(vec![rule(1, RuleState::Active, Votes::default())])), both);
    assert_eq!(states(&report(vec![rule(1, RuleState::Shadow, votes(20, 0, 3))])), both, "no active rule");
    let good = vec![rule(1, RuleState::Active, votes(20, 0, 3))];
    assert_eq!(states(&report_of(good.clone(), 0, Strictness::default())), [CheckState::Pass; 2]);
    assert_eq!(states(&report_of(good.clone(), 1, Strictness::default())), both);
    assert!(!report_of(good, 1, Strictness { strict: true, strict_warnings: false }).ok);
}

#[test]
fn one_run_that_votes_often_and_feedback_without_a_run_promote_nothing() {
    let anonymous = Votes { positive: 50, ..Votes::default() };
    let one_run = Votes { positive: 1, runs: 1, positive_runs: 1, ..Votes::default() };
    for votes in [anonymous, one_run] {
        assert!(report(vec![rule(1, RuleState::Shadow, votes)]).suggestions.promote_to_active.is_empty());
    }
}

#[test]
fn lists_are_bounded_and_counts_are_not() {
    let many: Vec<RuleSignals> = (0..150).map(|n| rule(n, RuleState::Shadow, votes(20, 0, 3))).collect();
    let report = report(many);
    assert_eq!(report.summary.promote_candidates, 150);
    assert_eq!(report.suggestions.promote_to_active.len(), SUGGESTIONS_MAX);
}

proptest! {
    #[test]
    fn confidences_are_between_0_and_1_and_grow_with_staleness(
        total in 0..200_u64, negative in 0..200_u64, runs in 0..50_u64
    ) {
        let (votes, t) = (votes(total, negative.min(total), runs), PolicyThresholds::default());
        let fresh = disable_confidence(&votes, false, &t);
        let stale = disable_confidence(&votes, true, &t);
        prop_assert!((0.0..=1.0).contains(&promote_confidence(&votes, &t)));
        prop_assert!(0.0 <= fresh && fresh <= stale && stale <= 1.0);
    }
}

use proptest::prelude::*;

use super::*;
use crate::jobs::{checks::CheckState, counts::RuleCounts, tenants::TenantActivity};

/// What passes every check.
pub(crate) fn sound() -> Activity {
    Activity {
        feedback: FeedbackCounts {
            total: 100,
            with_run_id: 90,
            distinct_runs: 30,
            positive: 80,
            negative: 10,
            neutral: 10,
            tools: 40,
            tools_with_decision: 40,
            tools_linked: 40,
        },
        rules: RuleCounts { draft: 1, shadow: 2, active: 10, disabled: 1, active_with_feedback: 9 },
        recall: RecallCounts { total: 50, with_identity: 45, distinct_consumers: 4 },
        lanes: LaneCounts { private: 20, private_with_owner: 20, shared: 30 },
    }
}

/// Two tenants that do alike.
pub(crate) fn alike() -> Tenants {
    let tenant = |name: &str| TenantActivity { tenant: name.to_owned(), activity: sound() };
    Tenants { tenants: vec![tenant("acme"), tenant("globex")], left_out: 0 }
}

fn changed(change: impl FnOnce(&mut Activity)) -> Activity {
    let mut activity = sound();
    change(&mut activity);
    activity
}

fn drifting(change: impl FnOnce(&mut Activity)) -> Tenants {
    let mut tenants = alike();
    change(&mut tenants.tenants[0].activity);
    tenants
}

fn judged(activity: &Activity, tenants: &Tenants) -> LoopReport {
    judge(activity, Some(tenants), LoopThresholds::default(), Strictness::default())
}

#[test]
fn each_violation_trips_its_check_and_no_other() {
    let fine = judged(&sound(), &alike());
    assert!(fine.summary.pass && fine.checks.len() == 11, "{:?}", fine.checks);
    let of_scope: Vec<(&str, Activity)> = vec![
        (
            "feedback_events_min",
            changed(|a| {
                a.feedback =
                    FeedbackCounts { total: 9, with_run_id: 9, distinct_runs: 3, positive: 9, ..Default::default() };
                (a.feedback.tools, a.feedback.tools_linked) = (5, 5);
            }),
        ),
        ("feedback_distinct_runs_min", changed(|a| a.feedback.distinct_runs = 2)),
        ("feedback_run_id_coverage_min", changed(|a| a.feedback.with_run_id = 79)),
        ("feedback_negative_ratio_max", changed(|a| a.feedback.negative = 36)),
        ("active_rule_feedback_coverage_min", changed(|a| a.rules.active_with_feedback = 5)),
        ("stale_active_rules_max", changed(|a| (a.rules.active, a.rules.active_with_feedback) = (20, 14))),
        ("decision_link_coverage_min", changed(|a| a.feedback.tools_linked = 37)),
        ("recall_identity_coverage_min", changed(|a| a.recall.with_identity = 39)),
        ("private_owner_coverage_min", changed(|a| a.lanes.private_with_owner = 19)),
    ];
    let mut seen = Vec::new();
    for (name, activity) in of_scope {
        seen.push((name, judged(&activity, &alike())));
    }
    seen.push(("tenant_active_rule_count_drift_max", judged(&sound(), &drifting(|a| a.rules.active = 31))));
    seen.push(("tenant_negative_ratio_drift_max", judged(&sound(), &drifting(|a| a.feedback.negative = 41))));
    for (name, report) in &seen {
        let failed: Vec<&str> =
            report.checks.iter().filter(|check| check.state == CheckState::Fail).map(|check| check.name).collect();
        assert_eq!(failed, [*name]);
        let error = ["feedback_negative_ratio_max", "private_owner_coverage_min"].contains(name);
        assert_eq!(report.ok, !error, "{name}: only what is an error fails a verdict that is not strict");
    }
    let names: Vec<&str> = fine.checks.iter().map(|check| check.name).collect();
    assert_eq!(seen.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names, "every check has its violation");
}

#[test]
fn without_data_every_check_is_inconclusive() {
    let report = judged(&Activity::default(), &Tenants::default());
    assert!(report.checks.iter().all(|check| check.state == CheckState::Inconclusive && check.value.is_none()));
    assert!(report.ok && !report.summary.pass);
    for strictness in [(true, false), (false, true)] {
        let strictness = Strictness { strict: strictness.0, strict_warnings: strictness.1 };
        let strict = judge(&Activity::default(), None, LoopThresholds::default(), strictness);
        assert!(!strict.ok);
    }
}

#[test]
fn a_sample_that_is_too_small_is_inconclusive_and_one_ownerless_node_is_not() {
    let few = changed(|a| {
        a.feedback = FeedbackCounts { total: 4, negative: 4, tools: 4, ..Default::default() };
        a.recall = RecallCounts { total: 4, ..Default::default() };
        a.lanes = LaneCounts { private: 1, ..Default::default() };
    });
    let report = judged(&few, &alike());
    let state = |name: &str| report.checks.iter().find(|check| check.name == name).unwrap().state;
    for name in [
        "feedback_run_id_coverage_min",
        "feedback_negative_ratio_max",
        "decision_link_coverage_min",
        "recall_identity_coverage_min",
    ] {
        assert_eq!(state(name), CheckState::Inconclusive, "{name}");
    }
    assert_eq!(state("private_owner_coverage_min"), CheckState::Fail);
}

#[test]
fn tenants_that_are_not_asked_for_are_not_judged_and_one_alone_is_inconclusive() {
    let without = judge(&sound(), None, LoopThresholds::default(), Strictness::default());
    assert_eq!((without.checks.len(), &without.metrics.governance.tenant_policy_drift), (9, &None));
    let alone = Tenants { tenants: alike().tenants[..1].to_vec(), left_out: 0 };
    assert_eq!(judged(&sound(), &alone).summary.inconclusive.len(), 2);
    let cut = Tenants { left_out: 1, ..alike() };
    assert_eq!(judged(&sound(), &cut).summary.inconclusive.len(), 2);
    let quiet = drifting(|a| (a.feedback.total, a.feedback.negative) = (4, 4));
    assert_eq!(judged(&sound(), &quiet).summary.inconclusive, ["tenant_negative_ratio_drift_max"]);
}

proptest! {
    #[test]
    fn no_count_breaks_it(
        total in 0..50_u64, negative in 0..50_u64, active in 0..9_u64, fed in 0..9_u64, private in 0..9_u64
    ) {
        let activity = changed(|a| {
            (a.feedback.total, a.feedback.negative) = (total, negative.min(total));
            (a.rules.active, a.rules.active_with_feedback) = (active, fed.min(active));
            (a.lanes.private, a.lanes.private_with_owner) = (private, private / 2);
        });
        let report = judged(&activity, &alike());
        let of = |state| report.checks.iter().filter(|check| check.state == state).count();
        prop_assert_eq!(of(CheckState::Pass) + of(CheckState::Fail) + of(CheckState::Inconclusive), 11);
        prop_assert!(report.checks.iter().all(|check| check.value.is_none_or(f64::is_finite)));
    }
}

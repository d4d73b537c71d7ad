use proptest::prelude::*;

use super::*;
use crate::{
    ids::TenantId,
    jobs::counts::{FeedbackCounts, LaneCounts, RecallCounts},
};

fn sound() -> Activity {
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

fn alike() -> Tenants {
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

fn subject(scope: &str) -> Subject {
    Subject {
        scope: ScopeKey::new(&TenantId::parse("acme").unwrap(), scope).unwrap(),
        window_hours: 168,
        report_week: "2026-W08".to_owned(),
        run_id: "20260220_101112".to_owned(),
        generated_at: Timestamp(1_771_234_567_890_123),
        out_dir: "artifacts".to_owned(),
    }
}

fn made(activity: &Activity, tenants: &Tenants, strictness: Strictness) -> GovernanceReport {
    report(subject("ops"), activity, tenants, (GovernanceThresholds::default(), strictness))
}

fn lax(activity: &Activity, tenants: &Tenants) -> GovernanceReport {
    made(activity, tenants, Strictness::default())
}

#[test]
fn each_violation_trips_its_check_and_no_other() {
    let fine = lax(&sound(), &alike());
    assert_eq!((fine.ok, fine.overall, fine.recommendations.len()), (true, Light::Green, 0));
    let seen = [
        ("scope_private_owner_coverage_min", lax(&changed(|a| a.lanes.private_with_owner = 19), &alike())),
        ("scope_decision_link_coverage_min", lax(&changed(|a| a.feedback.tools_linked = 37), &alike())),
        ("scope_recall_identity_coverage_min", lax(&changed(|a| a.recall.with_identity = 39), &alike())),
        ("tenant_active_rule_count_drift_max", lax(&sound(), &drifting(|a| a.rules.active = 31))),
        ("tenant_negative_ratio_drift_max", lax(&sound(), &drifting(|a| a.feedback.negative = 41))),
    ];
    for (name, report) in &seen {
        let failed: Vec<&str> =
            report.checks.iter().filter(|check| check.state == CheckState::Fail).map(|check| check.name).collect();
        assert_eq!(failed, [*name]);
        let error = *name == "scope_private_owner_coverage_min";
        assert_eq!((report.ok, report.overall), (!error, if error { Light::Red } else { Light::Yellow }));
        assert_eq!(report.recommendations.len(), 1);
    }
    let names: Vec<&str> = fine.checks.iter().map(|check| check.name).collect();
    assert_eq!(seen.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names, "every check has its violation");
}

#[test]
fn without_data_it_is_inconclusive_and_strict_it_does_not_hold() {
    let nothing = lax(&Activity::default(), &Tenants::default());
    assert!(nothing.checks.iter().all(|check| check.state == CheckState::Inconclusive));
    assert_eq!((nothing.ok, nothing.overall, nothing.recommendations.len()), (true, Light::Yellow, 5));
    for (strict, strict_warnings) in [(true, false), (false, true)] {
        assert!(!made(&Activity::default(), &Tenants::default(), Strictness { strict, strict_warnings }).ok);
    }
}

#[test]
fn weeks_and_ids() {
    let at = |text| Timestamp::parse_iso(text).unwrap();
    for (time, week) in [
        ("2026-02-16T09:36:07.890Z", "2026-W08"),
        ("2021-01-03T23:59:59Z", "2020-W53"),
        ("2024-12-30T00:00:00Z", "2025-W01"),
    ] {
        assert_eq!(iso_week(at(time)), week);
    }
    assert_eq!(default_run_id(at("2026-02-16T09:36:07.890Z")), "20260216_093607");
    assert!(parse_week("2026-W08").is_ok());
    for wrong in ["2026-8", "2026-W54", "2026-W00", "26-W08", "2026-W8", "", "../../x"] {
        assert!(parse_week(wrong).is_err(), "{wrong}");
    }
    assert!(parse_run_id("20260216_093607").is_ok());
    for wrong in ["", "..", ".", "a/b", "a b", &"x".repeat(65)] {
        assert!(parse_run_id(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn markdown_has_its_sections_and_the_page_loads_nothing() {
    let report = lax(&changed(|a| a.lanes.private_with_owner = 19), &alike());
    let text = markdown(&report);
    for section in [
        "# Governance, week 2026-W08",
        "## Executive Summary",
        "## Scope Snapshot",
        "## Cross-Tenant Drift",
        "## Gate Checks",
        "## Top Tenants",
        "## Recommendations",
    ] {
        assert!(text.contains(section), "{section}");
    }
    assert!(text.contains("Overall: **red**") && text.contains("aionis job owner-review"));
    let page = page(&report);
    assert_eq!(page.matches("<svg ").count(), 5);
    for outside in ["http:", "https:", "src=", "url(", "<script", "<link", "@import", "onload"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn whatever_a_scope_is_called_stays_text() {
    let name = "<script>alert(1)</script>|`x`\"'&";
    let subject = Subject { out_dir: name.to_owned(), ..subject(name) };
    let tenants = Tenants { tenants: vec![TenantActivity { tenant: name.to_owned(), activity: sound() }], left_out: 0 };
    let report = report(subject, &sound(), &tenants, (GovernanceThresholds::default(), Strictness::default()));
    let (page, text) = (page(&report), markdown(&report));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!text.contains("<script") && text.contains("\\|\\`x\\`"));
}

proptest! {
    #[test]
    fn escaped_text_opens_nothing(name in "\\PC{0,40}") {
        let tenants = Tenants {
            tenants: vec![TenantActivity { tenant: name, activity: sound() }],
            left_out: 0,
        };
        let report = lax(&sound(), &tenants);
        let plain = lax(&sound(), &Tenants {
            tenants: vec![TenantActivity { tenant: "x".to_owned(), activity: sound() }],
            left_out: 0,
        });
        for mark in ["<", ">", "\""] {
            prop_assert_eq!(page(&report).matches(mark).count(), page(&plain).matches(mark).count());
        }
        prop_assert_eq!(markdown(&report).lines().count(), markdown(&plain).lines().count());
    }
}

//! The routing matrix, line by line.

use super::scale::*;

const TODAY: i64 = 20_500;

/// Everything measured and far below every bound.
fn calm() -> ScaleSignals {
    let low = |value: f64| Signal::measured(value, "test");
    ScaleSignals {
        write_p95_ms: low(20.0),
        recall_p95_ms: low(30.0),
        db_cpu_p95_percent: low(10.0),
        read_pool_saturated: low(0.0),
        queue_wait_p95_ms: low(1.0),
        queue_refused_share: low(0.0),
        top_tenant_write_share: low(0.05),
        top_tenant_growth_share: low(0.1),
        write_capacity_used: low(0.1),
        nodes_grown: low(2_000_000.0),
        tenants: low(50.0),
    }
}

fn days(count: i64, breached: &[&str], within_a: bool) -> Vec<Earlier> {
    let breached: Vec<String> = breached.iter().map(|&name| name.to_owned()).collect();
    (1..=count).map(|back| Earlier { day: TODAY - back, breached: breached.clone(), within_a }).collect()
}

fn of(signals: &ScaleSignals, current: ScaleTier, earlier: &[Earlier]) -> Advice {
    advise(signals, &ScaleThresholds::default(), current, TODAY, earlier)
}

type Set = fn(&mut ScaleSignals, f64);

#[test]
fn each_trigger_has_its_bound_its_tier_and_its_days() {
    let cases: [(&str, Set, f64, f64, ScaleTier); 9] = [
        ("recall_text_p95_ms", |s, v| s.recall_p95_ms.value = Some(v), 800.0, 800.1, ScaleTier::B),
        ("db_cpu_p95_percent", |s, v| s.db_cpu_p95_percent.value = Some(v), 65.0, 65.1, ScaleTier::B),
        ("read_pool_saturated", |s, v| s.read_pool_saturated.value = Some(v), 0.0, 1.0, ScaleTier::B),
        ("queue_wait_p95_ms", |s, v| s.queue_wait_p95_ms.value = Some(v), 200.0, 201.0, ScaleTier::B),
        ("queue_refused_share", |s, v| s.queue_refused_share.value = Some(v), 0.01, 0.011, ScaleTier::B),
        ("top_tenant_write_capacity_share", |s, v| s.top_tenant_write_share.value = Some(v), 0.34, 0.35, ScaleTier::C),
        ("top_tenant_growth_share", |s, v| s.top_tenant_growth_share.value = Some(v), 0.29, 0.30, ScaleTier::C),
        ("write_capacity_used", |s, v| s.write_capacity_used.value = Some(v), 0.69, 0.70, ScaleTier::C),
        ("tenant_cardinality", |s, v| s.tenants.value = Some(v), 10_000.0, 10_001.0, ScaleTier::C),
    ];
    for (name, set, within, beyond, tier) in cases {
        let mut signals = calm();
        set(&mut signals, within);
        let fine = of(&signals, ScaleTier::A, &[]);
        assert_eq!((fine.ok, fine.breached.len()), (true, 0), "{name} at {within}");
        set(&mut signals, beyond);
        let needed = if tier == ScaleTier::B { 3 } else { 7 };
        // One day short of it: the deployment stays.
        let short = of(&signals, ScaleTier::A, &days(needed - 2, &[name], false));
        assert_eq!((short.recommendation, short.tier), (Recommendation::Stay, ScaleTier::A), "{name}");
        assert_eq!(short.breached, [name]);
        assert!(!short.ok && short.reason.contains("not for long enough"), "{}", short.reason);
        let long = of(&signals, ScaleTier::A, &days(needed - 1, &[name], false));
        assert_eq!((long.recommendation, long.tier), (Recommendation::Promote, tier), "{name}");
        assert!(long.reason.contains(name), "{}", long.reason);
    }
}

#[test]
fn slow_writes_call_for_shards_only_from_tier_b() {
    let mut signals = calm();
    signals.write_p95_ms = Signal::measured(301.0, "test");
    let earlier = days(6, &["write_p95_ms"], false);
    assert_eq!(of(&signals, ScaleTier::A, &earlier).recommendation, Recommendation::Stay);
    let advice = of(&signals, ScaleTier::B, &earlier);
    assert_eq!((advice.recommendation, advice.tier), (Recommendation::Promote, ScaleTier::C));
}

#[test]
fn a_day_without_record_or_with_a_better_one_ends_the_row() {
    let mut signals = calm();
    signals.recall_p95_ms = Signal::measured(900.0, "test");
    let name = "recall_text_p95_ms";
    let sustained = |earlier: &[Earlier]| {
        let advice = of(&signals, ScaleTier::A, earlier);
        advice.triggers.iter().find(|trigger| trigger.name == name).map(|trigger| trigger.days_sustained)
    };
    assert_eq!(sustained(&[]), Some(1));
    assert_eq!(sustained(&days(2, &[name], false)), Some(3));
    let mut gap = days(3, &[name], false);
    gap.retain(|record| record.day != TODAY - 1);
    assert_eq!(sustained(&gap), Some(1));
    let mut better = days(2, &[name], false);
    better.push(Earlier { day: TODAY - 1, breached: vec![], within_a: false });
    assert_eq!(sustained(&better), Some(1));
    // It was fine an hour ago: today is no day of it.
    assert_eq!(sustained(&[Earlier { day: TODAY, breached: vec![], within_a: true }]), Some(0));
    let future = Earlier { day: TODAY + 1, breached: vec![name.to_owned()], within_a: false };
    assert_eq!(sustained(&[future]), Some(1));
}

#[test]
fn what_cannot_be_measured_is_unknown_and_neither_promotes_nor_lets_go_back() {
    let nothing = of(&ScaleSignals::default(), ScaleTier::A, &[]);
    assert_eq!((nothing.ok, nothing.unknown.len(), nothing.breached.len()), (false, 10, 0));
    assert_eq!((nothing.recommendation, nothing.within_tier_a), (Recommendation::Stay, Breach::Unknown));
    assert_eq!(serde_json::to_value(Breach::Unknown).ok(), Some(serde_json::json!("unknown")));
    assert_eq!(serde_json::to_value(Breach::Yes).ok(), Some(serde_json::json!(true)));
    let mut signals = calm();
    signals.db_cpu_p95_percent = Signal::missing("nobody told");
    let advice = of(&signals, ScaleTier::B, &days(10, &[], true));
    assert_eq!((advice.recommendation, advice.days_within_tier_a), (Recommendation::Stay, 0));
    assert_eq!(advice.unknown, ["db_cpu_p95_percent"]);
}

#[test]
fn back_to_a_after_seven_days_within_its_tighter_bounds() {
    let calm_week = days(6, &[], true);
    let back = of(&calm(), ScaleTier::B, &calm_week);
    assert_eq!((back.recommendation, back.tier, back.days_within_tier_a), (Recommendation::Rollback, ScaleTier::A, 7));
    assert_eq!(of(&calm(), ScaleTier::B, &days(5, &[], true)).recommendation, Recommendation::Stay);
    for tighten in [
        (|s: &mut ScaleSignals| s.write_p95_ms.value = Some(201.0)) as fn(&mut ScaleSignals),
        |s| s.top_tenant_write_share.value = Some(0.21),
        |s| s.recall_p95_ms.value = Some(801.0),
    ] {
        let mut signals = calm();
        tighten(&mut signals);
        let advice = of(&signals, ScaleTier::B, &calm_week);
        assert_eq!((advice.recommendation, advice.within_tier_a), (Recommendation::Stay, Breach::No));
    }
    assert_eq!(of(&calm(), ScaleTier::A, &calm_week).recommendation, Recommendation::Stay);
}

#[test]
fn shards_are_one_way() {
    let mut signals = calm();
    signals.recall_p95_ms = Signal::measured(900.0, "test");
    for signals in [calm(), signals] {
        let advice = of(&signals, ScaleTier::C, &days(30, &["recall_text_p95_ms"], true));
        assert_eq!((advice.recommendation, advice.tier), (Recommendation::Stay, ScaleTier::C));
    }
}

#[test]
fn whose_growth_it_is_matters_only_where_there_is_growth_and_another_tenant() {
    let mut signals = calm();
    signals.top_tenant_growth_share = Signal::measured(1.0, "test");
    assert_eq!(of(&signals, ScaleTier::A, &[]).breached, ["top_tenant_growth_share"]);
    for tighten in [(|s: &mut ScaleSignals| s.nodes_grown.value = Some(999_999.0)) as fn(&mut ScaleSignals), |s| {
        s.tenants.value = Some(1.0);
    }] {
        let mut signals = signals.clone();
        tighten(&mut signals);
        assert!(of(&signals, ScaleTier::A, &[]).ok);
    }
}

/// What a summary says of its tier is what the next run reads.
#[test]
fn tiers_are_shown_as_they_are_read() {
    for tier in [ScaleTier::A, ScaleTier::B, ScaleTier::C] {
        let shown = serde_json::to_value(tier).unwrap();
        assert_eq!(ScaleTier::parse(shown.as_str().unwrap()), Some(tier));
        assert_eq!(shown, tier.to_string());
    }
    assert_eq!(ScaleTier::parse("a"), None);
}

#[test]
fn tiers_guardrails_and_exits_are_those_of_the_document() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ULTRA_SCALE_ROUTING_MATRIX.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut guardrails: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
    let mut exits = 0;
    for TierRule { tier, layout, done, guardrails: own, exits: ways } in TIERS {
        assert!(document.contains(&format!("| {tier} | {layout} | {done} |")), "{tier}");
        for exit in ways {
            let line = format!("* **{tier} → {}:** {}", exit.to, exit.when);
            assert!(document.contains(&line), "the document lacks: {line}");
        }
        exits += ways.len();
        guardrails.extend(own.iter().copied());
    }
    for guardrail in &guardrails {
        assert!(document.contains(&format!("* {guardrail}\n")), "the document lacks: {guardrail}");
    }
    let section = |name: &str| {
        let text = document.split(&format!("\n## {name}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
        text.lines().filter(|line| line.starts_with("* ")).count()
    };
    // Tier C has a line too, which says that it is not left.
    assert_eq!((section("Guardrails"), section("Exits")), (guardrails.len(), exits + 1));
    let bounds = ScaleThresholds::default();
    assert_eq!((bounds.days_b, bounds.days_c, bounds.a_write_p95_max_ms), (3, 7, 200.0), "the texts name them");
}

#[test]
fn an_advice_names_the_guardrails_of_the_tier_it_leads_to() {
    let mut signals = calm();
    assert_eq!(of(&signals, ScaleTier::A, &[]).guardrails, TIERS[0].guardrails);
    signals.tenants = Signal::measured(10_001.0, "test");
    let to_shards = of(&signals, ScaleTier::A, &days(6, &["tenant_cardinality"], false));
    assert_eq!((to_shards.tier, to_shards.guardrails), (ScaleTier::C, TIERS[2].guardrails));
    assert!(to_shards.guardrails.len() > TIERS[1].guardrails.len());
}

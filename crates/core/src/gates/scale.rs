//! The routing matrix: which tier a deployment belongs to, by triggers that were breached long enough.
//!
//! A is one PostgreSQL cluster, B a primary with read replicas, C shards by tenant. A trigger that cannot be measured is
//! unknown: it neither promotes nor lets a deployment go back.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};

use crate::model::text_enum;

/// A tier of the routing matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ScaleTier {
    /// One cluster.
    A,
    /// A primary, and replicas that are read.
    B,
    /// Tenants on shards of their own.
    C,
}

impl ScaleTier {
    /// The text form, as summaries and flags have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::A, Self::B, Self::C].into_iter().find(|tier| tier.as_str() == text)
    }
}

impl fmt::Display for ScaleTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A way out of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TierExit {
    /// Where it leads.
    pub to: ScaleTier,
    /// When it is taken.
    pub when: &'static str,
}

/// A tier as the matrix has it: what it is, what holds in it, and the ways out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TierRule {
    /// The tier.
    pub tier: ScaleTier,
    /// How the deployment is laid out.
    pub layout: &'static str,
    /// What is done in it.
    pub done: &'static str,
    /// What must not be given up in it, or before a tenant is moved into it.
    pub guardrails: &'static [&'static str],
    /// The ways out; none when it is not left.
    pub exits: &'static [TierExit],
}

/// What must not be given up in any tier, and then what is asked for before tenants move to shards.
const GUARDRAILS: &[&str] = &[
    "The commit chain is never switched off.",
    "Resets of scopes at this size go by partition (`aionis job scope-purge --mode partition`).",
    "Before a tenant is moved: `aionis gate consistency --all --strict-warnings` passes, the readiness of the partitioned \
     layout is shown, and a replay of dead letters was rehearsed (`aionis job outbox-replay`).",
];
/// Those of them that hold in every tier.
const IN_EVERY_TIER: usize = 2;

/// The tiers, as the matrix has them.
pub const TIERS: [TierRule; 3] = {
    use ScaleTier::{A, B, C};
    let in_all = GUARDRAILS.split_at(IN_EVERY_TIER).0;
    [
        TierRule {
            tier: A,
            layout: "one cluster",
            done: "one primary; partition-first purge; adaptive downgrade of recalls",
            guardrails: in_all,
            exits: &[
                TierExit { to: B, when: "a trigger of B is breached for 3 days in a row" },
                TierExit { to: C, when: "a trigger of C other than slow writes is breached for 7 days in a row" },
            ],
        },
        TierRule {
            tier: B,
            layout: "primary and read replicas",
            done: "recalls go to replicas, writes and the commit chain stay on the primary; noisy tenants are limited more \
                   tightly",
            guardrails: in_all,
            exits: &[
                TierExit { to: C, when: "a trigger of C is breached for 7 days in a row" },
                TierExit {
                    to: A,
                    when: "for 7 days in a row everything was measured to be within the bounds of A: no trigger breached, \
                           writes up to 200 ms (p95), the busiest tenant up to 0.20 of the write capacity",
                },
            ],
        },
        TierRule {
            tier: C,
            layout: "tenant shards",
            done: "tenants on clusters of their own, routed by tenant id; a verification window before each flip. One-way",
            guardrails: GUARDRAILS,
            exits: &[],
        },
    ]
};

text_enum!(
    /// What to do about the tier.
    Recommendation {
        /// Stay where it is.
        Stay = "stay",
        /// Go on to a higher tier.
        Promote = "promote",
        /// Go back from B to A.
        Rollback = "rollback",
    }
);

/// Whether a bound is broken. Shown as `true`, `false` or `"unknown"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It is.
    Yes,
    /// It was measured, and is not.
    No,
    /// It could not be measured.
    Unknown,
}

impl Breach {
    const fn of(breached: bool) -> Self {
        if breached { Self::Yes } else { Self::No }
    }
}

impl Serialize for Breach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

/// A measured signal, or why there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signal {
    /// The value; nothing when it could not be measured.
    pub value: Option<f64>,
    /// Where it comes from, or why it is missing.
    pub evidence: String,
}

impl Signal {
    /// One that was measured.
    pub fn measured(value: f64, evidence: impl Into<String>) -> Self {
        Self { value: Some(value), evidence: evidence.into() }
    }

    /// One that was not.
    pub fn missing(why: impl Into<String>) -> Self {
        Self { value: None, evidence: why.into() }
    }
}

/// What triggers look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleSignals {
    /// 95th percentile of writes, in ms.
    pub write_p95_ms: Signal,
    /// 95th percentile of recalls by text, in ms.
    pub recall_p95_ms: Signal,
    /// 95th percentile of the database server's CPU, in percent of all its cores.
    pub db_cpu_p95_percent: Signal,
    /// 1 when reads wait for connections of the pool and writes do not slow down by it, else 0.
    pub read_pool_saturated: Signal,
    /// 95th percentile of the wait for admission, in ms, of requests that had to wait.
    pub queue_wait_p95_ms: Signal,
    /// Part of requests that were refused because the queues were full or too slow; 0 to 1.
    pub queue_refused_share: Signal,
    /// Part of the write capacity that the busiest tenant uses in its busiest hour; 0 to 1.
    pub top_tenant_write_share: Signal,
    /// Part of the stored nodes of the window that belong to the tenant that grew most; 0 to 1.
    pub top_tenant_growth_share: Signal,
    /// Part of the write capacity that all tenants use in their busiest hour; 0 to 1.
    pub write_capacity_used: Signal,
    /// Nodes all tenants stored in the window of growth.
    pub nodes_grown: Signal,
    /// Tenants with memory.
    pub tenants: Signal,
}

/// Bounds of the triggers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScaleThresholds {
    /// Recall above which one cluster is too slow, in ms.
    pub recall_p95_max_ms: f64,
    /// CPU above which one cluster is too busy, in percent.
    pub db_cpu_p95_max_percent: f64,
    /// Wait for admission above which queues are a burden, in ms.
    pub queue_wait_p95_max_ms: f64,
    /// Part of refused requests above which queues are a burden.
    pub queue_refused_max: f64,
    /// Part of the write capacity from which on a tenant needs a shard.
    pub top_tenant_write_share_max: f64,
    /// Part of the growth from which on a tenant needs a shard.
    pub top_tenant_growth_share_max: f64,
    /// Nodes a deployment has to grow by in the window before it matters whose they are.
    pub growth_nodes_min: f64,
    /// Write above which B is too slow, in ms.
    pub write_p95_max_ms: f64,
    /// Part of the write capacity from which on one primary is too small.
    pub write_capacity_used_max: f64,
    /// Tenants above which one cluster has too many.
    pub tenants_max: f64,
    /// Write up to which A is fast enough, in ms.
    pub a_write_p95_max_ms: f64,
    /// Part of the write capacity up to which a tenant fits into A.
    pub a_top_tenant_write_share_max: f64,
    /// Days in a row that promote to B.
    pub days_b: u32,
    /// Days in a row that promote to C, and that lead back from B to A.
    pub days_c: u32,
}

impl Default for ScaleThresholds {
    fn default() -> Self {
        Self {
            recall_p95_max_ms: 800.0,
            db_cpu_p95_max_percent: 65.0,
            queue_wait_p95_max_ms: 200.0,
            queue_refused_max: 0.01,
            top_tenant_write_share_max: 0.35,
            top_tenant_growth_share_max: 0.30,
            growth_nodes_min: 1_000_000.0,
            write_p95_max_ms: 300.0,
            write_capacity_used_max: 0.70,
            tenants_max: 10_000.0,
            a_write_p95_max_ms: 200.0,
            a_top_tenant_write_share_max: 0.20,
            days_b: 3,
            days_c: 7,
        }
    }
}

/// A trigger as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trigger {
    /// Its name.
    pub name: &'static str,
    /// The tier it leads to.
    pub tier: ScaleTier,
    /// `>` or `>=`: how the observed value breaches the threshold.
    pub op: &'static str,
    /// The bound.
    pub threshold: f64,
    /// What was measured.
    pub observed: Option<f64>,
    /// Whether it is breached now.
    pub breached: Breach,
    /// Days in a row on which it has to be breached to matter.
    pub days_required: u32,
    /// Days in a row on which it was breached, today included, as far as the history tells.
    pub days_sustained: u32,
    /// Whether that is long enough.
    pub sustained: bool,
    /// Where the value comes from.
    pub evidence: String,
}

/// An earlier advice, as the history keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    /// Its day: days since 1970, UTC.
    pub day: i64,
    /// Names of triggers that were breached.
    pub breached: Vec<String>,
    /// Whether everything was measured to be within the bounds of A.
    pub within_a: bool,
}

/// An advice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Whether nothing is breached and everything was measured.
    pub ok: bool,
    /// The tier the deployment is in, as it was told.
    pub current_tier: ScaleTier,
    /// The tier it belongs to.
    pub tier: ScaleTier,
    /// What to do.
    pub recommendation: Recommendation,
    /// Why, in one sentence.
    pub reason: String,
    /// What must not be given up in the tier it belongs to, or before it gets there.
    pub guardrails: &'static [&'static str],
    /// All triggers.
    pub triggers: Vec<Trigger>,
    /// Names of those that are breached now.
    pub breached: Vec<&'static str>,
    /// Names of those that could not be measured.
    pub unknown: Vec<&'static str>,
    /// Whether everything is measured to be within the bounds of A.
    pub within_tier_a: Breach,
    /// Days in a row on which it was, today included.
    pub days_within_tier_a: u32,
}

/// A trigger before it is looked at.
struct Rule<'a> {
    name: &'static str,
    tier: ScaleTier,
    op: &'static str,
    threshold: f64,
    signal: &'a Signal,
    /// Whether it can be breached at all.
    applies: bool,
}

/// The matrix, line by line.
fn rules<'a>(s: &'a ScaleSignals, t: &ScaleThresholds) -> [Rule<'a>; 10] {
    use ScaleTier::{B, C};
    let rule = |name, tier, op, threshold, signal| Rule { name, tier, op, threshold, signal, applies: true };
    // Somebody grows most in every deployment, and one tenant alone has nobody to be parted from.
    let grows = s.nodes_grown.value.is_some_and(|nodes| nodes >= t.growth_nodes_min);
    let shared = s.tenants.value.is_some_and(|tenants| tenants > 1.0);
    let growth = rule("top_tenant_growth_share", C, ">=", t.top_tenant_growth_share_max, &s.top_tenant_growth_share);
    [
        rule("recall_text_p95_ms", B, ">", t.recall_p95_max_ms, &s.recall_p95_ms),
        rule("db_cpu_p95_percent", B, ">", t.db_cpu_p95_max_percent, &s.db_cpu_p95_percent),
        rule("read_pool_saturated", B, ">=", 1.0, &s.read_pool_saturated),
        rule("queue_wait_p95_ms", B, ">", t.queue_wait_p95_max_ms, &s.queue_wait_p95_ms),
        rule("queue_refused_share", B, ">", t.queue_refused_max, &s.queue_refused_share),
        rule("top_tenant_write_capacity_share", C, ">=", t.top_tenant_write_share_max, &s.top_tenant_write_share),
        Rule { applies: grows && shared, ..growth },
        rule("write_p95_ms", C, ">", t.write_p95_max_ms, &s.write_p95_ms),
        rule("write_capacity_used", C, ">=", t.write_capacity_used_max, &s.write_capacity_used),
        rule("tenant_cardinality", C, ">", t.tenants_max, &s.tenants),
    ]
}

/// Judges a deployment in `current` on the day `today` (days since 1970, UTC). `earlier` is what was found before, in any
/// order; what was found earlier today counts for today.
pub fn advise(
    signals: &ScaleSignals,
    thresholds: &ScaleThresholds,
    current: ScaleTier,
    today: i64,
    earlier: &[Earlier],
) -> Advice {
    let days = by_day(earlier, today);
    let triggers: Vec<Trigger> =
        rules(signals, thresholds).iter().map(|rule| trigger(rule, thresholds, today, &days)).collect();
    let within = within_a(signals, thresholds, &triggers);
    let days_within = in_a_row(within == Breach::Yes, today, &days, |records| records.iter().all(|r| r.within_a));
    let (tier, recommendation, reason) = decide(&triggers, thresholds, current, days_within);
    let named = |wanted: Breach| triggers.iter().filter(|t| t.breached == wanted).map(|t| t.name).collect();
    let (breached, unknown): (Vec<_>, Vec<_>) = (named(Breach::Yes), named(Breach::Unknown));
    Advice {
        ok: breached.is_empty() && unknown.is_empty(),
        current_tier: current,
        tier,
        recommendation,
        reason,
        guardrails: TIERS.iter().find(|rule| rule.tier == tier).map_or(GUARDRAILS, |rule| rule.guardrails),
        breached,
        unknown,
        within_tier_a: within,
        days_within_tier_a: days_within,
        triggers,
    }
}

type Days<'a> = BTreeMap<i64, Vec<&'a Earlier>>;

fn by_day(earlier: &[Earlier], today: i64) -> Days<'_> {
    let mut days = Days::new();
    // A record of the future is of a clock that was wrong; it says nothing of the past.
    for record in earlier.iter().filter(|record| record.day <= today) {
        days.entry(record.day).or_default().push(record);
    }
    days
}

/// Days in a row, back from today, on which something held in every record. A day without record ends the row.
fn in_a_row(holds_now: bool, today: i64, days: &Days<'_>, held: impl Fn(&[&Earlier]) -> bool) -> u32 {
    if !holds_now || days.get(&today).is_some_and(|records| !held(records)) {
        return 0;
    }
    let mut count = 1;
    while days.get(&(today - i64::from(count))).is_some_and(|records| held(records)) {
        count += 1;
    }
    count
}

fn trigger(rule: &Rule<'_>, thresholds: &ScaleThresholds, today: i64, days: &Days<'_>) -> Trigger {
    let breached = rule.signal.value.map_or(Breach::Unknown, |value| {
        let beyond = if rule.op == ">" { value > rule.threshold } else { value >= rule.threshold };
        Breach::of(beyond && rule.applies)
    });
    let days_required = if rule.tier == ScaleTier::B { thresholds.days_b } else { thresholds.days_c };
    let named = |record: &&Earlier| record.breached.iter().any(|name| name == rule.name);
    let days_sustained = in_a_row(breached == Breach::Yes, today, days, |records| records.iter().all(named));
    Trigger {
        name: rule.name,
        tier: rule.tier,
        op: rule.op,
        threshold: rule.threshold,
        observed: rule.signal.value,
        breached,
        days_required,
        days_sustained,
        sustained: breached == Breach::Yes && days_sustained >= days_required,
        evidence: rule.signal.evidence.clone(),
    }
}

/// Whether everything is within the bounds of A, which are tighter than the triggers. Unknown unless all of it was measured.
fn within_a(s: &ScaleSignals, t: &ScaleThresholds, triggers: &[Trigger]) -> Breach {
    let tighter = [
        (s.write_p95_ms.value, t.a_write_p95_max_ms),
        (s.top_tenant_write_share.value, t.a_top_tenant_write_share_max),
    ];
    let above = tighter.iter().any(|(value, max)| value.is_some_and(|value| value > *max));
    if above || triggers.iter().any(|trigger| trigger.breached == Breach::Yes) {
        return Breach::No;
    }
    let missing = tighter.iter().any(|(value, _)| value.is_none());
    if missing || triggers.iter().any(|trigger| trigger.breached == Breach::Unknown) {
        return Breach::Unknown;
    }
    Breach::Yes
}

fn decide(
    triggers: &[Trigger],
    thresholds: &ScaleThresholds,
    current: ScaleTier,
    days_within_a: u32,
) -> (ScaleTier, Recommendation, String) {
    // Slow writes call for shards only where replicas have taken the reads away already.
    let counts = |trigger: &&Trigger| trigger.name != "write_p95_ms" || current == ScaleTier::B;
    let sustained = |tier: ScaleTier| -> Vec<&'static str> {
        triggers.iter().filter(|t| t.tier == tier && t.sustained).filter(counts).map(|t| t.name).collect()
    };
    let (to_b, to_c) = (sustained(ScaleTier::B), sustained(ScaleTier::C));
    let because = |names: &[&str], days: u32| format!("{} breached for {days} or more days in a row", names.join(", "));
    if current == ScaleTier::C {
        return (ScaleTier::C, Recommendation::Stay, "shards are not taken back".to_owned());
    }
    if !to_c.is_empty() {
        return (ScaleTier::C, Recommendation::Promote, because(&to_c, thresholds.days_c));
    }
    if current == ScaleTier::A && !to_b.is_empty() {
        return (ScaleTier::B, Recommendation::Promote, because(&to_b, thresholds.days_b));
    }
    if current == ScaleTier::B && days_within_a >= thresholds.days_c {
        let reason = format!("everything was within the bounds of A for {days_within_a} days in a row");
        return (ScaleTier::A, Recommendation::Rollback, reason);
    }
    let now: Vec<String> = triggers
        .iter()
        .filter(|trigger| trigger.breached == Breach::Yes)
        .map(|t| format!("{} ({} of {} days)", t.name, t.days_sustained, t.days_required))
        .collect();
    let reason = match now.is_empty() {
        true => "no trigger that was measured is breached".to_owned(),
        false => format!("breached, but not for long enough: {}", now.join(", ")),
    };
    (current, Recommendation::Stay, reason)
}

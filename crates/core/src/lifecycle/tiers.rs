//! Which nodes move to a colder tier, and how many a day.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DAY, DecayBasis, DecayPolicy};
use crate::{clock::Timestamp, ids::NodeId, model::Tier};

/// When nodes move to a colder tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierPolicy {
    /// How salience fades.
    pub decay: DecayPolicy,
    /// Below, a hot node may turn warm.
    pub warm_below: f64,
    /// Below, a warm node may turn cold.
    pub cold_below: f64,
    /// Below, a cold node may be archived.
    pub archive_below: f64,
    /// Days without use before a hot node may turn warm.
    pub warm_inactive_days: u32,
    /// Days without use before a warm node may turn cold.
    pub cold_inactive_days: u32,
    /// Days without use before a cold node may be archived.
    pub archive_inactive_days: u32,
    /// Share of the movable nodes that may move within 24 hours; one always may.
    pub daily_mutation_ratio: f64,
    /// Most hot nodes; zero for no limit.
    pub hot_node_budget: u64,
    /// Most hot and warm nodes; zero for no limit.
    pub active_node_budget: u64,
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self {
            decay: DecayPolicy::default(),
            warm_below: 0.35,
            cold_below: 0.12,
            archive_below: 0.03,
            warm_inactive_days: 14,
            cold_inactive_days: 45,
            archive_inactive_days: 120,
            daily_mutation_ratio: 0.05,
            hot_node_budget: 0,
            active_node_budget: 0,
        }
    }
}

/// A node of a scope, as far as moving it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct AgingNode {
    /// The node.
    pub id: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Salience as stored.
    pub salience: f64,
    /// What its fading depends on.
    pub decay: DecayBasis,
    /// When it last moved to a colder tier.
    pub moved_at: Option<Timestamp>,
    /// What it is an alias of.
    pub alias_of: Option<NodeId>,
    /// Whether recall finds that node by it. It stays where it is searched for as long.
    pub leads: bool,
}

impl AgingNode {
    /// Whether it is moved at all: neither held nor a way to another node.
    pub const fn is_mutable(&self) -> bool {
        !self.decay.held && !self.leads
    }

    /// Whether it may move today: it is moved at all, and was not within the 24 hours before.
    pub fn may_move(&self, now: Timestamp) -> bool {
        self.is_mutable() && !moved_within_a_day(self.moved_at, now)
    }
}

fn moved_within_a_day(moved_at: Option<Timestamp>, now: Timestamp) -> bool {
    moved_at.is_some_and(|moved| moved.0.saturating_add(DAY) > now.0)
}

/// When a node last moved to a colder tier, by the notes beside its content.
pub fn moved_at(notes: Option<&Value>) -> Option<Timestamp> {
    let millis = notes?.get("last_tier_transition_ms")?.as_i64()?;
    Some(Timestamp(millis.saturating_mul(1_000)))
}

/// The next colder tier.
pub const fn colder(tier: Tier) -> Option<Tier> {
    match tier {
        Tier::Hot => Some(Tier::Warm),
        Tier::Warm => Some(Tier::Cold),
        Tier::Cold => Some(Tier::Archive),
        Tier::Archive => None,
    }
}

/// Nodes per tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierCounts {
    /// In daily use.
    pub hot: u64,
    /// Less used.
    pub warm: u64,
    /// Out of recall.
    pub cold: u64,
    /// For the record.
    pub archive: u64,
}

impl TierCounts {
    /// The count of a tier.
    pub const fn of(&mut self, tier: Tier) -> &mut u64 {
        match tier {
            Tier::Hot => &mut self.hot,
            Tier::Warm => &mut self.warm,
            Tier::Cold => &mut self.cold,
            Tier::Archive => &mut self.archive,
        }
    }

    /// Hot and warm ones.
    pub const fn active(&self) -> u64 {
        self.hot + self.warm
    }
}

/// How many nodes may move within 24 hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// At most.
    pub max: u64,
    /// Moved already.
    pub used: u64,
}

impl Budget {
    /// What is left.
    pub const fn remaining(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }
}

impl TierPolicy {
    /// Whether a node has to leave its tier: faint enough, and unused for long enough.
    pub fn is_due(&self, tier: Tier, salience: f64, used_at: Timestamp, now: Timestamp) -> bool {
        let (below, inactive_days) = match tier {
            Tier::Hot => (self.warm_below, self.warm_inactive_days),
            Tier::Warm => (self.cold_below, self.cold_inactive_days),
            Tier::Cold => (self.archive_below, self.archive_inactive_days),
            Tier::Archive => return false,
        };
        salience < below && now.0.saturating_sub(used_at.0) > i64::from(inactive_days) * DAY
    }

    /// How many of so many movable nodes may move within 24 hours.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share, 0…1, of a count of rows"
    )]
    pub fn budget(&self, movable: u64, used: u64) -> Budget {
        // A hair more than the product: 0.05 of 1000 must be 50 in binary fractions too.
        let share = (movable as f64 * self.daily_mutation_ratio + 1e-9).floor() as u64;
        Budget { max: share.max(1), used }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spec_7_4_mutation_budget() {
        let policy = TierPolicy::default();
        assert_eq!(policy.budget(10, 0).max, 1);
        assert_eq!(policy.budget(1_000, 0).max, 50);
        assert_eq!(policy.budget(1_000, 60).remaining(), 0);
        assert_eq!(policy.budget(0, 0).max, 1);
    }

    #[test]
    fn thresholds_are_strict() {
        let (policy, now) = (TierPolicy::default(), Timestamp(1_000 * DAY));
        let due =
            |tier, salience, days: i64, more| policy.is_due(tier, salience, Timestamp(now.0 - days * DAY - more), now);
        for (tier, below, days) in [(Tier::Hot, 0.35, 14), (Tier::Warm, 0.12, 45), (Tier::Cold, 0.03, 120)] {
            assert!(due(tier, below - 1e-9, days, 1));
            assert!(!due(tier, below, days, 1) && !due(tier, below - 1e-9, days, 0));
        }
        assert!(!due(Tier::Archive, 0.0, 999, 0));
    }

    #[test]
    fn a_node_moves_once_a_day() {
        let now = Timestamp(1_000 * DAY);
        let moved = |ago: i64| moved_at(Some(&json!({ "last_tier_transition_ms": (now.0 - ago) / 1_000 })));
        let decay = DecayBasis { since: now, used_at: now, feedback: 0.0, held: false };
        let node = |moved_at| AgingNode {
            id: NodeId(uuid::Uuid::nil()),
            tier: Tier::Hot,
            salience: 0.1,
            decay,
            moved_at,
            alias_of: None,
            leads: false,
        };
        assert!(node(None).may_move(now) && node(moved(DAY)).may_move(now));
        assert!(!node(moved(DAY - 1_000_000)).may_move(now) && !node(moved(0)).may_move(now));
        let held = AgingNode { decay: DecayBasis { held: true, ..decay }, ..node(None) };
        assert!(!held.may_move(now));
        let alias = AgingNode { alias_of: Some(NodeId(uuid::Uuid::max())), ..node(None) };
        assert!(alias.may_move(now), "what it was an alias of is forgotten");
        assert!(!AgingNode { leads: true, ..alias }.may_move(now));
    }
}

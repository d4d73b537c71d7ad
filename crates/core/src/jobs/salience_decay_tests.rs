use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::lifecycle::{DecayBasis, moved_at};

const NOW: Timestamp = Timestamp(2_000 * DAY);

/// A scope in memory: pages and moves as a store makes them.
#[derive(Clone, Debug, PartialEq)]
struct Scope {
    nodes: BTreeMap<NodeId, AgingNode>,
    moves: Vec<(NodeId, Tier, Tier)>,
    page: usize,
}

impl Scope {
    fn of(nodes: impl IntoIterator<Item = AgingNode>, page: usize) -> Self {
        Self { nodes: nodes.into_iter().map(|node| (node.id, node)).collect(), moves: Vec::new(), page }
    }

    /// All of them are counted; a plan does so itself.
    fn counts(&self) -> TierCounts {
        let mut counts = TierCounts::default();
        self.nodes.values().for_each(|node| *counts.of(node.tier) += 1);
        counts
    }

    fn plan(&self, now: Timestamp) -> Plan {
        let recent = |node: &&AgingNode| node.moved_at.is_some_and(|moved| moved.0 > now.0 - DAY);
        Plan::new(self.nodes.len() as u64, self.nodes.values().filter(recent).count() as u64, now)
    }

    fn page(&self, asked: PageAsked) -> Vec<AgingNode> {
        let matching = |node: &&AgingNode| node.tier == asked.tier && asked.after.is_none_or(|after| node.id > after);
        self.nodes.values().filter(matching).take(self.page).cloned().collect()
    }

    fn step(&mut self, plan: &mut Plan, policy: &TierPolicy, now: Timestamp) -> bool {
        let nodes = self.page(plan.asks_for());
        for (_, one) in plan.page(&nodes, policy) {
            let node = self.nodes.get_mut(&one.id).unwrap();
            assert_eq!(node.tier, one.from);
            (node.tier, node.salience, node.moved_at) = (one.to, one.salience, Some(now));
            node.decay.since = one.salience_at;
            node.decay.held |= one.to == Tier::Archive;
            self.moves.push((one.id, one.from, one.to));
        }
        plan.advance(nodes.last().map(|node| node.id), nodes.len() == self.page, policy)
    }

    /// Runs to the end. `dies` says of each step whether the runner dies after it: then the step's cursor is lost.
    fn run(&mut self, policy: &TierPolicy, now: Timestamp, mut dies: impl FnMut() -> bool) -> Plan {
        let mut stored = self.plan(now);
        for _ in 0..100_000 {
            let mut plan: Plan = serde_json::from_str(&serde_json::to_string(&stored).unwrap()).unwrap();
            let more = self.step(&mut plan, policy, now);
            if dies() {
                continue;
            }
            if !more {
                return plan;
            }
            stored = plan;
        }
        panic!("it does not end");
    }
}

fn node(n: u128, tier: Tier, salience: f64, used_days_ago: i64) -> AgingNode {
    let used_at = Timestamp(NOW.0 - used_days_ago * DAY);
    let decay = DecayBasis { since: used_at, used_at, feedback: 0.0, held: tier == Tier::Archive };
    let id = NodeId(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
    AgingNode { id, tier, salience, decay, moved_at: None, alias_of: None, leads: false }
}

fn all_may_move() -> TierPolicy {
    TierPolicy { daily_mutation_ratio: 1.0, ..TierPolicy::default() }
}

fn tier_of(scope: &Scope, n: u128) -> Tier {
    scope.nodes[&node(n, Tier::Hot, 0.0, 0).id].tier
}

#[test]
fn ops_01_what_is_faint_and_unused_moves_one_tier() {
    let nodes = [
        node(1, Tier::Hot, 0.02, 500),
        node(2, Tier::Hot, 0.02, 3),
        node(3, Tier::Hot, 0.9, 20),
        node(4, Tier::Warm, 0.05, 50),
        node(5, Tier::Cold, 0.01, 200),
        node(6, Tier::Archive, 0.01, 900),
    ];
    let mut scope = Scope::of(nodes, 2);
    let plan = scope.run(&all_may_move(), NOW, || false);
    let tiers: Vec<Tier> = (1..=6).map(|n| tier_of(&scope, n)).collect();
    assert_eq!(tiers, [Tier::Warm, Tier::Hot, Tier::Hot, Tier::Cold, Tier::Archive, Tier::Archive]);
    assert_eq!(plan.moved().map(|(_, n)| n).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0]);
    assert_eq!(plan.counts().1, scope.counts());
    assert_eq!(plan.surveyed().0.total_mutable, 5);
    // The same hour again: nothing. The next day: the next tier.
    assert_eq!(scope.run(&all_may_move(), NOW, || false).moved().map(|(_, n)| n).sum::<u64>(), 0);
    scope.run(&all_may_move(), Timestamp(NOW.0 + DAY), || false);
    assert_eq!((tier_of(&scope, 1), tier_of(&scope, 4)), (Tier::Cold, Tier::Cold));
}

#[test]
fn the_daily_budget_holds_over_runs_and_kinds() {
    let nodes = (0..200).map(|n| node(n, if n < 150 { Tier::Hot } else { Tier::Warm }, 0.01, 400));
    let mut scope = Scope::of(nodes, 7);
    let policy = TierPolicy::default();
    assert_eq!(scope.run(&policy, NOW, || false).moved().map(|(_, n)| n).sum::<u64>(), 10);
    assert!(scope.moves.iter().all(|(_, from, _)| *from == Tier::Hot), "the first kind comes first");
    let again = scope.run(&policy, Timestamp(NOW.0 + DAY / 2), || false);
    assert_eq!((again.moved().map(|(_, n)| n).sum::<u64>(), again.surveyed().1.used), (0, 10));
    assert_eq!(scope.run(&policy, Timestamp(NOW.0 + DAY), || false).moved().map(|(_, n)| n).sum::<u64>(), 10);
}

#[test]
fn a_scope_keeps_to_its_budgets() {
    let nodes = (0..100).map(|n| node(n, if n < 60 { Tier::Hot } else { Tier::Warm }, 0.9, 1));
    let policy = TierPolicy { hot_node_budget: 50, active_node_budget: 70, ..all_may_move() };
    let mut scope = Scope::of(nodes.clone(), 7);
    let plan = scope.run(&policy, NOW, || false);
    assert_eq!(plan.moved().map(|(_, n)| n).collect::<Vec<_>>(), [0, 0, 0, 10, 30, 0]);
    assert_eq!(scope.counts(), TierCounts { hot: 50, warm: 20, cold: 30, archive: 0 });
    // More than the warm ones: hot ones follow, at most once each.
    let mut scope = Scope::of(nodes, 7);
    let plan = scope.run(&TierPolicy { active_node_budget: 30, ..policy }, NOW, || false);
    assert_eq!(plan.moved().map(|(_, n)| n).collect::<Vec<_>>(), [0, 0, 0, 10, 40, 30]);
    assert_eq!(scope.counts(), TierCounts { hot: 20, warm: 10, cold: 70, archive: 0 });
}

#[test]
fn what_is_held_moves_for_no_budget() {
    let held = (0..20).map(|n| {
        let mut node = node(n, Tier::Hot, 0.001, 900);
        node.decay.held = true;
        node
    });
    let mut scope = Scope::of(held, 7);
    scope.run(&TierPolicy { hot_node_budget: 1, active_node_budget: 1, ..all_may_move() }, NOW, || false);
    assert_eq!(scope.moves, []);
}

#[test]
fn a_plan_left_lying_is_stale() {
    let plan = Plan::new(0, 0, NOW);
    assert!(!plan.is_stale(NOW) && !plan.is_stale(Timestamp(NOW.0 + STALE)));
    assert!(plan.is_stale(Timestamp(NOW.0 + STALE + 1)) && plan.is_stale(Timestamp(NOW.0 - 1)));
}

#[test]
fn notes_tell_when_a_node_moved() {
    assert_eq!(moved_at(Some(&serde_json::json!({ "last_tier_transition_ms": 5 }))), Some(Timestamp(5_000)));
    assert_eq!(moved_at(Some(&serde_json::json!({ "last_tier_transition_ms": "5" }))), None);
    assert_eq!(moved_at(None), None);
}

fn any_node(n: u128) -> impl Strategy<Value = AgingNode> {
    (
        0..4_usize,
        0.0_f64..=1.0,
        0..400_i64,
        -1.0_f64..=1.0,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.1, 0..48_i64),
    )
        .prop_map(move |(tier, salience, used, feedback, held, moved)| {
            let tier = [Tier::Hot, Tier::Warm, Tier::Cold, Tier::Archive][tier];
            let mut node = node(n, tier, salience * salience, used);
            node.decay.feedback = feedback;
            node.decay.held |= held;
            node.moved_at = moved.map(|hours| Timestamp(NOW.0 - hours * DAY / 24));
            node
        })
}

fn any_scope() -> impl Strategy<Value = Scope> {
    (1_usize..120, 1_usize..40)
        .prop_flat_map(|(nodes, page)| ((0..nodes as u128).map(any_node).collect::<Vec<_>>(), Just(page)))
        .prop_map(|(nodes, page)| Scope::of(nodes, page))
}

fn any_policy() -> impl Strategy<Value = TierPolicy> {
    (0.001_f64..=1.0, prop::option::of(1_u64..60), prop::option::of(1_u64..90)).prop_map(|(ratio, hot, active)| {
        TierPolicy {
            daily_mutation_ratio: ratio,
            hot_node_budget: hot.unwrap_or(0),
            active_node_budget: active.unwrap_or(0),
            ..TierPolicy::default()
        }
    })
}

/// The rank of each node that may move from a tier, and whether its age makes it move.
fn ranked(scope: &Scope, tier: Tier, policy: &TierPolicy) -> Vec<(Rank, bool)> {
    let mut all: Vec<(Rank, bool)> = scope
        .nodes
        .values()
        .filter(|node| node.tier == tier && node.may_move(NOW))
        .map(|node| {
            let salience = policy.decay.salience(node.salience, &node.decay, NOW);
            let due = policy.is_due(tier, salience, node.decay.used_at, NOW);
            (Rank::new(salience, node.decay.used_at, node.id), due)
        })
        .collect();
    all.sort_unstable();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Every rule at once, on any scope and policy.
    #[test]
    fn one_run_keeps_every_rule(before in any_scope(), policy in any_policy()) {
        let mut scope = before.clone();
        let plan = scope.run(&policy, NOW, || false);
        let mut seen = std::collections::HashSet::new();
        for (id, from, to) in &scope.moves {
            prop_assert!(seen.insert(*id), "a node moves once");
            let two_tiers = (*from, *to) == (Tier::Hot, Tier::Cold);
            prop_assert!(crate::lifecycle::colder(*from) == Some(*to) || (two_tiers && policy.active_node_budget > 0));
            prop_assert!(before.nodes[id].may_move(NOW), "held nodes and those moved today stay");
        }
        let (_, budget) = plan.surveyed();
        prop_assert!(scope.moves.len() as u64 <= budget.remaining());
        for (id, node) in &scope.nodes {
            if !seen.contains(id) {
                prop_assert_eq!(node, &before.nodes[id], "what does not move is not touched");
            }
        }
        // Of each tier the faintest due ones moved, and others only once all of them had.
        for tier in [Tier::Hot, Tier::Warm, Tier::Cold] {
            let ranks = ranked(&before, tier, &policy);
            let moved = |rank: &Rank| scope.moves.iter().any(|(id, ..)| before.nodes[id].tier == tier
                && Rank::new(policy.decay.salience(before.nodes[id].salience, &before.nodes[id].decay, NOW),
                    before.nodes[id].decay.used_at, *id) == *rank);
            for due in [true, false] {
                let of_kind: Vec<bool> = ranks.iter().filter(|(_, d)| *d == due).map(|(rank, _)| moved(rank)).collect();
                let count = of_kind.iter().filter(|moved| **moved).count();
                prop_assert!(of_kind[..count].iter().all(|moved| *moved), "{tier:?} {due}: {of_kind:?}");
                if due && count < of_kind.len() {
                    prop_assert_eq!(scope.moves.len() as u64, budget.remaining());
                }
            }
        }
        // What was over the scope's budget is over it only if nothing more could move.
        let after = scope.counts();
        let spent = scope.moves.len() as u64 == budget.remaining();
        if policy.active_node_budget > 0 && after.active() > policy.active_node_budget && !spent {
            let left = |tier| scope.nodes.values().filter(|node| node.tier == tier && node.may_move(NOW))
                .filter(|node| node.moved_at != Some(NOW)).count();
            prop_assert_eq!(left(Tier::Hot) + left(Tier::Warm), 0);
        }
        // A second run at the same time does nothing.
        let settled = scope.clone();
        scope.run(&policy, NOW, || false);
        prop_assert_eq!(scope, settled);
    }

    /// A runner that dies between any two steps, and goes on, ends where an undisturbed one ends.
    #[test]
    fn dying_runners_converge(before in any_scope(), policy in any_policy(), deaths in prop::collection::vec(any::<bool>(), 64)) {
        let (mut undisturbed, mut disturbed) = (before.clone(), before);
        undisturbed.run(&policy, NOW, || false);
        let mut deaths = deaths.into_iter();
        disturbed.run(&policy, NOW, || deaths.next().unwrap_or(false));
        prop_assert_eq!(disturbed.nodes, undisturbed.nodes);
    }

    /// A plan that is thrown away in the middle, and made anew, moves no more: what has moved counts for the day.
    #[test]
    fn abandoned_plans_move_no_more(before in any_scope(), ratio in 0.001_f64..=1.0, steps in 0_usize..60) {
        let policy = TierPolicy { daily_mutation_ratio: ratio, ..TierPolicy::default() };
        let (mut undisturbed, mut disturbed) = (before.clone(), before);
        undisturbed.run(&policy, NOW, || false);
        let mut plan = disturbed.plan(NOW);
        for _ in 0..steps {
            if !disturbed.step(&mut plan, &policy, NOW) {
                break;
            }
        }
        disturbed.run(&policy, NOW, || false);
        prop_assert!(disturbed.moves.len() <= undisturbed.moves.len());
    }
}

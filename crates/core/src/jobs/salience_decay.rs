//! The plan of `salience-decay` (operations specification 1.6, steps B to D).
//!
//! Pages of a scope go through [`Plan::page`], those of a pass in one order of tiers. The first pass counts; then the daily
//! budget is shared out to the kinds of moves in their order. Where more nodes are due than may move, further passes find
//! the faintest. The last pass moves. What lies between two pages is the plan itself, which is the job's cursor.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    ids::NodeId,
    lifecycle::{AgingNode, Budget, DAY, Rank, Search, TierCounts, TierPolicy},
    model::Tier,
    operate::TierMove,
};

/// Kind of the commits.
pub const COMMIT_KIND: &str = "salience_decay";
/// Nodes a page holds at most, and so a commit.
pub const PAGE_MAX: usize = 1_000;
/// A plan that was left lying this long, in microseconds, is made anew.
const STALE: i64 = DAY / 24;
/// The order of tiers in a pass: the coldest first, so that no node that moves comes again.
const TIERS: [Tier; 3] = [Tier::Cold, Tier::Warm, Tier::Hot];

/// Kinds of moves, in the order in which they get their share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Faint and unused.
    HotToWarm,
    /// Fainter, and unused for longer.
    WarmToCold,
    /// Faintest, and unused for longest.
    ColdToArchive,
    /// More are hot than the scope may have.
    HotToWarmBudget,
    /// More are active than the scope may have.
    WarmToColdBudget,
    /// And that was not enough.
    HotToColdBudget,
}

impl Shift {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::HotToWarm,
        Self::WarmToCold,
        Self::ColdToArchive,
        Self::HotToWarmBudget,
        Self::WarmToColdBudget,
        Self::HotToColdBudget,
    ];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HotToWarm => "moved_hot_to_warm",
            Self::WarmToCold => "moved_warm_to_cold",
            Self::ColdToArchive => "moved_cold_to_archive",
            Self::HotToWarmBudget => "moved_hot_to_warm_budget",
            Self::WarmToColdBudget => "moved_warm_to_cold_budget",
            Self::HotToColdBudget => "moved_hot_to_cold_budget",
        }
    }

    /// From where to where.
    pub const fn tiers(self) -> (Tier, Tier) {
        match self {
            Self::HotToWarm | Self::HotToWarmBudget => (Tier::Hot, Tier::Warm),
            Self::WarmToCold | Self::WarmToColdBudget => (Tier::Warm, Tier::Cold),
            Self::ColdToArchive => (Tier::Cold, Tier::Archive),
            Self::HotToColdBudget => (Tier::Hot, Tier::Cold),
        }
    }

    /// Whether the scope's budget makes the move, not the node's age.
    pub const fn is_budget(self) -> bool {
        matches!(self, Self::HotToWarmBudget | Self::WarmToColdBudget | Self::HotToColdBudget)
    }
}

/// What the first pass counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// Nodes that are not held, not archived.
    pub total_mutable: u64,
    /// Of them, used recently.
    pub recent: u64,
    /// Of them, with good feedback.
    pub positive: u64,
    /// Of them, with bad feedback.
    pub negative: u64,
    /// Sum of their paces.
    pub scale_sum: f64,
    /// Slowest pace.
    pub scale_min: Option<f64>,
    /// Fastest pace.
    pub scale_max: Option<f64>,
}

impl Survey {
    fn see(&mut self, node: &AgingNode, policy: &TierPolicy, now: Timestamp) {
        if !node.is_mutable() {
            return;
        }
        let scale = policy.decay.scale_at(&node.decay, now);
        self.total_mutable += 1;
        self.recent += u64::from(policy.decay.is_recent(&node.decay, now));
        self.positive += u64::from(node.decay.feedback > 0.0);
        self.negative += u64::from(node.decay.feedback < 0.0);
        self.scale_sum += scale;
        self.scale_min = Some(self.scale_min.map_or(scale, |least| least.min(scale)));
        self.scale_max = Some(self.scale_max.map_or(scale, |most| most.max(scale)));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Survey,
    Narrow,
    Move,
}

/// The plan, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    at: Timestamp,
    phase: Phase,
    /// Which of [`TIERS`] the next page is of, and the node it comes after.
    tier: usize,
    after: Option<NodeId>,
    /// Nodes of the scope, and per tier as far as they were counted.
    nodes: u64,
    counts: TierCounts,
    budget: Budget,
    survey: Survey,
    /// Hot and warm nodes that could move but are not due: candidates of the scope's budgets.
    spare: [u64; 2],
    searches: [Search; 6],
    quotas: [u64; 6],
    moved: [u64; 6],
}

/// What is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAsked {
    /// Of this tier.
    pub tier: Tier,
    /// With ids above.
    pub after: Option<NodeId>,
}

impl Plan {
    /// A plan for a scope with so many nodes, of which so many moved within the last 24 hours.
    pub fn new(nodes: u64, moved_today: u64, now: Timestamp) -> Self {
        Self {
            at: now,
            phase: Phase::Survey,
            tier: 0,
            after: None,
            nodes,
            counts: TierCounts::default(),
            budget: Budget { max: 0, used: moved_today },
            survey: Survey::default(),
            spare: [0; 2],
            searches: Default::default(),
            quotas: [0; 6],
            moved: [0; 6],
        }
    }

    /// Whether the plan was left lying too long to go on with.
    pub const fn is_stale(&self, now: Timestamp) -> bool {
        now.0.saturating_sub(self.at.0) > STALE || now.0 < self.at.0
    }

    /// The time it is made for.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// The next page.
    pub fn asks_for(&self) -> PageAsked {
        PageAsked { tier: TIERS[self.tier.min(TIERS.len() - 1)], after: self.after }
    }

    /// Whether pages are still only counted.
    pub fn is_counting(&self) -> bool {
        self.phase == Phase::Survey
    }

    /// The kind of move a node is up for, if any, and its rank among those.
    fn candidate(&self, node: &AgingNode, policy: &TierPolicy) -> Option<(bool, Rank)> {
        if !node.may_move(self.at) {
            return None;
        }
        let salience = policy.decay.salience(node.salience, &node.decay, self.at);
        let due = policy.is_due(node.tier, salience, node.decay.used_at, self.at);
        Some((due, Rank::new(salience, node.decay.used_at, node.id)))
    }

    /// Takes one page in, and tells what of it moves.
    pub fn page(&mut self, nodes: &[AgingNode], policy: &TierPolicy) -> Vec<(Shift, TierMove)> {
        let mut moves = Vec::new();
        for node in nodes {
            if self.phase == Phase::Survey {
                *self.counts.of(node.tier) += 1;
                self.survey.see(node, policy, self.at);
            }
            let Some((due, rank)) = self.candidate(node, policy) else { continue };
            if self.phase == Phase::Move {
                moves.extend(self.shift_of(node, due, &rank).map(|shift| (shift, self.moving(node, shift, policy))));
            } else {
                self.see(node.tier, due, rank, policy);
            }
        }
        moves
    }

    fn see(&mut self, tier: Tier, due: bool, rank: Rank, policy: &TierPolicy) {
        let hot_budget = policy.hot_node_budget > 0;
        let active_budget = policy.active_node_budget > 0;
        if !due && self.phase == Phase::Survey && matches!(tier, Tier::Hot | Tier::Warm) {
            self.spare[usize::from(tier == Tier::Warm)] += 1;
        }
        for (shift, search) in Shift::ALL.into_iter().zip(&mut self.searches) {
            let wanted = match shift {
                Shift::HotToWarmBudget => hot_budget || active_budget,
                Shift::WarmToColdBudget | Shift::HotToColdBudget => active_budget,
                _ => true,
            };
            if wanted && shift.tiers().0 == tier && shift.is_budget() != due {
                search.see(rank);
            }
        }
    }

    /// By which kind of move a node goes in the last pass.
    fn shift_of(&mut self, node: &AgingNode, due: bool, rank: &Rank) -> Option<Shift> {
        let (at, shift) = Shift::ALL.into_iter().enumerate().find(|(at, shift)| {
            shift.tiers().0 == node.tier
                && shift.is_budget() != due
                && self.moved[*at] < self.quotas[*at]
                && self.searches[*at].found().is_some_and(|cut| cut.takes(rank))
        })?;
        self.moved[at] += 1;
        Some(shift)
    }

    fn moving(&self, node: &AgingNode, shift: Shift, policy: &TierPolicy) -> TierMove {
        let (from, to) = shift.tiers();
        TierMove {
            id: node.id,
            from,
            to,
            salience: policy.decay.salience(node.salience, &node.decay, self.at),
            salience_at: self.at,
            since: node.decay.since,
            used_at: node.decay.used_at,
            alias_of: node.alias_of,
        }
    }

    /// Goes on after a page that ended at `last`; a page that was not full was the last of its tier. False when all is
    /// done.
    pub fn advance(&mut self, last: Option<NodeId>, full: bool, policy: &TierPolicy) -> bool {
        if full {
            self.after = last;
            return true;
        }
        self.after = None;
        self.tier += 1;
        if self.tier < TIERS.len() {
            return true;
        }
        self.tier = 0;
        match self.phase {
            Phase::Survey => {
                self.share_out(policy);
                self.phase = Phase::Narrow;
            }
            Phase::Narrow => {}
            Phase::Move => return false,
        }
        if self.quotas == [0; 6] {
            return false;
        }
        if self.searches_end() {
            self.phase = Phase::Move;
        }
        true
    }

    /// What the searches have to find. The nodes a scope's hot budget sends to the warm tier are the faintest, those that
    /// go on to the cold one come after them.
    fn searches_end(&mut self) -> bool {
        let mut wanted = self.quotas;
        if wanted[5] > 0 {
            wanted[5] += wanted[3];
        }
        let mut all = true;
        for (search, wanted) in self.searches.iter_mut().zip(wanted) {
            all &= search.end_pass(wanted);
        }
        all
    }

    /// Shares the daily budget out, in the order of the kinds. A budget of the scope gets what is left; then every node
    /// that is due moves, so that whoever is not due is what remains.
    fn share_out(&mut self, policy: &TierPolicy) {
        let TierCounts { hot, warm, cold, .. } = self.counts;
        self.counts.archive = self.nodes.saturating_sub(hot + warm + cold);
        self.budget = policy.budget(self.survey.total_mutable, self.budget.used);
        let mut left = self.budget.remaining();
        let mut share = |wanted: u64| {
            let gets = wanted.min(left);
            left -= gets;
            gets
        };
        for at in 0..3 {
            self.quotas[at] = share(self.searches[at].seen());
        }
        let over = |count: u64, budget: u64| if budget > 0 { count.saturating_sub(budget) } else { 0 };
        let hot = over(self.counts.hot - self.quotas[0].min(self.counts.hot), policy.hot_node_budget);
        self.quotas[3] = share(hot.min(self.spare[0]));
        let active = over(self.counts.active().saturating_sub(self.quotas[1]), policy.active_node_budget);
        self.quotas[4] = share(active.min(self.spare[1]));
        self.quotas[5] = share((active - self.quotas[4]).min(self.spare[0] - self.quotas[3]));
    }

    /// What the first pass counted, and the budget it led to.
    pub const fn surveyed(&self) -> (&Survey, Budget) {
        (&self.survey, self.budget)
    }

    /// Nodes that moved by a kind of move, or would.
    pub fn moved(&self) -> impl Iterator<Item = (Shift, u64)> {
        Shift::ALL.into_iter().zip(self.moved)
    }

    /// Notes that planned moves were not made, because their nodes had changed.
    pub fn unmade(&mut self, shift: Shift) {
        if let Some(at) = Shift::ALL.iter().position(|one| *one == shift) {
            self.moved[at] = self.moved[at].saturating_sub(1);
        }
    }

    /// Nodes per tier before and after.
    pub fn counts(&self) -> (TierCounts, TierCounts) {
        let mut after = self.counts;
        for (shift, moved) in self.moved() {
            let (from, to) = shift.tiers();
            *after.of(from) = after.of(from).saturating_sub(moved);
            *after.of(to) += moved;
        }
        (self.counts, after)
    }
}

#[cfg(test)]
#[path = "salience_decay_tests.rs"]
mod tests;

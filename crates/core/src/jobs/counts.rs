//! What reports count in a scope: numbers and ids, never a text.

use serde::Serialize;

use crate::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    model::RuleState,
};

/// Feedback on rules since a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeedbackCounts {
    /// All of it.
    pub total: u64,
    /// Feedback that names its run.
    pub with_run_id: u64,
    /// Different runs.
    pub distinct_runs: u64,
    /// By outcome.
    pub positive: u64,
    /// By outcome.
    pub negative: u64,
    /// By outcome.
    pub neutral: u64,
    /// Feedback on tools.
    pub tools: u64,
    /// Feedback on tools that names its decision.
    pub tools_with_decision: u64,
    /// Feedback on tools whose decision is stored.
    pub tools_linked: u64,
}

/// Rules as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleCounts {
    /// By state.
    pub draft: u64,
    /// By state.
    pub shadow: u64,
    /// By state.
    pub active: u64,
    /// By state.
    pub disabled: u64,
    /// Active rules that got feedback since the time.
    pub active_with_feedback: u64,
}

/// Recalls since a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecallCounts {
    /// All of them.
    pub total: u64,
    /// Those of which it is known who asked.
    pub with_identity: u64,
    /// Different agents and teams that asked.
    pub distinct_consumers: u64,
}

/// Nodes by lane, as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaneCounts {
    /// Private nodes.
    pub private: u64,
    /// Private nodes with an owner.
    pub private_with_owner: u64,
    /// Shared nodes.
    pub shared: u64,
}

/// What happened in a scope since a time, and what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Feedback.
    pub feedback: FeedbackCounts,
    /// Rules.
    pub rules: RuleCounts,
    /// Recalls.
    pub recall: RecallCounts,
    /// Lanes.
    pub lanes: LaneCounts,
}

impl Activity {
    /// Adds another scope's. Runs and consumers count once per scope.
    pub fn add(&mut self, other: &Self) {
        let (f, o) = (&mut self.feedback, &other.feedback);
        f.total += o.total;
        f.with_run_id += o.with_run_id;
        f.distinct_runs += o.distinct_runs;
        f.positive += o.positive;
        f.negative += o.negative;
        f.neutral += o.neutral;
        f.tools += o.tools;
        f.tools_with_decision += o.tools_with_decision;
        f.tools_linked += o.tools_linked;
        let (r, o) = (&mut self.rules, &other.rules);
        r.draft += o.draft;
        r.shadow += o.shadow;
        r.active += o.active;
        r.disabled += o.disabled;
        r.active_with_feedback += o.active_with_feedback;
        let (r, o) = (&mut self.recall, &other.recall);
        r.total += o.total;
        r.with_identity += o.with_identity;
        r.distinct_consumers += o.distinct_consumers;
        let (l, o) = (&mut self.lanes, &other.lanes);
        l.private += o.private;
        l.private_with_owner += o.private_with_owner;
        l.shared += o.shared;
    }
}

/// Votes on a rule. A run has one, however often it spoke: negative if anything it said was, else positive if anything it
/// said was, else neutral. Feedback without a run is a vote of its own and of no run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Votes {
    /// Positive votes.
    pub positive: u64,
    /// Negative votes.
    pub negative: u64,
    /// Neutral votes.
    pub neutral: u64,
    /// Runs that voted.
    pub runs: u64,
    /// Runs that voted positive.
    pub positive_runs: u64,
    /// Runs that voted negative.
    pub negative_runs: u64,
}

impl Votes {
    /// All votes.
    pub const fn total(&self) -> u64 {
        self.positive + self.negative + self.neutral
    }

    /// Part of the votes that are negative; 0 of none.
    pub fn negative_ratio(&self) -> f64 {
        super::checks::ratio(self.negative, self.total()).unwrap_or(0.0)
    }

    /// Positive votes less the negative ones.
    pub fn score(&self) -> i64 {
        i64::try_from(self.positive).unwrap_or(i64::MAX) - i64::try_from(self.negative).unwrap_or(i64::MAX)
    }
}

/// A rule and what was said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSignals {
    /// The rule.
    pub rule: NodeId,
    /// Its state.
    pub state: RuleState,
    /// Positive feedback so far, as counted with the rule.
    pub positive_count: u64,
    /// Negative feedback so far, as counted with the rule.
    pub negative_count: u64,
    /// The commit that last changed its definition.
    pub commit_id: Option<CommitId>,
    /// When it was first written.
    pub created_at: Timestamp,
    /// When its definition was last changed.
    pub updated_at: Timestamp,
    /// When it was last evaluated.
    pub last_evaluated_at: Option<Timestamp>,
    /// Votes since a time, by feedback since then.
    pub window: Votes,
    /// Votes over its lifetime.
    pub lifetime: Votes,
    /// Newest feedback over its lifetime.
    pub last_feedback_at: Option<Timestamp>,
    /// Newest positive feedback over its lifetime.
    pub last_positive_at: Option<Timestamp>,
}

/// Rules with their signals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSignalPage {
    /// Those last changed first.
    pub rules: Vec<RuleSignals>,
    /// Rules of the asked states that the limit left out.
    pub left_out: u64,
}

/// What quality is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QualityCounts {
    /// Nodes.
    pub nodes: u64,
    /// Nodes by tier: hot, warm, cold, archive.
    pub tiers: [u64; 4],
    /// Nodes with a vector.
    pub ready: u64,
    /// Topics, concepts and entities.
    pub dedupe_candidates: u64,
    /// Those of them that stand for another node.
    pub aliased: u64,
    /// Nodes used, or else written, since the time.
    pub fresh: u64,
    /// Edges.
    pub edges: u64,
    /// Summaries made by compression.
    pub summaries: u64,
    /// Their citations, all together.
    pub citations: u64,
    /// Topics, concepts, entities, procedures and self models.
    pub mergeable: u64,
    /// Those of them that stand for another node and were changed since the time.
    pub merged: u64,
    /// `part_of` edges from an event to a topic.
    pub part_of: u64,
    /// Sum of their weights.
    pub part_of_weight: f64,
    /// Hot and warm events with a vector.
    pub eligible_events: u64,
    /// Those of them that are part of no topic.
    pub orphan_events: u64,
}

/// A scope and what happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeActivity {
    /// The scope.
    pub scope: ScopeKey,
    /// What happened.
    pub activity: Activity,
}

//! Operations on what is stored, other than writes: the state of rules, feedback, activation, rehydration,
//! moves between tiers.
//!
//! Like a write, an operation is prepared, planned against what is stored, and applied in the transaction that appends
//! its commit. Unlike a write it never changes content: nodes keep their digest, and what it counts lies beside them.

mod activity;
mod apply;
mod decision;
mod maintain;
mod prepare;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::{
    activity::merged_slots,
    apply::{
        Effects, FeedbackRow, NodeTouch, OperationPlan, decision_not_found, feedback_digest, plan_operation,
        rule_not_found, rule_state_digest,
    },
    decision::{Decision, DecisionQuery, LinkMode, NewDecision, RULES_WITH_SHADOW, TOOL_RULES_WITH_SHADOW},
    maintain::{MOVES_MAX, TierMove, prepare_maintenance},
    prepare::{OperationInput, prepare_operation},
};
use crate::{
    canon::Digest,
    ids::{CommitId, NodeId, ScopeKey},
    lifecycle::DecayBasis,
    model::{Lane, NodeType, RuleState, Tier, Viewer},
    write::IdempotencyKey,
};

/// Most nodes one operation may name.
pub const NODES_MAX: usize = 200;

/// How something turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well.
    Positive,
    /// Badly.
    Negative,
    /// Neither.
    Neutral,
}

impl Outcome {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Neutral => "neutral",
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "positive" => Some(Self::Positive),
            "negative" => Some(Self::Negative),
            "neutral" => Some(Self::Neutral),
            _ => None,
        }
    }

    /// What it adds to the counts of positive and negative feedback.
    pub const fn counts(self) -> (i64, i64) {
        match self {
            Self::Positive => (1, 0),
            Self::Negative => (0, 1),
            Self::Neutral => (0, 0),
        }
    }
}

/// Nodes as a caller names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames {
    /// By id, distinct.
    pub ids: Vec<NodeId>,
    /// By client id, trimmed and distinct.
    pub client_ids: Vec<String>,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A rule gets another state.
    RuleState {
        /// The rule.
        rule: NodeId,
        /// Its new state.
        state: RuleState,
        /// Content digest of the rule as it was checked; the rule must still be that.
        checked: Digest,
    },
    /// How a rule served.
    RuleFeedback {
        /// The rule.
        rule: NodeId,
        /// How it turned out.
        outcome: Outcome,
        /// The run it was seen in.
        run_id: Option<String>,
        /// A remark, redacted.
        note: Option<String>,
    },
    /// How a tool decision turned out, credited to the rules behind it.
    ToolFeedback {
        /// The decision.
        decision: Uuid,
        /// How the decision was found.
        link: LinkMode,
        /// The decision itself, when it is made from the feedback.
        create: Option<Box<NewDecision>>,
        /// The rules to credit, distinct.
        rules: Vec<NodeId>,
        /// Digest of what the caller asked. Rules and a decision that was inferred are not the caller's: they may differ
        /// when the same request comes again.
        request: Digest,
        /// How it turned out.
        outcome: Outcome,
        /// The run; given to a decision that has none.
        run_id: Option<String>,
        /// A remark, redacted.
        note: Option<String>,
    },
    /// Nodes were used, with what outcome.
    Activate {
        /// The nodes.
        nodes: NodeNames,
        /// How they served.
        outcome: Outcome,
        /// Whether the time of last use moves.
        activate: bool,
        /// The run.
        run_id: Option<String>,
        /// Why, redacted.
        reason: Option<String>,
    },
    /// Nodes come back from a colder tier.
    Rehydrate {
        /// The nodes.
        nodes: NodeNames,
        /// Where to.
        target: Tier,
        /// Why, redacted.
        reason: Option<String>,
    },
    /// Nodes go to another tier, as a job has planned; those that changed since stay.
    Maintain {
        /// The job, as the kind of the commit.
        job: &'static str,
        /// The moves, at most [`MOVES_MAX`].
        moves: Vec<TierMove>,
    },
}

impl Operation {
    /// Kind of its commit.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::RuleState { .. } => "rule_state_change",
            Self::RuleFeedback { .. } => "rule_feedback",
            Self::ToolFeedback { .. } => "tool_feedback",
            Self::Activate { .. } => "nodes_activate",
            Self::Rehydrate { .. } => "archive_rehydrate",
            Self::Maintain { job, .. } => job,
        }
    }

    /// Nodes it names.
    pub fn names(&self) -> NodeNames {
        match self {
            Self::RuleState { rule, .. } | Self::RuleFeedback { rule, .. } => {
                NodeNames { ids: vec![*rule], client_ids: Vec::new() }
            }
            Self::ToolFeedback { rules, .. } => NodeNames { ids: rules.clone(), client_ids: Vec::new() },
            Self::Activate { nodes, .. } | Self::Rehydrate { nodes, .. } => nodes.clone(),
            Self::Maintain { moves, .. } => {
                NodeNames { ids: moves.iter().map(|one| one.id).collect(), client_ids: Vec::new() }
            }
        }
    }

    /// The decision it concerns, if it must be stored already.
    pub const fn decision(&self) -> Option<Uuid> {
        match self {
            Self::ToolFeedback { decision, create: None, .. } => Some(*decision),
            _ => None,
        }
    }
}

/// An operation ready to be planned against what is stored.
#[derive(Clone, Debug)]
pub struct PreparedOperation {
    /// Scope.
    pub scope: ScopeKey,
    /// Who.
    pub actor: String,
    /// Digest of the input.
    pub input_sha256: String,
    /// Digest of the whole request.
    pub request_digest: Digest,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// Whose eyes it is done with: nodes they cannot see count as not stored. None sees everything.
    pub viewer: Option<Viewer>,
    /// What is done.
    pub operation: Operation,
}

/// A node as stored, as far as operations need it.
#[derive(Clone, Debug)]
pub struct OperatedNode {
    /// Kind.
    pub node_type: NodeType,
    /// Content digest.
    pub digest: Digest,
    /// Tier.
    pub tier: Tier,
    /// Attributes as written.
    pub slots: Value,
    /// What operations noted beside them.
    pub activity: Option<Value>,
    /// Salience as stored.
    pub salience: f64,
    /// What its fading depends on.
    pub decay: DecayBasis,
    /// State, of a rule.
    pub rule_state: Option<RuleState>,
    /// Visibility.
    pub lane: Lane,
    /// Owner of a private node.
    pub owner_agent_id: Option<String>,
    /// Owning team of a private node.
    pub owner_team_id: Option<String>,
}

impl OperatedNode {
    /// Whether someone may operate on the node.
    pub fn is_seen_by(&self, viewer: &Viewer) -> bool {
        viewer.may_change(self.lane, (self.owner_agent_id.as_deref(), self.owner_team_id.as_deref()))
    }
}

/// What is stored of a scope, as far as an operation needs to know.
#[derive(Debug, Default)]
pub struct OperationState {
    /// Number and hash of the newest commit.
    pub head: (u64, Digest),
    /// Stored nodes among those named, by id or client id.
    pub nodes: HashMap<NodeId, OperatedNode>,
    /// Ids of the nodes named by client id.
    pub clients: HashMap<String, NodeId>,
    /// The decision the operation concerns.
    pub decision: Option<Decision>,
    /// Which rules were credited for the decision already, and how.
    pub credited: Vec<(NodeId, Outcome)>,
}

/// A commit, as answers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRef {
    /// Id.
    pub id: CommitId,
    /// Number.
    pub seq: u64,
    /// Hash, in hex.
    pub hash: String,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationOutcome {
    /// Its commit; none when nothing was to be done.
    pub commit: Option<CommitRef>,
    /// Ids of what it stored: feedback.
    pub feedback: Vec<Uuid>,
    /// Rules that were credited.
    pub rules: Vec<NodeId>,
    /// Stored nodes among those named, in the order named.
    pub found: Vec<NodeId>,
    /// Nodes that were changed.
    pub changed: Vec<NodeId>,
    /// Ids named that no node has.
    pub missing_ids: Vec<NodeId>,
    /// Client ids named that no node has.
    pub missing_client_ids: Vec<String>,
    /// How many nodes the client ids and ids together name.
    pub resolved: usize,
    /// Policy hash of the decision, in hex.
    pub decision_policy_sha256: Option<String>,
    /// Whether this answer repeats an earlier one.
    pub replayed: bool,
}

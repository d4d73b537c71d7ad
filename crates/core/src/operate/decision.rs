//! Decisions of tool selection, kept so that feedback can be credited and a decision can be made again.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{clock::Timestamp, ids::NodeId};

/// How feedback found its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkMode {
    /// The caller named it.
    Provided,
    /// By run, tool, candidates and context.
    Inferred,
    /// There was none: it is made from the feedback.
    CreatedFromFeedback,
}

impl LinkMode {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provided => "provided",
            Self::Inferred => "inferred",
            Self::CreatedFromFeedback => "created_from_feedback",
        }
    }
}

/// A decision to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDecision {
    /// Id.
    pub id: Uuid,
    /// The run it belongs to.
    pub run_id: Option<String>,
    /// What was selected.
    pub selected_tool: Option<String>,
    /// What could be selected, in order.
    pub candidates: Vec<String>,
    /// SHA-256 of the context's canonical JSON, in hex.
    pub context_sha256: String,
    /// SHA-256 of the policy's canonical JSON, in hex.
    pub policy_sha256: String,
    /// The policy itself, so that the decision can be made again.
    pub policy: Value,
    /// Rules behind the policy, in the order they were merged.
    pub source_rules: Vec<NodeId>,
    /// Rules whose patch concerns tools: who is credited by feedback on the tool.
    pub tool_rules: Vec<NodeId>,
    /// Whether nothing but allowed tools could be selected, and other facts of the request.
    pub metadata: Value,
}

/// A stored decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What was decided.
    pub decision: NewDecision,
    /// When, in microseconds.
    pub created_at: Timestamp,
    /// Number of the commit that made it, when feedback did.
    pub commit_seq: Option<u64>,
}

/// Which decision feedback without an id concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionQuery {
    /// The run, if the feedback names one.
    pub run_id: Option<String>,
    /// The tool.
    pub selected_tool: String,
    /// The candidates, in order.
    pub candidates: Vec<String>,
    /// SHA-256 of the context, in hex.
    pub context_sha256: String,
    /// Decisions without this run must be newer.
    pub newer_than: Timestamp,
}

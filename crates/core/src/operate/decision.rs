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

/// Where the metadata of a decision names its rules when shadow rules were looked at, by what feedback concerns.
pub const RULES_WITH_SHADOW: &str = "rules_with_shadow";
/// As [`RULES_WITH_SHADOW`], of rules that concern tools.
pub const TOOL_RULES_WITH_SHADOW: &str = "tool_rules_with_shadow";

impl NewDecision {
    /// Every rule whose text is in the policy or the metadata, each once, in order of their ids.
    pub fn rules(&self) -> Vec<NodeId> {
        let with_shadow = [RULES_WITH_SHADOW, TOOL_RULES_WITH_SHADOW]
            .into_iter()
            .filter_map(|key| self.metadata.get(key)?.as_array())
            .flatten()
            .filter_map(|id| Uuid::parse_str(id.as_str()?).ok().map(NodeId));
        let named = self.source_rules.iter().chain(&self.tool_rules).copied();
        let mut rules: Vec<NodeId> = named.chain(with_shadow).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
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

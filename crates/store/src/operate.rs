//! What both engines do alike for operations.

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    operate::{Decision, NewDecision},
    ports::store::StoreError,
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// Reads where feedback came from.
pub(crate) fn feedback_source(text: &str) -> Option<&'static str> {
    ["rule_feedback", "tools_feedback"].into_iter().find(|source| *source == text)
}

/// JSON text of a value.
pub(crate) fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Driver(e.to_string()))
}

/// A decision's columns as they are stored.
pub(crate) struct DecisionColumns {
    pub(crate) id: Uuid,
    pub(crate) run_id: Option<String>,
    pub(crate) selected_tool: Option<String>,
    pub(crate) candidates: String,
    pub(crate) context_sha256: String,
    pub(crate) policy_sha256: String,
    pub(crate) policy: String,
    pub(crate) source_rules: String,
    pub(crate) tool_rules: String,
    pub(crate) metadata: String,
    pub(crate) created_at: i64,
    pub(crate) commit_seq: Option<i64>,
    /// The rules it was made by; no column.
    pub(crate) rules: Vec<Uuid>,
}

/// What stands in the place of a policy, and of the facts of the request, when a rule behind them was forgotten.
pub(crate) const FORGOTTEN_POLICY: &str = "null";
/// See [`FORGOTTEN_POLICY`].
pub(crate) const FORGOTTEN_METADATA: &str = "{}";

/// The columns of [`DecisionColumns`], in its order.
pub(crate) const DECISION_COLUMNS: &str = "id, run_id, selected_tool, candidates, context_sha256, policy_sha256, policy, \
     source_rules, tool_rules, metadata, created_at, commit_seq";

impl DecisionColumns {
    pub(crate) fn of(
        decision: NewDecision,
        created_at: Timestamp,
        commit_seq: Option<i64>,
    ) -> Result<Self, StoreError> {
        let rules = decision.rules().into_iter().map(|rule| rule.0).collect();
        Ok(Self {
            rules,
            id: decision.id,
            run_id: decision.run_id,
            selected_tool: decision.selected_tool,
            candidates: text(&decision.candidates)?,
            context_sha256: decision.context_sha256,
            policy_sha256: decision.policy_sha256,
            policy: text(&decision.policy)?,
            source_rules: text(&decision.source_rules)?,
            tool_rules: text(&decision.tool_rules)?,
            metadata: text(&decision.metadata)?,
            created_at: created_at.0,
            commit_seq,
        })
    }

    pub(crate) fn read(self) -> Result<Decision, StoreError> {
        let id = self.id;
        let rules = |column, text: &str| parsed::<Vec<NodeId>>(id, column, text);
        Ok(Decision {
            decision: NewDecision {
                id,
                run_id: self.run_id,
                selected_tool: self.selected_tool,
                candidates: parsed(id, "candidates", &self.candidates)?,
                context_sha256: self.context_sha256,
                policy_sha256: self.policy_sha256,
                policy: parsed(id, "policy", &self.policy)?,
                source_rules: rules("source_rules", &self.source_rules)?,
                tool_rules: rules("tool_rules", &self.tool_rules)?,
                metadata: parsed(id, "metadata", &self.metadata)?,
            },
            created_at: Timestamp(self.created_at),
            commit_seq: self.commit_seq.and_then(|seq| u64::try_from(seq).ok()),
        })
    }
}

fn parsed<T: DeserializeOwned>(id: Uuid, column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Inconsistent {
        table: "memory_decisions",
        column,
        row: id.to_string(),
        problem: e.to_string(),
    })
}

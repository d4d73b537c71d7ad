//! A node's content as stored, whichever engine stores it.

use aionis_core::{
    canon::Digest,
    ids::NodeId,
    jobs::owner_review::OwnerlessNode,
    model::{Lane, NodeType},
    write::NodeContent,
};
use serde_json::Value;

/// A node's content as stored.
pub(crate) struct StoredContent {
    pub(crate) id: NodeId,
    pub(crate) client_id: Option<String>,
    pub(crate) node_type: NodeType,
    pub(crate) title: Option<String>,
    pub(crate) text_summary: Option<String>,
    pub(crate) slots: Value,
    pub(crate) raw_ref: Option<String>,
    pub(crate) evidence_ref: Option<String>,
    pub(crate) lane: Lane,
    pub(crate) producer_agent_id: Option<String>,
    pub(crate) owner_agent_id: Option<String>,
    pub(crate) owner_team_id: Option<String>,
}

impl StoredContent {
    /// The node as it is reviewed for an owner, with its vector and the label of that.
    pub(crate) fn ownerless(self, digest: Digest, vector: Option<(Vec<f32>, Option<String>)>) -> OwnerlessNode {
        OwnerlessNode {
            id: self.id,
            client_id: self.client_id,
            node_type: self.node_type,
            title: self.title,
            text_summary: self.text_summary,
            slots: self.slots,
            raw_ref: self.raw_ref,
            evidence_ref: self.evidence_ref,
            producer_agent_id: self.producer_agent_id,
            digest,
            vector,
        }
    }

    /// The content its digest covers.
    pub(crate) fn content(&self) -> NodeContent<'_> {
        NodeContent {
            id: self.id,
            client_id: self.client_id.as_deref(),
            node_type: self.node_type,
            title: self.title.as_deref(),
            text_summary: self.text_summary.as_deref(),
            slots: &self.slots,
            raw_ref: self.raw_ref.as_deref(),
            evidence_ref: self.evidence_ref.as_deref(),
            lane: self.lane,
            producer_agent_id: self.producer_agent_id.as_deref(),
            owner_agent_id: self.owner_agent_id.as_deref(),
            owner_team_id: self.owner_team_id.as_deref(),
        }
    }
}

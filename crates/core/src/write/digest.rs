//! What a commit binds: the digests of the objects it changed.
//!
//! A digest covers the content that gives an object its meaning. Vitals (tier, salience, importance, confidence,
//! activation, feedback counters) are not covered: they change without a new version.

use serde_json::{Value, json};

use super::prepared::{PreparedEdge, PreparedNode};
use crate::{
    canon::{Digest, canonical_json, canonical_sha256, sha256},
    ids::{EdgeId, NodeId},
    model::{EdgeType, Lane, NodeType},
};

/// The content of a node that its digest covers.
#[derive(Clone, Copy, Debug)]
pub struct NodeContent<'a> {
    /// Id.
    pub id: NodeId,
    /// Caller's key.
    pub client_id: Option<&'a str>,
    /// Kind.
    pub node_type: NodeType,
    /// Title.
    pub title: Option<&'a str>,
    /// Summary.
    pub text_summary: Option<&'a str>,
    /// Attributes.
    pub slots: &'a Value,
    /// Pointer to a raw payload.
    pub raw_ref: Option<&'a str>,
    /// Pointer to evidence.
    pub evidence_ref: Option<&'a str>,
    /// Lane.
    pub lane: Lane,
    /// Producer.
    pub producer_agent_id: Option<&'a str>,
    /// Owner.
    pub owner_agent_id: Option<&'a str>,
    /// Owning team.
    pub owner_team_id: Option<&'a str>,
}

impl NodeContent<'_> {
    /// `{"v":2,"kind":"node",…}` with every member present, absent ones as null.
    pub fn value(&self) -> Value {
        json!({
            "v": 2,
            "kind": "node",
            "id": self.id,
            "client_id": self.client_id,
            "type": self.node_type,
            "title": self.title,
            "text_summary": self.text_summary,
            "slots": self.slots,
            "raw_ref": self.raw_ref,
            "evidence_ref": self.evidence_ref,
            "memory_lane": self.lane,
            "producer_agent_id": self.producer_agent_id,
            "owner_agent_id": self.owner_agent_id,
            "owner_team_id": self.owner_team_id,
        })
    }

    /// Canonical JSON of [`Self::value`]. This text is what the digest hashes and what is kept of an earlier version.
    pub fn canonical(&self) -> String {
        canonical_json(&self.value())
    }
}

/// SHA-256 of [`NodeContent::canonical`].
pub fn node_digest(content: &NodeContent<'_>) -> Digest {
    sha256(content.canonical())
}

impl PreparedNode {
    /// The content the digest covers.
    pub fn content(&self) -> NodeContent<'_> {
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

/// SHA-256 of the canonical JSON of an edge, weights included.
pub fn edge_digest(
    id: EdgeId,
    edge_type: EdgeType,
    (src, dst): (NodeId, NodeId),
    (weight, confidence, decay_rate): (f64, f64, f64),
) -> Digest {
    canonical_sha256(&json!({
        "v": 2,
        "kind": "edge",
        "id": id,
        "type": edge_type,
        "src_id": src,
        "dst_id": dst,
        "weight": weight,
        "confidence": confidence,
        "decay_rate": decay_rate,
    }))
}

impl PreparedEdge {
    /// [`edge_digest`] of this edge.
    pub fn digest(&self) -> Digest {
        edge_digest(
            self.id,
            self.edge_type,
            (self.src.id, self.dst.id),
            (self.weight, self.confidence, self.decay_rate),
        )
    }
}

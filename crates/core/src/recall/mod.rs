//! Recall, as pure functions: arms in, ranked and packed context out.
//!
//! The engine asks storage for what each step needs and calls, in this order: [`bm25`] and [`fuse`] (text questions
//! only), [`select_edges`] and [`keep_best`], [`activate()`], [`assemble`], [`build_context`].

pub mod activate;
pub mod adaptive;
pub mod bm25;
pub mod context;
pub mod expand;
pub mod fuse;
pub mod policy;
pub mod profile;
pub mod subgraph;
pub mod surroundings;

pub use activate::{Ranked, Seed, activate};
pub use adaptive::{Adaptation, Adaptive, AdaptiveReason};
pub use context::{ContextBlock, ContextLimits, ContextRow, build_context, context_candidates};
pub use expand::{hop_limit, keep_best, select_edges};
pub use policy::{ProfilePolicy, ProfileSource, RecallEndpoint, ResolvedProfile};
pub use profile::{KnobOverrides, Knobs, Profile};
pub use subgraph::{Subgraph, assemble};
pub use surroundings::{Link, Surroundings};

use crate::{
    ids::{EdgeId, NodeId},
    lifecycle::DecayBasis,
    model::{EdgeType, NodeType},
};

/// What ranking needs to know of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeVitals {
    /// The node.
    pub id: NodeId,
    /// Kind.
    pub node_type: NodeType,
    /// 0…1; as stored, until it is aged.
    pub salience: f64,
    /// What its fading depends on.
    pub decay: DecayBasis,
    /// 0…1.
    pub confidence: f64,
    /// Whether a vector is stored.
    pub ready: bool,
    /// Whether it is a topic that is still a draft.
    pub draft_topic: bool,
}

/// What ranking needs to know of an edge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdgeView {
    /// The edge.
    pub id: EdgeId,
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: NodeId,
    /// To.
    pub dst: NodeId,
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// Number of the last commit that changed it.
    pub commit_seq: u64,
}

impl EdgeView {
    /// `weight × confidence`, by which edges are ordered.
    pub fn strength(&self) -> f64 {
        self.weight * self.confidence
    }

    /// The end that is not `end`.
    pub fn other(&self, end: NodeId) -> NodeId {
        if self.src == end { self.dst } else { self.src }
    }
}

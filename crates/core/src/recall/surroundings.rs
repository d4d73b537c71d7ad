//! Candidates of a text question and what lies around them.

use crate::{ids::NodeId, model::EdgeType};

/// Candidates and their neighbours by position, so that who works on them looks nothing up by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// The candidates, ordered by id, then what edges lead to from there, ordered by id.
    pub nodes: Vec<NodeId>,
    /// How many of them are candidates.
    pub candidates: usize,
    /// By node: whether it may become a seed. A candidate may; a neighbour may if it passes what candidates have to pass.
    pub is_open: Vec<bool>,
    /// By node: whether the question names it by its whole title.
    pub is_named: Vec<bool>,
    /// Edges between the nodes, each once, in no particular order.
    pub links: Vec<Link>,
}

/// An edge between nodes that are known by their position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: u32,
    /// To.
    pub dst: u32,
    /// 0…1.
    pub weight: f64,
}

impl Surroundings {
    /// Position of a candidate.
    pub fn candidate(&self, id: NodeId) -> Option<usize> {
        self.nodes[..self.candidates].binary_search(&id).ok()
    }
}

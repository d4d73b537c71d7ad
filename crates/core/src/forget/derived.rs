//! What jobs made of nodes.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::{ForgetState, ForgettableEdge, ForgettableNode};
use crate::{
    ids::{EdgeId, NodeId},
    jobs::{rollup::GENERATED_BY, topics::CREATED_BY},
    model::EdgeType,
};

/// What a job made a node of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A summary: it quotes what it has edges to.
    Summary,
    /// A topic that this event began: its title is what the event says.
    TopicOf(NodeId),
}

/// What attributes say a node was made of.
pub fn made_of(slots: &Value) -> Option<Made> {
    let text = |key: &str| slots.get(key).and_then(Value::as_str);
    if text("generated_by") == Some(GENERATED_BY) {
        return Some(Made::Summary);
    }
    let seed = text("seed_event_id").filter(|_| text("created_by") == Some(CREATED_BY))?;
    seed.parse().ok().map(|id| Made::TopicOf(NodeId(id)))
}

impl Made {
    fn quotes(self, edge: &ForgettableEdge) -> bool {
        match self {
            Self::Summary => edge.edge_type != EdgeType::RelatedTo,
            Self::TopicOf(seed) => edge.edge_type == EdgeType::DerivedFrom && edge.dst == seed,
        }
    }
}

impl ForgetState {
    /// Nodes that may have been made of what goes and were not looked at yet.
    pub fn to_look_at(&self) -> Vec<NodeId> {
        let goes = |id: &NodeId| self.nodes.contains_key(id) || self.derived.contains_key(id);
        let entering =
            self.edges.values().filter(|edge| edge.edge_type != EdgeType::RelatedTo && goes(&edge.dst)).map(|e| e.src);
        let mut ids: Vec<NodeId> = entering.filter(|id| !goes(id) && !self.others.contains(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Takes what was found at those nodes; returns the ones that go too, whose edges are still to be read.
    pub fn look_at(&mut self, ids: &[NodeId], mut found: BTreeMap<NodeId, ForgettableNode>) -> Vec<NodeId> {
        let goes = |id: &NodeId| self.nodes.contains_key(id) || self.derived.contains_key(id);
        let quoting: HashSet<NodeId> = self
            .edges
            .values()
            .filter(|edge| goes(&edge.dst))
            .filter(|edge| found.get(&edge.src).and_then(|node| node.made).is_some_and(|made| made.quotes(edge)))
            .map(|edge| edge.src)
            .collect();
        found.retain(|id, _| quoting.contains(id));
        self.others.extend(ids.iter().filter(|id| !found.contains_key(id)));
        let derived = found.keys().copied().collect();
        self.derived.extend(found);
        derived
    }
}

/// Those of `derived` that were made of what goes, or of one another.
pub(super) fn made_of_going(
    named: &[NodeId],
    derived: &BTreeMap<NodeId, ForgettableNode>,
    edges: &BTreeMap<EdgeId, ForgettableEdge>,
) -> BTreeMap<NodeId, ForgettableNode> {
    let mut going: HashSet<NodeId> = named.iter().copied().collect();
    let mut found = BTreeMap::new();
    loop {
        let before = found.len();
        for edge in edges.values().filter(|edge| going.contains(&edge.dst)) {
            let node = derived.get(&edge.src).filter(|node| node.made.is_some_and(|made| made.quotes(edge)));
            if let Some(node) = node {
                found.insert(edge.src, node.clone());
            }
        }
        going.extend(found.keys());
        if found.len() == before {
            found.retain(|id, _| !named.contains(id));
            return found;
        }
    }
}

//! What jobs made of nodes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::{ForgetState, ForgettableEdge, ForgettableNode};
use crate::{
    ids::{EdgeId, NodeId},
    jobs::{consolidation::EdgeKey, rollup::GENERATED_BY, topics::CREATED_BY},
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

/// Which edges say that a topic was made of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sources {
    /// Those to what it repeats: the event it began with.
    #[default]
    Quoted,
    /// Those to all members: its vector is their mean.
    All,
}

impl Made {
    fn is_of(self, (edge_type, _, dst): EdgeKey, sources: Sources) -> bool {
        match self {
            Self::Summary => edge_type != EdgeType::RelatedTo,
            Self::TopicOf(seed) => edge_type == EdgeType::DerivedFrom && (dst == seed || sources == Sources::All),
        }
    }
}

impl ForgetState {
    /// Nodes that may have been made of what goes and were not looked at yet.
    pub fn to_look_at(&self) -> Vec<NodeId> {
        let goes = |id: &NodeId| self.nodes.contains_key(id) || self.derived.contains_key(id);
        let entering =
            links(&self.edges, &self.former).filter(|(kind, _, dst)| *kind != EdgeType::RelatedTo && goes(dst));
        let mut ids: Vec<NodeId> =
            entering.map(|(_, src, _)| src).filter(|id| !goes(id) && !self.others.contains(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Takes what was found at those nodes; returns the ones that go too, whose edges are still to be read.
    pub fn look_at(&mut self, ids: &[NodeId], mut found: BTreeMap<NodeId, ForgettableNode>) -> Vec<NodeId> {
        let goes = |id: &NodeId| self.nodes.contains_key(id) || self.derived.contains_key(id);
        let is_quoting = |edge: &EdgeKey| {
            found.get(&edge.1).and_then(|node| node.made).is_some_and(|made| made.is_of(*edge, self.sources))
        };
        let quoting: HashSet<NodeId> = links(&self.edges, &self.former)
            .filter(|(_, _, dst)| goes(dst))
            .filter(is_quoting)
            .map(|(_, src, _)| src)
            .collect();
        found.retain(|id, _| quoting.contains(id));
        self.others.extend(ids.iter().filter(|id| !found.contains_key(id)));
        let derived = found.keys().copied().collect();
        self.derived.extend(found);
        derived
    }
}

/// What leads from what was made to what it was made of. A merge moves the edges of an alias away from it, and it goes on saying what it
/// says: edges that were moved count as well.
pub(super) fn links<'a>(
    edges: &'a BTreeMap<EdgeId, ForgettableEdge>,
    former: &'a BTreeSet<EdgeKey>,
) -> impl Iterator<Item = EdgeKey> + 'a {
    edges.values().map(|edge| (edge.edge_type, edge.src, edge.dst)).chain(former.iter().copied())
}

/// Those of `derived` that were made of what is named, or of one another, and go with it: `goes` is asked with the source.
pub(super) fn made_of_going(
    named: &[NodeId],
    derived: &BTreeMap<NodeId, ForgettableNode>,
    (links, sources): (&[EdgeKey], Sources),
    goes: impl Fn(&NodeId, &ForgettableNode) -> bool,
) -> BTreeMap<NodeId, ForgettableNode> {
    let mut going: HashSet<NodeId> = named.iter().copied().collect();
    let mut found = BTreeMap::new();
    loop {
        let before = found.len();
        for &(kind, src, dst) in links.iter().filter(|(_, _, dst)| going.contains(dst)) {
            let node = derived.get(&src);
            let node = node.filter(|node| node.made.is_some_and(|made| made.is_of((kind, src, dst), sources)));
            // A source that goes itself takes along all that quotes it, named or not.
            let with = |node: &&ForgettableNode| found.contains_key(&dst) || goes(&dst, node);
            if let Some(node) = node.filter(with) {
                found.insert(src, node.clone());
            }
        }
        going.extend(found.keys());
        if found.len() == before {
            return found;
        }
    }
}

//! Which nodes and edges a response shows (runtime specification 3.10, subgraph assembly).

use hashbrown::{HashMap, HashSet};

use super::{EdgeView, NodeVitals, Ranked};
use crate::{ids::NodeId, model::EdgeType};

/// The part of the graph a response shows.
#[derive(Debug, Default)]
pub struct Subgraph {
    /// Nodes in order: seeds, then by rank, then draft topics.
    pub nodes: Vec<NodeId>,
    /// Edges between them, strongest first.
    pub edges: Vec<EdgeView>,
}

/// Picks seeds, then ranked nodes up to `max_nodes`; up to `min(10, max_nodes / 5)` draft topics that explain a shown
/// node take free room or the place of the least non-seeds; then the strongest `max_edges` edges between shown nodes.
pub fn assemble(
    seeds: &[NodeId],
    ranked: &[Ranked],
    nodes: &HashMap<NodeId, NodeVitals>,
    edges: &[EdgeView],
    (max_nodes, max_edges): (usize, usize),
    shows: impl Fn(&NodeVitals) -> bool,
) -> Subgraph {
    let mut core: Vec<NodeId> = Vec::with_capacity(max_nodes);
    let mut in_core: HashSet<NodeId> = HashSet::with_capacity(max_nodes);
    let wanted = seeds.iter().copied().chain(ranked.iter().map(|r| r.id));
    for id in wanted.filter(|id| nodes.get(id).is_some_and(&shows)) {
        if core.len() == max_nodes {
            break;
        }
        if in_core.insert(id) {
            core.push(id);
        }
    }
    let drafts = draft_topics(&in_core, nodes, edges);
    let quota = (max_nodes / 5).min(10);
    let room = max_nodes - core.len();
    if room > 0 {
        core.extend(drafts.iter().take(quota.min(room)));
    } else {
        let seed_set: HashSet<NodeId> = seeds.iter().copied().collect();
        let replaceable = core.iter().filter(|id| !seed_set.contains(*id)).count();
        let drafts = &drafts[..drafts.len().min(quota).min(replaceable)];
        for _ in drafts {
            if let Some(least) = core.iter().rposition(|id| !seed_set.contains(id)) {
                core.remove(least);
            }
        }
        core.extend(drafts);
    }
    let shown: HashSet<NodeId> = core.iter().copied().collect();
    let mut edges: Vec<EdgeView> =
        edges.iter().filter(|e| shown.contains(&e.src) && shown.contains(&e.dst)).copied().collect();
    edges.sort_by(|a, b| b.strength().total_cmp(&a.strength()).then(a.id.cmp(&b.id)));
    edges.truncate(max_edges);
    Subgraph { nodes: core, edges }
}

fn draft_topics(core: &HashSet<NodeId>, nodes: &HashMap<NodeId, NodeVitals>, edges: &[EdgeView]) -> Vec<NodeId> {
    let mut scores: HashMap<NodeId, f64> = HashMap::new();
    for edge in edges.iter().filter(|e| matches!(e.edge_type, EdgeType::PartOf | EdgeType::DerivedFrom)) {
        let other = if core.contains(&edge.src) {
            edge.dst
        } else if core.contains(&edge.dst) {
            edge.src
        } else {
            continue;
        };
        if nodes.get(&other).is_some_and(|n| n.draft_topic && n.ready) && !core.contains(&other) {
            *scores.entry(other).or_default() += edge.strength();
        }
    }
    let mut drafts: Vec<(NodeId, f64)> = scores.into_iter().collect();
    drafts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    drafts.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::lifecycle::DecayBasis;
    use crate::{ids::EdgeId, model::NodeType};

    fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn graph(drafts: &[u128], count: u128) -> HashMap<NodeId, NodeVitals> {
        (1..=count)
            .map(|n| {
                let draft_topic = drafts.contains(&n);
                let node_type = if draft_topic { NodeType::Topic } else { NodeType::Event };
                (
                    id(n),
                    NodeVitals {
                        id: id(n),
                        node_type,
                        salience: 0.5,
                        decay: DecayBasis::HELD,
                        confidence: 0.5,
                        ready: true,
                        draft_topic,
                    },
                )
            })
            .collect()
    }

    fn edge(n: u128, edge_type: EdgeType, src: u128, dst: u128, weight: f64) -> EdgeView {
        let (src, dst) = (id(src), id(dst));
        EdgeView { id: EdgeId(Uuid::from_u128(n)), edge_type, src, dst, weight, confidence: 1.0, commit_seq: 1 }
    }

    fn ranked(ids: &[u128]) -> Vec<Ranked> {
        ids.iter().map(|&n| Ranked { id: id(n), activation: 0.5, score: 0.5 }).collect()
    }

    #[test]
    fn a_draft_topic_takes_the_place_of_the_least_node() {
        let nodes = graph(&[9], 9);
        let edges = [edge(1, EdgeType::PartOf, 1, 9, 0.9), edge(2, EdgeType::RelatedTo, 1, 2, 0.2)];
        let ready = |n: &NodeVitals| n.ready && !n.draft_topic;
        let full = assemble(&[id(1)], &ranked(&[1, 2, 3, 4, 5, 6]), &nodes, &edges, (5, 1), ready);
        assert_eq!(full.nodes, [id(1), id(2), id(3), id(4), id(9)]);
        assert_eq!(full.edges.len(), 1, "the strongest edge only");
        let roomy = assemble(&[id(1)], &ranked(&[1, 2]), &nodes, &edges, (5, 10), ready);
        assert_eq!(roomy.nodes, [id(1), id(2), id(9)]);
    }

    #[test]
    fn seeds_are_never_replaced() {
        let nodes = graph(&[9], 9);
        let edges = [edge(1, EdgeType::PartOf, 1, 9, 0.9)];
        let seeds: Vec<NodeId> = (1..=5).map(id).collect();
        let shown = assemble(&seeds, &ranked(&[1, 2, 3, 4, 5]), &nodes, &edges, (5, 10), |n| !n.draft_topic);
        assert_eq!(shown.nodes, seeds);
    }
}

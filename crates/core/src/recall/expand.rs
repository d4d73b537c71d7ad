//! Stage 2 of recall: which edges and nodes around the seeds are looked at (runtime specification 3.10).

use hashbrown::{HashMap, HashSet};

use super::EdgeView;
use crate::ids::NodeId;

/// How many edges a request may bring: `E = min(1000, 5 × max_edges)`, and per hop and direction
/// `clamp(E, 50, 500)`.
pub fn hop_limit(max_edges: usize) -> (usize, usize) {
    let total = (5 * max_edges).min(1000);
    (total, total.clamp(50, 500))
}

fn strongest_first(a: &EdgeView, b: &EdgeView) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(b.confidence.total_cmp(&a.confidence)).then(a.id.cmp(&b.id))
}

/// Joins the hops: first-hop edges come first (a direct edge never loses to a heavier one further away), then the
/// second hop, each by weight, confidence and id; at most `total`, each edge once.
pub fn select_edges(mut first: Vec<EdgeView>, mut second: Vec<EdgeView>, total: usize) -> Vec<EdgeView> {
    first.sort_unstable_by(strongest_first);
    second.sort_unstable_by(strongest_first);
    let mut seen = HashSet::with_capacity(first.len() + second.len());
    let mut edges: Vec<EdgeView> = first.into_iter().chain(second).filter(|edge| seen.insert(edge.id)).collect();
    edges.truncate(total);
    edges
}

/// The ids to look at: all seeds, and the best connected others up to `min(800, 4 × max_nodes)`.
pub fn keep_best(seeds: &[NodeId], edges: &[EdgeView], max_nodes: usize) -> Vec<NodeId> {
    let budget = (4 * max_nodes).min(800);
    let seed_set: HashSet<NodeId> = seeds.iter().copied().collect();
    let mut scores: HashMap<NodeId, f64> = HashMap::with_capacity(edges.len());
    for edge in edges {
        for end in [edge.src, edge.dst] {
            if !seed_set.contains(&end) {
                *scores.entry(end).or_default() += edge.strength();
            }
        }
    }
    let mut others: Vec<(NodeId, f64)> = scores.into_iter().collect();
    others.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    others.truncate(budget.saturating_sub(seeds.len()));
    seeds.iter().copied().chain(others.into_iter().map(|(id, _)| id)).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{ids::EdgeId, model::EdgeType};

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn edge(n: u128, src: u128, dst: u128, weight: f64) -> EdgeView {
        EdgeView {
            id: EdgeId(Uuid::from_u128(n)),
            edge_type: EdgeType::RelatedTo,
            src: node(src),
            dst: node(dst),
            weight,
            confidence: 1.0,
            commit_seq: 1,
        }
    }

    #[test]
    fn direct_edges_survive_heavier_distant_ones() {
        let picked = select_edges(vec![edge(1, 1, 2, 0.3)], vec![edge(2, 2, 3, 0.9), edge(1, 1, 2, 0.3)], 2);
        assert_eq!(picked.iter().map(|e| e.id.0.as_u128()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn seeds_are_kept_and_ties_go_by_id() {
        let edges = [edge(1, 1, 9, 0.5), edge(2, 1, 8, 0.5), edge(3, 1, 7, 0.9)];
        assert_eq!(keep_best(&[node(1)], &edges, 1), [node(1), node(7), node(8), node(9)]);
        let many: Vec<_> = (10..20).map(|n| edge(n, 1, n, 0.5)).collect();
        assert_eq!(keep_best(&[node(1)], &many, 1).len(), 4);
    }

    #[test]
    fn limits_follow_the_specification() {
        assert_eq!(hop_limit(80), (400, 400));
        assert_eq!(hop_limit(1), (5, 50));
        assert_eq!(hop_limit(100), (500, 500));
    }
}

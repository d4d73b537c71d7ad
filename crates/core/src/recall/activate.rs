//! Spreading activation and the final score (runtime specification 3.10).

use hashbrown::HashMap;

use super::{EdgeView, NodeVitals};
use crate::ids::NodeId;

/// A node the question matched by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seed {
    /// The node.
    pub id: NodeId,
    /// How well, 1 is best.
    pub similarity: f64,
}

/// A node with its activation and final score.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ranked {
    /// The node.
    pub id: NodeId,
    /// 0…1.
    pub activation: f64,
    /// `0.7 activation + 0.15 confidence + 0.15 salience`.
    pub score: f64,
}

/// Spreads the seeds' activation `hops` times along `edges` and ranks every reached node, best first, ties by id.
///
/// `act(seed) = clamp(0.75 similarity + 0.25 salience, 0, 1)`. Per hop, from the values of the hop before, a node
/// passes `act × factor(type) × weight × confidence × 0.5` to each neighbour, which keeps the largest it was offered.
pub fn activate(seeds: &[Seed], nodes: &HashMap<NodeId, NodeVitals>, edges: &[EdgeView], hops: u8) -> Vec<Ranked> {
    let vitals = |id: &NodeId| nodes.get(id).map_or((0.5, 0.5), |n| (n.confidence, n.salience));
    let mut active: HashMap<NodeId, f64> = HashMap::with_capacity(nodes.len());
    for seed in seeds {
        let (_, salience) = vitals(&seed.id);
        active.insert(seed.id, (0.75 * seed.similarity + 0.25 * salience).clamp(0.0, 1.0));
    }
    for _ in 0..hops {
        let mut offered: HashMap<NodeId, f64> = HashMap::with_capacity(nodes.len());
        for edge in edges {
            let share = edge.edge_type.activation_factor() * edge.weight * edge.confidence * 0.5;
            for (from, to) in [(edge.src, edge.dst), (edge.dst, edge.src)] {
                if let Some(activation) = active.get(&from) {
                    let candidate = activation * share;
                    let best = offered.entry(to).or_insert(0.0);
                    *best = best.max(candidate);
                }
            }
        }
        for (id, candidate) in offered {
            let held = active.entry(id).or_insert(0.0);
            *held = held.max(candidate);
        }
    }
    let mut ranked: Vec<Ranked> = active
        .into_iter()
        .map(|(id, activation)| {
            let (confidence, salience) = vitals(&id);
            Ranked { id, activation, score: 0.7 * activation + 0.15 * confidence + 0.15 * salience }
        })
        .collect();
    ranked.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    ranked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::lifecycle::DecayBasis;
    use crate::{
        ids::EdgeId,
        model::{EdgeType, NodeType},
    };

    fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn vitals(n: u128, salience: f64, confidence: f64) -> (NodeId, NodeVitals) {
        let node = NodeVitals {
            id: id(n),
            node_type: NodeType::Event,
            salience,
            decay: DecayBasis::HELD,
            confidence,
            ready: true,
            draft_topic: false,
        };
        (id(n), node)
    }

    fn edge(n: u128, edge_type: EdgeType, src: u128, dst: u128, weight: f64, confidence: f64) -> EdgeView {
        EdgeView {
            id: EdgeId(Uuid::from_u128(n)),
            edge_type,
            src: id(src),
            dst: id(dst),
            weight,
            confidence,
            commit_seq: 1,
        }
    }

    #[test]
    fn one_seed_without_edges_is_the_golden_score() {
        let nodes = HashMap::from([vitals(1, 0.5, 0.5)]);
        let ranked = activate(&[Seed { id: id(1), similarity: 1.0 }], &nodes, &[], 2);
        assert_eq!(ranked[0].activation, 0.875);
        assert_eq!(ranked[0].score, 0.762_499_999_999_999_8);
    }

    #[test]
    fn activation_halves_per_hop_and_takes_the_largest_offer() {
        let nodes = HashMap::from([vitals(1, 1.0, 1.0), vitals(2, 0.0, 0.0), vitals(3, 0.0, 0.0)]);
        let edges = [
            edge(1, EdgeType::PartOf, 1, 2, 1.0, 1.0),
            edge(2, EdgeType::RelatedTo, 2, 1, 1.0, 1.0),
            edge(3, EdgeType::DerivedFrom, 3, 2, 0.5, 0.5),
        ];
        let seeds = [Seed { id: id(1), similarity: 1.0 }];
        let one: HashMap<_, _> =
            activate(&seeds, &nodes, &edges, 1).into_iter().map(|r| (r.id, r.activation)).collect();
        assert_eq!((one[&id(2)], one.get(&id(3))), (0.45, None));
        let two: HashMap<_, _> =
            activate(&seeds, &nodes, &edges, 2).into_iter().map(|r| (r.id, r.activation)).collect();
        assert_eq!(two[&id(3)], 0.45 * 0.25 * 0.5);
    }

    proptest! {
        #[test]
        fn is_bounded_and_never_falls_with_hops_or_edges(
            sims in prop::collection::vec(-1.0_f64..=1.0, 1..6),
            links in prop::collection::vec((0_u128..8, 0_u128..8, 0.0_f64..=1.0, 0.0_f64..=1.0, 0_usize..3), 0..20),
        ) {
            let nodes: HashMap<_, _> = (0..8).map(|n| vitals(n, 0.3, 0.6)).collect();
            let seeds: Vec<_> =
                sims.iter().enumerate().map(|(n, &similarity)| Seed { id: id(n as u128), similarity }).collect();
            let edges: Vec<_> = links
                .iter()
                .enumerate()
                .filter(|(_, l)| l.0 != l.1)
                .map(|(n, l)| edge(n as u128, EdgeType::ALL[l.4], l.0, l.1, l.2, l.3))
                .collect();
            let by_id = |edges: &[EdgeView], hops| -> HashMap<NodeId, f64> {
                activate(&seeds, &nodes, edges, hops).into_iter().map(|r| (r.id, r.activation)).collect()
            };
            let (one, two) = (by_id(&edges, 1), by_id(&edges, 2));
            for (node, activation) in &two {
                prop_assert!((0.0..=1.0).contains(activation));
                prop_assert!(*activation >= one.get(node).copied().unwrap_or(0.0));
            }
            if let Some((_, fewer)) = edges.split_last() {
                for (node, activation) in by_id(fewer, 2) {
                    prop_assert!(two[&node] >= activation);
                }
            }
        }
    }
}

//! Nearest vectors of a scope.

use std::{cmp::Reverse, collections::BinaryHeap};

use aionis_core::{
    ids::NodeId,
    ports::store::{DenseHit, NodeFilter},
};
use uuid::Uuid;

use super::{
    ScopeImage, Slot,
    quantised::{Question, cosine},
};

/// A candidate with its approximate cosine, ordered by it and then by id like the hits: of more equal vectors than there
/// are candidates the lowest ids are kept.
#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    approximate: f32,
    id: Uuid,
    slot: Slot,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.approximate.total_cmp(&other.approximate).then(other.id.cmp(&self.id))
    }
}

/// What a scan found.
pub(crate) enum Near {
    /// Candidates with exact cosines, in no order.
    Scored(Vec<DenseHit>),
    /// Candidates with the row numbers of their stored vectors, still to be scored.
    Candidates(Vec<(NodeId, i64)>),
}

impl ScopeImage {
    /// The best candidates by the quantised scan, with the number of their stored vector: a quarter and fifty more than
    /// asked, so that scoring them exactly finds the exact best.
    pub(crate) fn near(&self, filter: &NodeFilter, vector: &[f32], limit: usize, exact: bool) -> Near {
        let filter = self.filter(filter);
        let keep = if exact { self.codes.len() } else { limit + limit / 4 + 50 };
        if keep == 0 || limit == 0 {
            return Near::Scored(Vec::new());
        }
        let mut best: BinaryHeap<Reverse<Candidate>> = BinaryHeap::with_capacity(keep.min(4096) + 1);
        self.codes.scan(
            &Question::new(vector),
            |slot| filter.seeds(self.gates[slot as usize]),
            |slot, approximate| {
                best.push(Reverse(Candidate { approximate, id: self.nodes[slot as usize].id, slot }));
                if best.len() > keep {
                    best.pop();
                }
                if best.len() < keep {
                    return f32::NEG_INFINITY;
                }
                best.peek().map_or(f32::NEG_INFINITY, |least| least.0.approximate)
            },
        );
        let nodes = best.into_iter().map(|candidate| &self.nodes[candidate.0.slot as usize]);
        match self.codes.exact() {
            Some(stored) => Near::Scored(
                nodes
                    .filter_map(|node| {
                        Some(DenseHit { id: NodeId(node.id), similarity: cosine(vector, stored(node.code?)) })
                    })
                    .collect(),
            ),
            None => Near::Candidates(nodes.map(|node| (NodeId(node.id), node.vector_no)).collect()),
        }
    }
}

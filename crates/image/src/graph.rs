//! Edges around nodes.

use super::{
    ScopeImage, Slot,
    fetch::{AHEAD, fetch},
};
use aionis_core::{
    ids::{EdgeId, NodeId},
    model::EdgeType,
    ports::store::EdgeQuery,
    recall::EdgeView,
};
use uuid::Uuid;

/// An edge. Those that leave one node, and those that enter one, are chained.
#[derive(Clone, Copy)]
pub(super) struct EdgeImage {
    id: Uuid,
    src: Slot,
    dst: Slot,
    weight: f64,
    confidence: f64,
    next_leaving: u32,
    next_entering: u32,
    commit_seq: Seq,
    edge_type: EdgeType,
}

/// A commit's number in the room that is left beside the kind of an edge: 2⁴⁸ commits outlast any scope.
#[derive(Clone, Copy)]
struct Seq([u8; 6]);

impl From<u64> for Seq {
    fn from(seq: u64) -> Self {
        let [a, b, c, d, e, f, ..] = seq.to_le_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl From<Seq> for u64 {
    fn from(Seq([a, b, c, d, e, f]): Seq) -> Self {
        Self::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// The newest edges at one node, as positions in the list of edges.
#[derive(Clone, Copy)]
pub(super) struct Around {
    leaving: u32,
    entering: u32,
}

/// Weight of an edge that was taken out: below every least weight a question may name.
const REMOVED: f64 = f64::NEG_INFINITY;

/// No further edge.
const END: u32 = u32::MAX;

impl Default for Around {
    fn default() -> Self {
        Self { leaving: END, entering: END }
    }
}

impl Around {
    /// Both lists: where they begin, and whether they are of edges that enter.
    pub(super) const fn ends(self) -> [(u32, bool); 2] {
        [(self.leaving, false), (self.entering, true)]
    }
}

impl EdgeImage {
    pub(super) fn is_removed(&self) -> bool {
        self.weight <= REMOVED
    }

    pub(super) const fn id(&self) -> Uuid {
        self.id
    }

    /// Both ends: from, to.
    pub(super) const fn between(&self) -> [Slot; 2] {
        [self.src, self.dst]
    }

    pub(super) const fn edge_type(&self) -> EdgeType {
        self.edge_type
    }

    pub(super) const fn weight(&self) -> f64 {
        self.weight
    }

    /// The edge after this one in a list.
    pub(super) const fn next(&self, entering: bool) -> u32 {
        if entering { self.next_entering } else { self.next_leaving }
    }
}

impl ScopeImage {
    /// The strongest edges leaving, and the strongest entering, any of the nodes; each edge once, and only between what the
    /// viewer may be shown.
    pub fn edges_around(&self, query: &EdgeQuery) -> Vec<EdgeView> {
        let mut slots: Vec<Slot> = self.slots_of(&query.around).into_iter().flatten().collect();
        // A node named twice is one node: its edges must not use up the limit.
        slots.sort_unstable();
        slots.dedup();
        self.strongest(query, slots).into_iter().map(|at| self.edge_view(&self.edges[at as usize])).collect()
    }

    /// The edges of [`ScopeImage::edges_around`] as positions in the list of edges, around distinct slots.
    pub(super) fn strongest(&self, query: &EdgeQuery, mut slots: Vec<Slot>) -> Vec<u32> {
        let filter = self.viewer(&query.viewer);
        let shows = |slot: Slot| {
            // Who may be a seed is shown: only for others the node, which lies anywhere, is looked at.
            (self.gates.may_be_seed(slot) || self.nodes[slot as usize].is_shown())
                && filter.sees(&self.gates, slot)
                && !self.is_alias(slot)
        };
        slots.retain(|slot| shows(*slot));
        let limit = query.limit;
        let strongest = |first: fn(Around) -> u32, next: fn(&EdgeImage) -> u32, far: fn(&EdgeImage) -> Slot| {
            let mut found: Vec<u32> = Vec::new();
            // The next edge of every node in turn, so that many of them are on their way from memory at once.
            let mut reached: Vec<u32> = slots.iter().map(|slot| first(self.around[*slot as usize])).collect();
            while !reached.is_empty() {
                reached.retain(|at| (*at as usize) < self.edges.len());
                for number in 0..reached.len() {
                    if let Some(ahead) = reached.get(number + AHEAD) {
                        fetch(&self.edges, *ahead);
                    }
                    let at = reached[number];
                    let edge = &self.edges[at as usize];
                    // The near end is one of the nodes asked for.
                    if edge.weight > REMOVED
                        && edge.weight >= query.min_weight
                        && edge.confidence >= query.min_confidence
                        && shows(far(edge))
                    {
                        found.push(at);
                    }
                    reached[number] = next(edge);
                }
            }
            if found.len() > limit {
                found.select_nth_unstable_by(limit, |a, b| self.stronger(*a, *b));
                found.truncate(limit);
            }
            found
        };
        let mut both = strongest(|around| around.leaving, |edge| edge.next_leaving, |edge| edge.dst);
        both.extend(strongest(|around| around.entering, |edge| edge.next_entering, |edge| edge.src));
        both.sort_unstable();
        both.dedup();
        both
    }

    fn edge_view(&self, edge: &EdgeImage) -> EdgeView {
        let node = |slot: Slot| NodeId(self.nodes[slot as usize].id);
        EdgeView {
            id: EdgeId(edge.id),
            edge_type: edge.edge_type,
            src: node(edge.src),
            dst: node(edge.dst),
            weight: edge.weight,
            confidence: edge.confidence,
            commit_seq: edge.commit_seq.into(),
        }
    }

    fn stronger(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let (a, b) = (&self.edges[a as usize], &self.edges[b as usize]);
        b.weight.total_cmp(&a.weight).then(b.confidence.total_cmp(&a.confidence)).then(a.id.cmp(&b.id))
    }

    /// Takes edges out. Their places stay, of no weight at all, until the image is loaded anew.
    pub fn remove_edges(&mut self, ids: &[EdgeId]) {
        for id in ids {
            let Some(at) = self.edge_slots.get(id.0, |at| self.edges[at as usize].id) else { continue };
            self.edge_slots.remove(id.0, |at| self.edges[at as usize].id);
            self.edges[at as usize].weight = REMOVED;
        }
    }

    /// Adds an edge or brings a known one up to date. Its ends and its kind never change.
    pub fn put_edge(&mut self, edge: EdgeView) {
        if let Some(at) = self.edge_slots.get(edge.id.0, |at| self.edges[at as usize].id) {
            let known = &mut self.edges[at as usize];
            (known.weight, known.confidence, known.commit_seq) = (edge.weight, edge.confidence, edge.commit_seq.into());
            return;
        }
        let (Some(src), Some(dst)) = (self.slot_of(edge.src.0), self.slot_of(edge.dst.0)) else {
            // Both ends are stored before an edge is; without them the image is not of this scope.
            tracing::error!(edge = %edge.id, "an edge came before its nodes; it is left out of the image");
            return;
        };
        let at = u32::try_from(self.edges.len()).unwrap_or(END);
        let (leaving, entering) = (self.around[src as usize].leaving, self.around[dst as usize].entering);
        self.edges.push(EdgeImage {
            id: edge.id.0,
            src,
            dst,
            weight: edge.weight,
            confidence: edge.confidence,
            commit_seq: edge.commit_seq.into(),
            next_leaving: leaving,
            next_entering: entering,
            edge_type: edge.edge_type,
        });
        self.edge_slots.insert(edge.id.0, at, |at| self.edges[at as usize].id);
        self.around[src as usize].leaving = at;
        self.around[dst as usize].entering = at;
    }
}

//! Edges around nodes.

use super::{Around, ScopeImage, Slot};
use aionis_core::{ids::NodeId, model::Viewer, recall::EdgeView};

impl ScopeImage {
    /// The strongest edges leaving, and the strongest entering, any of the nodes; each edge once, and only between what the
    /// viewer may be shown.
    pub(crate) fn edges_around(
        &self,
        viewer: &Viewer,
        around: &[NodeId],
        (min_weight, min_confidence): (f64, f64),
        limit: usize,
    ) -> Vec<EdgeView> {
        // A node named twice is one node: its edges must not use up the limit.
        let filter = self.viewer(viewer);
        let shows = |slot: Slot| {
            let node = &self.nodes[slot as usize];
            node.is_shown() && filter.sees(node)
        };
        let at_end = |id: NodeId| self.slots.get(&id.0).copied().is_some_and(shows);
        let mut slots: Vec<Slot> = around.iter().filter_map(|id| self.slots.get(&id.0).copied()).collect();
        slots.retain(|slot| shows(*slot));
        slots.sort_unstable();
        slots.dedup();
        // The near end is one of the nodes asked for.
        let strongest = |pick: fn(&Around) -> &Vec<u32>, far: fn(&EdgeView) -> NodeId| -> Vec<u32> {
            let mut found: Vec<u32> = slots
                .iter()
                .flat_map(|&slot| pick(&self.around[slot as usize]))
                .copied()
                .filter(|&at| {
                    let edge = &self.edges[at as usize];
                    edge.weight >= min_weight && edge.confidence >= min_confidence && at_end(far(edge))
                })
                .collect();
            if found.len() > limit {
                found.select_nth_unstable_by(limit, |a, b| self.stronger(*a, *b));
                found.truncate(limit);
            }
            found
        };
        let mut both = strongest(|edges| &edges.leaving, |edge| edge.dst);
        both.extend(strongest(|edges| &edges.entering, |edge| edge.src));
        both.sort_unstable();
        both.dedup();
        both.into_iter().map(|at| self.edges[at as usize]).collect()
    }

    fn stronger(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let (a, b) = (&self.edges[a as usize], &self.edges[b as usize]);
        b.weight.total_cmp(&a.weight).then(b.confidence.total_cmp(&a.confidence)).then(a.id.cmp(&b.id))
    }

    /// Adds an edge or brings a known one up to date.
    pub(crate) fn put_edge(&mut self, edge: EdgeView) {
        if let Some(&at) = self.edge_slots.get(&edge.id.0) {
            self.edges[at as usize] = edge;
            return;
        }
        let (Some(&src), Some(&dst)) = (self.slots.get(&edge.src.0), self.slots.get(&edge.dst.0)) else {
            // Both ends are stored before an edge is; without them the image is not of this scope.
            tracing::error!(edge = %edge.id, "an edge came before its nodes; it is left out of the image");
            return;
        };
        let at = u32::try_from(self.edges.len()).unwrap_or(u32::MAX);
        self.edges.push(edge);
        self.edge_slots.insert(edge.id.0, at);
        self.around[src as usize].leaving.push(at);
        self.around[dst as usize].entering.push(at);
    }
}

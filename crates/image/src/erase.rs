//! Taking forgotten nodes out of an image.

use aionis_core::{ids::NodeId, model::Tier, slots::SUPERSEDED};
use hashbrown::HashSet;

use super::{Gate, ScopeImage, Slot, graph::Around};

impl ScopeImage {
    /// Takes nodes out, with their words, vectors and edges. Their slots stay, empty, until the image is loaded anew.
    pub fn erase(&mut self, ids: &[NodeId]) {
        let slots: HashSet<Slot> = ids.iter().filter_map(|id| self.slot_of(id.0)).collect();
        if slots.is_empty() {
            return;
        }
        self.version += 1;
        self.forget_documents(&slots);
        for slot in slots {
            self.erase_slot(slot);
        }
    }

    fn erase_slot(&mut self, slot: Slot) {
        self.put_code(slot, None);
        self.drop_edges(slot);
        let at = slot as usize;
        let (id, terms) = (self.nodes[at].id, self.gates.terms(slot));
        self.aliases.remove(&slot);
        self.set_pending(NodeId(id), false);
        self.count_terms(terms, false);
        self.slots.remove(id, |slot| self.nodes[slot as usize].id);
        if let Some(rows) = self.rows.get(at) {
            self.numbers.remove(rows.node_no, |slot| self.rows[slot as usize].node_no);
        }
        self.put_client_id(slot, None);
        let node = &mut self.nodes[at];
        // What still points here, from the far end of an edge, finds something that is never shown.
        (node.tier, node.flags, node.live_rule) = (Tier::Archive, SUPERSEDED, false);
        (node.name, node.ready) = (None, false);
        self.gates.set(slot, Gate::CLOSED);
        self.erased += 1;
    }

    fn drop_edges(&mut self, slot: Slot) {
        let around = std::mem::take(&mut self.around[slot as usize]);
        for at in self.edges_at(around) {
            if self.edges[at as usize].is_removed() {
                continue;
            }
            let id = self.edges[at as usize].id();
            self.edge_slots.remove(id, |at| self.edges[at as usize].id());
        }
    }

    /// Ids of all edges at some nodes, whether recall shows them or not.
    pub fn edge_ids_at(&self, ids: &[NodeId]) -> Vec<uuid::Uuid> {
        let slots = ids.iter().filter_map(|id| self.slot_of(id.0));
        let mut found: Vec<uuid::Uuid> = slots
            .flat_map(|slot| self.edges_at(self.around[slot as usize]))
            .filter(|at| !self.edges[*at as usize].is_removed())
            .map(|at| self.edges[at as usize].id())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn edges_at(&self, around: Around) -> Vec<u32> {
        let mut found = Vec::new();
        for (mut at, entering) in around.ends() {
            while let Some(edge) = self.edges.get(at as usize) {
                found.push(at);
                at = edge.next(entering);
            }
        }
        found
    }
}

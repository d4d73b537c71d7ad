//! Nodes that are aliases of others: what is found of them counts for the node they stand for, and they themselves are not
//! shown.

use aionis_core::{
    ids::NodeId,
    ports::store::{DenseHit, NodeFilter},
    recall::bm25::LexicalDoc,
};
use hashbrown::{HashMap, HashSet};

use super::{ScopeImage, Slot};

/// Longest way from an alias to what it stands for; merges make no chains, so one step does.
const STEPS_MAX: usize = 8;

impl ScopeImage {
    /// Says what a node is an alias of.
    pub(crate) fn put_alias(&mut self, id: NodeId, alias_of: Option<NodeId>) {
        let Some(slot) = self.slot_of(id.0) else { return };
        match alias_of {
            Some(to) => _ = self.aliases.insert(slot, to.0),
            None => _ = self.aliases.remove(&slot),
        }
    }

    /// Whether any node is an alias.
    pub fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// How many hits to look for so that `limit` are left when several stand for one node.
    pub fn reach(&self, limit: usize) -> usize {
        limit.saturating_add(self.aliases.len().min(limit))
    }

    /// The node another one stands for: itself unless it is an alias of a node that is there.
    pub(super) fn stands_for(&self, slot: Slot) -> Slot {
        let mut at = slot;
        for _ in 0..STEPS_MAX {
            let Some(next) = self.aliases.get(&at).and_then(|to| self.slot_of(*to)) else { break };
            at = next;
        }
        at
    }

    /// Whether a node is the alias of one that is there.
    pub(super) fn is_alias(&self, slot: Slot) -> bool {
        self.has_aliases() && self.stands_for(slot) != slot
    }

    /// Hits with aliases replaced by what they stand for, each node once with its best similarity.
    pub fn resolved(&self, filter: &NodeFilter, hits: Vec<DenseHit>) -> Vec<DenseHit> {
        if !self.has_aliases() {
            return hits;
        }
        let filter = self.filter(filter);
        let mut best: HashMap<NodeId, f64> = HashMap::with_capacity(hits.len());
        for hit in hits {
            let id = match self.slot_of(hit.id.0).map(|slot| (slot, self.stands_for(slot))) {
                Some((slot, to)) if to != slot => {
                    if !filter.seeds(&self.gates, to) {
                        continue;
                    }
                    NodeId(self.nodes[to as usize].id)
                }
                _ => hit.id,
            };
            let known = best.entry(id).or_insert(hit.similarity);
            *known = known.max(hit.similarity);
        }
        best.into_iter().map(|(id, similarity)| DenseHit { id, similarity }).collect()
    }

    /// Documents, the best first, with aliases replaced by what they stand for: each node once, with the better document.
    pub(super) fn resolved_docs(&self, filter: &NodeFilter, docs: Vec<LexicalDoc>) -> Vec<LexicalDoc> {
        if !self.has_aliases() {
            return docs;
        }
        let filter = self.filter(filter);
        let mut seen = HashSet::with_capacity(docs.len());
        let resolved = docs.into_iter().filter_map(|doc| {
            let slot = self.slot_of(doc.id.0)?;
            let to = self.stands_for(slot);
            let shown = to == slot || filter.seeds(&self.gates, to);
            let id = NodeId(self.nodes[to as usize].id);
            (shown && seen.insert(id)).then_some(LexicalDoc { id, ..doc })
        });
        resolved.collect()
    }

    /// What the aliases stand for that have one of some names.
    pub(super) fn named_by_alias(&self, is_named: impl Fn(Slot) -> bool) -> impl Iterator<Item = Slot> {
        self.aliases.keys().copied().filter(move |slot| is_named(*slot)).map(|slot| self.stands_for(slot))
    }
}

//! Filling an image from stored rows. Which engine they come from makes no difference.

use aionis_core::{
    ids::NodeId,
    lifecycle::DecayBasis,
    model::{Lane, NodeType, Tier},
};
use uuid::Uuid;

use super::{Gate, NodeImage, Router, ScopeImage, Slot, client_id_at};

/// A node as stored, as far as an image holds it.
pub struct NodeFacts<'a> {
    pub id: Uuid,
    /// Row number where rows have one, else zero.
    pub node_no: i64,
    pub node_type: NodeType,
    pub tier: Tier,
    pub lane: Lane,
    pub owner_agent: Option<&'a str>,
    pub owner_team: Option<&'a str>,
    /// What its slots say, as bits (`aionis_core::slots`).
    pub flags: u8,
    /// Length of its text in terms.
    pub terms: u32,
    /// Whether it is a rule that is enforced or shown.
    pub live_rule: bool,
    /// Whether it waits for its vector.
    pub pending: bool,
    /// Whether it has a vector that the image does not hold.
    pub ready: bool,
    pub salience: f64,
    pub decay: DecayBasis,
    pub confidence: f64,
    /// By which its name is found in a question.
    pub name_key: Option<&'a str>,
    pub client_id: Option<&'a str>,
    /// The node it is an alias of.
    pub alias_of: Option<Uuid>,
}

impl ScopeImage {
    /// Makes room for so many nodes.
    pub fn reserve(&mut self, nodes: usize) {
        self.nodes.reserve_exact(nodes);
        self.gates.reserve_exact(nodes);
        if self.holds_row_places {
            self.row_places.reserve_exact(nodes);
        }
        self.around.reserve_exact(nodes);
        self.slots.reserve(nodes, |slot| self.nodes[slot as usize].id);
        self.clients.reserve(nodes, |slot| client_id_at(&self.nodes, slot));
        if let Some(bits) = &mut self.bits {
            bits.reserve(nodes);
        }
    }

    /// Makes room for so many nodes with vectors, and with row numbers.
    pub fn reserve_with_vectors(&mut self, nodes: usize) {
        self.reserve(nodes);
        self.rows.reserve_exact(nodes);
        self.numbers.reserve(nodes, |slot| self.rows[slot as usize].node_no);
        self.vectors.reserve(nodes);
    }

    /// Takes a node in, or brings a known one up to date: everything but its vector and its words.
    pub fn put_facts(&mut self, facts: &NodeFacts<'_>) -> Slot {
        let owner_agent = self.strings.number(facts.owner_agent);
        let owner_team = self.strings.number(facts.owner_team);
        let known = self.slot_of(facts.id);
        let mut node = NodeImage {
            id: facts.id,
            vector: None,
            name: None,
            client_id: None,
            node_type: facts.node_type,
            tier: facts.tier,
            lane: facts.lane,
            flags: facts.flags,
            live_rule: facts.live_rule,
            pending: facts.pending,
            ready: facts.ready,
            held: facts.decay.held,
            since: facts.decay.since,
            used_at: facts.decay.used_at,
            feedback: facts.decay.feedback,
            salience: facts.salience,
            confidence: facts.confidence,
        };
        let gate = Gate { owner_agent, owner_team, terms: facts.terms, bits: node.gate_bits() };
        let slot = match known {
            None => self.push_node(node, gate, facts.node_no),
            Some(slot) => {
                self.set_pending(NodeId(facts.id), false);
                self.count_terms(self.gates.terms(slot), false);
                self.count_terms(gate.terms, true);
                self.pending += u64::from(node.pending);
                self.gates.set(slot, gate);
                let held = &mut self.nodes[slot as usize];
                // Its vector stays, and its client id until it is known whether it still has it.
                (node.vector, node.client_id) = (held.vector, held.client_id.take());
                *held = node;
                slot
            }
        };
        self.put_names(slot, facts.name_key, facts.client_id);
        self.put_alias(NodeId(facts.id), facts.alias_of.map(NodeId));
        slot
    }

    /// Takes a stored router over, before any vector is in.
    pub fn adopt_router(&mut self, router: Router, vectors: usize) {
        self.vectors.adopt(router, vectors);
    }
}

//! What decides whether a node may be found.

use aionis_core::{
    model::{Lane, NodeType, Tier},
    ports::store::SeedRules,
    slots::{DRAFT_TOPIC, SUPERSEDED},
};

use super::{Slot, fetch::fetch};

/// The bits of a gate.
pub mod gate {
    /// May be a seed of the text endpoint, owners aside.
    pub const SEED: u8 = 1;
    /// Its kind may be a seed of the vector endpoint.
    pub const REFERENCE: u8 = 2;
    /// Everyone in the scope may see it.
    pub const SHARED: u8 = 4;
}

/// The bits of a node's gate, which storage may hold beside its vector.
pub fn gate_bits(node_type: NodeType, tier: Tier, lane: Lane, flags: u8, live_rule: bool) -> u8 {
    let mut bits = 0;
    if flags & DRAFT_TOPIC == 0 && is_shown(node_type, tier, flags, live_rule) {
        bits |= gate::SEED;
    }
    if matches!(node_type, NodeType::Event | NodeType::Topic | NodeType::Concept | NodeType::Entity | NodeType::Rule) {
        bits |= gate::REFERENCE;
    }
    if lane == Lane::Shared {
        bits |= gate::SHARED;
    }
    bits
}

/// Whether recall may show a node at all, owners aside.
pub(super) fn is_shown(node_type: NodeType, tier: Tier, flags: u8, live_rule: bool) -> bool {
    tier.is_recallable() && flags & SUPERSEDED == 0 && (node_type != NodeType::Rule || live_rule)
}

/// What is asked of a node that was found, before anything else of it is read.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    pub owner_agent: u32,
    pub owner_team: u32,
    /// Length in terms, which lexical scoring needs beside.
    pub terms: u32,
    pub bits: u8,
}

impl Gate {
    /// That of a node nobody is shown.
    pub(super) const CLOSED: Self = Self { owner_agent: 0, owner_team: 0, terms: 0, bits: 0 };
}

/// The gates of all nodes, by slot, always of their present state.
///
/// Each part lies by itself: the bits, which are asked most and for nodes that lie anywhere, fit into the processor's cache
/// for a hundred thousand nodes, and most often tell enough.
#[derive(Default)]
pub(super) struct Gates {
    bits: Vec<u8>,
    terms: Vec<u32>,
    /// Agent and team.
    owners: Vec<[u32; 2]>,
}

impl Gates {
    /// What one takes.
    pub(super) const BYTES: usize = size_of::<u8>() + size_of::<u32>() + size_of::<[u32; 2]>();

    pub(super) fn push(&mut self, gate: Gate) {
        self.bits.push(gate.bits);
        self.terms.push(gate.terms);
        self.owners.push([gate.owner_agent, gate.owner_team]);
    }

    pub(super) fn set(&mut self, slot: Slot, gate: Gate) {
        let at = slot as usize;
        (self.bits[at], self.terms[at], self.owners[at]) = (gate.bits, gate.terms, [gate.owner_agent, gate.owner_team]);
    }

    pub(super) fn set_bits(&mut self, slot: Slot, bits: u8) {
        self.bits[slot as usize] = bits;
    }

    /// Length of a node's text in terms.
    pub(super) fn terms(&self, slot: Slot) -> u32 {
        self.terms[slot as usize]
    }

    /// Asks memory for that length.
    pub(super) fn fetch_terms(&self, slot: Slot) {
        fetch(&self.terms, slot);
    }

    /// Whether it may be a seed of the text endpoint, owners aside.
    pub(super) fn may_be_seed(&self, slot: Slot) -> bool {
        self.bits[slot as usize] & gate::SEED != 0
    }

    pub(super) fn reserve_exact(&mut self, more: usize) {
        self.bits.reserve_exact(more);
        self.terms.reserve_exact(more);
        self.owners.reserve_exact(more);
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.bits.shrink_to_fit();
        self.terms.shrink_to_fit();
        self.owners.shrink_to_fit();
    }
}

/// A filter translated to an image's numbers.
pub(super) struct Filter {
    pub agent: u32,
    pub team: u32,
    pub rules: SeedRules,
}

impl Filter {
    /// Whether who asks may see a node.
    pub(super) fn sees(&self, gates: &Gates, slot: Slot) -> bool {
        let at = slot as usize;
        if gates.bits[at] & gate::SHARED != 0 {
            return true;
        }
        let [agent, team] = gates.owners[at];
        agent == self.agent || team == self.team
    }

    /// Whether a node may be a seed.
    pub(super) fn seeds(&self, gates: &Gates, slot: Slot) -> bool {
        let needed = match self.rules {
            SeedRules::Everything => gate::SEED,
            SeedRules::Reference => gate::SEED | gate::REFERENCE,
        };
        gates.bits[slot as usize] & needed == needed && self.sees(gates, slot)
    }
}

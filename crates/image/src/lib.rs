//! Scope images of Aionis: what recall scans, held in memory per scope and derived from the database.
//!
//! An image is loaded when a scope is first read and kept up to date by deltas. Every delta states its full result, so
//! applying one that the load has already seen changes nothing.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod alias;
mod code;
mod delta;
mod dense;
mod digests;
mod erase;
mod fetch;
mod gates;
mod graph;
mod index;
mod lexical;
mod lists;
mod load;
mod postings;
mod quantised;
mod router;
mod row_places;
mod stored_index;
mod surroundings;

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    lifecycle::DecayBasis,
    model::{Lane, NodeType, Tier, Viewer},
    ports::store::{NodeFilter, SeedRules},
    recall::NodeVitals,
    slots::DRAFT_TOPIC,
};
use hashbrown::HashMap;
use uuid::Uuid;

use self::{
    code::BitCodes,
    digests::{Digest, Digests},
    fetch::fetch,
    gates::{Filter, Gate, Gates, is_shown},
    graph::{Around, EdgeImage},
    index::Index,
    lists::{Place, Vectors},
    postings::Postings,
    row_places::RowPlaces,
};
pub use self::{
    code::Coding,
    delta::{Delta, EdgeDelta, NodeDelta, document},
    dense::{Candidates, Near},
    gates::{gate, gate_bits},
    lexical::scoped_term,
    load::NodeFacts,
    quantised::{Codes, cosine as exact_cosine},
    router::{Router, StoredRouter, Trained},
    stored_index::StoredIndex,
};

/// Position of a node inside an image.
pub(crate) type Slot = u32;

/// Everything recall scans of one scope.
pub struct ScopeImage {
    /// Row number of the scope, where rows have one and the scope is known.
    pub scope_no: Option<i64>,
    /// Number of the newest commit it has seen.
    pub head_seq: u64,
    /// Since when the oldest of the vectors it counts as pending is waited for, where the engine tells.
    pub oldest_pending: Option<Timestamp>,
    nodes: Vec<NodeImage>,
    gates: Gates,
    /// Per node, where rows have numbers; else empty.
    rows: Vec<RowNumbers>,
    /// Per node, where rows have places; else empty.
    row_places: Vec<RowPlaces>,
    holds_row_places: bool,
    slots: Index,
    /// By row number, where rows have one.
    numbers: Index,
    strings: Interner,
    vectors: Vectors,
    /// Codes of bits per coordinate in place of vectors, when the image holds codes of long ones.
    bits: Option<BitCodes>,
    edges: Vec<EdgeImage>,
    edge_slots: Index,
    around: Vec<Around>,
    digests: Digests,
    /// By client id.
    clients: Index,
    /// What nodes are aliases of.
    aliases: HashMap<Slot, Uuid>,
    postings: HashMap<Box<str>, Postings>,
    /// Whether every posting list is in memory.
    postings_complete: bool,
    /// Changes with every delta; a posting list loaded meanwhile is not kept.
    version: u64,
    total_terms: u64,
    documents: u64,
    pending: u64,
    /// Slots whose node was forgotten.
    erased: u64,
}

/// One node, as far as filters and scores need it.
struct NodeImage {
    id: Uuid,
    /// Where its vector is, if it has one.
    vector: Option<Place>,
    /// Its analysed title.
    name: Option<Digest>,
    /// Its client id now; an update by id alone takes it away.
    client_id: Option<Digest>,
    node_type: NodeType,
    tier: Tier,
    lane: Lane,
    flags: u8,
    live_rule: bool,
    pending: bool,
    /// Whether it has a vector that is not held here.
    ready: bool,
    /// Whether it does not fade. Of its [`DecayBasis`], like the next three; side by side they take less room.
    held: bool,
    since: Timestamp,
    used_at: Timestamp,
    feedback: f64,
    salience: f64,
    confidence: f64,
}

/// Row numbers of a node and of its vector.
#[derive(Clone, Copy)]
struct RowNumbers {
    node_no: i64,
    /// Zero without a vector.
    vector_no: i64,
}

impl NodeImage {
    fn gate_bits(&self) -> u8 {
        gate_bits(self.node_type, self.tier, self.lane, self.flags, self.live_rule)
    }

    fn decay(&self) -> DecayBasis {
        DecayBasis { since: self.since, used_at: self.used_at, feedback: self.feedback, held: self.held }
    }

    fn set_decay(&mut self, decay: DecayBasis) {
        (self.since, self.used_at, self.feedback, self.held) = (decay.since, decay.used_at, decay.feedback, decay.held);
    }

    /// Whether recall may show the node at all, owners aside.
    fn is_shown(&self) -> bool {
        is_shown(self.node_type, self.tier, self.flags, self.live_rule)
    }

    fn vitals(&self) -> NodeVitals {
        NodeVitals {
            id: NodeId(self.id),
            node_type: self.node_type,
            salience: self.salience,
            decay: self.decay(),
            confidence: self.confidence,
            ready: self.ready || self.vector.is_some(),
            draft_topic: self.flags & DRAFT_TOPIC != 0,
        }
    }
}

/// The client id of a node, if it has one.
fn client_id_at(nodes: &[NodeImage], slot: Slot) -> Option<Digest> {
    nodes[slot as usize].client_id
}

/// Strings that occur often, as numbers. Zero stands for none.
#[derive(Default)]
struct Interner {
    numbers: HashMap<Box<str>, u32>,
}

impl Interner {
    fn number(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return 0 };
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = u32::try_from(self.numbers.len() + 1).unwrap_or(u32::MAX);
        self.numbers.insert(text.into(), number);
        number
    }

    /// The number of a text if it occurs; `u32::MAX`, which no node has, if not.
    fn known(&self, text: Option<&String>) -> u32 {
        text.and_then(|text| self.numbers.get(text.as_str()).copied()).unwrap_or(u32::MAX)
    }
}

impl ScopeImage {
    /// The image of a scope without nodes, for vectors of a dimension. Beside their codes, vectors are held in full precision while
    /// they take at most so many bytes.
    pub fn empty(dim: usize, exact_bytes_max: usize) -> Self {
        Self {
            scope_no: None,
            head_seq: 0,
            oldest_pending: None,
            nodes: Vec::new(),
            gates: Gates::default(),
            rows: Vec::new(),
            row_places: Vec::new(),
            holds_row_places: false,
            slots: Index::default(),
            numbers: Index::default(),
            strings: Interner::default(),
            vectors: Vectors::new(dim, exact_bytes_max),
            bits: None,
            edges: Vec::new(),
            edge_slots: Index::default(),
            around: Vec::new(),
            digests: Digests::default(),
            clients: Index::default(),
            aliases: HashMap::new(),
            postings: HashMap::new(),
            postings_complete: false,
            version: 0,
            total_terms: 0,
            documents: 0,
            pending: 0,
            erased: 0,
        }
    }

    fn filter(&self, filter: &NodeFilter) -> Filter {
        Filter { rules: filter.rules, ..self.viewer(&filter.viewer) }
    }

    fn viewer(&self, viewer: &Viewer) -> Filter {
        Filter {
            agent: self.strings.known(viewer.agent.as_ref()),
            team: self.strings.known(viewer.team.as_ref()),
            rules: SeedRules::Everything,
        }
    }

    /// Where a node is, if it is known.
    pub fn slot_of(&self, id: Uuid) -> Option<Slot> {
        self.slots.get(id, |slot| self.nodes[slot as usize].id)
    }

    /// Where many nodes are, in their order: each is on its way from memory while others are looked for.
    fn slots_of(&self, ids: &[NodeId]) -> Vec<Option<Slot>> {
        let guesses = ids.iter().map(|id| self.slots.guess(id.0).inspect(|slot| fetch(&self.nodes, *slot)));
        let mut slots: Vec<Option<Slot>> = guesses.collect();
        for (slot, id) in slots.iter_mut().zip(ids) {
            if slot.is_some_and(|slot| self.nodes[slot as usize].id != id.0) {
                *slot = self.slot_of(id.0);
            }
        }
        slots
    }

    fn slot(&self, id: NodeId) -> Option<&NodeImage> {
        self.slot_of(id.0).map(|slot| &self.nodes[slot as usize])
    }

    /// Nodes and how many of them wait for their vector.
    pub fn counts(&self) -> (u64, u64) {
        (self.nodes.len() as u64 - self.erased, self.pending)
    }

    /// Database row number of a node.
    pub fn node_no(&self, id: NodeId) -> Option<i64> {
        self.slot_of(id.0).and_then(|slot| self.rows.get(slot as usize)).map(|rows| rows.node_no)
    }

    /// Vitals of those nodes the viewer may see and recall may show.
    pub fn vitals(&self, ids: &[NodeId], viewer: &Viewer) -> Vec<NodeVitals> {
        let filter = self.viewer(viewer);
        self.slots_of(ids)
            .into_iter()
            .flatten()
            .filter(|slot| !self.is_alias(*slot) && filter.sees(&self.gates, *slot))
            .map(|slot| &self.nodes[slot as usize])
            .filter(|node| node.is_shown())
            .map(NodeImage::vitals)
            .collect()
    }

    /// Nodes whose id or client id is one of `literals`, ordered by id.
    pub fn quoted(&self, filter: &NodeFilter, literals: &[String]) -> Vec<NodeId> {
        let filter = self.filter(filter);
        let mut found: Vec<NodeId> = literals
            .iter()
            .filter_map(|literal| {
                let by_id = Uuid::parse_str(literal).ok().and_then(|id| self.slot_of(id));
                by_id.or_else(|| {
                    self.clients.get(Some(self.digests.of(literal)), |slot| client_id_at(&self.nodes, slot))
                })
            })
            .map(|slot| self.stands_for(slot))
            .filter(|slot| filter.seeds(&self.gates, *slot))
            .map(|slot| NodeId(self.nodes[slot as usize].id))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Gives back what growing took too much, after a load.
    pub fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
        self.gates.shrink_to_fit();
        self.rows.shrink_to_fit();
        self.row_places.shrink_to_fit();
        self.edges.shrink_to_fit();
        self.around.shrink_to_fit();
        self.postings.values_mut().for_each(Postings::shrink);
        if let Some(bits) = &mut self.bits {
            bits.shrink();
        }
    }

    /// Rough memory of the image in bytes.
    pub fn bytes(&self) -> usize {
        let postings: usize = self.postings.values().map(Postings::bytes).sum();
        // An image of an unknown scope weighs something too, so that asking for many of them cannot fill the memory.
        1024 + self.nodes.capacity() * (size_of::<NodeImage>() + Gates::BYTES)
            + self.rows.capacity() * size_of::<RowNumbers>()
            + self.row_places.capacity() * size_of::<RowPlaces>()
            + self.slots.bytes()
            + self.numbers.bytes()
            + self.clients.bytes()
            + self.edges.capacity() * size_of::<EdgeImage>()
            + self.edge_slots.bytes()
            + self.around.capacity() * size_of::<Around>()
            + self.vectors.bytes()
            + self.bits.as_ref().map_or(0, BitCodes::bytes)
            + postings
            + self.aliases.capacity() * 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that everyone may find.
    pub(super) fn facts(n: u128) -> NodeFacts<'static> {
        NodeFacts {
            id: Uuid::from_u128(n),
            node_no: 0,
            node_type: NodeType::Event,
            tier: Tier::Hot,
            lane: Lane::Shared,
            owner_agent: None,
            owner_team: None,
            flags: 0,
            terms: 1,
            live_rule: false,
            pending: false,
            ready: false,
            salience: 0.5,
            decay: DecayBasis { since: Timestamp(0), used_at: Timestamp(0), feedback: 0.0, held: false },
            confidence: 0.5,
            name_key: None,
            client_id: None,
            alias_of: None,
        }
    }

    #[test]
    fn many_nodes_are_found_where_each_is_found_by_itself() {
        let ids: Vec<NodeId> = (0..6_000).map(|n| NodeId(Uuid::from_u128(n))).collect();
        let mut image = ScopeImage::empty(1, 0);
        for n in (0..6_000).step_by(2) {
            image.put_facts(&facts(n));
        }
        let one_by_one: Vec<Option<Slot>> = ids.iter().map(|id| image.slot_of(id.0)).collect();
        assert!(one_by_one.iter().zip(0..).all(|(slot, n)| *slot == (n % 2 == 0).then_some(n / 2)));
        let guessed = ids.iter().map(|id| image.slots.guess(id.0));
        let wrong = guessed.zip(&one_by_one).filter(|(guess, slot)| guess != *slot).count();
        assert!((50..3_000).contains(&wrong), "guesses are wrong now and then: {wrong}");
        assert_eq!(image.slots_of(&ids), one_by_one);
    }
}

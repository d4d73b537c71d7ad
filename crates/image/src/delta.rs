//! What a durable transaction changes about an image. Every delta states its full result.

use aionis_core::{
    clock::Timestamp,
    ids::{EdgeId, NodeId},
    jobs::consolidation::MergeEdge,
    lifecycle::DecayBasis,
    model::{Lane, NodeType, Tier},
    recall::EdgeView,
    text::TermCounts,
    write::{DerivedText, PreparedEdge, PreparedNode},
};

use super::{
    Around, Gate, NodeFacts, NodeImage, RowNumbers, ScopeImage, Slot, client_id_at,
    lists::{Moved, Place},
    row_places::RowPlaces,
};

/// One change.
pub enum Delta {
    /// The scope's chain grew.
    Head { scope: String, scope_no: i64, seq: u64 },
    /// A node has this content.
    Node(Box<NodeDelta>),
    /// A node has these vitals.
    Vitals { scope: String, id: NodeId, tier: Tier, salience: f64, decay: DecayBasis, confidence: f64 },
    /// Nodes were used.
    Used { scope: String, ids: Vec<NodeId>, at: Timestamp },
    /// A rule is enforced or shown, or no longer.
    Rule { scope: String, id: NodeId, live: bool },
    /// A node has this vector.
    Vector { scope: String, id: NodeId, vector_no: i64, vector: Vec<f32> },
    /// An edge has these values.
    Edge(EdgeDelta),
    /// These edges are no more.
    EdgesRemoved { scope: String, ids: Vec<EdgeId> },
    /// A node is an alias of this one, or of none.
    Alias { scope: String, id: NodeId, alias_of: Option<NodeId> },
    /// Work was queued for these nodes.
    Work { scope: String, waiting: Vec<NodeId> },
    /// These nodes wait no more.
    Settled { scope: String, ids: Vec<NodeId> },
    /// These nodes, with their row numbers, are forgotten.
    Erased { scope: String, nodes: Vec<(NodeId, i64)> },
    /// The scope is purged: its image is dropped.
    Purged { scope: String },
}

/// A node's content, as far as an image holds it.
pub struct NodeDelta {
    scope: String,
    scope_no: i64,
    id: NodeId,
    node_no: i64,
    client_id: Option<String>,
    node_type: NodeType,
    tier: Tier,
    lane: Lane,
    owner_agent: Option<String>,
    owner_team: Option<String>,
    salience: f64,
    decay: DecayBasis,
    confidence: f64,
    pending: bool,
    terms: DerivedText,
    /// Terms of the content before, for an update.
    replaced_terms: Option<Vec<String>>,
}

impl NodeDelta {
    /// The content of a prepared node that was stored in a row of the scope's, with its tier, its salience, importance and
    /// confidence as stored, and what is derived from its text.
    pub fn new(
        node: &PreparedNode,
        (scope, scope_no): (&str, i64),
        node_no: i64,
        (tier, [salience, _, confidence], decay): (Tier, [f64; 3], DecayBasis),
        terms: DerivedText,
        replaced_terms: Option<Vec<String>>,
    ) -> Self {
        Self {
            scope: scope.to_owned(),
            scope_no,
            id: node.id,
            node_no,
            client_id: node.client_id.clone(),
            node_type: node.node_type,
            tier,
            lane: node.lane,
            owner_agent: node.owner_agent_id.clone(),
            owner_team: node.owner_team_id.clone(),
            salience,
            decay,
            confidence,
            pending: node.embedding.is_none() && node.wants_embedding,
            terms,
            replaced_terms,
        }
    }
}

impl NodeDelta {
    /// Row number of the node.
    pub const fn node_no(&self) -> i64 {
        self.node_no
    }

    /// Whether the node had other content before.
    pub const fn replaces(&self) -> bool {
        self.replaced_terms.is_some()
    }

    /// The node's text as the inverted index takes it: every term as often as it occurs. None without terms.
    pub fn document(&self) -> Option<String> {
        document(self.scope_no, &self.terms.counts)
    }
}

/// A text as the inverted index takes it: every term as often as it occurs. None without terms.
pub fn document(scope_no: i64, counts: &TermCounts) -> Option<String> {
    let mut document = String::with_capacity(counts.len as usize * 12);
    for (term, count) in &counts.terms {
        let scoped = super::scoped_term(scope_no, term);
        for _ in 0..*count {
            if !document.is_empty() {
                document.push(' ');
            }
            document.push_str(&scoped);
        }
    }
    (!document.is_empty()).then_some(document)
}

/// An edge's values.
pub struct EdgeDelta {
    scope: String,
    edge: EdgeView,
}

impl EdgeDelta {
    /// The values of a prepared edge that a commit stored.
    pub fn new(edge: &PreparedEdge, scope: &str, commit_seq: u64) -> Self {
        let edge = EdgeView {
            id: EdgeId(edge.id.0),
            edge_type: edge.edge_type,
            src: edge.src.id,
            dst: edge.dst.id,
            weight: edge.weight,
            confidence: edge.confidence,
            commit_seq,
        };
        Self { scope: scope.to_owned(), edge }
    }

    /// An edge that a merge moved or put back.
    pub fn of(edge: &MergeEdge, scope: &str) -> Self {
        let edge = EdgeView {
            id: edge.id,
            edge_type: edge.edge_type,
            src: edge.src,
            dst: edge.dst,
            weight: edge.strength.weight,
            confidence: edge.strength.confidence,
            commit_seq: edge.commit_seq,
        };
        Self { scope: scope.to_owned(), edge }
    }
}

impl Delta {
    /// The scope it concerns.
    pub fn scope(&self) -> &str {
        match self {
            Self::Head { scope, .. }
            | Self::Vitals { scope, .. }
            | Self::Used { scope, .. }
            | Self::Rule { scope, .. }
            | Self::Vector { scope, .. }
            | Self::EdgesRemoved { scope, .. }
            | Self::Alias { scope, .. }
            | Self::Work { scope, .. }
            | Self::Settled { scope, .. }
            | Self::Erased { scope, .. }
            | Self::Purged { scope } => scope,
            Self::Node(node) => &node.scope,
            Self::Edge(edge) => &edge.scope,
        }
    }

    /// Whether a worker may have something to do.
    pub const fn is_work(&self) -> bool {
        matches!(self, Self::Work { .. })
    }
}

impl ScopeImage {
    /// Applies a change.
    pub fn apply(&mut self, delta: &Delta) {
        self.version += 1;
        match delta {
            Delta::Head { seq, scope_no, .. } => {
                self.scope_no = Some(*scope_no);
                self.head_seq = self.head_seq.max(*seq);
            }
            Delta::Node(node) => self.put_node(node),
            Delta::Vitals { id, tier, salience, decay, confidence, .. } => {
                if let Some(slot) = self.slot_of(id.0) {
                    let node = &mut self.nodes[slot as usize];
                    (node.tier, node.salience, node.confidence) = (*tier, *salience, *confidence);
                    node.set_decay(*decay);
                    self.gates.set_bits(slot, node.gate_bits());
                }
            }
            Delta::Used { ids, at, .. } => self.used(ids, *at),
            Delta::Rule { id, live, .. } => {
                if let Some(slot) = self.slot_of(id.0) {
                    let node = &mut self.nodes[slot as usize];
                    node.live_rule = *live;
                    self.gates.set_bits(slot, node.gate_bits());
                }
            }
            Delta::Vector { id, vector_no, vector, .. } => self.put_vector(*id, *vector_no, vector),
            Delta::Edge(edge) => self.put_edge(edge.edge),
            Delta::EdgesRemoved { ids, .. } => self.remove_edges(ids),
            Delta::Alias { id, alias_of, .. } => self.put_alias(*id, *alias_of),
            Delta::Work { waiting, .. } => {
                for id in waiting {
                    let without_vector = self.slot(*id).is_some_and(|node| node.vector.is_none());
                    self.set_pending(*id, without_vector);
                }
            }
            Delta::Settled { ids, .. } => ids.iter().for_each(|id| self.set_pending(*id, false)),
            // Its image is dropped as a whole.
            Delta::Purged { .. } => {}
            Delta::Erased { nodes, .. } => self.erase(&nodes.iter().map(|(id, _)| *id).collect::<Vec<_>>()),
        }
    }

    /// Nodes were used at a time.
    pub fn used(&mut self, ids: &[NodeId], at: Timestamp) {
        for id in ids {
            if let Some(slot) = self.slot_of(id.0) {
                let node = &mut self.nodes[slot as usize];
                node.used_at = node.used_at.max(at);
            }
        }
    }

    pub(super) fn set_pending(&mut self, id: NodeId, pending: bool) {
        let Some(slot) = self.slot_of(id.0) else { return };
        let node = &mut self.nodes[slot as usize];
        if node.pending != pending {
            node.pending = pending;
            self.pending = if pending { self.pending + 1 } else { self.pending.saturating_sub(1) };
        }
    }

    /// Makes room for a node and returns its slot. A row number of zero is none.
    pub(super) fn push_node(&mut self, node: NodeImage, gate: Gate, node_no: i64) -> Slot {
        let slot = Slot::try_from(self.nodes.len()).unwrap_or(Slot::MAX);
        self.slots.insert(node.id, slot, |slot| self.nodes[slot as usize].id);
        if node_no != 0 {
            self.rows.push(RowNumbers { node_no, vector_no: 0 });
            self.numbers.insert(node_no, slot, |slot| self.rows[slot as usize].node_no);
        }
        if self.holds_row_places {
            self.row_places.push(RowPlaces::default());
        }
        self.pending += u64::from(node.pending);
        self.count_terms(gate.terms, true);
        self.gates.push(gate);
        self.nodes.push(node);
        self.around.push(Around::default());
        slot
    }

    pub(super) fn count_terms(&mut self, terms: u32, added: bool) {
        if terms == 0 {
            return;
        }
        if added {
            self.documents += 1;
            self.total_terms += u64::from(terms);
        } else {
            self.documents -= 1;
            self.total_terms -= u64::from(terms);
        }
    }

    pub(super) fn put_names(&mut self, slot: Slot, name_key: Option<&str>, client_id: Option<&str>) {
        if let Some(name) = name_key {
            self.nodes[slot as usize].name = Some(self.digests.of(name));
        }
        self.put_client_id(slot, client_id);
    }

    /// Gives a node a client id, or takes it away. Another node that had it has none then.
    pub(super) fn put_client_id(&mut self, slot: Slot, client_id: Option<&str>) {
        let held = self.nodes[slot as usize].client_id;
        let client_id = client_id.map(|client_id| self.digests.of(client_id));
        if held == client_id {
            return;
        }
        if held.is_some() {
            self.clients.remove(held, |slot| client_id_at(&self.nodes, slot));
        }
        if client_id.is_some()
            && let Some(other) = self.clients.get(client_id, |slot| client_id_at(&self.nodes, slot))
        {
            self.clients.remove(client_id, |slot| client_id_at(&self.nodes, slot));
            self.nodes[other as usize].client_id = None;
        }
        self.nodes[slot as usize].client_id = client_id;
        if client_id.is_some() {
            self.clients.insert(client_id, slot, |slot| client_id_at(&self.nodes, slot));
        }
    }

    fn put_node(&mut self, delta: &NodeDelta) {
        let known_alias = self.slot_of(delta.id.0).and_then(|slot| self.aliases.get(&slot).copied());
        // New content: whatever vector there is belongs to the old one.
        if let Some(slot) = self.slot_of(delta.id.0) {
            self.drop_vector(slot);
        }
        let slot = self.put_facts(&NodeFacts {
            id: delta.id.0,
            node_no: delta.node_no,
            node_type: delta.node_type,
            tier: delta.tier,
            lane: delta.lane,
            owner_agent: delta.owner_agent.as_deref(),
            owner_team: delta.owner_team.as_deref(),
            flags: delta.terms.flags,
            terms: delta.terms.counts.len,
            // A rule that is written is a draft.
            live_rule: false,
            pending: delta.pending,
            ready: false,
            salience: delta.salience,
            decay: delta.decay,
            confidence: delta.confidence,
            name_key: delta.terms.name_key.as_deref(),
            client_id: delta.client_id.as_deref(),
            // New content makes no other node of it.
            alias_of: known_alias,
        });
        self.index(slot, delta.replaced_terms.as_deref().unwrap_or_default(), &delta.terms.counts.terms);
    }

    fn drop_vector(&mut self, slot: Slot) {
        let Some(place) = self.nodes[slot as usize].vector.take() else { return };
        let moved = self.vectors.remove(place);
        self.record_move(moved);
    }

    fn record_move(&mut self, moved: Moved) {
        if let Some((owner, place)) = moved {
            self.nodes[owner as usize].vector = Some(place);
        }
    }

    /// Gives a node its vector, which is in a row of this number.
    pub fn put_vector(&mut self, id: NodeId, vector_no: i64, vector: &[f32]) {
        let Some(slot) = self.slot_of(id.0) else { return };
        let (place, moved) = self.vectors.put(self.nodes[slot as usize].vector, vector, slot);
        self.record_move(moved);
        self.has_vector(id, slot, vector_no, place);
    }

    /// Stores the first vector of a node in the list it is known to belong to.
    pub fn put_vector_in(&mut self, list: u16, id: NodeId, vector_no: i64, vector: &[f32]) {
        let Some(slot) = self.slot_of(id.0) else { return };
        let place = self.vectors.put_in(list, vector, slot);
        self.has_vector(id, slot, vector_no, place);
    }

    fn has_vector(&mut self, id: NodeId, slot: Slot, vector_no: i64, place: Place) {
        self.nodes[slot as usize].vector = Some(place);
        if let Some(rows) = self.rows.get_mut(slot as usize) {
            rows.vector_no = vector_no;
        }
        self.set_pending(id, false);
    }
}

//! What both engines do alike when events and topics are read for what is derived from them.

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    jobs::Audience,
    model::{EmbeddingStatus, NodeType, Tier},
    ports::store::{EventQuery, ScanCounts},
    read::Position,
    slots::SUPERSEDED,
};

/// A stored node as a look for events sees it.
pub(crate) struct Scanned {
    pub(crate) id: NodeId,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) node_type: NodeType,
    pub(crate) tier: Tier,
    pub(crate) status: EmbeddingStatus,
    pub(crate) flags: u8,
    /// Whether a note says that another node stands for it.
    pub(crate) noted_alias: bool,
    pub(crate) audience: Audience,
    /// Whether it is in a topic; looked up for events that may be in one.
    pub(crate) in_topic: bool,
}

/// The condition for that, in SQL.
pub(crate) const MAY_BE_IN_A_TOPIC: &str =
    "n.type = 'event' AND n.tier IN ('hot', 'warm') AND n.embedding_status = 'ready'";

/// A look over stored nodes, in their order.
pub(crate) struct Scan {
    query: EventQuery,
    seen: usize,
    pub(crate) counts: ScanCounts,
    pub(crate) found: Vec<NodeId>,
    last: Option<Position>,
}

impl Scan {
    pub(crate) fn new(query: EventQuery) -> Self {
        Self { query, seen: 0, counts: ScanCounts::default(), found: Vec::new(), last: query.after }
    }

    /// Takes the next node; tells whether the page takes more.
    pub(crate) fn take(&mut self, node: Scanned) -> bool {
        self.seen += 1;
        self.last = Some(Position { created_at: node.created_at, id: node.id });
        let (counts, is_alias) = (&mut self.counts, node.noted_alias || node.flags & SUPERSEDED != 0);
        match node.node_type {
            NodeType::Event if node.tier.is_recallable() => match node.status {
                EmbeddingStatus::Ready => {
                    counts.ready_events += 1;
                    if !node.in_topic && !is_alias {
                        counts.unassigned_events += 1;
                        if node.audience.is_nobody() {
                            counts.ownerless_events += 1;
                        } else {
                            self.found.push(node.id);
                        }
                    }
                }
                EmbeddingStatus::Pending => counts.pending_events += 1,
                EmbeddingStatus::Failed => {}
            },
            NodeType::Topic | NodeType::Concept | NodeType::Entity | NodeType::Procedure | NodeType::SelfModel => {
                counts.kinds += 1;
                counts.merged_kinds += u64::from(is_alias && node.updated_at >= self.query.merged_since);
            }
            _ => {}
        }
        self.found.len() < self.query.limit && self.seen < self.query.scan_max
    }

    /// Where the next page begins, given whether nodes are left.
    pub(crate) fn next(&self, more: bool) -> Option<Position> {
        self.last.filter(|_| more)
    }
}

/// Items in the order their keys were asked for.
pub(crate) fn in_order<T>(ids: &[NodeId], mut found: hashbrown::HashMap<NodeId, T>) -> Vec<T> {
    ids.iter().filter_map(|id| found.remove(id)).collect()
}

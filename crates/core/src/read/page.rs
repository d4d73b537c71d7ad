//! Pages: where one ends and the next begins.

use crate::{clock::Timestamp, ids::NodeId};

/// Place of a node in the order of find: newest first, ties by id downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When the node was first written.
    pub created_at: Timestamp,
    /// The node.
    pub id: NodeId,
}

/// Where a page begins. The node at the place may be one the caller does not see: a place is for storage, not for callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The last node looked at.
    pub after: Position,
    /// Nodes that are still to be passed over, of those the filter lets through.
    pub offset: usize,
}

//! Where the rows of nodes and of their vectors were last seen, for engines whose rows have a place that may change.
//!
//! A place is a number the engine makes; zero is none. It is a hint: whoever reads a row there compares its key.

use std::sync::atomic::{AtomicU64, Ordering};

use aionis_core::ids::NodeId;

use super::{ScopeImage, Slot};

/// Places of one node. They are put right while others read the image.
#[derive(Default)]
pub(super) struct RowPlaces {
    node: AtomicU64,
    vector: AtomicU64,
}

impl ScopeImage {
    /// Holds places from now on; before any node is in.
    pub fn hold_row_places(&mut self) {
        self.holds_row_places = true;
    }

    /// The rows of a node were read there.
    pub fn put_places(&mut self, slot: Slot, node: u64, vector: u64) {
        if let Some(places) = self.row_places.get_mut(slot as usize) {
            *places = RowPlaces { node: node.into(), vector: vector.into() };
        }
    }

    /// Where a node's row was seen last; zero if that is not known.
    pub fn node_place(&self, id: NodeId) -> u64 {
        self.places_of(id).map_or(0, |places| places.node.load(Ordering::Relaxed))
    }

    /// A node's row was seen there.
    pub fn node_moved(&self, id: NodeId, place: u64) {
        if let Some(places) = self.places_of(id) {
            places.node.store(place, Ordering::Relaxed);
        }
    }

    /// The row of a node's vector was seen there.
    pub fn vector_moved(&self, id: NodeId, place: u64) {
        if let Some(places) = self.places_of(id) {
            places.vector.store(place, Ordering::Relaxed);
        }
    }

    /// Where the row of a node's vector was seen last; zero if that is not known.
    pub(super) fn vector_place(&self, slot: Slot) -> u64 {
        self.row_places.get(slot as usize).map_or(0, |places| places.vector.load(Ordering::Relaxed))
    }

    fn places_of(&self, id: NodeId) -> Option<&RowPlaces> {
        self.slot_of(id.0).and_then(|slot| self.row_places.get(slot as usize))
    }
}

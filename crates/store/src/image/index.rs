//! Positions by id, without holding the ids a second time.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use uuid::Uuid;

/// Positions in a list whose entries have ids. The list is named at each use.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    /// Position of the entry with this id.
    pub(super) fn get(&self, id: Uuid, id_at: impl Fn(u32) -> Uuid) -> Option<u32> {
        self.table.find(self.hasher.hash_one(id), |at| id_at(*at) == id).copied()
    }

    /// Adds a position whose id is not in yet.
    pub(super) fn insert(&mut self, id: Uuid, at: u32, id_at: impl Fn(u32) -> Uuid) {
        let hasher = &self.hasher;
        self.table.insert_unique(hasher.hash_one(id), at, |at| hasher.hash_one(id_at(*at)));
    }

    /// Takes the position of an id out.
    pub(super) fn remove(&mut self, id: Uuid, id_at: impl Fn(u32) -> Uuid) {
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(id), |at| id_at(*at) == id) {
            entry.remove();
        }
    }

    pub(super) fn reserve(&mut self, more: usize, id_at: impl Fn(u32) -> Uuid) {
        let hasher = &self.hasher;
        self.table.reserve(more, |at| hasher.hash_one(id_at(*at)));
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

//! Positions by a key that the entries of a list have themselves, so that no key is held a second time.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Positions in a list whose entries have keys. How the key of an entry is read is said at each use.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    /// Position of the entry with this key.
    pub(super) fn get<K: Hash + Eq>(&self, key: K, key_at: impl Fn(u32) -> K) -> Option<u32> {
        self.table.find(self.hasher.hash_one(&key), |at| key_at(*at) == key).copied()
    }

    /// Position of an entry that may be the one with this key, as about nine in ten are; none if there is no such entry. No
    /// entry is read for it.
    pub(super) fn guess<K: Hash>(&self, key: K) -> Option<u32> {
        self.table.find(self.hasher.hash_one(&key), |_| true).copied()
    }

    /// Adds a position whose key is not in yet.
    pub(super) fn insert<K: Hash>(&mut self, key: K, at: u32, key_at: impl Fn(u32) -> K) {
        let hasher = &self.hasher;
        self.table.insert_unique(hasher.hash_one(key), at, |at| hasher.hash_one(key_at(*at)));
    }

    /// Takes the position of a key out.
    pub(super) fn remove<K: Hash + Eq>(&mut self, key: K, key_at: impl Fn(u32) -> K) {
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(&key), |at| key_at(*at) == key) {
            entry.remove();
        }
    }

    /// Makes room for so many more.
    pub(super) fn reserve<K: Hash>(&mut self, more: usize, key_at: impl Fn(u32) -> K) {
        let hasher = &self.hasher;
        self.table.reserve(more, |at| hasher.hash_one(key_at(*at)));
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

//! A bounded map whose entries expire: least recently used out first, fixed life time from insertion.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

struct Entry<V> {
    value: V,
    expires: Instant,
    used: u64,
}

/// Not synchronised; every operation takes logarithmic time at most.
pub(super) struct LruTtl<K, V> {
    max_keys: usize,
    ttl: Duration,
    entries: HashMap<K, Entry<V>>,
    /// Keys by the number of their last use, oldest first.
    order: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> LruTtl<K, V> {
    pub(super) fn new(max_keys: usize, ttl: Duration) -> Self {
        Self { max_keys, ttl, entries: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// The value of `key` unless it has expired. Makes it the most recently used without prolonging its life.
    pub(super) fn get(&mut self, key: &K, now: Instant) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.used);
        if entry.expires <= now {
            self.entries.remove(key);
            return None;
        }
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(entry.used, *key);
        Some(entry.value.clone())
    }

    /// Whether `key` has a value that has not expired; it counts as no use.
    pub(super) fn holds(&self, key: &K, now: Instant) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.expires > now)
    }

    /// Stores a value as the most recently used one.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) {
        if let Some(old) = self.entries.remove(&key) {
            self.order.remove(&old.used);
        }
        while self.entries.len() >= self.max_keys {
            match self.order.pop_first() {
                Some((_, oldest)) => self.entries.remove(&oldest),
                None => return,
            };
        }
        self.uses += 1;
        self.order.insert(self.uses, key);
        self.entries.insert(key, Entry { value, expires: now + self.ttl, used: self.uses });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn least_recently_used_leaves_first() {
        let now = Instant::now();
        let mut cache = LruTtl::new(2, SECOND);
        cache.insert(1, "a", now);
        cache.insert(2, "b", now);
        assert_eq!(cache.get(&1, now), Some("a"));
        cache.insert(3, "c", now);
        assert_eq!([1, 2, 3].map(|key| cache.get(&key, now)), [Some("a"), None, Some("c")]);
        cache.insert(3, "d", now);
        assert_eq!((cache.get(&3, now), cache.len(), cache.order.len()), (Some("d"), 2, 2));
    }

    #[test]
    fn use_does_not_prolong_life() {
        let now = Instant::now();
        let mut cache = LruTtl::new(2, 2 * SECOND);
        cache.insert(1, "a", now);
        assert_eq!(cache.get(&1, now + SECOND), Some("a"));
        assert_eq!(cache.get(&1, now + 2 * SECOND), None);
        assert_eq!((cache.len(), cache.order.len()), (0, 0));
    }

    #[test]
    fn cache_without_room_stores_nothing() {
        let mut cache = LruTtl::new(0, SECOND);
        cache.insert(1, "a", Instant::now());
        assert_eq!(cache.len(), 0);
    }
}

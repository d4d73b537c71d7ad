//! Buckets by key, in bounded memory.
//!
//! Only a bucket that is full again is forgotten: it is as good as a new one, so that forgetting never gives anybody
//! tokens. While a newcomer looks for room, a few old buckets are looked at and never all. When there is none, newcomers
//! share one bucket per shard: a flood of addresses limits itself, and who was known before keeps a bucket of their own.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aionis_core::admission::{Bucket, Rate, Taken};
use hashbrown::HashMap;

/// So that requests of different keys seldom wait for each other.
const SHARDS: usize = 16;
/// Buckets looked at for each newcomer; more than one, so that room is made faster than it is needed.
const LOOKED_AT: usize = 4;

pub(super) struct Buckets<K> {
    rate: Rate,
    shard_max: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K>>>,
}

struct Shard<K> {
    buckets: HashMap<K, Bucket>,
    /// All keys, the one looked at longest ago first.
    order: VecDeque<K>,
    /// For newcomers while there is no room.
    shared: Option<Bucket>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// No buckets; at most `keys_max` later, at least one per shard.
    pub(super) fn new(rate: Rate, keys_max: usize) -> Self {
        let shard = || Mutex::new(Shard { buckets: HashMap::new(), order: VecDeque::new(), shared: None });
        Self {
            rate,
            shard_max: (keys_max / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// Takes a token of a key.
    pub(super) fn take(&self, key: &K, now: Duration) -> Taken {
        self.shard(key).bucket(key, self.shard_max, &self.rate, now).take(&self.rate, now)
    }

    /// Gives a token back that was taken and not used.
    pub(super) fn give_back(&self, key: &K, now: Duration) {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        if let Some(bucket) = shard.buckets.get_mut(key).or(shard.shared.as_mut()) {
            bucket.give_back(&self.rate, now);
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder below the number of shards")]
        let at = (self.hasher.hash_one(key) % SHARDS as u64) as usize;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().buckets.len()).sum()
    }
}

impl<K: Eq + Hash + Clone> Shard<K> {
    fn bucket(&mut self, key: &K, max: usize, rate: &Rate, now: Duration) -> &mut Bucket {
        if !self.buckets.contains_key(key) {
            self.make_room(rate, now);
            if self.buckets.len() >= max {
                return self.shared.get_or_insert_with(|| Bucket::full(rate, now));
            }
            self.order.push_back(key.clone());
        }
        self.buckets.entry(key.clone()).or_insert_with(|| Bucket::full(rate, now))
    }

    fn make_room(&mut self, rate: &Rate, now: Duration) {
        for _ in 0..LOOKED_AT.min(self.order.len()) {
            let Some(key) = self.order.pop_front() else { return };
            match self.buckets.get(&key) {
                Some(bucket) if bucket.is_full(rate, now) => _ = self.buckets.remove(&key),
                Some(_) => self.order.push_back(key),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 1.0, burst: 5, wait_max: Duration::ZERO };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn emptied(buckets: &Buckets<u32>, key: u32, now: Duration) {
        while buckets.take(&key, now) == Taken::Now {}
    }

    #[test]
    fn w_28_a_flood_of_keys_neither_fills_memory_nor_refills_a_busy_bucket() {
        let buckets = Buckets::new(RATE, 320);
        emptied(&buckets, 0, at(0));
        let mut let_through = 0;
        for key in 1..100_000 {
            let_through += usize::from(buckets.take(&key, at(0)) == Taken::Now);
            assert!(matches!(buckets.take(&0, at(0)), Taken::Refused(_)), "after {key} others");
        }
        assert!(buckets.len() <= 320, "{}", buckets.len());
        // One each for those with a bucket of their own, and the shared ones.
        assert!(let_through <= 320 + SHARDS * 5, "{let_through}");
    }

    #[test]
    fn who_is_known_keeps_a_bucket_during_a_flood() {
        let buckets = Buckets::new(RATE, 320);
        assert_eq!(buckets.take(&0, at(0)), Taken::Now);
        for key in 1..100_000 {
            buckets.take(&key, at(0));
        }
        for _ in 0..4 {
            assert_eq!(buckets.take(&0, at(0)), Taken::Now);
        }
        assert!(matches!(buckets.take(&0, at(0)), Taken::Refused(_)));
    }

    #[test]
    fn full_buckets_are_forgotten_a_few_at_a_time() {
        let buckets = Buckets::new(RATE, 1_600);
        for key in 0..1_000 {
            buckets.take(&key, at(0));
        }
        assert_eq!(buckets.len(), 1_000);
        // All are full again; every newcomer takes the place of at most four.
        let mut before = buckets.len();
        for key in 1_000..2_000 {
            buckets.take(&key, at(6_000));
            let after = buckets.len();
            assert!(after + LOOKED_AT > before, "{before} {after}");
            before = after;
        }
        assert!((1_000..1_010).contains(&buckets.len()), "the old ones are gone: {}", buckets.len());
        for shard in &buckets.shards {
            let shard = shard.lock().unwrap();
            assert_eq!(shard.order.len(), shard.buckets.len(), "no key is kept twice");
        }
    }

    #[test]
    fn there_is_room_again_after_a_flood() {
        let buckets = Buckets::new(RATE, 160);
        for key in 0..10_000 {
            buckets.take(&key, at(0));
        }
        emptied(&buckets, 20_000, at(10));
        for key in 10_001..12_000 {
            buckets.take(&key, at(60_000));
        }
        let own: usize = (0..5).filter(|_| buckets.take(&1, at(120_000)) == Taken::Now).count();
        assert_eq!(own, 5);
    }

    #[test]
    fn a_token_given_back_is_there() {
        let buckets = Buckets::new(RATE, 160);
        emptied(&buckets, 7, at(0));
        buckets.give_back(&7, at(0));
        assert_eq!(buckets.take(&7, at(0)), Taken::Now);
        assert!(matches!(buckets.take(&7, at(0)), Taken::Refused(_)));
    }
}

//! The state behind [`super::QueryEmbedder`]: which questions wait, which are on their way, and when a batch leaves.
//! Pure bookkeeping: nothing here waits, spawns or calls the provider.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aionis_core::ports::embed::EmbedError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lru::LruTtl;

/// SHA-256 of the text.
pub(super) type Key = [u8; 32];

/// What every waiter of a question gets.
#[derive(Clone)]
pub(super) struct Delivered {
    pub(super) vector: Arc<[f32]>,
    /// When its batch left.
    pub(super) dispatched: Instant,
    /// Texts in that batch.
    pub(super) batch_size: usize,
}

pub(super) type Outcome = Result<Delivered, EmbedError>;

/// When batches leave and how much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_size: usize,
    pub(super) max_wait: Duration,
    pub(super) max_inflight: usize,
    pub(super) max_queue: usize,
}

/// One question with everyone who wants it.
struct Flight {
    id: u64,
    /// The text while it waits; taken when its batch leaves.
    text: Option<String>,
    enqueued: Instant,
    waiters: Vec<(u64, oneshot::Sender<Outcome>)>,
}

/// A place among the waiters of a question.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    key: Key,
    flight: u64,
    waiter: u64,
}

/// Texts that leave together.
pub(super) struct Batch {
    pub(super) keys: Vec<Key>,
    pub(super) texts: Vec<String>,
    pub(super) dispatched: Instant,
}

/// What must be started after a change of the state.
#[derive(Default)]
pub(super) struct Work {
    pub(super) batches: Vec<Batch>,
    /// When to look again.
    pub(super) timer: Option<Instant>,
}

/// How a question was received.
pub(super) enum Entry {
    Hit(Arc<[f32]>),
    Wait { receiver: oneshot::Receiver<Outcome>, ticket: Ticket, joined: bool },
    Full { queued: usize, inflight: usize },
}

pub(super) struct State {
    limits: Limits,
    cache: Option<LruTtl<Key, Arc<[f32]>>>,
    flights: HashMap<Key, Flight>,
    /// Waiting flights in order of arrival, with leftovers of given-up ones, which `id` tells apart.
    queue: VecDeque<(Key, u64)>,
    queued: usize,
    inflight: usize,
    timer_armed: bool,
    ids: u64,
}

impl State {
    pub(super) fn new(limits: Limits, cache: Option<LruTtl<Key, Arc<[f32]>>>) -> Self {
        Self {
            limits,
            cache,
            flights: HashMap::new(),
            queue: VecDeque::new(),
            queued: 0,
            inflight: 0,
            timer_armed: false,
            ids: 0,
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn inflight(&self) -> usize {
        self.inflight
    }

    pub(super) fn cached(&self) -> usize {
        self.cache.as_ref().map_or(0, LruTtl::len)
    }

    /// Whether a question would be answered from the cache or join one on its way.
    pub(super) fn knows(&self, key: &Key, now: Instant) -> bool {
        self.flights.contains_key(key) || self.cache.as_ref().is_some_and(|cache| cache.holds(key, now))
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Answers from the cache, joins a question on its way, or queues a new one unless the queue is full.
    pub(super) fn enter(&mut self, key: Key, text: &str, now: Instant) -> Entry {
        if let Some(vector) = self.cache.as_mut().and_then(|cache| cache.get(&key, now)) {
            return Entry::Hit(vector);
        }
        let joined = self.flights.contains_key(&key);
        if !joined && self.queued >= self.limits.max_queue {
            return Entry::Full { queued: self.queued, inflight: self.inflight };
        }
        self.ids += 1;
        let waiter = self.ids;
        let (sender, receiver) = oneshot::channel();
        let flight = self.flights.entry(key).or_insert_with(|| {
            self.queue.push_back((key, waiter));
            self.queued += 1;
            Flight { id: waiter, text: Some(text.to_owned()), enqueued: now, waiters: Vec::new() }
        });
        flight.waiters.push((waiter, sender));
        Entry::Wait { receiver, ticket: Ticket { key, flight: flight.id, waiter }, joined }
    }

    /// Takes a waiter away if its question still waits; whether it did. A question nobody wants leaves the queue.
    pub(super) fn give_up(&mut self, ticket: &Ticket) -> bool {
        let Some(flight) = self.flights.get_mut(&ticket.key) else { return false };
        if flight.id != ticket.flight || flight.text.is_none() {
            return false;
        }
        flight.waiters.retain(|(waiter, _)| *waiter != ticket.waiter);
        if flight.waiters.is_empty() {
            self.flights.remove(&ticket.key);
            self.queued -= 1;
            // Leftovers are removed in bulk, so that giving up costs constant time on average.
            if self.queue.len() > 2 * self.queued + 64 {
                let flights = &self.flights;
                self.queue.retain(|(key, id)| flights.get(key).is_some_and(|flight| flight.id == *id));
            }
        }
        true
    }

    /// The batches that leave now: full ones at once, others when their oldest text has waited long enough, never more
    /// than may be in flight. Asks for a timer when texts wait for time to pass; texts that wait for a free place are
    /// looked at again by [`State::batch_done`].
    pub(super) fn pump(&mut self, now: Instant) -> Work {
        let mut work = Work::default();
        while self.inflight < self.limits.max_inflight {
            let Some(due) = self.oldest().map(|enqueued| enqueued + self.limits.max_wait) else { break };
            if self.queued < self.limits.max_size && due > now {
                if !self.timer_armed {
                    self.timer_armed = true;
                    work.timer = Some(due);
                }
                break;
            }
            work.batches.push(self.take_batch(now));
        }
        work
    }

    /// The timer has rung.
    pub(super) fn timer_rang(&mut self, now: Instant) -> Work {
        self.timer_armed = false;
        self.pump(now)
    }

    /// A batch has come back.
    pub(super) fn batch_done(&mut self, now: Instant) -> Work {
        self.inflight -= 1;
        self.pump(now)
    }

    /// Caches a vector and hands out those who wait for it.
    pub(super) fn settle(&mut self, key: &Key, outcome: &Outcome, now: Instant) -> Vec<oneshot::Sender<Outcome>> {
        if let (Some(cache), Ok(delivered)) = (self.cache.as_mut(), outcome) {
            cache.insert(*key, Arc::clone(&delivered.vector), now);
        }
        let waiters = self.flights.remove(key).map(|flight| flight.waiters).unwrap_or_default();
        waiters.into_iter().map(|(_, sender)| sender).collect()
    }

    /// When the longest waiting question arrived; drops leftovers before it.
    fn oldest(&mut self) -> Option<Instant> {
        while let Some((key, id)) = self.queue.front() {
            match self.flights.get(key) {
                Some(flight) if flight.id == *id => return Some(flight.enqueued),
                _ => self.queue.pop_front(),
            };
        }
        None
    }

    fn take_batch(&mut self, now: Instant) -> Batch {
        let mut batch = Batch { keys: Vec::new(), texts: Vec::new(), dispatched: now };
        while batch.texts.len() < self.limits.max_size {
            let Some((key, id)) = self.queue.pop_front() else { break };
            let flight = self.flights.get_mut(&key).filter(|flight| flight.id == id);
            if let Some(text) = flight.and_then(|flight| flight.text.take()) {
                batch.keys.push(key);
                batch.texts.push(text);
            }
        }
        self.queued -= batch.texts.len();
        self.inflight += 1;
        batch
    }
}

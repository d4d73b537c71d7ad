//! Embedding of questions: cache, single flight and small batches in front of a provider.
//!
//! * A question asked before is answered from an LRU cache; a hit does not prolong the life of its entry.
//! * Equal questions at the same time share one place in one call.
//! * Different questions at the same time share a call: a batch leaves at once when it is full, else a short time
//!   after its first text came, as long as few enough are in flight.
//! * The queue is bounded in length and in time. A timer ends the waiting of each question that has not left in time.
//! * A text the provider rejects does not fail the others of its batch: they are sent again one by one.
//!
//! A local provider answers faster than any of this; its calls go straight through.

mod lru;
mod port;
mod queue;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, EmbedPurpose, Embedder};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use lru::LruTtl;
use queue::{Batch, Delivered, Entry, Key, Limits, Outcome, State, Ticket, Work};

/// Shortest life of a cached vector.
const MIN_TTL: Duration = Duration::from_secs(1);

/// The cache of question vectors.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// Vectors kept at most.
    pub max_keys: usize,
    /// Life of an entry from its insertion, at least one second.
    pub ttl: Duration,
}

/// Sharing of calls by different questions.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// Texts per call, at most what the provider takes.
    pub max_size: usize,
    /// How long the first text of a batch waits for others.
    pub max_wait: Duration,
    /// Calls at once.
    pub max_inflight: usize,
    /// Different questions that may wait.
    pub max_queue: usize,
    /// How long a question may wait for its call to start.
    pub queue_timeout: Duration,
}

/// Settings of [`QueryEmbedder`]; `None` switches a part off.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuerySettings {
    /// The cache.
    pub cache: Option<CacheSettings>,
    /// Batches; without, every question that is not a duplicate is a call of its own.
    pub batch: Option<BatchSettings>,
}

/// The vector of a question and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryVector {
    /// The vector.
    pub vector: Arc<[f32]>,
    /// It came from the cache.
    pub cache_hit: bool,
    /// It came from a call that an equal question had asked for.
    pub singleflight_join: bool,
    /// Milliseconds this question waited before the call started, without the call itself.
    pub queue_wait_ms: f64,
    /// Texts in the call; 0 for a cache hit.
    pub batch_size: usize,
}

/// A question without a vector.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryEmbedError {
    /// Too many questions wait.
    #[error("too many questions wait for embedding ({queued} of {max_queue})")]
    QueueFull {
        /// Questions waiting.
        queued: usize,
        /// Questions that may wait.
        max_queue: usize,
        /// Calls running.
        inflight_batches: usize,
        /// Calls that may run.
        max_inflight_batches: usize,
    },
    /// The call for this question did not start in time.
    #[error("the question waited {wait_ms} ms for embedding, {queue_timeout_ms} ms are allowed")]
    QueueTimeout {
        /// Milliseconds this question waited.
        wait_ms: u64,
        /// Milliseconds it may wait.
        queue_timeout_ms: u64,
        /// Questions still waiting.
        queued: usize,
        /// Calls running.
        inflight_batches: usize,
    },
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] EmbedError),
}

/// The queue at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherStats {
    /// Questions waiting.
    pub queued: usize,
    /// Calls running.
    pub inflight_batches: usize,
    /// Questions that may wait.
    pub max_queue: usize,
    /// Calls that may run.
    pub max_inflight_batches: usize,
}

struct Shared {
    embedder: Arc<dyn Embedder>,
    limits: Limits,
    state: Mutex<State>,
}

/// Embeds questions; cheap to clone. See the [module](self).
#[derive(Clone)]
pub struct QueryEmbedder {
    shared: Arc<Shared>,
    queue_timeout: Option<Duration>,
    batched: bool,
}

impl QueryEmbedder {
    /// Puts cache and queue in front of `embedder`, unless it is local. Zero sizes of batches count as one.
    pub fn new(embedder: Arc<dyn Embedder>, settings: QuerySettings) -> Self {
        let batch = settings.batch.filter(|_| !embedder.is_local());
        let limits = batch.map_or(
            Limits { max_size: 1, max_wait: Duration::ZERO, max_inflight: usize::MAX, max_queue: usize::MAX },
            |batch| Limits {
                max_size: batch.max_size.min(embedder.batch_size()).max(1),
                max_wait: batch.max_wait,
                max_inflight: batch.max_inflight.max(1),
                max_queue: batch.max_queue.max(1),
            },
        );
        let cache = settings.cache.map(|cache| LruTtl::new(cache.max_keys, cache.ttl.max(MIN_TTL)));
        let state = Mutex::new(State::new(limits, cache));
        Self {
            shared: Arc::new(Shared { embedder, limits, state }),
            queue_timeout: batch.map(|batch| batch.queue_timeout),
            batched: batch.is_some(),
        }
    }

    /// The provider behind it.
    pub fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.shared.embedder
    }

    /// The queue now; `None` when questions are not batched.
    pub fn stats(&self) -> Option<BatcherStats> {
        let state = self.shared.lock();
        self.batched.then(|| BatcherStats {
            queued: state.queued(),
            inflight_batches: state.inflight(),
            max_queue: self.shared.limits.max_queue,
            max_inflight_batches: self.shared.limits.max_inflight,
        })
    }

    /// Number of cached vectors, expired ones included until they are touched.
    pub fn cached(&self) -> usize {
        self.shared.lock().cached()
    }

    /// Whether the vector of a question is cached, or a call for it is on its way.
    pub fn knows(&self, text: &str) -> bool {
        let key: Key = Sha256::digest(text.as_bytes()).into();
        !self.shared.embedder.is_local() && self.shared.lock().knows(&key, Instant::now())
    }

    /// The vector of one question. Must run inside a tokio runtime. Dropping the future takes the question out of the
    /// queue; a call that has started runs on and fills the cache.
    ///
    /// # Errors
    /// [`QueryEmbedError`]; failures are not cached.
    pub async fn embed(&self, text: &str) -> Result<QueryVector, QueryEmbedError> {
        if self.shared.embedder.is_local() {
            count("bypass");
            return self.embed_directly(text).await;
        }
        let key: Key = Sha256::digest(text.as_bytes()).into();
        let start = Instant::now();
        let (entry, work) = {
            let mut state = self.shared.lock();
            let entry = state.enter(key, text, start);
            (entry, state.pump(start))
        };
        self.shared.start(work);
        match entry {
            Entry::Hit(vector) => {
                count("hit");
                Ok(QueryVector { vector, cache_hit: true, singleflight_join: false, queue_wait_ms: 0.0, batch_size: 0 })
            }
            Entry::Full { queued, inflight } => Err(QueryEmbedError::QueueFull {
                queued,
                max_queue: self.shared.limits.max_queue,
                inflight_batches: inflight,
                max_inflight_batches: self.shared.limits.max_inflight,
            }),
            Entry::Wait { receiver, ticket, joined } => {
                count(if joined { "join" } else { "miss" });
                let delivered = self.wait(receiver, ticket, start).await?;
                Ok(QueryVector {
                    vector: delivered.vector,
                    cache_hit: false,
                    singleflight_join: joined,
                    queue_wait_ms: delivered.dispatched.saturating_duration_since(start).as_secs_f64() * 1_000.0,
                    batch_size: delivered.batch_size,
                })
            }
        }
    }

    async fn embed_directly(&self, text: &str) -> Result<QueryVector, QueryEmbedError> {
        let vectors = self.shared.embedder.embed(&[text.to_owned()], EmbedPurpose::Query).await?;
        let vector = vectors.into_iter().next().ok_or_else(wrong_count)?;
        Ok(QueryVector {
            vector: vector.into(),
            cache_hit: false,
            singleflight_join: false,
            queue_wait_ms: 0.0,
            batch_size: 1,
        })
    }

    /// Waits for the outcome; only the time before the call starts is limited, the call has limits of its own.
    async fn wait(
        &self,
        mut receiver: oneshot::Receiver<Outcome>,
        ticket: Ticket,
        start: Instant,
    ) -> Result<Delivered, QueryEmbedError> {
        let place = Place { shared: &self.shared, ticket };
        let received = match self.queue_timeout {
            None => receiver.await,
            Some(limit) => match tokio::time::timeout(limit, &mut receiver).await {
                Ok(received) => received,
                Err(_elapsed) => match place.give_up() {
                    Some((queued, inflight_batches)) => {
                        return Err(QueryEmbedError::QueueTimeout {
                            wait_ms: whole_millis(start.elapsed()),
                            queue_timeout_ms: whole_millis(limit),
                            queued,
                            inflight_batches,
                        });
                    }
                    None => receiver.await,
                },
            },
        };
        let stopped = |_| EmbedError::new(EmbedErrorKind::Unavailable, "embedding of the question was stopped");
        Ok(received.map_err(stopped)??)
    }
}

/// Where the vector of a question came from.
fn count(outcome: &'static str) {
    metrics::counter!("aionis_query_cache_total", "outcome" => outcome).increment(1);
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wrong_count() -> EmbedError {
    EmbedError::new(EmbedErrorKind::BadResponse, "the provider returned another number of vectors than texts")
}

/// A waiter's place; dropping it (when the asking request is cancelled) leaves the queue.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Place<'_> {
    /// Leaves the queue if the question still waits; then gives the queue length and the calls running.
    fn give_up(&self) -> Option<(usize, usize)> {
        let mut state = self.shared.lock();
        state.give_up(&self.ticket).then(|| (state.queued(), state.inflight()))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Shared {
    /// The state; never held across an await. A panic while it is held leaves it usable: every step is complete or
    /// only loses waiters, who are told by their closed channel.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what a change of the state asks for.
    fn start(self: &Arc<Self>, work: Work) {
        for batch in work.batches {
            tokio::spawn(Arc::clone(self).run(batch));
        }
        if let Some(due) = work.timer {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                let work = shared.lock().timer_rang(Instant::now());
                shared.start(work);
            });
        }
    }

    /// Sends a batch and hands its vectors out.
    async fn run(self: Arc<Self>, batch: Batch) {
        let Batch { keys, texts, dispatched } = batch;
        let batch_size = texts.len();
        let texts: Arc<[String]> = texts.into();
        match self.call(Arc::clone(&texts)).await {
            Ok(vectors) => {
                for (key, vector) in keys.iter().zip(vectors) {
                    self.settle(key, &Ok(Delivered { vector: vector.into(), dispatched, batch_size }));
                }
            }
            Err(error) if error.kind == EmbedErrorKind::Rejected && batch_size > 1 => {
                self.run_singly(&keys, &texts, dispatched).await;
            }
            Err(error) => keys.iter().for_each(|key| self.settle(key, &Err(error.clone()))),
        }
        let work = self.lock().batch_done(Instant::now());
        self.start(work);
    }

    /// Sends the texts of a rejected batch one by one, at the same time; they still count as one call in flight.
    async fn run_singly(self: &Arc<Self>, keys: &[Key], texts: &[String], dispatched: Instant) {
        let mut calls = JoinSet::new();
        for (key, text) in keys.iter().copied().zip(texts.iter().cloned()) {
            let shared = Arc::clone(self);
            calls.spawn(async move {
                let outcome = shared.call(Arc::from([text])).await.and_then(|vectors| {
                    let vector = vectors.into_iter().next().ok_or_else(wrong_count)?;
                    Ok(Delivered { vector: vector.into(), dispatched, batch_size: 1 })
                });
                shared.settle(&key, &outcome);
            });
        }
        while calls.join_next().await.is_some() {}
    }

    /// One call of the provider. It runs in a task of its own, so that even a panic there is an error here.
    async fn call(&self, texts: Arc<[String]>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (embedder, count) = (Arc::clone(&self.embedder), texts.len());
        let task = tokio::spawn(async move { embedder.embed(&texts, EmbedPurpose::Query).await });
        let vectors = task.await.map_err(|error| {
            EmbedError::new(EmbedErrorKind::Unavailable, format!("the embedding task ended early: {error}"))
        })??;
        if vectors.len() == count { Ok(vectors) } else { Err(wrong_count()) }
    }

    fn settle(&self, key: &Key, outcome: &Outcome) {
        let waiters = self.lock().settle(key, outcome, Instant::now());
        for waiter in waiters {
            if waiter.send(outcome.clone()).is_err() {
                tracing::trace!("a question was given up during its embedding");
            }
        }
    }
}

//! Behaviour of the question queue under a paused clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A remote provider whose calls take as long and fail as the test says. The vector of a text is `[its length, 0]`.
struct Scripted {
    local: bool,
    /// Calls wait for a permit of `gate` when this is set.
    gated: bool,
    gate: Notify,
    calls: Mutex<Vec<Vec<String>>>,
    failures: Mutex<VecDeque<EmbedErrorKind>>,
    finished: AtomicUsize,
}

impl Scripted {
    fn new(gated: bool) -> Arc<Self> {
        Arc::new(Self {
            local: false,
            gated,
            gate: Notify::new(),
            calls: Mutex::default(),
            failures: Mutex::default(),
            finished: AtomicUsize::new(0),
        })
    }

    fn sizes(&self) -> Vec<usize> {
        self.calls.lock().unwrap().iter().map(Vec::len).collect()
    }

    fn fail_next(&self, kind: EmbedErrorKind) {
        self.failures.lock().unwrap().push_back(kind);
    }
}

#[async_trait]
impl Embedder for Scripted {
    fn name(&self) -> &str {
        "test:scripted"
    }
    fn dim(&self) -> usize {
        2
    }
    fn batch_size(&self) -> usize {
        16
    }
    fn is_local(&self) -> bool {
        self.local
    }
    async fn embed(&self, texts: &[String], purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError> {
        assert_eq!(purpose, EmbedPurpose::Query);
        self.calls.lock().unwrap().push(texts.to_vec());
        if self.gated {
            self.gate.notified().await;
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        assert!(!texts.iter().any(|text| text == "panic"), "as the test wishes");
        if let Some(kind) = self.failures.lock().unwrap().pop_front() {
            return Err(EmbedError::new(kind, "scripted"));
        }
        if texts.iter().any(|text| text == "bad") {
            return Err(EmbedError::new(EmbedErrorKind::Rejected, "bad text"));
        }
        if texts.iter().any(|text| text == "short") {
            return Ok(Vec::new());
        }
        Ok(texts.iter().map(|text| vec![text.len() as f32, 0.0]).collect())
    }
}

fn batch(max_size: usize, max_inflight: usize, max_queue: usize) -> Option<BatchSettings> {
    Some(BatchSettings { max_size, max_wait: 8 * MS, max_inflight, max_queue, queue_timeout: 100 * MS })
}

fn embedder(scripted: &Arc<Scripted>, cache: bool, batch: Option<BatchSettings>) -> QueryEmbedder {
    let cache = cache.then_some(CacheSettings { max_keys: 2, ttl: Duration::from_secs(60) });
    QueryEmbedder::new(Arc::clone(scripted) as Arc<dyn Embedder>, QuerySettings { cache, batch })
}

type Asked = JoinHandle<Result<QueryVector, QueryEmbedError>>;

fn ask(embedder: &QueryEmbedder, text: &str) -> Asked {
    let (embedder, text) = (embedder.clone(), text.to_owned());
    tokio::spawn(async move { embedder.embed(&text).await })
}

/// Asks all `texts`, in order, before any time passes.
async fn ask_all(embedder: &QueryEmbedder, texts: &[&str]) -> Vec<Asked> {
    let asked = texts.iter().map(|text| ask(embedder, text)).collect();
    settle().await;
    asked
}

/// Lets every task run that can run without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn cache_answers_until_the_entry_expires() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, true, None);
    let first = embedder.embed("abc").await.unwrap();
    assert_eq!((&*first.vector, first.cache_hit, first.batch_size), (&[3.0, 0.0][..], false, 1));
    tokio::time::advance(Duration::from_secs(59)).await;
    let second = embedder.embed("abc").await.unwrap();
    assert_eq!((&second.vector, second.cache_hit, second.batch_size), (&first.vector, true, 0));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!embedder.embed("abc").await.unwrap().cache_hit);
    for text in ["a", "b", "c"] {
        embedder.embed(text).await.unwrap();
    }
    assert_eq!(embedder.cached(), 2);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_share_one_call_even_without_cache_and_batches() {
    let scripted = Scripted::new(true);
    let embedder = embedder(&scripted, false, None);
    let asked = ask_all(&embedder, &["same", "same", "other", "same"]).await;
    assert_eq!(scripted.sizes(), [1, 1]);
    scripted.gate.notify_waiters();
    let mut joins = Vec::new();
    for handle in asked {
        joins.push(handle.await.unwrap().unwrap().singleflight_join);
    }
    assert_eq!(joins, [false, true, false, true]);
    assert_eq!(embedder.stats(), None);
}

#[tokio::test(start_paused = true)]
async fn full_batch_leaves_at_once_and_the_rest_after_the_wait() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, false, batch(2, 4, 100));
    let start = Instant::now();
    let asked = ask_all(&embedder, &["a", "bb", "ccc"]).await;
    assert_eq!((scripted.sizes(), start.elapsed()), (vec![2], Duration::ZERO));
    let mut seen = Vec::new();
    for handle in asked {
        let vector = handle.await.unwrap().unwrap();
        seen.push((vector.vector[0], vector.batch_size, vector.queue_wait_ms.round() as i64));
    }
    assert_eq!(seen, [(1.0, 2, 0), (2.0, 2, 0), (3.0, 1, 8)]);
    assert_eq!(scripted.sizes(), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn batch_waits_from_its_first_text() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, false, batch(10, 4, 100));
    let first = ask(&embedder, "a");
    settle().await;
    tokio::time::sleep(5 * MS).await;
    let second = embedder.embed("b").await.unwrap();
    assert_eq!((second.batch_size, second.queue_wait_ms.round() as i64), (2, 3));
    assert_eq!(first.await.unwrap().unwrap().queue_wait_ms.round() as i64, 8);
    // A later batch has a window of its own.
    assert_eq!(embedder.embed("c").await.unwrap().queue_wait_ms.round() as i64, 8);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_limited_and_waiting_texts_leave_together() {
    let scripted = Scripted::new(true);
    let embedder = embedder(&scripted, false, batch(3, 1, 100));
    let asked = ask_all(&embedder, &["1", "2", "3", "4", "5"]).await;
    tokio::time::sleep(50 * MS).await;
    let stats = BatcherStats { queued: 2, inflight_batches: 1, max_queue: 100, max_inflight_batches: 1 };
    assert_eq!((scripted.sizes(), embedder.stats()), (vec![3], Some(stats)));
    scripted.gate.notify_one();
    settle().await;
    assert_eq!(scripted.sizes(), [3, 2]);
    scripted.gate.notify_one();
    for handle in asked {
        handle.await.unwrap().unwrap();
    }
    assert_eq!(embedder.stats().map(|stats| (stats.queued, stats.inflight_batches)), Some((0, 0)));
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_new_questions_but_not_equal_ones() {
    let scripted = Scripted::new(true);
    let embedder = embedder(&scripted, false, batch(1, 1, 2));
    let mut asked = ask_all(&embedder, &["1", "2", "3"]).await;
    let refused = embedder.embed("4").await.unwrap_err();
    assert!(
        matches!(
            refused,
            QueryEmbedError::QueueFull { queued: 2, max_queue: 2, inflight_batches: 1, max_inflight_batches: 1 }
        ),
        "{refused:?}"
    );
    asked.extend(ask_all(&embedder, &["3", "1"]).await);
    for _ in 0..3 {
        scripted.gate.notify_one();
        settle().await;
    }
    for handle in asked {
        handle.await.unwrap().unwrap();
    }
    assert_eq!(scripted.sizes(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn timer_ends_waiting_but_never_a_call_that_has_started() {
    let scripted = Scripted::new(true);
    let embedder = embedder(&scripted, false, batch(1, 1, 10));
    let started = ask(&embedder, "started");
    settle().await;
    let start = Instant::now();
    let error = embedder.embed("waiting").await.unwrap_err();
    let QueryEmbedError::QueueTimeout { wait_ms, queue_timeout_ms, queued, inflight_batches } = error else {
        panic!("{error:?}");
    };
    assert_eq!((wait_ms, queue_timeout_ms, queued, inflight_batches), (100, 100, 0, 1));
    assert_eq!(start.elapsed(), 100 * MS);
    tokio::time::sleep(500 * MS).await;
    scripted.gate.notify_one();
    assert_eq!(started.await.unwrap().unwrap().batch_size, 1);
    settle().await;
    assert_eq!(scripted.sizes(), [1], "a question given up must not be sent");
}

#[tokio::test(start_paused = true)]
async fn cancelled_question_leaves_the_queue_unless_another_wants_it() {
    let scripted = Scripted::new(true);
    let embedder = embedder(&scripted, true, batch(1, 1, 10));
    let asked = ask_all(&embedder, &["first", "gone", "kept", "kept"]).await;
    asked[1].abort();
    asked[2].abort();
    settle().await;
    assert_eq!(embedder.stats().map(|stats| stats.queued), Some(1));
    // A call that has started goes on without its asker and fills the cache.
    asked[0].abort();
    settle().await;
    scripted.gate.notify_one();
    settle().await;
    scripted.gate.notify_one();
    settle().await;
    assert_eq!(*scripted.calls.lock().unwrap(), [["first"], ["kept"]]);
    assert!(embedder.embed("first").await.unwrap().cache_hit);
}

#[tokio::test(start_paused = true)]
async fn rejected_text_fails_alone() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, true, batch(3, 4, 100));
    let mut asked = ask_all(&embedder, &["good", "bad", "fine"]).await.into_iter();
    let mut next = async || asked.next().unwrap().await.unwrap();
    let good = next().await.unwrap();
    assert_eq!((good.vector[0], good.batch_size), (4.0, 1));
    let bad = next().await.unwrap_err();
    assert!(matches!(bad, QueryEmbedError::Provider(error) if error.kind == EmbedErrorKind::Rejected));
    assert_eq!(next().await.unwrap().vector[0], 4.0);
    assert_eq!(scripted.sizes(), [3, 1, 1, 1]);
    settle().await;
    assert_eq!(embedder.stats().map(|stats| stats.inflight_batches), Some(0));
}

#[tokio::test(start_paused = true)]
async fn other_failures_reach_everyone_and_are_not_cached() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, true, batch(2, 4, 100));
    scripted.fail_next(EmbedErrorKind::RateLimited);
    for handle in ask_all(&embedder, &["a", "b", "a"]).await {
        let error = handle.await.unwrap().unwrap_err();
        assert!(matches!(error, QueryEmbedError::Provider(error) if error.kind == EmbedErrorKind::RateLimited));
    }
    assert!(!embedder.embed("a").await.unwrap().cache_hit);
    assert_eq!(scripted.sizes(), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn panic_and_wrong_count_of_the_provider_are_errors_and_free_the_place() {
    let scripted = Scripted::new(false);
    let embedder = embedder(&scripted, false, batch(1, 1, 100));
    for (text, kind) in [("panic", EmbedErrorKind::Unavailable), ("short", EmbedErrorKind::BadResponse)] {
        let error = embedder.embed(text).await.unwrap_err();
        assert!(matches!(error, QueryEmbedError::Provider(error) if error.kind == kind));
    }
    assert_eq!(embedder.embed("fine").await.unwrap().vector[0], 4.0);
}

#[tokio::test(start_paused = true)]
async fn zero_wait_sends_at_once() {
    let scripted = Scripted::new(false);
    let settings = BatchSettings { max_wait: Duration::ZERO, ..batch(8, 2, 10).unwrap() };
    let embedder = embedder(&scripted, false, Some(settings));
    let start = Instant::now();
    assert_eq!(embedder.embed("a").await.unwrap().queue_wait_ms, 0.0);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn local_provider_is_called_directly() {
    let mut scripted = Scripted::new(false);
    Arc::get_mut(&mut scripted).unwrap().local = true;
    let embedder = embedder(&scripted, true, batch(8, 2, 10));
    for _ in 0..2 {
        let vector = embedder.embed("abc").await.unwrap();
        assert_eq!((vector.vector[0], vector.cache_hit, vector.queue_wait_ms), (3.0, false, 0.0));
    }
    assert_eq!((scripted.sizes(), embedder.stats(), embedder.cached()), (vec![1, 1], None, 0));
    scripted.fail_next(EmbedErrorKind::Unavailable);
    assert!(embedder.embed("abc").await.is_err());
}

/// Many questions that are given up while one keeps the front of the queue must not pile up.
#[tokio::test(start_paused = true)]
async fn given_up_questions_do_not_pile_up() {
    let limits = Limits { max_size: 1, max_wait: Duration::ZERO, max_inflight: 0, max_queue: 10_000 };
    let mut state = State::new(limits, None);
    let now = Instant::now();
    state.enter([255; 32], "front", now);
    for round in 0..5_000_u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&round.to_le_bytes());
        let Entry::Wait { ticket, .. } = state.enter(key, "x", now) else { panic!("not queued") };
        assert!(state.give_up(&ticket));
        assert!(state.queue_len() <= 67);
    }
    assert_eq!(state.queued(), 1);
}

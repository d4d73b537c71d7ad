//! What is stored in the background: entries leave through a bounded queue, so that reading never waits for writing, and
//! are taken in batches, so that a few requests a second cost one statement now and then and not one each.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

/// Entries a batch takes at most.
pub(crate) const BATCH_MAX: usize = 256;
/// How long the first entry of a batch waits for others.
const LINGER: Duration = Duration::from_millis(200);

enum Entry<T> {
    Item(T),
    Flush(oneshot::Sender<()>),
}

/// The end that is written to.
pub(crate) struct Queue<T>(Arc<Shared<T>>);

/// The end that is read from.
pub(crate) struct Batches<T>(Arc<Shared<T>>);

/// A channel would wake its reader for every entry, and with it another thread of the runtime, in the midst of a recall.
/// The reader is woken when there is something to do: a first entry, a full batch, somebody who waits, the end.
struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    max: usize,
}

struct State<T> {
    entries: VecDeque<Entry<T>>,
    /// How many of the entries are waited for.
    flushes: usize,
    /// Whether one of the ends is gone.
    is_closed: bool,
}

/// Items that are stored together. Whoever waits for them is told when this is dropped.
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<T>,
    /// Closed by being dropped.
    _waiting: Vec<oneshot::Sender<()>>,
}

/// A queue of so many items.
pub(crate) fn bounded<T>(max: usize) -> (Queue<T>, Batches<T>) {
    let state = Mutex::new(State { entries: VecDeque::new(), flushes: 0, is_closed: false });
    let shared = Arc::new(Shared { state, wake: Notify::new(), max: max.max(1) });
    (Queue(Arc::clone(&shared)), Batches(shared))
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().is_closed = true;
        self.wake.notify_one();
    }
}

impl<T> State<T> {
    fn is_urgent(&self) -> bool {
        self.is_closed || self.flushes > 0 || self.entries.len() >= BATCH_MAX
    }
}

impl<T> Queue<T> {
    /// Queues an item; says whether there was room.
    pub(crate) fn push(&self, item: T) -> bool {
        let mut state = self.0.state();
        if state.is_closed || state.entries.len() >= self.0.max {
            return false;
        }
        state.entries.push_back(Entry::Item(item));
        let count = state.entries.len();
        drop(state);
        if count == 1 || count == BATCH_MAX {
            self.0.wake.notify_one();
        }
        true
    }

    /// Waits until everything queued before was dealt with.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        {
            let mut state = self.0.state();
            if state.is_closed {
                return;
            }
            state.entries.push_back(Entry::Flush(done));
            state.flushes += 1;
        }
        self.0.wake.notify_one();
        // The sender is dropped once what came before is stored, or with the task: then there is nothing to wait for.
        let _ = flushed.await;
    }
}

impl<T> Batches<T> {
    /// The next batch: what comes within a moment of its first entry, at once when somebody waits for it or it is full. None
    /// when the queue is closed and empty.
    pub(crate) async fn next(&mut self) -> Option<Batch<T>> {
        loop {
            {
                let state = self.0.state();
                if !state.entries.is_empty() {
                    break;
                }
                if state.is_closed {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
        let until = Instant::now() + LINGER;
        while !self.0.state().is_urgent() {
            if timeout_at(until, self.0.wake.notified()).await.is_err() {
                break;
            }
        }
        let mut state = self.0.state();
        let count = state.entries.len().min(BATCH_MAX);
        let (mut items, mut waiting) = (Vec::with_capacity(count), Vec::new());
        for entry in state.entries.drain(..count) {
            match entry {
                Entry::Item(item) => items.push(item),
                Entry::Flush(done) => waiting.push(done),
            }
        }
        state.flushes -= waiting.len();
        Some(Batch { items, _waiting: waiting })
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        self.0.close();
        // Nobody waits for what nobody will deal with.
        let left = std::mem::take(&mut self.0.state().entries);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_that_come_within_a_moment_are_one_batch() {
        let (queue, mut batches) = bounded(10);
        let began = Instant::now();
        tokio::join!(
            async {
                for n in 0..3 {
                    assert!(queue.push(n));
                    tokio::time::sleep(LINGER / 4).await;
                }
                tokio::time::sleep(2 * LINGER).await;
                assert!(queue.push(3));
            },
            async {
                assert_eq!(batches.next().await.unwrap().items, [0, 1, 2]);
                assert_eq!(began.elapsed(), LINGER, "no longer than its first entry may wait");
                assert_eq!(batches.next().await.unwrap().items, [3]);
            }
        );
        drop(queue);
        assert!(batches.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_waits_and_no_full_batch_is_kept_waiting() {
        let (queue, mut batches) = bounded(2 * BATCH_MAX);
        let began = Instant::now();
        for n in 0..BATCH_MAX + 1 {
            assert!(queue.push(n));
        }
        assert_eq!(batches.next().await.unwrap().items.len(), BATCH_MAX);
        let flushed = async {
            queue.flush().await;
            began.elapsed()
        };
        let stored = async {
            let batch = batches.next().await.unwrap();
            assert_eq!(batch.items, [BATCH_MAX]);
        };
        assert_eq!(tokio::join!(flushed, stored).0, Duration::ZERO);
        drop(queue);
        assert!(batches.next().await.is_none());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_does_not_wait() {
        let (queue, batches) = bounded(1);
        assert!(queue.push(1) && !queue.push(2));
        drop(batches);
        queue.flush().await;
        assert!(!queue.push(3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_go_with_the_one_who_would_deal_with_it() {
        let (queue, batches) = bounded(1);
        assert!(queue.push(1));
        let began = Instant::now();
        tokio::join!(queue.flush(), async {
            tokio::task::yield_now().await;
            drop(batches);
        });
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_waited_for_no_longer_than_what_is_left() {
        let (queue, mut batches) = bounded(BATCH_MAX);
        let began = Instant::now();
        let read = async {
            assert_eq!(batches.next().await.unwrap().items, [1]);
            assert!(batches.next().await.is_none());
            began.elapsed()
        };
        let written = async {
            assert!(queue.push(1));
            tokio::task::yield_now().await;
            drop(queue);
        };
        assert_eq!(tokio::join!(read, written).0, Duration::ZERO);
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_reader_sleeps_while_a_batch_fills() {
        let (queue, mut batches) = bounded(2 * BATCH_MAX);
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut next = pin!(batches.next());
        let mut poll = || next.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending() && queue.push(0));
        // It is to wait for the others.
        assert!(woken.0.load(Ordering::Relaxed) == 1 && poll().is_pending());
        for n in 1..BATCH_MAX {
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "woken by entry {n}");
            assert!(queue.push(n));
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(matches!(poll(), Poll::Ready(Some(batch)) if batch.items.len() == BATCH_MAX));
    }
}

//! What is stored in the background: entries leave through a bounded queue, so that reading never waits for writing, and
//! are taken in batches, so that a few requests a second cost one statement now and then and not one each.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
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
pub(crate) struct Queue<T>(mpsc::Sender<Entry<T>>);

/// The end that is read from.
pub(crate) struct Batches<T> {
    entries: mpsc::Receiver<Entry<T>>,
    taken: Vec<Entry<T>>,
}

/// Items that are stored together. Whoever waits for them is told when this is dropped.
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<T>,
    /// Closed by being dropped.
    _waiting: Vec<oneshot::Sender<()>>,
}

/// A queue of so many entries.
pub(crate) fn bounded<T>(max: usize) -> (Queue<T>, Batches<T>) {
    let (queue, entries) = mpsc::channel(max.max(1));
    (Queue(queue), Batches { entries, taken: Vec::with_capacity(BATCH_MAX) })
}

impl<T> Queue<T> {
    /// Queues an item; says whether there was room.
    pub(crate) fn push(&self, item: T) -> bool {
        self.0.try_send(Entry::Item(item)).is_ok()
    }

    /// Waits until everything queued before was dealt with.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Entry::Flush(done)).await.is_ok() {
            // The sender is dropped once what came before is stored, or with the task: then there is nothing to wait for.
            let _ = flushed.await;
        }
    }
}

impl<T> Batches<T> {
    /// The next batch: what comes within a moment of its first entry, at once when somebody waits for it or it is full. None
    /// when the queue is closed and empty.
    pub(crate) async fn next(&mut self) -> Option<Batch<T>> {
        if self.entries.recv_many(&mut self.taken, BATCH_MAX).await == 0 {
            return None;
        }
        let until = Instant::now() + LINGER;
        while self.taken.len() < BATCH_MAX && !self.taken.iter().any(|entry| matches!(entry, Entry::Flush(_))) {
            let room = BATCH_MAX - self.taken.len();
            match timeout_at(until, self.entries.recv_many(&mut self.taken, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        let (mut items, mut waiting) = (Vec::with_capacity(self.taken.len()), Vec::new());
        for entry in self.taken.drain(..) {
            match entry {
                Entry::Item(item) => items.push(item),
                Entry::Flush(done) => waiting.push(done),
            }
        }
        Some(Batch { items, _waiting: waiting })
    }
}

#[cfg(test)]
mod tests {
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
    }
}

//! The one writing thread: folds queued work into shared transactions ("group commit").
//!
//! Each piece of work runs in a savepoint of its own, so one that fails leaves no trace and harms no neighbour. After the
//! shared transaction is durable the scope images are brought up to date, and only then are the callers answered: who
//! has an answer can read its effect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use aionis_core::{
    held::{self, Held},
    ports::store::StoreError,
};
use rusqlite::Connection;
use tokio::sync::{Mutex, oneshot};

use super::{Shared, error::driver, readers::millis, residue::Residue};
use crate::maintenance::{FORGOTTEN_AT_ONCE, GROUPS_BETWEEN_PRUNING, kept_from};
use aionis_image::Delta;

/// Answers the caller: with nothing when its transaction is durable, or with why it is not.
type Answer = Box<dyn FnOnce(Option<StoreError>) + Send>;

/// What running a piece of work left: why its savepoint is not kept, if so, and how to answer.
struct Done {
    failure: Option<StoreError>,
    answer: Answer,
}

/// A queued piece of work: it is either run or refused.
trait Work: Send {
    fn run(self: Box<Self>, connection: &Connection, deltas: &mut Vec<Delta>) -> Done;
    fn refuse(self: Box<Self>) -> Answer;
}

struct Task<F, T> {
    work: F,
    reply: oneshot::Sender<Result<T, StoreError>>,
    /// The place of the request it is done for; kept also when nobody waits for the answer any more.
    held: Option<Held>,
}

impl<F, T> Work for Task<F, T>
where
    F: FnOnce(&Connection, &mut Vec<Delta>) -> Result<T, StoreError> + Send,
    T: Send + 'static,
{
    fn run(self: Box<Self>, connection: &Connection, deltas: &mut Vec<Delta>) -> Done {
        let Self { work, reply, held } = *self;
        let result = work(connection, deltas);
        let own_failure = result.as_ref().err().cloned();
        let answer: Answer = Box::new(move |failure| {
            // Before the answer: who has it finds the place free as soon as its own request is over.
            drop(held);
            // The caller may have stopped waiting; there is nobody to tell then.
            let _ = reply.send(match (failure, result) {
                (Some(failure), Ok(_)) => Err(failure),
                (_, result) => result,
            });
        });
        Done { failure: own_failure, answer }
    }

    fn refuse(self: Box<Self>) -> Answer {
        let Self { reply, held, .. } = *self;
        Box::new(move |failure| {
            drop(held);
            let lost = || StoreError::Unavailable("the transaction was not started".to_owned());
            let _ = reply.send(Err(failure.unwrap_or_else(lost)));
        })
    }
}

/// How long to wait after a failure to clear what forgetting left.
const RESIDUE_RETRY: Duration = Duration::from_secs(5);

enum Message {
    /// With when it was queued.
    Work(Box<dyn Work>, Instant),
    Stop(oneshot::Sender<()>),
}

/// Handle of the writing thread. Dropping it waits for queued work too: whoever holds the data directory's lock must not
/// let go of it while the thread still writes.
pub(crate) struct Writer {
    queue: Option<WriterQueue>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// Where work for the writing thread is handed in. The thread lives as long as one of these does.
#[derive(Clone)]
pub(crate) struct WriterQueue {
    queue: SyncSender<Message>,
    queued: Arc<AtomicUsize>,
}

impl WriterQueue {
    fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Delta>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let task = Task { work, reply, held: held::share() };
        self.queued.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.queue.try_send(Message::Work(Box::new(task), Instant::now())) {
            let queued = self.queued.fetch_sub(1, Ordering::Relaxed) - 1;
            return Err(match refused {
                TrySendError::Full(_) => StoreError::QueueFull { queued },
                TrySendError::Disconnected(_) => closed(),
            });
        }
        Ok(answer)
    }

    /// As [`Writer::submit`], for a thread that may block.
    pub(crate) fn submit_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Delta>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.send(work)?.blocking_recv().map_err(|_| ended())?
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

fn ended() -> StoreError {
    StoreError::Unavailable("the writing thread ended".to_owned())
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        shared: Arc<Shared>,
        queue_max: usize,
        group_max: usize,
    ) -> Result<Self, StoreError> {
        let (queue, work) = sync_channel(queue_max.max(1));
        let queued = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&queued);
        let thread = thread::Builder::new()
            .name("aionis-writer".to_owned())
            .spawn(move || WriterThread { connection, shared, group_max, queued: counter }.run(&work))
            .map_err(|e| StoreError::Unavailable(format!("cannot start the writing thread: {e}")))?;
        Ok(Self { queue: Some(WriterQueue { queue, queued }), thread: Mutex::new(Some(thread)) })
    }

    /// Queues work and waits until its transaction is durable. The work is done even when the caller stops waiting.
    pub(crate) async fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Delta>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.queue.as_ref().ok_or_else(closed)?.send(work)?;
        answer.await.map_err(|_| ended())?
    }

    /// For another thread that hands work in.
    pub(crate) fn queue(&self) -> Result<WriterQueue, StoreError> {
        self.queue.clone().ok_or_else(closed)
    }

    /// Lets queued work finish and ends the thread.
    pub(crate) async fn stop(&self) {
        let Some(queue) = self.queue.clone() else { return };
        let Some(thread) = self.thread.lock().await.take() else { return };
        let (done, stopped) = oneshot::channel();
        // The queue may be full: waiting for room must not block an async thread.
        let _ = tokio::task::spawn_blocking(move || queue.queue.send(Message::Stop(done))).await;
        let _ = stopped.await;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without a sender the queue ends after the work that is in it.
        drop(self.queue.take());
        if let Some(thread) = self.thread.get_mut().take() {
            // A thread that panicked has nothing left to finish.
            let _ = thread.join();
        }
    }
}

struct WriterThread {
    connection: Connection,
    shared: Arc<Shared>,
    group_max: usize,
    queued: Arc<AtomicUsize>,
}

impl WriterThread {
    fn run(self, queue: &Receiver<Message>) {
        let mut groups: u64 = 0;
        let mut residue = Residue::left(&self.connection).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "whether forgotten texts are left in the files cannot be told; they are cleared");
            Residue::Marked
        });
        while let Some(first) = self.next(queue, &mut residue) {
            let mut stop = None;
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Work(work, queued) => {
                        metrics::histogram!("aionis_write_stage_seconds", "stage" => "queue").record(queued.elapsed());
                        group.push(work);
                    }
                    Message::Stop(done) => {
                        stop = Some(done);
                        break;
                    }
                }
                if group.len() < self.group_max {
                    next = queue.try_recv().ok();
                }
            }
            self.queued.fetch_sub(group.len(), Ordering::Relaxed);
            if !group.is_empty() {
                groups += 1;
                if self.group(group) {
                    residue = Residue::Marked;
                }
            }
            if groups % GROUPS_BETWEEN_PRUNING == 1 {
                let before = kept_from(self.shared.clock.now());
                if let Err(e) = super::write::prune_requests(&self.connection, before, FORGOTTEN_AT_ONCE) {
                    // It is tried again after the next groups.
                    tracing::warn!(error = %e, "old request answers could not be pruned");
                }
            }
            if let Some(done) = stop {
                residue.clear(&self.connection);
                if let Err(e) = self.connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);") {
                    tracing::warn!(error = %e, "the write-ahead log could not be written back at the end");
                }
                let _ = done.send(());
                return;
            }
        }
    }

    /// The next piece of work; while there is none, what forgetting left is cleared.
    fn next(&self, queue: &Receiver<Message>, residue: &mut Residue) -> Option<Message> {
        let mut pause = Duration::ZERO;
        while *residue != Residue::None {
            match queue.recv_timeout(pause) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            pause = residue.step(&self.connection).unwrap_or_else(|e| {
                tracing::warn!(error = %e, "what was forgotten could not be cleared from the files yet; it is tried again");
                RESIDUE_RETRY
            });
        }
        queue.recv().ok()
    }

    /// Runs one group in one transaction and answers everyone; tells whether something was forgotten.
    fn group(&self, group: Vec<Box<dyn Work>>) -> bool {
        let (started, works) = (Instant::now(), group.len());
        let mut deltas = Vec::new();
        let mut answers = Vec::with_capacity(works);
        let mut failure = self.connection.execute_batch("BEGIN IMMEDIATE").map_err(driver).err();
        for work in group {
            if failure.is_some() {
                // The transaction is gone: run nothing more, tell everyone why.
                answers.push(work.refuse());
                continue;
            }
            match self.one(work, &mut deltas) {
                Ok(answer) => answers.push(answer),
                Err((answer, error)) => {
                    answers.push(answer);
                    failure = Some(error);
                }
            }
        }
        let worked = started.elapsed();
        if failure.is_none() {
            // Outside the savepoints: each savepoint would make the inverted index write a segment of its own.
            failure = super::write::index_texts(&self.connection, &deltas).err();
        }
        let indexed = started.elapsed();
        if failure.is_none() {
            failure = self.connection.execute_batch("COMMIT").map_err(driver).err();
        }
        let forgot = failure.is_none()
            && deltas.iter().any(|delta| matches!(delta, Delta::Erased { .. } | Delta::Purged { .. }));
        self.note_time(works, worked, indexed, started.elapsed());
        if let Some(failure) = &failure {
            tracing::error!(error = %failure, "a write transaction failed");
            if !self.connection.is_autocommit()
                && let Err(e) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(error = %e, "the failed transaction could not be rolled back");
            }
        } else {
            let has_work = deltas.iter().any(Delta::is_work);
            self.shared.images.apply(deltas);
            self.shared.commits.send_modify(|version| *version += 1);
            if has_work {
                self.shared.work.notify_one();
            }
        }
        for answer in answers {
            answer(failure.clone());
        }
        forgot
    }

    fn note_time(&self, works: usize, worked: Duration, indexed: Duration, total: Duration) {
        metrics::histogram!("aionis_write_stage_seconds", "stage" => "transaction").record(total);
        if self.shared.slow.is_some_and(|slow| total >= slow) {
            tracing::warn!(
                statement = "write transaction",
                ms = millis(total),
                works,
                work_ms = millis(worked),
                index_ms = millis(indexed - worked),
                commit_ms = millis(total - indexed),
                "slow statement"
            );
        }
    }

    /// Runs one piece of work in a savepoint. An error means that the whole transaction is lost.
    fn one(&self, work: Box<dyn Work>, deltas: &mut Vec<Delta>) -> Result<Answer, (Answer, StoreError)> {
        let savepoint = |sql: &str| self.connection.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(driver);
        if let Err(error) = savepoint("SAVEPOINT work") {
            return Err((work.refuse(), error));
        }
        let before = deltas.len();
        let done = work.run(&self.connection, deltas);
        // After a rollback the savepoint stays open and is released like the others.
        let keep = done.failure.is_none();
        let end = if keep { "RELEASE work" } else { "ROLLBACK TO work" };
        if !keep {
            deltas.truncate(before);
        }
        if self.connection.is_autocommit() {
            // SQLite rolled the whole transaction back by itself: a full disk, an I/O error. Everyone in it learns why.
            let lost =
                || StoreError::Unavailable("the transaction was rolled back; nothing of it is stored".to_owned());
            return Err((done.answer, done.failure.unwrap_or_else(lost)));
        }
        let ended = savepoint(end).and_then(|n| if keep { Ok(n) } else { savepoint("RELEASE work") });
        match ended {
            Ok(_) => Ok(done.answer),
            Err(error) => Err((done.answer, error)),
        }
    }
}

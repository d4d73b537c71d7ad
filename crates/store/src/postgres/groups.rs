//! Group commit: concurrent writes of one scope share a transaction, and with it the lock on the scope and the sync.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use aionis_core::{
    held::{self, Held},
    ids::ScopeKey,
    ports::store::{StoreError, WriteStore},
    write::{PreparedWrite, WriteOutcome, check_vector_at},
};
use async_trait::async_trait;
use hashbrown::HashMap;
use tokio::sync::{Notify, oneshot};

use super::{
    PostgresStore, Shared,
    error::driver,
    maintenance::forget_requests,
    session::{For, begin},
    write::apply_group,
};
use crate::maintenance::{FORGOTTEN_AT_ONCE, GROUPS_BETWEEN_PRUNING, kept_from};

/// A write and who waits for its outcome.
pub(crate) struct Waiting {
    pub(crate) write: PreparedWrite,
    reply: oneshot::Sender<Result<WriteOutcome, StoreError>>,
    since: Instant,
    /// The place of the request it is done for; kept also when nobody waits for the outcome any more.
    held: Option<Held>,
}

/// Queues of writes by scope. A scope whose queue is not empty has a task that works it off.
pub(crate) struct Groups {
    shared: Arc<Shared>,
    state: Arc<State>,
}

struct State {
    queues: Mutex<HashMap<ScopeKey, Vec<Waiting>>>,
    queued: AtomicUsize,
    /// Groups worked off by this process.
    groups: AtomicU64,
    idle: Notify,
}

impl Groups {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let state = State {
            queues: Mutex::default(),
            queued: AtomicUsize::new(0),
            groups: AtomicU64::new(0),
            idle: Notify::new(),
        };
        Self { shared, state: Arc::new(state) }
    }

    async fn submit(&self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        for node in write.parts.iter().flat_map(|part| &part.nodes) {
            // Checked against the settings before; the store's own dimension is what its vectors compare in.
            if let Some(vector) = &node.embedding {
                check_vector_at(&format!("nodes.{}.embedding", node.position), vector, self.shared.space.dim)?;
            }
        }
        let queued = self.state.queued.fetch_add(1, Ordering::Relaxed);
        if queued >= self.shared.options.write_queue_max {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::QueueFull { queued });
        }
        let (reply, answer) = oneshot::channel();
        let scope = write.parts[0].scope.clone();
        let waiting = Waiting { write, reply, since: Instant::now(), held: held::share() };
        let is_first = {
            let mut queues = self.state.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queues.get_mut(&scope);
            let is_first = queue.is_none();
            match queue {
                Some(queue) => queue.push(waiting),
                None => _ = queues.insert(scope.clone(), vec![waiting]),
            }
            is_first
        };
        if is_first {
            // A task of its own: a caller that goes away must not take the others' writes with it.
            tokio::spawn(work_off(Arc::clone(&self.shared), Arc::clone(&self.state), scope));
        }
        answer.await.map_err(|_| StoreError::Unavailable("the write was given up".to_owned()))?
    }

    /// Waits until nothing is queued.
    pub(crate) async fn drain(&self) {
        loop {
            let idle = self.state.idle.notified();
            if self.state.queued.load(Ordering::Relaxed) == 0 {
                return;
            }
            idle.await;
        }
    }
}

async fn work_off(shared: Arc<Shared>, state: Arc<State>, scope: ScopeKey) {
    loop {
        let group = {
            let mut queues = state.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(queue) = queues.get_mut(&scope) else { return };
            if queue.is_empty() {
                queues.remove(&scope);
                return;
            }
            let size = group_size(queue, shared.options.group_max);
            let rest = queue.split_off(size);
            std::mem::replace(queue, rest)
        };
        for waiting in &group {
            metrics::histogram!("aionis_write_stage_seconds", "stage" => "queue").record(waiting.since.elapsed());
        }
        let (writes, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|w| (w.write, (w.reply, w.held))).unzip();
        let count = writes.len();
        let (of_group, started) = (Arc::clone(&shared), Instant::now());
        // In a task of its own: should it panic, its callers are told and the scope's queue goes on.
        let outcomes = match tokio::spawn(async move { apply_group(&of_group, &writes).await }).await {
            Ok(outcomes) => outcomes,
            Err(e) => (0..count).map(|_| Err(StoreError::Driver(format!("a group of writes failed: {e}")))).collect(),
        };
        metrics::histogram!("aionis_write_stage_seconds", "stage" => "transaction").record(started.elapsed());
        state.queued.fetch_sub(count, Ordering::Relaxed);
        for ((reply, held), outcome) in replies.into_iter().zip(outcomes) {
            // Before the answer: who has it finds the place free as soon as its own request is over.
            drop(held);
            // The caller may have stopped waiting; there is nobody to tell then.
            let _ = reply.send(outcome);
        }
        state.idle.notify_waiters();
        if state.groups.fetch_add(1, Ordering::Relaxed).is_multiple_of(GROUPS_BETWEEN_PRUNING) {
            // Beside the writes, which must not wait for it.
            tokio::spawn(forget_old_requests(Arc::clone(&shared)));
        }
    }
}

/// Forgets old answers kept for repeated requests. What fails is tried again after the next groups.
async fn forget_old_requests(shared: Arc<Shared>) {
    let forget = async {
        let mut tx = begin(&shared.pool, For::Everyone, shared.options.statement_timeout, "").await?;
        forget_requests(&mut tx, kept_from(shared.clock.now()), FORGOTTEN_AT_ONCE).await?;
        tx.commit().await.map_err(driver)
    };
    if let Err(e) = shared.patience.bounded(forget).await {
        tracing::warn!(error = %e, "old request answers could not be pruned");
    }
}

/// How many of the first writes can share a transaction: those that touch no object another one of them touches, so that
/// what is read before the first holds for the last. A write over several scopes goes alone.
fn group_size(queue: &[Waiting], max: usize) -> usize {
    let mut touched = hashbrown::HashSet::new();
    let mut keys = hashbrown::HashSet::new();
    for (at, waiting) in queue.iter().enumerate() {
        let write = &waiting.write;
        if write.parts.len() > 1 {
            return at.max(1);
        }
        let part = &write.parts[0];
        let ids = part
            .nodes
            .iter()
            .map(|node| node.id.0)
            .chain(part.edges.iter().flat_map(|edge| [edge.id.0, edge.src.id.0, edge.dst.id.0]));
        let own: hashbrown::HashSet<uuid::Uuid> = ids.collect();
        let key = write.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        let meets = own.iter().any(|id| touched.contains(id))
            || key.is_some_and(|key| keys.contains(key))
            || at == max
            // What is equal must see the commit of the one before it.
            || queue[..at].iter().any(|before| before.write.request_digest == write.request_digest)
            // A parent may be the commit of the one before it.
            || (at > 0 && write.parent_commit_id.is_some());
        if meets {
            return at.max(1);
        }
        touched.extend(own);
        keys.extend(key);
    }
    queue.len()
}

#[async_trait]
impl WriteStore for PostgresStore {
    async fn write(&self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        self.groups.submit(write).await
    }
}

//! What recalls used: the seeds of answered recalls count as used, so that what is recalled often does not fade like what
//! nobody asks for. It is noted in the background, in batches; a recall never waits for it, and nothing is lost but a hint
//! when it cannot be noted.

use std::{collections::HashMap, sync::Arc};

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    ports::store::{NodeRow, Store},
};

use crate::queue::{Batches, Queue, bounded};

/// Recalls whose seeds may wait.
const QUEUE_MAX: usize = 1_024;
/// Nodes one statement notes at most.
const NODES_MAX: usize = 1_000;
/// A node is noted at most once in this time, in microseconds: tiers and the pace of fading count in days.
const ONCE_IN: i64 = 3_600_000_000;
/// Nodes remembered as noted, until recalls read that they are; when there are more, all are forgotten and storage decides.
const NOTED_MAX: usize = 4_096;

/// Of the nodes a recall begins with those whose use has to be noted: what was just read of them says of most that they were
/// used not long ago.
pub(crate) fn due<'a>(seeds: impl Iterator<Item = &'a NodeRow>, now: Timestamp) -> Vec<NodeId> {
    seeds.filter(|row| is_due(row.last_activated, now)).map(|row| row.id).collect()
}

/// Whether the use of a node has to be noted that was last used at a time, if ever.
fn is_due(last_activated: Option<Timestamp>, now: Timestamp) -> bool {
    last_activated.is_none_or(|at| now.0.saturating_sub(at.0) >= ONCE_IN)
}

/// The seeds of one recall.
struct Used {
    scope: ScopeKey,
    ids: Vec<NodeId>,
    at: Timestamp,
}

/// Handle of the queue.
pub(crate) struct UsageWriter {
    queue: Queue<Used>,
}

impl UsageWriter {
    /// Starts the task that stores what is queued.
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (queue, batches) = bounded(QUEUE_MAX);
        tokio::spawn(run(store, batches));
        Self { queue }
    }

    /// Queues what a recall used, or drops and counts it when the queue is full.
    pub(crate) fn record(&self, scope: &ScopeKey, ids: Vec<NodeId>, at: Timestamp) {
        if ids.is_empty() {
            return;
        }
        let count = ids.len() as u64;
        if !self.queue.push(Used { scope: scope.clone(), ids, at }) {
            dropped(count);
        }
    }

    /// Waits until everything queued before is stored.
    pub(crate) async fn flush(&self) {
        self.queue.flush().await;
    }
}

fn dropped(nodes: u64) {
    metrics::counter!("aionis_recall_usage_dropped_total").increment(nodes);
}

/// Nodes that were noted lately.
#[derive(Default)]
struct Noted(HashMap<(ScopeKey, NodeId), Timestamp>);

impl Noted {
    /// Whether a node has to be noted; it counts as noted from now on.
    fn is_new(&mut self, scope: &ScopeKey, id: NodeId, at: Timestamp) -> bool {
        let key = (scope.clone(), id);
        if !is_due(self.0.get(&key).copied(), at) {
            return false;
        }
        if self.0.len() >= NOTED_MAX {
            self.0.clear();
        }
        self.0.insert(key, at);
        true
    }
}

async fn run(store: Arc<dyn Store>, mut batches: Batches<Used>) {
    let mut noted = Noted::default();
    while let Some(mut batch) = batches.next().await {
        let mut by_scope: HashMap<ScopeKey, (Vec<NodeId>, Timestamp)> = HashMap::new();
        for Used { scope, mut ids, at } in batch.items.drain(..) {
            ids.retain(|id| noted.is_new(&scope, *id, at));
            let (all, latest) = by_scope.entry(scope).or_insert((Vec::new(), at));
            all.extend(ids);
            *latest = (*latest).max(at);
        }
        for (scope, (ids, at)) in by_scope {
            for some in ids.chunks(NODES_MAX) {
                if let Err(e) = store.record_use(&scope, some, at, Timestamp(at.0.saturating_sub(ONCE_IN))).await {
                    dropped(some.len() as u64);
                    tracing::warn!(error = %e, nodes = some.len(), "what recalls used could not be noted");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aionis_core::{
        lifecycle::DAY,
        ports::store::{IntegrityStore, LifecycleStore, RecallReader, WriteStore},
    };
    use aionis_store::sqlite::{SqliteOptions, SqliteStore};
    use aionis_testkit::fixtures::{FakeClock, START, WriteBuilder, node_id, scope};

    use super::*;

    #[tokio::test]
    async fn a_node_is_noted_once_an_hour_and_no_commit_tells_of_it() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
        let store = Arc::new(SqliteStore::open(&SqliteOptions::new(dir.path()), clock).unwrap());
        let s = scope("s");
        store.write(WriteBuilder::new(&s).node("a", "one").node("b", "two").prepared()).await.unwrap();
        let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
        let writer = UsageWriter::start(Arc::clone(&store) as Arc<dyn Store>);
        for (minutes, wanted) in [(0, 0), (30, 0), (59, 0), (60, 60), (61, 60)] {
            writer.record(&s, vec![a, a], Timestamp(START.0 + DAY + minutes * 60_000_000));
            writer.flush().await;
            let rows = store.rows(&s, &[a, b]).await.unwrap();
            assert_eq!(rows[0].last_activated, Some(Timestamp(START.0 + DAY + wanted * 60_000_000)), "{minutes}");
            assert_eq!((rows[1].last_activated, rows[0].updated_at), (None, START));
        }
        assert_eq!(store.scopes(None, None).await.unwrap()[0].head_seq, 1);
    }

    #[tokio::test]
    async fn what_was_used_within_the_hour_is_not_noted_again() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
        let store = SqliteStore::open(&SqliteOptions::new(dir.path()), clock).unwrap();
        let s = scope("s");
        store.write(WriteBuilder::new(&s).node("a", "one").node("b", "two").prepared()).await.unwrap();
        let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
        store.record_use(&s, &[a], START, Timestamp(START.0 - ONCE_IN)).await.unwrap();
        let rows = store.rows(&s, &[a, b]).await.unwrap();
        assert_eq!(due(rows.iter(), Timestamp(START.0 + ONCE_IN - 1)), [b]);
        assert_eq!(due(rows.iter(), Timestamp(START.0 + ONCE_IN)), [a, b]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_does_not_wait() {
        let (queue, mut batches) = bounded(1);
        let writer = UsageWriter { queue };
        let s = scope("s");
        for _ in 0..5 {
            writer.record(&s, vec![node_id(&s, "a")], START);
        }
        writer.record(&s, Vec::new(), START);
        drop(writer);
        assert_eq!(batches.next().await.map(|batch| batch.items.len()), Some(1));
        assert!(batches.next().await.is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut noted, s) = (Noted::default(), scope("s"));
        for n in 0..NOTED_MAX + 10 {
            assert!(noted.is_new(&s, NodeId(uuid::Uuid::from_u128(n as u128)), START));
        }
        assert!(noted.0.len() <= NOTED_MAX);
    }
}

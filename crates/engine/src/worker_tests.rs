use aionis_core::{
    ids::ScopeKey,
    ports::{
        embed::EmbedErrorKind,
        store::{OutboxStore, WriteStore},
    },
};
use aionis_store::sqlite::{EmbeddingSpace, SqliteOptions, SqliteStore};
use aionis_testkit::fixtures::{FakeClock, Reply, ScriptedEmbedder, WriteBuilder, scope};
use uuid::Uuid;

use super::*;

fn items(nodes: &[usize]) -> Vec<OutboxItem> {
    let item = |nodes: &usize| OutboxItem {
        scope: scope("s"),
        id: Uuid::nil(),
        fence: 1,
        nodes: vec![aionis_core::ids::NodeId(Uuid::nil()); *nodes],
        force: false,
        attempts: 1,
        created_at: Timestamp(0),
    };
    nodes.iter().map(item).collect()
}

#[test]
fn items_are_worked_on_together_up_to_a_number_of_nodes() {
    assert_eq!(some_of(&items(&[1; 128])), 128);
    assert_eq!(some_of(&items(&[20; 128])), NODES_AT_ONCE / 20);
    assert_eq!(some_of(&items(&[NODES_AT_ONCE, 1])), 1);
    assert_eq!(some_of(&items(&[10 * NODES_AT_ONCE, 1])), 1, "a large one by itself");
    assert_eq!(some_of(&items(&[0, 5])), 2);
}

/// Nodes of a write that is worked on alone.
const NODES: usize = 200;

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<FakeClock>,
    embedder: Arc<ScriptedEmbedder>,
}

/// A store with so many writes, each of [`NODES`] nodes.
async fn place(writes: usize) -> Place {
    let embedder = Arc::new(ScriptedEmbedder::new(8).batches_of(NODES));
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let mut options = SqliteOptions::new(dir.path());
    options.space = Some(EmbeddingSpace { name: embedder.name().to_owned(), dim: embedder.dim() });
    let store = Arc::new(SqliteStore::open(&options, clock.clone()).unwrap());
    for write in 0..writes {
        let s: ScopeKey = scope("s");
        let mut builder = WriteBuilder::new(&s).deriving().input(&format!("input {write}"));
        for n in 0..NODES {
            builder =
                builder.node(&format!("{write}-{n}"), &format!("The ferry {n} of harbour {write} leaves at noon."));
        }
        store.write(builder.prepared()).await.unwrap();
    }
    Place { _dir: dir, store, clock, embedder }
}

#[tokio::test]
async fn what_was_derived_before_a_failure_is_kept_and_the_rest_put_back() {
    let place = place(3).await;
    let settings = WorkerSettings::default();
    let worker = Worker::new(place.store.clone(), place.embedder.clone(), place.clock.clone(), settings.clone());
    place.embedder.then(Reply::Vectors);
    place.embedder.then(Reply::fail(EmbedErrorKind::Unavailable));
    let round = worker.drain().await.unwrap();
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (3, 1, NODES, 2));
    assert!(round.pause_ms > 0);
    assert_eq!(place.embedder.calls().len(), 2, "nobody is asked again who just failed");

    place.clock.advance(settings.pause_max);
    let round = worker.drain().await.unwrap();
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (2, 2, 2 * NODES, 0));
    assert!(place.embedder.calls().iter().all(|call| call.texts.len() <= NODES));
}

/// Passes real time, for heartbeats of a lease.
async fn pass(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>()).await.unwrap_err();
}

async fn others_get_nothing(place: &Place, lease: Duration) {
    let other = ClaimRequest { worker: "other".to_owned(), now: place.clock.now(), lease, limit: 10 };
    assert!(place.store.claim(other).await.unwrap().is_empty(), "the leases were extended");
}

/// The lease of what waits is extended too while a call takes long.
#[tokio::test]
async fn a_long_call_does_not_cost_the_lease_of_what_waits() {
    let (place, lease) = (place(2).await, Duration::from_millis(30));
    let settings = WorkerSettings { lease, ..WorkerSettings::default() };
    let worker = Worker::new(place.store.clone(), place.embedder.clone(), place.clock.clone(), settings);
    let (stalled, release) = Reply::stalled();
    place.embedder.then(stalled);
    let watching = async {
        place.embedder.called(1).await;
        place.clock.advance(lease - Duration::from_millis(1));
        // Many heartbeats long, of which the first may be held up.
        pass(Duration::from_millis(500)).await;
        place.clock.advance(lease - Duration::from_millis(1));
        others_get_nothing(&place, lease).await;
        release.notify_one();
    };
    let (round, ()) = tokio::join!(async { worker.drain().await.unwrap() }, watching);
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (2, 2, 2 * NODES, 0));
}

/// Nor do many short calls, none of which lasts until a heartbeat.
#[tokio::test]
async fn many_short_calls_do_not_cost_the_lease_of_what_waits() {
    const CALLS: usize = 8;
    let (place, lease, call) = (place(CALLS).await, Duration::from_millis(300), Duration::from_millis(60));
    let settings = WorkerSettings { lease, ..WorkerSettings::default() };
    let worker = Worker::new(place.store.clone(), place.embedder.clone(), place.clock.clone(), settings);
    let releases: Vec<_> = (0..CALLS)
        .map(|_| {
            let (stalled, release) = Reply::stalled();
            place.embedder.then(stalled);
            release
        })
        .collect();
    let watching = async {
        for (made, release) in releases.iter().enumerate() {
            place.embedder.called(made + 1).await;
            pass(call).await;
            place.clock.advance(call);
            others_get_nothing(&place, lease).await;
            release.notify_one();
        }
    };
    let (round, ()) = tokio::join!(async { worker.drain().await.unwrap() }, watching);
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (CALLS, CALLS, CALLS * NODES, 0));
}

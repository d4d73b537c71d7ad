use aionis_core::{
    ids::ScopeKey,
    ports::{embed::EmbedErrorKind, store::WriteStore},
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

/// Three writes of so many nodes that each is worked on alone, and what a provider did that failed at the second.
#[tokio::test]
async fn what_was_derived_before_a_failure_is_kept_and_the_rest_put_back() {
    const NODES: usize = 200;
    let embedder = Arc::new(ScriptedEmbedder::new(8).batches_of(NODES));
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let mut options = SqliteOptions::new(dir.path());
    options.space = Some(EmbeddingSpace { name: embedder.name().to_owned(), dim: embedder.dim() });
    let store = Arc::new(SqliteStore::open(&options, clock.clone()).unwrap());
    let s: ScopeKey = scope("s");
    for write in 0..3 {
        let mut builder = WriteBuilder::new(&s).deriving().input(&format!("input {write}"));
        for n in 0..NODES {
            builder =
                builder.node(&format!("{write}-{n}"), &format!("The ferry {n} of harbour {write} leaves at noon."));
        }
        store.write(builder.prepared()).await.unwrap();
    }
    let worker = Worker::new(store.clone(), embedder.clone(), clock.clone(), WorkerSettings::default());
    embedder.then(Reply::Vectors);
    embedder.then(Reply::fail(EmbedErrorKind::Unavailable));
    let round = worker.drain().await.unwrap();
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (3, 1, NODES, 2));
    assert!(round.pause_ms > 0);
    assert_eq!(embedder.calls().len(), 2, "nobody is asked again who just failed");

    clock.advance(WorkerSettings::default().pause_max);
    let round = worker.drain().await.unwrap();
    assert_eq!((round.claimed, round.published, round.vectors, round.failed), (2, 2, 2 * NODES, 0));
    assert!(embedder.calls().iter().all(|call| call.texts.len() <= NODES));
}

//! Several processes over one database: each is a store of its own, with its own connections and images.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    ids::NodeId,
    ports::store::{LexicalQuery, OutboxStore, RecallReader, RecallStore, WriteStore},
    text,
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    assert_sound,
    conformance::soon,
    fixtures::{FakeClock, WriteBuilder, anyone, everything, node_id, scope},
    postgres::{PrivateServer, TempDatabase, options},
};

async fn open(url: &str) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(&options(url), FakeClock::new()).await.unwrap())
}

async fn found(store: &PostgresStore, word: &str) -> Vec<NodeId> {
    let s = scope("s");
    store.scope_status(&s).await.unwrap();
    let query = LexicalQuery { scope: s, filter: everything(anyone()), terms: text::query_terms(word), limit: 10 };
    store.lexical(query).await.unwrap().docs.into_iter().map(|doc| doc.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_was_answered_another_one_finds() {
    let database = TempDatabase::new().await;
    let (a, b) = (open(&database.url()).await, open(&database.url()).await);
    let s = scope("s");
    for (n, word) in ["harbour", "lighthouse", "ferry"].into_iter().enumerate() {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.write(WriteBuilder::new(&s).node(word, word).prepared()).await.unwrap();
        assert_eq!(found(reader, word).await, [node_id(&s, word)], "{word}");
    }
    // An update takes the old words away everywhere.
    a.write(WriteBuilder::new(&s).node("ferry", "bridge").prepared()).await.unwrap();
    assert!(found(&b, "ferry").await.is_empty());
    assert_eq!(found(&b, "bridge").await, [node_id(&s, "ferry")]);
    assert_sound(&*a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_and_its_work_wake_other_processes() {
    let database = TempDatabase::new().await;
    let (a, b) = (open(&database.url()).await, open(&database.url()).await);
    let s = scope("s");
    let waiting = tokio::spawn({
        let (b, s) = (Arc::clone(&b), s.clone());
        async move { b.wait_for_commit(&s, 1).await }
    });
    let woken = tokio::spawn(async move { b.work_arrived().await });
    // Listening begins in the background; a hint that comes before it is lost, so hints are sent until one arrives.
    let mut n = 0;
    soon("waking up", async {
        while !woken.is_finished() {
            n += 1;
            a.write(WriteBuilder::new(&s).deriving().node(&format!("n{n}"), "text").prepared()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    soon("the commit", waiting).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_on_one_scope_make_one_chain() {
    let database = TempDatabase::new().await;
    let s = scope("s");
    let mut writers = tokio::task::JoinSet::new();
    for process in 0..4 {
        let store = open(&database.url()).await;
        for writer in 0..8 {
            let (store, s) = (Arc::clone(&store), s.clone());
            writers.spawn(async move {
                for n in 0..5 {
                    let own = format!("{process}-{writer}-{n}");
                    // One node of its own, and one that all write.
                    let write =
                        WriteBuilder::new(&s).input(&own).node(&own, &own).node("shared", &own).edge(&own, "shared");
                    store.write(write.prepared()).await.unwrap();
                }
            });
        }
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let store = open(&database.url()).await;
    let status = store.scope_status(&s).await.unwrap();
    assert_eq!((status.head_seq, status.nodes), (160, 161));
    assert_sound(&*store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_loses_nothing_and_the_pool_recovers() {
    let mut server = PrivateServer::start(false);
    let database = TempDatabase::on(server.url("postgres")).await;
    let store = open(&database.url()).await;
    let s = scope("s");
    store.write(WriteBuilder::new(&s).node("before", "before the crash").prepared()).await.unwrap();
    server.kill();
    let during = store.write(WriteBuilder::new(&s).node("during", "while it is away").prepared()).await;
    assert!(
        matches!(during, Err(aionis_core::ports::store::StoreError::Unavailable(_))),
        "a server that is away is told as such: {during:?}"
    );
    assert!(store.scope_status(&s).await.is_err());
    server.restart();
    soon("the pool recovers", async {
        while store.write(WriteBuilder::new(&s).node("after", "after the crash").prepared()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let status = store.scope_status(&s).await.unwrap();
    assert_eq!((status.head_seq, status.nodes), (2, 2), "what failed left nothing");
    assert_sound(&*store).await;
}

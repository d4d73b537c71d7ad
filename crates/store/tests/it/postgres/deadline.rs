//! A statement gets no more time than the request it works for has left.

use std::time::{Duration, Instant};

use aionis_core::{
    clock::Clock,
    deadline,
    ports::store::{ClaimRequest, EmbeddedNode, OutboxStore, StoreError, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{DIM, FakeClock, WriteBuilder, scope},
    postgres::{TempDatabase, options},
};
use sqlx::Connection;

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_with_the_request_it_works_for() {
    let database = TempDatabase::new().await;
    let clock = FakeClock::new();
    let store = PostgresStore::open(&options(&database.url()), clock.clone()).await.unwrap();
    let s = scope("s");
    store.write(WriteBuilder::new(&s).deriving().node("a", "text").prepared()).await.unwrap();
    let now = clock.now();
    let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 1 };
    let items = store.claim(claim).await.unwrap();
    let node = |text: aionis_core::ports::store::PendingText| EmbeddedNode {
        scope: text.scope,
        id: text.id,
        digest: text.digest,
        result: Ok(vec![1.0; DIM]),
    };
    let nodes: Vec<_> = store.pending_texts(&items).await.unwrap().into_iter().map(node).collect();
    // Somebody holds the scope, so that completing has to wait.
    let mut owner = database.owner().await;
    let mut tx = owner.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM memory_scopes FOR UPDATE").execute(&mut *tx).await.unwrap();
    let started = Instant::now();
    let soon = Instant::now() + Duration::from_millis(300);
    let cut_short = deadline::within(soon, store.complete(&items, nodes.clone(), "m", now)).await;
    assert!(matches!(&cut_short, Err(StoreError::Unavailable(why)) if why.contains("57014")), "{cut_short:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "statements may take 30 s otherwise");
    tx.rollback().await.unwrap();
    assert_eq!(store.complete(&items, nodes, "m", now).await.unwrap(), 1, "nothing of it was done");
}

/// A lock that was not to be had fails its transaction and no other: the connection comes back clean. The pool is so small
/// that one that did not would be met again at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_leaves_no_broken_connection_behind() {
    let database = TempDatabase::new().await;
    let mut small = options(&database.url());
    let write = |name: &str| WriteBuilder::new(&scope("s")).input(name).node(name, name).prepared();
    PostgresStore::open(&small, FakeClock::new()).await.unwrap().write(write("first")).await.unwrap();
    small.connections_max = 2;
    // Short for what waits, tried again some times, and long for what has nothing to wait for.
    small.statement_timeout = Duration::from_secs(1);
    let store = PostgresStore::open(&small, FakeClock::new()).await.unwrap();
    let mut owner = database.owner().await;
    let mut tx = owner.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM memory_scopes FOR UPDATE").execute(&mut *tx).await.unwrap();
    for round in 0..2 {
        let cut_short = store.write(write(&format!("waits {round}"))).await;
        assert!(matches!(&cut_short, Err(StoreError::Unavailable(why)) if why.contains("57014")), "{cut_short:?}");
    }
    tx.rollback().await.unwrap();
    for round in 0..8 {
        store.write(write(&format!("goes on {round}"))).await.unwrap();
    }
}

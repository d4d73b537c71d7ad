//! A statement gets no more time than the request it works for has left.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use aionis_core::{
    clock::Clock,
    deadline,
    ports::store::{ClaimRequest, EmbeddedNode, IntegrityStore, OutboxStore, RecallReader, StoreError, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{DIM, FakeClock, WriteBuilder, node_id, scope},
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

/// What is asked in one round trip is bounded by what connections are set to, and in a transaction if the request has less
/// time. It is not the connection's fault if that is over: it is not asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_with_its_time_and_is_not_asked_again() {
    let database = TempDatabase::new().await;
    let mut options = options(&database.url());
    options.statement_timeout = Duration::from_secs(1);
    let patient = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
    options.statement_timeout = Duration::from_secs(3600);
    let hurried = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
    let (s, mut owner) = (scope("s"), database.owner().await);
    patient.write(WriteBuilder::new(&s).node("a", "text").prepared()).await.unwrap();
    let ids = [node_id(&s, "a")];
    let mut tx = owner.begin().await.unwrap();
    sqlx::query("LOCK TABLE memory_nodes IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    let started = Instant::now();
    let asked = patient.rows(&s, &ids).await;
    assert!(matches!(&asked, Err(StoreError::Unavailable(why)) if why.contains("57014")), "{asked:?}");
    let soon = Instant::now() + Duration::from_millis(300);
    let asked = deadline::within(soon, hurried.rows(&s, &ids)).await;
    assert!(matches!(&asked, Err(StoreError::Unavailable(why)) if why.contains("57014")), "{asked:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "asked on every connection it would take longer");
    tx.rollback().await.unwrap();
    for store in [patient, hurried] {
        assert_eq!(store.rows(&s, &ids).await.unwrap().len(), 1);
    }
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

/// Gives work up at the time it would be polled once more than so many times. Whether it was done before.
async fn polled(times: u32, work: impl Future) -> bool {
    let (mut work, mut left) = (pin!(work), times);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        work.as_mut().poll(context).map(|_| true)
    })
    .await
}

/// Nobody waits for the answer to a request whose client is gone, nor for a commit longer than was asked. Wherever work is given
/// up, no transaction stays open on the connection, in which others would do what they take to be stored at once.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_given_up_anywhere_leaves_no_transaction_open() {
    let database = TempDatabase::new().await;
    let mut small = options(&database.url());
    // One to hear of work, so that all else is done on the other one.
    small.connections_max = 2;
    let clock = FakeClock::new();
    let (mut owner, mut given_up_in_all) = (database.owner().await, 0);
    for work in ["claim", "purges"] {
        let store = PostgresStore::open(&small, clock.clone()).await.unwrap();
        let listens = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
                       WHERE datname = current_database() AND state = 'idle' AND query LIKE 'LISTEN %')";
        while !sqlx::query_scalar::<_, bool>(listens).fetch_one(&mut owner).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Which is made now, and not while something is given up.
        assert_eq!(store.meta("noted").await.unwrap(), None);
        // Where a poll gets to depends on when the answer comes.
        for _ in 0..5 {
            let (mut given_up, mut is_done) = (0, false);
            while !is_done {
                let now = clock.now();
                let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 1 };
                is_done = match work {
                    "claim" => polled(given_up + 1, store.claim(claim)).await,
                    _ => polled(given_up + 1, store.purges_head()).await,
                };
                store.meta_or_insert("noted", "value".to_owned()).await.unwrap();
                let delete = "DELETE FROM aionis_meta WHERE key = 'noted'";
                let stored = sqlx::query(delete).execute(&mut owner).await.unwrap();
                assert_eq!(stored.rows_affected(), 1, "{work}: it was given up after {} polls", given_up + 1);
                given_up += u32::from(!is_done);
            }
            given_up_in_all += given_up;
        }
        store.close().await;
    }
    assert!(given_up_in_all > 0, "nothing was ever given up");
}

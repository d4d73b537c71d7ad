//! What a connection costs between two pieces of work, and who gets one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    ports::store::{LifecycleStore, RecallReader, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    conformance::soon,
    fixtures::{FakeClock, START, WriteBuilder, node_id, scope},
    postgres::{PrivateServer, TempDatabase, options},
    proxy::ChaosProxy,
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// Connections of stores to the database one is connected to.
const OURS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'aionis'";

async fn number(owner: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(owner).await.unwrap().get(0)
}

/// The pool would ask after each question and each transaction whether the connection still works.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_one_round_trip_and_a_transaction_its_statements() {
    let server = PrivateServer::start(false);
    let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let proxy = ChaosProxy::start(behind);
    let url = server.url("postgres").replace(&behind.to_string(), &proxy.address().to_string());
    let store = PostgresStore::open(&options(&url), FakeClock::new()).await.unwrap();
    let s = scope("s");
    store.write(WriteBuilder::new(&s).node("a", "text").prepared()).await.unwrap();
    let ids = [node_id(&s, "a")];
    let (mut questions, mut transactions) = (usize::MAX, usize::MAX);
    // What is done for the first time is prepared, and others are told of the write: the fewest count.
    for _ in 0..5 {
        let before = proxy.sent();
        for _ in 0..10 {
            assert_eq!(store.rows(&s, &ids).await.unwrap().len(), 1);
        }
        questions = questions.min(proxy.sent() - before);
        let before = proxy.sent();
        for _ in 0..10 {
            store.record_use(&s, &ids, START, Timestamp(START.0 - 1)).await.unwrap();
        }
        transactions = transactions.min(proxy.sent() - before);
    }
    // Begun, set, worked in, committed.
    assert_eq!((questions, transactions), (10, 40));
    store.close().await;
}

/// Who listens and loses the connection gets another one, with few connections that others ask for all the time.
#[tokio::test(flavor = "multi_thread")]
async fn listening_begins_again_while_few_connections_are_in_use() {
    let database = TempDatabase::new().await;
    let mut few = options(&database.url());
    few.connections_max = 3;
    let store = Arc::new(PostgresStore::open(&few, FakeClock::new()).await.unwrap());
    let (s, mut owner) = (scope("s"), database.owner().await);
    store.write(WriteBuilder::new(&s).node("a", "text").prepared()).await.unwrap();
    let ids: [NodeId; 1] = [node_id(&s, "a")];
    let listener = "SELECT COALESCE(max(pid), 0)::bigint FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = 'aionis' AND query ILIKE 'LISTEN%'";
    let mut before = 0;
    for _ in 0..2 {
        soon("there is another one who listens", async {
            loop {
                let now = number(&mut owner, listener).await;
                if now != 0 && now != before {
                    before = now;
                    break;
                }
                // All that are left are in use at once, waited for, and kept.
                for row in join_all((0..8).map(|_| store.rows(&s, &ids))).await {
                    assert_eq!(row.unwrap().len(), 1);
                }
            }
        })
        .await;
        number(&mut owner, &format!("SELECT pg_terminate_backend({before})::int::bigint")).await;
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_closes_those_that_are_kept() {
    let database = TempDatabase::new().await;
    let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
    let (s, mut owner) = (scope("s"), database.owner().await);
    store.write(WriteBuilder::new(&s).node("a", "text").prepared()).await.unwrap();
    let ids = [node_id(&s, "a")];
    join_all((0..8).map(|_| store.rows(&s, &ids))).await;
    assert!(number(&mut owner, OURS).await > 1);
    let started = Instant::now();
    store.close().await;
    // The longest that is waited for a server that does not answer.
    assert!(started.elapsed() < Duration::from_secs(5), "nothing had to be waited for");
    soon("all connections are gone", async { while number(&mut owner, OURS).await > 0 {} }).await;
    assert!(store.rows(&s, &ids).await.is_err());
}

/// Giving back a connection takes a task, for which there may be no runtime any more.
#[test]
fn a_store_may_be_dropped_after_its_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (store, database) = runtime.block_on(async {
        let database = TempDatabase::new().await;
        let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
        let s = scope("s");
        store.write(WriteBuilder::new(&s).node("a", "text").prepared()).await.unwrap();
        assert_eq!(store.rows(&s, &[node_id(&s, "a")]).await.unwrap().len(), 1);
        (store, database)
    });
    drop(runtime);
    drop(store);
    drop(database);
}

//! What a request costs does not grow with the tables, whenever its plan was made.

use std::{collections::BTreeMap, time::Duration};

use aionis_core::{
    clock::{Clock, Timestamp},
    ports::store::{
        ClaimRequest, DenseQuery, EmbeddedNode, FailedItem, OutboxStore, RecallReader, RecallStore, WriteStore,
    },
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{DIM, FakeClock, WriteBuilder, anyone, everything, scope},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// Nodes of one write.
const NODES: usize = 20;

/// Entries that were read of the program's indexes, and rows of tables read as a whole, so far.
async fn entries_read(connection: &mut PgConnection) -> BTreeMap<String, i64> {
    // What left a queue stays in the queue's index until it is vacuumed: how much of that is read is not ours to bound. The
    // same goes for the one row of the scope, which every round changes: its former versions stay until no transaction of
    // the server, other tests' among them, is older. Those of partitions are named by their columns.
    let sql = "SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes WHERE relname LIKE 'memory_%' \
               AND indexrelname NOT IN ('memory_nodes_pending', 'memory_outbox_open', 'memory_scopes_pkey') \
               AND indexrelname !~ '_(embedding_pending_at|tenant_id_available_at)_idx$' \
               UNION ALL SELECT relname::text, seq_tup_read FROM pg_stat_user_tables WHERE relname LIKE 'memory_%'";
    let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<Option<i64>, _>(1).unwrap_or(0))).collect()
}

/// Writes new nodes, touches one, replaces one, has their vectors derived, one of them in vain.
async fn round(store: &PostgresStore, clock: &FakeClock, n: usize) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s)
        .deriving()
        .key(&format!("k{n}"), true)
        .node(&format!("again{}", n / 4), &format!("version {n}"));
    for at in 0..NODES {
        write = write.node(&format!("n{n}-{at}"), &format!("text {n} {at}"));
    }
    for at in 1..NODES {
        write = write.edge(&format!("n{n}-0"), &format!("n{n}-{at}"));
    }
    let outcome = store.write(write.clone().prepared()).await.unwrap();
    // The same again: told by its key. A part of it again: told by what is stored.
    assert!(store.write(write.prepared()).await.unwrap().replayed);
    let again = WriteBuilder::new(&s)
        .parent(outcome.commit_id)
        .deriving()
        .node(&format!("n{n}-1"), &format!("text {n} 1"))
        .node(&format!("n{n}-0"), &format!("text {n} 0"))
        .edge(&format!("n{n}-0"), &format!("n{n}-1"));
    store.write(again.clone().prepared()).await.unwrap();
    store.write(again.prepared()).await.unwrap();
    store.commit_ids(&s, &[outcome.commit_seq]).await.unwrap();
    let touch = WriteBuilder::new(&s)
        .node(&format!("n{n}-0"), &format!("text {n} 0"))
        .with(|node| (node.salience, node.tier) = (Some(0.9), Some(aionis_core::model::Tier::Warm)));
    store.write(touch.prepared()).await.unwrap();
    store.scope_status(&s).await.unwrap();
    let (filter, vector) = (everything(anyone()), vec![0.5; DIM]);
    let hits =
        store.dense(DenseQuery { scope: s.clone(), filter, vector, limit: 5, scored: 5, exact: false }).await.unwrap();
    let ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
    store.rows(&s, &ids).await.unwrap();
    store.stored_vectors(&s, &ids).await.unwrap();
    let now = clock.now();
    let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 10 };
    let items = store.claim(claim).await.unwrap();
    assert_eq!(items.len(), 1);
    store.extend(&items, Timestamp(now.0 + 1_000_000)).await.unwrap();
    let texts = store.pending_texts(&items).await.unwrap();
    assert_eq!(texts.len(), NODES + 1);
    if n.is_multiple_of(2) {
        let again = FailedItem { item: items[0].clone(), error: "no".to_owned(), retry_at: Some(now), counts: false };
        store.fail(vec![again], now).await.unwrap();
        let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 10 };
        complete(store, &store.claim(claim).await.unwrap(), texts, now).await;
    } else {
        complete(store, &items, texts, now).await;
    }
}

async fn complete(
    store: &PostgresStore,
    items: &[aionis_core::ports::store::OutboxItem],
    texts: Vec<aionis_core::ports::store::PendingText>,
    now: Timestamp,
) {
    let nodes = texts.into_iter().enumerate().map(|(at, text)| EmbeddedNode {
        scope: text.scope,
        id: text.id,
        digest: text.digest,
        result: if at == 3 { Err("no".to_owned()) } else { Ok(vec![1.0; DIM]) },
    });
    store.complete(items, nodes.collect(), "m", now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reads_as_much_of_a_large_table_as_of_a_small_one() {
    let (few, many) = (TempDatabase::flat().await, TempDatabase::flat().await);
    is_no_more(&entries_per_round(&few, 0..10).await, &entries_per_round(&many, 0..400).await);
}

/// On partitioned tables every statement is planned by what the server knows of the tables just then, so that it reads the
/// whole of one with a few rows. Among those that are larger, size makes no difference.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_reads_as_much_of_a_large_partition_as_of_a_smaller_one() {
    let mut read = Vec::new();
    for rounds in [100, 400] {
        let database = TempDatabase::partitioned().await;
        entries_per_round(&database, 0..rounds).await;
        sqlx::raw_sql("ANALYZE").execute(&mut database.owner().await).await.unwrap();
        let mut entries = entries_per_round(&database, rounds..rounds + 20).await;
        // The image of the scope is loaded once by the process that measures.
        entries.retain(|index, _| !index.ends_with("_change_no_idx") && !index.starts_with("memory_vectors_"));
        assert!(entries.len() > 50, "{entries:?}");
        read.push(entries);
    }
    is_no_more(&read[0], &read[1]);
}

fn is_no_more(few: &BTreeMap<String, i64>, many: &BTreeMap<String, i64>) {
    let grown: Vec<_> =
        many.iter().filter(|(index, read)| **read > 2 * few.get(*index).copied().unwrap_or(0) + 10).collect();
    assert!(grown.is_empty(), "entries read in a round, per index: of large tables {grown:?}, of small ones {few:?}");
}

/// Entries of each index that a round reads on average.
async fn entries_per_round(database: &TempDatabase, rounds: std::ops::Range<usize>) -> BTreeMap<String, i64> {
    let mut options = options(&database.url());
    // Few connections: each plans its statements while the tables are empty, and keeps the plans.
    options.connections_max = 2;
    let mut owner = database.owner().await;
    // An analysis that the server begins by itself keeps former versions of rows from being passed over.
    let sql = "SELECT format('ALTER TABLE %s SET (autovacuum_enabled = off)', oid::regclass) FROM pg_class \
               WHERE relkind = 'r' AND relname LIKE 'memory_%'";
    for row in sqlx::query(sql).fetch_all(&mut owner).await.unwrap() {
        sqlx::raw_sql(AssertSqlSafe(row.get::<String, _>(0))).execute(&mut owner).await.unwrap();
    }
    let before = entries_read(&mut owner).await;
    let clock = FakeClock::new();
    let store = PostgresStore::open(&options, clock.clone()).await.unwrap();
    let count = i64::try_from(rounds.len()).unwrap();
    for n in rounds {
        round(&store, &clock, n).await;
    }
    // The server has all figures when the connections are gone.
    store.close().await;
    drop(store);
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while sqlx::query(others).fetch_one(&mut owner).await.unwrap().get::<i64, _>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let read = |(index, read): (String, i64)| {
        let so_far = before.get(&index).copied().unwrap_or(0);
        (index, (read - so_far) / count)
    };
    entries_read(&mut owner).await.into_iter().map(read).collect()
}

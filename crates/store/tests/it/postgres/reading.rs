//! What recall reads of the tables: where a row was seen last, or by its key, in one round trip on whatever connection.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::Clock,
    ids::{NodeId, ScopeKey},
    ports::store::{DenseHit, DenseQuery, NodeRow, RecallReader, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{DIM, FakeClock, Rng, WriteBuilder, anyone, everything, node_id, scope, scope_of},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, PgConnection};

use super::plans::{Tap, alone};

/// Nodes of a scope.
const NODES: usize = 60;
/// What every question of a recall contains.
const QUESTION: &str = "asker";

/// Fills scopes in turn, so that their rows lie among each other.
async fn fill(store: &PostgresStore, scopes: &[&ScopeKey]) {
    let mut rng = Rng::new(11);
    for n in 0..NODES {
        for s in scopes {
            let write = WriteBuilder::new(s).node(&format!("n{n}"), &format!("text {n}")).vector(rng.vector(DIM));
            store.write(write.prepared()).await.unwrap();
        }
    }
}

/// A question for every vector of a scope.
fn everything_of(s: &ScopeKey) -> DenseQuery {
    let (scope, filter, vector) = (s.clone(), everything(anyone()), vec![1.0; DIM]);
    DenseQuery { scope, filter, vector, limit: NODES, scored: NODES, exact: false }
}

/// What a recall reads of rows; the rows as they are told.
async fn read(store: &PostgresStore, s: &ScopeKey) -> (Vec<DenseHit>, Vec<String>) {
    store.scope_status(s).await.unwrap();
    let hits = store.dense(everything_of(s)).await.unwrap();
    let ids: Vec<NodeId> = (0..NODES).map(|n| node_id(s, &format!("n{n}"))).collect();
    (hits, store.rows(s, &ids).await.unwrap().iter().map(told).collect())
}

fn told(row: &NodeRow) -> String {
    format!("{row:?}")
}

/// How often an index was looked into, once nobody else is connected.
async fn looked_into(owner: &mut PgConnection, index: &str) -> i64 {
    alone(owner).await;
    let sql = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1";
    sqlx::query_scalar(sql).bind(index).fetch_one(owner).await.unwrap()
}

async fn open(database: &TempDatabase) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_where_they_were_seen_and_found_where_they_have_moved() {
    let database = TempDatabase::flat().await;
    let (mut owner, s) = (database.owner().await, scope("s"));
    let store = open(&database).await;
    fill(&store, &[&scope_of("other", "s"), &s]).await;
    store.close().await;
    let before = looked_into(&mut owner, "memory_nodes_pkey").await;
    let before_of_vectors = looked_into(&mut owner, "memory_vectors_pkey").await;
    let store = open(&database).await;
    let found = read(&store, &s).await;
    assert_eq!((found.0.len(), found.1.len()), (NODES, NODES));
    assert_eq!(read(&store, &s).await, found);
    store.close().await;
    assert_eq!(looked_into(&mut owner, "memory_nodes_pkey").await, before, "every row lay where it had been seen");
    let store = open(&database).await;
    assert_eq!(read(&store, &s).await, found);
    // Every row moves to where another one was, some of them to where one of the other tenant was.
    for table in ["memory_nodes", "memory_vectors"] {
        let sql = format!("CLUSTER {table} USING {table}_pkey");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(read(&store, &s).await, found);
    }
    store.close().await;
    let looked = looked_into(&mut owner, "memory_nodes_pkey").await - before;
    assert!(looked > 0 && looked <= NODES as i64, "each row that moved is looked for once, not {looked} times");
    // A store that is opened looks for one vector, an image that is loaded for each: two were.
    let looked = looked_into(&mut owner, "memory_vectors_pkey").await - before_of_vectors - 2 * (NODES as i64 + 1);
    assert!(looked > 0 && looked <= NODES as i64, "each vector that moved is looked for once, not {looked} times");
}

/// There a place is one of the partition.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_partitions_are_found_where_they_have_moved_too() {
    let database = TempDatabase::partitioned().await;
    let (mut owner, s) = (database.owner().await, scope("s"));
    let store = open(&database).await;
    fill(&store, &[&scope_of("other", "s"), &s]).await;
    let found = read(&store, &s).await;
    assert_eq!((found.0.len(), found.1.len()), (NODES, NODES));
    for table in ["memory_nodes", "memory_vectors"] {
        let sql = format!("CLUSTER {table} USING {table}_pkey");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(read(&store, &s).await, found);
    }
}

/// A place is learnt with every change: what is read there is what is there now, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_anew_is_read_as_it_is_now() {
    let database = TempDatabase::flat().await;
    let s = scope("s");
    let (reads, writes) = (open(&database).await, open(&database).await);
    fill(&writes, &[&s]).await;
    read(&reads, &s).await;
    let write = |text: &str| WriteBuilder::new(&s).node("n7", text).vector(vec![1.0; DIM]).prepared();
    writes.write(write("another text")).await.unwrap();
    let (hits, rows) = read(&reads, &s).await;
    assert_eq!(hits[0].id, node_id(&s, "n7"), "its vector is the very one that is asked for");
    assert!((hits[0].similarity - 1.0).abs() < 1e-6, "{:?}", hits[0]);
    assert!(rows[7].contains("\"another text\""), "{}", rows[7]);
    // The image has not heard of this one when the rows are read.
    writes.write(write("yet another text")).await.unwrap();
    let rows = reads.rows(&s, &[node_id(&s, "n7")]).await.unwrap();
    assert_eq!(rows[0].text_summary.as_deref(), Some("yet another text"));
}

/// The nearest of a scope that has likely not changed, asked for as a recall does; none if they would be of another state.
async fn read_quiet(store: &PostgresStore, s: &ScopeKey) -> Option<Vec<DenseHit>> {
    let (status, held) = store.held_status(s).await.unwrap().expect("the scope is quiet");
    assert_eq!(status.oldest_pending, None);
    store.dense_if_unchanged(everything_of(s), held).await.unwrap()
}

/// Looks at a scope until no change is expected.
async fn wait_until_quiet(store: &PostgresStore, s: &ScopeKey) {
    for looked in 0.. {
        if store.held_status(s).await.unwrap().is_some() {
            return;
        }
        assert!(looked < 10, "never quiet");
        store.scope_status(s).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_quiet_scope_it_is_asked_with_its_vectors_whether_it_has_changed() {
    let database = TempDatabase::flat().await;
    let s = scope("s");
    let writes = open(&database).await;
    fill(&writes, &[&s]).await;
    let tap = Tap::before(&database.url()).await;
    let reads = PostgresStore::open(&options(&tap.url), FakeClock::new()).await.unwrap();
    assert!(reads.held_status(&s).await.unwrap().is_none(), "nothing is held yet");
    wait_until_quiet(&reads, &s).await;
    let found = read(&reads, &s).await.0;
    // Connections are made meanwhile, as for hints of others, and what they are set up by is no question.
    let before = tap.executed(QUESTION);
    assert_eq!(read_quiet(&reads, &s).await.as_ref(), Some(&found));
    assert_eq!(tap.executed(QUESTION), before + 1, "one look at the database");
    reads.scope_status(&s).await.unwrap();
    assert_eq!(tap.executed(QUESTION), before + 2, "a look is heard that was prepared before");

    // Another process writes.
    let write = |n: usize| WriteBuilder::new(&s).node(&format!("new{n}"), "new").vector(vec![1.0; DIM]).prepared();
    writes.write(write(0)).await.unwrap();
    assert_eq!(read_quiet(&reads, &s).await, None);
    assert!(reads.held_status(&s).await.unwrap().is_none(), "where there was a change another one is likely");
    assert_eq!(read(&reads, &s).await.0[0].id, node_id(&s, "new0"));

    // The image learns of a change from another request: what was seen before is no more.
    wait_until_quiet(&reads, &s).await;
    let (_, held) = reads.held_status(&s).await.unwrap().unwrap();
    writes.write(write(1)).await.unwrap();
    reads.scope_status(&s).await.unwrap();
    assert_eq!(reads.dense_if_unchanged(everything_of(&s), held).await.unwrap(), None);

    // This one knows of its own changes without asking.
    wait_until_quiet(&reads, &s).await;
    reads.write(write(2)).await.unwrap();
    assert!(reads.held_status(&s).await.unwrap().is_none());
}

/// Since when vectors are waited for changes with the scope alone: what was read of it tells as long as that is confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_whose_vectors_are_waited_for_may_be_quiet_as_well() {
    let (database, s, clock) = (TempDatabase::flat().await, scope("s"), FakeClock::new());
    let store = async |url: &str| PostgresStore::open(&options(url), Arc::<FakeClock>::clone(&clock)).await.unwrap();
    let tap = Tap::before(&database.url()).await;
    let (reads, writes) = (store(&tap.url).await, store(&database.url()).await);
    fill(&writes, &[&s]).await;
    // Another scope of the tenant waits for longer.
    writes.write(WriteBuilder::new(&scope("t")).deriving().node("earlier", "earlier").prepared()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    let write = |name: &str| WriteBuilder::new(&s).deriving().node(name, name);
    let mut since = Vec::new();
    for name in ["first", "second"] {
        writes.write(write(name).prepared()).await.unwrap();
        since.push(clock.now());
        clock.advance(Duration::from_secs(60));
    }
    for (left, oldest, brought) in
        [(2, Some(since[0]), Some("first")), (1, Some(since[1]), Some("second")), (0, None, None)]
    {
        wait_until_quiet(&reads, &s).await;
        let before = tap.executed(QUESTION);
        let (status, held) = reads.held_status(&s).await.unwrap().unwrap();
        assert_eq!((status.pending, status.oldest_pending), (left, oldest));
        assert!(reads.dense_if_unchanged(everything_of(&s), held).await.unwrap().is_some());
        assert_eq!(tap.executed(QUESTION), before + 1, "one look at the database");
        if let Some(name) = brought {
            writes.write(write(name).vector(vec![1.0; DIM]).prepared()).await.unwrap();
            assert_eq!(reads.dense_if_unchanged(everything_of(&s), held).await.unwrap(), None, "it has come since");
        }
    }
}

/// One that was purged and written again has as many changes as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_was_purged_and_written_again_is_not_taken_for_the_former_one() {
    let database = TempDatabase::flat().await;
    let (mut owner, s) = (database.owner().await, scope("s"));
    let (reads, writes) = (open(&database).await, open(&database).await);
    fill(&writes, &[&s]).await;
    wait_until_quiet(&reads, &s).await;
    assert!(read_quiet(&reads, &s).await.is_some());
    for sql in
        ["UPDATE memory_scopes SET incarnation = gen_random_uuid()", "UPDATE memory_scopes SET state = 'purging'"]
    {
        wait_until_quiet(&reads, &s).await;
        sqlx::raw_sql(sql).execute(&mut owner).await.unwrap();
        assert_eq!(read_quiet(&reads, &s).await, None, "{sql}");
    }
    assert!(read(&reads, &s).await.0.is_empty(), "it is being purged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_vectors_that_may_be_seen_is_not_confirmed() {
    let database = TempDatabase::flat().await;
    let s = scope("s");
    let store = open(&database).await;
    let write = WriteBuilder::new(&s).node("a", "a").with(|node| {
        node.memory_lane = Some(aionis_core::model::Lane::Private);
        node.owner_agent_id = Some("ann".to_owned());
    });
    store.write(write.vector(vec![1.0; DIM]).prepared()).await.unwrap();
    wait_until_quiet(&store, &s).await;
    assert_eq!(read_quiet(&store, &s).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_asked_again_when_its_connection_was_closed() {
    let database = TempDatabase::flat().await;
    let (mut owner, s) = (database.owner().await, scope("s"));
    let store = open(&database).await;
    fill(&store, &[&s]).await;
    let found = read(&store, &s).await;
    for _ in 0..3 {
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        sqlx::raw_sql(sql).execute(&mut owner).await.unwrap();
        assert_eq!(read(&store, &s).await, found);
    }
}

/// Citus hands on what `SET LOCAL` sets, and nothing else: there a transaction says for whom a question is.
#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_in_transactions_where_the_database_is_distributed() {
    for is_distributed in [false, true] {
        let database = TempDatabase::flat().await;
        if is_distributed {
            let pretend = "SET allow_system_table_mods = on; INSERT INTO pg_extension \
                           (oid, extname, extowner, extnamespace, extrelocatable, extversion) \
                           SELECT 1, 'citus', extowner, extnamespace, false, '0' FROM pg_extension LIMIT 1";
            sqlx::raw_sql(pretend).execute(&mut database.owner().await).await.unwrap();
        }
        let tap = Tap::before(&database.url()).await;
        let store = PostgresStore::open(&options(&tap.url), FakeClock::new()).await.unwrap();
        let s = scope("s");
        fill(&store, &[&s]).await;
        for _ in 0..2 {
            assert_eq!(read(&store, &s).await.1.len(), NODES);
        }
        let questions: Vec<_> = tap.told().into_iter().filter(|sent| sent.sql.contains(QUESTION)).collect();
        assert!(questions.len() >= 3, "the head, the vectors, the rows: {}", questions.len());
        for sent in questions {
            let is_said = sent.settings.iter().any(|setting| setting.contains("SET LOCAL aionis.tenant = 'default'"));
            assert_eq!(is_said, is_distributed, "{}: {:?}", sent.sql, sent.settings);
        }
    }
}

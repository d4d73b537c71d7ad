//! No statement of a request reads a whole table.

use aionis_core::ports::store::{ClaimRequest, EdgeQuery, OutboxStore, RecallStore, WriteStore};
use aionis_store::postgres::{PostgresStore, VectorSearch};
use aionis_testkit::{
    fixtures::{DIM, FakeClock, WriteBuilder, anyone, scope},
    postgres::{TempDatabase, options},
};
use sqlx::{PgConnection, Row};

/// Sequential scans of the program's tables so far.
async fn sequential_scans(connection: &mut PgConnection) -> Vec<(String, i64)> {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let rows = sqlx::query(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE relname LIKE 'memory_%' ORDER BY relname",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<Option<i64>, _>(1).unwrap_or(0))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_recalling_and_deriving_use_indexes_from_the_first_row_on() {
    for search in [VectorSearch::Codes, VectorSearch::Hnsw] {
        no_table_is_read_as_a_whole(search).await;
    }
}

async fn no_table_is_read_as_a_whole(search: VectorSearch) {
    let database = TempDatabase::new().await;
    let mut options = options(&database.url());
    // The smallest scope goes by the vector index here, so that its plan is seen too.
    options.exact_max = 0;
    options.vector_search = search;
    options.connections_max = 2;
    // The first start may make an index, which reads the table; its figures are in once its connections are gone.
    PostgresStore::open(&options, FakeClock::new()).await.unwrap().close().await;
    let mut owner = database.owner().await;
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while sqlx::query(others).fetch_one(&mut owner).await.unwrap().get::<i64, _>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let before = sequential_scans(&mut owner).await;
    let store = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
    let s = scope("s");
    for n in 0..40 {
        let write = WriteBuilder::new(&s)
            .deriving()
            .key(&format!("k{n}"), true)
            .node(&format!("a{n}"), &format!("text {n}"))
            .node(&format!("b{n}"), "with a vector")
            .vector((0..DIM).map(|at| if at == n % DIM { 1.0 } else { 0.1 }).collect())
            .node("again", &format!("version {n}"))
            .edge(&format!("a{n}"), "again");
        store.write(write.prepared()).await.unwrap();
        let touch =
            WriteBuilder::new(&s).node(&format!("b{n}"), "with a vector").with(|node| node.salience = Some(0.9));
        store.write(touch.prepared()).await.unwrap();
    }
    for _ in 0..10 {
        let status = store.scope_status(&s).await.unwrap();
        assert_eq!(status.head_seq, 80);
        let query = aionis_core::ports::store::DenseQuery {
            scope: s.clone(),
            filter: aionis_testkit::fixtures::everything(anyone()),
            vector: vec![1.0; DIM],
            limit: 5,
            exact: false,
        };
        let hits = store.dense(query).await.unwrap();
        let ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
        assert_eq!(ids.len(), 5);
        store.rows(&s, &ids).await.unwrap();
        store.commit_ids(&s, &[1, 2, 3]).await.unwrap();
        store.stored_vectors(&s, &ids).await.unwrap();
        let around = EdgeQuery { scope: s.clone(), around: ids, min_weight: 0.0, min_confidence: 0.0, limit: 10 };
        store.edges_around(around).await.unwrap();
        let claim = ClaimRequest {
            worker: "w".to_owned(),
            now: aionis_testkit::fixtures::START,
            lease: std::time::Duration::from_secs(1),
            limit: 4,
        };
        let items = store.claim(claim).await.unwrap();
        store.extend(&items, aionis_testkit::fixtures::START).await.unwrap();
        let texts = store.pending_texts(&items).await.unwrap();
        let nodes = texts
            .into_iter()
            .map(|text| aionis_core::ports::store::EmbeddedNode {
                scope: text.scope,
                id: text.id,
                digest: text.digest,
                result: Ok(vec![1.0; DIM]),
            })
            .collect();
        store.complete(&items, nodes, "m", aionis_testkit::fixtures::START).await.unwrap();
    }
    // A backend tells its figures when it is idle or ends.
    store.close().await;
    assert_eq!(sequential_scans(&mut owner).await, before, "tables that were read as a whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_an_index_would_be_noticed() {
    let database = TempDatabase::new().await;
    let mut owner = database.owner().await;
    let before = sequential_scans(&mut owner).await;
    let sql = "SELECT COUNT(*) FROM memory_nodes WHERE text_summary = 'x'";
    sqlx::query(sql).execute(&mut database.owner().await).await.unwrap();
    let mut tries = 0;
    while sequential_scans(&mut owner).await == before {
        tries += 1;
        assert!(tries < 1_000, "a scan of a whole table was not counted");
        tokio::task::yield_now().await;
    }
}

//! What both layouts are asked, and as whom.

use aionis_store::postgres::{PostgresOptions, PostgresStore, VectorSearch, partition::BackfillOptions};
use aionis_testkit::{fixtures::FakeClock, postgres::options};

use super::{Bed, ENSURE, checks, execute};

/// By way of the index where there is one on both sides; otherwise every vector is compared.
#[tokio::test(flavor = "multi_thread")]
async fn questions_go_the_way_the_program_goes() {
    let mut bed = Bed::new().await;
    let hnsw = PostgresOptions { vector_search: VectorSearch::Hnsw, ..options(&bed.database.url()) };
    PostgresStore::open(&hnsw, FakeClock::new()).await.unwrap().close().await;
    bed.admin.ensure(&ENSURE).await.unwrap();
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    let asked = bed.admin.shadow_read(&checks().shadow).await.unwrap();
    let queries = asked.summary.as_ref().unwrap().queries;
    assert!(asked.ok && queries > 0 && asked.by_index == queries, "{asked:?}");
    let mut owner = bed.owner().await;
    execute(
        &mut owner,
        "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexname FROM pg_indexes WHERE tablename = 'memory_vectors' \
         AND indexdef LIKE '%USING hnsw%'); END $$",
    )
    .await;
    let asked = bed.admin.shadow_read(&checks().shadow).await.unwrap();
    assert!(asked.ok && asked.by_index == 0, "{asked:?}");
}

/// A policy that is missing on one side is not seen by whoever compares rows as the owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_would_not_see_is_missing_from_the_answers() {
    let mut bed = Bed::backfilled().await;
    bed.get_ready().await;
    let mut owner = bed.owner().await;
    execute(
        &mut owner,
        "DO $$ DECLARE p record; BEGIN FOR p IN SELECT policyname FROM pg_policies WHERE tablename = 'memory_nodes_v2' LOOP \
         EXECUTE format('DROP POLICY %I ON memory_nodes_v2', p.policyname); END LOOP; END $$",
    )
    .await;
    let asked = bed.admin.shadow_read(&checks().shadow).await.unwrap();
    assert_eq!(asked.summary.unwrap().overlap_min, 0.0);
    assert!(!asked.ok);
    assert_eq!(bed.failing().await, ["rls_and_grants", "shadow_read"]);
}

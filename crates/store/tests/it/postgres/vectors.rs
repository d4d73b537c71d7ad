//! Recall of both searches against the exact one, in a large scope and in small ones beside it.

use std::{collections::HashMap, sync::Arc};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    model::Viewer,
    ports::store::{DenseHit, DenseQuery, RecallReader, WriteStore},
};
use aionis_store::{
    EmbeddingSpace,
    postgres::{PostgresStore, VectorSearch},
};
use aionis_testkit::{
    fixtures::{ClusteredVectors, FakeClock, WriteBuilder, agent, anyone, everything, scope},
    postgres::{TempDatabase, options},
};

async fn open(database: &TempDatabase, dim: usize, search: VectorSearch) -> Arc<PostgresStore> {
    let mut options = options(&database.url());
    options.space = Some(EmbeddingSpace { name: "test:large".to_owned(), dim });
    options.vector_search = search;
    Arc::new(PostgresStore::open(&options, FakeClock::new()).await.unwrap())
}

/// Writes vectors; one in fifty is shared, the rest is private to "owner".
async fn fill(store: &PostgresStore, scope: &ScopeKey, vectors: &mut ClusteredVectors, dim: usize, count: usize) {
    for first in (0..count).step_by(500) {
        let mut write = WriteBuilder::new(scope).dim(dim);
        for n in first..(first + 500).min(count) {
            write = write.node(&format!("n{n}"), "").vector(vectors.any());
            if n % 50 != 0 {
                write = write.private(Some("owner"), None);
            }
        }
        store.write(write.prepared()).await.unwrap();
    }
}

async fn near(store: &PostgresStore, scope: &ScopeKey, viewer: Viewer, vector: &[f32], exact: bool) -> Vec<DenseHit> {
    let filter = everything(viewer);
    store
        .dense(DenseQuery { scope: scope.clone(), filter, vector: vector.to_vec(), limit: 10, scored: 10, exact })
        .await
        .unwrap()
}

async fn recall(store: &PostgresStore, scope: &ScopeKey, viewer: &Viewer, vectors: &mut ClusteredVectors) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for _ in 0..20 {
        let question = vectors.any();
        let exact: Vec<NodeId> =
            near(store, scope, viewer.clone(), &question, true).await.into_iter().map(|hit| hit.id).collect();
        let quick = near(store, scope, viewer.clone(), &question, false).await;
        assert_eq!(quick.len(), exact.len(), "never fewer than there are");
        wanted += exact.len();
        found += quick.iter().filter(|hit| exact.contains(&hit.id)).count();
    }
    found as f64 / wanted as f64
}

async fn check(dim: usize, search: VectorSearch, sizes: &[usize]) {
    let database = TempDatabase::new().await;
    let store = open(&database, dim, search).await;
    let mut vectors = ClusteredVectors::new(1, dim, 40);
    for size in sizes {
        fill(&store, &scope(&format!("s{size}")), &mut vectors, dim, *size).await;
    }
    sqlx::query("ANALYZE memory_vectors").execute(&mut database.owner().await).await.unwrap();
    for size in sizes {
        let s = scope(&format!("s{size}"));
        store.scope_status(&s).await.unwrap();
        for viewer in [agent("owner"), anyone()] {
            let mean = recall(&store, &s, &viewer, &mut vectors).await;
            assert!(mean >= 0.98, "recall@10 is {mean} in a scope of {size} for {viewer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn integer_codes_find_what_the_exact_search_finds() {
    check(384, VectorSearch::Codes, &[12_000, 1_500, 600, 80, 7]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_bit_codes_find_what_the_exact_search_finds() {
    check(1536, VectorSearch::Codes, &[8_000, 1_500, 600, 80, 7]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_index_finds_what_the_exact_search_finds() {
    check(384, VectorSearch::Hnsw, &[4_000, 1_500, 600, 80, 7]).await;
}

/// In a large scope only as many as asked are scored from their vectors, the others estimated; in a small one all are scored.
#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_be_scored_is_estimated_in_a_large_scope() {
    let (database, dim) = (TempDatabase::new().await, 768);
    let store = open(&database, dim, VectorSearch::Codes).await;
    let mut vectors = ClusteredVectors::new(1, dim, 20);
    for (size, is_estimated) in [(1_500, true), (600, false)] {
        let s = scope(&format!("s{size}"));
        fill(&store, &s, &mut vectors, dim, size).await;
        let filter = everything(agent("owner"));
        let exact = DenseQuery { scope: s, filter, vector: vectors.any(), limit: size, scored: size, exact: true };
        let some = DenseQuery { limit: 150, scored: 20, exact: false, ..exact.clone() };
        let exact: HashMap<NodeId, f64> =
            store.dense(exact).await.unwrap().into_iter().map(|hit| (hit.id, hit.similarity)).collect();
        let hits = store.dense(some).await.unwrap();
        assert_eq!(hits.len(), 150);
        let errors: Vec<f64> = hits.iter().map(|hit| (hit.similarity - exact[&hit.id]).abs()).collect();
        assert!(errors.iter().all(|error| *error < 0.03), "{errors:?}");
        let scored = errors.iter().filter(|error| **error < 1e-9).count();
        assert!(if is_estimated { (20..60).contains(&scored) } else { scored == 150 }, "{size}: {scored}");
    }
}

/// A database whose codes another version made: they are made anew at the next start, or nothing would be found.
#[tokio::test(flavor = "multi_thread")]
async fn codes_of_another_form_are_made_anew_at_the_start() {
    let database = TempDatabase::new().await;
    let (dim, s) = (600, scope("s"));
    let store = open(&database, dim, VectorSearch::Codes).await;
    let mut vectors = ClusteredVectors::new(1, dim, 20);
    fill(&store, &s, &mut vectors, dim, 1_200).await;
    let question = vectors.any();
    let found = near(&store, &s, agent("owner"), &question, false).await;
    assert_eq!(found.len(), 10);
    store.close().await;
    let mut owner = database.owner().await;
    let spoil =
        "UPDATE memory_vectors SET code = '\\x00'; UPDATE aionis_meta SET value = '1' WHERE key = 'vector_code_form'";
    sqlx::raw_sql(spoil).execute(&mut owner).await.unwrap();
    // Several processes may start at once.
    let (a, b) = tokio::join!(open(&database, dim, VectorSearch::Codes), open(&database, dim, VectorSearch::Codes));
    for store in [a, b] {
        assert_eq!(near(&store, &s, agent("owner"), &question, false).await, found);
    }
}

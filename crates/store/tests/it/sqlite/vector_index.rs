//! The inverted-file index of a large scope: it follows writes, respects filters, survives restarts, and is replaced when
//! it is damaged. A small threshold keeps these tests quick.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    model::Viewer,
    ports::store::{DenseQuery, RecallReader, WriteStore},
};
use aionis_store::sqlite::{EmbeddingSpace, SqliteStore};
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{ClusteredVectors, WriteBuilder, agent, anyone, everything, scope},
    sqlite::TempStore,
};

const DIM: usize = 64;
const FROM: usize = 2_000;

fn store() -> TempStore {
    TempStore::with(|options| {
        options.space = Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
        options.index_from = FROM;
    })
}

/// Writes nodes `from..to`; one in fifty is shared, the rest is private to "owner".
async fn fill(store: &SqliteStore, scope: &ScopeKey, vectors: &mut ClusteredVectors, from: usize, to: usize) {
    for first in (from..to).step_by(500) {
        let mut write = WriteBuilder::new(scope).dim(DIM);
        for n in first..(first + 500).min(to) {
            write = write.node(&format!("n{n}"), "").vector(vectors.any());
            if n % 50 != 0 {
                write = write.private(Some("owner"), None);
            }
        }
        store.write(write.prepared()).await.unwrap();
    }
}

async fn found(store: &SqliteStore, scope: &ScopeKey, viewer: Viewer, vector: &[f32], exact: bool) -> Vec<NodeId> {
    let query = DenseQuery {
        scope: scope.clone(),
        filter: everything(viewer),
        vector: vector.to_vec(),
        limit: 10,
        scored: 10,
        exact,
    };
    store.dense(query).await.unwrap().into_iter().map(|hit| hit.id).collect()
}

async fn indexed(store: &SqliteStore, scope: &ScopeKey) -> (usize, usize) {
    tokio::time::timeout(Duration::from_secs(60), store.wait_for_index(scope)).await.expect("no index came").unwrap()
}

async fn recall(store: &SqliteStore, scope: &ScopeKey, viewer: &Viewer, vectors: &mut ClusteredVectors) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    for _ in 0..50 {
        let question = vectors.any();
        let exact = found(store, scope, viewer.clone(), &question, true).await;
        let quick = found(store, scope, viewer.clone(), &question, false).await;
        assert_eq!(quick.len(), exact.len(), "never fewer than there are");
        wanted += exact.len();
        hits += quick.iter().filter(|id| exact.contains(id)).count();
    }
    hits as f64 / wanted as f64
}

async fn large(temp: &TempStore, s: &ScopeKey, vectors: &mut ClusteredVectors) -> Arc<SqliteStore> {
    let store = temp.store();
    store.scope_status(s).await.unwrap();
    fill(&store, s, vectors, 0, 3_000).await;
    indexed(&store, s).await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_one_in_fifty_passes_starves_nobody() {
    let (temp, s) = (store(), scope("s"));
    let mut vectors = ClusteredVectors::new(1, DIM, 30);
    let store = large(&temp, &s, &mut vectors).await;
    for viewer in [anyone(), agent("owner")] {
        let mean = recall(&store, &s, &viewer, &mut vectors).await;
        assert!(mean >= 0.98, "recall@10 for {viewer:?} is {mean}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_or_replaced_after_the_index_was_built_is_found() {
    let (temp, s) = (store(), scope("s"));
    let mut vectors = ClusteredVectors::new(2, DIM, 30);
    let store = large(&temp, &s, &mut vectors).await;
    // New nodes, and other vectors for stored ones: they change lists.
    let mut write = WriteBuilder::new(&s).dim(DIM);
    let fresh: Vec<Vec<f32>> = (0..400).map(|_| vectors.any()).collect();
    for (n, vector) in fresh.iter().enumerate() {
        write = write.node(&format!("n{}", 2_800 + n), "").vector(vector.clone()).private(Some("owner"), None);
    }
    let outcome = store.write(write.prepared()).await.unwrap();
    for ((id, _), vector) in outcome.nodes.iter().zip(&fresh) {
        assert_eq!(found(&store, &s, agent("owner"), vector, false).await[0], *id, "the nearest of itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_the_stored_index_and_vectors_written_since() {
    let (mut temp, s) = (store(), scope("s"));
    let mut vectors = ClusteredVectors::new(3, DIM, 30);
    let store = large(&temp, &s, &mut vectors).await;
    fill(&store, &s, &mut vectors, 3_000, 3_200).await;
    let shape = indexed(&store, &s).await;
    drop(store);
    temp.options.index_from = 0;
    temp.reopen().await;
    let store = temp.store();
    assert_eq!(indexed(&store, &s).await, shape, "read, not built: building is off");
    let mean = recall(&store, &s, &agent("owner"), &mut vectors).await;
    assert!(mean >= 0.98, "recall@10 is {mean}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_left_out_and_built_anew() {
    let (mut temp, s) = (store(), scope("s"));
    let mut vectors = ClusteredVectors::new(4, DIM, 30);
    drop(large(&temp, &s, &mut vectors).await);
    for damage in ["centroids = zeroblob(length(centroids))", "members = zeroblob(length(members))", "probes = -1"] {
        temp.abandon();
        temp.raw().execute(&format!("UPDATE memory_vector_index SET {damage}"), []).unwrap();
        temp.options.index_from = 0;
        temp.open().unwrap();
        let store = temp.store();
        store.scope_status(&s).await.unwrap();
        let none = tokio::time::timeout(Duration::ZERO, store.wait_for_index(&s)).await;
        assert!(none.is_err(), "{damage}: a damaged index must not serve");
        let mean = recall(&store, &s, &agent("owner"), &mut vectors).await;
        assert!(mean >= 0.98, "recall@10 is {mean} by the scan");
        drop(store);
        temp.options.index_from = FROM;
        temp.reopen().await;
        let store = temp.store();
        indexed(&store, &s).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_while_an_index_is_built_lose_nothing() {
    let (temp, s) = (store(), scope("s"));
    let mut vectors = ClusteredVectors::new(5, DIM, 30);
    let store = temp.store();
    store.scope_status(&s).await.unwrap();
    // The threshold is crossed at the fourth write; the rest goes on beside training.
    fill(&store, &s, &mut vectors, 0, 8_000).await;
    indexed(&store, &s).await;
    let all: Vec<(NodeId, Vec<f32>)> = {
        let ids: Vec<NodeId> = (0..8_000).map(|n| aionis_testkit::fixtures::node_id(&s, &format!("n{n}"))).collect();
        store.stored_vectors(&s, &ids).await.unwrap()
    };
    assert_eq!(all.len(), 8_000);
    for (id, vector) in all.iter().step_by(37) {
        assert_eq!(found(&store, &s, agent("owner"), vector, false).await[0], *id, "the nearest of itself");
    }
}

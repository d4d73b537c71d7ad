//! Recall of the quantised scan and of the index against the exact scan.

use aionis_core::{
    ids::{NodeId, ScopeKey},
    ports::store::{DenseHit, DenseQuery, RecallReader, WriteStore},
};
use aionis_store::sqlite::{EmbeddingSpace, SqliteStore};
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{ClusteredVectors, WriteBuilder, anyone, everything, nearest, scope},
    sqlite::TempStore,
};

const DIM: usize = 256;
const ALL: usize = 100_000;

fn store() -> TempStore {
    TempStore::with(|options| options.space = Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM }))
}

/// Fills a scope; returns what is in it.
async fn fill(
    store: &SqliteStore,
    scope: &ScopeKey,
    vectors: &mut ClusteredVectors,
    count: usize,
) -> Vec<(NodeId, Vec<f32>)> {
    let mut stored = Vec::with_capacity(count);
    while stored.len() < count {
        let mut write = WriteBuilder::new(scope).dim(DIM);
        let batch: Vec<Vec<f32>> = (0..(count - stored.len()).min(1_000)).map(|_| vectors.any()).collect();
        for (n, vector) in batch.iter().enumerate() {
            write = write.node(&format!("n{}", stored.len() + n), "").vector(vector.clone());
        }
        let outcome = store.write(write.prepared()).await.unwrap();
        stored.extend(outcome.nodes.into_iter().map(|(id, _)| id).zip(batch));
    }
    stored
}

async fn near(store: &SqliteStore, scope: &ScopeKey, question: &[f32], exact: bool) -> Vec<DenseHit> {
    let filter = everything(anyone());
    let query = DenseQuery { scope: scope.clone(), filter, vector: question.to_vec(), limit: 10, scored: 10, exact };
    store.dense(query).await.unwrap()
}

fn ids(hits: &[DenseHit]) -> Vec<NodeId> {
    hits.iter().map(|hit| hit.id).collect()
}

/// Share of the exact answer that the quick one has.
fn recall(quick: &[DenseHit], exact: &[DenseHit]) -> f64 {
    let quick = ids(quick);
    let found = ids(exact).iter().filter(|id| quick.contains(id)).count();
    found as f64 / exact.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_scan_of_twenty_thousand_vectors() {
    let (mut temp, s) = (store(), scope("s"));
    temp.options.index_from = 0;
    temp.reopen().await;
    let store = temp.store();
    let mut vectors = ClusteredVectors::new(20, DIM, 200);
    let stored = fill(&store, &s, &mut vectors, ALL / 5).await;
    let (mut sum, mut asked) = (0.0, Vec::new());
    for n in 0..20 {
        let question = vectors.any();
        let exact = near(&store, &s, &question, true).await;
        if n < 2 {
            assert_eq!(ids(&exact), ids(&nearest(&stored, &question, 10)), "the exact scan is exact");
        }
        let quick = near(&store, &s, &question, false).await;
        for hit in &quick {
            assert!(
                exact.iter().filter(|e| e.id == hit.id).all(|e| e.similarity.to_bits() == hit.similarity.to_bits())
            );
        }
        sum += recall(&quick, &exact);
        asked.push((question, quick));
    }
    let mean = sum / asked.len() as f64;
    assert!(mean >= 0.98, "recall@10 is {mean}");
    // With too little memory for the vectors themselves they are read from the database; the answers stay the same.
    drop(store);
    temp.options.image_bytes_max = 1;
    temp.reopen().await;
    for (question, quick) in asked {
        assert_eq!(near(&temp.store(), &s, &question, false).await, quick);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_over_a_hundred_thousand_vectors_in_one_scope() {
    let (mut temp, s) = (store(), scope("s"));
    let store = temp.store();
    let mut vectors = ClusteredVectors::new(100, DIM, 300);
    // The image is in use while it grows: it gets its index under way, and again when it has grown by half.
    store.scope_status(&s).await.unwrap();
    fill(&store, &s, &mut vectors, ALL).await;
    let shape = indexed(&store, &s).await;
    assert!(shape.1 * 4 < shape.0, "visits {} of {} lists", shape.1, shape.0);
    let questions: Vec<Vec<f32>> = (0..40).map(|_| vectors.any()).collect();
    let mean = mean_recall(&store, &s, &questions).await;
    assert!(mean >= 0.98, "recall@10 is {mean}");
    drop(store);
    // After a restart the stored index serves at once.
    temp.reopen().await;
    let store = temp.store();
    indexed(&store, &s).await;
    let mean = mean_recall(&store, &s, &questions).await;
    assert!(mean >= 0.98, "recall@10 is {mean} after a restart");
}

async fn indexed(store: &SqliteStore, scope: &ScopeKey) -> (usize, usize) {
    let wait = store.wait_for_index(scope);
    tokio::time::timeout(std::time::Duration::from_secs(300), wait).await.expect("no index came").unwrap()
}

async fn mean_recall(store: &SqliteStore, scope: &ScopeKey, questions: &[Vec<f32>]) -> f64 {
    let mut sum = 0.0;
    for question in questions {
        let exact = near(store, scope, question, true).await;
        sum += recall(&near(store, scope, question, false).await, &exact);
    }
    sum / questions.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_scopes_of_very_different_sizes() {
    let temp = store();
    let store = temp.store();
    let mut vectors = ClusteredVectors::new(50, DIM, 60);
    let mut left = ALL / 2;
    for n in 0..200 {
        let s = scope(&format!("s{n}"));
        // Each scope has about two thirds of the one before, so that most are small beside a few large ones.
        let size = if n < 25 { (left / 3).max(3) } else { 3 + n % 61 };
        left = left.saturating_sub(size);
        let stored = fill(&store, &s, &mut vectors, size).await;
        let (mut sum, questions) = (0.0, 4);
        for _ in 0..questions {
            let question = vectors.any();
            let exact = nearest(&stored, &question, 10);
            let quick = near(&store, &s, &question, false).await;
            assert_eq!(quick.len(), exact.len(), "never fewer than there are");
            sum += recall(&quick, &exact);
        }
        let mean = sum / f64::from(questions);
        assert!(mean >= 0.98, "recall@10 is {mean} in scope {n} of {size} vectors");
    }
}

//! Nearest vectors.

use aionis_core::{
    ids::{NodeId, ScopeKey},
    ports::store::{DenseHit, DenseQuery},
};

use super::Subject;
use crate::fixtures::{ClusteredVectors, DIM, Rng, WriteBuilder, agent, anyone, everything, nearest, node_id, scope};

/// Stores vectors under client ids `n0`, `n1`, …
async fn store_all(subject: &Subject, scope: &ScopeKey, vectors: &[Vec<f32>]) -> Vec<(NodeId, Vec<f32>)> {
    let mut write = WriteBuilder::new(scope);
    for (n, vector) in vectors.iter().enumerate() {
        write = write.node(&format!("n{n}"), "").vector(vector.clone());
    }
    let outcome = subject.write(write).await;
    outcome.nodes.into_iter().map(|(id, _)| id).zip(vectors.iter().cloned()).collect()
}

fn ids(hits: &[DenseHit]) -> Vec<NodeId> {
    hits.iter().map(|hit| hit.id).collect()
}

/// Both ways of searching agree with looking at every vector, similarities included.
pub async fn nearest_first_and_equal_to_an_exact_scan(subject: &Subject) {
    let s = scope("s");
    let mut vectors = ClusteredVectors::new(11, DIM, 12);
    let stored = store_all(subject, &s, &(0..400).map(|_| vectors.any()).collect::<Vec<_>>()).await;
    for _ in 0..20 {
        let question = vectors.any();
        let expected = nearest(&stored, &question, 10);
        for exact in [false, true] {
            let filter = everything(anyone());
            let query = DenseQuery { scope: s.clone(), filter, vector: question.clone(), limit: 10, scored: 10, exact };
            let hits = subject.store.dense(query).await.unwrap();
            assert_eq!(ids(&hits), ids(&expected), "exact: {exact}");
            for (hit, wanted) in hits.iter().zip(&expected) {
                assert!((hit.similarity - wanted.similarity).abs() < 1e-6, "{hit:?} {wanted:?}");
            }
        }
    }
}

/// Equal vectors have a fixed order.
pub async fn equal_distances_are_ordered_by_id(subject: &Subject) {
    let s = scope("s");
    let vector = Rng::new(3).vector(DIM);
    let mut stored = ids_of(store_all(subject, &s, &vec![vector.clone(); 7]).await);
    stored.sort_unstable();
    assert_eq!(ids(&subject.near(&s, &vector, 7).await), stored);
    assert_eq!(ids(&subject.near(&s, &vector, 3).await), stored[..3]);
}

fn ids_of(stored: Vec<(NodeId, Vec<f32>)>) -> Vec<NodeId> {
    stored.into_iter().map(|(id, _)| id).collect()
}

/// The order holds also where a search looks at some candidates only.
pub async fn more_equal_distances_than_candidates_are_ordered_by_id(subject: &Subject) {
    let s = scope("s");
    let vector = Rng::new(3).vector(DIM);
    let mut stored = ids_of(store_all(subject, &s, &vec![vector.clone(); 300]).await);
    stored.sort_unstable();
    assert_eq!(ids(&subject.near(&s, &vector, 5).await), stored[..5]);
}

/// Cosine is of directions.
pub async fn lengths_do_not_matter(subject: &Subject) {
    let s = scope("s");
    let (a, b) = (Rng::new(1).vector(DIM), Rng::new(2).vector(DIM));
    let scaled = |vector: &[f32], by: f32| vector.iter().map(|x| x * by).collect::<Vec<_>>();
    let stored = store_all(subject, &s, &[scaled(&a, 1e-6), scaled(&b, 1e6)]).await;
    let hits = subject.near(&s, &scaled(&a, 1e3), 2).await;
    assert_eq!(ids(&hits), [stored[0].0, stored[1].0]);
    assert!((hits[0].similarity - 1.0).abs() < 1e-6 && hits[0].similarity <= 1.0);
    let opposite = subject.near(&s, &scaled(&a, -1.0), 2).await;
    assert!((opposite[1].similarity + 1.0).abs() < 1e-6 && opposite[1].similarity >= -1.0);
}

/// A small scope gives what it has.
pub async fn fewer_vectors_than_asked_are_all_returned(subject: &Subject) {
    let s = scope("s");
    assert!(subject.near(&s, &[1.0; DIM], 5).await.is_empty(), "an empty scope has none");
    let mut vectors = ClusteredVectors::new(2, DIM, 2);
    store_all(subject, &s, &(0..3).map(|_| vectors.any()).collect::<Vec<_>>()).await;
    assert_eq!(subject.near(&s, &vectors.any(), 50).await.len(), 3);
    assert!(subject.near(&s, &vectors.any(), 0).await.is_empty());
}

/// One of a hundred is visible, and all visible ones are far from the question: still as many as asked.
pub async fn w_11_a_selective_filter_never_returns_fewer_than_asked(subject: &Subject) {
    let s = scope("s");
    let mut vectors = ClusteredVectors::new(5, DIM, 2);
    let mut mine = Vec::new();
    let mut write = WriteBuilder::new(&s);
    for n in 0..1500 {
        let rare = n % 100 == 0;
        let (owner, vector) = if rare { ("ann", vectors.of(1)) } else { ("bob", vectors.of(0)) };
        if rare {
            mine.push((node_id(&s, &format!("n{n}")), vector.clone()));
        }
        write = write.node(&format!("n{n}"), "").private(Some(owner), None).vector(vector);
    }
    subject.write(write).await;
    let question = vectors.of(0);
    for limit in [1, 10, 15, 40] {
        let hits = subject.near_for(&s, everything(agent("ann")), &question, limit).await;
        assert_eq!(ids(&hits), ids(&nearest(&mine, &question, limit)), "limit {limit}");
    }
    assert!(subject.near(&s, &question, 10).await.is_empty());
}

/// What a node meant before is not found.
pub async fn a_replaced_vector_is_not_found_any_more(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    let (old, new, other) = (Rng::new(1).vector(DIM), Rng::new(2).vector(DIM), Rng::new(3).vector(DIM));
    subject.write(WriteBuilder::new(&s).node("a", "one").vector(old.clone())).await;
    subject.write(WriteBuilder::new(&s).node("b", "two").vector(other)).await;
    assert!(subject.near(&s, &old, 1).await[0].similarity > 0.999);
    subject.write(WriteBuilder::new(&s).node("a", "three").vector(new.clone())).await;
    let hits = subject.near(&s, &old, 5).await;
    assert!(hits.len() == 2 && hits[0].similarity < 0.9, "{hits:?}");
    assert_eq!(subject.near(&s, &new, 1).await[0].id, a);
    let touch = subject.write(WriteBuilder::new(&s).node("a", "three").vector(old.clone())).await;
    assert_eq!(touch.nodes[0].1, "updated", "another vector of the same content");
    assert!(subject.near(&s, &old, 1).await[0].similarity > 0.999);
    assert_eq!(subject.store.stored_vectors(&s, &[a]).await.unwrap(), [(a, old)]);
}

/// New words make the old vector wrong at once.
pub async fn an_update_without_vector_is_not_found_until_one_is_derived(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    let old = Rng::new(1).vector(DIM);
    subject.write(WriteBuilder::new(&s).node("a", "one").vector(old.clone())).await;
    subject.write(WriteBuilder::new(&s).deriving().node("a", "two")).await;
    assert!(subject.near(&s, &old, 5).await.is_empty());
    assert!(subject.store.stored_vectors(&s, &[a]).await.unwrap().is_empty());
    assert_eq!(subject.found(&s, "two").await, [a], "its words are found meanwhile");
    subject.drain().await;
    let hits = subject.near(&s, &super::subject::vector_for("two"), 5).await;
    assert!(hits.len() == 1 && hits[0].id == a && hits[0].similarity > 0.999);
}

/// A scope is searched alone.
pub async fn other_scopes_are_not_searched(subject: &Subject) {
    let vector = Rng::new(1).vector(DIM);
    for name in ["s", "t"] {
        store_all(subject, &scope(name), &vec![vector.clone(); 3]).await;
    }
    for name in ["s", "t"] {
        let mut own: Vec<NodeId> = (0..3).map(|n| node_id(&scope(name), &format!("n{n}"))).collect();
        own.sort_unstable();
        assert_eq!(ids(&subject.near(&scope(name), &vector, 10).await), own);
    }
    assert!(subject.near(&scope("u"), &vector, 10).await.is_empty());
}

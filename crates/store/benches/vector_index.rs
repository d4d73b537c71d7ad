//! From how many vectors on an inverted-file index pays: exact scan against index, per size of scope.
//!
//! `cargo bench -p aionis-store --bench vector_index -- [SIZE…]` prints one line per size: median and 95th percentile of
//! a search for 200 in microseconds without and with the index, recall@10 against the exact scan in full precision, the
//! same with a filter that one vector in ten passes, and how long the index took to build.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement, not the program"
)]

use std::time::{Duration, Instant};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    ports::store::{DenseQuery, NodeFilter, RecallReader, WriteStore},
};
use aionis_store::sqlite::{EmbeddingSpace, SqliteStore};
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{ClusteredVectors, WriteBuilder, agent, anyone, everything, scope},
    sqlite::TempStore,
};

const DIM: usize = 256;
const QUESTIONS: usize = 300;

fn main() {
    let sizes: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 20_000, 50_000, 100_000, 200_000] } else { sizes };
    println!(
        "vectors   lists probes | scan p50  p95 us | index p50  p95 us | recall@10 | 1/10: scan  index us recall@10 | build s"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for size in sizes {
        runtime.block_on(measure(size));
    }
}

fn open(index_from: usize) -> TempStore {
    TempStore::with(|options| {
        options.space = Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
        options.index_from = index_from;
    })
}

async fn measure(size: usize) {
    let mut temp = open(0);
    let s = scope("s");
    let mut vectors = ClusteredVectors::new(7, DIM, (size / 500).max(20));
    fill(&temp.store(), &s, &mut vectors, size).await;
    let questions: Vec<Vec<f32>> = (0..QUESTIONS).map(|_| vectors.any()).collect();
    let (all, some) = (everything(agent("owner")), everything(anyone()));
    let (scan, scan_some) =
        (times(&temp.store(), &s, &all, &questions).await, times(&temp.store(), &s, &some, &questions).await);
    temp.options.index_from = 1;
    temp.reopen().await;
    let store = temp.store();
    let started = Instant::now();
    store.warm(1).await.unwrap();
    let shape = tokio::time::timeout(Duration::from_secs(600), store.wait_for_index(&s)).await.unwrap().unwrap();
    let built = started.elapsed();
    let (index, index_some) = (times(&store, &s, &all, &questions).await, times(&store, &s, &some, &questions).await);
    println!(
        "{size:>7} {:>7} {:>6} | {:>8} {:>4} | {:>9} {:>4} | {:>9.4} | {:>10} {:>6} {:>9.4} | {:.1}",
        shape.0,
        shape.1,
        scan.0,
        scan.1,
        index.0,
        index.1,
        recall(&store, &s, &all, &questions).await,
        scan_some.0,
        index_some.0,
        recall(&store, &s, &some, &questions).await,
        built.as_secs_f64(),
    );
}

async fn fill(store: &SqliteStore, scope: &ScopeKey, vectors: &mut ClusteredVectors, count: usize) {
    for first in (0..count).step_by(1_000) {
        let mut write = WriteBuilder::new(scope).dim(DIM);
        for n in first..(first + 1_000).min(count) {
            write = write.node(&format!("n{n}"), "").vector(vectors.any());
            if n % 10 != 0 {
                write = write.private(Some("owner"), None);
            }
        }
        store.write(write.prepared()).await.unwrap();
    }
}

fn query(scope: &ScopeKey, filter: &NodeFilter, vector: &[f32], limit: usize, exact: bool) -> DenseQuery {
    DenseQuery { scope: scope.clone(), filter: filter.clone(), vector: vector.to_vec(), limit, scored: limit, exact }
}

/// Median and 95th percentile in microseconds.
async fn times(store: &SqliteStore, scope: &ScopeKey, filter: &NodeFilter, questions: &[Vec<f32>]) -> (u128, u128) {
    let mut took = Vec::with_capacity(questions.len());
    for question in questions {
        let started = Instant::now();
        store.dense(query(scope, filter, question, 200, false)).await.unwrap();
        took.push(started.elapsed().as_micros());
    }
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 95 / 100])
}

async fn recall(store: &SqliteStore, scope: &ScopeKey, filter: &NodeFilter, questions: &[Vec<f32>]) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for question in questions.iter().take(100) {
        let exact: Vec<NodeId> = store
            .dense(query(scope, filter, question, 10, true))
            .await
            .unwrap()
            .into_iter()
            .map(|hit| hit.id)
            .collect();
        let quick = store.dense(query(scope, filter, question, 10, false)).await.unwrap();
        wanted += exact.len();
        found += quick.iter().filter(|hit| exact.contains(&hit.id)).count();
    }
    f64::from(u32::try_from(found).unwrap()) / wanted as f64
}

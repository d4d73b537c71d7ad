//! Recall of the codes against the exact search at size: one scope that is the whole table, and a few large scopes
//! among very many small ones.
//!
//! The rows are put in by SQL. What the engine writes beside a vector is copied from rows that it did write; ids, codes
//! and vectors differ. Nothing here looks at the chain, which does not know the copies.

use std::{ops::Range, time::Duration};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    model::Viewer,
    ports::store::{DenseQuery, RecallReader, WriteStore},
};
use aionis_store::{EmbeddingSpace, postgres::PostgresStore, vector_code};
use aionis_testkit::{
    fixtures::{ClusteredVectors, FakeClock, WriteBuilder, agent, anyone, everything, node_id, scope},
    postgres::{TempDatabase, options},
};
use futures_util::future::join_all;
use pgvector::Vector;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

const ALL: usize = 100_000;
/// Scopes that share a table, of each kind but the first.
const LARGE: [usize; 4] = [50_000, 30_000, 20_000, 20_000];
const SMALL: usize = 197;
/// Clusters, as in the test of the embedded engine.
const CLUSTERS: usize = 300;
/// One node of so many is shared, the first one always; the others are private to [`OWNER`].
const SHARED_EVERY: usize = 1_000;
const OWNER: &str = "owner";
/// Rows put in by one statement.
const CHUNK: usize = 2_000;

/// The nodes of a scope that are written; all others are copies of one of them.
const SHARED: &str = "shared";
const PRIVATE: &str = "private";

/// A table of vectors and who fills and asks it.
struct Table {
    store: PostgresStore,
    owner: PgConnection,
    dim: usize,
    // Last: it goes when nobody uses it any more.
    _database: TempDatabase,
}

impl Table {
    async fn new(dim: usize) -> Self {
        let database = TempDatabase::new().await;
        let mut options = options(&database.url());
        options.space = Some(EmbeddingSpace { name: "test:large".to_owned(), dim });
        // The first question reads the whole scope, on a server that other tests use at the same time.
        options.statement_timeout = Duration::from_secs(100);
        let store = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
        let mut owner = database.owner().await;
        // The copied rows are looked up by their keys, however much the tables have grown.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
            .execute(&mut owner)
            .await
            .unwrap();
        Self { store, owner, dim, _database: database }
    }

    /// Puts so many vectors into a scope.
    async fn fill(&mut self, scope: &ScopeKey, vectors: &mut ClusteredVectors, size: usize) {
        for (n, client_id) in [SHARED, PRIVATE].into_iter().enumerate() {
            let vector = vectors.any();
            let code = vector_code(&vector);
            let mut write = WriteBuilder::new(scope).dim(self.dim).node(client_id, "").vector(vector);
            if n > 0 {
                write = write.private(Some(OWNER), None);
            }
            self.store.write(write.prepared()).await.unwrap();
            let sql = "SELECT code FROM memory_vectors WHERE scope_key = $1 AND node_id = $2";
            let id = node_id(scope, client_id).0;
            let row = sqlx::query(sql).bind(scope.as_str()).bind(id).fetch_one(&mut self.owner).await.unwrap();
            assert_eq!(row.get::<Vec<u8>, _>(0), code, "copies get the code that the engine gives");
        }
        for first in (2..size).step_by(CHUNK) {
            self.copy(scope, vectors, first..(first + CHUNK).min(size)).await;
        }
        // An image asks for changes newer than it has seen.
        let sql = "UPDATE memory_scopes SET node_count = $2, vector_count = $2, change_no = change_no + 1 \
                   WHERE scope_key = $1";
        let count = i64::try_from(size).unwrap();
        sqlx::query(sql).bind(scope.as_str()).bind(count).execute(&mut self.owner).await.unwrap();
    }

    async fn copy(&mut self, scope: &ScopeKey, vectors: &mut ClusteredVectors, numbers: Range<usize>) {
        let (shared, private) = (node_id(scope, SHARED).0, node_id(scope, PRIVATE).0);
        let (mut ids, mut templates, mut codes, mut embeddings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for n in numbers {
            let vector = vectors.any();
            ids.push(Uuid::from_u128(n as u128));
            templates.push(if n % SHARED_EVERY == 0 { shared } else { private });
            codes.push(vector_code(&vector));
            embeddings.push(Vector::from(vector));
        }
        let sql = "INSERT INTO memory_nodes (scope_key, id, type, slots, memory_lane, owner_agent_id, tier, salience, \
                       salience_at, importance, confidence, version, digest, content_seq, commit_seq, commit_id, \
                       created_at, updated_at, embedding_status, embedding_model, embedding_ready_at, recall_flags, \
                       term_count, lexical_terms, change_no) \
                   SELECT m.scope_key, q.id, m.type, m.slots, m.memory_lane, m.owner_agent_id, m.tier, m.salience, \
                       m.salience_at, m.importance, m.confidence, m.version, m.digest, m.content_seq, m.commit_seq, \
                       m.commit_id, m.created_at, m.updated_at, m.embedding_status, m.embedding_model, \
                       m.embedding_ready_at, m.recall_flags, m.term_count, m.lexical_terms, s.change_no + 1 \
                   FROM memory_scopes s, UNNEST($2::uuid[], $3::uuid[]) AS q (id, template), LATERAL ( \
                       SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.template LIMIT 1) m \
                   WHERE s.scope_key = $1";
        sqlx::query(sql).bind(scope.as_str()).bind(&ids).bind(&templates).execute(&mut self.owner).await.unwrap();
        let sql = "INSERT INTO memory_vectors (scope_key, model, node_id, dim, source_digest, origin, gate, \
                       owner_agent_id, owner_team_id, created_at, code, embedding) \
                   SELECT m.scope_key, m.model, q.id, m.dim, m.source_digest, m.origin, m.gate, m.owner_agent_id, \
                       m.owner_team_id, m.created_at, q.code, q.embedding \
                   FROM UNNEST($2::uuid[], $3::uuid[], $4::bytea[], $5::vector[]) \
                       AS q (id, template, code, embedding), LATERAL ( \
                       SELECT * FROM memory_vectors WHERE scope_key = $1 AND node_id = q.template LIMIT 1) m";
        sqlx::query(sql)
            .bind(scope.as_str())
            .bind(&ids)
            .bind(&templates)
            .bind(codes)
            .bind(embeddings)
            .execute(&mut self.owner)
            .await
            .unwrap();
    }

    async fn near(
        &self,
        scope: &ScopeKey,
        viewer: &Viewer,
        question: &[f32],
        limit: usize,
        exact: bool,
    ) -> Vec<NodeId> {
        let filter = everything(viewer.clone());
        let query = DenseQuery { scope: scope.clone(), filter, vector: question.to_vec(), limit, scored: limit, exact };
        self.store.dense(query).await.unwrap().into_iter().map(|hit| hit.id).collect()
    }

    /// Share of the exact answers' best ten that the quick ones have.
    async fn recall(&self, scope: &ScopeKey, viewer: &Viewer, questions: &[Vec<f32>]) -> f64 {
        let (mut found, mut wanted, mut each) = (0, 0, Vec::new());
        for question in questions {
            let exact = self.near(scope, viewer, question, 10, true).await;
            let quick = self.near(scope, viewer, question, 10, false).await;
            assert_eq!(quick.len(), exact.len(), "never fewer than there are");
            wanted += exact.len();
            found += quick.iter().filter(|id| exact.contains(id)).count();
            each.push(quick);
        }
        let at_once = join_all(questions.iter().map(|question| self.near(scope, viewer, question, 10, false))).await;
        assert_eq!(at_once, each, "asked at once they get what each got by itself");
        found as f64 / wanted as f64
    }

    async fn ask(&self, scope: &ScopeKey, vectors: &mut ClusteredVectors, size: usize) {
        let status = self.store.scope_status(scope).await.unwrap();
        assert_eq!((status.nodes, status.pending), (size as u64, 0));
        let shared = size.div_ceil(SHARED_EVERY);
        // Everything passes the filter of the one, almost nothing that of the other.
        let viewers = if size > CHUNK {
            [(agent(OWNER), size, 40), (anyone(), shared, 10)]
        } else {
            [(agent(OWNER), size, 8), (anyone(), shared, 1)]
        };
        for (viewer, visible, questions) in viewers {
            let questions: Vec<Vec<f32>> = (0..questions).map(|_| vectors.any()).collect();
            let mean = self.recall(scope, &viewer, &questions).await;
            assert!(mean >= 0.98, "recall@10 is {mean} for {viewer:?} who sees {visible} of {size} vectors");
            for limit in [10, 100, 200] {
                let question = vectors.any();
                let found = self.near(scope, &viewer, &question, limit, false).await;
                assert_eq!(found.len(), limit.min(visible), "{limit} of {visible} in a scope of {size}");
            }
            if visible <= 190 {
                let question = vectors.any();
                let all = self.near(scope, &viewer, &question, visible + 10, false).await;
                assert_eq!(all, self.near(scope, &viewer, &question, visible + 10, true).await, "all, in order");
            }
        }
    }
}

/// Vectors as they may lie: in clusters; in clusters that have a direction in common; all around one centre; nowhere in
/// particular; closely around few centres.
fn kinds(dim: usize) -> [ClusteredVectors; 5] {
    let clustered = |seed: u64, clusters: usize| ClusteredVectors::new(seed, dim, clusters);
    [
        clustered(100, CLUSTERS),
        clustered(101, CLUSTERS).sharing(1.5),
        clustered(102, 1).spread(1.0),
        clustered(103, 1).spread(100.0),
        clustered(104, 4).spread(0.45),
    ]
}

/// Fills a table with scopes of these kinds and sizes, then asks in each: whatever else is in the table is there from the
/// start.
async fn check(dim: usize, scopes: &[(usize, usize)]) {
    let (mut table, mut kinds) = (Table::new(dim).await, kinds(dim));
    let name = |n: usize| scope(&format!("s{n}"));
    for (n, (kind, size)) in scopes.iter().enumerate() {
        table.fill(&name(n), &mut kinds[*kind], *size).await;
    }
    for (n, (kind, size)) in scopes.iter().enumerate() {
        table.ask(&name(n), &mut kinds[*kind], *size).await;
    }
    table.store.close().await;
}

/// Four large ones, each of another kind, and very many small ones.
fn very_different() -> Vec<(usize, usize)> {
    LARGE.into_iter().enumerate().map(|(n, size)| (n + 1, size)).chain((0..SMALL).map(|n| (0, 3 + n % 58))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_integer_codes_over_a_hundred_thousand_vectors_in_one_scope() {
    check(384, &[(0, ALL)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_integer_codes_in_two_hundred_very_different_scopes() {
    check(384, &very_different()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_bit_codes_over_a_hundred_thousand_vectors_in_one_scope() {
    check(1536, &[(0, ALL)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_bit_codes_in_two_hundred_very_different_scopes() {
    check(1536, &very_different()).await;
}

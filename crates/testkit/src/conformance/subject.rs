use std::{any::Any, future::Future, sync::Arc, time::Duration};

use aionis_core::{
    clock::{Clock, Timestamp},
    error::DomainError,
    ids::{NodeId, ScopeKey},
    model::{EmbeddingStatus, RuleState, Viewer},
    ports::store::{
        ClaimRequest, DenseHit, DenseQuery, EdgeQuery, EmbeddedNode, LexicalQuery, NodeFilter, NodeRow, OutboxItem,
        ScopeStatus, Store, StoreError, SurroundingsQuery,
    },
    recall::{Surroundings, bm25::LexicalHits},
    text,
    write::WriteOutcome,
};
use async_trait::async_trait;

use crate::fixtures::{DIM, FakeClock, Rng, WriteBuilder, anyone, everything};

/// Name of the embedding space a subject must be opened with.
pub const MODEL: &str = "test:scripted";
/// Claims of one outbox item before a subject must give it up.
pub const ATTEMPTS_MAX: u32 = 3;
/// Lease of claims made by [`Subject::claim`].
pub const LEASE: Duration = Duration::from_secs(60);

/// What no port shows but cases must know or prepare.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// Kept versions of a node: number, commit that made it, commit that replaced it.
    async fn version_intervals(&self, scope: &ScopeKey, node: NodeId) -> Vec<(u32, u64, u64)>;

    /// Audit rows of a scope, oldest first.
    async fn audits(&self, scope: &ScopeKey) -> Vec<AuditRow>;

    /// Puts a rule into a state; called before the scope is read for the first time.
    async fn set_rule_state(&self, scope: &ScopeKey, rule: NodeId, state: RuleState);

    /// Makes the payloads of a scope's queued work unreadable.
    async fn spoil_work(&self, scope: &ScopeKey);

    /// Changes what is stored behind the program's back, by statements that each change at least one row.
    async fn tamper(&self, statements: &[String]);

    /// An id as a literal of the engine's SQL.
    fn id_literal(&self, id: uuid::Uuid) -> String;

    /// Nodes and edges of a scope with every column but the last commit, when a node was last changed, and numbers of rows
    /// and changes; ordered.
    async fn graph(&self, scope: &ScopeKey) -> Vec<String>;

    /// Rows that consolidation keeps of a node beside the node itself: pairs, merges, removed edges.
    async fn kept_of(&self, scope: &ScopeKey, node: NodeId) -> u64;
}

/// An audit row as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Endpoint.
    pub endpoint: String,
    /// Who asked.
    pub agent: Option<String>,
    /// Who asked.
    pub team: Option<String>,
    /// Digest of the question.
    pub query_sha256: String,
    /// Seeds, nodes and edges.
    pub counts: (u32, u32, u32),
    /// When.
    pub at: Timestamp,
}

/// A fresh store and what a case needs beside it.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The store's clock.
    pub clock: Arc<FakeClock>,
    /// What no port shows.
    pub inspect: Arc<dyn Inspect>,
    // After the store: whatever the store lives in.
    _home: Box<dyn Any + Send + Sync>,
}

/// Waits for something that must happen without anyone's help; fails the case instead of hanging.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

impl Subject {
    /// Puts a subject together; `home` is dropped after the store.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<FakeClock>,
        inspect: Arc<dyn Inspect>,
        home: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self { store, clock, inspect, _home: home }
    }

    /// The store's time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Stores a write.
    pub async fn write(&self, write: WriteBuilder) -> WriteOutcome {
        self.store.write(write.prepared()).await.expect("the write is stored")
    }

    /// Sends a write that must be refused as the caller's mistake.
    pub async fn refused(&self, write: WriteBuilder) -> DomainError {
        match self.store.write(write.prepared()).await {
            Err(StoreError::Rejected(error)) => error,
            other => panic!("the write must be refused, got {other:?}"),
        }
    }

    /// Status of a scope.
    pub async fn status(&self, scope: &ScopeKey) -> ScopeStatus {
        self.store.scope_status(scope).await.expect("a scope has a status")
    }

    /// Nearest vectors, for everyone's eyes.
    pub async fn near(&self, scope: &ScopeKey, vector: &[f32], limit: usize) -> Vec<DenseHit> {
        self.near_for(scope, everything(anyone()), vector, limit).await
    }

    /// Nearest vectors under a filter.
    pub async fn near_for(&self, scope: &ScopeKey, filter: NodeFilter, vector: &[f32], limit: usize) -> Vec<DenseHit> {
        let query =
            DenseQuery { scope: scope.clone(), filter, vector: vector.to_vec(), limit, scored: limit, exact: false };
        self.store.dense(query).await.expect("vectors can be searched")
    }

    /// Documents that hold words of a question, for everyone's eyes.
    pub async fn words(&self, scope: &ScopeKey, question: &str) -> LexicalHits {
        self.words_for(scope, everything(anyone()), question, 50).await
    }

    /// Documents that hold words of a question under a filter.
    pub async fn words_for(&self, scope: &ScopeKey, filter: NodeFilter, question: &str, limit: usize) -> LexicalHits {
        let query = LexicalQuery { scope: scope.clone(), filter, terms: text::query_terms(question), limit };
        self.store.lexical(query).await.expect("words can be searched")
    }

    /// Ids of documents that hold words of a question.
    pub async fn found(&self, scope: &ScopeKey, question: &str) -> Vec<NodeId> {
        self.words(scope, question).await.docs.into_iter().map(|doc| doc.id).collect()
    }

    /// Candidates, and what is around them for everyone's eyes.
    pub async fn surroundings(&self, scope: &ScopeKey, candidates: &[NodeId], names: &[&str]) -> Surroundings {
        let mut around = candidates.to_vec();
        around.sort_unstable();
        let edges = EdgeQuery {
            scope: scope.clone(),
            viewer: anyone(),
            around,
            min_weight: 0.0,
            min_confidence: 0.0,
            limit: 100,
        };
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.store.surroundings(SurroundingsQuery { edges, names }).await.expect("surroundings can be read")
    }

    /// Those of some nodes with one of these analysed titles.
    pub async fn named(&self, scope: &ScopeKey, names: &[&str], among: &[NodeId]) -> Vec<NodeId> {
        let around = self.surroundings(scope, among, names).await;
        let is_named = |id: &&NodeId| around.candidate(**id).is_some_and(|at| around.is_named[at]);
        among.iter().filter(is_named).copied().collect()
    }

    /// Nodes with one of these ids or client ids, for everyone's eyes.
    pub async fn quoted(&self, scope: &ScopeKey, literals: &[&str]) -> Vec<NodeId> {
        self.quoted_for(scope, &everything(anyone()), literals).await
    }

    /// Nodes with one of these ids or client ids under a filter.
    pub async fn quoted_for(&self, scope: &ScopeKey, filter: &NodeFilter, literals: &[&str]) -> Vec<NodeId> {
        let literals: Vec<String> = literals.iter().map(|&literal| literal.to_owned()).collect();
        self.store.quoted(scope, filter, &literals).await.expect("literals can be searched")
    }

    /// Rows of nodes.
    pub async fn rows(&self, scope: &ScopeKey, ids: &[NodeId]) -> Vec<NodeRow> {
        self.store.rows(scope, ids).await.expect("rows can be read")
    }

    /// The row of a node that is stored.
    pub async fn row(&self, scope: &ScopeKey, id: NodeId) -> NodeRow {
        self.rows(scope, &[id]).await.pop().expect("the node is stored")
    }

    /// State of a node's vector.
    pub async fn vector_state(&self, scope: &ScopeKey, id: NodeId) -> EmbeddingStatus {
        self.row(scope, id).await.embedding_status
    }

    /// Whether a viewer is shown a node when recall expands to it.
    pub async fn shows(&self, scope: &ScopeKey, id: NodeId, viewer: &Viewer) -> bool {
        !self.store.vitals(scope, &[id], viewer).await.expect("vitals can be read").is_empty()
    }

    /// Claims work for [`LEASE`] from now.
    pub async fn claim(&self, worker: &str, limit: usize) -> Vec<OutboxItem> {
        let request = ClaimRequest { worker: worker.to_owned(), now: self.now(), lease: LEASE, limit };
        self.store.claim(request).await.expect("work can be claimed")
    }

    /// Claims the one item there is.
    pub async fn claim_one(&self, worker: &str) -> OutboxItem {
        let mut items = self.claim(worker, 10).await;
        assert_eq!(items.len(), 1, "one item is available: {items:?}");
        items.remove(0)
    }

    /// Claims one item, which must be of this node.
    pub async fn claim_one_of(&self, worker: &str, node: NodeId) -> OutboxItem {
        let mut items = self.claim(worker, 1).await;
        assert_eq!(items.iter().map(|item| item.nodes.as_slice()).collect::<Vec<_>>(), [[node]]);
        items.remove(0)
    }

    /// Derives the vectors of claimed items and completes them; returns how many vectors were stored.
    pub async fn complete(&self, items: &[OutboxItem]) -> usize {
        let nodes = self.derive(items).await;
        self.complete_with(items, nodes).await
    }

    /// Completes claimed items with given results.
    pub async fn complete_with(&self, items: &[OutboxItem], nodes: Vec<EmbeddedNode>) -> usize {
        self.store.complete(items, nodes, MODEL, self.now()).await.expect("work can be completed")
    }

    /// Vectors for the texts of claimed items as they are stored now.
    pub async fn derive(&self, items: &[OutboxItem]) -> Vec<EmbeddedNode> {
        let texts = self.store.pending_texts(items).await.expect("texts can be read");
        texts
            .into_iter()
            .map(|pending| EmbeddedNode {
                result: Ok(vector_for(pending.text.as_deref().unwrap_or_default())),
                scope: pending.scope,
                id: pending.id,
                digest: pending.digest,
            })
            .collect()
    }

    /// Runs the queue until nothing is available now.
    pub async fn drain(&self) {
        loop {
            let items = self.claim("drain", 100).await;
            if items.is_empty() {
                return;
            }
            self.complete(&items).await;
        }
    }
}

/// A vector that depends on a text only.
pub(super) fn vector_for(text: &str) -> Vec<f32> {
    let seed = text.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Rng::new(seed).vector(DIM)
}

//! Asking both layouts the same: what was recalled lately is asked for again, in the role of the program, and by way of the
//! index of vectors where there is one.

use std::time::Instant;

use aionis_core::{
    ids::ScopeKey,
    partition::{CutoverState, ShadowSample, ShadowSummary, Step, summarise},
    ports::store::StoreError,
};
use pgvector::Vector;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::{
    Done, PartitionAdmin, PartitionError, catalogue,
    compare::{freeze, pairs},
    execute,
};
use crate::postgres::{
    dense::{index_candidates, index_order, index_settings},
    migrate::RUNTIME_ROLE,
    session::literal,
};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct ShadowOptions {
    /// Questions, over the scopes that were asked last.
    pub queries_max: u32,
    /// Answers to each.
    pub limit: u32,
    /// Smallest share of equal answers, 0 to 1, that any question may have.
    pub min_overlap: f64,
}

impl Default for ShadowOptions {
    fn default() -> Self {
        Self { queries_max: 20, limit: 20, min_overlap: 0.95 }
    }
}

/// What both answered.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowReport {
    /// Whether every question has the overlap; false also when there was nothing to ask.
    pub ok: bool,
    /// Whether there was nothing to ask.
    pub inconclusive: bool,
    /// Where the questions are from: `recalled` (vectors of nodes that recalls found last) or `newest` (of the newest
    /// nodes, where nothing was recalled yet).
    pub source: &'static str,
    /// Scopes asked.
    pub scopes: usize,
    /// Questions that were answered by way of an index of vectors, as the program asks with `AIONIS_VECTOR_SEARCH=hnsw`; the
    /// others by comparing every vector of the scope.
    pub by_index: usize,
    /// The smallest overlap allowed.
    pub min_overlap: f64,
    /// What came of it; none if there was nothing to ask.
    pub summary: Option<ShadowSummary>,
}

/// A question: the stored vector of a node, in its scope.
struct Question {
    scope: ScopeKey,
    model: String,
    vector: Vector,
}

/// The newest nodes that recalls found, or else the newest nodes at all, a few per scope.
async fn questions(connection: &mut PgConnection, max: u32) -> Done<(&'static str, Vec<Question>)> {
    for (source, condition, order) in
        [("recalled", "n.last_activated IS NOT NULL", "n.last_activated DESC"), ("newest", "true", "n.created_at DESC")]
    {
        // Every scope in turn, so that a busy one does not take all questions.
        let sql = format!(
            "SELECT scope_key, model, embedding FROM (SELECT n.scope_key, v.model, v.embedding, row_number() OVER \
                 (PARTITION BY n.scope_key ORDER BY n.at DESC, n.id) AS turn FROM (SELECT n.scope_key, n.id, \
                     COALESCE(n.last_activated, n.created_at) AS at FROM memory_nodes n WHERE {condition} \
                     ORDER BY {order}, n.id LIMIT 2000) n \
                 JOIN memory_vectors v ON v.scope_key = n.scope_key AND v.node_id = n.id) q ORDER BY turn, scope_key LIMIT $1"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(i64::from(max)).fetch_all(&mut *connection).await?;
        if !rows.is_empty() {
            let question = |row: &sqlx::postgres::PgRow| -> Done<_> {
                let scope = ScopeKey::from_stored(row.try_get(0)?).map_err(StoreError::from)?;
                Ok(Question { scope, model: row.try_get(1)?, vector: row.try_get(2)? })
            };
            return Ok((source, rows.iter().map(question).collect::<Done<_>>()?));
        }
    }
    Ok(("newest", Vec::new()))
}

/// The tables of one layout.
struct Layout {
    nodes: String,
    vectors: String,
}

impl Layout {
    /// Whether an index finds the vectors of a model.
    async fn is_indexed(&self, connection: &mut PgConnection, model: &str) -> Done<bool> {
        let of_model = format!("model = {}", literal(model));
        let indexes = catalogue::indexes(connection, &self.vectors).await?;
        Ok(indexes.iter().any(|index| index.of_vectors && index.valid && index.definition.contains(&of_model)))
    }

    /// The nearest nodes by their vectors, with what their contents say: node and digest, best first; and the time it took.
    async fn ask(
        &self,
        connection: &mut PgConnection,
        question: &Question,
        limit: u32,
        indexed: bool,
    ) -> Done<(Vec<(Uuid, Vec<u8>)>, u64)> {
        let Question { scope, model, vector } = question;
        let (dim, candidates) = (vector.as_slice().len(), index_candidates(limit as usize));
        let nearest = if indexed { index_order("$2", dim) } else { "embedding <=> $2, node_id".to_owned() };
        // Model and dimension stand in the text, because a partial index is matched by constants.
        let sql = format!(
            "SELECT n.id, n.digest FROM (SELECT node_id, embedding <=> $2 AS distance FROM {vectors} \
                 WHERE scope_key = $1 AND model = {model} AND dim = {dim} ORDER BY {nearest} LIMIT {candidates}) v \
             JOIN {nodes} n ON n.scope_key = $1 AND n.id = v.node_id ORDER BY v.distance, n.id LIMIT $3",
            vectors = self.vectors,
            nodes = self.nodes,
            model = literal(model),
        );
        let mut role = format!("SET LOCAL ROLE {RUNTIME_ROLE}; SET LOCAL aionis.tenant = {}", literal(scope.tenant()));
        if indexed {
            role = role + "; " + &index_settings(candidates);
        }
        // In a part of the transaction of its own, whose end takes role and settings back.
        execute(connection, &format!("SAVEPOINT asked; {role}")).await?;
        let started = Instant::now();
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(scope.as_str())
            .bind(vector)
            .bind(i64::from(limit))
            .fetch_all(&mut *connection)
            .await?;
        let elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        execute(connection, "ROLLBACK TO SAVEPOINT asked").await?;
        let answers = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Done<_>>()?;
        Ok((answers, elapsed_us))
    }
}

/// Asks both layouts, in one state of the database.
pub(super) async fn ask_both(
    connection: &mut PgConnection,
    state: CutoverState,
    options: &ShadowOptions,
) -> Done<ShadowReport> {
    let other = |pairs: &[(String, String)], table: &str| {
        pairs.iter().find(|(name, _)| name == table).map(|(_, other)| other.clone()).unwrap_or_else(|| table.to_owned())
    };
    let pairs = pairs(connection, state).await?;
    let in_use = Layout { nodes: "memory_nodes".to_owned(), vectors: "memory_vectors".to_owned() };
    let beside = Layout { nodes: other(&pairs, "memory_nodes"), vectors: other(&pairs, "memory_vectors") };
    freeze(connection).await?;
    let asked = async {
        let (source, questions) = questions(connection, options.queries_max).await?;
        let (mut samples, mut scopes, mut by_index) = (Vec::new(), std::collections::BTreeSet::new(), 0);
        for (at, question) in questions.iter().enumerate() {
            scopes.insert(question.scope.clone());
            let indexed = in_use.is_indexed(connection, &question.model).await?
                && beside.is_indexed(connection, &question.model).await?;
            by_index += usize::from(indexed);
            // In turn, so that what the first one reads into memory does not always speed up the other.
            let (used, shadow);
            if at % 2 == 0 {
                used = in_use.ask(connection, question, options.limit, indexed).await?;
                shadow = beside.ask(connection, question, options.limit, indexed).await?;
            } else {
                shadow = beside.ask(connection, question, options.limit, indexed).await?;
                used = in_use.ask(connection, question, options.limit, indexed).await?;
            }
            let (flat, partitioned) = if state == CutoverState::CutOver { (shadow, used) } else { (used, shadow) };
            samples.push(ShadowSample {
                flat: flat.0,
                partitioned: partitioned.0,
                flat_us: flat.1,
                partitioned_us: partitioned.1,
            });
        }
        let summary = summarise(&samples);
        let ok = summary.as_ref().is_some_and(|s| s.overlap_min >= options.min_overlap);
        let (inconclusive, min_overlap) = (summary.is_none(), options.min_overlap);
        Ok(ShadowReport { ok, inconclusive, source, scopes: scopes.len(), by_index, min_overlap, summary })
    };
    let asked = asked.await;
    execute(connection, "ROLLBACK").await?;
    asked
}

impl PartitionAdmin {
    /// Asks both layouts for what was recalled lately, and compares answers, order and latency.
    ///
    /// # Errors
    /// It is out of order; a failure of storage.
    pub async fn shadow_read(&mut self, options: &ShadowOptions) -> Result<ShadowReport, PartitionError> {
        let state = self.begin(Step::ShadowRead).await?;
        let done = ask_both(&mut self.connection, state, options).await;
        self.end().await?;
        done
    }
}

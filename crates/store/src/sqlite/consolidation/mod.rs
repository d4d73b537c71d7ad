//! Nodes that are alike, the queue of pairs, and merges inside the writing thread's transaction.

mod load;
mod store;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::consolidation::{
        Candidate, CandidateQuery, CandidateState, ConflictKind, MergeNode, MergeOutcome, MergePlan, MergeState,
        PairScore, Planned, PreparedMerge, Queued, plan_merge,
    },
    lifecycle::DecayBasis,
    model::{Lane, NodeType, Tier},
    ports::store::{ConsolidationStore, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::{
    SqliteStore,
    error::driver,
    purge::is_purging,
    rows::{blob, choice, digest, json, signed, unreadable, unsigned, uuid},
};
use crate::{
    consolidation::conflict,
    purge::{check_state, purging},
};
use aionis_image::Delta;

/// The columns of [`candidate`], in its order.
const CANDIDATE: &str = "pair_key, low_id, high_id, type, low_digest, high_digest, score, vector_similarity, \
     lexical_similarity, conflict_kind, conflict_score, shared_tokens, state";

/// A pair that waits is brought up to date. One that somebody accepted although it contradicts itself stays accepted.
const QUEUE: &str = "\
INSERT INTO memory_consolidation_candidates (scope_key, pair_key, low_id, high_id, type, low_digest, high_digest, score, \
    vector_similarity, lexical_similarity, conflict_kind, conflict_score, shared_tokens, state, created_at, updated_at) \
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?15 \
WHERE EXISTS (SELECT 1 FROM memory_nodes WHERE scope_key = ?1 AND id = ?3) \
    AND EXISTS (SELECT 1 FROM memory_nodes WHERE scope_key = ?1 AND id = ?4) \
ON CONFLICT (scope_key, pair_key) DO UPDATE SET low_digest = excluded.low_digest, high_digest = excluded.high_digest, \
    score = excluded.score, vector_similarity = excluded.vector_similarity, \
    lexical_similarity = excluded.lexical_similarity, conflict_kind = excluded.conflict_kind, \
    conflict_score = excluded.conflict_score, shared_tokens = excluded.shared_tokens, updated_at = excluded.updated_at, \
    state = CASE WHEN excluded.conflict_kind IS NULL THEN 'open' \
                 WHEN state = 'open' AND conflict_kind IS NOT NULL THEN 'open' ELSE 'review' END \
WHERE state IN ('open', 'review', 'gone')";

pub(super) fn run(connection: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<usize, StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(driver)
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let kind = row.get_ref(9)?;
    let kind = if kind.as_str_or_null()?.is_some() { Some(choice(row, 9, ConflictKind::parse)?) } else { None };
    Ok(Candidate {
        pair_key: row.get(0)?,
        low: NodeId(uuid(row, 1)?),
        high: NodeId(uuid(row, 2)?),
        node_type: choice(row, 3, NodeType::parse)?,
        digests: (digest(row, 4)?, digest(row, 5)?),
        score: PairScore {
            score: row.get(6)?,
            vector_similarity: row.get(7)?,
            lexical_similarity: row.get(8)?,
            conflict: conflict(kind, row.get(10)?, row.get(11)?),
        },
        state: choice(row, 12, CandidateState::parse)?,
    })
}

/// A node with what is compared and decided by.
pub(super) fn node(connection: &Connection, scope: &str, id: NodeId) -> Result<Option<MergeNode>, StoreError> {
    let sql = "SELECT id, type, digest, title, text_summary, slots, activity, memory_lane, owner_agent_id, owner_team_id, \
                   tier, salience, created_at, CASE WHEN embedding_status = 'ready' THEN embedding_model END, salience_at, \
                   last_activated \
               FROM memory_nodes WHERE scope_key = ?1 AND id = ?2";
    let read = |row: &Row<'_>| {
        let activity = row.get::<_, Option<String>>(6)?.map(|_| json(row, 6)).transpose()?;
        let (node_type, tier) = (choice(row, 1, NodeType::parse)?, choice(row, 10, Tier::parse)?);
        let (slots, created_at) = (json(row, 5)?, Timestamp(row.get(12)?));
        let times = (Timestamp(row.get(14)?), row.get::<_, Option<i64>>(15)?.map(Timestamp), created_at);
        Ok(MergeNode {
            id: NodeId(uuid(row, 0)?),
            node_type,
            decay: DecayBasis::of((node_type, tier), times, &slots, activity.as_ref()),
            digest: digest(row, 2)?,
            title: row.get(3)?,
            text_summary: row.get(4)?,
            slots,
            activity,
            lane: choice(row, 7, Lane::parse)?,
            owner_agent_id: row.get(8)?,
            owner_team_id: row.get(9)?,
            tier,
            salience: row.get(11)?,
            created_at,
            vector_model: row.get(13)?,
        })
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row((scope, blob(id.0)), read).optional())
        .map_err(|e| unreadable("memory_nodes", id, e))
}

fn queue(connection: &Connection, scope: &str, found: &[Candidate], now: Timestamp) -> Result<Queued, StoreError> {
    let mut queued = Queued::default();
    for pair in found {
        let key = "SELECT state FROM memory_consolidation_candidates WHERE scope_key = ?1 AND pair_key = ?2";
        let known: Option<String> = connection
            .prepare_cached(key)
            .and_then(|mut statement| statement.query_row((scope, &pair.pair_key), |row| row.get(0)).optional())
            .map_err(driver)?;
        let conflict = pair.score.conflict;
        let values = params![
            scope,
            pair.pair_key,
            blob(pair.low.0),
            blob(pair.high.0),
            pair.node_type.as_str(),
            pair.digests.0.0,
            pair.digests.1.0,
            pair.score.score,
            pair.score.vector_similarity,
            pair.score.lexical_similarity,
            conflict.map(|conflict| conflict.kind.as_str()),
            conflict.map(|conflict| conflict.score),
            conflict.map(|conflict| conflict.shared_tokens),
            pair.state.as_str(),
            now.0,
        ];
        match (run(connection, QUEUE, values)?, known) {
            (0, Some(_)) => queued.decided += 1,
            (0, None) => {}
            (_, None) => queued.new += 1,
            (_, Some(_)) => queued.waiting += 1,
        }
    }
    Ok(queued)
}

fn candidates(connection: &Connection, scope: &str, query: &CandidateQuery) -> Result<Vec<Candidate>, StoreError> {
    if is_purging(connection, scope)? {
        return Ok(Vec::new());
    }
    let states: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
    let (score, key) = query.after.clone().unzip();
    let sql = format!(
        "SELECT {CANDIDATE} FROM memory_consolidation_candidates WHERE scope_key = ?1 \
             AND state IN (SELECT value FROM json_each(?2)) AND (?3 IS NULL OR score < ?3 OR (score = ?3 AND pair_key > ?4)) \
         ORDER BY score DESC, pair_key LIMIT ?5"
    );
    let values = params![scope, serde_json::json!(states).to_string(), score, key, signed(query.limit as u64)];
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map(values, candidate).and_then(Iterator::collect))
        .map_err(|e| unreadable("memory_consolidation_candidates", scope, e))
}

/// Reads what planning asks for until there is a plan.
fn planned(connection: &Connection, asked: &PreparedMerge, now: Timestamp) -> Result<MergePlan, StoreError> {
    let scope = asked.scope.as_str();
    let mut state = MergeState::default();
    let head: Option<(u64, _, String)> = connection
        .prepare_cached("SELECT head_seq, head_hash, state FROM memory_scopes WHERE scope_key = ?1")
        .and_then(|mut statement| {
            statement.query_row([scope], |row| Ok((unsigned(row, 0)?, digest(row, 1)?, row.get(2)?))).optional()
        })
        .map_err(|e| unreadable("memory_scopes", scope, e))?;
    if let Some((seq, hash, mark)) = head {
        check_state(&mark, scope)?;
        state.head = (seq, hash);
    }
    loop {
        match plan_merge(asked, &state, now)? {
            Planned::Done(plan) => return Ok(*plan),
            Planned::Needs(needs) => {
                load::load(connection, scope, &needs, &mut state)?;
                state.loaded(*needs);
            }
        }
    }
}

#[async_trait]
impl ConsolidationStore for SqliteStore {
    async fn node_ids(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, NodeType)>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                if is_purging(connection, scope.as_str())? {
                    return Ok(Vec::new());
                }
                let sql = "SELECT id, type FROM memory_nodes WHERE scope_key = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
                let after: Vec<u8> = after.map(|id| blob(id.0).to_vec()).unwrap_or_default();
                let read = |row: &Row<'_>| Ok((NodeId(uuid(row, 0)?), choice(row, 1, NodeType::parse)?));
                connection
                    .prepare_cached(sql)
                    .and_then(|mut statement| {
                        let values = params![scope.as_str(), after, signed(limit as u64)];
                        statement.query_map(values, read).and_then(Iterator::collect)
                    })
                    .map_err(|e| unreadable("memory_nodes", scope.as_str(), e))
            })
            .await
    }

    async fn merge_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<MergeNode>, StoreError> {
        let (scope, mut ids) = (scope.clone(), ids.to_vec());
        self.readers
            .run(move |connection| {
                if is_purging(connection, scope.as_str())? {
                    return Ok(Vec::new());
                }
                ids.sort_unstable();
                ids.dedup();
                ids.into_iter().filter_map(|id| node(connection, scope.as_str(), id).transpose()).collect()
            })
            .await
    }

    async fn queue_candidates(
        &self,
        scope: &ScopeKey,
        found: &[Candidate],
        now: Timestamp,
    ) -> Result<Queued, StoreError> {
        let (scope, found) = (scope.clone(), found.to_vec());
        self.writer
            .submit(move |connection, _| {
                if is_purging(connection, scope.as_str())? {
                    return Err(purging(scope.as_str()));
                }
                queue(connection, scope.as_str(), &found, now)
            })
            .await
    }

    async fn candidates(&self, scope: &ScopeKey, query: &CandidateQuery) -> Result<Vec<Candidate>, StoreError> {
        let (scope, query) = (scope.clone(), query.clone());
        self.readers.run(move |connection| candidates(connection, scope.as_str(), &query)).await
    }

    async fn decide_candidate(
        &self,
        scope: &ScopeKey,
        pair_key: &str,
        state: CandidateState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (scope, key) = (scope.clone(), pair_key.to_owned());
        self.writer
            .submit(move |connection, _| {
                if is_purging(connection, scope.as_str())? {
                    return Err(purging(scope.as_str()));
                }
                let sql = "UPDATE memory_consolidation_candidates SET state = ?3, updated_at = ?4 \
                           WHERE scope_key = ?1 AND pair_key = ?2 AND state IN ('open', 'review')";
                run(connection, sql, params![scope.as_str(), key, state.as_str(), now.0]).map(|rows| rows > 0)
            })
            .await
    }

    async fn aliases(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                if is_purging(connection, scope.as_str())? {
                    return Ok(Vec::new());
                }
                let sql = "SELECT DISTINCT duplicate_id FROM memory_merges WHERE scope_key = ?1 AND duplicate_id > ?2 \
                           AND undone_seq IS NULL ORDER BY duplicate_id LIMIT ?3";
                let after: Vec<u8> = after.map(|id| blob(id.0).to_vec()).unwrap_or_default();
                connection
                    .prepare_cached(sql)
                    .and_then(|mut statement| {
                        let values = params![scope.as_str(), after, signed(limit as u64)];
                        statement.query_map(values, |row| uuid(row, 0).map(NodeId)).and_then(Iterator::collect)
                    })
                    .map_err(|e| unreadable("memory_merges", scope.as_str(), e))
            })
            .await
    }

    async fn merge(&self, asked: &PreparedMerge) -> Result<MergeOutcome, StoreError> {
        let (asked, shared) = (asked.clone(), std::sync::Arc::clone(&self.shared));
        if asked.dry_run {
            let look = move |connection: &Connection| planned(connection, &asked, shared.clock.now());
            return self.readers.run(look).await.map(|plan| plan.outcome);
        }
        self.writer
            .submit(move |connection, deltas: &mut Vec<Delta>| {
                let now = shared.clock.now();
                let plan = planned(connection, &asked, now)?;
                store::store(connection, deltas, asked.scope.as_str(), &plan, now)?;
                Ok(plan.outcome)
            })
            .await
    }
}

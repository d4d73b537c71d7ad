//! Nodes that are alike, the queue of pairs, and merges: lock the scope, read, plan, store.

mod load;
mod store;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::consolidation::{
        Candidate, CandidateQuery, CandidateState, ConflictKind, MergeAction, MergeNode, MergeOutcome, MergeState,
        PairScore, Planned, PreparedMerge, Queued, plan_merge,
    },
    model::NodeType,
    ports::store::{ConsolidationStore, StoreError},
};
use async_trait::async_trait;
use hashbrown::HashSet;
use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    error::{driver, is_transient, vanished},
    images::Freshness,
    purge::{beside_purge, is_purging, unless_purging},
    rows::{choice, digest, get, parsed, signed, unsigned},
    session::{For, Transaction, begin},
    write::lock_sql,
};
use crate::{
    consolidation::conflict,
    purge::{check_state, purging},
};

/// How often a transaction that lost against another one is run again.
const TRIES: u32 = 4;

/// The columns of [`candidate`], in its order.
const CANDIDATE: &str = "c.pair_key, c.low_id, c.high_id, c.type, c.low_digest, c.high_digest, c.score, c.vector_similarity, \
     c.lexical_similarity, c.conflict_kind, c.conflict_score, c.shared_tokens, c.state";

const KNOWN: &str = "\
SELECT c.pair_key FROM UNNEST($2::text[]) AS q (pair_key) \
CROSS JOIN LATERAL (SELECT pair_key FROM memory_consolidation_candidates \
    WHERE scope_key = $1 AND pair_key = q.pair_key LIMIT 1) c";

/// A pair that waits is brought up to date. One that somebody accepted although it contradicts itself stays accepted.
const QUEUE: &str = "\
INSERT INTO memory_consolidation_candidates AS t (scope_key, pair_key, low_id, high_id, type, low_digest, high_digest, score,
    vector_similarity, lexical_similarity, conflict_kind, conflict_score, shared_tokens, state, created_at, updated_at)
SELECT $1, q.*, $15, $15
FROM UNNEST($2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[], $7::bytea[], $8::float8[], $9::float8[],
    $10::float8[], $11::text[], $12::float8[], $13::bigint[], $14::text[])
    AS q (pair_key, low, high, type, low_digest, high_digest, score, vector, lexical, kind, conflict, shared, state)
WHERE (SELECT id FROM memory_nodes WHERE scope_key = $1 AND id = q.low LIMIT 1) IS NOT NULL
    AND (SELECT id FROM memory_nodes WHERE scope_key = $1 AND id = q.high LIMIT 1) IS NOT NULL
ON CONFLICT (scope_key, pair_key) DO UPDATE SET low_digest = excluded.low_digest, high_digest = excluded.high_digest,
    score = excluded.score, vector_similarity = excluded.vector_similarity,
    lexical_similarity = excluded.lexical_similarity, conflict_kind = excluded.conflict_kind,
    conflict_score = excluded.conflict_score, shared_tokens = excluded.shared_tokens, updated_at = excluded.updated_at,
    state = CASE WHEN excluded.conflict_kind IS NULL THEN 'open'
                 WHEN t.state = 'open' AND t.conflict_kind IS NOT NULL THEN 'open' ELSE 'review' END
WHERE t.state IN ('open', 'review', 'gone')
RETURNING pair_key";

const DECIDE: &str = "\
UPDATE memory_consolidation_candidates SET state = $3, updated_at = $4 \
WHERE scope_key = $1 AND pair_key = $2 AND state IN ('open', 'review')";

/// A page of nodes in the order of their ids.
const NODE_IDS: &str =
    "SELECT n.id, n.type FROM memory_nodes n WHERE n.scope_key = $1 AND n.id > $2 ORDER BY n.id LIMIT $3";

const ALIASES: &str = "\
SELECT DISTINCT m.duplicate_id FROM memory_merges m WHERE m.scope_no = hashtextextended($1, 0) \
    AND m.scope_key || '' = $1 AND m.duplicate_id > $2 AND m.undone_seq IS NULL ORDER BY m.duplicate_id LIMIT $3";

const HEAD: &str = "SELECT head_seq, head_hash, change_no, state FROM memory_scopes WHERE scope_key = $1";

fn candidate(row: &PgRow) -> Result<Candidate, StoreError> {
    let kind = get::<Option<&str>>(row, 9)?.map(|kind| parsed(kind, ConflictKind::parse)).transpose()?;
    Ok(Candidate {
        pair_key: get(row, 0)?,
        low: NodeId(get(row, 1)?),
        high: NodeId(get(row, 2)?),
        node_type: choice(row, 3, NodeType::parse)?,
        digests: (digest(row, 4)?, digest(row, 5)?),
        score: PairScore {
            score: get(row, 6)?,
            vector_similarity: get(row, 7)?,
            lexical_similarity: get(row, 8)?,
            conflict: conflict(kind, get(row, 10)?, get(row, 11)?),
        },
        state: choice(row, 12, CandidateState::parse)?,
    })
}

async fn queue(
    tx: &mut PgConnection,
    scope: &ScopeKey,
    found: &[Candidate],
    now: Timestamp,
) -> Result<Queued, StoreError> {
    let keys: Vec<&str> = found.iter().map(|pair| pair.pair_key.as_str()).collect();
    let rows = sqlx::query(KNOWN).bind(scope.as_str()).bind(&keys).fetch_all(&mut *tx).await.map_err(driver)?;
    let known: HashSet<String> = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let conflicts: Vec<_> = found.iter().map(|pair| pair.score.conflict).collect();
    let rows = sqlx::query(QUEUE)
        .bind(scope.as_str())
        .bind(&keys)
        .bind(found.iter().map(|pair| pair.low.0).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.high.0).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.node_type.as_str()).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.digests.0.0.to_vec()).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.digests.1.0.to_vec()).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.score.score).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.score.vector_similarity).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.score.lexical_similarity).collect::<Vec<_>>())
        .bind(conflicts.iter().map(|conflict| conflict.map(|c| c.kind.as_str())).collect::<Vec<_>>())
        .bind(conflicts.iter().map(|conflict| conflict.map(|c| c.score)).collect::<Vec<_>>())
        .bind(conflicts.iter().map(|conflict| conflict.map(|c| i64::from(c.shared_tokens))).collect::<Vec<_>>())
        .bind(found.iter().map(|pair| pair.state.as_str()).collect::<Vec<_>>())
        .bind(now.0)
        .fetch_all(tx)
        .await
        .map_err(driver)?;
    let stored: HashSet<String> = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let waiting = stored.intersection(&known).count() as u64;
    Ok(Queued { new: stored.len() as u64 - waiting, waiting, decided: known.difference(&stored).count() as u64 })
}

async fn merge(shared: &Shared, asked: &PreparedMerge) -> Result<MergeOutcome, StoreError> {
    let (now, scope) = (shared.clock.now(), &asked.scope);
    // Before the lock: reading an image may take as long as the scope is large. Edges at nodes are found by it.
    let image = match &asked.action {
        MergeAction::Redirect { .. } => Some(shared.images.get(shared, scope, Freshness::Now).await?),
        _ => None,
    };
    let lock = if asked.dry_run { String::new() } else { lock_sql(std::iter::once(scope), now) };
    let tenant = For::Tenant(scope.tenant());
    let mut tx = begin(&shared.pool, tenant, shared.options.statement_timeout, &lock).await?;
    let mut state = MergeState::default();
    let mut change_no = 0;
    if let Some(row) = sqlx::query(HEAD).bind(scope.as_str()).fetch_optional(&mut *tx).await.map_err(driver)? {
        check_state(get(&row, 3)?, scope.as_str())?;
        state.head = (unsigned(&row, 0)?, digest(&row, 1)?);
        change_no = get::<i64>(&row, 2)? + 1;
    } else if !asked.dry_run {
        return Err(vanished(scope.as_str()));
    }
    let plan = loop {
        match plan_merge(asked, &state, now)? {
            Planned::Done(plan) => break plan,
            Planned::Needs(needs) => {
                load::load(&mut tx, scope.as_str(), &needs, image.as_deref(), &mut state).await?;
                state.loaded(*needs);
            }
        }
    };
    if asked.dry_run || (plan.commit.is_none() && plan.candidates.is_empty()) {
        // Nothing is stored: the scope row that the lock may have made goes too.
        tx.rollback().await.map_err(driver)?;
        return Ok(plan.outcome);
    }
    store::store(&mut tx, scope.as_str(), &plan, change_no, now).await?;
    tx.commit().await.map_err(driver)?;
    if plan.commit.is_some() {
        shared.images.note(scope, change_no);
        shared.wake.committed(false);
    }
    Ok(plan.outcome)
}

impl PostgresStore {
    /// A transaction that reads a scope; nothing is there while it is purged.
    async fn begin_look(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, &unless_purging(scope)).await
    }

    /// A transaction that changes the queue of a scope; refused while it is purged.
    async fn begin_queue(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        let mut tx = begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, &beside_purge(scope)).await?;
        if is_purging(&mut tx, scope).await? {
            return Err(purging(scope.as_str()));
        }
        Ok(tx)
    }
}

#[async_trait]
impl ConsolidationStore for PostgresStore {
    async fn node_ids(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, NodeType)>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_look(scope).await?;
                let page = sqlx::query(NODE_IDS).bind(scope.as_str()).bind(after.map_or(Uuid::nil(), |id| id.0));
                let rows = page.bind(signed(limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
                rows.iter().map(|row| Ok((NodeId(get(row, 0)?), choice(row, 1, NodeType::parse)?))).collect()
            })
            .await
    }

    async fn merge_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<MergeNode>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_look(scope).await?;
                let mut ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
                ids.sort_unstable();
                ids.dedup();
                load::nodes(&mut tx, scope.as_str(), ids).await
            })
            .await
    }

    async fn queue_candidates(
        &self,
        scope: &ScopeKey,
        found: &[Candidate],
        now: Timestamp,
    ) -> Result<Queued, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_queue(scope).await?;
                let queued = queue(&mut tx, scope, found, now).await?;
                tx.commit().await.map_err(driver)?;
                Ok(queued)
            })
            .await
    }

    async fn candidates(&self, scope: &ScopeKey, query: &CandidateQuery) -> Result<Vec<Candidate>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_look(scope).await?;
                let sql = format!(
                    "SELECT {CANDIDATE} FROM memory_consolidation_candidates c \
                     WHERE c.scope_no = hashtextextended($1, 0) AND c.scope_key || '' = $1 AND c.state = ANY($2) \
                         AND ($3::float8 IS NULL OR c.score < $3 OR (c.score = $3 AND c.pair_key > $4)) \
                     ORDER BY c.score DESC, c.pair_key LIMIT $5"
                );
                let states: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
                let (score, key) = query.after.clone().unzip();
                let rows = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).bind(states).bind(score).bind(key);
                let rows = rows.bind(signed(query.limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
                rows.iter().map(candidate).collect()
            })
            .await
    }

    async fn decide_candidate(
        &self,
        scope: &ScopeKey,
        pair_key: &str,
        state: CandidateState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_queue(scope).await?;
                let decide = sqlx::query(DECIDE).bind(scope.as_str()).bind(pair_key).bind(state.as_str()).bind(now.0);
                let decided = decide.execute(&mut *tx).await.map_err(driver)?.rows_affected() > 0;
                tx.commit().await.map_err(driver)?;
                Ok(decided)
            })
            .await
    }

    async fn aliases(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_look(scope).await?;
                let page = sqlx::query(ALIASES).bind(scope.as_str()).bind(after.map_or(Uuid::nil(), |id| id.0));
                let rows = page.bind(signed(limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
                rows.iter().map(|row| row.try_get(0).map(NodeId).map_err(driver)).collect()
            })
            .await
    }

    async fn merge(&self, asked: &PreparedMerge) -> Result<MergeOutcome, StoreError> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.shared.patience.bounded(merge(&self.shared, asked)).await {
                Err(error) if is_transient(&error) && tried < TRIES => {
                    tokio::time::sleep(std::time::Duration::from_millis(20 << tried)).await;
                }
                done => return done,
            }
        }
    }
}

//! Storing what a merge is planned to change, set by set.

use aionis_core::{
    chain::changes_json,
    clock::Timestamp,
    ids::EdgeId,
    jobs::consolidation::{MergeEdge, MergePlan, MergeRow, RemovedEdge},
    ports::store::StoreError,
    write::NewCommit,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::{error::driver, rows::signed};

const CANDIDATES: &str = "\
UPDATE memory_consolidation_candidates c SET state = q.state, updated_at = $4 \
FROM UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::text[], $3::text[]) AS q (scope_key, pair_key, state) \
WHERE c.scope_key = q.scope_key AND c.pair_key = q.pair_key";

const COMMIT: &str = "\
WITH merge_commit AS (
    INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, input_sha256, request_sha256, changes,
        created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
), heads AS (
    UPDATE memory_scopes SET head_seq = $2, head_hash = $5, change_no = $12, updated_at = $11,
        edge_count = edge_count + $13
    WHERE scope_key = $1
), undone AS (
    UPDATE memory_merges m SET undone_seq = $2
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($16)]), $16::uuid[]) AS q (scope_key, id)
    WHERE m.scope_key = q.scope_key AND m.id = q.id
), restored AS (
    UPDATE memory_removed_edges e SET restored_seq = $2
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($17)]), $17::uuid[], $18::bigint[])
        AS q (scope_key, edge_id, removed_seq)
    WHERE e.scope_key = q.scope_key AND e.edge_id = q.edge_id AND e.removed_seq = q.removed_seq
)
UPDATE memory_nodes n SET activity = q.activity::jsonb, updated_at = $11, commit_seq = $2, commit_id = $3, change_no = $12
FROM UNNEST(array_fill($1::text, ARRAY[cardinality($14)]), $14::uuid[], $15::text[]) AS q (scope_key, id, activity)
WHERE n.scope_key = q.scope_key AND n.id = q.id";

const REMOVE_EDGES: &str = "\
DELETE FROM memory_edges t USING UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::uuid[]) AS q (scope_key, id) \
WHERE t.scope_key = q.scope_key AND t.id = q.id";

const PUT_EDGES: &str = "\
INSERT INTO memory_edges (scope_key, id, type, src_id, dst_id, weight, confidence, decay_rate, last_activated, created_at, \
    commit_seq, change_no) \
SELECT $1, q.*, $11, $12 \
FROM UNNEST($2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::float8[], $7::float8[], $8::float8[], $9::bigint[], \
    $10::bigint[]) AS q (id, type, src, dst, weight, confidence, decay_rate, last_activated, created_at) \
ON CONFLICT (scope_key, src_id, type, dst_id) DO UPDATE SET weight = excluded.weight, confidence = excluded.confidence, \
    decay_rate = excluded.decay_rate, last_activated = excluded.last_activated, commit_seq = excluded.commit_seq, \
    change_no = excluded.change_no";

const KEEP_MERGES: &str = "\
INSERT INTO memory_merges (scope_key, id, run_id, ordinal, cause_id, canonical_id, duplicate_id, pair_key, score, \
    prior_duplicate, prior_canonical, applied_seq, applied_at) \
SELECT $1, q.id, q.run, q.ordinal, q.cause, q.canonical, q.duplicate, q.pair_key, q.score, q.prior_duplicate::jsonb, \
    q.prior_canonical::jsonb, $12, $13 \
FROM UNNEST($2::uuid[], $3::uuid[], $4::bigint[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::float8[], $10::text[], \
    $11::text[]) AS q (id, run, ordinal, cause, canonical, duplicate, pair_key, score, prior_duplicate, prior_canonical)";

const KEEP_EDGES: &str = "\
INSERT INTO memory_removed_edges (scope_key, edge_id, src_id, type, dst_id, weight, confidence, decay_rate, last_activated, \
    created_at, commit_seq, role, target_id, base_weight, base_confidence, base_decay_rate, base_last_activated, \
    removed_seq, change_no) \
SELECT $1, q.*, $18, $19 \
FROM UNNEST($2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::float8[], $7::float8[], $8::float8[], $9::bigint[], \
    $10::bigint[], $11::bigint[], $12::text[], $13::uuid[], $14::float8[], $15::float8[], $16::float8[], $17::bigint[]) AS q";

pub(super) async fn store(
    tx: &mut PgConnection,
    scope: &str,
    plan: &MergePlan,
    change_no: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    if !plan.candidates.is_empty() {
        sqlx::query(CANDIDATES)
            .bind(scope)
            .bind(plan.candidates.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>())
            .bind(plan.candidates.iter().map(|(_, state)| state.as_str()).collect::<Vec<_>>())
            .bind(now.0)
            .execute(&mut *tx)
            .await
            .map_err(driver)?;
    }
    let Some(commit) = &plan.commit else { return Ok(()) };
    commit_notes(tx, scope, (plan, commit), change_no, now).await?;
    remove_edges(tx, scope, &plan.removed).await?;
    let seq = signed(commit.header.seq);
    put_edges(tx, scope, &plan.put, (seq, change_no)).await?;
    keep_merges(tx, scope, &plan.merges, (seq, now)).await?;
    keep_edges(tx, scope, &plan.kept, (seq, change_no)).await
}

async fn commit_notes(
    tx: &mut PgConnection,
    scope: &str,
    (plan, commit): (&MergePlan, &NewCommit),
    change_no: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let header = &commit.header;
    sqlx::query(COMMIT)
        .bind(scope)
        .bind(signed(header.seq))
        .bind(commit.id.0)
        .bind(header.parent_hash.0.to_vec())
        .bind(commit.hash.0.to_vec())
        .bind(&header.kind)
        .bind(&header.actor)
        .bind(&header.input_sha256)
        .bind(header.request_sha256.0.to_vec())
        .bind(changes_json(&commit.changes))
        .bind(now.0)
        .bind(change_no)
        .bind(plan.edges_delta)
        .bind(plan.notes.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(plan.notes.iter().map(|(_, notes)| notes.as_ref().map(ToString::to_string)).collect::<Vec<_>>())
        .bind(&plan.undone)
        .bind(plan.restored.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(plan.restored.iter().map(|(_, seq)| signed(*seq)).collect::<Vec<_>>())
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(driver)
}

async fn remove_edges(tx: &mut PgConnection, scope: &str, edges: &[EdgeId]) -> Result<(), StoreError> {
    if edges.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = edges.iter().map(|id| id.0).collect();
    let done = sqlx::query(REMOVE_EDGES).bind(scope).bind(ids).execute(tx).await.map_err(driver)?;
    if done.rows_affected() == edges.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Driver(format!("{} of {} edges were there to be removed", done.rows_affected(), edges.len())))
}

async fn put_edges(
    tx: &mut PgConnection,
    scope: &str,
    edges: &[MergeEdge],
    (seq, change_no): (i64, i64),
) -> Result<(), StoreError> {
    if edges.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT_EDGES)
        .bind(scope)
        .bind(edges.iter().map(|edge| edge.id.0).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.edge_type.as_str()).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.src.0).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.dst.0).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.strength.weight).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.strength.confidence).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.strength.decay_rate).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.strength.last_activated.map(|at| at.0)).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.created_at.0).collect::<Vec<_>>())
        .bind(seq)
        .bind(change_no)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(driver)
}

async fn keep_merges(
    tx: &mut PgConnection,
    scope: &str,
    rows: &[MergeRow],
    (seq, now): (i64, Timestamp),
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let notes = |of: fn(&MergeRow) -> &Option<serde_json::Value>| {
        rows.iter().map(|row| of(row).as_ref().map(ToString::to_string)).collect::<Vec<_>>()
    };
    sqlx::query(KEEP_MERGES)
        .bind(scope)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.run).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.ordinal)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.cause).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.canonical.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.duplicate.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.pair_key.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.score).collect::<Vec<_>>())
        .bind(notes(|row| &row.prior_duplicate))
        .bind(notes(|row| &row.prior_canonical))
        .bind(seq)
        .bind(now.0)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(driver)
}

async fn keep_edges(
    tx: &mut PgConnection,
    scope: &str,
    rows: &[RemovedEdge],
    (seq, change_no): (i64, i64),
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let base = |of: fn(aionis_core::jobs::consolidation::Strength) -> f64| {
        rows.iter().map(|row| row.base.map(of)).collect::<Vec<_>>()
    };
    let activated = rows.iter().map(|row| row.base.and_then(|base| base.last_activated).map(|at| at.0));
    sqlx::query(KEEP_EDGES)
        .bind(scope)
        .bind(rows.iter().map(|row| row.edge.id.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.src.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.edge_type.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.dst.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.strength.weight).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.strength.confidence).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.strength.decay_rate).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.strength.last_activated.map(|at| at.0)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.edge.created_at.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| signed(row.edge.commit_seq)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.role.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.target.map(|id| id.0)).collect::<Vec<_>>())
        .bind(base(|base| base.weight))
        .bind(base(|base| base.confidence))
        .bind(base(|base| base.decay_rate))
        .bind(activated.collect::<Vec<_>>())
        .bind(seq)
        .bind(change_no)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(driver)
}

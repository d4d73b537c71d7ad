//! Forgetting: lock the scope, read, plan, erase.

use std::collections::{BTreeMap, HashMap};

use aionis_core::{
    chain::{ObjectKind, changes_json},
    clock::Timestamp,
    forget::{
        ForgetOutcome, ForgetPlan, ForgetState, ForgettableEdge, ForgettableNode, Narrowing, PreparedForget,
        plan_forget,
    },
    ids::{EdgeId, NodeId},
    model::{EdgeType, Lane},
    operate::feedback_digest,
    ports::store::{ForgetStore, StoreError},
    write::{NewCommit, edge_digest},
};
use async_trait::async_trait;
use sqlx::{PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    error::{driver, inconsistent, is_transient, vanished},
    images::{Entry, Freshness},
    integrity::feedback_row,
    rows::{choice, digest, get, json, json_of, signed, unsigned},
    session::{For, begin},
    write::lock_sql,
};
use crate::{forget::made, operate::text, purge::check_state};

/// How often a transaction that lost against another one is run again.
const TRIES: u32 = 4;

const NODES: &str = "\
SELECT n.id, n.digest, n.type = 'rule' OR (SELECT 1 FROM memory_node_versions WHERE scope_key = $1 AND node_id = q.id \
           AND strpos(content, '\"type\":\"rule\"') > 0 LIMIT 1) IS NOT NULL, \
       n.memory_lane, n.owner_agent_id, n.owner_team_id, \
       (SELECT count(*) FROM memory_node_versions WHERE scope_key = $1 AND node_id = q.id), n.slots::text, \
       (SELECT content FROM memory_node_versions WHERE scope_key = $1 AND node_id = q.id ORDER BY version LIMIT 1) \
FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n";

/// Edges are not indexed by where they enter. Those an image of the scope knows are named by id; those that came after
/// the image's last change are found by that.
const EDGES: &str = "\
SELECT e.id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate \
FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_edges WHERE scope_key = $1 AND id = q.id LIMIT 1) e \
UNION ALL \
SELECT e.id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate FROM memory_edges e \
WHERE e.scope_no = hashtextextended($1, 0) AND e.scope_key || '' = $1 AND e.change_no > $3 \
    AND (e.src_id = ANY($4) OR e.dst_id = ANY($4))";

/// Edges to nodes that merges moved away.
const FORMER: &str = "\
SELECT e.type, e.src_id, e.dst_id FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_removed_edges WHERE dst_id = q.id AND scope_key || '' = $1) e";

const FEEDBACK: &str = "\
SELECT f.id, f.rule_node_id, f.outcome, f.run_id, f.note, f.source, f.decision_id \
FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_rule_feedback WHERE rule_node_id = q.id AND scope_key || '' = $1) f";

/// Holds the rules that are erased, so that decisions made by them are stored already or will find them gone: see
/// `put_decision`. The statement after this one sees the former.
const HOLD: &str = "\
SELECT n.id FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT id FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1 FOR UPDATE) n";

const HEAD: &str = "\
SELECT s.head_seq, s.head_hash, s.change_no, s.state, r.request_sha256, r.outcome FROM memory_scopes s \
LEFT JOIN LATERAL (SELECT request_sha256, outcome FROM memory_requests \
    WHERE scope_key = $1 AND request_key = $2 LIMIT 1) r ON true \
WHERE s.scope_key = $1";

/// Ids are looked for as text: payloads that cannot be read are among those that failed.
const ERASE: &str = "\
WITH nodes AS (
    DELETE FROM memory_nodes t USING UNNEST(array_fill($1::text, ARRAY[cardinality($13)]), $13::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.id = q.id
), versions AS (
    DELETE FROM memory_node_versions t USING UNNEST(array_fill($1::text, ARRAY[cardinality($13)]), $13::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.node_id = q.id
), vectors AS (
    DELETE FROM memory_vectors t USING UNNEST(array_fill($1::text, ARRAY[cardinality($13)]), $13::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.node_id = q.id RETURNING t.model
), rules AS (
    DELETE FROM memory_rule_defs t USING UNNEST(array_fill($1::text, ARRAY[cardinality($19)]), $19::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.rule_node_id = q.id
), feedback AS (
    DELETE FROM memory_rule_feedback t USING UNNEST(array_fill($1::text, ARRAY[cardinality($20)]), $20::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.id = q.id
), edges AS (
    DELETE FROM memory_edges t USING UNNEST(array_fill($1::text, ARRAY[cardinality($18)]), $18::uuid[]) AS q (scope_key, id)
    WHERE t.scope_key = q.scope_key AND t.id = q.id
), low_pairs AS (
    DELETE FROM memory_consolidation_candidates t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.low_id = q.id AND t.scope_key || '' = $1
), high_pairs AS (
    DELETE FROM memory_consolidation_candidates t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.high_id = q.id AND t.scope_key || '' = $1
), merges_into AS (
    DELETE FROM memory_merges t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.canonical_id = q.id AND t.scope_key || '' = $1
), merges_of AS (
    DELETE FROM memory_merges t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.duplicate_id = q.id AND t.scope_key || '' = $1
), removed_from AS (
    DELETE FROM memory_removed_edges t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.src_id = q.id AND t.scope_key || '' = $1
), removed_to AS (
    DELETE FROM memory_removed_edges t USING UNNEST($13::uuid[]) AS q (id)
    WHERE t.dst_id = q.id AND t.scope_key || '' = $1
), decisions AS (
    UPDATE memory_decisions SET policy = 'null', metadata = '{}'
    WHERE scope_key = $1 AND cardinality($19) > 0
        AND (SELECT array_agg(q.id[1]) FROM regexp_matches(source_rules || tool_rules || metadata,
            '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'g') AS q (id)) && $19::text[]
), work AS (
    UPDATE memory_outbox SET last_error = NULL, failed_reason = NULL
    WHERE scope_key = $1 AND (last_error IS NOT NULL OR failed_reason IS NOT NULL)
        AND (SELECT array_agg(q.id[1]) FROM regexp_matches(payload,
            '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'g') AS q (id)) && $13::text[]
), kept AS (
    INSERT INTO memory_erasures (scope_key, id, digest, memory_lane, owner_agent_id, owner_team_id, commit_seq, erased_at,
        change_no)
    SELECT $1, q.*, $2, $11, $12 FROM UNNEST($13::uuid[], $14::bytea[], $15::text[], $16::text[], $17::text[]) AS q
    ON CONFLICT (scope_key, id) DO UPDATE SET digest = excluded.digest, memory_lane = excluded.memory_lane,
        owner_agent_id = excluded.owner_agent_id, owner_team_id = excluded.owner_team_id,
        commit_seq = excluded.commit_seq, erased_at = excluded.erased_at, change_no = excluded.change_no
), commits AS (
    INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, input_sha256, request_sha256, changes,
        created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
), heads AS (
    UPDATE memory_scopes SET head_seq = $2, head_hash = $5, change_no = $12, updated_at = $11,
        node_count = node_count - cardinality($13), edge_count = edge_count - cardinality($18),
        vector_count = vector_count - (SELECT count(*) FROM vectors WHERE model = $24)
    WHERE scope_key = $1
)
INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at)
SELECT $1, $21, $22, $23, $11 WHERE $21::text IS NOT NULL
ON CONFLICT (scope_key, request_key) DO UPDATE SET request_sha256 = excluded.request_sha256,
    outcome = excluded.outcome, created_at = excluded.created_at";

/// What a transaction read of the scope's head.
struct Head {
    change_no: i64,
    earlier: Option<(aionis_core::canon::Digest, String)>,
}

fn uuids(ids: &[NodeId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

async fn head(tx: &mut PgConnection, asked: &PreparedForget, state: &mut ForgetState) -> Result<Head, StoreError> {
    let key = asked.idempotency.as_ref().map(|idempotency| &idempotency.key);
    let row = sqlx::query(HEAD).bind(asked.scope.as_str()).bind(key).fetch_optional(tx).await.map_err(driver)?;
    let Some(row) = row else {
        // Only a look does without the lock, which makes the row.
        let none = Head { change_no: 0, earlier: None };
        return if asked.token.is_none() { Ok(none) } else { Err(vanished(asked.scope.as_str())) };
    };
    check_state(get(&row, 3)?, asked.scope.as_str())?;
    state.head = (unsigned(&row, 0)?, digest(&row, 1)?);
    let earlier = match get::<Option<String>>(&row, 5)? {
        Some(outcome) => Some((digest(&row, 4)?, outcome)),
        None => None,
    };
    Ok(Head { change_no: get(&row, 2)?, earlier })
}

type Found = BTreeMap<NodeId, ForgettableNode>;

/// Reads the nodes, what jobs made of them, and what is around all of these.
async fn read(
    tx: &mut PgConnection,
    asked: &PreparedForget,
    image: &Entry,
    state: &mut ForgetState,
) -> Result<(), StoreError> {
    state.nodes = nodes(tx, asked.scope.as_str(), &asked.ids, &mut state.versions).await?;
    let named: Vec<NodeId> = state.nodes.keys().copied().collect();
    around(tx, asked.scope.as_str(), (&named, image), state).await?;
    loop {
        let ids = state.to_look_at();
        if ids.is_empty() {
            return Ok(());
        }
        let found = nodes(tx, asked.scope.as_str(), &ids, &mut state.versions).await?;
        let derived = state.look_at(&ids, found);
        around(tx, asked.scope.as_str(), (&derived, image), state).await?;
    }
}

async fn nodes(
    tx: &mut PgConnection,
    scope: &str,
    ids: &[NodeId],
    versions: &mut HashMap<NodeId, usize>,
) -> Result<Found, StoreError> {
    let rows = sqlx::query(NODES).bind(scope).bind(uuids(ids)).fetch_all(tx).await.map_err(driver)?;
    let mut found = Found::new();
    for row in &rows {
        let id = NodeId(get(row, 0)?);
        let first = get::<Option<&str>>(row, 8)?.map(json_of).transpose()?;
        let node = ForgettableNode {
            digest: digest(row, 1)?,
            was_rule: get(row, 2)?,
            lane: choice(row, 3, Lane::parse)?,
            owner_agent_id: get(row, 4)?,
            owner_team_id: get(row, 5)?,
            made: made(&json(row, 7)?, first.as_ref()),
        };
        versions.insert(id, usize::try_from(get::<i64>(row, 6)?).unwrap_or(0));
        found.insert(id, node);
    }
    Ok(found)
}

/// Reads the edges at nodes, and the feedback on those that were rules. Edges the image knows are named by id.
async fn around(
    tx: &mut PgConnection,
    scope: &str,
    (ids, image): (&[NodeId], &Entry),
    state: &mut ForgetState,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let (seen, known) = (image.seen(), image.read(|image| image.edge_ids_at(ids)));
    let rows = sqlx::query(EDGES).bind(scope).bind(known).bind(seen).bind(uuids(ids)).fetch_all(&mut *tx).await;
    for row in &rows.map_err(driver)? {
        let (id, edge) = edge(row)?;
        state.edges.insert(id, edge);
    }
    let rows = sqlx::query(FORMER).bind(scope).bind(uuids(ids)).fetch_all(&mut *tx).await.map_err(driver)?;
    for row in &rows {
        state.former.insert((choice(row, 0, EdgeType::parse)?, NodeId(get(row, 1)?), NodeId(get(row, 2)?)));
    }
    let was_rule = |id| [&state.nodes, &state.derived].iter().any(|all| all.get(id).is_some_and(|node| node.was_rule));
    if ids.iter().any(was_rule) {
        let rows = sqlx::query(FEEDBACK).bind(scope).bind(uuids(ids)).fetch_all(&mut *tx).await.map_err(driver)?;
        for row in &rows {
            let row = feedback_row(row)?;
            state.feedback.insert(row.id, (row.rule, feedback_digest(&row)));
        }
    }
    Ok(())
}

fn edge(row: &PgRow) -> Result<(EdgeId, ForgettableEdge), StoreError> {
    let (id, src, dst) = (EdgeId(get(row, 0)?), NodeId(get(row, 2)?), NodeId(get(row, 3)?));
    let weights = (get(row, 4)?, get(row, 5)?, get(row, 6)?);
    let edge_type = choice(row, 1, EdgeType::parse)?;
    let digest = edge_digest(id, edge_type, (src, dst), weights);
    Ok((id, ForgettableEdge { edge_type, src, dst, digest }))
}

async fn erase(
    tx: &mut PgConnection,
    shared: &Shared,
    asked: &PreparedForget,
    (plan, commit, change_no): (&ForgetPlan, &NewCommit, i64),
    now: Timestamp,
) -> Result<(), StoreError> {
    if !plan.rules.is_empty() {
        let mut rules: Vec<Uuid> = plan.rules.iter().map(|id| id.0).collect();
        rules.sort_unstable();
        sqlx::query(HOLD).bind(asked.scope.as_str()).bind(rules).execute(&mut *tx).await.map_err(driver)?;
    }
    let header = &commit.header;
    let nodes = &plan.nodes;
    let feedback = commit.changes.iter().filter(|change| change.kind == ObjectKind::Feedback).map(|change| change.id);
    let remembered = asked.idempotency.as_ref().map(|key| (key.key.clone(), asked.request_digest.0.to_vec()));
    let (key, key_digest) = remembered.unzip();
    sqlx::query(ERASE)
        .bind(asked.scope.as_str())
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
        .bind(nodes.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(nodes.iter().map(|(_, node)| node.digest.0.to_vec()).collect::<Vec<_>>())
        .bind(nodes.iter().map(|(_, node)| node.lane.as_str()).collect::<Vec<_>>())
        .bind(nodes.iter().map(|(_, node)| node.owner_agent_id.clone()).collect::<Vec<_>>())
        .bind(nodes.iter().map(|(_, node)| node.owner_team_id.clone()).collect::<Vec<_>>())
        .bind(plan.edges.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(plan.rules.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(feedback.collect::<Vec<_>>())
        .bind(key)
        .bind(key_digest)
        .bind(text(&plan.outcome)?)
        .bind(&shared.space.name)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(driver)
}

/// Erases what jobs made of nodes that a write lets fewer see, and what those see too who no longer may. The write is stored, its scope
/// locked. Returns the number of the change, if there is one.
pub(super) async fn narrow(
    tx: &mut PgConnection,
    shared: &Shared,
    (narrowing, image): (&Narrowing, &Entry),
    now: Timestamp,
) -> Result<Option<i64>, StoreError> {
    let asked = &narrowing.asked;
    let mut state = Narrowing::state();
    let head = head(tx, asked, &mut state).await?;
    read(tx, asked, image, &mut state).await?;
    let Some(mut plan) = narrowing.plan(state, now) else { return Ok(None) };
    let Some(commit) = plan.commit.take() else { return Ok(None) };
    let change_no = head.change_no + 1;
    erase(tx, shared, asked, (&plan, &commit, change_no), now).await?;
    Ok(Some(change_no))
}

async fn forget(shared: &Shared, asked: &PreparedForget) -> Result<ForgetOutcome, StoreError> {
    let now = shared.clock.now();
    // Before the lock: reading an image may take as long as the scope is large.
    let image = shared.images.get(shared, &asked.scope, Freshness::Now).await?;
    let is_look = asked.token.is_none();
    let lock = if is_look { String::new() } else { lock_sql(std::iter::once(&asked.scope), now) };
    let tenant = For::Tenant(asked.scope.tenant());
    let mut tx = begin(&shared.pool, tenant, shared.options.statement_timeout, &lock).await?;
    let mut state = ForgetState::default();
    let head = head(&mut tx, asked, &mut state).await?;
    if let (false, Some(key), Some((asked_before, outcome))) = (is_look, &asked.idempotency, &head.earlier)
        && key.answers(*asked_before, asked.request_digest)?
    {
        let mut earlier: ForgetOutcome = serde_json::from_str(outcome)
            .map_err(|e| inconsistent("memory_requests", "outcome", &key.key, e.to_string()))?;
        earlier.replayed = true;
        return Ok(earlier);
    }
    read(&mut tx, asked, &image, &mut state).await?;
    let mut plan = plan_forget(asked, state, now)?;
    let Some(commit) = plan.commit.take() else { return Ok(plan.outcome) };
    let change_no = head.change_no + 1;
    erase(&mut tx, shared, asked, (&plan, &commit, change_no), now).await?;
    tx.commit().await.map_err(driver)?;
    shared.images.note(&asked.scope, change_no);
    shared.wake.committed(false);
    Ok(plan.outcome)
}

#[async_trait]
impl ForgetStore for PostgresStore {
    async fn forget(&self, asked: PreparedForget) -> Result<ForgetOutcome, StoreError> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.shared.patience.bounded(forget(&self.shared, &asked)).await {
                Err(error) if is_transient(&error) && tried < TRIES => {
                    tokio::time::sleep(std::time::Duration::from_millis(20 << tried)).await;
                }
                done => return done,
            }
        }
    }
}

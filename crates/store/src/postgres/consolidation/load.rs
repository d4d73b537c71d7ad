//! Reading what a merge is planned by.

use aionis_core::{
    clock::Timestamp,
    ids::{EdgeId, NodeId},
    jobs::consolidation::{MergeEdge, MergeNode, MergeRow, MergeState, Needs, RemovalRole, RemovedEdge, Strength},
    lifecycle::DecayBasis,
    model::{EdgeType, Lane, NodeType, Tier},
    ports::store::StoreError,
};
use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{CANDIDATE, candidate};
use crate::{
    consolidation::strength,
    postgres::{
        error::driver,
        images::Entry,
        rows::{choice, digest, get, json, json_of, unsigned},
    },
};

const NODES: &str = "\
SELECT n.id, n.type, n.digest, n.title, n.text_summary, n.slots::text, n.activity::text, n.memory_lane, n.owner_agent_id, \
       n.owner_team_id, n.tier, n.salience, n.created_at, CASE WHEN n.embedding_status = 'ready' THEN n.embedding_model END, \
       n.salience_at, n.last_activated \
FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n ORDER BY n.id";

const EDGE: &str = "e.id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate, e.last_activated, e.created_at, \
     e.commit_seq";
const MERGE: &str = "m.id, m.run_id, m.ordinal, m.cause_id, m.canonical_id, m.duplicate_id, m.pair_key, m.score, \
     m.prior_duplicate::text, m.prior_canonical::text, m.applied_seq, m.applied_at, m.undone_seq";
const REMOVED: &str = "e.edge_id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate, e.last_activated, \
     e.created_at, e.commit_seq, e.removed_seq, e.role, e.target_id, e.base_weight, e.base_confidence, e.base_decay_rate, \
     e.base_last_activated, e.restored_seq";

/// Edges by id, by what makes them unique, and those that came to some nodes after an image's last change; edges are not
/// indexed by where they enter.
fn edges_sql() -> String {
    format!(
        "SELECT {EDGE} FROM UNNEST($2::uuid[]) AS q (id) \
         CROSS JOIN LATERAL (SELECT * FROM memory_edges WHERE scope_key = $1 AND id = q.id LIMIT 1) e \
         UNION ALL \
         SELECT {EDGE} FROM UNNEST($5::uuid[], $6::text[], $7::uuid[]) AS q (src, type, dst) \
         CROSS JOIN LATERAL (SELECT * FROM memory_edges \
             WHERE scope_key = $1 AND src_id = q.src AND type = q.type AND dst_id = q.dst LIMIT 1) e \
         UNION ALL \
         SELECT {EDGE} FROM memory_edges e \
         WHERE e.scope_no = hashtextextended($1, 0) AND e.scope_key || '' = $1 AND e.change_no > $3 \
             AND (e.dst_id = ANY($4) OR e.src_id = ANY($4))"
    )
}

fn candidates_sql() -> String {
    format!(
        "SELECT {CANDIDATE} FROM UNNEST($2::uuid[]) AS q (id) \
         CROSS JOIN LATERAL (SELECT * FROM memory_consolidation_candidates \
             WHERE low_id = q.id AND scope_key || '' = $1) c \
         UNION ALL \
         SELECT {CANDIDATE} FROM UNNEST($2::uuid[]) AS q (id) \
         CROSS JOIN LATERAL (SELECT * FROM memory_consolidation_candidates \
             WHERE high_id = q.id AND scope_key || '' = $1) c"
    )
}

fn merges_sql() -> String {
    let by = |array: &str, condition: &str| {
        format!(
            "SELECT {MERGE} FROM UNNEST({array}::uuid[]) AS q (id) \
             CROSS JOIN LATERAL (SELECT * FROM memory_merges WHERE {condition}) m"
        )
    };
    [
        by("$2", "scope_key = $1 AND id = q.id LIMIT 1"),
        by("$2", "cause_id = q.id AND scope_key || '' = $1"),
        by("$3", "run_id = q.id AND scope_key || '' = $1"),
        by("$4", "duplicate_id = q.id AND scope_key || '' = $1 AND undone_seq IS NULL"),
    ]
    .join(" UNION ALL ")
}

fn removed_sql() -> String {
    let by = |array: &str, column: &str| {
        format!(
            "SELECT {REMOVED} FROM UNNEST({array}::uuid[]) AS q (id) \
             CROSS JOIN LATERAL (SELECT * FROM memory_removed_edges \
                 WHERE {column} = q.id AND scope_key || '' = $1 AND restored_seq IS NULL) e"
        )
    };
    [by("$2", "src_id"), by("$2", "dst_id"), by("$3", "target_id")].join(" UNION ALL ")
}

fn node(row: &PgRow) -> Result<MergeNode, StoreError> {
    let (node_type, tier) = (choice(row, 1, NodeType::parse)?, choice(row, 10, Tier::parse)?);
    let (slots, activity) = (json(row, 5)?, get::<Option<&str>>(row, 6)?.map(json_of).transpose()?);
    let created_at = Timestamp(get(row, 12)?);
    let times = (Timestamp(get(row, 14)?), get::<Option<i64>>(row, 15)?.map(Timestamp), created_at);
    Ok(MergeNode {
        id: NodeId(get(row, 0)?),
        node_type,
        decay: DecayBasis::of((node_type, tier), times, &slots, activity.as_ref()),
        digest: digest(row, 2)?,
        title: get(row, 3)?,
        text_summary: get(row, 4)?,
        slots,
        activity,
        lane: choice(row, 7, Lane::parse)?,
        owner_agent_id: get(row, 8)?,
        owner_team_id: get(row, 9)?,
        tier,
        salience: get(row, 11)?,
        created_at,
        vector_model: get(row, 13)?,
    })
}

fn edge(row: &PgRow) -> Result<MergeEdge, StoreError> {
    Ok(MergeEdge {
        id: EdgeId(get(row, 0)?),
        edge_type: choice(row, 1, EdgeType::parse)?,
        src: NodeId(get(row, 2)?),
        dst: NodeId(get(row, 3)?),
        strength: Strength {
            weight: get(row, 4)?,
            confidence: get(row, 5)?,
            decay_rate: get(row, 6)?,
            last_activated: get::<Option<i64>>(row, 7)?.map(Timestamp),
        },
        created_at: Timestamp(get(row, 8)?),
        commit_seq: unsigned(row, 9)?,
    })
}

fn merge(row: &PgRow) -> Result<MergeRow, StoreError> {
    let notes = |at: usize| get::<Option<&str>>(row, at)?.map(json_of).transpose();
    Ok(MergeRow {
        id: get(row, 0)?,
        run: get(row, 1)?,
        ordinal: u32::try_from(unsigned(row, 2)?).unwrap_or(u32::MAX),
        cause: get(row, 3)?,
        canonical: NodeId(get(row, 4)?),
        duplicate: NodeId(get(row, 5)?),
        pair_key: get(row, 6)?,
        score: get(row, 7)?,
        prior_duplicate: notes(8)?,
        prior_canonical: notes(9)?,
        applied_seq: unsigned(row, 10)?,
        applied_at: Timestamp(get(row, 11)?),
        undone_seq: get::<Option<i64>>(row, 12)?.map(|_| unsigned(row, 12)).transpose()?,
    })
}

fn removed(row: &PgRow) -> Result<RemovedEdge, StoreError> {
    Ok(RemovedEdge {
        edge: edge(row)?,
        removed_seq: unsigned(row, 10)?,
        role: choice(row, 11, RemovalRole::parse)?,
        target: get::<Option<Uuid>>(row, 12)?.map(EdgeId),
        base: strength(get(row, 13)?, get(row, 14)?, get(row, 15)?, get(row, 16)?),
        restored_seq: get::<Option<i64>>(row, 17)?.map(|_| unsigned(row, 17)).transpose()?,
    })
}

/// Nodes with what is compared and decided by, ordered by id.
pub(super) async fn nodes(tx: &mut PgConnection, scope: &str, ids: Vec<Uuid>) -> Result<Vec<MergeNode>, StoreError> {
    let rows = sqlx::query(NODES).bind(scope).bind(ids).fetch_all(tx).await.map_err(driver)?;
    rows.iter().map(node).collect()
}

pub(super) async fn load(
    tx: &mut PgConnection,
    scope: &str,
    needs: &Needs,
    image: Option<&Entry>,
    state: &mut MergeState,
) -> Result<(), StoreError> {
    let of = |ids: &std::collections::BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect::<Vec<Uuid>>();
    if !needs.nodes.is_empty() {
        state.nodes.extend(nodes(tx, scope, of(&needs.nodes)).await?.into_iter().map(|node| (node.id, node)));
    }
    edges(tx, scope, needs, image, state).await?;
    if !needs.candidates_at.is_empty() {
        let at = of(&needs.candidates_at);
        let rows = sqlx::query(AssertSqlSafe(candidates_sql())).bind(scope).bind(at).fetch_all(&mut *tx).await;
        for row in &rows.map_err(driver)? {
            let pair = candidate(row)?;
            state.candidates.insert(pair.pair_key.clone(), pair);
        }
    }
    if !(needs.merges.is_empty() && needs.runs.is_empty() && needs.merges_of.is_empty()) {
        let (merges, runs): (Vec<Uuid>, Vec<Uuid>) =
            (needs.merges.iter().copied().collect(), needs.runs.iter().copied().collect());
        let query = sqlx::query(AssertSqlSafe(merges_sql())).bind(scope).bind(merges).bind(runs);
        for row in &query.bind(of(&needs.merges_of)).fetch_all(&mut *tx).await.map_err(driver)? {
            let row = merge(row)?;
            state.merges.insert(row.id, row);
        }
    }
    if !(needs.removed_at.is_empty() && needs.removed_to.is_empty()) {
        let targets: Vec<Uuid> = needs.removed_to.iter().map(|id| id.0).collect();
        let query = sqlx::query(AssertSqlSafe(removed_sql())).bind(scope).bind(of(&needs.removed_at)).bind(targets);
        for row in &query.fetch_all(&mut *tx).await.map_err(driver)? {
            let row = removed(row)?;
            state.removed.insert((row.edge.id, row.removed_seq), row);
        }
    }
    Ok(())
}

async fn edges(
    tx: &mut PgConnection,
    scope: &str,
    needs: &Needs,
    image: Option<&Entry>,
    state: &mut MergeState,
) -> Result<(), StoreError> {
    if needs.edges_at.is_empty() && needs.edge_ids.is_empty() && needs.edge_keys.is_empty() {
        return Ok(());
    }
    let at: Vec<NodeId> = needs.edges_at.iter().copied().collect();
    let mut ids: Vec<Uuid> = needs.edge_ids.iter().map(|id| id.0).collect();
    // An image that moves on meanwhile knows more than it had seen when it was asked, never less.
    let seen = match image {
        Some(image) if !at.is_empty() => {
            let seen = image.seen();
            ids.extend(image.read(|image| image.edge_ids_at(&at)));
            seen
        }
        None if !at.is_empty() => {
            return Err(StoreError::Driver("edges at nodes are asked for without an image of the scope".to_owned()));
        }
        _ => i64::MAX,
    };
    let at: Vec<Uuid> = at.iter().map(|id| id.0).collect();
    let rows = sqlx::query(AssertSqlSafe(edges_sql()))
        .bind(scope)
        .bind(ids)
        .bind(seen)
        .bind(at)
        .bind(needs.edge_keys.iter().map(|(_, src, _)| src.0).collect::<Vec<_>>())
        .bind(needs.edge_keys.iter().map(|(kind, ..)| kind.as_str()).collect::<Vec<_>>())
        .bind(needs.edge_keys.iter().map(|(.., dst)| dst.0).collect::<Vec<_>>())
        .fetch_all(tx)
        .await
        .map_err(driver)?;
    for row in &rows {
        let edge = edge(row)?;
        state.edges.insert(edge.id, edge);
    }
    Ok(())
}

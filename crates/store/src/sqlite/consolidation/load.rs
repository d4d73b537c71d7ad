//! Reading what a merge is planned by.

use aionis_core::{
    clock::Timestamp,
    ids::{EdgeId, NodeId},
    jobs::consolidation::{MergeEdge, MergeRow, MergeState, Needs, RemovalRole, RemovedEdge, Strength},
    ports::store::StoreError,
};
use rusqlite::{Connection, Row, ToSql};

use super::{CANDIDATE, candidate, node};
use crate::{
    consolidation::strength,
    sqlite::rows::{blob, choice, edge_type, json, optional_uuid, unreadable, unsigned, uuid},
};

const EDGE: &str = "id, type, src_id, dst_id, weight, confidence, decay_rate, last_activated, created_at, commit_seq";
const MERGE: &str = "id, run_id, ordinal, cause_id, canonical_id, duplicate_id, pair_key, score, prior_duplicate, \
     prior_canonical, applied_seq, applied_at, undone_seq";
const REMOVED: &str = "edge_id, type, src_id, dst_id, weight, confidence, decay_rate, last_activated, created_at, commit_seq, \
     removed_seq, role, target_id, base_weight, base_confidence, base_decay_rate, base_last_activated, restored_seq";

fn edge(row: &Row<'_>) -> rusqlite::Result<MergeEdge> {
    Ok(MergeEdge {
        id: EdgeId(uuid(row, 0)?),
        edge_type: edge_type(row, 1)?,
        src: NodeId(uuid(row, 2)?),
        dst: NodeId(uuid(row, 3)?),
        strength: Strength {
            weight: row.get(4)?,
            confidence: row.get(5)?,
            decay_rate: row.get(6)?,
            last_activated: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        },
        created_at: Timestamp(row.get(8)?),
        commit_seq: unsigned(row, 9)?,
    })
}

fn merge(row: &Row<'_>) -> rusqlite::Result<MergeRow> {
    let notes = |at: usize| row.get::<_, Option<String>>(at)?.map(|_| json(row, at)).transpose();
    Ok(MergeRow {
        id: uuid(row, 0)?,
        run: uuid(row, 1)?,
        ordinal: row.get(2)?,
        cause: optional_uuid(row, 3)?,
        canonical: NodeId(uuid(row, 4)?),
        duplicate: NodeId(uuid(row, 5)?),
        pair_key: row.get(6)?,
        score: row.get(7)?,
        prior_duplicate: notes(8)?,
        prior_canonical: notes(9)?,
        applied_seq: unsigned(row, 10)?,
        applied_at: Timestamp(row.get(11)?),
        undone_seq: row.get::<_, Option<i64>>(12)?.map(|_| unsigned(row, 12)).transpose()?,
    })
}

fn removed(row: &Row<'_>) -> rusqlite::Result<RemovedEdge> {
    Ok(RemovedEdge {
        edge: edge(row)?,
        removed_seq: unsigned(row, 10)?,
        role: choice(row, 11, RemovalRole::parse)?,
        target: optional_uuid(row, 12)?.map(EdgeId),
        base: strength(row.get(13)?, row.get(14)?, row.get(15)?, row.get(16)?),
        restored_seq: row.get::<_, Option<i64>>(17)?.map(|_| unsigned(row, 17)).transpose()?,
    })
}

/// Rows of a table under a condition on the scope and a key.
fn each<T>(
    connection: &Connection,
    (columns, table, condition): (&str, &'static str, &str),
    values: &[&dyn ToSql],
    read: fn(&Row<'_>) -> rusqlite::Result<T>,
    mut take: impl FnMut(T),
) -> Result<(), StoreError> {
    let sql = format!("SELECT {columns} FROM {table} WHERE scope_key = ?1 AND {condition}");
    let mut statement = connection.prepare_cached(&sql).map_err(|e| unreadable(table, "", e))?;
    let rows = statement.query_map(values, read).map_err(|e| unreadable(table, "", e))?;
    for row in rows {
        take(row.map_err(|e| unreadable(table, "", e))?);
    }
    Ok(())
}

pub(super) fn load(
    connection: &Connection,
    scope: &str,
    needs: &Needs,
    state: &mut MergeState,
) -> Result<(), StoreError> {
    for id in &needs.nodes {
        if let Some(node) = node(connection, scope, *id)? {
            state.nodes.insert(*id, node);
        }
    }
    edges(connection, scope, needs, state)?;
    for id in &needs.candidates_at {
        for condition in ["low_id = ?2", "high_id = ?2"] {
            let of = (CANDIDATE, "memory_consolidation_candidates", condition);
            let take = |pair: aionis_core::jobs::consolidation::Candidate| {
                state.candidates.insert(pair.pair_key.clone(), pair);
            };
            each(connection, of, &[&scope, &blob(id.0)], candidate, take)?;
        }
    }
    let merges = needs.merges.iter().flat_map(|id| [("id = ?2", *id), ("cause_id = ?2", *id)]);
    let merges = merges.chain(needs.runs.iter().map(|id| ("run_id = ?2", *id)));
    let of_node = needs.merges_of.iter().map(|id| ("duplicate_id = ?2 AND undone_seq IS NULL", id.0));
    for (condition, id) in merges.chain(of_node) {
        let take = |row: MergeRow| {
            state.merges.insert(row.id, row);
        };
        each(connection, (MERGE, "memory_merges", condition), &[&scope, &blob(id)], merge, take)?;
    }
    let at = needs.removed_at.iter().flat_map(|id| [("src_id = ?2", id.0), ("dst_id = ?2", id.0)]);
    for (condition, id) in at.chain(needs.removed_to.iter().map(|id| ("target_id = ?2", id.0))) {
        let condition = format!("{condition} AND restored_seq IS NULL");
        let take = |row: RemovedEdge| {
            state.removed.insert((row.edge.id, row.removed_seq), row);
        };
        each(connection, (REMOVED, "memory_removed_edges", &condition), &[&scope, &blob(id)], removed, take)?;
    }
    Ok(())
}

fn edges(connection: &Connection, scope: &str, needs: &Needs, state: &mut MergeState) -> Result<(), StoreError> {
    let mut take = |edge: MergeEdge| {
        state.edges.insert(edge.id, edge);
    };
    for id in &needs.edges_at {
        for condition in ["src_id = ?2", "dst_id = ?2"] {
            each(connection, (EDGE, "memory_edges", condition), &[&scope, &blob(id.0)], edge, &mut take)?;
        }
    }
    for (kind, src, dst) in &needs.edge_keys {
        let of = (EDGE, "memory_edges", "src_id = ?2 AND type = ?3 AND dst_id = ?4");
        each(connection, of, &[&scope, &blob(src.0), &kind.as_str(), &blob(dst.0)], edge, &mut take)?;
    }
    for id in &needs.edge_ids {
        each(connection, (EDGE, "memory_edges", "id = ?2"), &[&scope, &blob(id.0)], edge, &mut take)?;
    }
    Ok(())
}

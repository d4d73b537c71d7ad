//! Building an earlier state.

use aionis_core::{
    canon::Digest,
    ids::{EdgeId, NodeId, ScopeKey},
    ports::store::StoreError,
    recall::EdgeView,
};
use hashbrown::{HashMap, HashSet};
use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::{
    error::driver,
    read::{found, found_sql},
    rows::{digest, edge_type, signed, unreadable, unsigned, uuid, vector},
};
use crate::{
    consolidation::newest_aliases,
    past::{EdgesThen, PastScope, check_size, edges_changed},
    space::EmbeddingSpace,
};

pub(super) fn load(
    connection: &Connection,
    scope: &ScopeKey,
    seq: u64,
    nodes_max: u64,
    space: &EmbeddingSpace,
) -> Result<PastScope, StoreError> {
    let tx = connection.unchecked_transaction().map_err(driver)?;
    let key = scope.as_str();
    let nodes: Option<u64> = tx
        .query_row("SELECT node_count FROM memory_scopes WHERE scope_key = ?1", [key], |row| unsigned(row, 0))
        .optional()
        .map_err(driver)?;
    check_size(scope, nodes.unwrap_or(0), nodes_max)?;
    let mut past = PastScope::new(space, seq).with_aliases(aliases(&tx, key, seq)?);
    let mut vectors = vectors(&tx, key, space)?;
    let mut statement = tx.prepare_cached(&found_sql(Some(seq))).map_err(driver)?;
    let mut rows = statement.query((key, signed(seq))).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        let node = found(&tx, key, row, Some(seq))?;
        let of_this_content = vectors.remove(&node.row.id).filter(|(of, _)| *of == node.digest);
        past.put_node(node, of_this_content.map(|(_, vector)| vector));
    }
    drop(rows);
    edges(&tx, key, seq, &mut past)?;
    Ok(past)
}

type Vectors = HashMap<NodeId, (Digest, Vec<f32>)>;

fn vectors(connection: &Connection, scope: &str, space: &EmbeddingSpace) -> Result<Vectors, StoreError> {
    let sql =
        "SELECT node_id, source_digest, vector FROM memory_vectors WHERE scope_key = ?1 AND model = ?2 AND dim = ?3";
    let dim = i64::try_from(space.dim).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| {
        let bytes = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        Ok((NodeId(uuid(row, 0)?), (digest(row, 1)?, vector(bytes))))
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map((scope, &space.name, dim), read).and_then(Iterator::collect))
        .map_err(|e| unreadable("memory_vectors", scope, e))
}

fn edges(connection: &Connection, scope: &str, seq: u64, past: &mut PastScope) -> Result<(), StoreError> {
    let mut then = EdgesThen::default();
    let sql = "SELECT changes FROM memory_commits WHERE scope_key = ?1 AND seq > ?2 \
               AND (changes LIKE '%[\"edge\",\"create\"%' OR changes LIKE '%[\"edge\",\"erase\"%') ORDER BY seq";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut rows = statement.query((scope, signed(seq))).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        edges_changed(&row.get::<_, String>(0).map_err(driver)?, &mut then)?;
    }
    // What a job removed since is kept as it was; of edges that were removed more than once the first after then counts.
    let sql = "SELECT id, type, src_id, dst_id, weight, confidence, commit_seq, 1, 0 FROM memory_edges WHERE scope_key = ?1 \
               UNION ALL \
               SELECT edge_id, type, src_id, dst_id, weight, confidence, commit_seq, 0, removed_seq \
               FROM memory_removed_edges WHERE scope_key = ?1 AND removed_seq > ?2 ORDER BY 8, 9";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let read = |row: &rusqlite::Row<'_>| {
        let edge = EdgeView {
            id: EdgeId(uuid(row, 0)?),
            edge_type: edge_type(row, 1)?,
            src: NodeId(uuid(row, 2)?),
            dst: NodeId(uuid(row, 3)?),
            weight: row.get(4)?,
            confidence: row.get(5)?,
            commit_seq: unsigned(row, 6)?,
        };
        Ok((edge, row.get(7)?))
    };
    let found = statement.query_map((scope, signed(seq)), read).map_err(driver)?;
    let mut seen: HashSet<Uuid> = HashSet::new();
    for edge in found {
        let (edge, is_stored) = edge.map_err(|e| unreadable("memory_edges", scope, e))?;
        if then.had(edge.id.0, is_stored) && seen.insert(edge.id.0) {
            past.put_edge(edge);
        }
    }
    Ok(())
}

/// Which nodes were aliases, and of what.
fn aliases(connection: &Connection, scope: &str, seq: u64) -> Result<HashMap<NodeId, NodeId>, StoreError> {
    let sql = "SELECT duplicate_id, canonical_id, applied_seq, ordinal FROM memory_merges WHERE scope_key = ?1 \
               AND applied_seq <= ?2 AND (undone_seq IS NULL OR undone_seq > ?2)";
    let read = |row: &rusqlite::Row<'_>| {
        Ok((NodeId(uuid(row, 0)?), NodeId(uuid(row, 1)?), unsigned(row, 2)?, row.get::<_, u32>(3)?))
    };
    let rows: Vec<_> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map((scope, signed(seq)), read).and_then(Iterator::collect))
        .map_err(|e| unreadable("memory_merges", scope, e))?;
    Ok(newest_aliases(rows).into_iter().collect())
}

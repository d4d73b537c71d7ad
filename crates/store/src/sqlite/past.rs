//! Building an earlier state.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

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
    purge::is_purging,
    read::{found, found_sql},
    rows::{digest, edge_type, signed, unreadable, unsigned, uuid, vector},
};
use crate::{
    consolidation::newest_aliases,
    past::{EdgesThen, PastScope, check_size, edges_changed},
    space::EmbeddingSpace,
};

/// Whether somebody still waits for what is being built on another thread.
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// For the thread that builds, and for who waits: when the latter is dropped, nobody waits any more.
    pub(super) fn pair() -> (Self, Waiting) {
        let wanted = Arc::new(AtomicBool::new(true));
        (Self(Arc::clone(&wanted)), Waiting(wanted))
    }

    /// Asked before each row: a build that nobody waits for would hold its connection, and its memory, to the end.
    fn go_on(&self) -> Result<(), StoreError> {
        if self.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(StoreError::Unavailable("nobody waits for this earlier state any more".to_owned()))
    }
}

/// Held by who waits.
pub(super) struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

pub(super) fn load(
    connection: &Connection,
    (scope, seq): (&ScopeKey, u64),
    nodes_max: u64,
    space: &EmbeddingSpace,
    wanted: &Wanted,
) -> Result<PastScope, StoreError> {
    wanted.go_on()?;
    let tx = connection.unchecked_transaction().map_err(driver)?;
    let key = scope.as_str();
    let nodes: Option<u64> = tx
        .query_row("SELECT node_count FROM memory_scopes WHERE scope_key = ?1", [key], |row| unsigned(row, 0))
        .optional()
        .map_err(driver)?;
    // A scope that is being purged is not there.
    if is_purging(&tx, key)? {
        return Ok(PastScope::new(space, seq));
    }
    check_size(scope, nodes.unwrap_or(0), nodes_max)?;
    let mut past = PastScope::new(space, seq).with_aliases(aliases(&tx, key, seq)?);
    let mut vectors = vectors(&tx, key, space, wanted)?;
    let mut statement = tx.prepare_cached(&found_sql(Some(seq))).map_err(driver)?;
    let mut rows = statement.query((key, signed(seq))).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        wanted.go_on()?;
        let node = found(&tx, key, row, Some(seq))?;
        let of_this_content = vectors.remove(&node.row.id).filter(|(of, _)| *of == node.digest);
        past.put_node(node, of_this_content.map(|(_, vector)| vector));
    }
    drop(rows);
    edges(&tx, key, seq, (&mut past, wanted))?;
    Ok(past)
}

type Vectors = HashMap<NodeId, (Digest, Vec<f32>)>;

fn vectors(
    connection: &Connection,
    scope: &str,
    space: &EmbeddingSpace,
    wanted: &Wanted,
) -> Result<Vectors, StoreError> {
    let sql =
        "SELECT node_id, source_digest, vector FROM memory_vectors WHERE scope_key = ?1 AND model = ?2 AND dim = ?3";
    let dim = i64::try_from(space.dim).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| {
        let bytes = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        Ok((NodeId(uuid(row, 0)?), (digest(row, 1)?, vector(bytes))))
    };
    let damaged = |e| unreadable("memory_vectors", scope, e);
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let rows = statement.query_map((scope, &space.name, dim), read).map_err(driver)?;
    rows.map(|row| wanted.go_on().and_then(|()| row.map_err(damaged))).collect()
}

fn edges(
    connection: &Connection,
    scope: &str,
    seq: u64,
    (past, wanted): (&mut PastScope, &Wanted),
) -> Result<(), StoreError> {
    let mut then = EdgesThen::default();
    let sql = "SELECT changes FROM memory_commits WHERE scope_key = ?1 AND seq > ?2 \
               AND (changes LIKE '%[\"edge\",\"create\"%' OR changes LIKE '%[\"edge\",\"erase\"%') ORDER BY seq";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut rows = statement.query((scope, signed(seq))).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        wanted.go_on()?;
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
        wanted.go_on()?;
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

#[cfg(test)]
mod tests {
    use aionis_core::{clock::Timestamp, ids::TenantId};

    use super::*;
    use crate::sqlite::migrate::migrate;

    const VECTORS: i64 = 400;

    /// A database with a scope of nothing but vectors, so that there are rows to read.
    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Timestamp(1)).unwrap();
        let insert = "PRAGMA foreign_keys = OFF; WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400) \
             INSERT INTO memory_vectors (scope_key, node_id, model, dim, vector, source_digest, created_at, origin) \
             SELECT 'acme/s', CAST(substr('0000000000000000' || n, -16) AS BLOB), 'm', 1, zeroblob(4), zeroblob(32), 1, 'derived' FROM n";
        connection.execute_batch(insert).unwrap();
        connection
    }

    #[test]
    fn a_build_that_nobody_waits_for_ends_between_two_rows() {
        let connection = database();
        let scope = ScopeKey::new(&TenantId::parse("acme").unwrap(), "s").unwrap();
        let space = EmbeddingSpace { name: "m".to_owned(), dim: 1 };
        let (wanted, waiting) = Wanted::pair();
        assert_eq!(vectors(&connection, scope.as_str(), &space, &wanted).unwrap().len() as i64, VECTORS);
        load(&connection, (&scope, 1), 10, &space, &wanted).unwrap();
        drop(waiting);
        let ended = vectors(&connection, scope.as_str(), &space, &wanted).unwrap_err();
        assert!(ended.to_string().contains("nobody waits"), "{ended}");
        assert!(load(&connection, (&scope, 1), 10, &space, &wanted).is_err());
    }
}

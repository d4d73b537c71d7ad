//! Building an earlier state.

use aionis_core::{
    canon::Digest,
    ids::{EdgeId, NodeId, ScopeKey},
    model::EdgeType,
    ports::store::StoreError,
    recall::EdgeView,
};
use futures_util::TryStreamExt;
use hashbrown::{HashMap, HashSet};
use pgvector::Vector;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::{
    Shared,
    error::driver,
    purge::unless_purging,
    read::{all_sql, found},
    rows::{choice, digest, get, signed, unsigned},
    session::{For, begin},
};
use crate::{
    consolidation::newest_aliases,
    past::{EdgesThen, PastScope, check_size, edges_changed},
};

/// One snapshot for all statements.
const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";

pub(super) async fn load(shared: &Shared, scope: &ScopeKey, seq: u64, nodes_max: u64) -> Result<PastScope, StoreError> {
    let timeout = shared.options.statement_timeout;
    let guarded = format!("{SNAPSHOT}; {}", unless_purging(scope));
    let mut tx = begin(&shared.pool, For::Tenant(scope.tenant()), timeout, &guarded).await?;
    let nodes: Option<i64> = sqlx::query("SELECT node_count FROM memory_scopes WHERE scope_key = $1")
        .bind(scope.as_str())
        .fetch_optional(&mut *tx)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .map_err(driver)?;
    check_size(scope, nodes.and_then(|nodes| u64::try_from(nodes).ok()).unwrap_or(0), nodes_max)?;
    let then = aliases(&mut tx, scope, seq).await?;
    let mut past = PastScope::new(&shared.space, seq).with_aliases(then);
    let mut vectors = vectors(&mut tx, scope, &shared.space.name).await?;
    let mut rows = sqlx::query(AssertSqlSafe(all_sql())).bind(scope.as_str()).bind(signed(seq)).fetch(&mut *tx);
    while let Some(row) = rows.try_next().await.map_err(driver)? {
        let node = found(&row, Some(seq))?;
        let of_this_content = vectors.remove(&node.row.id).filter(|(of, _)| *of == node.digest);
        past.put_node(node, of_this_content.map(|(_, vector)| vector));
    }
    drop(rows);
    edges(&mut tx, scope, seq, &mut past).await?;
    Ok(past)
}

async fn vectors(
    tx: &mut PgConnection,
    scope: &ScopeKey,
    model: &str,
) -> Result<HashMap<NodeId, (Digest, Vec<f32>)>, StoreError> {
    let sql = "SELECT node_id, source_digest, embedding FROM memory_vectors WHERE scope_key = $1 AND model = $2";
    let mut rows = sqlx::query(sql).bind(scope.as_str()).bind(model).fetch(tx);
    let mut vectors = HashMap::new();
    while let Some(row) = rows.try_next().await.map_err(driver)? {
        vectors.insert(NodeId(get(&row, 0)?), (digest(&row, 1)?, get::<Vector>(&row, 2)?.to_vec()));
    }
    Ok(vectors)
}

async fn edges(tx: &mut PgConnection, scope: &ScopeKey, seq: u64, past: &mut PastScope) -> Result<(), StoreError> {
    let mut then = EdgesThen::default();
    let sql = "SELECT changes FROM memory_commits WHERE scope_key = $1 AND seq > $2 \
               AND (strpos(changes, '[\"edge\",\"create\"') > 0 OR strpos(changes, '[\"edge\",\"erase\"') > 0) ORDER BY seq";
    let mut rows = sqlx::query(sql).bind(scope.as_str()).bind(signed(seq)).fetch(&mut *tx);
    while let Some(row) = rows.try_next().await.map_err(driver)? {
        edges_changed(get(&row, 0)?, &mut then)?;
    }
    drop(rows);
    // What a job removed since is kept as it was; of edges that were removed more than once the first after then counts.
    let sql = "SELECT id, type, src_id, dst_id, weight, confidence, commit_seq, true AS is_stored, 0::bigint AS removed_seq \
                   FROM memory_edges WHERE scope_key = $1 \
               UNION ALL \
               SELECT edge_id, type, src_id, dst_id, weight, confidence, commit_seq, false, removed_seq \
                   FROM memory_removed_edges WHERE scope_key = $1 AND removed_seq > $2 \
               ORDER BY is_stored, removed_seq";
    let mut seen: HashSet<Uuid> = HashSet::new();
    let mut rows = sqlx::query(sql).bind(scope.as_str()).bind(signed(seq)).fetch(tx);
    while let Some(row) = rows.try_next().await.map_err(driver)? {
        let edge = EdgeView {
            id: EdgeId(get(&row, 0)?),
            edge_type: choice(&row, 1, EdgeType::parse)?,
            src: NodeId(get(&row, 2)?),
            dst: NodeId(get(&row, 3)?),
            weight: get(&row, 4)?,
            confidence: get(&row, 5)?,
            commit_seq: unsigned(&row, 6)?,
        };
        if then.had(edge.id.0, get(&row, 7)?) && seen.insert(edge.id.0) {
            past.put_edge(edge);
        }
    }
    Ok(())
}

/// Which nodes were aliases, and of what.
async fn aliases(tx: &mut PgConnection, scope: &ScopeKey, seq: u64) -> Result<HashMap<NodeId, NodeId>, StoreError> {
    let sql = "SELECT m.duplicate_id, m.canonical_id, m.applied_seq, m.ordinal FROM memory_merges m \
               WHERE m.scope_no = hashtextextended($1, 0) AND m.scope_key || '' = $1 AND m.applied_seq <= $2 \
                   AND (m.undone_seq IS NULL OR m.undone_seq > $2)";
    let rows = sqlx::query(sql).bind(scope.as_str()).bind(signed(seq)).fetch_all(tx).await.map_err(driver)?;
    let of = |row| {
        let ordinal = u32::try_from(unsigned(row, 3)?).unwrap_or(u32::MAX);
        Ok((NodeId(get(row, 0)?), NodeId(get(row, 1)?), unsigned(row, 2)?, ordinal))
    };
    let rows = rows.iter().map(of).collect::<Result<Vec<_>, StoreError>>()?;
    Ok(newest_aliases(rows).into_iter().collect())
}

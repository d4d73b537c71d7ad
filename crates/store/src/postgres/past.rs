//! Building an earlier state.

use std::collections::HashSet;

use aionis_core::{
    canon::Digest,
    ids::{EdgeId, NodeId, ScopeKey},
    model::EdgeType,
    ports::store::StoreError,
    recall::EdgeView,
};
use futures_util::TryStreamExt;
use hashbrown::HashMap;
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
use crate::past::{PastScope, check_size, edges_made};

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
    let mut past = PastScope::new(&shared.space, seq);
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
    let mut later: HashSet<Uuid> = HashSet::new();
    let sql = "SELECT changes FROM memory_commits \
               WHERE scope_key = $1 AND seq > $2 AND strpos(changes, '[\"edge\",\"create\"') > 0";
    let mut rows = sqlx::query(sql).bind(scope.as_str()).bind(signed(seq)).fetch(&mut *tx);
    while let Some(row) = rows.try_next().await.map_err(driver)? {
        edges_made(get(&row, 0)?, &mut later)?;
    }
    drop(rows);
    let sql = "SELECT id, type, src_id, dst_id, weight, confidence, commit_seq FROM memory_edges WHERE scope_key = $1";
    let mut rows = sqlx::query(sql).bind(scope.as_str()).fetch(tx);
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
        if !later.contains(&edge.id.0) {
            past.put_edge(edge);
        }
    }
    Ok(())
}

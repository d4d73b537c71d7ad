//! Nodes tier by tier, and their use.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    lifecycle::AgingNode,
    model::NodeType,
    ports::store::{LifecycleStore, StoreError, TierPage},
};
use async_trait::async_trait;
use rusqlite::{Row, types::Type};

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, choice, decay_basis, signed, unreadable, unsigned, uuid},
};
use crate::decay::{first_after, noted};
use aionis_image::Delta;

const PAGE: &str = "SELECT id, type, salience, salience_at, last_activated, created_at, \
                        CASE WHEN instr(slots, '\"pin\"') > 0 OR instr(slots, '\"legal_hold\"') > 0 \
                            OR instr(slots, '\"feedback_') > 0 THEN slots END, activity, \
                        instr(activity, '\"alias_of\"') > 0 AND EXISTS (SELECT 1 FROM memory_nodes c \
                            WHERE c.scope_key = ?1 AND c.id = unhex(replace(memory_nodes.activity ->> 'alias_of', '-', ''))) \
                    FROM memory_nodes INDEXED BY memory_nodes_tier \
                    WHERE scope_key = ?1 AND tier = ?2 AND id >= ?3 ORDER BY id LIMIT ?4";
const MOVED: &str = "SELECT count(*) FROM memory_nodes INDEXED BY memory_nodes_moved WHERE scope_key = ?1 \
                     AND json_extract(activity, '$.last_tier_transition_ms') >= ?2 \
                     AND json_extract(activity, '$.last_tier_transition_ms') IS NOT NULL";
const USED: &str = "UPDATE memory_nodes SET last_activated = ?3 WHERE scope_key = ?1 AND id = ?2 \
                    AND (last_activated IS NULL OR last_activated <= ?4)";

#[async_trait]
impl LifecycleStore for SqliteStore {
    async fn tier_page(&self, page: TierPage) -> Result<Vec<AgingNode>, StoreError> {
        let Some(first) = first_after(page.after) else { return Ok(Vec::new()) };
        self.readers
            .run(move |connection| {
                let values = (page.scope.as_str(), page.tier.as_str(), blob(first), signed(page.limit as u64));
                connection
                    .prepare_cached(PAGE)
                    .and_then(|mut statement| {
                        statement.query_map(values, |row| aging(row, &page)).and_then(Iterator::collect)
                    })
                    .map_err(|e| unreadable("memory_nodes", page.scope.as_str(), e))
            })
            .await
    }

    async fn moved_since(&self, scope: &ScopeKey, since: Timestamp) -> Result<u64, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                connection
                    .prepare_cached(MOVED)
                    .and_then(|mut statement| {
                        statement.query_row((scope.as_str(), since.0.div_euclid(1_000)), |row| unsigned(row, 0))
                    })
                    .map_err(driver)
            })
            .await
    }

    async fn record_use(
        &self,
        scope: &ScopeKey,
        ids: &[NodeId],
        at: Timestamp,
        unless_since: Timestamp,
    ) -> Result<u64, StoreError> {
        let (scope, ids) = (scope.clone(), ids.to_vec());
        self.writer
            .submit(move |connection, deltas| {
                let mut statement = connection.prepare_cached(USED).map_err(driver)?;
                let mut used = Vec::with_capacity(ids.len());
                for id in ids {
                    let values = (scope.as_str(), blob(id.0), at.0, unless_since.0);
                    if statement.execute(values).map_err(driver)? > 0 {
                        used.push(id);
                    }
                }
                let count = used.len() as u64;
                if count > 0 {
                    deltas.push(Delta::Used { scope: scope.as_str().to_owned(), ids: used, at });
                }
                Ok(count)
            })
            .await
    }
}

fn aging(row: &Row<'_>, page: &TierPage) -> rusqlite::Result<AgingNode> {
    let id = NodeId(uuid(row, 0)?);
    let notes = row.get_ref(7)?.as_str_or_null()?;
    let (moved_at, alias_of) =
        noted(id, notes).map_err(|e| rusqlite::Error::FromSqlConversionFailure(7, Type::Text, Box::new(e)))?;
    let node_type = choice(row, 1, NodeType::parse)?;
    Ok(AgingNode {
        id,
        tier: page.tier,
        salience: row.get(2)?,
        decay: decay_basis(row, (node_type, page.tier), 3)?,
        moved_at,
        alias_of,
        leads: row.get::<_, Option<bool>>(8)? == Some(true),
    })
}

//! Nodes tier by tier, and their use.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    lifecycle::AgingNode,
    model::NodeType,
    ports::store::{LifecycleStore, StoreError, TierPage},
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{
    PostgresStore,
    error::{driver, inconsistent},
    rows::{choice, get, signed, unsigned},
    session::{For, begin},
};
use crate::decay::{basis, first_after, noted};

const PAGE: &str = "SELECT id, type, salience, salience_at, last_activated, created_at, \
                        CASE WHEN slots ?| ARRAY['pin', 'legal_hold', 'feedback_quality', 'feedback_positive', \
                            'feedback_negative'] THEN slots::text END, activity::text, \
                        CASE WHEN activity ->> 'alias_of' ~ '^[0-9a-f-]{36}$' THEN EXISTS (SELECT 1 FROM memory_nodes c \
                            WHERE c.scope_key = $1 AND c.id = (n.activity ->> 'alias_of')::uuid) END \
                    FROM memory_nodes n WHERE tier_no = hashtextextended($1, 2) AND scope_key || '' = $1 AND tier = $2 \
                        AND id >= $3 ORDER BY id LIMIT $4";
const MOVED: &str = "SELECT count(*) FROM memory_nodes WHERE moved_no = hashtextextended($1, 3) AND scope_key || '' = $1 \
                     AND moved_ms >= $2";
/// Rows that somebody else is changing are passed over: a recall waits for nobody, and holds nobody up.
const USED: &str = "WITH free AS (
    SELECT n.scope_key, n.id FROM UNNEST($2::uuid[]) AS q (id)
    CROSS JOIN LATERAL (SELECT scope_key, id FROM memory_nodes WHERE scope_key = $1 AND id = q.id
        AND (last_activated IS NULL OR last_activated <= $4) LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) n
)
UPDATE memory_nodes n SET last_activated = $3 FROM free
WHERE n.scope_key = free.scope_key AND n.id = free.id RETURNING n.id";
/// When nodes were used may be forgotten when the server crashes; nobody waits for its sync.
const UNSYNCED: &str = "SET LOCAL synchronous_commit = off";

#[async_trait]
impl LifecycleStore for PostgresStore {
    async fn tier_page(&self, page: TierPage) -> Result<Vec<AgingNode>, StoreError> {
        let Some(first) = first_after(page.after) else { return Ok(Vec::new()) };
        let query = sqlx::query(PAGE).bind(page.scope.as_str()).bind(page.tier.as_str()).bind(first);
        let rows = self.page(&page.scope, query.bind(signed(page.limit as u64))).await?;
        rows.iter().map(|row| aging(row, &page)).collect()
    }

    async fn moved_since(&self, scope: &ScopeKey, since: Timestamp) -> Result<u64, StoreError> {
        let query = sqlx::query(MOVED).bind(scope.as_str()).bind(since.0.div_euclid(1_000));
        self.page(scope, query).await?.first().map_or(Ok(0), |row| unsigned(row, 0))
    }

    async fn record_use(
        &self,
        scope: &ScopeKey,
        ids: &[NodeId],
        at: Timestamp,
        unless_since: Timestamp,
    ) -> Result<u64, StoreError> {
        let shared = &self.shared;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let used = shared
            .patience
            .bounded(async {
                let tenant = For::Tenant(scope.tenant());
                let mut tx = begin(&shared.pool, tenant, shared.options.statement_timeout, UNSYNCED).await?;
                let query = sqlx::query(USED).bind(scope.as_str()).bind(ids).bind(at.0).bind(unless_since.0);
                let rows = query.fetch_all(&mut *tx).await.map_err(driver)?;
                tx.commit().await.map_err(driver)?;
                rows.iter().map(|row| get(row, 0).map(NodeId)).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        shared.images.used(scope, &used, at);
        Ok(used.len() as u64)
    }
}

fn aging(row: &PgRow, page: &TierPage) -> Result<AgingNode, StoreError> {
    let id = NodeId(get(row, 0)?);
    let kind = (choice(row, 1, NodeType::parse)?, page.tier);
    let times = (get(row, 3)?, get(row, 4)?, get(row, 5)?);
    let (slots, notes): (Option<&str>, Option<&str>) = (get(row, 6)?, get(row, 7)?);
    let damage = |e: serde_json::Error| inconsistent("memory_nodes", "activity", id, e.to_string());
    let (moved_at, alias_of) = noted(id, notes).map_err(damage)?;
    Ok(AgingNode {
        id,
        tier: page.tier,
        salience: get(row, 2)?,
        decay: basis(kind, times, slots, notes).map_err(damage)?,
        moved_at,
        alias_of,
        leads: get::<Option<bool>>(row, 8)? == Some(true),
    })
}

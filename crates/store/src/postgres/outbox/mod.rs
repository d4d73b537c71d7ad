//! The queue of derived work. Items are claimed by compare-and-set, so any number of workers may try; a fence makes a late
//! completion a no-op.

mod complete;
mod fail;

pub(crate) use self::complete::Derived;

use std::collections::BTreeMap;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::NodeType,
    ports::store::{
        ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText, StoreError,
    },
    write::{EmbedJob, embed_text},
};
use async_trait::async_trait;
use hashbrown::HashMap;
use sqlx::{PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    rows::{choice, digest, get, signed, unsigned},
    session::{For, Transaction, begin},
    space,
};

/// Open items: an equal share for every tenant, the oldest of each first. The partial index holds open items only.
const CLAIM: &str = "\
WITH open AS (
    SELECT scope_key, id, tenant_id, available_at, created_at,
        row_number() OVER (PARTITION BY tenant_id ORDER BY available_at, created_at, id) AS turn
    FROM memory_outbox
    WHERE published_at IS NULL AND failed_at IS NULL AND available_at <= $1
        AND (lease_until IS NULL OR lease_until <= $1)
), chosen AS (
    SELECT scope_key, id FROM open ORDER BY turn, available_at, created_at, id LIMIT $2
)
UPDATE memory_outbox o SET claimed_by = $3, lease_until = $4, fence = fence + 1, attempts = attempts + 1
FROM chosen c
WHERE o.scope_key = c.scope_key AND o.id = c.id AND COALESCE(o.published_at, o.failed_at) IS NULL
    AND o.available_at <= $1 AND (o.lease_until IS NULL OR o.lease_until <= $1)
RETURNING o.scope_key, o.id, o.fence, o.payload, o.attempts, o.created_at, o.available_at";

/// Claims that are still held. So written that each can only be looked up by its key, whenever the plan was made.
const HELD: &str = "o.scope_key = q.scope_key AND o.id = q.id AND o.fence = q.fence AND o.claimed_by IS NOT NULL \
                    AND COALESCE(o.published_at, o.failed_at) IS NULL";

impl PostgresStore {
    /// The embedding model may have been changed since this process started. Vectors of the old one would be of no use.
    async fn check_space(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let own = &self.shared.space;
        match space::stamped(connection).await? {
            Some(present) if present != *own => Err(StoreError::Unavailable(format!(
                "the vectors of this database are of {} now, this process was started with {}: restart it with the \
                 new EMBEDDING settings",
                present.name, own.name
            ))),
            _ => Ok(()),
        }
    }

    async fn begin_all(&self) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Everyone, self.shared.options.statement_timeout, "").await
    }
}

/// Claims column by column.
fn columns<'a>(items: impl Iterator<Item = &'a OutboxItem>) -> (Vec<String>, Vec<Uuid>, Vec<i64>) {
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        all.0.push(item.scope.as_str().to_owned());
        all.1.push(item.id);
        all.2.push(signed(item.fence));
    }
    all
}

#[async_trait]
impl OutboxStore for PostgresStore {
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<OutboxItem>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let lease_until = request.now.0 + i64::try_from(request.lease.as_micros()).unwrap_or(i64::MAX);
                let mut tx = self.begin_all().await?;
                self.check_space(&mut tx).await?;
                let mut rows = sqlx::query(CLAIM)
                    .bind(request.now.0)
                    .bind(signed(request.limit as u64))
                    .bind(&request.worker)
                    .bind(lease_until)
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(driver)?;
                rows.sort_by_key(|row| (get::<i64>(row, 6).unwrap_or(0), get::<i64>(row, 5).unwrap_or(0)));
                let mut items = Vec::with_capacity(rows.len());
                let mut unreadable = Vec::new();
                for row in &rows {
                    match claimed(row)? {
                        Ok(item) => items.push(item),
                        Err(problem) => unreadable.push(problem),
                    }
                }
                for (scope, id, problem) in unreadable {
                    // It holds up nothing: it becomes a dead letter, and the others are claimed.
                    tracing::error!(scope, %id, problem, "the payload of an outbox row cannot be read");
                    let sql = "UPDATE memory_outbox SET claimed_by = NULL, lease_until = NULL, failed_at = $3, \
                       failed_reason = 'unreadable_payload', last_error = $4 WHERE scope_key = $1 AND id = $2";
                    sqlx::query(sql)
                        .bind(scope)
                        .bind(id)
                        .bind(request.now.0)
                        .bind(problem)
                        .execute(&mut *tx)
                        .await
                        .map_err(driver)?;
                }
                tx.commit().await.map_err(driver)?;
                Ok(items)
            })
            .await
    }

    async fn extend(&self, items: &[OutboxItem], until: Timestamp) -> Result<(), StoreError> {
        self.shared
            .patience
            .bounded(async {
                let (scopes, ids, fences) = columns(items.iter());
                let mut tx = self.begin_all().await?;
                let sql = format!(
                    "UPDATE memory_outbox o SET lease_until = $4 \
             FROM UNNEST($1::text[], $2::uuid[], $3::bigint[]) AS q (scope_key, id, fence) WHERE {HELD}"
                );
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(scopes)
                    .bind(ids)
                    .bind(fences)
                    .bind(until.0)
                    .execute(&mut *tx)
                    .await
                    .map_err(driver)?;
                tx.commit().await.map_err(driver)
            })
            .await
    }

    async fn pending_texts(&self, items: &[OutboxItem]) -> Result<Vec<PendingText>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let wanted: Vec<(&ScopeKey, NodeId)> =
                    items.iter().flat_map(|item| item.nodes.iter().map(|id| (&item.scope, *id))).collect();
                let sql = "SELECT n.scope_key, n.id, n.type, n.title, n.text_summary, n.digest, \
                   v.source_digest IS NOT DISTINCT FROM n.digest \
                   FROM UNNEST($1::text[], $2::uuid[]) AS q (scope_key, id) \
                   CROSS JOIN LATERAL (SELECT * FROM memory_nodes m \
                       WHERE m.scope_key = q.scope_key AND m.id = q.id AND (SELECT state FROM memory_scopes s \
                           WHERE s.scope_key = q.scope_key) IS DISTINCT FROM 'purging' LIMIT 1) n \
                   LEFT JOIN LATERAL (SELECT source_digest FROM memory_vectors \
                       WHERE scope_key = q.scope_key AND node_id = q.id AND model = $3 LIMIT 1) v ON true";
                let mut tx = self.begin_all().await?;
                let rows = sqlx::query(sql)
                    .bind(wanted.iter().map(|(scope, _)| scope.as_str().to_owned()).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
                    .bind(&self.shared.space.name)
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(driver)?;
                let mut found: HashMap<(String, NodeId), PendingText> = HashMap::with_capacity(rows.len());
                for row in &rows {
                    let (scope, id): (String, NodeId) = (get(row, 0)?, NodeId(get(row, 1)?));
                    let node_type = choice(row, 2, NodeType::parse)?;
                    let text = embed_text(node_type, get(row, 3)?, get(row, 4)?).map(str::to_owned);
                    let key = ScopeKey::from_stored(&scope)?;
                    let pending = PendingText { scope: key, id, text, digest: digest(row, 5)?, ready: get(row, 6)? };
                    found.insert((scope, id), pending);
                }
                Ok(wanted
                    .into_iter()
                    .filter_map(|(scope, id)| found.get(&(scope.as_str().to_owned(), id)).cloned())
                    .collect())
            })
            .await
    }

    async fn complete(
        &self,
        items: &[OutboxItem],
        nodes: Vec<EmbeddedNode>,
        model: &str,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let mut by_scope: BTreeMap<&ScopeKey, (Vec<&OutboxItem>, Vec<&EmbeddedNode>)> = BTreeMap::new();
        for item in items {
            by_scope.entry(&item.scope).or_default().0.push(item);
        }
        for node in &nodes {
            if let Some(of_scope) = by_scope.get_mut(&node.scope) {
                of_scope.1.push(node);
            }
        }
        let mut stored = 0;
        // One transaction per scope: a lock on one scope is never held while another is waited for.
        for (scope, (items, nodes)) in by_scope {
            stored += self.complete_scope(scope, &items, &nodes, model, now).await?;
        }
        Ok(stored)
    }

    async fn fail(&self, items: Vec<FailedItem>, now: Timestamp) -> Result<(), StoreError> {
        let mut by_scope: BTreeMap<&ScopeKey, Vec<&FailedItem>> = BTreeMap::new();
        for failed in &items {
            by_scope.entry(&failed.item.scope).or_default().push(failed);
        }
        // One transaction per scope: a lock on one scope is never held while another is waited for.
        for (scope, items) in by_scope {
            self.fail_scope(scope, &items, now).await?;
        }
        Ok(())
    }

    async fn outbox_status(&self) -> Result<OutboxStatus, StoreError> {
        self.shared.patience.bounded(async {
        let sql = "SELECT (SELECT COUNT(*) FROM memory_outbox WHERE published_at IS NULL AND failed_at IS NULL), \
                   (SELECT MIN(created_at) FROM memory_outbox WHERE published_at IS NULL AND failed_at IS NULL), \
                   (SELECT COUNT(*) FROM memory_outbox WHERE failed_at IS NOT NULL)";
        let mut tx = self.begin_all().await?;
        self.check_space(&mut tx).await?;
        let row = sqlx::query(sql).fetch_one(&mut *tx).await.map_err(driver)?;
        Ok(OutboxStatus {
            pending: unsigned(&row, 0)?,
            dead: unsigned(&row, 2)?,
            oldest_pending: get::<Option<i64>>(&row, 1)?.map(Timestamp),
        })
        }).await
    }

    async fn work_arrived(&self) {
        self.shared.wake.work_arrived().await;
    }
}

type Unreadable = (String, Uuid, String);

fn claimed(row: &PgRow) -> Result<Result<OutboxItem, Unreadable>, StoreError> {
    let (scope, id): (String, Uuid) = (get(row, 0)?, get(row, 1)?);
    let (nodes, force) = match EmbedJob::read(get(row, 3)?) {
        Ok(read) => read,
        Err(problem) => return Ok(Err((scope, id, problem))),
    };
    Ok(Ok(OutboxItem {
        scope: ScopeKey::from_stored(&scope)?,
        id,
        fence: unsigned(row, 2)?,
        nodes,
        force,
        attempts: u32::try_from(get::<i32>(row, 4)?).unwrap_or(0),
        created_at: Timestamp(get(row, 5)?),
    }))
}

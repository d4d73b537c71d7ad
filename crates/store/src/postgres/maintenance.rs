//! What an operator does to derived data: trying again what was given up, and changing the embedding model.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::NodeType,
    ports::{
        embed::EmbeddingSpace,
        store::{
            EmbeddedNode, GenerationCounts, GivenUp, Lacking, MaintenanceStore, NodePlace, PendingText, StoreError,
        },
    },
    write::{EmbedJob, check_vector_at, embed_text},
};
use async_trait::async_trait;
use hashbrown::{HashMap, HashSet};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    outbox::Derived,
    rows::{choice, digest, get, signed, unsigned},
    session::{For, Transaction, begin},
    space,
};
use crate::{maintenance::NODES_PER_ITEM, space::unstamped};

/// Pages of nodes the switch reads at once.
const SWITCH_PAGE: usize = 1_000;

const GIVE_UP: &str = "UPDATE memory_nodes SET embedding_status = 'failed', embedding_last_attempt_at = $3, \
                       embedding_last_error = 'no_text', change_no = $4 WHERE scope_key = $1 AND id = ANY($2)";
const WAIT: &str = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_pending_at = $3, \
                    embedding_last_error = NULL, change_no = $4 WHERE scope_key = $1 AND id = ANY($2)";

/// Longest time of a statement of maintenance: nobody waits for its answer but an operator.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3_600);

impl PostgresStore {
    async fn begin_maintenance(&self, tenant: For<'_>) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, tenant, TIMEOUT, "").await
    }

    /// Queues nodes of one scope that have no vector of a generation, those of them that still have none and the content
    /// they had.
    async fn queue_lacking(
        &self,
        generation: &EmbeddingSpace,
        nodes: &[PendingText],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let scope = &nodes[0].scope;
        let mut tx = self.begin_maintenance(For::Tenant(scope.tenant())).await?;
        let Some(change_no) = Self::next_change(&mut tx, scope).await? else { return Ok(0) };
        let sql = "SELECT q.id FROM UNNEST($2::uuid[], $3::bytea[]) AS q (id, digest) \
                   CROSS JOIN LATERAL (SELECT 1 FROM memory_nodes \
                       WHERE scope_key = $1 AND id = q.id AND digest = q.digest LIMIT 1) n \
                   LEFT JOIN LATERAL (SELECT source_digest FROM memory_vectors \
                       WHERE scope_key = $1 AND node_id = q.id AND model = $4 LIMIT 1) v ON true \
                   WHERE v.source_digest IS DISTINCT FROM q.digest";
        let rows = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(nodes.iter().map(|node| node.id.0).collect::<Vec<_>>())
            .bind(nodes.iter().map(|node| node.digest.0.to_vec()).collect::<Vec<_>>())
            .bind(&generation.name)
            .fetch_all(&mut *tx)
            .await
            .map_err(driver)?;
        let still: HashSet<Uuid> = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        // What there is of the generation belongs to other content.
        let sql = "DELETE FROM memory_vectors v USING UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::uuid[], \
                       array_fill($3::text, ARRAY[cardinality($2)])) AS q (scope_key, id, model) \
                   WHERE v.scope_key = q.scope_key AND v.node_id = q.id AND v.model = q.model";
        sqlx::query(sql)
            .bind(scope.as_str())
            .bind(still.iter().copied().collect::<Vec<_>>())
            .bind(&generation.name)
            .execute(&mut *tx)
            .await
            .map_err(driver)?;
        let of = |has_text: bool| -> Vec<NodeId> {
            let wanted = nodes.iter().filter(|node| still.contains(&node.id.0) && node.text.is_some() == has_text);
            wanted.map(|node| node.id).collect()
        };
        let (with, without) = (of(true), of(false));
        enqueue(&mut tx, scope, &with, now).await?;
        let queued = set_status(&mut tx, WAIT, scope, &with, (now, change_no)).await?;
        set_status(&mut tx, GIVE_UP, scope, &without, (now, change_no)).await?;
        tx.commit().await.map_err(driver)?;
        self.shared.images.note(scope, change_no);
        Ok(queued)
    }
}

#[async_trait]
impl MaintenanceStore for PostgresStore {
    async fn forget_requests(&self, before: Timestamp, limit: usize) -> Result<u64, StoreError> {
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        let forgotten = forget_requests(&mut tx, before, limit).await?;
        tx.commit().await.map_err(driver)?;
        Ok(forgotten)
    }

    async fn given_up(&self, scope: &ScopeKey) -> Result<GivenUp, StoreError> {
        let mut tx = self.begin_maintenance(For::Tenant(scope.tenant())).await?;
        given_up(&mut tx, scope).await
    }

    async fn replay(&self, scope: &ScopeKey, now: Timestamp) -> Result<GivenUp, StoreError> {
        let mut tx = self.begin_maintenance(For::Tenant(scope.tenant())).await?;
        let Some(change_no) = Self::next_change(&mut tx, scope).await? else { return Ok(GivenUp::default()) };
        let before = given_up(&mut tx, scope).await?;
        let sql = "UPDATE memory_outbox SET failed_at = NULL, failed_reason = NULL, attempts = 0, claimed_by = NULL, \
                   lease_until = NULL, available_at = $2 WHERE scope_key = $1 AND failed_at IS NOT NULL \
                   AND failed_reason <> 'unreadable_payload' RETURNING payload";
        let rearmed = sqlx::query(sql).bind(scope.as_str()).bind(now.0).fetch_all(&mut *tx).await.map_err(driver)?;
        let mut covered = HashSet::new();
        for row in &rearmed {
            // One that cannot be read after all is told so when it is claimed; its failed nodes get an item below.
            let (nodes, _) = EmbedJob::read(get(row, 0)?).unwrap_or_default();
            covered.extend(nodes);
        }
        let failed = failed_nodes(&mut tx, scope).await?;
        // What no item waits for gets one.
        let uncovered: Vec<NodeId> = failed.iter().filter(|id| !covered.contains(*id)).copied().collect();
        enqueue(&mut tx, scope, &uncovered, now).await?;
        let nodes = set_status(&mut tx, WAIT, scope, &failed, (now, change_no)).await?;
        tx.commit().await.map_err(driver)?;
        self.shared.images.note(scope, change_no);
        self.shared.wake.committed(true);
        Ok(GivenUp { dead_items: rearmed.len() as u64, unreadable_items: before.unreadable_items, failed_nodes: nodes })
    }

    async fn lacking(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Lacking, StoreError> {
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        lacking(&mut tx, generation, after, limit).await
    }

    async fn generation_counts(&self, generation: &EmbeddingSpace) -> Result<GenerationCounts, StoreError> {
        let sql = "SELECT COUNT(*), COUNT(*) FILTER (WHERE EXISTS (SELECT 1 FROM memory_vectors v \
                       WHERE v.scope_key = n.scope_key AND v.node_id = n.id AND v.model = $1 \
                       AND v.source_digest = n.digest)) \
                   FROM memory_nodes n WHERE n.embedding_status <> 'failed'";
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        let row = sqlx::query(sql).bind(&generation.name).fetch_one(&mut *tx).await.map_err(driver)?;
        Ok(GenerationCounts { wanted: unsigned(&row, 0)?, present: unsigned(&row, 1)? })
    }

    async fn put_generation(
        &self,
        generation: &EmbeddingSpace,
        nodes: Vec<EmbeddedNode>,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let mut by_scope: std::collections::BTreeMap<&ScopeKey, Vec<&EmbeddedNode>> = std::collections::BTreeMap::new();
        for node in &nodes {
            if let Ok(vector) = &node.result {
                check_vector_at("embedding", vector, generation.dim)?;
                by_scope.entry(&node.scope).or_default().push(node);
            }
        }
        let mut stored = 0;
        for (scope, nodes) in by_scope {
            let mut tx = self.begin_maintenance(For::Tenant(scope.tenant())).await?;
            let targets = Self::targets(&mut tx, scope, &nodes, generation, &HashMap::new()).await?;
            let derived = Derived::of(&nodes, &targets, generation.dim);
            stored += derived.len();
            derived.put(&mut tx, scope, generation, now).await?;
            // Writers wait for the scope no longer than it takes to see whether they have changed something meanwhile.
            let sql = "SELECT 1 FROM memory_scopes WHERE scope_key = $1 AND state <> 'purging' FOR UPDATE";
            if sqlx::query(sql).bind(scope.as_str()).fetch_optional(&mut *tx).await.map_err(driver)?.is_none() {
                stored -= derived.len();
                continue;
            }
            derived.remove_stale(&mut tx, scope, generation).await?;
            tx.commit().await.map_err(driver)?;
        }
        Ok(stored)
    }

    async fn switch_generation(&self, generation: &EmbeddingSpace, now: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        space::stamp(&mut tx, generation).await?;
        tx.commit().await.map_err(driver)?;
        // From here on the new vectors count. What has none is queued scope by scope, so that no writer waits for all of it.
        let (mut after, mut queued) = (None, 0);
        loop {
            let page = self.lacking(generation, after.as_ref(), SWITCH_PAGE).await?;
            for nodes in page.texts.chunk_by(|a, b| a.scope == b.scope) {
                queued += self.queue_lacking(generation, nodes, now).await?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        let scopes = sqlx::query("SELECT scope_key FROM memory_scopes ORDER BY scope_key")
            .fetch_all(&mut *tx)
            .await
            .map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        for scope in &scopes {
            let mut tx = self.begin_maintenance(For::Everyone).await?;
            let sql = "UPDATE memory_scopes SET vector_count = (SELECT COUNT(*) FROM memory_vectors \
                           WHERE scope_key = $1 AND model = $2) WHERE scope_key = $1";
            sqlx::query(sql)
                .bind(get::<&str>(scope, 0)?)
                .bind(&generation.name)
                .execute(&mut *tx)
                .await
                .map_err(driver)?;
            tx.commit().await.map_err(driver)?;
        }
        self.shared.wake.committed(true);
        Ok(queued)
    }

    async fn label_generation(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Option<NodePlace>, StoreError> {
        let sql = "WITH page AS ( \
                       SELECT scope_key, id FROM memory_nodes WHERE (scope_key, id) > ($1, $2) \
                       ORDER BY scope_key, id LIMIT $3 \
                   ), labelled AS ( \
                       UPDATE memory_nodes n SET embedding_model = $4 FROM page p \
                       WHERE n.scope_key = p.scope_key AND n.id = p.id AND n.embedding_status = 'ready' \
                           AND n.embedding_model IS DISTINCT FROM $4 \
                           AND EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = n.scope_key \
                               AND v.node_id = n.id AND v.model = $4) \
                   ) \
                   SELECT scope_key, id FROM page WHERE (SELECT COUNT(*) FROM page) = $3 \
                   ORDER BY scope_key DESC, id DESC LIMIT 1";
        let (scope, id) = place(after);
        let mut tx = self.begin_maintenance(For::Everyone).await?;
        let row = sqlx::query(sql)
            .bind(scope)
            .bind(id)
            .bind(signed(limit as u64))
            .bind(&generation.name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        row.map(|row| Ok(NodePlace { scope: ScopeKey::from_stored(get(&row, 0)?)?, id: NodeId(get(&row, 1)?) }))
            .transpose()
    }

    async fn present_generation(&self) -> Result<EmbeddingSpace, StoreError> {
        let mut connection = self.connection().await?;
        Ok(space::stamped(&mut connection).await?.unwrap_or_else(|| self.shared.space.clone()))
    }

    async fn drop_other_generations(&self, scope: &ScopeKey) -> Result<u64, StoreError> {
        let mut tx = self.begin_maintenance(For::Tenant(scope.tenant())).await?;
        let present = space::stamped(&mut tx).await?.ok_or_else(unstamped)?;
        let sql = "DELETE FROM memory_vectors WHERE scope_key = $1 AND model <> $2";
        let done = sqlx::query(sql).bind(scope.as_str()).bind(&present.name).execute(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        Ok(done.rows_affected())
    }
}

/// Forgets the oldest answers kept for repeated requests from before a time; returns how many.
pub(crate) async fn forget_requests(
    connection: &mut PgConnection,
    before: Timestamp,
    limit: usize,
) -> Result<u64, StoreError> {
    // Other processes do the same: each takes other rows.
    let sql = "WITH old AS ( \
                   SELECT scope_key, request_key FROM memory_requests WHERE created_at < $1 ORDER BY created_at LIMIT $2 \
                   FOR UPDATE SKIP LOCKED \
               ) \
               DELETE FROM memory_requests r USING old o \
               WHERE r.scope_key = o.scope_key AND r.request_key = o.request_key";
    sqlx::query(sql)
        .bind(before.0)
        .bind(signed(limit as u64))
        .execute(connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(driver)
}

async fn given_up(connection: &mut PgConnection, scope: &ScopeKey) -> Result<GivenUp, StoreError> {
    let sql = "SELECT COUNT(*) FILTER (WHERE failed_reason <> 'unreadable_payload'), \
               COUNT(*) FILTER (WHERE failed_reason = 'unreadable_payload') \
               FROM memory_outbox WHERE scope_key = $1 AND failed_at IS NOT NULL";
    let row = sqlx::query(sql).bind(scope.as_str()).fetch_one(&mut *connection).await.map_err(driver)?;
    Ok(GivenUp {
        dead_items: unsigned(&row, 0)?,
        unreadable_items: unsigned(&row, 1)?,
        failed_nodes: failed_nodes(connection, scope).await?.len() as u64,
    })
}

/// Failed nodes that have a text.
async fn failed_nodes(connection: &mut PgConnection, scope: &ScopeKey) -> Result<Vec<NodeId>, StoreError> {
    let sql = "SELECT id, type, title, text_summary FROM memory_nodes \
               WHERE scope_key = $1 AND embedding_status = 'failed' ORDER BY id";
    let rows = sqlx::query(sql).bind(scope.as_str()).fetch_all(connection).await.map_err(driver)?;
    let mut nodes = Vec::with_capacity(rows.len());
    for row in &rows {
        if embed_text(choice(row, 1, NodeType::parse)?, get(row, 2)?, get(row, 3)?).is_some() {
            nodes.push(NodeId(get(row, 0)?));
        }
    }
    Ok(nodes)
}

/// Queues work for nodes.
pub(super) async fn enqueue(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    nodes: &[NodeId],
    now: Timestamp,
) -> Result<(), StoreError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let jobs: Vec<EmbedJob> =
        nodes.chunks(NODES_PER_ITEM).map(|nodes| EmbedJob::again(scope.as_str(), nodes)).collect();
    let sql = "INSERT INTO memory_outbox (scope_key, id, event_type, job_key, commit_seq, payload, created_at, available_at) \
               SELECT $1, q.id, 'embed_nodes', q.key, s.head_seq, q.payload, $5, $5 \
               FROM UNNEST($2::uuid[], $3::text[], $4::text[]) AS q (id, key, payload), \
                   LATERAL (SELECT head_seq FROM memory_scopes WHERE scope_key = $1 LIMIT 1) s \
               ON CONFLICT (scope_key, id) DO UPDATE SET published_at = NULL, failed_at = NULL, \
                   failed_reason = NULL, attempts = 0, claimed_by = NULL, lease_until = NULL, \
                   available_at = excluded.available_at, created_at = excluded.created_at";
    sqlx::query(sql)
        .bind(scope.as_str())
        .bind(jobs.iter().map(|job| job.id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.key.clone()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.payload.to_string()).collect::<Vec<_>>())
        .bind(now.0)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(driver)
}

/// Changes the state of nodes' vectors by `sql`.
pub(super) async fn set_status(
    connection: &mut PgConnection,
    sql: &'static str,
    scope: &ScopeKey,
    nodes: &[NodeId],
    (now, change_no): (Timestamp, i64),
) -> Result<u64, StoreError> {
    if nodes.is_empty() {
        return Ok(0);
    }
    sqlx::query(sql)
        .bind(scope.as_str())
        .bind(nodes.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(now.0)
        .bind(change_no)
        .execute(connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(driver)
}

/// Before the first node, or a node.
fn place(after: Option<&NodePlace>) -> (String, Uuid) {
    after.map_or_else(|| (String::new(), Uuid::nil()), |place| (place.scope.as_str().to_owned(), place.id.0))
}

async fn lacking(
    connection: &mut PgConnection,
    generation: &EmbeddingSpace,
    after: Option<&NodePlace>,
    limit: usize,
) -> Result<Lacking, StoreError> {
    // The limit is on nodes looked at: where few are lacking, one statement must not look at all of them.
    let sql = "SELECT n.scope_key, n.id, n.type, n.title, n.text_summary, n.digest, \
                   n.embedding_status <> 'failed' AND v.source_digest IS DISTINCT FROM n.digest \
               FROM (SELECT * FROM memory_nodes WHERE (scope_key, id) > ($1, $2) ORDER BY scope_key, id LIMIT $4) n \
               LEFT JOIN LATERAL (SELECT source_digest FROM memory_vectors \
                   WHERE scope_key = n.scope_key AND node_id = n.id AND model = $3 LIMIT 1) v ON true \
               ORDER BY n.scope_key, n.id";
    let (scope, id) = place(after);
    let rows = sqlx::query(sql)
        .bind(scope)
        .bind(id)
        .bind(&generation.name)
        .bind(signed(limit as u64))
        .fetch_all(connection)
        .await
        .map_err(driver)?;
    let mut page = Lacking::default();
    for row in &rows {
        if !get::<bool>(row, 6)? {
            continue;
        }
        let text = embed_text(choice(row, 2, NodeType::parse)?, get(row, 3)?, get(row, 4)?).map(str::to_owned);
        page.texts.push(PendingText {
            scope: ScopeKey::from_stored(get(row, 0)?)?,
            id: NodeId(get(row, 1)?),
            text,
            digest: digest(row, 5)?,
            ready: false,
        });
    }
    if let Some(last) = rows.last().filter(|_| rows.len() == limit) {
        page.next = Some(NodePlace { scope: ScopeKey::from_stored(get(last, 0)?)?, id: NodeId(get(last, 1)?) });
    }
    Ok(page)
}

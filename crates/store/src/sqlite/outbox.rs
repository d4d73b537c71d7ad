//! The queue of derived work.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::NodeType,
    ports::store::{
        ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText, StoreError,
    },
    write::embed_text,
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    SqliteStore,
    error::{driver, inconsistent},
    image::Delta,
    rows::{blob, choice, digest, signed, unreadable, unsigned, uuid},
    write::put_vector,
};

#[derive(Deserialize)]
struct Payload {
    nodes: Vec<PayloadNode>,
    #[serde(default)]
    force_reembed: bool,
}

#[derive(Deserialize)]
struct PayloadNode {
    id: Uuid,
}

#[async_trait]
impl OutboxStore for SqliteStore {
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<OutboxItem>, StoreError> {
        let idle = self
            .readers
            .run({
                let now = request.now;
                move |connection| Ok(claimable(connection, now, 1)?.is_empty())
            })
            .await?;
        // Looking costs the writer nothing while there is nothing to do.
        if idle {
            return Ok(Vec::new());
        }
        self.writer.submit(move |connection, _| claim(connection, &request)).await
    }

    async fn extend(&self, items: &[OutboxItem], until: Timestamp) -> Result<(), StoreError> {
        let items = items.to_vec();
        self.writer
            .submit(move |connection, _| {
                let sql = "UPDATE memory_outbox SET lease_until = ?4 WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 \
                           AND published_at IS NULL AND failed_at IS NULL";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                for item in &items {
                    let key = (item.scope.as_str(), blob(item.id), signed(item.fence), until.0);
                    statement.execute(key).map_err(driver)?;
                }
                Ok(())
            })
            .await
    }

    async fn pending_texts(&self, items: &[OutboxItem]) -> Result<Vec<PendingText>, StoreError> {
        let wanted: Vec<(ScopeKey, NodeId)> =
            items.iter().flat_map(|item| item.nodes.iter().map(|id| (item.scope.clone(), *id))).collect();
        let model = self.shared.space.name.clone();
        self.readers.run(move |connection| texts(connection, wanted, &model)).await
    }

    async fn complete(
        &self,
        items: &[OutboxItem],
        nodes: Vec<EmbeddedNode>,
        model: &str,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let items = items.to_vec();
        let (space, label) = (self.shared.space.name.clone(), model.to_owned());
        self.writer
            .submit(move |connection, deltas| {
                // A claim that was taken over is the other worker's to complete; its vectors are not stored twice.
                let held: Vec<&OutboxItem> =
                    items.iter().map(|item| Ok(publish(connection, item, now)?.then_some(item)))
                        .collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect();
                let mut stored = 0;
                for node in nodes {
                    let held = held.iter().any(|item| item.scope == node.scope && item.nodes.contains(&node.id));
                    if held && settle(connection, &node, (&space, &label), now, deltas)? {
                        stored += 1;
                    }
                }
                Ok(stored)
            })
            .await
    }

    async fn fail(&self, items: Vec<FailedItem>, now: Timestamp) -> Result<(), StoreError> {
        let attempts_max = self.outbox_attempts_max;
        self.writer
            .submit(move |connection, deltas| {
                for failed in &items {
                    record_failure(connection, failed, attempts_max, now, deltas)?;
                }
                Ok(())
            })
            .await
    }

    async fn outbox_status(&self) -> Result<OutboxStatus, StoreError> {
        self.readers
            .run(|connection| {
                let open = "SELECT COUNT(*), MIN(created_at) FROM memory_outbox \
                            WHERE published_at IS NULL AND failed_at IS NULL";
                let (pending, oldest): (u64, Option<i64>) = connection
                    .query_row(open, [], |row| Ok((unsigned(row, 0)?, row.get(1)?)))
                    .map_err(driver)?;
                let dead = "SELECT COUNT(*) FROM memory_outbox WHERE failed_at IS NOT NULL";
                let dead = connection.query_row(dead, [], |row| unsigned(row, 0)).map_err(driver)?;
                Ok(OutboxStatus { pending, dead, oldest_pending: oldest.map(Timestamp) })
            })
            .await
    }

    async fn work_arrived(&self) {
        self.shared.work.notified().await;
    }
}

/// Row numbers of items that may be claimed: one tenant after the other in turns, oldest first within one.
fn claimable(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT outbox_no FROM (\
                   SELECT outbox_no, available_at, \
                          ROW_NUMBER() OVER (PARTITION BY tenant_id ORDER BY available_at, outbox_no) AS turn \
                   FROM (SELECT outbox_no, tenant_id, available_at FROM memory_outbox \
                         WHERE published_at IS NULL AND failed_at IS NULL AND available_at <= ?1 \
                           AND (lease_until IS NULL OR lease_until <= ?1) \
                         ORDER BY available_at LIMIT 2000)) \
               ORDER BY turn, available_at, outbox_no LIMIT ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    statement
        .query_map((now.0, signed(limit as u64)), |row| row.get(0))
        .and_then(Iterator::collect)
        .map_err(driver)
}

fn claim(connection: &Connection, request: &ClaimRequest) -> Result<Vec<OutboxItem>, StoreError> {
    let lease_until = request.now.0 + i64::try_from(request.lease.as_micros()).unwrap_or(i64::MAX);
    let sql = "UPDATE memory_outbox SET claimed_by = ?2, lease_until = ?3, fence = fence + 1, attempts = attempts + 1 \
               WHERE outbox_no = ?1 RETURNING scope_key, id, fence, payload, attempts, created_at";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut items = Vec::new();
    for outbox_no in claimable(connection, request.now, request.limit)? {
        let (scope, id, fence, payload, attempts, created_at) = statement
            .query_row(params![outbox_no, request.worker, lease_until], |row| {
                let scope: String = row.get(0)?;
                let payload: String = row.get(3)?;
                Ok((scope, uuid(row, 1)?, unsigned(row, 2)?, payload, row.get(4)?, Timestamp(row.get(5)?)))
            })
            .map_err(driver)?;
        let payload: Payload = serde_json::from_str(&payload)
            .map_err(|e| inconsistent("memory_outbox", "payload", id, e.to_string()))?;
        items.push(OutboxItem {
            scope: ScopeKey::from_stored(&scope)?,
            id,
            fence,
            nodes: payload.nodes.into_iter().map(|node| NodeId(node.id)).collect(),
            force: payload.force_reembed,
            attempts,
            created_at,
        });
    }
    Ok(items)
}

fn texts(connection: &Connection, wanted: Vec<(ScopeKey, NodeId)>, model: &str) -> Result<Vec<PendingText>, StoreError> {
    let sql = "SELECT n.type, n.title, n.text_summary, n.digest, \
               EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = n.scope_key AND v.node_id = n.id \
                       AND v.model = ?3 AND v.source_digest = n.digest) \
               FROM memory_nodes n WHERE n.scope_key = ?1 AND n.id = ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut found = Vec::with_capacity(wanted.len());
    for (scope, id) in wanted {
        let row = statement
            .query_row((scope.as_str(), blob(id.0), model), |row| {
                let node_type = choice(row, 0, NodeType::parse)?;
                let (title, summary): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
                let text = embed_text(node_type, title.as_deref(), summary.as_deref()).map(str::to_owned);
                Ok((text, digest(row, 3)?, row.get(4)?))
            })
            .optional()
            .map_err(|e| unreadable("memory_nodes", id, e))?;
        found.extend(row.map(|(text, digest, ready)| PendingText { scope, id, text, digest, ready }));
    }
    Ok(found)
}

/// Marks an item done; false when the claim is not held any more.
fn publish(connection: &Connection, item: &OutboxItem, now: Timestamp) -> Result<bool, StoreError> {
    let sql = "UPDATE memory_outbox SET published_at = ?4, claimed_by = NULL, lease_until = NULL, last_error = NULL \
               WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 AND published_at IS NULL AND failed_at IS NULL";
    let key = (item.scope.as_str(), blob(item.id), signed(item.fence), now.0);
    connection.prepare_cached(sql).and_then(|mut s| s.execute(key)).map(|n| n == 1).map_err(driver)
}

/// Stores a node's vector, or why it has none, if the node still has the content it was derived from.
fn settle(
    connection: &Connection,
    node: &EmbeddedNode,
    (space, label): (&str, &str),
    now: Timestamp,
    deltas: &mut Vec<Delta>,
) -> Result<bool, StoreError> {
    let scope = node.scope.as_str();
    let (status, error) = match &node.result {
        Ok(_) => ("ready", None),
        Err(reason) => ("failed", Some(reason.as_str())),
    };
    let sql = "UPDATE memory_nodes SET embedding_status = ?4, embedding_model = COALESCE(?5, embedding_model), \
               embedding_attempts = embedding_attempts + 1, embedding_last_error = ?6, embedding_last_attempt_at = ?7, \
               embedding_ready_at = CASE WHEN ?4 = 'ready' THEN ?7 ELSE embedding_ready_at END \
               WHERE scope_key = ?1 AND id = ?2 AND digest = ?3";
    let model = node.result.is_ok().then_some(label);
    let changed = connection
        .prepare_cached(sql)
        .and_then(|mut s| s.execute(params![scope, blob(node.id.0), node.digest.0, status, model, error, now.0]))
        .map_err(driver)?;
    if changed == 0 {
        // Newer content came meanwhile and has a work item of its own.
        return Ok(false);
    }
    match &node.result {
        Ok(vector) => {
            let vector_no =
                put_vector(connection, (scope, node.id), space, (&node.digest.0, "derived"), vector, now)?;
            deltas.push(Delta::Vector { scope: scope.to_owned(), id: node.id, vector_no, vector: vector.clone() });
            Ok(true)
        }
        Err(_) => {
            deltas.push(Delta::Settled { scope: scope.to_owned(), ids: vec![node.id] });
            Ok(false)
        }
    }
}

fn record_failure(
    connection: &Connection,
    failed: &FailedItem,
    attempts_max: u32,
    now: Timestamp,
    deltas: &mut Vec<Delta>,
) -> Result<(), StoreError> {
    let item = &failed.item;
    let exhausted = failed.counts && item.attempts >= attempts_max;
    let retry_at = failed.retry_at.filter(|_| !exhausted);
    let reason = match (retry_at, exhausted) {
        (Some(_), _) => None,
        (None, true) => Some("max_attempts_exceeded"),
        (None, false) => Some("rejected"),
    };
    let sql = "UPDATE memory_outbox SET claimed_by = NULL, lease_until = NULL, last_error = ?4, \
               attempts = attempts - ?5, available_at = COALESCE(?6, available_at), \
               failed_at = CASE WHEN ?7 IS NULL THEN NULL ELSE ?8 END, failed_reason = ?7 \
               WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 AND published_at IS NULL AND failed_at IS NULL";
    let uncounted = i64::from(!failed.counts);
    let key = params![
        item.scope.as_str(),
        blob(item.id),
        signed(item.fence),
        failed.error,
        uncounted,
        retry_at.map(|at| at.0),
        reason,
        now.0
    ];
    let held = connection.prepare_cached(sql).and_then(|mut s| s.execute(key)).map_err(driver)? == 1;
    if held && reason.is_some() {
        let sql = "UPDATE memory_nodes SET embedding_status = 'failed', embedding_last_error = ?3, \
                   embedding_attempts = embedding_attempts + 1, embedding_last_attempt_at = ?4 \
                   WHERE scope_key = ?1 AND id = ?2 AND embedding_status = 'pending'";
        let mut statement = connection.prepare_cached(sql).map_err(driver)?;
        for id in &item.nodes {
            statement.execute(params![item.scope.as_str(), blob(id.0), failed.error, now.0]).map_err(driver)?;
        }
        deltas.push(Delta::Settled { scope: item.scope.as_str().to_owned(), ids: item.nodes.clone() });
    }
    Ok(())
}

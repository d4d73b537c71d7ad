//! The queue of derived work.

use std::sync::PoisonError;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::NodeType,
    ports::store::{
        ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus, OutboxStore, PendingText, StoreError,
    },
    write::{EmbedJob, check_vector_at, embed_text},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, choice, digest, signed, unreadable, unsigned, uuid},
    write::put_vector,
};
use crate::space::EmbeddingSpace;
use aionis_image::Delta;

#[async_trait]
impl OutboxStore for SqliteStore {
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<OutboxItem>, StoreError> {
        let idle = self
            .readers
            .run({
                let now = request.now;
                move |connection| Ok(claimable(connection, now, 1, "")?.0.is_empty())
            })
            .await?;
        // Looking costs the writer nothing while there is nothing to do.
        if idle {
            return Ok(Vec::new());
        }
        let after = self.claim_cursor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (items, last) = self.writer.submit(move |connection, _| claim(connection, &request, &after)).await?;
        *self.claim_cursor.lock().unwrap_or_else(PoisonError::into_inner) = last;
        Ok(items)
    }

    async fn extend(&self, items: &[OutboxItem], until: Timestamp) -> Result<(), StoreError> {
        let items = items.to_vec();
        self.writer
            .submit(move |connection, _| {
                let sql = "UPDATE memory_outbox SET lease_until = ?4 WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 \
                           AND claimed_by IS NOT NULL AND published_at IS NULL AND failed_at IS NULL";
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
        let (space, label) = (self.shared.space.clone(), model.to_owned());
        self.writer
            .submit(move |connection, deltas| {
                // A claim that was taken over is the other worker's to complete; its vectors are not stored twice.
                let held: Vec<&OutboxItem> = items
                    .iter()
                    .map(|item| Ok(publish(connection, item, now)?.then_some(item)))
                    .collect::<Result<Vec<_>, StoreError>>()?
                    .into_iter()
                    .flatten()
                    .collect();
                let mut stored = 0;
                for node in nodes {
                    let mut of = held.iter().filter(|item| item.scope == node.scope && item.nodes.contains(&node.id));
                    let Some(first) = of.next() else { continue };
                    let forced = first.force || of.any(|item| item.force);
                    if !forced && has_callers_vector(connection, &node, &space)? {
                        continue;
                    }
                    if settle(connection, &node, (&space, &label), now, deltas)? {
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
                let (pending, oldest): (u64, Option<i64>) =
                    connection.query_row(open, [], |row| Ok((unsigned(row, 0)?, row.get(1)?))).map_err(driver)?;
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

/// Tenants looked at in one claim; the next claim goes on with the tenants after them.
const TENANTS_PER_CLAIM: usize = 64;

const OPEN: &str = "published_at IS NULL AND failed_at IS NULL AND available_at <= ?1 \
                    AND (lease_until IS NULL OR lease_until <= ?1)";

/// Row numbers of items that may be claimed: an equal share for every tenant that has work, oldest first within one;
/// what a tenant leaves of its share goes to the others. `after` is the tenant the last claim ended with.
fn claimable(
    connection: &Connection,
    now: Timestamp,
    limit: usize,
    after: &str,
) -> Result<(Vec<i64>, String), StoreError> {
    let tenants = tenants_with_work(connection, after)?;
    let last = tenants.last().cloned().unwrap_or_default();
    let share = limit.div_ceil(tenants.len().max(1));
    let sql = format!(
        "SELECT outbox_no FROM memory_outbox WHERE tenant_id = ?2 AND {OPEN} ORDER BY available_at, outbox_no LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let mut oldest_of = |tenant: &String, count: usize| -> Result<Vec<i64>, StoreError> {
        let key = (now.0, tenant, signed(count as u64));
        statement.query_map(key, |row| row.get(0)).and_then(Iterator::collect).map_err(driver)
    };
    let mut found = Vec::new();
    let mut more = Vec::new();
    for tenant in &tenants {
        let mut items = oldest_of(tenant, limit.min(share * 2))?;
        more.extend(items.split_off(items.len().min(share)));
        found.extend(items);
    }
    found.extend(more);
    found.truncate(limit);
    Ok((found, last))
}

/// Tenants with open items, found by leaping through the index from one tenant to the next; those after `after` first.
fn tenants_with_work(connection: &Connection, after: &str) -> Result<Vec<String>, StoreError> {
    let sql = "WITH RECURSIVE tenants (tenant_id) AS (\
                   SELECT MIN(tenant_id) FROM memory_outbox \
                   WHERE tenant_id > ?1 AND published_at IS NULL AND failed_at IS NULL \
                   UNION ALL \
                   SELECT (SELECT MIN(o.tenant_id) FROM memory_outbox o WHERE o.tenant_id > tenants.tenant_id \
                           AND o.published_at IS NULL AND o.failed_at IS NULL) \
                   FROM tenants WHERE tenants.tenant_id IS NOT NULL) \
               SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL LIMIT ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut tenants_after = |from: &str| -> Result<Vec<String>, StoreError> {
        let key = (from, signed(TENANTS_PER_CLAIM as u64));
        statement.query_map(key, |row| row.get(0)).and_then(Iterator::collect).map_err(driver)
    };
    let mut tenants = tenants_after(after)?;
    if tenants.len() < TENANTS_PER_CLAIM && !after.is_empty() {
        let room = TENANTS_PER_CLAIM - tenants.len();
        let from_start = tenants_after("")?.into_iter().filter(|tenant| tenant.as_str() <= after).take(room);
        tenants.extend(from_start.collect::<Vec<_>>());
    }
    Ok(tenants)
}

fn claim(
    connection: &Connection,
    request: &ClaimRequest,
    after: &str,
) -> Result<(Vec<OutboxItem>, String), StoreError> {
    let lease_until = request.now.0 + i64::try_from(request.lease.as_micros()).unwrap_or(i64::MAX);
    let sql = "UPDATE memory_outbox SET claimed_by = ?2, lease_until = ?3, fence = fence + 1, attempts = attempts + 1 \
               WHERE outbox_no = ?1 RETURNING scope_key, id, fence, payload, attempts, created_at";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut items = Vec::new();
    let (claimable, last) = claimable(connection, request.now, request.limit, after)?;
    for outbox_no in claimable {
        let (scope, id, fence, payload, attempts, created_at) = statement
            .query_row(params![outbox_no, request.worker, lease_until], |row| {
                let scope: String = row.get(0)?;
                let payload: String = row.get(3)?;
                Ok((scope, uuid(row, 1)?, unsigned(row, 2)?, payload, row.get(4)?, Timestamp(row.get(5)?)))
            })
            .map_err(driver)?;
        let (nodes, force) = match EmbedJob::read(&payload) {
            Ok(read) => read,
            Err(problem) => {
                // It holds up nothing: it becomes a dead letter, and the others are claimed.
                tracing::error!(scope, %id, problem, "the payload of an outbox row cannot be read");
                let sql = "UPDATE memory_outbox SET claimed_by = NULL, lease_until = NULL, failed_at = ?2, \
                           failed_reason = 'unreadable_payload', last_error = ?3 WHERE outbox_no = ?1";
                connection
                    .prepare_cached(sql)
                    .and_then(|mut s| s.execute(params![outbox_no, request.now.0, problem]))
                    .map_err(driver)?;
                continue;
            }
        };
        items.push(OutboxItem { scope: ScopeKey::from_stored(&scope)?, id, fence, nodes, force, attempts, created_at });
    }
    Ok((items, last))
}

fn texts(
    connection: &Connection,
    wanted: Vec<(ScopeKey, NodeId)>,
    model: &str,
) -> Result<Vec<PendingText>, StoreError> {
    let sql = "SELECT n.type, n.title, n.text_summary, n.digest, \
               EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = n.scope_key AND v.node_id = n.id \
                       AND v.model = ?3 AND v.source_digest = n.digest) \
               FROM memory_nodes n WHERE n.scope_key = ?1 AND n.id = ?2 AND NOT EXISTS \
                   (SELECT 1 FROM memory_scopes s WHERE s.scope_key = ?1 AND s.state = 'purging')";
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
               WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 AND claimed_by IS NOT NULL \
               AND published_at IS NULL AND failed_at IS NULL";
    let key = (item.scope.as_str(), blob(item.id), signed(item.fence), now.0);
    connection.prepare_cached(sql).and_then(|mut s| s.execute(key)).map(|n| n == 1).map_err(driver)
}

/// Whether the caller brought a vector for this content, possibly while one was being derived: the caller's stays.
fn has_callers_vector(
    connection: &Connection,
    node: &EmbeddedNode,
    space: &EmbeddingSpace,
) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM memory_vectors WHERE scope_key = ?1 AND node_id = ?2 AND model = ?3 \
               AND source_digest = ?4 AND origin = 'client')";
    connection
        .prepare_cached(sql)
        .and_then(|mut s| {
            s.query_row(params![node.scope.as_str(), blob(node.id.0), space.name, node.digest.0], |row| row.get(0))
        })
        .map_err(driver)
}

/// Stores a node's vector, or why it has none, if the node still has the content it was derived from.
fn settle(
    connection: &Connection,
    node: &EmbeddedNode,
    (space, label): (&EmbeddingSpace, &str),
    now: Timestamp,
    deltas: &mut Vec<Delta>,
) -> Result<bool, StoreError> {
    let scope = node.scope.as_str();
    // A vector that cannot be compared with the others is none.
    let result: Result<&[f32], String> = match &node.result {
        Ok(vector) => check_vector_at("embedding", vector, space.dim)
            .map(|()| vector.as_slice())
            .map_err(|e| e.issues.into_iter().map(|issue| format!("the derived vector {}", issue.message)).collect()),
        Err(reason) => Err(reason.clone()),
    };
    let (status, error) = match &result {
        Ok(_) => ("ready", None),
        Err(reason) => ("failed", Some(reason.as_str())),
    };
    let sql = "UPDATE memory_nodes SET embedding_status = ?4, embedding_model = COALESCE(?5, embedding_model), \
               embedding_attempts = embedding_attempts + 1, embedding_last_error = ?6, embedding_last_attempt_at = ?7, \
               embedding_ready_at = CASE WHEN ?4 = 'ready' THEN ?7 ELSE embedding_ready_at END \
               WHERE scope_key = ?1 AND id = ?2 AND digest = ?3";
    let model = result.is_ok().then_some(label);
    let changed = connection
        .prepare_cached(sql)
        .and_then(|mut s| s.execute(params![scope, blob(node.id.0), node.digest.0, status, model, error, now.0]))
        .map_err(driver)?;
    if changed == 0 {
        // Newer content came meanwhile and has a work item of its own.
        return Ok(false);
    }
    match result {
        Ok(vector) => {
            let vector_no =
                put_vector(connection, (scope, node.id), &space.name, (&node.digest.0, "derived"), vector, now)?;
            deltas.push(Delta::Vector { scope: scope.to_owned(), id: node.id, vector_no, vector: vector.to_vec() });
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
               WHERE scope_key = ?1 AND id = ?2 AND fence = ?3 AND claimed_by IS NOT NULL \
               AND published_at IS NULL AND failed_at IS NULL";
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

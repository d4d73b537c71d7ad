//! What an operator does to derived data: trying again what was given up, and changing the embedding model.

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
use rusqlite::{Connection, params};

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, choice, digest, signed, unreadable, unsigned, uuid},
    write::{prune_requests, put_vector},
};
use crate::{maintenance::NODES_PER_ITEM, space};
use aionis_image::Delta;

#[async_trait]
impl MaintenanceStore for SqliteStore {
    async fn forget_requests(&self, before: Timestamp, limit: usize) -> Result<u64, StoreError> {
        self.writer.submit(move |connection, _| prune_requests(connection, before, limit)).await
    }

    async fn given_up(&self, scope: &ScopeKey) -> Result<GivenUp, StoreError> {
        let scope = scope.clone();
        self.readers.run(move |connection| given_up(connection, &scope)).await
    }

    async fn replay(&self, scope: &ScopeKey, now: Timestamp) -> Result<GivenUp, StoreError> {
        let scope = scope.clone();
        self.writer
            .submit(move |connection, deltas| {
                let before = given_up(connection, &scope)?;
                let dead = rearm_items(connection, &scope, now)?;
                let mut waiting: Vec<NodeId> = Vec::new();
                for payload in &dead {
                    // One that cannot be read after all is told so when it is claimed; its failed nodes get an item below.
                    let (nodes, _) = EmbedJob::read(payload).unwrap_or_default();
                    waiting.extend(nodes);
                }
                // What no item waits for gets one.
                let failed = failed_nodes(connection, &scope)?;
                let covered: hashbrown::HashSet<NodeId> = waiting.iter().copied().collect();
                let uncovered: Vec<NodeId> = failed.iter().filter(|id| !covered.contains(*id)).copied().collect();
                enqueue(connection, &scope, &uncovered, now)?;
                let sql = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_pending_at = ?3, \
                           embedding_last_error = NULL WHERE scope_key = ?1 AND id = ?2 AND embedding_status = 'failed'";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                let mut nodes = 0;
                for id in &failed {
                    nodes += statement.execute((scope.as_str(), blob(id.0), now.0)).map_err(driver)? as u64;
                }
                deltas.push(Delta::Work { scope: scope.as_str().to_owned(), waiting: failed });
                Ok(GivenUp {
                    dead_items: dead.len() as u64,
                    unreadable_items: before.unreadable_items,
                    failed_nodes: nodes,
                })
            })
            .await
    }

    async fn lacking(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Lacking, StoreError> {
        let (generation, after) = (generation.clone(), after.cloned());
        self.readers.run(move |connection| lacking(connection, &generation, after.as_ref(), limit)).await
    }

    async fn generation_counts(&self, generation: &EmbeddingSpace) -> Result<GenerationCounts, StoreError> {
        let model = generation.name.clone();
        self.readers
            .run(move |connection| {
                let sql = "SELECT COUNT(*), COALESCE(SUM(EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = n.scope_key \
                           AND v.node_id = n.id AND v.model = ?1 AND v.source_digest = n.digest)), 0) \
                           FROM memory_nodes n WHERE n.embedding_status <> 'failed'";
                connection
                    .query_row(sql, [model], |row| {
                        Ok(GenerationCounts { wanted: unsigned(row, 0)?, present: unsigned(row, 1)? })
                    })
                    .map_err(driver)
            })
            .await
    }

    async fn put_generation(
        &self,
        generation: &EmbeddingSpace,
        nodes: Vec<EmbeddedNode>,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let generation = generation.clone();
        self.writer
            .submit(move |connection, _| {
                let sql = "SELECT EXISTS (SELECT 1 FROM memory_nodes WHERE scope_key = ?1 AND id = ?2 AND digest = ?3)";
                let mut stands = connection.prepare_cached(sql).map_err(driver)?;
                let mut stored = 0;
                for node in &nodes {
                    let Ok(vector) = &node.result else { continue };
                    check_vector_at("embedding", vector, generation.dim)?;
                    let scope = node.scope.as_str();
                    let key = params![scope, blob(node.id.0), node.digest.0];
                    if stands.query_row(key, |row| row.get(0)).map_err(driver)? {
                        let source = (&node.digest.0, "derived");
                        put_vector(connection, (scope, node.id), &generation.name, source, vector, now)?;
                        stored += 1;
                    }
                }
                Ok(stored)
            })
            .await
    }

    async fn switch_generation(&self, generation: &EmbeddingSpace, now: Timestamp) -> Result<u64, StoreError> {
        let generation = generation.clone();
        self.writer.submit(move |connection, _| switch(connection, &generation, now)).await
    }

    async fn label_generation(
        &self,
        generation: &EmbeddingSpace,
        after: Option<&NodePlace>,
        limit: usize,
    ) -> Result<Option<NodePlace>, StoreError> {
        let (generation, after) = (generation.clone(), after.cloned());
        self.writer.submit(move |connection, _| label(connection, &generation, after.as_ref(), limit)).await
    }

    async fn present_generation(&self) -> Result<EmbeddingSpace, StoreError> {
        let own = self.shared.space.clone();
        self.readers.run(move |connection| Ok(super::space::stamped(connection)?.unwrap_or(own))).await
    }

    async fn drop_other_generations(&self, scope: &ScopeKey) -> Result<u64, StoreError> {
        let scope = scope.clone();
        self.writer
            .submit(move |connection, _| {
                let present = super::space::stamped(connection)?.ok_or_else(space::unstamped)?;
                let mut removed = 0;
                for table in ["memory_vector_index", "memory_vectors"] {
                    let sql = format!("DELETE FROM {table} WHERE scope_key = ?1 AND model <> ?2");
                    removed = connection.execute(&sql, (scope.as_str(), &present.name)).map_err(driver)?;
                }
                Ok(removed as u64)
            })
            .await
    }
}

fn given_up(connection: &Connection, scope: &ScopeKey) -> Result<GivenUp, StoreError> {
    let sql = "SELECT COALESCE(SUM(failed_reason <> 'unreadable_payload'), 0), \
               COALESCE(SUM(failed_reason = 'unreadable_payload'), 0) \
               FROM memory_outbox WHERE scope_key = ?1 AND failed_at IS NOT NULL";
    let (dead_items, unreadable_items) = connection
        .query_row(sql, [scope.as_str()], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        .map_err(driver)?;
    Ok(GivenUp { dead_items, unreadable_items, failed_nodes: failed_nodes(connection, scope)?.len() as u64 })
}

/// Failed nodes that have a text.
fn failed_nodes(connection: &Connection, scope: &ScopeKey) -> Result<Vec<NodeId>, StoreError> {
    let sql = "SELECT id, type, title, text_summary FROM memory_nodes \
               WHERE scope_key = ?1 AND embedding_status = 'failed' ORDER BY id";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let rows = statement
        .query_map([scope.as_str()], |row| {
            let node_type = choice(row, 1, NodeType::parse)?;
            let (title, summary): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
            let has_text = embed_text(node_type, title.as_deref(), summary.as_deref()).is_some();
            Ok(has_text.then_some(NodeId(uuid(row, 0)?)))
        })
        .map_err(driver)?;
    rows.filter_map(Result::transpose)
        .collect::<rusqlite::Result<_>>()
        .map_err(|e| unreadable("memory_nodes", scope.as_str(), e))
}

/// Arms dead letters again; returns their payloads.
fn rearm_items(connection: &Connection, scope: &ScopeKey, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let sql = "UPDATE memory_outbox SET failed_at = NULL, failed_reason = NULL, attempts = 0, claimed_by = NULL, \
               lease_until = NULL, available_at = ?2 \
               WHERE scope_key = ?1 AND failed_at IS NOT NULL AND failed_reason <> 'unreadable_payload' RETURNING payload";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    statement.query_map((scope.as_str(), now.0), |row| row.get(0)).and_then(Iterator::collect).map_err(driver)
}

/// Queues work for nodes.
pub(super) fn enqueue(
    connection: &Connection,
    scope: &ScopeKey,
    nodes: &[NodeId],
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO memory_outbox (scope_key, id, tenant_id, event_type, job_key, commit_seq, payload, created_at, \
               available_at) SELECT ?1, ?2, ?3, 'embed_nodes', ?4, head_seq, ?5, ?6, ?6 FROM memory_scopes WHERE scope_key = ?1 \
               ON CONFLICT (scope_key, event_type, job_key) DO UPDATE SET published_at = NULL, failed_at = NULL, \
               failed_reason = NULL, attempts = 0, claimed_by = NULL, lease_until = NULL, available_at = excluded.available_at, \
               created_at = excluded.created_at";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    for nodes in nodes.chunks(NODES_PER_ITEM) {
        let job = EmbedJob::again(scope.as_str(), nodes);
        let row = params![scope.as_str(), blob(job.id), scope.tenant(), job.key, job.payload.to_string(), now.0];
        statement.execute(row).map_err(driver)?;
    }
    Ok(())
}

fn lacking(
    connection: &Connection,
    generation: &EmbeddingSpace,
    after: Option<&NodePlace>,
    limit: usize,
) -> Result<Lacking, StoreError> {
    let sql = "SELECT n.scope_key, n.id, n.type, n.title, n.text_summary, n.digest FROM memory_nodes n \
               WHERE (n.scope_key, n.id) > (?1, ?2) AND n.embedding_status <> 'failed' \
               AND NOT EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = n.scope_key AND v.node_id = n.id \
                   AND v.model = ?3 AND v.source_digest = n.digest) \
               ORDER BY n.scope_key, n.id LIMIT ?4";
    let (scope, id) =
        after.map_or((String::new(), Vec::new()), |p| (p.scope.as_str().to_owned(), blob(p.id.0).to_vec()));
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let rows = statement
        .query_map((scope, id, &generation.name, signed(limit as u64)), |row| {
            let node_type = choice(row, 2, NodeType::parse)?;
            let (title, summary): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
            let text = embed_text(node_type, title.as_deref(), summary.as_deref()).map(str::to_owned);
            let scope: String = row.get(0)?;
            Ok((scope, NodeId(uuid(row, 1)?), text, digest(row, 5)?))
        })
        .map_err(driver)?;
    let mut page = Lacking::default();
    for row in rows {
        let (scope, id, text, digest) = row.map_err(|e| unreadable("memory_nodes", "page", e))?;
        let scope = ScopeKey::from_stored(&scope)?;
        page.texts.push(PendingText { scope, id, text, digest, ready: false });
    }
    page.next = (page.texts.len() == limit)
        .then(|| page.texts.last().map(|last| NodePlace { scope: last.scope.clone(), id: last.id }))
        .flatten();
    Ok(page)
}

fn switch(connection: &Connection, generation: &EmbeddingSpace, now: Timestamp) -> Result<u64, StoreError> {
    super::space::stamp(connection, generation)?;
    let (mut after, mut queued) = (None, 0);
    loop {
        let page = lacking(connection, generation, after.as_ref(), 1_000)?;
        for nodes in page.texts.chunk_by(|a, b| a.scope == b.scope) {
            let scope = &nodes[0].scope;
            let (with, without): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.text.is_some());
            let with: Vec<NodeId> = with.into_iter().map(|node| node.id).collect();
            enqueue(connection, scope, &with, now)?;
            queued += with.len() as u64;
            let wait = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_pending_at = ?3 \
                        WHERE scope_key = ?1 AND id = ?2";
            let give_up = "UPDATE memory_nodes SET embedding_status = 'failed', embedding_last_attempt_at = ?3, \
                           embedding_last_error = 'no_text' WHERE scope_key = ?1 AND id = ?2";
            for (sql, ids) in [(wait, with), (give_up, without.into_iter().map(|node| node.id).collect())] {
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                for id in ids {
                    statement.execute((scope.as_str(), blob(id.0), now.0)).map_err(driver)?;
                }
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(queued),
        }
    }
}

fn label(
    connection: &Connection,
    generation: &EmbeddingSpace,
    after: Option<&NodePlace>,
    limit: usize,
) -> Result<Option<NodePlace>, StoreError> {
    let sql = "SELECT scope_key, id FROM memory_nodes WHERE (scope_key, id) > (?1, ?2) ORDER BY scope_key, id LIMIT ?3";
    let (scope, id) =
        after.map_or((String::new(), Vec::new()), |p| (p.scope.as_str().to_owned(), blob(p.id.0).to_vec()));
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let page: Vec<(String, NodeId)> = statement
        .query_map((scope, id, signed(limit as u64)), |row| Ok((row.get(0)?, NodeId(uuid(row, 1)?))))
        .and_then(Iterator::collect)
        .map_err(driver)?;
    let sql = "UPDATE memory_nodes SET embedding_model = ?3 WHERE scope_key = ?1 AND id = ?2 AND embedding_status = 'ready' \
               AND embedding_model IS NOT ?3 AND EXISTS (SELECT 1 FROM memory_vectors v WHERE v.scope_key = ?1 \
                   AND v.node_id = ?2 AND v.model = ?3)";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    for (scope, id) in &page {
        statement.execute((scope, blob(id.0), &generation.name)).map_err(driver)?;
    }
    let Some((scope, id)) = page.last().filter(|_| page.len() == limit) else { return Ok(None) };
    Ok(Some(NodePlace { scope: ScopeKey::from_stored(scope)?, id: *id }))
}

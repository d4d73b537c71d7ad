//! Nodes that lack something: a vector, an owner.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::owner_review::OwnerlessNode,
    model::NodeType,
    ports::{
        embed::EmbeddingSpace,
        store::{BackfillStore, LackingPage, PendingText, Queued, StoreError},
    },
    write::{EmbedJob, embed_text},
};
use async_trait::async_trait;
use hashbrown::HashSet;
use rusqlite::{Connection, params};

use super::{
    SqliteStore,
    error::driver,
    integrity::{CONTENT_COLUMNS, after_id, read_content},
    maintenance::enqueue,
    purge::is_purging,
    rows::{blob, choice, digest, signed, unreadable, uuid, vector},
};
use aionis_image::Delta;

const LACKING: &str = "\
SELECT n.id, n.type, n.title, n.text_summary, n.digest, NOT EXISTS (SELECT 1 FROM memory_vectors v \
    WHERE v.scope_key = ?1 AND v.node_id = n.id AND v.model = ?3 AND v.source_digest = n.digest) \
FROM memory_nodes n WHERE n.scope_key = ?1 AND n.id > ?2 ORDER BY n.id LIMIT ?4";
const STILL: &str = "\
SELECT EXISTS (SELECT 1 FROM memory_nodes WHERE scope_key = ?1 AND id = ?2 AND digest = ?3) \
    AND NOT EXISTS (SELECT 1 FROM memory_vectors \
        WHERE scope_key = ?1 AND node_id = ?2 AND model = ?4 AND source_digest = ?3)";
const OPEN: &str = "SELECT payload FROM memory_outbox \
                    WHERE tenant_id = ?2 AND published_at IS NULL AND failed_at IS NULL AND +scope_key = ?1";
const WAIT: &str = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_pending_at = ?3, \
                    embedding_last_error = NULL WHERE scope_key = ?1 AND id = ?2";
const GIVE_UP: &str = "UPDATE memory_nodes SET embedding_status = 'failed', embedding_last_attempt_at = ?3, \
                       embedding_last_error = 'no_text' \
                       WHERE scope_key = ?1 AND id = ?2 AND embedding_status <> 'failed'";

#[async_trait]
impl BackfillStore for SqliteStore {
    async fn lacking_in(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<LackingPage, StoreError> {
        let (scope, model) = (scope.clone(), generation.name.clone());
        self.readers.run(move |connection| lacking_in(connection, &scope, (&model, after), limit)).await
    }

    async fn queue_lacking(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        nodes: Vec<PendingText>,
        now: Timestamp,
    ) -> Result<Queued, StoreError> {
        let (scope, model) = (scope.clone(), generation.name.clone());
        self.writer
            .submit(move |connection, deltas| {
                let (done, waiting) = queue_lacking(connection, &scope, (&model, &nodes), now)?;
                if !waiting.is_empty() {
                    deltas.push(Delta::Work { scope: scope.as_str().to_owned(), waiting });
                }
                Ok(done)
            })
            .await
    }

    async fn ownerless(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<OwnerlessNode>, StoreError> {
        let (scope, model) = (scope.clone(), self.shared.space.name.clone());
        self.readers.run(move |connection| ownerless(connection, &scope, (&model, after), limit)).await
    }
}

fn lacking_in(
    connection: &Connection,
    scope: &ScopeKey,
    (model, after): (&str, Option<NodeId>),
    limit: usize,
) -> Result<LackingPage, StoreError> {
    let mut statement = connection.prepare_cached(LACKING).map_err(driver)?;
    let asked = params![scope.as_str(), after_id(after.map(|id| id.0)), model, signed(limit as u64)];
    let rows: Vec<(PendingText, bool)> = statement
        .query_map(asked, |row| {
            let (title, summary): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
            let text = embed_text(choice(row, 1, NodeType::parse)?, title.as_deref(), summary.as_deref());
            let node = PendingText {
                scope: scope.clone(),
                id: NodeId(uuid(row, 0)?),
                text: text.map(str::to_owned),
                digest: digest(row, 4)?,
                ready: false,
            };
            Ok((node, row.get(5)?))
        })
        .and_then(Iterator::collect)
        .map_err(|e| unreadable("memory_nodes", scope.as_str(), e))?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(node, _)| node.id);
    Ok(LackingPage { nodes: rows.into_iter().filter(|(_, lacks)| *lacks).map(|(node, _)| node).collect(), next })
}

fn queue_lacking(
    connection: &Connection,
    scope: &ScopeKey,
    (model, nodes): (&str, &[PendingText]),
    now: Timestamp,
) -> Result<(Queued, Vec<NodeId>), StoreError> {
    let mut done = Queued::default();
    if is_purging(connection, scope.as_str())? {
        done.moved_on = nodes.len() as u64;
        return Ok((done, Vec::new()));
    }
    let named = named_in_queue(connection, scope)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut still = connection.prepare_cached(STILL).map_err(driver)?;
    for node in nodes {
        let key = params![scope.as_str(), blob(node.id.0), node.digest.0, model];
        if !still.query_row(key, |row| row.get::<_, bool>(0)).map_err(driver)? {
            done.moved_on += 1;
        } else if node.text.is_none() {
            without.push(node.id);
        } else if named.contains(&node.id) {
            done.waiting += 1;
        } else {
            with.push(node.id);
        }
    }
    (done.queued, done.without_text) = (with.len() as u64, without.len() as u64);
    enqueue(connection, scope, &with, now)?;
    for (sql, ids) in [(WAIT, &with), (GIVE_UP, &without)] {
        let mut statement = connection.prepare_cached(sql).map_err(driver)?;
        for id in ids {
            statement.execute((scope.as_str(), blob(id.0), now.0)).map_err(driver)?;
        }
    }
    Ok((done, with))
}

/// Nodes that work in the queue names. What cannot be read names nobody: it is told so when it is claimed.
fn named_in_queue(connection: &Connection, scope: &ScopeKey) -> Result<HashSet<NodeId>, StoreError> {
    let mut statement = connection.prepare_cached(OPEN).map_err(driver)?;
    let payloads = statement
        .query_map((scope.as_str(), scope.tenant()), |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(driver)?;
    let read = |payload: &String| EmbedJob::read(payload).map(|(nodes, _)| nodes).unwrap_or_default();
    Ok(payloads.iter().flat_map(read).collect())
}

fn ownerless(
    connection: &Connection,
    scope: &ScopeKey,
    (model, after): (&str, Option<NodeId>),
    limit: usize,
) -> Result<Vec<OwnerlessNode>, StoreError> {
    let sql = format!(
        "SELECT {CONTENT_COLUMNS}, digest, embedding_model, (SELECT v.vector FROM memory_vectors v \
             WHERE v.scope_key = ?1 AND v.node_id = n.id AND v.model = ?3 AND v.source_digest = n.digest) \
         FROM memory_nodes n WHERE scope_key = ?1 AND memory_lane = 'private' AND owner_agent_id IS NULL \
             AND owner_team_id IS NULL AND n.id > ?2 ORDER BY id LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let asked = params![scope.as_str(), after_id(after.map(|id| id.0)), model, signed(limit as u64)];
    statement
        .query_map(asked, |row| {
            let label: Option<String> = row.get(13)?;
            let bytes: Option<Vec<u8>> = row.get(14)?;
            let vector = bytes.map(|bytes| (vector(&bytes), label));
            Ok(read_content(row)?.ownerless(digest(row, 12)?, vector))
        })
        .and_then(Iterator::collect)
        .map_err(|e| unreadable("memory_nodes", scope.as_str(), e))
}

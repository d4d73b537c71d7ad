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
use pgvector::Vector;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    integrity::read_content,
    maintenance::{enqueue, set_status},
    rows::{choice, digest, get, signed},
    session::{For, Transaction, begin},
};

const LACKING: &str = "\
SELECT n.id, n.type, n.title, n.text_summary, n.digest, v.source_digest IS DISTINCT FROM n.digest \
FROM (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id > $2 ORDER BY id LIMIT $4) n \
LEFT JOIN LATERAL (SELECT source_digest FROM memory_vectors \
    WHERE scope_key = $1 AND node_id = n.id AND model = $3 LIMIT 1) v ON true \
ORDER BY n.id";
/// Those that still have the content they had, and no vector of it.
const STILL: &str = "\
SELECT q.id AS still_lacking FROM UNNEST($2::uuid[], $3::bytea[]) AS q (id, digest) \
CROSS JOIN LATERAL (SELECT 1 FROM memory_nodes WHERE scope_key = $1 AND id = q.id AND digest = q.digest LIMIT 1) n \
LEFT JOIN LATERAL (SELECT source_digest FROM memory_vectors \
    WHERE scope_key = $1 AND node_id = q.id AND model = $4 LIMIT 1) v ON true \
WHERE v.source_digest IS DISTINCT FROM q.digest";
const OPEN: &str = "SELECT payload FROM memory_outbox \
                    WHERE tenant_id = $2 AND published_at IS NULL AND failed_at IS NULL AND scope_key || '' = $1";
/// Each node is sought by its key, whatever the planner knows of the table.
const WAIT: &str = "\
UPDATE memory_nodes n SET embedding_status = 'pending', embedding_pending_at = $3, embedding_last_error = NULL, \
    change_no = $4 \
FROM UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::uuid[]) AS q (scope_key, id) \
WHERE n.scope_key = q.scope_key AND n.id = q.id";
const GIVE_UP: &str = "\
UPDATE memory_nodes n SET embedding_status = 'failed', embedding_last_attempt_at = $3, \
    embedding_last_error = 'no_text', change_no = $4 \
FROM UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::uuid[]) AS q (scope_key, id) \
WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.embedding_status || '' <> 'failed'";
const OWNERLESS: &str = "\
SELECT n.id, n.client_id, n.type, n.title, n.text_summary, n.slots::text, n.raw_ref, n.evidence_ref, n.memory_lane, \
    n.producer_agent_id, n.owner_agent_id, n.owner_team_id, n.digest, n.embedding_model, v.embedding \
FROM (SELECT * FROM memory_nodes WHERE scope_no = hashtextextended($1, 0) AND scope_key || '' = $1 \
    AND memory_lane = 'private' AND owner_agent_id IS NULL AND owner_team_id IS NULL \
    AND id > $2 ORDER BY id LIMIT $4) n \
LEFT JOIN LATERAL (SELECT embedding FROM memory_vectors \
    WHERE scope_key = $1 AND node_id = n.id AND model = $3 AND source_digest = n.digest LIMIT 1) v ON true \
ORDER BY n.id";

impl PostgresStore {
    async fn begin_backfill(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Tenant(scope.tenant()), self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl BackfillStore for PostgresStore {
    async fn lacking_in(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<LackingPage, StoreError> {
        let mut tx = self.begin_backfill(scope).await?;
        let page = sqlx::query(LACKING).bind(scope.as_str()).bind(place(after)).bind(&generation.name);
        let rows = page.bind(signed(limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
        let mut page = LackingPage::default();
        for row in &rows {
            if get::<bool>(row, 5)? {
                let text = embed_text(choice(row, 1, NodeType::parse)?, get(row, 2)?, get(row, 3)?);
                page.nodes.push(PendingText {
                    scope: scope.clone(),
                    id: NodeId(get(row, 0)?),
                    text: text.map(str::to_owned),
                    digest: digest(row, 4)?,
                    ready: false,
                });
            }
        }
        page.next = rows.last().filter(|_| rows.len() == limit).map(|row| get(row, 0).map(NodeId)).transpose()?;
        Ok(page)
    }

    async fn queue_lacking(
        &self,
        scope: &ScopeKey,
        generation: &EmbeddingSpace,
        nodes: Vec<PendingText>,
        now: Timestamp,
    ) -> Result<Queued, StoreError> {
        let mut tx = self.begin_backfill(scope).await?;
        let mut done = Queued { moved_on: nodes.len() as u64, ..Queued::default() };
        let Some(change_no) = Self::next_change(&mut tx, scope).await? else { return Ok(done) };
        let still = still_lacking(&mut tx, scope, generation, &nodes).await?;
        let named = named_in_queue(&mut tx, scope).await?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for node in nodes.iter().filter(|node| still.contains(&node.id.0)) {
            match node.text {
                None => without.push(node.id),
                Some(_) if named.contains(&node.id) => done.waiting += 1,
                Some(_) => with.push(node.id),
            }
        }
        enqueue(&mut tx, scope, &with, now).await?;
        set_status(&mut tx, WAIT, scope, &with, (now, change_no)).await?;
        set_status(&mut tx, GIVE_UP, scope, &without, (now, change_no)).await?;
        tx.commit().await.map_err(driver)?;
        self.shared.images.note(scope, change_no);
        (done.queued, done.without_text) = (with.len() as u64, without.len() as u64);
        done.moved_on -= still.len() as u64;
        self.shared.wake.committed(done.queued > 0);
        Ok(done)
    }

    async fn ownerless(
        &self,
        scope: &ScopeKey,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<OwnerlessNode>, StoreError> {
        let mut tx = self.begin_backfill(scope).await?;
        let page = sqlx::query(OWNERLESS).bind(scope.as_str()).bind(place(after));
        let page = page.bind(&self.shared.space.name).bind(signed(limit as u64));
        let rows = page.fetch_all(&mut *tx).await.map_err(driver)?;
        let mut nodes = Vec::with_capacity(rows.len());
        for row in &rows {
            let vector = get::<Option<Vector>>(row, 14)?.map(|vector| vector.to_vec());
            let label = get::<Option<String>>(row, 13)?;
            nodes.push(read_content(row)?.ownerless(digest(row, 12)?, vector.map(|vector| (vector, label))));
        }
        Ok(nodes)
    }
}

/// Before the first node, or a node.
fn place(after: Option<NodeId>) -> Uuid {
    after.map_or(Uuid::nil(), |id| id.0)
}

async fn still_lacking(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    generation: &EmbeddingSpace,
    nodes: &[PendingText],
) -> Result<HashSet<Uuid>, StoreError> {
    let rows = sqlx::query(STILL)
        .bind(scope.as_str())
        .bind(nodes.iter().map(|node| node.id.0).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| node.digest.0.to_vec()).collect::<Vec<_>>())
        .bind(&generation.name)
        .fetch_all(connection)
        .await
        .map_err(driver)?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// Nodes that work in the queue names. What cannot be read names nobody: it is told so when it is claimed.
async fn named_in_queue(connection: &mut PgConnection, scope: &ScopeKey) -> Result<HashSet<NodeId>, StoreError> {
    let open = sqlx::query(OPEN).bind(scope.as_str()).bind(scope.tenant());
    let rows = open.fetch_all(connection).await.map_err(driver)?;
    let mut named = HashSet::new();
    for row in &rows {
        named.extend(EmbedJob::read(get(row, 0)?).map(|(nodes, _)| nodes).unwrap_or_default());
    }
    Ok(named)
}

//! Reading events and topics for what is derived from them.

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::Audience,
    model::{EmbeddingStatus, Lane, NodeType, Tier},
    ports::store::{EventPage, EventQuery, SourceNode, StoreError, TopicEvent, TopicGroup, TopicMean, TopicStore},
};
use async_trait::async_trait;
use hashbrown::HashMap;
use pgvector::Vector;
use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    images::Freshness,
    purge::unless_purging,
    rows::{choice, digest, get, json, json_of, signed, unsigned},
    session::{For, Transaction, begin},
};
use crate::topics::{MAY_BE_IN_A_TOPIC, Scan, Scanned, in_order};

/// Nodes in the order they were written in, by the index of that order.
fn scan_sql() -> String {
    format!(
        "SELECT n.id, n.created_at, n.updated_at, n.type, n.tier, n.embedding_status, n.recall_flags, n.memory_lane, \
             n.owner_agent_id, n.owner_team_id, n.activity ->> 'alias_of' IS NOT NULL, \
             CASE WHEN {MAY_BE_IN_A_TOPIC} THEN (SELECT 1 FROM memory_edges e \
                 CROSS JOIN LATERAL (SELECT type FROM memory_nodes WHERE scope_key = $1 AND id = e.dst_id LIMIT 1) t \
                 WHERE e.scope_key = $1 AND e.src_id = n.id AND e.type = 'part_of' AND t.type = 'topic' LIMIT 1) \
                 IS NOT NULL ELSE false END \
         FROM memory_nodes n WHERE n.listing_no = hashtextextended($1, 1) AND n.scope_key || '' = $1 \
             AND (n.created_at, n.id) > ($2, $3::uuid) ORDER BY n.created_at, n.id LIMIT $4"
    )
}

const SOURCE_NODES: &str = "\
SELECT n.id, n.type, n.client_id, n.title, n.text_summary, n.slots::text, n.activity::text, n.raw_ref, n.evidence_ref, \
    n.memory_lane, n.owner_agent_id, n.owner_team_id, n.producer_agent_id, n.tier, n.embedding_status, n.embedding_model, \
    n.digest, n.commit_id, n.created_at, v.embedding \
FROM UNNEST($3::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n \
LEFT JOIN LATERAL (SELECT embedding FROM memory_vectors \
    WHERE scope_key = $1 AND node_id = q.id AND model = $2 LIMIT 1) v ON true";

/// The group's topics are read once, and each vector is compared with all of them.
const NEAREST: &str = "\
WITH topics AS MATERIALIZED (
    SELECT n.id, v.embedding FROM memory_nodes n
    CROSS JOIN LATERAL (SELECT embedding FROM memory_vectors
        WHERE scope_key = $1 AND node_id = n.id AND model = $2 LIMIT 1) v
    WHERE n.listing_no = hashtextextended($1, 1) AND n.scope_key || '' = $1 AND n.type = 'topic'
        AND n.tier IN ('hot', 'warm') AND n.recall_flags & 2 = 0
        AND n.activity ->> 'alias_of' IS NULL AND n.embedding_status = 'ready'
        AND n.memory_lane = $3 AND n.owner_agent_id IS NOT DISTINCT FROM $4
        AND n.owner_team_id IS NOT DISTINCT FROM $5 AND n.embedding_model IS NOT DISTINCT FROM $6
    ORDER BY n.id
)
SELECT q.at, t.id FROM UNNEST($7::vector[]) WITH ORDINALITY AS q (asked, at)
CROSS JOIN LATERAL (SELECT id, embedding <=> q.asked AS distance FROM topics ORDER BY 2, 1 LIMIT $8) t
ORDER BY q.at, t.distance, t.id";

/// Edges that enter the nodes `$4`: those an image of the scope knows are named by id in `$2`, those that came after the image's
/// last change `$3` are found by that. Edges are not indexed by where they enter.
const ENTERING: &str = "\
SELECT e.src_id, e.dst_id, e.type FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_edges WHERE scope_key = $1 AND id = q.id LIMIT 1) e \
UNION \
SELECT e.src_id, e.dst_id, e.type FROM memory_edges e \
WHERE e.scope_no = hashtextextended($1, 0) AND e.scope_key || '' = $1 AND e.change_no > $3 AND e.dst_id = ANY($4)";

fn means_sql() -> String {
    format!(
        "SELECT e.dst_id, count(*), count(v.embedding), avg(v.embedding) FROM ({ENTERING}) e \
         CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = e.src_id LIMIT 1) m \
         CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = e.dst_id LIMIT 1) t \
         LEFT JOIN LATERAL (SELECT embedding FROM memory_vectors \
             WHERE scope_key = $1 AND node_id = m.id AND model = $5 LIMIT 1) v ON m.embedding_status = 'ready' \
         WHERE e.type = 'part_of' AND e.dst_id = ANY($4) AND m.type = 'event' AND m.memory_lane = t.memory_lane \
             AND m.owner_agent_id IS NOT DISTINCT FROM t.owner_agent_id \
             AND m.owner_team_id IS NOT DISTINCT FROM t.owner_team_id \
             AND m.embedding_model IS NOT DISTINCT FROM t.embedding_model GROUP BY e.dst_id"
    )
}

const TOPICS: &str = "\
SELECT n.id FROM memory_nodes n WHERE n.listing_no = hashtextextended($1, 1) AND n.scope_key || '' = $1 \
    AND n.id > $2 AND n.type = 'topic' AND n.tier IN ('hot', 'warm') ORDER BY n.id LIMIT $3";

fn topic_events_sql() -> String {
    format!(
        "SELECT topic, id, memory_lane, owner_agent_id, owner_team_id, created_at FROM ( \
             SELECT e.dst_id AS topic, m.id, m.memory_lane, m.owner_agent_id, m.owner_team_id, m.created_at, \
                 row_number() OVER (PARTITION BY e.dst_id ORDER BY m.created_at DESC, m.id DESC) AS place \
             FROM ({ENTERING}) e \
             CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = e.src_id LIMIT 1) m \
             WHERE e.type = 'part_of' AND e.dst_id = ANY($4) AND m.type = 'event' AND m.tier IN ('hot', 'warm') \
                 AND m.recall_flags & 2 = 0 AND m.created_at >= $5) q \
         WHERE place <= $6 ORDER BY topic, created_at DESC, id DESC"
    )
}

fn uuids(ids: &[NodeId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

fn audience(row: &PgRow, at: usize) -> Result<Audience, StoreError> {
    Ok(Audience {
        lane: choice(row, at, Lane::parse)?,
        owner_agent_id: get(row, at + 1)?,
        owner_team_id: get(row, at + 2)?,
    })
}

fn scanned(row: &PgRow) -> Result<Scanned, StoreError> {
    Ok(Scanned {
        id: NodeId(get(row, 0)?),
        created_at: Timestamp(get(row, 1)?),
        updated_at: Timestamp(get(row, 2)?),
        node_type: choice(row, 3, NodeType::parse)?,
        tier: choice(row, 4, Tier::parse)?,
        status: choice(row, 5, EmbeddingStatus::parse)?,
        flags: u8::try_from(get::<i16>(row, 6)?).unwrap_or(u8::MAX),
        audience: audience(row, 7)?,
        noted_alias: get(row, 10)?,
        in_topic: get(row, 11)?,
    })
}

fn source_node(row: &PgRow) -> Result<SourceNode, StoreError> {
    Ok(SourceNode {
        id: NodeId(get(row, 0)?),
        node_type: choice(row, 1, NodeType::parse)?,
        client_id: get(row, 2)?,
        title: get(row, 3)?,
        text_summary: get(row, 4)?,
        slots: json(row, 5)?,
        activity: get::<Option<&str>>(row, 6)?.map(json_of).transpose()?,
        raw_ref: get(row, 7)?,
        evidence_ref: get(row, 8)?,
        audience: audience(row, 9)?,
        producer_agent_id: get(row, 12)?,
        tier: choice(row, 13, Tier::parse)?,
        embedding_status: choice(row, 14, EmbeddingStatus::parse)?,
        embedding_model: get(row, 15)?,
        digest: digest(row, 16)?,
        commit_id: CommitId(get(row, 17)?),
        created_at: Timestamp(get(row, 18)?),
        vector: get::<Option<Vector>>(row, 19)?.map(|vector| vector.to_vec()),
    })
}

impl PostgresStore {
    /// A transaction that reads a scope; nothing is there while it is purged.
    async fn begin_reading(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, &unless_purging(scope)).await
    }

    async fn sources(
        &self,
        tx: &mut PgConnection,
        scope: &ScopeKey,
        ids: &[NodeId],
    ) -> Result<Vec<SourceNode>, StoreError> {
        let query = sqlx::query(SOURCE_NODES).bind(scope.as_str()).bind(&self.shared.space.name).bind(uuids(ids));
        let rows = query.fetch_all(tx).await.map_err(driver)?;
        let found = rows.iter().map(|row| source_node(row).map(|node| (node.id, node)));
        Ok(in_order(ids, found.collect::<Result<HashMap<_, _>, _>>()?))
    }

    /// Edges at nodes that an image knows, and the change it has seen at least.
    async fn known_edges(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<(Vec<Uuid>, i64), StoreError> {
        let image = self.shared.images.get(&self.shared, scope, Freshness::Now).await?;
        let seen = image.seen();
        Ok((image.read(|image| image.edge_ids_at(ids)), seen))
    }
}

#[async_trait]
impl TopicStore for PostgresStore {
    async fn unassigned_events(&self, scope: &ScopeKey, query: EventQuery) -> Result<EventPage, StoreError> {
        let (created_at, id) = query.after.map_or((i64::MIN, Uuid::nil()), |after| (after.created_at.0, after.id.0));
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            let sql = sqlx::query(AssertSqlSafe(scan_sql())).bind(scope.as_str()).bind(created_at).bind(id);
            let sql = sql.bind(signed(query.scan_max as u64 + 1));
            let rows = sql.fetch_all(&mut *tx).await.map_err(driver)?;
            let (mut page, mut taken) = (Scan::new(query), 0);
            for row in &rows {
                taken += 1;
                if !page.take(scanned(row)?) {
                    break;
                }
            }
            let events = self.sources(&mut tx, scope, &page.found).await?;
            Ok(EventPage { events, counts: page.counts, next: page.next(taken < rows.len()) })
        };
        self.shared.patience.bounded(reading).await
    }

    async fn nearest_topics(
        &self,
        scope: &ScopeKey,
        group: &TopicGroup,
        vectors: &[Vec<f32>],
        limit: usize,
    ) -> Result<Vec<Vec<NodeId>>, StoreError> {
        let Audience { lane, owner_agent_id, owner_team_id } = &group.audience;
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            let query = sqlx::query(NEAREST)
                .bind(scope.as_str())
                .bind(&self.shared.space.name)
                .bind(lane.as_str())
                .bind(owner_agent_id)
                .bind(owner_team_id)
                .bind(&group.embedding_model)
                .bind(vectors.iter().cloned().map(Vector::from).collect::<Vec<_>>())
                .bind(signed(limit as u64));
            let mut found = vec![Vec::new(); vectors.len()];
            for row in &query.fetch_all(&mut *tx).await.map_err(driver)? {
                let at = usize::try_from(unsigned(row, 0)?).unwrap_or(0);
                if let Some(found) = at.checked_sub(1).and_then(|at| found.get_mut(at)) {
                    found.push(NodeId(get(row, 1)?));
                }
            }
            Ok(found)
        };
        self.shared.patience.bounded(reading).await
    }

    async fn source_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<SourceNode>, StoreError> {
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            self.sources(&mut tx, scope, ids).await
        };
        self.shared.patience.bounded(reading).await
    }

    async fn topic_means(&self, scope: &ScopeKey, topics: &[NodeId]) -> Result<Vec<TopicMean>, StoreError> {
        let (known, seen) = self.known_edges(scope, topics).await?;
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            let query = sqlx::query(AssertSqlSafe(means_sql())).bind(scope.as_str()).bind(known).bind(seen);
            let query = query.bind(uuids(topics)).bind(&self.shared.space.name);
            let mut found = HashMap::new();
            for row in &query.fetch_all(&mut *tx).await.map_err(driver)? {
                let topic = NodeId(get(row, 0)?);
                let mean = get::<Option<Vector>>(row, 3)?.map(|mean| mean.to_vec());
                found.insert(
                    topic,
                    TopicMean { topic, members: unsigned(row, 1)?, with_vector: unsigned(row, 2)?, mean },
                );
            }
            let none = |topic| TopicMean { topic, members: 0, with_vector: 0, mean: None };
            Ok(topics.iter().map(|topic| found.remove(topic).unwrap_or_else(|| none(*topic))).collect())
        };
        self.shared.patience.bounded(reading).await
    }

    async fn topics(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError> {
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            let after = after.map_or_else(Uuid::nil, |id| id.0);
            let query = sqlx::query(TOPICS).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
            query.fetch_all(&mut *tx).await.map_err(driver)?.iter().map(|row| get(row, 0).map(NodeId)).collect()
        };
        self.shared.patience.bounded(reading).await
    }

    async fn topic_events(
        &self,
        scope: &ScopeKey,
        topics: &[NodeId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<TopicEvent>, StoreError> {
        let (known, seen) = self.known_edges(scope, topics).await?;
        let reading = async {
            let mut tx = self.begin_reading(scope).await?;
            let query = sqlx::query(AssertSqlSafe(topic_events_sql())).bind(scope.as_str()).bind(known).bind(seen);
            let query = query.bind(uuids(topics)).bind(since.0).bind(signed(limit as u64));
            let rows = query.fetch_all(&mut *tx).await.map_err(driver)?;
            let event = |row: &PgRow| {
                let (topic, event) = (NodeId(get(row, 0)?), NodeId(get(row, 1)?));
                Ok(TopicEvent { topic, event, audience: audience(row, 2)?, created_at: Timestamp(get(row, 5)?) })
            };
            rows.iter().map(event).collect()
        };
        self.shared.patience.bounded(reading).await
    }
}

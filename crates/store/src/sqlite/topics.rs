//! Reading events and topics for what is derived from them.

use std::sync::Arc;

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::{Audience, topics::cosine},
    model::{EmbeddingStatus, Lane, NodeType, Tier},
    ports::store::{EventPage, EventQuery, SourceNode, StoreError, TopicEvent, TopicGroup, TopicMean, TopicStore},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{
    SqliteStore,
    error::driver,
    purge::is_purging,
    rows::{blob, choice, digest, json, signed, unreadable, uuid, vector},
};
use crate::topics::{MAY_BE_IN_A_TOPIC, Scan, Scanned};

/// Members of a group of visibility that are those of a topic `t`.
const ALIKE: &str = "m.memory_lane = t.memory_lane AND m.owner_agent_id IS t.owner_agent_id \
                     AND m.owner_team_id IS t.owner_team_id AND m.embedding_model IS t.embedding_model";

/// Whether a note says that another node stands for this one: merges note it beside the attributes.
const NOTED_ALIAS: &str =
    "(n.activity IS NOT NULL AND instr(n.activity, 'alias_of') > 0 AND n.activity ->> 'alias_of' IS NOT NULL)";

fn audience(row: &Row<'_>, at: usize) -> rusqlite::Result<Audience> {
    Ok(Audience {
        lane: choice(row, at, Lane::parse)?,
        owner_agent_id: row.get(at + 1)?,
        owner_team_id: row.get(at + 2)?,
    })
}

fn scan(connection: &Connection, (scope, model): (&str, &str), query: EventQuery) -> Result<EventPage, StoreError> {
    let sql = format!(
        "SELECT n.id, n.created_at, n.updated_at, n.type, n.tier, n.embedding_status, n.recall_flags, n.memory_lane, \
             n.owner_agent_id, n.owner_team_id, {NOTED_ALIAS}, \
             {MAY_BE_IN_A_TOPIC} AND EXISTS (SELECT 1 FROM memory_edges e \
                 JOIN memory_nodes t ON t.scope_key = e.scope_key AND t.id = e.dst_id AND +t.type = 'topic' \
                 WHERE e.scope_key = n.scope_key AND e.src_id = n.id AND e.type = 'part_of') \
         FROM memory_nodes n WHERE n.scope_key = ?1 AND (n.created_at, n.id) > (?2, ?3) \
         ORDER BY n.created_at, n.id LIMIT ?4"
    );
    let (created_at, id) = query.after.map_or((i64::MIN, Uuid::nil()), |after| (after.created_at.0, after.id.0));
    let limit = signed(query.scan_max as u64 + 1);
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let mut rows = statement.query(params![scope, created_at, blob(id), limit]).map_err(driver)?;
    let (mut page, mut takes, mut more) = (Scan::new(query), true, false);
    while let Some(row) = rows.next().map_err(driver)? {
        if !takes {
            more = true;
            break;
        }
        takes = page.take(scanned(row).map_err(|e| unreadable("memory_nodes", scope, e))?);
    }
    let events = source_nodes(connection, (scope, model), &page.found)?;
    Ok(EventPage { events, counts: page.counts, next: page.next(more) })
}

fn scanned(row: &Row<'_>) -> rusqlite::Result<Scanned> {
    Ok(Scanned {
        id: NodeId(uuid(row, 0)?),
        created_at: Timestamp(row.get(1)?),
        updated_at: Timestamp(row.get(2)?),
        node_type: choice(row, 3, NodeType::parse)?,
        tier: choice(row, 4, Tier::parse)?,
        status: choice(row, 5, EmbeddingStatus::parse)?,
        flags: row.get(6)?,
        audience: audience(row, 7)?,
        noted_alias: row.get(10)?,
        in_topic: row.get(11)?,
    })
}

fn source_nodes(
    connection: &Connection,
    (scope, model): (&str, &str),
    ids: &[NodeId],
) -> Result<Vec<SourceNode>, StoreError> {
    let sql = "SELECT n.id, n.type, n.client_id, n.title, n.text_summary, n.slots, n.activity, n.raw_ref, n.evidence_ref, \
                   n.memory_lane, n.owner_agent_id, n.owner_team_id, n.producer_agent_id, n.tier, n.embedding_status, \
                   n.embedding_model, n.digest, n.commit_id, n.created_at, v.vector \
               FROM memory_nodes n LEFT JOIN memory_vectors v \
                   ON v.scope_key = n.scope_key AND v.node_id = n.id AND v.model = ?3 \
               WHERE n.scope_key = ?1 AND n.id = ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let row = statement.query_row(params![scope, blob(id.0), model], source_node).optional();
        found.extend(row.map_err(|e| unreadable("memory_nodes", id, e))?);
    }
    Ok(found)
}

fn source_node(row: &Row<'_>) -> rusqlite::Result<SourceNode> {
    Ok(SourceNode {
        id: NodeId(uuid(row, 0)?),
        node_type: choice(row, 1, NodeType::parse)?,
        client_id: row.get(2)?,
        title: row.get(3)?,
        text_summary: row.get(4)?,
        slots: json(row, 5)?,
        activity: row.get::<_, Option<String>>(6)?.map(|_| json(row, 6)).transpose()?,
        raw_ref: row.get(7)?,
        evidence_ref: row.get(8)?,
        audience: audience(row, 9)?,
        producer_agent_id: row.get(12)?,
        tier: choice(row, 13, Tier::parse)?,
        embedding_status: choice(row, 14, EmbeddingStatus::parse)?,
        embedding_model: row.get(15)?,
        digest: digest(row, 16)?,
        commit_id: CommitId(uuid(row, 17)?),
        created_at: Timestamp(row.get(18)?),
        vector: row.get_ref(19)?.as_blob_or_null()?.map(vector),
    })
}

/// One pass over the vectors of the group's topics, however many vectors are asked for.
fn nearest(
    connection: &Connection,
    (scope, model): (&str, &str),
    group: &TopicGroup,
    vectors: &[Vec<f32>],
    limit: usize,
) -> Result<Vec<Vec<NodeId>>, StoreError> {
    let sql = format!(
        "SELECT n.id, v.vector FROM memory_nodes n INDEXED BY memory_nodes_topics \
         JOIN memory_vectors v ON v.scope_key = n.scope_key AND v.node_id = n.id AND v.model = ?2 \
         WHERE n.scope_key = ?1 AND n.type = 'topic' AND n.tier IN ('hot', 'warm') AND n.recall_flags & 2 = 0 \
             AND NOT {NOTED_ALIAS} AND n.embedding_status = 'ready' AND n.memory_lane = ?3 AND n.owner_agent_id IS ?4 \
             AND n.owner_team_id IS ?5 AND n.embedding_model IS ?6"
    );
    let Audience { lane, owner_agent_id, owner_team_id } = &group.audience;
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let values = params![scope, model, lane.as_str(), owner_agent_id, owner_team_id, group.embedding_model];
    let mut rows = statement.query(values).map_err(driver)?;
    let mut best: Vec<Vec<(f64, NodeId)>> = vec![Vec::new(); vectors.len()];
    let order = |best: &mut Vec<(f64, NodeId)>| {
        best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(limit);
    };
    while let Some(row) = rows.next().map_err(driver)? {
        let read = || Ok((NodeId(uuid(row, 0)?), vector(row.get_ref(1)?.as_blob()?)));
        let (id, of_topic): (_, Vec<f32>) = read().map_err(|e| unreadable("memory_vectors", scope, e))?;
        for (asked, best) in vectors.iter().zip(&mut best) {
            if let Some(similarity) = cosine(asked, &of_topic) {
                best.push((similarity, id));
            }
            // Kept short by the way: not more than so many at once.
            if best.len() >= limit * 2 + 16 {
                order(best);
            }
        }
    }
    best.iter_mut().for_each(order);
    Ok(best.into_iter().map(|best| best.into_iter().map(|(_, id)| id).collect()).collect())
}

fn mean(connection: &Connection, (scope, model): (&str, &str), topic: NodeId) -> Result<TopicMean, StoreError> {
    let sql = format!(
        "SELECT v.vector FROM memory_nodes t JOIN memory_edges e ON e.scope_key = t.scope_key AND e.dst_id = t.id \
             AND e.type = 'part_of' \
         JOIN memory_nodes m ON m.scope_key = e.scope_key AND m.id = e.src_id AND +m.type = 'event' AND {ALIKE} \
         LEFT JOIN memory_vectors v ON v.scope_key = m.scope_key AND v.node_id = m.id AND v.model = ?3 \
             AND m.embedding_status = 'ready' \
         WHERE t.scope_key = ?1 AND t.id = ?2 ORDER BY m.id"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let mut rows = statement.query(params![scope, blob(topic.0), model]).map_err(driver)?;
    let (mut members, mut with_vector, mut sum) = (0, 0_u64, Vec::<f64>::new());
    while let Some(row) = rows.next().map_err(driver)? {
        members += 1;
        let Some(bytes) = row.get_ref(0).and_then(|value| Ok(value.as_blob_or_null()?)).map_err(driver)? else {
            continue;
        };
        let of_member = vector(bytes);
        if sum.is_empty() {
            sum = vec![0.0; of_member.len()];
        }
        with_vector += 1;
        sum.iter_mut().zip(&of_member).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean of 32-bit floats")]
    let mean = (with_vector > 0).then(|| sum.iter().map(|sum| (sum / with_vector as f64) as f32).collect());
    Ok(TopicMean { topic, members, with_vector, mean })
}

fn topic_events(
    connection: &Connection,
    scope: &str,
    (topic, since): (NodeId, Timestamp),
    limit: usize,
) -> Result<Vec<TopicEvent>, StoreError> {
    let sql = "SELECT m.id, m.memory_lane, m.owner_agent_id, m.owner_team_id, m.created_at FROM memory_edges e \
               JOIN memory_nodes m ON m.scope_key = e.scope_key AND m.id = e.src_id AND +m.type = 'event' \
                   AND m.tier IN ('hot', 'warm') AND m.recall_flags & 2 = 0 AND m.created_at >= ?3 \
               WHERE e.scope_key = ?1 AND e.dst_id = ?2 AND e.type = 'part_of' \
               ORDER BY m.created_at DESC, m.id DESC LIMIT ?4";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let read = |row: &Row<'_>| {
        let event = NodeId(uuid(row, 0)?);
        Ok(TopicEvent { topic, event, audience: audience(row, 1)?, created_at: Timestamp(row.get(4)?) })
    };
    let rows = statement.query_map(params![scope, blob(topic.0), since.0, signed(limit as u64)], read);
    rows.and_then(Iterator::collect).map_err(|e| unreadable("memory_edges", topic, e))
}

impl SqliteStore {
    /// Reads a scope, given its key and the name of the vectors' space; what is `absent` while it is purged, when nothing of it is there.
    async fn look<T: Send + 'static>(
        &self,
        scope: &ScopeKey,
        absent: T,
        read: impl FnOnce(&Connection, (&str, &str)) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (scope, shared) = (scope.clone(), Arc::clone(&self.shared));
        self.readers
            .run(move |connection| {
                if is_purging(connection, scope.as_str())? {
                    return Ok(absent);
                }
                read(connection, (scope.as_str(), &shared.space.name))
            })
            .await
    }
}

#[async_trait]
impl TopicStore for SqliteStore {
    async fn unassigned_events(&self, scope: &ScopeKey, query: EventQuery) -> Result<EventPage, StoreError> {
        self.look(scope, EventPage::default(), move |connection, at| scan(connection, at, query)).await
    }

    async fn nearest_topics(
        &self,
        scope: &ScopeKey,
        group: &TopicGroup,
        vectors: &[Vec<f32>],
        limit: usize,
    ) -> Result<Vec<Vec<NodeId>>, StoreError> {
        let (group, vectors) = (group.clone(), vectors.to_vec());
        let absent = vec![Vec::new(); vectors.len()];
        self.look(scope, absent, move |connection, at| nearest(connection, at, &group, &vectors, limit)).await
    }

    async fn source_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<SourceNode>, StoreError> {
        let ids = ids.to_vec();
        self.look(scope, Vec::new(), move |connection, at| source_nodes(connection, at, &ids)).await
    }

    async fn topic_means(&self, scope: &ScopeKey, topics: &[NodeId]) -> Result<Vec<TopicMean>, StoreError> {
        let topics = topics.to_vec();
        let none = |topic: &NodeId| TopicMean { topic: *topic, members: 0, with_vector: 0, mean: None };
        let absent = topics.iter().map(none).collect();
        let read =
            move |connection: &Connection, at: (&str, &str)| topics.iter().map(|t| mean(connection, at, *t)).collect();
        self.look(scope, absent, read).await
    }

    async fn topics(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError> {
        let after = after.map_or_else(Vec::new, |id| id.0.as_bytes().to_vec());
        let of = move |connection: &Connection, (scope, _): (&str, &str)| {
            let sql = "SELECT id FROM memory_nodes INDEXED BY memory_nodes_topics WHERE scope_key = ?1 AND type = 'topic' \
                       AND tier IN ('hot', 'warm') AND id > ?2 ORDER BY id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql).map_err(driver)?;
            let values = params![scope, after, signed(limit as u64)];
            let rows = statement.query_map(values, |row| uuid(row, 0).map(NodeId));
            rows.and_then(Iterator::collect).map_err(|e| unreadable("memory_nodes", scope, e))
        };
        self.look(scope, Vec::new(), of).await
    }

    async fn topic_events(
        &self,
        scope: &ScopeKey,
        topics: &[NodeId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<TopicEvent>, StoreError> {
        let topics = topics.to_vec();
        let of = move |connection: &Connection, (scope, _): (&str, &str)| {
            let mut found = Vec::new();
            for topic in topics {
                found.extend(topic_events(connection, scope, (topic, since), limit)?);
            }
            Ok(found)
        };
        self.look(scope, Vec::new(), of).await
    }
}

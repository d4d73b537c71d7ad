//! What is stored of what a group of writes touches: one statement, one round trip.

use aionis_core::{
    canon::Digest,
    ids::{CommitId, EdgeId, NodeId},
    model::{EdgeType, EmbeddingStatus, Lane, NodeType, RuleState, Tier},
    ports::store::StoreError,
    write::{ParentState, PartState, PreparedPart, PreparedWrite, Replay, StoredEdge, StoredNode},
};
use hashbrown::{HashMap, HashSet};
use pgvector::Vector;
use sqlx::{PgConnection, postgres::PgRow};
use uuid::Uuid;

use crate::{
    content::StoredContent,
    postgres::{
        error::{driver, vanished},
        rows::{digest, digest_of, get, json_of, parsed},
    },
    purge::check_state,
};

/// A node with everything an update needs of it.
pub(super) struct Held {
    pub(super) stored: StoredNode,
    pub(super) content: StoredContent,
    pub(super) content_seq: i64,
    pub(super) flags: u8,
}

/// What is stored in one scope of what a group touches.
pub(super) struct Stored {
    pub(super) head: (u64, Digest),
    pub(super) change_no: i64,
    state: String,
    pub(super) nodes: HashMap<NodeId, Held>,
    edges: HashMap<(EdgeType, NodeId, NodeId), StoredEdge>,
    edge_ids: HashMap<EdgeId, (EdgeType, NodeId, NodeId)>,
    same_request: HashMap<Digest, Replay>,
    requests: HashMap<String, (Digest, String)>,
    parents: HashMap<Uuid, u64>,
}

/// Rows of several kinds in one shape: kind, three ids, texts, numbers, reals, two byte strings, vector.
const READ: &str = "\
SELECT 0::int2, NULL::uuid, NULL::uuid, NULL::uuid, ARRAY[state], ARRAY[head_seq, change_no], NULL::float8[], head_hash, \
       NULL::bytea, NULL::vector \
FROM memory_scopes WHERE scope_key = $1 \
UNION ALL \
SELECT 1::int2, n.id, NULL, NULL, ARRAY[n.type, n.tier, n.embedding_status, r.state, n.client_id, n.title, n.text_summary, \
       n.slots::text, n.raw_ref, n.evidence_ref, n.memory_lane, n.producer_agent_id, n.owner_agent_id, n.owner_team_id], \
       ARRAY[n.version, n.content_seq, n.recall_flags], ARRAY[n.salience, n.importance, n.confidence], n.digest, NULL, \
       v.embedding \
FROM UNNEST($2::uuid[], $3::bool[]) AS q (id, with_vector) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n \
LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
    WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = q.id LIMIT 1) r ON true \
LEFT JOIN LATERAL (SELECT embedding FROM memory_vectors \
    WHERE q.with_vector AND scope_key = $1 AND node_id = q.id AND model = $4 LIMIT 1) v ON true \
UNION ALL \
SELECT 2::int2, e.id, e.src_id, e.dst_id, ARRAY[e.type], NULL, ARRAY[e.weight, e.confidence, e.decay_rate], NULL, NULL, NULL \
FROM UNNEST($5::uuid[], $6::text[], $7::uuid[]) AS q (src_id, type, dst_id) \
CROSS JOIN LATERAL (SELECT * FROM memory_edges \
    WHERE scope_key = $1 AND src_id = q.src_id AND type = q.type AND dst_id = q.dst_id LIMIT 1) e \
UNION ALL \
SELECT 3::int2, e.id, e.src_id, e.dst_id, ARRAY[e.type], NULL, NULL, NULL, NULL, NULL \
FROM UNNEST($8::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_edges WHERE scope_key = $1 AND id = q.id LIMIT 1) e \
UNION ALL \
SELECT 4::int2, c.id, NULL, NULL, NULL, ARRAY[c.seq], NULL, c.hash, q.digest, NULL \
FROM UNNEST($9::bytea[]) AS q (digest), LATERAL (SELECT seq, id, hash FROM memory_commits \
     WHERE scope_key = $1 AND request_sha256 = q.digest ORDER BY seq DESC LIMIT 1) c \
UNION ALL \
SELECT 5::int2, NULL, NULL, NULL, ARRAY[m.request_key, m.outcome], NULL, NULL, m.request_sha256, NULL, NULL \
FROM UNNEST($10::text[]) AS q (key) \
CROSS JOIN LATERAL (SELECT * FROM memory_requests WHERE scope_key = $1 AND request_key = q.key LIMIT 1) m \
UNION ALL \
SELECT 6::int2, c.id, NULL, NULL, NULL, ARRAY[c.seq], NULL, NULL, NULL, NULL \
FROM UNNEST($11::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_commits WHERE scope_key = $1 AND id = q.id LIMIT 1) c";

impl Stored {
    /// Reads what the parts of some writes touch in one scope, whose row is locked.
    pub(super) async fn read(
        connection: &mut PgConnection,
        scope: &str,
        model: &str,
        items: &[(&PreparedWrite, &PreparedPart)],
    ) -> Result<Self, StoreError> {
        let asked = Asked::of(items);
        let rows = sqlx::query(READ)
            .bind(scope)
            .bind(asked.nodes)
            .bind(asked.with_vector)
            .bind(model)
            .bind(asked.src)
            .bind(asked.types)
            .bind(asked.dst)
            .bind(asked.edge_ids)
            .bind(asked.digests)
            .bind(asked.keys)
            .bind(asked.parents)
            .fetch_all(connection)
            .await
            .map_err(driver)?;
        let mut stored = Self {
            head: (0, Digest([0; 32])),
            change_no: 0,
            state: String::new(),
            nodes: HashMap::new(),
            edges: HashMap::new(),
            edge_ids: HashMap::new(),
            same_request: HashMap::new(),
            requests: HashMap::new(),
            parents: HashMap::new(),
        };
        for row in &rows {
            stored.take(row)?;
        }
        if stored.state.is_empty() {
            return Err(vanished(scope));
        }
        check_state(&stored.state, scope)?;
        Ok(stored)
    }

    fn take(&mut self, row: &PgRow) -> Result<(), StoreError> {
        let first = |row: &PgRow| -> Result<u64, StoreError> {
            let numbers: Vec<i64> = get(row, 5)?;
            Ok(numbers.first().and_then(|n| u64::try_from(*n).ok()).unwrap_or(0))
        };
        match get::<i16>(row, 0)? {
            0 => {
                let numbers: Vec<i64> = get(row, 5)?;
                self.state = get::<Vec<String>>(row, 4)?.pop().unwrap_or_default();
                self.head = (u64::try_from(numbers[0]).unwrap_or(0), digest(row, 7)?);
                self.change_no = numbers[1];
            }
            1 => {
                let held = held(row)?;
                self.nodes.insert(held.content.id, held);
            }
            2 => {
                let reals: Vec<f64> = get(row, 6)?;
                let edge = StoredEdge {
                    id: EdgeId(get(row, 1)?),
                    weight: reals[0],
                    confidence: reals[1],
                    decay_rate: reals[2],
                };
                self.edges.insert(place(row)?, edge);
            }
            3 => _ = self.edge_ids.insert(EdgeId(get(row, 1)?), place(row)?),
            4 => {
                let replay = Replay { seq: first(row)?, id: CommitId(get(row, 1)?), hash: digest(row, 7)? };
                self.same_request.insert(digest_of(get(row, 8)?)?, replay);
            }
            5 => {
                let mut texts: Vec<String> = get(row, 4)?;
                let outcome = texts.pop().unwrap_or_default();
                self.requests.insert(texts.pop().unwrap_or_default(), (digest(row, 7)?, outcome));
            }
            _ => _ = self.parents.insert(get(row, 1)?, first(row)?),
        }
        Ok(())
    }

    /// The stored answer of a request key: digest of the request it was given to, and the answer.
    pub(super) fn request(&self, key: &str) -> Option<&(Digest, String)> {
        self.requests.get(key)
    }

    /// What planning one part of one write needs.
    pub(super) fn state(&self, write: &PreparedWrite, part: &PreparedPart, primary: bool) -> PartState {
        let mut state = PartState { head: self.head, ..PartState::default() };
        let ids = part.nodes.iter().map(|node| node.id).chain(part.edges.iter().flat_map(|e| [e.src.id, e.dst.id]));
        for id in ids {
            if let Some(held) = self.nodes.get(&id) {
                state.nodes.insert(id, held.stored.clone());
            }
        }
        for edge in &part.edges {
            let place = (edge.edge_type, edge.src.id, edge.dst.id);
            if let Some(held) = self.edges.get(&place) {
                state.edges.insert(place, held.clone());
            } else if let Some(elsewhere) = self.edge_ids.get(&edge.id) {
                state.edge_ids.insert(edge.id, *elsewhere);
            }
        }
        state.same_request = self.same_request.get(&write.request_digest).cloned();
        if primary && let Some(parent) = write.parent_commit_id {
            state.parent = Some(match self.parents.get(&parent) {
                None => ParentState::Missing,
                Some(seq) if *seq == self.head.0 => ParentState::Head,
                Some(_) => ParentState::Older,
            });
        }
        state
    }
}

/// What is asked for, column by column.
#[derive(Default)]
struct Asked {
    nodes: Vec<Uuid>,
    with_vector: Vec<bool>,
    src: Vec<Uuid>,
    types: Vec<&'static str>,
    dst: Vec<Uuid>,
    edge_ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
    keys: Vec<String>,
    parents: Vec<Uuid>,
}

impl Asked {
    fn of(items: &[(&PreparedWrite, &PreparedPart)]) -> Self {
        let mut asked = Self::default();
        let mut known = HashSet::new();
        for (write, part) in items {
            for node in &part.nodes {
                known.insert(node.id);
                asked.nodes.push(node.id.0);
                asked.with_vector.push(node.embedding.is_some());
            }
            for edge in &part.edges {
                for end in [edge.src, edge.dst] {
                    if !end.in_request && known.insert(end.id) {
                        asked.nodes.push(end.id.0);
                        asked.with_vector.push(false);
                    }
                }
                asked.src.push(edge.src.id.0);
                asked.types.push(edge.edge_type.as_str());
                asked.dst.push(edge.dst.id.0);
                asked.edge_ids.push(edge.id.0);
            }
            asked.digests.push(write.request_digest.0.to_vec());
            asked.keys.extend(write.idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
            asked.parents.extend(write.parent_commit_id);
        }
        asked
    }
}

fn place(row: &PgRow) -> Result<(EdgeType, NodeId, NodeId), StoreError> {
    let types: Vec<String> = get(row, 4)?;
    let edge_type = parsed(types.first().map_or("", String::as_str), EdgeType::parse)?;
    Ok((edge_type, NodeId(get(row, 2)?), NodeId(get(row, 3)?)))
}

fn held(row: &PgRow) -> Result<Held, StoreError> {
    let mut texts: Vec<Option<String>> = get(row, 4)?;
    let numbers: Vec<i64> = get(row, 5)?;
    let reals: Vec<f64> = get(row, 6)?;
    let mut text = |at: usize| texts.get_mut(at).and_then(Option::take);
    let mut needed = |at: usize| text(at).unwrap_or_default();
    let node_type = parsed(&needed(0), NodeType::parse)?;
    let tier = parsed(&needed(1), Tier::parse)?;
    let embedding_status = parsed(&needed(2), EmbeddingStatus::parse)?;
    let slots = json_of(&needed(7))?;
    let lane = parsed(&needed(10), Lane::parse)?;
    let embedding: Option<Vector> = get(row, 9)?;
    let (owner_agent_id, owner_team_id) = (text(12), text(13));
    let stored = StoredNode {
        digest: digest(row, 7)?,
        version: u32::try_from(numbers[0]).unwrap_or(u32::MAX),
        tier,
        salience: reals[0],
        importance: reals[1],
        confidence: reals[2],
        embedding_status,
        embedding: embedding.map(|vector| vector.to_vec()),
        rule_state: text(3).as_deref().and_then(RuleState::parse),
        lane,
        owner_agent_id: owner_agent_id.clone(),
        owner_team_id: owner_team_id.clone(),
    };
    let content = StoredContent {
        id: NodeId(get(row, 1)?),
        client_id: text(4),
        node_type,
        title: text(5),
        text_summary: text(6),
        slots,
        raw_ref: text(8),
        evidence_ref: text(9),
        lane,
        producer_agent_id: text(11),
        owner_agent_id,
        owner_team_id,
    };
    let flags = u8::try_from(numbers[2]).unwrap_or(0);
    Ok(Held { stored, content, content_seq: numbers[1], flags })
}

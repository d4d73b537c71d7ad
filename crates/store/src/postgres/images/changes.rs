//! What is asked to bring an image up to date, and how the answer is applied.

use std::sync::LazyLock;

use aionis_core::{
    clock::Timestamp,
    ids::{EdgeId, NodeId, ScopeKey},
    model::{EdgeType, Lane, NodeType, RuleState, Tier},
    ports::store::StoreError,
    recall::EdgeView,
};
use hashbrown::HashSet;
use sqlx::{AssertSqlSafe, postgres::PgRow};
use uuid::Uuid;

use super::super::{
    Shared, VectorSearch,
    error::inconsistent,
    place::RowPlace,
    rows::{choice, get, unsigned},
    session::{ASKER, ask},
};
use crate::{
    decay::basis,
    purge::{PURGING, check_state},
};
use aionis_image::{NodeFacts, ScopeImage};

/// Kind of the row that tells since when the oldest vector is waited for.
const WAITING: i16 = 5;
/// Kind of the rows that name forgotten nodes.
const ERASED: i16 = 3;
/// Kind of the rows that name edges a job removed. They come before the edges that are there, some of them put back.
const REMOVED: i16 = 4;

/// The first part of [`REFRESH`] alone. Asking for all of it takes the database four times as long, even if nothing changed.
const HEAD: &str = "\
SELECT 0::int2, s.incarnation, NULL::uuid, NULL::uuid, s.head_seq, s.change_no, s.node_count, s.vector_count, NULL::float8, \
       NULL::float8, NULL::int2, NULL::int4, s.state \
FROM {asker} CROSS JOIN LATERAL (SELECT * FROM memory_scopes WHERE scope_key = $1 AND tenant_id = asker.tenant LIMIT 1) s";

/// Head, then since when the oldest vector is waited for, if one is, then forgotten nodes, then changed nodes, then removed edges, then changed edges, in one shape. Changes are found by the number made of the scope; its key
/// is compared so that no other index can be taken for them.
const REFRESH: &str = "\
SELECT 0::int2, incarnation, NULL::uuid, NULL::uuid, head_seq, change_no, node_count, vector_count, NULL::float8, \
       NULL::float8, NULL::int2, NULL::int4, state, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, \
       NULL::text, NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::text, NULL::text, NULL::tid, NULL::tid \
FROM memory_scopes WHERE scope_key = $1 \
UNION ALL \
SELECT 5::int2, NULL, NULL, NULL, p.embedding_pending_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
FROM (SELECT embedding_pending_at FROM memory_nodes WHERE scope_key = $1 AND embedding_status = 'pending' \
      ORDER BY embedding_pending_at LIMIT 1) p \
UNION ALL \
SELECT 3::int2, g.id, NULL, NULL, g.commit_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
FROM memory_erasures g WHERE $2 >= 0 AND g.scope_no = hashtextextended($1, 0) AND g.scope_key || '' = $1 \
    AND g.change_no > $2 \
UNION ALL \
SELECT 1::int2, n.id, NULL, NULL, n.content_seq, n.salience_at, n.last_activated, n.created_at, n.salience, n.confidence, n.recall_flags, n.term_count, \
       n.type, n.tier, n.memory_lane, n.embedding_status, n.owner_agent_id, n.owner_team_id, n.name_key, n.client_id, \
       n.lexical_terms, r.state, v.code, \
       CASE WHEN n.slots ?| ARRAY['pin', 'legal_hold', 'feedback_quality', 'feedback_positive', 'feedback_negative'] \
           THEN n.slots::text END, n.activity::text, n.activity ->> 'alias_of', n.ctid, v.ctid \
FROM memory_nodes n \
LEFT JOIN LATERAL (SELECT code, ctid FROM memory_vectors \
    WHERE $3 AND scope_key = $1 AND node_id = n.id AND model = $4 LIMIT 1) v ON true \
LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
    WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = n.id LIMIT 1) r ON true \
WHERE n.scope_no = hashtextextended($1, 0) AND n.scope_key || '' = $1 AND n.change_no > $2 \
UNION ALL \
SELECT 4::int2, g.edge_id, NULL, NULL, g.removed_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
FROM memory_removed_edges g WHERE $2 >= 0 AND g.scope_no = hashtextextended($1, 0) AND g.scope_key || '' = $1 \
    AND g.change_no > $2 \
UNION ALL \
SELECT 2::int2, e.id, e.src_id, e.dst_id, e.commit_seq, NULL, NULL, NULL, e.weight, e.confidence, NULL, NULL, e.type, NULL, \
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
FROM memory_edges e WHERE e.scope_no = hashtextextended($1, 0) AND e.scope_key || '' = $1 AND e.change_no > $2";

/// Asks for the head alone.
pub(super) async fn head(shared: &Shared, scope: &ScopeKey) -> Result<Vec<PgRow>, StoreError> {
    static SQL: LazyLock<String> = LazyLock::new(|| HEAD.replace("{asker}", ASKER));
    let question = || sqlx::query(AssertSqlSafe(SQL.as_str())).bind(scope.as_str()).bind(scope.tenant());
    ask(&shared.pool, scope.tenant(), shared.options.statement_timeout, question).await
}

/// Asks for the head and for what has changed since.
pub(super) fn refresh<'q>(
    shared: &'q Shared,
    scope: &'q ScopeKey,
    seen: i64,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let with_codes = shared.options.vector_search == VectorSearch::Codes;
    sqlx::query(REFRESH).bind(scope.as_str()).bind(seen).bind(with_codes).bind(&shared.space.name)
}

/// What the row of a scope says.
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) change_no: i64,
    pub(super) vectors: u64,
    pub(super) incarnation: Option<Uuid>,
}

impl Head {
    pub(super) fn read(row: &PgRow) -> Result<Self, StoreError> {
        if is_purged(row)? {
            // Nothing of it is shown; the number of its last change is all that is looked at.
            return Ok(Self { change_no: get(row, 5)?, ..Self::default() });
        }
        check_state(get(row, 12)?, "the scope")?;
        let (seq, vectors) = (unsigned(row, 4)?, unsigned(row, 7)?);
        Ok(Self { seq, change_no: get(row, 5)?, vectors, incarnation: get(row, 1)? })
    }
}

pub(super) fn is_head(row: &PgRow) -> Result<bool, StoreError> {
    Ok(get::<i16>(row, 0)? == 0)
}

/// Whether a head is that of a scope that is being purged.
pub(super) fn is_purged(head: &PgRow) -> Result<bool, StoreError> {
    Ok(get::<Option<&str>>(head, 12)? == Some(PURGING))
}

/// Which scope of its name rows are of; none if their head is not among them, or it is being purged.
pub(super) fn incarnation(rows: &[PgRow]) -> Result<Option<Uuid>, StoreError> {
    for row in rows {
        if is_head(row)? {
            return if is_purged(row)? { Ok(None) } else { get(row, 1) };
        }
    }
    Ok(None)
}

/// What a refresh has read so far.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) head: Head,
    oldest_pending: Option<Timestamp>,
    /// Edges that came before their nodes.
    pub(super) waiting: Vec<EdgeView>,
}

impl Fresh {
    /// Applies changes to an image that is in use.
    pub(super) fn apply(&mut self, image: &mut ScopeImage, rows: &[PgRow]) -> Result<(), StoreError> {
        // What was forgotten goes first, in one pass: it may have been written anew since.
        let of_kind = |wanted: i16| rows.iter().filter(move |row| get::<i16>(row, 0).is_ok_and(|kind| kind == wanted));
        let erased = of_kind(ERASED).map(|row| get(row, 1).map(NodeId)).collect::<Result<Vec<_>, _>>()?;
        image.erase(&erased);
        // Then old words, in one pass; what the new ones are is in the rows.
        let mut rewritten = HashSet::new();
        for row in of_kind(1) {
            if let Some(slot) = image.slot_of(get(row, 1)?)
                && unsigned(row, 4)? > image.head_seq
            {
                rewritten.insert(slot);
            }
        }
        image.forget_documents(&rewritten);
        rows.iter().try_for_each(|row| self.take(image, row))
    }

    pub(super) fn take(&mut self, image: &mut ScopeImage, row: &PgRow) -> Result<(), StoreError> {
        match get::<i16>(row, 0)? {
            0 => self.head = Head::read(row)?,
            WAITING => self.oldest_pending = get::<Option<i64>>(row, 4)?.map(Timestamp),
            1 => {
                let rule_state: Option<&str> = get(row, 21)?;
                let status: &str = get(row, 15)?;
                let kind = (choice(row, 12, NodeType::parse)?, choice(row, 13, Tier::parse)?);
                let times = (get(row, 5)?, get(row, 6)?, get(row, 7)?);
                let decay = basis(kind, times, get(row, 23)?, get(row, 24)?)
                    .map_err(|e| inconsistent("memory_nodes", "slots", "one", e.to_string()))?;
                let slot = image.put_facts(&NodeFacts {
                    id: get(row, 1)?,
                    node_no: 0,
                    node_type: kind.0,
                    tier: kind.1,
                    lane: choice(row, 14, Lane::parse)?,
                    owner_agent: get(row, 16)?,
                    owner_team: get(row, 17)?,
                    flags: u8::try_from(get::<i16>(row, 10)?).unwrap_or(0),
                    terms: u32::try_from(get::<i32>(row, 11)?).unwrap_or(0),
                    live_rule: rule_state.and_then(RuleState::parse).is_some_and(RuleState::is_live),
                    pending: status == "pending",
                    ready: status == "ready",
                    salience: get(row, 8)?,
                    decay,
                    confidence: get(row, 9)?,
                    name_key: get(row, 18)?,
                    client_id: get(row, 19)?,
                    alias_of: get::<Option<&str>>(row, 25)?.and_then(|to| uuid::Uuid::parse_str(to).ok()),
                });
                image.add_document(slot, get(row, 20)?);
                image.put_code(slot, get(row, 22)?);
                let place = |at| Ok::<_, StoreError>(get::<Option<RowPlace>>(row, at)?.unwrap_or_default().0);
                image.put_places(slot, place(26)?, place(27)?);
            }
            // Dealt with before.
            ERASED => {}
            REMOVED => image.remove_edges(&[EdgeId(get(row, 1)?)]),
            _ => {
                let edge = EdgeView {
                    id: EdgeId(get(row, 1)?),
                    edge_type: choice(row, 12, EdgeType::parse)?,
                    src: NodeId(get(row, 2)?),
                    dst: NodeId(get(row, 3)?),
                    weight: get(row, 8)?,
                    confidence: get(row, 9)?,
                    commit_seq: unsigned(row, 4)?,
                };
                if image.slot_of(edge.src.0).is_some() && image.slot_of(edge.dst.0).is_some() {
                    image.put_edge(edge);
                } else {
                    self.waiting.push(edge);
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(self, image: &mut ScopeImage) -> Head {
        self.waiting.into_iter().for_each(|edge| image.put_edge(edge));
        image.head_seq = self.head.seq;
        image.oldest_pending = self.oldest_pending;
        self.head
    }
}

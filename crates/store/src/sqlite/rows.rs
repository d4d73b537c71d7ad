//! Between SQL values and domain values, in one place.

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    ids::{CommitId, NodeId},
    lifecycle::DecayBasis,
    model::{EdgeType, EmbeddingStatus, Lane, NodeType, RuleScope, RuleState, Tier},
    operate::merged_slots,
    ports::store::{NodeRow, StoreError},
    recall::context::ContextRule,
};
use rusqlite::{
    Connection, OptionalExtension, Row,
    types::{Type, ValueRef},
};
use serde_json::Value;
use uuid::Uuid;

use super::error::{driver, inconsistent};
use crate::decay::basis;

/// Bytes of a UUID, as they are stored.
pub(crate) fn blob(id: Uuid) -> [u8; 16] {
    id.into_bytes()
}

/// A stored unsigned number.
pub(crate) fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}

/// An unsigned number on its way into storage.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A stored UUID.
pub(crate) fn uuid(row: &Row<'_>, at: usize) -> rusqlite::Result<Uuid> {
    let bytes: [u8; 16] = row.get(at)?;
    Ok(Uuid::from_bytes(bytes))
}

/// A stored UUID, if there is one.
pub(crate) fn optional_uuid(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Uuid>> {
    let bytes: Option<[u8; 16]> = row.get(at)?;
    Ok(bytes.map(Uuid::from_bytes))
}

/// A stored digest.
pub(crate) fn digest(row: &Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    let bytes: [u8; 32] = row.get(at)?;
    Ok(Digest(bytes))
}

/// A stored enumeration value.
pub(crate) fn choice<T>(row: &Row<'_>, at: usize, parse: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let value = row.get_ref(at)?;
    let text =
        value.as_str().map_err(|e| rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), Box::new(e)))?;
    parse(text).ok_or_else(|| {
        let problem = format!("unknown value {text:?}");
        rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), problem.into())
    })
}

/// Stored JSON.
pub(crate) fn json(row: &Row<'_>, at: usize) -> rusqlite::Result<Value> {
    let value = row.get_ref(at)?;
    let text = match value {
        ValueRef::Text(bytes) => bytes,
        other => return Err(rusqlite::Error::InvalidColumnType(at, "json".to_owned(), other.data_type())),
    };
    serde_json::from_slice(text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), Box::new(e)))
}

/// A vector as stored: little-endian 32-bit floats.
pub(crate) fn vector_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A stored vector.
pub(crate) fn vector(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The columns of [`node_row`], in its order.
pub(crate) const NODE_COLUMNS: &str = "id, type, client_id, title, text_summary, slots, tier, memory_lane, \
     producer_agent_id, owner_agent_id, owner_team_id, raw_ref, evidence_ref, embedding_status, embedding_model, \
     salience, importance, confidence, last_activated, created_at, updated_at, commit_seq, commit_id, activity, salience_at";

/// What a node's fading depends on, from five columns: since when its salience holds, last use, creation, slots (see
/// [`basis`] for when they may be left out), notes.
pub(crate) fn decay_basis(row: &Row<'_>, kind: (NodeType, Tier), at: usize) -> rusqlite::Result<DecayBasis> {
    let text = |at: usize| row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from);
    let times = (row.get(at)?, row.get(at + 1)?, row.get(at + 2)?);
    basis(kind, times, text(at + 3)?, text(at + 4)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(at + 3, Type::Text, Box::new(e)))
}

/// Reads a node in full, without its rule.
pub(crate) fn node_row(row: &Row<'_>) -> rusqlite::Result<NodeRow> {
    let activity = row.get::<_, Option<String>>(23)?.map(|_| json(row, 23)).transpose()?;
    let (node_type, tier) = (choice(row, 1, NodeType::parse)?, choice(row, 6, Tier::parse)?);
    let slots = merged_slots(json(row, 5)?, activity.as_ref());
    let last_activated = row.get::<_, Option<i64>>(18)?.map(Timestamp);
    let created_at = Timestamp(row.get(19)?);
    let times = (Timestamp(row.get(24)?), last_activated, created_at);
    Ok(NodeRow {
        id: NodeId(uuid(row, 0)?),
        node_type,
        client_id: row.get(2)?,
        title: row.get(3)?,
        text_summary: row.get(4)?,
        decay: DecayBasis::of((node_type, tier), times, &slots, None),
        slots,
        tier,
        lane: choice(row, 7, Lane::parse)?,
        producer_agent_id: row.get(8)?,
        owner_agent_id: row.get(9)?,
        owner_team_id: row.get(10)?,
        raw_ref: row.get(11)?,
        evidence_ref: row.get(12)?,
        embedding_status: choice(row, 13, EmbeddingStatus::parse)?,
        embedding_model: row.get(14)?,
        salience: row.get(15)?,
        importance: row.get(16)?,
        confidence: row.get(17)?,
        last_activated,
        created_at,
        updated_at: Timestamp(row.get(20)?),
        commit_seq: unsigned(row, 21)?,
        commit_id: CommitId(uuid(row, 22)?),
        rule: None,
    })
}

/// The executable part of a rule node, if it has one.
pub(crate) fn rule_of(connection: &Connection, scope_key: &str, id: Uuid) -> Result<Option<ContextRule>, StoreError> {
    let sql = "SELECT state, rule_scope, target_agent_id, target_team_id, if_json, then_json, exceptions_json, \
               positive_count, negative_count FROM memory_rule_defs WHERE scope_key = ?1 AND rule_node_id = ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    statement
        .query_row((scope_key, blob(id)), |row| {
            Ok(ContextRule {
                state: choice(row, 0, RuleState::parse)?,
                rule_scope: choice(row, 1, RuleScope::parse)?,
                target_agent_id: row.get(2)?,
                target_team_id: row.get(3)?,
                if_json: json(row, 4)?,
                then_json: json(row, 5)?,
                exceptions_json: json(row, 6)?,
                positive: row.get(7)?,
                negative: row.get(8)?,
            })
        })
        .optional()
        .map_err(|e| unreadable("memory_rule_defs", id, e))
}

/// A stored edge type.
pub(crate) fn edge_type(row: &Row<'_>, at: usize) -> rusqlite::Result<EdgeType> {
    choice(row, at, EdgeType::parse)
}

/// A row that cannot be read back is damage, not a driver failure.
pub(crate) fn unreadable(table: &'static str, row: impl ToString, error: rusqlite::Error) -> StoreError {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => inconsistent(table, "*", row, error.to_string()),
        other => driver(other),
    }
}

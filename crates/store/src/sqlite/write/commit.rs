//! What a commit of any kind needs: the chain's next row, and the answer kept for a repeated request.

use aionis_core::{
    canon::Digest, chain::changes_json, clock::Timestamp, ports::store::StoreError, write::IdempotencyKey,
    write::NewCommit,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    purge::purging,
    sqlite::{
        error::{driver, inconsistent},
        purge::is_purging,
        rows::{blob, digest, signed},
    },
};
use aionis_image::Delta;

/// Appends a commit and moves the head; returns the scope's short number.
pub(crate) fn append(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    commit: &NewCommit,
    (nodes, edges): (usize, usize),
    now: Timestamp,
) -> Result<i64, StoreError> {
    let header = &commit.header;
    let sql = "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, created_at, updated_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (scope_key) DO UPDATE SET \
               head_seq = excluded.head_seq, head_hash = excluded.head_hash, \
               node_count = node_count + excluded.node_count, edge_count = edge_count + excluded.edge_count, \
               updated_at = excluded.updated_at RETURNING scope_no";
    let (nodes, edges) = (signed(nodes as u64), signed(edges as u64));
    let scope_no = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let values = params![header.scope_key, signed(header.seq), commit.hash.0, nodes, edges, now.0];
            statement.query_row(values, |row| row.get(0))
        })
        .map_err(driver)?;
    let sql = "INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, model_version, \
               prompt_version, input_sha256, request_sha256, changes, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                header.scope_key,
                signed(header.seq),
                blob(commit.id.0),
                header.parent_hash.0,
                commit.hash.0,
                header.kind,
                header.actor,
                header.model_version,
                header.prompt_version,
                header.input_sha256,
                header.request_sha256.0,
                changes_json(&commit.changes),
                header.created_at.0,
            ])
        })
        .map_err(driver)?;
    deltas.push(Delta::Head { scope: header.scope_key.clone(), scope_no, seq: header.seq });
    Ok(scope_no)
}

/// The stored answer for a repeated request key.
pub(crate) fn answered<T: DeserializeOwned>(
    connection: &Connection,
    scope: &str,
    key: Option<&IdempotencyKey>,
    asked: Digest,
) -> Result<Option<T>, StoreError> {
    let Some(key) = key else { return Ok(None) };
    let sql = "SELECT request_sha256, outcome FROM memory_requests WHERE scope_key = ?1 AND request_key = ?2";
    let found: Option<(_, String)> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.query_row((scope, &key.key), |row| Ok((digest(row, 0)?, row.get(1)?))).optional()
        })
        .map_err(driver)?;
    let Some((asked_before, outcome)) = found else { return Ok(None) };
    if is_purging(connection, scope)? {
        return Err(purging(scope));
    }
    if !key.answers(asked_before, asked)? {
        return Ok(None);
    }
    serde_json::from_str(&outcome)
        .map(Some)
        .map_err(|e| inconsistent("memory_requests", "outcome", &key.key, e.to_string()))
}

/// Keeps the answer for a repeated request key.
pub(crate) fn remember(
    connection: &Connection,
    scope: &str,
    key: Option<&IdempotencyKey>,
    asked: Digest,
    (outcome, now): (&impl Serialize, Timestamp),
) -> Result<(), StoreError> {
    let Some(key) = key else { return Ok(()) };
    let json = crate::operate::text(outcome)?;
    let sql = "INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (scope_key, request_key) DO UPDATE SET \
               request_sha256 = excluded.request_sha256, outcome = excluded.outcome, created_at = excluded.created_at";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![scope, key.key, asked.0, json, now.0]))
        .map(|_| ())
        .map_err(driver)
}

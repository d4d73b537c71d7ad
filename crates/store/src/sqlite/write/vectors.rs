//! Storing vectors.

use aionis_core::{clock::Timestamp, ids::NodeId, ports::store::StoreError};
use rusqlite::{Connection, params};

use crate::sqlite::{
    error::driver,
    rows::{blob, signed, vector_bytes},
};

/// Stores a vector and returns its row number.
pub(crate) fn put_vector(
    connection: &Connection,
    (scope, id): (&str, NodeId),
    model: &str,
    (source_digest, origin): (&[u8; 32], &str),
    vector: &[f32],
    now: Timestamp,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO memory_vectors (scope_key, node_id, model, dim, source_digest, origin, vector, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (scope_key, node_id, model) DO UPDATE SET \
               dim = excluded.dim, source_digest = excluded.source_digest, origin = excluded.origin, \
               vector = excluded.vector, created_at = excluded.created_at RETURNING vector_no";
    connection
        .prepare_cached(sql)
        .map_err(driver)?
        .query_row(
            params![
                scope,
                blob(id.0),
                model,
                signed(vector.len() as u64),
                source_digest,
                origin,
                vector_bytes(vector),
                now.0
            ],
            |row| row.get(0),
        )
        .map_err(driver)
}

//! The stored form of a scope's vector index.

use aionis_core::{canon::sha256, ports::store::StoreError};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    error::driver,
    rows::{digest, signed, vector, vector_bytes},
};
use crate::space::EmbeddingSpace;
use aionis_image::{StoredIndex, StoredRouter};

/// Bytes of one member: its vector's row number and its list.
const MEMBER: usize = 10;

/// Reads a scope's index; none when there is none for this space. A damaged one is reported and left out: it is derived.
pub(crate) fn read(
    connection: &Connection,
    scope: &str,
    space: &EmbeddingSpace,
) -> Result<Option<StoredIndex>, StoreError> {
    let sql = "SELECT probes, recall, built_at, centroids, members, sha256 FROM memory_vector_index \
               WHERE scope_key = ?1 AND model = ?2 AND dim = ?3";
    let dim = signed(space.dim as u64);
    let found = connection
        .prepare_cached(sql)
        .map_err(driver)?
        .query_row(params![scope, space.name, dim], |row| {
            let (centroids, members): (Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(4)?);
            let sound = digest(row, 5)? == content_sha256(&centroids, &members);
            Ok((sound, row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, centroids, members))
        })
        .optional()
        .map_err(driver)?;
    let Some((sound, probes, recall, built_at, centroids, members)) = found else { return Ok(None) };
    let Some(probes) = usize::try_from(probes).ok().filter(|_| sound) else {
        tracing::warn!(scope, "the stored vector index is damaged; it is left out and built anew");
        return Ok(None);
    };
    let members = members
        .as_chunks::<MEMBER>()
        .0
        .iter()
        .map(|bytes| {
            let [a, b, c, d, e, f, g, h, low, high] = *bytes;
            (i64::from_le_bytes([a, b, c, d, e, f, g, h]), u16::from_le_bytes([low, high]))
        })
        .collect();
    let router = StoredRouter { centroids: vector(&centroids), probes };
    Ok(Some(StoredIndex { router, members, recall, built_at }))
}

/// Stores a scope's index in place of an earlier one, unless the scope was purged while it was built.
pub(crate) fn store(
    connection: &Connection,
    scope: &str,
    space: &EmbeddingSpace,
    index: &StoredIndex,
) -> Result<(), StoreError> {
    let centroids = vector_bytes(&index.router.centroids);
    let members: Vec<u8> = index
        .members
        .iter()
        .flat_map(|(vector_no, list)| vector_no.to_le_bytes().into_iter().chain(list.to_le_bytes()))
        .collect();
    let sha256 = content_sha256(&centroids, &members);
    let sql = "INSERT INTO memory_vector_index (scope_key, model, dim, probes, recall, vectors, built_at, centroids, \
               members, sha256) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 \
               WHERE EXISTS (SELECT 1 FROM memory_scopes WHERE scope_key = ?1 AND state = 'open') ON CONFLICT (scope_key, model) DO UPDATE \
               SET dim = excluded.dim, probes = excluded.probes, recall = excluded.recall, vectors = excluded.vectors, \
               built_at = excluded.built_at, centroids = excluded.centroids, members = excluded.members, \
               sha256 = excluded.sha256";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                scope,
                space.name,
                signed(space.dim as u64),
                signed(index.router.probes as u64),
                index.recall,
                signed(index.members.len() as u64),
                index.built_at,
                centroids,
                members,
                sha256.0,
            ])
        })
        .map(|_| ())
        .map_err(driver)
}

fn content_sha256(centroids: &[u8], members: &[u8]) -> aionis_core::canon::Digest {
    sha256([centroids, members].concat())
}

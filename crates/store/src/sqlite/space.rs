//! The embedding space of an embedded store, as its database says.

use aionis_core::ports::store::StoreError;
use rusqlite::{Connection, OptionalExtension};

use super::{SqliteOptions, error::driver};
use crate::{
    deployment::not_prepared,
    space::{CLIENT_SPACE, EmbeddingSpace, Settled, decide},
};

/// The space the store is stamped with.
pub(crate) fn stamped(connection: &Connection) -> Result<Option<EmbeddingSpace>, StoreError> {
    let read = |key: &str| -> Result<Option<String>, StoreError> {
        connection
            .query_row("SELECT value FROM aionis_meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(driver)
    };
    let (Some(name), Some(dim)) = (read("embedding_model")?, read("embedding_dim")?) else { return Ok(None) };
    let dim = dim.parse().map_err(|_| {
        super::error::inconsistent("aionis_meta", "value", "embedding_dim", format!("{dim:?} is not a number"))
    })?;
    Ok(Some(EmbeddingSpace { name, dim }))
}

/// Stamps the store with a space.
pub(crate) fn stamp(connection: &Connection, space: &EmbeddingSpace) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO aionis_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, ("embedding_model", &space.name)).map_err(driver)?;
    connection.execute(sql, ("embedding_dim", space.dim.to_string())).map_err(driver)?;
    Ok(())
}

/// The space of a store that is taken as it is.
pub(crate) fn found(connection: &Connection) -> Result<EmbeddingSpace, StoreError> {
    stamped(connection)?.ok_or_else(|| not_prepared("the database is not stamped with an embedding space yet"))
}

/// Settles the space of a store that is being opened: [`decide`], and what it says done.
pub(crate) fn settle(connection: &Connection, options: &SqliteOptions) -> Result<EmbeddingSpace, StoreError> {
    let has_vectors: bool =
        connection.query_row("SELECT EXISTS (SELECT 1 FROM memory_vectors)", [], |row| row.get(0)).map_err(driver)?;
    let stamped = stamped(connection)?.filter(|_| has_vectors || options.any_space);
    let space = match decide(
        options.space.as_ref(),
        stamped,
        options.fallback_dim,
        "run `aionis reembed --to` with the new one, or use another AIONIS_DATA_DIR",
    )? {
        Settled::Stamped(space) => return Ok(space),
        Settled::Stamp(space) => space,
        Settled::TakeOver(space) => {
            let relabel = "UPDATE memory_vectors SET model = ?1 WHERE model = ?2";
            connection.execute(relabel, (&space.name, CLIENT_SPACE)).map_err(driver)?;
            space
        }
    };
    stamp(connection, &space)?;
    Ok(space)
}

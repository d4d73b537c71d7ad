//! The embedding space a store's vectors live in. Vectors of different spaces never compare, so a mismatch stops the start.

use aionis_core::ports::store::StoreError;
use rusqlite::{Connection, OptionalExtension};

use super::error::driver;

/// A model's name and dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingSpace {
    /// `provider:model`.
    pub name: String,
    /// Numbers per vector.
    pub dim: usize,
}

/// Name of the space of vectors that callers bring to a store without a provider.
const CLIENT_SPACE: &str = "client";

/// Compares the configured space with the one the store was stamped with, and stamps a store that has none. A store that
/// only ever held callers' vectors of the same dimension takes the configured space over.
pub(crate) fn settle(
    connection: &Connection,
    configured: Option<&EmbeddingSpace>,
    fallback_dim: usize,
) -> Result<EmbeddingSpace, StoreError> {
    let read = |key: &str| -> Result<Option<String>, StoreError> {
        connection
            .query_row("SELECT value FROM aionis_meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(driver)
    };
    let has_vectors: bool =
        connection.query_row("SELECT EXISTS (SELECT 1 FROM memory_vectors)", [], |row| row.get(0)).map_err(driver)?;
    let stamped = match (read("embedding_model")?, read("embedding_dim")?) {
        (Some(name), Some(dim)) if has_vectors => {
            let dim = dim.parse().map_err(|_| {
                super::error::inconsistent("aionis_meta", "value", "embedding_dim", format!("{dim:?} is not a number"))
            })?;
            Some(EmbeddingSpace { name, dim })
        }
        _ => None,
    };
    let space = match (configured, stamped) {
        (None, Some(stamped)) => return Ok(stamped),
        (Some(configured), Some(stamped)) if *configured == stamped => return Ok(stamped),
        (Some(configured), Some(stamped)) if stamped.name == CLIENT_SPACE && stamped.dim == configured.dim => {
            let relabel = "UPDATE memory_vectors SET model = ?1 WHERE model = ?2";
            connection.execute(relabel, (&configured.name, CLIENT_SPACE)).map_err(driver)?;
            configured.clone()
        }
        (Some(configured), Some(stamped)) => return Err(mismatch(configured, &stamped)),
        (Some(configured), None) => configured.clone(),
        (None, None) => EmbeddingSpace { name: CLIENT_SPACE.to_owned(), dim: fallback_dim },
    };
    let stamp =
        "INSERT INTO aionis_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(stamp, ("embedding_model", &space.name)).map_err(driver)?;
    connection.execute(stamp, ("embedding_dim", space.dim.to_string())).map_err(driver)?;
    Ok(space)
}

fn mismatch(configured: &EmbeddingSpace, stamped: &EmbeddingSpace) -> StoreError {
    StoreError::Rejected(aionis_core::error::DomainError::new(
        aionis_core::error::ErrorKind::Conflict,
        "embedding_space_mismatch",
        format!(
            "the stored vectors are of {} ({} dimensions), the configured provider is {} ({} dimensions): they do not \
             compare; set EMBEDDING_PROVIDER and its model back, or use another AIONIS_DATA_DIR",
            stamped.name, stamped.dim, configured.name, configured.dim
        ),
    ))
}

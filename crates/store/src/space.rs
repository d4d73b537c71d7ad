//! The embedding space a store's vectors live in. Vectors of different spaces never compare, so a mismatch stops the start.

pub use aionis_core::ports::embed::EmbeddingSpace;
use aionis_core::{
    error::{DomainError, ErrorKind},
    ports::store::StoreError,
};

/// Name of the space of vectors that callers bring to a store without a provider.
pub(crate) const CLIENT_SPACE: &str = "client";

/// What to do about the space a store is opened with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The store is stamped with it already.
    Stamped(EmbeddingSpace),
    /// The store has to be stamped with it.
    Stamp(EmbeddingSpace),
    /// The store holds callers' vectors only: they become vectors of this space, and the store is stamped with it.
    TakeOver(EmbeddingSpace),
}

/// Compares the configured space with the one the stored vectors are stamped with. A store that only ever held callers'
/// vectors of the same dimension takes the configured space over.
///
/// # Errors
/// `embedding_space_mismatch`: the stored vectors are of another space.
pub(crate) fn decide(
    configured: Option<&EmbeddingSpace>,
    stamped: Option<EmbeddingSpace>,
    fallback_dim: usize,
    way_out: &str,
) -> Result<Settled, StoreError> {
    Ok(match (configured, stamped) {
        (None, Some(stamped)) => Settled::Stamped(stamped),
        (Some(configured), Some(stamped)) if *configured == stamped => Settled::Stamped(stamped),
        (Some(configured), Some(stamped)) if stamped.name == CLIENT_SPACE && stamped.dim == configured.dim => {
            Settled::TakeOver(configured.clone())
        }
        (Some(configured), Some(stamped)) => return Err(mismatch(configured, &stamped, way_out)),
        (Some(configured), None) => Settled::Stamp(configured.clone()),
        (None, None) => Settled::Stamp(EmbeddingSpace { name: CLIENT_SPACE.to_owned(), dim: fallback_dim }),
    })
}

/// A store without a stamp has not been opened yet.
pub(crate) fn unstamped() -> StoreError {
    StoreError::Driver("the store is not stamped with an embedding space".to_owned())
}

fn mismatch(configured: &EmbeddingSpace, stamped: &EmbeddingSpace, way_out: &str) -> StoreError {
    StoreError::Rejected(DomainError::new(
        ErrorKind::Conflict,
        "embedding_space_mismatch",
        format!(
            "the stored vectors are of {} ({} dimensions), the configured provider is {} ({} dimensions): they do not \
             compare; set EMBEDDING_PROVIDER and its model back, or {way_out}",
            stamped.name, stamped.dim, configured.name, configured.dim
        ),
    ))
}

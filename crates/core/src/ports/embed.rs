//! The embedding port: text in, vectors out.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::error::DomainError;

/// A model's name and the dimension of its vectors. Vectors of different spaces never compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingSpace {
    /// `provider:model`.
    pub name: String,
    /// Numbers per vector.
    pub dim: usize,
}

/// What a text is embedded for. Asymmetric providers encode documents and questions differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmbedPurpose {
    /// A stored memory.
    Document,
    /// A question asked of the memory.
    Query,
}

/// How a failed embedding call must be treated by the one who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedErrorKind {
    /// The provider asked to slow down (HTTP 429 or its own code): retry later, honour `retry_after`.
    RateLimited,
    /// Network, time-out or 5xx: retry later with backoff.
    Unavailable,
    /// The credential is refused (401, 403): no item is at fault, so the queue pauses until an operator acts.
    Unauthorized,
    /// The provider refuses this input (other 4xx): retrying the same text cannot help.
    Rejected,
    /// The answer cannot be used: wrong count, wrong dimension, not JSON, non-finite numbers.
    BadResponse,
}

/// A failed embedding call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct EmbedError {
    /// How to treat it.
    pub kind: EmbedErrorKind,
    /// HTTP status of the provider, when there was an answer.
    pub status: Option<u16>,
    /// The provider's own wish for a pause.
    pub retry_after: Option<Duration>,
    /// For logs and dead letters; holds no credential and no input text, at most 512 bytes.
    pub message: String,
}

impl EmbedError {
    /// An error without HTTP status or pause.
    pub fn new(kind: EmbedErrorKind, message: impl Into<String>) -> Self {
        Self { kind, status: None, retry_after: None, message: message.into() }
    }
}

/// Turns texts into vectors of one model ("embedding space").
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Name of the space, `provider:model`, for example `local:potion-base-8M`. Vectors of different names never compare.
    fn name(&self) -> &str;

    /// Dimension of every vector.
    fn dim(&self) -> usize;

    /// How many texts one call should carry at most; the caller splits larger batches.
    fn batch_size(&self) -> usize;

    /// Whether a call is cheap and in process (microseconds, no network), so that caching and batching waits are pointless.
    fn is_local(&self) -> bool;

    /// Embeds `texts` in order; one vector of [`Embedder::dim`] finite numbers each.
    ///
    /// # Errors
    /// An [`EmbedError`] for the whole call; nothing partial is returned.
    async fn embed(&self, texts: &[String], purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// The vector of one question, and how it came about.
#[derive(Clone, Debug)]
pub struct QueryVector {
    /// The vector.
    pub vector: Arc<[f32]>,
    /// Whether it was in the cache.
    pub cache_hit: bool,
    /// Whether it came from a call another request had under way.
    pub singleflight_join: bool,
    /// From asking to having it, in milliseconds, when it was batched.
    pub queue_wait_ms: f64,
    /// How many texts shared the call.
    pub batch_size: usize,
}

/// Turns questions into vectors, with whatever caching and batching the provider deserves.
#[async_trait]
pub trait QueryVectors: Send + Sync {
    /// Name of the space, as [`Embedder::name`].
    fn name(&self) -> &str;

    /// Whether the vector of a normalised and redacted question costs nothing now: it is kept, or on its way for somebody
    /// else.
    fn has(&self, text: &str) -> bool;

    /// The vector of a normalised and redacted question.
    ///
    /// # Errors
    /// The wire's errors for a provider that refuses, is overloaded, is unreachable or answers nonsense
    /// (runtime specification 4.9).
    async fn query_vector(&self, text: &str) -> Result<QueryVector, DomainError>;
}

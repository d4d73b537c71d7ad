//! Handlers: read, call, show.

pub(crate) mod metrics;
pub(crate) mod operate;
pub(crate) mod recall;
pub(crate) mod tools;
pub(crate) mod write;

use std::{future::Future, time::Duration};

use aionis_core::{
    deadline,
    error::{DomainError, ErrorKind},
};

/// Bounds a request in time.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DomainError>>,
) -> Result<T, DomainError> {
    let work = deadline::within(std::time::Instant::now() + limit, work);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(DomainError::new(
            ErrorKind::Unavailable,
            "deadline_exceeded",
            "the request took too long; repeat a write with the same Idempotency-Key to learn what became of it",
        )
        .with_retry_after(Duration::from_secs(1)))
    })
}

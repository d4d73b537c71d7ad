//! Question vectors as the kernel's port: outcomes of [`QueryEmbedder`] with the wire's error codes.

use std::time::Duration;

use aionis_core::error::{DomainError, ErrorKind};
use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, QueryVector as PortVector, QueryVectors};
use async_trait::async_trait;
use serde_json::json;

use super::{QueryEmbedError, QueryEmbedder};

#[async_trait]
impl QueryVectors for QueryEmbedder {
    fn name(&self) -> &str {
        self.embedder().name()
    }

    fn has(&self, text: &str) -> bool {
        self.knows(text)
    }

    async fn query_vector(&self, text: &str) -> Result<PortVector, DomainError> {
        let found = self.embed(text).await.map_err(domain_error)?;
        Ok(PortVector {
            vector: found.vector,
            cache_hit: found.cache_hit,
            singleflight_join: found.singleflight_join,
            queue_wait_ms: found.queue_wait_ms,
            batch_size: found.batch_size,
        })
    }
}

/// Codes and pauses of runtime specification 2.1 and 4.9.
fn domain_error(error: QueryEmbedError) -> DomainError {
    match error {
        QueryEmbedError::QueueFull { queued, max_queue, inflight_batches, max_inflight_batches } => DomainError::new(
            ErrorKind::TooManyRequests,
            "recall_text_embed_queue_full",
            "too many questions wait for embedding; retry later",
        )
        .with_details(json!({
            "queued": queued,
            "max_queue": max_queue,
            "inflight_batches": inflight_batches,
            "max_inflight_batches": max_inflight_batches,
        }))
        .with_retry_after(Duration::from_secs(1)),
        QueryEmbedError::QueueTimeout { wait_ms, queue_timeout_ms, queued, inflight_batches } => DomainError::new(
            ErrorKind::Unavailable,
            "recall_text_embed_queue_timeout",
            "the question waited too long for embedding; retry later",
        )
        .with_details(json!({
            "wait_ms": wait_ms,
            "queue_timeout_ms": queue_timeout_ms,
            "queued": queued,
            "inflight_batches": inflight_batches,
        }))
        .with_retry_after(Duration::from_secs(2)),
        QueryEmbedError::Provider(error) => provider_error(&error),
    }
}

fn provider_error(error: &EmbedError) -> DomainError {
    let (kind, code, message, pause) = match error.kind {
        EmbedErrorKind::RateLimited => (
            ErrorKind::TooManyRequests,
            "upstream_embedding_rate_limited",
            "the embedding provider asked to slow down; retry later",
            Some(error.retry_after.unwrap_or(Duration::from_secs(2))),
        ),
        EmbedErrorKind::Unavailable => (
            ErrorKind::Unavailable,
            "upstream_embedding_unavailable",
            "the embedding provider cannot be reached; retry later",
            Some(error.retry_after.unwrap_or(Duration::from_secs(1))),
        ),
        EmbedErrorKind::Unauthorized | EmbedErrorKind::Rejected | EmbedErrorKind::BadResponse => (
            ErrorKind::BadGateway,
            "upstream_embedding_bad_response",
            "the embedding provider did not give a usable answer",
            None,
        ),
    };
    let mapped = DomainError::new(kind, code, message)
        .with_details(json!({ "provider_status": error.status }))
        .with_internal(error.message.clone());
    match pause {
        Some(pause) => mapped.with_retry_after(pause),
        None => mapped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_code_and_pause() {
        for (kind, code, pause) in [
            (EmbedErrorKind::RateLimited, "upstream_embedding_rate_limited", Some(2)),
            (EmbedErrorKind::Unavailable, "upstream_embedding_unavailable", Some(1)),
            (EmbedErrorKind::Unauthorized, "upstream_embedding_bad_response", None),
            (EmbedErrorKind::BadResponse, "upstream_embedding_bad_response", None),
        ] {
            let mapped = domain_error(QueryEmbedError::Provider(EmbedError::new(kind, "key sk-x refused")));
            assert_eq!((mapped.code, mapped.retry_after.map(|p| p.as_secs())), (code, pause));
            assert!(!mapped.message.contains("sk-x"), "what a provider says is for the log");
        }
    }
}

//! How much of bodies is in memory at once, over all requests: a budget of bytes.
//!
//! A request takes the whole length of its body before a byte of it is read, and holds that until it is answered, or as
//! long as the store works for it: what was read from the body (its values, the write made of them) is in memory that
//! long. All at once rather than chunk by chunk, so that no two half-read bodies wait for each other. Whoever waits does
//! so in the order of arrival.

use std::{sync::Arc, time::Duration};

use aionis_core::error::{DomainError, ErrorKind};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Bytes of bodies that may be in memory at once.
pub struct BodyBudget {
    bytes_max: usize,
    free: Arc<Semaphore>,
}

/// A part of the budget, given back when dropped.
pub(crate) struct BodyBytes(OwnedSemaphorePermit);

impl BodyBudget {
    /// A budget of so many bytes. A body longer than the whole of it is never read: give it at least the longest body.
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Self { bytes_max, free: Arc::new(Semaphore::new(bytes_max)) }
    }

    /// Bytes taken now.
    pub fn held_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(self.free.available_permits())
    }

    /// Takes so many bytes, waiting for them at most so long.
    ///
    /// # Errors
    /// `body_backpressure`.
    pub(crate) async fn take(&self, bytes: usize, wait_max: Duration) -> Result<BodyBytes, DomainError> {
        let wanted = u32::try_from(bytes).map_err(|_| DomainError::internal("a body of 4 GiB was not refused"))?;
        let started = Instant::now();
        let taken = tokio::time::timeout(wait_max, Arc::clone(&self.free).acquire_many_owned(wanted)).await;
        match taken {
            Ok(taken) => taken.map(BodyBytes).map_err(|_| DomainError::internal("the budget of bodies was closed")),
            Err(_) => Err(self.refusal(started.elapsed())),
        }
    }

    fn refusal(&self, waited: Duration) -> DomainError {
        let message = "too much is being read for other requests; retry later";
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        metrics::counter!("aionis_admission_refused_total", "code" => "body_backpressure").increment(1);
        DomainError::new(ErrorKind::TooManyRequests, "body_backpressure", message)
            .with_details(json!({ "waited_ms": waited_ms, "bytes_max": self.bytes_max }))
            .with_retry_after(Duration::from_secs(1))
    }
}

impl BodyBytes {
    /// Gives back what is more than so many bytes: a body whose length was not known has turned out shorter.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_refused_to_others_until_it_is_given_back() {
        let budget = BodyBudget::new(100);
        let mut held = budget.take(80, Duration::ZERO).await.unwrap();
        let refused = budget.take(21, Duration::from_millis(1)).await.err().unwrap();
        assert_eq!((refused.kind, refused.code), (ErrorKind::TooManyRequests, "body_backpressure"));
        assert_eq!(refused.details.unwrap()["bytes_max"], 100);
        held.shrink_to(30);
        assert_eq!(budget.held_bytes(), 30);
        held.shrink_to(50);
        assert_eq!(budget.held_bytes(), 30, "nothing is taken by giving back");
        let other = budget.take(70, Duration::ZERO).await.unwrap();
        assert_eq!(budget.held_bytes(), 100);
        drop((held, other));
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_long_body_is_not_passed_over_for_ever_by_short_ones() {
        let budget = Arc::new(BodyBudget::new(100));
        let held = budget.take(50, Duration::ZERO).await.unwrap();
        let long = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.take(100, Duration::from_secs(60)).await }
        });
        // The one after it waits although there would be room.
        while budget.take(1, Duration::ZERO).await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(held);
        drop(long.await.unwrap().unwrap());
        assert!(budget.take(100, Duration::ZERO).await.is_ok());
    }
}

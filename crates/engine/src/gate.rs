//! Admission: so many requests at once, so many waiting, none longer than so long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aionis_core::error::{DomainError, ErrorKind};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::GateSettings;

/// A first-come, first-served gate.
pub struct Gate {
    kind: &'static str,
    settings: GateSettings,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Admission, held until dropped.
pub struct Permit {
    /// How long the request waited for it.
    pub waited: Duration,
    _permit: OwnedSemaphorePermit,
}

/// Counts a waiting request for as long as it waits, also when its client goes away.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// A gate for one kind of request: `recall` or `write`.
    pub fn new(kind: &'static str, settings: GateSettings) -> Self {
        Self { kind, settings, free: Arc::new(Semaphore::new(settings.max_inflight)), waiting: AtomicUsize::new(0) }
    }

    /// Requests inside and waiting.
    pub fn load(&self) -> (usize, usize) {
        (self.settings.max_inflight - self.free.available_permits(), self.waiting.load(Ordering::Relaxed))
    }

    /// Waits for admission.
    ///
    /// # Errors
    /// `<kind>_backpressure` when the queue is full or the wait too long.
    pub async fn enter(&self) -> Result<Permit, DomainError> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(Permit { waited: Duration::ZERO, _permit: permit });
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.settings.max_queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(self.refusal(None));
        }
        let started = Instant::now();
        let waiting = Waiting(&self.waiting);
        let permit = tokio::time::timeout(self.settings.queue_timeout, Arc::clone(&self.free).acquire_owned()).await;
        let waited = started.elapsed();
        drop(waiting);
        metrics::histogram!("aionis_gate_wait_seconds", "gate" => self.kind).record(waited.as_secs_f64());
        match permit {
            Ok(Ok(permit)) => Ok(Permit { waited, _permit: permit }),
            Ok(Err(_)) => Err(DomainError::internal("an admission gate was closed")),
            Err(_) => Err(self.refusal(Some(waited))),
        }
    }

    fn refusal(&self, waited: Option<Duration>) -> DomainError {
        metrics::counter!("aionis_gate_refusals_total", "gate" => self.kind).increment(1);
        let (inflight, queued) = self.load();
        let mut details = json!({
            "inflight": inflight,
            "queued": queued,
            "max_inflight": self.settings.max_inflight,
            "max_queue": self.settings.max_queue,
        });
        let what = match waited {
            Some(waited) => {
                details["wait_ms"] = json!(millis(waited));
                details["queue_timeout_ms"] = json!(millis(self.settings.queue_timeout));
                "waited too long for its turn"
            }
            None => "found the queue full",
        };
        let code = if self.kind == "write" { "write_backpressure" } else { "recall_backpressure" };
        DomainError::new(ErrorKind::TooManyRequests, code, format!("the request {what}; retry later"))
            .with_details(details)
            .with_retry_after(Duration::from_secs(1))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(max_inflight: usize, max_queue: usize, timeout_ms: u64) -> Arc<Gate> {
        let queue_timeout = Duration::from_millis(timeout_ms);
        Arc::new(Gate::new("write", GateSettings { max_inflight, max_queue, queue_timeout }))
    }

    #[tokio::test]
    async fn one_more_than_the_queue_holds_is_refused() {
        let gate = gate(1, 0, 1000);
        let held = gate.enter().await.unwrap();
        let refused = gate.enter().await.err().unwrap();
        assert_eq!((refused.code, refused.kind), ("write_backpressure", ErrorKind::TooManyRequests));
        drop(held);
        gate.enter().await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_too_long_is_refused_and_leaves_the_queue() {
        let gate = gate(1, 5, 10);
        let _held = gate.enter().await.unwrap();
        let refused = gate.enter().await.err().unwrap();
        assert!(refused.details.unwrap().get("wait_ms").is_some());
        assert_eq!(gate.load(), (1, 0));
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_gives_its_place_back() {
        let gate = gate(1, 1, 60_000);
        let held = gate.enter().await.unwrap();
        let waiter = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(|_| ()) }
        });
        while gate.load().1 == 0 {
            tokio::task::yield_now().await;
        }
        waiter.abort();
        let _ = waiter.await;
        assert_eq!(gate.load(), (1, 0));
        drop(held);
        gate.enter().await.unwrap();
    }
}

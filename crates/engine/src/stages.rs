//! Where the time of a request goes: every stage is a histogram, a span for traces, and a part of what the slow log tells.

use std::{
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tracing::Instrument;

/// Target of the spans that are exported as traces; log filters need not let them through.
pub const TRACE_TARGET: &str = "aionis_trace";

tokio::task_local! {
    static REQUEST: Arc<RequestNotes>;
}

/// What is learnt about a request while it is worked on, for its log lines.
#[derive(Debug, Default)]
pub struct RequestNotes {
    tenant: OnceLock<String>,
    stages: Mutex<Vec<(&'static str, Duration)>>,
}

impl RequestNotes {
    /// The tenant it was for, once that is known.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.get().map(String::as_str)
    }

    /// Stages in the order they ended, with their milliseconds: `embed=1.2 words=0.4`.
    pub fn stages(&self) -> String {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: Vec<String> =
            stages.iter().map(|(name, time)| format!("{name}={:.1}", time.as_secs_f64() * 1e3)).collect();
        shown.join(" ")
    }
}

/// Runs the work for a request; what is learnt on the way is put into `notes`.
pub async fn noting<T>(notes: Arc<RequestNotes>, work: impl Future<Output = T>) -> T {
    REQUEST.scope(notes, work).await
}

/// The request's tenant is known now.
pub fn note_tenant(tenant: &str) {
    // Outside a request there is nobody to tell; a second tenant can only be the same one.
    let _ = REQUEST.try_with(|notes| notes.tenant.set(tenant.to_owned()));
}

/// What the stages belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Recalls.
    Recall,
    /// Writes.
    Write,
    /// The outbox worker.
    Worker,
}

/// A stage has ended.
pub fn note(work: Work, stage: &'static str, time: Duration) {
    match work {
        Work::Recall => metrics::histogram!("aionis_recall_stage_seconds", "stage" => stage).record(time),
        Work::Write => metrics::histogram!("aionis_write_stage_seconds", "stage" => stage).record(time),
        Work::Worker => metrics::histogram!("aionis_worker_stage_seconds", "stage" => stage).record(time),
    }
    let _ = REQUEST.try_with(|notes| {
        notes.stages.lock().unwrap_or_else(PoisonError::into_inner).push((stage, time));
    });
}

/// Runs a stage, in a span of its own.
pub async fn timed<T>(work: Work, stage: &'static str, future: impl Future<Output = T>) -> T {
    let span = tracing::trace_span!(target: TRACE_TARGET, "stage", otel.name = stage);
    let started = Instant::now();
    let answer = future.instrument(span).await;
    note(work, stage, started.elapsed());
    answer
}

/// Runs a stage that does not wait, in a span of its own.
pub fn timed_now<T>(work: Work, stage: &'static str, run: impl FnOnce() -> T) -> T {
    let span = tracing::trace_span!(target: TRACE_TARGET, "stage", otel.name = stage);
    let started = Instant::now();
    let answer = span.in_scope(run);
    note(work, stage, started.elapsed());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_hold_the_tenant_and_every_stage() {
        let notes = Arc::new(RequestNotes::default());
        noting(Arc::clone(&notes), async {
            note_tenant("acme");
            timed(Work::Recall, "embed", async {}).await;
            timed_now(Work::Recall, "pack", || {});
        })
        .await;
        assert_eq!(notes.tenant(), Some("acme"));
        let stages = notes.stages();
        assert!(stages.starts_with("embed=") && stages.contains(" pack="), "{stages}");
    }

    #[tokio::test]
    async fn outside_a_request_nothing_is_noted() {
        note_tenant("acme");
        assert_eq!(timed(Work::Worker, "claim", async { 7 }).await, 7);
    }
}

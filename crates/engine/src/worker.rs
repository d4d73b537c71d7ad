//! The outbox worker: derives vectors for written nodes.
//!
//! No transaction is open while a provider is asked. A claim is a lease with a fencing token, extended while the work
//! lasts; who lost it completes nothing. What a failure means depends on its kind: the provider asks for a pause or is
//! away (the whole queue waits, nothing is counted against the items), it refuses the credential (the same, longer), it
//! refuses a text (that node is given up, its neighbours are not), or it answers nonsense (counted, retried, and in the
//! end a dead letter).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aionis_core::{
    clock::{Clock, Timestamp},
    ports::{
        embed::{EmbedError, EmbedErrorKind, Embedder},
        store::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, PendingText, Store, StoreError},
    },
};
use tokio::{sync::watch, time::sleep};
use tracing::Instrument;

use crate::{
    backoff,
    derive::{embed_all, embedded},
    pulse::Pulse,
    stages::{TRACE_TARGET, Work, timed},
};

/// Settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Name of this worker, for leases.
    pub name: String,
    /// Longest sleep when nothing wakes it.
    pub poll_interval: Duration,
    /// Items claimed at once.
    pub batch_size: usize,
    /// How long a claim holds unless it is extended.
    pub lease: Duration,
    /// Claims of one item before it is given up.
    pub attempts_max: u32,
    /// First pause after a failure.
    pub pause_base: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Longest time of one step, such as a statement or a call of the provider; a worker that takes longer is stuck.
    pub step_max: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: format!("worker-{}", std::process::id()),
            poll_interval: Duration::from_secs(1),
            batch_size: 128,
            lease: Duration::from_secs(60),
            attempts_max: 25,
            pause_base: Duration::from_secs(1),
            pause_max: Duration::from_secs(300),
            step_max: Duration::from_secs(120),
        }
    }
}

/// A worker over one store and one provider.
pub struct Worker {
    store: Arc<dyn Store>,
    embedder: Arc<dyn Embedder>,
    clock: Arc<dyn Clock>,
    settings: WorkerSettings,
    pulse: Pulse,
}

/// Nodes whose vectors are in memory at once, unless one item alone names more: at 1536 dimensions a few megabytes, with
/// what the storage driver makes of them.
const NODES_AT_ONCE: usize = 256;

/// How many of the first items are worked on together; at least one.
fn some_of(items: &[OutboxItem]) -> usize {
    let mut nodes = 0;
    let more = items.iter().take_while(|item| {
        nodes += item.nodes.len();
        nodes <= NODES_AT_ONCE
    });
    more.count().max(1)
}

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Round {
    /// Items claimed.
    pub claimed: usize,
    /// Items done.
    pub published: usize,
    /// Vectors stored.
    pub vectors: usize,
    /// Items put back or given up.
    pub failed: usize,
    /// How long the queue should rest before the next round, in milliseconds.
    pub pause_ms: u64,
}

impl Worker {
    /// A worker.
    pub fn new(
        store: Arc<dyn Store>,
        embedder: Arc<dyn Embedder>,
        clock: Arc<dyn Clock>,
        settings: WorkerSettings,
    ) -> Self {
        let pulse = Pulse::new(Arc::clone(&clock));
        Self { store, embedder, clock, settings, pulse }
    }

    /// Signs of life of [`Self::run`].
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Called before every step, so that the step that hangs is the last that was seen.
    fn alive(&self) {
        self.pulse.within(self.settings.step_max);
    }

    /// Works until `stop` turns true. A failure of storage is logged and tried again.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut failures: u32 = 0;
        while !*stop.borrow() {
            let done = self.round(failures).await;
            match &done {
                Ok(_) => self.pulse.well(),
                Err(e) => self.pulse.trouble(e.to_string()),
            }
            let rest = match done {
                Ok(round) if round.pause_ms > 0 => {
                    failures += 1;
                    Some(Duration::from_millis(round.pause_ms))
                }
                Ok(round) => {
                    failures = 0;
                    (round.claimed == 0).then_some(self.settings.poll_interval)
                }
                Err(e) => {
                    failures += 1;
                    tracing::warn!(error = %e, "the outbox worker could not use the store; it will try again");
                    Some(self.pause(failures))
                }
            };
            let Some(rest) = rest else { continue };
            self.pulse.within(rest + self.settings.step_max);
            let wake = async {
                // After a failure new work is no reason to come back early.
                if failures == 0 {
                    self.store.work_arrived().await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = wake => {}
                () = tokio::time::sleep(rest) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Works until nothing is left that can be done now; for `--once` and tests.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn drain(&self) -> Result<Round, StoreError> {
        let mut total = Round::default();
        loop {
            let round = self.round(0).await?;
            total.claimed += round.claimed;
            total.published += round.published;
            total.vectors += round.vectors;
            total.failed += round.failed;
            total.pause_ms = total.pause_ms.max(round.pause_ms);
            if round.claimed == 0 || round.pause_ms > 0 {
                return Ok(total);
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let attempt = failures.saturating_sub(1);
        backoff::pause(self.settings.pause_base, self.settings.pause_max, attempt, backoff::jitter())
    }

    /// Claims, derives and completes one batch.
    async fn round(&self, failures_before: u32) -> Result<Round, StoreError> {
        self.alive();
        let now = self.clock.now();
        let claim = self.store.claim(ClaimRequest {
            worker: self.settings.name.clone(),
            now,
            lease: self.settings.lease,
            limit: self.settings.batch_size,
        });
        let items = timed(Work::Worker, "claim", claim).await?;
        let mut round = Round { claimed: items.len(), ..Round::default() };
        if items.is_empty() {
            return Ok(round);
        }
        let (worn, items): (Vec<OutboxItem>, Vec<OutboxItem>) =
            items.into_iter().partition(|item| item.attempts > self.settings.attempts_max);
        round.failed += self.give_up(worn, now).await?;
        if items.is_empty() {
            return Ok(round);
        }
        let span = tracing::trace_span!(
            target: TRACE_TARGET, parent: None, "worker", otel.name = "worker batch", items = items.len()
        );
        self.batch(&items, &mut round, failures_before).instrument(span).await?;
        Ok(round)
    }

    /// Derives and completes what was claimed, and extends the leases of what waits for it all the time.
    async fn batch(&self, items: &[OutboxItem], round: &mut Round, failures_before: u32) -> Result<(), StoreError> {
        let settled = AtomicUsize::new(0);
        tokio::select! {
            done = self.steps(items, &settled, round, failures_before) => done,
            never = self.heartbeat(items, &settled) => match never {},
        }
    }

    /// Derives and completes some items after the other. What a failure of the provider leaves is put back. `settled` is how
    /// many are stored or put back, or being so: their leases are not to be extended any more.
    async fn steps(
        &self,
        items: &[OutboxItem],
        settled: &AtomicUsize,
        round: &mut Round,
        failures_before: u32,
    ) -> Result<(), StoreError> {
        let mut rest = items;
        while !rest.is_empty() {
            let (some, later) = rest.split_at(some_of(rest));
            self.alive();
            let texts = self.store.pending_texts(some).await?;
            self.alive();
            match timed(Work::Worker, "embed", self.derive(some, texts)).await {
                Ok(nodes) => {
                    self.alive();
                    settled.store(items.len() - later.len(), Ordering::Relaxed);
                    let complete = self.store.complete(some, nodes, self.embedder.name(), self.clock.now());
                    let vectors = timed(Work::Worker, "complete", complete).await?;
                    round.vectors += vectors;
                    round.published += some.len();
                    self.observe(some, vectors);
                }
                Err(error) => {
                    self.alive();
                    settled.store(items.len(), Ordering::Relaxed);
                    let pause = self.fail(rest, &error, failures_before).await?;
                    round.failed += rest.len();
                    round.pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    return Ok(());
                }
            }
            rest = later;
        }
        Ok(())
    }

    fn observe(&self, items: &[OutboxItem], vectors: usize) {
        metrics::counter!("aionis_outbox_published_total").increment(items.len() as u64);
        metrics::counter!("aionis_vectors_derived_total").increment(vectors as u64);
        let now = self.clock.now();
        for item in items {
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a queue's age fit")]
            let age = now.micros_since(item.created_at) as f64 / 1e6;
            metrics::histogram!("aionis_outbox_age_seconds").record(age);
        }
    }

    /// Items claimed too often end as dead letters: whoever had them before did not even live to say what went wrong.
    async fn give_up(&self, worn: Vec<OutboxItem>, now: Timestamp) -> Result<usize, StoreError> {
        if worn.is_empty() {
            return Ok(0);
        }
        let count = worn.len();
        metrics::counter!("aionis_outbox_failed_total").increment(count as u64);
        let items = worn
            .into_iter()
            .map(|item| FailedItem {
                item,
                error: "claimed too often without an answer".to_owned(),
                retry_at: Some(now),
                counts: true,
            })
            .collect();
        self.store.fail(items, now).await?;
        Ok(count)
    }

    /// Vectors of all texts that need one.
    async fn derive(&self, items: &[OutboxItem], texts: Vec<PendingText>) -> Result<Vec<EmbeddedNode>, EmbedError> {
        let forced = |text: &PendingText| {
            items.iter().any(|item| item.force && item.scope == text.scope && item.nodes.contains(&text.id))
        };
        let mut nodes = Vec::new();
        let mut wanted: Vec<PendingText> = Vec::new();
        for text in texts {
            if text.ready && !forced(&text) {
                continue;
            }
            match &text.text {
                Some(_) => wanted.push(text),
                None => nodes.push(embedded(text, Err("no_embed_text".to_owned()))),
            }
        }
        // The lease is extended as long as a call lasts; only an answer counts as a sign of life.
        let answered = || self.alive();
        nodes.extend(embed_all(&*self.embedder, wanted, &answered).await?);
        Ok(nodes)
    }

    /// Extends the leases of what is not settled, three times while one would last. One rhythm for a whole batch: many
    /// short steps must not outlast a lease that none of them alone would.
    async fn heartbeat(&self, items: &[OutboxItem], settled: &AtomicUsize) -> std::convert::Infallible {
        loop {
            sleep(self.settings.lease / 3).await;
            let waiting = items.get(settled.load(Ordering::Relaxed)..).unwrap_or_default();
            if waiting.is_empty() {
                continue;
            }
            let lease = i64::try_from(self.settings.lease.as_micros()).unwrap_or(i64::MAX);
            let until = Timestamp(self.clock.now().0.saturating_add(lease));
            if let Err(e) = self.store.extend(waiting, until).await {
                tracing::warn!(error = %e, "leases could not be extended");
            }
        }
    }

    /// Puts items back, or gives them up, by the kind of failure; returns how long the queue should rest.
    async fn fail(&self, items: &[OutboxItem], error: &EmbedError, failures: u32) -> Result<Duration, StoreError> {
        let now = self.clock.now();
        // A wish for no pause at all would make a queue that never rests, one for a day a queue that never moves.
        let wish = error.retry_after.filter(|wish| !wish.is_zero()).map(|wish| wish.min(self.settings.pause_max));
        let pause = match error.kind {
            EmbedErrorKind::RateLimited => wish.unwrap_or_else(|| self.pause(failures + 1)),
            EmbedErrorKind::Unavailable => self.pause(failures + 1).max(wish.unwrap_or_default()),
            EmbedErrorKind::Unauthorized => self.pause(failures + 6),
            EmbedErrorKind::Rejected | EmbedErrorKind::BadResponse => self.pause(failures + 1),
        };
        let counts = matches!(error.kind, EmbedErrorKind::Rejected | EmbedErrorKind::BadResponse);
        metrics::counter!("aionis_outbox_failed_total").increment(items.len() as u64);
        metrics::counter!("aionis_embed_failures_total", "kind" => kind_name(error.kind)).increment(1);
        tracing::warn!(
            kind = kind_name(error.kind), status = error.status, pause_ms = pause.as_millis(), items = items.len(),
            error = %error, "vectors could not be derived"
        );
        let failed = items
            .iter()
            .map(|item| {
                let pause = if counts {
                    backoff::pause(
                        self.settings.pause_base,
                        self.settings.pause_max,
                        item.attempts.saturating_sub(1),
                        backoff::jitter(),
                    )
                } else {
                    pause
                };
                let micros = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
                FailedItem {
                    item: item.clone(),
                    error: error.message.clone(),
                    retry_at: Some(Timestamp(now.0.saturating_add(micros))),
                    counts,
                }
            })
            .collect();
        self.store.fail(failed, now).await?;
        Ok(pause)
    }
}

const fn kind_name(kind: EmbedErrorKind) -> &'static str {
    match kind {
        EmbedErrorKind::RateLimited => "rate_limited",
        EmbedErrorKind::Unavailable => "unavailable",
        EmbedErrorKind::Unauthorized => "unauthorized",
        EmbedErrorKind::Rejected => "rejected",
        EmbedErrorKind::BadResponse => "bad_response",
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;

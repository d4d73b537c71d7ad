//! Admission: so many requests at once, so many waiting, none longer than so long, in turn over tenants.
//!
//! Who goes in next is decided by [`Turns`]; here waiting is done, and places are given back however a request ends.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aionis_core::{
    admission::{Entry, Ticket, Turns},
    clock::Clock,
    error::{DomainError, ErrorKind},
};
use hashbrown::HashMap;
use serde_json::json;
use tokio::sync::oneshot;

use crate::{GateSettings, admission::refused};

/// A gate that serves tenants in turn.
pub struct Gate {
    kind: &'static str,
    settings: GateSettings,
    clock: Arc<dyn Clock>,
    places: Arc<Places>,
}

/// Admission, held until dropped.
pub struct Permit {
    /// How long the request waited for it.
    pub waited: Duration,
    _place: Place,
}

#[derive(Default)]
struct Waiters(HashMap<Ticket, oneshot::Sender<Turn>>);

struct State {
    turns: Turns,
    waiters: Waiters,
}

struct Places(Mutex<State>);

/// What a waiting request is told.
enum Turn {
    Yours(Place),
    /// Somebody of a shorter line takes its place in the queue.
    GiveWay,
}

/// A tenant's place at work; whoever is next gets it when it is dropped.
struct Place(Option<(Arc<Places>, Arc<str>)>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((places, tenant)) = self.0.take() {
            places.hand_over(tenant);
        }
    }
}

/// A place in the queue; given up when dropped, also when the request's client goes away.
struct Queued<'a> {
    places: &'a Places,
    tenant: &'a str,
    ticket: Ticket,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.turns.give_up(self.tenant, self.ticket);
        state.waiters.0.remove(&self.ticket);
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a tenant's place that became free to whoever is next.
    fn hand_over(self: &Arc<Self>, mut leaving: Arc<str>) {
        loop {
            let (waiter, next) = {
                let mut state = self.lock();
                let Some((ticket, next)) = state.turns.leave(&leaving) else { return };
                (state.waiters.0.remove(&ticket), next)
            };
            // Outside the lock: what cannot be delivered comes back, and would be handed over again when dropped.
            let place = || Place(Some((Arc::clone(self), Arc::clone(&next))));
            match waiter.map(|waiter| waiter.send(Turn::Yours(place()))) {
                Some(Ok(())) => return,
                Some(Err(Turn::Yours(mut place))) => place.0 = None,
                Some(Err(Turn::GiveWay)) | None => {}
            }
            leaving = next;
        }
    }
}

impl Gate {
    /// A gate for one kind of request: `recall` or `write`.
    pub fn new(kind: &'static str, settings: GateSettings, clock: Arc<dyn Clock>) -> Self {
        let turns = Turns::new(settings.max_inflight, settings.max_queue);
        let places = Arc::new(Places(Mutex::new(State { turns, waiters: Waiters::default() })));
        Self { kind, settings, clock, places }
    }

    /// Requests inside and waiting.
    pub fn load(&self) -> (usize, usize) {
        self.places.lock().turns.load()
    }

    /// Waits for admission of a request of a tenant.
    ///
    /// # Errors
    /// `<kind>_backpressure` when the queue is full or the wait too long.
    pub async fn enter(&self, tenant: &str) -> Result<Permit, DomainError> {
        let (ticket, mut turn) = {
            let mut state = self.places.lock();
            match state.turns.arrive(tenant) {
                Entry::Admitted => {
                    let place = Place(Some((Arc::clone(&self.places), tenant.into())));
                    return Ok(Permit { waited: Duration::ZERO, _place: place });
                }
                Entry::Refused => {
                    drop(state);
                    return Err(self.refusal(None));
                }
                Entry::Waits { ticket, displaced } => {
                    if let Some(displaced) = displaced.and_then(|displaced| state.waiters.0.remove(&displaced)) {
                        // It may have stopped waiting just now; there is nobody to tell then.
                        let _ = displaced.send(Turn::GiveWay);
                    }
                    let (sender, turn) = oneshot::channel();
                    state.waiters.0.insert(ticket, sender);
                    (ticket, turn)
                }
            }
        };
        let started = self.clock.monotonic();
        let queued = Queued { places: &self.places, tenant, ticket };
        let told = tokio::time::timeout(self.settings.queue_timeout, &mut turn).await;
        drop(queued);
        let waited = self.clock.monotonic().saturating_sub(started);
        metrics::histogram!("aionis_gate_wait_seconds", "gate" => self.kind).record(waited.as_secs_f64());
        match told {
            Ok(Ok(Turn::Yours(place))) => Ok(Permit { waited, _place: place }),
            Ok(Ok(Turn::GiveWay)) => Err(self.refusal(None)),
            Ok(Err(_)) => Err(DomainError::internal("an admission gate forgot a request that waits")),
            // If its turn came at this very moment, the place goes to the next with `turn`.
            Err(_) => Err(self.refusal(Some(waited))),
        }
    }

    fn refusal(&self, waited: Option<Duration>) -> DomainError {
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
        let error = DomainError::new(ErrorKind::TooManyRequests, code, format!("the request {what}; retry later"));
        refused(error.with_details(details).with_retry_after(Duration::from_secs(1)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;

//! Signs of life of loops that are never to end: when one was last seen, until when it has to be seen again, and whether it
//! gets on. A process that is there says nothing about the loop in it; a loop that missed its own date does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aionis_core::clock::{Clock, Timestamp};

/// What a loop last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it was last seen.
    pub seen_at: Timestamp,
    /// Until when it has to be seen again; later it counts as stuck.
    pub due_by: Timestamp,
    /// Why its last round could not use the store; none if it could.
    pub trouble: Option<String>,
}

/// The pulse of one loop, shared between the loop and who watches it.
#[derive(Clone)]
pub struct Pulse {
    clock: Arc<dyn Clock>,
    last: Arc<Mutex<Beat>>,
}

/// How long a loop has until its first sign.
const FIRST: Duration = Duration::from_secs(30);

impl Pulse {
    /// The pulse of a loop that is about to start.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        let last = Beat { seen_at: now, due_by: later(now, FIRST), trouble: None };
        Self { clock, last: Arc::new(Mutex::new(last)) }
    }

    /// The loop is here, and will be again within `limit`.
    pub fn within(&self, limit: Duration) {
        let now = self.clock.now();
        let mut last = self.lock();
        (last.seen_at, last.due_by) = (now, later(now, limit));
    }

    /// The round that ended could use the store.
    pub fn well(&self) {
        self.lock().trouble = None;
    }

    /// The round that ended could not, and why.
    pub fn trouble(&self, why: impl Into<String>) {
        self.lock().trouble = Some(why.into());
    }

    /// What the loop last said.
    pub fn last(&self) -> Beat {
        self.lock().clone()
    }

    /// A panic elsewhere is no reason not to say what is known.
    fn lock(&self) -> MutexGuard<'_, Beat> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pulse").field(&self.last()).finish()
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
#[path = "pulse_tests.rs"]
mod tests;

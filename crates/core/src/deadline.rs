//! Until when the work for a request has to be done, for whoever does a part of it and can stop by itself.
//!
//! The deadline travels with the polling of a future, not through arguments: storage asks for it when it tells the database
//! how long a statement may take. Work that is handed to another task has none there.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    time::{Duration, Instant},
};

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Puts a deadline in place, and the one from before back when it is dropped.
struct Placed(Option<Instant>);

impl Placed {
    fn new(deadline: Instant) -> Self {
        let before = DEADLINE.get();
        // An inner deadline can only be earlier.
        DEADLINE.set(Some(before.map_or(deadline, |before| before.min(deadline))));
        Self(before)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        DEADLINE.set(self.0);
    }
}

/// Runs a future that knows its deadline. Nothing ends it: that is up to the caller.
pub async fn within<T>(deadline: Instant, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _placed = Placed::new(deadline);
        work.as_mut().poll(context)
    })
    .await
}

/// How long there is until the deadline; none without one.
pub fn remaining() -> Option<Duration> {
    DEADLINE.get().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Polls a future that needs no waking until it is done.
    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = work.as_mut().poll(&mut context) {
                return value;
            }
        }
    }

    #[test]
    fn a_deadline_is_known_inside_and_gone_outside() {
        assert_eq!(remaining(), None);
        let (far, near) = (Instant::now() + Duration::from_secs(60), Instant::now() + Duration::from_secs(10));
        run(within(far, async {
            assert!(remaining().is_some_and(|left| left > Duration::from_secs(50)));
            within(near, async { assert!(remaining().is_some_and(|left| left <= Duration::from_secs(10))) }).await;
            assert!(remaining().is_some_and(|left| left > Duration::from_secs(50)));
        }));
        run(within(
            near,
            within(far, async { assert!(remaining().is_some_and(|left| left <= Duration::from_secs(10))) }),
        ));
        assert_eq!(remaining(), None);
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_nothing() {
        run(within(Instant::now(), async { assert_eq!(remaining(), Some(Duration::ZERO)) }));
    }
}

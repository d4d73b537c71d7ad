//! A value that is asked for often and costs something: answered from what was found lately.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aionis_core::clock::Clock;
use tokio::sync::Mutex as Turn;

/// Age up to which a value is given without asking anew.
const FRESH: Duration = Duration::from_secs(1);
/// Age up to which it is given while somebody else asks anew.
pub(crate) const STALE_MAX: Duration = Duration::from_secs(5);

/// What was found last. One caller at a time asks anew, the others get the last value meanwhile; only when that is too
/// old, or there is none yet, they wait for the one who asks.
pub(crate) struct Lately<T> {
    /// With when it was asked for, by the monotonic clock: what happened since is not in it.
    last: Mutex<Option<(T, Duration)>>,
    turn: Turn<()>,
}

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None), turn: Turn::new(()) }
    }
}

impl<T: Clone> Lately<T> {
    fn younger_than(&self, age: Duration, clock: &dyn Clock) -> Option<T> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(_, asked)| clock.monotonic().saturating_sub(*asked) < age)
            .map(|(value, _)| value.clone())
    }

    pub(crate) async fn get(&self, clock: &dyn Clock, ask: impl AsyncFnOnce() -> T) -> T {
        if let Some(value) = self.younger_than(FRESH, clock) {
            return value;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => match self.younger_than(STALE_MAX, clock) {
                Some(value) => return value,
                None => self.turn.lock().await,
            },
        };
        // Who had the turn before may have found it.
        if let Some(value) = self.younger_than(FRESH, clock) {
            return value;
        }
        let asked = clock.monotonic();
        let value = ask().await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone(), asked));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, poll_fn, ready},
        pin::pin,
        sync::atomic::{AtomicU64, Ordering},
        task::Poll,
    };

    use aionis_core::clock::Timestamp;
    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn a_flood_of_callers_asks_once_a_second() {
        let (lately, clock, asked) = (Lately::default(), Hands::default(), Cell::new(0));
        let get = || lately.get(&clock, async || asked.replace(asked.get() + 1));
        for _ in 0..1_000 {
            assert_eq!(get().await, 0);
        }
        clock.0.store(999, Ordering::Relaxed);
        assert_eq!(get().await, 0);
        clock.0.store(1_000, Ordering::Relaxed);
        for _ in 0..1_000 {
            assert_eq!(get().await, 1);
        }
        assert_eq!(asked.get(), 2);
    }

    /// What a future has after one poll.
    async fn polled<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut future = Some(future);
        poll_fn(|context| {
            Poll::Ready(match future.as_mut().map(|future| future.as_mut().poll(context)) {
                Some(Poll::Ready(value)) => Some(value),
                _ => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn one_asks_and_the_others_get_the_last_value_while_it_is_not_too_old() {
        let (lately, clock, answers) = (Lately::default(), Hands::default(), Notify::new());
        let mut first = pin!(lately.get(&clock, async || {
            answers.notified().await;
            1
        }));
        assert_eq!(polled(first.as_mut()).await, None);
        let mut waits = pin!(lately.get(&clock, async || unreachable!("the first one asks")));
        assert_eq!(polled(waits.as_mut()).await, None, "there is no value yet");
        answers.notify_one();
        assert_eq!((first.await, waits.await), (1, 1));

        clock.0.store(2_000, Ordering::Relaxed);
        let mut slow = pin!(lately.get(&clock, async || pending().await));
        assert_eq!(polled(slow.as_mut()).await, None);
        assert_eq!(lately.get(&clock, async || unreachable!("somebody asks already")).await, 1);
        clock.0.store(5_000, Ordering::Relaxed);
        let mut waits = pin!(lately.get(&clock, async || ready(2).await));
        assert_eq!(polled(waits.as_mut()).await, None, "the last value is too old");
    }

    #[tokio::test]
    async fn who_goes_away_while_asking_leaves_the_turn_to_the_next() {
        let (lately, clock) = (Lately::default(), Hands::default());
        {
            let mut gone = pin!(lately.get(&clock, async || pending::<u8>().await));
            assert_eq!(polled(gone.as_mut()).await, None);
        }
        assert_eq!(lately.get(&clock, async || 3).await, 3);
    }
}

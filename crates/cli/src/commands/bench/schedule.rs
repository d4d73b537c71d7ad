//! The open-loop schedule: arrivals at a constant spacing that do not wait for answers.

use std::time::Duration;

/// An arrival handed out later than this after its time counts as late.
const LATE: Duration = Duration::from_millis(1);
/// How long after the end of the window an arrival that is still waiting may be handed out.
const GRACE: Duration = Duration::from_millis(100);

/// Constant-spacing arrivals over a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate: f64,
    window: Duration,
    total: u64,
}

/// What became of the arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Dispatched {
    /// Handed to a connection.
    pub(crate) sent: u64,
    /// Of these, later than [`LATE`]: every connection was busy.
    pub(crate) late: u64,
    /// Never sent: no connection came free before the window ended.
    pub(crate) dropped: u64,
}

/// The world the dispatcher acts on; the tests have a simulated one.
pub(crate) trait Timeline {
    /// Time since the start.
    fn now(&self) -> Duration;
    /// Blocks until `at`.
    fn sleep_until(&mut self, at: Duration);
    /// Gives the arrival of time `at` to a free connection, waiting for one until `until`; false if none came free.
    fn hand_out(&mut self, at: Duration, until: Duration) -> bool;
}

impl Schedule {
    /// `rate` arrivals a second over `window`, at most `max`.
    pub(crate) fn new(rate: f64, window: Duration, max: u64) -> Self {
        let total = (rate * window.as_secs_f64()).round() as u64;
        Self { rate, window, total: total.min(max) }
    }

    /// When arrival `index` is due. Computed from the index, so rounding does not add up.
    fn at(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.rate)
    }

    /// Hands out every arrival at its time, or as soon afterwards as a connection is free.
    pub(crate) fn dispatch(&self, timeline: &mut impl Timeline) -> Dispatched {
        let mut result = Dispatched::default();
        for index in 0..self.total {
            let at = self.at(index);
            timeline.sleep_until(at);
            if !timeline.hand_out(at, self.window + GRACE) {
                result.dropped = self.total - index;
                break;
            }
            result.sent += 1;
            result.late += u64::from(timeline.now().saturating_sub(at) > LATE);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections with a fixed service time, in simulated time.
    struct Simulated {
        now: Duration,
        service: Duration,
        free_at: Vec<Duration>,
        latencies: Vec<Duration>,
    }

    impl Simulated {
        fn new(connections: usize, service_ms: u64) -> Self {
            let free_at = vec![Duration::ZERO; connections];
            Self { now: Duration::ZERO, service: Duration::from_millis(service_ms), free_at, latencies: vec![] }
        }
    }

    impl Timeline for Simulated {
        fn now(&self) -> Duration {
            self.now
        }

        fn sleep_until(&mut self, at: Duration) {
            self.now = self.now.max(at);
        }

        fn hand_out(&mut self, at: Duration, until: Duration) -> bool {
            let free = self.free_at.iter_mut().min().unwrap();
            let start = self.now.max(*free);
            if start > until {
                return false;
            }
            self.now = start;
            *free = start + self.service;
            self.latencies.push(*free - at);
            true
        }
    }

    #[test]
    fn spacing_is_constant() {
        let schedule = Schedule::new(200.0, Duration::from_secs(2), u64::MAX);
        assert_eq!(schedule.total, 400);
        assert_eq!(schedule.at(0), Duration::ZERO);
        assert_eq!(schedule.at(1), Duration::from_millis(5));
        assert_eq!(schedule.at(399), Duration::from_millis(1995));
        assert_eq!(Schedule::new(200.0, Duration::from_secs(2), 10).total, 10);
    }

    #[test]
    fn a_fast_server_is_never_late() {
        let mut world = Simulated::new(4, 10);
        let result = Schedule::new(100.0, Duration::from_secs(1), u64::MAX).dispatch(&mut world);
        assert_eq!(result, Dispatched { sent: 100, late: 0, dropped: 0 });
        assert!(world.latencies.iter().all(|&l| l == Duration::from_millis(10)));
    }

    #[test]
    fn an_overloaded_server_shows_queueing_and_drops() {
        // 100 arrivals a second, one connection that serves 50 a second.
        let mut world = Simulated::new(1, 20);
        let result = Schedule::new(100.0, Duration::from_secs(1), u64::MAX).dispatch(&mut world);
        assert_eq!((result.sent, result.dropped), (56, 44));
        assert_eq!(result.late, 55);
        // Latency counts from the scheduled start: the 56th was due at 550 ms and answered at 1120 ms.
        assert_eq!(world.latencies[55], Duration::from_millis(570));
    }

    #[test]
    fn one_stall_makes_the_arrivals_behind_it_late() {
        let mut world = Simulated::new(1, 1);
        world.free_at[0] = Duration::from_millis(100);
        let result = Schedule::new(100.0, Duration::from_secs(1), u64::MAX).dispatch(&mut world);
        assert_eq!((result.sent, result.dropped), (100, 0));
        assert!((10..=12).contains(&result.late), "{}", result.late);
        assert_eq!(world.latencies[0], Duration::from_millis(101));
    }
}

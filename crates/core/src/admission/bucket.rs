//! Token buckets: so many requests at once, so many per second in the long run.
//!
//! A bucket may be overdrawn by as much as comes in within the longest wait: such a request has its token and waits until
//! it is there. So nobody who waits is refused afterwards, those who wait are served in order, and there are never more
//! of them than `per_second · wait_max`.

use std::time::Duration;

/// What a bucket lets through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second in the long run; above 0.
    pub per_second: f64,
    /// Requests at once; at least 1.
    pub burst: u32,
    /// Longest time a request waits for its token instead of being refused.
    pub wait_max: Duration,
}

/// What became of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There was one.
    Now,
    /// It is taken, and there after this time.
    After(Duration),
    /// None is taken; one is there after this time, at least 1 ms, if nobody else comes.
    Refused(Duration),
}

/// Tokens at a time. Times are of [`crate::clock::Clock::monotonic`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    tokens: f64,
    at: Duration,
}

/// Parts of a token that are lost to rounding.
const SLACK: f64 = 1e-9;

impl Bucket {
    /// A full bucket.
    pub fn full(rate: &Rate, now: Duration) -> Self {
        Self { tokens: f64::from(rate.burst), at: now }
    }

    /// Takes a token.
    pub fn take(&mut self, rate: &Rate, now: Duration) -> Taken {
        self.refill(rate, now);
        if self.tokens >= 1.0 - SLACK {
            self.tokens -= 1.0;
            return Taken::Now;
        }
        let wait = seconds((1.0 - self.tokens) / rate.per_second);
        if wait <= rate.wait_max {
            self.tokens -= 1.0;
            Taken::After(wait)
        } else {
            Taken::Refused(wait.max(Duration::from_millis(1)))
        }
    }

    /// Gives a token back that nobody used.
    pub fn give_back(&mut self, rate: &Rate, now: Duration) {
        self.refill(rate, now);
        self.tokens = (self.tokens + 1.0).min(f64::from(rate.burst));
    }

    /// Whether it is as good as a new one, so that forgetting it changes nothing.
    pub fn is_full(&self, rate: &Rate, now: Duration) -> bool {
        let mut then = *self;
        then.refill(rate, now);
        then.tokens >= f64::from(rate.burst) - SLACK
    }

    fn refill(&mut self, rate: &Rate, now: Duration) {
        // A time before the last one brings nothing and takes nothing.
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate.per_second).min(f64::from(rate.burst));
    }
}

/// Longest wait that is told: rates may be as small as one likes.
const WAIT_TOLD_MAX_S: f64 = 86_400.0 * 365.0;

fn seconds(seconds: f64) -> Duration {
    // Whole nanoseconds, rounded up: whoever comes back then finds the token.
    Duration::from_secs_f64(seconds.clamp(0.0, WAIT_TOLD_MAX_S)) + Duration::from_nanos(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate { per_second: 2.0, burst: 3, wait_max: Duration::ZERO };
        let mut bucket = Bucket::full(&rate, ms(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(&rate, ms(0)), Taken::Now);
        }
        let Taken::Refused(wait) = bucket.take(&rate, ms(0)) else { panic!("a fourth at once") };
        assert_eq!(wait.as_millis(), 500);
        assert!(matches!(bucket.take(&rate, wait), Taken::Now), "as it was told");
        assert!(matches!(bucket.take(&rate, wait), Taken::Refused(_)));
        assert_eq!(bucket.take(&rate, ms(1_001)), Taken::Now);
        assert!(matches!(bucket.take(&rate, ms(3)), Taken::Refused(_)), "a clock that goes back brings nothing");
    }

    #[test]
    fn a_full_bucket_is_as_good_as_a_new_one() {
        let rate = Rate { per_second: 10.0, burst: 2, wait_max: ms(100) };
        let mut bucket = Bucket::full(&rate, ms(0));
        assert!(bucket.is_full(&rate, ms(0)));
        bucket.take(&rate, ms(0));
        assert!(!bucket.is_full(&rate, ms(99)) && bucket.is_full(&rate, ms(101)));
        bucket.take(&rate, ms(200));
        bucket.give_back(&rate, ms(200));
        bucket.give_back(&rate, ms(200));
        assert_eq!(bucket, Bucket::full(&rate, ms(200)), "never more than full");
    }

    proptest! {
        /// However requests come, no window of time sees more of them begin than burst and rate allow; who waits is
        /// served in order and not longer than allowed; who is refused and comes back when told is not refused again.
        #[test]
        fn no_window_sees_more_than_burst_and_rate(
            per_second in 0.5f64..500.0,
            burst in 1u32..50,
            wait_ms in 0u64..2_000,
            gaps_ms in prop::collection::vec(0u64..300, 1..200),
        ) {
            let rate = Rate { per_second, burst, wait_max: ms(wait_ms) };
            let (mut now, mut begun) = (Duration::ZERO, Vec::new());
            let mut bucket = Bucket::full(&rate, now);
            for gap in gaps_ms {
                now += ms(gap);
                match bucket.take(&rate, now) {
                    Taken::Now => begun.push(now),
                    Taken::After(wait) => {
                        prop_assert!(wait <= rate.wait_max);
                        begun.push(now + wait);
                    }
                    Taken::Refused(wait) => {
                        prop_assert!(wait > rate.wait_max);
                        let mut later = bucket;
                        prop_assert_eq!(later.take(&rate, now + wait), Taken::Now);
                    }
                }
            }
            prop_assert!(begun.is_sorted_by(|a, b| *a <= *b + ms(1)), "in order");
            for (at, from) in begun.iter().enumerate() {
                for (count, to) in begun[at..].iter().enumerate() {
                    let allowed = f64::from(burst) + to.saturating_sub(*from).as_secs_f64() * per_second + 1e-3;
                    prop_assert!((count as f64) < allowed + 1.0, "{} within {:?}", count + 1, *to - *from);
                }
            }
        }
    }
}

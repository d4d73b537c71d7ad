//! What a worker counts, and the exact percentiles of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::client::Failure;

/// Everything counted during one phase. Latencies are kept whole (4 bytes each, bounded by `--max-requests`).
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Latencies of the answers that were ok, in microseconds.
    pub(crate) latencies_us: Vec<u32>,
    /// Requests started.
    pub(crate) requests: u64,
    /// Answers that were not ok, by status.
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// Requests without an answer, by kind.
    pub(crate) transport: BTreeMap<Failure, u64>,
    /// Bytes of response bodies.
    pub(crate) bytes_read: u64,
}

impl Tally {
    /// Counts one request.
    pub(crate) fn record(&mut self, latency: Duration, outcome: Result<(u16, u64), Failure>) {
        self.requests += 1;
        match outcome {
            Ok((status, bytes)) => {
                self.bytes_read += bytes;
                if (200..300).contains(&status) {
                    self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
                } else {
                    *self.by_status.entry(status).or_default() += 1;
                }
            }
            Err(failure) => *self.transport.entry(failure).or_default() += 1,
        }
    }

    /// Adds what another worker counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.requests += other.requests;
        self.bytes_read += other.bytes_read;
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        for (failure, count) in other.transport {
            *self.transport.entry(failure).or_default() += count;
        }
    }

    /// Answers with a 2xx status.
    pub(crate) fn ok(&self) -> u64 {
        self.latencies_us.len() as u64
    }
}

/// Latency figures in microseconds, over the answers that were ok.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Arithmetic mean.
    pub(crate) mean_us: f64,
    /// Median.
    pub(crate) p50_us: u32,
    /// 90th percentile.
    pub(crate) p90_us: u32,
    /// 95th percentile.
    pub(crate) p95_us: u32,
    /// 99th percentile.
    pub(crate) p99_us: u32,
    /// The slowest.
    pub(crate) max_us: u32,
}

impl Latency {
    /// The figures of `samples` (sorted here); none without samples.
    pub(crate) fn of(samples: &mut [u32]) -> Option<Self> {
        samples.sort_unstable();
        let max_us = *samples.last()?;
        let sum: u64 = samples.iter().map(|&us| u64::from(us)).sum();
        Some(Self {
            mean_us: (sum as f64 / samples.len() as f64 * 10.0).round() / 10.0,
            p50_us: percentile(samples, 50),
            p90_us: percentile(samples, 90),
            p95_us: percentile(samples, 95),
            p99_us: percentile(samples, 99),
            max_us,
        })
    }
}

/// The nearest-rank percentile of sorted samples: the smallest value not exceeded by `percent` of them.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 50), 50);
        assert_eq!(percentile(&sorted, 99), 99);
        assert_eq!(percentile(&sorted, 100), 100);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[1, 2, 3], 50), 2);
        assert_eq!(percentile(&[1, 2, 3, 4], 50), 2);
        assert_eq!(percentile(&[1, 2, 3], 99), 3);
        assert_eq!(percentile(&[], 50), 0);
    }

    #[test]
    fn figures_of_unsorted_samples() {
        let mut samples: Vec<u32> = (1..=1000).rev().collect();
        let expected = Latency { mean_us: 500.5, p50_us: 500, p90_us: 900, p95_us: 950, p99_us: 990, max_us: 1000 };
        assert_eq!(Latency::of(&mut samples), Some(expected));
        assert_eq!(Latency::of(&mut []), None);
    }

    #[test]
    fn only_success_is_ok() {
        let mut tally = Tally::default();
        tally.record(Duration::from_micros(150), Ok((200, 10)));
        tally.record(Duration::from_micros(5), Ok((429, 20)));
        tally.record(Duration::from_secs(1), Err(Failure::Timeout));
        let mut all = Tally::default();
        all.merge(tally);
        assert_eq!((all.requests, all.ok(), all.bytes_read), (3, 1, 30));
        assert_eq!(all.latencies_us, [150]);
        assert_eq!(all.by_status, BTreeMap::from([(429, 1)]));
        assert_eq!(all.transport, BTreeMap::from([(Failure::Timeout, 1)]));
    }

    #[test]
    fn absurd_latencies_saturate() {
        let mut tally = Tally::default();
        tally.record(Duration::from_secs(100_000), Ok((200, 0)));
        assert_eq!(tally.latencies_us, [u32::MAX]);
    }
}

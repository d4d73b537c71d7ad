//! Comparing what two layouts answer to the same question.

use serde::Serialize;

/// One question, asked of both.
#[derive(Clone, Debug)]
pub struct ShadowSample<T> {
    /// What the flat layout answered, best first.
    pub flat: Vec<T>,
    /// What the partitioned layout answered, best first.
    pub partitioned: Vec<T>,
    /// How long the flat layout took, in microseconds.
    pub flat_us: u64,
    /// How long the partitioned layout took, in microseconds.
    pub partitioned_us: u64,
}

/// What the samples say together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShadowSummary {
    /// Questions asked.
    pub queries: usize,
    /// Smallest share of answers both gave, over all questions; 1 when both gave none.
    pub overlap_min: f64,
    /// Mean of that share.
    pub overlap_mean: f64,
    /// Questions with the same answers in the same order.
    pub same_order: usize,
    /// Median latency of the flat layout, in microseconds.
    pub flat_p50_us: u64,
    /// 95th percentile of the flat layout, in microseconds.
    pub flat_p95_us: u64,
    /// Median latency of the partitioned layout, in microseconds.
    pub partitioned_p50_us: u64,
    /// 95th percentile of the partitioned layout, in microseconds.
    pub partitioned_p95_us: u64,
}

/// Nearest-rank percentile of latencies, in microseconds; 0 of none.
pub fn percentile_us(latencies: &[u64], percent: usize) -> u64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of answers are small")]
fn overlap<T: PartialEq>(sample: &ShadowSample<T>) -> f64 {
    let longest = sample.flat.len().max(sample.partitioned.len());
    if longest == 0 {
        return 1.0;
    }
    sample.flat.iter().filter(|one| sample.partitioned.contains(one)).count() as f64 / longest as f64
}

/// Summarises samples; none of none.
#[expect(clippy::cast_precision_loss, reason = "numbers of questions are small")]
pub fn summarise<T: PartialEq>(samples: &[ShadowSample<T>]) -> Option<ShadowSummary> {
    if samples.is_empty() {
        return None;
    }
    let overlaps: Vec<f64> = samples.iter().map(overlap).collect();
    let flat: Vec<u64> = samples.iter().map(|sample| sample.flat_us).collect();
    let partitioned: Vec<u64> = samples.iter().map(|sample| sample.partitioned_us).collect();
    Some(ShadowSummary {
        queries: samples.len(),
        overlap_min: overlaps.iter().copied().fold(1.0, f64::min),
        overlap_mean: overlaps.iter().sum::<f64>() / samples.len() as f64,
        same_order: samples.iter().filter(|sample| sample.flat == sample.partitioned).count(),
        flat_p50_us: percentile_us(&flat, 50),
        flat_p95_us: percentile_us(&flat, 95),
        partitioned_p50_us: percentile_us(&partitioned, 50),
        partitioned_p95_us: percentile_us(&partitioned, 95),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(flat: &[u8], partitioned: &[u8]) -> ShadowSample<u8> {
        ShadowSample { flat: flat.to_vec(), partitioned: partitioned.to_vec(), flat_us: 10, partitioned_us: 20 }
    }

    #[test]
    fn the_worst_question_counts_and_order_is_told_apart() {
        let summary = summarise(&[sample(&[1, 2, 3, 4], &[1, 2, 3, 4]), sample(&[1, 2, 3, 4], &[2, 1, 3])]).unwrap();
        assert_eq!((summary.queries, summary.same_order), (2, 1));
        assert!((summary.overlap_min - 0.75).abs() < 1e-9 && (summary.overlap_mean - 0.875).abs() < 1e-9);
        assert_eq!((summary.flat_p50_us, summary.partitioned_p95_us), (10, 20));
    }

    #[test]
    fn nothing_asked_is_no_summary_and_nothing_answered_by_both_is_the_same() {
        assert_eq!(summarise::<u8>(&[]), None);
        assert!((summarise(&[sample(&[], &[])]).unwrap().overlap_min - 1.0).abs() < 1e-9);
        assert!(summarise(&[sample(&[1], &[])]).unwrap().overlap_min.abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latencies: Vec<u64> = (1..=20).rev().collect();
        assert_eq!((percentile_us(&latencies, 50), percentile_us(&latencies, 95)), (10, 19));
        assert_eq!((percentile_us(&[], 95), percentile_us(&[7], 95), percentile_us(&[7], 0)), (0, 7, 7));
    }
}

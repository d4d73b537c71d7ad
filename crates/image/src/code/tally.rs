//! How the sums of all codes are spread, and from which on a code need not be looked at.

/// How many codes have which sum, a few sums taken together.
pub(super) struct Tally {
    counts: Vec<u32>,
    shift: u32,
}

/// Most counts: they should stay in the cache next to the core.
const COUNTS_MAX: u32 = 4_096;

impl Tally {
    /// No sums yet. None will be more than `most`, but those of codes that are out of question.
    pub(super) fn new(most: u32) -> Self {
        let shift = (most / COUNTS_MAX).checked_ilog2().map_or(0, |log| log + 1);
        Self { counts: vec![0; (most >> shift) as usize + 2], shift }
    }

    pub(super) fn count(&mut self, sum: u32) {
        // The last counts what is out of question: a branch could hardly be foretold.
        let last = self.counts.len() - 1;
        self.counts[((sum >> self.shift) as usize).min(last)] += 1;
    }

    /// How many codes are within a sum, about.
    pub(super) fn within(&self, sum: u32) -> usize {
        let counts = self.counts.split_last().map_or(&[][..], |(_, counts)| counts);
        counts.iter().take((sum >> self.shift) as usize + 1).map(|count| *count as usize).sum()
    }

    /// The smallest sum that so many codes are within; the largest there is if there are fewer.
    pub(super) fn reach(&self, wanted: usize) -> u32 {
        let mut counted = 0;
        let reached = self.counts.split_last().map_or(&[][..], |(_, counts)| counts).iter().position(|count| {
            counted += *count as usize;
            counted >= wanted
        });
        let reached = u32::try_from(reached.unwrap_or(self.counts.len() - 2)).unwrap_or(u32::MAX);
        (reached << self.shift) + ((1 << self.shift) - 1)
    }

    /// The largest sum of a code that may be one of the best: so much more than the `sure` best, but so that at least `least`
    /// and, if more, about `most` codes are within.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some ten thousands")]
    pub(super) fn likely(&self, sure: usize, more: f32, least: usize, most: usize) -> u32 {
        (self.reach(sure) + more as u32).min(self.reach(most)).max(self.reach(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_ones_are_near_the_best_but_neither_too_few_nor_too_many() {
        let mut tally = Tally::new(1_000);
        (0..=1_000).for_each(|sum| tally.count(sum));
        assert_eq!(tally.reach(100), 99);
        assert_eq!((tally.within(0), tally.within(99), tally.within(5_000)), (1, 100, 1_001));
        assert_eq!(tally.likely(20, 100.0, 10, 500), 119, "so much more than the best twenty");
        assert_eq!(tally.likely(20, 100.0, 300, 500), 299, "but so many at least");
        assert_eq!(tally.likely(20, 900.0, 300, 500), 499, "and so many at most");
        assert_eq!(tally.likely(20, 900.0, 600, 500), 599, "the least has the last word");
        assert_eq!(tally.likely(2_000, 0.0, 0, 5_000), 1_000, "there are no more");
    }

    #[test]
    fn what_is_out_of_question_is_within_no_sum() {
        for most in [10, COUNTS_MAX - 1, COUNTS_MAX, 1_000_000] {
            let mut tally = Tally::new(most);
            tally.count(most);
            tally.count(u32::MAX);
            assert_eq!(tally.likely(1, 0.0, 2, 2), tally.reach(1), "{most}");
            assert_eq!(tally.counts.iter().sum::<u32>(), 2, "{most}");
            assert!(tally.counts.len() <= COUNTS_MAX as usize + 2, "{most}");
            assert!(tally.reach(1) >= most);
        }
    }
}

//! The faintest so many of any number of nodes, found in passes over pages, with little memory.
//!
//! A scope is never held as a whole, and what survives between pages is a cursor. So each pass counts, and keeps a sample of
//! bounded size; between passes the window in which the last node to take must lie shrinks, until the sample is the window.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, ids::NodeId};

/// Most ranks kept of a pass.
const SAMPLE_MAX: usize = 256;
/// Passes after which the search settles for fewer: nodes that change all the time could keep it going.
const PASSES_MAX: u32 = 40;

/// The order in which nodes move: the faintest first, then those unused for longest, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank(u64, i64, NodeId);

impl Rank {
    /// The rank of a node with this salience now, 0…1.
    pub const fn new(salience: f64, used_at: Timestamp, id: NodeId) -> Self {
        // The bits of numbers that are not negative are ordered like the numbers.
        Self(salience.max(0.0).to_bits(), used_at.0, id)
    }

    /// Decides which ranks are sampled: nothing but the id, and evenly.
    fn lot(&self) -> u64 {
        let bits = self.2.0.as_u128();
        let mut mixed = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Which ranks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// None.
    Nothing,
    /// Those up to this one.
    UpTo(Rank),
    /// All.
    Everything,
}

impl Cut {
    /// Whether a rank is taken.
    pub fn takes(&self, rank: &Rank) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(last) => rank <= last,
            Self::Everything => true,
        }
    }
}

/// The search for a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// The last rank to take is above this one.
    low: Option<Rank>,
    /// And not above this one.
    high: Option<Rank>,
    /// Ranks up to `low` that this pass has seen.
    below: u64,
    /// Ranks in the window.
    between: u64,
    /// Of the window, those with the smallest lots, in their order.
    sample: Vec<Rank>,
    passes: u32,
    found: Option<Cut>,
}

impl Search {
    /// Ranks seen in this pass, up to the end of the window.
    pub const fn seen(&self) -> u64 {
        self.below + self.between
    }

    /// What was found.
    pub const fn found(&self) -> Option<Cut> {
        self.found
    }

    /// Takes one rank of a pass in.
    pub fn see(&mut self, rank: Rank) {
        if self.found.is_some() || self.high.is_some_and(|high| rank > high) {
            return;
        }
        if self.low.is_some_and(|low| rank <= low) {
            self.below += 1;
            return;
        }
        self.between += 1;
        let lot = rank.lot();
        let at = self.sample.partition_point(|kept| kept.lot() < lot);
        if at < SAMPLE_MAX {
            self.sample.insert(at, rank);
            self.sample.truncate(SAMPLE_MAX);
        }
    }

    /// Ends a pass, after which so many are to be taken; tells whether the cut is found. If not, another pass is needed.
    pub fn end_pass(&mut self, wanted: u64) -> bool {
        if self.found.is_none() {
            self.passes += 1;
            self.found = self.decide(wanted);
            if self.found.is_none() && self.passes >= PASSES_MAX {
                self.found = Some(self.low.map_or(Cut::Nothing, Cut::UpTo));
            }
            (self.below, self.between) = (0, 0);
            self.sample = Vec::new();
        }
        self.found.is_some()
    }

    fn decide(&mut self, wanted: u64) -> Option<Cut> {
        let up_to = |rank: Option<Rank>| rank.map_or(Cut::Nothing, Cut::UpTo);
        if wanted == 0 || self.below == wanted {
            return Some(if wanted == 0 { Cut::Nothing } else { up_to(self.low) });
        }
        if self.below > wanted {
            (self.low, self.high) = (None, self.low);
            return None;
        }
        let missing = wanted - self.below;
        if self.between <= missing {
            match self.high {
                None => return Some(Cut::Everything),
                Some(high) if self.between == missing => return Some(Cut::UpTo(high)),
                Some(high) => (self.low, self.high) = (Some(high), None),
            }
            return None;
        }
        let mut sample = std::mem::take(&mut self.sample);
        sample.sort_unstable();
        if sample.len() as u64 == self.between {
            // Less than the length: more are in the window than are missing.
            let at = usize::try_from(missing).unwrap_or(usize::MAX) - 1;
            return Some(up_to(sample.get(at).copied()));
        }
        self.narrow(&sample, missing);
        None
    }

    /// Moves the window to where the sample says the last rank lies, with three standard deviations to both sides.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a sample"
    )]
    fn narrow(&mut self, sample: &[Rank], missing: u64) {
        let (len, share) = (sample.len() as f64, missing as f64 / self.between as f64);
        let (place, wide) = (share * len, 3.0 * (share * (1.0 - share) * len).sqrt() + 1.0);
        if place - wide >= 0.0 {
            self.low = sample.get((place - wide) as usize).copied().or(self.low);
        }
        self.high = sample.get((place + wide).ceil() as usize).copied().or(self.high);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn searched(ranks: &[Rank], wanted: u64) -> (Cut, u32) {
        let mut search = Search::default();
        loop {
            ranks.iter().for_each(|rank| search.see(*rank));
            let text = serde_json::to_string(&search).unwrap();
            search = serde_json::from_str(&text).unwrap();
            if search.end_pass(wanted) {
                return (search.found().unwrap(), search.passes);
            }
        }
    }

    fn taken(ranks: &[Rank], wanted: u64) -> Vec<Rank> {
        let (cut, _) = searched(ranks, wanted);
        let mut taken: Vec<Rank> = ranks.iter().filter(|rank| cut.takes(rank)).copied().collect();
        taken.sort_unstable();
        taken
    }

    #[test]
    fn many_equal_nodes_are_told_apart_by_their_ids_in_few_passes() {
        let ranks: Vec<Rank> = (0..50_000_u128)
            .map(|n| Rank::new(0.25, Timestamp(7), NodeId(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))))
            .collect();
        let (cut, passes) = searched(&ranks, 2_500);
        assert_eq!(ranks.iter().filter(|rank| cut.takes(rank)).count(), 2_500);
        assert!(passes <= 8, "{passes}");
    }

    #[test]
    fn a_wrong_window_is_left_again() {
        let ranks: Vec<Rank> = (0..1_000_u32)
            .map(|n| Rank::new(f64::from(n) / 1e4, Timestamp(0), NodeId(Uuid::from_u128(n.into()))))
            .collect();
        for window in [(Some(ranks[700]), Some(ranks[900])), (None, Some(ranks[3])), (Some(ranks[990]), None)] {
            let mut search = Search { low: window.0, high: window.1, ..Search::default() };
            loop {
                ranks.iter().for_each(|rank| search.see(*rank));
                if search.end_pass(500) {
                    break;
                }
            }
            assert_eq!(search.found(), Some(Cut::UpTo(ranks[499])), "{window:?}");
        }
    }

    proptest! {
        #[test]
        fn exactly_the_faintest_are_taken(
            saliences in prop::collection::vec(0_u32..40, 0..3_000), wanted in 0_u64..3_500,
        ) {
            let ranks: Vec<Rank> = saliences
                .iter()
                .zip(1_u128..)
                .map(|(s, n)| Rank::new(f64::from(*s) / 40.0, Timestamp(i64::from(s % 3)), NodeId(Uuid::from_u128(n))))
                .collect();
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            sorted.truncate(usize::try_from(wanted).unwrap());
            prop_assert_eq!(taken(&ranks, wanted), sorted);
        }
    }
}

//! The change of the PostgreSQL engine from flat tables to partitioned ones: its steps, its names, its verdicts. What
//! speaks to the server lives in the store.

mod names;
mod readiness;
mod shadow;

use std::fmt;

use serde::Serialize;

pub use self::{
    names::{
        FLAT_SUFFIX, HASH_PARTITIONS_MAX, NAME_MAX_BYTES, TWIN_SUFFIX, after_cutover, default_partition, flat_name,
        hash_partition, own_partition, staged, twin_name,
    },
    readiness::{Check, CheckState, Readiness, inconclusive, judged, not_applicable},
    shadow::{ShadowSample, ShadowSummary, percentile_us, summarise},
};

/// How far the change is. Kept in the database, so that whoever comes next goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoverState {
    /// Nothing was begun.
    None,
    /// Twins are there, empty.
    Ensured,
    /// Every change is mirrored into the twins; older rows are being copied.
    Mirroring,
    /// Every row is in the twins.
    Backfilled,
    /// Twins and flat tables were compared row by row and found equal.
    Verified,
    /// The readiness checks passed.
    Ready,
    /// The program works on the partitioned tables; the flat ones are kept current.
    CutOver,
    /// The flat tables are gone.
    Finalized,
    /// The twins are gone; the program works on the flat tables.
    RolledBack,
}

impl CutoverState {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Ensured,
        Self::Mirroring,
        Self::Backfilled,
        Self::Verified,
        Self::Ready,
        Self::CutOver,
        Self::Finalized,
        Self::RolledBack,
    ];

    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ensured => "ensured",
            Self::Mirroring => "mirroring",
            Self::Backfilled => "backfilled",
            Self::Verified => "verified",
            Self::Ready => "ready",
            Self::CutOver => "cut_over",
            Self::Finalized => "finalized",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether both layouts exist and one is kept equal to the other, so that the schema must not change.
    pub const fn is_under_way(self) -> bool {
        !matches!(self, Self::None | Self::Finalized | Self::RolledBack)
    }

    /// Whether triggers keep the layout that is not in use equal to the one that is.
    pub const fn is_mirrored(self) -> bool {
        matches!(self, Self::Mirroring | Self::Backfilled | Self::Verified | Self::Ready | Self::CutOver)
    }

    /// The command that leads on.
    pub const fn next(self) -> Option<Step> {
        match self {
            Self::None | Self::RolledBack => Some(Step::Ensure),
            Self::Ensured | Self::Mirroring => Some(Step::Backfill),
            Self::Backfilled => Some(Step::Verify),
            Self::Verified => Some(Step::Readiness),
            Self::Ready => Some(Step::Cutover),
            Self::CutOver => Some(Step::Finalize),
            Self::Finalized => None,
        }
    }
}

impl fmt::Display for CutoverState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A command that depends on how far the change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Makes the twins.
    Ensure,
    /// Begins to mirror and copies older rows.
    Backfill,
    /// Compares every row.
    Verify,
    /// Compares numbers of rows.
    Gap,
    /// Asks both layouts the same.
    ShadowRead,
    /// Runs the readiness checks and notes that they passed.
    Readiness,
    /// Exchanges the layouts.
    Cutover,
    /// Goes one step back: to the flat tables, or away with the twins.
    Rollback,
    /// Removes the flat tables.
    Finalize,
    /// Gives a scope partitions of its own.
    PromoteScope,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ensure,
        Self::Backfill,
        Self::Verify,
        Self::Gap,
        Self::ShadowRead,
        Self::Readiness,
        Self::Cutover,
        Self::Rollback,
        Self::Finalize,
        Self::PromoteScope,
    ];

    /// Name of the command.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ensure => "ensure",
            Self::Backfill => "backfill",
            Self::Verify => "verify",
            Self::Gap => "gap",
            Self::ShadowRead => "shadow-read",
            Self::Readiness => "readiness",
            Self::Cutover => "cutover",
            Self::Rollback => "rollback",
            Self::Finalize => "finalize",
            Self::PromoteScope => "promote-scope",
        }
    }

    /// Whether the command may run in a state.
    pub const fn is_allowed(self, state: CutoverState) -> bool {
        use CutoverState as S;
        match self {
            Self::Ensure => matches!(state, S::None | S::Ensured | S::RolledBack | S::Finalized),
            Self::Backfill => matches!(state, S::Ensured | S::Mirroring),
            Self::Verify => matches!(state, S::Backfilled | S::Verified | S::Ready | S::CutOver),
            Self::Gap | Self::ShadowRead => state.is_mirrored(),
            Self::Readiness => matches!(state, S::Verified | S::Ready),
            Self::Cutover => matches!(state, S::Ready),
            Self::Rollback => state.is_under_way(),
            // At the end too: what a run that was broken off has left is removed.
            Self::Finalize => matches!(state, S::CutOver | S::Finalized),
            Self::PromoteScope => {
                matches!(state, S::Ensured | S::Backfilled | S::Verified | S::Ready | S::CutOver | S::Finalized)
            }
        }
    }

    /// Refuses a command that is out of order, naming the one that is next.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn check(self, state: CutoverState) -> Result<(), String> {
        if self.is_allowed(state) {
            return Ok(());
        }
        let name = self.as_str();
        Err(match state.next() {
            Some(next) => format!(
                "partition {name} is out of order: the state is {state}; next is `aionis partition {}`",
                next.as_str()
            ),
            None => format!("partition {name} is out of order: the state is {state}, and nothing is left to do"),
        })
    }
}

/// How long a copy takes about, in seconds, from a measured or assumed rate.
pub const fn expected_s(rows: u64, rows_per_s: u64) -> u64 {
    if rows_per_s == 0 { 0 } else { rows.div_ceil(rows_per_s) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_their_stored_form() {
        for state in CutoverState::ALL {
            assert_eq!(CutoverState::parse(state.as_str()), Some(state));
        }
        assert_eq!(CutoverState::parse("cutover"), None);
    }

    #[test]
    fn every_command_is_refused_where_it_is_out_of_order_and_the_next_one_is_named() {
        for step in Step::ALL {
            let refused: Vec<_> = CutoverState::ALL.into_iter().filter(|s| !step.is_allowed(*s)).collect();
            assert!(!refused.is_empty(), "{step:?} may run everywhere");
            for state in refused {
                let line = step.check(state).unwrap_err();
                assert!(line.contains(step.as_str()) && line.contains(state.as_str()), "{line}");
                if let Some(next) = state.next() {
                    assert!(line.contains(&format!("aionis partition {}", next.as_str())), "{line}");
                    assert!(next.is_allowed(state), "{next:?} is told in {state} and refused there");
                }
            }
        }
    }

    #[test]
    fn a_rollback_is_possible_from_the_first_step_until_the_last() {
        let possible: Vec<_> = CutoverState::ALL.into_iter().filter(|s| Step::Rollback.is_allowed(*s)).collect();
        assert_eq!(possible, &CutoverState::ALL[1..7]);
    }

    #[test]
    fn following_the_next_command_leads_from_nothing_to_the_end() {
        let after = |step| match step {
            Step::Ensure => CutoverState::Ensured,
            Step::Backfill => CutoverState::Backfilled,
            Step::Verify => CutoverState::Verified,
            Step::Readiness => CutoverState::Ready,
            Step::Cutover => CutoverState::CutOver,
            Step::Finalize => CutoverState::Finalized,
            other => panic!("{other:?} leads nowhere"),
        };
        let (mut state, mut steps) = (CutoverState::None, 0);
        while let Some(step) = state.next() {
            step.check(state).unwrap();
            state = after(step);
            steps += 1;
        }
        assert_eq!((state, steps), (CutoverState::Finalized, 6));
    }

    #[test]
    fn time_is_rounded_up_and_an_unknown_rate_is_no_division() {
        assert_eq!((expected_s(10, 3), expected_s(0, 3), expected_s(5, 0)), (4, 0, 0));
    }
}

//! Forgetting: salience fades with time, and what is faint and unused moves to a colder tier.
//!
//! Salience is a function of time. What is stored is a value and the moment it held; what it is now is computed when it is
//! read, and stored again only when a node changes its tier.

mod cut;
mod decay;
mod tiers;

pub use self::{
    cut::{Cut, Rank, Search},
    decay::{DAY, DecayBasis, DecayPolicy, FRESH_SALIENCE, is_pinned},
    tiers::{AgingNode, Budget, TierCounts, TierPolicy, colder, moved_at},
};

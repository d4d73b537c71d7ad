//! What both engines share of jobs.

use aionis_core::{clock::Timestamp, jobs::Begun};

/// Why a run did not begin, given who held the lease last and until when.
pub(crate) fn not_begun((holder, until): (Option<String>, Option<Timestamp>), now: Timestamp) -> Begun {
    match until.filter(|until| *until > now) {
        Some(until) => Begun::Busy { holder: holder.unwrap_or_default(), until },
        None => Begun::NotDue,
    }
}

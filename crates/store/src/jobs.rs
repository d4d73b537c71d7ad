//! What both engines share of jobs.

use aionis_core::{
    clock::Timestamp,
    jobs::{Begun, EndRun, RunStatus},
};

/// Why a run did not begin, given who held the lease last and until when.
pub(crate) fn not_begun((holder, until): (Option<String>, Option<Timestamp>), now: Timestamp) -> Begun {
    match until.filter(|until| *until > now) {
        Some(until) => Begun::Busy { holder: holder.unwrap_or_default(), until },
        None => Begun::NotDue,
    }
}

/// End of the lease that a run leaves: one that was stopped leaves a lease that has run out, as one that died does, so that
/// it counts as due at once; one that ended or failed leaves none and waits for its next time.
pub(crate) fn left_open(end: &EndRun) -> Option<i64> {
    (end.status == RunStatus::Stopped).then_some(end.now.0)
}

//! What both engines share of maintenance.

use aionis_core::clock::Timestamp;

/// Nodes that one item of work put back into the queue names at most.
pub(crate) const NODES_PER_ITEM: usize = 16;

/// How long answers are kept for repeated requests.
const REQUEST_TTL_US: i64 = 24 * 3600 * 1_000_000;

/// Answers that are forgotten at once.
pub(crate) const FORGOTTEN_AT_ONCE: usize = 1_000;

/// Groups of writes after which old answers are looked for.
pub(crate) const GROUPS_BETWEEN_PRUNING: u64 = 512;

/// Answers from before are not kept.
pub(crate) fn kept_from(now: Timestamp) -> Timestamp {
    Timestamp(now.0 - REQUEST_TTL_US)
}

//! Bounds of requests: what the readers in `dto` enforce is what the OpenAPI document says.

use std::ops::RangeInclusive;

/// Longest name or label, in bytes.
pub(crate) const LABEL_MAX: usize = 512;
/// Longest client id, in bytes.
pub(crate) const CLIENT_ID_MAX: usize = 512;
/// Longest reference, in bytes.
pub(crate) const REF_MAX: usize = 4096;
/// Levels of an object that is kept as it is. Answers hold it deeper than requests do, and a reader that takes 128
/// levels, as this service does, must be able to read them.
pub(crate) const DEPTH_MAX: usize = 64;
/// Longest `Idempotency-Key`, in characters.
pub(crate) const IDEMPOTENCY_KEY_MAX: usize = 255;

/// How many tools may be offered.
pub(crate) const CANDIDATES: RangeInclusive<usize> = 1..=200;
/// How many nodes an operation may name, in each of the two ways.
pub(crate) const NODES: RangeInclusive<usize> = 1..=aionis_core::operate::NODES_MAX;
/// How many rules may be listed.
pub(crate) const RULES: RangeInclusive<u64> = 1..=200;
/// How many slots a preview may show.
pub(crate) const SLOTS_PREVIEW_KEYS: RangeInclusive<u64> = 1..=50;
/// Commit numbers: whole numbers every JSON reader holds exactly.
pub(crate) const COMMIT: RangeInclusive<u64> = 1..=(1 << 53);
/// Estimated tokens of a context.
pub(crate) const TOKEN_BUDGET: RangeInclusive<u64> = 1..=1_000_000;
/// Longest wait for a commit, in milliseconds, unless the settings say otherwise.
pub(crate) const WAIT_MS_MAX: u64 = 10_000;

/// Seeds of a recall.
pub(crate) const LIMIT: RangeInclusive<u64> = 1..=200;
/// Distance from the seeds.
pub(crate) const HOPS: RangeInclusive<u64> = 1..=2;
/// Nodes of a subgraph.
pub(crate) const MAX_NODES: RangeInclusive<u64> = 1..=200;
/// Edges of a subgraph.
pub(crate) const MAX_EDGES: RangeInclusive<u64> = 1..=100;
/// Ranked nodes.
pub(crate) const RANKED_LIMIT: RangeInclusive<u64> = 1..=500;

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
/// How many nodes a filter may name, in each of the two ways.
pub(crate) const FIND_NAMES: RangeInclusive<usize> = 1..=200;
/// How many nodes may be named to be forgotten, in each of the two ways.
pub(crate) const FORGET_NAMES: RangeInclusive<usize> = 1..=aionis_core::forget::NODES_MAX;
/// How many words of a set a list may hold.
pub(crate) const WORDS: RangeInclusive<usize> = 1..=16;
/// Longest text that is looked for, in bytes.
pub(crate) const NEEDLE_MAX: usize = 1_024;
/// Longest address of a node, in bytes.
pub(crate) const URI_MAX: usize = 512;
/// Longest number of a commit in a path, in digits.
pub(crate) const COMMIT_DIGITS_MAX: usize = 16;
/// Entries of a page of nodes, versions or commits.
pub(crate) const PAGE: RangeInclusive<u64> = 1..=200;
/// Nodes of a page, unless the request says.
pub(crate) const FIND_PAGE: usize = 20;
/// Versions or commits of a page, unless the request says.
pub(crate) const LIST_PAGE: usize = 50;
/// Nodes passed over at most; further pages are reached by cursor.
pub(crate) const OFFSET: RangeInclusive<u64> = 0..=10_000;
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

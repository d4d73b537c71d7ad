//! What edges become when they are moved together, and what they were before.

use super::{RemovedEdge, Strength};
use crate::ids::EdgeId;

/// Removed edges that are part of another one.
pub(super) fn parts_of<'a>(
    removed: impl Iterator<Item = &'a RemovedEdge>,
    target: EdgeId,
) -> impl Iterator<Item = &'a RemovedEdge> {
    removed.filter(move |row| row.target == Some(target) && row.restored_seq.is_none())
}

/// The value of an edge made of a base and parts; none if there is neither.
pub(super) fn made_of<'a>(base: Option<Strength>, parts: impl Iterator<Item = &'a RemovedEdge>) -> Option<Strength> {
    parts.map(|row| row.edge.strength).fold(base, |sum, part| Some(sum.map_or(part, |sum| sum.with(part))))
}

/// The base all parts agree on; none if they do not.
pub(super) fn common_base(parts: &[&RemovedEdge]) -> Option<Option<Strength>> {
    let first = parts.first()?.base;
    parts.iter().all(|row| row.base == first).then_some(first)
}

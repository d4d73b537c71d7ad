//! What the fading of a node's salience depends on, from stored columns.

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    jobs::consolidation::alias_of,
    lifecycle::{DecayBasis, moved_at},
    model::{NodeType, Tier},
};
use serde_json::Value;

/// Reads a basis. `times` are: since when salience holds, last use, creation. Slots may be left out when they have
/// none of the keys that fading depends on: `pin`, `legal_hold`, `feedback_…`.
///
/// # Errors
/// Slots or notes that are no JSON.
pub(crate) fn basis(
    kind: (NodeType, Tier),
    (since, last_activated, created_at): (i64, Option<i64>, i64),
    slots: Option<&str>,
    notes: Option<&str>,
) -> Result<DecayBasis, serde_json::Error> {
    let slots = slots.map_or(Ok(Value::Null), serde_json::from_str)?;
    let notes: Option<Value> = notes.map(serde_json::from_str).transpose()?;
    let times = (Timestamp(since), last_activated.map(Timestamp), Timestamp(created_at));
    Ok(DecayBasis::of(kind, times, &slots, notes.as_ref()))
}

/// When a node last moved to a colder tier and what it is an alias of, by its notes.
///
/// # Errors
/// Notes that are no JSON.
pub(crate) fn noted(id: NodeId, notes: Option<&str>) -> Result<(Option<Timestamp>, Option<NodeId>), serde_json::Error> {
    let notes: Option<Value> = notes.map(serde_json::from_str).transpose()?;
    Ok((moved_at(notes.as_ref()), alias_of(id, notes.as_ref())))
}

/// The smallest id of the page after a node; none after the last possible one.
pub(crate) fn first_after(after: Option<NodeId>) -> Option<uuid::Uuid> {
    match after {
        None => Some(uuid::Uuid::nil()),
        Some(id) => id.0.as_u128().checked_add(1).map(uuid::Uuid::from_u128),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn pages_go_on_after_the_last_id() {
        assert_eq!(first_after(None), Some(Uuid::nil()));
        assert_eq!(first_after(Some(NodeId(Uuid::from_u128(255)))), Some(Uuid::from_u128(256)));
        assert_eq!(first_after(Some(NodeId(Uuid::max()))), None);
    }

    #[test]
    fn damage_is_told() {
        assert!(basis((NodeType::Event, Tier::Hot), (0, None, 0), Some("{"), None).is_err());
        assert!(
            basis((NodeType::Event, Tier::Hot), (0, None, 0), None, Some("{")).is_err()
                && noted(NodeId(Uuid::nil()), Some("{")).is_err()
        );
    }
}

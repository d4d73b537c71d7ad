//! What merges note beside the slots of the nodes (operations specification, appendix B).

use serde_json::{Map, Value, json};

use super::{APPLY_KIND, Candidate, REDIRECT_KIND};
use crate::{clock::Timestamp, ids::NodeId};

/// Noted on an alias.
pub(super) const OF_ALIAS: [&str; 15] = [
    "alias_of",
    "superseded_by",
    "consolidation_state",
    "consolidation_score",
    "consolidation_at",
    "consolidation_job",
    "consolidation_pair_key",
    "consolidation_conflict_checked",
    "consolidation_conflict_checked_at",
    "consolidation_conflict_detected",
    "consolidation_conflict_kind",
    "consolidation_conflict_reasons",
    "consolidation_conflict_override",
    "last_edge_redirect_at",
    "last_edge_redirect_job",
];
/// Noted on a canonical node.
pub(super) const OF_CANONICAL: [&str; 6] = [
    "merged_from",
    "merged_count",
    "last_consolidation_at",
    "last_consolidation_job",
    "last_edge_redirect_at",
    "last_edge_redirect_job",
];

pub(super) type Notes = Option<Value>;

fn map(notes: &Notes) -> Map<String, Value> {
    notes.as_ref().and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The nodes a canonical node stands for.
pub(super) fn merged_from(notes: &Notes) -> Vec<NodeId> {
    let list = notes.as_ref().and_then(|notes| notes.get("merged_from")).and_then(Value::as_array);
    let ids = list.into_iter().flatten().filter_map(Value::as_str);
    ids.filter_map(|id| uuid::Uuid::parse_str(id).ok()).map(NodeId).collect()
}

/// The notes of a node that becomes an alias.
pub(super) fn aliased(notes: &Notes, canonical: NodeId, pair: &Candidate, at: Timestamp) -> Notes {
    let mut notes = map(notes);
    let conflict = pair.score.conflict;
    let kind = conflict.map_or("none", |conflict| conflict.kind.as_str());
    let reasons: Vec<&str> = conflict.iter().map(|conflict| conflict.kind.as_str()).collect();
    let new = json!({
        "alias_of": canonical,
        "superseded_by": canonical,
        "consolidation_state": "aliased",
        "consolidation_score": pair.score.score,
        "consolidation_at": at.to_iso(),
        "consolidation_job": APPLY_KIND,
        "consolidation_pair_key": pair.pair_key,
        "consolidation_conflict_checked": true,
        "consolidation_conflict_checked_at": at.to_iso(),
        "consolidation_conflict_detected": conflict.is_some(),
        "consolidation_conflict_kind": kind,
        "consolidation_conflict_reasons": reasons,
        // What contradicts itself is merged only when somebody said so, of the pair or of all.
        "consolidation_conflict_override": conflict.is_some(),
    });
    notes.extend(map(&Some(new)));
    Some(Value::Object(notes))
}

/// The notes of an alias that follows its canonical node to another one.
pub(super) fn followed(notes: &Notes, canonical: NodeId) -> Notes {
    let mut notes = map(notes);
    for key in ["alias_of", "superseded_by"] {
        notes.insert(key.to_owned(), json!(canonical));
    }
    Some(Value::Object(notes))
}

/// The notes of a canonical node that takes nodes in.
pub(super) fn taking(notes: &Notes, taken: &[NodeId], at: Timestamp) -> Notes {
    let mut all = merged_from(notes);
    for id in taken {
        if !all.contains(id) {
            all.push(*id);
        }
    }
    let mut notes = map(notes);
    notes.insert("merged_count".to_owned(), json!(all.len()));
    notes.insert("merged_from".to_owned(), json!(all));
    notes.insert("last_consolidation_at".to_owned(), json!(at.to_iso()));
    notes.insert("last_consolidation_job".to_owned(), json!(APPLY_KIND));
    Some(Value::Object(notes))
}

/// The notes of a canonical node without nodes it took in.
pub(super) fn without(notes: &Notes, taken: &[NodeId]) -> Notes {
    let left: Vec<NodeId> = merged_from(notes).into_iter().filter(|id| !taken.contains(id)).collect();
    if left.is_empty() {
        return restored(notes, &None, &OF_CANONICAL);
    }
    let mut notes = map(notes);
    notes.insert("merged_count".to_owned(), json!(left.len()));
    notes.insert("merged_from".to_owned(), json!(left));
    Some(Value::Object(notes))
}

/// Notes with some keys as they were before; other keys stay.
pub(super) fn restored(notes: &Notes, prior: &Notes, keys: &[&str]) -> Notes {
    let (mut notes, before) = (map(notes), map(prior));
    for key in keys {
        match before.get(*key) {
            Some(value) => notes.insert((*key).to_owned(), value.clone()),
            None => notes.remove(*key),
        };
    }
    (!notes.is_empty() || prior.is_some()).then_some(Value::Object(notes))
}

/// Whether two notes say the same under some keys.
pub(super) fn same(a: &Notes, b: &Notes, keys: &[&str]) -> bool {
    let of = |notes: &Notes, key: &str| notes.as_ref().and_then(|notes| notes.get(key)).cloned();
    keys.iter().all(|key| of(a, key) == of(b, key))
}

/// The notes of a node whose edges were moved.
pub(super) fn redirected(notes: &Notes, at: Timestamp) -> Notes {
    let mut notes = map(notes);
    notes.insert("last_edge_redirect_at".to_owned(), json!(at.to_iso()));
    notes.insert("last_edge_redirect_job".to_owned(), json!(REDIRECT_KIND));
    Some(Value::Object(notes))
}

/// Notes as they were before any merge; for earlier states.
pub fn without_merge_notes(notes: Option<Value>) -> Option<Value> {
    let notes = restored(&notes, &None, &OF_ALIAS);
    restored(&notes, &None, &OF_CANONICAL)
}

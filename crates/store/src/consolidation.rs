//! What both engines do alike for consolidation.

use std::collections::HashMap;

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    jobs::consolidation::{Conflict, ConflictKind, MergePlan, Strength, alias_of},
};

/// A strength from its columns; none without a weight.
pub(crate) fn strength(
    weight: Option<f64>,
    confidence: Option<f64>,
    decay_rate: Option<f64>,
    last_activated: Option<i64>,
) -> Option<Strength> {
    Some(Strength {
        weight: weight?,
        confidence: confidence?,
        decay_rate: decay_rate?,
        last_activated: last_activated.map(Timestamp),
    })
}

/// A conflict from its columns; none without a kind.
pub(crate) fn conflict(kind: Option<ConflictKind>, score: Option<f64>, shared: Option<i64>) -> Option<Conflict> {
    Some(Conflict {
        kind: kind?,
        score: score.unwrap_or(0.0),
        shared_tokens: shared.and_then(|shared| u32::try_from(shared).ok()).unwrap_or(0),
    })
}

/// What nodes are aliases of after a plan, for those whose notes it changes.
pub(crate) fn aliases_after(plan: &MergePlan) -> impl Iterator<Item = (NodeId, Option<NodeId>)> {
    plan.notes.iter().map(|(id, notes)| (*id, alias_of(*id, notes.as_ref())))
}

/// Of what nodes became aliases, the newest merge counts; rows are duplicate, canonical, commit and place in it.
pub(crate) fn newest_aliases(rows: impl IntoIterator<Item = (NodeId, NodeId, u64, u32)>) -> HashMap<NodeId, NodeId> {
    let mut newest: HashMap<NodeId, (NodeId, u64, u32)> = HashMap::new();
    for (duplicate, canonical, seq, ordinal) in rows {
        let known = newest.entry(duplicate).or_insert((canonical, seq, ordinal));
        if (known.1, known.2) < (seq, ordinal) {
            *known = (canonical, seq, ordinal);
        }
    }
    newest.into_iter().map(|(duplicate, (canonical, ..))| (duplicate, canonical)).collect()
}

//! Moves of nodes between tiers that a job has planned.

use serde_json::{Value, json};

use super::{OperatedNode, Operation, PreparedOperation};
use crate::{
    canon::{canonical_sha256, sha256_hex},
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::consolidation::alias_of,
    lifecycle::{DAY, moved_at},
    model::Tier,
};

/// Most moves of one operation.
pub const MOVES_MAX: usize = 1_000;

/// One node's move to another tier, as it was planned.
#[derive(Clone, Debug, PartialEq)]
pub struct TierMove {
    /// The node.
    pub id: NodeId,
    /// The tier it must still be in.
    pub from: Tier,
    /// The tier it goes to.
    pub to: Tier,
    /// Its salience at `salience_at`, which is stored with the move.
    pub salience: f64,
    /// The time of the plan.
    pub salience_at: Timestamp,
    /// Since when the stored salience held when it was planned; it must still be that.
    pub since: Timestamp,
    /// When the node was last used; it must not have been used since.
    pub used_at: Timestamp,
    /// What it was an alias of when it was planned; a node that became one since leads to another and stays.
    pub alias_of: Option<NodeId>,
}

impl TierMove {
    /// Whether the node, as it is stored, is still the one the move was planned for.
    pub(super) fn holds(&self, node: &OperatedNode, now: Timestamp) -> bool {
        node.tier == self.from
            && !node.decay.held
            && alias_of(self.id, node.activity.as_ref()) == self.alias_of
            && node.decay.since == self.since
            && node.decay.used_at == self.used_at
            && moved_at(node.activity.as_ref()).is_none_or(|moved| moved.0.saturating_add(DAY) <= now.0)
    }
}

/// What of moves makes two requests the same.
pub(super) fn described_moves(moves: &[TierMove]) -> Value {
    moves.iter().map(|one| json!([one.id, one.from, one.to])).collect()
}

/// An operation that makes planned moves.
pub fn prepare_maintenance(
    scope: ScopeKey,
    job: &'static str,
    planned_at: Timestamp,
    moves: Vec<TierMove>,
) -> PreparedOperation {
    let input_sha256 = sha256_hex(format!("job:{job}:{scope}:{}", planned_at.to_iso()));
    let actor = "job".to_owned();
    let request_digest = canonical_sha256(&json!({
        "v": 1,
        "kind": job,
        "actor": actor,
        "input_sha256": input_sha256,
        "operation": described_moves(&moves),
    }));
    PreparedOperation {
        scope,
        actor,
        input_sha256,
        request_digest,
        idempotency: None,
        viewer: None,
        operation: Operation::Maintain { job, moves },
    }
}

//! What both engines share of purging a scope.

use std::time::Duration;

use aionis_core::{
    canon::Digest,
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    jobs::scope_purge::{PendingPurge, PurgeState},
    ports::store::StoreError,
};

use crate::transfer::{IMPORTING, importing};

/// The mark of a scope that is being purged, in `memory_scopes.state`.
pub(crate) const PURGING: &str = "purging";

/// The mark of a scope that is in use.
pub(crate) const OPEN: &str = "open";

/// Key of the newest record's number and digest in `aionis_meta`.
pub(crate) const PURGES_HEAD: &str = "purges_head";

/// A table with rows of scopes.
pub(crate) struct ScopeTable {
    pub(crate) name: &'static str,
    /// What names a row within its scope, in the embedded engine; empty for tables that have row numbers.
    pub(crate) key: &'static str,
    /// Whether only the embedded engine has it.
    pub(crate) embedded_only: bool,
    /// Rows of it that stay.
    pub(crate) but: &'static str,
}

const fn table(name: &'static str, key: &'static str) -> ScopeTable {
    ScopeTable { name, key, embedded_only: false, but: "" }
}

/// Every table that is purged, in order. Work goes first, so that no worker begins any more; vectors and index come after
/// the nodes, without which none is stored. A test compares this list, and [`KEPT`], with the catalogue.
pub(crate) const TABLES: &[ScopeTable] = &[
    table("memory_outbox", ""),
    table("memory_nodes", ""),
    table("memory_node_versions", ""),
    table("memory_vectors", ""),
    ScopeTable { embedded_only: true, ..table("memory_vector_index", "") },
    table("memory_edges", "src_id, type, dst_id"),
    table("memory_rule_defs", "rule_node_id"),
    table("memory_rule_feedback", "id"),
    table("memory_decisions", "id"),
    table("memory_erasures", "id"),
    table("memory_consolidation_candidates", "pair_key"),
    table("memory_merges", "id"),
    table("memory_removed_edges", "edge_id, removed_seq"),
    table("memory_requests", ""),
    table("memory_recall_audit", ""),
    table("memory_commits", ""),
    // The purge's own lease and cursor are needed to the end; they hold nothing of the memory.
    ScopeTable { but: "job <> 'scope-purge'", ..table("job_states", "job") },
];

/// Tables with a scope key whose rows stay: the histories of a deployment, and the heads, which go last.
pub(crate) const KEPT: &[&str] = &["job_runs", "memory_purges", "memory_scopes"];

impl ScopeTable {
    /// What is asked of its rows, for a place of the scope's key in a statement.
    pub(crate) fn rows_of(&self, place: &str) -> String {
        match self.but {
            "" => format!("scope_key = {place}"),
            but => format!("scope_key = {place} AND {but}"),
        }
    }
}

/// Refuses what needs a scope that is in use.
pub(crate) fn check_state(state: &str, scope: &str) -> Result<(), StoreError> {
    match state {
        IMPORTING => Err(importing(scope)),
        PURGING => Err(purging(scope)),
        _ => Ok(()),
    }
}

/// The answer to whoever writes to a scope that is being purged.
pub(crate) fn purging(scope: &str) -> StoreError {
    let message = format!("{scope} is being purged; let `aionis job scope-purge` finish");
    StoreError::Rejected(
        DomainError::new(ErrorKind::Unavailable, "scope_purging", message).with_retry_after(Duration::from_secs(5)),
    )
}

/// No purge by the plan is under way.
pub(crate) fn not_under_way(scope: &ScopeKey) -> StoreError {
    let message = format!("no purge of {scope} by this plan is under way");
    StoreError::Rejected(DomainError::new(ErrorKind::Conflict, "purge_plan_stale", message))
}

/// What is stored beside the mark.
pub(crate) fn read_pending(text: &str) -> Result<PendingPurge, StoreError> {
    serde_json::from_str(text)
        .map_err(|e| StoreError::Driver(format!("how far a purge is cannot be read from memory_scopes.purge: {e}")))
}

/// How far a purge is, as it is stored.
pub(crate) fn write_pending(pending: &PendingPurge) -> Result<String, StoreError> {
    serde_json::to_string(pending).map_err(|e| StoreError::Driver(e.to_string()))
}

/// A state as it is stored.
pub(crate) fn read_state(state: &str, pending: Option<&str>) -> Result<PurgeState, StoreError> {
    Ok(match state {
        IMPORTING => PurgeState::Importing,
        PURGING => PurgeState::Purging(read_pending(pending.unwrap_or_default())?),
        _ => PurgeState::Open,
    })
}

/// The purge that is under way, if it is that of a plan.
pub(crate) fn of_plan(
    scope: &ScopeKey,
    state: Option<(String, Option<String>)>,
    plan: Digest,
) -> Result<PendingPurge, StoreError> {
    if let Some((state, pending)) = state
        && let PurgeState::Purging(pending) = read_state(&state, pending.as_deref())?
        && pending.plan == plan.to_hex()
    {
        return Ok(pending);
    }
    Err(not_under_way(scope))
}

/// Number and digest of the newest record, from their stored form.
pub(crate) fn read_head(text: &str) -> Result<(u64, Digest), StoreError> {
    let damaged = || StoreError::Driver(format!("{text:?} names no newest record of a purge"));
    let (seq, digest) = text.split_once(' ').ok_or_else(damaged)?;
    Ok((seq.parse().map_err(|_| damaged())?, Digest::from_hex(digest).map_err(|_| damaged())?))
}

/// Number and digest of the newest record, as they are stored.
pub(crate) fn write_head((seq, digest): (u64, Digest)) -> String {
    format!("{seq} {}", digest.to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_survives_its_stored_form_and_anything_else_is_damage() {
        let head = (7, Digest([3; 32]));
        assert_eq!(read_head(&write_head(head)).unwrap(), head);
        for damaged in ["", "7", "x 00", "7 zz"] {
            assert!(read_head(damaged).is_err(), "{damaged:?}");
        }
        assert!(read_pending("").is_err());
    }
}

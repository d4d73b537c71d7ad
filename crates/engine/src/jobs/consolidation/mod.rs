//! Consolidation: finding nodes that say the same, merging them, moving their edges, and taking it back.

mod apply;
mod candidates;
#[cfg(test)]
mod eval;
mod redirect;
#[cfg(test)]
mod tests;
mod undo;

use aionis_core::{
    error::{DomainError, ErrorKind},
    ids::NodeId,
    jobs::consolidation::{MergeAction, MergeOutcome, PreparedMerge},
};
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::{
    apply::ConsolidationApply,
    candidates::{CandidateSettings, ConsolidationCandidates, Decisions},
    redirect::ConsolidationRedirect,
    undo::ConsolidationUndo,
};
pub(super) use self::{
    apply::INFO as APPLY, candidates::INFO as CANDIDATES, redirect::INFO as REDIRECT, undo::INFO as UNDO,
};
use super::{Report, Step};

/// Who commits what jobs change.
const ACTOR: &str = "job";

async fn merge(on: &Step<'_>, action: MergeAction) -> Result<MergeOutcome, DomainError> {
    let asked =
        PreparedMerge { scope: on.scope()?.clone(), actor: ACTOR.to_owned(), run: on.run, action, dry_run: on.dry_run };
    Ok(on.store.merge(&asked).await?)
}

/// The id a cursor goes on after.
fn after(cursor: Option<&Value>) -> Result<Option<NodeId>, DomainError> {
    let Some(stored) = cursor.and_then(|cursor| cursor.get("after")) else { return Ok(None) };
    let id = stored.as_str().and_then(|id| Uuid::parse_str(id).ok());
    id.map(|id| Some(NodeId(id))).ok_or_else(|| unreadable(cursor))
}

fn unreadable(cursor: Option<&Value>) -> DomainError {
    let mut error = DomainError::new(ErrorKind::Internal, "internal_error", "the job's cursor cannot be read");
    error.internal = Some(format!("cursor {cursor:?}"));
    error
}

/// The commit and the conflicts, as reports show them.
fn tell(report: &mut Report, done: &MergeOutcome) {
    if let Some(commit) = &done.commit {
        report.list("commits", json!(commit));
    }
    for merge in &done.merges {
        report.list("merges", json!(merge));
    }
}

//! Trying again what the outbox gave up: dead letters, and nodes without vector that have a text.

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    ids::ScopeKey,
    ports::store::{GivenUp, Store},
};
use serde::Serialize;

/// What was, or would be, put back into the queue.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Of all scopes together.
    pub total: GivenUp,
    /// Per scope that has any.
    pub scopes: Vec<ScopeReplay>,
}

/// What was, or would be, put back of one scope.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ScopeReplay {
    /// Tenant.
    pub tenant_id: String,
    /// Scope.
    pub scope: String,
    /// What.
    #[serde(flatten)]
    pub given_up: GivenUp,
}

/// Puts given-up work of scopes back into the queue, with all its attempts; with `dry_run` only counts it. One transaction
/// per scope: what was done before a failure stays done, and doing it again is harmless.
///
/// # Errors
/// A failure of storage.
pub async fn replay(
    store: &dyn Store,
    (tenant, scope): (Option<&str>, Option<&str>),
    dry_run: bool,
    now: Timestamp,
) -> Result<ReplayReport, DomainError> {
    let mut report = ReplayReport { dry_run, ..ReplayReport::default() };
    for summary in store.scopes(tenant, scope).await? {
        let key = ScopeKey::from_stored(&summary.scope_key)?;
        let mut found = store.given_up(&key).await?;
        if found == GivenUp::default() {
            continue;
        }
        if !dry_run {
            found = store.replay(&key, now).await?;
        }
        report.total.dead_items += found.dead_items;
        report.total.unreadable_items += found.unreadable_items;
        report.total.failed_nodes += found.failed_nodes;
        report.scopes.push(ScopeReplay {
            tenant_id: key.tenant().to_owned(),
            scope: key.scope().to_owned(),
            given_up: found,
        });
    }
    Ok(report)
}

use async_trait::async_trait;

use super::StoreError;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::ScopeKey,
    jobs::scope_purge::{PurgePlan, PurgeRecord, PurgeState, PurgeStep, PurgeSurvey},
};

/// Purging one scope. The scope is marked first; from then on reads answer as for a scope that is not there, in every
/// process, and writes are refused with `scope_purging`, until the last row is gone.
#[async_trait]
pub trait PurgeStore: Send + Sync {
    /// How a scope stands towards a purge.
    ///
    /// # Errors
    /// A failure of storage.
    async fn purge_state(&self, scope: &ScopeKey) -> Result<PurgeState, StoreError>;

    /// Counts a scope's rows in every table, and looks for partitions that hold this scope alone.
    ///
    /// # Errors
    /// A failure of storage.
    async fn purge_survey(&self, scope: &ScopeKey) -> Result<PurgeSurvey, StoreError>;

    /// Marks a scope, if its head still is that of the plan. False if it is not, or the scope is marked already: then
    /// nothing was changed.
    ///
    /// # Errors
    /// A failure of storage.
    async fn begin_purge(
        &self,
        scope: &ScopeKey,
        plan: &PurgePlan,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Removes at most `rows_max` rows of a marked scope, or truncates one partition, in one transaction that also keeps how
    /// far it is. When no table has a row left, the scope is gone and its record is written.
    ///
    /// # Errors
    /// `purge_plan_stale` if no purge by this plan is under way; a failure of storage.
    async fn purge_step(
        &self,
        scope: &ScopeKey,
        plan: Digest,
        rows_max: usize,
        now: Timestamp,
    ) -> Result<PurgeStep, StoreError>;

    /// The record of a scope's purge by a plan.
    ///
    /// # Errors
    /// A failure of storage.
    async fn purge_record(&self, scope: &ScopeKey, plan: Digest) -> Result<Option<PurgeRecord>, StoreError>;
}

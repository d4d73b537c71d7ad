//! Reading for verification, handed on: a store reads for it as the part of it does that can also read a snapshot.

use std::sync::Arc;

use aionis_core::{
    canon::Digest,
    ids::{NodeId, ScopeKey},
    jobs::scope_purge::PurgeRecord,
    model::RuleState,
    ports::store::{
        CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoreError, StoredEdgeRow, StoredErasure,
        StoredFeedbackRow, StoredNodeRow,
    },
};
use async_trait::async_trait;
use uuid::Uuid;

use crate::{postgres::PostgresStore, sqlite::SqliteStore};

/// Implements [`IntegrityStore`] of a store by that of what its method `integrity` gives.
macro_rules! hand_on {
    ($store:ty) => {
        #[async_trait]
        impl IntegrityStore for $store {
            async fn scopes(&self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError> {
                self.integrity().scopes(tenant, scope).await
            }

            async fn commits(&self, scope: &ScopeKey, after: u64, limit: usize) -> Result<CommitPage, StoreError> {
                self.integrity().commits(scope, after, limit).await
            }

            async fn nodes(
                &self,
                scope: &ScopeKey,
                after: Option<Uuid>,
                limit: usize,
            ) -> Result<Vec<StoredNodeRow>, StoreError> {
                self.integrity().nodes(scope, after, limit).await
            }

            async fn edges(
                &self,
                scope: &ScopeKey,
                after: Option<Uuid>,
                limit: usize,
            ) -> Result<Vec<StoredEdgeRow>, StoreError> {
                self.integrity().edges(scope, after, limit).await
            }

            async fn versions(
                &self,
                scope: &ScopeKey,
                after: Option<(Uuid, u32)>,
                limit: usize,
            ) -> Result<Vec<NodeVersionRow>, StoreError> {
                self.integrity().versions(scope, after, limit).await
            }

            async fn rule_states(
                &self,
                scope: &ScopeKey,
                after: Option<Uuid>,
                limit: usize,
            ) -> Result<Vec<(NodeId, RuleState)>, StoreError> {
                self.integrity().rule_states(scope, after, limit).await
            }

            async fn feedback(
                &self,
                scope: &ScopeKey,
                after: Option<Uuid>,
                limit: usize,
            ) -> Result<Vec<StoredFeedbackRow>, StoreError> {
                self.integrity().feedback(scope, after, limit).await
            }

            async fn erasures(
                &self,
                scope: &ScopeKey,
                after: Option<Uuid>,
                limit: usize,
            ) -> Result<Vec<StoredErasure>, StoreError> {
                self.integrity().erasures(scope, after, limit).await
            }

            async fn purges(&self, after: u64, limit: usize) -> Result<Vec<PurgeRecord>, StoreError> {
                self.integrity().purges(after, limit).await
            }

            async fn purges_head(&self) -> Result<Option<(u64, Digest)>, StoreError> {
                self.integrity().purges_head().await
            }

            async fn physical_check(&self) -> Result<Vec<String>, StoreError> {
                self.integrity().physical_check().await
            }

            async fn snapshot(&self) -> Result<Arc<dyn IntegrityStore>, StoreError> {
                self.integrity().snapshot().await
            }
        }
    };
}

hand_on!(SqliteStore);
hand_on!(PostgresStore);

use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    jobs::retention::{DecisionPlace, Expiring},
};

/// What became of a page of old decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiredDecisions {
    /// Decisions that were removed.
    pub removed: u64,
    /// Decisions that are old and stay: feedback names them, or made them.
    pub kept: u64,
    /// Where the next page begins; none at the end.
    pub next: Option<DecisionPlace>,
}

/// Removing rows that are kept for a while only. Nothing a commit binds is among them.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// How many rows of a kind are from before a time and would be removed.
    ///
    /// # Errors
    /// A failure of storage.
    async fn expiring(&self, kind: Expiring, before: Timestamp) -> Result<u64, StoreError>;

    /// Removes the oldest rows of a kind other than decisions from before a time, at most `limit`. Returns how many.
    ///
    /// # Errors
    /// A failure of storage, or the kind is decisions.
    async fn expire(&self, kind: Expiring, before: Timestamp, limit: usize) -> Result<u64, StoreError>;

    /// Looks at the oldest decisions from before a time, after a place, at most `limit`, and removes those that no feedback
    /// names and that no feedback made.
    ///
    /// # Errors
    /// A failure of storage.
    async fn expire_decisions(
        &self,
        before: Timestamp,
        after: Option<&DecisionPlace>,
        limit: usize,
    ) -> Result<ExpiredDecisions, StoreError>;
}

use async_trait::async_trait;

use super::StoreError;
use crate::write::{PreparedWrite, WriteOutcome};

/// Writing.
#[async_trait]
pub trait WriteStore: Send + Sync {
    /// Applies one prepared write in one transaction: one commit per scope it touches, all or nothing. When this
    /// returns `Ok` the write is durable. Concurrent writes may share a transaction but never a commit.
    ///
    /// The decision about every item is [`crate::write::plan_part`]'s. A repeated idempotency key answers with the stored outcome.
    ///
    /// # Errors
    /// `Rejected` for a caller's mistake; otherwise a failure of storage, after which nothing of the write is stored,
    /// except that a failure while the medium makes it durable leaves the outcome unknown until the next start.
    async fn write(&self, write: PreparedWrite) -> Result<WriteOutcome, StoreError>;
}

use async_trait::async_trait;

use super::StoreError;
use crate::forget::{ForgetOutcome, PreparedForget};

/// Forgetting.
#[async_trait]
pub trait ForgetStore: Send + Sync {
    /// Looks at what would be erased, or, with the token of that look, erases it in one transaction: nodes with their
    /// earlier versions, vectors and index entries, their edges, rules with their feedback and the policies of decisions they
    /// took part in, and what failed work noted about them. Digests stay.
    ///
    /// # Errors
    /// `Rejected` with the caller's mistake, or a failure of storage; nothing is erased then.
    async fn forget(&self, forget: PreparedForget) -> Result<ForgetOutcome, StoreError>;
}

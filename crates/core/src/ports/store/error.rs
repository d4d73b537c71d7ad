use std::time::Duration;

use crate::error::{DomainError, ErrorKind};

/// A failure of storage. Nothing of a driver leaks; what a driver said is text for the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The caller's request contradicts what is stored.
    #[error(transparent)]
    Rejected(#[from] DomainError),
    /// The write queue is full: nothing was done.
    #[error("the write queue is full ({queued} waiting)")]
    QueueFull {
        /// How many wait.
        queued: usize,
    },
    /// Storage cannot be reached or is busy; the same call may succeed later.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// No space is left; nothing of the request was stored.
    #[error("storage is full: {0}")]
    Full(String),
    /// Storage refuses writes; nothing of the request was stored.
    #[error("storage is read-only: {0}")]
    ReadOnly(String),
    /// Stored data is impossible.
    #[error("stored data is inconsistent: {table}.{column} of {row}: {problem}")]
    Inconsistent {
        /// Where.
        table: &'static str,
        /// Where.
        column: &'static str,
        /// Which.
        row: String,
        /// What.
        problem: String,
    },
    /// Anything else the driver reports.
    #[error("storage failed: {0}")]
    Driver(String),
}

impl From<StoreError> for DomainError {
    fn from(error: StoreError) -> Self {
        let internal = error.to_string();
        let pause = Duration::from_secs(1);
        match error {
            StoreError::Rejected(domain) => domain,
            StoreError::QueueFull { queued } => {
                Self::new(ErrorKind::TooManyRequests, "write_backpressure", "the write queue is full; retry later")
                    .with_details(serde_json::json!({ "queued": queued }))
                    .with_retry_after(pause)
            }
            StoreError::Unavailable(_) => {
                Self::new(ErrorKind::Unavailable, "storage_unavailable", "storage is not available now; retry later")
                    .with_retry_after(pause)
                    .with_internal(internal)
            }
            StoreError::Full(_) => Self::new(
                ErrorKind::StorageFull,
                "storage_full",
                "no space is left on the data volume; nothing of this request was stored",
            )
            .with_internal(internal),
            StoreError::ReadOnly(_) => Self::new(
                ErrorKind::Unavailable,
                "storage_read_only",
                "the data directory cannot be written; nothing of this request was stored",
            )
            .with_internal(internal),
            StoreError::Inconsistent { .. } | StoreError::Driver(_) => Self::internal(internal),
        }
    }
}

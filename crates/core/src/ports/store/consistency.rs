use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    jobs::{
        Target,
        consistency::{Cell, Probe, RawRow, ScanTable, StorageEngine},
    },
};

/// Reading for checks: rows as they are stored, also those the program would never have stored.
#[async_trait]
pub trait ConsistencyStore: Send + Sync {
    /// Which engine this is.
    fn storage_engine(&self) -> StorageEngine;

    /// Name of the embedding model whose vectors recall compares, and their dimension.
    fn vector_space(&self) -> (String, usize);

    /// A view of a scope, or of everything, that does not change while it is read. Nothing can be changed through it.
    ///
    /// # Errors
    /// A failure of storage.
    async fn consistency_view(&self, target: &Target) -> Result<Box<dyn ConsistencyView>, StoreError>;
}

/// A view of a scope or of everything as it was at one moment.
#[async_trait]
pub trait ConsistencyView: Send {
    /// Rows of a table with a key above `after`, ordered by it, at most `limit`; found by the table's key. Of
    /// [`ScanTable::ScopeKeys`] all come at once, those of `memory_scopes` first.
    ///
    /// # Errors
    /// A failure of storage: the view goes on with another table.
    async fn page(&mut self, table: ScanTable, after: Option<&[Cell]>, limit: usize)
    -> Result<Vec<RawRow>, StoreError>;

    /// What a probe finds, at most `limit` rows; no table is read for it. `stuck_before` is the time from which on nodes wait
    /// too long.
    ///
    /// # Errors
    /// A failure of storage: the view goes on with another probe.
    async fn probe(&mut self, probe: Probe, stuck_before: Timestamp, limit: usize) -> Result<Vec<RawRow>, StoreError>;
}

//! Copying scopes from one store to another, whichever engines they are.
//!
//! Rows travel in pages, table by table. The destination keeps, in the transaction of each page, how far it is, so that a
//! copy that was broken off goes on where it stopped. Until a scope is complete it is marked `importing`: it is neither
//! read nor written there. At the end both sides are read again and compared, row by row through a digest.

mod copy;
mod table;

use std::time::Duration;

use aionis_core::{
    canon::Digest,
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    ports::store::{ScopeSummary, StoreError},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::copy::{CopyError, CopyProgress, CopySettings, CopyStatus, ScopeCopy, copy};
pub(crate) use self::table::{Cell, Kind, Row, RowsDigest, Table, id, text};

/// A scope's head row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether it is being copied in.
    pub(crate) importing: bool,
    pub(crate) seq: u64,
    pub(crate) hash: Digest,
    pub(crate) nodes: u64,
    pub(crate) edges: u64,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

/// How far an import is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Id of the store the rows come from.
    pub(crate) source: String,
    /// Head of the scope there when the copy began; with another one it begins anew.
    pub(crate) head: (u64, String),
    /// Tables that are complete.
    pub(crate) tables: usize,
    /// Key of the last row of the next table.
    pub(crate) after: Vec<KeyPart>,
}

/// A part of a row's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyPart {
    Int(i64),
    Text(String),
    Uuid(uuid::Uuid),
}

/// The key of a row.
pub(crate) fn key_of(table: Table, row: &Row) -> Result<Vec<KeyPart>, StoreError> {
    row[..table.key_len()]
        .iter()
        .map(|cell| match cell {
            Cell::Int(value) => Ok(KeyPart::Int(*value)),
            Cell::Text(value) => Ok(KeyPart::Text(value.clone())),
            Cell::Uuid(value) => Ok(KeyPart::Uuid(*value)),
            other => Err(StoreError::Driver(format!("a row of {} has {other:?} in its key", table.name()))),
        })
        .collect()
}

/// Reading a store as it was at one moment.
#[async_trait]
pub(crate) trait Snapshot: Send {
    /// Scopes, ordered by key; all, those of a tenant, or one.
    async fn scopes(&mut self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError>;

    /// Head of a scope, if it is there.
    async fn head(&mut self, scope: &ScopeKey) -> Result<Option<Head>, StoreError>;

    /// Rows of a table with a key above `after`, ordered by it.
    async fn page(
        &mut self,
        scope: &ScopeKey,
        table: Table,
        after: &[KeyPart],
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;
}

/// What an engine can do so that scopes are copied from and to it.
#[async_trait]
pub(crate) trait Transfer: Send + Sync {
    /// A view that does not change while it is read.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// How far the import of a scope is; none when there is none under way.
    async fn progress(&self, scope: &ScopeKey) -> Result<Option<Progress>, StoreError>;

    /// Begins an import: the scope is there, marked, and empty. What an earlier import left is removed.
    async fn begin_import(&self, scope: &ScopeKey, progress: &Progress) -> Result<(), StoreError>;

    /// Stores rows of an import, and how far it is with them, in one transaction.
    async fn import(
        &self,
        scope: &ScopeKey,
        table: Table,
        rows: Vec<Row>,
        progress: &Progress,
    ) -> Result<(), StoreError>;

    /// Ends an import: the last rows, the head, and the mark is gone, in one transaction.
    async fn finish_import(&self, scope: &ScopeKey, head: &Head, work: Vec<Row>) -> Result<(), StoreError>;
}

/// The mark of a scope that is being copied in, in `memory_scopes.state`.
pub(crate) const IMPORTING: &str = "importing";

/// What [`copy()`] needs of a store, closed to everyone else.
pub struct TransferHandle<'a>(pub(crate) &'a dyn Transfer);

/// Key of [`Progress`] in `aionis_meta`.
pub(crate) fn progress_key(scope: &ScopeKey) -> String {
    format!("import:{scope}")
}

/// A progress from its stored form.
pub(crate) fn read_progress(text: &str) -> Result<Progress, StoreError> {
    serde_json::from_str(text)
        .map_err(|e| StoreError::Driver(format!("the stored progress of an import cannot be read: {e}")))
}

/// A progress in its stored form.
pub(crate) fn write_progress(progress: &Progress) -> Result<String, StoreError> {
    serde_json::to_string(progress).map_err(|e| StoreError::Driver(e.to_string()))
}

/// The scope has come to be at the destination while it was about to be copied, or while it was.
pub(crate) fn taken(scope: &str) -> StoreError {
    let message = format!(
        "{scope} was written at the destination meanwhile, by the service or by another copy; it was left alone"
    );
    StoreError::Rejected(DomainError::new(ErrorKind::Conflict, "scope_exists", message))
}

/// The answer to whoever reads or writes a scope that is being copied in.
pub(crate) fn importing(scope: &str) -> StoreError {
    let message = format!("{scope} is being copied in, or its tenant is moved; let `aionis copy` or the move finish");
    StoreError::Rejected(
        DomainError::new(ErrorKind::Unavailable, "scope_importing", message).with_retry_after(Duration::from_secs(5)),
    )
}

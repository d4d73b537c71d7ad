//! What SQLite reports, as storage errors.

use std::path::Path;

use aionis_core::ports::store::StoreError;
use rusqlite::{Error, ErrorCode};

/// Maps a driver error.
pub(crate) fn driver(error: Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly(text),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::CannotOpen) => {
            StoreError::Unavailable(text)
        }
        Some(ErrorCode::SystemIoFailure) => StoreError::Unavailable(text),
        _ => StoreError::Driver(text),
    }
}

/// Maps a failure to open the database, with the path and what to do.
pub(crate) fn open(path: &Path, error: &Error) -> StoreError {
    let shown = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            StoreError::ReadOnly(format!(
                "cannot open {shown} for writing ({error}); check the directory's owner and mode, or set AIONIS_DATA_DIR"
            ))
        }
        Some(ErrorCode::DiskFull) => StoreError::Full(format!("cannot open {shown}: {error}")),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Driver(format!("{shown} is not a sound database ({error}); restore it from a backup"))
        }
        _ => StoreError::Unavailable(format!("cannot open {shown}: {error}")),
    }
}

/// Stored data that cannot be read back.
pub(crate) fn inconsistent(
    table: &'static str,
    column: &'static str,
    row: impl ToString,
    problem: impl Into<String>,
) -> StoreError {
    StoreError::Inconsistent { table, column, row: row.to_string(), problem: problem.into() }
}

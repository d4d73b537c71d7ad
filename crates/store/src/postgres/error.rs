//! What PostgreSQL reports, by SQLSTATE, as storage errors.

use aionis_core::ports::store::StoreError;
use sqlx::Error;

/// What is said when no connection could be had in time. Waiting again would only make the caller wait longer.
const NO_CONNECTION: &str = "no connection to PostgreSQL could be had in time";

/// A driver error as a storage error. Nothing depends on names of constraints or on texts, which differ between servers.
pub(crate) fn driver(error: Error) -> StoreError {
    match &error {
        Error::Database(reported) => {
            let code = reported.code().unwrap_or_default().into_owned();
            let text = format!("{code}: {}", reported.message());
            match code.as_str() {
                // Serialization failure, deadlock, lock not available, statement cancelled (time-out).
                "40001" | "40P01" | "55P03" | "57014" => StoreError::Unavailable(text),
                // Shutting down, crashed, starting up, too many connections, out of memory.
                "57P01" | "57P02" | "57P03" | "53300" | "53200" => StoreError::Unavailable(text),
                "53100" => StoreError::Full(text),
                "25006" => StoreError::ReadOnly(text),
                // Class 08: connection exceptions.
                code if code.starts_with("08") => StoreError::Unavailable(text),
                _ => StoreError::Driver(text),
            }
        }
        Error::PoolTimedOut => StoreError::Unavailable(NO_CONNECTION.to_owned()),
        Error::Io(_) | Error::Tls(_) | Error::PoolClosed | Error::WorkerCrashed => {
            StoreError::Unavailable(error.to_string())
        }
        // What an aborted connection leaves behind.
        Error::Protocol(_) | Error::BeginFailed => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Driver(error.to_string()),
    }
}

/// What is said when the database does not answer. What became of a write is not known then.
const NO_ANSWER: &str = "PostgreSQL did not answer in time";

/// The error of work that was given up on.
pub(crate) fn no_answer() -> StoreError {
    StoreError::Unavailable(NO_ANSWER.to_owned())
}

/// Whether the same transaction may succeed when it is run again: it lost against another one, or its connection was
/// lost.
pub(crate) fn is_transient(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(text) if text != NO_CONNECTION && text != NO_ANSWER)
}

/// Whether what failed is the connection, and not what was asked on it.
pub(crate) fn is_disconnected(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => true,
        Error::Database(reported) => {
            reported.code().is_some_and(|code| code.starts_with("57P0") || code.starts_with("08"))
        }
        _ => false,
    }
}

/// The row that a writer waited for is gone: a purge ended meanwhile. Another try makes the row anew.
pub(crate) fn vanished(scope: &str) -> StoreError {
    StoreError::Unavailable(format!("{scope} was purged meanwhile"))
}

/// A stored value that cannot be.
pub(crate) fn inconsistent(
    table: &'static str,
    column: &'static str,
    row: impl ToString,
    problem: impl Into<String>,
) -> StoreError {
    StoreError::Inconsistent { table, column, row: row.to_string(), problem: problem.into() }
}

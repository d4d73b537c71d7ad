//! What forgetting leaves in the files: terms that the inverted index only marked as deleted, and pages of the
//! write-ahead log. It is cleared by the writing thread, in small steps while nothing else is to be written.

use std::time::Duration;

use aionis_core::ports::store::StoreError;
use rusqlite::{Connection, OptionalExtension};

use super::{error::driver, forget::RESIDUE};

/// Pages of the inverted index that one step merges.
const PAGES_PER_STEP: i64 = 64;
/// How long to wait before the log is tried to be written back again, when a reader still needs it.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// How far the clearing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residue {
    /// Nothing is left.
    None,
    /// The inverted index has to be merged anew.
    Marked,
    /// It is being merged.
    Merging,
    /// The log has to be written back.
    Logged,
}

impl Residue {
    /// What an earlier run of the process left.
    pub(crate) fn left(connection: &Connection) -> Result<Self, StoreError> {
        let sql = "SELECT 1 FROM aionis_meta WHERE key = ?1";
        let left: Option<i64> = connection.query_row(sql, [RESIDUE], |row| row.get(0)).optional().map_err(driver)?;
        Ok(if left.is_some() { Self::Marked } else { Self::None })
    }

    /// Takes one step; tells how long to wait before the next one.
    pub(crate) fn step(&mut self, connection: &Connection) -> Result<Duration, StoreError> {
        match *self {
            Self::None => {}
            Self::Marked => {
                connection.execute_batch("PRAGMA secure_delete = ON").map_err(driver)?;
                // Less than zero: all segments are merged into one, so that each is read and written anew.
                merge(connection, -PAGES_PER_STEP)?;
                *self = Self::Merging;
            }
            Self::Merging => {
                if !merge(connection, PAGES_PER_STEP)? {
                    *self = Self::Logged;
                }
            }
            Self::Logged => {
                let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
                // Writes do not wait for readers here: it is tried again.
                connection.execute_batch("PRAGMA busy_timeout = 0").map_err(driver)?;
                let busy = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
                connection.execute_batch("PRAGMA busy_timeout = 5000").map_err(driver)?;
                let busy = busy.map_err(driver)?;
                if busy != 0 {
                    return Ok(BUSY_PAUSE);
                }
                connection.execute("DELETE FROM aionis_meta WHERE key = ?1", [RESIDUE]).map_err(driver)?;
                connection.execute_batch("PRAGMA secure_delete = FAST").map_err(driver)?;
                *self = Self::None;
            }
        }
        Ok(Duration::ZERO)
    }
}

impl Residue {
    /// Takes all steps at once, when the store is closed; what cannot be cleared now is at the next start.
    pub(crate) fn clear(&mut self, connection: &Connection) {
        while *self != Self::None {
            match self.step(connection) {
                Ok(pause) if pause.is_zero() => {}
                Ok(_) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "what was forgotten could not be cleared from the files yet");
                    return;
                }
            }
        }
    }
}

/// Merges so many pages; false when there was nothing to merge. Less than two changes means just that.
fn merge(connection: &Connection, pages: i64) -> Result<bool, StoreError> {
    let before = connection.total_changes();
    let sql = "INSERT INTO memory_lexical (memory_lexical, rank) VALUES ('merge', ?1)";
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute([pages])).map_err(driver)?;
    Ok(connection.total_changes() - before >= 2)
}

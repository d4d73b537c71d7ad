//! Schema migrations: forward only, embedded, each applied once in a transaction of its own, checksums verified at start.

use std::path::Path;

use aionis_core::{canon::sha256_hex, clock::Timestamp, ports::store::StoreError};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::{DATABASE_FILE, connect, error, lock::DirectoryLock};
use crate::migration::{Applied, Migration, MigrationReport, check, plan};

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "memory", sql: include_str!("migrations/0001_memory.sql") },
    Migration { version: 2, name: "vector_index", sql: include_str!("migrations/0002_vector_index.sql") },
    Migration { version: 3, name: "pending_since", sql: include_str!("migrations/0003_pending_since.sql") },
    Migration { version: 4, name: "maintenance", sql: include_str!("migrations/0004_maintenance.sql") },
    Migration { version: 5, name: "operations", sql: include_str!("migrations/0005_operations.sql") },
    Migration {
        version: 6,
        name: "reading_and_forgetting",
        sql: include_str!("migrations/0006_reading_and_forgetting.sql"),
    },
    Migration { version: 7, name: "api_keys", sql: include_str!("migrations/0007_api_keys.sql") },
    Migration { version: 8, name: "jobs", sql: include_str!("migrations/0008_jobs.sql") },
    Migration { version: 9, name: "lifecycle", sql: include_str!("migrations/0009_lifecycle.sql") },
    Migration { version: 10, name: "consolidation", sql: include_str!("migrations/0010_consolidation.sql") },
    Migration { version: 11, name: "reports", sql: include_str!("migrations/0011_reports.sql") },
    Migration { version: 12, name: "topics", sql: include_str!("migrations/0012_topics.sql") },
    Migration { version: 13, name: "purges", sql: include_str!("migrations/0013_purges.sql") },
];

/// Migrates the database of a directory and nothing else; with `dry_run` only tells what would be done.
///
/// # Errors
/// As [`super::SqliteStore::open`].
pub fn migrate_only(data_dir: &Path, dry_run: bool, now: Timestamp) -> Result<MigrationReport, StoreError> {
    let path = data_dir.join(DATABASE_FILE);
    if dry_run && !path.exists() {
        return Ok(plan(MIGRATIONS, &[]));
    }
    let _lock = DirectoryLock::take(data_dir)?;
    let mut connection = connect(&path)?;
    if dry_run {
        return planned(&connection);
    }
    migrate(&mut connection, now)
}

fn planned(connection: &Connection) -> Result<MigrationReport, StoreError> {
    Ok(plan(MIGRATIONS, &check(MIGRATIONS, &applied(connection)?)?))
}

/// Names of migrations that are not applied yet.
pub(crate) fn missing(connection: &Connection) -> Result<Vec<String>, StoreError> {
    Ok(planned(connection)?.applied_now)
}

/// Brings the schema up to date.
pub(crate) fn migrate(connection: &mut Connection, now: Timestamp) -> Result<MigrationReport, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error::driver)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL
         ) STRICT;",
    )
    .map_err(error::driver)?;
    let before = check(MIGRATIONS, &applied(&tx)?)?;
    let report = plan(MIGRATIONS, &before);
    for migration in MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version)) {
        tx.execute_batch(migration.sql).map_err(error::driver)?;
        tx.execute(
            "INSERT INTO schema_migrations (version, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4)",
            (migration.version, migration.name, sha256_hex(migration.sql), now.0),
        )
        .map_err(error::driver)?;
    }
    tx.commit().map_err(error::driver)?;
    Ok(report)
}

/// What is applied; nothing in a new database.
fn applied(connection: &Connection) -> Result<Vec<Applied>, StoreError> {
    let table = "SELECT name FROM sqlite_master WHERE name = 'schema_migrations'";
    let known: Option<String> = connection.query_row(table, [], |row| row.get(0)).optional().map_err(error::driver)?;
    if known.is_none() {
        return Ok(Vec::new());
    }
    let mut statement = connection
        .prepare("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
        .map_err(error::driver)?;
    statement
        .query_map([], |row| Ok(Applied { version: row.get(0)?, name: row.get(1)?, sha256: row.get(2)? }))
        .and_then(Iterator::collect)
        .map_err(error::driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_apply_once_and_dry_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "0001_memory",
            "0002_vector_index",
            "0003_pending_since",
            "0004_maintenance",
            "0005_operations",
            "0006_reading_and_forgetting",
            "0007_api_keys",
            "0008_jobs",
            "0009_lifecycle",
            "0010_consolidation",
            "0011_reports",
            "0012_topics",
            "0013_purges",
        ];
        let planned = migrate_only(dir.path(), true, Timestamp(1)).unwrap();
        assert_eq!(planned.applied_now, names);
        assert!(!dir.path().join(DATABASE_FILE).exists());
        assert_eq!(migrate_only(dir.path(), false, Timestamp(1)).unwrap().applied_now, names);
        assert_eq!(migrate_only(dir.path(), false, Timestamp(1)).unwrap().applied_before, names);
    }

    #[test]
    fn altered_and_newer_schemas_are_refused() {
        for (sql, wanted) in [
            ("UPDATE schema_migrations SET sha256 = 'x'", "other content"),
            ("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 0)", "newer version"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            migrate_only(dir.path(), false, Timestamp(1)).unwrap();
            connect(&dir.path().join(DATABASE_FILE)).unwrap().execute(sql, []).unwrap();
            let error = migrate_only(dir.path(), false, Timestamp(1)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}

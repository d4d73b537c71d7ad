//! What both engines' migrations have in common: which are applied, which are missing, and whether to trust them.

use aionis_core::{canon::sha256_hex, ports::store::StoreError};

/// One step of a schema.
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// A step a database has seen.
pub(crate) struct Applied {
    pub(crate) version: i64,
    pub(crate) name: String,
    pub(crate) sha256: String,
}

/// What a migration run found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// Names already applied.
    pub applied_before: Vec<String>,
    /// Names applied now, or that would be.
    pub applied_now: Vec<String>,
}

impl Migration {
    pub(crate) fn full_name(&self) -> String {
        format!("{:04}_{}", self.version, self.name)
    }
}

/// Versions already applied, after their checksums were compared with ours.
pub(crate) fn check(migrations: &[Migration], applied: &[Applied]) -> Result<Vec<i64>, StoreError> {
    for Applied { version, name, sha256 } in applied {
        let Some(ours) = migrations.iter().find(|m| m.version == *version) else {
            return Err(StoreError::Driver(format!(
                "the database has migration {version:04}_{name}, which this program does not know: it was made by a \
                 newer version; use that version or a backup"
            )));
        };
        if sha256_hex(ours.sql) != *sha256 {
            return Err(StoreError::Driver(format!(
                "migration {version:04}_{name} was applied with other content than this program has: the schema cannot \
                 be trusted; use the version that made it"
            )));
        }
    }
    Ok(applied.iter().map(|applied| applied.version).collect())
}

/// What a run would find and do.
pub(crate) fn plan(migrations: &[Migration], applied: &[i64]) -> MigrationReport {
    let (before, now): (Vec<_>, Vec<_>) = migrations.iter().partition(|m| applied.contains(&m.version));
    MigrationReport {
        applied_before: before.into_iter().map(Migration::full_name).collect(),
        applied_now: now.into_iter().map(Migration::full_name).collect(),
    }
}

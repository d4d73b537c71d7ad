//! Purging a scope, inside the writing thread's transactions.

use std::collections::BTreeMap;

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    ids::ScopeKey,
    jobs::scope_purge::{PendingPurge, PurgePlan, PurgeRecord, PurgeState, PurgeStep, PurgeSurvey, SurveyedTable},
    ports::store::{PurgeStore, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    error::driver,
    forget::RESIDUE,
    rows::{digest, signed, unreadable, unsigned},
};
use crate::{
    purge::{
        OPEN, PURGES_HEAD, PURGING, ScopeTable, TABLES, of_plan, read_head, read_state, write_head, write_pending,
    },
    transfer::{IMPORTING, progress_key},
};
use aionis_image::Delta;

const RECORD_COLUMNS: &str = "seq, scope_key, plan_sha256, head_seq, head_hash, mode, row_counts, purged_by, began_at, \
                              purged_at, parent_digest, digest";

/// Whether a scope is being purged: to readers it is not there.
pub(crate) fn is_purging(connection: &Connection, scope: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM memory_scopes WHERE scope_key = ?1 AND state = 'purging'";
    connection.prepare_cached(sql).and_then(|mut statement| statement.exists([scope])).map_err(driver)
}

#[async_trait]
impl PurgeStore for SqliteStore {
    async fn purge_state(&self, scope: &ScopeKey) -> Result<PurgeState, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| match standing(connection, &scope)? {
                Some((state, pending)) => read_state(&state, pending.as_deref()),
                None => Ok(PurgeState::Absent),
            })
            .await
    }

    async fn purge_survey(&self, scope: &ScopeKey) -> Result<PurgeSurvey, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let tx = connection.unchecked_transaction().map_err(driver)?;
                let count = |table: &ScopeTable| {
                    let sql = format!("SELECT COUNT(*) FROM {} WHERE {}", table.name, table.rows_of("?1"));
                    let rows = tx.query_row(&sql, [scope.as_str()], |row| unsigned(row, 0)).map_err(driver)?;
                    Ok(SurveyedTable { table: table.name.to_owned(), rows, own_partition: false })
                };
                let tables = TABLES.iter().map(count).collect::<Result<_, StoreError>>()?;
                Ok(PurgeSurvey { head: head(&tx, &scope)?.unwrap_or_default(), tables })
            })
            .await
    }

    async fn begin_purge(
        &self,
        scope: &ScopeKey,
        plan: &PurgePlan,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (scope, head_then) = (scope.clone(), plan.head);
        let pending = write_pending(&PendingPurge::new(plan, by, now))?;
        self.writer
            .submit(move |connection, deltas| {
                let is_open = standing(connection, &scope)?.is_none_or(|(state, _)| state == OPEN);
                if !is_open || head(connection, &scope)?.unwrap_or_default() != head_then {
                    return Ok(false);
                }
                let sql = "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, created_at, \
                           updated_at, state, purge) VALUES (?1, 0, zeroblob(32), 0, 0, ?2, ?2, ?3, ?4) \
                           ON CONFLICT (scope_key) DO UPDATE SET state = excluded.state, purge = excluded.purge";
                connection.execute(sql, params![scope.as_str(), now.0, PURGING, pending]).map_err(driver)?;
                note_residue(connection)?;
                deltas.push(Delta::Purged { scope: scope.as_str().to_owned() });
                Ok(true)
            })
            .await
    }

    async fn purge_step(
        &self,
        scope: &ScopeKey,
        plan: Digest,
        rows_max: usize,
        now: Timestamp,
    ) -> Result<PurgeStep, StoreError> {
        let scope = scope.clone();
        self.writer
            .submit(move |connection, deltas| {
                let mut pending = of_plan(&scope, mark(connection, &scope)?, plan)?;
                note_residue(connection)?;
                let (mut removed, mut left) = (0, rows_max);
                while let Some(table) = TABLES.get(pending.at).filter(|_| left > 0) {
                    let rows = delete(connection, table, &scope, left)?;
                    pending.removed(table.name, rows as u64);
                    removed += rows as u64;
                    if rows < left {
                        pending.at += 1;
                    }
                    left -= rows.min(left);
                }
                if pending.at == TABLES.len() && left > 0 {
                    match first_left(connection, &scope)? {
                        None => {
                            deltas.push(Delta::Purged { scope: scope.as_str().to_owned() });
                            let done = finish(connection, &scope, &pending, now)?;
                            return Ok(PurgeStep { rows: removed, done: Some(done) });
                        }
                        Some(at) => pending.at = at,
                    }
                }
                let sql = "UPDATE memory_scopes SET purge = ?2 WHERE scope_key = ?1";
                connection.execute(sql, params![scope.as_str(), write_pending(&pending)?]).map_err(driver)?;
                Ok(PurgeStep { rows: removed, done: None })
            })
            .await
    }

    async fn purge_record(&self, scope: &ScopeKey, plan: Digest) -> Result<Option<PurgeRecord>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let sql = format!(
                    "SELECT {RECORD_COLUMNS} FROM memory_purges WHERE scope_key = ?1 AND plan_sha256 = ?2 \
                     ORDER BY seq DESC LIMIT 1"
                );
                connection
                    .query_row(&sql, params![scope.as_str(), plan.0], record)
                    .optional()
                    .map_err(|e| unreadable("memory_purges", scope.as_str(), e))
            })
            .await
    }
}

/// State of a scope and how far its purge is.
fn mark(connection: &Connection, scope: &ScopeKey) -> Result<Option<(String, Option<String>)>, StoreError> {
    let sql = "SELECT state, purge FROM memory_scopes WHERE scope_key = ?1";
    connection.query_row(sql, [scope.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(driver)
}

/// As [`mark`]; a scope with the mark of a copy that no copy is under way of counts as open. So it is left behind where its
/// tenant was moved away from, and nobody is going to finish it.
fn standing(connection: &Connection, scope: &ScopeKey) -> Result<Option<(String, Option<String>)>, StoreError> {
    let found = mark(connection, scope)?;
    if found.as_ref().is_none_or(|(state, _)| state != IMPORTING) {
        return Ok(found);
    }
    let sql = "SELECT 1 FROM aionis_meta WHERE key = ?1";
    let is_copied =
        connection.prepare_cached(sql).and_then(|mut asked| asked.exists([progress_key(scope)])).map_err(driver)?;
    Ok(if is_copied { found } else { Some((OPEN.to_owned(), None)) })
}

fn head(connection: &Connection, scope: &ScopeKey) -> Result<Option<(u64, Digest)>, StoreError> {
    let sql = "SELECT head_seq, head_hash FROM memory_scopes WHERE scope_key = ?1";
    connection
        .query_row(sql, [scope.as_str()], |row| Ok((unsigned(row, 0)?, digest(row, 1)?)))
        .optional()
        .map_err(|e| unreadable("memory_scopes", scope.as_str(), e))
}

/// What is removed is overwritten where it lies, and what may be left in the files is cleared afterwards.
fn note_residue(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("PRAGMA secure_delete = ON").map_err(driver)?;
    let sql = "INSERT INTO aionis_meta (key, value) VALUES (?1, 'true') ON CONFLICT (key) DO NOTHING";
    connection.execute(sql, [RESIDUE]).map(|_| ()).map_err(driver)
}

/// Removes at most so many rows of a table.
fn delete(connection: &Connection, table: &ScopeTable, scope: &ScopeKey, most: usize) -> Result<usize, StoreError> {
    let (name, of_scope) = (table.name, table.rows_of("?1"));
    let key = if table.key.is_empty() { "rowid" } else { table.key };
    let rows = params![scope.as_str(), signed(most as u64)];
    if name == "memory_nodes" {
        // Words are found by the number of their node, so they go first.
        let sql = "DELETE FROM memory_lexical WHERE rowid IN (SELECT node_no FROM memory_nodes WHERE scope_key = ?1 ORDER BY id \
                   LIMIT ?2)";
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(rows)).map_err(driver)?;
    }
    // Both statements take the same nodes.
    let order = if name == "memory_nodes" { " ORDER BY id" } else { "" };
    let sql = format!(
        "DELETE FROM {name} WHERE {of_scope} AND ({key}) IN (SELECT {key} FROM {name} WHERE {of_scope}{order} LIMIT ?2)"
    );
    connection.prepare_cached(&sql).and_then(|mut statement| statement.execute(rows)).map_err(driver)
}

/// Place of the first table that still has rows: what was under way when the scope was marked may have stored some.
fn first_left(connection: &Connection, scope: &ScopeKey) -> Result<Option<usize>, StoreError> {
    for (at, table) in TABLES.iter().enumerate() {
        let sql = format!("SELECT 1 FROM {} WHERE {}", table.name, table.rows_of("?1"));
        if connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.exists([scope.as_str()]))
            .map_err(driver)?
        {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn finish(
    connection: &Connection,
    scope: &ScopeKey,
    pending: &PendingPurge,
    now: Timestamp,
) -> Result<PurgeRecord, StoreError> {
    let of_chain = head(connection, scope)?.unwrap_or_default();
    let record = PurgeRecord::of(scope, of_chain, pending, newest(connection)?, now)?;
    let sql = format!(
        "INSERT INTO memory_purges ({RECORD_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    );
    let row = params![
        signed(record.seq),
        record.scope_key,
        record.plan.0,
        signed(record.head.0),
        record.head.1.0,
        record.mode,
        counts(&record.rows)?,
        record.by,
        record.began_at.0,
        record.purged_at.0,
        record.parent.0,
        record.digest.0,
    ];
    connection.execute(&sql, row).map_err(driver)?;
    let sql =
        "INSERT INTO aionis_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, (PURGES_HEAD, write_head((record.seq, record.digest)))).map_err(driver)?;
    connection.execute("DELETE FROM memory_scopes WHERE scope_key = ?1", [scope.as_str()]).map_err(driver)?;
    Ok(record)
}

fn counts(rows: &BTreeMap<String, u64>) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|e| StoreError::Driver(e.to_string()))
}

/// Number and digest of the newest record.
pub(super) fn newest(connection: &Connection) -> Result<Option<(u64, Digest)>, StoreError> {
    let sql = "SELECT value FROM aionis_meta WHERE key = ?1";
    let stored: Option<String> =
        connection.query_row(sql, [PURGES_HEAD], |row| row.get(0)).optional().map_err(driver)?;
    stored.map(|text| read_head(&text)).transpose()
}

/// Records with a number above `after`.
pub(super) fn records(connection: &Connection, after: u64, limit: usize) -> Result<Vec<PurgeRecord>, StoreError> {
    let sql = format!("SELECT {RECORD_COLUMNS} FROM memory_purges WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    connection
        .prepare(&sql)
        .and_then(|mut statement| {
            statement.query_map([signed(after), signed(limit as u64)], record).and_then(Iterator::collect)
        })
        .map_err(|e| unreadable("memory_purges", after, e))
}

fn record(row: &Row<'_>) -> rusqlite::Result<PurgeRecord> {
    let rows: String = row.get(6)?;
    let rows = serde_json::from_str(&rows)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, Box::new(e)))?;
    Ok(PurgeRecord {
        seq: unsigned(row, 0)?,
        scope_key: row.get(1)?,
        plan: digest(row, 2)?,
        head: (unsigned(row, 3)?, digest(row, 4)?),
        mode: row.get(5)?,
        rows,
        by: row.get(7)?,
        began_at: Timestamp(row.get(8)?),
        purged_at: Timestamp(row.get(9)?),
        parent: digest(row, 10)?,
        digest: digest(row, 11)?,
    })
}

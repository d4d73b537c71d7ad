//! Purging a scope: marked first, then emptied table by table in short transactions that keep how far they are.

use std::collections::BTreeMap;

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    ids::ScopeKey,
    jobs::scope_purge::{PendingPurge, PurgePlan, PurgeRecord, PurgeState, PurgeStep, PurgeSurvey, SurveyedTable},
    ports::store::{PurgeStore, StoreError},
};
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};

use super::{
    PostgresStore,
    error::driver,
    maintenance::TIMEOUT,
    rows::{digest, get, json_of, signed, unsigned},
    session::{For, Transaction, begin, literal},
    write::lock_sql,
};
use crate::{
    purge::{
        OPEN, PURGES_HEAD, PURGING, ScopeTable, TABLES, of_plan, read_head, read_state, write_head, write_pending,
    },
    transfer::{IMPORTING, progress_key},
};

/// The partition of a table that holds one scope and no other. Its bound is written by the server, so that the whole of
/// it can be compared: names that are alike, or hold signs with a meaning elsewhere, are other names.
const OWN_PARTITION: &str = "\
SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
WHERE i.inhparent = to_regclass($1)::oid AND NOT i.inhdetachpending \
    AND pg_get_expr(c.relpartbound, c.oid) = 'FOR VALUES IN (''' || replace($2, '''', '''''') || ''')' \
    AND current_setting('standard_conforming_strings') = 'on'";

/// How long a truncation waits for those who read the partition.
const LOCK_TIMEOUT_MS: u32 = 5_000;

const RECORD_COLUMNS: &str = "seq, scope_key, plan_sha256, head_seq, head_hash, mode, row_counts, purged_by, began_at, \
                              purged_at, parent_digest, digest";
const MARK: &str = "SELECT state, purge FROM memory_scopes WHERE scope_key = $1";
const MARK_HELD: &str = "SELECT s.state, s.purge FROM memory_scopes s WHERE s.scope_key = $1 FOR UPDATE";

/// Makes a transaction that reads a scope see nothing of it while it is purged; goes with BEGIN.
pub(crate) fn unless_purging(scope: &ScopeKey) -> String {
    format!(
        "SELECT set_config('aionis.tenant', '', true) FROM memory_scopes WHERE state = 'purging' AND scope_key = {}",
        literal(scope.as_str())
    )
}

/// Held by whoever stores rows of a scope without holding its head; goes with BEGIN. A purge begins when all of them are
/// done, and they ask whether it has begun.
pub(crate) fn beside_purge(scope: &ScopeKey) -> String {
    format!("SELECT pg_advisory_xact_lock_shared(hashtextextended({}, 2))", literal(scope.as_str()))
}

/// Whether a scope is being purged.
pub(crate) async fn is_purging(connection: &mut PgConnection, scope: &ScopeKey) -> Result<bool, StoreError> {
    Ok(mark(connection, MARK, scope).await?.is_some_and(|(state, _)| state == PURGING))
}

fn tables() -> impl Iterator<Item = &'static ScopeTable> {
    TABLES.iter().filter(|table| !table.embedded_only)
}

fn survey_sql() -> String {
    let count = |table: &ScopeTable| {
        let (name, of_scope) = (table.name, table.rows_of("$1"));
        format!("SELECT '{name}' AS purge_table, (SELECT count(*) FROM {name} WHERE {of_scope})")
    };
    tables().map(count).collect::<Vec<_>>().join(" UNION ALL ")
}

fn left_sql() -> String {
    let any = |table: &ScopeTable| {
        let (name, of_scope) = (table.name, table.rows_of("$1"));
        format!("SELECT '{name}' AS left_table, (SELECT 1 FROM {name} WHERE {of_scope} LIMIT 1) IS NOT NULL")
    };
    tables().map(any).collect::<Vec<_>>().join(" UNION ALL ")
}

async fn mark(
    connection: &mut PgConnection,
    sql: &'static str,
    scope: &ScopeKey,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    let row = sqlx::query(sql).bind(scope.as_str()).fetch_optional(connection).await.map_err(driver)?;
    row.map(|row| Ok((get(&row, 0)?, get(&row, 1)?))).transpose()
}

/// As [`mark`]; a scope with the mark of a copy that no copy is under way of counts as open. So it is left behind where its
/// tenant was moved away from, and nobody is going to finish it.
async fn standing(
    connection: &mut PgConnection,
    sql: &'static str,
    scope: &ScopeKey,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    let found = mark(connection, sql, scope).await?;
    if found.as_ref().is_none_or(|(state, _)| state != IMPORTING) {
        return Ok(found);
    }
    let copied = sqlx::query("SELECT 1 FROM aionis_meta WHERE key = $1").bind(progress_key(scope));
    let is_copied = copied.fetch_optional(connection).await.map_err(driver)?.is_some();
    Ok(if is_copied { found } else { Some((OPEN.to_owned(), None)) })
}

async fn head(connection: &mut PgConnection, scope: &ScopeKey) -> Result<(u64, Digest), StoreError> {
    let sql = "SELECT head_seq, head_hash, 'purge' FROM memory_scopes WHERE scope_key = $1";
    let row = sqlx::query(sql).bind(scope.as_str()).fetch_optional(connection).await.map_err(driver)?;
    row.map_or_else(|| Ok((0, Digest::default())), |row| Ok((unsigned(&row, 0)?, digest(&row, 1)?)))
}

/// Name of a table's partition that holds this scope alone, quoted where it must be.
async fn own_partition(
    connection: &mut PgConnection,
    table: &str,
    scope: &ScopeKey,
) -> Result<Option<String>, StoreError> {
    let asked = sqlx::query(OWN_PARTITION).bind(table).bind(scope.as_str());
    asked.fetch_optional(connection).await.map_err(driver)?.map(|row| get(&row, 0)).transpose()
}

impl PostgresStore {
    async fn begin_purging(&self, scope: &ScopeKey, more: &str) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Tenant(scope.tenant()), TIMEOUT, more).await
    }
}

/// Removes at most so many rows of a table.
async fn delete(
    connection: &mut PgConnection,
    table: &ScopeTable,
    scope: &ScopeKey,
    most: usize,
) -> Result<u64, StoreError> {
    let (name, of_scope) = (table.name, table.rows_of("$1"));
    // A place is one in its partition; the key is compared so that rows at the same place in another one stay.
    let sql = format!(
        "DELETE FROM {name} WHERE {of_scope} AND ctid = ANY (ARRAY(SELECT ctid FROM {name} WHERE {of_scope} LIMIT $2))"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).bind(signed(most as u64));
    rows.execute(connection).await.map(|done| done.rows_affected()).map_err(driver)
}

/// Truncates a partition that holds this scope alone. Only its owner may; everything else is done as the runtime role.
async fn truncate(
    connection: &mut PgConnection,
    table: &ScopeTable,
    partition: &str,
    scope: &ScopeKey,
) -> Result<u64, StoreError> {
    let as_owner = format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SET LOCAL ROLE NONE; LOCK TABLE {partition}");
    sqlx::raw_sql(AssertSqlSafe(as_owner)).execute(&mut *connection).await.map_err(driver)?;
    let sql = format!("SELECT count(*) FROM {} WHERE scope_key = $1", table.name);
    let rows =
        sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).fetch_one(&mut *connection).await.map_err(driver)?;
    let sql = format!("TRUNCATE {partition}; SET LOCAL ROLE aionis_runtime; SET LOCAL lock_timeout = 0");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map_err(driver)?;
    unsigned(&rows, 0)
}

/// Empties tables until so many rows are removed or a partition was truncated; returns how many were removed.
async fn empty(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    pending: &mut PendingPurge,
    rows_max: usize,
) -> Result<(u64, bool), StoreError> {
    let all: Vec<&ScopeTable> = tables().collect();
    let (mut removed, mut left) = (0, rows_max as u64);
    while let Some(table) = all.get(pending.at).filter(|_| left > 0) {
        if pending.truncated.iter().any(|name| name == table.name)
            && let Some(partition) = own_partition(connection, table.name, scope).await?
        {
            let rows = truncate(connection, table, &partition, scope).await?;
            pending.removed(table.name, rows);
            pending.at += 1;
            // Its lock is a strong one: nothing else is done while it is held.
            return Ok((removed + rows, false));
        }
        let rows = delete(connection, table, scope, usize::try_from(left).unwrap_or(usize::MAX)).await?;
        pending.removed(table.name, rows);
        removed += rows;
        if rows < left {
            pending.at += 1;
        }
        left = left.saturating_sub(rows);
    }
    Ok((removed, pending.at == all.len() && left > 0))
}

/// Place of the first table that still has rows: what was under way when the scope was marked may have stored some.
async fn first_left(connection: &mut PgConnection, scope: &ScopeKey) -> Result<Option<usize>, StoreError> {
    let asked = sqlx::query(AssertSqlSafe(left_sql())).bind(scope.as_str());
    let rows = asked.fetch_all(connection).await.map_err(driver)?;
    for row in &rows {
        if get::<bool>(row, 1)? {
            let name: &str = get(row, 0)?;
            return Ok(tables().position(|table| table.name == name));
        }
    }
    Ok(None)
}

async fn finish(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    pending: &PendingPurge,
    now: Timestamp,
) -> Result<PurgeRecord, StoreError> {
    let of_chain = head(connection, scope).await?;
    // Whoever ends a purge at the same time waits here: each record names the one before it.
    let sql = "INSERT INTO aionis_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
    let none = write_head((0, Digest::default()));
    sqlx::query(sql).bind(PURGES_HEAD).bind(none).execute(&mut *connection).await.map_err(driver)?;
    let sql = "SELECT value FROM aionis_meta WHERE key = $1 FOR UPDATE";
    let last = sqlx::query(sql).bind(PURGES_HEAD).fetch_one(&mut *connection).await.map_err(driver)?;
    let record = PurgeRecord::of(scope, of_chain, pending, Some(read_head(get(&last, 0)?)?), now)?;
    let sql = format!(
        "INSERT INTO memory_purges ({RECORD_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(signed(record.seq))
        .bind(&record.scope_key)
        .bind(record.plan.0.to_vec())
        .bind(signed(record.head.0))
        .bind(record.head.1.0.to_vec())
        .bind(&record.mode)
        .bind(counts(&record.rows)?)
        .bind(&record.by)
        .bind(record.began_at.0)
        .bind(record.purged_at.0)
        .bind(record.parent.0.to_vec())
        .bind(record.digest.0.to_vec())
        .execute(&mut *connection)
        .await
        .map_err(driver)?;
    let sql = "UPDATE aionis_meta SET value = $2 WHERE key = $1";
    let newest = write_head((record.seq, record.digest));
    sqlx::query(sql).bind(PURGES_HEAD).bind(newest).execute(&mut *connection).await.map_err(driver)?;
    let sql = "DELETE FROM memory_scopes WHERE scope_key = $1";
    sqlx::query(sql).bind(scope.as_str()).execute(connection).await.map_err(driver)?;
    Ok(record)
}

fn counts(rows: &BTreeMap<String, u64>) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|e| StoreError::Driver(e.to_string()))
}

/// Number and digest of the newest record.
pub(super) async fn newest(connection: &mut PgConnection) -> Result<Option<(u64, Digest)>, StoreError> {
    let sql = "SELECT value FROM aionis_meta WHERE key = $1";
    let row = sqlx::query(sql).bind(PURGES_HEAD).fetch_optional(connection).await.map_err(driver)?;
    row.map(|row| read_head(get(&row, 0)?)).transpose()
}

/// Records with a number above `after`.
pub(super) async fn records(
    connection: &mut PgConnection,
    after: u64,
    limit: usize,
) -> Result<Vec<PurgeRecord>, StoreError> {
    let sql = format!("SELECT {RECORD_COLUMNS} FROM memory_purges WHERE seq > $1 ORDER BY seq LIMIT $2");
    let asked = sqlx::query(AssertSqlSafe(sql)).bind(signed(after)).bind(signed(limit as u64));
    asked.fetch_all(connection).await.map_err(driver)?.iter().map(record).collect()
}

fn record(row: &PgRow) -> Result<PurgeRecord, StoreError> {
    let rows = json_of(get(row, 6)?)?;
    Ok(PurgeRecord {
        seq: unsigned(row, 0)?,
        scope_key: get(row, 1)?,
        plan: digest(row, 2)?,
        head: (unsigned(row, 3)?, digest(row, 4)?),
        mode: get(row, 5)?,
        rows: serde_json::from_value(rows).map_err(|e| StoreError::Driver(format!("memory_purges.row_counts: {e}")))?,
        by: get(row, 7)?,
        began_at: Timestamp(get(row, 8)?),
        purged_at: Timestamp(get(row, 9)?),
        parent: digest(row, 10)?,
        digest: digest(row, 11)?,
    })
}

#[async_trait]
impl PurgeStore for PostgresStore {
    async fn purge_state(&self, scope: &ScopeKey) -> Result<PurgeState, StoreError> {
        let mut tx = self.begin_purging(scope, "").await?;
        match standing(&mut tx, MARK, scope).await? {
            Some((state, pending)) => read_state(&state, pending.as_deref()),
            None => Ok(PurgeState::Absent),
        }
    }

    async fn purge_survey(&self, scope: &ScopeKey) -> Result<PurgeSurvey, StoreError> {
        let mut tx = self.begin_purging(scope, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let head = head(&mut tx, scope).await?;
        let counted = sqlx::query(AssertSqlSafe(survey_sql())).bind(scope.as_str());
        let rows = counted.fetch_all(&mut *tx).await.map_err(driver)?;
        let mut surveyed = Vec::with_capacity(rows.len());
        for row in &rows {
            let table: String = get(row, 0)?;
            let own_partition = own_partition(&mut tx, &table, scope).await?.is_some();
            surveyed.push(SurveyedTable { table, rows: unsigned(row, 1)?, own_partition });
        }
        Ok(PurgeSurvey { head, tables: surveyed })
    }

    async fn begin_purge(
        &self,
        scope: &ScopeKey,
        plan: &PurgePlan,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let alone = format!("SELECT pg_advisory_xact_lock(hashtextextended({}, 2))", literal(scope.as_str()));
        let lock = format!("{alone}; {}", lock_sql(std::iter::once(scope), now));
        let mut tx = self.begin_purging(scope, &lock).await?;
        let is_open = standing(&mut tx, MARK, scope).await?.is_some_and(|(state, _)| state == OPEN);
        if !is_open || head(&mut tx, scope).await? != plan.head {
            tx.rollback().await.map_err(driver)?;
            return Ok(false);
        }
        let pending = write_pending(&PendingPurge::new(plan, by, now))?;
        let sql = "UPDATE memory_scopes SET state = $2, purge = $3, change_no = 1 + change_no WHERE scope_key = $1 \
                   RETURNING change_no";
        let marked = sqlx::query(sql).bind(scope.as_str()).bind(PURGING).bind(pending);
        let change_no = get(&marked.fetch_one(&mut *tx).await.map_err(driver)?, 0)?;
        tx.commit().await.map_err(driver)?;
        self.shared.images.note(scope, change_no);
        self.shared.wake.committed(false);
        Ok(true)
    }

    async fn purge_step(
        &self,
        scope: &ScopeKey,
        plan: Digest,
        rows_max: usize,
        now: Timestamp,
    ) -> Result<PurgeStep, StoreError> {
        let mut tx = self.begin_purging(scope, "").await?;
        let mut pending = of_plan(scope, mark(&mut tx, MARK_HELD, scope).await?, plan)?;
        let (rows, is_end) = empty(&mut tx, scope, &mut pending, rows_max).await?;
        let mut done = None;
        if is_end {
            match first_left(&mut tx, scope).await? {
                None => done = Some(finish(&mut tx, scope, &pending, now).await?),
                Some(at) => pending.at = at,
            }
        }
        if done.is_none() {
            let sql = "UPDATE memory_scopes SET purge = $2 WHERE scope_key = $1";
            let kept = sqlx::query(sql).bind(scope.as_str()).bind(write_pending(&pending)?);
            kept.execute(&mut *tx).await.map_err(driver)?;
        }
        tx.commit().await.map_err(driver)?;
        Ok(PurgeStep { rows, done })
    }

    async fn purge_record(&self, scope: &ScopeKey, plan: Digest) -> Result<Option<PurgeRecord>, StoreError> {
        let mut tx = self.begin_purging(scope, "").await?;
        let sql = format!(
            "SELECT {RECORD_COLUMNS} FROM memory_purges WHERE scope_key = $1 AND plan_sha256 = $2 ORDER BY seq DESC LIMIT 1"
        );
        let asked = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).bind(plan.0.to_vec());
        asked.fetch_optional(&mut *tx).await.map_err(driver)?.as_ref().map(record).transpose()
    }
}

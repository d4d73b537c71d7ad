//! Leases, cursors and the history of jobs.

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::{BeginRun, Begun, EndRun, JobRun, RunLease, RunQuery, RunStatus, Target},
    ports::store::{JobStore, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::Value;

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, choice, json, signed, unreadable, unsigned, uuid},
};
use crate::jobs::{left_open, not_begun};

const TAKE: &str = "INSERT INTO job_states (scope_key, job, holder, fence, lease_until, cursor, last_started_at) \
                    VALUES (?1, ?2, ?3, 1, ?4, NULL, ?5) \
                    ON CONFLICT (scope_key, job) DO UPDATE SET holder = excluded.holder, fence = job_states.fence + 1, \
                        lease_until = excluded.lease_until, last_started_at = excluded.last_started_at \
                    WHERE (job_states.lease_until IS NULL OR job_states.lease_until <= ?5) \
                        AND (?6 IS NULL OR job_states.last_started_at < ?6 OR job_states.lease_until IS NOT NULL) \
                    RETURNING fence, cursor";
const STARTED: &str = "INSERT INTO job_states (scope_key, job, fence, last_started_at) VALUES (?1, ?2, 0, ?3) \
                       ON CONFLICT (scope_key, job) DO UPDATE SET last_started_at = excluded.last_started_at \
                       WHERE ?4 IS NULL OR job_states.last_started_at < ?4";
const LOSE: &str = "UPDATE job_runs SET status = 'lost', finished_at = ?3 \
                    WHERE scope_key = ?1 AND job = ?2 AND status = 'running' AND dry_run = 0";
const NOTE: &str = "INSERT INTO job_runs (scope_key, id, job, holder, dry_run, status, params, started_at) \
                    VALUES (?1, ?2, ?3, ?4, ?5, 'running', ?6, ?7)";
const KEEP: &str = "UPDATE job_states SET lease_until = ?4, cursor = COALESCE(?5, cursor) \
                    WHERE scope_key = ?1 AND job = ?2 AND fence = ?3";
const GIVE_BACK: &str = "UPDATE job_states SET lease_until = ?5, cursor = ?4 \
                         WHERE scope_key = ?1 AND job = ?2 AND fence = ?3";
const END: &str = "UPDATE job_runs SET status = ?3, result = ?4, error = ?5, finished_at = ?6 \
                   WHERE scope_key = ?1 AND id = ?2 AND status = 'running'";
const DUE: &str = "SELECT s.scope_key FROM memory_scopes s \
                   LEFT JOIN job_states j ON j.scope_key = s.scope_key AND j.job = ?1 \
                   WHERE s.state = 'open' AND (j.last_started_at IS NULL OR j.last_started_at < ?2 OR j.lease_until <= ?3) \
                       AND (j.lease_until IS NULL OR j.lease_until <= ?3) \
                       AND (NOT ?4 OR j.last_started_at IS NULL OR j.cursor IS NOT NULL \
                           OR j.lease_until IS NOT NULL OR s.updated_at > j.last_started_at) \
                   ORDER BY j.last_started_at NULLS FIRST, s.scope_key LIMIT ?5";
const MAKE_DUE: &str = "UPDATE job_states SET last_started_at = 0 WHERE scope_key = ?1 AND job = ?2";
const RUNS: &str = "SELECT scope_key, id, job, holder, dry_run, status, params, result, error, started_at, finished_at \
                    FROM job_runs WHERE (:job IS NULL OR job = :job) \
                        AND (:tenant IS NULL OR substr(scope_key, 1, length(:tenant) + 1) = :tenant || '/') \
                        AND (:target IS NULL OR scope_key = :target) \
                    ORDER BY started_at DESC, id DESC LIMIT :limit";

#[async_trait]
impl JobStore for SqliteStore {
    async fn begin_run(&self, begin: BeginRun) -> Result<Begun, StoreError> {
        self.writer.submit(move |connection, _| begin_run(connection, &begin)).await
    }

    async fn keep_run(&self, lease: &RunLease, until: Timestamp, cursor: Option<&Value>) -> Result<bool, StoreError> {
        let (lease, cursor) = (lease.clone(), cursor.map(Value::to_string));
        self.writer
            .submit(move |connection, _| {
                let row = params![lease.target.key(), lease.job, signed(lease.fence), until.0, cursor];
                connection.execute(KEEP, row).map(|rows| rows > 0).map_err(driver)
            })
            .await
    }

    async fn end_run(&self, lease: &RunLease, end: EndRun) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.writer
            .submit(move |connection, _| {
                if lease.fence > 0 {
                    let cursor = end.cursor.as_ref().map(Value::to_string);
                    let row = params![lease.target.key(), lease.job, signed(lease.fence), cursor, left_open(&end)];
                    if connection.execute(GIVE_BACK, row).map_err(driver)? == 0 {
                        return Ok(false);
                    }
                }
                let (status, result) = (end.status.as_str(), end.result.to_string());
                let row = params![lease.target.key(), blob(lease.run), status, result, end.error, end.now.0];
                connection.execute(END, row).map(|rows| rows > 0).map_err(driver)
            })
            .await
    }

    async fn due_scopes(
        &self,
        job: &str,
        before: Timestamp,
        now: Timestamp,
        only_changed: bool,
        limit: usize,
    ) -> Result<Vec<ScopeKey>, StoreError> {
        let job = job.to_owned();
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(DUE).map_err(driver)?;
                let row = params![job, before.0, now.0, only_changed, signed(limit as u64)];
                let keys = statement.query_map(row, |row| row.get::<_, String>(0)).map_err(driver)?;
                keys.map(|key| Ok(ScopeKey::from_stored(&key.map_err(driver)?)?)).collect()
            })
            .await
    }

    async fn make_due(&self, job: &str, scope: &ScopeKey) -> Result<(), StoreError> {
        let (job, scope) = (job.to_owned(), scope.clone());
        self.writer
            .submit(move |connection, _| {
                connection.execute(MAKE_DUE, params![scope.as_str(), job]).map(|_| ()).map_err(driver)
            })
            .await
    }

    async fn last_deployment_run(&self, job: &str) -> Result<Option<Timestamp>, StoreError> {
        let job = job.to_owned();
        self.readers
            .run(move |connection| {
                let sql = "SELECT last_started_at FROM job_states WHERE scope_key = '' AND job = ?1";
                connection.query_row(sql, [job], |row| row.get(0).map(Timestamp)).optional().map_err(driver)
            })
            .await
    }

    async fn job_runs(&self, query: &RunQuery) -> Result<Vec<JobRun>, StoreError> {
        let query = query.clone();
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(RUNS).map_err(driver)?;
                let row = named_params! {
                    ":job": query.job, ":tenant": query.tenant, ":target": query.target.as_ref().map(Target::key),
                    ":limit": signed(query.limit as u64),
                };
                statement.query_map(row, job_run).and_then(Iterator::collect).map_err(|e| unreadable("job_runs", "", e))
            })
            .await
    }
}

fn begin_run(connection: &Connection, begin: &BeginRun) -> Result<Begun, StoreError> {
    let (key, job, now) = (begin.target.key(), &begin.job, begin.now.0);
    let due_before = begin.due_before.map(|at| at.0);
    let begun = match begin.lease.filter(|_| !begin.dry_run) {
        None => {
            if !begin.dry_run && connection.execute(STARTED, params![key, job, now, due_before]).map_err(driver)? == 0 {
                return Ok(Begun::NotDue);
            }
            Begun::Yes { fence: 0, cursor: None }
        }
        Some(lease) => {
            let until = now.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX));
            let taken = connection.query_row(TAKE, params![key, job, begin.holder, until, now, due_before], |row| {
                let cursor = row.get::<_, Option<String>>(1)?.map(|_| json(row, 1)).transpose()?;
                Ok((unsigned(row, 0)?, cursor))
            });
            let Some((fence, cursor)) = taken.optional().map_err(|e| unreadable("job_states", key, e))? else {
                let sql = "SELECT holder, lease_until FROM job_states WHERE scope_key = ?1 AND job = ?2";
                let held = connection.query_row(sql, params![key, job], |row| {
                    Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<i64>>(1)?.map(Timestamp)))
                });
                return Ok(not_begun(held.map_err(|e| unreadable("job_states", key, e))?, begin.now));
            };
            connection.execute(LOSE, params![key, job, now]).map_err(driver)?;
            Begun::Yes { fence, cursor }
        }
    };
    let params = begin.params.to_string();
    let note = params![key, blob(begin.run), job, begin.holder, begin.dry_run, params, now];
    connection.execute(NOTE, note).map_err(driver)?;
    Ok(begun)
}

fn job_run(row: &Row<'_>) -> rusqlite::Result<JobRun> {
    Ok(JobRun {
        target: choice(row, 0, |key| Target::from_stored(key).ok())?,
        run: uuid(row, 1)?,
        job: row.get(2)?,
        holder: row.get(3)?,
        dry_run: row.get(4)?,
        status: choice(row, 5, RunStatus::parse)?,
        params: json(row, 6)?,
        result: row.get::<_, Option<String>>(7)?.map(|_| json(row, 7)).transpose()?,
        error: row.get(8)?,
        started_at: Timestamp(row.get(9)?),
        finished_at: row.get::<_, Option<i64>>(10)?.map(Timestamp),
    })
}

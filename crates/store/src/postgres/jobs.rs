//! Leases, cursors and the history of jobs.

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::{BeginRun, Begun, EndRun, JobRun, RunLease, RunQuery, RunStatus, Target},
    ports::store::{JobStore, StoreError},
};
use async_trait::async_trait;
use serde_json::Value;
use sqlx::postgres::PgRow;

use super::{
    PostgresStore,
    error::driver,
    rows::{choice, get, json_of, signed, unsigned},
    session::{For, Transaction, begin},
};
use crate::jobs::{left_open, not_begun};

const TAKE: &str = "INSERT INTO job_states (scope_key, job, holder, fence, lease_until, cursor, last_started_at) \
                    VALUES ($1, $2, $3, 1, $4, NULL, $5) \
                    ON CONFLICT (scope_key, job) DO UPDATE SET holder = excluded.holder, fence = job_states.fence + 1, \
                        lease_until = excluded.lease_until, last_started_at = excluded.last_started_at \
                    WHERE (job_states.lease_until IS NULL OR job_states.lease_until <= $5) \
                        AND ($6::bigint IS NULL OR job_states.last_started_at < $6 OR job_states.lease_until IS NOT NULL) \
                    RETURNING fence, cursor::text";
const HELD: &str = "SELECT holder, lease_until FROM job_states WHERE scope_key = $1 AND job = $2";
const STARTED: &str = "INSERT INTO job_states (scope_key, job, fence, last_started_at) VALUES ($1, $2, 0, $3) \
                       ON CONFLICT (scope_key, job) DO UPDATE SET last_started_at = excluded.last_started_at \
                       WHERE $4::bigint IS NULL OR job_states.last_started_at < $4";
const LOSE: &str = "UPDATE job_runs SET status = 'lost', finished_at = $3 \
                    WHERE scope_key = $1 AND job = $2 AND status = 'running' AND NOT dry_run";
const NOTE: &str = "INSERT INTO job_runs (scope_key, id, job, holder, dry_run, status, params, started_at) \
                    VALUES ($1, $2, $3, $4, $5, 'running', $6::jsonb, $7)";
const KEEP: &str = "UPDATE job_states SET lease_until = $4, cursor = coalesce($5::jsonb, cursor) \
                    WHERE scope_key = $1 AND job = $2 AND fence = $3";
const GIVE_BACK: &str = "UPDATE job_states SET lease_until = $5, cursor = $4::jsonb \
                         WHERE scope_key = $1 AND job = $2 AND fence = $3";
const END: &str = "UPDATE job_runs SET status = $3, result = $4::jsonb, error = $5, finished_at = $6 \
                   WHERE scope_key = $1 AND id = $2 AND status = 'running'";
const DUE: &str = "SELECT s.scope_key FROM memory_scopes s \
                   LEFT JOIN job_states j ON j.scope_key = s.scope_key AND j.job = $1 \
                   WHERE s.state = 'open' AND (j.last_started_at IS NULL OR j.last_started_at < $2 OR j.lease_until <= $3) \
                       AND (j.lease_until IS NULL OR j.lease_until <= $3) \
                       AND (NOT $4 OR j.last_started_at IS NULL OR j.cursor IS NOT NULL \
                           OR j.lease_until IS NOT NULL OR s.updated_at > j.last_started_at) \
                   ORDER BY j.last_started_at NULLS FIRST, s.scope_key LIMIT $5";
const LAST: &str = "SELECT last_started_at FROM job_states WHERE scope_key = '' AND job = $1";
const MAKE_DUE: &str = "UPDATE job_states SET last_started_at = 0 WHERE scope_key = $1 AND job = $2";
const RUNS: &str = "SELECT scope_key, id, job, holder, dry_run, status, params::text, result::text, error, started_at, \
                        finished_at FROM job_runs WHERE ($1::text IS NULL OR job = $1) \
                        AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR scope_key = $3) \
                    ORDER BY started_at DESC, id DESC LIMIT $4";

impl PostgresStore {
    async fn begin_job(&self, target: &Target) -> Result<Transaction, StoreError> {
        let whose = target.tenant().map_or(For::Everyone, For::Tenant);
        begin(&self.shared.pool, whose, self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl JobStore for PostgresStore {
    async fn begin_run(&self, asked: BeginRun) -> Result<Begun, StoreError> {
        let (key, now) = (asked.target.key(), asked.now.0);
        let mut tx = self.begin_job(&asked.target).await?;
        let due_before = asked.due_before.map(|at| at.0);
        let mut begun = Begun::Yes { fence: 0, cursor: None };
        if let Some(lease) = asked.lease.filter(|_| !asked.dry_run) {
            let until = now.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX));
            let take = sqlx::query(TAKE).bind(key).bind(&asked.job).bind(&asked.holder).bind(until).bind(now);
            let take = take.bind(due_before);
            let Some(taken) = take.fetch_optional(&mut *tx).await.map_err(driver)? else {
                let held = sqlx::query(HELD).bind(key).bind(&asked.job);
                let held = held.fetch_one(&mut *tx).await.map_err(driver)?;
                let held = (get(&held, 0)?, get::<Option<i64>>(&held, 1)?.map(Timestamp));
                return Ok(not_begun(held, asked.now));
            };
            let cursor = get::<Option<String>>(&taken, 1)?.map(|text| json_of(&text)).transpose()?;
            begun = Begun::Yes { fence: unsigned(&taken, 0)?, cursor };
            let lose = sqlx::query(LOSE).bind(key).bind(&asked.job).bind(now);
            lose.execute(&mut *tx).await.map_err(driver)?;
        } else if !asked.dry_run {
            let started = sqlx::query(STARTED).bind(key).bind(&asked.job).bind(now).bind(due_before);
            if started.execute(&mut *tx).await.map_err(driver)?.rows_affected() == 0 {
                return Ok(Begun::NotDue);
            }
        }
        let note = sqlx::query(NOTE).bind(key).bind(asked.run).bind(&asked.job).bind(&asked.holder).bind(asked.dry_run);
        note.bind(asked.params.to_string()).bind(now).execute(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        Ok(begun)
    }

    async fn keep_run(&self, lease: &RunLease, until: Timestamp, cursor: Option<&Value>) -> Result<bool, StoreError> {
        let mut tx = self.begin_job(&lease.target).await?;
        let keep = sqlx::query(KEEP).bind(lease.target.key()).bind(&lease.job).bind(signed(lease.fence));
        let keep = keep.bind(until.0).bind(cursor.map(Value::to_string));
        let kept = keep.execute(&mut *tx).await.map_err(driver)?.rows_affected() > 0;
        tx.commit().await.map_err(driver)?;
        Ok(kept)
    }

    async fn end_run(&self, lease: &RunLease, end: EndRun) -> Result<bool, StoreError> {
        let key = lease.target.key();
        let mut tx = self.begin_job(&lease.target).await?;
        if lease.fence > 0 {
            let back = sqlx::query(GIVE_BACK).bind(key).bind(&lease.job).bind(signed(lease.fence));
            let back = back.bind(end.cursor.as_ref().map(Value::to_string)).bind(left_open(&end));
            if back.execute(&mut *tx).await.map_err(driver)?.rows_affected() == 0 {
                return Ok(false);
            }
        }
        let note = sqlx::query(END).bind(key).bind(lease.run).bind(end.status.as_str()).bind(end.result.to_string());
        let note = note.bind(&end.error).bind(end.now.0);
        let noted = note.execute(&mut *tx).await.map_err(driver)?.rows_affected() > 0;
        tx.commit().await.map_err(driver)?;
        Ok(noted)
    }

    async fn due_scopes(
        &self,
        job: &str,
        before: Timestamp,
        now: Timestamp,
        only_changed: bool,
        limit: usize,
    ) -> Result<Vec<ScopeKey>, StoreError> {
        let mut tx = self.begin_job(&Target::Deployment).await?;
        let due = sqlx::query(DUE).bind(job).bind(before.0).bind(now.0).bind(only_changed).bind(signed(limit as u64));
        let rows = due.fetch_all(&mut *tx).await.map_err(driver)?;
        rows.iter().map(|row| Ok(ScopeKey::from_stored(get(row, 0)?)?)).collect()
    }

    async fn make_due(&self, job: &str, scope: &ScopeKey) -> Result<(), StoreError> {
        let mut tx = self.begin_job(&Target::Scope(scope.clone())).await?;
        sqlx::query(MAKE_DUE).bind(scope.as_str()).bind(job).execute(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)
    }

    async fn last_deployment_run(&self, job: &str) -> Result<Option<Timestamp>, StoreError> {
        let mut tx = self.begin_job(&Target::Deployment).await?;
        let found = sqlx::query(LAST).bind(job).fetch_optional(&mut *tx).await.map_err(driver)?;
        found.map(|row| Ok(Timestamp(get(&row, 0)?))).transpose()
    }

    async fn job_runs(&self, query: &RunQuery) -> Result<Vec<JobRun>, StoreError> {
        let whose = query.tenant.as_deref().map_or(For::Everyone, For::Tenant);
        let mut tx = begin(&self.shared.pool, whose, self.shared.options.statement_timeout, "").await?;
        let runs = sqlx::query(RUNS).bind(&query.job).bind(&query.tenant).bind(query.target.as_ref().map(Target::key));
        let rows = runs.bind(signed(query.limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
        rows.iter().map(job_run).collect()
    }
}

fn job_run(row: &PgRow) -> Result<JobRun, StoreError> {
    Ok(JobRun {
        target: Target::from_stored(get(row, 0)?)?,
        run: get(row, 1)?,
        job: get(row, 2)?,
        holder: get(row, 3)?,
        dry_run: get(row, 4)?,
        status: choice(row, 5, RunStatus::parse)?,
        params: json_of(get(row, 6)?)?,
        result: get::<Option<String>>(row, 7)?.map(|text| json_of(&text)).transpose()?,
        error: get(row, 8)?,
        started_at: Timestamp(get(row, 9)?),
        finished_at: get::<Option<i64>>(row, 10)?.map(Timestamp),
    })
}

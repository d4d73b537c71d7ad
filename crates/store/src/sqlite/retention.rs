//! Removing what is kept for a while only.

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    jobs::retention::{DecisionPlace, Expiring},
    ports::store::{ExpiredDecisions, RetentionStore, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, signed, unreadable, unsigned, uuid},
};

const OUTBOX: &str = "DELETE FROM memory_outbox WHERE outbox_no IN (SELECT outbox_no FROM memory_outbox \
                      WHERE published_at < ?1 ORDER BY published_at LIMIT ?2)";
const AUDITS: &str = "DELETE FROM memory_recall_audit WHERE audit_no IN (SELECT audit_no FROM memory_recall_audit \
                      WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)";
const RUNS: &str = "DELETE FROM job_runs WHERE (scope_key, id) IN (SELECT scope_key, id FROM job_runs \
                    WHERE started_at < ?1 AND finished_at < ?1 ORDER BY started_at LIMIT ?2)";
const OLD_DECISIONS: &str = "\
SELECT d.created_at, d.scope_key, d.id, d.commit_seq IS NULL AND NOT EXISTS ( \
    SELECT 1 FROM memory_rule_feedback f WHERE f.scope_key = d.scope_key AND f.decision_id = d.id) \
FROM memory_decisions d WHERE d.created_at < ?1 AND (d.created_at, d.scope_key, d.id) > (?2, ?3, ?4) \
ORDER BY d.created_at, d.scope_key, d.id LIMIT ?5";
const COUNT_OUTBOX: &str = "SELECT count(*) FROM memory_outbox WHERE published_at < ?1";
const COUNT_AUDITS: &str = "SELECT count(*) FROM memory_recall_audit WHERE created_at < ?1";
const COUNT_RUNS: &str = "SELECT count(*) FROM job_runs WHERE started_at < ?1 AND finished_at < ?1";
const COUNT_DECISIONS: &str = "\
SELECT count(*) FROM memory_decisions d WHERE d.created_at < ?1 AND d.commit_seq IS NULL AND NOT EXISTS ( \
    SELECT 1 FROM memory_rule_feedback f WHERE f.scope_key = d.scope_key AND f.decision_id = d.id)";

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn expiring(&self, kind: Expiring, before: Timestamp) -> Result<u64, StoreError> {
        let sql = match kind {
            Expiring::Outbox => COUNT_OUTBOX,
            Expiring::RecallAudit => COUNT_AUDITS,
            Expiring::Decisions => COUNT_DECISIONS,
            Expiring::JobRuns => COUNT_RUNS,
        };
        self.readers
            .run(move |connection| connection.query_row(sql, [before.0], |row| unsigned(row, 0)).map_err(driver))
            .await
    }

    async fn expire(&self, kind: Expiring, before: Timestamp, limit: usize) -> Result<u64, StoreError> {
        let sql = match kind {
            Expiring::Outbox => OUTBOX,
            Expiring::RecallAudit => AUDITS,
            Expiring::JobRuns => RUNS,
            Expiring::Decisions => return Err(DomainError::internal("decisions are removed page by page").into()),
        };
        self.writer
            .submit(move |connection, _| {
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                statement.execute((before.0, signed(limit as u64))).map(|rows| rows as u64).map_err(driver)
            })
            .await
    }

    async fn expire_decisions(
        &self,
        before: Timestamp,
        after: Option<&DecisionPlace>,
        limit: usize,
    ) -> Result<ExpiredDecisions, StoreError> {
        let after = after.cloned();
        self.writer
            .submit(move |connection, _| {
                let page = old_decisions(connection, before, after.as_ref(), limit)?;
                let sql = "DELETE FROM memory_decisions WHERE scope_key = ?1 AND id = ?2";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                let mut gone = ExpiredDecisions::default();
                for (place, free) in &page {
                    if *free {
                        statement.execute((&place.scope_key, blob(place.id))).map_err(driver)?;
                        gone.removed += 1;
                    } else {
                        gone.kept += 1;
                    }
                }
                gone.next = page.last().filter(|_| page.len() == limit).map(|(place, _)| place.clone());
                Ok(gone)
            })
            .await
    }
}

fn old_decisions(
    connection: &Connection,
    before: Timestamp,
    after: Option<&DecisionPlace>,
    limit: usize,
) -> Result<Vec<(DecisionPlace, bool)>, StoreError> {
    let (at, scope_key, id) =
        after.map_or((i64::MIN, "", Uuid::nil()), |place| (place.at.0, place.scope_key.as_str(), place.id));
    let mut statement = connection.prepare_cached(OLD_DECISIONS).map_err(driver)?;
    statement
        .query_map(params![before.0, at, scope_key, blob(id), signed(limit as u64)], |row| {
            let place = DecisionPlace { at: Timestamp(row.get(0)?), scope_key: row.get(1)?, id: uuid(row, 2)? };
            Ok((place, row.get(3)?))
        })
        .and_then(Iterator::collect)
        .map_err(|e| unreadable("memory_decisions", "page", e))
}

//! Removing what is kept for a while only.

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    jobs::retention::{DecisionPlace, Expiring},
    ports::store::{ExpiredDecisions, RetentionStore, StoreError},
};
use async_trait::async_trait;
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    rows::{get, signed, unsigned},
    session::{For, Transaction, begin},
};

// Other processes do the same: each takes other rows.
const OUTBOX: &str = "\
WITH published AS ( \
    SELECT scope_key, id FROM memory_outbox WHERE published_at < $1 ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED \
) \
DELETE FROM memory_outbox r USING published o \
WHERE r.scope_key = o.scope_key AND r.id = o.id AND r.published_at < $1";
const AUDITS: &str = "\
WITH noted AS ( \
    SELECT scope_key, id FROM memory_recall_audit WHERE created_at < $1 ORDER BY created_at LIMIT $2 \
    FOR UPDATE SKIP LOCKED \
) \
DELETE FROM memory_recall_audit r USING noted o WHERE r.scope_key = o.scope_key AND r.id = o.id";
const RUNS: &str = "\
WITH ended AS ( \
    SELECT scope_key, id FROM job_runs WHERE started_at < $1 AND finished_at < $1 ORDER BY started_at LIMIT $2 \
    FOR UPDATE SKIP LOCKED \
) \
DELETE FROM job_runs r USING ended o WHERE r.scope_key = o.scope_key AND r.id = o.id";
const OLD_DECISIONS: &str = "\
SELECT d.created_at, d.scope_key, d.id, d.commit_seq IS NULL AND f.found IS NULL \
FROM (SELECT * FROM memory_decisions WHERE created_at < $1 AND (created_at, scope_key, id) > ($2, $3, $4::uuid) \
    ORDER BY created_at, scope_key, id LIMIT $5) d \
LEFT JOIN LATERAL (SELECT true AS found FROM memory_rule_feedback \
    WHERE decision_id = d.id AND scope_key = d.scope_key LIMIT 1) f ON true \
ORDER BY d.created_at, d.scope_key, d.id";
/// Feedback on a decision is given under the lock of its scope, which is held here: none comes in between.
const DECISIONS: &str = "\
DELETE FROM memory_decisions r USING ( \
    SELECT d.scope_key, d.id FROM UNNEST($2::uuid[]) AS q (id) \
    CROSS JOIN LATERAL (SELECT scope_key, id FROM memory_decisions \
        WHERE scope_key = $1 AND id = q.id AND created_at < $3 AND commit_seq IS NULL LIMIT 1) d \
    LEFT JOIN LATERAL (SELECT true AS found FROM memory_rule_feedback \
        WHERE decision_id = q.id AND scope_key = $1 LIMIT 1) f ON true \
    WHERE f.found IS NULL) o \
WHERE r.scope_key = o.scope_key AND r.id = o.id";
const COUNT_OUTBOX: &str = "SELECT count(*) FROM memory_outbox WHERE published_at < $1";
const COUNT_AUDITS: &str = "SELECT count(*) FROM memory_recall_audit WHERE created_at < $1";
const COUNT_RUNS: &str = "SELECT count(*) FROM job_runs WHERE started_at < $1 AND finished_at < $1";
const COUNT_DECISIONS: &str = "\
SELECT count(*) FROM memory_decisions r \
LEFT JOIN LATERAL (SELECT true AS found FROM memory_rule_feedback \
    WHERE decision_id = r.id AND scope_key = r.scope_key LIMIT 1) f ON true \
WHERE r.created_at < $1 AND r.commit_seq IS NULL AND f.found IS NULL";

impl PostgresStore {
    async fn begin_retention(&self, whose: For<'_>) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, whose, self.shared.options.statement_timeout, "").await
    }

    /// Removes decisions of one scope that are still old and named by no feedback.
    async fn remove_decisions(&self, rows: &[(DecisionPlace, bool)], before: Timestamp) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = rows.iter().filter(|(_, free)| *free).map(|(place, _)| place.id).collect();
        let Some((first, _)) = rows.first().filter(|_| !ids.is_empty()) else { return Ok(0) };
        let scope = first.scope()?;
        let mut tx = self.begin_retention(For::Tenant(scope.tenant())).await?;
        let hold = "SELECT 1 FROM memory_scopes WHERE scope_key = $1 FOR UPDATE";
        sqlx::query(hold).bind(scope.as_str()).execute(&mut *tx).await.map_err(driver)?;
        let remove = sqlx::query(DECISIONS).bind(scope.as_str()).bind(ids).bind(before.0);
        let removed = remove.execute(&mut *tx).await.map_err(driver)?.rows_affected();
        tx.commit().await.map_err(driver)?;
        Ok(removed)
    }
}

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn expiring(&self, kind: Expiring, before: Timestamp) -> Result<u64, StoreError> {
        let sql = match kind {
            Expiring::Outbox => COUNT_OUTBOX,
            Expiring::RecallAudit => COUNT_AUDITS,
            Expiring::Decisions => COUNT_DECISIONS,
            Expiring::JobRuns => COUNT_RUNS,
        };
        let mut tx = self.begin_retention(For::Everyone).await?;
        let row = sqlx::query(sql).bind(before.0).fetch_one(&mut *tx).await.map_err(driver)?;
        unsigned(&row, 0)
    }

    async fn expire(&self, kind: Expiring, before: Timestamp, limit: usize) -> Result<u64, StoreError> {
        let sql = match kind {
            Expiring::Outbox => OUTBOX,
            Expiring::RecallAudit => AUDITS,
            Expiring::JobRuns => RUNS,
            Expiring::Decisions => return Err(DomainError::internal("decisions are removed page by page").into()),
        };
        let mut tx = self.begin_retention(For::Everyone).await?;
        let remove = sqlx::query(sql).bind(before.0).bind(signed(limit as u64));
        let removed = remove.execute(&mut *tx).await.map_err(driver)?.rows_affected();
        tx.commit().await.map_err(driver)?;
        Ok(removed)
    }

    async fn expire_decisions(
        &self,
        before: Timestamp,
        after: Option<&DecisionPlace>,
        limit: usize,
    ) -> Result<ExpiredDecisions, StoreError> {
        let (at, scope_key, id) =
            after.map_or((i64::MIN, "", Uuid::nil()), |place| (place.at.0, &place.scope_key, place.id));
        let mut tx = self.begin_retention(For::Everyone).await?;
        let page = sqlx::query(OLD_DECISIONS).bind(before.0).bind(at).bind(scope_key).bind(id);
        let rows = page.bind(signed(limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        let mut rows: Vec<(DecisionPlace, bool)> = rows
            .iter()
            .map(|row| {
                let place = DecisionPlace { at: Timestamp(get(row, 0)?), scope_key: get(row, 1)?, id: get(row, 2)? };
                Ok((place, get(row, 3)?))
            })
            .collect::<Result<_, StoreError>>()?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|(place, _)| place.clone());
        rows.sort_by(|(a, _), (b, _)| a.scope_key.cmp(&b.scope_key));
        let mut removed = 0;
        for of_scope in rows.chunk_by(|(a, _), (b, _)| a.scope_key == b.scope_key) {
            removed += self.remove_decisions(of_scope, before).await?;
        }
        Ok(ExpiredDecisions { removed, kept: (rows.len() as u64).saturating_sub(removed), next })
    }
}

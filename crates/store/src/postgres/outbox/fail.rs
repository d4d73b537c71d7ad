//! Claims that did not succeed: put back, or given up together with their nodes.

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    ports::store::{FailedItem, StoreError},
};
use hashbrown::HashSet;
use uuid::Uuid;

use super::{HELD, columns};
use crate::postgres::{
    PostgresStore,
    error::driver,
    rows::get,
    session::{For, begin},
};

impl PostgresStore {
    /// Records failures of one scope, for claims still held. An item that is given up takes its waiting nodes with it, in
    /// the same transaction: a node that waits for nobody would wait for ever.
    pub(super) async fn fail_scope(
        &self,
        scope: &ScopeKey,
        items: &[&FailedItem],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.shared
            .patience
            .bounded(async {
                let attempts_max = self.shared.options.outbox_attempts_max;
                let verdicts: Vec<(Option<i64>, Option<&'static str>)> = items
                    .iter()
                    .map(|failed| {
                        let exhausted = failed.counts && failed.item.attempts >= attempts_max;
                        match failed.retry_at.filter(|_| !exhausted) {
                            Some(at) => (Some(at.0), None),
                            None if exhausted => (None, Some("max_attempts_exceeded")),
                            None => (None, Some("rejected")),
                        }
                    })
                    .collect();
                let timeout = self.shared.options.statement_timeout;
                let mut tx = begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, "").await?;
                // The scope first, as writers do, who arm items again while they hold it.
                let change_no = match verdicts.iter().any(|(_, reason)| reason.is_some()) {
                    true => Self::next_change(&mut tx, scope).await?,
                    false => None,
                };
                let (scopes, ids, fences) = columns(items.iter().map(|failed| &failed.item));
                let sql = format!(
                    "UPDATE memory_outbox o SET claimed_by = NULL, lease_until = NULL, last_error = q.error, \
                 attempts = o.attempts - q.uncounted, available_at = COALESCE(q.retry_at, o.available_at), \
                 failed_at = CASE WHEN q.reason IS NULL THEN NULL ELSE $8 END, failed_reason = q.reason \
             FROM UNNEST($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::int4[], $6::bigint[], $7::text[]) \
                 AS q (scope_key, id, fence, error, uncounted, retry_at, reason) WHERE {HELD} \
             RETURNING o.id, o.failed_reason IS NOT NULL"
                );
                let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(scopes)
                    .bind(ids)
                    .bind(fences)
                    .bind(items.iter().map(|failed| failed.error.clone()).collect::<Vec<_>>())
                    .bind(items.iter().map(|failed| i32::from(!failed.counts)).collect::<Vec<_>>())
                    .bind(verdicts.iter().map(|(retry_at, _)| *retry_at).collect::<Vec<_>>())
                    .bind(verdicts.iter().map(|(_, reason)| *reason).collect::<Vec<_>>())
                    .bind(now.0)
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(driver)?;
                let mut given_up: HashSet<Uuid> = HashSet::new();
                for row in &rows {
                    if get(row, 1)? {
                        given_up.insert(get(row, 0)?);
                    }
                }
                let (mut nodes, mut errors) = (Vec::new(), Vec::new());
                for failed in items.iter().filter(|failed| given_up.contains(&failed.item.id)) {
                    nodes.extend(failed.item.nodes.iter().map(|id| id.0));
                    errors.extend(failed.item.nodes.iter().map(|_| failed.error.clone()));
                }
                if let Some(change_no) = change_no.filter(|_| !nodes.is_empty()) {
                    let sql = "UPDATE memory_nodes n SET embedding_status = 'failed', embedding_last_error = q.error, \
                       embedding_attempts = n.embedding_attempts + 1, embedding_last_attempt_at = $4, change_no = $5 \
                       FROM UNNEST(array_fill($1::text, ARRAY[cardinality($2)]), $2::uuid[], $3::text[]) \
                           AS q (scope_key, id, error) \
                       WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.embedding_status || '' = 'pending'";
                    sqlx::query(sql)
                        .bind(scope.as_str())
                        .bind(nodes)
                        .bind(errors)
                        .bind(now.0)
                        .bind(change_no)
                        .execute(&mut *tx)
                        .await
                        .map_err(driver)?;
                }
                tx.commit().await.map_err(driver)?;
                if let Some(change_no) = change_no {
                    self.shared.images.note(scope, change_no);
                }
                Ok(())
            })
            .await
    }
}

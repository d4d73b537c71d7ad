//! API keys.

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    ids::TenantId,
    keys::{KeyRecord, NewKey, Role, Rotation, key_not_found, plan_rotation},
    ports::store::{KeyStore, StoreError},
};
use async_trait::async_trait;
use sqlx::{PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    rows::{choice, digest, get, signed},
    session::{For, Transaction, begin},
};
use crate::keys::NOWHERE;

const FIND: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by, digest FROM api_keys WHERE digest = $1";
const READ: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by FROM api_keys WHERE id = $1 FOR UPDATE";
const LIST: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by FROM api_keys WHERE (tenant_id, created_at, id) > ($1, $2, $3) \
                    ORDER BY tenant_id, created_at, id LIMIT $4";
const LIST_TENANT: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                           revoked_at, replaced_by FROM api_keys WHERE tenant_id = $1 AND (created_at, id) > ($2, $3) \
                           ORDER BY created_at, id LIMIT $4";
const PUT: &str = "INSERT INTO api_keys (id, tenant_id, name, prefix, digest, role, agent_id, team_id, created_at, \
                   expires_at, revoked_at, replaced_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
const REPLACE: &str = "UPDATE api_keys SET expires_at = $2, replaced_by = $3 WHERE id = $1";
const REVOKE: &str = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING id, tenant_id, \
                      name, prefix, role, agent_id, team_id, created_at, expires_at, revoked_at, replaced_by";

impl PostgresStore {
    /// Whose key it is is not known before it is found, and operators see all: row-level security keeps out who names a
    /// tenant, or none.
    async fn begin_keys(&self) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Everyone, self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl KeyStore for PostgresStore {
    async fn create_key(&self, key: NewKey) -> Result<(), StoreError> {
        let mut tx = self.begin_keys().await?;
        put(&mut tx, &key).await?;
        tx.commit().await.map_err(driver)
    }

    async fn key_by_digest(&self, wanted: &Digest) -> Result<Option<(KeyRecord, Digest)>, StoreError> {
        let mut tx = self.begin_keys().await?;
        let found = sqlx::query(FIND).bind(wanted.0.to_vec()).fetch_optional(&mut *tx).await.map_err(driver)?;
        found.map(|row| Ok((record(&row)?, digest(&row, 11)?))).transpose()
    }

    async fn keys(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&KeyRecord>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let (sql, first) = match tenant {
            Some(tenant) => (LIST_TENANT, tenant.as_str()),
            None => (LIST, after.map_or("", |key| key.tenant_id.as_str())),
        };
        let (at, id) = after.map_or(NOWHERE, |key| (key.created_at, key.id));
        let mut tx = self.begin_keys().await?;
        let query = sqlx::query(sql).bind(first).bind(at.0).bind(id).bind(signed(limit as u64));
        query.fetch_all(&mut *tx).await.map_err(driver)?.iter().map(record).collect()
    }

    async fn has_active_key(&self, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at > $1))";
        let mut tx = self.begin_keys().await?;
        get(&sqlx::query(sql).bind(now.0).fetch_one(&mut *tx).await.map_err(driver)?, 0)
    }

    async fn rotate_key(&self, rotation: Rotation) -> Result<(KeyRecord, KeyRecord), StoreError> {
        let mut tx = self.begin_keys().await?;
        // Who rotates the same key meanwhile waits here, and finds it replaced.
        let found = sqlx::query(READ).bind(rotation.old).fetch_optional(&mut *tx).await.map_err(driver)?;
        let old = record(&found.ok_or_else(|| key_not_found(rotation.old))?)?;
        let plan = plan_rotation(&old, &rotation)?;
        put(&mut tx, &plan.new).await?;
        let replace = sqlx::query(REPLACE).bind(old.id).bind(plan.old_expires_at.0).bind(plan.new.record.id);
        replace.execute(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        let replaced_by = Some(plan.new.record.id);
        Ok((plan.new.record, KeyRecord { expires_at: Some(plan.old_expires_at), replaced_by, ..old }))
    }

    async fn revoke_key(&self, id: Uuid, now: Timestamp) -> Result<KeyRecord, StoreError> {
        let mut tx = self.begin_keys().await?;
        let revoked = sqlx::query(REVOKE).bind(id).bind(now.0).fetch_optional(&mut *tx).await.map_err(driver)?;
        let key = record(&revoked.ok_or_else(|| key_not_found(id))?)?;
        tx.commit().await.map_err(driver)?;
        Ok(key)
    }
}

async fn put(connection: &mut PgConnection, key: &NewKey) -> Result<(), StoreError> {
    let NewKey { record, digest } = key;
    sqlx::query(PUT)
        .bind(record.id)
        .bind(record.tenant_id.as_str())
        .bind(&record.name)
        .bind(&record.prefix)
        .bind(digest.0.to_vec())
        .bind(record.role.as_str())
        .bind(&record.agent_id)
        .bind(&record.team_id)
        .bind(record.created_at.0)
        .bind(record.expires_at.map(|at| at.0))
        .bind(record.revoked_at.map(|at| at.0))
        .bind(record.replaced_by)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(driver)
}

fn record(row: &PgRow) -> Result<KeyRecord, StoreError> {
    let time = |at: usize| -> Result<Option<Timestamp>, StoreError> { Ok(get::<Option<i64>>(row, at)?.map(Timestamp)) };
    Ok(KeyRecord {
        id: get(row, 0)?,
        tenant_id: TenantId::parse(get(row, 1)?)?,
        name: get(row, 2)?,
        prefix: get(row, 3)?,
        role: choice(row, 4, Role::parse)?,
        agent_id: get(row, 5)?,
        team_id: get(row, 6)?,
        created_at: Timestamp(get(row, 7)?),
        expires_at: time(8)?,
        revoked_at: time(9)?,
        replaced_by: get(row, 10)?,
    })
}

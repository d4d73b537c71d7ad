//! API keys.

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    ids::TenantId,
    keys::{KeyRecord, NewKey, Role, Rotation, key_not_found, plan_rotation},
    ports::store::{KeyStore, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{
    SqliteStore,
    error::driver,
    rows::{blob, choice, digest, optional_uuid, signed, unreadable, uuid},
};
use crate::keys::NOWHERE;

const FIND: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by, digest FROM api_keys WHERE digest = ?1";
const READ: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by FROM api_keys WHERE id = ?1";
const LIST: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                    revoked_at, replaced_by FROM api_keys WHERE (tenant_id, created_at, id) > (?1, ?2, ?3) \
                    ORDER BY tenant_id, created_at, id LIMIT ?4";
const LIST_TENANT: &str = "SELECT id, tenant_id, name, prefix, role, agent_id, team_id, created_at, expires_at, \
                           revoked_at, replaced_by FROM api_keys WHERE tenant_id = ?1 AND (created_at, id) > (?2, ?3) \
                           ORDER BY created_at, id LIMIT ?4";
const PUT: &str = "INSERT INTO api_keys (id, tenant_id, name, prefix, digest, role, agent_id, team_id, created_at, \
                   expires_at, revoked_at, replaced_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

#[async_trait]
impl KeyStore for SqliteStore {
    async fn create_key(&self, key: NewKey) -> Result<(), StoreError> {
        self.writer.submit(move |connection, _| put(connection, &key)).await
    }

    async fn key_by_digest(&self, wanted: &Digest) -> Result<Option<(KeyRecord, Digest)>, StoreError> {
        let wanted = *wanted;
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(FIND).map_err(driver)?;
                statement
                    .query_row([wanted.0], |row| Ok((record(row)?, digest(row, 11)?)))
                    .optional()
                    .map_err(|e| unreadable("api_keys", wanted.to_hex(), e))
            })
            .await
    }

    async fn keys(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&KeyRecord>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let (sql, first) = match tenant {
            Some(tenant) => (LIST_TENANT, tenant.as_str().to_owned()),
            None => (LIST, after.map_or_else(String::new, |key| key.tenant_id.as_str().to_owned())),
        };
        let (at, id) = after.map_or(NOWHERE, |key| (key.created_at, key.id));
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                statement
                    .query_map((first, at.0, blob(id), signed(limit as u64)), record)
                    .and_then(Iterator::collect)
                    .map_err(|e| unreadable("api_keys", "", e))
            })
            .await
    }

    async fn has_active_key(&self, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at > ?1))";
        self.readers.run(move |connection| connection.query_row(sql, [now.0], |row| row.get(0)).map_err(driver)).await
    }

    async fn rotate_key(&self, rotation: Rotation) -> Result<(KeyRecord, KeyRecord), StoreError> {
        self.writer
            .submit(move |connection, _| {
                let old = read(connection, rotation.old)?;
                let plan = plan_rotation(&old, &rotation)?;
                put(connection, &plan.new)?;
                let (new, old_expires_at) = (plan.new.record, plan.old_expires_at);
                let sql = "UPDATE api_keys SET expires_at = ?2, replaced_by = ?3 WHERE id = ?1";
                connection.execute(sql, (blob(old.id), old_expires_at.0, blob(new.id))).map_err(driver)?;
                let old = KeyRecord { expires_at: Some(old_expires_at), replaced_by: Some(new.id), ..old };
                Ok((new, old))
            })
            .await
    }

    async fn revoke_key(&self, id: Uuid, now: Timestamp) -> Result<KeyRecord, StoreError> {
        self.writer
            .submit(move |connection, _| {
                let sql = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?2) WHERE id = ?1";
                connection.execute(sql, (blob(id), now.0)).map_err(driver)?;
                read(connection, id)
            })
            .await
    }
}

fn read(connection: &Connection, id: Uuid) -> Result<KeyRecord, StoreError> {
    let found = connection.query_row(READ, [blob(id)], record).optional();
    found.map_err(|e| unreadable("api_keys", id, e))?.ok_or_else(|| key_not_found(id).into())
}

fn put(connection: &Connection, key: &NewKey) -> Result<(), StoreError> {
    let NewKey { record, digest } = key;
    connection
        .execute(
            PUT,
            params![
                blob(record.id),
                record.tenant_id.as_str(),
                record.name,
                record.prefix,
                digest.0,
                record.role.as_str(),
                record.agent_id,
                record.team_id,
                record.created_at.0,
                record.expires_at.map(|at| at.0),
                record.revoked_at.map(|at| at.0),
                record.replaced_by.map(blob),
            ],
        )
        .map(|_| ())
        .map_err(driver)
}

fn record(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let time = |at: usize| -> rusqlite::Result<Option<Timestamp>> { Ok(row.get::<_, Option<i64>>(at)?.map(Timestamp)) };
    Ok(KeyRecord {
        id: uuid(row, 0)?,
        tenant_id: choice(row, 1, |name| TenantId::parse(name).ok())?,
        name: row.get(2)?,
        prefix: row.get(3)?,
        role: choice(row, 4, Role::parse)?,
        agent_id: row.get(5)?,
        team_id: row.get(6)?,
        created_at: Timestamp(row.get(7)?),
        expires_at: time(8)?,
        revoked_at: time(9)?,
        replaced_by: optional_uuid(row, 10)?,
    })
}

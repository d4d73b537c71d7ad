use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::TenantId,
    keys::{KeyRecord, NewKey, Rotation},
};

/// API keys. Of a key its digest is stored; the key itself never comes here.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Stores a key.
    ///
    /// # Errors
    /// A failure of storage; also when a key with this id or digest is there.
    async fn create_key(&self, key: NewKey) -> Result<(), StoreError>;

    /// The key with this digest, whatever its state, with the digest as it is stored.
    ///
    /// # Errors
    /// A failure of storage, which is never the same as no key.
    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<(KeyRecord, Digest)>, StoreError>;

    /// Keys of a tenant, or of all, whatever their state, after one of them; at most `limit`. In the order of tenant
    /// (by bytes), time and id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn keys(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&KeyRecord>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// Whether any key is accepted at a time.
    ///
    /// # Errors
    /// A failure of storage.
    async fn has_active_key(&self, now: Timestamp) -> Result<bool, StoreError>;

    /// Puts a key in the place of another one, in one transaction: [`crate::keys::plan_rotation`]. Returns the new key
    /// and the old one as it is now.
    ///
    /// # Errors
    /// `key_not_found`, `key_not_active`; a failure of storage.
    async fn rotate_key(&self, rotation: Rotation) -> Result<(KeyRecord, KeyRecord), StoreError>;

    /// Revokes a key for good. One that is revoked already keeps its time. Returns it as it is now.
    ///
    /// # Errors
    /// `key_not_found`; a failure of storage.
    async fn revoke_key(&self, id: Uuid, now: Timestamp) -> Result<KeyRecord, StoreError>;
}

//! API keys.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::Timestamp,
    ids::TenantId,
    keys::{KeyRecord, KeyText, NewKey, Role, Rotation},
    ports::store::{Store, StoreError},
};
use uuid::Uuid;

use super::Subject;
use crate::fixtures::START;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(hours: i64) -> Timestamp {
    Timestamp(START.0 + hours * 3_600_000_000)
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// The key of a number.
fn text(number: u8) -> KeyText {
    KeyText::from_random([number; 32])
}

/// A writer's key without anything more.
fn plain(number: u8, tenant_id: &str, created_at: Timestamp) -> NewKey {
    let key = text(number);
    let record = KeyRecord {
        id: Uuid::from_u128(u128::from(number)),
        tenant_id: tenant(tenant_id),
        name: None,
        prefix: key.shown().to_owned(),
        role: Role::Writer,
        agent_id: None,
        team_id: None,
        created_at,
        expires_at: None,
        revoked_at: None,
        replaced_by: None,
    };
    NewKey { record, digest: key.digest() }
}

/// A key with everything a key can have.
fn full(number: u8) -> NewKey {
    let mut key = plain(number, "acme", at(0));
    key.record = KeyRecord {
        name: Some("the nightly \"build\"".to_owned()),
        role: Role::Admin,
        agent_id: Some("ann".to_owned()),
        team_id: Some("blue".to_owned()),
        expires_at: Some(at(10)),
        ..key.record
    };
    key
}

fn rotation(old: u8, new: u8, now: Timestamp, grace: Duration) -> Rotation {
    let (old, id, key) = (Uuid::from_u128(u128::from(old)), Uuid::from_u128(u128::from(new)), text(new));
    Rotation { old, new: id, prefix: key.shown().to_owned(), digest: key.digest(), grace, now }
}

async fn found(subject: &Subject, number: u8) -> Option<KeyRecord> {
    let digest = text(number).digest();
    let found = subject.store.key_by_digest(&digest).await.unwrap();
    found.map(|(key, stored)| {
        assert_eq!(stored, digest);
        key
    })
}

async fn all(store: &dyn Store) -> Vec<Uuid> {
    store.keys(None, None, 100).await.unwrap().iter().map(|key| key.id).collect()
}

fn code<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> &'static str {
    match answer {
        Err(StoreError::Rejected(error)) => error.code,
        other => panic!("it must be refused, got {other:?}"),
    }
}

/// A key is found by its digest with everything that was stored of it, and by no other digest.
pub async fn a_key_is_found_by_its_digest(subject: &Subject) {
    for key in [full(1), plain(2, "globex", at(1))] {
        subject.store.create_key(key).await.unwrap();
    }
    assert_eq!(found(subject, 1).await, Some(full(1).record));
    assert_eq!(found(subject, 2).await, Some(plain(2, "globex", at(1)).record));
    assert_eq!(found(subject, 3).await, None);
}

/// Nothing is stored of a key whose id or digest is there.
pub async fn a_key_is_stored_once(subject: &Subject) {
    subject.store.create_key(full(1)).await.unwrap();
    let (same_id, same_digest) = (plain(2, "globex", at(0)), plain(3, "globex", at(0)));
    let same_id = NewKey { record: KeyRecord { id: full(1).record.id, ..same_id.record }, ..same_id };
    let same_digest = NewKey { digest: full(1).digest, ..same_digest };
    for key in [full(1), same_id, same_digest] {
        let refused = subject.store.create_key(key).await;
        assert!(matches!(refused, Err(StoreError::Driver(_))), "{refused:?}");
    }
    assert_eq!(all(&*subject.store).await, [full(1).record.id]);
    assert_eq!(found(subject, 1).await, Some(full(1).record));
}

/// Pages hold every key once, by tenant, time and id; those of one tenant hold no other's.
pub async fn keys_are_listed_in_pages(subject: &Subject) {
    // Upper case is before lower case, whatever the language of the database.
    let keys = [
        plain(9, "Zeta", at(5)),
        plain(4, "acme", at(0)),
        plain(7, "acme", at(1)),
        plain(8, "acme", at(1)),
        plain(1, "acme", at(2)),
        plain(2, "globex", at(0)),
    ];
    for key in keys.iter().rev() {
        subject.store.create_key(key.clone()).await.unwrap();
    }
    subject.store.revoke_key(keys[2].record.id, at(3)).await.unwrap();
    for (which, wanted) in [(None, &keys[..]), (Some(tenant("acme")), &keys[1..5]), (Some(tenant("nobody")), &[])] {
        let wanted: Vec<Uuid> = wanted.iter().map(|key| key.record.id).collect();
        for limit in [1, 2, 3, 100] {
            let mut listed: Vec<KeyRecord> = Vec::new();
            while let page = subject.store.keys(which.as_ref(), listed.last(), limit).await.unwrap()
                && !page.is_empty()
            {
                assert!(page.len() <= limit);
                listed.extend(page);
            }
            assert_eq!(listed.iter().map(|key| key.id).collect::<Vec<_>>(), wanted, "{which:?} by {limit}");
        }
    }
}

/// A store knows whether any key is accepted at a time.
pub async fn an_active_key_is_known_of(subject: &Subject) {
    let store = &*subject.store;
    assert!(!store.has_active_key(at(0)).await.unwrap());
    store.create_key(full(1)).await.unwrap();
    assert!(store.has_active_key(at(9)).await.unwrap());
    assert!(!store.has_active_key(at(10)).await.unwrap(), "it has expired");
    store.create_key(plain(2, "globex", at(0))).await.unwrap();
    assert!(store.has_active_key(at(10)).await.unwrap());
    store.revoke_key(Uuid::from_u128(2), at(10)).await.unwrap();
    assert!(!store.has_active_key(at(10)).await.unwrap(), "it was revoked");
}

/// The new key stands for whom the old one did; the old one ends with the grace.
pub async fn a_rotated_key_ends_with_its_grace(subject: &Subject) {
    subject.store.create_key(full(1)).await.unwrap();
    let (new, old) = subject.store.rotate_key(rotation(1, 2, at(3), HOUR)).await.unwrap();
    let wanted = KeyRecord {
        id: Uuid::from_u128(2),
        prefix: text(2).shown().to_owned(),
        created_at: at(3),
        expires_at: Some(at(13)),
        ..full(1).record
    };
    assert_eq!(new, wanted);
    assert_eq!(old, KeyRecord { expires_at: Some(at(4)), replaced_by: Some(new.id), ..full(1).record });
    assert_eq!((found(subject, 1).await, found(subject, 2).await), (Some(old), Some(new)));
}

/// A key that is not there, or out of use, is not rotated, and the new one is not stored.
pub async fn only_a_key_in_use_is_rotated(subject: &Subject) {
    let store = &*subject.store;
    for key in [full(1), full(2), full(3)] {
        store.create_key(key).await.unwrap();
    }
    store.revoke_key(Uuid::from_u128(1), at(1)).await.unwrap();
    store.rotate_key(rotation(2, 20, at(1), HOUR)).await.unwrap();
    let before = all(store).await;
    assert_eq!(code(store.rotate_key(rotation(9, 30, at(1), HOUR)).await), "key_not_found");
    assert_eq!(code(store.rotate_key(rotation(1, 30, at(1), HOUR)).await), "key_not_active", "revoked");
    assert_eq!(code(store.rotate_key(rotation(2, 30, at(1), HOUR)).await), "key_not_active", "replaced");
    assert_eq!(code(store.rotate_key(rotation(3, 30, at(10), HOUR)).await), "key_not_active", "expired");
    // The digest of the new key is in use: nothing of the rotation is done.
    assert!(store.rotate_key(rotation(3, 1, at(1), HOUR)).await.is_err());
    assert_eq!(found(subject, 3).await, Some(full(3).record));
    assert_eq!(all(store).await, before);
}

/// Of rotations of one key at once one is made.
pub async fn rotations_at_once_replace_a_key_once(subject: &Subject) {
    subject.store.create_key(full(1)).await.unwrap();
    let rotating: Vec<_> = (10..18)
        .map(|new| {
            let store: Arc<dyn Store> = Arc::clone(&subject.store);
            tokio::spawn(async move { store.rotate_key(rotation(1, new, at(1), HOUR)).await })
        })
        .collect();
    let mut made = Vec::new();
    for rotating in rotating {
        match rotating.await.unwrap() {
            Ok((new, _)) => made.push(new.id),
            refused => assert_eq!(code(refused), "key_not_active"),
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(found(subject, 1).await.unwrap().replaced_by, Some(made[0]));
    assert_eq!(all(&*subject.store).await, [Uuid::from_u128(1), made[0]]);
}

/// What is revoked stays revoked, since the first time.
pub async fn a_revoked_key_stays_revoked(subject: &Subject) {
    subject.store.create_key(full(1)).await.unwrap();
    subject.store.create_key(full(2)).await.unwrap();
    let wanted = KeyRecord { revoked_at: Some(at(1)), ..full(1).record };
    assert_eq!(subject.store.revoke_key(Uuid::from_u128(1), at(1)).await.unwrap(), wanted);
    assert_eq!(subject.store.revoke_key(Uuid::from_u128(1), at(2)).await.unwrap(), wanted);
    assert_eq!(found(subject, 1).await, Some(wanted));
    assert_eq!(found(subject, 2).await, Some(full(2).record));
    assert_eq!(code(subject.store.revoke_key(Uuid::from_u128(9), at(1)).await), "key_not_found");
}

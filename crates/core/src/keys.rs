//! API keys that are kept in the store: how a key is written, what is stored of it, and when it is accepted.
//!
//! A key is `aio_`, 64 hexadecimal digits of 32 random bytes, and 8 digits of a checksum. The checksum tells a key that
//! was cut off or mistyped from one that is not known; it protects nothing. Only the SHA-256 of the whole key is stored: 32
//! random bytes cannot be guessed, so that a slow hash would add nothing.

use std::{fmt, time::Duration};

use serde_json::json;
use uuid::Uuid;

use crate::{
    canon::{Digest, sha256},
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::TenantId,
};

/// What every key begins with.
pub const KEY_PREFIX: &str = "aio_";
/// Random bytes of a key.
pub const KEY_RANDOM_BYTES: usize = 32;
/// Characters of a key that are stored and shown, so that people tell keys apart.
pub const SHOWN_CHARS: usize = 12;
/// Longest name of a key in bytes.
pub const NAME_MAX_BYTES: usize = 200;
/// Hexadecimal digits of the checksum.
const CHECK_CHARS: usize = 8;

/// What a caller may do; each role may all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Recall and read.
    Reader,
    /// Write, decide, give feedback.
    Writer,
    /// Everything, forgetting and debugging included.
    Admin,
}

impl Role {
    /// The names of all roles, for messages.
    pub const NAMES: &'static str = "reader, writer or admin";

    /// Reads a role.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "reader" => Some(Self::Reader),
            "writer" => Some(Self::Writer),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }
}

/// A key in full. It is shown once, when it is made; its debug form is what is stored of it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

/// What looks like a key of ours and is none: a part is missing, or a character is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is cut off or mistyped")]
pub struct MalformedKey;

impl KeyText {
    /// The key of these random bytes, which have to come from the operating system.
    pub fn from_random(random: [u8; KEY_RANDOM_BYTES]) -> Self {
        let body = format!("{KEY_PREFIX}{}", Digest(random).to_hex());
        let check = check_of(&body);
        Self(body + &check)
    }

    /// Reads a key as a caller sends it; none when it does not begin as our keys do.
    ///
    /// # Errors
    /// [`MalformedKey`] when it begins so and does not go on so.
    pub fn parse(text: &str) -> Result<Option<Self>, MalformedKey> {
        let Some(rest) = text.strip_prefix(KEY_PREFIX) else { return Ok(None) };
        let (random, check) = rest.split_at_checked(2 * KEY_RANDOM_BYTES).ok_or(MalformedKey)?;
        Digest::from_hex(random).map_err(|_| MalformedKey)?;
        let body = &text[..text.len() - check.len()];
        if check == check_of(body) { Ok(Some(Self(text.to_owned()))) } else { Err(MalformedKey) }
    }

    /// The secret.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// What is stored in its place.
    pub fn digest(&self) -> Digest {
        sha256(&self.0)
    }

    /// Its first characters, which are no secret.
    pub fn shown(&self) -> &str {
        &self.0[..SHOWN_CHARS]
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyText({}…)", self.shown())
    }
}

fn check_of(body: &str) -> String {
    sha256(body).to_hex()[..CHECK_CHARS].to_owned()
}

/// A key as it is stored, without its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its name in commands.
    pub id: Uuid,
    /// The only tenant it reaches.
    pub tenant_id: TenantId,
    /// What people call it.
    pub name: Option<String>,
    /// Its first [`SHOWN_CHARS`] characters.
    pub prefix: String,
    /// What it may do.
    pub role: Role,
    /// The agent it stands for.
    pub agent_id: Option<String>,
    /// The team it stands for.
    pub team_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is not accepted; none for never.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The key that a rotation put in its place.
    pub replaced_by: Option<Uuid>,
}

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked, whatever its time.
    Revoked,
}

impl KeyState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl KeyRecord {
    /// Whether it is accepted at a time.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }
}

/// A key to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What is known of it.
    pub record: KeyRecord,
    /// SHA-256 of the whole key.
    pub digest: Digest,
}

/// A key that takes the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The key that is replaced.
    pub old: Uuid,
    /// Id of the new one.
    pub new: Uuid,
    /// First characters of the new one.
    pub prefix: String,
    /// SHA-256 of the new one.
    pub digest: Digest,
    /// For how long the old one is still accepted.
    pub grace: Duration,
    /// When it happens.
    pub now: Timestamp,
}

/// What a rotation changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPlan {
    /// The key to store.
    pub new: NewKey,
    /// From when on the old key is not accepted.
    pub old_expires_at: Timestamp,
}

/// Decides a rotation. The new key stands for whom the old one did and lives as long as the old one was to live; the
/// old one ends with the grace, or before when it was to end before.
///
/// # Errors
/// `key_not_active` when the old key is revoked, expired, or replaced already: no key is brought back to life.
pub fn plan_rotation(old: &KeyRecord, rotation: &Rotation) -> Result<RotationPlan, DomainError> {
    let refused = |why: String| Err(DomainError::new(ErrorKind::Conflict, "key_not_active", why));
    let now = rotation.now;
    match old.state(now) {
        KeyState::Active => {}
        state => return refused(format!("the key {} is {}; create a new one", old.id, state.as_str())),
    }
    if let Some(new) = old.replaced_by {
        return refused(format!("the key {} was replaced by {new} already; rotate that one", old.id));
    }
    let lifetime = old.expires_at.map(|end| end.0.saturating_sub(old.created_at.0));
    let grace = i64::try_from(rotation.grace.as_micros()).unwrap_or(i64::MAX);
    let grace_end = Timestamp(now.0.saturating_add(grace));
    let record = KeyRecord {
        id: rotation.new,
        prefix: rotation.prefix.clone(),
        created_at: now,
        expires_at: lifetime.map(|lifetime| Timestamp(now.0.saturating_add(lifetime))),
        ..old.clone()
    };
    Ok(RotationPlan {
        new: NewKey { record, digest: rotation.digest },
        old_expires_at: old.expires_at.map_or(grace_end, |end| end.min(grace_end)),
    })
}

/// No key has this id.
pub fn key_not_found(id: Uuid) -> DomainError {
    DomainError::new(
        ErrorKind::NotFound,
        "key_not_found",
        format!("no key has the id {id}; see `aionis keys list --all`"),
    )
    .with_details(json!({ "id": id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn old() -> KeyRecord {
        KeyRecord {
            id: Uuid::from_u128(1),
            tenant_id: TenantId::parse("acme").unwrap(),
            name: Some("ci".to_owned()),
            prefix: "aio_00000000".to_owned(),
            role: Role::Reader,
            agent_id: Some("ann".to_owned()),
            team_id: None,
            created_at: Timestamp(0),
            expires_at: Some(Timestamp(10 * HOUR_US)),
            revoked_at: None,
            replaced_by: None,
        }
    }

    fn rotation(at_h: i64, grace_h: u64) -> Rotation {
        let key = KeyText::from_random([7; 32]);
        Rotation {
            old: Uuid::from_u128(1),
            new: Uuid::from_u128(2),
            prefix: key.shown().to_owned(),
            digest: key.digest(),
            grace: Duration::from_secs(grace_h * 3_600),
            now: Timestamp(at_h * HOUR_US),
        }
    }

    #[test]
    fn a_key_is_read_back_and_every_slip_is_noticed() {
        let key = KeyText::from_random(std::array::from_fn(|at| at as u8));
        let text = key.secret().to_owned();
        assert_eq!((text.len(), key.shown()), (76, "aio_00010203"));
        assert_eq!(KeyText::parse(&text), Ok(Some(key.clone())));
        assert_eq!(key.digest(), sha256(&text));
        for at in KEY_PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(KeyText::parse(std::str::from_utf8(&wrong).unwrap()), Err(MalformedKey), "at {at}");
            assert_eq!(KeyText::parse(&text[..at]), Err(MalformedKey), "cut off at {at}");
        }
        for wrong in
            [format!("{text}0"), text.to_uppercase().replace("AIO_", "aio_"), "aio_é".repeat(40), "aio_".into()]
        {
            assert_eq!(KeyText::parse(&wrong), Err(MalformedKey), "{wrong}");
        }
        for other in ["", "ann", "AIO_", " aio_"] {
            assert_eq!(KeyText::parse(other), Ok(None), "{other:?}");
        }
    }

    #[test]
    fn the_debug_form_is_no_secret() {
        let key = KeyText::from_random([0xAB; 32]);
        assert_eq!(format!("{key:?}"), "KeyText(aio_abababab…)");
    }

    #[test]
    fn a_key_is_accepted_until_it_ends() {
        let mut key = old();
        assert_eq!(key.state(Timestamp(10 * HOUR_US - 1)), KeyState::Active);
        assert_eq!(key.state(Timestamp(10 * HOUR_US)), KeyState::Expired);
        key.revoked_at = Some(Timestamp(1));
        assert_eq!(key.state(Timestamp(0)), KeyState::Revoked, "clocks may differ; revoked is revoked");
        assert_eq!(KeyRecord { expires_at: None, ..old() }.state(Timestamp(i64::MAX)), KeyState::Active);
    }

    #[test]
    fn a_rotated_key_keeps_who_it_stands_for_and_how_long_it_lives() {
        let plan = plan_rotation(&old(), &rotation(4, 2)).unwrap();
        let wanted = KeyRecord {
            id: Uuid::from_u128(2),
            prefix: "aio_07070707".to_owned(),
            created_at: Timestamp(4 * HOUR_US),
            expires_at: Some(Timestamp(14 * HOUR_US)),
            ..old()
        };
        assert_eq!((plan.new.record, plan.old_expires_at), (wanted, Timestamp(6 * HOUR_US)));
        assert_eq!(plan.new.digest, KeyText::from_random([7; 32]).digest());
        let late = plan_rotation(&old(), &rotation(9, 24)).unwrap();
        assert_eq!(late.old_expires_at, Timestamp(10 * HOUR_US), "a grace prolongs nothing");
        let endless = plan_rotation(&KeyRecord { expires_at: None, ..old() }, &rotation(9, 0)).unwrap();
        assert_eq!((endless.new.record.expires_at, endless.old_expires_at), (None, Timestamp(9 * HOUR_US)));
    }

    #[test]
    fn a_key_that_is_out_of_use_is_not_rotated() {
        for (key, at_h, why) in [
            (KeyRecord { revoked_at: Some(Timestamp(1)), ..old() }, 1, "revoked"),
            (old(), 10, "expired"),
            (KeyRecord { replaced_by: Some(Uuid::from_u128(9)), ..old() }, 1, "replaced by 00000000"),
        ] {
            let refused = plan_rotation(&key, &rotation(at_h, 1)).unwrap_err();
            assert_eq!((refused.kind, refused.code), (ErrorKind::Conflict, "key_not_active"));
            assert!(refused.message.contains(why), "{refused}");
        }
    }
}

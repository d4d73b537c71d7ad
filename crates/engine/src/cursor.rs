//! Cursors of pages, as callers get and send them back.
//!
//! A page ends at a row, and the row may be one the caller does not see. So a cursor is encrypted: it tells nothing but that
//! there may be more. It is also bound to its question, and one that was changed or made up does not decrypt.

use std::fmt;

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    error::DomainError,
    ids::NodeId,
    read::{Place, Position},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{aead, hmac};
use uuid::Uuid;

/// What a cursor holds: time, node, nodes to pass over, the beginning of the question's digest.
const PLAIN: usize = 8 + 16 + 8 + QUESTION;
/// Bytes of a question's digest that a cursor carries.
const QUESTION: usize = 8;
/// Bytes of a cursor.
const SEALED: usize = aead::NONCE_LEN + PLAIN + 16;

/// The key of a store's cursors: all processes over one store have the same.
pub struct CursorKey {
    seal: aead::LessSafeKey,
    nonce: hmac::Key,
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorKey")
    }
}

impl CursorKey {
    /// A key made of a secret of the store.
    ///
    /// # Errors
    /// The cipher does not take its own key, which cannot be.
    pub fn of_secret(secret: &[u8]) -> Result<Self, DomainError> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let of = |label: &str| hmac::sign(&root, label.as_bytes());
        let seal = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, of("aionis cursor seal 1").as_ref())
            .map_err(|_| DomainError::internal("the key of cursors has a wrong length"))?;
        let nonce = hmac::Key::new(hmac::HMAC_SHA256, of("aionis cursor nonce 1").as_ref());
        Ok(Self { seal: aead::LessSafeKey::new(seal), nonce })
    }

    /// The text callers get. The same place in the answers to the same question has the same text.
    ///
    /// # Errors
    /// The cipher refuses, which cannot be.
    pub(crate) fn seal(&self, place: Place, question: &Digest) -> Result<String, DomainError> {
        let mut bytes = Vec::with_capacity(SEALED);
        bytes.extend(place.after.created_at.0.to_be_bytes());
        bytes.extend(place.after.id.0.as_bytes());
        bytes.extend((place.offset as u64).to_be_bytes());
        bytes.extend(&question.0[..QUESTION]);
        // Made of what is sealed: two texts share a nonce only if they are the same text.
        let tag = hmac::sign(&self.nonce, &bytes);
        let mut nonce = [0; aead::NONCE_LEN];
        nonce.copy_from_slice(&tag.as_ref()[..aead::NONCE_LEN]);
        let unique = aead::Nonce::assume_unique_for_key(nonce);
        self.seal
            .seal_in_place_append_tag(unique, aead::Aad::empty(), &mut bytes)
            .map_err(|_| DomainError::internal("a cursor cannot be sealed"))?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Reads what a caller sends back.
    ///
    /// # Errors
    /// It is no cursor of this store, or one of another question.
    pub(crate) fn open(&self, text: &str, question: &Digest) -> Result<Place, DomainError> {
        let (place, of) = self
            .read(text)
            .ok_or_else(|| DomainError::field("cursor", "must be the next_cursor of an earlier page, unchanged"))?;
        if of != question.0[..QUESTION] {
            return Err(DomainError::field(
                "cursor",
                "belongs to another question: send the filters it came from, or no cursor",
            ));
        }
        Ok(place)
    }

    fn read(&self, text: &str) -> Option<(Place, [u8; QUESTION])> {
        let mut sealed = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == SEALED)?;
        let (nonce, bytes) = sealed.split_at_mut(aead::NONCE_LEN);
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.seal.open_in_place(nonce, aead::Aad::empty(), bytes).ok()?;
        let (created_at, rest) = plain.split_first_chunk::<8>()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let after =
            Position { created_at: Timestamp(i64::from_be_bytes(*created_at)), id: NodeId(Uuid::from_bytes(*id)) };
        let offset = usize::try_from(u64::from_be_bytes(*offset)).ok()?;
        Some((Place { after, offset }, *rest.first_chunk::<QUESTION>()?))
    }
}

#[cfg(test)]
mod tests {
    use aionis_core::canon::sha256;

    use super::*;

    fn place() -> Place {
        let after = Position { created_at: Timestamp(1_771_234_567_890_123), id: NodeId(Uuid::from_u128(7)) };
        Place { after, offset: 3 }
    }

    #[test]
    fn a_cursor_comes_back_for_its_own_question_only() {
        let (key, question) = (CursorKey::of_secret(b"secret").unwrap(), sha256("q"));
        let text = key.seal(place(), &question).unwrap();
        assert_eq!(key.open(&text, &question).unwrap(), place());
        let same = CursorKey::of_secret(b"secret").unwrap();
        assert_eq!(same.open(&text, &question).unwrap(), place(), "another process");
        let foreign = key.open(&text, &sha256("other")).unwrap_err();
        assert!(foreign.issues[0].message.contains("another question"));
        assert!(CursorKey::of_secret(b"other").unwrap().open(&text, &question).is_err());
    }

    #[test]
    fn a_cursor_that_was_changed_is_none() {
        let (key, question) = (CursorKey::of_secret(b"secret").unwrap(), sha256("q"));
        let text = key.seal(place(), &question).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(key.open(&changed, &question).is_err(), "{at}");
        }
        for wrong in ["", "1", &text[1..], &format!("{text}A"), &format!("{text}="), "1.2.3"] {
            assert!(key.open(wrong, &question).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_shows_nothing_of_its_place() {
        let key = CursorKey::of_secret(b"secret").unwrap();
        let sealed = URL_SAFE_NO_PAD.decode(key.seal(place(), &sha256("q")).unwrap()).unwrap();
        let id = place().after.id.0;
        assert!(!sealed.windows(16).any(|part| part == id.as_bytes()));
        assert!(!sealed.windows(8).any(|part| part == place().after.created_at.0.to_be_bytes()));
    }
}

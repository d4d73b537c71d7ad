//! Names and client ids by their hashes: they are only ever compared with those of a question, never read.

use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
};

/// A text by its hash. Those that the [`Digests`] of one image made can be compared with each other.
pub(super) type Digest = NonZeroU64;

/// Makes the digests of an image.
///
/// Texts are hashed with a key that only the process knows, another one for each image, so that nobody can write two that are
/// taken for each other. By chance one of a million nodes has the digest of one of a question's three hundred names once in
/// sixty billion questions.
#[derive(Default)]
pub(super) struct Digests(RandomState);

impl Digests {
    pub(super) fn of(&self, text: &str) -> Digest {
        NonZeroU64::new(self.0.hash_one(text)).unwrap_or(NonZeroU64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_knows_its_own_texts_and_no_other_image_does() {
        let (one, other) = (Digests::default(), Digests::default());
        assert_eq!(one.of("ada lovelac"), one.of("ada lovelac"));
        assert_ne!(one.of("ada lovelac"), one.of("ada"));
        assert_ne!(one.of("ada lovelac"), other.of("ada lovelac"), "each image has a key of its own");
    }
}

//! Checking a model folder against the pinned digests.
//!
//! A full check reads 30 MB. After one has succeeded, sizes and modification times are noted in [`STAMP_FILE`] next to
//! the files; as long as they stay the same, later checks only look at those. Whoever can write the folder can forge
//! the note, but can replace the model as well: the check is against damage, not against attackers.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::install::write_atomically;
use super::{LOCAL_MODEL, ModelFileError, ModelStatus, PinnedFile, PinnedModel, describe_digest, describe_size, hex};

/// The note of the last full check.
pub(super) const STAMP_FILE: &str = "verified.json";
/// Longest note worth reading.
const MAX_STAMP_BYTES: u64 = 64 << 10;
/// Bytes hashed at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Content of [`STAMP_FILE`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    revision: String,
    files: Vec<StampedFile>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StampedFile {
    name: String,
    size: u64,
    /// Nanoseconds after the Unix epoch.
    modified_ns: u128,
    sha256: String,
}

/// Checks whether `dir` holds the built-in model, reading the files in full only when they changed since the last
/// full check.
///
/// # Errors
/// [`ModelFileError::Io`] when something in the folder cannot be read. An absent folder or file is a status.
pub fn verify_dir(dir: &Path) -> Result<ModelStatus, ModelFileError> {
    verify(&LOCAL_MODEL, dir)
}

/// [`verify_dir`] for any pinned model.
pub(super) fn verify(model: &PinnedModel, dir: &Path) -> Result<ModelStatus, ModelFileError> {
    let mut present = Vec::new();
    let mut absent = None;
    for file in model.files {
        match metadata(&dir.join(file.name))? {
            Some(metadata) => present.push((file, metadata)),
            None if !file.optional => absent = absent.or(Some(file)),
            None => {}
        }
    }
    if let Some(file) = absent {
        if present.iter().all(|(file, _)| file.optional) {
            return Ok(ModelStatus::Missing);
        }
        return Ok(corrupt(file, describe_size(file.size), "no such file".to_owned()));
    }
    if let Some((file, metadata)) = present.iter().find(|(file, metadata)| metadata.len() != file.size) {
        return Ok(corrupt(file, describe_size(file.size), describe_size(metadata.len())));
    }
    let stamp = stamp_of(model, dir, &present)?;
    if read_stamp(dir).is_some_and(|stored| stored == stamp) {
        return Ok(ModelStatus::Valid);
    }
    for (file, _) in &present {
        let found = digest_of(&dir.join(file.name))?;
        if found != file.sha256 {
            return Ok(corrupt(file, describe_digest(file.sha256), describe_digest(&found)));
        }
    }
    store_stamp(dir, &stamp);
    Ok(ModelStatus::Valid)
}

fn corrupt(file: &PinnedFile, expected: String, found: String) -> ModelStatus {
    ModelStatus::Corrupt { file: file.name.to_owned(), expected, found }
}

/// Metadata of a file, `None` when there is none.
fn metadata(path: &Path) -> Result<Option<Metadata>, ModelFileError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(ModelFileError::io("read", path, ErrorKind::IsADirectory.into())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(ModelFileError::io("read", path, error)),
    }
}

/// The note that a full check of the files would leave now.
fn stamp_of(model: &PinnedModel, dir: &Path, present: &[(&PinnedFile, Metadata)]) -> Result<Stamp, ModelFileError> {
    let files = present
        .iter()
        .map(|(file, metadata)| {
            let modified = metadata
                .modified()
                .map_err(|error| ModelFileError::io("read the modification time of", &dir.join(file.name), error))?;
            Ok(StampedFile {
                name: file.name.to_owned(),
                size: metadata.len(),
                modified_ns: modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()),
                sha256: file.sha256.to_owned(),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Stamp { revision: model.revision.to_owned(), files })
}

/// The stored note; one that cannot be read counts as none, which costs a full check and nothing else.
fn read_stamp(dir: &Path) -> Option<Stamp> {
    let mut bytes = Vec::new();
    File::open(dir.join(STAMP_FILE)).ok()?.take(MAX_STAMP_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Stores the note. The folder may be read-only: then every check is a full one, which is slower but right.
fn store_stamp(dir: &Path, stamp: &Stamp) {
    let stored = serde_json::to_vec(stamp)
        .map_err(std::io::Error::from)
        .and_then(|bytes| write_atomically(&dir.join(STAMP_FILE), &bytes));
    if let Err(error) = stored {
        tracing::info!(%error, "the check of the model files could not be noted; the next start checks them in full again");
    }
}

/// SHA-256 of a file, in hexadecimal.
fn digest_of(path: &Path) -> Result<String, ModelFileError> {
    let fail = |error| ModelFileError::io("read", path, error);
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher)),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_model::{MODEL, TINY, TOKENIZER};
    use super::super::{MODEL_FILE, TOKENIZER_FILE};
    use super::*;

    fn fill(dir: &Path) {
        std::fs::write(dir.join(TOKENIZER_FILE), TOKENIZER).unwrap();
        std::fs::write(dir.join(MODEL_FILE), MODEL).unwrap();
    }

    fn set_modified(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn absent_folder_empty_folder_and_lone_optional_file_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(verify(&TINY, &dir.path().join("none")).unwrap(), ModelStatus::Missing);
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Missing);
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Missing);
    }

    #[test]
    fn whole_folder_is_valid_and_a_lost_or_cut_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        std::fs::write(dir.path().join(MODEL_FILE), "a matrix").unwrap();
        let status = verify(&TINY, dir.path()).unwrap();
        assert_eq!(status, corrupt(&TINY.files[2], "19 bytes".into(), "8 bytes".into()));
        std::fs::remove_file(dir.path().join(MODEL_FILE)).unwrap();
        assert!(matches!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Corrupt { file, .. } if file == MODEL_FILE));
    }

    #[test]
    fn content_is_read_again_only_when_the_time_changed() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let model = dir.path().join(MODEL_FILE);
        set_modified(&model, 1_000);
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        // Same size, same time: the note is believed.
        std::fs::write(&model, "A MATRIX OF NUMBERS").unwrap();
        set_modified(&model, 1_000);
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        // Another time: the content is read.
        set_modified(&model, 1_001);
        let ModelStatus::Corrupt { file, expected, found } = verify(&TINY, dir.path()).unwrap() else {
            panic!("a changed file passed");
        };
        assert_eq!(file, MODEL_FILE);
        assert!(expected.starts_with("sha256 ") && found.starts_with("sha256 ") && expected != found);
    }

    #[test]
    fn note_of_another_revision_or_damaged_note_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        let stamp = dir.path().join(STAMP_FILE);
        let first = std::fs::read_to_string(&stamp).unwrap();
        std::fs::write(&stamp, first.replace("r1", "r0")).unwrap();
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        assert_eq!(std::fs::read_to_string(&stamp).unwrap(), first);
        std::fs::write(&stamp, "garbage").unwrap();
        assert_eq!(verify(&TINY, dir.path()).unwrap(), ModelStatus::Valid);
        assert_eq!(std::fs::read_to_string(&stamp).unwrap(), first);
    }

    #[test]
    fn pinned_digests_are_well_formed() {
        for file in LOCAL_MODEL.files {
            assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        assert_eq!(LOCAL_MODEL.total_size(), 30_920_628);
    }
}

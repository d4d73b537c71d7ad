//! The files of the built-in model: what they are, whether a folder holds them, and how they get there.

mod import;
mod install;
mod pull;
mod verify;

use std::path::{Path, PathBuf};

use aionis_core::canon::Digest;
use sha2::{Digest as _, Sha256};

pub use import::import_dir_or_wheel;
pub use pull::{DEFAULT_MODEL_URL, pull};
pub use verify::verify_dir;

/// File with the token vectors.
pub const MODEL_FILE: &str = "model.safetensors";
/// File with the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// One file of a pinned model.
#[derive(Clone, Copy, Debug)]
pub struct PinnedFile {
    /// Name inside the model folder.
    pub name: &'static str,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
    /// Whether the model works without it.
    pub optional: bool,
}

/// A model of which every byte is known.
#[derive(Clone, Copy, Debug)]
pub struct PinnedModel {
    /// Name, also of the folder inside an archive.
    pub name: &'static str,
    /// Revision at its origin.
    pub revision: &'static str,
    /// SPDX identifier of its licence.
    pub licence: &'static str,
    /// Its files, the largest last.
    pub files: &'static [PinnedFile],
}

impl PinnedModel {
    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// The model behind `local:potion-base-8M`: 29,528 tokens, 256 components, by MinishLab, distilled from
/// `BAAI/bge-base-en-v1.5`.
pub const LOCAL_MODEL: PinnedModel = PinnedModel {
    name: "potion-base-8M",
    revision: "bf8b056651a2c21b8d2565580b8569da283cab23",
    licence: "MIT",
    files: &[
        PinnedFile {
            name: "config.json",
            size: 202,
            sha256: "2a6ac0e9aaa356a68a5688070db78fc3a464fefe85d2f06a1905ce3718687553",
            optional: true,
        },
        PinnedFile {
            name: TOKENIZER_FILE,
            size: 683_666,
            sha256: "e67e803f624fb4d67dea1c730d06e1067e1b14d830e2c2202569e3ef0f70bb50",
            optional: false,
        },
        PinnedFile {
            name: MODEL_FILE,
            size: 30_236_760,
            sha256: "f65d0f325faadc1e121c319e2faa41170d3fa07d8c89abd48ca5358d9a223de2",
            optional: false,
        },
    ],
};

/// What a model folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelStatus {
    /// None of the needed files.
    Missing,
    /// All needed files, with the pinned digests.
    Valid,
    /// A file is absent or differs from the pinned one.
    Corrupt {
        /// Name of the file.
        file: String,
        /// Pinned size or digest.
        expected: String,
        /// What was found instead.
        found: String,
    },
}

/// Model files cannot be checked, copied or downloaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file differs from the pinned one; nothing was installed.
    #[error("{file} is not the file of the pinned model: expected {expected}, found {found}")]
    Mismatch {
        /// Name of the file.
        file: String,
        /// Pinned size or digest.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The source of an import lacks a file.
    #[error("{} holds no {file}", path.display())]
    NotInSource {
        /// Folder or archive.
        path: PathBuf,
        /// Name of the file.
        file: String,
    },
    /// An archive cannot be read.
    #[error("cannot read the archive {}: {source}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: zip::result::ZipError,
    },
    /// The download address is not usable.
    #[error("the model address (AIONIS_MODEL_URL) is not usable: {reason}")]
    Address {
        /// Why.
        reason: String,
    },
    /// A download failed.
    #[error("cannot download {file} from {host}: {reason}")]
    Download {
        /// Name of the file.
        file: String,
        /// Host of the address.
        host: String,
        /// Why.
        reason: String,
    },
}

impl ModelFileError {
    fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    fn size_mismatch(file: &PinnedFile, found: u64) -> Self {
        Self::Mismatch {
            file: file.name.to_owned(),
            expected: describe_size(file.size),
            found: if found > file.size { "more bytes".to_owned() } else { describe_size(found) },
        }
    }

    fn digest_mismatch(file: &PinnedFile, found: &str) -> Self {
        Self::Mismatch {
            file: file.name.to_owned(),
            expected: describe_digest(file.sha256),
            found: describe_digest(found),
        }
    }
}

fn describe_size(size: u64) -> String {
    format!("{size} bytes")
}

fn describe_digest(digest: &str) -> String {
    format!("sha256 {digest}")
}

/// The digest of everything hashed, in lower-case hexadecimal.
fn hex(hasher: Sha256) -> String {
    Digest(hasher.finalize().into()).to_hex()
}

#[cfg(test)]
pub(crate) mod test_model {
    use super::{MODEL_FILE, PinnedFile, PinnedModel, TOKENIZER_FILE};

    /// Contents of the files of [`TINY`].
    pub(crate) const TOKENIZER: &[u8] = b"a tokenizer";
    pub(crate) const MODEL: &[u8] = b"a matrix of numbers";

    /// A model of a few bytes.
    pub(crate) const TINY: PinnedModel = PinnedModel {
        name: "tiny",
        revision: "r1",
        licence: "MIT",
        files: &[
            PinnedFile {
                name: "config.json",
                size: 2,
                sha256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
                optional: true,
            },
            PinnedFile {
                name: TOKENIZER_FILE,
                size: 11,
                sha256: "4a452b1d7631dd498a9f8200b76d0b7bccb9223bf41d49e4a03e40096a9d1f70",
                optional: false,
            },
            PinnedFile {
                name: MODEL_FILE,
                size: 19,
                sha256: "019d70f2ad4e293afa95f58a12eeb185595bfc3c091fd12d369383ca7adc486e",
                optional: false,
            },
        ],
    };
}

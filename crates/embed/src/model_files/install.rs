//! Putting model files into place: staged in a folder of their own, checked, synced, then renamed.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::verify::{STAMP_FILE, verify};
use super::{ModelFileError, ModelStatus, PinnedFile, PinnedModel, hex};

/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A folder inside the destination that collects checked files. Dropping it without [`Staging::commit`] removes it
/// and leaves the destination as it was.
pub(super) struct Staging {
    dest: PathBuf,
    dir: PathBuf,
    staged: Vec<&'static str>,
}

impl Staging {
    /// Makes the destination and the staging folder.
    pub(super) fn new(dest: &Path) -> Result<Self, ModelFileError> {
        let dir = dest.join(unique_name(".partial"));
        std::fs::create_dir_all(&dir).map_err(|error| ModelFileError::io("create", &dir, error))?;
        Ok(Self { dest: dest.to_owned(), dir, staged: Vec::new() })
    }

    /// Starts a file.
    pub(super) fn start(&self, pinned: &'static PinnedFile) -> Result<StagedFile, ModelFileError> {
        let path = self.dir.join(pinned.name);
        let file = File::create_new(&path).map_err(|error| ModelFileError::io("create", &path, error))?;
        Ok(StagedFile { pinned, path, file, hasher: Sha256::new(), written: 0 })
    }

    /// Ends a file: its size and digest must be the pinned ones.
    pub(super) fn finish(&mut self, file: StagedFile) -> Result<(), ModelFileError> {
        self.staged.push(file.finish()?);
        Ok(())
    }

    /// Copies a file from `reader`, which lies at `source`.
    pub(super) fn copy(
        &mut self,
        pinned: &'static PinnedFile,
        reader: &mut impl Read,
        source: &Path,
    ) -> Result<(), ModelFileError> {
        let mut file = self.start(pinned)?;
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return self.finish(file),
                Ok(count) => file.write(&buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ModelFileError::io("read", source, error)),
            }
        }
    }

    /// Renames the staged files into the destination and checks it as a whole, which also renews the note that spares
    /// the next full check.
    pub(super) fn commit(self, model: &PinnedModel) -> Result<(), ModelFileError> {
        remove_if_there(&self.dest.join(STAMP_FILE))?;
        for name in &self.staged {
            let target = self.dest.join(name);
            std::fs::rename(self.dir.join(name), &target)
                .map_err(|error| ModelFileError::io("write", &target, error))?;
        }
        sync_dir(&self.dest).map_err(|error| ModelFileError::io("sync", &self.dest, error))?;
        match verify(model, &self.dest)? {
            ModelStatus::Valid => Ok(()),
            ModelStatus::Missing => {
                Err(ModelFileError::io("find the model in", &self.dest, ErrorKind::NotFound.into()))
            }
            ModelStatus::Corrupt { file, expected, found } => Err(ModelFileError::Mismatch { file, expected, found }),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "a partial model folder could not be removed");
        }
    }
}

/// A file being written; never longer than the pinned one.
pub(super) struct StagedFile {
    pinned: &'static PinnedFile,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
}

impl StagedFile {
    /// Appends bytes; refuses to exceed the pinned size.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ModelFileError> {
        self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.written > self.pinned.size {
            return Err(ModelFileError::size_mismatch(self.pinned, self.written));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|error| ModelFileError::io("write", &self.path, error))
    }

    fn finish(self) -> Result<&'static str, ModelFileError> {
        if self.written != self.pinned.size {
            return Err(ModelFileError::size_mismatch(self.pinned, self.written));
        }
        let found = hex(self.hasher);
        if found != self.pinned.sha256 {
            return Err(ModelFileError::digest_mismatch(self.pinned, &found));
        }
        self.file.sync_all().map_err(|error| ModelFileError::io("sync", &self.path, error))?;
        Ok(self.pinned.name)
    }
}

/// Writes a small file so that it is either the old or the new one.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let partial = parent.join(unique_name(".note"));
    let written = File::create_new(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() && partial.exists() {
        std::fs::remove_file(&partial)?;
    }
    written
}

/// A name no other import of this or another process uses at the same time.
fn unique_name(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn remove_if_there(path: &Path) -> Result<(), ModelFileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ModelFileError::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes renames in `dir` durable. Only Unix can open a folder for that.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

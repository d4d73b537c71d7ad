//! One process per data directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use aionis_core::ports::store::StoreError;

/// Held as long as the process owns the directory; the operating system lets go of it when the process ends, however.
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory when missing and locks it.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, StoreError> {
        let shown = data_dir.display();
        fs::create_dir_all(data_dir).map_err(|e| {
            StoreError::ReadOnly(format!("cannot make the data directory {shown}: {e}; set AIONIS_DATA_DIR"))
        })?;
        let path = data_dir.join("LOCK");
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(|e| {
                StoreError::ReadOnly(format!(
                    "cannot open {} ({e}); check the directory's owner and mode, or set AIONIS_DATA_DIR",
                    path.display()
                ))
            })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.is_empty() { String::new() } else { format!(" (process {})", owner.trim()) };
                return Err(StoreError::Unavailable(format!(
                    "another process{owner} owns the data directory {shown}; the embedded engine allows one process: \
                     stop that one, use its HTTP interface, or set another AIONIS_DATA_DIR"
                )));
            }
            Err(TryLockError::Error(e)) => {
                return Err(StoreError::Unavailable(format!("cannot lock {}: {e}", path.display())));
            }
        }
        // The process id is for people only; the lock itself does not depend on it.
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::StorageFull => StoreError::Full(format!("cannot write {}: {e}", path.display())),
                _ => StoreError::ReadOnly(format!("cannot write {}: {e}", path.display())),
            })?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(dir.path()).unwrap();
        let Err(StoreError::Unavailable(message)) = DirectoryLock::take(dir.path()) else {
            panic!("the second lock must be refused")
        };
        assert!(message.contains(&std::process::id().to_string()), "{message}");
        drop(first);
        DirectoryLock::take(dir.path()).unwrap();
    }
}

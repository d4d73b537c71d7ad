//! A directory of a test's own.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary directory; the program works in it and keeps its data below.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("aionis-it-").tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// A copy of a directory without subdirectories.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.0.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    /// Names of everything in the directory, at any depth.
    pub(crate) fn names(&self) -> Vec<String> {
        fn walk(dir: &Path, root: &Path, names: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                names.push(path.strip_prefix(root).unwrap().display().to_string());
                if path.is_dir() {
                    walk(&path, root, names);
                }
            }
        }
        let mut names = Vec::new();
        walk(self.path(), self.path(), &mut names);
        names.sort();
        names
    }
}

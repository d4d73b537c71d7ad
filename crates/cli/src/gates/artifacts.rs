//! The files of a run: evidence, and a summary that is there whole or not at all.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aionis_core::{
    clock::{Clock as _, SystemClock, Timestamp},
    jobs::governance::default_run_id,
};
use serde::Serialize;
use uuid::Uuid;

use crate::failure::Failure;

/// Name of the file a decision is made from.
const SUMMARY: &str = "summary.json";

/// The directory of one run.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    /// Id of the run.
    pub(crate) run_id: String,
    /// When it began.
    pub(crate) started: Timestamp,
    dir: PathBuf,
}

impl Artifacts {
    /// Makes the directory, `artifacts/<gate>/<run id>` unless another one is named. One that holds a summary already is
    /// refused: evidence is not written over.
    pub(crate) fn new(gate: &str, run_id: Option<&str>, out_dir: Option<&Path>) -> Result<Self, Failure> {
        let started = SystemClock.now();
        let run_id = run_id.map_or_else(|| default_run_id(started, Uuid::new_v4()), str::to_owned);
        let dir = out_dir.map_or_else(|| Path::new("artifacts").join(gate).join(&run_id), Path::to_owned);
        fs::create_dir_all(&dir).map_err(|e| Failure::new(format!("--out-dir {}: {e}", dir.display())))?;
        if dir.join(SUMMARY).exists() {
            return Err(Failure::new(format!(
                "--out-dir {} holds a summary already; choose another directory or --run-id",
                dir.display()
            )));
        }
        Ok(Self { run_id, started, dir })
    }

    /// Where the summary is, or will be.
    pub(crate) fn summary_path(&self) -> PathBuf {
        self.dir.join(SUMMARY)
    }

    /// The directory and the summary, as summaries name them.
    pub(crate) fn named(&self) -> serde_json::Value {
        serde_json::json!({
            "out_dir": self.dir.display().to_string(),
            "summary_json": self.summary_path().display().to_string(),
        })
    }

    /// Writes a file of evidence and returns its name.
    pub(crate) fn evidence(&self, name: &str, value: &impl Serialize) -> Result<String, Failure> {
        self.write(name, value)?;
        Ok(name.to_owned())
    }

    /// Writes the summary.
    pub(crate) fn summary(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.write(SUMMARY, value)
    }

    /// Beside its place first, then moved there: a reader sees all of it or nothing.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let text = format!("{}\n", serde_json::to_string_pretty(value)?);
        let failed = |e: &std::io::Error| Failure::new(format!("{} cannot be written: {e}", path.display()));
        let dir = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let mode = fs::Permissions::from_mode(0o644);
        let draft = tempfile::Builder::new().permissions(mode).tempfile_in(dir);
        let mut draft = draft.map_err(|e| failed(&e))?;
        draft.write_all(text.as_bytes()).and_then(|()| draft.as_file().sync_all()).map_err(|e| failed(&e))?;
        draft.persist(&path).map_err(|e| failed(&e.error))?;
        // The name is to outlast a crash as the content does.
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_whole_and_is_not_written_over() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("run");
        let run = Artifacts::new("core_gate", Some("r1"), Some(&dir)).unwrap();
        run.evidence("partition_cutover/x.json", &1).unwrap();
        run.summary(&serde_json::json!({ "ok": true })).unwrap();
        assert_eq!(fs::read_to_string(run.summary_path()).unwrap(), "{\n  \"ok\": true\n}\n");
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no draft is left: {names:?}");
        let refused = Artifacts::new("core_gate", Some("r1"), Some(&dir)).unwrap_err().to_string();
        assert!(refused.contains("--out-dir") && refused.contains("--run-id"), "{refused}");
    }
}

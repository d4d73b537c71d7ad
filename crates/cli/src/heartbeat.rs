//! The file by which `aionis healthcheck --worker` sees whether a worker's loops go round. It is written by the process itself
//! and holds what each loop last said; a process that stands still leaves it to grow old, a loop that stands still misses
//! the date it gave.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aionis_core::clock::{Clock, SystemClock, Timestamp};
use aionis_engine::pulse::Pulse;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Time between two writings.
const EVERY: Duration = Duration::from_secs(1);
/// A file that is older is of a process that stands still or is gone.
const AGE_MAX: Duration = Duration::from_secs(15);

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Heartbeat {
    pid: u32,
    written_at_ms: i64,
    loops: Vec<LoopState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LoopState {
    name: String,
    seen_at_ms: i64,
    due_by_ms: i64,
    trouble: Option<String>,
}

/// Writes the heartbeat of some loops.
pub(crate) struct Writer {
    path: PathBuf,
    loops: Vec<(&'static str, Pulse)>,
}

impl Writer {
    /// Writes for the first time, so that a place that cannot be written is found at the start.
    pub(crate) fn start(path: PathBuf, loops: Vec<(&'static str, Pulse)>) -> Result<Self, Failure> {
        let writer = Self { path, loops };
        writer.write().map_err(|e| {
            Failure::new(format!(
                "AIONIS_HEARTBEAT_FILE {} cannot be written: {e}; name a file in a directory this user may write",
                writer.path.display()
            ))
        })?;
        Ok(writer)
    }

    /// Writes until it is dropped. A failure is told once per row of failures: the file grows old meanwhile, which is seen.
    pub(crate) async fn run(self) {
        let mut fails = false;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.write() {
                Ok(()) => fails = false,
                Err(e) if !fails => {
                    fails = true;
                    tracing::warn!(error = %e, path = %self.path.display(), "the heartbeat file cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let loops = self.loops.iter().map(|(name, pulse)| {
            let last = pulse.last();
            LoopState {
                name: (*name).to_owned(),
                seen_at_ms: ms(last.seen_at),
                due_by_ms: ms(last.due_by),
                trouble: last.trouble,
            }
        });
        let heartbeat =
            Heartbeat { pid: std::process::id(), written_at_ms: ms(SystemClock.now()), loops: loops.collect() };
        // Moved into its place, so that a reader never sees half of it.
        let draft = self.path.with_extension("tmp");
        std::fs::write(&draft, serde_json::to_vec(&heartbeat)?)?;
        std::fs::rename(&draft, &self.path)
    }
}

const fn ms(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000)
}

/// Reads a heartbeat and judges it; what it says of the loops when all is well.
pub(crate) fn check(path: &Path) -> Result<String, Failure> {
    let bytes =
        std::fs::read(path).map_err(|e| Failure::new(format!("no worker has written {}: {e}", path.display())))?;
    judge(&bytes, SystemClock.now()).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

fn judge(bytes: &[u8], now: Timestamp) -> Result<String, String> {
    let heartbeat: Heartbeat = serde_json::from_slice(bytes).map_err(|e| format!("is no heartbeat: {e}"))?;
    let now = ms(now);
    let age_ms = now - heartbeat.written_at_ms;
    if age_ms > i64::try_from(AGE_MAX.as_millis()).unwrap_or(i64::MAX) {
        return Err(format!("process {} stands still or is gone: it wrote {} s ago", heartbeat.pid, age_ms / 1_000));
    }
    if heartbeat.loops.is_empty() {
        return Err("no loop is at work".to_owned());
    }
    for state in &heartbeat.loops {
        if now > state.due_by_ms {
            let (seen_s, late_s) = ((now - state.seen_at_ms) / 1_000, (now - state.due_by_ms) / 1_000);
            return Err(format!("the loop {} is stuck: seen {seen_s} s ago, {late_s} s overdue", state.name));
        }
        if let Some(trouble) = &state.trouble {
            return Err(format!("the loop {} cannot work: {trouble}", state.name));
        }
    }
    let names: Vec<&str> = heartbeat.loops.iter().map(|state| state.name.as_str()).collect();
    Ok(format!("at work: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut value = serde_json::json!({ "pid": 7, "written_at_ms": 100_000, "loops": [
            { "name": "outbox", "seen_at_ms": 99_000, "due_by_ms": 160_000, "trouble": null },
            { "name": "scheduler", "seen_at_ms": 50_000, "due_by_ms": 700_000, "trouble": null },
        ]});
        change(&mut value);
        value.to_string().into_bytes()
    }

    #[test]
    fn each_way_of_standing_still_is_told() {
        let at = |ms: i64| Timestamp(ms * 1_000);
        assert_eq!(judge(&heartbeat(|_| {}), at(115_000)).unwrap(), "at work: outbox, scheduler");
        for (now_ms, bytes, said) in [
            (115_001, heartbeat(|_| {}), "process 7 stands still or is gone: it wrote 15 s ago"),
            (
                100_500,
                heartbeat(|v| v["loops"][0]["due_by_ms"] = 98_000.into()),
                "the loop outbox is stuck: seen 1 s ago",
            ),
            (
                100_500,
                heartbeat(|v| v["loops"][1]["trouble"] = "storage is unavailable".into()),
                "the loop scheduler cannot work: storage is unavailable",
            ),
            (100_500, heartbeat(|v| v["loops"] = serde_json::json!([])), "no loop is at work"),
            (100_500, b"{".to_vec(), "is no heartbeat"),
        ] {
            let error = judge(&bytes, at(now_ms)).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}

//! Earlier advice of the same database, from the summaries of earlier runs.

use std::path::Path;

use aionis_core::{
    clock::Timestamp,
    gates::scale::{Earlier, ScaleTier},
};
use serde_json::{Value, json};

use crate::failure::Failure;

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// What was found in a directory of earlier runs.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Advice of this database.
    pub(super) earlier: Vec<Earlier>,
    /// The tier the newest of them knew the deployment to be in.
    pub(super) last_tier: Option<ScaleTier>,
    newest: i64,
    other_database: u64,
    unreadable: Vec<String>,
}

/// The day of a moment: days since 1970, UTC.
pub(super) const fn day(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_US)
}

impl History {
    /// Reads `<dir>/<run>/summary.json` of every run. A directory that is not there holds no history; a summary that cannot
    /// be read is named.
    pub(super) fn read(dir: &Path, database: Option<&str>) -> Result<Self, Failure> {
        let mut history = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(history),
            Err(e) => return Err(Failure::new(format!("--history-dir {}: {e}", dir.display()))),
        };
        for entry in entries {
            let path = entry?.path().join("summary.json");
            if !path.exists() {
                continue;
            }
            let read = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            match read.as_ref().and_then(|summary| Some((summary, record(summary)?))) {
                Some((summary, record)) => history.add(summary, record, database),
                None => history.unreadable.push(path.display().to_string()),
            }
        }
        Ok(history)
    }

    fn add(&mut self, summary: &Value, (at, record): (Timestamp, Earlier), database: Option<&str>) {
        // What a database without identity said cannot be told from what another one said.
        if database.is_none() || summary["database_target_hash"].as_str() != database {
            self.other_database += 1;
            return;
        }
        if at.0 >= self.newest {
            self.newest = at.0;
            self.last_tier = summary["current_tier"].as_str().and_then(ScaleTier::parse);
        }
        self.earlier.push(record);
    }

    /// As the summary tells of it.
    pub(super) fn told(&self, dir: &Path) -> Value {
        json!({
            "dir": dir.display().to_string(),
            "summaries": self.earlier.len(),
            "of_other_databases": self.other_database,
            "unreadable": self.unreadable,
        })
    }
}

fn record(summary: &Value) -> Option<(Timestamp, Earlier)> {
    let at = Timestamp::parse_iso(summary["timestamp_utc"].as_str()?)?;
    let breached = summary["triggers"].as_array()?.iter().filter(|trigger| trigger["breached"] == true);
    let breached = breached.filter_map(|trigger| trigger["name"].as_str()).map(str::to_owned).collect();
    Some((at, Earlier { day: day(at), breached, within_a: summary["within_tier_a"] == true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, run: &str, text: &str) {
        std::fs::create_dir_all(dir.join(run)).unwrap();
        std::fs::write(dir.join(run).join("summary.json"), text).unwrap();
    }

    fn summary(at: &str, tier: &str, database: &str) -> String {
        json!({
            "timestamp_utc": at, "current_tier": tier, "database_target_hash": database, "within_tier_a": "unknown",
            "triggers": [{ "name": "x", "breached": true }, { "name": "y", "breached": "unknown" }],
        })
        .to_string()
    }

    #[test]
    fn advice_of_the_same_database_is_read_and_the_rest_is_told() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path();
        put(dir, "r1", &summary("2026-02-20T10:00:00.000Z", "A", "db"));
        put(dir, "r2", &summary("2026-02-21T23:59:59.999Z", "B", "db"));
        put(dir, "r3", &summary("2026-02-22T10:00:00.000Z", "C", "another"));
        put(dir, "r4", "{");
        std::fs::create_dir_all(dir.join("empty")).unwrap();
        let history = History::read(dir, Some("db")).unwrap();
        assert_eq!((history.earlier.len(), history.last_tier), (2, Some(ScaleTier::B)));
        let days: Vec<i64> = history.earlier.iter().map(|record| record.day).collect();
        assert_eq!((days.iter().max().unwrap() - days.iter().min().unwrap()), 1);
        assert!(history.earlier.iter().all(|record| record.breached == ["x"] && !record.within_a));
        let told = history.told(dir);
        assert_eq!((&told["of_other_databases"], told["unreadable"].as_array().map(Vec::len)), (&json!(1), Some(1)));
        assert_eq!(History::read(dir, None).unwrap().earlier.len(), 0);
        assert_eq!(History::read(&dir.join("nowhere"), Some("db")).unwrap().earlier.len(), 0);
    }
}

//! Removing rows that are kept for a while only. Nothing a commit binds is touched.

use std::time::Duration;

use aionis_core::{
    error::DomainError,
    jobs::{
        JobInfo, Over, Schedule,
        retention::{DecisionPlace, Expiring, RetentionDays},
    },
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: "retention",
    about: "Remove old rows: derived work that is done, recall audits, decisions without feedback, runs of jobs",
    changes: true,
    over: Over::Deployment,
    schedule: Some(Schedule { every: Duration::from_secs(86_400), only_changed: false }),
};

/// Rows removed at once.
const BATCH: usize = 1_000;

/// Removes what is older than its period, kind by kind, a batch per step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Periods.
    pub days: RetentionDays,
}

/// Where a run is.
#[derive(Debug, Default, Serialize, Deserialize)]
struct At {
    kind: usize,
    #[serde(default)]
    after: Option<DecisionPlace>,
}

impl Retention {
    async fn remove(&self, on: &Step<'_>, at: &At, kind: Expiring, report: &mut Report) -> Result<At, DomainError> {
        let done = At { kind: at.kind + 1, after: None };
        let Some(before) = self.days.before(kind, on.now) else { return Ok(done) };
        if on.dry_run {
            report.count(kind.as_str(), on.store.expiring(kind, before).await?);
            return Ok(done);
        }
        if kind == Expiring::Decisions {
            let page = on.store.expire_decisions(before, at.after.as_ref(), BATCH).await?;
            report.count(kind.as_str(), page.removed);
            report.count("decisions_kept", page.kept);
            return Ok(page.next.map_or(done, |next| At { kind: at.kind, after: Some(next) }));
        }
        let removed = on.store.expire(kind, before, BATCH).await?;
        report.count(kind.as_str(), removed);
        Ok(if removed < BATCH as u64 { done } else { At { kind: at.kind, after: None } })
    }
}

#[async_trait]
impl Job for Retention {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!(self.days)
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let at: At = match on.cursor {
            None => At::default(),
            Some(cursor) => serde_json::from_value(cursor.clone())
                .map_err(|e| DomainError::internal(format!("the cursor of retention cannot be read: {e}")))?,
        };
        let mut report = Report::default();
        let Some(kind) = Expiring::ALL.get(at.kind).copied() else { return Ok(Stepped { report, next: None }) };
        let next = self.remove(on, &at, kind, &mut report).await?;
        let next = (next.kind < Expiring::ALL.len()).then(|| json!(next));
        Ok(Stepped { report, next })
    }
}

//! Removing everything a scope holds, by a plan that was looked at before.

use aionis_core::{
    canon::Digest,
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    jobs::{
        JobInfo, Over, Target,
        scope_purge::{PendingPurge, PurgeMode, PurgePlan, PurgeRecord, PurgeState, SCOPE_PURGE, plan_purge},
    },
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: SCOPE_PURGE,
    about: "Remove everything one scope holds, by a plan that was looked at before",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Purges one scope. A dry run makes the plan; the plan's hash starts the purge, goes on with one that was stopped, and of one
/// that ended shows the record.
#[derive(Clone, Debug)]
pub struct ScopePurge {
    /// The scope.
    pub scope: ScopeKey,
    /// Hash of the plan; only a dry run needs none.
    pub plan: Option<Digest>,
    /// How rows may be removed.
    pub mode: PurgeMode,
    /// Refuse before anything is touched if rows would have to be deleted one by one.
    pub fail_on_delete: bool,
    /// Rows removed in one step, at most.
    pub batch_size: usize,
    /// Who purges, for the record.
    pub by: String,
}

#[async_trait]
impl Job for ScopePurge {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn target(&self) -> Option<Target> {
        Some(Target::Scope(self.scope.clone()))
    }

    fn params(&self) -> Value {
        json!({
            "plan_hash": self.plan.map(|plan| plan.to_hex()),
            "mode": self.mode,
            "fail_on_delete": self.fail_on_delete,
            "batch_size": self.batch_size,
            "by": self.by,
        })
    }

    // A scope whose tenant was moved away bears the mark of a copy, but none is under way: that is `Open`.
    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        match on.store.purge_state(&self.scope).await? {
            PurgeState::Importing => Err(DomainError::new(
                ErrorKind::Unavailable,
                "scope_importing",
                format!("{} is being copied in; let `aionis copy` finish, then purge it", self.scope),
            )),
            PurgeState::Purging(pending) => self.go_on(on, &pending).await,
            PurgeState::Open => self.begin(on, true).await,
            PurgeState::Absent => self.begin(on, false).await,
        }
    }
}

impl ScopePurge {
    /// Looks at a scope that nobody purges, or marks it.
    async fn begin(&self, on: &Step<'_>, has_head: bool) -> Result<Stepped, DomainError> {
        if let (false, Some(plan)) = (has_head, self.plan)
            && let Some(record) = on.store.purge_record(&self.scope, plan).await?
        {
            return Ok(ended(&record, 0));
        }
        let survey = on.store.purge_survey(&self.scope).await?;
        if !has_head && survey.rows() == 0 {
            return Err(DomainError::new(
                ErrorKind::NotFound,
                "scope_not_found",
                format!("nothing is stored for {}", self.scope),
            ));
        }
        let plan = plan_purge(&self.scope, &survey, self.mode, self.fail_on_delete)?;
        if on.dry_run {
            return Ok(Stepped { report: planned(&plan), next: None });
        }
        let asked = self.asked()?;
        if asked != plan.hash || !on.store.begin_purge(&self.scope, &plan, &self.by, on.now).await? {
            return Err(DomainError::new(
                ErrorKind::Conflict,
                "purge_plan_stale",
                format!(
                    "{} is not as it was when {} was planned, or the flags are others; nothing was removed: plan again",
                    self.scope,
                    asked.to_hex()
                ),
            ));
        }
        let mut report = Report::default();
        report.set("plan_hash", plan.hash.to_hex());
        report.count("rows_removed", 0);
        Ok(Stepped { report, next: Some(json!({ "plan_hash": plan.hash.to_hex() })) })
    }

    /// Takes the next step of a purge under way, or tells of it.
    async fn go_on(&self, on: &Step<'_>, pending: &PendingPurge) -> Result<Stepped, DomainError> {
        if on.dry_run {
            let mut report = Report::default();
            report.set("state", "purging");
            report.set("plan_hash", pending.plan.clone());
            report.set("by", pending.by.clone());
            report.set("rows", json!(pending.rows));
            return Ok(Stepped { report, next: None });
        }
        let asked = self.asked()?;
        if asked.to_hex() != pending.plan {
            return Err(DomainError::new(
                ErrorKind::Conflict,
                "purge_plan_stale",
                format!("a purge of {} by the plan {} is under way: finish that one", self.scope, pending.plan),
            ));
        }
        let step = on.store.purge_step(&self.scope, asked, self.batch_size, on.now).await?;
        if let Some(record) = step.done {
            return Ok(ended(&record, step.rows));
        }
        let mut report = Report::default();
        report.set("plan_hash", asked.to_hex());
        report.count("rows_removed", step.rows);
        Ok(Stepped { report, next: Some(json!({ "plan_hash": asked.to_hex() })) })
    }

    fn asked(&self) -> Result<Digest, DomainError> {
        self.plan.ok_or_else(|| DomainError::field("plan", "a purge is applied by the hash of its plan: pass --plan"))
    }
}

fn planned(plan: &PurgePlan) -> Report {
    let mut report = Report::default();
    report.set("state", "planned");
    report.set("plan_hash", plan.hash.to_hex());
    report.set("mode", plan.mode.as_str());
    report.set("head_seq", plan.head.0.to_string());
    report.set("head_hash", plan.head.1.to_hex());
    report.count("rows", plan.tables.iter().map(|table| table.rows).sum());
    for table in &plan.tables {
        report.list("tables", json!(table));
    }
    report
}

fn ended(record: &PurgeRecord, rows: u64) -> Stepped {
    let mut report = Report::default();
    report.set("state", "purged");
    report.set("plan_hash", record.plan.to_hex());
    report.count("rows_removed", rows);
    report.set("record", record.shown());
    Stepped { report, next: None }
}

#[cfg(test)]
#[path = "scope_purge_tests.rs"]
mod tests;

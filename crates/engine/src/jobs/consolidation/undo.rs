//! Taking merges back.

use aionis_core::{
    error::DomainError,
    jobs::{
        JobInfo, Over,
        consolidation::{MergeAction, UndoWhich},
    },
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    super::{Job, Report, Step, Stepped},
    merge, tell,
};

pub(in crate::jobs) const INFO: JobInfo = JobInfo {
    name: "consolidation-undo",
    about: "Take merges back: aliases and their edges become what they were",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Takes one merge back, or all of a run. What was changed since is left and told, unless it is forced.
#[derive(Debug)]
pub struct ConsolidationUndo {
    /// Which.
    pub which: UndoWhich,
    /// Whether what was changed since is overwritten.
    pub force: bool,
}

#[async_trait]
impl Job for ConsolidationUndo {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        let (merge, run) = match self.which {
            UndoWhich::Merge(id) => (Some(id), None),
            UndoWhich::Run(id) => (None, Some(id)),
        };
        json!({ "merge": merge, "all_of": run, "force": self.force })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let done = merge(on, MergeAction::Undo { which: self.which.clone(), force: self.force }).await?;
        let mut report = Report::default();
        report.count("undone_merges", done.merges.len() as u64);
        report.count("restored_edges", done.restored_edges);
        report.count("deleted_edges", done.deleted_edges);
        report.count("conflicts_left", done.conflicts.iter().filter(|conflict| !conflict.overwritten).count() as u64);
        report.count("conflicts_forced", done.conflicts.iter().filter(|conflict| conflict.overwritten).count() as u64);
        for conflict in &done.conflicts {
            report.list("conflicts", json!(conflict));
        }
        tell(&mut report, &done);
        Ok(Stepped { report, next: None })
    }

    fn holds(&self, report: &Report) -> bool {
        report.number("conflicts_left") == 0
    }
}

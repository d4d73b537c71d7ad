//! Moving the edges of aliases to the nodes they stand for.

use aionis_core::{
    error::DomainError,
    jobs::{JobInfo, Over, consolidation::MergeAction},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    super::{Job, Report, Step, Stepped},
    after, merge, tell,
};

pub(in crate::jobs) const INFO: JobInfo = JobInfo {
    name: "consolidation-redirect-edges",
    about: "Move the edges of aliases to the nodes they stand for",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Moves all edges of all aliases; none is left out, however many a node has.
#[derive(Debug)]
pub struct ConsolidationRedirect {
    /// Aliases whose edges are moved in one commit.
    pub aliases: usize,
}

#[async_trait]
impl Job for ConsolidationRedirect {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!({ "max_aliases": self.aliases })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let aliases = on.store.aliases(on.scope()?, after(on.cursor)?, self.aliases).await?;
        let mut report = Report::default();
        report.count("scanned_aliases", aliases.len() as u64);
        let Some(last) = aliases.last().copied() else { return Ok(Stepped { report, next: None }) };
        let is_last = aliases.len() < self.aliases;
        let done = merge(on, MergeAction::Redirect { aliases }).await?;
        report.count("touched_edges", done.touched_edges);
        report.count("redirected_edges", done.redirected_edges);
        report.count("merged_into_existing", done.merged_into_existing);
        report.count("dropped_self_loops", done.dropped_self_loops);
        report.count("deleted_alias_edges", done.deleted_edges);
        tell(&mut report, &done);
        Ok(Stepped { report, next: (!is_last).then(|| json!({ "after": last })) })
    }

    fn holds(&self, report: &Report) -> bool {
        let parts = ["redirected_edges", "merged_into_existing", "dropped_self_loops"];
        report.number("touched_edges") == parts.iter().map(|name| report.number(name)).sum::<u64>()
    }
}

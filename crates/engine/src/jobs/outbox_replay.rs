//! Trying again what the outbox gave up: dead letters, and nodes without vector that have a text.

use aionis_core::{
    error::DomainError,
    jobs::{JobInfo, Over},
    ports::store::GivenUp,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: "outbox-replay",
    about: "Put dead letters and failed nodes back into the queue of vectors to derive",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Puts given-up work of scopes back into the queue, with all its attempts. One transaction per scope.
#[derive(Debug, Default)]
pub struct OutboxReplay;

#[async_trait]
impl Job for OutboxReplay {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!({})
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let mut found = on.store.given_up(scope).await?;
        if found != GivenUp::default() && !on.dry_run {
            found = on.store.replay(scope, on.now).await?;
        }
        let mut report = Report::default();
        report.count("dead_items", found.dead_items);
        report.count("failed_nodes", found.failed_nodes);
        report.count("unreadable_items", found.unreadable_items);
        Ok(Stepped { report, next: None })
    }
}

//! Queueing nodes that have no vector of the present embedding model. Their vectors are derived; none gets another label.

use aionis_core::{
    error::DomainError,
    ids::NodeId,
    jobs::{JobInfo, Over},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: "embedding-backfill",
    about: "Queue nodes that have no vector of the present embedding model, whatever their state says",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Nodes looked at in one step.
const PAGE: usize = 500;

/// Queues what has no vector of the present model.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddingBackfill;

#[async_trait]
impl Job for EmbeddingBackfill {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!({})
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let after: Option<NodeId> = match on.cursor {
            None => None,
            Some(cursor) => Some(
                serde_json::from_value(cursor.clone())
                    .map_err(|e| DomainError::internal(format!("the cursor of a backfill cannot be read: {e}")))?,
            ),
        };
        let generation = on.store.present_generation().await?;
        let page = on.store.lacking_in(scope, &generation, after, PAGE).await?;
        let mut report = Report::default();
        report.set("model", generation.name.as_str());
        report.count("without_vector", page.nodes.len() as u64);
        report.count("queued", 0);
        if on.dry_run {
            let silent = page.nodes.iter().filter(|node| node.text.is_none()).count() as u64;
            report.count("without_text", silent);
        } else if !page.nodes.is_empty() {
            let done = on.store.queue_lacking(scope, &generation, page.nodes, on.now).await?;
            report.count("queued", done.queued);
            report.count("queued_before", done.waiting);
            report.count("without_text", done.without_text);
            report.count("changed_meanwhile", done.moved_on);
        }
        Ok(Stepped { report, next: page.next.map(|next| json!(next)) })
    }
}

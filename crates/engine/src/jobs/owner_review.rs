//! Private nodes without owner: listed, and given an owner where an operator says so. Never shared.

use aionis_core::{
    error::DomainError,
    ids::NodeId,
    jobs::{
        JobInfo, Over,
        owner_review::{Assignment, Chosen, Owner, assign},
    },
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: "owner-review",
    about: "List private nodes without owner, and give them one",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// Nodes looked at, and written, at once.
const PAGE: usize = 100;

/// Lists private nodes without owner, and gives those that are chosen an owner.
#[derive(Clone, Debug, Default)]
pub struct OwnerReview {
    /// What is done with them; nothing only lists them.
    pub assignment: Option<Assignment>,
}

/// Where a run is.
#[derive(Debug, Default, Serialize, Deserialize)]
struct At {
    after: Option<NodeId>,
    /// Chosen ids that were found so far.
    found: u64,
}

#[async_trait]
impl Job for OwnerReview {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        let Some(Assignment { owner, chosen }) = &self.assignment else { return json!({}) };
        let (agent, team) = match owner {
            Owner::Agent(agent) => (Some(agent), None),
            Owner::Team(team) => (None, Some(team)),
        };
        let ids = match chosen {
            Chosen::Ids(ids) => Some(ids.len()),
            Chosen::AllListed => None,
        };
        json!({ "assign_agent": agent, "assign_team": team, "ids": ids, "all_listed": ids.is_none() })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let mut at: At = match on.cursor {
            None => At::default(),
            Some(cursor) => serde_json::from_value(cursor.clone())
                .map_err(|e| DomainError::internal(format!("the cursor of owner-review cannot be read: {e}")))?,
        };
        let page = on.store.ownerless(scope, at.after, PAGE).await?;
        let is_last = page.len() < PAGE;
        at.after = page.last().map(|node| node.id);
        let mut report = Report::default();
        report.count("without_owner", page.len() as u64);
        report.count("assigned", 0);
        for node in &page {
            report.count(&format!("without_owner_{}", node.node_type), 1);
            // Not the client id: callers choose it, and the history of jobs outlives a node that is forgotten.
            report.list("nodes", json!({ "id": node.id, "type": node.node_type }));
        }
        if let Some(assignment) = &self.assignment {
            let chosen: Vec<_> = page.into_iter().filter(|node| assignment.concerns(node.id)).collect();
            let count = chosen.len() as u64;
            at.found += count;
            report.count("chosen", count);
            if count > 0 && !on.dry_run {
                let outcome = on.store.write(assign(scope, chosen, &assignment.owner, (on.run, on.now))).await?;
                report.count("assigned", count);
                report.list("commits", json!({ "commit_id": outcome.commit_id, "commit_seq": outcome.commit_seq }));
            }
            if let (true, Chosen::Ids(ids)) = (is_last, &assignment.chosen) {
                report.count("ids_not_listed", (ids.len() as u64).saturating_sub(at.found));
            }
        }
        Ok(Stepped { report, next: (!is_last).then(|| json!(at)) })
    }

    /// Ids that are not private nodes without owner were meant otherwise.
    fn holds(&self, report: &Report) -> bool {
        report.number("ids_not_listed") == 0
    }
}

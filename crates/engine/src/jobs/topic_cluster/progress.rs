//! How far a run is, and what it amounts to.

use aionis_core::{
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::NodeId,
    jobs::topics::ClusterCounts,
    ports::store::ScanCounts,
    read::Position,
    write::WriteOutcome,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{super::Report, Strategy};

/// How long an alias counts as merged lately, in microseconds.
const LATELY_US: i64 = 30 * 24 * 3_600 * 1_000_000;

/// Sums over the steps of a run. They travel in the cursor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sums {
    processed: u64,
    assigned: u64,
    placed: u64,
    touched: u64,
    small: u64,
    similarity: f64,
    ready: u64,
    unassigned: u64,
    kinds: u64,
    merged: u64,
}

#[derive(Serialize, Deserialize)]
struct Cursor {
    created_at: i64,
    id: Uuid,
    sums: Sums,
}

/// A run up to here, with what this step did.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) after: Option<Position>,
    /// Events of this step that could not begin a topic.
    pub(super) blocked: u64,
    sums: Sums,
    step: ClusterCounts,
    seen: ScanCounts,
    commit: Option<(String, String)>,
}

fn share(part: f64, of: u64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "counts of nodes are far below 2^52")]
    let share = part / of as f64;
    if of == 0 { Value::Null } else { json!((share * 10_000.0).round() / 10_000.0) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of nodes are far below 2^52")]
const fn real(count: u64) -> f64 {
    count as f64
}

impl Progress {
    /// Since when an alias counts as merged lately.
    pub(super) const fn merged_since(now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(LATELY_US))
    }

    pub(super) fn read(cursor: Option<&Value>) -> Result<Self, DomainError> {
        let Some(cursor) = cursor else { return Ok(Self::default()) };
        let read: Cursor = serde_json::from_value(cursor.clone()).map_err(|e| {
            let problem = format!("the cursor of topic-cluster cannot be read: {e}");
            DomainError::new(ErrorKind::Internal, "internal_error", problem)
        })?;
        let after = Position { created_at: Timestamp(read.created_at), id: NodeId(read.id) };
        Ok(Self { after: Some(after), sums: read.sums, ..Self::default() })
    }

    pub(super) fn cursor(&self) -> Value {
        let after = self.after.unwrap_or(Position { created_at: Timestamp(i64::MIN), id: NodeId(Uuid::nil()) });
        json!({ "created_at": after.created_at.0, "id": after.id, "sums": self.sums })
    }

    pub(super) fn begin_step(&mut self, seen: &ScanCounts) {
        self.seen = *seen;
        self.sums.ready += seen.ready_events;
        self.sums.unassigned += seen.unassigned_events;
        self.sums.kinds += seen.kinds;
        self.sums.merged += seen.merged_kinds;
    }

    pub(super) fn add(&mut self, counts: &ClusterCounts, outcome: Option<&WriteOutcome>) {
        self.step = *counts;
        self.sums.processed += counts.processed;
        self.sums.assigned += counts.assigned;
        self.sums.placed += counts.assigned + counts.alone;
        self.sums.touched += counts.touched;
        self.sums.small += counts.small;
        self.sums.similarity += counts.similarity_sum;
        self.commit = outcome.map(|outcome| (outcome.commit_id.to_string(), outcome.commit_hash.clone()));
    }

    pub(super) fn report(&self, strategy: Strategy) -> Report {
        let (step, sums) = (&self.step, &self.sums);
        let mut report = Report::default();
        for (name, by) in [
            ("processed_events", step.processed),
            ("assigned", step.assigned),
            ("alone", step.alone),
            ("created_topics", step.created),
            ("promoted", step.promoted),
            ("blocked_events", self.blocked),
            ("ownerless_events", self.seen.ownerless_events),
            ("pending_events", self.seen.pending_events),
        ] {
            report.count(name, by);
        }
        let orphans = sums.unassigned.saturating_sub(sums.placed);
        report.set(
            "quality",
            json!({
                "cohesion": share(sums.similarity, sums.assigned),
                "coverage": share(real(sums.assigned), sums.processed),
                "orphan_rate_after": share(real(orphans), sums.ready),
                "merge_rate_30d": share(real(sums.merged), sums.kinds),
                "fragmentation": share(real(sums.small), sums.touched),
            }),
        );
        report.set("strategy_requested", strategy.as_str());
        report.set("strategy_executed", strategy.as_str());
        if let Some((id, hash)) = &self.commit {
            report.set("topic_commit_id", id.as_str());
            report.set("topic_commit_hash", hash.as_str());
        }
        report
    }
}

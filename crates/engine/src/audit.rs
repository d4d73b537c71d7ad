//! Audit of recalls: rows leave through a bounded queue, so that reading never waits for writing.

use std::sync::Arc;

use aionis_core::ports::store::{RecallAudit, Store};

use crate::queue::{Batches, Queue, bounded};

/// Handle of the audit queue.
pub struct AuditWriter {
    queue: Queue<RecallAudit>,
}

impl AuditWriter {
    /// Starts the task that stores what is queued.
    pub fn start(store: Arc<dyn Store>, queue_max: usize) -> Self {
        let (queue, batches) = bounded(queue_max);
        tokio::spawn(run(store, batches));
        Self { queue }
    }

    /// Queues a row, or drops and counts it when the queue is full.
    pub fn record(&self, audit: RecallAudit) {
        if !self.queue.push(audit) {
            metrics::counter!("aionis_recall_audit_dropped_total").increment(1);
        }
    }

    /// Waits until everything queued before is stored.
    pub async fn flush(&self) {
        self.queue.flush().await;
    }
}

async fn run(store: Arc<dyn Store>, mut batches: Batches<RecallAudit>) {
    while let Some(mut batch) = batches.next().await {
        let rows = std::mem::take(&mut batch.items);
        let count = rows.len() as u64;
        if count > 0
            && let Err(e) = store.record_recalls(rows).await
        {
            metrics::counter!("aionis_recall_audit_dropped_total").increment(count);
            tracing::warn!(error = %e, rows = count, "recall audit rows could not be stored");
        }
    }
}

//! Audit of recalls: rows leave through a bounded queue, so that reading never waits for writing.

use std::sync::Arc;

use aionis_core::ports::store::{RecallAudit, Store};
use tokio::sync::{mpsc, oneshot};

enum Entry {
    Row(RecallAudit),
    Flush(oneshot::Sender<()>),
}

/// Handle of the audit queue.
pub struct AuditWriter {
    queue: mpsc::Sender<Entry>,
}

const BATCH_MAX: usize = 256;

impl AuditWriter {
    /// Starts the task that stores what is queued.
    pub fn start(store: Arc<dyn Store>, queue_max: usize) -> Self {
        let (queue, entries) = mpsc::channel(queue_max.max(1));
        tokio::spawn(run(store, entries));
        Self { queue }
    }

    /// Queues a row, or drops and counts it when the queue is full.
    pub fn record(&self, audit: RecallAudit) {
        if self.queue.try_send(Entry::Row(audit)).is_err() {
            metrics::counter!("aionis_recall_audit_dropped_total").increment(1);
        }
    }

    /// Waits until everything queued before is stored.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Entry::Flush(done)).await.is_ok() {
            // The task answers once it has stored what came before; when it is gone there is nothing to wait for.
            let _ = flushed.await;
        }
    }
}

async fn run(store: Arc<dyn Store>, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while entries.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut rows = Vec::with_capacity(batch.len());
        let mut waiting = Vec::new();
        for entry in batch.drain(..) {
            match entry {
                Entry::Row(row) => rows.push(row),
                Entry::Flush(done) => waiting.push(done),
            }
        }
        let count = rows.len() as u64;
        if count > 0
            && let Err(e) = store.record_recalls(rows).await
        {
            metrics::counter!("aionis_recall_audit_dropped_total").increment(count);
            tracing::warn!(error = %e, rows = count, "recall audit rows could not be stored");
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}

//! Gauges whose values only the database knows. They are read now and then, within a limit, never for a scrape.

use std::sync::atomic::{AtomicU64, Ordering};

use aionis_core::ports::store::StoreError;

use crate::Engine;

/// The highest commit of any scope this process has heard of.
#[derive(Debug, Default)]
pub(crate) struct ChainHeight(AtomicU64);

impl ChainHeight {
    pub(crate) fn note(&self, seq: u64) {
        let height = self.0.fetch_max(seq, Ordering::Relaxed).max(seq);
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        metrics::gauge!("aionis_chain_height").set(height as f64);
    }
}

impl Engine {
    /// Reads the state of the outbox into its gauges.
    ///
    /// # Errors
    /// A failure of storage; the gauges keep their values.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub async fn sample_outbox(&self) -> Result<(), StoreError> {
        let outbox = self.store.outbox_status().await?;
        metrics::gauge!("aionis_outbox_pending").set(outbox.pending as f64);
        metrics::gauge!("aionis_outbox_dead").set(outbox.dead as f64);
        let age = outbox.oldest_pending.map_or(0, |since| self.clock.now().micros_since(since));
        metrics::gauge!("aionis_outbox_oldest_pending_seconds").set(age as f64 / 1e6);
        Ok(())
    }

    /// A commit of this number exists in some scope.
    pub fn note_chain_height(&self, seq: u64) {
        self.chain_height.note(seq);
    }
}

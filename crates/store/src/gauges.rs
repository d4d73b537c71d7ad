//! What a store holds at one moment, for metrics.

use aionis_core::ports::store::StoreError;

use crate::{postgres::PostgresStore, sqlite::SqliteStore};

/// What a store holds in memory now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreGauges {
    /// Bytes of scope images.
    pub image_bytes: usize,
    /// Connections of the pool, on PostgreSQL.
    pub pool: Option<PoolGauges>,
}

/// A pool of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGauges {
    /// Open ones.
    pub connections: usize,
    /// Open ones that nobody uses.
    pub idle: usize,
}

/// An image was asked for: `hit` when it was in memory, `load` when it has to be read.
pub(crate) fn looked_up(outcome: &'static str) {
    metrics::counter!("aionis_image_lookups_total", "outcome" => outcome).increment(1);
}

/// An image was dropped to make room.
pub(crate) fn evicted() {
    metrics::counter!("aionis_image_evictions_total").increment(1);
}

/// One reading of an image's codes answered so many questions.
pub(crate) fn searched_for(questions: usize) {
    metrics::counter!("aionis_image_searches_total").increment(1);
    metrics::counter!("aionis_image_search_questions_total").increment(questions as u64);
}

/// The number of the newest commit in any scope; it looks at every scope.
const HEIGHT: &str = "SELECT COALESCE(MAX(head_seq), 0) FROM memory_scopes";

impl SqliteStore {
    pub(crate) fn gauges(&self) -> StoreGauges {
        StoreGauges { image_bytes: self.image_bytes(), pool: None }
    }

    pub(crate) async fn chain_height(&self) -> Result<u64, StoreError> {
        self.read_number(HEIGHT).await
    }
}

impl PostgresStore {
    pub(crate) fn gauges(&self) -> StoreGauges {
        let (connections, idle) = self.pool_size();
        let pool = PoolGauges { connections: usize::try_from(connections).unwrap_or(usize::MAX), idle };
        StoreGauges { image_bytes: self.image_bytes(), pool: Some(pool) }
    }

    pub(crate) async fn chain_height(&self) -> Result<u64, StoreError> {
        self.read_number(HEIGHT).await
    }
}

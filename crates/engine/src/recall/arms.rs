//! Seeds by vector.

use aionis_core::{
    error::DomainError,
    ports::store::{DenseQuery, NodeFilter, SeedRules},
    recall::Seed,
};

use super::{QueryInfo, Run};
use crate::stages::{Work, timed};

/// What the question matched by itself.
pub(super) struct Found {
    pub(super) seeds: Vec<Seed>,
    pub(super) query: Option<QueryInfo>,
    pub(super) query_sha256: String,
}

impl Run<'_> {
    pub(super) fn filter(&self, rules: SeedRules) -> NodeFilter {
        NodeFilter { viewer: self.request.viewer.clone(), rules }
    }

    /// The nearest vectors, as the vector endpoint defines seeds (runtime specification 3.10, stage 1).
    pub(super) async fn by_vector(&self, vector: &[f32]) -> Result<Vec<Seed>, DomainError> {
        let query = DenseQuery {
            scope: self.request.scope.clone(),
            filter: self.filter(SeedRules::Reference),
            vector: vector.to_vec(),
            limit: self.knobs.limit,
            scored: self.knobs.limit,
            exact: false,
        };
        let hits = timed(Work::Recall, "meaning", self.store.dense(query)).await?;
        Ok(hits.into_iter().map(|hit| Seed { id: hit.id, similarity: hit.similarity }).collect())
    }
}

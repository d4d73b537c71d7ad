//! Seeds by vector.

use aionis_core::{
    error::DomainError,
    ports::store::{DenseHit, DenseQuery, NodeFilter, SeedRules},
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

    /// The nearest vectors, as the vector endpoint defines seeds (runtime specification 3.10, stage 1); none if they would be
    /// of a state that is no more.
    pub(super) async fn by_vector(&self, vector: &[f32]) -> Result<Option<Vec<Seed>>, DomainError> {
        let query = DenseQuery {
            scope: self.request.scope.clone(),
            filter: self.filter(SeedRules::Reference),
            vector: vector.to_vec(),
            limit: self.knobs.limit,
            scored: self.knobs.limit,
            exact: false,
        };
        let hits = self.near(query).await?;
        Ok(hits.map(|hits| hits.into_iter().map(|hit| Seed { id: hit.id, similarity: hit.similarity }).collect()))
    }

    /// The nearest vectors; none if they would be of a state that is no more.
    pub(super) async fn near(&self, query: DenseQuery) -> Result<Option<Vec<DenseHit>>, DomainError> {
        let near = async {
            match self.held {
                Some(held) => self.store.dense_if_unchanged(query, held).await,
                None => self.store.dense(query).await.map(Some),
            }
        };
        Ok(timed(Work::Recall, "meaning", near).await?)
    }
}

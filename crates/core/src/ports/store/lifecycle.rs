use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    lifecycle::AgingNode,
    model::Tier,
};

/// A page of the nodes of one tier, by id.
#[derive(Clone, Debug)]
pub struct TierPage {
    /// Scope.
    pub scope: ScopeKey,
    /// Tier.
    pub tier: Tier,
    /// Only nodes whose id is above.
    pub after: Option<NodeId>,
    /// Most nodes.
    pub limit: usize,
}

/// What forgetting by tiers reads, and use of nodes as recalls notice it. Moves are operations.
#[async_trait]
pub trait LifecycleStore: Send + Sync {
    /// A page of a tier, straight from an index, ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn tier_page(&self, page: TierPage) -> Result<Vec<AgingNode>, StoreError>;

    /// How many nodes moved to a colder tier at `since` or later, counted in an index.
    ///
    /// # Errors
    /// A failure of storage.
    async fn moved_since(&self, scope: &ScopeKey, since: Timestamp) -> Result<u64, StoreError>;

    /// Notes that nodes were used at a time, except those that were used after `unless_since` anyway, and those that
    /// somebody else is changing at this moment. No commit tells of it: when a node was last used is no content. Tells how
    /// many were noted.
    ///
    /// # Errors
    /// A failure of storage.
    async fn record_use(
        &self,
        scope: &ScopeKey,
        ids: &[NodeId],
        at: Timestamp,
        unless_since: Timestamp,
    ) -> Result<u64, StoreError>;
}

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::Viewer,
    operate::{Decision, DecisionQuery, NewDecision, OperationOutcome, PreparedOperation},
    rules::RuleDef,
};

/// A rule as a change of its state is checked against: its definition, and its node's content digest.
#[derive(Clone, Debug)]
pub struct StoredRule {
    /// Definition.
    pub def: RuleDef,
    /// Content digest of its node.
    pub digest: Digest,
}

impl StoredRule {
    /// Whether someone may see the rule.
    pub fn is_seen_by(&self, viewer: &Viewer) -> bool {
        let owners = (self.def.owner_agent_id.as_deref(), self.def.owner_team_id.as_deref());
        viewer.may_change(self.def.lane, owners)
    }
}

/// Operations other than writes, and what they are decided by.
#[async_trait]
pub trait OperateStore: Send + Sync {
    /// Applies an operation in one transaction: reads what it needs, plans, stores. Durable when this returns.
    ///
    /// # Errors
    /// `Rejected` with the caller's mistake, or a failure of storage; nothing is stored then.
    async fn operate(&self, operation: PreparedOperation) -> Result<OperationOutcome, StoreError>;

    /// A rule.
    ///
    /// # Errors
    /// A failure of storage.
    async fn rule(&self, scope: &ScopeKey, id: NodeId) -> Result<Option<StoredRule>, StoreError>;

    /// Every rule of a scope that is active or shadow, and visible to recall's tiers or not: rules hold until they are
    /// disabled. Ordered by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn live_rules(&self, scope: &ScopeKey) -> Result<Vec<RuleDef>, StoreError>;

    /// Stores a decision of tool selection; tells when, or nothing if one with this id is stored already, which stays.
    ///
    /// # Errors
    /// A failure of storage.
    async fn put_decision(&self, scope: &ScopeKey, decision: NewDecision) -> Result<Option<Timestamp>, StoreError>;

    /// A decision by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn decision(&self, scope: &ScopeKey, id: Uuid) -> Result<Option<Decision>, StoreError>;

    /// The newest decision of the run; without one, or if the run has none, the newest one without a run and without
    /// feedback that is not too old.
    ///
    /// # Errors
    /// A failure of storage.
    async fn find_decision(&self, scope: &ScopeKey, query: &DecisionQuery) -> Result<Option<Decision>, StoreError>;
}

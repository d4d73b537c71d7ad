//! A change of a rule's state, as a request that can be sent as it is.

use serde::Serialize;

use crate::{
    ids::{NodeId, ScopeKey},
    model::RuleState,
};

/// Most suggestions of one kind a report lists; the rest is counted.
pub const SUGGESTIONS_MAX: usize = 100;

/// A request to `POST /v1/memory/rules/state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateChange {
    /// Where it is sent.
    pub endpoint: &'static str,
    /// What is sent. Tenant and scope are named as a caller names them, not by the key they are stored under.
    pub payload: StateChangeBody,
}

/// The body of a [`StateChange`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateChangeBody {
    /// Tenant.
    pub tenant_id: String,
    /// Scope.
    pub scope: String,
    /// The rule.
    pub rule_node_id: NodeId,
    /// Its new state.
    pub state: RuleState,
    /// Why.
    pub input_text: String,
}

impl StateChange {
    /// The request that gives a rule a state.
    pub fn new(scope: &ScopeKey, rule: NodeId, state: RuleState, why: impl Into<String>) -> Self {
        Self {
            endpoint: "/v1/memory/rules/state",
            payload: StateChangeBody {
                tenant_id: scope.tenant().to_owned(),
                scope: scope.scope().to_owned(),
                rule_node_id: rule,
                state,
                input_text: why.into(),
            },
        }
    }

    /// The requests that change a state and take the change back.
    pub fn there_and_back(
        scope: &ScopeKey,
        rule: NodeId,
        (from, to): (RuleState, RuleState),
        job: &str,
    ) -> (Self, Self) {
        let apply = Self::new(scope, rule, to, format!("{job}: {from} to {to}"));
        let rollback = Self::new(scope, rule, from, format!("{job}: back from {to} to {from}"));
        (apply, rollback)
    }
}

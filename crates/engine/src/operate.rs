//! Operations other than writes: the state of rules, feedback, activation, rehydration.

use aionis_core::{
    error::DomainError,
    ids::NodeId,
    model::{RuleState, Tier},
    operate::{NodeNames, Operation, OperationInput, OperationOutcome, Outcome, prepare_operation, rule_not_found},
    ports::store::StoredRule,
    rules::check_promotion,
    write::Warning,
};

use crate::{Engine, stages};

/// What an activation says of nodes.
#[derive(Clone, Debug)]
pub struct Activation {
    /// How they served.
    pub outcome: Outcome,
    /// Whether they count as used now.
    pub activate: bool,
    /// The run.
    pub run_id: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// A way back from a colder tier.
#[derive(Clone, Debug)]
pub struct Rehydration {
    /// Where to.
    pub target: Tier,
    /// Why.
    pub reason: Option<String>,
}

/// How a rule served.
#[derive(Clone, Debug)]
pub struct RuleFeedback {
    /// The rule.
    pub rule: NodeId,
    /// How it turned out.
    pub outcome: Outcome,
    /// The run.
    pub run_id: Option<String>,
    /// A remark.
    pub note: Option<String>,
}

impl Engine {
    /// Gives a rule another state. One that is to be shown or enforced is checked first.
    ///
    /// # Errors
    /// No such rule, a rule that cannot go live, or a failure of storage; nothing changes then.
    pub async fn change_rule_state(
        &self,
        input: OperationInput,
        rule: NodeId,
        state: RuleState,
    ) -> Result<(OperationOutcome, Vec<Warning>), DomainError> {
        let seen = |stored: &StoredRule| input.viewer.as_ref().is_none_or(|viewer| stored.is_seen_by(viewer));
        let Some(stored) = self.store.rule(&input.scope, rule).await?.filter(seen) else {
            return Err(rule_not_found(rule, &input.scope));
        };
        let warnings = check_promotion(&stored.def, state)?;
        let operation = Operation::RuleState { rule, state, checked: stored.digest };
        let outcome = self.operate(input, operation).await?;
        Ok((outcome, warnings))
    }

    /// Notes how a rule served.
    ///
    /// # Errors
    /// No such rule, or a failure of storage.
    pub async fn rule_feedback(
        &self,
        input: OperationInput,
        feedback: RuleFeedback,
    ) -> Result<OperationOutcome, DomainError> {
        let RuleFeedback { rule, outcome, run_id, note } = feedback;
        self.operate(input, Operation::RuleFeedback { rule, outcome, run_id, note }).await
    }

    /// Notes that nodes were used, and how they served.
    ///
    /// # Errors
    /// No node is named, or a failure of storage.
    pub async fn activate(
        &self,
        input: OperationInput,
        nodes: NodeNames,
        activation: Activation,
    ) -> Result<OperationOutcome, DomainError> {
        let Activation { outcome, activate, run_id, reason } = activation;
        self.operate(input, Operation::Activate { nodes, outcome, activate, run_id, reason }).await
    }

    /// Brings nodes back from colder tiers.
    ///
    /// # Errors
    /// No node is named, or a failure of storage.
    pub async fn rehydrate(
        &self,
        input: OperationInput,
        nodes: NodeNames,
        rehydration: Rehydration,
    ) -> Result<OperationOutcome, DomainError> {
        let Rehydration { target, reason } = rehydration;
        self.operate(input, Operation::Rehydrate { nodes, target, reason }).await
    }

    pub(crate) async fn operate(
        &self,
        input: OperationInput,
        operation: Operation,
    ) -> Result<OperationOutcome, DomainError> {
        stages::note_tenant(input.scope.tenant());
        let prepared = prepare_operation(input, operation, &self.settings.write)?;
        let kind = prepared.operation.kind();
        let outcome = self.store.operate(prepared).await?;
        if let Some(commit) = outcome.commit.as_ref().filter(|_| !outcome.replayed) {
            self.chain_height.note(commit.seq);
            metrics::counter!("aionis_commits_total").increment(1);
            metrics::counter!("aionis_operations_total", "kind" => kind).increment(1);
        }
        Ok(outcome)
    }
}

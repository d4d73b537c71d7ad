//! What an operation does to what is stored.

use std::collections::HashSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    CommitRef, NewDecision, OperatedNode, Operation, OperationOutcome, OperationState, Outcome, PreparedOperation,
    activity::{Feedback, activated, moved, rehydrated},
};
use crate::{
    canon::{Digest, canonical_json, sha256, sha256_hex},
    chain::{Change, ChangeOp, CommitHeader, ObjectKind, changes_sha256},
    clock::Timestamp,
    derive_id::stable_uuid,
    error::{DomainError, ErrorKind},
    ids::{NodeId, ScopeKey},
    lifecycle::FRESH_SALIENCE,
    model::{NodeType, RuleState, Tier},
    write::NewCommit,
};

/// One credit or debit of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackRow {
    /// Id.
    pub id: Uuid,
    /// The rule.
    pub rule: NodeId,
    /// How it turned out.
    pub outcome: Outcome,
    /// The run.
    pub run_id: Option<String>,
    /// A remark.
    pub note: Option<String>,
    /// `rule_feedback` or `tools_feedback`.
    pub source: &'static str,
    /// The decision it comes from.
    pub decision: Option<Uuid>,
}

/// What a node gets beside its content.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTouch {
    /// The node.
    pub id: NodeId,
    /// Its new tier.
    pub tier: Option<Tier>,
    /// Its new salience, and since when it holds.
    pub salience: Option<(f64, Timestamp)>,
    /// Whether it counts as used now.
    pub used: bool,
    /// Its new notes.
    pub activity: Option<Value>,
    /// Whether the commit names it.
    pub committed: bool,
}

/// What is stored beside the commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// A rule's new state.
    pub rule_state: Option<(NodeId, RuleState)>,
    /// Nodes that are touched.
    pub touches: Vec<NodeTouch>,
    /// Feedback; its rules' counts change by it.
    pub feedback: Vec<FeedbackRow>,
    /// A decision made from feedback.
    pub decision: Option<NewDecision>,
    /// The run a decision without one is given.
    pub decision_run: Option<(Uuid, String)>,
}

/// Everything an operation does.
#[derive(Debug)]
pub struct OperationPlan {
    /// The commit to append; none when nothing is to be done.
    pub commit: Option<NewCommit>,
    /// What is stored with it.
    pub effects: Effects,
    /// The answer.
    pub outcome: OperationOutcome,
}

/// Digest that a commit binds a rule's state by: SHA-256 over `aionis.rule_state.v1`, a line feed and
/// `canonical_json([rule_node_id, state])`. A new content of the rule's node makes it a draft again without saying so.
pub fn rule_state_digest(rule: NodeId, state: RuleState) -> Digest {
    sha256(format!("aionis.rule_state.v1\n{}", canonical_json(&json!([rule, state]))))
}

/// Digest that a commit binds feedback by: SHA-256 over `aionis.feedback.v1`, a line feed and
/// `canonical_json([rule, outcome, run_id, sha256(note), source, decision])`.
pub fn feedback_digest(row: &FeedbackRow) -> Digest {
    let note = row.note.as_ref().map(sha256_hex);
    let body = json!([row.rule, row.outcome, row.run_id, note, row.source, row.decision]);
    sha256(format!("aionis.feedback.v1\n{}", canonical_json(&body)))
}

/// Plans an operation.
///
/// # Errors
/// A caller's mistake that only storage can show.
pub fn plan_operation(
    asked: &PreparedOperation,
    state: &OperationState,
    now: Timestamp,
) -> Result<OperationPlan, DomainError> {
    let mut planning = Planning { asked, state, now, effects: Effects::default(), changes: Vec::new() };
    let mut outcome = planning.resolve();
    match &asked.operation {
        Operation::RuleState { rule, state, checked } => planning.rule_state(*rule, *state, checked)?,
        Operation::RuleFeedback { rule, outcome, run_id, note } => {
            planning.rule(*rule)?;
            planning.feedback(*rule, (*outcome, run_id, note), "rule_feedback", None);
        }
        Operation::ToolFeedback { .. } => planning.tool_feedback(&mut outcome)?,
        Operation::Activate { nodes: _, outcome: served, activate, run_id, reason } => {
            if outcome.resolved == 0 {
                return Err(none_resolved("nodes_activate_no_resolved_nodes"));
            }
            let feedback = Feedback {
                outcome: *served,
                run_id: run_id.as_deref(),
                reason: reason.as_deref(),
                input_sha256: &asked.input_sha256,
                at: now,
            };
            for id in &outcome.found {
                planning.touch(*id, (None, None), *activate, |node| activated(node, &feedback));
            }
        }
        Operation::Rehydrate { target, reason, .. } => {
            if outcome.resolved == 0 {
                return Err(none_resolved("rehydrate_no_resolved_nodes"));
            }
            for id in &outcome.found {
                if let Some(node) = planning.node(*id).filter(|node| node.tier > *target) {
                    // What had faded is as salient again as something new: else it would be the first to go back.
                    let salience = (node.salience.max(FRESH_SALIENCE), now);
                    planning.touch(*id, (Some(*target), Some(salience)), true, |node| {
                        rehydrated(node, *target, (reason.as_deref(), &asked.input_sha256), now)
                    });
                }
            }
        }
        Operation::Maintain { job, moves } => {
            for one in moves {
                if planning.node(one.id).is_some_and(|node| one.holds(node, now)) {
                    let salience = (one.salience, one.salience_at);
                    planning
                        .touch(one.id, (Some(one.to), Some(salience)), false, |node| moved(node, one.to, (job, now)));
                }
            }
        }
    }
    Ok(planning.finish(outcome))
}

fn none_resolved(code: &'static str) -> DomainError {
    DomainError::new(
        ErrorKind::Invalid,
        code,
        "none of the client_ids names a stored node; check the scope and the ids",
    )
}

struct Planning<'a> {
    asked: &'a PreparedOperation,
    state: &'a OperationState,
    now: Timestamp,
    effects: Effects,
    changes: Vec<Change>,
}

impl Planning<'_> {
    /// Which of the named nodes are stored, each once, in the order named.
    fn resolve(&self) -> OperationOutcome {
        let names = self.asked.operation.names();
        let mut outcome = OperationOutcome {
            commit: None,
            feedback: Vec::new(),
            rules: Vec::new(),
            found: Vec::new(),
            changed: Vec::new(),
            missing_ids: Vec::new(),
            missing_client_ids: Vec::new(),
            resolved: 0,
            decision_policy_sha256: None,
            replayed: false,
        };
        let mut seen = HashSet::new();
        let mut ids = names.ids;
        for client_id in names.client_ids {
            match self.state.clients.get(&client_id).filter(|id| self.node(**id).is_some()) {
                Some(id) => ids.push(*id),
                None => outcome.missing_client_ids.push(client_id),
            }
        }
        ids.retain(|id| seen.insert(*id));
        outcome.resolved = ids.len();
        (outcome.found, outcome.missing_ids) = ids.into_iter().partition(|id| self.node(*id).is_some());
        outcome
    }

    /// A stored node that may be operated on.
    fn node(&self, id: NodeId) -> Option<&OperatedNode> {
        let sees = |node: &&OperatedNode| self.asked.viewer.as_ref().is_none_or(|viewer| node.is_seen_by(viewer));
        self.state.nodes.get(&id).filter(sees)
    }

    fn rule(&self, id: NodeId) -> Result<&OperatedNode, DomainError> {
        let node = self.node(id).filter(|node| node.node_type == NodeType::Rule);
        node.ok_or_else(|| rule_not_found(id, &self.asked.scope))
    }

    fn rule_state(&mut self, id: NodeId, to: RuleState, checked: &Digest) -> Result<(), DomainError> {
        if self.rule(id)?.digest != *checked {
            return Err(DomainError::new(
                ErrorKind::Conflict,
                "rule_changed",
                "the rule got new content while its state was being changed; look at it and send the request again",
            ));
        }
        self.changes.push(Change {
            kind: ObjectKind::Rule,
            op: ChangeOp::Update,
            id: id.0,
            digest: rule_state_digest(id, to),
        });
        self.effects.rule_state = Some((id, to));
        // Touched in any case: whoever keeps an image of the scope must see the node with its rule's new state.
        self.effects.touches.push(NodeTouch {
            id,
            tier: None,
            salience: None,
            used: to.is_live(),
            activity: None,
            committed: false,
        });
        Ok(())
    }

    fn feedback(
        &mut self,
        rule: NodeId,
        (outcome, run_id, note): (Outcome, &Option<String>, &Option<String>),
        source: &'static str,
        decision: Option<Uuid>,
    ) {
        let scope = self.asked.scope.as_str();
        let row = FeedbackRow {
            // A commit holds one feedback per rule at most.
            id: stable_uuid(&format!("feedback:{scope}:{}:{rule}", self.state.head.0 + 1)),
            rule,
            outcome,
            run_id: run_id.clone(),
            note: note.clone(),
            source,
            decision,
        };
        let digest = feedback_digest(&row);
        self.changes.push(Change { kind: ObjectKind::Feedback, op: ChangeOp::Create, id: row.id, digest });
        self.effects.feedback.push(row);
    }

    fn tool_feedback(&mut self, answer: &mut OperationOutcome) -> Result<(), DomainError> {
        let Operation::ToolFeedback { decision, create, rules, outcome, run_id, note, .. } = &self.asked.operation
        else {
            return Ok(());
        };
        let held = match create {
            Some(new) => new,
            None => match &self.state.decision {
                Some(stored) => &stored.decision,
                None => return Err(decision_not_found(*decision, &self.asked.scope)),
            },
        };
        answer.decision_policy_sha256 = Some(held.policy_sha256.clone());
        for rule in rules {
            match self.state.credited.iter().find(|(credited, _)| credited == rule) {
                Some((_, before)) if before != outcome => {
                    return Err(DomainError::new(
                        ErrorKind::Conflict,
                        "decision_has_feedback",
                        format!(
                            "the decision was reported as {} before; feedback on a decision is given once",
                            before.as_str()
                        ),
                    )
                    .with_details(json!({ "decision_id": decision, "outcome": before })));
                }
                // Given before: counted once.
                Some(_) => {}
                // A rule whose node is gone is not credited.
                None if self.rule(*rule).is_err() => {}
                None => self.feedback(*rule, (*outcome, run_id, note), "tools_feedback", Some(*decision)),
            }
        }
        if let (None, Some(run_id)) = (&held.run_id, run_id) {
            self.effects.decision_run = Some((*decision, run_id.clone()));
        }
        if let Some(new) = create {
            self.effects.decision = Some(NewDecision { run_id: run_id.clone(), ..(**new).clone() });
            self.effects.decision_run = None;
        }
        answer.rules.clone_from(rules);
        Ok(())
    }

    fn touch(
        &mut self,
        id: NodeId,
        (tier, salience): (Option<Tier>, Option<(f64, Timestamp)>),
        used: bool,
        notes: impl Fn(&OperatedNode) -> Value,
    ) {
        let Some(node) = self.node(id) else { return };
        let (digest, notes) = (node.digest, notes(node));
        self.changes.push(Change { kind: ObjectKind::Node, op: ChangeOp::Touch, id: id.0, digest });
        self.effects.touches.push(NodeTouch { id, tier, salience, used, activity: Some(notes), committed: true });
    }

    fn finish(self, mut outcome: OperationOutcome) -> OperationPlan {
        outcome.feedback = self.effects.feedback.iter().map(|row| row.id).collect();
        outcome.changed = self.effects.touches.iter().filter(|touch| touch.committed).map(|touch| touch.id).collect();
        if self.changes.is_empty() {
            return OperationPlan { commit: None, effects: Effects::default(), outcome };
        }
        let header = CommitHeader {
            scope_key: self.asked.scope.as_str().to_owned(),
            seq: self.state.head.0 + 1,
            parent_hash: self.state.head.1,
            kind: self.asked.operation.kind().to_owned(),
            actor: self.asked.actor.clone(),
            model_version: None,
            prompt_version: None,
            input_sha256: self.asked.input_sha256.clone(),
            request_sha256: self.asked.request_digest,
            changes_sha256: changes_sha256(&self.changes),
            created_at: self.now,
        };
        let hash = header.hash();
        let commit = NewCommit { id: CommitHeader::id_of(&hash), header, changes: self.changes, hash };
        outcome.commit = Some(CommitRef { id: commit.id, seq: commit.header.seq, hash: hash.to_hex() });
        OperationPlan { commit: Some(commit), effects: self.effects, outcome }
    }
}

/// No rule has this id in the scope.
pub fn rule_not_found(id: NodeId, scope: &ScopeKey) -> DomainError {
    DomainError::new(
        ErrorKind::Invalid,
        "rule_not_found_in_scope",
        "no rule of this scope has this rule_node_id; check the scope, and that the node is of type rule",
    )
    .with_details(json!({ "rule_node_id": id, "scope": scope.scope(), "tenant_id": scope.tenant() }))
}

/// No decision has this id in the scope.
pub fn decision_not_found(id: Uuid, scope: &ScopeKey) -> DomainError {
    DomainError::new(
        ErrorKind::Invalid,
        "decision_not_found_in_scope",
        "no decision of this scope has this decision_id; leave it out to have it found by run, tool and context",
    )
    .with_details(json!({ "decision_id": id, "scope": scope.scope(), "tenant_id": scope.tenant() }))
}

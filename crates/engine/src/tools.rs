//! Rules at work: which apply to a context, which tool they select, and how a decision turned out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aionis_core::{
    canon::{Digest, canonical_sha256, context_sha256, policy_sha256},
    clock::Timestamp,
    derive_id::stable_uuid,
    error::{DomainError, ErrorKind},
    ids::{NodeId, ScopeKey},
    operate::{
        Decision, DecisionQuery, LinkMode, NewDecision, Operation, OperationInput, OperationOutcome, Outcome,
        RULES_WITH_SHADOW, TOOL_RULES_WITH_SHADOW, decision_not_found,
    },
    rules::{
        CompiledRule, ContextIdentity, EvaluateOptions, Evaluation, FeedbackTarget, RuleDef, Selection, ToolPolicy,
        attributed_rules, evaluate, normalize_candidates, select_tool, tool_conflicts_summary,
    },
    write::IdempotencyKey,
};
use hashbrown::HashMap;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Engine;

/// Scopes whose compiled rules are kept.
const SCOPES_MAX: usize = 1_024;
/// How far back feedback without a run looks for its decision.
const DECISION_AGE_MAX: Duration = Duration::from_hours(24);

/// Compiled rules by scope. What is kept is compared with what is stored at every use, so that it is never old.
#[derive(Default)]
pub(crate) struct RuleCache {
    scopes: Mutex<HashMap<ScopeKey, Arc<[Arc<CompiledRule>]>>>,
    /// How often something was forgotten: what was read before must not be kept after.
    forgotten: AtomicU64,
}

impl RuleCache {
    /// Drops what is kept of a scope in which something was forgotten: nobody may ask for its rules for a long time.
    pub(crate) fn forget(&self, scope: &ScopeKey) {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        scopes.remove(scope);
    }

    fn held(&self, scope: &ScopeKey) -> usize {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).get(scope).map_or(0, |rules| rules.len())
    }

    /// `read_at` is what [`Self::forgotten`] said before the definitions were read.
    fn compiled(&self, scope: &ScopeKey, defs: Vec<RuleDef>, read_at: u64) -> Arc<[Arc<CompiledRule>]> {
        let kept = self.scopes.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned();
        let by_id: HashMap<NodeId, &Arc<CompiledRule>> =
            kept.iter().flat_map(|rules| rules.iter()).map(|rule| (rule.id(), rule)).collect();
        let rules: Arc<[Arc<CompiledRule>]> = defs
            .into_iter()
            .map(|def| match by_id.get(&def.rule_node_id) {
                Some(rule) if *rule.def() == def => Arc::clone(rule),
                _ => Arc::new(CompiledRule::compile(def)),
            })
            .collect();
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.forgotten.load(Ordering::SeqCst) != read_at {
            return rules;
        }
        if scopes.len() >= SCOPES_MAX && !scopes.contains_key(scope) {
            // Any will do: what is dropped is compiled again when it is needed.
            let dropped = scopes.keys().next().cloned();
            dropped.map(|scope| scopes.remove(&scope));
        }
        scopes.insert(scope.clone(), Arc::clone(&rules));
        rules
    }
}

/// Which rules apply to a context.
#[derive(Clone, Debug)]
pub struct EvaluateRequest {
    /// Scope.
    pub scope: ScopeKey,
    /// The context; null if there is none.
    pub context: Value,
    /// Whether shadow rules are looked at too.
    pub include_shadow: bool,
    /// Most rules listed.
    pub limit: usize,
    /// Who asks, when that is known.
    pub identity: Option<ContextIdentity>,
}

/// Which tool to use.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// What the rules are evaluated on.
    pub evaluate: EvaluateRequest,
    /// The run the decision belongs to.
    pub run_id: Option<String>,
    /// The tools there are.
    pub candidates: Vec<String>,
    /// Whether nothing but allowed tools may be selected.
    pub strict: bool,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
}

/// A selected tool, why, and the decision that was stored.
#[derive(Debug)]
pub struct ToolChoice {
    /// The rules behind it.
    pub evaluation: Evaluation,
    /// What is selected.
    pub selection: Selection,
    /// Conflicts of the policy, in words.
    pub conflicts: Vec<String>,
    /// What shadow rules would select, and their conflicts.
    pub shadow: Option<(Selection, Vec<String>)>,
    /// The decision.
    pub decision: Decision,
}

/// How a selected tool served.
#[derive(Clone, Debug)]
pub struct ToolFeedback {
    /// What the rules are evaluated on if the decision is not stored.
    pub evaluate: EvaluateRequest,
    /// The decision, if the caller knows it.
    pub decision: Option<Uuid>,
    /// The run.
    pub run_id: Option<String>,
    /// The tools there were.
    pub candidates: Vec<String>,
    /// The tool that was used.
    pub selected_tool: String,
    /// Which rules it concerns.
    pub target: FeedbackTarget,
    /// How it turned out.
    pub outcome: Outcome,
    /// A remark.
    pub note: Option<String>,
}

/// What feedback on a tool did.
#[derive(Debug)]
pub struct ToolFeedbackAnswer {
    /// What was stored; none when no rule is concerned.
    pub outcome: Option<OperationOutcome>,
    /// The decision it was credited to.
    pub decision: Uuid,
    /// How the decision was found.
    pub link: LinkMode,
}

/// A decision made again from what it was made of.
#[derive(Debug)]
pub struct Replayed {
    /// The decision.
    pub decision: Decision,
    /// What its policy selects.
    pub selection: Selection,
    /// Whether policy hash and selected tool are those stored.
    pub identical: bool,
}

impl Engine {
    async fn rules(&self, scope: &ScopeKey) -> Result<Arc<[Arc<CompiledRule>]>, DomainError> {
        let read_at = self.rule_cache.forgotten.load(Ordering::SeqCst);
        Ok(self.rule_cache.compiled(scope, self.store.live_rules(scope).await?, read_at))
    }

    /// How many compiled rules of a scope are kept in memory.
    pub fn compiled_rules(&self, scope: &ScopeKey) -> usize {
        self.rule_cache.held(scope)
    }

    /// Evaluates the live rules of a scope.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn evaluate_rules(&self, request: &EvaluateRequest) -> Result<Evaluation, DomainError> {
        crate::stages::note_tenant(request.scope.tenant());
        let rules = self.rules(&request.scope).await?;
        let options = EvaluateOptions {
            include_shadow: request.include_shadow,
            limit: request.limit,
            identity: request.identity.clone(),
        };
        Ok(evaluate(&rules, &request.context, &options))
    }

    /// Selects a tool and stores the decision. A request repeated under its key answers with the decision it made first.
    ///
    /// # Errors
    /// `no_tools_allowed`, or a failure of storage.
    pub async fn select_tool(&self, request: SelectRequest) -> Result<ToolChoice, DomainError> {
        let evaluation = self.evaluate_rules(&request.evaluate).await?;
        let applied = &evaluation.applied;
        let scope = &request.evaluate.scope;
        let id = decision_id(&request);
        let earlier = match &request.idempotency {
            Some(_) => self.store.decision(scope, id).await?,
            None => None,
        };
        let policy = earlier.as_ref().map_or(&applied.policy, |earlier| &earlier.decision.policy);
        let mut selection = select_tool(&ToolPolicy::of_policy(policy), &request.candidates, request.strict)?;
        let conflicts = tool_conflicts_summary(&applied.tool_explain.conflicts);
        let shadow = match (&applied.shadow_policy, &applied.shadow_tool_explain) {
            (Some(policy), Some(explain)) => {
                let selection = select_tool(&ToolPolicy::of_policy(policy), &request.candidates, false)?;
                Some((selection, tool_conflicts_summary(&explain.conflicts)))
            }
            _ => None,
        };
        let decision = match earlier {
            Some(earlier) => earlier,
            None => {
                let mut metadata = json!({
                    "strict": request.strict,
                    "include_shadow": request.evaluate.include_shadow,
                    "rules_limit": request.evaluate.limit,
                    "matched_rules": evaluation.matched,
                    "tool_conflicts_summary": conflicts,
                });
                if let Some((_, conflicts)) = &shadow {
                    metadata["shadow_tool_conflicts_summary"] = json!(conflicts);
                }
                let new = new_decision(id, &request.evaluate, &evaluation, metadata);
                let new = NewDecision {
                    run_id: request.run_id.clone(),
                    selected_tool: selection.selected.clone(),
                    candidates: selection.candidates.clone(),
                    ..new
                };
                match self.store.put_decision(scope, new.clone()).await? {
                    Some(created_at) => Decision { decision: new, created_at, commit_seq: None },
                    None => {
                        // The same request was being answered at the same time: that answer holds.
                        let first =
                            self.store.decision(scope, id).await?.ok_or_else(|| decision_not_found(id, scope))?;
                        let policy = ToolPolicy::of_policy(&first.decision.policy);
                        selection = select_tool(&policy, &request.candidates, request.strict)?;
                        first
                    }
                }
            }
        };
        metrics::counter!("aionis_tool_decisions_total").increment(1);
        Ok(ToolChoice { selection, conflicts, shadow, decision, evaluation })
    }

    /// Credits the rules behind a decision with how it turned out: those the decision stored, whatever has changed since.
    ///
    /// # Errors
    /// The decision is unknown or another than was named, or a failure of storage.
    pub async fn tool_feedback(
        &self,
        input: OperationInput,
        feedback: ToolFeedback,
    ) -> Result<ToolFeedbackAnswer, DomainError> {
        let candidates = normalize_candidates(&feedback.candidates);
        let tool = feedback.selected_tool.trim().to_owned();
        let (link, decision, create) = self.linked(&input, &feedback, &candidates, &tool).await?;
        let held = create.as_deref().unwrap_or(&decision);
        check_match(held, &candidates, &tool, feedback.run_id.as_deref())?;
        let rules = credited(held, feedback.target, feedback.evaluate.include_shadow);
        let id = held.id;
        if rules.is_empty() {
            return Ok(ToolFeedbackAnswer { outcome: None, decision: id, link });
        }
        let request = asked_by(&feedback);
        let operation = Operation::ToolFeedback {
            decision: id,
            link,
            create,
            rules,
            request,
            outcome: feedback.outcome,
            run_id: feedback.run_id,
            note: feedback.note,
        };
        let outcome = self.operate(input, operation).await?;
        Ok(ToolFeedbackAnswer { outcome: Some(outcome), decision: id, link })
    }

    /// The decision feedback concerns, how it was found, and, if there is none, the one to be stored with it.
    async fn linked(
        &self,
        input: &OperationInput,
        feedback: &ToolFeedback,
        candidates: &[String],
        tool: &str,
    ) -> Result<(LinkMode, NewDecision, Option<Box<NewDecision>>), DomainError> {
        let scope = &input.scope;
        if let Some(id) = feedback.decision {
            let found = self.store.decision(scope, id).await?.ok_or_else(|| decision_not_found(id, scope))?;
            return Ok((LinkMode::Provided, found.decision, None));
        }
        let day = i64::try_from(DECISION_AGE_MAX.as_micros()).unwrap_or(i64::MAX);
        let query = DecisionQuery {
            run_id: feedback.run_id.clone(),
            selected_tool: tool.to_owned(),
            candidates: candidates.to_vec(),
            context_sha256: context_sha256(&feedback.evaluate.context),
            newer_than: Timestamp(self.clock.now().0.saturating_sub(day)),
        };
        if let Some(found) = self.store.find_decision(scope, &query).await? {
            return Ok((LinkMode::Inferred, found.decision, None));
        }
        let evaluation = self.evaluate_rules(&feedback.evaluate).await?;
        let metadata = json!({ "source": "feedback_derived" });
        let made = NewDecision {
            run_id: feedback.run_id.clone(),
            selected_tool: Some(tool.to_owned()),
            candidates: candidates.to_vec(),
            ..new_decision(made_id(input, feedback), &feedback.evaluate, &evaluation, metadata)
        };
        Ok((LinkMode::CreatedFromFeedback, made.clone(), Some(Box::new(made))))
    }

    /// Makes a stored decision again from the policy it was made by.
    ///
    /// # Errors
    /// The decision is unknown, or a failure of storage.
    pub async fn replay_decision(&self, scope: &ScopeKey, id: Uuid) -> Result<Replayed, DomainError> {
        let decision = self.store.decision(scope, id).await?.ok_or_else(|| decision_not_found(id, scope))?;
        let of = &decision.decision;
        if of.policy.is_null() {
            let message = "a rule this decision was made by was forgotten, and the policy with it; its digest is kept";
            return Err(DomainError::new(ErrorKind::Gone, "erased", message)
                .with_details(json!({ "decision_id": id, "policy_sha256": of.policy_sha256 })));
        }
        // Stored decisions selected something or were not strict, so this cannot be refused.
        let selection = select_tool(&ToolPolicy::of_policy(&of.policy), &of.candidates, false)?;
        let identical = policy_sha256(&of.policy) == of.policy_sha256 && selection.selected == of.selected_tool;
        Ok(Replayed { decision, selection, identical })
    }
}

/// The id of a decision: a new one, or, under a repetition key, the one such a request always has.
fn decision_id(request: &SelectRequest) -> Uuid {
    let Some(key) = &request.idempotency else { return Uuid::new_v4() };
    let scope = request.evaluate.scope.as_str();
    let asked = canonical_sha256(&json!([
        request.evaluate.context,
        request.candidates,
        request.strict,
        request.evaluate.include_shadow,
        request.run_id,
    ]));
    stable_uuid(&format!("decision:{scope}:{}:{}", key.key, asked.to_hex()))
}

/// Digest of everything a caller says with feedback, beside what every operation says.
fn asked_by(feedback: &ToolFeedback) -> Digest {
    let all = feedback.target == FeedbackTarget::All;
    canonical_sha256(&json!([
        [feedback.evaluate.context, feedback.evaluate.include_shadow, feedback.decision],
        [feedback.candidates, feedback.selected_tool, feedback.run_id],
        [all, feedback.outcome, feedback.note],
    ]))
}

/// The id of a decision made from feedback: as [`decision_id`].
fn made_id(input: &OperationInput, feedback: &ToolFeedback) -> Uuid {
    let Some(key) = &input.idempotency else { return Uuid::new_v4() };
    let asked = canonical_sha256(&json!([input.actor, input.input_text, input.input_sha256, asked_by(feedback)]));
    stable_uuid(&format!("feedback decision:{}:{}:{}", input.scope.as_str(), key.key, asked.to_hex()))
}

fn new_decision(id: Uuid, asked: &EvaluateRequest, evaluation: &Evaluation, mut metadata: Value) -> NewDecision {
    let applied = &evaluation.applied;
    if asked.include_shadow {
        let both = |target| attributed_rules(applied, target, true);
        metadata[RULES_WITH_SHADOW] = json!(both(FeedbackTarget::All));
        metadata[TOOL_RULES_WITH_SHADOW] = json!(both(FeedbackTarget::Tool));
    }
    NewDecision {
        id,
        run_id: None,
        selected_tool: None,
        candidates: Vec::new(),
        context_sha256: context_sha256(&asked.context),
        policy_sha256: policy_sha256(&applied.policy),
        policy: applied.policy.clone(),
        source_rules: attributed_rules(applied, FeedbackTarget::All, false),
        tool_rules: attributed_rules(applied, FeedbackTarget::Tool, false),
        metadata,
    }
}

/// The rules of a decision that feedback concerns.
fn credited(decision: &NewDecision, target: FeedbackTarget, include_shadow: bool) -> Vec<NodeId> {
    let (key, active) = match target {
        FeedbackTarget::Tool => (TOOL_RULES_WITH_SHADOW, &decision.tool_rules),
        FeedbackTarget::All => (RULES_WITH_SHADOW, &decision.source_rules),
    };
    let with_shadow = || serde_json::from_value(decision.metadata.get(key)?.clone()).ok();
    include_shadow.then(with_shadow).flatten().unwrap_or_else(|| active.clone())
}

fn check_match(
    decision: &NewDecision,
    candidates: &[String],
    tool: &str,
    run_id: Option<&str>,
) -> Result<(), DomainError> {
    let refuse =
        |code, message: &str, details| Err(DomainError::new(ErrorKind::Invalid, code, message).with_details(details));
    let id = decision.id;
    if decision.selected_tool.as_deref() != Some(tool) {
        return refuse(
            "decision_selected_tool_mismatch",
            "the decision selected another tool than selected_tool names",
            json!({ "decision_id": id, "decision_selected_tool": decision.selected_tool, "request_selected_tool": tool }),
        );
    }
    if decision.candidates != candidates {
        return refuse(
            "decision_candidates_mismatch",
            "the decision was made among other candidates, or in another order",
            json!({ "decision_id": id }),
        );
    }
    match (&decision.run_id, run_id) {
        (Some(of_decision), Some(asked)) if of_decision != asked => refuse(
            "decision_run_id_mismatch",
            "the decision belongs to another run",
            json!({ "decision_id": id, "decision_run_id": of_decision, "request_run_id": asked }),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use aionis_core::{
        ids::{CommitId, TenantId},
        model::{Lane, RuleScope, RuleState},
    };

    use super::*;

    /// A rule that was read before the forgetting and compiled after it.
    #[test]
    fn what_was_read_before_a_forgetting_is_not_kept_after_it() {
        let scope = ScopeKey::new(&TenantId::parse("acme").unwrap(), "s").unwrap();
        let cache = RuleCache::default();
        let rule = || RuleDef {
            rule_node_id: NodeId(Uuid::from_u128(1)),
            state: RuleState::Active,
            rule_scope: RuleScope::Global,
            target_agent_id: None,
            target_team_id: None,
            if_json: json!({}),
            then_json: json!({}),
            exceptions_json: json!([]),
            positive_count: 0,
            negative_count: 0,
            commit_id: CommitId(Uuid::from_u128(2)),
            lane: Lane::Shared,
            owner_agent_id: None,
            owner_team_id: None,
            summary: None,
            priority: 0,
            weight: 1.0,
        };
        let read_at = cache.forgotten.load(Ordering::SeqCst);
        cache.compiled(&scope, vec![rule()], read_at);
        assert_eq!(cache.held(&scope), 1);
        cache.forget(&scope);
        assert_eq!(cache.held(&scope), 0);
        assert_eq!(cache.compiled(&scope, vec![rule()], read_at).len(), 1, "who asked is answered");
        assert_eq!(cache.held(&scope), 0);
        cache.compiled(&scope, vec![rule()], read_at + 1);
        assert_eq!(cache.held(&scope), 1);
    }
}

//! Which rules apply to a context, and why others do not (specification 3.12).

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    definition::{CompiledRule, Rank},
    identity::ContextIdentity,
    merge::{Applied, merge},
};
use crate::{
    ids::{CommitId, NodeId},
    model::{Lane, RuleScope, RuleState},
};

/// Most rules named in [`Evaluation::invalid_then_sample`].
const INVALID_SAMPLE_MAX: usize = 5;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    /// Whether shadow rules are matched and merged too, apart from the active ones.
    pub include_shadow: bool,
    /// Most matches listed per state. It bounds what is shown, never what is merged.
    pub limit: usize,
    /// Who asks, when that is known better than from the context; [`ContextIdentity::bind`] makes the context agree.
    pub identity: Option<ContextIdentity>,
}

/// The outcome, in the order of the response's keys.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Live rules looked at: all that were given.
    pub considered: usize,
    /// Rules that apply, listed or not.
    pub matched: usize,
    /// Rules that would apply but for an invalid patch.
    pub skipped_invalid_then: usize,
    /// Some of them, by id.
    pub invalid_then_sample: Vec<InvalidThen>,
    /// Active rules that apply, best first, at most the limit.
    pub active: Vec<RuleMatch>,
    /// Shadow rules that apply, best first, at most the limit.
    pub shadow: Vec<RuleMatch>,
    /// What kept rules out.
    pub agent_visibility_summary: VisibilitySummary,
    /// The policy they make.
    pub applied: Applied,
}

/// A rule that would apply but for its patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvalidThen {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Its state.
    pub state: RuleState,
    /// The commit that last changed its definition.
    pub commit_id: CommitId,
}

/// Who asked and what they could not see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VisibilitySummary {
    /// Who asked.
    pub agent: AgentSummary,
    /// Counts per reason.
    pub rule_scope: RuleScopeSummary,
    /// How lanes were enforced.
    pub lane: LaneSummary,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentSummary {
    /// Agent id.
    pub id: Option<String>,
    /// Team id.
    pub team_id: Option<String>,
}

/// How many rules went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleScopeSummary {
    /// Live rules looked at.
    pub scanned: usize,
    /// Meant for someone else.
    pub filtered_by_scope: usize,
    /// Private to someone else.
    pub filtered_by_lane: usize,
    /// Condition not met, or an exception met.
    pub filtered_by_condition: usize,
    /// Invalid patch.
    pub skipped_invalid_then: usize,
    /// Active rules that apply.
    pub matched_active: usize,
    /// Shadow rules that apply, when asked for.
    pub matched_shadow: usize,
}

/// How lanes were enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LaneSummary {
    /// Always true: without an identity only shared rules are seen (W-6).
    pub applied: bool,
    /// Which identity it rested on; `missing_agent_context` when on none.
    pub reason: &'static str,
    /// Always 0: a private rule without owner is seen by nobody.
    pub legacy_unowned_private_visible: usize,
    /// Private rules without owner that were met.
    pub legacy_unowned_private_detected: usize,
}

/// A rule that applies, as responses show it.
#[derive(Clone, Debug)]
pub struct RuleMatch(pub Arc<CompiledRule>);

impl Serialize for RuleMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Stats {
            positive: u64,
            negative: u64,
        }
        #[derive(Serialize)]
        struct Detail<'a> {
            condition_paths: &'a [String],
            condition_path_count: usize,
        }
        #[derive(Serialize)]
        struct Shown<'a> {
            rule_node_id: NodeId,
            state: RuleState,
            rule_scope: RuleScope,
            target_agent_id: Option<&'a str>,
            target_team_id: Option<&'a str>,
            summary: Option<&'a str>,
            if_json: &'a Value,
            then_json: &'a Value,
            exceptions_json: &'a Value,
            stats: Stats,
            rank: &'a Rank,
            match_detail: Detail<'a>,
            commit_id: CommitId,
        }
        let def = self.0.def();
        let paths = self.0.condition_paths();
        Shown {
            rule_node_id: def.rule_node_id,
            state: def.state,
            rule_scope: def.rule_scope,
            target_agent_id: def.target_agent_id.as_deref(),
            target_team_id: def.target_team_id.as_deref(),
            summary: def.summary.as_deref(),
            if_json: &def.if_json,
            then_json: &def.then_json,
            exceptions_json: &def.exceptions_json,
            stats: Stats { positive: def.positive_count, negative: def.negative_count },
            rank: self.0.rank(),
            match_detail: Detail { condition_paths: paths, condition_path_count: paths.len() },
            commit_id: def.commit_id,
        }
        .serialize(serializer)
    }
}

/// Evaluates all live rules of a scope against a context; rules of other states are passed over.
///
/// Give every live rule: a rule that is left out is not enforced, and that could be one that denies (W-16). The outcome
/// does not depend on the order they come in.
pub fn evaluate(rules: &[Arc<CompiledRule>], context: &Value, options: &EvaluateOptions) -> Evaluation {
    let identity = options.identity.clone().unwrap_or_else(|| ContextIdentity::claimed(context));
    let viewer = identity.viewer();
    let mut counts = RuleScopeSummary::default();
    let mut unowned = 0;
    let mut invalid: Vec<&CompiledRule> = Vec::new();
    let (mut active, mut shadow): (Vec<&Arc<CompiledRule>>, Vec<&Arc<CompiledRule>>) = (Vec::new(), Vec::new());
    for rule in rules.iter().filter(|rule| rule.def().state.is_live()) {
        let def = rule.def();
        let (owner_agent, owner_team) = (def.owner_agent_id.as_deref(), def.owner_team_id.as_deref());
        counts.scanned += 1;
        if !is_addressed(rule, &identity) {
            counts.filtered_by_scope += 1;
        } else if !viewer.may_see(def.lane, owner_agent, owner_team) {
            counts.filtered_by_lane += 1;
            unowned += usize::from(def.lane == Lane::Private && owner_agent.is_none() && owner_team.is_none());
        } else if !rule.applies_to(context) {
            counts.filtered_by_condition += 1;
        } else if rule.patch().is_err() {
            counts.skipped_invalid_then += 1;
            invalid.push(rule);
        } else if def.state == RuleState::Active {
            active.push(rule);
        } else if options.include_shadow {
            shadow.push(rule);
        }
    }
    counts.matched_active = active.len();
    counts.matched_shadow = shadow.len();
    active.sort_by(|a, b| CompiledRule::by_rank(a, b));
    shadow.sort_by(|a, b| CompiledRule::by_rank(a, b));
    invalid.sort_by_key(|rule| rule.id());
    let listed = |rules: &[&Arc<CompiledRule>]| -> Vec<RuleMatch> {
        rules.iter().take(options.limit).map(|rule| RuleMatch(Arc::clone(rule))).collect()
    };
    Evaluation {
        considered: counts.scanned,
        matched: active.len() + shadow.len(),
        skipped_invalid_then: counts.skipped_invalid_then,
        invalid_then_sample: invalid.into_iter().take(INVALID_SAMPLE_MAX).map(invalid_then).collect(),
        active: listed(&active),
        shadow: listed(&shadow),
        applied: Applied::new(merge(&active), options.include_shadow.then(|| merge(&shadow))),
        agent_visibility_summary: VisibilitySummary {
            lane: LaneSummary {
                applied: true,
                reason: lane_reason(&identity),
                legacy_unowned_private_visible: 0,
                legacy_unowned_private_detected: unowned,
            },
            agent: AgentSummary { id: identity.agent, team_id: identity.team },
            rule_scope: counts,
        },
    }
}

/// Whether the caller belongs to the rule's audience.
fn is_addressed(rule: &CompiledRule, identity: &ContextIdentity) -> bool {
    let def = rule.def();
    match def.rule_scope {
        RuleScope::Global => true,
        RuleScope::Agent => def.target_agent_id.is_some() && def.target_agent_id == identity.agent,
        RuleScope::Team => def.target_team_id.is_some() && def.target_team_id == identity.team,
    }
}

const fn lane_reason(identity: &ContextIdentity) -> &'static str {
    match (&identity.agent, &identity.team) {
        (Some(_), Some(_)) => "enforced_agent_team",
        (Some(_), None) => "enforced_agent_only",
        (None, Some(_)) => "enforced_team_only",
        (None, None) => "missing_agent_context",
    }
}

fn invalid_then(rule: &CompiledRule) -> InvalidThen {
    let def = rule.def();
    InvalidThen { rule_node_id: def.rule_node_id, state: def.state, commit_id: def.commit_id }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;

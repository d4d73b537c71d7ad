//! A rule as stored, and in the form it is evaluated in.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    condition::{Condition, condition_paths},
    number,
    patch::{PatchError, PolicyPatch},
    value::{to_number, truthy},
};
use crate::{
    ids::{CommitId, NodeId},
    model::{Lane, RuleScope, RuleState},
};

/// A rule as storage gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleDef {
    /// The rule's node.
    pub rule_node_id: NodeId,
    /// Life cycle.
    pub state: RuleState,
    /// Audience.
    pub rule_scope: RuleScope,
    /// Agent of an agent rule.
    pub target_agent_id: Option<String>,
    /// Team of a team rule.
    pub target_team_id: Option<String>,
    /// Condition.
    pub if_json: Value,
    /// Policy patch.
    pub then_json: Value,
    /// Conditions under which the rule does not apply, an array.
    pub exceptions_json: Value,
    /// Positive feedback so far.
    pub positive_count: u64,
    /// Negative feedback so far.
    pub negative_count: u64,
    /// The commit that last changed the definition.
    pub commit_id: CommitId,
    /// Visibility of the node.
    pub lane: Lane,
    /// Owner of a private rule.
    pub owner_agent_id: Option<String>,
    /// Owning team of a private rule.
    pub owner_team_id: Option<String>,
    /// The node's text.
    pub summary: Option<String>,
    /// -100…100, from [`priority`].
    pub priority: i32,
    /// 0…2, from [`weight`].
    pub weight: f64,
}

/// A rule's priority, -100…100: `rule_meta.priority`, else `priority` of its node's slots, else 0; a fraction is cut
/// off, what is no finite number counts as 0.
pub fn priority(slots: &Value) -> i32 {
    let number = meta(slots, "priority").map_or(0.0, to_number);
    let bounded = if number.is_finite() { number.trunc().clamp(-100.0, 100.0) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let whole = bounded as i32;
    whole
}

/// A rule's weight, 0…2: `rule_meta.weight`, else `weight` of its node's slots, else 1; what is no finite number counts
/// as 1.
pub fn weight(slots: &Value) -> f64 {
    let number = meta(slots, "weight").map_or(1.0, to_number);
    if number.is_finite() { number.clamp(0.0, 2.0) } else { 1.0 }
}

fn meta<'a>(slots: &'a Value, key: &str) -> Option<&'a Value> {
    let stated = |value: Option<&'a Value>| value.filter(|value| !value.is_null());
    stated(slots.get("rule_meta").and_then(|meta| meta.get(key))).or_else(|| stated(slots.get(key)))
}

/// How much a rule counts against others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rank {
    /// `priority × 1000 + evidence × 100 × weight + specificity`; the greater one wins.
    #[serde(serialize_with = "number::plain")]
    pub score: f64,
    /// Positive minus negative feedback.
    pub evidence_score: i64,
    /// -100…100.
    pub priority: i32,
    /// 0…2.
    #[serde(serialize_with = "number::plain")]
    pub weight: f64,
    /// Number of context paths the condition looks at.
    pub specificity: usize,
}

impl Rank {
    fn of(def: &RuleDef, specificity: usize) -> Self {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let evidence_score = signed(def.positive_count) - signed(def.negative_count);
        // Stored values may predate the bounds, and an infinite or absent number must not spoil the order.
        let priority = def.priority.clamp(-100, 100);
        let weight = if def.weight.is_finite() { def.weight.clamp(0.0, 2.0) } else { 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let score = f64::from(priority) * 1000.0 + evidence_score as f64 * 100.0 * weight + specificity as f64;
        Self { score, evidence_score, priority, weight, specificity }
    }
}

/// A rule with everything that can be worked out before a context is known. Make it once per version of the rule and
/// share it behind an `Arc`.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    def: RuleDef,
    /// None: the rule applies always.
    condition: Option<Condition>,
    exceptions: Vec<Condition>,
    usable: bool,
    condition_paths: Vec<String>,
    patch: Result<PolicyPatch, PatchError>,
    touched_paths: Vec<String>,
    rank: Rank,
}

impl CompiledRule {
    /// Compiles a rule. Nothing fails here: a condition that cannot match does not, and a patch that is not of the form
    /// is counted by the evaluation.
    pub fn compile(def: RuleDef) -> Self {
        let always = !truthy(&def.if_json) || def.if_json == json!({});
        let condition = (!always).then(|| Condition::compile(&def.if_json));
        let exceptions: Vec<Condition> = def
            .exceptions_json
            .as_array()
            .map(|list| list.iter().map(Condition::compile).collect())
            .unwrap_or_default();
        let condition_paths = condition_paths(&def.if_json);
        let patch = PolicyPatch::parse(&def.then_json);
        let touched_paths = patch.as_ref().map(PolicyPatch::touched_paths).unwrap_or_default();
        let rank = Rank::of(&def, condition_paths.len());
        // A rule whose exceptions cannot be tested must not be applied where one of them may hold.
        let usable = exceptions.iter().all(Condition::is_usable);
        Self { def, condition, exceptions, usable, condition_paths, patch, touched_paths, rank }
    }

    /// The rule as stored.
    pub const fn def(&self) -> &RuleDef {
        &self.def
    }

    /// The rule's node.
    pub const fn id(&self) -> NodeId {
        self.def.rule_node_id
    }

    /// How much the rule counts.
    pub const fn rank(&self) -> &Rank {
        &self.rank
    }

    /// Context paths the condition looks at, sorted.
    pub fn condition_paths(&self) -> &[String] {
        &self.condition_paths
    }

    /// The checked patch, or why there is none.
    pub const fn patch(&self) -> &Result<PolicyPatch, PatchError> {
        &self.patch
    }

    /// Policy paths the patch sets, sorted; empty for an invalid patch.
    pub fn touched_paths(&self) -> &[String] {
        &self.touched_paths
    }

    /// Whether the condition holds and no exception does.
    pub fn applies_to(&self, context: &Value) -> bool {
        self.usable
            && self.condition.as_ref().is_none_or(|condition| condition.matches(context))
            && !self.exceptions.iter().any(|exception| exception.matches(context))
    }

    /// Order of precedence: the higher score first, then the smaller id.
    pub fn by_rank(a: &Self, b: &Self) -> std::cmp::Ordering {
        b.rank.score.total_cmp(&a.rank.score).then_with(|| a.id().cmp(&b.id()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;

    pub(in crate::rules) fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    pub(in crate::rules) fn def(n: u128, if_json: Value, then_json: Value) -> RuleDef {
        RuleDef {
            rule_node_id: id(n),
            state: RuleState::Active,
            rule_scope: RuleScope::Global,
            target_agent_id: None,
            target_team_id: None,
            if_json,
            then_json,
            exceptions_json: json!([]),
            positive_count: 0,
            negative_count: 0,
            commit_id: CommitId(Uuid::from_u128(1000 + n)),
            lane: Lane::Shared,
            owner_agent_id: None,
            owner_team_id: None,
            summary: None,
            priority: 0,
            weight: 1.0,
        }
    }

    pub(in crate::rules) fn rule(n: u128, priority: i32, then_json: Value) -> Arc<CompiledRule> {
        Arc::new(CompiledRule::compile(RuleDef { priority, ..def(n, json!({}), then_json) }))
    }

    #[test]
    fn priority_and_weight_come_from_the_slots() {
        let cases = [
            (json!({}), 0, 1.0),
            (json!(null), 0, 1.0),
            (json!({ "priority": 3.9, "weight": 0.5 }), 3, 0.5),
            (json!({ "rule_meta": { "priority": "-7.9", "weight": 9 }, "priority": 3 }), -7, 2.0),
            (json!({ "rule_meta": { "priority": null }, "priority": 1000 }), 100, 1.0),
            (json!({ "rule_meta": 5, "priority": "Infinity", "weight": "x" }), 0, 1.0),
            (json!({ "weight": -1, "priority": {} }), 0, 0.0),
        ];
        for (slots, expected_priority, expected_weight) in cases {
            assert_eq!(priority(&slots), expected_priority, "{slots}");
            assert!((weight(&slots) - expected_weight).abs() < f64::EPSILON, "{slots}");
        }
    }

    #[test]
    fn the_score_follows_the_formula() {
        let rule = CompiledRule::compile(RuleDef {
            priority: 2,
            weight: 0.5,
            positive_count: 1,
            negative_count: 4,
            ..def(1, json!({ "a": 1, "b": { "c": 2 } }), json!({}))
        });
        assert_eq!(
            serde_json::to_string(rule.rank()).unwrap(),
            r#"{"score":1852,"evidence_score":-3,"priority":2,"weight":0.5,"specificity":2}"#
        );
    }

    #[test]
    fn conditions_and_exceptions_decide() {
        let with = |if_json: Value, exceptions: Value, context: Value| {
            let def = RuleDef { exceptions_json: exceptions, ..def(1, if_json, json!({})) };
            CompiledRule::compile(def).applies_to(&context)
        };
        for empty in [json!({}), json!(null), json!(false), json!(0), json!("")] {
            assert!(with(empty, json!(null), json!(5)));
        }
        assert!(!with(json!([]), json!([]), json!({})), "an empty array is a condition");
        assert!(!with(json!({}), json!([{}]), json!({ "a": 1 })), "the exception {{}} disables");
        assert!(with(json!({}), json!([null]), json!({ "a": 1 })), "the exception null does not");
        assert!(!with(json!({ "a": 1 }), json!([{ "b": 2 }]), json!({ "a": 1, "b": 2 })));
        assert!(with(json!({ "a": 1 }), json!([{ "b": 2 }]), json!({ "a": 1, "b": 3 })));
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert!(!with(json!({}), json!([deep]), json!({})), "an exception that cannot be tested keeps the rule out");
    }

    #[test]
    fn compiled_rules_can_be_shared() {
        fn shareable<T: Send + Sync>() {}
        shareable::<CompiledRule>();
    }
}

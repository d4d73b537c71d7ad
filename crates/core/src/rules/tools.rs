//! What several rules together say about tools: allow lists intersect, deny lists unite, preferences queue up.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use icu_collator::{Collator, CollatorBorrowed, options::CollatorOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    definition::{CompiledRule, Rank},
    number,
    patch::ToolLists,
};
use crate::ids::NodeId;

/// Which tools may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPolicy {
    /// The only tools that may be used; none means any, an empty list means no tool at all (W-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Tools that may not be used, whatever else is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Tools to try first, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<String>,
}

impl ToolPolicy {
    /// Reads `tool` of a merged policy. What is not of the form is taken as an empty list, so that damaged data allows
    /// less, not more.
    pub fn of_policy(policy: &Value) -> Self {
        let list = |key: &str| -> Option<Vec<String>> {
            let value = policy.get("tool")?.get(key)?;
            let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            Some(names.map(str::to_owned).collect())
        };
        Self {
            allow: list("allow"),
            deny: list("deny").unwrap_or_default(),
            prefer: list("prefer").unwrap_or_default(),
        }
    }
}

/// How a tool policy came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ToolExplain {
    /// In words.
    pub notes: Vec<String>,
    /// What each rule gave, best first.
    pub contributions: Vec<Contribution>,
    /// Which rule decides for each tool.
    pub winners: ToolWinners,
    /// Where rules pull in different directions.
    pub conflicts: Vec<ToolConflict>,
}

/// What one rule gave to a tool policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contribution {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Of its rank.
    #[serde(serialize_with = "number::plain")]
    pub score: f64,
    /// Of its rank.
    pub evidence_score: i64,
    /// Of its rank.
    pub priority: i32,
    /// Of its rank.
    #[serde(serialize_with = "number::plain")]
    pub weight: f64,
    /// Of its rank.
    pub specificity: usize,
    /// Tools it allows.
    pub allow_n: usize,
    /// Tools it denies.
    pub deny_n: usize,
    /// Tools it prefers.
    pub prefer_n: usize,
    /// The tool it prefers most.
    pub first_prefer: Option<String>,
}

/// Per tool, the best rule that prefers or denies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToolWinners {
    /// Of the rules that prefer the tool.
    pub prefer_by_tool: BTreeMap<String, NodeId>,
    /// Of the rules that deny the tool.
    pub deny_by_tool: BTreeMap<String, NodeId>,
}

/// Rules that pull in different directions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolConflict {
    /// `allow_intersection`, `allow_intersection_empty` or `prefer_competing_top_choice`.
    pub code: &'static str,
    /// In words.
    pub message: String,
    /// The rules, as a list of objects.
    pub details: Value,
    /// The rule that gets its way, if one does.
    pub winner_rule_node_id: Option<NodeId>,
}

static COLLATOR: LazyLock<Option<CollatorBorrowed<'static>>> =
    LazyLock::new(|| Collator::try_new(icu_collator::CollatorPreferences::default(), CollatorOptions::default()).ok());

/// The order of ICU's root collation, in which published clients expect tool lists; byte order among equals.
fn collated(a: &str, b: &str) -> Ordering {
    COLLATOR.as_ref().map_or(Ordering::Equal, |collator| collator.compare(a, b)).then_with(|| a.cmp(b))
}

struct Voice<'a> {
    id: NodeId,
    rank: &'a Rank,
    lists: &'a ToolLists,
}

/// Combines the tool lists of rules, given best first.
pub(super) fn combine(ranked: &[&CompiledRule]) -> (ToolPolicy, ToolExplain) {
    let voices: Vec<Voice<'_>> = ranked
        .iter()
        .filter_map(|rule| Some(Voice { id: rule.id(), rank: rule.rank(), lists: rule.patch().as_ref().ok()?.tools() }))
        .filter(|voice| !voice.lists.is_empty())
        .collect();
    let mut policy = ToolPolicy { allow: intersection(&voices), ..ToolPolicy::default() };
    let mut winners = ToolWinners::default();
    for voice in &voices {
        for tool in &voice.lists.deny {
            winners.deny_by_tool.entry(tool.clone()).or_insert(voice.id);
        }
        for tool in &voice.lists.prefer {
            if !winners.prefer_by_tool.contains_key(tool) {
                winners.prefer_by_tool.insert(tool.clone(), voice.id);
                policy.prefer.push(tool.clone());
            }
        }
    }
    policy.deny = winners.deny_by_tool.keys().cloned().collect();
    policy.deny.sort_by(|a, b| collated(a, b));
    let note = match policy.allow {
        Some(_) => "allow lists are enforced: a tool must be in every one of them",
        None => "no rule has an allow list: every tool that is not denied may be used",
    };
    let explain = ToolExplain {
        notes: vec![note.to_owned()],
        contributions: voices.iter().map(contribution).collect(),
        winners,
        conflicts: conflicts(&voices, policy.allow.as_deref()),
    };
    (policy, explain)
}

/// The tools in every allow list; none when there is no allow list.
fn intersection(voices: &[Voice<'_>]) -> Option<Vec<String>> {
    let mut lists = voices.iter().map(|voice| &voice.lists.allow).filter(|list| !list.is_empty());
    let first = lists.next()?;
    let rest: Vec<BTreeSet<&String>> = lists.map(|list| list.iter().collect()).collect();
    let mut common: Vec<String> =
        first.iter().filter(|tool| rest.iter().all(|list| list.contains(tool))).cloned().collect();
    common.sort_by(|a, b| collated(a, b));
    Some(common)
}

fn contribution(voice: &Voice<'_>) -> Contribution {
    let Rank { score, evidence_score, priority, weight, specificity } = *voice.rank;
    let ToolLists { allow, deny, prefer } = voice.lists;
    Contribution {
        rule_node_id: voice.id,
        score,
        evidence_score,
        priority,
        weight,
        specificity,
        allow_n: allow.len(),
        deny_n: deny.len(),
        prefer_n: prefer.len(),
        first_prefer: prefer.first().cloned(),
    }
}

fn conflicts(voices: &[Voice<'_>], allow: Option<&[String]>) -> Vec<ToolConflict> {
    let score = |voice: &Voice<'_>| plain(voice.rank.score);
    let mut found = Vec::new();
    if let Some(allow) = allow {
        let allowing = voices.iter().filter(|voice| !voice.lists.allow.is_empty());
        let details: Value = allowing
            .map(|v| json!({ "rule_node_id": v.id, "score": score(v), "allow_n": v.lists.allow.len() }))
            .collect();
        let conflict = |code, message: &str, details: &Value| ToolConflict {
            code,
            message: message.to_owned(),
            details: details.clone(),
            winner_rule_node_id: None,
        };
        let common = "a tool may be used only if every allow list has it";
        found.push(conflict("allow_intersection", common, &details));
        if allow.is_empty() {
            let empty = "the allow lists have no tool in common: none may be used";
            found.push(conflict("allow_intersection_empty", empty, &details));
        }
    }
    let preferring: Vec<(&Voice<'_>, &String)> =
        voices.iter().filter_map(|voice| Some((voice, voice.lists.prefer.first()?))).collect();
    let distinct: BTreeSet<&String> = preferring.iter().map(|(_, tool)| *tool).collect();
    if let (Some((winner, tool)), true) = (preferring.first(), distinct.len() > 1) {
        found.push(ToolConflict {
            code: "prefer_competing_top_choice",
            message: format!("rules prefer different tools first; the rule of the higher rank asks for {tool}"),
            details: preferring
                .iter()
                .map(|(v, tool)| json!({ "rule_node_id": v.id, "score": score(v), "first_prefer": tool }))
                .collect(),
            winner_rule_node_id: Some(winner.id),
        });
    }
    found
}

/// A score as a JSON number, whole where it is whole.
fn plain(score: f64) -> Value {
    struct Plain(f64);
    impl Serialize for Plain {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            number::plain(&self.0, serializer)
        }
    }
    serde_json::to_value(Plain(score)).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rules::definition::tests::{id, rule};

    fn combined(rules: &[Arc<CompiledRule>]) -> (Value, Value) {
        let ranked: Vec<&CompiledRule> = rules.iter().map(Arc::as_ref).collect();
        let (policy, explain) = combine(&ranked);
        (serde_json::to_value(policy).unwrap(), serde_json::to_value(explain).unwrap())
    }

    #[test]
    fn lists_are_in_the_order_of_the_root_collation() {
        let tools = ["b", "A", "a", "_x", "Z", "10", "9", "é"];
        let (policy, _) = combined(&[rule(1, 0, json!({ "tool": { "deny": tools } }))]);
        assert_eq!(policy, json!({ "deny": ["_x", "10", "9", "a", "A", "b", "é", "Z"] }));
    }

    #[test]
    fn allow_intersects_deny_unites_prefer_queues() {
        let (policy, explain) = combined(&[
            rule(2, 5, json!({ "tool": { "allow": ["c", "a", "b"], "prefer": ["b", "a"] } })),
            rule(3, 4, json!({ "output": { "format": "json" } })),
            rule(1, 3, json!({ "tool": { "allow": ["b", "c", "x"], "deny": ["rm"], "prefer": ["c", "b"] } })),
            rule(4, 2, json!({ "tool": { "deny": ["dd", "rm"] } })),
        ]);
        assert_eq!(policy, json!({ "allow": ["b", "c"], "deny": ["dd", "rm"], "prefer": ["b", "a", "c"] }));
        assert_eq!(explain["contributions"][1]["first_prefer"], "c");
        assert_eq!(explain["contributions"].as_array().unwrap().len(), 3, "a rule without tool lists gives nothing");
        assert_eq!(explain["winners"]["deny_by_tool"], json!({ "dd": id(4), "rm": id(1) }));
        assert_eq!(explain["winners"]["prefer_by_tool"], json!({ "a": id(2), "b": id(2), "c": id(1) }));
        assert_eq!(explain["conflicts"][0]["code"], "allow_intersection");
        assert_eq!(
            explain["conflicts"][0]["details"][0],
            json!({ "rule_node_id": id(2), "score": 5000, "allow_n": 3 })
        );
        assert_eq!(explain["conflicts"][1]["code"], "prefer_competing_top_choice");
        assert_eq!(explain["conflicts"][1]["winner_rule_node_id"], json!(id(2)));
    }

    #[test]
    fn contradicting_allow_lists_allow_nothing() {
        let rules =
            [rule(1, 0, json!({ "tool": { "allow": ["a"] } })), rule(2, 0, json!({ "tool": { "allow": ["b"] } }))];
        let (policy, explain) = combined(&rules);
        assert_eq!(policy, json!({ "allow": [] }));
        assert_eq!(explain["conflicts"][1]["code"], "allow_intersection_empty");
        assert_eq!(ToolPolicy::of_policy(&json!({ "tool": policy })).allow, Some(vec![]));
        assert_eq!(ToolPolicy::of_policy(&json!({ "tool": {} })).allow, None);
        assert_eq!(ToolPolicy::of_policy(&json!({ "tool": { "allow": 7 } })).allow, Some(vec![]));
    }
}

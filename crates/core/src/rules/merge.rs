//! From the rules that apply to one policy (specification 3.12).

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value, map::Entry};

use super::{
    definition::{CompiledRule, Rank},
    number,
    tools::{ToolExplain, combine},
    value::{equal, join},
};
use crate::{
    canon::canonical_json,
    ids::{CommitId, NodeId},
    model::RuleState,
};

/// Most losers named per conflict.
const LOSERS_MAX: usize = 5;
/// Most conflicts explained.
const EXPLAINED_MAX: usize = 50;

/// What a set of rules makes together.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The policy; `tool` is always there.
    pub policy: Value,
    /// The rules, in the order they were merged: a later one overrides an earlier one.
    pub sources: Vec<Source>,
    /// Values on which rules disagree.
    pub conflicts: Vec<Conflict>,
    /// Who won and why.
    pub conflict_explain: Vec<ConflictExplain>,
    /// How `tool` came about.
    pub tool_explain: ToolExplain,
}

/// The policies of a context, in the order of the response's keys; shadow ones only when asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// The policy to enforce; `tool` is always there.
    pub policy: Value,
    /// Active rules, in the order they were merged.
    pub sources: Vec<Source>,
    /// Values on which they disagree.
    pub conflicts: Vec<Conflict>,
    /// Who won and why.
    pub conflict_explain: Vec<ConflictExplain>,
    /// How `policy.tool` came about.
    pub tool_explain: ToolExplain,
    /// What shadow rules would make, never enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_policy: Option<Value>,
    /// Shadow rules, in the order they were merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_sources: Option<Vec<Source>>,
    /// Values on which they disagree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_conflicts: Option<Vec<Conflict>>,
    /// Who won and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_conflict_explain: Option<Vec<ConflictExplain>>,
    /// How `shadow_policy.tool` came about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_tool_explain: Option<ToolExplain>,
}

impl Applied {
    /// Puts active and shadow policies side by side.
    pub fn new(active: Merged, shadow: Option<Merged>) -> Self {
        let mut applied = Self {
            policy: active.policy,
            sources: active.sources,
            conflicts: active.conflicts,
            conflict_explain: active.conflict_explain,
            tool_explain: active.tool_explain,
            shadow_policy: None,
            shadow_sources: None,
            shadow_conflicts: None,
            shadow_conflict_explain: None,
            shadow_tool_explain: None,
        };
        if let Some(shadow) = shadow {
            applied.shadow_policy = Some(shadow.policy);
            applied.shadow_sources = Some(shadow.sources);
            applied.shadow_conflicts = Some(shadow.conflicts);
            applied.shadow_conflict_explain = Some(shadow.conflict_explain);
            applied.shadow_tool_explain = Some(shadow.tool_explain);
        }
        applied
    }
}

/// A rule that went into a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Its state.
    pub state: RuleState,
    /// The commit that last changed its definition.
    pub commit_id: CommitId,
    /// Policy paths it sets, sorted.
    pub touched_paths: Vec<String>,
    /// How much it counts.
    pub rank: Rank,
}

/// A value on which rules disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Dotted path in the policy.
    pub path: String,
    /// The rule whose value the policy has.
    pub winner_rule_node_id: NodeId,
}

/// Why a conflict ended as it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConflictExplain {
    /// Dotted path in the policy.
    pub path: String,
    /// The rule whose value the policy has.
    pub winner: Winner,
    /// Other rules that set this very path, best first, at most five.
    pub losers: Vec<Loser>,
    /// In words.
    pub reason: &'static str,
}

/// The rule that won a conflict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Winner {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Of its rank.
    #[serde(serialize_with = "number::plain")]
    pub score: f64,
    /// Of its rank.
    pub priority: i32,
    /// Of its rank.
    #[serde(serialize_with = "number::plain")]
    pub weight: f64,
    /// Of its rank.
    pub evidence_score: i64,
    /// Of its rank.
    pub specificity: usize,
}

/// A rule that lost a conflict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loser {
    /// The rule.
    pub rule_node_id: NodeId,
    /// Of its rank.
    #[serde(serialize_with = "number::plain")]
    pub score: f64,
}

/// Merges the patches of rules; the order they come in does not matter. A rule with an invalid patch gives nothing.
pub fn merge(rules: &[&Arc<CompiledRule>]) -> Merged {
    let mut ranked: Vec<&CompiledRule> = rules.iter().map(|rule| rule.as_ref()).collect();
    ranked.retain(|rule| rule.patch().is_ok());
    ranked.sort_by(|a, b| CompiledRule::by_rank(a, b));
    let (tool_policy, tool_explain) = combine(&ranked);

    // Weakest first, so that what comes later overrides; among equal scores the greatest id overrides.
    let mut order = ranked;
    order.sort_by(|a, b| a.rank().score.total_cmp(&b.rank().score).then_with(|| a.id().cmp(&b.id())));
    let mut policy = Map::new();
    let mut clashes = Clashes::default();
    for rule in &order {
        if let Ok(patch) = rule.patch() {
            merge_objects(&mut policy, patch.json(), "", rule.id(), &mut clashes);
        }
    }
    let tool = serde_json::to_value(tool_policy).unwrap_or_else(|_| Value::Object(Map::new()));
    policy.insert("tool".to_owned(), tool);

    let sources: Vec<Source> = order.iter().map(|rule| source(rule)).collect();
    let conflicts = clashes.in_order();
    let conflict_explain = explain(&conflicts, &sources);
    Merged { policy: Value::Object(policy), sources, conflicts, conflict_explain, tool_explain }
}

/// Per path on which rules disagree: when that was first seen, and who overrode last.
#[derive(Default)]
struct Clashes {
    winners: BTreeMap<String, (usize, NodeId)>,
}

impl Clashes {
    /// A rule replaced what was at a path. It also decides what was contested below: the final winner is named, never
    /// one that was itself overridden.
    fn add(&mut self, path: String, winner: NodeId) {
        let below = format!("{path}.");
        for (contested, (_, decided_by)) in &mut self.winners {
            if contested.starts_with(&below) {
                *decided_by = winner;
            }
        }
        let first_seen = self.winners.len();
        self.winners.entry(path).or_insert((first_seen, winner)).1 = winner;
    }

    fn in_order(self) -> Vec<Conflict> {
        let mut found: Vec<(usize, Conflict)> = self
            .winners
            .into_iter()
            .map(|(path, (first_seen, winner_rule_node_id))| (first_seen, Conflict { path, winner_rule_node_id }))
            .collect();
        found.sort_by_key(|(first_seen, _)| *first_seen);
        found.into_iter().map(|(_, conflict)| conflict).collect()
    }
}

/// Depth is bounded: patches are checked when they are parsed.
fn merge_objects(
    base: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    prefix: &str,
    rule: NodeId,
    clashes: &mut Clashes,
) {
    for (key, new) in patch {
        match base.entry(key.as_str()) {
            Entry::Vacant(entry) => drop(entry.insert(new.clone())),
            Entry::Occupied(mut entry) => merge_values(entry.get_mut(), new, &join(prefix, key), rule, clashes),
        }
    }
}

fn merge_values(old: &mut Value, new: &Value, path: &str, rule: NodeId, clashes: &mut Clashes) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => merge_objects(old, new, path, rule, clashes),
        (Value::Array(old), Value::Array(new)) => unite(old, new),
        (old, new) => {
            if !equal(old, new) {
                clashes.add(path.to_owned(), rule);
            }
            *old = new.clone();
        }
    }
}

/// Appends what is not there yet; equal JSON is the same.
fn unite(old: &mut Vec<Value>, new: &[Value]) {
    let mut seen = std::collections::HashSet::new();
    old.retain(|item| seen.insert(canonical_json(item)));
    old.extend(new.iter().filter(|item| seen.insert(canonical_json(item))).cloned());
}

fn source(rule: &CompiledRule) -> Source {
    Source {
        rule_node_id: rule.id(),
        state: rule.def().state,
        commit_id: rule.def().commit_id,
        touched_paths: rule.touched_paths().to_vec(),
        rank: *rule.rank(),
    }
}

fn explain(conflicts: &[Conflict], sources: &[Source]) -> Vec<ConflictExplain> {
    let explained = conflicts.iter().take(EXPLAINED_MAX).filter_map(|conflict| {
        let winner = sources.iter().find(|source| source.rule_node_id == conflict.winner_rule_node_id)?;
        let mut losers: Vec<&Source> = sources
            .iter()
            .filter(|source| {
                source.rule_node_id != winner.rule_node_id && source.touched_paths.contains(&conflict.path)
            })
            .collect();
        losers.sort_by(|a, b| b.rank.score.total_cmp(&a.rank.score).then_with(|| a.rule_node_id.cmp(&b.rule_node_id)));
        Some(ConflictExplain {
            path: conflict.path.clone(),
            winner: Winner {
                rule_node_id: winner.rule_node_id,
                score: winner.rank.score,
                priority: winner.rank.priority,
                weight: winner.rank.weight,
                evidence_score: winner.rank.evidence_score,
                specificity: winner.rank.specificity,
            },
            losers: losers
                .into_iter()
                .take(LOSERS_MAX)
                .map(|source| Loser { rule_node_id: source.rule_node_id, score: source.rank.score })
                .collect(),
            reason: "the rule with the highest score wins; among equal scores the one with the greatest id",
        })
    });
    explained.collect()
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;

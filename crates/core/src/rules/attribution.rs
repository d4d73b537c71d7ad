//! Which rules a feedback on a tool's use concerns (specification 3.16).

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{definition::CompiledRule, merge::Applied};
use crate::ids::NodeId;

/// Which rules a feedback is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackTarget {
    /// Those that say something about tools.
    #[default]
    Tool,
    /// All that took part.
    All,
}

impl FeedbackTarget {
    /// Whether a rule that sets these policy paths is meant.
    pub fn concerns(self, touched_paths: &[String]) -> bool {
        self == Self::All || touched_paths.iter().any(|path| path == "tool" || path.starts_with("tool."))
    }
}

/// The rules of an evaluation that a feedback concerns, each once, active ones first, in merge order.
pub fn attributed_rules(applied: &Applied, target: FeedbackTarget, include_shadow: bool) -> Vec<NodeId> {
    let shadow = applied.shadow_sources.iter().flatten().filter(|_| include_shadow);
    let concerned = applied.sources.iter().chain(shadow).filter(|source| target.concerns(&source.touched_paths));
    distinct(concerned.map(|source| source.rule_node_id))
}

/// The rules of an earlier decision that a feedback concerns. They are the decision's own, whatever has been promoted or
/// disabled since (W-55); `rules` tells what they set, and one that is not among them is meant by [`FeedbackTarget::All`]
/// only.
pub fn attributed_to_decision(
    source_rule_ids: &[NodeId],
    rules: &[Arc<CompiledRule>],
    target: FeedbackTarget,
) -> Vec<NodeId> {
    let paths_of = |id: NodeId| rules.iter().find(|rule| rule.id() == id).map_or(&[][..], |rule| rule.touched_paths());
    distinct(source_rule_ids.iter().copied().filter(|id| target.concerns(paths_of(*id))))
}

fn distinct(ids: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut seen = HashSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::{
        definition::tests::{id, rule},
        merge::merge,
    };

    #[test]
    fn feedback_reaches_the_rules_it_is_about() {
        let tool = rule(1, 0, json!({ "tool": { "deny": ["rm"] } }));
        let bare = rule(2, 0, json!({ "tool": {} }));
        let other = rule(3, 0, json!({ "extensions": { "tool": 1 } }));
        let shadow = rule(4, 0, json!({ "tool": { "prefer": ["x"] } }));
        let applied = Applied::new(merge(&[&tool, &bare, &other]), Some(merge(&[&shadow, &tool])));
        assert_eq!(attributed_rules(&applied, FeedbackTarget::Tool, false), [id(1), id(2)]);
        assert_eq!(attributed_rules(&applied, FeedbackTarget::All, false), [id(1), id(2), id(3)]);
        assert_eq!(attributed_rules(&applied, FeedbackTarget::Tool, true), [id(1), id(2), id(4)]);

        let decision = [id(3), id(1), id(9), id(1)];
        assert_eq!(attributed_to_decision(&decision, &[tool.clone(), other.clone()], FeedbackTarget::Tool), [id(1)]);
        assert_eq!(attributed_to_decision(&decision, &[tool, other], FeedbackTarget::All), [id(3), id(1), id(9)]);
    }
}

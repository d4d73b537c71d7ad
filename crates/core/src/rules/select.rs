//! Which of several tools an agent may use, and which first (specification 3.15).

use std::collections::HashSet;

use serde::Serialize;
use serde_json::json;

use super::tools::{ToolConflict, ToolPolicy};
use crate::error::{DomainError, ErrorKind};

/// Most lines of [`tool_conflicts_summary`].
const SUMMARY_LINES_MAX: usize = 5;
/// Longest line of [`tool_conflicts_summary`], in characters.
const SUMMARY_LINE_MAX: usize = 200;

/// The answer, in the order of the response's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// What was asked about: trimmed, without blanks, each once.
    pub candidates: Vec<String>,
    /// What may be used, in the order of the candidates.
    pub allowed: Vec<String>,
    /// What may not, and why.
    pub denied: Vec<Denied>,
    /// Preferred tools that may be used, best first.
    pub preferred: Vec<String>,
    /// Preferred ones, then the other allowed ones.
    pub ordered: Vec<String>,
    /// The first of them.
    pub selected: Option<String>,
    /// Whether rules had to be set aside.
    pub fallback: Fallback,
}

/// A candidate that may not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denied {
    /// The tool.
    pub name: String,
    /// Why.
    pub reason: DenyReason,
}

/// Why a candidate may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// A rule denies it.
    DenyList,
    /// Rules allow other tools only.
    NotInAllowList,
}

/// What was set aside to have something to select.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Whether the lists as they are left nothing.
    pub applied: bool,
    /// `none`, `allowlist_filtered_all` or `deny_filtered_all`.
    pub reason: &'static str,
    /// In words.
    pub note: &'static str,
    /// Which lists the answer respects: `allow_and_deny` or `deny_only`.
    pub effective_mode: &'static str,
}

/// Candidates trimmed, without blanks, each once, in their order.
pub fn normalize_candidates<S: AsRef<str>>(candidates: &[S]) -> Vec<String> {
    let mut seen = HashSet::new();
    let trimmed = candidates.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty());
    trimmed.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

/// Selects a tool. A denied tool is never selected. An allow list binds too, also an empty one: contradicting rules
/// allow nothing (W-3). Without `strict` it is set aside when it leaves no candidate.
///
/// # Errors
/// `no_tools_allowed` when `strict` and no candidate is left.
pub fn select_tool<S: AsRef<str>>(
    policy: &ToolPolicy,
    candidates: &[S],
    strict: bool,
) -> Result<Selection, DomainError> {
    let candidates = normalize_candidates(candidates);
    let deny: HashSet<&str> = policy.deny.iter().map(String::as_str).collect();
    let allow: Option<HashSet<&str>> = policy.allow.as_ref().map(|list| list.iter().map(String::as_str).collect());
    let (mut allowed, mut denied) = split(&candidates, allow.as_ref(), &deny);
    let mut fallback = Fallback {
        applied: false,
        reason: "none",
        note: "the lists are respected as they are",
        effective_mode: if allow.is_some() { "allow_and_deny" } else { "deny_only" },
    };
    if allowed.is_empty() && strict {
        return Err(no_tools_allowed(&candidates, policy));
    }
    if allowed.is_empty() && allow.is_some() {
        (allowed, denied) = split(&candidates, None, &deny);
        fallback = Fallback {
            applied: true,
            reason: "allowlist_filtered_all",
            note: "no candidate is in the allow list, which is set aside; denied tools stay denied",
            effective_mode: "deny_only",
        };
    }
    if allowed.is_empty() {
        fallback = Fallback {
            applied: true,
            reason: "deny_filtered_all",
            note: "every candidate is denied; none is selected",
            effective_mode: "deny_only",
        };
    }
    let preferred: Vec<String> =
        normalize_candidates(&policy.prefer).into_iter().filter(|t| allowed.contains(t)).collect();
    let others = allowed.iter().filter(|tool| !preferred.contains(tool));
    let ordered: Vec<String> = preferred.iter().chain(others).cloned().collect();
    Ok(Selection { selected: ordered.first().cloned(), candidates, allowed, denied, preferred, ordered, fallback })
}

fn split(candidates: &[String], allow: Option<&HashSet<&str>>, deny: &HashSet<&str>) -> (Vec<String>, Vec<Denied>) {
    let (mut allowed, mut denied) = (Vec::new(), Vec::new());
    for name in candidates {
        let reason = if deny.contains(name.as_str()) {
            Some(DenyReason::DenyList)
        } else if allow.is_some_and(|allow| !allow.contains(name.as_str())) {
            Some(DenyReason::NotInAllowList)
        } else {
            None
        };
        match reason {
            Some(reason) => denied.push(Denied { name: name.clone(), reason }),
            None => allowed.push(name.clone()),
        }
    }
    (allowed, denied)
}

fn no_tools_allowed(candidates: &[String], policy: &ToolPolicy) -> DomainError {
    let message = if candidates.is_empty() {
        "candidates holds only blank names; name at least one tool"
    } else {
        "the rules that apply allow none of the candidates; offer other tools, or set strict to false to set allow lists aside"
    };
    DomainError::new(ErrorKind::Invalid, "no_tools_allowed", message).with_details(json!({
        "candidates": candidates.len(),
        "allow": policy.allow.as_ref().map_or(0, Vec::len),
        "deny": policy.deny.len(),
    }))
}

/// Conflicts as short lines, `[<code>] <message> (winner=<id>)`: at most five of at most 200 characters.
pub fn tool_conflicts_summary(conflicts: &[ToolConflict]) -> Vec<String> {
    let line = |conflict: &ToolConflict| {
        let winner = conflict.winner_rule_node_id.map(|id| format!(" (winner={id})")).unwrap_or_default();
        let line = format!("[{}] {}{winner}", conflict.code, conflict.message);
        if line.chars().count() <= SUMMARY_LINE_MAX {
            return line;
        }
        let start: String = line.chars().take(SUMMARY_LINE_MAX - 3).collect();
        start + "..."
    };
    conflicts.iter().take(SUMMARY_LINES_MAX).map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::rules::definition::tests::id;

    fn policy(tool: Value) -> ToolPolicy {
        ToolPolicy::of_policy(&json!({ "tool": tool }))
    }

    #[test]
    fn candidates_are_cleaned() {
        assert_eq!(normalize_candidates(&[" a", "b", "", " ", "a ", "A"]), ["a", "b", "A"]);
    }

    #[test]
    fn lists_and_preferences_are_respected() {
        let policy = policy(json!({ "allow": ["a", "b", "c", "x"], "deny": ["c"], "prefer": ["z", "b", "c"] }));
        let selection = select_tool(&policy, &["a", "b", "c", "d"], true).unwrap();
        assert_eq!(
            serde_json::to_string(&selection).unwrap(),
            concat!(
                r#"{"candidates":["a","b","c","d"],"allowed":["a","b"],"#,
                r#""denied":[{"name":"c","reason":"deny_list"},{"name":"d","reason":"not_in_allow_list"}],"#,
                r#""preferred":["b"],"ordered":["b","a"],"selected":"b","fallback":{"applied":false,"reason":"none","#,
                r#""note":"the lists are respected as they are","effective_mode":"allow_and_deny"}}"#
            )
        );
    }

    #[test]
    fn w_03_an_empty_allow_list_allows_nothing() {
        let policy = policy(json!({ "allow": [], "deny": ["b"] }));
        let error = select_tool(&policy, &["rm", "b"], true).unwrap_err();
        assert_eq!(error.code, "no_tools_allowed");
        assert_eq!(error.details, Some(json!({ "candidates": 2, "allow": 0, "deny": 1 })));
        let lax = select_tool(&policy, &["rm", "b"], false).unwrap();
        assert_eq!((lax.selected.as_deref(), lax.fallback.reason), (Some("rm"), "allowlist_filtered_all"));
        assert_eq!(lax.denied, [Denied { name: "b".into(), reason: DenyReason::DenyList }]);
    }

    #[test]
    fn nothing_is_selected_when_all_is_denied() {
        for tool in [json!({ "deny": ["a"] }), json!({ "deny": ["a"], "allow": ["a"] })] {
            let lax = select_tool(&policy(tool.clone()), &["a"], false).unwrap();
            assert_eq!((lax.selected, lax.fallback.reason), (None, "deny_filtered_all"));
            assert!(select_tool(&policy(tool), &["a"], true).is_err());
        }
        assert!(select_tool(&ToolPolicy::default(), &[" "], true).is_err());
    }

    #[test]
    fn summaries_are_short() {
        let conflict = |message: &str, winner| ToolConflict {
            code: "c",
            message: message.into(),
            details: json!([]),
            winner_rule_node_id: winner,
        };
        let lines = tool_conflicts_summary(&[conflict("m", Some(id(1))), conflict(&"é".repeat(300), None)]);
        assert_eq!(lines[0], format!("[c] m (winner={})", id(1)));
        assert_eq!((lines[1].chars().count(), lines[1].ends_with("é...")), (200, true));
        assert_eq!(tool_conflicts_summary(&vec![conflict("m", None); 9]).len(), 5);
    }

    proptest! {
        #[test]
        fn what_is_selected_is_allowed_and_never_denied(
            allow in prop::option::of(prop::collection::vec("[a-e]", 0..4)),
            deny in prop::collection::vec("[a-e]", 0..4),
            prefer in prop::collection::vec("[a-e]", 0..4),
            candidates in prop::collection::vec("[ a-e]{0,2}", 0..6),
            strict in any::<bool>(),
        ) {
            let policy = ToolPolicy { allow: allow.clone(), deny: deny.clone(), prefer };
            if let Ok(selection) = select_tool(&policy, &candidates, strict) {
                prop_assert_eq!(selection.selected.is_some(), !selection.allowed.is_empty());
                prop_assert_eq!(selection.allowed.len() + selection.denied.len(), selection.candidates.len());
                prop_assert_eq!(selection.ordered.len(), selection.allowed.len());
                for tool in &selection.ordered {
                    prop_assert!(selection.allowed.contains(tool) && !deny.contains(tool));
                    prop_assert!(!strict || allow.as_ref().is_none_or(|allow| allow.contains(tool)));
                }
            }
        }
    }
}

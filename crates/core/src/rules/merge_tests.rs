use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    canon::policy_sha256,
    rules::definition::tests::{id, rule},
};

fn merged(rules: &[Arc<CompiledRule>]) -> Merged {
    merge(&rules.iter().collect::<Vec<_>>())
}

fn extension(n: u128, priority: i32, value: Value) -> Arc<CompiledRule> {
    rule(n, priority, json!({ "extensions": value }))
}

#[test]
fn the_policy_always_has_tool() {
    let none = merged(&[]);
    assert_eq!(none.policy, json!({ "tool": {} }));
    assert_eq!(policy_sha256(&none.policy), "681a2313e3abb9da1a668cd8007fb1a786f62c3551fccb105691e4272f410ce3");
    let prefer = merged(&[rule(1, 0, json!({ "tool": { "prefer": ["psql"] } }))]);
    assert_eq!(policy_sha256(&prefer.policy), "2133168121d9bacf6cc0905c2b1eb7822d0ba4f3504f1f40041d666d9e8c6298");
}

#[test]
fn the_higher_score_wins_and_the_final_winner_is_named() {
    let made = merged(&[
        extension(1, 3, json!({ "x": "c", "list": [1, { "a": 1, "b": 2 }] })),
        extension(2, 1, json!({ "x": "a", "list": [{ "b": 2, "a": 1 }, 2] })),
        extension(3, 2, json!({ "x": "b" })),
    ]);
    assert_eq!(made.policy["extensions"], json!({ "x": "c", "list": [{ "a": 1, "b": 2 }, 2, 1] }));
    assert_eq!(made.conflicts, [Conflict { path: "extensions.x".into(), winner_rule_node_id: id(1) }]);
    let explain = serde_json::to_value(&made.conflict_explain).unwrap();
    assert_eq!(explain[0]["winner"]["score"], 3000);
    assert_eq!(
        explain[0]["losers"],
        json!([{ "rule_node_id": id(3), "score": 2000 }, { "rule_node_id": id(2), "score": 1000 }])
    );
    let ids: Vec<NodeId> = made.sources.iter().map(|source| source.rule_node_id).collect();
    assert_eq!(ids, [id(2), id(3), id(1)], "sources are in merge order");
}

#[test]
fn among_equal_scores_the_greatest_id_wins_scalars() {
    let made = merged(&[
        rule(2, 0, json!({ "output": { "format": "json" } })),
        rule(1, 0, json!({ "output": { "format": "text" } })),
    ]);
    assert_eq!(made.policy["output"]["format"], "json");
    assert_eq!(made.conflicts[0].winner_rule_node_id, id(2));
}

#[test]
fn a_replaced_branch_decides_what_was_contested_in_it() {
    let made = merged(&[
        extension(1, 1, json!({ "a": { "b": 1 } })),
        extension(2, 2, json!({ "a": { "b": 2 } })),
        extension(3, 3, json!({ "a": null })),
    ]);
    let winners: Vec<(&str, NodeId)> =
        made.conflicts.iter().map(|c| (c.path.as_str(), c.winner_rule_node_id)).collect();
    assert_eq!(winners, [("extensions.a.b", id(3)), ("extensions.a", id(3))]);
}

#[test]
fn equal_values_are_no_conflict() {
    let made = merged(&[extension(1, 1, json!({ "a": 1 })), extension(2, 2, json!({ "a": 1.0 }))]);
    assert!(made.conflicts.is_empty());
}

#[test]
fn shadow_keys_appear_only_with_a_shadow_policy() {
    let keys = |applied: &Applied| serde_json::to_string(applied).unwrap();
    assert!(!keys(&Applied::new(merged(&[]), None)).contains("shadow"));
    let both = keys(&Applied::new(merged(&[]), Some(merged(&[]))));
    assert!(
        both.starts_with(r#"{"policy":{"tool":{}},"sources":[],"conflicts":[],"conflict_explain":[],"tool_explain":"#)
    );
    assert!(both.contains(r#""shadow_policy":{"tool":{}},"shadow_sources":[],"shadow_conflicts":[]"#));
}

fn any_patch() -> impl Strategy<Value = Value> {
    let tools = || prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..3);
    let value = prop_oneof![
        (0..3).prop_map(|n| json!(n)),
        (0..3).prop_map(|n| json!([n, 1])),
        (0..3).prop_map(|n| json!({ "y": n })),
    ];
    (tools(), tools(), tools(), value).prop_map(|(allow, deny, prefer, x)| {
        json!({ "tool": { "allow": allow, "deny": deny, "prefer": prefer }, "extensions": { "x": x } })
    })
}

fn any_rules() -> impl Strategy<Value = Vec<Arc<CompiledRule>>> {
    prop::collection::vec((0..3_i32, any_patch()), 0..6)
        .prop_map(|rules| (1_u128..).zip(rules).map(|(n, (priority, patch))| rule(n, priority, patch)).collect())
}

proptest! {
    #[test]
    fn the_order_rules_come_in_does_not_matter(rules in any_rules(), turn in 0_usize..6) {
        let first = merged(&rules);
        let mut turned = rules;
        turned.reverse();
        let middle = turn.min(turned.len());
        turned.rotate_left(middle);
        let second = merged(&turned);
        prop_assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }

    #[test]
    fn a_further_rule_never_lifts_a_denial(rules in any_rules(), priority in 0..3_i32, patch in any_patch()) {
        let denied = merged(&rules).policy["tool"]["deny"].as_array().cloned().unwrap_or_default();
        let mut more = rules;
        more.push(rule(99, priority, patch));
        let still = merged(&more).policy["tool"]["deny"].as_array().cloned().unwrap_or_default();
        prop_assert!(denied.iter().all(|tool| still.contains(tool)));
    }

    #[test]
    fn a_winner_set_the_path_or_replaced_what_is_above(rules in any_rules()) {
        let made = merged(&rules);
        for conflict in &made.conflicts {
            let source = made.sources.iter().find(|s| s.rule_node_id == conflict.winner_rule_node_id).unwrap();
            let path = &conflict.path;
            let touches = |t: &String| t == path || t.starts_with(&format!("{path}.")) || path.starts_with(&format!("{t}."));
            prop_assert!(source.touched_paths.iter().any(touches));
        }
    }
}

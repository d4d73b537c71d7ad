use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::rules::{
    RuleDef,
    definition::tests::{def, id},
    value::tests::any_json,
};

fn compiled(defs: Vec<RuleDef>) -> Vec<Arc<CompiledRule>> {
    defs.into_iter().map(|def| Arc::new(CompiledRule::compile(def))).collect()
}

fn options(include_shadow: bool) -> EvaluateOptions {
    EvaluateOptions { include_shadow, limit: 50, identity: None }
}

fn deny(n: u128, tool: &str) -> RuleDef {
    def(n, json!({}), json!({ "tool": { "deny": [tool] } }))
}

#[test]
fn every_filter_is_counted_in_its_turn() {
    let rules = compiled(vec![
        RuleDef { rule_scope: RuleScope::Agent, target_agent_id: Some("bob".into()), ..deny(1, "x") },
        RuleDef { rule_scope: RuleScope::Team, ..deny(2, "x") },
        RuleDef { lane: Lane::Private, owner_agent_id: Some("bob".into()), ..deny(3, "x") },
        RuleDef { lane: Lane::Private, ..deny(4, "x") },
        RuleDef { if_json: json!({ "k": 1 }), ..deny(5, "x") },
        RuleDef { then_json: json!({ "tools": 1 }), ..deny(6, "x") },
        RuleDef { lane: Lane::Private, owner_agent_id: Some("ann".into()), ..deny(7, "rm") },
        RuleDef { state: RuleState::Shadow, ..deny(8, "dd") },
        RuleDef { state: RuleState::Disabled, ..deny(9, "x") },
    ]);
    let found = evaluate(&rules, &json!({ "agent": { "id": "ann" } }), &options(true));
    let summary = serde_json::to_value(&found.agent_visibility_summary).unwrap();
    assert_eq!(
        summary,
        json!({
            "agent": { "id": "ann", "team_id": null },
            "rule_scope": {
                "scanned": 8, "filtered_by_scope": 2, "filtered_by_lane": 2, "filtered_by_condition": 1,
                "skipped_invalid_then": 1, "matched_active": 1, "matched_shadow": 1,
            },
            "lane": {
                "applied": true, "reason": "enforced_agent_only", "legacy_unowned_private_visible": 0,
                "legacy_unowned_private_detected": 1,
            },
        })
    );
    assert_eq!((found.considered, found.matched, found.skipped_invalid_then), (8, 2, 1));
    assert_eq!(found.invalid_then_sample[0].rule_node_id, id(6));
    assert_eq!(found.applied.policy, json!({ "tool": { "deny": ["rm"] } }));
    assert_eq!(found.applied.shadow_policy, Some(json!({ "tool": { "deny": ["dd"] } })));

    let active_only = evaluate(&rules, &json!({ "agent": { "id": "ann" } }), &options(false));
    assert_eq!((active_only.considered, active_only.matched), (8, 1), "shadow rules are looked at, not matched");
    assert!(active_only.applied.shadow_policy.is_none() && active_only.shadow.is_empty());
}

#[test]
fn without_an_identity_private_rules_stay_private() {
    let rules = compiled(vec![
        RuleDef { lane: Lane::Private, owner_agent_id: Some("ann".into()), ..deny(1, "rm") },
        deny(2, "dd"),
    ]);
    let found = evaluate(&rules, &json!({}), &options(true));
    assert_eq!(found.applied.policy, json!({ "tool": { "deny": ["dd"] } }));
    assert_eq!(found.agent_visibility_summary.rule_scope.filtered_by_lane, 1);
    assert_eq!(found.agent_visibility_summary.lane.reason, "missing_agent_context");
    assert!(found.agent_visibility_summary.lane.applied);
}

#[test]
fn a_given_identity_beats_what_the_context_claims() {
    let private = RuleDef { lane: Lane::Private, owner_agent_id: Some("victim".into()), ..deny(1, "rm") };
    let rules = compiled(vec![private]);
    let context = json!({ "agent": { "id": " " }, "agent_id": "victim" });
    let identity = Some(ContextIdentity::of_principal(Some("ann"), None));
    let found = evaluate(&rules, &context, &EvaluateOptions { identity, ..options(true) });
    assert_eq!((found.matched, found.agent_visibility_summary.agent.id.as_deref()), (0, Some("ann")));
}

#[test]
fn the_limit_bounds_what_is_listed_never_what_is_enforced() {
    let mut rules: Vec<RuleDef> = (1..=300).map(|n| deny(n, &format!("t{n}"))).collect();
    rules.push(RuleDef { priority: -100, ..deny(999, "rm") });
    let found = evaluate(&compiled(rules), &json!({}), &EvaluateOptions { limit: 3, ..options(true) });
    assert_eq!((found.considered, found.matched, found.active.len()), (301, 301, 3));
    assert_eq!(found.applied.sources.len(), 301);
    assert!(found.applied.policy["tool"]["deny"].as_array().unwrap().contains(&json!("rm")));
    let listed: Vec<NodeId> = found.active.iter().map(|found| found.0.id()).collect();
    assert_eq!(listed, [id(1), id(2), id(3)], "among equal scores the smallest id is listed first");
}

#[test]
fn a_match_has_the_keys_of_the_contract_in_order() {
    let rules = compiled(vec![RuleDef { summary: Some("s".into()), ..def(1, json!({ "a": 1 }), json!({})) }]);
    let found = evaluate(&rules, &json!({ "a": 1 }), &options(false));
    let text = serde_json::to_string(&found).unwrap();
    let expected = format!(
        concat!(
            r#"{{"considered":1,"matched":1,"skipped_invalid_then":0,"invalid_then_sample":[],"active":[{{"#,
            r#""rule_node_id":"{rule}","state":"active","rule_scope":"global","target_agent_id":null,"#,
            r#""target_team_id":null,"summary":"s","if_json":{{"a":1}},"then_json":{{}},"exceptions_json":[],"#,
            r#""stats":{{"positive":0,"negative":0}},"#,
            r#""rank":{{"score":1,"evidence_score":0,"priority":0,"weight":1,"specificity":1}},"#,
            r#""match_detail":{{"condition_paths":["a"],"condition_path_count":1}},"commit_id":"{commit}"}}],"#,
            r#""shadow":[],"agent_visibility_summary":{{"agent":"#,
        ),
        rule = id(1),
        commit = rules[0].def().commit_id,
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains(r#""applied":{"policy":{"tool":{}},"sources":[{"rule_node_id":"#));
}

proptest! {
    #[test]
    fn nothing_panics_and_every_rule_is_counted_once(
        bodies in prop::collection::vec((any_json(), any_json(), any_json()), 0..5),
        context in any_json(),
        include_shadow in any::<bool>(),
    ) {
        let defs = (1_u128..).zip(bodies).map(|(n, (if_json, then_json, exceptions_json))| RuleDef {
            state: if n % 2 == 0 { RuleState::Active } else { RuleState::Shadow },
            exceptions_json,
            ..def(n, if_json, then_json)
        });
        let rules = compiled(defs.collect());
        let found = evaluate(&rules, &context, &options(include_shadow));
        let counts = found.agent_visibility_summary.rule_scope;
        let counted = counts.filtered_by_scope + counts.filtered_by_lane + counts.filtered_by_condition
            + counts.skipped_invalid_then + counts.matched_active + counts.matched_shadow;
        prop_assert!(counted == rules.len() || !include_shadow && counted < rules.len());
        prop_assert!(serde_json::to_string(&found).is_ok());
        prop_assert!(found.applied.policy["tool"].is_object());
    }

    #[test]
    fn the_order_rules_come_in_does_not_matter(bodies in prop::collection::vec(any_json(), 0..6), turn in 0_usize..6) {
        let then = |n: u128| json!({ "tool": { "prefer": [n.to_string()] }, "extensions": { "x": n.to_string() } });
        let defs = (1_u128..).zip(bodies).map(|(n, body)| match n % 3 {
            0 => def(n, json!({}), body),
            _ => def(n, json!({}), then(n)),
        });
        let mut rules = compiled(defs.collect());
        let first = serde_json::to_string(&evaluate(&rules, &json!({}), &options(true))).unwrap();
        let middle = turn.min(rules.len());
        rules.rotate_left(middle);
        prop_assert_eq!(first, serde_json::to_string(&evaluate(&rules, &json!({}), &options(true))).unwrap());
    }
}

//! Whether a rule may go live (specification 3.13).

use serde_json::{Value, json};

use super::{
    condition::Condition,
    definition::RuleDef,
    lint::lint,
    patch::{PolicyPatch, kind},
};
use crate::{
    error::{DomainError, ErrorKind},
    model::{Lane, RuleScope, RuleState},
    write::Warning,
};

/// Checks a rule that is to get a new state. Only `shadow` and `active` ask anything of it; any state may follow any
/// other.
///
/// # Errors
/// In this order: `invalid_private_rule_owner`, `invalid_rule_if_json`, `invalid_rule_exceptions_json`,
/// `invalid_rule_then_json`, `invalid_rule_scope_target`.
pub fn check_promotion(rule: &RuleDef, state: RuleState) -> Result<Vec<Warning>, DomainError> {
    if !state.is_live() {
        return Ok(Vec::new());
    }
    let owned = is_named(rule.owner_agent_id.as_ref()) || is_named(rule.owner_team_id.as_ref());
    if rule.lane == Lane::Private && !owned {
        let message = format!(
            "a private rule needs an owner to become {state}; write it again with owner_agent_id or owner_team_id, or to \
             the shared lane"
        );
        return Err(invalid("invalid_private_rule_owner", message)
            .with_details(json!({ "rule_node_id": rule.rule_node_id, "memory_lane": "private" })));
    }
    check_condition(&rule.if_json)?;
    check_exceptions(&rule.exceptions_json)?;
    if let Err(problem) = PolicyPatch::parse(&rule.then_json) {
        return Err(invalid("invalid_rule_then_json", "the rule's `then` is not a policy patch")
            .with_details(json!({ "message": problem.to_string() })));
    }
    check_target(rule)?;
    Ok(lint(&rule.if_json, &rule.exceptions_json, &rule.then_json))
}

fn invalid(code: &'static str, message: impl Into<String>) -> DomainError {
    DomainError::new(ErrorKind::Invalid, code, message)
}

fn is_named(name: Option<&String>) -> bool {
    name.is_some_and(|name| !name.trim().is_empty())
}

fn check_condition(if_json: &Value) -> Result<(), DomainError> {
    if !if_json.is_object() {
        let message = format!("the rule's `if` must be an object, not {}; {{}} applies always", kind(if_json));
        return Err(invalid("invalid_rule_if_json", message));
    }
    Condition::check_size(if_json)
        .map_err(|limit| invalid("invalid_rule_if_json", format!("the rule's `if` {limit}; make it smaller")))
}

fn check_exceptions(exceptions_json: &Value) -> Result<(), DomainError> {
    let code = "invalid_rule_exceptions_json";
    let Some(exceptions) = exceptions_json.as_array() else {
        let message = format!("the rule's `exceptions` must be an array of conditions, not {}", kind(exceptions_json));
        return Err(invalid(code, message));
    };
    for (at, exception) in exceptions.iter().enumerate() {
        Condition::check_size(exception)
            .map_err(|limit| invalid(code, format!("the rule's `exceptions.{at}` {limit}; make it smaller")))?;
    }
    Ok(())
}

fn check_target(rule: &RuleDef) -> Result<(), DomainError> {
    let (field, target) = match rule.rule_scope {
        RuleScope::Global => return Ok(()),
        RuleScope::Agent => ("target_agent_id", &rule.target_agent_id),
        RuleScope::Team => ("target_team_id", &rule.target_team_id),
    };
    if is_named(target.as_ref()) {
        return Ok(());
    }
    let message = format!("a rule of rule_scope {} needs {field}; write it again with slots.{field}", rule.rule_scope);
    Err(invalid("invalid_rule_scope_target", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::definition::tests::def;

    fn code(rule: &RuleDef) -> &'static str {
        check_promotion(rule, RuleState::Active).unwrap_err().code
    }

    #[test]
    fn problems_are_told_in_order() {
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "$not": inner }));
        let mut rule = RuleDef {
            lane: Lane::Private,
            owner_agent_id: Some(" ".into()),
            exceptions_json: json!({}),
            rule_scope: RuleScope::Team,
            ..def(1, json!([]), json!({ "tools": 1 }))
        };
        assert!(check_promotion(&rule, RuleState::Disabled).unwrap().is_empty(), "only live states ask for anything");
        assert_eq!(code(&rule), "invalid_private_rule_owner");
        rule.owner_team_id = Some("red".into());
        assert_eq!(code(&rule), "invalid_rule_if_json");
        rule.if_json = deep.clone();
        assert_eq!(code(&rule), "invalid_rule_if_json");
        rule.if_json = json!({ "a": { "$typo": 1 } });
        assert_eq!(code(&rule), "invalid_rule_exceptions_json");
        rule.exceptions_json = json!([deep]);
        assert_eq!(code(&rule), "invalid_rule_exceptions_json");
        rule.exceptions_json = json!([]);
        let error = check_promotion(&rule, RuleState::Shadow).unwrap_err();
        assert_eq!(error.code, "invalid_rule_then_json");
        assert!(error.details.unwrap()["message"].as_str().unwrap().starts_with("then.tools is not known"));
        rule.then_json = json!({});
        assert_eq!(code(&rule), "invalid_rule_scope_target");
        rule.target_team_id = Some("red".into());
        let warnings = check_promotion(&rule, RuleState::Active).unwrap();
        assert_eq!(warnings[0].code, "unknown_operator");
    }
}

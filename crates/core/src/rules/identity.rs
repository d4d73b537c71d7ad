//! Who a context speaks for, resolved in one place.

use serde_json::{Map, Value, json};

use super::value::trimmed;
use crate::model::Viewer;

/// Agent and team of a context.
///
/// A context names an agent as `agent.id` or `agent_id`, a team as `agent.team_id` or `team_id`. Every decision reads
/// them here and nowhere else, so that a check and what it guards cannot see different names (W-6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextIdentity {
    /// Agent id, never blank.
    pub agent: Option<String>,
    /// Team id, never blank.
    pub team: Option<String>,
}

impl ContextIdentity {
    /// What the context itself claims: the first name that is a non-blank text, trimmed.
    pub fn claimed(context: &Value) -> Self {
        let Some(members) = context.as_object() else { return Self::default() };
        let nested = members.get("agent").and_then(Value::as_object);
        let first = |inner: &str, outer: &str| {
            let name = nested.and_then(|agent| trimmed(agent, inner)).or_else(|| trimmed(members, outer));
            name.map(str::to_owned)
        };
        Self { agent: first("id", "agent_id"), team: first("team_id", "team_id") }
    }

    /// The identity of an authenticated caller; blank names are none.
    pub fn of_principal(agent: Option<&str>, team: Option<&str>) -> Self {
        let name = |name: Option<&str>| name.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Self { agent: name(agent), team: name(team) }
    }

    /// The same identity, as the lane predicate takes it.
    pub fn viewer(&self) -> Viewer {
        Viewer { agent: self.agent.clone(), team: self.team.clone() }
    }

    /// Whether neither agent nor team is known.
    pub const fn is_unknown(&self) -> bool {
        self.agent.is_none() && self.team.is_none()
    }

    /// Rewrites a context so that every alias says this identity, and none says another: known names are set, others
    /// removed. What is not an object becomes one. Match and hash the result, not the original.
    #[must_use]
    pub fn bind(&self, context: Value) -> Value {
        let mut members = match context {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        let mut nested = match members.remove("agent") {
            Some(Value::Object(nested)) => nested,
            _ => Map::new(),
        };
        put(&mut nested, "id", self.agent.as_deref());
        put(&mut nested, "team_id", self.team.as_deref());
        put(&mut members, "agent_id", self.agent.as_deref());
        put(&mut members, "team_id", self.team.as_deref());
        if !nested.is_empty() {
            members.insert("agent".to_owned(), Value::Object(nested));
        }
        Value::Object(members)
    }
}

fn put(members: &mut Map<String, Value>, key: &str, name: Option<&str>) {
    match name {
        Some(name) => drop(members.insert(key.to_owned(), json!(name))),
        None => drop(members.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::value::tests::any_json;

    fn who(context: Value) -> (Option<String>, Option<String>) {
        let identity = ContextIdentity::claimed(&context);
        (identity.agent, identity.team)
    }

    #[test]
    fn the_first_name_that_is_not_blank_counts() {
        let ann = Some("ann".to_owned());
        assert_eq!(who(json!({ "agent": { "id": " ann ", "team_id": "red" } })), (ann.clone(), Some("red".into())));
        assert_eq!(who(json!({ "agent": { "id": " " }, "agent_id": "ann" })), (ann.clone(), None));
        assert_eq!(who(json!({ "agent": "bob", "agent_id": "ann", "team_id": "" })), (ann, None));
        assert_eq!(who(json!({ "agent": { "id": 7 } })), (None, None));
        assert_eq!(who(json!(["ann"])), (None, None));
    }

    #[test]
    fn binding_leaves_no_other_name() {
        let ann = ContextIdentity::of_principal(Some("ann"), Some(" "));
        let bound =
            ann.bind(json!({ "agent": { "id": " ", "role": "x" }, "agent_id": "victim", "team_id": "red", "k": 1 }));
        assert_eq!(bound, json!({ "agent": { "id": "ann", "role": "x" }, "agent_id": "ann", "k": 1 }));
        assert_eq!(ContextIdentity::default().bind(json!(null)), json!({}));
    }

    proptest! {
        #[test]
        fn a_bound_context_claims_what_it_was_bound_to(context in any_json(), agent in "[a-c]{0,2}", team in "[a-c]{0,2}") {
            let identity = ContextIdentity::of_principal(Some(&agent), Some(&team));
            prop_assert_eq!(ContextIdentity::claimed(&identity.bind(context)), identity);
        }
    }
}

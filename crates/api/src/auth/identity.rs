//! Binds a request to its caller: what it says about tenant, agent and team has to be what the credential says, and what
//! it leaves out is filled in. A credential that names no agent (or team) may claim none.

use aionis_core::error::{DomainError, ErrorKind};
use axum::{
    extract::Query,
    http::{HeaderMap, Uri},
};
use serde_json::{Map, Value, json};

use super::{Principal, access::Binding, principal::trimmed};
use crate::middleware::tenant_header;

type Members = Map<String, Value>;

/// Checks the tenant header and the query, before a body is read.
pub(super) fn check_head(principal: &Principal, headers: &HeaderMap, uri: &Uri) -> Result<(), DomainError> {
    let tenant = principal.tenant_id.as_str();
    check("tenant_id", tenant_header(headers), Some(tenant))?;
    // A query that cannot be read is refused by whoever needs it.
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok(()) };
    for (name, value) in &pairs {
        let expected = match name.as_str() {
            "tenant_id" => Some(tenant),
            "consumer_agent_id" => principal.agent_id.as_deref(),
            "consumer_team_id" => principal.team_id.as_deref(),
            _ => continue,
        };
        check(name, Some(value), expected)?;
    }
    Ok(())
}

/// Checks and fills a body.
pub(super) fn bind_body(principal: &Principal, binding: Binding, body: &mut Members) -> Result<(), DomainError> {
    let tenant = principal.tenant_id.as_str();
    check("tenant_id", text(body, "tenant_id"), Some(tenant))?;
    body.insert("tenant_id".to_owned(), json!(tenant));
    match binding {
        Binding::Tenant => Ok(()),
        Binding::Consumer => bind_consumer(principal, body),
        Binding::Producer => bind_producer(principal, body),
        Binding::Context => bind_context(principal, body.entry("context").or_insert(Value::Null), "context"),
    }
}

fn bind_consumer(principal: &Principal, body: &mut Members) -> Result<(), DomainError> {
    for (name, expected) in [("consumer_agent_id", &principal.agent_id), ("consumer_team_id", &principal.team_id)] {
        check(name, text(body, name), expected.as_deref())?;
        fill(body, name, expected.as_deref());
    }
    match body.get_mut("rules_context") {
        Some(context) if !context.is_null() => bind_context(principal, context, "rules_context"),
        _ => Ok(()),
    }
}

/// The members of a write and of a node that name its producer or owner.
fn roles_of(principal: &Principal) -> [(&'static str, Option<&str>); 3] {
    let (agent, team) = (principal.agent_id.as_deref(), principal.team_id.as_deref());
    [("producer_agent_id", agent), ("owner_agent_id", agent), ("owner_team_id", team)]
}

fn bind_producer(principal: &Principal, body: &mut Members) -> Result<(), DomainError> {
    for (name, expected) in roles_of(principal) {
        check(name, text(body, name), expected)?;
    }
    let nodes = body.get("nodes").and_then(Value::as_array);
    for (at, node) in nodes.into_iter().flatten().enumerate() {
        let Some(node) = node.as_object() else { continue };
        for (name, expected) in roles_of(principal) {
            // The path is made only for a node that names somebody.
            if let Some(provided) = text(node, name) {
                check(&format!("nodes.{at}.{name}"), Some(provided), expected)?;
            }
        }
    }
    fill(body, "producer_agent_id", principal.agent_id.as_deref());
    if text(body, "owner_agent_id").is_none() && text(body, "owner_team_id").is_none() {
        match &principal.agent_id {
            Some(agent) => fill(body, "owner_agent_id", Some(agent)),
            None => fill(body, "owner_team_id", principal.team_id.as_deref()),
        }
    }
    Ok(())
}

/// Agent and team of a rule context have two spellings each: all are checked, and all say the same afterwards. A
/// spelling that is left out, or that is no text, cannot hide one that is evaluated.
fn bind_context(principal: &Principal, context: &mut Value, label: &str) -> Result<(), DomainError> {
    if !context.is_object() {
        *context = json!({});
    }
    let Some(context) = context.as_object_mut() else { return Ok(()) };
    for (inner, outer, expected) in
        [("id", "agent_id", principal.agent_id.as_deref()), ("team_id", "team_id", principal.team_id.as_deref())]
    {
        let field = format!("{label}.agent.{inner}");
        check(&field, context.get("agent").and_then(Value::as_object).and_then(|agent| text(agent, inner)), expected)?;
        check(&field, text(context, outer), expected)?;
        let Some(expected) = expected else {
            context.remove(outer);
            if let Some(agent) = context.get_mut("agent").and_then(Value::as_object_mut) {
                agent.remove(inner);
            }
            continue;
        };
        context.insert(outer.to_owned(), json!(expected));
        let agent = context.entry("agent").or_insert_with(|| json!({}));
        if !agent.is_object() {
            *agent = json!({});
        }
        if let Some(agent) = agent.as_object_mut() {
            agent.insert(inner.to_owned(), json!(expected));
        }
    }
    Ok(())
}

/// A member that is a text and not blank, trimmed as it would be stored.
fn text<'a>(members: &'a Members, name: &str) -> Option<&'a str> {
    members.get(name).and_then(Value::as_str).map(trimmed).filter(|text| !text.is_empty())
}

/// Gives a member that says nothing a value, when there is one.
fn fill(members: &mut Members, name: &str, value: Option<&str>) {
    let blank = match members.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(said)) => trimmed(said).is_empty(),
        // A wrong type, which is refused when the body is read.
        Some(_) => false,
    };
    if let Some(value) = value.filter(|_| blank) {
        members.insert(name.to_owned(), json!(value));
    }
}

/// Refuses a claim that is not what the credential says.
fn check(field: &str, provided: Option<&str>, expected: Option<&str>) -> Result<(), DomainError> {
    let Some(provided) = provided.map(trimmed).filter(|provided| !provided.is_empty()) else { return Ok(()) };
    if expected == Some(provided) {
        return Ok(());
    }
    let message = match expected {
        Some(_) => format!("{field} is not the one of the credential; leave it out"),
        None => format!("the credential allows no {field}; leave it out"),
    };
    let provided = aionis_core::ids::clip(provided, 512);
    Err(DomainError::new(ErrorKind::Forbidden, "identity_mismatch", message)
        .with_details(json!({ "field": field, "provided": provided, "expected": expected })))
}

//! A service that knows what the bodies of the examples name, and requests to it.

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use serde_json::{Value, json};

use super::{
    cases::good,
    document::{Document, escaped},
};
use crate::harness::{Answer, Service, Setup, WRITE, vector};

/// Largest body of the services of these tests, in bytes.
pub(crate) const BODY_MAX: usize = 64 * 1024;
/// Most nodes and edges of a write.
pub(crate) const ITEMS_MAX: usize = 3;

/// A service and the ids it knows.
pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) rule: String,
    pub(crate) decision: String,
    pub(crate) note: String,
    pub(crate) commit: String,
    pub(crate) guest: String,
    tenant: String,
}

pub(crate) fn setup(setup: &mut Setup) {
    setup.api.default_scope = "demo".to_owned();
    setup.api.body_max_bytes = BODY_MAX;
    setup.write_limits.nodes_max = ITEMS_MAX;
    setup.write_limits.edges_max = ITEMS_MAX;
}

impl World {
    pub(crate) async fn new(service: Service) -> Self {
        Self::within(service, &[], "default").await
    }

    /// Stored by a caller with these headers, in the scope `demo` of a tenant.
    pub(crate) async fn within(service: Service, headers: &[(&str, &str)], tenant: &str) -> Self {
        let prefers = json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } } });
        let nodes = [
            shared("note-1", "event", json!({})),
            shared("guest-4", "entity", json!({})),
            shared("rule-1", "rule", prefers),
        ];
        let write = json!({ "scope": "demo", "input_text": "before", "nodes": nodes });
        let written = service.post_with(WRITE, headers, &write).await.ok();
        let rule = written["nodes"][2]["id"].as_str().unwrap().to_owned();
        let state = json!({ "scope": "demo", "rule_node_id": rule, "state": "active", "input_text": "before" });
        service.post_with("/v1/memory/rules/state", headers, &state).await.ok();
        let context = json!({ "intent": "deploy" });
        let asked = json!({ "scope": "demo", "candidates": ["psql", "curl"], "run_id": "run-1", "context": context });
        let chosen = service.post_with("/v1/memory/tools/select", headers, &asked).await.ok();
        assert_eq!(chosen["tenant_id"], tenant);
        let decision = chosen["decision"]["decision_id"].as_str().unwrap().to_owned();
        Self {
            service,
            rule,
            decision,
            note: written["nodes"][0]["id"].as_str().unwrap().to_owned(),
            tenant: tenant.to_owned(),
            guest: written["nodes"][1]["id"].as_str().unwrap().to_owned(),
            commit: written["commit_id"].as_str().unwrap().to_owned(),
        }
    }

    /// Values for what the service has to know.
    pub(crate) fn known(&self, path: &str) -> Option<Value> {
        Some(match path {
            "rule_node_id" => json!(self.rule),
            "decision_id" => json!(self.decision),
            "parent_commit_id" => json!(self.commit),
            "id" | "filter.id" => json!(self.note),
            "node_ids" | "ids" | "filter.ids" => json!([self.note]),
            "uri" | "filter.uri" => json!(format!("aionis://{}/demo/event/{}", self.tenant, self.note)),
            // Belongs to a question that was answered before.
            "cursor" => json!(null),
            "query_embedding" | "nodes.0.embedding" => json!(vector("x")),
            // Needs a permission these callers do not have.
            "include_embeddings" => json!(false),
            "edges.0.dst" => json!({ "id": self.guest, "client_id": "guest-4" }),
            _ => return None,
        })
    }

    /// The path with the id of something that is there.
    pub(crate) fn path(&self, path: &str) -> String {
        let named = match path.strip_prefix("/v1/memory/").and_then(|rest| rest.split('/').next()) {
            // Writes of full examples change the note.
            Some("nodes") => &self.guest,
            Some("commits") => &self.commit,
            _ => &self.decision,
        };
        path.replace("{id}", named)
    }

    pub(crate) fn body(&self, document: &Document, path: &str, full: bool) -> Value {
        good(document, &schema_of(document, path), full, "", &|member| self.known(member))
    }

    /// Sends anything.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(self.path(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.service.send(request.body(body.into()).unwrap()).await
    }

    /// Sends JSON.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![(header::CONTENT_TYPE.as_str(), "application/json")];
        all.extend(headers);
        self.send("post", path, &all, body.to_string()).await
    }
}

fn shared(key: &str, kind: &str, slots: Value) -> Value {
    json!({ "client_id": key, "type": kind, "memory_lane": "shared", "title": key, "slots": slots })
}

/// The schema of a route's body.
pub(crate) fn schema_of(document: &Document, path: &str) -> Value {
    let pointer = format!("/paths/{}/post/requestBody/content/application~1json/schema", escaped(path));
    document.json.pointer(&pointer).unwrap().clone()
}

/// Paths of all routes that take a body.
pub(crate) fn posted(document: &Document) -> Vec<String> {
    document.operations().into_iter().filter(|(_, method, _)| method == "post").map(|(path, _, _)| path).collect()
}

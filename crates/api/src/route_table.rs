//! The routes of the service by name, for metrics, logs and traces, and to count them.

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path, with `{name}` for parameters.
    pub path: &'static str,
    /// Short name, for labels.
    pub name: &'static str,
}

const fn get(path: &'static str, name: &'static str) -> Route {
    Route { method: "GET", path, name }
}

const fn post(path: &'static str, name: &'static str) -> Route {
    Route { method: "POST", path, name }
}

/// Every route of [`router`](crate::router).
pub const ROUTES: &[Route] = &[
    get("/health", "health"),
    get("/health/live", "health_live"),
    get("/health/ready", "health_ready"),
    get("/metrics", "metrics"),
    get("/openapi.json", "openapi"),
    get("/docs", "docs"),
    post("/v1/memory/write", "write"),
    post("/v1/memory/recall", "recall"),
    post("/v1/memory/recall_text", "recall_text"),
    post("/v1/memory/feedback", "feedback"),
    post("/v1/memory/rules/state", "rules_state"),
    post("/v1/memory/rules/evaluate", "rules_evaluate"),
    post("/v1/memory/tools/select", "tools_select"),
    post("/v1/memory/tools/feedback", "tools_feedback"),
    post("/v1/memory/decisions/{id}/replay", "decision_replay"),
    post("/v1/memory/nodes/activate", "nodes_activate"),
    post("/v1/memory/archive/rehydrate", "archive_rehydrate"),
    post("/v1/memory/find", "find"),
    get("/v1/memory/nodes/{id}", "node"),
    get("/v1/memory/nodes/{id}/history", "node_history"),
    get("/v1/memory/commits", "commits"),
    get("/v1/memory/commits/{id}", "commit"),
    post("/v1/memory/forget", "forget"),
    post("/v1/memory/verify", "verify"),
];

/// The name of a matched path.
pub(crate) fn name_of(path: &str) -> &'static str {
    ROUTES.iter().find(|route| route.path == path).map_or("other", |route| route.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The router cannot be asked for its routes, so its source is.
    #[test]
    fn the_table_names_exactly_the_routes_of_the_router() {
        let source = include_str!("lib.rs");
        let built: Vec<(String, &str)> = source
            .split(".route(\"")
            .skip(1)
            .map(|rest| {
                let (path, rest) = rest.split_once("\", ").unwrap();
                let method = rest.split_once('(').unwrap().0;
                (method.to_uppercase(), path)
            })
            .collect();
        let listed: Vec<(String, &str)> = ROUTES.iter().map(|route| (route.method.to_owned(), route.path)).collect();
        assert_eq!(built, listed);
    }

    #[test]
    fn there_are_not_too_many_routes() {
        assert!(ROUTES.len() <= 24, "{} routes", ROUTES.len());
    }
}

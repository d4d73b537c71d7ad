//! What a rule does when it applies: a patch of the policy, in a strict form (specification 3.12).

use serde_json::{Map, Value};

use super::{
    condition::MAX_DEPTH,
    value::{deeper_than, join, sorted_distinct},
};

/// Most entries of one tool list.
pub const TOOL_LIST_MAX: usize = 100;

/// A checked patch.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPatch {
    json: Map<String, Value>,
    tools: ToolLists,
}

/// The tool lists of a patch: entries trimmed, blanks dropped, each named once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolLists {
    /// Tools that may be used; empty means no restriction.
    pub allow: Vec<String>,
    /// Tools that may not be used.
    pub deny: Vec<String>,
    /// Tools to try first, best first.
    pub prefer: Vec<String>,
}

impl ToolLists {
    /// Whether nothing is said about tools.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && self.prefer.is_empty()
    }
}

/// Why a patch is refused: where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} {problem}")]
pub struct PatchError {
    /// Dotted path of the offending value, `then` for the whole patch.
    pub path: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl PatchError {
    fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

impl PolicyPatch {
    /// Checks a patch.
    ///
    /// # Errors
    /// The first thing that is not of the form
    /// `{output?: {format?: json|text|markdown, strict?: bool}, tool?: {allow?, deny?, prefer?: [text]}, extensions?: {}}`.
    pub fn parse(then: &Value) -> Result<Self, PatchError> {
        if deeper_than(then, MAX_DEPTH) {
            return Err(PatchError::new("then", format!("must not nest deeper than {MAX_DEPTH} levels")));
        }
        let json = object(then, "then")?;
        known_keys(json, "then", &["output", "tool", "extensions"])?;
        if let Some(output) = json.get("output") {
            check_output(object(output, "then.output")?)?;
        }
        if let Some(extensions) = json.get("extensions") {
            object(extensions, "then.extensions")?;
        }
        let tools = match json.get("tool") {
            Some(tool) => tool_lists(object(tool, "then.tool")?)?,
            None => ToolLists::default(),
        };
        Ok(Self { json: json.clone(), tools })
    }

    /// The patch as stored.
    pub const fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// Its tool lists.
    pub const fn tools(&self) -> &ToolLists {
        &self.tools
    }

    /// The dotted paths the patch sets, sorted: arrays and empty objects are leaves, `$` stands for an empty patch.
    pub fn touched_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect_leaves(&self.json, "", &mut paths);
        if paths.is_empty() {
            paths.push("$".to_owned());
        }
        sorted_distinct(paths)
    }
}

fn collect_leaves(members: &Map<String, Value>, prefix: &str, paths: &mut Vec<String>) {
    for (key, value) in members {
        let path = join(prefix, key);
        match value {
            Value::Object(inner) if !inner.is_empty() => collect_leaves(inner, &path, paths),
            _ => paths.push(path),
        }
    }
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, PatchError> {
    value.as_object().ok_or_else(|| PatchError::new(path, format!("must be an object, not {}", kind(value))))
}

fn known_keys(members: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), PatchError> {
    match members.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(PatchError::new(
            format!("{path}.{key}"),
            format!("is not known; {path} may hold {}, and anything else belongs in then.extensions", known.join(", ")),
        )),
        None => Ok(()),
    }
}

fn check_output(output: &Map<String, Value>) -> Result<(), PatchError> {
    known_keys(output, "then.output", &["format", "strict"])?;
    if output.get("format").is_some_and(|format| !matches!(format.as_str(), Some("json" | "text" | "markdown"))) {
        return Err(PatchError::new("then.output.format", "must be \"json\", \"text\" or \"markdown\""));
    }
    match output.get("strict") {
        Some(strict) if !strict.is_boolean() => {
            Err(PatchError::new("then.output.strict", format!("must be true or false, not {}", kind(strict))))
        }
        _ => Ok(()),
    }
}

fn tool_lists(tool: &Map<String, Value>) -> Result<ToolLists, PatchError> {
    known_keys(tool, "then.tool", &["allow", "deny", "prefer"])?;
    Ok(ToolLists {
        allow: tool_list(tool, "allow")?,
        deny: tool_list(tool, "deny")?,
        prefer: tool_list(tool, "prefer")?,
    })
}

fn tool_list(tool: &Map<String, Value>, key: &str) -> Result<Vec<String>, PatchError> {
    let Some(value) = tool.get(key) else { return Ok(Vec::new()) };
    let path = format!("then.tool.{key}");
    let Some(items) = value.as_array() else {
        return Err(PatchError::new(path, format!("must be an array of tool names, not {}", kind(value))));
    };
    if items.len() > TOOL_LIST_MAX {
        let problem = format!("names {} tools; {TOOL_LIST_MAX} is the most", items.len());
        return Err(PatchError::new(path, problem));
    }
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let Some(name) = item.as_str().filter(|name| !name.is_empty()) else {
            return Err(PatchError::new(format!("{path}.{at}"), "must be a tool name: a text that is not empty"));
        };
        // Candidates are trimmed too: a name that differs by blanks would silently concern no tool.
        let name = name.trim();
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The kind of a value, for messages.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_good_patch_is_accepted() {
        let patch = PolicyPatch::parse(&json!({
            "output": { "format": "json", "strict": true },
            "tool": { "allow": ["a", " b ", "a", " "], "deny": [] },
            "extensions": { "x": { "y": 1, "z": {} } },
        }))
        .unwrap();
        assert_eq!(patch.tools().allow, ["a", "b"]);
        assert_eq!(
            patch.touched_paths(),
            ["extensions.x.y", "extensions.x.z", "output.format", "output.strict", "tool.allow", "tool.deny"]
        );
        assert_eq!(PolicyPatch::parse(&json!({})).unwrap().touched_paths(), ["$"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "extensions": inner }));
        let cases = [
            (json!(null), "then must be an object, not null"),
            (json!({ "tools": {} }), "then.tools is not known"),
            (json!({ "tool": [] }), "then.tool must be an object, not an array"),
            (json!({ "tool": { "block": [] } }), "then.tool.block is not known"),
            (json!({ "tool": { "deny": "rm" } }), "then.tool.deny must be an array of tool names, not a text"),
            (json!({ "tool": { "deny": ["rm", 1] } }), "then.tool.deny.1 must be a tool name"),
            (json!({ "tool": { "deny": [""] } }), "then.tool.deny.0 must be a tool name"),
            (json!({ "tool": { "prefer": vec!["x"; 101] } }), "then.tool.prefer names 101 tools"),
            (json!({ "output": { "format": "xml" } }), "then.output.format must be"),
            (json!({ "output": { "strict": "yes" } }), "then.output.strict must be"),
            (json!({ "output": { "mode": 1 } }), "then.output.mode is not known"),
            (json!({ "extensions": [] }), "then.extensions must be an object"),
            (deep, "then must not nest deeper"),
        ];
        for (then, message) in cases {
            let error = PolicyPatch::parse(&then).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}

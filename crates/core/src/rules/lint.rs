//! What in a rule is probably not meant: conditions that can never match, and lists without effect (W-50).
//!
//! Evaluation keeps the language as it is; this only says where it bites.

use serde_json::{Map, Value};

use super::{
    condition::Condition,
    patch::kind,
    pattern::{Pattern, PatternProblem},
    value::{join, to_number},
};
use crate::write::Warning;

/// Most warnings given for one rule.
const WARNINGS_MAX: usize = 50;

/// Looks at a whole rule.
pub fn lint(if_json: &Value, exceptions_json: &Value, then_json: &Value) -> Vec<Warning> {
    let mut found = lint_condition("if", if_json);
    for (at, exception) in exceptions_json.as_array().into_iter().flatten().enumerate() {
        let path = format!("exceptions.{at}");
        match exception {
            Value::Object(members) if members.is_empty() => found.push(Warning::new(
                "exception_always_matches",
                format!("{path} is {{}}, which matches every context, so the rule never applies; remove it"),
            )),
            Value::Object(_) => found.extend(lint_condition(&path, exception)),
            other => found.push(Warning::new(
                "exception_not_an_object",
                format!("{path} is {}, which a context, an object, never matches; use an object", kind(other)),
            )),
        }
    }
    let allow = then_json.get("tool").and_then(|tool| tool.get("allow")).and_then(Value::as_array);
    if allow.is_some_and(|list| list.iter().all(|name| name.as_str().is_none_or(|name| name.trim().is_empty()))) {
        found.push(Warning::new(
            "allow_list_without_effect",
            "then.tool.allow names no tool and so restricts nothing; name the tools, or use then.tool.deny",
        ));
    }
    found.truncate(WARNINGS_MAX);
    found
}

/// Looks at one condition; `path` says where it stands.
pub fn lint_condition(path: &str, pattern: &Value) -> Vec<Warning> {
    let mut linter = Linter { found: Vec::new() };
    match Condition::check_size(pattern) {
        Ok(()) => linter.pattern(path, pattern),
        Err(limit) => {
            linter.warn("condition_too_large", path, &format!("{limit} and so never matches; make it smaller"));
        }
    }
    linter.found.truncate(WARNINGS_MAX);
    linter.found
}

struct Linter {
    found: Vec<Warning>,
}

impl Linter {
    fn warn(&mut self, code: &str, path: &str, problem: &str) {
        self.found.push(Warning::new(code, format!("{path} {problem}")));
    }

    fn pattern(&mut self, path: &str, pattern: &Value) {
        match pattern {
            Value::Array(_) => self.warn(
                "array_pattern",
                path,
                "is an array, which matches only an array that holds all of its elements; use $in to match one of \
                 several values, $eq for exactly this array",
            ),
            Value::Object(members) => self.object(path, members),
            _ => {}
        }
    }

    fn object(&mut self, path: &str, members: &Map<String, Value>) {
        for decisive in ["$and", "$or", "$not"] {
            if let Some(operand) = members.get(decisive) {
                if members.len() > 1 {
                    let ignored: Vec<&str> =
                        members.keys().map(String::as_str).filter(|key| *key != decisive).collect();
                    let problem = format!(
                        "has {decisive}, beside which {} is ignored; put all of them into $and",
                        ignored.join(", ")
                    );
                    self.warn("ignored_siblings", path, &problem);
                }
                return self.combination(&join(path, decisive), decisive, operand);
            }
        }
        let operators: Vec<&str> = members.keys().map(String::as_str).filter(|key| key.starts_with('$')).collect();
        match (operators.as_slice(), members.len()) {
            ([operator], 1) => self.operator(&join(path, operator), operator, &members[*operator]),
            ([], _) => {}
            (several, _) => {
                let problem = format!(
                    "has {} beside other keys, so they are taken for names of members and it never matches; use \
                     {{\"$and\": [{{…}}, {{…}}]}} with one operator each",
                    several.join(", ")
                );
                self.warn("several_operators", path, &problem);
            }
        }
        for (key, pattern) in members.iter().filter(|(key, _)| !key.starts_with('$')) {
            self.pattern(&join(path, key), pattern);
        }
    }

    fn combination(&mut self, path: &str, operator: &str, operand: &Value) {
        match operand {
            operand if operator == "$not" => self.pattern(path, operand),
            Value::Array(items) if items.is_empty() && operator == "$or" => {
                self.warn("empty_or", path, "is empty and so never matches; list the alternatives or remove it");
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.pattern(&join(path, &at.to_string()), item);
                }
            }
            other => self.not_an_array(path, other),
        }
    }

    fn not_an_array(&mut self, path: &str, operand: &Value) {
        let problem = format!("needs an array, not {}, and so never matches", kind(operand));
        self.warn("operand_not_an_array", path, &problem);
    }

    fn operator(&mut self, path: &str, operator: &str, operand: &Value) {
        match operator {
            "$eq" | "$ne" | "$contains" => {}
            "$exists" => {
                if !operand.is_boolean() {
                    let problem = format!("needs true or false, not {}", kind(operand));
                    self.warn("operand_not_a_boolean", path, &problem);
                }
            }
            "$in" | "$nin" => match operand {
                Value::Array(items) if items.is_empty() && operator == "$in" => {
                    self.warn("empty_in", path, "is empty and so never matches; list the values");
                }
                Value::Array(_) => {}
                other => self.not_an_array(path, other),
            },
            "$gt" | "$gte" | "$lt" | "$lte" => {
                if to_number(operand).is_nan() {
                    let problem = format!("needs a number, not {}, and so never matches", kind(operand));
                    self.warn("operand_not_a_number", path, &problem);
                } else if !operand.is_number() {
                    let problem = format!(
                        "is {} that is read as the number {}; write the number",
                        kind(operand),
                        to_number(operand)
                    );
                    self.warn("operand_coerced", path, &problem);
                }
            }
            "$regex" => self.regex(path, operand),
            unknown => {
                let problem = format!(
                    "is not known and so never matches; {unknown} may be a slip for one of $eq, $ne, $in, $nin, $gt, \
                     $gte, $lt, $lte, $contains, $regex, $exists, $and, $or, $not"
                );
                self.warn("unknown_operator", path, &problem);
            }
        }
    }

    fn regex(&mut self, path: &str, operand: &Value) {
        let Some(source) = operand.as_str() else {
            let problem = format!("needs a text, not {}, and so never matches", kind(operand));
            return self.warn("operand_not_a_text", path, &problem);
        };
        if let Err(problem) = Pattern::compile(source) {
            let code = match problem {
                PatternProblem::Invalid(_) => "regex_invalid",
                PatternProblem::Unsupported(_) => "regex_unsupported",
                PatternProblem::TooLarge => "regex_too_large",
            };
            self.warn(code, path, &format!("{problem}; it never matches"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::rules::value::tests::any_json;

    #[test]
    fn each_trap_has_its_code_and_path() {
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "$not": inner }));
        let cases = [
            (json!({ "a": { "$gt": 1, "$lt": 5 } }), "several_operators", "if.a "),
            (json!({ "a": { "$gt": 1, "b": 5 } }), "several_operators", "if.a "),
            (json!({ "$and": [{ "a": 1 }], "b": 2 }), "ignored_siblings", "if "),
            (json!({ "a": { "$greater": 1 } }), "unknown_operator", "if.a.$greater "),
            (json!({ "a": { "$regex": "(" } }), "regex_invalid", "if.a.$regex "),
            (json!({ "a": { "$regex": "(?i)x" } }), "regex_invalid", "if.a.$regex "),
            (json!({ "a": { "$regex": "(?=x)" } }), "regex_unsupported", "if.a.$regex "),
            (json!({ "a": { "$regex": "(x{999}){999}" } }), "regex_too_large", "if.a.$regex "),
            (json!({ "a": { "$regex": 1 } }), "operand_not_a_text", "if.a.$regex "),
            (json!({ "a": { "$in": "x" } }), "operand_not_an_array", "if.a.$in "),
            (json!({ "a": { "$nin": 1 } }), "operand_not_an_array", "if.a.$nin "),
            (json!({ "a": { "$in": [] } }), "empty_in", "if.a.$in "),
            (json!({ "$and": {} }), "operand_not_an_array", "if.$and "),
            (json!({ "$or": [] }), "empty_or", "if.$or "),
            (json!({ "$or": [{ "a": [1] }] }), "array_pattern", "if.$or.0.a "),
            (json!({ "a": { "$gt": "x" } }), "operand_not_a_number", "if.a.$gt "),
            (json!({ "a": { "$gt": "2" } }), "operand_coerced", "if.a.$gt "),
            (json!({ "a": { "$exists": 1 } }), "operand_not_a_boolean", "if.a.$exists "),
            (deep, "condition_too_large", "if "),
        ];
        for (pattern, code, path) in cases {
            let found = lint_condition("if", &pattern);
            assert_eq!(found.len(), 1, "{pattern} {found:?}");
            assert_eq!(found[0].code, code, "{pattern}");
            assert!(found[0].message.starts_with(path), "{}", found[0].message);
        }
    }

    #[test]
    fn what_is_meant_is_not_mentioned() {
        let sound = json!({
            "a": { "$and": [{ "$gt": 1 }, { "$lt": 5 }] }, "b.c": "x", "d": { "$in": [1] }, "e": { "$exists": false },
            "f": { "$not": { "$regex": "^x" } }, "g": { "h": null },
        });
        assert!(lint(&sound, &json!([{ "z": 1 }]), &json!({ "tool": { "allow": ["a"] } })).is_empty());
    }

    #[test]
    fn exceptions_and_lists_are_looked_at() {
        let found = lint(&json!({}), &json!([{}, 1, { "a": { "$x": 1 } }]), &json!({ "tool": { "allow": [" "] } }));
        let codes: Vec<&str> = found.iter().map(|warning| warning.code.as_str()).collect();
        assert_eq!(
            codes,
            ["exception_always_matches", "exception_not_an_object", "unknown_operator", "allow_list_without_effect"]
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(rule in any_json(), exceptions in any_json(), then in any_json()) {
            prop_assert!(lint(&rule, &exceptions, &then).len() <= WARNINGS_MAX);
        }
    }
}

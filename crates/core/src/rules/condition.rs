//! The condition language of rules: compiled once from JSON, matched against contexts (specification 3.12).

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    pattern::Pattern,
    value::{deeper_than, double, equal, join, member, path, size, sorted_distinct, to_number, truthy},
};

/// Deepest nesting of a condition, in JSON levels.
pub const MAX_DEPTH: usize = 32;
/// Most JSON values a condition is made of.
pub const MAX_VALUES: usize = 4096;
/// Most regular expressions in one condition.
pub const MAX_PATTERNS: usize = 32;

/// A condition ready to be matched. It borrows nothing and is cheap to share behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// None: the condition exceeds a limit and matches nothing.
    root: Option<Test>,
}

/// Why a condition is not compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More than [`MAX_DEPTH`] levels.
    #[error("nests deeper than {MAX_DEPTH} levels")]
    Depth,
    /// More than [`MAX_VALUES`] values.
    #[error("is made of more than {MAX_VALUES} values")]
    Values,
    /// More than [`MAX_PATTERNS`] regular expressions.
    #[error("has more than {MAX_PATTERNS} regular expressions")]
    Patterns,
}

#[derive(Clone, Debug)]
enum Test {
    Never,
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Members(Vec<(Access, Test)>),
    /// An array with an equal element for each of these.
    Holds(Vec<Value>),
    Equal(Value),
    NotEqual(Value),
    Exists(bool),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Compare(Comparison, f64),
    Contains(Value),
    Matches(Pattern),
}

#[derive(Clone, Debug)]
enum Access {
    Member(String),
    Path(Vec<String>),
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Condition {
    /// Compiles a pattern. What can never match, such as an unknown operator, compiles to a test that does not; a
    /// pattern beyond the limits matches nothing as a whole.
    pub fn compile(pattern: &Value) -> Self {
        let root = Self::check_size(pattern).is_ok().then(|| compile(pattern));
        Self { root }
    }

    /// Whether a pattern is within the limits.
    ///
    /// # Errors
    /// The first limit it exceeds.
    pub fn check_size(pattern: &Value) -> Result<(), TooLarge> {
        if deeper_than(pattern, MAX_DEPTH) {
            return Err(TooLarge::Depth);
        }
        if size(pattern) > MAX_VALUES {
            return Err(TooLarge::Values);
        }
        if patterns(pattern) > MAX_PATTERNS {
            return Err(TooLarge::Patterns);
        }
        Ok(())
    }

    /// Whether the condition is within the limits, so that it may match at all.
    pub const fn is_usable(&self) -> bool {
        self.root.is_some()
    }

    /// Whether a context satisfies the condition.
    pub fn matches(&self, context: &Value) -> bool {
        self.root.as_ref().is_some_and(|root| root.matches(Some(context)))
    }
}

fn patterns(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(patterns).sum(),
        Value::Object(members) => {
            usize::from(members.contains_key("$regex")) + members.values().map(patterns).sum::<usize>()
        }
        _ => 0,
    }
}

fn compile(pattern: &Value) -> Test {
    match pattern {
        Value::Object(members) => compile_object(members),
        Value::Array(items) => Test::Holds(items.clone()),
        scalar => Test::Equal(scalar.clone()),
    }
}

fn compile_object(members: &Map<String, Value>) -> Test {
    let each = |operand: &Value| operand.as_array().map(|items| items.iter().map(compile).collect());
    if let Some(operand) = members.get("$and") {
        return each(operand).map_or(Test::Never, Test::All);
    }
    if let Some(operand) = members.get("$or") {
        return each(operand).map_or(Test::Never, Test::Any);
    }
    if let Some(operand) = members.get("$not") {
        return Test::Not(Box::new(compile(operand)));
    }
    let mut entries = members.iter();
    if let (Some((key, operand)), None) = (entries.next(), entries.next())
        && key.starts_with('$')
    {
        return compile_operator(key, operand);
    }
    let access = |key: &str| {
        if key.contains('.') {
            Access::Path(key.split('.').map(str::to_owned).collect())
        } else {
            Access::Member(key.to_owned())
        }
    };
    Test::Members(members.iter().map(|(key, pattern)| (access(key), compile(pattern))).collect())
}

fn compile_operator(operator: &str, operand: &Value) -> Test {
    let list = |make: fn(Vec<Value>) -> Test| operand.as_array().map_or(Test::Never, |items| make(items.clone()));
    let compare = |comparison| Test::Compare(comparison, to_number(operand));
    match operator {
        "$eq" => Test::Equal(operand.clone()),
        "$ne" => Test::NotEqual(operand.clone()),
        "$exists" => Test::Exists(truthy(operand)),
        "$in" => list(Test::In),
        "$nin" => list(Test::NotIn),
        "$gt" => compare(Comparison::Greater),
        "$gte" => compare(Comparison::GreaterOrEqual),
        "$lt" => compare(Comparison::Less),
        "$lte" => compare(Comparison::LessOrEqual),
        "$contains" => Test::Contains(operand.clone()),
        "$regex" => {
            operand.as_str().and_then(|source| Pattern::compile(source).ok()).map_or(Test::Never, Test::Matches)
        }
        _ => Test::Never,
    }
}

impl Test {
    /// `value` is none where the context has nothing at this place.
    fn matches(&self, value: Option<&Value>) -> bool {
        let among = |list: &[Value]| value.is_some_and(|value| list.iter().any(|item| equal(item, value)));
        match self {
            Self::Never => false,
            Self::All(tests) => tests.iter().all(|test| test.matches(value)),
            Self::Any(tests) => tests.iter().any(|test| test.matches(value)),
            Self::Not(test) => !test.matches(value),
            Self::Members(members) => members.iter().all(|(access, test)| {
                let found = value.and_then(|value| access.of(value));
                test.matches(found.as_deref())
            }),
            Self::Holds(wanted) => value
                .and_then(Value::as_array)
                .is_some_and(|items| wanted.iter().all(|wanted| items.iter().any(|item| equal(wanted, item)))),
            Self::Equal(wanted) => value.is_some_and(|value| equal(wanted, value)),
            Self::NotEqual(unwanted) => !value.is_some_and(|value| equal(unwanted, value)),
            Self::Exists(wanted) => value.is_some() == *wanted,
            Self::In(list) => among(list),
            Self::NotIn(list) => !among(list),
            Self::Compare(comparison, bound) => match value {
                Some(Value::Number(number)) => comparison.holds(double(number), *bound),
                _ => false,
            },
            Self::Contains(wanted) => match (value, wanted) {
                (Some(Value::String(text)), Value::String(part)) => text.contains(part.as_str()),
                (Some(Value::Array(items)), wanted) => items.iter().any(|item| equal(wanted, item)),
                _ => false,
            },
            Self::Matches(pattern) => value.and_then(Value::as_str).is_some_and(|text| pattern.is_match(text)),
        }
    }
}

impl Access {
    fn of<'a>(&self, value: &'a Value) -> Option<Cow<'a, Value>> {
        match self {
            Self::Member(key) => member(value, key),
            Self::Path(segments) => path(value, segments),
        }
    }
}

impl Comparison {
    /// A bound that is not a number holds for nothing.
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Greater => value > bound,
            Self::GreaterOrEqual => value >= bound,
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
        }
    }
}

/// The context paths a condition looks at, sorted and distinct; how many there are is the rule's specificity.
/// What lies deeper than [`MAX_DEPTH`] levels is left out.
pub fn condition_paths(pattern: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect_paths(pattern, "", MAX_DEPTH, &mut paths);
    sorted_distinct(paths)
}

fn collect_paths(pattern: &Value, prefix: &str, depth: usize, paths: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let here = |paths: &mut Vec<String>| {
        if !prefix.is_empty() {
            paths.push(prefix.to_owned());
        }
    };
    match pattern {
        Value::Null => {}
        Value::Object(members) if !members.is_empty() => {
            for (key, operand) in members {
                match (key.as_str(), operand) {
                    ("$and" | "$or", Value::Array(items)) => {
                        items.iter().for_each(|item| collect_paths(item, prefix, depth, paths));
                    }
                    ("$not", operand) => collect_paths(operand, prefix, depth, paths),
                    (key, _) if key.starts_with('$') => here(paths),
                    (key, operand) => collect_paths(operand, &join(prefix, key), depth, paths),
                }
            }
        }
        _ => here(paths),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::rules::value::tests::any_json;

    fn check(cases: &[(Value, Value, bool)]) {
        for (pattern, context, expected) in cases {
            assert_eq!(Condition::compile(pattern).matches(context), *expected, "{pattern} {context}");
        }
    }

    #[test]
    fn golden_examples() {
        check(&[
            (json!({"a":{"$gt":1,"$lt":5}}), json!({"a":3}), false),
            (json!({"a":{"$and":[{"$gt":1},{"$lt":5}]}}), json!({"a":3}), true),
            (json!({"$and":[{"a":1}],"b":2}), json!({"a":1}), true),
            (json!({"$or":[]}), json!({}), false),
            (json!({"$and":[]}), json!({}), true),
            (json!({"a":{"$not":{"$eq":1}}}), json!({"a":2}), true),
            (json!({"a":{"$exists":false}}), json!({}), true),
            (json!({"a":null}), json!({}), false),
            (json!({"a":null}), json!({"a":null}), true),
            (json!({"a":[1]}), json!({"a":[2,1]}), true),
            (json!({"a":[]}), json!({"a":5}), false),
            (json!({"a":{}}), json!({}), true),
            (json!({"a.0":1}), json!({"a":[1]}), true),
            (json!({"a.length":1}), json!({"a":[1]}), true),
            (json!({"length":3}), json!("abc"), true),
            (json!({"a.b":1}), json!({"a.b":1}), false),
            (json!([]), json!({}), false),
            (json!([1]), json!([1]), true),
            (json!("x"), json!("x"), true),
            (json!({"a":{"$regex":"(?i)x"}}), json!({"a":"X"}), false),
            (json!({"a":{"$in":[null]}}), json!({}), false),
            (json!({"a":{"$nin":[1]}}), json!({}), true),
            (json!({"a":{"$ne":1}}), json!({}), true),
            (json!({"a":{"$gte":"2"}}), json!({"a":3}), true),
            (json!({"a":{"$unknown":1}}), json!({"a":3}), false),
            (json!({"a":{"$eq":1,"$ne":1}}), json!({"a":1}), false),
            (json!({"a":{"$contains":{"k":1}}}), json!({"a":[{"k":1}]}), true),
            (json!({"a":true}), json!({"a":1}), false),
            (json!({}), json!({}), true),
            (json!(null), json!({}), false),
        ]);
    }

    #[test]
    fn further_examples() {
        check(&[
            (json!({"a":1}), json!({"a":1.0}), true),
            (json!({"a":{"$in":[1]}}), json!({"a":1.0}), true),
            (json!({"a":{"$in":1}}), json!({"a":1}), false),
            (json!({"a":{"$nin":1}}), json!({"a":2}), false),
            (json!({"a":{"$exists":1}}), json!({"a":null}), true),
            (json!({"a":{"$gt":"x"}}), json!({"a":3}), false),
            (json!({"a":{"$gt":null}}), json!({"a":3}), true),
            (json!({"a":{"$gt":1}}), json!({"a":"3"}), false),
            (json!({"a":{"$contains":"b"}}), json!({"a":"abc"}), true),
            (json!({"a":{"$contains":1}}), json!({"a":"1"}), false),
            (json!({"a":{"$regex":"b.$"}}), json!({"a":"abc"}), true),
            (json!({"a":{"$regex":""}}), json!({"a":""}), false),
            (json!({"a":{"$not":{"$regex":"("}}}), json!({"a":"x"}), true),
            (json!({"$and":1}), json!({}), false),
            (json!({"$or":[{"a":1}],"$not":{}}), json!({"a":1}), true),
            (json!({"a.b.c":{"$exists":false}}), json!({"a":{"b":1}}), true),
            (json!({"a.b.1.c":2}), json!({"a":{"b":[0,{"c":2}]}}), true),
            (json!({"a":{"b":{"$exists":false}}}), json!({}), true),
        ]);
    }

    #[test]
    fn w_18_a_pattern_beyond_a_limit_matches_nothing() {
        let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({ "$not": inner }));
        assert!(Condition::compile(&nested(MAX_DEPTH)).is_usable());
        let deep = nested(MAX_DEPTH + 1);
        assert_eq!(Condition::check_size(&deep), Err(TooLarge::Depth));
        assert!(!Condition::compile(&deep).matches(&json!({})));
        assert!(!Condition::compile(&json!({ "$not": deep })).matches(&json!({})));
        let wide = json!({ "$nin": vec![1; MAX_VALUES] });
        assert_eq!(Condition::check_size(&wide), Err(TooLarge::Values));
        let many = json!({ "$or": vec![json!({ "a": { "$regex": "x" } }); MAX_PATTERNS + 1] });
        assert_eq!(Condition::check_size(&many), Err(TooLarge::Patterns));
    }

    #[test]
    fn paths_are_those_the_condition_looks_at() {
        let pattern = json!({
            "b": { "c": 1, "d": {} }, "a.x": [1], "n": null,
            "$and": [{ "z": { "$gt": 1 } }, { "z": { "$not": { "y": true } } }], "$gt": 3,
        });
        assert_eq!(condition_paths(&pattern), ["a.x", "b.c", "b.d", "z", "z.y"]);
        assert!(condition_paths(&json!({})).is_empty() && condition_paths(&json!("x")).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_negation_negates(pattern in any_json(), context in any_json()) {
            let matches = Condition::compile(&pattern).matches(&context);
            prop_assert_ne!(matches, Condition::compile(&json!({ "$not": pattern })).matches(&context));
            let _ = condition_paths(&pattern);
        }

        #[test]
        fn a_value_equals_itself(value in any_json()) {
            let equal = json!({ "$eq": value });
            prop_assert!(Condition::compile(&equal).matches(&value));
        }
    }
}

//! Reads a JSON object field by field and collects every problem with its path (runtime specification 2.5).

use aionis_core::{
    clock::Timestamp,
    error::{DomainError, Issue},
    ids::CommitId,
    read::AsOf,
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::limits::{COMMIT, DEPTH_MAX, WORDS};

/// Collects problems.
#[derive(Default)]
pub(crate) struct Issues(Vec<Issue>);

/// Problems shown to a caller at most; the rest are the same mistake again.
const ISSUES_MAX: usize = 100;

impl Issues {
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < ISSUES_MAX {
            self.0.push(Issue { path: path.into(), message: message.into() });
        }
    }

    /// Fails with everything collected, if anything was.
    pub(crate) fn finish(self) -> Result<(), DomainError> {
        if self.0.is_empty() { Ok(()) } else { Err(DomainError::issues(self.0)) }
    }
}

/// How null is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Null {
    /// As a wrong type.
    Refused,
    /// As an absent field.
    Absent,
}

/// One object being read.
pub(crate) struct Fields<'a> {
    members: &'a Map<String, Value>,
    path: String,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(members) => levels == 0 || members.values().any(|member| deeper_than(member, levels - 1)),
        _ => false,
    }
}

/// A UUID in its usual form: lower case, with hyphens.
pub(crate) fn uuid_of(text: &str) -> Option<Uuid> {
    let hyphens = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
    (hyphens && !text.bytes().any(|b| b.is_ascii_uppercase())).then(|| Uuid::parse_str(text).ok())?
}

/// A time as RFC 3339 writes it. The parser would take anything between date and time.
fn time_of(text: &str) -> Option<Timestamp> {
    matches!(text.as_bytes().get(10), Some(b'T' | b't')).then(|| Timestamp::parse_iso(text))?
}

/// A whole number from 0, also one that is written as a fraction.
fn whole_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and small")]
        let whole = value
            .as_f64()
            .filter(|x| x.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(x))
            .map(|x| x as u64);
        whole
    })
}

/// A number itself, the kind of anything else.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

impl<'a> Fields<'a> {
    /// The whole body, which is an object.
    pub(crate) fn body(value: &'a Value) -> Result<Self, DomainError> {
        match value {
            Value::Object(members) => Ok(Self { members, path: String::new() }),
            other => Err(DomainError::field("", format!("the body must be a JSON object, got {}", kind(other)))),
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn get(&self, name: &str, null: Null) -> Option<&'a Value> {
        self.members.get(name).filter(|value| null == Null::Refused || !value.is_null())
    }

    /// A field that is read as it is; null counts as absent.
    pub(crate) fn any(&self, name: &str) -> Option<&'a Value> {
        self.get(name, Null::Absent)
    }

    fn read<T>(
        &self,
        name: &str,
        null: Null,
        issues: &mut Issues,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(name, null)?;
        let converted = convert(value);
        if converted.is_none() {
            issues.add(self.path(name), format!("must be {expected}, got {}", shown(value)));
        }
        converted
    }

    /// A string of at least one character.
    pub(crate) fn text(&self, name: &str, issues: &mut Issues) -> Option<String> {
        let text = self.read(name, Null::Refused, issues, "a string", Value::as_str)?;
        if text.is_empty() {
            issues.add(self.path(name), "must not be empty; leave it out instead");
            return None;
        }
        Some(text.to_owned())
    }

    /// A string of at least one and at most `max` bytes.
    pub(crate) fn short_text(&self, name: &str, max: usize, issues: &mut Issues) -> Option<String> {
        let text = self.text(name, issues)?;
        if text.len() > max {
            issues.add(self.path(name), format!("must not be longer than {max} bytes, got {}", text.len()));
            return None;
        }
        Some(text)
    }

    pub(crate) fn flag(&self, name: &str, issues: &mut Issues) -> Option<bool> {
        self.read(name, Null::Refused, issues, "true or false", Value::as_bool)
    }

    /// A number between 0 and 1.
    pub(crate) fn share(&self, name: &str, null: Null, issues: &mut Issues) -> Option<f64> {
        self.read(name, null, issues, "a number between 0 and 1", |v| v.as_f64().filter(|x| (0.0..=1.0).contains(x)))
    }

    /// A whole number in a range.
    pub(crate) fn integer(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
        null: Null,
        issues: &mut Issues,
    ) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(name, null, issues, &expected, |value| whole_of(value).filter(|n| range.contains(n)))
    }

    /// A UUID in its usual form. Upper-case letters are refused: an id has one spelling.
    pub(crate) fn uuid(&self, name: &str, issues: &mut Issues) -> Option<Uuid> {
        self.read(name, Null::Refused, issues, "a lower-case UUID like 00000000-0000-4000-8000-000000000000", |value| {
            uuid_of(value.as_str()?)
        })
    }

    /// A lower-case SHA-256.
    pub(crate) fn sha256(&self, name: &str, issues: &mut Issues) -> Option<String> {
        self.read(name, Null::Refused, issues, "64 lower-case hexadecimal digits", |value| {
            let text = value.as_str()?;
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (text.len() == 64 && text.bytes().all(hex)).then(|| text.to_owned())
        })
    }

    /// One of a set of words.
    pub(crate) fn choice<T>(
        &self,
        name: &str,
        choices: &str,
        parse: impl Fn(&str) -> Option<T>,
        issues: &mut Issues,
    ) -> Option<T> {
        let text = self.read(name, Null::Refused, issues, &format!("one of {choices}"), Value::as_str)?;
        let parsed = parse(text);
        if parsed.is_none() {
            let shown = aionis_core::ids::clip(text, 60);
            issues.add(self.path(name), format!("must be one of {choices}, got {shown:?}"));
        }
        parsed
    }

    /// An object, as it is, of at most [`DEPTH_MAX`] levels.
    pub(crate) fn object(&self, name: &str, issues: &mut Issues) -> Option<Value> {
        let object = self.read(name, Null::Refused, issues, "an object", |value| value.is_object().then_some(value))?;
        if deeper_than(object, DEPTH_MAX) {
            issues.add(self.path(name), format!("must not be nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        Some(object.clone())
    }

    /// Anything, as it is, of at most [`DEPTH_MAX`] levels; null counts as absent.
    pub(crate) fn value(&self, name: &str, issues: &mut Issues) -> Option<Value> {
        let value = self.get(name, Null::Absent)?;
        if deeper_than(value, DEPTH_MAX) {
            issues.add(self.path(name), format!("must not be nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        Some(value.clone())
    }

    /// An object, to be read further.
    pub(crate) fn fields(&self, name: &str, issues: &mut Issues) -> Option<Fields<'a>> {
        let members = self.read(name, Null::Refused, issues, "an object", Value::as_object)?;
        Some(Fields { members, path: self.path(name) })
    }

    /// An array of objects, each to be read further.
    pub(crate) fn list(&self, name: &str, issues: &mut Issues) -> Vec<Fields<'a>> {
        let Some(items) = self.read(name, Null::Refused, issues, "an array", Value::as_array) else {
            return Vec::new();
        };
        let mut fields = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let path = format!("{}.{at}", self.path(name));
            match item {
                Value::Object(members) => fields.push(Fields { members, path }),
                other => issues.add(path, format!("must be an object, got {}", kind(other))),
            }
        }
        fields
    }

    /// An array of so many items, each read by `convert`; empty when the field is not there.
    fn items<T>(
        &self,
        name: &str,
        count: &std::ops::RangeInclusive<usize>,
        issues: &mut Issues,
        (expected, convert): (&str, impl Fn(&Value) -> Option<T>),
    ) -> Vec<T> {
        let Some(items) = self.read(name, Null::Refused, issues, "an array", Value::as_array) else {
            return Vec::new();
        };
        if !count.contains(&items.len()) {
            let message = format!("must hold {} to {} items, got {}", count.start(), count.end(), items.len());
            issues.add(self.path(name), message);
            return Vec::new();
        }
        let mut found = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match convert(item) {
                Some(value) => found.push(value),
                None => {
                    issues.add(format!("{}.{at}", self.path(name)), format!("must be {expected}, got {}", shown(item)));
                }
            }
        }
        found
    }

    /// A time as RFC 3339 writes it.
    pub(crate) fn time(&self, name: &str, issues: &mut Issues) -> Option<Timestamp> {
        let expected = "a time like 2026-02-16T09:36:07Z";
        self.read(name, Null::Refused, issues, expected, |value| time_of(value.as_str()?))
    }

    /// A state of a scope: the number of a commit, its id, or a time.
    pub(crate) fn state(&self, name: &str, issues: &mut Issues) -> Option<AsOf> {
        let expected = "the number of a commit (from 1), its id, or a time like 2026-02-16T09:36:07Z";
        self.read(name, Null::Refused, issues, expected, |value| match value {
            Value::Number(_) => whole_of(value).filter(|seq| COMMIT.contains(seq)).map(AsOf::Seq),
            Value::String(text) => {
                uuid_of(text).map(|id| AsOf::Commit(CommitId(id))).or_else(|| time_of(text).map(AsOf::Time))
            }
            _ => None,
        })
    }

    /// An array of words of a set, each once.
    pub(crate) fn choices<T: PartialEq>(
        &self,
        name: &str,
        choices: &str,
        parse: impl Fn(&str) -> Option<T>,
        issues: &mut Issues,
    ) -> Vec<T> {
        let expected = format!("one of {choices}");
        let mut found = self.items(name, &WORDS, issues, (&expected, |item| parse(item.as_str()?)));
        let mut at = 0;
        while at < found.len() {
            if found[..at].contains(&found[at]) {
                found.remove(at);
            } else {
                at += 1;
            }
        }
        found
    }

    /// An array of UUIDs in their usual form.
    pub(crate) fn uuids(&self, name: &str, count: std::ops::RangeInclusive<usize>, issues: &mut Issues) -> Vec<Uuid> {
        self.items(name, &count, issues, ("a lower-case UUID", |item| uuid_of(item.as_str()?)))
    }

    /// An array of strings of at least one and at most `max` bytes.
    pub(crate) fn texts(
        &self,
        name: &str,
        (count, max): (std::ops::RangeInclusive<usize>, usize),
        issues: &mut Issues,
    ) -> Vec<String> {
        let expected = format!("a string of 1 to {max} bytes");
        let convert = |item: &Value| item.as_str().filter(|text| (1..=max).contains(&text.len())).map(str::to_owned);
        self.items(name, &count, issues, (&expected, convert))
    }

    /// An array of numbers that fit 32-bit floats.
    pub(crate) fn vector(&self, name: &str, issues: &mut Issues) -> Option<Vec<f32>> {
        let items = self.read(name, Null::Refused, issues, "an array of numbers", Value::as_array)?;
        let mut vector = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "vectors are 32-bit; what does not fit is refused")]
            let number = item.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
            match number {
                Some(number) => vector.push(number),
                None => {
                    let message = format!("must be a number that fits a 32-bit float, got {}", shown(item));
                    issues.add(format!("{}.{at}", self.path(name)), message);
                    return None;
                }
            }
        }
        Some(vector)
    }

    /// The members with these names, as received.
    pub(crate) fn received(&self, names: &[&str]) -> Value {
        let known = self.members.iter().filter(|(key, _)| names.contains(&key.as_str()));
        Value::Object(known.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }
}

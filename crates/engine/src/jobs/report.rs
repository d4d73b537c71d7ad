//! What a job says it did, added up over its steps.

use serde::Serialize;
use serde_json::{Map, Value};

/// Entries a list in a report holds at most; what comes later is left out, and counted as `<list>_left_out`.
const LIST_MAX: usize = 100;

/// Counts, lists and other facts by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Report(Map<String, Value>);

impl Report {
    /// Adds to a count.
    pub fn count(&mut self, name: &str, by: u64) {
        let before = self.number(name);
        self.0.insert(name.to_owned(), before.saturating_add(by).into());
    }

    /// Appends to a list.
    pub fn list(&mut self, name: &str, entry: Value) {
        let list = self.0.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        match list {
            Value::Array(entries) if entries.len() < LIST_MAX => entries.push(entry),
            _ => self.count(&format!("{name}_left_out"), 1),
        }
    }

    /// Says a fact; a later step's word stands.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// A count; zero if there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A fact.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Facts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Adds what a later step says: counts add up, lists are joined, of other facts the later stands.
    pub fn add(&mut self, later: &Self) {
        for (name, value) in &later.0 {
            match (value, self.0.get(name)) {
                (Value::Number(_), Some(Value::Number(_))) if value.is_u64() => {
                    self.count(name, value.as_u64().unwrap_or(0));
                }
                (Value::Array(entries), _) => entries.iter().for_each(|entry| self.list(name, entry.clone())),
                _ => self.set(name, value.clone()),
            }
        }
    }

    /// Its counts alone, as what several targets did adds up.
    #[must_use]
    pub fn counts(&self) -> Self {
        Self(self.0.iter().filter(|(_, value)| value.is_u64()).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

impl From<Report> for Value {
    fn from(report: Report) -> Self {
        Self::Object(report.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_add_up_lists_are_joined_and_facts_are_replaced() {
        let mut total = Report::default();
        for step in 1..=3_u64 {
            let mut report = Report::default();
            report.count("moved", step);
            report.list("ids", json!(step));
            report.set("model", format!("m{step}"));
            total.add(&report);
        }
        assert_eq!(Value::from(total.clone()), json!({ "moved": 6, "ids": [1, 2, 3], "model": "m3" }));
        assert_eq!(Value::from(total.counts()), json!({ "moved": 6 }));
    }

    #[test]
    fn a_list_is_bounded_and_says_what_it_left_out() {
        let mut report = Report::default();
        (0..LIST_MAX + 7).for_each(|n| report.list("ids", json!(n)));
        assert_eq!(report.get("ids").unwrap().as_array().unwrap().len(), LIST_MAX);
        assert_eq!(report.number("ids_left_out"), 7);
    }
}

//! What operations note beside a node's slots, under the names slots of such notes have (runtime specification 1.12).

use serde_json::{Map, Value, json};

use super::{OperatedNode, Outcome};
use crate::{clock::Timestamp, model::Tier};

/// A note of an activation.
pub(super) struct Feedback<'a> {
    pub(super) outcome: Outcome,
    pub(super) run_id: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) input_sha256: &'a str,
    pub(super) at: Timestamp,
}

/// A node's slots with what operations noted beside them, which wins.
pub fn merged_slots(slots: Value, activity: Option<&Value>) -> Value {
    match (slots, activity) {
        (Value::Object(mut slots), Some(Value::Object(notes))) => {
            slots.extend(notes.iter().map(|(key, value)| (key.clone(), value.clone())));
            Value::Object(slots)
        }
        (slots, _) => slots,
    }
}

fn notes(node: &OperatedNode) -> Map<String, Value> {
    node.activity.as_ref().and_then(Value::as_object).cloned().unwrap_or_default()
}

fn noted<'a>(node: &'a OperatedNode, key: &str) -> Option<&'a Value> {
    node.activity.as_ref().and_then(|notes| notes.get(key)).or_else(|| node.slots.get(key))
}

fn count(node: &OperatedNode, key: &str) -> u64 {
    match noted(node, key) {
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        Some(Value::String(digits)) => digits.parse().unwrap_or(0),
        _ => 0,
    }
}

/// A moving mean of outcomes, −1 to 1: each counts a fifth.
fn moving_quality(before: f64, outcome: Outcome) -> f64 {
    match outcome {
        Outcome::Neutral => before,
        Outcome::Positive => (0.8 * before + 0.2).clamp(-1.0, 1.0),
        Outcome::Negative => (0.8 * before - 0.2).clamp(-1.0, 1.0),
    }
}

/// The notes after an activation: counts, and a moving mean of outcomes (runtime specification 3.17).
pub(super) fn activated(node: &OperatedNode, feedback: &Feedback<'_>) -> Value {
    let mut notes = notes(node);
    let (positive, negative) = feedback.outcome.counts();
    let quality = noted(node, "feedback_quality").and_then(Value::as_f64).unwrap_or(0.0);
    let quality = moving_quality(quality, feedback.outcome);
    notes.insert(
        "feedback_positive".into(),
        json!(count(node, "feedback_positive").saturating_add(positive.unsigned_abs())),
    );
    notes.insert(
        "feedback_negative".into(),
        json!(count(node, "feedback_negative").saturating_add(negative.unsigned_abs())),
    );
    notes.insert("feedback_quality".into(), json!((quality * 10_000.0).round() / 10_000.0));
    notes.insert("last_feedback_outcome".into(), json!(feedback.outcome.as_str()));
    notes.insert("last_feedback_at".into(), json!(feedback.at.to_iso()));
    notes.insert("last_feedback_run_id".into(), json!(feedback.run_id));
    notes.insert("last_feedback_reason".into(), json!(feedback.reason));
    notes.insert("last_feedback_input_sha256".into(), json!(feedback.input_sha256));
    Value::Object(notes)
}

/// The notes after a move to a warmer tier.
pub(super) fn rehydrated(
    node: &OperatedNode,
    target: Tier,
    (reason, input_sha256): (Option<&str>, &str),
    at: Timestamp,
) -> Value {
    let mut notes = notes(node);
    notes.insert("last_rehydrated_at".into(), json!(at.to_iso()));
    notes.insert("last_rehydrated_job".into(), json!("archive_rehydrate"));
    notes.insert("last_rehydrated_from_tier".into(), json!(node.tier.as_str()));
    notes.insert("last_rehydrated_to_tier".into(), json!(target.as_str()));
    notes.insert("last_rehydrated_reason".into(), json!(reason));
    notes.insert("last_rehydrated_input_sha256".into(), json!(input_sha256));
    Value::Object(notes)
}

/// The notes after a job moved a node to a colder tier.
pub(super) fn moved(node: &OperatedNode, to: Tier, (job, at): (&str, Timestamp)) -> Value {
    let mut notes = notes(node);
    notes.insert("last_tier_transition_ms".into(), json!(at.0.div_euclid(1_000)));
    notes.insert("last_tier_transition_from".into(), json!(node.tier.as_str()));
    notes.insert("last_tier_transition_to".into(), json!(to.as_str()));
    notes.insert("last_tier_transition_job".into(), json!(job));
    Value::Object(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_7_4_moving_mean_of_outcomes() {
        let mut quality = 0.0;
        for (outcome, wanted) in
            [(Outcome::Positive, 0.2), (Outcome::Positive, 0.36), (Outcome::Neutral, 0.36), (Outcome::Negative, 0.088)]
        {
            quality = moving_quality(quality, outcome);
            assert!((quality - wanted).abs() < 1e-12, "{outcome:?}: {quality}");
        }
    }
}

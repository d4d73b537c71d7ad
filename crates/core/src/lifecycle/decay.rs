//! How salience fades (operations specification 1.6, step A), as a function of time.

use serde::Serialize;
use serde_json::Value;

use crate::{
    clock::Timestamp,
    model::{NodeType, Tier},
};

/// A day in microseconds.
pub const DAY: i64 = 86_400_000_000;
/// Time counts in whole minutes: what was written a moment ago says what was written.
const MINUTE: u64 = 60_000_000;
/// Salience of a node that is written without one.
pub const FRESH_SALIENCE: f64 = 0.5;

/// How fast salience fades.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecayPolicy {
    /// What is left after a day at scale 1.
    pub factor: f64,
    /// Whether use and feedback change the pace.
    pub adaptive: bool,
    /// Days after a use in which a node counts as recently used.
    pub recent_days: f64,
    /// Pace of what was used recently.
    pub recent_scale: f64,
    /// How much good feedback slows it down.
    pub positive_strength: f64,
    /// How much bad feedback speeds it up.
    pub negative_strength: f64,
    /// Slowest pace.
    pub scale_min: f64,
    /// Fastest pace.
    pub scale_max: f64,
}

impl Default for DecayPolicy {
    fn default() -> Self {
        Self {
            factor: 0.995,
            adaptive: true,
            recent_days: 7.0,
            recent_scale: 0.6,
            positive_strength: 0.5,
            negative_strength: 1.0,
            scale_min: 0.25,
            scale_max: 2.0,
        }
    }
}

/// What the fading of one node's salience depends on, beside the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecayBasis {
    /// When the stored salience held.
    pub since: Timestamp,
    /// When the node was last used, or else written.
    pub used_at: Timestamp,
    /// How it served, −1…1.
    pub feedback: f64,
    /// Whether it does not fade: pinned, on legal hold, a rule, or archived already.
    pub held: bool,
}

impl DecayBasis {
    /// That of a node that does not fade.
    pub const HELD: Self = Self { since: Timestamp(0), used_at: Timestamp(0), feedback: 0.0, held: true };

    /// Reads what a node's fading depends on. `times` are: when its salience held, its last use, its creation. `slots` are
    /// its own, `notes` those beside them, which win.
    pub fn of(
        (node_type, tier): (NodeType, Tier),
        times: (Timestamp, Option<Timestamp>, Timestamp),
        slots: &Value,
        notes: Option<&Value>,
    ) -> Self {
        let (since, last_activated, created_at) = times;
        Self {
            since,
            used_at: last_activated.unwrap_or(created_at),
            feedback: feedback(slots, notes),
            held: node_type == NodeType::Rule || tier == Tier::Archive || is_pinned(slots, notes),
        }
    }
}

/// Whether a node is pinned or on legal hold, by its slots or the notes beside them, which win.
pub fn is_pinned(slots: &Value, notes: Option<&Value>) -> bool {
    ["pin", "legal_hold"].iter().any(|key| noted(slots, notes, key).is_some_and(is_true))
}

fn noted<'a>(slots: &'a Value, notes: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    notes.and_then(|notes| notes.get(key)).or_else(|| slots.get(key))
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => ["true", "1", "yes", "on"].iter().any(|word| text.eq_ignore_ascii_case(word)),
        _ => false,
    }
}

/// How a node served: its mean quality, or else what its counts say; zero when neither can be read.
fn feedback(slots: &Value, notes: Option<&Value>) -> f64 {
    if let Some(quality) = noted(slots, notes, "feedback_quality").and_then(decimal) {
        return quality.clamp(-1.0, 1.0);
    }
    let count = |key| noted(slots, notes, key).and_then(digits);
    match (count("feedback_positive"), count("feedback_negative")) {
        (Some(positive), Some(negative)) => (positive - negative) / (positive + negative).max(1.0),
        _ => 0.0,
    }
}

fn decimal(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let unsigned = text.strip_prefix('-').unwrap_or(text);
            let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
            let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_digits(whole) && is_digits(fraction) { text.parse().ok() } else { None }
        }
        _ => None,
    }
}

fn digits(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()).map(f64::from),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse::<u32>().ok().map(f64::from)
        }
        _ => None,
    }
}

impl DecayPolicy {
    /// The pace of a node, recently used or not.
    pub fn scale(&self, feedback: f64, recent: bool) -> f64 {
        if !self.adaptive {
            return 1.0_f64.clamp(self.scale_min, self.scale_max);
        }
        let by_use = if recent { self.recent_scale } else { 1.0 };
        let by_feedback = if feedback > 0.0 {
            (1.0 - feedback * self.positive_strength).max(self.scale_min)
        } else if feedback < 0.0 {
            (1.0 + feedback.abs() * self.negative_strength).min(self.scale_max)
        } else {
            1.0
        };
        (by_use * by_feedback).clamp(self.scale_min, self.scale_max)
    }

    /// The pace of a node now.
    pub fn scale_at(&self, basis: &DecayBasis, now: Timestamp) -> f64 {
        self.scale(basis.feedback, self.is_recent(basis, now))
    }

    /// Whether a node counts as recently used.
    pub fn is_recent(&self, basis: &DecayBasis, now: Timestamp) -> bool {
        days(now.micros_since(basis.used_at)) <= self.recent_days
    }

    /// What a stored salience is now. It fades day by day with the pace of that day: as long as the node counts as
    /// recently used with the one, afterwards with the other. So it does not matter how often, or whether, somebody
    /// computed it in between.
    pub fn salience(&self, stored: f64, basis: &DecayBasis, now: Timestamp) -> f64 {
        if basis.held {
            return stored;
        }
        let elapsed = now.micros_since(basis.since);
        let all = days(elapsed - elapsed % MINUTE);
        let recent_until = days(basis.used_at.micros_since(basis.since))
            - days(basis.since.micros_since(basis.used_at))
            + self.recent_days;
        let recent = recent_until.clamp(0.0, all);
        let left = |recently| 1.0 - (1.0 - self.factor) * self.scale(basis.feedback, recently);
        (stored * left(true).powf(recent) * left(false).powf(all - recent)).clamp(0.0, 1.0)
    }
}

/// Microseconds as days.
#[expect(clippy::cast_precision_loss, reason = "spans of memories are far below 2^52 microseconds")]
fn days(micros: u64) -> f64 {
    micros as f64 / DAY as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000 * DAY);

    fn ago(days: f64) -> Timestamp {
        #[expect(clippy::cast_possible_truncation, reason = "a test's days")]
        Timestamp(NOW.0 - (days * DAY as f64) as i64)
    }

    fn basis(since: Timestamp, used_at: Timestamp, slots: &Value) -> DecayBasis {
        DecayBasis::of((NodeType::Event, Tier::Hot), (since, Some(used_at), used_at), slots, None)
    }

    fn after_a_day(used_days_ago: f64, slots: &Value) -> f64 {
        DecayPolicy::default().salience(0.5, &basis(ago(1.0), ago(used_days_ago), slots), NOW)
    }

    #[test]
    fn spec_7_4_decay_from_one_half() {
        let cases = [
            ("neutral", 30.0, json!({}), 0.4975),
            ("recent", 0.0, json!({}), 0.4985),
            ("recent, quality 1", 0.0, json!({ "feedback_quality": 1 }), 0.49925),
            ("stale, quality -1", 30.0, json!({ "feedback_quality": "-1" }), 0.495),
            ("recent, quality -1", 0.0, json!({ "feedback_quality": -1.0 }), 0.497),
            ("3 good, 1 bad, stale", 30.0, json!({ "feedback_positive": 3, "feedback_negative": "1" }), 0.498_125),
        ];
        for (name, used, slots, wanted) in cases {
            let found = after_a_day(used, &slots);
            assert!((found - wanted).abs() < 1e-12, "{name}: {found}");
        }
    }

    #[test]
    fn what_was_just_written_says_what_was_written() {
        let policy = DecayPolicy::default();
        for elapsed in [0, 1, 59_999_999] {
            let now = Timestamp(NOW.0 + elapsed);
            assert_eq!(policy.salience(0.7, &basis(NOW, NOW, &json!({})), now).to_bits(), 0.7_f64.to_bits());
        }
        assert!(policy.salience(0.7, &basis(NOW, NOW, &json!({})), Timestamp(NOW.0 + 60_000_000)) < 0.7);
    }

    #[test]
    fn daily_runs_of_the_reference_say_the_same() {
        let (policy, written) = (DecayPolicy::default(), ago(100.0));
        let mut stepwise = 0.5;
        for day in 1..=100 {
            stepwise *= 1.0 - 0.005 * if day <= 7 { 0.6 } else { 1.0 };
        }
        let at_once = policy.salience(0.5, &basis(written, written, &json!({})), NOW);
        assert!((at_once - stepwise).abs() < 1e-12, "{at_once} {stepwise}");
    }

    #[test]
    fn what_is_held_does_not_fade() {
        let old = |kind, slots: Value, notes: Option<Value>| {
            let basis = DecayBasis::of(kind, (ago(300.0), None, ago(300.0)), &slots, notes.as_ref());
            DecayPolicy::default().salience(0.5, &basis, NOW) >= 0.5
        };
        let event = (NodeType::Event, Tier::Hot);
        for yes in [json!(true), json!("true"), json!("YES"), json!("On"), json!("1"), json!(1)] {
            assert!(old(event, json!({ "pin": yes }), None) && old(event, json!({ "legal_hold": yes }), None), "{yes}");
            assert!(old(event, json!({}), Some(json!({ "legal_hold": yes }))), "{yes}");
        }
        for no in [json!(false), json!("no"), json!(0), json!(2), json!(null), json!(["true"]), json!(" true")] {
            assert!(!old(event, json!({ "pin": no }), None), "{no}");
        }
        assert!(
            old((NodeType::Rule, Tier::Hot), json!({}), None) && old((NodeType::Event, Tier::Archive), json!({}), None)
        );
        assert!(!old(event, json!({ "pin": true }), Some(json!({ "pin": false }))), "notes win");
    }

    #[test]
    fn feedback_that_cannot_be_read_is_none() {
        for odd in [json!("1e3"), json!("--1"), json!("1."), json!(""), json!({}), json!(".5")] {
            assert!(feedback(&json!({ "feedback_quality": odd }), None).abs() < f64::EPSILON, "{odd}");
        }
        assert!((feedback(&json!({ "feedback_quality": 7 }), None) - 1.0).abs() < f64::EPSILON);
        assert!(feedback(&json!({ "feedback_positive": 3, "feedback_negative": -1 }), None).abs() < f64::EPSILON);
    }

    #[test]
    fn a_policy_that_is_not_adaptive_has_one_pace() {
        let policy = DecayPolicy { adaptive: false, ..DecayPolicy::default() };
        assert!((policy.scale(1.0, true) - 1.0).abs() < f64::EPSILON);
    }

    proptest! {
        /// Storing it in between, however often, changes nothing.
        #[test]
        fn it_does_not_matter_when_it_is_computed(
            stored in 0.0_f64..=1.0, written in 1_u32..400_000, used in 0_u32..400_000, between in 0_u32..400_000,
            feedback in -1.0_f64..=1.0,
        ) {
            let minutes = |n: u32| i64::from(n) * 60_000_000;
            let since = Timestamp(NOW.0 - minutes(written));
            let at = Timestamp(since.0 + minutes(between.min(written)));
            let used_at = Timestamp(NOW.0 - minutes(used));
            let policy = DecayPolicy::default();
            let first = DecayBasis { since, used_at, feedback, held: false };
            let second = DecayBasis { since: at, ..first };
            let at_once = policy.salience(stored, &first, NOW);
            let in_two = policy.salience(policy.salience(stored, &first, at), &second, NOW);
            prop_assert!((at_once - in_two).abs() < 1e-9, "{at_once} {in_two}");
        }

        /// It never grows by itself and stays within its bounds, whatever the settings.
        #[test]
        fn it_only_fades(
            stored in 0.0_f64..=1.0, factor in 0.9_f64..=1.0, recent_scale in 0.1_f64..=2.0, scale_max in 1.0_f64..=3.0,
            feedback in -1.0_f64..=1.0, first in 0_i64..2_000, more in 0_i64..2_000,
        ) {
            let policy = DecayPolicy { factor, recent_scale, scale_max, ..DecayPolicy::default() };
            let basis = DecayBasis { since: NOW, used_at: NOW, feedback, held: false };
            let earlier = policy.salience(stored, &basis, Timestamp(NOW.0 + first * DAY / 7));
            let later = policy.salience(stored, &basis, Timestamp(NOW.0 + (first + more) * DAY / 7));
            prop_assert!(later <= earlier + 1e-12 && (0.0..=1.0).contains(&later) && earlier <= stored);
        }
    }
}

//! What both engines do alike for forgetting.

use aionis_core::forget::{Made, made_of};
use serde_json::Value;

/// What a node was made of, by its attributes now and by its first content: what jobs made says so from the first.
pub(crate) fn made(slots: &Value, first_content: Option<&Value>) -> Option<Made> {
    made_of(slots).or_else(|| first_content.and_then(|content| content.get("slots")).and_then(made_of))
}

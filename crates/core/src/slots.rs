//! The few meanings that free-form slots have for the kernel, each with its one default.

use serde_json::Value;

use crate::model::NodeType;

/// Bit of [`recall_flags`]: a topic that is not active yet.
pub const DRAFT_TOPIC: u8 = 1;
/// Bit of [`recall_flags`]: another node stands for this one.
pub const SUPERSEDED: u8 = 2;

/// What recall filters by, derived from a node's type and slots.
pub fn recall_flags(node_type: NodeType, slots: &Value) -> u8 {
    let mut flags = 0;
    if node_type == NodeType::Topic && slots.get("topic_state").and_then(Value::as_str).is_some_and(|s| s != "active") {
        flags |= DRAFT_TOPIC;
    }
    if ["alias_of", "superseded_by"].iter().any(|key| slots.get(key).is_some_and(|v| !v.is_null())) {
        flags |= SUPERSEDED;
    }
    flags
}

/// `topic_state` as responses show it: missing means active; only topics have one.
pub fn topic_state(node_type: NodeType, slots: &Value) -> Option<String> {
    (node_type == NodeType::Topic)
        .then(|| slots.get("topic_state").and_then(Value::as_str).unwrap_or("active").to_owned())
}

/// `member_count` of a topic, when it is an integer or a string of one; anything else is no count.
pub fn member_count(node_type: NodeType, slots: &Value) -> Option<i64> {
    if node_type != NodeType::Topic {
        return None;
    }
    match slots.get("member_count")? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn odd_slots_never_hurt() {
        assert_eq!(member_count(NodeType::Topic, &json!({ "member_count": "many" })), None);
        assert_eq!(member_count(NodeType::Topic, &json!({ "member_count": "7" })), Some(7));
        assert_eq!(member_count(NodeType::Event, &json!({ "member_count": 7 })), None);
        assert_eq!(topic_state(NodeType::Topic, &json!({})).as_deref(), Some("active"));
        assert_eq!(recall_flags(NodeType::Topic, &json!({ "topic_state": "draft" })), DRAFT_TOPIC);
        assert_eq!(recall_flags(NodeType::Event, &json!({ "topic_state": "draft", "alias_of": "x" })), SUPERSEDED);
    }
}

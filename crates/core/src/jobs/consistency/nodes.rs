//! Checks of a node by itself. What an operation noted beside its slots wins over them.

use std::{cell::OnceCell, collections::BTreeMap, sync::LazyLock, time::Duration};

use regex::Regex;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Known, RawRow, StorageEngine, Told, catalogue::Found};
use crate::{
    ids::NodeId,
    model::{EmbeddingStatus, Lane, NodeType, Tier},
    operate::merged_slots,
    write::{NodeContent, node_digest, term_counts},
};

/// How long a protected node must not have changed its tier.
const PROTECTED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Why a node that was not to get a vector has none.
const NOT_WANTED: [&str; 2] = ["auto_embed_disabled_or_no_provider", "no_embed_text"];
/// Slots that name nodes a node was made of.
const SOURCES: [&str; 3] = ["source_event_ids", "source_topic_id", "seed_event_id"];

/// A node as the checks see it.
pub(super) struct NodeView<'a> {
    pub(super) row: &'a RawRow,
    pub(super) known: &'a Known,
    own: OnceCell<Told<Value>>,
    merged: OnceCell<Told<Value>>,
}

impl<'a> NodeView<'a> {
    pub(super) fn new(row: &'a RawRow, known: &'a Known) -> Self {
        Self { row, known, own: OnceCell::new(), merged: OnceCell::new() }
    }

    pub(super) fn id(&self) -> Told<Uuid> {
        self.row.needed_id("id")
    }

    pub(super) fn node_type(&self) -> Told<NodeType> {
        NodeType::parse(self.row.needed_text("type")?).ok_or_else(|| "type is unknown".to_owned())
    }

    pub(super) fn lane(&self) -> Told<Lane> {
        Lane::parse(self.row.needed_text("memory_lane")?).ok_or_else(|| "memory_lane is unknown".to_owned())
    }

    pub(super) fn tier(&self) -> Told<Tier> {
        Tier::parse(self.row.needed_text("tier")?).ok_or_else(|| "tier is unknown".to_owned())
    }

    pub(super) fn status(&self) -> Told<EmbeddingStatus> {
        EmbeddingStatus::parse(self.row.needed_text("embedding_status")?)
            .ok_or_else(|| "embedding_status is unknown".to_owned())
    }

    fn own_slots(&self) -> Told<&Value> {
        let read = || {
            let slots: Value = parsed(self.row.needed_text("slots")?, "slots")?;
            if slots.is_object() { Ok(slots) } else { Err("slots are no object".to_owned()) }
        };
        self.own.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// Its slots with what operations noted beside them.
    pub(super) fn slots(&self) -> Told<&Value> {
        let read = || {
            let notes = self.row.text("activity")?.map(|text| parsed(text, "activity")).transpose()?;
            Ok(merged_slots(self.own_slots()?.clone(), notes.as_ref()))
        };
        self.merged.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// What a slot says as a text; nothing when it is not there or null.
    pub(super) fn slot(&self, key: &str) -> Told<Option<String>> {
        Ok(self.slots()?.get(key).and_then(as_text))
    }

    fn truthy(&self, key: &str) -> Told<bool> {
        let said = self.slot(key)?;
        Ok(said.is_some_and(|text| ["true", "1", "yes", "on"].contains(&text.to_lowercase().as_str())))
    }

    /// The node a slot names, if it names one.
    pub(super) fn named_node(&self, key: &str) -> Told<Option<Uuid>> {
        Ok(self.slot(key)?.as_deref().and_then(as_id))
    }

    pub(super) fn is_summary(&self) -> Told<bool> {
        let kind = self.node_type()? == NodeType::Concept;
        Ok(kind && self.slot("summary_kind")?.as_deref() == Some("compression_rollup"))
    }

    /// Nodes its citations name.
    pub(super) fn cited(&self) -> Told<Vec<Uuid>> {
        let citations = self.slots()?.get("citations").and_then(Value::as_array);
        let ids = citations.into_iter().flatten().filter_map(|citation| citation.get("node_id"));
        Ok(ids.filter_map(as_text).filter_map(|text| as_id(&text)).collect())
    }

    /// Nodes its slots say it was made of.
    pub(super) fn sources(&self) -> Told<Vec<Uuid>> {
        let mut sources = self.cited()?;
        for key in SOURCES {
            match self.slots()?.get(key) {
                Some(Value::Array(ids)) => {
                    sources.extend(ids.iter().filter_map(as_text).filter_map(|text| as_id(&text)));
                }
                Some(value) => sources.extend(as_text(value).as_deref().and_then(as_id)),
                None => {}
            }
        }
        sources.sort_unstable();
        sources.dedup();
        Ok(sources)
    }

    /// The digest of its content, computed anew.
    pub(super) fn recomputed(&self) -> Told<crate::canon::Digest> {
        let row = self.row;
        Ok(node_digest(&NodeContent {
            id: NodeId(self.id()?),
            client_id: row.text("client_id")?,
            node_type: self.node_type()?,
            title: row.text("title")?,
            text_summary: row.text("text_summary")?,
            slots: self.own_slots()?,
            raw_ref: row.text("raw_ref")?,
            evidence_ref: row.text("evidence_ref")?,
            lane: self.lane()?,
            producer_agent_id: row.text("producer_agent_id")?,
            owner_agent_id: row.text("owner_agent_id")?,
            owner_team_id: row.text("owner_team_id")?,
        }))
    }

    fn has_owner(&self) -> Told<bool> {
        Ok(self.row.text("owner_agent_id")?.is_some() || self.row.text("owner_team_id")?.is_some())
    }

    /// A sample: the id, and fields that hold a code.
    fn sample(&self, more: Value) -> Found {
        let mut sample = json!({ "id": self.id()?, "type": self.row.text("type")? });
        if let (Value::Object(sample), Value::Object(more)) = (&mut sample, more) {
            sample.extend(more);
        }
        Ok(Some(sample))
    }

    fn violation(&self, is_one: bool) -> Found {
        if is_one { self.sample(json!({})) } else { Ok(None) }
    }
}

fn parsed(text: &str, what: &str) -> Told<Value> {
    // What serde says of a text names a place in it, never a part of it.
    serde_json::from_str(text).map_err(|e| format!("{what} cannot be read: {e}"))
}

/// A JSON value as the text of it; nothing for null.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A text that is an id in its usual form; thirty-six dashes are none.
pub(super) fn as_id(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

static MODEL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[a-z0-9][a-z0-9_-]*:\S+$").ok());

fn is_model(text: &str) -> bool {
    let unknown = text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("unknown:"));
    !unknown && (text == "client" || MODEL.as_ref().is_some_and(|model| model.is_match(text)))
}

fn model_of_ready<'a>(node: &NodeView<'a>) -> Told<Option<&'a str>> {
    if node.status()? != EmbeddingStatus::Ready {
        return Ok(None);
    }
    Ok(Some(node.row.text("embedding_model")?.unwrap_or_default().trim()))
}

fn embedding(node: &NodeView<'_>) -> Found {
    // The label is the caller's: what is wrong with it is seen where it is stored.
    let label = node.row.text("embedding_model")?.map(|label| crate::ids::clip(label, 80));
    node.sample(json!({ "embedding_status": node.row.text("embedding_status")?, "embedding_model": label }))
}

pub(super) fn embedding_model_missing_for_ready(node: &NodeView<'_>) -> Found {
    if model_of_ready(node)?.is_some_and(str::is_empty) { embedding(node) } else { Ok(None) }
}

pub(super) fn embedding_model_invalid_for_ready(node: &NodeView<'_>) -> Found {
    let invalid = model_of_ready(node)?.is_some_and(|model| !model.is_empty() && !is_model(model));
    if invalid { embedding(node) } else { Ok(None) }
}

fn attempts(node: &NodeView<'_>, since: Option<i64>) -> Found {
    let age_s = since.map(|since| node.known.now.0.saturating_sub(since) / 1_000_000);
    let status = node.row.text("embedding_status")?;
    let made = node.row.int("embedding_attempts")?;
    node.sample(json!({ "embedding_status": status, "embedding_attempts": made, "age_s": age_s }))
}

pub(super) fn embedding_stuck_pending(node: &NodeView<'_>) -> Found {
    if node.status()? != EmbeddingStatus::Pending {
        return Ok(None);
    }
    let since = node.row.int("embedding_pending_at")?.ok_or("it is pending but embedding_pending_at is missing")?;
    if since < node.known.ago(node.known.thresholds.stuck_after).0 { attempts(node, Some(since)) } else { Ok(None) }
}

pub(super) fn embedding_failed(node: &NodeView<'_>) -> Found {
    let wanted = || Ok::<_, String>(!NOT_WANTED.contains(&node.row.text("embedding_last_error")?.unwrap_or_default()));
    if node.status()? == EmbeddingStatus::Failed && wanted()? { attempts(node, None) } else { Ok(None) }
}

pub(super) fn lexical_index_parity(node: &NodeView<'_>) -> Found {
    let counts = term_counts(node.row.text("title")?, node.row.text("text_summary")?);
    let indexed = node.row.text("lexical")?;
    let same = match node.known.engine {
        StorageEngine::Embedded => indexed.is_some() != counts.terms.is_empty(),
        StorageEngine::Postgres => {
            let stored = terms(indexed.unwrap_or_default())?;
            let expected: BTreeMap<&str, u32> = counts.terms.iter().map(|(term, n)| (term.as_str(), *n)).collect();
            stored == expected
        }
    };
    node.violation(!same || node.row.count("term_count")? != u64::from(counts.len))
}

/// "term count term count …".
fn terms(text: &str) -> Told<BTreeMap<&str, u32>> {
    let mut words = text.split_ascii_whitespace();
    let mut terms = BTreeMap::new();
    while let Some(term) = words.next() {
        let count = words.next().and_then(|count| count.parse().ok());
        terms.insert(term, count.ok_or("the terms beside it cannot be read")?);
    }
    Ok(terms)
}

pub(super) fn topic_state_invalid(node: &NodeView<'_>) -> Found {
    if node.node_type()? != NodeType::Topic {
        return Ok(None);
    }
    let state = node.slot("topic_state")?;
    node.violation(state.is_some_and(|state| !["active", "draft"].contains(&state.as_str())))
}

pub(super) fn topic_member_count_invalid(node: &NodeView<'_>) -> Found {
    if node.node_type()? != NodeType::Topic {
        return Ok(None);
    }
    node.violation(node.slot("member_count")?.is_some_and(|count| !digits(&count)))
}

pub(super) fn tier_transition_marker_invalid(node: &NodeView<'_>) -> Found {
    node.violation(node.slot("last_tier_transition_ms")?.is_some_and(|at| !digits(&at)))
}

pub(super) fn protected_nodes_recently_tiered(node: &NodeView<'_>) -> Found {
    if !node.truthy("pin")? && !node.truthy("legal_hold")? {
        return Ok(None);
    }
    let at_ms: Option<i64> = node.slot("last_tier_transition_ms")?.and_then(|at| at.parse().ok());
    let since_ms = node.known.ago(PROTECTED_FOR).0 / 1_000;
    if at_ms.is_some_and(|at_ms| at_ms >= since_ms) {
        return node.sample(json!({ "tier": node.row.text("tier")? }));
    }
    Ok(None)
}

pub(super) fn archive_salience_too_high(node: &NodeView<'_>) -> Found {
    let salience = node.row.real("salience")?;
    if node.tier()? == Tier::Archive && salience > node.known.thresholds.cold_below {
        return node.sample(json!({ "salience": salience }));
    }
    Ok(None)
}

pub(super) fn adaptive_feedback_quality_invalid(node: &NodeView<'_>) -> Found {
    let quality = node.slot("feedback_quality")?;
    let valid = |text: &String| text.trim().parse::<f64>().is_ok_and(|number| (-1.0..=1.0).contains(&number));
    node.violation(quality.is_some_and(|text| !valid(&text)))
}

pub(super) fn adaptive_feedback_counts_invalid(node: &NodeView<'_>) -> Found {
    let counts = [node.slot("feedback_positive")?, node.slot("feedback_negative")?];
    node.violation(counts.iter().flatten().any(|count| !digits(count)))
}

pub(super) fn compression_citations_invalid(node: &NodeView<'_>) -> Found {
    let listed = node.is_summary()? && !node.slots()?.get("citations").is_some_and(Value::is_array);
    node.violation(listed)
}

pub(super) fn alias_self_reference(node: &NodeView<'_>) -> Found {
    let id = Some(node.id()?);
    node.violation(node.named_node("alias_of")? == id || node.named_node("superseded_by")? == id)
}

pub(super) fn consolidation_conflict(node: &NodeView<'_>) -> Found {
    node.violation(node.truthy("consolidation_conflict_detected")? && !node.truthy("consolidation_conflict_override")?)
}

fn ownerless(node: &NodeView<'_>, rules: bool) -> Found {
    let is_one =
        (node.node_type()? == NodeType::Rule) == rules && node.lane()? == Lane::Private && !node.has_owner()?;
    if is_one { node.sample(json!({ "memory_lane": node.row.text("memory_lane")? })) } else { Ok(None) }
}

pub(super) fn private_lane_without_owner(node: &NodeView<'_>) -> Found {
    ownerless(node, false)
}

pub(super) fn private_rule_without_owner(node: &NodeView<'_>) -> Found {
    ownerless(node, true)
}

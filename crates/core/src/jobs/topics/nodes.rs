//! Topics as they are written.

use serde_json::{Map, Value, json};

use super::{ClusterParams, ClusterPlan, OpenTopic, Origin};
use crate::{
    canon::sha256_hex,
    clock::Timestamp,
    derive_id::{edge_id, stable_uuid},
    ids::NodeId,
    jobs::Audience,
    model::{EdgeType, NodeType, Tier, real},
    ports::store::SourceNode,
    slots,
    text::normalize,
    write::{EdgeInput, EndInput, NodeInput},
};

/// Kind of the commits.
pub const CLUSTER_KIND: &str = "topic_cluster";
/// Who a topic that is made here says it was made by.
pub const CREATED_BY: &str = "job:topic_cluster";
/// Longest title, in UTF-16 units.
const TITLE_MAX: usize = 60;
/// Longest text that is kept of the event a topic began with, in UTF-16 units.
const SEED_MAX: usize = 240;
/// Model of the vector when the events name none.
const MODEL: &str = "topic_cluster:event_embedding";

pub(super) fn is_ours(topic: &SourceNode) -> bool {
    topic.slots.get("created_by").and_then(Value::as_str) == Some(CREATED_BY)
}

fn seed_text(event: &SourceNode) -> String {
    normalize(event.text().unwrap_or_default(), usize::MAX)
}

/// The id of the topic that an event begins.
pub fn topic_id(reference_key: &str, seed: &SourceNode) -> NodeId {
    let text = sha256_hex(seed_text(seed));
    NodeId(stable_uuid(&format!("{reference_key}:topic:draft:{text}:{}", seed.id)))
}

/// An edge between two stored nodes, with the id that edges of clustering have.
pub fn edge_input(
    (reference_key, input): (&str, &str),
    edge_type: EdgeType,
    (src, dst): (NodeId, NodeId),
    (weight, confidence, decay_rate): (f64, f64, f64),
) -> EdgeInput {
    let id = edge_id(reference_key, input, edge_type.as_str(), &src.to_string(), &dst.to_string());
    let end = |id: NodeId| EndInput { id: Some(id.0), id_as_sent: Some(id.to_string()), client_id: None };
    EdgeInput { id: Some(id), scope: None, edge_type, src: end(src), dst: end(dst), weight, confidence, decay_rate }
}

/// Similarity as a weight, to six digits: engines add up in other orders.
fn weight(similarity: f64) -> f64 {
    real((similarity.clamp(0.0, 1.0) * 1e6).round() / 1e6)
}

/// Adds what is written of the topics of a group that got members.
pub(super) fn write_down(plan: &mut ClusterPlan, params: &ClusterParams, open: &[OpenTopic<'_>], now: Timestamp) {
    let key = (params.reference_key.as_str(), CLUSTER_KIND);
    for topic in open.iter().filter(|topic| !topic.joined.is_empty()) {
        let (count, active) = (topic.count(), state_of(topic, params));
        let counts = &mut plan.counts;
        counts.touched += 1;
        counts.small += u64::from(count < params.events_min);
        counts.created += u64::from(topic.stored_as().is_none());
        let was_draft = topic.stored_as().is_none_or(|stored| !is_active(stored));
        counts.promoted += u64::from(active && was_draft && params.events_min > 1);
        plan.expected.push((topic.id, topic.stored_as().map(|stored| stored.digest)));
        if topic.ours || (active && was_draft) {
            plan.nodes.push(node(topic, (count, active), now));
        }
        for (event, vector) in &topic.joined {
            let similarity = super::cosine(vector, &topic.vector).unwrap_or(0.5);
            let weight = weight(similarity);
            if count > 1 {
                counts.assigned += 1;
                counts.similarity_sum += weight;
            } else {
                counts.alone += 1;
            }
            plan.expected.push((event.id, Some(event.digest)));
            plan.edges.push(edge_input(key, EdgeType::PartOf, (event.id, topic.id), (weight, weight, 0.01)));
            plan.edges.push(edge_input(key, EdgeType::DerivedFrom, (topic.id, event.id), (1.0, 0.8, 0.0)));
        }
    }
}

fn is_active(topic: &SourceNode) -> bool {
    slots::topic_state(NodeType::Topic, &topic.merged()).as_deref() == Some("active")
}

/// Whether it is active now: it never goes back.
fn state_of(topic: &OpenTopic<'_>, params: &ClusterParams) -> bool {
    topic.stored_as().is_some_and(is_active) || topic.count() >= params.events_min
}

fn summary(active: bool) -> String {
    format!("Auto-clustered candidate topic ({}).", if active { "active" } else { "draft" })
}

fn node(topic: &OpenTopic<'_>, (count, active): (u64, bool), now: Timestamp) -> NodeInput {
    let state = if active { "active" } else { "draft" };
    let mut slots = topic.stored_as().and_then(|stored| stored.slots.as_object().cloned()).unwrap_or_default();
    slots.insert("topic_state".into(), json!(state));
    slots.insert("member_count".into(), json!(count));
    slots.insert("last_member_added_at".into(), json!(now.to_iso()));
    match &topic.origin {
        Origin::Stored(stored) => known(topic, stored, (slots, active)),
        Origin::Begun(seed) => begun(topic, seed, (slots, active)),
    }
}

/// A stored topic with new attributes. Only the sentence about its state is rewritten, and only where it still stands.
fn known(topic: &OpenTopic<'_>, stored: &SourceNode, (slots, active): (Map<String, Value>, bool)) -> NodeInput {
    let said = stored.text_summary.clone().map(|said| {
        if topic.ours && (said == summary(true) || said == summary(false)) { summary(active) } else { said }
    });
    NodeInput {
        client_id: stored.client_id.clone(),
        producer_agent_id: stored.producer_agent_id.clone(),
        title: stored.title.clone(),
        text_summary: said,
        raw_ref: stored.raw_ref.clone(),
        evidence_ref: stored.evidence_ref.clone(),
        ..blank(topic, &stored.audience, (slots, stored.embedding_model.clone()))
    }
}

fn begun(topic: &OpenTopic<'_>, seed: &SourceNode, (mut slots, active): (Map<String, Value>, bool)) -> NodeInput {
    let text = seed_text(seed);
    slots.insert("seed_event_id".into(), json!(seed.id));
    slots.insert("seed_summary".into(), json!(normalize(&text, SEED_MAX)));
    slots.insert("created_by".into(), json!(CREATED_BY));
    let title =
        if text.is_empty() { format!("Topic {}", &topic.id.to_string()[..8]) } else { normalize(&text, TITLE_MAX) };
    NodeInput {
        tier: Some(Tier::Hot),
        title: Some(title),
        text_summary: Some(summary(active)),
        ..blank(topic, &seed.audience, (slots, seed.embedding_model.clone()))
    }
}

fn blank(
    topic: &OpenTopic<'_>,
    audience: &Audience,
    (slots, model): (Map<String, Value>, Option<String>),
) -> NodeInput {
    NodeInput {
        id: Some(topic.id.0),
        client_id: None,
        scope: None,
        node_type: NodeType::Topic,
        tier: None,
        memory_lane: Some(audience.lane),
        producer_agent_id: None,
        owner_agent_id: audience.owner_agent_id.clone(),
        owner_team_id: audience.owner_team_id.clone(),
        title: None,
        text_summary: None,
        slots: Some(Value::Object(slots)),
        raw_ref: None,
        evidence_ref: None,
        embedding: Some(topic.vector.clone()),
        embedding_model: Some(model.unwrap_or_else(|| MODEL.to_owned())),
        salience: None,
        importance: None,
        confidence: None,
        received: None,
    }
}

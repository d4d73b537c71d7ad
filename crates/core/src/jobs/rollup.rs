//! Summaries of topics, made of what their newest events say (operations specification 1.8).
//!
//! A summary is for one audience, and quotes only what all of it may see anyway: the topic and the events that are seen as widely
//! or more widely. Events of narrower audiences get summaries of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::{Audience, topics::edge_input};
use crate::{
    canon::{Digest, canonical_json, canonical_sha256},
    clock::Timestamp,
    derive_id::stable_uuid,
    ids::NodeId,
    model::{EdgeType, NodeType, Tier},
    ports::store::{SourceNode, TopicEvent},
    slots,
    text::normalize,
    write::{EdgeInput, NodeInput},
};

/// Kind of the commits.
pub const ROLLUP_KIND: &str = "compression_rollup";
/// Who a summary says it was made by.
pub const GENERATED_BY: &str = "job:compression_rollup";
/// What the title of a summary begins with.
pub const ROLLUP_TITLE: &str = "Compression: ";
/// Longest title, in UTF-16 units.
const TITLE_MAX: usize = 180;
/// Longest title of the topic in the text, in UTF-16 units.
const TOPIC_TITLE_MAX: usize = 80;
/// Key points at most.
const POINTS_MAX: usize = 4;
/// Longest key point, in UTF-16 units.
const POINT_MAX: usize = 110;
/// Citations at most.
const CITATIONS_MAX: usize = 10;

/// What summaries are made by.
#[derive(Clone, Debug)]
pub struct RollupParams {
    /// Least events of a topic.
    pub events_min: usize,
    /// Most events one summary is made of, the newest.
    pub events_max: usize,
    /// Longest text, in UTF-16 units.
    pub text_max_len: usize,
    /// The scope's key as ids are derived from it.
    pub reference_key: String,
}

/// A summary that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub id: NodeId,
    /// The topic.
    pub topic: NodeId,
    /// Whom it is for.
    pub audience: Audience,
    /// How many events its audience sees in the topic.
    pub total: usize,
    /// Those it is made of, the newest first.
    pub events: Vec<NodeId>,
}

/// What happens to a summary.
#[derive(Debug)]
pub enum Rolled {
    /// It says what it should.
    Unchanged,
    /// It is an alias, or somebody else's node has its id: it stays as it is.
    LeftAlone,
    /// What it was to be made of is not there any more, or not for everyone it is for.
    Gone,
    /// It is written.
    Written(Box<Summary>),
}

/// A summary as it is written.
#[derive(Debug)]
pub struct Summary {
    /// The node.
    pub node: NodeInput,
    /// Its edges.
    pub edges: Vec<EdgeInput>,
    /// What it was made of.
    pub expected: Vec<(NodeId, Option<Digest>)>,
    /// Whether it is new.
    pub is_new: bool,
    /// Its citations.
    pub citations: usize,
}

/// Whether a topic is summed up.
pub fn is_summed_up(topic: &SourceNode) -> bool {
    topic.node_type == NodeType::Topic
        && topic.tier.is_recallable()
        && !topic.audience.is_nobody()
        && !topic.is_alias()
        && slots::topic_state(NodeType::Topic, &topic.merged()).as_deref() == Some("active")
}

/// The summaries of a topic: one for its own audience, and one for each narrower audience of some of its events. `events` are
/// its events, the newest first.
pub fn wanted(params: &RollupParams, topic: &SourceNode, events: &[TopicEvent]) -> Vec<Wanted> {
    let mut audiences: BTreeSet<&Audience> = events.iter().map(|event| &event.audience).collect();
    // Who does not see the topic is not told of it; who sees it anyway needs no summary of their own.
    audiences.retain(|audience| {
        !audience.is_nobody() && audience.is_within(&topic.audience) && !topic.audience.is_within(audience)
    });
    audiences.insert(&topic.audience);
    let summaries = audiences.into_iter().filter_map(|audience| {
        let seen: Vec<NodeId> =
            events.iter().filter(|event| audience.is_within(&event.audience)).map(|event| event.event).collect();
        (seen.len() >= params.events_min.max(1)).then(|| Wanted {
            id: summary_id(params, topic, audience),
            topic: topic.id,
            audience: audience.clone(),
            total: seen.len(),
            events: seen.into_iter().take(params.events_max).collect(),
        })
    });
    summaries.collect()
}

fn summary_id(params: &RollupParams, topic: &SourceNode, audience: &Audience) -> NodeId {
    let name = format!("{}:compression:topic:{}", params.reference_key, topic.id);
    let name = if *audience == topic.audience { name } else { format!("{name}:{}", canonical_json(&audience.value())) };
    NodeId(stable_uuid(&name))
}

/// Makes a summary of its topic and events as they are stored, given the summary that is stored already.
pub fn roll_up(
    params: &RollupParams,
    wanted: &Wanted,
    nodes: &HashMap<NodeId, SourceNode>,
    stored: Option<&SourceNode>,
    now: Timestamp,
) -> Rolled {
    if stored.is_some_and(|stored| stored.is_alias() || !is_summary(stored)) {
        return Rolled::LeftAlone;
    }
    let quotable = |id: &NodeId| nodes.get(id).filter(|node| wanted.audience.is_within(&node.audience));
    let Some(topic) = quotable(&wanted.topic) else { return Rolled::Gone };
    let events: Vec<&SourceNode> = wanted.events.iter().filter_map(quotable).collect();
    if events.len() < wanted.events.len() {
        return Rolled::Gone;
    }
    let text = text(params, topic, &events, wanted.total);
    let title = normalize(&format!("{ROLLUP_TITLE}{}", topic.title.as_deref().unwrap_or_default()), TITLE_MAX);
    let hash = canonical_sha256(&json!(wanted.events)).to_hex();
    // Who has narrowed a summary meant it.
    let kept = stored.filter(|stored| stored.audience.is_within(&wanted.audience));
    let audience = kept.map_or(&wanted.audience, |stored| &stored.audience);
    let says_so = |stored: &&SourceNode| {
        stored.text_summary.as_deref() == Some(text.as_str())
            && stored.title.as_deref() == Some(title.as_str())
            && stored.slots.get("source_event_hash").and_then(Value::as_str) == Some(hash.as_str())
    };
    if kept.filter(says_so).is_some() {
        return Rolled::Unchanged;
    }
    let citations: Vec<Value> = events.iter().take(CITATIONS_MAX).map(|event| citation(event)).collect();
    let cited = citations.len();
    let slots = slots_of(wanted, stored, (hash, citations), now);
    let mut expected = vec![(wanted.id, stored.map(|stored| stored.digest)), (topic.id, Some(topic.digest))];
    expected.extend(events.iter().map(|event| (event.id, Some(event.digest))));
    Rolled::Written(Box::new(Summary {
        node: node(wanted.id, audience, stored, (title, text, slots)),
        edges: edges(params, wanted),
        expected,
        is_new: stored.is_none(),
        citations: cited,
    }))
}

fn is_summary(node: &SourceNode) -> bool {
    node.node_type == NodeType::Concept && node.slots.get("generated_by").and_then(Value::as_str) == Some(GENERATED_BY)
}

fn text(params: &RollupParams, topic: &SourceNode, events: &[&SourceNode], total: usize) -> String {
    let title = normalize(topic.title.as_deref().unwrap_or("untitled"), TOPIC_TITLE_MAX);
    let mut lines = vec![format!("Topic summary: {title} ({total} events)"), "Key points:".to_owned()];
    let points = events.iter().filter_map(|event| event.text()).take(POINTS_MAX);
    lines.extend(points.map(|point| format!("- {}", normalize(point, POINT_MAX))));
    normalize(&lines.join("\n"), params.text_max_len)
}

fn citation(event: &SourceNode) -> Value {
    json!({
        "node_id": event.id,
        "commit_id": event.commit_id,
        "raw_ref": event.raw_ref,
        "evidence_ref": event.evidence_ref,
        "created_at": event.created_at.to_iso(),
    })
}

/// The attributes: what a summary says of itself, over what else was written to it, such as a pin.
fn slots_of(
    wanted: &Wanted,
    stored: Option<&SourceNode>,
    (hash, citations): (String, Vec<Value>),
    now: Timestamp,
) -> Value {
    let mut slots: BTreeMap<String, Value> = stored
        .and_then(|stored| stored.slots.as_object())
        .map(|slots| slots.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
        .unwrap_or_default();
    let own = [
        ("summary_kind", json!(ROLLUP_KIND)),
        ("summary_scope", json!("topic")),
        ("source_topic_id", json!(wanted.topic)),
        ("source_event_count", json!(wanted.total)),
        ("source_event_ids", json!(wanted.events)),
        ("source_event_hash", json!(hash)),
        ("citations", json!(citations)),
        ("generated_by", json!(GENERATED_BY)),
        ("generated_at", json!(now.to_iso())),
    ];
    slots.extend(own.map(|(key, value)| (key.to_owned(), value)));
    json!(slots)
}

fn node(
    id: NodeId,
    audience: &Audience,
    stored: Option<&SourceNode>,
    (title, text, slots): (String, String, Value),
) -> NodeInput {
    NodeInput {
        id: Some(id.0),
        client_id: stored.and_then(|stored| stored.client_id.clone()),
        scope: None,
        node_type: NodeType::Concept,
        tier: stored.is_none().then_some(Tier::Warm),
        memory_lane: Some(audience.lane),
        producer_agent_id: stored.and_then(|stored| stored.producer_agent_id.clone()),
        owner_agent_id: audience.owner_agent_id.clone(),
        owner_team_id: audience.owner_team_id.clone(),
        title: Some(title),
        text_summary: Some(text),
        slots: Some(slots),
        raw_ref: stored.and_then(|stored| stored.raw_ref.clone()),
        evidence_ref: stored.and_then(|stored| stored.evidence_ref.clone()),
        embedding: None,
        embedding_model: None,
        salience: stored.is_none().then_some(0.5),
        importance: stored.is_none().then_some(0.6),
        confidence: stored.is_none().then_some(0.7),
        received: None,
    }
}

fn edges(params: &RollupParams, wanted: &Wanted) -> Vec<EdgeInput> {
    let key = (params.reference_key.as_str(), ROLLUP_KIND);
    let mut edges = vec![edge_input(key, EdgeType::PartOf, (wanted.id, wanted.topic), (0.9, 0.9, 0.0))];
    let sources = wanted.events.iter();
    edges.extend(sources.map(|event| edge_input(key, EdgeType::DerivedFrom, (wanted.id, *event), (1.0, 0.9, 0.0))));
    edges
}

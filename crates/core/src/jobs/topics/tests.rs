use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    canon::sha256,
    ids::CommitId,
    jobs::{
        Audience,
        rollup::{Rolled, RollupParams, Wanted, roll_up, wanted},
    },
    model::{EdgeType, EmbeddingStatus, Lane, Tier},
    ports::store::TopicEvent,
};

fn audience(owner: Option<&str>) -> Audience {
    let lane = if owner.is_some() { Lane::Private } else { Lane::Shared };
    Audience { lane, owner_agent_id: owner.map(str::to_owned), owner_team_id: None }
}

fn node(n: u128, node_type: NodeType, vector: [f32; 3]) -> SourceNode {
    SourceNode {
        id: NodeId(Uuid::from_u128(n)),
        node_type,
        client_id: None,
        title: None,
        text_summary: Some(format!("event {n} says")),
        slots: json!({}),
        activity: None,
        raw_ref: None,
        evidence_ref: None,
        audience: audience(None),
        producer_agent_id: None,
        tier: Tier::Hot,
        embedding_status: EmbeddingStatus::Ready,
        embedding_model: Some("m".to_owned()),
        digest: sha256(n.to_string()),
        commit_id: CommitId(Uuid::from_u128(n)),
        created_at: Timestamp(1),
        vector: Some(vector.to_vec()),
    }
}

fn event(n: u128, vector: [f32; 3]) -> SourceNode {
    node(n, NodeType::Event, vector)
}

fn params() -> ClusterParams {
    ClusterParams { similarity_min: 0.78, events_min: 3, reference_key: "default".to_owned() }
}

fn known(node: SourceNode, members: u64, mean: Option<[f32; 3]>) -> KnownTopic {
    let mean = mean.map(|mean| mean.to_vec());
    KnownTopic { members: TopicMean { topic: node.id, members, with_vector: members, mean }, node }
}

const NOW: Timestamp = Timestamp(5);

#[test]
fn events_of_one_batch_that_are_alike_make_one_topic() {
    let events: Vec<SourceNode> = (1..=4).map(|n| event(n, [1.0, 0.01 * n as f32, 0.0])).collect();
    let plan = plan_online(&params(), &events, Vec::new(), NOW);
    assert_eq!((plan.nodes.len(), plan.edges.len()), (1, 8));
    let counts = plan.counts;
    assert_eq!((counts.processed, counts.assigned, counts.alone, counts.created, counts.promoted), (4, 4, 0, 1, 1));
    let topic = &plan.nodes[0];
    let slots = topic.slots.as_ref().unwrap();
    assert_eq!((&slots["topic_state"], &slots["member_count"]), (&json!("active"), &json!(4)));
    assert_eq!(slots["seed_event_id"], json!(events[0].id));
    assert_eq!(topic.title.as_deref(), Some("event 1 says"));
    assert!((topic.embedding.as_ref().unwrap()[1] - 0.025).abs() < 1e-6, "the mean of the members");
    assert!(plan.expected.contains(&(NodeId(topic.id.unwrap()), None)));
    assert!(events.iter().all(|event| plan.expected.contains(&(event.id, Some(event.digest)))));
    let again = plan_online(&params(), &events, Vec::new(), NOW);
    assert_eq!(again.nodes[0].id, topic.id, "ids follow from what is clustered");
}

#[test]
fn an_event_that_is_like_none_is_alone_in_a_draft() {
    let events = [event(1, [1.0, 0.0, 0.0]), event(2, [0.0, 1.0, 0.0])];
    let plan = plan_online(&params(), &events, Vec::new(), NOW);
    assert_eq!((plan.counts.alone, plan.counts.assigned, plan.counts.small, plan.counts.created), (2, 0, 2, 2));
    assert!(plan.nodes.iter().all(|topic| topic.slots.as_ref().unwrap()["topic_state"] == "draft"));
}

#[test]
fn owners_and_models_are_never_put_together() {
    let mut events: Vec<SourceNode> = (1..=6).map(|n| event(n, [1.0, 0.0, 0.0])).collect();
    events[1].audience = audience(Some("ann"));
    events[2].audience = audience(Some("bob"));
    events[3].audience = Audience { lane: Lane::Private, owner_agent_id: None, owner_team_id: None };
    events[4].embedding_model = Some("other".to_owned());
    events[5].activity = Some(json!({ "alias_of": "x" }));
    let plan = plan_online(&params(), &events, Vec::new(), NOW);
    assert_eq!((plan.counts.created, plan.counts.alone), (4, 4), "nobody's and aliases are left out");
    for node in &plan.nodes {
        let seed = node.slots.as_ref().unwrap()["seed_event_id"].clone();
        let seed = events.iter().find(|event| json!(event.id) == seed).unwrap();
        assert_eq!((node.memory_lane, &node.owner_agent_id), (Some(seed.audience.lane), &seed.audience.owner_agent_id));
        assert_eq!(node.embedding_model, seed.embedding_model);
    }
}

#[test]
fn a_topic_is_what_its_members_are_and_not_what_it_says() {
    let mut topic = node(9, NodeType::Topic, [0.0, 0.0, 1.0]);
    topic.slots = json!({ "created_by": CREATED_BY, "topic_state": "draft", "member_count": 77, "pin": true });
    topic.text_summary = Some("Auto-clustered candidate topic (draft).".to_owned());
    let plan = plan_online(&params(), &[event(1, [1.0, 0.0, 0.0])], vec![known(topic, 2, Some([0.8, 0.2, 0.0]))], NOW);
    assert_eq!((plan.counts.assigned, plan.counts.created, plan.counts.promoted), (1, 0, 1));
    let node = &plan.nodes[0];
    let slots = node.slots.as_ref().unwrap();
    assert_eq!(
        (&slots["member_count"], &slots["topic_state"], &slots["pin"]),
        (&json!(3), &json!("active"), &json!(true))
    );
    assert_eq!(node.text_summary.as_deref(), Some("Auto-clustered candidate topic (active)."));
    let vector = node.embedding.as_ref().unwrap();
    assert!((vector[0] - 2.6 / 3.0).abs() < 1e-6 && (vector[1] - 0.4 / 3.0).abs() < 1e-6, "{vector:?}");
}

#[test]
fn a_topic_that_somebody_wrote_keeps_its_text_and_its_vector() {
    let topic = node(9, NodeType::Topic, [1.0, 0.0, 0.0]);
    let plan =
        plan_online(&params(), &[event(1, [0.9, 0.1, 0.0])], vec![known(topic.clone(), 5, Some([0.0, 1.0, 0.0]))], NOW);
    assert_eq!((plan.nodes.len(), plan.edges.len()), (0, 2));
    assert!(plan.expected.contains(&(topic.id, Some(topic.digest))));
    let mut closed = topic;
    closed.activity = Some(json!({ "alias_of": "another" }));
    let plan = plan_online(&params(), &[event(1, [0.9, 0.1, 0.0])], vec![known(closed, 5, None)], NOW);
    assert_eq!(plan.counts.created, 1, "an alias takes no events");
}

#[test]
fn clusters_become_topics_or_join_them_and_the_rest_stays_out() {
    let mut events: Vec<SourceNode> = (1..=4).map(|n| event(n, [1.0, 0.02 * n as f32, 0.0])).collect();
    events.extend((5..=7).map(|n| event(n, [0.0, 1.0, 0.02 * n as f32])));
    events.push(event(8, [0.0, 0.0, 1.0]));
    let topic = node(9, NodeType::Topic, [0.0, 1.0, 0.0]);
    let clusters = vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]];
    let plan = plan_clusters(&params(), &events, &clusters, vec![known(topic.clone(), 1, None)], NOW);
    let counts = plan.counts;
    assert_eq!((counts.processed, counts.assigned, counts.alone, counts.created), (8, 7, 0, 1));
    assert!(
        plan.expected.iter().all(|(id, _)| *id != events[7].id),
        "the last one is unlike the middle of its cluster"
    );
    let joined = plan.edges.iter().filter(|e| e.edge_type == EdgeType::PartOf && e.dst.id == Some(topic.id.0)).count();
    assert_eq!(joined, 3);
}

fn rollup_params() -> RollupParams {
    RollupParams { events_min: 2, events_max: 3, text_max_len: 1_800, reference_key: "default".to_owned() }
}

fn topic_with(events: &[SourceNode]) -> (SourceNode, Vec<TopicEvent>) {
    let mut topic = node(100, NodeType::Topic, [1.0, 0.0, 0.0]);
    topic.title = Some("Deploys".to_owned());
    let of = |event: &SourceNode| TopicEvent {
        topic: topic.id,
        event: event.id,
        audience: event.audience.clone(),
        created_at: event.created_at,
    };
    let listed = events.iter().map(of).collect();
    (topic, listed)
}

fn by_id(nodes: &[SourceNode]) -> HashMap<NodeId, SourceNode> {
    nodes.iter().map(|node| (node.id, node.clone())).collect()
}

fn written(rolled: Rolled) -> crate::jobs::rollup::Summary {
    match rolled {
        Rolled::Written(summary) => *summary,
        other => panic!("not written: {other:?}"),
    }
}

#[test]
fn a_summary_quotes_what_all_its_readers_may_see() {
    let mut events: Vec<SourceNode> = (1..=6).map(|n| event(n, [1.0, 0.0, 0.0])).collect();
    events[1].audience = audience(Some("ann"));
    events[3].audience = audience(Some("ann"));
    events[4].audience = audience(Some("bob"));
    let (topic, listed) = topic_with(&events);
    let summaries = wanted(&rollup_params(), &topic, &listed);
    let of = |owner: Option<&str>| summaries.iter().find(|summary| summary.audience == audience(owner)).unwrap();
    let ids = |summary: &Wanted| summary.events.iter().map(|id| id.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(summaries.len(), 3);
    assert_eq!((ids(of(None)), of(None).total), (vec![1, 3, 6], 3));
    assert_eq!((ids(of(Some("ann"))), of(Some("ann")).total), (vec![1, 2, 3], 5));
    assert_eq!(ids(of(Some("bob"))), [1, 3, 5]);
    let mut all = by_id(&events);
    all.insert(topic.id, topic.clone());
    let summary = written(roll_up(&rollup_params(), of(None), &all, None, NOW));
    assert_eq!(
        summary.node.text_summary.as_deref(),
        Some("Topic summary: Deploys (3 events) Key points: - event 1 says - event 3 says - event 6 says")
    );
    assert_eq!(summary.node.title.as_deref(), Some("Compression: Deploys"));
    assert_eq!((summary.node.tier, summary.citations, summary.edges.len()), (Some(Tier::Warm), 3, 4));
    // A topic of one owner tells others nothing, not even that it is there.
    let mut of_ann = topic;
    of_ann.audience = audience(Some("ann"));
    let summaries = wanted(&rollup_params(), &of_ann, &listed);
    assert_eq!(summaries.len(), 1);
    assert_eq!(summaries[0].audience, audience(Some("ann")));
}

fn stored(summary: &crate::jobs::rollup::Summary) -> SourceNode {
    let mut stored = node(summary.node.id.unwrap().as_u128(), NodeType::Concept, [1.0, 0.0, 0.0]);
    stored.title.clone_from(&summary.node.title);
    stored.text_summary.clone_from(&summary.node.text_summary);
    stored.slots = summary.node.slots.clone().unwrap();
    stored
}

#[test]
fn a_summary_that_says_what_it_should_is_left_and_what_was_put_to_it_stays() {
    let events: Vec<SourceNode> = (1..=3).map(|n| event(n, [1.0, 0.0, 0.0])).collect();
    let (topic, listed) = topic_with(&events);
    let wanted = wanted(&rollup_params(), &topic, &listed).remove(0);
    let mut all = by_id(&events);
    all.insert(topic.id, topic);
    let first = stored(&written(roll_up(&rollup_params(), &wanted, &all, None, NOW)));
    let rolled = |all: &HashMap<_, _>, stored: &SourceNode| roll_up(&rollup_params(), &wanted, all, Some(stored), NOW);
    assert!(matches!(rolled(&all, &first), Rolled::Unchanged));
    let mut alias = first.clone();
    alias.activity = Some(json!({ "alias_of": "another" }));
    assert!(matches!(rolled(&all, &alias), Rolled::LeftAlone));
    let mut pinned = first;
    pinned.slots["pin"] = json!(true);
    all.get_mut(&events[0].id).unwrap().text_summary = Some("it says something else".to_owned());
    let again = written(rolled(&all, &pinned));
    assert_eq!((again.node.tier, again.node.salience, again.is_new), (None, None, false));
    assert_eq!(again.node.slots.as_ref().and_then(|slots| slots.get("pin")), Some(&Value::Bool(true)));
    // Who made it wider did not ask those it quotes; who made it narrower did no harm.
    let mut narrowed = pinned.clone();
    narrowed.audience = audience(Some("ann"));
    assert_eq!(written(rolled(&all, &narrowed)).node.owner_agent_id.as_deref(), Some("ann"));
    all.get_mut(&events[0].id).unwrap().audience = audience(Some("bob"));
    assert!(matches!(rolled(&all, &pinned), Rolled::Gone), "a source is not for everyone any more");
}

#[test]
fn a_summary_that_was_made_wider_than_it_may_be_is_made_narrow_again() {
    let mut events: Vec<SourceNode> = (1..=3).map(|n| event(n, [1.0, 0.0, 0.0])).collect();
    events.iter_mut().for_each(|event| event.audience = audience(Some("ann")));
    let (mut topic, listed) = topic_with(&events);
    topic.audience = audience(Some("ann"));
    let wanted = wanted(&rollup_params(), &topic, &listed).remove(0);
    let mut all = by_id(&events);
    all.insert(topic.id, topic);
    let mut wide = stored(&written(roll_up(&rollup_params(), &wanted, &all, None, NOW)));
    wide.audience = audience(None);
    let node = written(roll_up(&rollup_params(), &wanted, &all, Some(&wide), NOW)).node;
    assert_eq!((node.memory_lane, node.owner_agent_id.as_deref()), (Some(Lane::Private), Some("ann")));
}

#[test]
fn ids_are_those_of_the_specification() {
    let seed = event(1, [1.0, 0.0, 0.0]);
    let text = crate::canon::sha256_hex("event 1 says");
    let name = format!("default:topic:draft:{text}:{}", seed.id);
    assert_eq!(topic_id("default", &seed), NodeId(crate::derive_id::stable_uuid(&name)));
    let edge = edge_input(("default", CLUSTER_KIND), EdgeType::PartOf, (seed.id, seed.id), (0.5, 0.5, 0.0));
    let name = format!("default:edge:topic_cluster:part_of:{0}:{0}", seed.id);
    assert_eq!(edge.id, Some(crate::derive_id::stable_uuid(&name)));
}

//! Topics that were merged, with what was made of them.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::{
        Audience,
        scope_purge::{PurgeMode, plan_purge},
    },
    model::{EdgeType, Lane, NodeType},
    ports::store::{EventQuery, ScanCounts, TopicGroup},
    write::JobWrite,
};
use serde_json::json;

use super::{
    Subject,
    topics::{forget, leaning, member, of_type},
};
use crate::{
    assert_sound,
    fixtures::{WriteBuilder, consolidate, node_id, scope},
};

/// Two topics of jobs with a member each, the second with a summary, merged into the first with all edges moved.
async fn merged_topics(subject: &Subject, s: &ScopeKey) {
    let topic = |write: WriteBuilder, name: &str, seed: &str, salience: f64| {
        let slots = json!({ "created_by": "job:topic_cluster", "seed_event_id": node_id(s, seed) });
        let write = write.node(name, seed).vector(leaning(1, 0.5)).with(of_type(NodeType::Topic)).with(|node| {
            node.slots = Some(slots);
            node.salience = Some(salience);
        });
        let write = member(write, seed, name).edge(name, seed);
        write.with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom)
    };
    let write = WriteBuilder::new(s).node("lion", "a lion").node("zebra", "a zebra").vector(leaning(1, 0.5));
    let write = topic(topic(write, "lions", "lion", 0.9), "zebras", "zebra", 0.1);
    let write = write.node("summary", "of zebras").with(of_type(NodeType::Concept));
    let write = write.with(|node| node.slots = Some(json!({ "generated_by": "job:compression_rollup" })));
    subject.write(member(write, "summary", "zebras")).await;
    let done = consolidate(&*subject.store, s, 1, (node_id(s, "lions"), node_id(s, "zebras"))).await;
    assert_eq!(done.merges[0].duplicate_id, node_id(s, "zebras"));
}

/// Those of some nodes that are stored.
async fn left(subject: &Subject, s: &ScopeKey, names: &[&'static str]) -> Vec<&'static str> {
    let ids: Vec<NodeId> = names.iter().map(|name| node_id(s, name)).collect();
    let nodes = subject.store.source_nodes(s, &ids).await.unwrap();
    names.iter().copied().filter(|name| nodes.iter().any(|node| node.id == node_id(s, name))).collect()
}

/// A merge moves edges away from what jobs made; it is found all the same when its source is forgotten, or seen by fewer.
pub async fn what_jobs_made_is_found_after_its_edges_were_moved(subject: &Subject) {
    let (s, other) = (scope("s"), scope("other"));
    for s in [&s, &other] {
        merged_topics(subject, s).await;
    }
    let names = ["lion", "lions", "summary", "zebra", "zebras"];
    assert_eq!(
        forget(subject, &s, node_id(&s, "zebra"), None).await,
        2,
        "the alias, and the summary that repeats its title"
    );
    assert_eq!(left(subject, &s, &names).await, ["lion", "lions"]);
    let narrower = WriteBuilder::new(&other).node("zebra", "a zebra").private(Some("ann"), None);
    subject.write(narrower).await;
    assert_eq!(left(subject, &other, &names).await, ["lion", "zebra"], "the vectors of both have a share of it");
    for s in [&s, &other] {
        assert_sound(&*subject.store).await;
        assert_eq!(subject.store.topics(s, None, 10).await.unwrap().len(), usize::from(*s == scope("s")));
    }
}

/// An alias that a merge made takes no events; the node it stands for has its members.
pub async fn a_merged_topic_takes_no_events(subject: &Subject) {
    let s = scope("s");
    merged_topics(subject, &s).await;
    let [lions, zebras] = ["lions", "zebras"].map(|name| node_id(&s, name));
    let group = TopicGroup {
        audience: Audience { lane: Lane::Shared, owner_agent_id: None, owner_team_id: None },
        embedding_model: Some("client".to_owned()),
    };
    let near = subject.store.nearest_topics(&s, &group, &[leaning(1, 0.5)], 5).await.unwrap();
    assert_eq!(near, [vec![lions]]);
    let means = subject.store.topic_means(&s, &[lions, zebras]).await.unwrap();
    assert_eq!(means.iter().map(|mean| mean.with_vector).collect::<Vec<_>>(), [1, 0]);
    let query = EventQuery { after: None, limit: 10, scan_max: 100, merged_since: Timestamp(0) };
    let page = subject.store.unassigned_events(&s, query).await.unwrap();
    assert!(page.events.is_empty());
    assert_eq!((page.counts.kinds, page.counts.merged_kinds), (3, 1));
    let events = subject.store.topic_events(&s, &[lions, zebras], Timestamp(0), 10).await.unwrap();
    assert!(events.iter().all(|event| event.topic == lions), "{events:?}");
    assert_eq!(events.len(), 2);
}

/// A scope that is being purged has no events and topics to show, and takes none in.
pub async fn while_a_scope_is_purged_no_topics_are_read_or_written(subject: &Subject) {
    let (s, store) = (scope("s"), &subject.store);
    merged_topics(subject, &s).await;
    let survey = store.purge_survey(&s).await.unwrap();
    let plan = plan_purge(&s, &survey, PurgeMode::Auto, false).unwrap();
    assert!(store.begin_purge(&s, &plan, "ops", subject.now()).await.unwrap());
    let query = EventQuery { after: None, limit: 10, scan_max: 100, merged_since: Timestamp(0) };
    assert_eq!(store.unassigned_events(&s, query).await.unwrap().counts, ScanCounts::default());
    let group = TopicGroup {
        audience: Audience { lane: Lane::Shared, owner_agent_id: None, owner_team_id: None },
        embedding_model: Some("client".to_owned()),
    };
    assert_eq!(store.nearest_topics(&s, &group, &[leaning(1, 0.5)], 5).await.unwrap(), [Vec::new()]);
    let topics = ["lions"].map(|name| node_id(&s, name));
    assert!(store.source_nodes(&s, &topics).await.unwrap().is_empty());
    assert_eq!(store.topic_means(&s, &topics).await.unwrap()[0].members, 0);
    assert!(store.topics(&s, None, 10).await.unwrap().is_empty());
    assert!(store.topic_events(&s, &topics, Timestamp(0), 10).await.unwrap().is_empty());
    let mut write = WriteBuilder::new(&s).node("lions", "lions").with(of_type(NodeType::Topic)).prepared();
    write.job = Some(JobWrite { kind: "topic_cluster", stands: Vec::new() });
    let refused = store.write(write).await.unwrap_err();
    assert_eq!(aionis_core::error::DomainError::from(refused).code, "scope_purging");
    store.make_due("one", &s).await.unwrap();
}

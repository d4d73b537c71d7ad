//! Reading events and topics: the statements, for the plans that are kept.

use aionis_core::{
    clock::Timestamp,
    jobs::Audience,
    model::{EdgeType, Lane, NodeType},
    ports::store::{EventQuery, TopicGroup, TopicStore, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::fixtures::{DIM, WriteBuilder, node_id, scope};

/// Names of the statements, and a part each has alone.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("topic_events", "AS place FROM"),
    ("topic_means", "avg(v.embedding)"),
    ("topic_nearest", "WITH topics AS MATERIALIZED"),
    ("topic_scan", "(n.created_at, n.id) > ($2"),
    ("topic_sources", "n.commit_id, n.created_at, v.embedding"),
    ("topics", "AND n.id > $2 AND n.type = 'topic'"),
];

/// Sends each of them more than once.
pub(super) async fn exercise(store: &PostgresStore) {
    let s = scope("topics");
    let mut write = WriteBuilder::new(&s).node("topic", "x").with(|node| node.node_type = NodeType::Topic);
    write = write.vector(vec![1.0; DIM]);
    for n in 0..8 {
        write = write.node(&format!("e{n}"), "x").vector(vec![1.0; DIM]);
    }
    let write = write.edge("e0", "topic").with_edge(|edge| edge.edge_type = EdgeType::PartOf);
    store.write(write.prepared()).await.unwrap();
    let audience = Audience { lane: Lane::Shared, owner_agent_id: None, owner_team_id: None };
    let group = TopicGroup { audience, embedding_model: Some("client".to_owned()) };
    let topic = [node_id(&s, "topic")];
    for _ in 0..8 {
        let query = EventQuery { after: None, limit: 5, scan_max: 100, merged_since: Timestamp(0) };
        assert_eq!(store.unassigned_events(&s, query).await.unwrap().events.len(), 5);
        assert_eq!(store.nearest_topics(&s, &group, &[vec![1.0; DIM]], 3).await.unwrap()[0], topic);
        assert_eq!(store.source_nodes(&s, &topic).await.unwrap().len(), 1);
        assert_eq!(store.topic_means(&s, &topic).await.unwrap()[0].members, 1);
        assert_eq!(store.topics(&s, None, 10).await.unwrap(), topic);
        assert_eq!(store.topic_events(&s, &topic, Timestamp(0), 10).await.unwrap().len(), 1);
    }
}

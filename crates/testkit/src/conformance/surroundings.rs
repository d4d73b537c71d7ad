//! Candidates of a text question and what is around them.

use aionis_core::{
    ids::NodeId,
    model::{EdgeType, NodeType, Tier},
    recall::Surroundings,
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::fixtures::{WriteBuilder, node_id, scope};

/// Kind, both ends and weight of the links, in order.
fn links(around: &Surroundings) -> Vec<(EdgeType, NodeId, NodeId, f64)> {
    let node = |at: u32| around.nodes[at as usize];
    let mut links: Vec<_> =
        around.links.iter().map(|link| (link.edge_type, node(link.src), node(link.dst), link.weight)).collect();
    links.sort_unstable_by_key(|link| (link.1, link.2));
    links
}

/// Candidates first, then neighbours, each ordered by id; a neighbour that may be seen but be no seed is not open, and one
/// that may not be seen is not there.
pub async fn neighbours_follow_the_candidates_and_are_open_if_they_may_be_seeds(subject: &Subject) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s)
        .node("a", "one")
        .title("Ann Müller")
        .node("b", "two")
        .node("near", "three")
        .title("Running Shoes")
        .node("draft", "four")
        .with(|n| (n.node_type, n.slots) = (NodeType::Topic, Some(json!({ "topic_state": "draft" }))))
        .node("mine", "five")
        .private(Some("ann"), None)
        .node("cold", "six")
        .with(|n| n.tier = Some(Tier::Cold))
        .node("far", "seven");
    for end in ["near", "mine", "cold", "b"] {
        write = write.edge("a", end).strength(0.5, 0.5);
    }
    write = write.edge("b", "draft").strength(0.25, 0.5).with_edge(|e| e.edge_type = EdgeType::PartOf);
    subject.write(write.edge("near", "b").strength(0.75, 0.5).edge("near", "far")).await;
    let [a, b, near, draft] = ["a", "b", "near", "draft"].map(|id| node_id(&s, id));
    let unknown = NodeId(Uuid::from_u128(9));
    let found = subject.surroundings(&s, &[a, b, unknown], &["run shoe", "ann muller", "shoe"]).await;
    let sorted = |mut ids: Vec<NodeId>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(found.candidates, 3);
    assert_eq!(found.nodes, [sorted(vec![a, b, unknown]), sorted(vec![near, draft])].concat());
    let those = |which: &[bool]| -> Vec<NodeId> {
        sorted(found.nodes.iter().zip(which).filter(|(_, is)| **is).map(|(id, _)| *id).collect())
    };
    assert_eq!(those(&found.is_open), sorted(vec![a, b, unknown, near]));
    assert_eq!(those(&found.is_named), sorted(vec![a, near]));
    let mut expected = [
        (EdgeType::RelatedTo, a, near, 0.5),
        (EdgeType::RelatedTo, a, b, 0.5),
        (EdgeType::PartOf, b, draft, 0.25),
        (EdgeType::RelatedTo, near, b, 0.75),
    ];
    expected.sort_unstable_by_key(|link| (link.1, link.2));
    assert_eq!(links(&found), expected, "edges between neighbours are not asked for");
    assert_eq!(subject.surroundings(&s, &[], &["ann muller"]).await, Surroundings::default());
    let elsewhere = subject.surroundings(&scope("t"), &[a], &["ann muller"]).await;
    assert_eq!((elsewhere.nodes, elsewhere.is_named, elsewhere.links), (vec![a], vec![false], Vec::new()));
}

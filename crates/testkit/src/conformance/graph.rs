//! Edges around nodes.

use aionis_core::{
    ids::{NodeId, ScopeKey},
    model::EdgeType,
    model::Viewer,
    ports::store::EdgeQuery,
    recall::EdgeView,
};

use super::Subject;
use crate::fixtures::{WriteBuilder, agent, anyone, node_id, scope};

/// Asks, and puts the answer into an order: strongest first. The port promises none.
async fn ask(subject: &Subject, scope: &ScopeKey, around: &[NodeId], floor: (f64, f64), limit: usize) -> Vec<EdgeView> {
    ask_for(subject, anyone(), scope, around, floor, limit).await
}

async fn ask_for(
    subject: &Subject,
    viewer: Viewer,
    scope: &ScopeKey,
    around: &[NodeId],
    floor: (f64, f64),
    limit: usize,
) -> Vec<EdgeView> {
    let query = EdgeQuery {
        scope: scope.clone(),
        viewer,
        around: around.to_vec(),
        min_weight: floor.0,
        min_confidence: floor.1,
        limit,
    };
    let mut edges = subject.store.edges_around(query).await.expect("edges can be read");
    edges.sort_by(|a, b| {
        b.weight.total_cmp(&a.weight).then(b.confidence.total_cmp(&a.confidence)).then(a.id.cmp(&b.id))
    });
    edges
}

/// Every edge around nodes.
pub(super) async fn edges_of(subject: &Subject, scope: &ScopeKey, around: &[NodeId]) -> Vec<EdgeView> {
    ask(subject, scope, around, (0.0, 0.0), 1000).await
}

fn star(scope: &ScopeKey) -> WriteBuilder {
    let mut write = WriteBuilder::new(scope).node("hub", "hub");
    for n in 0..20 {
        write = write.node(&format!("n{n}"), "leaf");
    }
    for n in 0..10 {
        let weight = f64::from(n + 1) / 16.0;
        write = write.edge("hub", &format!("n{n}")).strength(weight, 0.5);
        write = write.edge(&format!("n{}", n + 10), "hub").strength(weight, 0.25);
    }
    write
}

/// The limit is per direction; the strongest by weight, confidence and id are kept.
pub async fn limits_hold_per_direction_and_the_strongest_win(subject: &Subject) {
    let s = scope("s");
    subject.write(star(&s)).await;
    let hub = node_id(&s, "hub");
    let edges = ask(subject, &s, &[hub], (0.0, 0.0), 3).await;
    let leaving: Vec<f64> = edges.iter().filter(|e| e.src == hub).map(|e| e.weight * 16.0).collect();
    let entering: Vec<f64> = edges.iter().filter(|e| e.dst == hub).map(|e| e.weight * 16.0).collect();
    assert_eq!((edges.len(), leaving, entering), (6, vec![10.0, 9.0, 8.0], vec![10.0, 9.0, 8.0]));
    assert!(ask(subject, &s, &[hub], (0.0, 0.0), 0).await.is_empty());
    assert_eq!(edges_of(subject, &s, &[hub]).await.len(), 20);
    // The limit is of the whole question, not of each node.
    let leaves: Vec<NodeId> = (10..20).map(|n| node_id(&s, &format!("n{n}"))).collect();
    assert_eq!(ask(subject, &s, &leaves, (0.0, 0.0), 4).await.len(), 4);
    let mut ties = WriteBuilder::new(&scope("ties")).node("a", "x");
    for n in 0..8 {
        ties =
            ties.node(&format!("n{n}"), "y").edge("a", &format!("n{n}")).strength(0.5, if n < 3 { 0.75 } else { 0.5 });
    }
    let outcome = subject.write(ties).await;
    let mut wanted: Vec<_> = outcome.edges[..3].iter().map(|(id, _)| *id).collect();
    wanted.sort_unstable();
    let mut rest: Vec<_> = outcome.edges[3..].iter().map(|(id, _)| *id).collect();
    rest.sort_unstable();
    wanted.extend(&rest[..2]);
    let around = [node_id(&scope("ties"), "a")];
    let found: Vec<_> = ask(subject, &scope("ties"), &around, (0.0, 0.0), 5).await.iter().map(|e| e.id).collect();
    assert_eq!(found, wanted, "confidence decides among equal weights, then the id");
}

/// An edge at the threshold is in.
pub async fn thresholds_are_inclusive(subject: &Subject) {
    let s = scope("s");
    subject.write(star(&s)).await;
    let hub = node_id(&s, "hub");
    assert_eq!(ask(subject, &s, &[hub], (0.5, 0.0), 100).await.len(), 6);
    assert_eq!(ask(subject, &s, &[hub], (0.5, 0.5), 100).await.len(), 3, "edges that enter have less confidence");
    assert_eq!(ask(subject, &s, &[hub], (0.5, 0.51), 100).await.len(), 0);
    let above = ask(subject, &s, &[hub], (0.0, 0.5), 2).await;
    assert_eq!(above.len(), 2, "what is below is left out before the limit counts");
}

/// An edge between two of the nodes leaves one and enters the other, and comes once.
pub async fn every_edge_comes_once(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).node("a", "x").node("b", "y").node("c", "z").edge("a", "b").edge("b", "a");
    let write = write.edge("a", "b").with_edge(|e| e.edge_type = EdgeType::PartOf).edge("b", "c").strength(0.25, 0.25);
    subject.write(write).await;
    let (a, b, c) = (node_id(&s, "a"), node_id(&s, "b"), node_id(&s, "c"));
    assert_eq!(edges_of(subject, &s, &[a, b, c]).await.len(), 4);
    assert_eq!(edges_of(subject, &s, &[c]).await.len(), 1);
    assert_eq!(edges_of(subject, &s, &[a, a, b, a]).await.len(), 4);
    assert_eq!(ask(subject, &s, &[b, b, b], (0.0, 0.0), 2).await.len(), 4, "a node named twice is one node");
    let unknown = NodeId(uuid::Uuid::from_u128(5));
    assert!(edges_of(subject, &s, &[unknown]).await.is_empty() && edges_of(subject, &s, &[]).await.is_empty());
}

/// Merged values count in the next question.
pub async fn a_stronger_edge_is_seen_at_once(subject: &Subject) {
    let s = scope("s");
    subject.write(star(&s)).await;
    let (hub, weakest) = (node_id(&s, "hub"), node_id(&s, "n0"));
    assert!(ask(subject, &s, &[hub], (0.0, 0.0), 1).await.iter().all(|e| e.dst != weakest));
    let outcome = subject.write(WriteBuilder::new(&s).edge("hub", "n0").strength(1.0, 1.0)).await;
    let best = ask(subject, &s, &[hub], (0.0, 0.0), 1).await[0];
    assert_eq!((best.dst, best.weight, best.confidence, best.commit_seq), (weakest, 1.0, 1.0, 2));
    assert_eq!(best.id, outcome.edges[0].0);
}

/// What a viewer may not see takes no place from what they may.
pub async fn hidden_ends_do_not_use_up_the_limit(subject: &Subject) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s).node("hub", "x").node("open", "y").edge("hub", "open").strength(0.25, 0.25);
    for n in 0..4 {
        let name = format!("hidden{n}");
        write = write.node(&name, "z").private(Some("owner"), None).edge("hub", &name).strength(0.75, 0.75);
    }
    subject.write(write).await;
    let (hub, open) = (node_id(&s, "hub"), node_id(&s, "open"));
    let seen = ask(subject, &s, &[hub], (0.0, 0.0), 2).await;
    assert_eq!(seen.iter().map(|edge| edge.dst).collect::<Vec<_>>(), [open], "and nothing of the others is told");
    let own = ask_for(subject, agent("owner"), &s, &[hub], (0.0, 0.0), 2).await;
    assert!(own.len() == 2 && own.iter().all(|edge| edge.dst != open), "the strongest of what the owner sees: {own:?}");
    assert!(ask(subject, &s, &[node_id(&s, "hidden0")], (0.0, 0.0), 2).await.is_empty(), "nor from the other end");
}

/// Equal client ids in two scopes are two graphs.
pub async fn other_scopes_have_other_edges(subject: &Subject) {
    for name in ["s", "t"] {
        subject.write(WriteBuilder::new(&scope(name)).node("a", "x").node("b", "y").edge("a", "b")).await;
    }
    let (s, t) = (scope("s"), scope("t"));
    let edges = edges_of(subject, &s, &[node_id(&s, "a"), node_id(&t, "a")]).await;
    assert_eq!(edges.len(), 1);
    assert_eq!((edges[0].src, edges[0].dst), (node_id(&s, "a"), node_id(&s, "b")));
}

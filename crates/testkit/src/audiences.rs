//! Asserts that nothing derived is seen by who does not see its sources.

use std::collections::HashMap;

use aionis_core::{
    derive_id::stable_uuid,
    ids::{NodeId, ScopeKey},
    ports::store::{SourceNode, Store, StoredEdgeRow},
};
use serde_json::Value;

const PAGE: usize = 500;

/// Every stored node of a scope, ordered by id.
pub async fn stored_nodes(store: &dyn Store, scope: &ScopeKey) -> Vec<SourceNode> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.nodes(scope, after, PAGE).await.expect("nodes can be read");
        let Some(last) = page.last() else { return found };
        after = Some(last.id);
        let ids: Vec<NodeId> = page.iter().map(|row| NodeId(row.id)).collect();
        found.extend(store.source_nodes(scope, &ids).await.expect("nodes can be read"));
    }
}

/// Every stored edge of a scope, ordered by id.
pub async fn stored_edges(store: &dyn Store, scope: &ScopeKey) -> Vec<StoredEdgeRow> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.edges(scope, after, PAGE).await.expect("edges can be read");
        let Some(last) = page.last() else { return found };
        after = Some(last.id);
        found.extend(page);
    }
}

/// What a node says it was made of; without a word of it, what it has `derived_from` edges to.
fn sources(node: &SourceNode, edges: &HashMap<NodeId, Vec<NodeId>>) -> Vec<NodeId> {
    let slots = node.merged();
    let read = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).map(NodeId);
    let listed = slots.get("source_event_ids").and_then(Value::as_array);
    let named = ["source_topic_id", "seed_event_id"].iter().filter_map(|key| slots.get(*key).and_then(read));
    match listed {
        Some(listed) => listed.iter().filter_map(read).chain(named).collect(),
        None => named.chain(edges.get(&node.id).into_iter().flatten().copied()).collect(),
    }
}

/// Derived nodes that somebody may see who may not see one of their sources: the node and the source.
pub async fn wider_than_sources(store: &dyn Store, scope: &ScopeKey) -> Vec<(NodeId, NodeId)> {
    let nodes = stored_nodes(store, scope).await;
    let mut edges: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for edge in stored_edges(store, scope).await {
        let (edge_type, src, dst) = edge.place.expect("an edge can be read");
        // What a merge moved says what the alias was made of.
        let moved = format!("{}:edge:consolidation_redirect:{edge_type}:{src}:{dst}", scope.as_str());
        if edge_type == "derived_from" && edge.id != stable_uuid(&moved) {
            edges.entry(NodeId(src)).or_default().push(NodeId(dst));
        }
    }
    let audiences: HashMap<NodeId, _> = nodes.iter().map(|node| (node.id, &node.audience)).collect();
    let mut wider = Vec::new();
    for node in &nodes {
        for source in sources(node, &edges) {
            if audiences.get(&source).is_some_and(|of_source| !node.audience.is_within(of_source)) {
                wider.push((node.id, source));
            }
        }
    }
    wider
}

/// Asserts that there are none.
pub async fn assert_narrow(store: &dyn Store, scope: &ScopeKey) {
    let wider = wider_than_sources(store, scope).await;
    assert!(wider.is_empty(), "derived nodes that are seen more widely than their sources: {wider:?}");
}

#[cfg(test)]
mod tests {
    use aionis_core::model::EdgeType;

    use super::*;
    use crate::{
        fixtures::{WriteBuilder, node_id, scope},
        sqlite::TempStore,
    };

    #[tokio::test]
    async fn a_shared_node_derived_of_a_private_one_is_found() {
        let (temp, s) = (TempStore::new(), scope("s"));
        let write = WriteBuilder::new(&s)
            .node("private", "a secret")
            .private(Some("ann"), None)
            .node("shared", "known")
            .node("derived", "both")
            .edge("derived", "shared")
            .with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom);
        temp.port().write(write.prepared()).await.unwrap();
        assert_narrow(&*temp.port(), &s).await;
        let wider =
            WriteBuilder::new(&s).edge("derived", "private").with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom);
        temp.port().write(wider.prepared()).await.unwrap();
        let found = wider_than_sources(&*temp.port(), &s).await;
        assert_eq!(found, [(node_id(&s, "derived"), node_id(&s, "private"))]);
    }
}

//! Merged nodes and moved edges are bound by the chain: what is changed behind the engine's back is found.

use aionis_core::{model::NodeType, ports::store::WriteStore};
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, WriteBuilder, consolidate, node_id, scope},
    sqlite::TempStore,
    verify,
};

#[tokio::test(flavor = "multi_thread")]
async fn tampering_with_moved_edges_and_merged_nodes_is_found() {
    let (temp, s) = (TempStore::new(), scope("s"));
    let store = temp.store();
    let concept = |node: &mut aionis_core::write::NodeInput| node.node_type = NodeType::Concept;
    let write = WriteBuilder::new(&s).node("a", "same").vector(vec![1.0; DIM]).with(concept);
    let write = write.node("b", "same").vector(vec![1.0; DIM]).with(concept).node("x", "x").node("y", "y");
    let write = write.edge("a", "x").edge("b", "x").edge("a", "y").edge("b", "y").edge("a", "b");
    store.write(write.prepared()).await.unwrap();
    consolidate(&*store, &s, 1, (node_id(&s, "a"), node_id(&s, "b"))).await;
    assert_sound(&*store).await;
    let put_back = "INSERT INTO memory_edges (scope_key, id, type, src_id, dst_id, weight, confidence, decay_rate, \
                        last_activated, created_at, commit_seq) \
                    SELECT scope_key, edge_id, type, src_id, dst_id, weight, confidence, decay_rate, last_activated, \
                        created_at, commit_seq FROM memory_removed_edges LIMIT 1";
    for (sql, wanted) in [
        (put_back, "erased it"),
        ("DELETE FROM memory_edges", "not stored"),
        ("UPDATE memory_edges SET weight = weight / 2", "digest"),
        ("UPDATE memory_nodes SET commit_seq = commit_seq - 1 WHERE activity IS NOT NULL", "last commit"),
        (
            "UPDATE memory_commits SET changes = replace(changes, '\"erase\"', '\"touch\"') WHERE kind LIKE 'consolidation%'",
            "hash",
        ),
        ("UPDATE memory_commits SET kind = 'write' WHERE kind = 'consolidation_redirect_edges'", "hash"),
    ] {
        let copy = temp.crash_copy();
        assert!(copy.raw().execute(sql, []).unwrap() > 0, "{sql}");
        let opened = copy.open();
        let broken = verify(&*opened.port()).await.expect_err(sql);
        let told = format!("{broken:?}");
        assert!(told.contains(wanted), "{sql}: {told}");
    }
}

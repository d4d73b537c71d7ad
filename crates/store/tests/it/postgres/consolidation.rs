//! Statements of consolidation; what they do is in the conformance suite.

use aionis_core::{
    jobs::consolidation::{CandidateQuery, CandidateState, MergeAction, UndoWhich},
    model::NodeType,
    ports::store::{ConsolidationStore, ReadStore, RecallReader, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::fixtures::{DIM, START, WriteBuilder, act, candidate, consolidate, node_id, scope};
use uuid::Uuid;

/// The statements of [`exercise`], for `plans`.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("consolidation_aliases", "m.duplicate_id > $2"),
    ("consolidation_candidates", "c.state = ANY($2)"),
    ("consolidation_candidates_at", "WHERE low_id = q.id AND scope_key || '' = $1) c"),
    ("consolidation_commit", "WITH merge_commit AS"),
    ("consolidation_decide", "UPDATE memory_consolidation_candidates SET state = $3"),
    ("consolidation_edges", "AS q (src, type, dst)"),
    ("consolidation_head", "SELECT head_seq, head_hash, change_no, state FROM memory_scopes"),
    ("consolidation_keep_edges", "INSERT INTO memory_removed_edges"),
    ("consolidation_keep_merges", "INSERT INTO memory_merges"),
    ("consolidation_known", "SELECT c.pair_key FROM"),
    ("consolidation_mark", "UPDATE memory_consolidation_candidates c SET"),
    ("consolidation_merges", "run_id = q.id AND"),
    ("consolidation_node_ids", "n.id > $2 ORDER BY n.id LIMIT $3"),
    ("consolidation_nodes", "THEN n.embedding_model END"),
    ("consolidation_past_aliases", "m.applied_seq <= $2"),
    ("consolidation_put_edges", "SELECT $1, q.*, $11, $12 FROM UNNEST"),
    ("consolidation_queue", "INSERT INTO memory_consolidation_candidates"),
    (
        "consolidation_remove_edges",
        "DELETE FROM memory_edges t USING UNNEST(array_fill($1::text, ARRAY[cardinality($2)])",
    ),
    ("consolidation_removed", "target_id = q.id AND"),
];

/// Pairs, merges, moved edges and undoing them, in a scope of its own.
pub(super) async fn exercise(store: &PostgresStore) {
    let s = scope("merged");
    for n in 0..12_u128 {
        let (a, b, far) = (format!("a{n}"), format!("b{n}"), format!("far{n}"));
        let concept = |node: &mut aionis_core::write::NodeInput| node.node_type = NodeType::Concept;
        let write =
            WriteBuilder::new(&s).input(&format!("{n}")).node(&a, "the same").vector(vec![1.0; DIM]).with(concept);
        let write = write.node(&b, "the same").vector(vec![1.0; DIM]).with(concept).node(&far, "far");
        store.write(write.edge(&a, &far).edge(&b, &far).edge(&far, &b).prepared()).await.unwrap();
        store.node_ids(&s, None, 5).await.unwrap();
        let ids = (node_id(&s, &a), node_id(&s, &b));
        if n < 6 {
            consolidate(store, &s, n, ids).await;
            store.scope_status(&s).await.unwrap();
            store.past(&s, 1, 1_000).await.unwrap();
        } else {
            let pair = candidate(store, &s, ids.0, ids.1).await;
            store.queue_candidates(&s, std::slice::from_ref(&pair), START).await.unwrap();
            let query = CandidateQuery { states: vec![CandidateState::Open], after: None, limit: 3 };
            assert_eq!(store.candidates(&s, &query).await.unwrap(), std::slice::from_ref(&pair));
            assert!(store.decide_candidate(&s, &pair.pair_key, CandidateState::Rejected, START).await.unwrap());
        }
    }
    for n in 0..6_u128 {
        let which = UndoWhich::Run(Uuid::from_u128(n));
        assert_eq!(act(store, &s, 100, MergeAction::Undo { which, force: false }).await.conflicts, []);
        store.scope_status(&s).await.unwrap();
    }
}

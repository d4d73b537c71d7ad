//! What checks read on PostgreSQL: every statement by an index, none that changes anything.

use aionis_core::{
    clock::Timestamp,
    jobs::{
        Target,
        consistency::{Probe, ScanTable, StorageEngine},
    },
    ports::store::{ConsistencyStore, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{FakeClock, WriteBuilder, scope},
    postgres::{TempDatabase, options},
};

/// The statements of [`exercise`], for `plans`.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("check_commits", "FROM memory_commits t WHERE t.scope_key = $1 ORDER BY t.seq LIMIT"),
    ("check_commits_next", "(t.seq) > ($3)"),
    ("check_commits_tail", "ORDER BY t.seq DESC"),
    ("check_decisions", "FROM memory_decisions t WHERE t.scope_key = $1 ORDER"),
    ("check_decisions_next", "FROM memory_decisions t WHERE t.scope_key = $1 AND (t.id) >"),
    ("check_edges", "FROM memory_edges t WHERE t.scope_key = $1 ORDER"),
    ("check_edges_next", "FROM memory_edges t WHERE t.scope_key = $1 AND (t.id) >"),
    ("check_feedback", "FROM memory_rule_feedback t WHERE t.scope_key = $1 ORDER"),
    ("check_feedback_next", "FROM memory_rule_feedback t WHERE t.scope_key = $1 AND (t.id) >"),
    ("check_head", "FROM memory_scopes t WHERE"),
    ("check_nodes", "FROM memory_nodes t WHERE t.scope_key = $1 ORDER"),
    ("check_nodes_failed", "t.embedding_status = 'failed' ORDER BY t.id"),
    ("check_nodes_next", "FROM memory_nodes t WHERE t.scope_key = $1 AND (t.id) >"),
    ("check_nodes_pending", "t.embedding_pending_at < $3"),
    ("check_outbox", "t.published_at IS NULL ORDER BY t.id"),
    ("check_outbox_dead", "t.failed_at IS NOT NULL ORDER"),
    ("check_outbox_next", "t.published_at IS NULL AND (t.id) >"),
    ("check_outbox_open", "t.tenant_id = $3"),
    ("check_rules", "FROM memory_rule_defs t WHERE t.scope_key = $1 ORDER"),
    ("check_rules_next", "(t.rule_node_id) > ($3)"),
    ("check_scope_keys", "leaps0"),
    ("check_vectors", "FROM memory_vectors t WHERE t.scope_key = $1 ORDER"),
    ("check_vectors_next", "(t.node_id, t.model) >"),
    ("check_versions", "FROM memory_node_versions t WHERE t.scope_key = $1 ORDER"),
    ("check_versions_next", "(t.node_id, t.version) >"),
];

/// Tables and probes that this engine has.
const TABLES: [ScanTable; 10] = [
    ScanTable::Scopes,
    ScanTable::Commits,
    ScanTable::Nodes,
    ScanTable::Vectors,
    ScanTable::Versions,
    ScanTable::Edges,
    ScanTable::Rules,
    ScanTable::Decisions,
    ScanTable::Feedback,
    ScanTable::Outbox,
];
const PROBES: [Probe; 5] = [Probe::ChainTail, Probe::Pending, Probe::Failed, Probe::DeadLetters, Probe::OpenWork];

/// Reads a scope and everything, as the checks do.
pub(super) async fn exercise(store: &PostgresStore) {
    assert_eq!(store.storage_engine(), StorageEngine::Postgres);
    let mut view = store.consistency_view(&Target::Scope(scope("s"))).await.unwrap();
    for table in TABLES {
        let (mut rows, mut after) = (0, None);
        loop {
            let page = view.page(table, after.as_deref(), 7).await.unwrap();
            rows += page.len();
            // The head is one row, by its key.
            match page.last() {
                Some(last) if rows < 30 && table != ScanTable::Scopes => after = Some(last.key()),
                _ => break,
            }
        }
        assert!(rows > 0, "there is nothing in {table:?}");
    }
    for probe in PROBES {
        view.probe(probe, Timestamp(i64::MAX), 5).await.unwrap();
    }
    // A view holds a connection, and there may be one alone.
    drop(view);
    let mut everything = store.consistency_view(&Target::Deployment).await.unwrap();
    assert!(!everything.page(ScanTable::ScopeKeys, None, 1).await.unwrap().is_empty());
    assert!(!everything.probe(Probe::ScopeKeys, Timestamp(0), 1).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_of_one_moment_and_of_one_tenant_and_outlives_a_failure() {
    let database = TempDatabase::new().await;
    let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
    let s = scope("s");
    store.write(WriteBuilder::new(&s).node("a", "one").prepared()).await.unwrap();
    let elsewhere = aionis_testkit::fixtures::scope_of("acme", "s");
    store.write(WriteBuilder::new(&elsewhere).node("a", "one").prepared()).await.unwrap();
    let mut view = store.consistency_view(&Target::Scope(s.clone())).await.unwrap();
    assert_eq!(view.page(ScanTable::Nodes, None, 10).await.unwrap().len(), 1);
    store.write(WriteBuilder::new(&s).node("b", "two").prepared()).await.unwrap();
    assert_eq!(view.page(ScanTable::Nodes, None, 10).await.unwrap().len(), 1, "what came later is not seen");
    // There is no such table here: the statement fails, and the view goes on.
    view.page(ScanTable::Lexical, None, 10).await.unwrap_err();
    assert_eq!(view.page(ScanTable::Commits, None, 10).await.unwrap().len(), 1);
    drop(view);
    let mut later = store.consistency_view(&Target::Scope(s)).await.unwrap();
    assert_eq!(later.page(ScanTable::Nodes, None, 10).await.unwrap().len(), 2);
}

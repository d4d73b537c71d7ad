//! Moves between tiers write the rows that move, and nothing else.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    lifecycle::{AgingNode, DecayPolicy},
    model::Tier,
    operate::{MOVES_MAX, TierMove, prepare_maintenance},
    ports::store::{LifecycleStore, OperateStore, TierPage, WriteStore},
};
use aionis_store::postgres::{PostgresStore, VectorSearch};
use aionis_testkit::{
    fixtures::{DIM, FakeClock, Rng, START, WriteBuilder, node_id, scope},
    postgres::{TempDatabase, options},
};
use sqlx::{PgConnection, Row};

/// Statements of this part, as in `plans`.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("moved_since", "moved_no = hashtextextended"),
    ("record_use", "WITH free AS"),
    ("tier_page", "tier_no = hashtextextended"),
];

/// Every statement of this part, in a scope that is there.
pub(super) async fn exercise(store: &PostgresStore, s: &ScopeKey) {
    for round in 0..10 {
        let page = TierPage { scope: s.clone(), tier: Tier::Hot, after: None, limit: 5 };
        let nodes = store.tier_page(page.clone()).await.unwrap();
        let after = nodes.last().map(|node| node.id);
        assert_eq!((nodes.len(), store.tier_page(TierPage { after, ..page }).await.unwrap().len()), (5, 5));
        store.moved_since(s, START).await.unwrap();
        let at = Timestamp(START.0 + 1 + round);
        assert_eq!(store.record_use(s, &[nodes[0].id], at, at).await.unwrap(), 1);
    }
}

fn planned(node: &AgingNode, to: Tier, at: Timestamp) -> TierMove {
    TierMove {
        id: node.id,
        from: node.tier,
        to,
        salience: DecayPolicy::default().salience(node.salience, &node.decay, at),
        salience_at: at,
        since: node.decay.since,
        used_at: node.decay.used_at,
        alias_of: node.alias_of,
    }
}

/// Moves so many nodes of a tier, a commit per page.
async fn move_some(store: &PostgresStore, s: &ScopeKey, (from, to): (Tier, Tier), count: usize, at: Timestamp) {
    let mut left = count;
    while left > 0 {
        let page = TierPage { scope: s.clone(), tier: from, after: None, limit: left.min(MOVES_MAX) };
        let nodes = store.tier_page(page).await.unwrap();
        let moves = nodes.iter().map(|node| planned(node, to, at)).collect();
        let done = store.operate(prepare_maintenance(s.clone(), "salience_decay", at, moves)).await.unwrap();
        assert_eq!(done.changed.len(), nodes.len());
        left -= nodes.len();
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Figures {
    nodes_updated: i64,
    vectors_updated: i64,
    vectors_inserted: i64,
    vector_indexes_bytes: i64,
}

async fn figures(owner: &mut PgConnection) -> Figures {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *owner).await.unwrap();
    let sql = "SELECT n.n_tup_upd, v.n_tup_upd, v.n_tup_ins, pg_indexes_size('memory_vectors') \
               FROM pg_stat_user_tables n, pg_stat_user_tables v \
               WHERE n.relname = 'memory_nodes' AND v.relname = 'memory_vectors'";
    let row = sqlx::query(sql).fetch_one(owner).await.unwrap();
    Figures {
        nodes_updated: row.get(0),
        vectors_updated: row.get(1),
        vectors_inserted: row.get(2),
        vector_indexes_bytes: row.get(3),
    }
}

/// 2,000 nodes with vectors, of which some move: as many rows are written as nodes move, and no vector.
#[tokio::test(flavor = "multi_thread")]
async fn ops_14_only_what_moves_is_written_and_no_vector() {
    const NODES: usize = 2_000;
    const MOVED: usize = 1_200;
    let database = TempDatabase::flat().await;
    let mut options = options(&database.url());
    options.vector_search = VectorSearch::Hnsw;
    let (clock, s) = (FakeClock::new(), scope("s"));
    let store = PostgresStore::open(&options, clock.clone()).await.unwrap();
    let (mut rng, mut write) = (Rng::new(5), WriteBuilder::new(&s));
    for n in 0..NODES {
        write = write.node(&format!("n{n}"), "text").vector(rng.vector(DIM));
    }
    store.write(write.prepared()).await.unwrap();
    store.close().await;
    let mut owner = database.owner().await;
    super::plans::alone(&mut owner).await;
    let before = figures(&mut owner).await;

    let at = clock.advance(Duration::from_secs(20 * 86_400));
    let store = PostgresStore::open(&options, clock.clone()).await.unwrap();
    move_some(&store, &s, (Tier::Hot, Tier::Warm), MOVED, at).await;
    store.close().await;
    super::plans::alone(&mut owner).await;
    let after = figures(&mut owner).await;
    let moved = i64::try_from(MOVED).unwrap();
    assert_eq!(after, Figures { nodes_updated: before.nodes_updated + moved, ..before });

    // What leaves recall is marked so beside its vector; the vector's index is not touched for it.
    let at = clock.advance(Duration::from_secs(50 * 86_400));
    let store = PostgresStore::open(&options, clock).await.unwrap();
    move_some(&store, &s, (Tier::Warm, Tier::Cold), 20, at).await;
    store.close().await;
    super::plans::alone(&mut owner).await;
    let cold = figures(&mut owner).await;
    assert_eq!((cold.nodes_updated, cold.vectors_updated), (after.nodes_updated + 20, after.vectors_updated + 20));
    assert_eq!(cold.vectors_inserted, after.vectors_inserted);
}

/// Noting use rewrites no index, waits for nobody, and passes over what somebody else is changing.
#[tokio::test(flavor = "multi_thread")]
async fn use_is_noted_in_place_and_waits_for_nobody() {
    let database = TempDatabase::flat().await;
    let (clock, s) = (FakeClock::new(), scope("s"));
    let store = PostgresStore::open(&options(&database.url()), clock.clone()).await.unwrap();
    let names: Vec<String> = (0..4).map(|n| format!("n{n}")).collect();
    let write = names.iter().fold(WriteBuilder::new(&s), |write, name| write.node(name, "text"));
    store.write(write.prepared()).await.unwrap();
    let ids: Vec<NodeId> = names.iter().map(|name| node_id(&s, name)).collect();
    let mut owner = database.owner().await;
    sqlx::query("BEGIN").execute(&mut owner).await.unwrap();
    sqlx::query("SELECT 1 FROM memory_nodes WHERE id = $1 FOR UPDATE")
        .bind(ids[0].0)
        .execute(&mut owner)
        .await
        .unwrap();
    let at = clock.advance(Duration::from_secs(86_400));
    assert_eq!(store.record_use(&s, &ids, at, START).await.unwrap(), 3);
    sqlx::query("ROLLBACK").execute(&mut owner).await.unwrap();
    assert_eq!(store.record_use(&s, &ids, at, START).await.unwrap(), 1);
    store.close().await;
    super::plans::alone(&mut owner).await;
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut owner).await.unwrap();
    let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'memory_nodes'";
    let row = sqlx::query(sql).fetch_one(&mut owner).await.unwrap();
    let (updated, in_place): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((updated, in_place), (4, 4), "an update that rewrites indexes");
}

//! Purging, as only the PostgreSQL engine does it: partitions, several processes.

use std::sync::Arc;

use aionis_core::{
    canon::{Digest, sha256},
    clock::Timestamp,
    error::DomainError,
    forget::PreparedForget,
    ids::{NodeId, ScopeKey},
    jobs::{
        consolidation::{MergeAction, PreparedMerge, TYPES},
        scope_purge::{PurgeMode, PurgePlan, PurgeRecord, PurgeState, PurgeStrategy, plan_purge},
    },
    lifecycle::DecayPolicy,
    model::NodeType,
    operate::{NodeNames, Operation, Outcome},
    ports::store::{
        ConsolidationStore, FindQuery, ForgetStore, LexicalQuery, OperateStore, PurgeStore, ReadStore, RecallReader,
        StoreError, WriteStore,
    },
    read::{Eyes, FindFilter},
    text,
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    assert_sound,
    fixtures::{FakeClock, WriteBuilder, anyone, candidate, everything, node_id, operation, scope},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;

async fn open(database: &TempDatabase) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap())
}

async fn plan(store: &PostgresStore, s: &ScopeKey, mode: PurgeMode) -> PurgePlan {
    plan_purge(s, &store.purge_survey(s).await.unwrap(), mode, false).unwrap()
}

async fn begin(store: &PostgresStore, s: &ScopeKey, mode: PurgeMode) -> PurgePlan {
    let plan = plan(store, s, mode).await;
    assert!(store.begin_purge(s, &plan, "ops", Timestamp(1)).await.unwrap());
    plan
}

async fn finish(store: &PostgresStore, s: &ScopeKey, plan: &PurgePlan) -> PurgeRecord {
    loop {
        if let Some(record) = store.purge_step(s, plan.hash, 100, Timestamp(2)).await.unwrap().done {
            return record;
        }
    }
}

/// A table that is added and not purged is noticed here.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_scope_is_purged_or_known_to_stay() {
    let database = TempDatabase::new().await;
    let sql = "SELECT c.relname::text COLLATE \"C\" FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relkind IN ('r', 'p') AND a.attname = 'scope_key' AND NOT c.relispartition \
                   AND c.relnamespace = 'public'::regnamespace ORDER BY 1";
    let rows = sqlx::query(sql).fetch_all(&mut database.owner().await).await.unwrap();
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let (purged, kept) = aionis_store::purged_tables(false);
    let mut known: Vec<&str> = purged.into_iter().chain(kept.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(tables, known);
}

async fn found(store: &PostgresStore, s: &ScopeKey, word: &str) -> Vec<NodeId> {
    store.scope_status(s).await.unwrap();
    let query =
        LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms: text::query_terms(word), limit: 10 };
    store.lexical(query).await.unwrap().docs.into_iter().map(|doc| doc.id).collect()
}

async fn listed(store: &PostgresStore, s: &ScopeKey) -> usize {
    let query = FindQuery {
        scope: s.clone(),
        filter: FindFilter::default(),
        eyes: Eyes::Of(anyone()),
        as_of: None,
        after: None,
        offset: 0,
        limit: 50,
        scan_max: 1_000,
        maybe_named: Vec::new(),
    };
    store.find(query).await.unwrap().nodes.len()
}

/// What another process holds in memory must not answer: not while the scope is purged, not afterwards, and not when the
/// scope is written again with as many changes, or more, than the image has seen.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_process_does_not_outlive_the_scope() {
    let database = TempDatabase::new().await;
    let (a, b) = (open(&database).await, open(&database).await);
    let s = scope("s");
    for changes_after in [1, 5, 12] {
        for n in 0..5 {
            let name = format!("harbour{n}");
            a.write(WriteBuilder::new(&s).input(&name).node(&name, "harbour").prepared()).await.unwrap();
        }
        for store in [&a, &b] {
            assert_eq!(found(store, &s, "harbour").await.len(), 5);
        }
        let plan = begin(&a, &s, PurgeMode::Auto).await;
        for store in [&a, &b] {
            assert!(found(store, &s, "harbour").await.is_empty());
            assert_eq!((store.scope_status(&s).await.unwrap().head_seq, listed(store, &s).await), (0, 0));
        }
        finish(&a, &s, &plan).await;
        for n in 0..changes_after {
            let name = format!("ferry{n}");
            a.write(WriteBuilder::new(&s).input(&name).node(&name, "ferry").prepared()).await.unwrap();
        }
        for store in [&b, &a] {
            assert!(found(store, &s, "harbour").await.is_empty(), "after {changes_after} changes");
            assert_eq!(found(store, &s, "ferry").await.len(), changes_after.min(10));
            assert_eq!(store.scope_status(&s).await.unwrap().nodes, changes_after as u64);
        }
        assert_sound(&*b).await;
        let again = begin(&b, &s, PurgeMode::Auto).await;
        finish(&b, &s, &again).await;
    }
}

/// Writers at work in another process while a purge begins: each is stored before and purged, or refused, or of the new
/// scope; nothing of the old one is left.
#[tokio::test(flavor = "multi_thread")]
async fn writes_at_once_are_before_the_purge_or_refused_or_after_it() {
    let database = TempDatabase::new().await;
    let (a, b) = (open(&database).await, open(&database).await);
    let s = scope("s");
    a.write(WriteBuilder::new(&s).input("first").node("first", "harbour").prepared()).await.unwrap();
    let writer = tokio::spawn({
        let (b, s) = (Arc::clone(&b), s.clone());
        async move {
            let (mut stored, mut refused) = (0, 0);
            for n in 0..300 {
                let name = format!("n{n}");
                match b.write(WriteBuilder::new(&s).input(&name).node(&name, "harbour").prepared()).await {
                    Ok(_) => stored += 1,
                    Err(StoreError::Rejected(e)) if e.code == "scope_purging" => refused += 1,
                    Err(e) => panic!("{e:?}"),
                }
            }
            (stored, refused)
        }
    });
    // The head moves all the time: a plan holds only if no write came between.
    let plan = loop {
        let plan = plan(&a, &s, PurgeMode::Auto).await;
        if a.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap() {
            break plan;
        }
    };
    let record = finish(&a, &s, &plan).await;
    let (stored, _) = writer.await.unwrap();
    let after = a.scope_status(&s).await.unwrap();
    assert_eq!(record.rows["memory_commits"] + after.head_seq, stored + 1);
    assert_sound(&*a).await;
}

/// What waits for a scope while its purge ends finds none: it is planned anew, and stores no commit of a scope without head.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_while_a_purge_ended_finds_no_scope() {
    let database = TempDatabase::new().await;
    let store = open(&database).await;
    let mut owner = database.owner().await;
    for asked in ["operate", "forget", "merge", "write"] {
        let s = scope(asked);
        let first =
            WriteBuilder::new(&s).input("first").node("a", "harbour").with(|node| node.node_type = NodeType::Concept);
        let first = first.node("b", "harbour").with(|node| node.node_type = NodeType::Concept).prepared();
        store.write(first).await.unwrap();
        let ids = [node_id(&s, "a"), node_id(&s, "b")];
        let pair = candidate(&*store, &s, ids[0], ids[1]).await;
        store.queue_candidates(&s, std::slice::from_ref(&pair), Timestamp(1)).await.unwrap();
        let look = store.forget(forgetting(&s, ids[0], None)).await.unwrap();
        let token = Digest::from_hex(&look.token).ok();
        let mut held = owner.begin().await.unwrap();
        let hold = "SELECT pg_backend_pid() FROM memory_scopes WHERE scope_key = $1 FOR UPDATE";
        let holder: i32 = sqlx::query_scalar(hold).bind(s.as_str()).fetch_one(&mut *held).await.unwrap();
        let under_way = tokio::spawn({
            let (store, s) = (Arc::clone(&store), s.clone());
            async move {
                match asked {
                    "operate" => store.operate(operation(&s, None, activation(ids[0]))).await.err(),
                    "forget" => store.forget(forgetting(&s, ids[0], token)).await.err(),
                    "merge" => store.merge(&merging(&s, pair.pair_key)).await.err(),
                    _ => store.write(WriteBuilder::new(&s).input("late").node("late", "late").prepared()).await.err(),
                }
            }
        });
        let mut look = database.owner().await;
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))";
        while !sqlx::query_scalar::<_, bool>(waits).bind(holder).fetch_one(&mut look).await.unwrap() {
            assert!(!under_way.is_finished(), "{asked} waits for the scope");
            tokio::task::yield_now().await;
        }
        // What the last step of a purge does, with all the steps before it.
        for table in aionis_store::purged_tables(false).0.into_iter().chain(["memory_scopes"]) {
            let sql = format!("DELETE FROM {table} WHERE scope_key = $1");
            sqlx::query(AssertSqlSafe(sql)).bind(s.as_str()).execute(&mut *held).await.unwrap();
        }
        held.commit().await.unwrap();
        let error = under_way.await.unwrap().map(|error| DomainError::from(error).code);
        let wanted = if asked == "write" { 1 } else { 0 };
        assert_eq!(count(&mut owner, "memory_commits", &s).await, wanted, "{asked}: {error:?}");
        assert_eq!(count(&mut owner, "memory_nodes", &s).await, wanted, "{asked}: {error:?}");
        assert_eq!(count(&mut owner, "memory_scopes", &s).await, wanted, "{asked}: {error:?}");
        // The others tell what they did not find.
        assert_eq!(error.is_some(), asked == "forget", "{asked}: {error:?}");
    }
    assert_sound(&*store).await;
}

fn activation(id: NodeId) -> Operation {
    Operation::Activate {
        nodes: NodeNames { ids: vec![id], ..NodeNames::default() },
        outcome: Outcome::Positive,
        activate: true,
        run_id: None,
        reason: None,
    }
}

fn forgetting(s: &ScopeKey, id: NodeId, token: Option<Digest>) -> PreparedForget {
    PreparedForget {
        scope: s.clone(),
        actor: "ann".to_owned(),
        ids: vec![id],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: sha256("forget"),
        idempotency: None,
    }
}

fn merging(s: &ScopeKey, pair: String) -> PreparedMerge {
    let action = MergeAction::Apply {
        pairs: vec![pair],
        types: TYPES.to_vec(),
        allow_contradictory: false,
        decay: DecayPolicy::default(),
    };
    PreparedMerge { scope: s.clone(), actor: "job".to_owned(), run: Uuid::from_u128(1), action, dry_run: false }
}

/// Makes a table anew, by hand, with a partition for each of some scopes and one for all others.
async fn partition(owner: &mut PgConnection, table: &str, keys: &[&ScopeKey]) {
    let key = if table == "memory_outbox" { "id" } else { "node_id, version" };
    let mut sql = format!(
        "ALTER TABLE {table} RENAME TO {table}_flat; \
         CREATE TABLE {table} (LIKE {table}_flat INCLUDING DEFAULTS INCLUDING GENERATED) PARTITION BY LIST (scope_key); \
         CREATE TABLE \"{table} rest\" PARTITION OF {table} DEFAULT; \
         CREATE UNIQUE INDEX ON {table} (scope_key, {key}); ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY tenant ON {table} USING (true); \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO aionis_runtime;"
    );
    for (n, key) in keys.iter().enumerate() {
        let literal = key.as_str().replace('\'', "''");
        sql.push_str(&format!("CREATE TABLE \"{table} P{n}\" PARTITION OF {table} FOR VALUES IN ('{literal}');"));
    }
    // One that holds two scopes is nobody's own.
    sql.push_str(&format!("CREATE TABLE {table}_two PARTITION OF {table} FOR VALUES IN ('acme/two', 'acme/three');"));
    sql.push_str(&format!("DROP TABLE {table}_flat"));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(owner).await.unwrap();
}

async fn count(owner: &mut PgConnection, table: &str, s: &ScopeKey) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE scope_key = $1");
    sqlx::query(AssertSqlSafe(sql)).bind(s.as_str()).fetch_one(owner).await.unwrap().get(0)
}

const PARTITIONED: [&str; 2] = ["memory_node_versions", "memory_outbox"];

/// The scope `perf_1` is not `perfX1`: a partition is found by its whole bound, however the names are alike.
#[tokio::test(flavor = "multi_thread")]
async fn ops_06_a_partition_is_truncated_only_if_its_bound_is_exactly_the_scope() {
    let database = TempDatabase::flat().await;
    let store = open(&database).await;
    let names = ["perf_1", "perfX1", "perf%", "it's \"quoted\"", "back\\slash", "schnee☃", "a', 'b", "two", "flat"];
    let scopes: Vec<ScopeKey> = names.iter().map(|name| aionis_testkit::fixtures::scope_of("acme", name)).collect();
    let own: Vec<&ScopeKey> = scopes.iter().filter(|s| !["two", "flat"].contains(&s.scope())).collect();
    let mut owner = database.owner().await;
    for table in PARTITIONED {
        partition(&mut owner, table, &own).await;
    }
    for s in &scopes {
        for version in 0..3 {
            let text = format!("version {version}");
            store.write(WriteBuilder::new(s).deriving().input(&text).node("a", &text).prepared()).await.unwrap();
        }
    }
    for (at, s) in scopes.iter().enumerate() {
        let is_own = own.contains(&s);
        let plan = begin(&store, s, PurgeMode::Auto).await;
        for table in &plan.tables {
            let truncated = table.strategy == PurgeStrategy::PartitionTruncate;
            assert_eq!(truncated, is_own && PARTITIONED.contains(&table.table.as_str()), "{s}: {table:?}");
        }
        let record = finish(&store, s, &plan).await;
        for table in PARTITIONED {
            let rows = if table == "memory_outbox" { 3 } else { 2 };
            assert_eq!(record.rows[table], rows as u64, "{s}: rows of a truncated partition are counted");
            for (other, s) in scopes.iter().enumerate() {
                let wanted = if other <= at { 0 } else { rows };
                assert_eq!(count(&mut owner, table, s).await, wanted, "{table} of {s} after {}", scopes[at]);
            }
        }
    }
    assert_sound(&*store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_delete_leaves_the_partition_and_its_neighbours() {
    let database = TempDatabase::flat().await;
    let store = open(&database).await;
    let (s, other) = (scope("own"), scope("beside"));
    let mut owner = database.owner().await;
    partition(&mut owner, "memory_node_versions", &[&s, &other]).await;
    for s in [&s, &other] {
        for version in 0..3 {
            let text = format!("version {version}");
            store.write(WriteBuilder::new(s).input(&text).node("a", &text).prepared()).await.unwrap();
        }
    }
    let survey = store.purge_survey(&s).await.unwrap();
    let refused = plan_purge(&s, &survey, PurgeMode::Partition, false).unwrap_err();
    assert!(refused.message.contains("memory_nodes") && !refused.message.contains("versions"), "{refused}");
    let plan = begin(&store, &s, PurgeMode::Delete).await;
    assert!(plan.truncated().is_empty());
    // Places of rows are numbered in each partition anew: the neighbour's at the same places stay.
    assert_eq!(finish(&store, &s, &plan).await.rows["memory_node_versions"], 2);
    assert_eq!(count(&mut owner, "memory_node_versions", &other).await, 2);
    assert!(store.history(&other, node_id(&other, "a"), None, 5).await.unwrap().len() == 3);
}

/// A reader of the partition makes the truncation wait, not for ever; the next step does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_that_cannot_have_its_lock_changes_nothing_and_is_done_by_the_next_step() {
    let database = TempDatabase::flat().await;
    let store = open(&database).await;
    let s = scope("own");
    let mut owner = database.owner().await;
    partition(&mut owner, "memory_outbox", &[&s]).await;
    store.write(WriteBuilder::new(&s).deriving().input("1").node("a", "text").prepared()).await.unwrap();
    let plan = begin(&store, &s, PurgeMode::Auto).await;
    let held = database.hold("BEGIN; LOCK TABLE \"memory_outbox P0\" IN ACCESS SHARE MODE").await;
    let waited = store.purge_step(&s, plan.hash, 100, Timestamp(2)).await.unwrap_err();
    assert!(matches!(waited, StoreError::Unavailable(_)), "{waited:?}");
    assert_eq!(count(&mut owner, "memory_outbox", &s).await, 1);
    drop(held);
    assert_eq!(finish(&store, &s, &plan).await.rows["memory_outbox"], 1);
}

/// A scope that a copy is under way of is left alone; one that only bears the mark, as where a tenant was moved away from,
/// is purged, and the others of its tenant stay marked.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_scope_is_purged_unless_a_copy_of_it_is_under_way() {
    let database = TempDatabase::new().await;
    let store = open(&database).await;
    let (s, other) = (scope("s"), scope("other"));
    for s in [&s, &other] {
        store.write(WriteBuilder::new(s).input("1").node("a", "harbour").prepared()).await.unwrap();
    }
    let plan = plan(&store, &s, PurgeMode::Auto).await;
    let mut owner = database.owner().await;
    let marked = "UPDATE memory_scopes SET state = 'importing'";
    sqlx::query(marked).execute(&mut owner).await.unwrap();
    let copied = "INSERT INTO aionis_meta (key, value) VALUES ('import:' || $1, '{}')";
    sqlx::query(copied).bind(s.as_str()).execute(&mut owner).await.unwrap();
    assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Importing);
    assert!(!store.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap(), "a copy is under way");
    sqlx::query("DELETE FROM aionis_meta WHERE key LIKE 'import:%'").execute(&mut owner).await.unwrap();
    assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Open);
    assert!(store.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap());
    assert_eq!(finish(&store, &s, &plan).await.rows["memory_nodes"], 1);
    assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Absent);
    let left = "SELECT string_agg(scope_key || ' ' || state, ',') FROM memory_scopes";
    let left: String = sqlx::query(left).fetch_one(&mut owner).await.unwrap().get(0);
    assert_eq!(left, format!("{other} importing"));
}

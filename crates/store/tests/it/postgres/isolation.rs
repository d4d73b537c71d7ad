//! Tenants are kept apart by the database itself: raw SQL as the program's role sees and changes one tenant's rows only.

use aionis_core::{
    forget::PreparedForget,
    ids::ScopeKey,
    jobs::{
        BeginRun, Target,
        scope_purge::{PurgeMode, plan_purge},
    },
    operate::{NewDecision, Operation, OperationInput, Outcome, prepare_operation},
    ports::store::{ForgetStore, JobStore, OperateStore, PurgeStore, RecallAudit, RecallStore, WriteStore},
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    conformance::Subject,
    fixtures::{DIM, WriteBuilder, agent, anyone, consolidate, everything, node_id, scope_of, settings},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, PgConnection, Row};

const TABLES: &[&str] = &[
    "memory_scopes",
    "memory_commits",
    "memory_nodes",
    "memory_node_versions",
    "memory_edges",
    "memory_vectors",
    "memory_rule_defs",
    "memory_outbox",
    "memory_requests",
    "memory_recall_audit",
    "memory_decisions",
    "memory_rule_feedback",
    "memory_erasures",
    "memory_consolidation_candidates",
    "memory_merges",
    "memory_removed_edges",
    "job_states",
    "job_runs",
    "memory_purges",
];

/// A row in every table for a tenant.
async fn fill(store: &PostgresStore, tenant: &str) -> ScopeKey {
    let s = scope_of(tenant, "s");
    let rule = |node: &mut aionis_core::write::NodeInput| {
        node.node_type = aionis_core::model::NodeType::Rule;
        node.slots = Some(serde_json::json!({ "if": {}, "then": {} }));
    };
    let write = |text: &str, key: &str| {
        WriteBuilder::new(&s)
            .deriving()
            .key(key, true)
            .node("a", text)
            .node("b", "two")
            .vector(vec![1.0; DIM])
            .node("r", "a rule")
            .with(rule)
            .edge("a", "b")
    };
    store.write(write("one", "k1").prepared()).await.unwrap();
    store.write(write("another", "k2").prepared()).await.unwrap();
    let made = NewDecision {
        id: uuid::Uuid::new_v4(),
        run_id: None,
        selected_tool: Some("psql".to_owned()),
        candidates: vec!["psql".to_owned()],
        context_sha256: "c".to_owned(),
        policy_sha256: "p".to_owned(),
        policy: serde_json::json!({}),
        source_rules: Vec::new(),
        tool_rules: Vec::new(),
        metadata: serde_json::json!({}),
    };
    store.put_decision(&s, made).await.unwrap();
    let input = OperationInput {
        scope: s.clone(),
        actor: None,
        input_text: Some("why".to_owned()),
        input_sha256: None,
        idempotency: None,
        viewer: None,
    };
    let feedback =
        Operation::RuleFeedback { rule: node_id(&s, "r"), outcome: Outcome::Positive, run_id: None, note: None };
    store.operate(prepare_operation(input, feedback, &settings(DIM, false)).unwrap()).await.unwrap();
    let audit = RecallAudit {
        scope: s.clone(),
        endpoint: "recall",
        viewer: anyone(),
        query_sha256: "q".to_owned(),
        seeds: 1,
        nodes: 1,
        edges: 1,
        at: aionis_core::clock::Timestamp(1),
    };
    store.record_recalls(vec![audit]).await.unwrap();
    store.write(WriteBuilder::new(&s).input("gone").node("gone", "forgotten").prepared()).await.unwrap();
    let asked = |token| PreparedForget {
        scope: s.clone(),
        actor: "a".to_owned(),
        ids: vec![node_id(&s, "gone")],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: aionis_core::canon::sha256("forget"),
        idempotency: None,
    };
    let look = store.forget(asked(None)).await.unwrap();
    store.forget(asked(aionis_core::canon::Digest::from_hex(&look.token).ok())).await.unwrap();
    merge(store, &s).await;
    let begin = BeginRun {
        run: uuid::Uuid::new_v4(),
        job: "sweep".to_owned(),
        target: Target::Scope(s.clone()),
        holder: "h".to_owned(),
        dry_run: false,
        params: serde_json::json!({}),
        now: aionis_core::clock::Timestamp(1),
        lease: Some(std::time::Duration::from_secs(1)),
        due_before: None,
    };
    store.begin_run(begin).await.unwrap();
    let purged = scope_of(tenant, "purged");
    store.write(WriteBuilder::new(&purged).input("1").node("a", "one").prepared()).await.unwrap();
    let survey = store.purge_survey(&purged).await.unwrap();
    let plan = plan_purge(&purged, &survey, PurgeMode::Auto, false).unwrap();
    assert!(store.begin_purge(&purged, &plan, "ops", aionis_core::clock::Timestamp(1)).await.unwrap());
    let step = store.purge_step(&purged, plan.hash, 1_000, aionis_core::clock::Timestamp(2)).await.unwrap();
    assert!(step.done.is_some());
    s
}

/// Two nodes that are one, with a moved edge.
async fn merge(store: &PostgresStore, s: &ScopeKey) {
    let concept = |node: &mut aionis_core::write::NodeInput| node.node_type = aionis_core::model::NodeType::Concept;
    let same = WriteBuilder::new(s).input("same").node("c", "same").vector(vec![1.0; DIM]).with(concept);
    let same = same.node("d", "same").vector(vec![1.0; DIM]).with(concept).edge("c", "b").edge("d", "b");
    store.write(same.prepared()).await.unwrap();
    consolidate(store, s, 1, (node_id(s, "c"), node_id(s, "d"))).await;
}

async fn tenants_seen(connection: &mut PgConnection, table: &str) -> Vec<String> {
    let sql = format!("SELECT DISTINCT tenant_id FROM {table} ORDER BY 1");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Runs statements as the program's role, for a tenant or for none.
async fn as_runtime(connection: &mut PgConnection, tenant: Option<&str>) {
    sqlx::raw_sql("RESET aionis.tenant; SET ROLE aionis_runtime").execute(&mut *connection).await.unwrap();
    if let Some(tenant) = tenant {
        let sql = format!("SET aionis.tenant = '{tenant}'");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sql_sees_one_tenant_in_every_table() {
    let database = TempDatabase::new().await;
    let store =
        PostgresStore::open(&options(&database.url()), aionis_testkit::fixtures::FakeClock::new()).await.unwrap();
    for tenant in ["acme", "globex"] {
        fill(&store, tenant).await;
    }
    let mut connection = database.owner().await;
    for table in TABLES {
        assert_eq!(tenants_seen(&mut connection, table).await, ["acme", "globex"], "{table} holds both");
    }
    for (tenant, other) in [("acme", "globex"), ("globex", "acme")] {
        as_runtime(&mut connection, Some(tenant)).await;
        for table in TABLES {
            assert_eq!(tenants_seen(&mut connection, table).await, [tenant], "{table} as {tenant}");
            // Naming the other's rows does not help.
            let sql = format!("SELECT COUNT(*) FROM {table} WHERE scope_key = '{other}/s'");
            let seen: i64 = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap().get(0);
            assert_eq!(seen, 0, "{table}");
            let sql = format!("DELETE FROM {table} WHERE scope_key = '{other}/s'");
            let deleted = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await;
            if *table == "memory_purges" {
                assert!(deleted.unwrap_err().to_string().contains("permission denied"), "records stay");
            } else {
                assert_eq!(deleted.unwrap().rows_affected(), 0, "{table}");
            }
        }
        // Nor may a row be written for the other, or moved to it.
        let insert = format!(
            "INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
                              VALUES ('{other}/s', 'forged', '\\x00', '{{}}', 0)"
        );
        let refused = sqlx::query(AssertSqlSafe(insert)).execute(&mut connection).await.unwrap_err();
        assert!(refused.to_string().contains("row-level security"), "{refused}");
        let moved = format!("UPDATE memory_requests SET scope_key = '{other}/s' WHERE scope_key = '{tenant}/s'");
        let refused = sqlx::query(AssertSqlSafe(moved)).execute(&mut connection).await.unwrap_err();
        assert!(refused.to_string().contains("row-level security"), "{refused}");
    }
    as_runtime(&mut connection, None).await;
    for table in TABLES {
        assert_eq!(tenants_seen(&mut connection, table).await, Vec::<String>::new(), "{table} for nobody");
    }
}

/// A statement may say itself for whom it is, as recall's do: it sees that tenant's rows, and who is next sees none.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_says_for_whom_it_is_says_so_for_itself_alone() {
    let database = TempDatabase::new().await;
    let store =
        PostgresStore::open(&options(&database.url()), aionis_testkit::fixtures::FakeClock::new()).await.unwrap();
    let (acme, _) = (fill(&store, "acme").await, fill(&store, "globex").await);
    let mut connection = database.owner().await;
    as_runtime(&mut connection, None).await;
    let sql = "SELECT n.tenant_id FROM (SELECT set_config('aionis.tenant', $2, true) AS tenant) AS asker \
               CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND tenant_id = asker.tenant LIMIT 99) n";
    for (tenant, sees) in [("acme", true), ("globex", false), ("", false), ("*", false), ("acme", true)] {
        let rows = sqlx::query(sql).bind(acme.as_str()).bind(tenant).fetch_all(&mut connection).await.unwrap();
        assert_eq!(rows.is_empty(), !sees, "{tenant}");
        assert!(rows.iter().all(|row| row.get::<&str, _>(0) == "acme"));
        assert!(tenants_seen(&mut connection, "memory_nodes").await.is_empty(), "after {tenant}");
    }
    // What does not wait for it is looked at before, by nobody's eyes, or after: never by another's.
    let sql = "SELECT COUNT(*) FROM memory_nodes, (SELECT set_config('aionis.tenant', 'acme', true)) AS asker \
               WHERE scope_key = 'globex/s'";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_role_can_neither_change_the_schema_nor_switch_protection_off() {
    let database = TempDatabase::new().await;
    let mut connection = database.owner().await;
    as_runtime(&mut connection, Some("acme")).await;
    for sql in [
        "ALTER TABLE memory_nodes DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON memory_nodes",
        "DROP TABLE memory_nodes",
        "TRUNCATE memory_nodes",
        "UPDATE schema_migrations SET sha256 = 'x'",
    ] {
        let refused = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_err();
        let code = refused.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned));
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {refused}");
    }
}

/// A table that is added without protection is noticed here.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_scope_is_protected_and_its_keys_lead_with_the_scope() {
    let database = TempDatabase::new().await;
    let mut connection = database.owner().await;
    let rows = sqlx::query(
        "SELECT c.relname::text, c.relrowsecurity FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relkind IN ('r', 'p') AND a.attname = 'scope_key' AND NOT c.relispartition \
             AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(rows.iter().all(|row| row.get::<bool, _>(1)), "{tables:?}");
    let mut wanted: Vec<String> = TABLES.iter().map(|table| (*table).to_owned()).collect();
    tables.sort();
    wanted.sort();
    assert_eq!(tables, wanted, "the list of this test is complete");
    let keys = sqlx::query(
        // A secondary key holds the scope too, so that the tables can be distributed by it; it need not lead with it.
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'scope_key' \
         WHERE i.indisunique AND i.indrelid::regclass::text LIKE 'memory_%' \
             AND (i.indkey[0] = a.attnum OR NOT i.indisprimary AND a.attnum = ANY(i.indkey))",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let sound: Vec<String> = keys.iter().map(|key| key.get(0)).collect();
    let all = sqlx::query(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND indrelid::regclass::text LIKE 'memory_%'",
    );
    let all: Vec<String> = all.fetch_all(&mut connection).await.unwrap().iter().map(|key| key.get(0)).collect();
    assert!(all.len() >= TABLES.len());
    assert!(all.iter().all(|key| sound.contains(key)), "of {all:?} only these are keys of a scope: {sound:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_one_tenant_never_hold_anything_of_another() {
    let subject: Subject = aionis_testkit::postgres::subject().await;
    let (a, b) = (scope_of("acme", "s"), scope_of("globex", "s"));
    subject.write(WriteBuilder::new(&a).node("secret", "the vault code").vector(vec![1.0; DIM])).await;
    subject.write(WriteBuilder::new(&b).node("other", "nothing here").vector(vec![-1.0; DIM])).await;
    for (own, foreign) in [(&a, &b), (&b, &a)] {
        let status = subject.status(own).await;
        assert_eq!((status.head_seq, status.nodes), (1, 1));
        let seen: Vec<_> = subject.near(own, &[1.0; DIM], 10).await.into_iter().map(|hit| hit.id).collect();
        assert_eq!(seen.len(), 1);
        assert!(subject.store.rows(foreign, &seen).await.unwrap().is_empty(), "an id of another tenant is no key");
        assert!(subject.store.stored_vectors(foreign, &seen).await.unwrap().is_empty());
        let quoted = subject.store.quoted(own, &everything(agent("x")), &["secret".to_owned()]).await.unwrap();
        assert_eq!(quoted.is_empty(), own != &a);
    }
    assert_eq!(subject.store.outbox_status().await.unwrap().pending, 0);
}

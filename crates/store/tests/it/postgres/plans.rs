//! No statement of a request reads a whole table, and how each is planned is kept in files, so that a change is seen.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aionis_core::read::{AsOf, Eyes, FindFilter};
use aionis_core::{
    clock::Timestamp,
    forget::PreparedForget,
    jobs::scope_purge::{PurgeMode, PurgeState, plan_purge},
    model::{NodeType, RuleState},
    operate::{DecisionQuery, LinkMode, NodeNames, Operation, Outcome},
    ports::store::{
        ClaimRequest, DenseQuery, EdgeQuery, EmbeddedNode, FailedItem, FindQuery, ForgetStore, OperateStore,
        OutboxStore, PurgeStore, ReadStore, RecallAudit, RecallReader, RecallStore, WriteStore,
    },
};
use aionis_store::postgres::{PostgresOptions, PostgresStore, VectorSearch};
use aionis_testkit::{
    fixtures::{DIM, FakeClock, Rng, START, WriteBuilder, anyone, decision, everything, node_id, operation, scope},
    postgres::{TempDatabase, options},
};
use serde_json::json;
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use uuid::Uuid;

/// The major version the kept plans are of; other versions write plans differently.
const PLANNED_BY: i32 = 16;

/// Vectors written at once: so many that searching the index is cheaper than comparing them all.
const MANY: usize = 600;

fn opened_with(url: &str, search: VectorSearch) -> PostgresOptions {
    let mut options = options(url);
    // No scope is too small for the vector index here, so that its plan is seen too.
    options.exact_max = 0;
    options.vector_search = search;
    options.connections_max = 2;
    options
}

/// Sequential scans of the program's tables so far.
async fn sequential_scans(connection: &mut PgConnection) -> Vec<(String, i64)> {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let rows = sqlx::query(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE relname LIKE 'memory_%' OR relname = 'api_keys' ORDER BY relname",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<Option<i64>, _>(1).unwrap_or(0))).collect()
}

/// Waits until nobody else is connected: a backend tells its figures when it is idle or ends.
pub(super) async fn alone(connection: &mut PgConnection) {
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                  AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while sqlx::query(others).fetch_one(&mut *connection).await.unwrap().get::<i64, _>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_recalling_and_deriving_use_indexes_from_the_first_row_on() {
    for search in [VectorSearch::Codes, VectorSearch::Hnsw] {
        no_table_is_read_as_a_whole(TempDatabase::flat().await, search).await;
    }
}

/// There each statement is planned for the partition of its scope.
#[tokio::test(flavor = "multi_thread")]
async fn writing_recalling_and_deriving_use_indexes_of_partitions_too() {
    for search in [VectorSearch::Codes, VectorSearch::Hnsw] {
        no_table_is_read_as_a_whole(TempDatabase::partitioned().await, search).await;
    }
}

async fn no_table_is_read_as_a_whole(database: TempDatabase, search: VectorSearch) {
    let options = opened_with(&database.url(), search);
    // The first start may make an index, which reads the table; its figures are in once its connections are gone.
    PostgresStore::open(&options, FakeClock::new()).await.unwrap().close().await;
    let mut owner = database.owner().await;
    alone(&mut owner).await;
    let before = sequential_scans(&mut owner).await;
    let store = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
    exercise(&store).await;
    store.close().await;
    alone(&mut owner).await;
    assert_eq!(sequential_scans(&mut owner).await, before, "tables that were read as a whole");
}

/// What requests and workers do, every kind of it more than once.
async fn exercise(store: &PostgresStore) {
    let s = scope("s");
    let mut rng = Rng::new(7);
    let mut many = WriteBuilder::new(&s);
    for n in 0..MANY {
        many = many.node(&format!("c{n}"), "").vector(rng.vector(DIM));
    }
    store.write(many.prepared()).await.unwrap();
    for n in 0..40 {
        let write = WriteBuilder::new(&s)
            .deriving()
            .key(&format!("k{n}"), true)
            .node(&format!("a{n}"), &format!("text {n}"))
            .node(&format!("b{n}"), "with a vector")
            .vector((0..DIM).map(|at| if at == n % DIM { 1.0 } else { 0.1 }).collect())
            .node("again", &format!("version {n}"))
            .edge(&format!("a{n}"), "again");
        store.write(write.prepared()).await.unwrap();
        let touch =
            WriteBuilder::new(&s).node(&format!("b{n}"), "with a vector").with(|node| node.salience = Some(0.9));
        store.write(touch.prepared()).await.unwrap();
    }
    operate(store).await;
    super::keys::exercise(store).await;
    super::consolidation::exercise(store).await;
    super::lifecycle::exercise(store, &s).await;
    super::topics::exercise(store).await;
    for round in 0..10 {
        let status = store.scope_status(&s).await.unwrap();
        assert_eq!(status.head_seq, 81 + OPERATED);
        let filter = everything(anyone());
        let query = DenseQuery { scope: s.clone(), filter, vector: vec![1.0; DIM], limit: 5, scored: 5, exact: false };
        store.dense(DenseQuery { exact: true, ..query.clone() }).await.unwrap();
        let hits = store.dense(query).await.unwrap();
        let ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
        assert_eq!(ids.len(), 5);
        store.rows(&s, &ids).await.unwrap();
        store.commit_ids(&s, &[1, 2, 3]).await.unwrap();
        store.stored_vectors(&s, &ids).await.unwrap();
        let viewer = anyone();
        let around =
            EdgeQuery { scope: s.clone(), viewer, around: ids, min_weight: 0.0, min_confidence: 0.0, limit: 10 };
        store.edges_around(around).await.unwrap();
        let audit = RecallAudit {
            scope: s.clone(),
            endpoint: "recall",
            viewer: anyone(),
            query_sha256: "q".to_owned(),
            seeds: 5,
            nodes: 5,
            edges: 0,
            at: START,
        };
        store.record_recalls(vec![audit]).await.unwrap();
        derive(store, round == 0).await;
    }
    recall_from_a_quiet_scope(store).await;
    super::consistency::exercise(store).await;
    read_and_forget(store).await;
    super::reports::exercise(store).await;
    purge(store).await;
}

/// Recalls from a scope nobody writes to, where one that searches by codes asks only with the vectors whether it has changed.
async fn recall_from_a_quiet_scope(store: &PostgresStore) {
    let s = scope("quiet");
    store.write(WriteBuilder::new(&s).node("a", "a").vector(vec![1.0; DIM]).prepared()).await.unwrap();
    for _ in 0..10 {
        let filter = everything(anyone());
        let query = DenseQuery { scope: s.clone(), filter, vector: vec![1.0; DIM], limit: 5, scored: 5, exact: false };
        match store.held_status(&s).await.unwrap() {
            Some((_, held)) => assert!(store.dense_if_unchanged(query, held).await.unwrap().is_some()),
            None => assert_eq!(store.scope_status(&s).await.unwrap().head_seq, 1),
        }
    }
}

/// Purges scopes with rows in every table, and one whose rows take several steps.
async fn purge(store: &PostgresStore) {
    for s in [scope("s"), scope("t")] {
        let survey = store.purge_survey(&s).await.unwrap();
        let plan = plan_purge(&s, &survey, PurgeMode::Auto, false).unwrap();
        assert!(store.begin_purge(&s, &plan, "ops", START).await.unwrap());
        while store.purge_step(&s, plan.hash, 700, START).await.unwrap().done.is_none() {}
        assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Absent);
        store.purge_record(&s, plan.hash).await.unwrap().unwrap();
    }
}

/// What is read apart from recall, and forgetting, in a scope of its own.
async fn read_and_forget(store: &PostgresStore) {
    let s = scope("t");
    for n in 0..12 {
        let name = format!("n{n}");
        let rule = |node: &mut aionis_core::write::NodeInput| {
            node.node_type = NodeType::Rule;
            node.slots = Some(json!({ "if": {}, "then": {} }));
        };
        for version in 0..2 {
            let write = WriteBuilder::new(&s)
                .input(&format!("{n} {version}"))
                .node(&name, &format!("version {version}"))
                .with(rule)
                .node("hub", "hub")
                .edge(&name, "hub");
            store.write(write.prepared()).await.unwrap();
        }
        let id = node_id(&s, &name);
        let feedback = Operation::RuleFeedback { rule: id, outcome: Outcome::Positive, run_id: None, note: None };
        store.operate(operation(&s, None, feedback)).await.unwrap();
        let query = |filter, as_of| FindQuery {
            scope: s.clone(),
            filter,
            eyes: Eyes::Of(anyone()),
            as_of,
            after: None,
            offset: 0,
            limit: 5,
            scan_max: 100,
            maybe_named: Vec::new(),
        };
        let named = FindFilter { ids: vec![id], client_ids: vec!["hub".to_owned()], ..FindFilter::default() };
        assert_eq!(store.find(query(named, None)).await.unwrap().nodes.len(), 2);
        assert!(!store.find(query(FindFilter::default(), Some(1))).await.unwrap().nodes.is_empty());
        assert_eq!(store.history(&s, id, None, 5).await.unwrap().len(), 2);
        let newest = store.newest_commits(&s, None, 2).await.unwrap();
        for state in [AsOf::Seq(1), AsOf::Commit(newest[0].id), AsOf::Time(START)] {
            store.commit_at(&s, state).await.unwrap().unwrap();
        }
        store.past(&s, 1, 1_000).await.unwrap();
        let asked = |token| PreparedForget {
            scope: s.clone(),
            actor: "a".to_owned(),
            ids: vec![id],
            missing_client_ids: Vec::new(),
            viewer: None,
            token,
            request_digest: aionis_core::canon::sha256(&name),
            idempotency: None,
        };
        let look = store.forget(asked(None)).await.unwrap();
        let token = aionis_core::canon::Digest::from_hex(&look.token).ok();
        assert_eq!(store.forget(asked(token)).await.unwrap().edges, 1);
        assert_eq!(store.erased(&s, &[id]).await.unwrap().len(), 1);
    }
}

/// Commits that [`operate`] makes.
const OPERATED: u64 = 61;

/// Rules, decisions and what is noted beside nodes.
async fn operate(store: &PostgresStore) {
    let s = scope("s");
    let mut rules = WriteBuilder::new(&s).input("rules");
    for n in 0..20 {
        rules = rules.node(&format!("rule {n}"), "a rule").with(|node| {
            node.node_type = NodeType::Rule;
            node.slots = Some(json!({ "if": {}, "then": {} }));
        });
    }
    store.write(rules.prepared()).await.unwrap();
    for n in 0..20_u128 {
        let rule = node_id(&s, &format!("rule {n}"));
        let checked = store.rule(&s, rule).await.unwrap().unwrap().digest;
        let state = if n % 4 == 0 { RuleState::Active } else { RuleState::Disabled };
        let key = format!("o{n}");
        let set = operation(&s, Some((&key, true)), Operation::RuleState { rule, state, checked });
        store.operate(set).await.unwrap();
        store.put_decision(&s, decision(Uuid::from_u128(n), None, &[rule])).await.unwrap();
        let query = DecisionQuery {
            run_id: Some("run".to_owned()),
            selected_tool: "psql".to_owned(),
            candidates: vec!["psql".to_owned(), "curl".to_owned()],
            context_sha256: "c".repeat(64),
            newer_than: Timestamp(0),
        };
        store.find_decision(&s, &query).await.unwrap().unwrap();
        store.decision(&s, Uuid::from_u128(n)).await.unwrap().unwrap();
        let feedback = Operation::ToolFeedback {
            decision: Uuid::from_u128(n),
            link: LinkMode::Provided,
            create: None,
            rules: vec![rule],
            request: aionis_core::canon::Digest([1; 32]),
            outcome: Outcome::Positive,
            run_id: Some("later".to_owned()),
            note: None,
        };
        store.operate(operation(&s, None, feedback)).await.unwrap();
        let nodes = NodeNames { ids: vec![node_id(&s, &format!("a{n}"))], client_ids: vec![format!("b{n}")] };
        let used =
            Operation::Activate { nodes, outcome: Outcome::Positive, activate: true, run_id: None, reason: None };
        store.operate(operation(&s, None, used)).await.unwrap();
        assert_eq!(store.live_rules(&s).await.unwrap().len() as u128, n / 4 + 1);
    }
}

/// One round of a worker, whose provider may refuse everything.
async fn derive(store: &PostgresStore, refused: bool) {
    let claim = ClaimRequest { worker: "w".to_owned(), now: START, lease: Duration::from_secs(1), limit: 4 };
    let items = store.claim(claim).await.unwrap();
    assert_eq!(items.len(), 4);
    store.extend(&items, START).await.unwrap();
    let texts = store.pending_texts(&items).await.unwrap();
    if refused {
        let failed = |item| FailedItem { item, error: "refused".to_owned(), retry_at: None, counts: true };
        store.fail(items.into_iter().map(failed).collect(), START).await.unwrap();
    } else {
        let nodes = texts
            .into_iter()
            .map(|text| EmbeddedNode {
                scope: text.scope,
                id: text.id,
                digest: text.digest,
                result: Ok(vec![1.0; DIM]),
            })
            .collect();
        store.complete(&items, nodes, "m", START).await.unwrap();
    }
    store.outbox_status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_an_index_would_be_noticed() {
    let database = TempDatabase::new().await;
    let mut owner = database.owner().await;
    let before = sequential_scans(&mut owner).await;
    let sql = "SELECT COUNT(*) FROM memory_nodes WHERE text_summary = 'x'";
    sqlx::query(sql).execute(&mut database.owner().await).await.unwrap();
    let mut tries = 0;
    while sequential_scans(&mut owner).await == before {
        tries += 1;
        assert!(tries < 1_000, "a scan of a whole table was not counted");
        tokio::task::yield_now().await;
    }
}

/// Every statement of [`exercise`]: the name its plan is kept under, and a part of its text that no other one has.
const STATEMENTS: &[(&str, &str)] = &[
    ("claim", "WITH open AS"),
    ("commit_by_id", "FROM memory_commits WHERE id = $2 AND"),
    ("commit_by_seq", "FROM memory_commits WHERE scope_key = $1 AND seq = $2 LIMIT $3"),
    ("commit_by_time", "created_at <= $2 ORDER BY"),
    ("commit_ids", "AS q (seq)"),
    ("commits_newest", "FROM memory_commits WHERE scope_key = $1 AND seq < $2"),
    ("complete_next_change", "change_no = change_no + 1"),
    ("complete_publish", "SET published_at = $4"),
    ("complete_put_vectors", "'derived', q.gate"),
    ("complete_settle", "WITH stale AS"),
    ("complete_targets", "n.memory_lane, n.recall_flags, r.state"),
    ("decision", "FROM memory_decisions WHERE scope_key = $1 AND id = $2"),
    ("decision_find", "FROM memory_decisions d"),
    ("decision_put", "INSERT INTO memory_decisions"),
    ("dense_exact", "ORDER BY embedding <=> $2, node_id"),
    ("dense_index", "l2_normalize(embedding)::halfvec"),
    ("dense_rescore", "AS asker CROSS JOIN UNNEST($5::uuid[], $6::tid[])"),
    ("dense_rescore_unchanged", "unchanged CROSS JOIN UNNEST($5::uuid[], $6::tid[])"),
    ("erased", "FROM memory_erasures WHERE scope_key = $1 AND id = q.id"),
    ("extend", "SET lease_until = $4"),
    ("fail", "failed_reason = q.reason"),
    ("fail_nodes", "embedding_last_error = q.error"),
    ("find_named", "UNNEST($4::text[]) AS q (client_id)"),
    ("find_floor", "SELECT n.created_at, n.id FROM memory_nodes n"),
    ("find_page", "(n.created_at, n.id) >="),
    ("forget_edges", "(e.src_id = ANY($4)"),
    ("forget_erase", "WITH nodes AS ("),
    ("forget_feedback", "SELECT f.id, f.rule_node_id, f.outcome"),
    ("forget_former", "SELECT e.type, e.src_id, e.dst_id FROM"),
    ("forget_head", "s.change_no, s.state, r.request_sha256"),
    ("forget_hold", "LIMIT 1 FOR UPDATE"),
    ("forget_nodes", "FROM memory_node_versions WHERE scope_key = $1 AND node_id = q.id)"),
    ("forget_requests", "DELETE FROM memory_requests r USING"),
    ("history", ") earlier"),
    ("layout", "'force_custom_plan'"),
    ("operate_apply", "WITH commits AS"),
    ("operate_read", "AS q (decision_id)"),
    ("outbox_status", "(SELECT MIN(created_at) FROM memory_outbox"),
    ("past_changes", "SELECT changes FROM memory_commits"),
    ("past_edges", "AS is_stored"),
    ("past_nodes", "v.version IS NOT NULL) ORDER BY n.id"),
    ("past_scope", "SELECT node_count FROM memory_scopes"),
    ("past_vectors", "SELECT node_id, source_digest, embedding"),
    ("pending_texts", "AS q (scope_key, id) CROSS JOIN"),
    ("purge_begin", "change_no = 1 + change_no"),
    ("purge_end", "DELETE FROM memory_scopes"),
    ("purge_guard", "set_config('aionis.tenant', ''"),
    ("purge_head", "SELECT head_seq, head_hash, 'purge'"),
    ("purge_held", "SELECT s.state, s.purge"),
    ("purge_left", "AS left_table"),
    ("purge_mark", "SELECT state, purge FROM memory_scopes"),
    ("purge_note", "SET purge = $2"),
    ("purge_record", "INSERT INTO memory_purges"),
    ("purge_record_of_plan", "plan_sha256 = $2"),
    ("purge_survey", "AS purge_table"),
    ("purge_outbox", "DELETE FROM memory_outbox WHERE scope_key = $1 AND ctid"),
    ("purge_nodes", "DELETE FROM memory_nodes WHERE scope_key = $1 AND ctid"),
    ("purge_node_versions", "DELETE FROM memory_node_versions WHERE scope_key = $1 AND ctid"),
    ("purge_vectors", "DELETE FROM memory_vectors WHERE scope_key = $1 AND ctid"),
    ("purge_edges", "DELETE FROM memory_edges WHERE scope_key = $1 AND ctid"),
    ("purge_rule_defs", "DELETE FROM memory_rule_defs WHERE scope_key = $1 AND ctid"),
    ("purge_rule_feedback", "DELETE FROM memory_rule_feedback WHERE scope_key = $1 AND ctid"),
    ("purge_decisions", "DELETE FROM memory_decisions WHERE scope_key = $1 AND ctid"),
    ("purge_candidates", "DELETE FROM memory_consolidation_candidates WHERE scope_key = $1 AND ctid"),
    ("purge_merges", "DELETE FROM memory_merges WHERE scope_key = $1 AND ctid"),
    ("purge_removed_edges", "DELETE FROM memory_removed_edges WHERE scope_key = $1 AND ctid"),
    ("purge_erasures", "DELETE FROM memory_erasures WHERE scope_key = $1 AND ctid"),
    ("purge_requests", "DELETE FROM memory_requests WHERE scope_key = $1 AND ctid"),
    ("purge_recall_audit", "DELETE FROM memory_recall_audit WHERE scope_key = $1 AND ctid"),
    ("purge_commits", "DELETE FROM memory_commits WHERE scope_key = $1 AND ctid"),
    ("record_recalls", "INSERT INTO memory_recall_audit"),
    ("head", "NULL::int4, s.state FROM (SELECT set_config"),
    ("refresh", "n.change_no > $2"),
    ("rule", "LIMIT 1) c WHERE r.scope_key = $1 AND r.rule_node_id"),
    ("rules_live", "r.state IN ('active', 'shadow')"),
    ("rows", "n.activity::text, n.salience_at, NULLIF(n.row_place"),
    ("stored_vectors", "SELECT q.id, v.embedding"),
    ("vectors_estimate", "SUM(GREATEST(reltuples, 0))"),
    ("write_apply", "WITH head AS"),
    ("write_apply_rare", "WITH touched AS"),
    ("write_lock_scope", "SELECT 1 FROM memory_scopes WHERE scope_key = '"),
    ("write_make_scope", "INSERT INTO memory_scopes"),
    ("write_read", "AS q (id, with_vector)"),
];

fn statements() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let of_parts = [
        super::consistency::STATEMENTS,
        super::consolidation::STATEMENTS,
        super::keys::STATEMENTS,
        super::lifecycle::STATEMENTS,
        super::reports::STATEMENTS,
        super::topics::STATEMENTS,
    ];
    STATEMENTS.iter().chain(of_parts.into_iter().flatten())
}

fn name_of(sql: &str) -> &'static str {
    let names: Vec<&str> = statements().filter(|(_, part)| sql.contains(*part)).map(|(name, _)| *name).collect();
    match names[..] {
        [name] => name,
        _ => panic!("every statement needs one name in STATEMENTS, this one has {names:?}: {sql}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_are_the_kept_ones() {
    let mut plans: BTreeMap<&str, String> = BTreeMap::new();
    let mut version = 0;
    for search in [VectorSearch::Codes, VectorSearch::Hnsw] {
        let database = TempDatabase::flat().await;
        let tap = Tap::before(&database.url()).await;
        let store = PostgresStore::open(&opened_with(&tap.url, search), FakeClock::new()).await.unwrap();
        exercise(&store).await;
        store.close().await;
        // Planned where nobody has written and nothing was analysed: there the planner knows the same on every run.
        let fresh = TempDatabase::flat().await;
        PostgresStore::open(&opened_with(&fresh.url(), search), FakeClock::new()).await.unwrap().close().await;
        let mut owner = database.owner().await;
        let sql = "SELECT current_setting('server_version_num')::int / 10000";
        version = sqlx::query(sql).fetch_one(&mut owner).await.unwrap().get(0);
        for sent in tap.told() {
            let name = name_of(&sent.sql);
            if !plans.contains_key(name) {
                let types = match &sent.types {
                    Some(types) => Some(type_names(&mut owner, types).await),
                    None => None,
                };
                plans.insert(name, plan(&fresh, &sent, types.as_deref()).await);
            }
        }
    }
    for (name, plan) in &plans {
        assert!(!plan.contains("Seq Scan on "), "{name} reads a whole table:\n{plan}");
    }
    let unseen: Vec<&str> = statements().map(|(name, _)| *name).filter(|name| !plans.contains_key(name)).collect();
    assert!(unseen.is_empty(), "never sent: {unseen:?}");
    if version == PLANNED_BY {
        for (name, plan) in plans {
            insta::assert_snapshot!(name, plan);
        }
    }
}

/// How the server plans a statement in a session that is set as the one it was sent in.
async fn plan(on: &TempDatabase, sent: &Sent, types: Option<&[String]>) -> String {
    let mut connection = on.owner().await;
    for setting in &sent.settings {
        sqlx::raw_sql(AssertSqlSafe(setting.clone())).execute(&mut connection).await.unwrap();
    }
    let statement = match types {
        None => sent.sql.clone(),
        Some(types) => {
            let in_brackets = |list: &[String]| match list {
                [] => String::new(),
                list => format!("({})", list.join(", ")),
            };
            let prepare = format!("PREPARE sent {} AS {}", in_brackets(types), sent.sql);
            sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
            format!("EXECUTE sent {}", in_brackets(&vec!["NULL".to_owned(); types.len()]))
        }
    };
    let explain = format!("EXPLAIN (COSTS OFF) {statement}");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    without_numbers(&lines.join("\n"))
}

/// A plan without the numbers of parameters and of tables: a parameter more is no other plan, and the number of a table
/// depends on what the server was asked before.
fn without_numbers(plan: &str) -> String {
    let mut rest = String::with_capacity(plan.len());
    let mut in_parameter = false;
    for c in plan.chars() {
        if !(in_parameter && c.is_ascii_digit()) {
            rest.push(c);
            in_parameter = c == '$';
        }
    }
    let mut parts: Vec<&str> = rest.split("'::oid").collect();
    let last = parts.len() - 1;
    parts[..last].iter_mut().for_each(|part| *part = part.trim_end_matches(|c: char| c.is_ascii_digit()));
    parts.join("'::oid")
}

#[test]
fn numbers_are_no_part_of_a_plan() {
    let plan = "Limit $1\n  Cond: (oid = '16791'::oid) AND (n = '7'::bigint) OR oid = '5'::oid = 3";
    let kept = "Limit $\n  Cond: (oid = ''::oid) AND (n = '7'::bigint) OR oid = ''::oid = 3";
    assert_eq!(without_numbers(plan), kept);
}

async fn type_names(connection: &mut PgConnection, oids: &[u32]) -> Vec<String> {
    let sql = "SELECT format_type(q.oid::oid, NULL) FROM UNNEST($1::bigint[]) WITH ORDINALITY AS q (oid, place) \
               ORDER BY q.place";
    let oids: Vec<i64> = oids.iter().map(|oid| i64::from(*oid)).collect();
    let rows = sqlx::query(sql).bind(oids).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A statement as the engine sent it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) sql: String,
    /// Types of its parameters; none for one that was sent without being prepared.
    types: Option<Vec<u32>>,
    /// How session and transaction were set before it.
    pub(super) settings: Vec<String>,
}

/// Stands between the engine and the server and listens: texts and settings are the engine's own affair, and a copy of
/// them in a test would not notice when they change.
pub(super) struct Tap {
    pub(super) url: String,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// Each time a connection was told a statement.
    told: Vec<Sent>,
    /// Statements with parameters, each time they were executed.
    executed: Vec<String>,
}

impl Tap {
    pub(super) async fn before(url: &str) -> Self {
        let server = PgConnectOptions::from_str(url).unwrap();
        let address = (server.get_host().to_owned(), server.get_port());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // What is encrypted cannot be listened to.
        let url = server.host("127.0.0.1").port(port).ssl_mode(PgSslMode::Disable).to_url_lossy().to_string();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((address.0.as_str(), address.1)).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                tokio::spawn(pass_on(from_client, to_server, Arc::clone(&notes)));
            }
        });
        Self { url, heard }
    }

    /// The statements about memories. What is prepared is told once for each connection.
    pub(super) fn told(&self) -> Vec<Sent> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).told.clone()
    }

    /// How often statements that contain a text were executed, on whatever connection.
    pub(super) fn executed(&self, part: &str) -> usize {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.executed.iter().filter(|sql| sql.contains(part)).count()
    }
}

async fn pass_on(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, notes: Arc<Mutex<Heard>>) {
    let mut conversation = Conversation::default();
    let mut chunk = vec![0; 1 << 16];
    while let Ok(length @ 1..) = client.read(&mut chunk).await {
        conversation.listen(&chunk[..length], &mut notes.lock().unwrap_or_else(PoisonError::into_inner));
        if server.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

/// What one connection has said so far.
#[derive(Default)]
struct Conversation {
    /// Bytes of a message that is not complete.
    bytes: Vec<u8>,
    /// The first message of a connection has no kind.
    has_begun: bool,
    session: Vec<String>,
    transaction: Vec<String>,
    /// Statements by the names they were given.
    prepared: HashMap<String, String>,
}

impl Conversation {
    /// Takes bytes in, and notes what they complete.
    fn listen(&mut self, bytes: &[u8], heard: &mut Heard) {
        self.bytes.extend(bytes);
        let mut said = Vec::new();
        while let Some((kind, body)) = self.message() {
            match kind {
                b'Q' => self.simple(text(&body).0, &mut said),
                b'P' => {
                    let (name, rest) = text(&body);
                    let (sql, types) = text(rest);
                    let types = types[2..].as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
                    said.push(self.sent(sql, Some(types)));
                    self.prepared.insert(name.to_owned(), sql.to_owned());
                }
                b'B' => {
                    let (statement, _) = text(text(&body).1);
                    heard.executed.push(self.prepared[statement].clone());
                }
                _ => {}
            }
        }
        // What is done before is the owner's business: there the schema is made and the vectors' space settled.
        let as_runtime = self.session.iter().any(|setting| setting.contains("aionis_runtime"));
        said.retain(|sent| as_runtime && (sent.sql.contains("memory_") || sent.sql.contains("api_keys")));
        heard.told.extend(said);
    }

    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = usize::from(self.has_begun);
        let length = self.bytes.get(head..)?.first_chunk::<4>().map(|length| u32::from_be_bytes(*length))? as usize;
        if self.bytes.len() < head + length {
            return None;
        }
        let message: Vec<u8> = self.bytes.drain(..head + length).collect();
        let kind = if self.has_begun { message[0] } else { 0 };
        self.has_begun = true;
        Some((kind, message[head + 4..].to_vec()))
    }

    /// Several statements without parameters, settings among them.
    fn simple(&mut self, sql: &str, said: &mut Vec<Sent>) {
        for part in sql.split("; ") {
            match part.split_whitespace().next() {
                Some("SET") if self.transaction.is_empty() => self.session.push(part.to_owned()),
                Some("BEGIN" | "SET") => self.transaction.push(part.to_owned()),
                Some("COMMIT" | "ROLLBACK") => self.transaction.clear(),
                _ => said.push(self.sent(part, None)),
            }
        }
    }

    fn sent(&self, sql: &str, types: Option<Vec<u32>>) -> Sent {
        Sent { sql: sql.to_owned(), types, settings: [self.session.as_slice(), &self.transaction].concat() }
    }
}

/// A text that ends with a zero, and what follows it.
fn text(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    (std::str::from_utf8(&bytes[..end]).unwrap(), &bytes[end + 1..])
}

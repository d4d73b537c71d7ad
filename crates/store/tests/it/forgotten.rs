//! What was forgotten is in no table, no index and no file.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use aionis_core::{
    canon::{Digest, canonical_sha256},
    clock::Timestamp,
    forget::PreparedForget,
    ids::{NodeId, ScopeKey},
    jobs::scope_purge::{PurgeMode, plan_purge},
    model::{EdgeType, NodeType, RuleState},
    operate::{NodeNames, Operation, Outcome},
    ports::store::{ClaimRequest, EmbeddedNode, FailedItem, LexicalQuery, StoreError, WriteStore},
    text,
};
use aionis_store::{
    Deployment, StoreOptions,
    sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore},
};
use aionis_testkit::{
    assert_sound,
    conformance::MODEL,
    fixtures::{DIM, FakeClock, WriteBuilder, anyone, decision, everything, node_id, operation, scope},
    postgres::{TempDatabase, options},
};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, Row as _};

/// Words that stand nowhere else. What is looked for are their bytes, as they are written and as they are analysed.
const SECRETS: [&str; 7] =
    ["quetzalcoatlus", "xylophonist", "Zwetschgendatschi", "borborygmus", "kakistocracy", "ipsedixitism", "冷蔵庫掃除"];
/// How often files are looked through again because one of them went away meanwhile.
const LOOKS_MAX: usize = 10;

fn clock() -> Arc<FakeClock> {
    FakeClock::new()
}

/// Fills a scope with one node whose every part holds a secret, and others beside it; the node is changed, found,
/// embedded, noted on and decided by before it is forgotten.
async fn fill(store: &dyn Deployment, clock: &FakeClock, s: &ScopeKey) -> Vec<NodeId> {
    let [title, summary, slot, earlier, note, reason, cjk] = SECRETS;
    let full = |summary: String, kind: NodeType| {
        move |n: &mut aionis_core::write::NodeInput| {
            n.node_type = kind;
            n.title = Some(format!("About {title}"));
            n.text_summary = Some(summary);
            n.raw_ref = Some(format!("s3://{slot}"));
            n.slots = Some(json!({ "said": slot, "if": {}, "then": { "tool": { "prefer": [slot] } }, "more": cjk }));
        }
    };
    let write = async |write: WriteBuilder| store.write(write.deriving().prepared()).await.unwrap();
    write(WriteBuilder::new(s).input("1").node("r", "x").with(full(format!("first {earlier}"), NodeType::Rule))).await;
    write(WriteBuilder::new(s).input("2").node("r", "x").with(full(format!("{summary} {cjk}"), NodeType::Rule))).await;
    for n in 0..40 {
        let name = format!("n{n}");
        write(
            WriteBuilder::new(s)
                .input(&name)
                .node(&name, &format!("ordinary text {n}"))
                .node("hub", "hub")
                .edge(&name, "hub"),
        )
        .await;
    }
    let edge = WriteBuilder::new(s).input("e").node("hub", "hub").node("other", "x").edge("other", "hub");
    write(edge).await;
    let r = node_id(s, "r");
    // What jobs made of it: a topic it began, and a summary of both, written over since, that somebody else owns.
    let quoting = |slots: serde_json::Value, kind: NodeType| {
        move |n: &mut aionis_core::write::NodeInput| {
            n.node_type = kind;
            n.title = Some(format!("{title} and more"));
            n.slots = Some(slots);
        }
    };
    let began = json!({ "created_by": "job:topic_cluster", "seed_event_id": r, "seed_summary": summary });
    let made = json!({ "generated_by": "job:compression_rollup", "source_event_ids": [node_id(s, "n1")] });
    let derived = |edge: &mut aionis_core::write::EdgeInput| edge.edge_type = EdgeType::DerivedFrom;
    let of = WriteBuilder::new(s)
        .input("derived")
        .node("topic", &format!("it began with {summary}"))
        .with(quoting(began, NodeType::Topic))
        .node("summary", &format!("{summary}, {cjk}"))
        .with(quoting(made, NodeType::Concept))
        .private(Some("bob"), None)
        .edge("topic", "r")
        .with_edge(derived)
        .edge("summary", "topic")
        .with_edge(|edge| edge.edge_type = EdgeType::PartOf)
        .edge("summary", "n1")
        .with_edge(derived);
    write(of).await;
    write(WriteBuilder::new(s).input("over").node("summary", "harmless").private(Some("bob"), None)).await;
    let checked = store.rule(s, r).await.unwrap().unwrap().digest;
    let noted = Some(format!("it was {note}"));
    for operation_of in [
        Operation::RuleState { rule: r, state: RuleState::Active, checked },
        Operation::RuleFeedback { rule: r, outcome: Outcome::Positive, run_id: None, note: noted },
        Operation::Activate {
            nodes: NodeNames { ids: vec![r], client_ids: Vec::new() },
            outcome: Outcome::Positive,
            activate: true,
            run_id: None,
            reason: Some(format!("because {reason}")),
        },
    ] {
        store.operate(operation(s, None, operation_of)).await.unwrap();
    }
    let mut made = decision(uuid::Uuid::from_u128(3), None, &[r]);
    made.policy = json!({ "tool": { "prefer": [slot] } });
    store.put_decision(s, made).await.unwrap();
    work(store, clock, s, r).await;
    for secret in SECRETS {
        let terms = text::query_terms(secret);
        let query = LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms, limit: 10 };
        store.lexical(query).await.unwrap();
    }
    vec![r]
}

/// Derives vectors, with a failure that repeats the text on the way.
async fn work(store: &dyn Deployment, clock: &FakeClock, s: &ScopeKey, of: NodeId) {
    use aionis_core::clock::Clock as _;
    let claim = async || {
        let request = ClaimRequest {
            worker: "w".to_owned(),
            now: clock.now(),
            lease: std::time::Duration::from_secs(60),
            limit: 100,
        };
        store.claim(request).await.unwrap()
    };
    let items = claim().await;
    let said = format!("the provider would not take {:?}", SECRETS[1]);
    let failed: Vec<FailedItem> = items
        .iter()
        .filter(|item| item.nodes.contains(&of))
        .map(|item| FailedItem { item: item.clone(), error: said.clone(), retry_at: Some(clock.now()), counts: true })
        .collect();
    assert!(!failed.is_empty());
    store.fail(failed, clock.now()).await.unwrap();
    let items = claim().await;
    let nodes = store
        .pending_texts(&items)
        .await
        .unwrap()
        .into_iter()
        .map(|text| EmbeddedNode { result: Ok(vec![0.5; DIM]), scope: text.scope, id: text.id, digest: text.digest })
        .collect();
    store.complete(&items, nodes, MODEL, clock.now()).await.unwrap();
    let _ = s;
}

async fn forget(store: &dyn Deployment, s: &ScopeKey, ids: &[NodeId]) {
    let asked = |token: Option<Digest>| PreparedForget {
        scope: s.clone(),
        actor: "ann".to_owned(),
        ids: ids.to_vec(),
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: canonical_sha256(&json!([ids, token])),
        idempotency: None,
    };
    let look = store.forget(asked(None)).await.unwrap();
    let token = Digest::from_hex(&look.token).ok();
    let done: Result<_, StoreError> = store.forget(asked(token)).await;
    let done = done.unwrap();
    assert_eq!((done.nodes.as_slice(), done.derived), (ids, 2));
}

/// Purges the scope, with few rows a step.
async fn purge(store: &dyn Deployment, s: &ScopeKey) {
    let survey = store.purge_survey(s).await.unwrap();
    let plan = plan_purge(s, &survey, PurgeMode::Auto, false).unwrap();
    assert!(store.begin_purge(s, &plan, "ops", Timestamp(1)).await.unwrap());
    while store.purge_step(s, plan.hash, 10, Timestamp(2)).await.unwrap().done.is_none() {}
}

/// The secrets that stand in some file below a directory. A running server removes and renames files: whoever was shown one that
/// is no longer there looks at all of them again.
fn found_in(dir: &Path) -> Vec<(String, &'static str)> {
    let look = |_| match look_for(dir) {
        Err(gone) if gone.kind() == ErrorKind::NotFound => None,
        found => Some(found.unwrap()),
    };
    (0..LOOKS_MAX).find_map(look).expect("a look during which no file went away")
}

fn look_for(dir: &Path) -> io::Result<Vec<(String, &'static str)>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = std::fs::read(&path)?;
            for secret in SECRETS {
                if holds(&bytes, secret) {
                    found.push((path.display().to_string(), secret));
                }
            }
        }
    }
    Ok(found)
}

/// Whether bytes hold a word, as it is or in lower case, or its first letters as a stem would keep them.
fn holds(bytes: &[u8], word: &str) -> bool {
    let lower = word.to_lowercase();
    let stem: String = lower.chars().take(if lower.is_ascii() { 9 } else { 4 }).collect();
    [word, &lower, &stem].iter().any(|word| bytes.windows(word.len()).any(|window| window == word.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_text_is_in_no_file_of_the_embedded_engine() {
    let home = tempfile::tempdir().unwrap();
    let s = scope("s");
    let open = |clock: Arc<FakeClock>| {
        let mut options = SqliteOptions::new(home.path());
        options.space = Some(aionis_store::EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
        SqliteStore::open(&options, clock).unwrap()
    };
    let the_clock = clock();
    let store = open(Arc::clone(&the_clock));
    let ids = fill(&store, &the_clock, &s).await;
    store.close().await;
    let seen: std::collections::BTreeSet<_> = found_in(home.path()).into_iter().map(|(_, secret)| secret).collect();
    assert_eq!(seen.len(), SECRETS.len(), "before, every secret is found: {seen:?}");
    drop(store);
    let store = open(clock());
    forget(&store, &s, &ids).await;
    assert_sound(&store).await;
    store.close().await;
    drop(store);
    let database = rusqlite::Connection::open(home.path().join(DATABASE_FILE)).unwrap();
    let left: i64 = database
        .query_row("SELECT COUNT(*) FROM aionis_meta WHERE key = 'forgotten_residue'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0, "the index was merged and the log written back");
    database.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(database);
    assert_eq!(found_in(home.path()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn purged_text_is_in_no_file_of_the_embedded_engine() {
    let home = tempfile::tempdir().unwrap();
    let s = scope("s");
    let mut options = SqliteOptions::new(home.path());
    options.space = Some(aionis_store::EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
    let the_clock = clock();
    let store = SqliteStore::open(&options, the_clock.clone()).unwrap();
    fill(&store, &the_clock, &s).await;
    store.write(WriteBuilder::new(&scope("other")).input("1").node("a", "ordinary").prepared()).await.unwrap();
    purge(&store, &s).await;
    assert_eq!(assert_sound(&store).await.len(), 1);
    store.close().await;
    drop(store);
    let database = rusqlite::Connection::open(home.path().join(DATABASE_FILE)).unwrap();
    let left: i64 = database
        .query_row("SELECT COUNT(*) FROM aionis_meta WHERE key = 'forgotten_residue'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0, "the index was merged and the log written back");
    drop(database);
    assert_eq!(found_in(home.path()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn purged_text_is_in_no_table_of_postgres() {
    let database = TempDatabase::new().await;
    let s = scope("s");
    let mut settings = options(&database.url());
    settings.space = Some(aionis_store::EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
    let the_clock = clock();
    let store = aionis_store::open(&StoreOptions::Postgres(settings), the_clock.clone()).await.unwrap();
    fill(store.as_ref(), &the_clock, &s).await;
    let mut owner = database.owner().await;
    assert!(!rows_with_secrets(&mut owner).await.is_empty());
    purge(store.as_ref(), &s).await;
    assert_eq!(rows_with_secrets(&mut owner).await, []);
    assert_sound(store.as_ref()).await;
    store.close().await;
}

/// Names and texts of all rows of all tables that hold a secret.
async fn rows_with_secrets(connection: &mut sqlx::PgConnection) -> Vec<(String, &'static str)> {
    let tables =
        sqlx::query("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let table: String = table.get(0);
        for secret in SECRETS {
            let sql = format!("SELECT count(*) FROM {table} t WHERE strpos(lower(t::text), lower($1)) > 0");
            let count: i64 =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(secret).fetch_one(&mut *connection).await.unwrap();
            if count > 0 {
                found.push((table.clone(), secret));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_text_is_in_no_table_and_no_file_of_postgres() {
    let database = TempDatabase::new().await;
    let s = scope("s");
    let mut settings = options(&database.url());
    settings.space = Some(aionis_store::EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
    let the_clock = clock();
    let store = aionis_store::open(&StoreOptions::Postgres(settings), the_clock.clone()).await.unwrap();
    let ids = fill(store.as_ref(), &the_clock, &s).await;
    let mut owner = database.owner().await;
    let seen: std::collections::BTreeSet<_> =
        rows_with_secrets(&mut owner).await.into_iter().map(|(_, secret)| secret).collect();
    assert_eq!(seen.len(), SECRETS.len(), "before, every secret is found: {seen:?}");
    forget(store.as_ref(), &s, &ids).await;
    assert_eq!(rows_with_secrets(&mut owner).await, []);
    assert_sound(store.as_ref()).await;
    store.close().await;
    let forgotten: String =
        sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut owner).await.unwrap();
    // Statistics of the planner hold samples of texts until they are made anew.
    owner.execute("ANALYZE").await.unwrap();
    // A vacuum keeps what a transaction begun before the forgetting might still see. The snapshot it takes itself
    // reaches back to the oldest transaction of the whole server, and other tests have theirs in other databases.
    let until_all_began_later = async {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::xid8 FROM pg_sleep(0.01)";
        while !sqlx::query_scalar::<_, bool>(sql).bind(&forgotten).fetch_one(&mut owner).await.unwrap() {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), until_all_began_later).await.unwrap();
    owner.execute("VACUUM (FULL)").await.unwrap();
    owner.execute("CHECKPOINT").await.unwrap();
    let (dir, oid): (String, String) = sqlx::query_as(
        "SELECT current_setting('data_directory'), oid::text FROM pg_database WHERE datname = current_database()",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    owner.close().await.unwrap();
    let files = Path::new(&dir).join("base").join(oid);
    // A server elsewhere has its files elsewhere; the suite's own is here.
    if files.is_dir() {
        assert_eq!(found_in(&files), []);
    } else {
        assert!(std::env::var_os("AIONIS_TEST_PG_URL").is_some(), "the suite's own server has its files here");
    }
}

//! What is acknowledged is stored, and what is refused is not, also when the database refuses a statement within a
//! transaction or the transaction as a whole; and a write is a few statements, however large it is.

use std::{collections::BTreeMap, sync::Arc};

use aionis_core::ports::store::{Store, WriteStore};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, FakeClock, Rng, WriteBuilder, node_id, scope},
    postgres::{TempDatabase, options},
    sqlite::TempStore,
};
use sqlx::Row;

/// Writes at once, every third of which the database refuses; none of the others has to be refused with it, but each that
/// was acknowledged must be there, and nothing else.
async fn only_what_is_acknowledged_is_stored(store: Arc<dyn Store>, how: &str) {
    let s = scope("s");
    assert_eq!(store.scope_status(&s).await.unwrap().head_seq, 0, "the scope is in memory");
    let writes: Vec<_> = (0..45)
        .map(|n| {
            let title = if n % 3 == 1 { "poison" } else { "title" };
            let text = format!("text {n}");
            let write = WriteBuilder::new(&s).input(&text).node(&format!("n{n}"), &text).title(title).prepared();
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.write(write).await })
        })
        .collect();
    let mut stored = Vec::new();
    let mut refused = 0;
    for (n, write) in writes.into_iter().enumerate() {
        if write.await.unwrap().is_ok() {
            assert_ne!(n % 3, 1, "{how}: what the database refused was acknowledged");
            stored.push(node_id(&s, &format!("n{n}")));
        } else {
            refused += 1;
        }
    }
    assert!(refused >= 15, "{how}: {refused}");
    let nodes = |verified: Vec<aionis_testkit::VerifiedScope>| verified.first().map_or(0, |scope| scope.nodes);
    assert_eq!(nodes(assert_sound(&*store).await), stored.len() as u64, "{how}");
    assert_eq!(store.rows(&s, &stored).await.unwrap().len(), stored.len(), "{how}");
    let status = store.scope_status(&s).await.unwrap();
    assert_eq!((status.head_seq, status.nodes), (stored.len() as u64, stored.len() as u64), "{how}");
    store.write(WriteBuilder::new(&s).node("after", "after").prepared()).await.unwrap();
    assert_eq!(nodes(assert_sound(&*store).await), stored.len() as u64 + 1, "{how}");
}

/// W-2 on SQLite: a statement that fails, one that fails and keeps what it did, one that takes the transaction with it,
/// and a transaction that fails at its end.
#[tokio::test(flavor = "multi_thread")]
async fn w_02_sqlite_acknowledges_only_what_it_stores() {
    let raise = |how: &str| {
        format!(
            "CREATE TRIGGER poison AFTER INSERT ON memory_nodes WHEN NEW.title = 'poison' \
             BEGIN SELECT RAISE({how}, 'poisoned'); END"
        )
    };
    let at_the_end = "CREATE TABLE parents (id INTEGER PRIMARY KEY); \
        CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED); \
        CREATE TRIGGER poison AFTER INSERT ON memory_nodes WHEN NEW.title = 'poison' \
        BEGIN INSERT INTO children VALUES (1); END";
    for (how, sql) in ["ABORT", "FAIL", "ROLLBACK"]
        .map(|how| (how, raise(how)))
        .into_iter()
        .chain([("COMMIT", at_the_end.to_owned())])
    {
        let temp = TempStore::new();
        temp.raw().execute_batch(&sql).unwrap();
        only_what_is_acknowledged_is_stored(temp.port(), how).await;
    }
}

/// W-2 on PostgreSQL: a statement that fails, which aborts the transaction it is in, and a transaction that fails at its
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn w_02_postgres_acknowledges_only_what_it_stores() {
    const POISON: &str = "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN IF NEW.title = 'poison' THEN RAISE EXCEPTION 'poisoned'; END IF; RETURN NEW; END $$";
    for (how, sql) in [
        ("statement", "CREATE TRIGGER poison BEFORE INSERT ON memory_nodes FOR EACH ROW EXECUTE FUNCTION poison()"),
        (
            "COMMIT",
            "CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON memory_nodes DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION poison()",
        ),
    ] {
        let database = TempDatabase::new().await;
        database.execute(POISON).await;
        database.execute(sql).await;
        let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
        only_what_is_acknowledged_is_stored(Arc::new(store), how).await;
    }
}

/// Counts the statements that change a table, whatever number of rows they change. Old requests are deleted beside the
/// writes now and then, which is not theirs.
const COUNT_STATEMENTS: &str = "CREATE TABLE statements (on_table text); \
    CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS \
    $$ BEGIN INSERT INTO statements VALUES (TG_TABLE_NAME); RETURN NULL; END $$; \
    DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE tablename LIKE 'memory\\_%' LOOP \
    EXECUTE format('CREATE TRIGGER counted AFTER INSERT OR UPDATE %s ON %I FOR EACH STATEMENT EXECUTE FUNCTION counted()', \
    CASE WHEN t = 'memory_requests' THEN '' ELSE 'OR DELETE' END, t); END LOOP; END $$";

async fn statements(database: &TempDatabase) -> BTreeMap<String, i64> {
    let sql = "WITH gone AS (DELETE FROM statements RETURNING on_table) SELECT on_table, COUNT(*) FROM gone GROUP BY 1";
    let rows = sqlx::query(sql).fetch_all(&mut database.owner().await).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// W-19: the statements of a write do not become more with its nodes and edges.
#[tokio::test(flavor = "multi_thread")]
async fn w_19_a_large_write_takes_no_more_statements_than_a_small_one() {
    let database = TempDatabase::new().await;
    database.execute(COUNT_STATEMENTS).await;
    let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
    let s = scope("s");
    let write = |name: &str, nodes: usize| {
        let mut write = WriteBuilder::new(&s).input(name).deriving();
        for n in 0..nodes {
            write = write.node(&format!("{name}{n}"), &format!("{name} {n}"));
            write = match n % 3 {
                0 => write.vector(Rng::new(n as u64).vector(DIM)),
                1 => write.with(|node| node.node_type = aionis_core::model::NodeType::Rule),
                _ => write,
            };
        }
        (1..nodes).fold(write, |write, n| write.edge(&format!("{name}0"), &format!("{name}{n}"))).prepared()
    };
    store.write(write("first", 6)).await.unwrap();
    statements(&database).await;
    store.write(write("small", 6)).await.unwrap();
    let small = statements(&database).await;
    store.write(write("large", 600)).await.unwrap();
    let large = statements(&database).await;
    assert_eq!(large, small);
    assert!(
        ["memory_nodes", "memory_edges", "memory_commits"].iter().all(|table| small.contains_key(*table)),
        "{small:?}"
    );
    // One statement per row would be seen.
    database
        .execute("DO $$ BEGIN FOR n IN 1..9 LOOP UPDATE memory_nodes SET title = title WHERE false; END LOOP; END $$")
        .await;
    assert_eq!(statements(&database).await["memory_nodes"], 9);
}

//! Temporary PostgreSQL databases: one per test, made from a template that is migrated once.

mod server;

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use aionis_core::{
    clock::{Clock, SystemClock, Timestamp},
    ids::{NodeId, ScopeKey},
    model::RuleState,
};
use aionis_store::{
    EmbeddingSpace,
    postgres::{
        PostgresOptions, PostgresStore,
        partition::{BackfillOptions, EnsureOptions, PartitionAdmin, ReadinessOptions, VerifyOptions, WindowOptions},
    },
};
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};
use uuid::Uuid;

pub use self::server::PrivateServer;
use crate::{
    conformance::{ATTEMPTS_MAX, AuditRow, Inspect, MODEL, Subject},
    fixtures::{DIM, FakeClock},
};

/// Name of the variable with a server to test against.
pub const URL_VARIABLE: &str = "AIONIS_TEST_PG_URL";

/// The server of this test run.
fn server_url() -> String {
    std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{URL_VARIABLE} is not set. `make test` starts a server; for single tests run \
             `cargo run -p aionis-testkit --bin with-postgres -- cargo nextest run …`, or name a server of your own"
        )
    })
}

async fn connect(url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).expect("the address of a PostgreSQL server");
    options.connect().await.unwrap_or_else(|e| panic!("cannot connect to {url}: {e}"))
}

fn with_database(url: &str, name: &str) -> String {
    let (server, parameters) = url.split_once('?').map_or((url, None), |(server, rest)| (server, Some(rest)));
    let base = server.rsplit_once('/').map_or(server, |(base, _)| base);
    parameters.map_or_else(|| format!("{base}/{name}"), |rest| format!("{base}/{name}?{rest}"))
}

/// A database of a test's own. Dropping it drops the database.
#[derive(Debug)]
pub struct TempDatabase {
    server: String,
    name: String,
}

impl TempDatabase {
    /// Makes a database with the newest schema, in the layout that [`LAYOUT_VARIABLE`] names.
    pub async fn new() -> Self {
        Self::on(server_url()).await
    }

    /// The same on a server of choice.
    pub async fn on(server: String) -> Self {
        Self::in_layout(server, is_partitioned()).await
    }

    /// Makes a database with the newest schema and flat tables.
    pub async fn flat() -> Self {
        Self::in_layout(server_url(), false).await
    }

    /// Makes a database with the newest schema and partitioned tables.
    pub async fn partitioned() -> Self {
        Self::in_layout(server_url(), true).await
    }

    async fn in_layout(server: String, partitioned: bool) -> Self {
        let mut admin = connect(&server).await;
        let template = template(&server, &mut admin, partitioned).await;
        let name = format!("aionis_test_{}", Uuid::new_v4().simple());
        // Two cannot copy a template at the same time as somebody is connected to it; nobody is, so this only ever waits.
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")))
            .execute(&mut admin)
            .await
            .expect("a database can be made");
        Self { server, name }
    }

    /// An empty database without any schema.
    pub async fn empty() -> Self {
        let server = server_url();
        let name = format!("aionis_test_{}", Uuid::new_v4().simple());
        let mut admin = connect(&server).await;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        Self { server, name }
    }

    /// Its address.
    pub fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// A connection as its owner, for whom row-level security does not hold.
    pub async fn owner(&self) -> PgConnection {
        connect(&self.url()).await
    }

    /// Runs statements as its owner.
    ///
    /// # Panics
    /// One fails.
    pub async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.owner().await).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// A digest of the rows of each table, for tests of what changes nothing.
    ///
    /// # Panics
    /// The database cannot be read.
    pub async fn digests(&self) -> BTreeMap<String, String> {
        let mut owner = self.owner().await;
        let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
        let names: Vec<String> =
            sqlx::query(tables).fetch_all(&mut owner).await.unwrap().iter().map(|row| row.get(0)).collect();
        let mut digests = BTreeMap::new();
        for name in names {
            let sql = format!("SELECT md5(coalesce(string_agg(t::text, ' ' ORDER BY t::text), '')) FROM {name} t");
            let digest = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut owner).await.unwrap().get(0);
            digests.insert(name, digest);
        }
        digests
    }

    /// The texts a statement reads, as its owner.
    ///
    /// # Panics
    /// It fails.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        let rows = sqlx::query(sql).fetch_all(&mut self.owner().await).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Runs statements as its owner on a connection of their own; what they begin, such as a transaction with its locks,
    /// ends when the connection is dropped.
    ///
    /// # Panics
    /// One fails.
    pub async fn hold(&self, sql: &'static str) -> PgConnection {
        let mut connection = self.owner().await;
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        connection
    }
}

impl Drop for TempDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime of its own: the test's may be gone, and dropping must not wait on it.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&server).await.map_err(std::io::Error::other)?;
                sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
                    .execute(&mut admin)
                    .await
                    .map_err(std::io::Error::other)
            })
        });
        // The server may have been killed on purpose; then the database is gone anyway.
        let _ = dropped.join();
    }
}

/// Name of the variable that says which layout temporary databases have: `partitioned`, or else flat.
pub const LAYOUT_VARIABLE: &str = "AIONIS_TEST_PG_LAYOUT";

/// Whether temporary databases have partitioned tables.
pub fn is_partitioned() -> bool {
    std::env::var(LAYOUT_VARIABLE).is_ok_and(|layout| layout == "partitioned")
}

/// Takes an empty database from flat tables to partitioned ones.
///
/// # Panics
/// A step fails.
pub async fn partition_empty(url: &str, hash_partitions: u16) {
    let patience = std::time::Duration::from_secs(10);
    let mut admin = PartitionAdmin::connect(url, patience, Arc::new(SystemClock)).await.unwrap();
    admin.ensure(&EnsureOptions { hash_partitions, own_from_rows: None }).await.unwrap();
    admin.backfill(&BackfillOptions::default()).await.unwrap();
    assert!(admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    // There is no vector that could be asked for.
    let options = ReadinessOptions { accept_inconclusive: true, ..ReadinessOptions::default() };
    admin.readiness(&options, "empty").await.unwrap();
    admin.cutover(&WindowOptions::default()).await.unwrap();
    admin.finalize(&WindowOptions::default()).await.unwrap();
}

/// Parts of the default partition in templates of partitioned databases.
const TEMPLATE_PARTS: u16 = 3;

/// The template of this version's schema, made by whoever needs it first.
async fn template(server: &str, admin: &mut PgConnection, partitioned: bool) -> String {
    let layout = if partitioned { "partitioned" } else { "template" };
    let name = format!("aionis_{layout}_{}", aionis_store::postgres::schema_fingerprint());
    sqlx::query("SELECT pg_advisory_lock(7217)").execute(&mut *admin).await.unwrap();
    let there: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut *admin)
        .await
        .and_then(|row| row.try_get(0))
        .unwrap();
    if !there {
        let draft = format!("aionis_draft_{}", Uuid::new_v4().simple());
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {draft}"))).execute(&mut *admin).await.unwrap();
        PostgresStore::migrate_only(&with_database(server, &draft), false, &SystemClock)
            .await
            .expect("migrations apply");
        if partitioned {
            partition_empty(&with_database(server, &draft), TEMPLATE_PARTS).await;
            // The connection that did it may take a moment to be gone.
            let gone = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1";
            sqlx::query(gone).bind(&draft).execute(&mut *admin).await.unwrap();
        }
        sqlx::query(AssertSqlSafe(format!("ALTER DATABASE {draft} RENAME TO {name}")))
            .execute(&mut *admin)
            .await
            .unwrap();
    }
    sqlx::query("SELECT pg_advisory_unlock(7217)").execute(&mut *admin).await.unwrap();
    name
}

/// Options for a database, as the conformance suite wants them.
pub fn options(url: &str) -> PostgresOptions {
    PostgresOptions {
        space: Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM }),
        fallback_dim: DIM,
        connections_max: 8,
        outbox_attempts_max: ATTEMPTS_MAX,
        ..PostgresOptions::new(url)
    }
}

/// A subject over a fresh database.
pub async fn subject() -> Subject {
    let database = TempDatabase::new().await;
    let clock = FakeClock::new();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
    let store = PostgresStore::open(&options(&database.url()), shared).await.expect("a fresh database can be opened");
    let inspect = Arc::new(PostgresInspector { url: database.url() });
    Subject::new(Arc::new(store), clock, inspect, Box::new(database))
}

struct PostgresInspector {
    url: String,
}

#[async_trait]
impl Inspect for PostgresInspector {
    async fn version_intervals(&self, scope: &ScopeKey, node: NodeId) -> Vec<(u32, u64, u64)> {
        let rows = sqlx::query(
            "SELECT version, from_seq, to_seq FROM memory_node_versions WHERE scope_key = $1 AND node_id = $2 \
             ORDER BY version",
        )
        .bind(scope.as_str())
        .bind(node.0)
        .fetch_all(&mut connect(&self.url).await)
        .await
        .unwrap();
        let number = |row: &sqlx::postgres::PgRow, at: usize| u64::try_from(row.get::<i64, _>(at)).unwrap();
        rows.iter().map(|row| (u32::try_from(number(row, 0)).unwrap(), number(row, 1), number(row, 2))).collect()
    }

    async fn audits(&self, scope: &ScopeKey) -> Vec<AuditRow> {
        let rows = sqlx::query(
            "SELECT endpoint, consumer_agent_id, consumer_team_id, query_sha256, seed_count, node_count, edge_count, \
             created_at FROM memory_recall_audit WHERE scope_key = $1 ORDER BY created_at, endpoint",
        )
        .bind(scope.as_str())
        .fetch_all(&mut connect(&self.url).await)
        .await
        .unwrap();
        let count = |row: &sqlx::postgres::PgRow, at: usize| u32::try_from(row.get::<i32, _>(at)).unwrap();
        rows.iter()
            .map(|row| AuditRow {
                endpoint: row.get(0),
                agent: row.get(1),
                team: row.get(2),
                query_sha256: row.get(3),
                counts: (count(row, 4), count(row, 5), count(row, 6)),
                at: Timestamp(row.get(7)),
            })
            .collect()
    }

    async fn set_rule_state(&self, scope: &ScopeKey, rule: NodeId, state: RuleState) {
        let mut connection = connect(&self.url).await;
        let sql = "UPDATE memory_rule_defs SET state = $3 WHERE scope_key = $1 AND rule_node_id = $2";
        let changed = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(rule.0)
            .bind(state.as_str())
            .execute(&mut connection)
            .await
            .unwrap();
        assert_eq!(changed.rows_affected(), 1, "the rule is stored");
        // A live rule may be a seed; what may be found stands beside the vector too.
        sqlx::query("UPDATE memory_vectors SET gate = (gate & ~1) | $3 WHERE scope_key = $1 AND node_id = $2")
            .bind(scope.as_str())
            .bind(rule.0)
            .bind(i16::from(state.is_live()))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    async fn spoil_work(&self, scope: &ScopeKey) {
        sqlx::query("UPDATE memory_outbox SET payload = '{}' WHERE scope_key = $1")
            .bind(scope.as_str())
            .execute(&mut connect(&self.url).await)
            .await
            .unwrap();
    }

    async fn tamper(&self, statements: &[String]) {
        let mut owner = connect(&self.url).await;
        for sql in statements {
            let done = sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut owner).await;
            let changed = done.unwrap_or_else(|e| panic!("{sql}: {e}")).rows_affected();
            assert!(changed > 0, "nothing was changed: {sql}");
        }
    }

    fn id_literal(&self, id: Uuid) -> String {
        format!("'{id}'::uuid")
    }

    async fn graph(&self, scope: &ScopeKey) -> Vec<String> {
        let sql = "SELECT (to_jsonb(t) - '{updated_at,commit_seq,commit_id,change_no}'::text[])::text FROM memory_nodes t \
                       WHERE scope_key = $1 \
                   UNION ALL \
                   SELECT (to_jsonb(t) - '{commit_seq,change_no}'::text[])::text FROM memory_edges t WHERE scope_key = $1 \
                   ORDER BY 1";
        let rows = sqlx::query(sql).bind(scope.as_str()).fetch_all(&mut connect(&self.url).await).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn kept_of(&self, scope: &ScopeKey, node: NodeId) -> u64 {
        let sql = "SELECT (SELECT count(*) FROM memory_consolidation_candidates \
                       WHERE scope_key = $1 AND $2 IN (low_id, high_id)) \
                   + (SELECT count(*) FROM memory_merges WHERE scope_key = $1 AND $2 IN (canonical_id, duplicate_id)) \
                   + (SELECT count(*) FROM memory_removed_edges WHERE scope_key = $1 AND $2 IN (src_id, dst_id))";
        let row = sqlx::query(sql).bind(scope.as_str()).bind(node.0);
        let count: i64 = row.fetch_one(&mut connect(&self.url).await).await.unwrap().get(0);
        u64::try_from(count).unwrap()
    }
}

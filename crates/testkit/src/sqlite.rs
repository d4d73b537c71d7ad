//! The embedded engine in a directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::RuleState,
    ports::store::{Store, StoreError},
};
use aionis_store::sqlite::{DATABASE_FILE, EmbeddingSpace, SqliteOptions, SqliteStore};
use async_trait::async_trait;
use rusqlite::{Connection, config::DbConfig, params};
use tempfile::TempDir;

use crate::{
    conformance::{ATTEMPTS_MAX, AuditRow, Inspect, MODEL, Subject},
    fixtures::{DIM, FakeClock},
};

/// A store of the embedded engine whose directory goes away with it.
pub struct TempStore {
    // Dropped in this order: the store closes before its directory is removed.
    store: Option<Arc<SqliteStore>>,
    /// What it is opened with.
    pub options: SqliteOptions,
    /// Its clock.
    pub clock: Arc<FakeClock>,
    dir: TempDir,
}

impl TempStore {
    /// An empty store with vectors of [`DIM`] numbers.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// An empty store, opened with changed options.
    pub fn with(change: impl FnOnce(&mut SqliteOptions)) -> Self {
        Self::at(tempfile::tempdir().expect("a temporary directory can be made"), change)
    }

    fn at(dir: TempDir, change: impl FnOnce(&mut SqliteOptions)) -> Self {
        let mut options = options(dir.path());
        change(&mut options);
        let clock = FakeClock::new();
        let store = SqliteStore::open(&options, clock.clone()).expect("the store opens");
        Self { store: Some(Arc::new(store)), options, clock, dir }
    }

    /// The store.
    pub fn store(&self) -> Arc<SqliteStore> {
        Arc::clone(self.store.as_ref().expect("the store is open"))
    }

    /// The store behind its port.
    pub fn port(&self) -> Arc<dyn Store> {
        self.store()
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.options.data_dir.join(DATABASE_FILE)
    }

    /// Nodes and edges of a scope with every column but the last commit, when a node was last changed, and numbers of rows;
    /// ordered.
    pub fn graph(&self, scope: &ScopeKey) -> Vec<String> {
        graph(&self.raw(), scope)
    }

    /// A connection beside the store's own, for looking and for tampering.
    pub fn raw(&self) -> Connection {
        raw(&self.database())
    }

    /// Closes the store in order.
    pub async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
    }

    /// Drops the store without closing it.
    pub fn abandon(&mut self) {
        self.store = None;
    }

    /// Opens the store again; every other handle to it must be gone.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open(&mut self) -> Result<(), StoreError> {
        self.store = None;
        self.store = Some(Arc::new(SqliteStore::open(&self.options, self.clock.clone())?));
        Ok(())
    }

    /// Closes and opens the store.
    pub async fn reopen(&mut self) {
        self.close().await;
        self.open().expect("the store opens again");
    }

    /// What a crash now would leave: a copy of the files as they are, not opened. No write may be under way.
    ///
    /// A crash keeps both files as of one moment, a copy does not: a checkpoint between the two could empty the log into a
    /// database that is copied already. While a snapshot is held no log is begun anew.
    pub fn crash_copy(&self) -> CrashCopy {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let held = self.raw();
        held.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("closing can leave the log alone");
        held.execute_batch("BEGIN; SELECT COUNT(*) FROM sqlite_schema;").expect("a snapshot can be held");
        for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
            let from = self.options.data_dir.join(&name);
            if from.exists() {
                fs::copy(from, dir.path().join(name)).expect("the file can be copied");
            }
        }
        CrashCopy { dir }
    }
}

impl Default for TempStore {
    fn default() -> Self {
        Self::new()
    }
}

/// The files a crash left.
pub struct CrashCopy {
    dir: TempDir,
}

impl CrashCopy {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.path().join(DATABASE_FILE)
    }

    /// The write-ahead log.
    pub fn log(&self) -> PathBuf {
        self.path().join(format!("{DATABASE_FILE}-wal"))
    }

    /// A connection for tampering.
    pub fn raw(&self) -> Connection {
        raw(&self.database())
    }

    /// Opens a store on the files.
    pub fn open(self) -> TempStore {
        self.open_with(|_| {})
    }

    /// Opens a store on the files with changed options.
    pub fn open_with(self, change: impl FnOnce(&mut SqliteOptions)) -> TempStore {
        TempStore::at(self.dir, change)
    }
}

/// Options for tests: small, and in the space the fixtures' vectors are of.
pub fn options(data_dir: &Path) -> SqliteOptions {
    SqliteOptions {
        space: Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM }),
        fallback_dim: DIM,
        outbox_attempts_max: ATTEMPTS_MAX,
        ..SqliteOptions::new(data_dir)
    }
}

fn raw(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("the database opens");
    connection.busy_timeout(Duration::from_secs(10)).expect("a time-out can be set");
    connection
}

/// A fresh embedded engine for the conformance suite.
#[expect(clippy::unused_async, reason = "other engines' factories wait")]
pub async fn subject() -> Subject {
    let temp = TempStore::new();
    let inspect = SqliteInspector { database: temp.database() };
    Subject::new(temp.port(), temp.clock.clone(), Arc::new(inspect), Box::new(temp))
}

struct SqliteInspector {
    database: PathBuf,
}

/// Nodes and edges of a scope with every column but the last commit, when a node was last changed, and numbers of rows;
/// ordered.
fn graph(connection: &Connection, scope: &ScopeKey) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["memory_nodes", "memory_edges"] {
        let sql = format!("SELECT * FROM {table} WHERE scope_key = ?1");
        let mut statement = connection.prepare(&sql).unwrap();
        let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let mut rows = statement.query([scope.as_str()]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells = names
                .iter()
                .enumerate()
                .filter(|(_, name)| !["updated_at", "commit_seq", "commit_id", "node_no"].contains(&name.as_str()));
            let cells: Vec<String> = cells.map(|(at, name)| format!("{name}={:?}", row.get_ref(at).unwrap())).collect();
            found.push(format!("{table} {}", cells.join(" ")));
        }
    }
    found.sort_unstable();
    found
}

#[async_trait]
impl Inspect for SqliteInspector {
    async fn version_intervals(&self, scope: &ScopeKey, node: NodeId) -> Vec<(u32, u64, u64)> {
        let connection = raw(&self.database);
        let mut statement = connection
            .prepare(
                "SELECT version, from_seq, to_seq FROM memory_node_versions \
                 WHERE scope_key = ?1 AND node_id = ?2 ORDER BY version",
            )
            .unwrap();
        statement
            .query_map(params![scope.as_str(), node.0.as_bytes()], |row| {
                let seq = |at| row.get::<_, i64>(at).map(|seq| u64::try_from(seq).unwrap());
                Ok((row.get(0)?, seq(1)?, seq(2)?))
            })
            .and_then(Iterator::collect)
            .unwrap()
    }

    async fn audits(&self, scope: &ScopeKey) -> Vec<AuditRow> {
        let connection = raw(&self.database);
        let mut statement = connection
            .prepare(
                "SELECT endpoint, consumer_agent_id, consumer_team_id, query_sha256, seed_count, node_count, edge_count, \
                 created_at FROM memory_recall_audit WHERE scope_key = ?1 ORDER BY audit_no",
            )
            .unwrap();
        statement
            .query_map([scope.as_str()], |row| {
                Ok(AuditRow {
                    endpoint: row.get(0)?,
                    agent: row.get(1)?,
                    team: row.get(2)?,
                    query_sha256: row.get(3)?,
                    counts: (row.get(4)?, row.get(5)?, row.get(6)?),
                    at: Timestamp(row.get(7)?),
                })
            })
            .and_then(Iterator::collect)
            .unwrap()
    }

    async fn set_rule_state(&self, scope: &ScopeKey, rule: NodeId, state: RuleState) {
        let changed = raw(&self.database)
            .execute(
                "UPDATE memory_rule_defs SET state = ?3 WHERE scope_key = ?1 AND rule_node_id = ?2",
                params![scope.as_str(), rule.0.as_bytes(), state.as_str()],
            )
            .unwrap();
        assert_eq!(changed, 1, "the rule is stored");
    }

    async fn spoil_work(&self, scope: &ScopeKey) {
        let sql = "UPDATE memory_outbox SET payload = '{}' WHERE scope_key = ?1";
        raw(&self.database).execute(sql, [scope.as_str()]).unwrap();
    }

    async fn tamper(&self, statements: &[String]) {
        let connection = raw(&self.database);
        for sql in statements {
            let changed = connection.execute(sql, []).unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert!(changed > 0, "nothing was changed: {sql}");
        }
    }

    fn id_literal(&self, id: uuid::Uuid) -> String {
        format!("X'{}'", id.simple())
    }

    async fn graph(&self, scope: &ScopeKey) -> Vec<String> {
        graph(&raw(&self.database), scope)
    }

    async fn kept_of(&self, scope: &ScopeKey, node: NodeId) -> u64 {
        let connection = raw(&self.database);
        let of = |table: &str, columns: [&str; 2]| -> u64 {
            let sql = format!("SELECT COUNT(*) FROM {table} WHERE scope_key = ?1 AND ?2 IN ({})", columns.join(", "));
            let count: i64 =
                connection.query_row(&sql, (scope.as_str(), node.0.into_bytes()), |row| row.get(0)).unwrap();
            u64::try_from(count).unwrap()
        };
        of("memory_consolidation_candidates", ["low_id", "high_id"])
            + of("memory_merges", ["canonical_id", "duplicate_id"])
            + of("memory_removed_edges", ["src_id", "dst_id"])
    }
}

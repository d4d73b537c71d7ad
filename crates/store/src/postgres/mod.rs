//! The PostgreSQL engine: for many processes over one database.
//!
//! Rows, vectors and the queue live in PostgreSQL with pgvector. What the words, the graph and the filters of recall need
//! is held in memory per scope, as in the embedded engine, and brought up to date with every answer: a recall asks first
//! for what has changed since its image was made. See `docs/adr/0013-postgresql-engine.md`.

mod backfill;
mod connections;
mod consistency;
mod consolidation;
mod dense;
mod error;
mod facts;
mod forget;
mod groups;
mod images;
mod integrity;
mod jobs;
mod keys;
mod layout;
mod lifecycle;
mod maintenance;
mod migrate;
mod operate;
mod outbox;
pub mod partition;
mod past;
mod patience;
mod place;
mod purge;
mod read;
mod recall;
mod recode;
mod reports;
mod retention;
mod rows;
mod session;
mod space;
mod topics;
mod transfer;
mod wake;
mod write;

use std::{str::FromStr, sync::Arc, time::Duration};

use aionis_core::{clock::Clock, ids::ScopeKey, ports::store::StoreError};
use sqlx::{
    ConnectOptions, Executor, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub(crate) use self::facts::{load_facts, versions};
use self::{
    connections::{Connection, Connections},
    dense::Dense,
    error::driver,
    groups::Groups,
    images::{Freshness, Images},
    layout::Layout,
    patience::Patience,
    session::For,
    wake::Wake,
};
use crate::{deployment::not_prepared, migration::MigrationReport, space::EmbeddingSpace};

/// How nearest vectors are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorSearch {
    /// By short codes in the image of the scope, scored again from the stored vectors.
    Codes,
    /// By an HNSW index in the database; images hold nothing of the vectors.
    Hnsw,
}

/// Settings of the PostgreSQL engine.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Space of the vectors this process derives and compares; none takes the space the store was stamped with.
    pub space: Option<EmbeddingSpace>,
    /// Whatever space the store is stamped with is right: for an operator's command, which must not change it.
    pub any_space: bool,
    /// The database is taken as it is: where opening would have to change something it is refused. For gates.
    pub as_it_is: bool,
    /// Dimension of a store that has no space yet and gets none now.
    pub fallback_dim: usize,
    /// Connections.
    pub connections_max: u32,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// Longest time of one statement.
    pub statement_timeout: Duration,
    /// Writes that may wait; one more is refused.
    pub write_queue_max: usize,
    /// Writes of one scope folded into one transaction at most.
    pub group_max: usize,
    /// Memory for scope images, in bytes.
    pub image_bytes_max: usize,
    /// How nearest vectors are found.
    pub vector_search: VectorSearch,
    /// With [`VectorSearch::Hnsw`]: vectors of one scope up to which every one is compared.
    pub exact_max: u64,
    /// Claims of one outbox item before it is given up.
    pub outbox_attempts_max: u32,
    /// Time from which on statements are logged as slow, with their text and without their parameters; none for never.
    pub slow_statement: Option<Duration>,
}

impl PostgresOptions {
    /// The defaults for a database.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            space: None,
            any_space: false,
            as_it_is: false,
            fallback_dim: 1536,
            connections_max: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            write_queue_max: 3096,
            group_max: 128,
            image_bytes_max: 2 << 30,
            vector_search: VectorSearch::Codes,
            exact_max: 1_000,
            outbox_attempts_max: 25,
            slow_statement: None,
        }
    }
}

/// Short name of this version's schema: changes with every migration.
pub fn schema_fingerprint() -> String {
    migrate::fingerprint()
}

/// How statements are planned: once, and by way of indexes, whatever the statistics say. Every statement of this engine is
/// written for an index, and a table that was never analysed must not make it read the whole of it.
const PLANS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_bitmapscan = off; \
                     SET enable_mergejoin = off; SET enable_memoize = off; SET jit = off";

/// On partitioned tables a statement is planned each time instead, for the one partition its scope is in: a plan for any
/// scope would lock every partition of every table, more than the server can note for some tens of connections.
const PLANS_BY_LAYOUT: &str = "SELECT set_config('plan_cache_mode', 'force_custom_plan', false) FROM pg_class \
                               WHERE oid = to_regclass('memory_nodes') AND relkind = 'p'";

/// Finds the extension that spreads tables over servers.
const CITUS: &str = "SELECT 1 FROM pg_extension WHERE extname = 'citus'";

/// How much longer than the server an answer is waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// How long connections may take to be closed at the end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The PostgreSQL engine.
pub struct PostgresStore {
    shared: Arc<Shared>,
    groups: Groups,
}

/// What all parts use.
pub(crate) struct Shared {
    pub(crate) pool: Connections,
    pub(crate) space: EmbeddingSpace,
    pub(crate) images: Images,
    pub(crate) dense: Dense,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) wake: Wake,
    pub(crate) patience: Arc<Patience>,
    pub(crate) options: PostgresOptions,
}

impl PostgresStore {
    /// Connects, brings the schema up to date, checks the embedding space.
    ///
    /// # Errors
    /// The server cannot be reached or is too old; the schema is unknown or altered; the stored vectors are of another
    /// space; the runtime role is missing and cannot be made; a database that is to be taken as it is would have to be
    /// changed.
    pub async fn open(options: &PostgresOptions, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let mut connect = connect_options(&options.url)?;
        if let Some(slow) = options.slow_statement {
            connect = connect.log_slow_statements(tracing::log::LevelFilter::Warn, slow);
        }
        let mut owner = connect_in_time(&connect, options.acquire_timeout).await?;
        if options.as_it_is
            && let Some(missing) = migrate::missing(&mut owner).await?.first()
        {
            return Err(not_prepared(&format!("the database lacks migration {missing}")));
        }
        // Where nothing is missing this only checks.
        migrate::migrate(&mut owner, clock.now()).await?;
        owner.execute(PLANS).await.map_err(driver)?;
        owner.execute(PLANS_BY_LAYOUT).await.map_err(driver)?;
        let space = if options.as_it_is {
            recode::check(&mut owner).await?;
            space::found(&mut owner).await?
        } else {
            let space = space::settle(&mut owner, options).await?;
            recode::recode(&mut owner).await?;
            if options.vector_search == VectorSearch::Hnsw {
                space::make_index(&mut owner, &space).await?;
            }
            space
        };
        let sets_by_function = owner.fetch_optional(CITUS).await.map_err(driver)?.is_none();
        let _ = sqlx::Connection::close(owner).await;
        let patience = Arc::new(Patience::new(options.acquire_timeout + options.statement_timeout + ANSWER_GRACE));
        // A transaction whose client has fallen silent holds locks that others wait for.
        let idle_max = (options.statement_timeout + ANSWER_GRACE).as_millis();
        let statement_max = options.statement_timeout.as_millis().max(1);
        let settings = format!(
            "{PLANS}; SET idle_in_transaction_session_timeout = {idle_max}; SET statement_timeout = {statement_max}"
        );
        let tester = Arc::clone(&patience);
        let layout = Arc::new(Layout::default());
        let current = Arc::clone(&layout);
        let pool = PgPoolOptions::new()
            .max_connections(options.connections_max)
            .acquire_timeout(options.acquire_timeout)
            // A connection the server has closed fails at BEGIN, which is tried again on another one.
            .test_before_acquire(false)
            // One that was made for another layout is closed and another one made.
            .before_acquire(move |_, made| {
                let is_current = current.is_current(made.age);
                Box::pin(async move { Ok(is_current) })
            })
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move {
                    // From here on nothing is done as the owner, for whom row-level security does not hold.
                    connection.execute("SET ROLE aionis_runtime").await?;
                    connection.execute(sqlx::AssertSqlSafe(settings)).await?;
                    connection.execute(PLANS_BY_LAYOUT).await?;
                    Ok(())
                })
            })
            .after_release(move |connection, _| {
                let tester = Arc::clone(&tester);
                Box::pin(async move {
                    // An error closes the connection at once; to close it politely might take for ever.
                    if tester.is_sound(connection).await { Ok(true) } else { Err(sqlx::Error::WorkerCrashed) }
                })
            })
            .connect_with(connect)
            .await
            .map_err(driver)?;
        let pool = Connections::new(pool, Arc::clone(&layout), Arc::clone(&patience), sets_by_function);
        let wake = Wake::start(pool.clone(), layout);
        let images = Images::new(options.image_bytes_max);
        let dense = Dense::new(&space);
        let shared = Arc::new(Shared { pool, space, images, dense, clock, wake, patience, options: options.clone() });
        let groups = Groups::new(Arc::clone(&shared));
        Ok(Self { shared, groups })
    }

    /// Migrates a database and nothing else; with `dry_run` only tells what would be done.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn migrate_only(url: &str, dry_run: bool, clock: &dyn Clock) -> Result<MigrationReport, StoreError> {
        let connect = connect_options(url)?;
        let owner = connect.connect().await.map_err(|e| unreachable(&connect, e))?;
        migrate::run(owner, dry_run, clock.now()).await
    }

    /// The space of the stored vectors.
    pub fn space(&self) -> &EmbeddingSpace {
        &self.shared.space
    }

    /// Bytes held by scope images now.
    pub fn image_bytes(&self) -> usize {
        self.shared.images.bytes()
    }

    /// Reads one number over all tenants.
    pub(crate) async fn read_number(&self, sql: &'static str) -> Result<u64, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        self.shared
            .patience
            .bounded(async {
                let mut tx = session::begin(&self.shared.pool, For::Everyone, timeout, "").await?;
                rows::unsigned(&sqlx::query(sql).fetch_one(&mut *tx).await.map_err(driver)?, 0)
            })
            .await
    }

    /// Connections, and how many of them are idle.
    pub(crate) fn pool_size(&self) -> (u32, usize) {
        self.shared.pool.size()
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        self.shared.pool.acquire().await.map_err(driver)
    }

    /// Reads a fact about the store, or stores `fresh` for it when there is none.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn meta_or_insert(&self, key: &'static str, fresh: String) -> Result<String, StoreError> {
        let insert = "INSERT INTO aionis_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
        sqlx::query(insert).bind(key).bind(fresh).execute(&mut *self.connection().await?).await.map_err(driver)?;
        sqlx::query("SELECT value FROM aionis_meta WHERE key = $1")
            .bind(key)
            .fetch_one(&mut *self.connection().await?)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(driver)
    }

    /// Reads a fact about the store.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn meta(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        sqlx::query("SELECT value FROM aionis_meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&mut *self.connection().await?)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(driver)
    }

    /// Loads the images of the scopes written last, so that the first recall does not pay for it.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn warm(&self, scopes_max: usize) -> Result<usize, StoreError> {
        let mut tx =
            session::begin(&self.shared.pool, For::Everyone, self.shared.options.statement_timeout, "").await?;
        let rows = sqlx::query("SELECT scope_key FROM memory_scopes ORDER BY updated_at DESC LIMIT $1")
            .bind(i64::try_from(scopes_max).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await
            .map_err(driver)?;
        drop(tx);
        for row in &rows {
            let scope = ScopeKey::from_stored(row.try_get(0).map_err(driver)?)?;
            self.shared.images.get(&self.shared, &scope, Freshness::Known).await?;
        }
        Ok(rows.len())
    }

    /// Finishes queued writes and closes all connections.
    pub async fn close(&self) {
        self.groups.drain().await;
        self.shared.wake.stop();
        // Work is bounded, and so drained by now; a server that stands still need not hear of the end.
        if tokio::time::timeout(CLOSE_MAX, self.shared.pool.close()).await.is_err() {
            tracing::warn!("connections to PostgreSQL were left open: it does not answer");
        }
    }
}

fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|e| StoreError::Driver(format!("DATABASE_URL is no PostgreSQL address: {e}")))?;
    Ok(options.application_name("aionis").log_statements(tracing::log::LevelFilter::Off))
}

async fn connect_in_time(options: &PgConnectOptions, limit: Duration) -> Result<sqlx::PgConnection, StoreError> {
    let connected = tokio::time::timeout(limit, options.connect()).await;
    connected.map_err(|_| unreachable(options, sqlx::Error::PoolTimedOut))?.map_err(|e| unreachable(options, e))
}

/// A connection that failed, with where it was to go and without the credentials.
fn unreachable(options: &PgConnectOptions, error: sqlx::Error) -> StoreError {
    let place = format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default());
    match driver(error) {
        StoreError::Driver(text) => StoreError::Driver(format!("{place}: {text}")),
        other => StoreError::Unavailable(format!("cannot connect to {place} ({other}); check DATABASE_URL")),
    }
}

//! The embedded engine: SQLite for durability, an in-process image of each scope in use for speed.
//!
//! One process owns a data directory. One thread writes and folds concurrent writes into shared transactions; several
//! connections read. What recall scans (vectors, postings, adjacency) is held in memory per scope, derived from the
//! database, brought up to date by the writer after each commit, and dropped when memory runs short.

mod backfill;
mod consistency;
mod consolidation;
mod error;
mod facts;
mod forget;
mod images;
mod indexer;
mod integrity;
mod jobs;
mod keys;
mod lifecycle;
mod lock;
mod maintenance;
mod migrate;
mod operate;
mod outbox;
mod past;
mod purge;
mod read;
mod readers;
mod recall;
mod reports;
mod residue;
mod retention;
mod rows;
mod space;
mod topics;
mod transfer;
mod vector_index;
mod write;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use aionis_core::{clock::Clock, ports::store::StoreError};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{Notify, watch};

pub(crate) use self::facts::{library_version, load_rows};
pub use self::migrate::migrate_only;
use self::{images::ImageCache, indexer::Indexer, lock::DirectoryLock, readers::Readers, writer::Writer};
use crate::deployment::not_prepared;
pub use crate::space::EmbeddingSpace;

/// Settings of the embedded engine.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Directory of the database and its lock; made when missing.
    pub data_dir: PathBuf,
    /// Space of the vectors this process derives and compares; none takes the space the store was stamped with.
    pub space: Option<EmbeddingSpace>,
    /// Whatever space the store is stamped with is right: for an operator's command, which must not change it.
    pub any_space: bool,
    /// The database is taken as it is: where opening would have to change something it is refused. For gates.
    pub as_it_is: bool,
    /// Dimension of a store that has no space yet and gets none now.
    pub fallback_dim: usize,
    /// Reading connections.
    pub readers: usize,
    /// Writes that may wait; one more is refused.
    pub write_queue_max: usize,
    /// Writes folded into one transaction at most.
    pub group_max: usize,
    /// Memory for scope images, in bytes.
    pub image_bytes_max: usize,
    /// Vectors of one scope from which on they get an index; 0 for never.
    pub index_from: usize,
    /// Claims of one outbox item before it is given up.
    pub outbox_attempts_max: u32,
    /// Time from which on reads and transactions are logged as slow; none for never.
    pub slow_statement: Option<Duration>,
}

impl SqliteOptions {
    /// The defaults for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            space: None,
            any_space: false,
            as_it_is: false,
            fallback_dim: 1536,
            readers: 4,
            write_queue_max: 3096,
            group_max: 256,
            image_bytes_max: 2 << 30,
            index_from: INDEX_FROM,
            outbox_attempts_max: 25,
            slow_statement: None,
        }
    }
}

/// Vectors of one scope from which on an index pays: see docs/adr/0012-inverted-file-index.md for the measurement.
pub const INDEX_FROM: usize = 20_000;

/// The embedded engine.
pub struct SqliteStore {
    shared: Arc<Shared>,
    /// Before the writer, so that it is dropped first: it hands work to it.
    indexer: Indexer,
    writer: Writer,
    readers: Readers,
    outbox_attempts_max: u32,
    /// The tenant the last claim of work ended with.
    claim_cursor: Mutex<String>,
    _lock: DirectoryLock,
}

/// What writer and readers share.
pub(crate) struct Shared {
    pub(crate) space: EmbeddingSpace,
    pub(crate) images: ImageCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) commits: watch::Sender<u64>,
    pub(crate) work: Notify,
    /// Time from which on a transaction is slow.
    pub(crate) slow: Option<Duration>,
}

/// Name of the database file inside the data directory.
pub const DATABASE_FILE: &str = "aionis.db";

impl SqliteStore {
    /// Opens or makes the database in a directory: takes the directory's lock, brings the schema up to date, checks the
    /// embedding space, starts the writer.
    ///
    /// # Errors
    /// Another process owns the directory; it cannot be read or written; its schema is unknown or altered; its vectors
    /// are of another space; a database that is to be taken as it is would have to be changed.
    pub fn open(options: &SqliteOptions, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let lock = DirectoryLock::take(&options.data_dir)?;
        let path = options.data_dir.join(DATABASE_FILE);
        let mut connection = connect(&path)?;
        let (space, index_from) = if options.as_it_is {
            if let Some(missing) = migrate::missing(&connection)?.first() {
                return Err(not_prepared(&format!("the database lacks migration {missing}")));
            }
            // No scope has so many vectors that it gets an index now.
            (space::found(&connection)?, 0)
        } else {
            migrate::migrate(&mut connection, clock.now())?;
            (space::settle(&connection, options)?, options.index_from)
        };
        let (index_requests, scopes_to_index) = indexer::queue();
        let shared = Arc::new(Shared {
            space,
            images: ImageCache::new(options.image_bytes_max, index_from, index_requests),
            clock,
            commits: watch::Sender::new(0),
            work: Notify::new(),
            slow: options.slow_statement,
        });
        let writer = Writer::start(connection, Arc::clone(&shared), options.write_queue_max, options.group_max)?;
        let indexer = Indexer::start(scopes_to_index, Arc::clone(&shared), writer.queue()?)?;
        let readers = Readers::open(&path, options.readers, options.slow_statement)?;
        Ok(Self {
            shared,
            indexer,
            writer,
            readers,
            outbox_attempts_max: options.outbox_attempts_max,
            claim_cursor: Mutex::default(),
            _lock: lock,
        })
    }

    /// The space of the stored vectors.
    pub fn space(&self) -> &EmbeddingSpace {
        &self.shared.space
    }

    /// Reads one number.
    pub(crate) async fn read_number(&self, sql: &'static str) -> Result<u64, StoreError> {
        self.readers
            .run(move |connection| connection.query_row(sql, [], |row| rows::unsigned(row, 0)).map_err(error::driver))
            .await
    }

    /// Reads a fact about the store, or stores `fresh` for it when there is none.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn meta_or_insert(&self, key: &'static str, fresh: String) -> Result<String, StoreError> {
        self.writer
            .submit(move |tx, _| {
                let insert = "INSERT INTO aionis_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING";
                tx.execute(insert, (key, &fresh)).map_err(error::driver)?;
                tx.query_row("SELECT value FROM aionis_meta WHERE key = ?1", [key], |row| row.get(0))
                    .map_err(error::driver)
            })
            .await
    }

    /// Reads a fact about the store.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn meta(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        self.readers
            .run(move |connection| {
                let sql = "SELECT value FROM aionis_meta WHERE key = ?1";
                connection.query_row(sql, [key], |row| row.get(0)).optional().map_err(error::driver)
            })
            .await
    }

    /// Bytes held by scope images now.
    pub fn image_bytes(&self) -> usize {
        self.shared.images.bytes()
    }

    /// Loads the images of the scopes written last, so that the first recall does not pay for it.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn warm(&self, scopes_max: usize) -> Result<usize, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.readers
            .run(move |connection| {
                let mut statement = connection
                    .prepare("SELECT scope_key FROM memory_scopes ORDER BY updated_at DESC LIMIT ?1")
                    .map_err(error::driver)?;
                let limit = i64::try_from(scopes_max).unwrap_or(i64::MAX);
                let keys: Vec<String> = statement
                    .query_map([limit], |row| row.get(0))
                    .and_then(Iterator::collect)
                    .map_err(error::driver)?;
                for key in &keys {
                    shared.images.get(key, connection, &shared.space)?;
                }
                Ok(keys.len())
            })
            .await
    }

    /// Waits for queued writes, writes the log back into the database, and stops the writer.
    pub async fn close(&self) {
        self.indexer.end();
        self.writer.stop().await;
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(|e| error::open(path, &e))?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA secure_delete = FAST;
             PRAGMA busy_timeout = 5000;
             PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -65536;
             PRAGMA mmap_size = 0;
             PRAGMA wal_autocheckpoint = 16000;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(|e| error::open(path, &e))?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

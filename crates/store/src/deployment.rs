//! What a program needs of a store beside the ports: to open it whichever engine it is, and to run it.

use std::{path::PathBuf, sync::Arc};

use aionis_core::{
    clock::Clock,
    ports::store::{Store, StoreError},
};
use async_trait::async_trait;

use crate::{
    EmbeddingSpace, MigrationReport,
    facts::{LoadFacts, LoadWindows, StoreVersions},
    gauges::StoreGauges,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore, migrate_only},
    transfer::TransferHandle,
};

/// A store in operation.
#[async_trait]
pub trait Deployment: Store {
    /// `embedded` or `postgres`.
    fn engine(&self) -> &'static str;

    /// The space of the stored vectors.
    fn space(&self) -> &EmbeddingSpace;

    /// Bytes held by scope images now.
    fn image_bytes(&self) -> usize;

    /// What the store holds in memory now; no I/O.
    fn gauges(&self) -> StoreGauges;

    /// Number of the newest commit in any scope. It looks at every scope, so it is for now and then.
    ///
    /// # Errors
    /// A failure of storage.
    async fn chain_height(&self) -> Result<u64, StoreError>;

    /// Reads a fact about the store, or stores `fresh` for it when there is none.
    ///
    /// # Errors
    /// A failure of storage.
    async fn meta_or_insert(&self, key: &'static str, fresh: String) -> Result<String, StoreError>;

    /// Reads a fact about the store.
    ///
    /// # Errors
    /// A failure of storage.
    async fn meta(&self, key: &'static str) -> Result<Option<String>, StoreError>;

    /// What the database is made by.
    ///
    /// # Errors
    /// A failure of storage.
    async fn made_by(&self) -> Result<StoreVersions, StoreError>;

    /// How the deployment is loaded. It looks at every scope, so it is for now and then.
    ///
    /// # Errors
    /// A failure of storage.
    async fn load_facts(&self, windows: LoadWindows) -> Result<LoadFacts, StoreError>;

    /// Loads the images of the scopes written last, so that the first recall does not pay for it.
    ///
    /// # Errors
    /// A failure of storage.
    async fn warm(&self, scopes_max: usize) -> Result<usize, StoreError>;

    /// Finishes queued writes and lets go of everything.
    async fn close(&self);

    /// For [`crate::copy`].
    #[doc(hidden)]
    fn transfer(&self) -> TransferHandle<'_>;
}

/// Which store to open.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// SQLite in a directory of this machine.
    Embedded(SqliteOptions),
    /// A PostgreSQL database.
    Postgres(PostgresOptions),
}

impl StoreOptions {
    /// For an operator's command: whatever embedding space the store is stamped with is right, and stays.
    #[must_use]
    pub fn with_any_space(mut self) -> Self {
        match &mut self {
            Self::Embedded(options) => options.any_space = true,
            Self::Postgres(options) => options.any_space = true,
        }
        self
    }

    /// For a gate: the database is taken as it is. Where opening would have to change something it is refused, no index
    /// is made, and whatever embedding space it is stamped with is right.
    #[must_use]
    pub fn taken_as_it_is(self) -> Self {
        let mut options = self.with_any_space();
        match &mut options {
            Self::Embedded(options) => options.as_it_is = true,
            Self::Postgres(options) => options.as_it_is = true,
        }
        options
    }

    /// Where the data is, without credentials, for messages and files that are shown to others.
    pub fn place(&self) -> String {
        match self {
            Self::Embedded(options) => options.data_dir.display().to_string(),
            // Parameters may hold a user and a password too, and a password may hold an `@`: they go first.
            Self::Postgres(options) => {
                let url = options.url.split('?').next().unwrap_or_default();
                let without_user = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
                without_user.trim_start_matches("postgres://").trim_start_matches("postgresql://").to_owned()
            }
        }
    }
}

/// A database that is to be taken as it is, and has to be changed first.
pub(crate) fn not_prepared(what: &str) -> StoreError {
    StoreError::Driver(format!(
        "{what}, and a gate changes nothing; start `aionis serve` of this version on it once, then judge it"
    ))
}

/// Opens a store: brings the schema up to date, checks the embedding space.
///
/// # Errors
/// As [`SqliteStore::open`] and [`PostgresStore::open`].
pub async fn open(options: &StoreOptions, clock: Arc<dyn Clock>) -> Result<Arc<dyn Deployment>, StoreError> {
    Ok(match options {
        StoreOptions::Embedded(options) => {
            let options = options.clone();
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&options, clock));
            Arc::new(opened.await.map_err(|e| StoreError::Driver(format!("opening failed: {e}")))??)
        }
        StoreOptions::Postgres(options) => Arc::new(PostgresStore::open(options, clock).await?),
    })
}

/// Brings the schema up to date and nothing else; with `dry_run` only tells what would be done.
///
/// # Errors
/// As [`open`].
pub async fn migrate(options: &StoreOptions, dry_run: bool, clock: &dyn Clock) -> Result<MigrationReport, StoreError> {
    match options {
        StoreOptions::Embedded(options) => migrate_only(&PathBuf::clone(&options.data_dir), dry_run, clock.now()),
        StoreOptions::Postgres(options) => PostgresStore::migrate_only(&options.url, dry_run, clock).await,
    }
}

#[async_trait]
impl Deployment for SqliteStore {
    fn engine(&self) -> &'static str {
        "embedded"
    }

    fn space(&self) -> &EmbeddingSpace {
        Self::space(self)
    }

    fn image_bytes(&self) -> usize {
        Self::image_bytes(self)
    }

    fn gauges(&self) -> StoreGauges {
        Self::gauges(self)
    }

    async fn chain_height(&self) -> Result<u64, StoreError> {
        Self::chain_height(self).await
    }

    async fn meta_or_insert(&self, key: &'static str, fresh: String) -> Result<String, StoreError> {
        Self::meta_or_insert(self, key, fresh).await
    }

    async fn meta(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        Self::meta(self, key).await
    }

    async fn made_by(&self) -> Result<StoreVersions, StoreError> {
        Self::made_by(self).await
    }

    async fn load_facts(&self, windows: LoadWindows) -> Result<LoadFacts, StoreError> {
        Self::load_facts(self, windows).await
    }

    async fn warm(&self, scopes_max: usize) -> Result<usize, StoreError> {
        Self::warm(self, scopes_max).await
    }

    async fn close(&self) {
        Self::close(self).await;
    }

    fn transfer(&self) -> TransferHandle<'_> {
        TransferHandle(self)
    }
}

#[async_trait]
impl Deployment for PostgresStore {
    fn engine(&self) -> &'static str {
        "postgres"
    }

    fn space(&self) -> &EmbeddingSpace {
        Self::space(self)
    }

    fn image_bytes(&self) -> usize {
        Self::image_bytes(self)
    }

    fn gauges(&self) -> StoreGauges {
        Self::gauges(self)
    }

    async fn chain_height(&self) -> Result<u64, StoreError> {
        Self::chain_height(self).await
    }

    async fn meta_or_insert(&self, key: &'static str, fresh: String) -> Result<String, StoreError> {
        Self::meta_or_insert(self, key, fresh).await
    }

    async fn meta(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        Self::meta(self, key).await
    }

    async fn made_by(&self) -> Result<StoreVersions, StoreError> {
        Self::made_by(self).await
    }

    async fn load_facts(&self, windows: LoadWindows) -> Result<LoadFacts, StoreError> {
        Self::load_facts(self, windows).await
    }

    async fn warm(&self, scopes_max: usize) -> Result<usize, StoreError> {
        Self::warm(self, scopes_max).await
    }

    async fn close(&self) {
        Self::close(self).await;
    }

    fn transfer(&self) -> TransferHandle<'_> {
        TransferHandle(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_no_credentials_wherever_the_address_has_them() {
        for (url, place) in [
            ("postgres://u:s3cret@db:5432/aionis", "db:5432/aionis"),
            ("postgresql://u:s3@cret@db/aionis?sslmode=require", "db/aionis"),
            ("postgres://db:5432/aionis?user=a&password=s3cret", "db:5432/aionis"),
            ("postgres://db:5432/aionis?password=s3@cret", "db:5432/aionis"),
            ("postgres://u:s3cret@db/aionis?password=s3@cret&user=a@b", "db/aionis"),
            ("postgres:///aionis?host=/run&password=s3?cret", "/aionis"),
        ] {
            let shown = StoreOptions::Postgres(PostgresOptions::new(url)).place();
            assert_eq!(shown, place, "{url}");
        }
    }
}

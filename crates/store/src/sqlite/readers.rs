//! Reading connections, each used by one call at a time, off the async threads.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aionis_core::ports::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{connect, error::driver};

/// A fixed set of connections.
#[derive(Clone)]
pub(crate) struct Readers {
    free: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn open(path: &Path, count: usize) -> Result<Self, StoreError> {
        let connections = (0..count.max(1))
            .map(|_| {
                let connection = connect(path)?;
                connection.pragma_update(None, "query_only", true).map_err(driver)?;
                Ok(connection)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let permits = Arc::new(Semaphore::new(connections.len()));
        Ok(Self { free: Arc::new(Mutex::new(connections)), permits })
    }

    /// Runs a reading closure on a connection of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let free = Arc::clone(&self.free);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let lease = Lease::take(&free)?;
            lease.connection().map_or_else(|| Err(closed()), work)
        });
        task.await.map_err(|e| StoreError::Driver(format!("a reading task failed: {e}")))?
    }
}

/// Gives its connection back when dropped, also when the reading closure panics.
struct Lease<'a> {
    free: &'a Mutex<Vec<Connection>>,
    connection: Option<Connection>,
}

impl<'a> Lease<'a> {
    fn take(free: &'a Mutex<Vec<Connection>>) -> Result<Self, StoreError> {
        let connection = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match connection {
            Some(connection) => Ok(Self { free, connection: Some(connection) }),
            None => Err(StoreError::Driver("a permit came without a free connection".to_owned())),
        }
    }

    fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

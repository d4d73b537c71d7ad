//! Reading connections, each used by one call at a time, off the async threads.

use std::{
    panic::Location,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aionis_core::{held, ports::store::StoreError};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{connect, error::driver};

/// A fixed set of connections.
#[derive(Clone)]
pub(crate) struct Readers {
    free: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    slow: Option<Duration>,
}

impl Readers {
    pub(crate) fn open(path: &Path, count: usize, slow: Option<Duration>) -> Result<Self, StoreError> {
        let connections = (0..count.max(1))
            .map(|_| {
                let connection = connect(path)?;
                connection.pragma_update(None, "query_only", true).map_err(driver)?;
                Ok(connection)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let permits = Arc::new(Semaphore::new(connections.len()));
        Ok(Self { free: Arc::new(Mutex::new(connections)), permits, slow })
    }

    /// The same with one connection alone, which may be inside a transaction.
    pub(crate) fn of_one(&self, connection: Connection) -> Self {
        Self { free: Arc::new(Mutex::new(vec![connection])), permits: Arc::new(Semaphore::new(1)), slow: self.slow }
    }

    /// Runs a reading closure on a connection of its own. The slow log names it by where it stands in the source.
    #[track_caller]
    pub(crate) fn run<T: Send + 'static, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<'_, T, W>
    where
        W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.run_at(Location::caller(), work)
    }

    async fn run_at<T: Send + 'static>(
        &self,
        place: &'static Location<'static>,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let (free, slow, span) = (Arc::clone(&self.free), self.slow, tracing::Span::current());
        let held = held::share();
        let task = tokio::task::spawn_blocking(move || {
            // Nothing ends it once it has begun: the place of its request is taken until then.
            let (_permit, _held) = (permit, held);
            let lease = Lease::take(&free)?;
            let started = Instant::now();
            let answer = lease.connection().map_or_else(|| Err(closed()), work);
            let time = started.elapsed();
            if slow.is_some_and(|slow| time >= slow) {
                span.in_scope(|| tracing::warn!(statement = %place, ms = millis(time), "slow statement"));
            }
            answer
        });
        task.await.map_err(|e| StoreError::Driver(format!("a reading task failed: {e}")))?
    }
}

/// Milliseconds, for the log.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use aionis_core::held::Held;

    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_the_reading_that_has_begun_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        let readers = Readers::open(&path, 1, None).unwrap();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (release, waits) = mpsc::channel::<()>();
        let place: Held = Arc::new("a place at the gate");
        let watched = Arc::downgrade(&place);
        let reading = readers.run(move |_| {
            begun.send(()).unwrap();
            waits.recv().unwrap();
            Ok(())
        });
        let mut request = Box::pin(held::holding(place, reading));
        tokio::select! {
            _ = &mut request => panic!("it is being read"),
            begun = begins => begun.unwrap(),
        }
        drop(request);
        assert!(watched.upgrade().is_some(), "the client has gone, the reading has not");
        release.send(()).unwrap();
        while watched.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}

//! How long a database is waited for that does not answer at all.
//!
//! The server ends a statement that takes too long, if the statement has reached it. A network that swallows bytes, or a
//! server that stands still, ends nothing: only this side can give up then. A connection that was given up on is not handed
//! out again before it has shown that it works.

use std::{
    future::Future,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aionis_core::ports::store::StoreError;
use sqlx::{Connection, Error, PgConnection};

use super::error::{driver, no_answer};

/// For so long connections are tested when they are given back, after one was given up on.
const SUSPICION: Duration = Duration::from_secs(60);
/// How long such a test may take.
const TEST: Duration = Duration::from_secs(1);

/// Gives up on a silent server.
pub(crate) struct Patience {
    limit: Duration,
    given_up_at: Mutex<Option<Instant>>,
}

impl Patience {
    /// `limit`: the longest a piece of work may take, waiting for a connection included.
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { limit, given_up_at: Mutex::new(None) }
    }

    /// Does a piece of work, but not for longer than the limit.
    pub(crate) async fn bounded<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let work = pin!(work);
        // Declared after the work, so that it is dropped before the work's connection goes back.
        let mut watch = Watch { patience: self, pending: true };
        let Ok(done) = tokio::time::timeout(self.limit, work).await else { return Err(no_answer()) };
        watch.pending = false;
        done
    }

    /// Begins a transaction. The driver takes one for begun when it hears that it is: if nobody waits for that any more, it
    /// gives the connection back with a transaction that nothing will ever end, and whatever is done there next is done in it.
    pub(crate) async fn beginning<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        let work = pin!(work);
        let mut watch = Watch { patience: self, pending: true };
        let begun = work.await;
        // One that failed may have begun as well, unless there was no connection for it.
        watch.pending = matches!(&begun, Err(error) if !matches!(error, Error::PoolTimedOut));
        begun.map_err(driver)
    }

    /// Whether a connection that is given back is worth keeping. A transaction that was left open on it is rolled back.
    pub(crate) async fn is_sound(&self, connection: &mut PgConnection) -> bool {
        let given_up_at = *self.given_up_at.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up_at.is_none_or(|at| at.elapsed() > SUSPICION) {
            return true;
        }
        let test = async {
            // A statement that begins nothing: the driver says so, unless a transaction is open. One that failed refuses it.
            match connection.begin_with("SELECT").await {
                Err(Error::BeginFailed) => Ok(()),
                Ok(left_open) => left_open.rollback().await,
                Err(error) => Err(error),
            }
        };
        matches!(tokio::time::timeout(TEST, test).await, Ok(Ok(())))
    }
}

/// Notes work that ends before it is done: by the limit, or because nobody waits for it any more.
struct Watch<'a> {
    patience: &'a Patience,
    pending: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.pending {
            *self.patience.given_up_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

//! The connections of a store.
//!
//! The driver's pool makes them, closes them when they are old, and asks the server when each is given back whether it still
//! works: a round trip that nobody waits for, and that costs both processes as much as any other. One whose work has ended
//! well has just shown that it works. It is kept here for whoever comes next, and goes back to the pool when nobody did for
//! a while, or when it has not been there for a while.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use sqlx::{Error, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgListener};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{layout::Layout, patience::Patience};

/// How long a connection is kept that nobody uses.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// How long a connection stays out of the pool, which sees to its age.
const OUT_MAX: Duration = Duration::from_secs(60);

/// The connections of a store. Transactions on them are begun by [`begin`](super::session::begin) alone, which sees to those
/// that nobody waits for.
#[derive(Clone)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
    pub(crate) patience: Arc<Patience>,
    /// Whether settings made by `set_config` hold wherever a statement is executed. Citus hands on `SET LOCAL` alone.
    pub(crate) sets_by_function: bool,
}

struct Shared {
    pool: PgPool,
    /// One for each connection the pool may make, so that who has one finds a connection kept or may have one made: those
    /// kept and those in use are never more than the permits that were ever in use at once.
    permits: Arc<Semaphore>,
    kept: Mutex<Kept>,
    layout: Arc<Layout>,
    acquire_timeout: Duration,
}

#[derive(Default)]
struct Kept {
    /// Those used last come last, and are used again first.
    connections: Vec<KeptConnection>,
    /// Whether a task looks for those that nobody uses.
    is_swept: bool,
    is_closed: bool,
}

struct KeptConnection {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    kept_at: Instant,
}

/// A connection in use. It goes back to the pool, which tests it, unless it is [kept](Connection::keep).
pub(crate) struct Connection {
    connection: PoolConnection<Postgres>,
    /// When it was taken from the pool.
    taken_at: Instant,
    of: Arc<Shared>,
    // Given back after the connection.
    permit: OwnedSemaphorePermit,
}

impl Connections {
    /// `pool`: of `connections_max` connections, none of them in use. `layout`: tells which of them plan as they should.
    pub(crate) fn new(pool: PgPool, layout: Arc<Layout>, patience: Arc<Patience>, sets_by_function: bool) -> Self {
        let options = pool.options();
        let permits = Arc::new(Semaphore::new(options.get_max_connections() as usize));
        let acquire_timeout = options.get_acquire_timeout();
        let shared = Shared { permits, kept: Mutex::default(), layout, acquire_timeout, pool };
        Self { shared: Arc::new(shared), patience, sets_by_function }
    }

    /// A connection. Who waits for one is served in the order of coming. What seldom happens is done in a place of its own, so
    /// that who asks carries no room for it.
    ///
    /// # Errors
    /// None is to be had in time, or none can be made.
    pub(crate) async fn acquire(&self) -> Result<Connection, Error> {
        match Arc::clone(&self.shared.permits).try_acquire_owned() {
            Ok(permit) => match self.shared.last_kept() {
                Some((connection, taken_at)) => Ok(self.in_use(connection, taken_at, permit)),
                None => Box::pin(self.of_pool(permit)).await,
            },
            Err(TryAcquireError::Closed) => Err(Error::PoolClosed),
            Err(TryAcquireError::NoPermits) => Box::pin(self.wait()).await,
        }
    }

    async fn wait(&self) -> Result<Connection, Error> {
        let waited = async {
            let permit = self.permit().await?;
            match self.shared.last_kept() {
                Some((connection, taken_at)) => Ok(self.in_use(connection, taken_at, permit)),
                None => self.of_pool(permit).await,
            }
        };
        tokio::time::timeout(self.shared.acquire_timeout, waited).await.unwrap_or(Err(Error::PoolTimedOut))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let closed = |_: AcquireError| Error::PoolClosed;
        Arc::clone(&self.shared.permits).acquire_owned().await.map_err(closed)
    }

    async fn of_pool(&self, permit: OwnedSemaphorePermit) -> Result<Connection, Error> {
        let connection = self.shared.pool.acquire().await?;
        Ok(self.in_use(connection, Instant::now(), permit))
    }

    fn in_use(
        &self,
        connection: PoolConnection<Postgres>,
        taken_at: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Connection {
        Connection { connection, taken_at, of: Arc::clone(&self.shared), permit }
    }

    /// A connection that listens, and the place it takes among the others for as long as it does.
    ///
    /// # Errors
    /// As [`Connections::acquire`].
    pub(crate) async fn listener(&self) -> Result<(PgListener, OwnedSemaphorePermit), Error> {
        let permit = self.permit().await?;
        // It is made by the pool, which may have no other place than that of one that is kept.
        drop(self.shared.kept().connections.pop());
        Ok((PgListener::connect_with(&self.shared.pool).await?, permit))
    }

    /// Connections, and how many of them nobody uses.
    pub(crate) fn size(&self) -> (u32, usize) {
        let kept = self.shared.kept().connections.len();
        (self.shared.pool.size(), self.shared.pool.num_idle() + kept)
    }

    /// Closes all connections, those in use as they are given back.
    pub(crate) async fn close(&self) {
        self.shared.permits.close();
        let kept = {
            let mut kept = self.shared.kept();
            kept.is_closed = true;
            std::mem::take(&mut kept.connections)
        };
        drop(kept);
        self.shared.pool.close().await;
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, unless the pool has to see to it.
    fn last_kept(&self) -> Option<(PoolConnection<Postgres>, Instant)> {
        loop {
            let mut kept = self.kept().connections.pop()?;
            if self.is_outdated(&kept) {
                kept.connection.close_on_drop();
            } else if kept.taken_at.elapsed() < OUT_MAX {
                return Some((kept.connection, kept.taken_at));
            }
        }
    }

    /// Whether the layout has changed since a connection was taken from the pool, which hands out none that is outdated.
    fn is_outdated(&self, kept: &KeptConnection) -> bool {
        !self.layout.is_current(kept.taken_at.elapsed())
    }

    fn keep(self: &Arc<Self>, connection: PoolConnection<Postgres>, taken_at: Instant) {
        let mut kept = self.kept();
        if kept.is_closed {
            return;
        }
        kept.connections.push(KeptConnection { connection, taken_at, kept_at: Instant::now() });
        if !std::mem::replace(&mut kept.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Gives back to the pool what nobody has used for a while. Whether any are left.
    fn give_back_unused(&self) -> bool {
        let mut kept = self.kept();
        // Those kept first come first.
        let unused = kept.connections.partition_point(|kept| kept.kept_at.elapsed() >= UNUSED_MAX);
        let mut unused: Vec<_> = kept.connections.drain(..unused).collect();
        kept.is_swept = !kept.connections.is_empty();
        let is_any_left = kept.is_swept;
        drop(kept);
        unused.iter_mut().filter(|kept| self.is_outdated(kept)).for_each(|kept| kept.connection.close_on_drop());
        drop(unused);
        is_any_left
    }
}

async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(UNUSED_MAX).await;
        if !shared.upgrade().is_some_and(|shared| shared.give_back_unused()) {
            return;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The pool takes back connections by a task, which there may be nobody to run any more.
        for kept in self.connections.drain(..) {
            drop(kept.connection.detach());
        }
    }
}

impl Connection {
    /// Gives it back after work that ended well: with everything read that was asked for, and no transaction open.
    pub(crate) fn keep(self) {
        let Self { connection, taken_at, of, permit } = self;
        of.keep(connection, taken_at);
        drop(permit);
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

#[cfg(test)]
pub(super) mod tests {
    use aionis_testkit::postgres::TempDatabase;
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    /// Two of them.
    pub(in super::super) async fn connections(database: &TempDatabase) -> Connections {
        let options = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(5));
        let pool = options.connect(&database.url()).await.unwrap();
        let patience = Arc::new(Patience::new(Duration::from_secs(10)));
        Connections::new(pool, Arc::new(Layout::default()), patience, true)
    }

    async fn process(connection: &mut Connection) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_all(&mut **connection).await.unwrap()[0]
    }

    /// Takes a connection and keeps it; says which.
    async fn used(connections: &Connections) -> i32 {
        let mut connection = connections.acquire().await.unwrap();
        let process = process(&mut connection).await;
        connection.keep();
        process
    }

    #[tokio::test]
    async fn what_is_kept_is_used_again_and_what_is_not_goes_back_to_the_pool() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let first = used(&connections).await;
        assert_eq!((connections.shared.kept().connections.len(), connections.shared.pool.num_idle()), (1, 0));
        assert_eq!(connections.size(), (1, 1));
        assert_eq!(used(&connections).await, first);
        drop(connections.acquire().await.unwrap());
        while connections.shared.pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(connections.shared.kept().connections.is_empty());
    }

    #[tokio::test]
    async fn what_nobody_uses_goes_back_to_the_pool() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let (one, other) = (connections.acquire().await.unwrap(), connections.acquire().await.unwrap());
        one.keep();
        other.keep();
        assert!(connections.shared.kept().is_swept && connections.shared.give_back_unused());
        assert_eq!(connections.shared.kept().connections.len(), 2, "they were used a moment ago");
        connections.shared.kept().connections[0].kept_at -= UNUSED_MAX;
        assert!(connections.shared.give_back_unused());
        assert_eq!(connections.shared.kept().connections.len(), 1);
        connections.shared.kept().connections[0].kept_at -= UNUSED_MAX;
        assert!(!connections.shared.give_back_unused() && !connections.shared.kept().is_swept);
        while connections.shared.pool.num_idle() < 2 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_pool_sees_every_connection_now_and_then() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        used(&connections).await;
        let long_ago = Instant::now().checked_sub(OUT_MAX).unwrap();
        connections.shared.kept().connections[0].taken_at = long_ago;
        let mut connection = connections.acquire().await.unwrap();
        assert!(connection.taken_at > long_ago, "it came from the pool");
        let kept = process(&mut connection).await;
        connection.keep();
        // Of another layout it is closed.
        connections.shared.layout.changed();
        assert_ne!(used(&connections).await, kept);
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_kept() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let (one, other) = (connections.acquire().await.unwrap(), connections.acquire().await.unwrap());
        let taken_at = other.taken_at;
        let (next, ()) = tokio::join!(connections.acquire(), async {
            tokio::task::yield_now().await;
            other.keep();
        });
        assert_eq!(next.unwrap().taken_at, taken_at);
        drop(one);
    }

    #[tokio::test]
    async fn who_listens_gets_the_place_of_one_that_is_kept() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let (one, other) = (connections.acquire().await.unwrap(), connections.acquire().await.unwrap());
        one.keep();
        other.keep();
        let (_listener, _place) = connections.listener().await.unwrap();
        used(&connections).await;
    }

    #[tokio::test]
    async fn what_is_given_back_while_all_are_closed_is_closed() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let one = connections.acquire().await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(5), connections.close());
        let (closed, ()) = tokio::join!(closed, async {
            tokio::task::yield_now().await;
            one.keep();
        });
        closed.expect("nobody has a connection any more");
        assert!(matches!(connections.acquire().await, Err(Error::PoolClosed)));
    }
}

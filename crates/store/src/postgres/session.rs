//! Transactions: each names the tenant it works for, so that row-level security holds, and how long its statements may
//! take. Both travel with BEGIN in one round trip. A question that is asked very often travels alone.

use std::{
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use aionis_core::{deadline, ports::store::StoreError};
use scopeguard::ScopeGuard;
use sqlx::{
    AssertSqlSafe, Error, PgConnection, Postgres, SqlSafeStr,
    postgres::{PgArguments, PgRow, PgTransactionManager},
    query::Query,
    raw_sql,
};
use sqlx_core::transaction::TransactionManager;

use super::{
    connections::{Connection, Connections},
    error::{driver, is_disconnected, is_transient},
};

/// Closed connections that are passed over before a transaction is given up.
const STALE_CONNECTIONS_MAX: usize = 64;

/// Part of the longest time of a statement that may be gone before [`ask`] tells the server.
const HURRY: u32 = 8;

/// Makes a transaction see one state and change nothing. What was read is worked on between readings, so it may be idle.
pub(crate) const FROZEN: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
                                 SET LOCAL idle_in_transaction_session_timeout = 0";

/// For whom a transaction works.
#[derive(Clone, Copy)]
pub(crate) enum For<'a> {
    /// One tenant: nothing of another is seen or changed.
    Tenant(&'a str),
    /// All of them: workers, verification, maintenance.
    Everyone,
}

/// A transaction, rolled back unless it is committed. Unlike the driver's, it keeps its connection when it ends well.
pub(crate) struct Transaction(ScopeGuard<Connection, fn(Connection)>);

impl Transaction {
    async fn begin(connections: &Connections, sql: String) -> Result<Self, Error> {
        let mut connection = connections.acquire().await?;
        // If this fails or is given up it may have begun all the same, which the driver does not see: `Patience::beginning` does.
        Box::pin(PgTransactionManager::begin(&mut connection, Some(AssertSqlSafe(sql).into_sql_str()))).await?;
        Ok(Self(scopeguard::guard(connection, |mut left| PgTransactionManager::start_rollback(&mut left))))
    }

    /// Commits.
    ///
    /// # Errors
    /// It is not known to be committed.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        PgTransactionManager::commit(&mut self.0).await?;
        ScopeGuard::into_inner(self.0).keep();
        Ok(())
    }

    /// Rolls back.
    ///
    /// # Errors
    /// It is not known to be rolled back, as it will be.
    pub(crate) async fn rollback(mut self) -> Result<(), Error> {
        PgTransactionManager::rollback(&mut self.0).await?;
        ScopeGuard::into_inner(self.0).keep();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// A text as an SQL literal. Only for statements that take no parameters.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Starts a transaction. `more` comes first in it: statements without parameters whose rows nobody reads.
///
/// They do not travel with BEGIN, because they may fail (a lock that is not to be had in time, a scope that is being
/// purged): the driver counts a transaction as begun when all that was sent with BEGIN has succeeded, and would give the
/// connection back to the pool within a transaction that failed, where nothing works any more.
pub(crate) async fn begin(
    connections: &Connections,
    tenant: For<'_>,
    timeout: Duration,
    more: &str,
) -> Result<Transaction, StoreError> {
    let sql = format!("BEGIN; {}", settings(tenant, timeout));
    let (mut tried, started) = (0, Instant::now());
    let mut tx = loop {
        tried += 1;
        let begun = Transaction::begin(connections, sql.clone());
        match connections.patience.beginning(begun).await {
            // A connection the server has closed since it was last used: the next one may be better.
            Err(error) if is_transient(&error) && tried < STALE_CONNECTIONS_MAX => {}
            done => {
                metrics::histogram!("aionis_pool_wait_seconds").record(started.elapsed());
                break done?;
            }
        }
    };
    if !more.is_empty() {
        raw_sql(AssertSqlSafe(more.to_owned())).execute(&mut *tx).await.map_err(driver)?;
    }
    Ok(tx)
}

/// What a question of [`ask`] begins with: it says for whom it is asked, in `$2`, and gives that back as `asker.tenant`.
///
/// Row-level security goes by a setting, which has to be made before the first row is looked at. Whoever reads a table of a
/// tenant therefore compares its `tenant_id` with `asker.tenant`, in a subquery that cannot be begun without it; rows that
/// were looked at before would not be seen at all. The setting ends with the statement, as `SET LOCAL` ends with the
/// transaction.
pub(crate) const ASKER: &str = "(SELECT set_config('aionis.tenant', $2, true) AS tenant) AS asker";

/// Asks one question of a tenant in a transaction of its own and a single round trip, planned once for each connection. Its
/// rows are found by way of [`ASKER`]; it may be asked again on another connection.
pub(crate) async fn ask<'q>(
    connections: &Connections,
    tenant: &str,
    timeout: Duration,
    question: impl Fn() -> Query<'q, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, StoreError> {
    // A statement cannot say itself how long it may take. Connections say the most it ever may; what has much less time
    // says so in a transaction.
    let is_hurried = deadline::remaining().is_some_and(|left| left < timeout - timeout / HURRY);
    if is_hurried || !connections.sets_by_function {
        let mut tx = begin(connections, For::Tenant(tenant), timeout, "").await?;
        return question().fetch_all(&mut *tx).await.map_err(driver);
    }
    let (mut tried, started) = (0, Instant::now());
    loop {
        tried += 1;
        let mut connection = connections.acquire().await.map_err(driver)?;
        metrics::histogram!("aionis_pool_wait_seconds").record(started.elapsed());
        match question().fetch_all(&mut *connection).await {
            Ok(rows) => {
                connection.keep();
                return Ok(rows);
            }
            // A connection the server has closed since it was last used: the next one may be better.
            Err(error) if is_disconnected(&error) && tried < STALE_CONNECTIONS_MAX => {}
            Err(error) => return Err(driver(error)),
        }
    }
}

/// Says for whom a transaction works and how long its statements may take.
fn settings(tenant: For<'_>, timeout: Duration) -> String {
    let tenant = match tenant {
        For::Tenant(name) => literal(name),
        For::Everyone => "'*'".to_owned(),
    };
    // What nobody waits for any more need not be worked on; zero would mean for ever.
    let timeout = deadline::remaining().map_or(timeout, |left| left.min(timeout)).as_millis().max(1);
    format!("SET LOCAL aionis.tenant = {tenant}; SET LOCAL statement_timeout = {timeout}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aionis_testkit::postgres::TempDatabase;
    use sqlx::PgConnection;

    use super::{For, begin, literal};
    use crate::postgres::connections::tests::connections;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(literal("a'b''c\\"), "'a''b''''c\\'");
    }

    async fn locks(connection: &mut PgConnection) -> bool {
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(7)").fetch_all(connection).await.unwrap()[0]
    }

    #[tokio::test]
    async fn what_is_left_of_a_transaction_is_rolled_back() {
        let database = TempDatabase::new().await;
        let connections = connections(&database).await;
        let begun = async || begin(&connections, For::Everyone, Duration::from_secs(10), "").await.unwrap();
        let mut left = begun().await;
        assert!(locks(&mut left).await);
        let mut other = begun().await;
        assert!(!locks(&mut other).await);
        drop(left);
        let free = async { while !locks(&mut other).await {} };
        tokio::time::timeout(Duration::from_secs(20), free).await.expect("it was rolled back");
        other.rollback().await.unwrap();
        let mut next = begun().await;
        assert!(locks(&mut next).await);
    }
}

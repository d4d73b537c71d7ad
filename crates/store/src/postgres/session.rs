//! Transactions: each names the tenant it works for, so that row-level security holds, and how long its statements may
//! take. Both travel with BEGIN in one round trip.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{deadline, ports::store::StoreError};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction, postgres::PgRow, raw_sql};

use super::{
    error::{driver, is_transient},
    patience::Patience,
};

/// Closed connections that are passed over before a transaction is given up.
const STALE_CONNECTIONS_MAX: usize = 64;

/// Makes a transaction see one state and change nothing. What was read is worked on between readings, so it may be idle.
pub(crate) const FROZEN: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
                                 SET LOCAL idle_in_transaction_session_timeout = 0";

/// The connections of a store. Transactions on them are begun by [`begin`] alone, which sees to those that nobody waits for.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) pool: PgPool,
    pub(crate) patience: Arc<Patience>,
}

impl Deref for Connections {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

/// For whom a transaction works.
#[derive(Clone, Copy)]
pub(crate) enum For<'a> {
    /// One tenant: nothing of another is seen or changed.
    Tenant(&'a str),
    /// All of them: workers, verification, maintenance.
    Everyone,
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
) -> Result<Transaction<'static, Postgres>, StoreError> {
    let sql = format!("BEGIN; {}", settings(tenant, timeout));
    let (mut tried, started) = (0, Instant::now());
    let mut tx = loop {
        tried += 1;
        let begun = connections.pool.begin_with(AssertSqlSafe(sql.clone()));
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

/// Asks one question, whose text takes no parameters, in a transaction of its own and a single round trip: statements that
/// are sent together are one. For what is asked very often and planned at once.
pub(crate) async fn glance(
    connections: &Connections,
    tenant: For<'_>,
    timeout: Duration,
    question: &str,
) -> Result<Vec<PgRow>, StoreError> {
    let sql = format!("{}; {question}", settings(tenant, timeout));
    let started = Instant::now();
    let mut connection = connections.acquire().await.map_err(driver)?;
    metrics::histogram!("aionis_pool_wait_seconds").record(started.elapsed());
    raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.map_err(driver)
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
    use super::literal;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(literal("a'b''c\\"), "'a''b''''c\\'");
    }
}

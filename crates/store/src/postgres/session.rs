//! Transactions: each names the tenant it works for, so that row-level security holds, and how long its statements may
//! take. Both travel with BEGIN in one round trip. A question that is asked very often travels alone.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{deadline, ports::store::StoreError};
use sqlx::{
    AssertSqlSafe, PgPool, Postgres, Transaction,
    postgres::{PgArguments, PgRow},
    query::Query,
    raw_sql,
};

use super::{
    error::{driver, is_disconnected, is_transient},
    patience::Patience,
};

/// Closed connections that are passed over before a transaction is given up.
const STALE_CONNECTIONS_MAX: usize = 64;

/// Part of the longest time of a statement that may be gone before [`ask`] tells the server.
const HURRY: u32 = 8;

/// Makes a transaction see one state and change nothing. What was read is worked on between readings, so it may be idle.
pub(crate) const FROZEN: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
                                 SET LOCAL idle_in_transaction_session_timeout = 0";

/// The connections of a store. Transactions on them are begun by [`begin`] alone, which sees to those that nobody waits for.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) pool: PgPool,
    pub(crate) patience: Arc<Patience>,
    /// Whether settings made by `set_config` hold wherever a statement is executed. Citus hands on `SET LOCAL` alone.
    pub(crate) sets_by_function: bool,
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
            // A connection the server has closed since it was last used: the next one may be better.
            Err(error) if is_disconnected(&error) && tried < STALE_CONNECTIONS_MAX => {}
            done => return done.map_err(driver),
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
    use super::literal;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(literal("a'b''c\\"), "'a''b''''c\\'");
    }
}

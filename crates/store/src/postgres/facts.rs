//! What [`crate::facts`] reads of PostgreSQL.

use aionis_core::ports::store::StoreError;
use sqlx::{AssertSqlSafe, Row};

use super::{
    PostgresStore,
    error::driver,
    rows::{get, unsigned},
    session::{FROZEN, For, Transaction, begin},
};
use crate::facts::{BUSY, DatabaseCounters, GROWN, HELD, LoadFacts, LoadWindows, OfTenant, StoreVersions, gathered};

const VERSIONS: &str = "SELECT current_setting('server_version'), \
                        (SELECT extversion FROM pg_extension WHERE extname = 'vector')";
const COUNTERS: &str = "SELECT xact_commit, xact_rollback, blks_read, blks_hit, deadlocks, numbackends::bigint, \
                        current_setting('max_connections')::bigint FROM pg_stat_database \
                        WHERE datname = current_database()";
/// Partitions are tables of their own; their sizes are those of their roots.
const TABLES: &str = "SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text, \
                      sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c \
                      WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' GROUP BY 1";

/// Server and extension.
pub(crate) async fn versions(store: &PostgresStore) -> Result<StoreVersions, StoreError> {
    let timeout = store.shared.options.statement_timeout;
    let mut tx = begin(&store.shared.pool, For::Everyone, timeout, FROZEN).await?;
    let row = sqlx::query(VERSIONS).fetch_one(&mut *tx).await.map_err(driver)?;
    let server: String = get(&row, 0)?;
    Ok(StoreVersions { server: format!("PostgreSQL {server}"), vector_extension: get(&row, 1)? })
}

/// How the database is loaded.
pub(crate) async fn load_facts(store: &PostgresStore, windows: LoadWindows) -> Result<LoadFacts, StoreError> {
    let timeout = store.shared.options.statement_timeout;
    let mut tx = begin(&store.shared.pool, For::Everyone, timeout, FROZEN).await?;
    let held = of_tenants(&mut tx, HELD, None).await?;
    let grown = of_tenants(&mut tx, GROWN, Some(windows.grown_since.0)).await?;
    let busy = of_tenants(&mut tx, BUSY, Some(windows.busy_since.0)).await?;
    let mut facts = gathered(held, grown, busy);
    let size = sqlx::query("SELECT pg_database_size(current_database())").fetch_one(&mut *tx).await.map_err(driver)?;
    facts.database_bytes = unsigned(&size, 0)?;
    for row in sqlx::query(TABLES).fetch_all(&mut *tx).await.map_err(driver)? {
        facts.table_bytes.insert(get(&row, 0)?, unsigned(&row, 1)?);
    }
    if let Some(row) = sqlx::query(COUNTERS).fetch_optional(&mut *tx).await.map_err(driver)? {
        facts.counters = Some(DatabaseCounters {
            commits: unsigned(&row, 0)?,
            rollbacks: unsigned(&row, 1)?,
            blocks_read: unsigned(&row, 2)?,
            blocks_hit: unsigned(&row, 3)?,
            deadlocks: unsigned(&row, 4)?,
            connections: unsigned(&row, 5)?,
            connections_max: unsigned(&row, 6)?,
        });
    }
    Ok(facts)
}

async fn of_tenants(tx: &mut Transaction, sql: &str, since: Option<i64>) -> Result<Vec<OfTenant>, StoreError> {
    let sql = sql.replace("{tenant}", "s.tenant_id");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    if let Some(since) = since {
        query = query.bind(since);
    }
    let rows = query.fetch_all(&mut **tx).await.map_err(driver)?;
    let read = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    rows.iter().map(|row| read(row).map_err(driver)).collect()
}

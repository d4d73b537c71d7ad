//! What [`crate::facts`] reads of the embedded engine.

use aionis_core::ports::store::StoreError;

use super::{SqliteStore, error::driver};
use crate::facts::{BUSY, GROWN, HELD, LoadWindows, OfTenant};

/// The tenant of a scope key.
const TENANT: &str = "substr(s.scope_key, 1, instr(s.scope_key, '/') - 1)";

/// The library with its version.
pub(crate) fn library_version() -> String {
    format!("SQLite {}", rusqlite::version())
}

/// What tenants hold, grew by, and did by the hour.
pub(crate) async fn load_rows(store: &SqliteStore, windows: LoadWindows) -> Result<[Vec<OfTenant>; 3], StoreError> {
    store
        .readers
        .run(move |connection| {
            let rows = |sql: &str, since: Option<i64>| -> Result<Vec<OfTenant>, StoreError> {
                // SQLite names types otherwise, and takes ?1 for $1.
                let sql = sql.replace("{tenant}", TENANT).replace("AS bigint", "AS INTEGER").replace("$1", "?1");
                let mut statement = connection.prepare(&sql).map_err(driver)?;
                let params: Vec<i64> = since.into_iter().collect();
                let rows = statement
                    .query_map(rusqlite::params_from_iter(params), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                    .map_err(driver)?;
                rows.collect::<Result<_, _>>().map_err(driver)
            };
            Ok([rows(HELD, None)?, rows(GROWN, Some(windows.grown_since.0))?, rows(BUSY, Some(windows.busy_since.0))?])
        })
        .await
}

//! What a change would do: sizes, large scopes, how long.

use aionis_core::{
    ids::ScopeKey,
    partition::{CutoverState, expected_s},
};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{Done, PartitionAdmin, PartitionError, catalogue, partitioned_tables, progress};

/// Rows copied and compared per second, about, on two cores; what `scripts/partition-cutover.sh` measured.
const ROWS_PER_S: u64 = 15_000;

/// A table of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedTable {
    /// Name of the table.
    pub table: String,
    /// Whether it is partitioned already.
    pub partitioned: bool,
    /// Rows.
    pub rows: u64,
    /// Bytes with indexes.
    pub bytes: u64,
}

/// A scope that would get partitions of its own.
#[derive(Clone, Debug)]
pub struct LargeScope {
    /// The scope.
    pub key: ScopeKey,
    /// Its nodes.
    pub nodes: u64,
}

/// What `plan` tells.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// How far the change is.
    pub state: CutoverState,
    /// By table.
    pub tables: Vec<PlannedTable>,
    /// Rows of the tables that are not partitioned.
    pub rows: u64,
    /// Their bytes: as much is needed once more until `finalize`.
    pub bytes: u64,
    /// Scopes with as many nodes as asked, as `tenant/scope` with their nodes.
    pub own: Vec<(String, u64)>,
    /// About how long `backfill` and `verify` take together, in seconds.
    pub expected_s: u64,
    /// Locks the server can hold at once.
    pub lock_capacity: u64,
}

/// Scopes with as many nodes, the largest first.
pub(super) async fn large_scopes(connection: &mut PgConnection, nodes_min: u64) -> Done<Vec<LargeScope>> {
    let sql = "SELECT scope_key, count(*) FROM memory_nodes GROUP BY 1 HAVING count(*) >= $1 ORDER BY 2 DESC, 1";
    let asked = sqlx::query(sql).bind(i64::try_from(nodes_min).unwrap_or(i64::MAX));
    let mut scopes = Vec::new();
    for row in asked.fetch_all(connection).await? {
        let key = ScopeKey::from_stored(row.try_get(0)?).map_err(aionis_core::ports::store::StoreError::from)?;
        scopes.push(LargeScope { key, nodes: u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0) });
    }
    Ok(scopes)
}

/// Locks the server can hold at once, and how many relations a change of all tables touches in one transaction.
pub(super) async fn lock_sizes(connection: &mut PgConnection) -> Done<(u64, u64)> {
    let sql = "SELECT current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint \
                   + current_setting('max_prepared_transactions')::bigint), \
                   (SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace \
                       AND c.relkind IN ('r', 'p', 'i', 'I') AND c.relname LIKE 'memory\\_%')";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    let number = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
    Ok((number(0)?, number(1)?))
}

impl PartitionAdmin {
    /// Tells what a change would do. Nothing is changed.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn plan(&mut self, own_from_rows: u64) -> Result<PlanReport, PartitionError> {
        let state = progress::state(&mut self.connection).await?;
        let (mut tables, mut rows, mut bytes) = (Vec::new(), 0, 0);
        for table in partitioned_tables() {
            let sql = format!(
                "SELECT (SELECT count(*) FROM {table}), COALESCE((SELECT sum(pg_total_relation_size(relid)) \
                     FROM pg_partition_tree('{table}')), pg_total_relation_size('{table}'))::bigint"
            );
            let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
            let number = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
            let partitioned = catalogue::is_partitioned(&mut self.connection, table).await? == Some(true);
            let planned = PlannedTable { table: table.to_owned(), partitioned, rows: number(0)?, bytes: number(1)? };
            if !partitioned {
                rows += planned.rows;
                bytes += planned.bytes;
            }
            tables.push(planned);
        }
        let own = large_scopes(&mut self.connection, own_from_rows).await?;
        let own = own.into_iter().map(|scope| (scope.key.as_str().to_owned(), scope.nodes)).collect();
        let (lock_capacity, _) = lock_sizes(&mut self.connection).await?;
        Ok(PlanReport { state, tables, rows, bytes, own, expected_s: expected_s(rows, ROWS_PER_S), lock_capacity })
    }
}

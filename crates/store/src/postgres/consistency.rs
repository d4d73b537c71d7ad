//! Reading for checks: one read-only transaction that sees the database as it was when it began.

use std::sync::Arc;

use aionis_core::{
    clock::Timestamp,
    jobs::{
        Target,
        consistency::{Cell, Kind, Probe, RawRow, ScanTable, StorageEngine},
    },
    ports::store::{ConsistencyStore, ConsistencyView, StoreError},
};
use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{
    PostgresStore,
    error::driver,
    patience::Patience,
    rows::{get, signed},
    session::{FROZEN, For, Transaction, begin},
};
use crate::consistency::{Dialect, Extra};

const DIALECT: Dialect = Dialect(StorageEngine::Postgres);

#[async_trait]
impl ConsistencyStore for PostgresStore {
    fn storage_engine(&self) -> StorageEngine {
        StorageEngine::Postgres
    }

    fn vector_space(&self) -> (String, usize) {
        (self.shared.space.name.clone(), self.shared.space.dim)
    }

    async fn consistency_view(&self, target: &Target) -> Result<Box<dyn ConsistencyView>, StoreError> {
        let whose = target.tenant().map_or(For::Everyone, For::Tenant);
        let begun = begin(&self.shared.pool, whose, self.shared.options.statement_timeout, FROZEN);
        let tx = self.shared.patience.bounded(begun).await?;
        Ok(Box::new(Frozen { tx, patience: Arc::clone(&self.shared.patience), target: target.clone() }))
    }
}

struct Frozen {
    tx: Transaction,
    patience: Arc<Patience>,
    target: Target,
}

type Asked = Query<'static, Postgres, PgArguments>;

impl Frozen {
    /// Reads; what fails leaves the transaction as it was.
    async fn read(&mut self, table: ScanTable, query: Asked) -> Result<Vec<RawRow>, StoreError> {
        let tx = &mut self.tx;
        self.patience
            .bounded(async {
                sqlx::query("SAVEPOINT reading").execute(&mut **tx).await.map_err(driver)?;
                match query.fetch_all(&mut **tx).await {
                    Ok(rows) => {
                        sqlx::query("RELEASE SAVEPOINT reading").execute(&mut **tx).await.map_err(driver)?;
                        rows.iter().map(|row| raw(row, table)).collect()
                    }
                    Err(e) => {
                        sqlx::query("ROLLBACK TO SAVEPOINT reading").execute(&mut **tx).await.map_err(driver)?;
                        Err(driver(e))
                    }
                }
            })
            .await
    }
}

#[async_trait]
impl ConsistencyView for Frozen {
    async fn page(
        &mut self,
        table: ScanTable,
        after: Option<&[Cell]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, StoreError> {
        let mut query: Asked = sqlx::query(AssertSqlSafe(DIALECT.page(table, after.is_some())));
        if table != ScanTable::ScopeKeys {
            query = query.bind(self.target.key().to_owned()).bind(signed(limit as u64));
        }
        for cell in after.into_iter().flatten() {
            let odd = || StoreError::Driver(format!("a key of {} holds {cell:?}", table.name()));
            query = match cell {
                Cell::Int(number) => query.bind(*number),
                Cell::Text(text) => query.bind(text.clone()),
                Cell::Bytes(bytes) => query.bind(Uuid::from_slice(bytes).map_err(|_| odd())?),
                _ => return Err(odd()),
            };
        }
        self.read(table, query).await
    }

    async fn probe(&mut self, probe: Probe, stuck_before: Timestamp, limit: usize) -> Result<Vec<RawRow>, StoreError> {
        let (sql, extra) = DIALECT.probe(probe);
        let mut query: Asked = sqlx::query(AssertSqlSafe(sql));
        if extra != Extra::Alone {
            query = query.bind(self.target.key().to_owned()).bind(signed(limit as u64));
        }
        query = match extra {
            Extra::None | Extra::Alone => query,
            Extra::StuckBefore => query.bind(stuck_before.0),
            Extra::Tenant => query.bind(self.target.tenant().unwrap_or_default().to_owned()),
        };
        let mut found = self.read(probe.table(), query).await?;
        if probe == Probe::ChainTail {
            found.reverse();
        }
        Ok(found)
    }
}

fn raw(row: &PgRow, table: ScanTable) -> Result<RawRow, StoreError> {
    let cells = table.columns().iter().enumerate().map(|(at, (_, kind))| {
        Ok(match kind {
            Kind::Int => get::<Option<i64>>(row, at)?.map_or(Cell::Null, Cell::Int),
            Kind::Real => get::<Option<f64>>(row, at)?.map_or(Cell::Null, Cell::Real),
            Kind::Text | Kind::Json => get::<Option<String>>(row, at)?.map_or(Cell::Null, Cell::Text),
            Kind::Id => get::<Option<Uuid>>(row, at)?.map_or(Cell::Null, |id| Cell::Bytes(id.as_bytes().to_vec())),
            Kind::Bytes => get::<Option<Vec<u8>>>(row, at)?.map_or(Cell::Null, Cell::Bytes),
        })
    });
    Ok(RawRow { table, cells: cells.collect::<Result<_, StoreError>>()? })
}

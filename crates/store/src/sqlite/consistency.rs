//! Reading for checks: a connection of its own, in one transaction that sees the database as it was when it began.

use aionis_core::{
    clock::Timestamp,
    jobs::{
        Target,
        consistency::{Cell, Probe, RawRow, ScanTable, StorageEngine},
    },
    ports::store::{ConsistencyStore, ConsistencyView, StoreError},
};
use async_trait::async_trait;
use rusqlite::{
    Connection, params_from_iter,
    types::{Value, ValueRef},
};

use super::{SqliteStore, error::driver, integrity::frozen, rows::signed};
use crate::consistency::{Dialect, Extra};

const DIALECT: Dialect = Dialect(StorageEngine::Embedded);

#[async_trait]
impl ConsistencyStore for SqliteStore {
    fn storage_engine(&self) -> StorageEngine {
        StorageEngine::Embedded
    }

    fn vector_space(&self) -> (String, usize) {
        (self.shared.space.name.clone(), self.shared.space.dim)
    }

    async fn consistency_view(&self, target: &Target) -> Result<Box<dyn ConsistencyView>, StoreError> {
        let connection = self.readers.run(frozen).await?;
        Ok(Box::new(Still { connection: Some(connection), target: target.clone() }))
    }
}

struct Still {
    connection: Option<Connection>,
    target: Target,
}

impl Still {
    /// Reads off the async threads.
    async fn read(&mut self, table: ScanTable, sql: String, values: Vec<Value>) -> Result<Vec<RawRow>, StoreError> {
        let lost = || StoreError::Driver("a reading of checks was broken off before".to_owned());
        let connection = self.connection.take().ok_or_else(lost)?;
        let task = tokio::task::spawn_blocking(move || {
            let read = rows(&connection, table, &sql, values);
            (connection, read)
        });
        let (connection, read) = task.await.map_err(|e| StoreError::Driver(format!("a reading task failed: {e}")))?;
        self.connection = Some(connection);
        read
    }

    fn key(&self) -> Value {
        Value::Text(self.target.key().to_owned())
    }
}

#[async_trait]
impl ConsistencyView for Still {
    async fn page(
        &mut self,
        table: ScanTable,
        after: Option<&[Cell]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, StoreError> {
        let mut values = match table {
            ScanTable::ScopeKeys => Vec::new(),
            ScanTable::OutboxTenants | ScanTable::Lexical => vec![Value::Integer(signed(limit as u64))],
            _ => vec![self.key(), Value::Integer(signed(limit as u64))],
        };
        for cell in after.into_iter().flatten() {
            values.push(match cell {
                Cell::Int(number) => Value::Integer(*number),
                Cell::Text(text) => Value::Text(text.clone()),
                Cell::Bytes(bytes) => Value::Blob(bytes.clone()),
                other => return Err(StoreError::Driver(format!("a key of {} holds {other:?}", table.name()))),
            });
        }
        self.read(table, DIALECT.page(table, after.is_some()), values).await
    }

    async fn probe(&mut self, probe: Probe, stuck_before: Timestamp, limit: usize) -> Result<Vec<RawRow>, StoreError> {
        let (sql, extra) = DIALECT.probe(probe);
        let mut values = vec![self.key(), Value::Integer(signed(limit as u64))];
        match extra {
            Extra::None => {}
            Extra::Alone => values.clear(),
            Extra::StuckBefore => values.push(Value::Integer(stuck_before.0)),
            Extra::Tenant => values.push(Value::Text(self.target.tenant().unwrap_or_default().to_owned())),
        }
        let mut found = self.read(probe.table(), sql, values).await?;
        if probe == Probe::ChainTail {
            found.reverse();
        }
        Ok(found)
    }
}

fn rows(connection: &Connection, table: ScanTable, sql: &str, values: Vec<Value>) -> Result<Vec<RawRow>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(driver)?;
    let mut read = Vec::new();
    while let Some(row) = rows.next().map_err(driver)? {
        let cells = (0..table.columns().len()).map(|at| row.get_ref(at).map(cell).map_err(driver));
        read.push(RawRow { table, cells: cells.collect::<Result<_, _>>()? });
    }
    Ok(read)
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(e) => Cell::Unreadable(format!("it is no UTF-8 from byte {} on", e.valid_up_to())),
        },
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    }
}

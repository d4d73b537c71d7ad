//! Copying scopes from and to an embedded store.

use aionis_core::{
    canon::Digest,
    ids::ScopeKey,
    model::NodeType,
    ports::store::{IntegrityStore, ScopeSummary, StoreError},
    write::DerivedText,
};
use async_trait::async_trait;
use rusqlite::{
    Connection, OptionalExtension, params_from_iter,
    types::{Value, ValueRef},
};

use super::{
    SqliteStore,
    error::{driver, inconsistent},
    rows::{digest, signed, unsigned, vector, vector_bytes},
};
use crate::transfer::{
    Cell, Head, IMPORTING, KeyPart, Kind, Progress, Row, Snapshot, Table, Transfer, progress_key, read_progress, taken,
    text, write_progress,
};
use aionis_image::document;

/// The store itself: whoever copies has the directory to itself, so that nothing changes meanwhile.
struct Still {
    store: super::Readers,
    scopes: Vec<ScopeSummary>,
}

#[async_trait]
impl Snapshot for Still {
    async fn scopes(&mut self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError> {
        let wanted = |summary: &&ScopeSummary| {
            let (of_tenant, name) = summary.scope_key.split_once('/').unwrap_or_default();
            tenant.is_none_or(|tenant| tenant == of_tenant) && scope.is_none_or(|scope| scope == name)
        };
        Ok(self.scopes.iter().filter(wanted).cloned().collect())
    }

    async fn head(&mut self, scope: &ScopeKey) -> Result<Option<Head>, StoreError> {
        let scope = scope.clone();
        self.store
            .run(move |connection| {
                let sql = "SELECT state, head_seq, head_hash, node_count, edge_count, created_at, updated_at \
                           FROM memory_scopes WHERE scope_key = ?1";
                connection
                    .query_row(sql, [scope.as_str()], |row| {
                        Ok(Head {
                            importing: row.get::<_, String>(0)? == IMPORTING,
                            seq: unsigned(row, 1)?,
                            hash: digest(row, 2)?,
                            nodes: unsigned(row, 3)?,
                            edges: unsigned(row, 4)?,
                            created_at: row.get(5)?,
                            updated_at: row.get(6)?,
                        })
                    })
                    .optional()
                    .map_err(driver)
            })
            .await
    }

    async fn page(
        &mut self,
        scope: &ScopeKey,
        table: Table,
        after: &[KeyPart],
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let (scope, after) = (scope.clone(), after.to_vec());
        self.store.run(move |connection| page(connection, &scope, table, &after, limit)).await
    }
}

/// Name of a column in this engine.
fn column(name: &'static str) -> &'static str {
    match name {
        "embedding" => "vector",
        name => name,
    }
}

fn page(
    connection: &Connection,
    scope: &ScopeKey,
    table: Table,
    after: &[KeyPart],
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    let columns: Vec<&str> = table.columns().iter().map(|(name, _)| column(name)).collect();
    let keys = &columns[..table.key_len()];
    let mut values: Vec<Value> = vec![Value::Text(scope.as_str().to_owned()), Value::Integer(signed(limit as u64))];
    let mut later = String::new();
    if !after.is_empty() {
        let places: Vec<String> = (0..after.len()).map(|at| format!("?{}", at + 3)).collect();
        later = format!(" AND ({}) > ({})", keys.join(", "), places.join(", "));
        values.extend(after.iter().map(|part| match part {
            KeyPart::Int(value) => Value::Integer(*value),
            KeyPart::Text(value) => Value::Text(value.clone()),
            KeyPart::Uuid(value) => Value::Blob(value.as_bytes().to_vec()),
        }));
    }
    let sql = format!(
        "SELECT {} FROM {} WHERE scope_key = ?1 AND {}{later} ORDER BY {} LIMIT ?2",
        columns.join(", "),
        table.name(),
        table.condition(),
        keys.join(", ")
    );
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(driver)?;
    let mut page = Vec::new();
    while let Some(row) = rows.next().map_err(driver)? {
        let cells = table.columns().iter().enumerate().map(|(at, (name, kind))| {
            let value = row.get_ref(at).map_err(driver)?;
            cell(value, *kind).ok_or_else(|| {
                inconsistent(table.name(), name, scope.as_str(), format!("it holds {}", value.data_type()))
            })
        });
        page.push(cells.collect::<Result<Row, StoreError>>()?);
    }
    Ok(page)
}

fn cell(value: ValueRef<'_>, kind: Kind) -> Option<Cell> {
    Some(match (value, kind) {
        (ValueRef::Null, _) => Cell::Null,
        (ValueRef::Integer(value), Kind::Int) => Cell::Int(value),
        (ValueRef::Real(value), Kind::Real) => Cell::Real(value),
        (ValueRef::Text(_), Kind::Text) => Cell::Text(value.as_str().ok()?.to_owned()),
        (ValueRef::Text(_), Kind::Json) => Cell::Json(value.as_str().ok()?.to_owned()),
        (ValueRef::Blob(value), Kind::Uuid) => Cell::Uuid(uuid::Uuid::from_slice(value).ok()?),
        (ValueRef::Blob(value), Kind::Bytes) => Cell::Bytes(value.to_vec()),
        (ValueRef::Blob(value), Kind::Vector) => Cell::Vector(vector(value)),
        _ => return None,
    })
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Int(value) => Value::Integer(value),
        Cell::Real(value) => Value::Real(value),
        Cell::Text(value) | Cell::Json(value) => Value::Text(value),
        Cell::Uuid(value) => Value::Blob(value.as_bytes().to_vec()),
        Cell::Bytes(value) => Value::Blob(value),
        Cell::Vector(value) => Value::Blob(vector_bytes(&value)),
    }
}

#[async_trait]
impl Transfer for SqliteStore {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(Still { store: self.readers.clone(), scopes: self.scopes(None, None).await? }))
    }

    async fn progress(&self, scope: &ScopeKey) -> Result<Option<Progress>, StoreError> {
        let key = progress_key(scope);
        self.readers
            .run(move |connection| {
                let sql = "SELECT value FROM aionis_meta WHERE key = ?1";
                let stored: Option<String> =
                    connection.query_row(sql, [key], |row| row.get(0)).optional().map_err(driver)?;
                stored.map(|stored| read_progress(&stored)).transpose()
            })
            .await
    }

    async fn begin_import(&self, scope: &ScopeKey, progress: &Progress) -> Result<(), StoreError> {
        let (scope, progress) = (scope.clone(), progress.clone());
        self.writer
            .submit(move |connection, _| {
                let sql = "SELECT state FROM memory_scopes WHERE scope_key = ?1";
                let state: Option<String> =
                    connection.query_row(sql, [scope.as_str()], |row| row.get(0)).optional().map_err(driver)?;
                if state.is_some_and(|state| state != IMPORTING) {
                    return Err(taken(scope.as_str()));
                }
                clear(connection, &scope)?;
                let sql = "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, created_at, \
                           updated_at, state) VALUES (?1, 0, zeroblob(32), 0, 0, 0, 0, 'importing')";
                connection.execute(sql, [scope.as_str()]).map_err(driver)?;
                remember(connection, &scope, &progress)
            })
            .await
    }

    async fn import(
        &self,
        scope: &ScopeKey,
        table: Table,
        rows: Vec<Row>,
        progress: &Progress,
    ) -> Result<(), StoreError> {
        let (scope, progress) = (scope.clone(), progress.clone());
        self.writer
            .submit(move |connection, _| {
                insert(connection, &scope, table, rows)?;
                remember(connection, &scope, &progress)
            })
            .await
    }

    async fn finish_import(&self, scope: &ScopeKey, head: &Head, work: Vec<Row>) -> Result<(), StoreError> {
        let (own, head) = (scope.clone(), head.clone());
        self.writer
            .submit(move |connection, _| {
                let scope = own;
                insert(connection, &scope, Table::Outbox, work)?;
                let Digest(hash) = head.hash;
                let sql = "UPDATE memory_scopes SET state = 'open', head_seq = ?2, head_hash = ?3, node_count = ?4, \
                           edge_count = ?5, created_at = ?6, updated_at = ?7 WHERE scope_key = ?1";
                let row = rusqlite::params![
                    scope.as_str(),
                    signed(head.seq),
                    hash,
                    signed(head.nodes),
                    signed(head.edges),
                    head.created_at,
                    head.updated_at
                ];
                connection.execute(sql, row).map_err(driver)?;
                connection
                    .execute("DELETE FROM aionis_meta WHERE key = ?1", [progress_key(&scope)])
                    .map(|_| ())
                    .map_err(driver)
            })
            .await?;
        self.shared.images.forget(scope.as_str());
        Ok(())
    }
}

fn remember(connection: &Connection, scope: &ScopeKey, progress: &Progress) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO aionis_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, (progress_key(scope), write_progress(progress)?)).map(|_| ()).map_err(driver)
}

/// Removes what an import left that was broken off.
fn clear(connection: &Connection, scope: &ScopeKey) -> Result<(), StoreError> {
    let texts = "DELETE FROM memory_lexical WHERE rowid IN (SELECT node_no FROM memory_nodes WHERE scope_key = ?1)";
    connection.execute(texts, [scope.as_str()]).map_err(driver)?;
    for table in Table::ALL.iter().map(|table| table.name()).chain(["memory_scopes"]) {
        let sql = format!("DELETE FROM {table} WHERE scope_key = ?1");
        connection.execute(&sql, [scope.as_str()]).map_err(driver)?;
    }
    Ok(())
}

/// Stores rows with what this engine derives from them.
fn insert(connection: &Connection, scope: &ScopeKey, table: Table, rows: Vec<Row>) -> Result<(), StoreError> {
    let mut columns: Vec<&str> = table.columns().iter().map(|(name, _)| column(name)).collect();
    match table {
        Table::Nodes => columns.extend(["recall_flags", "term_count", "name_key"]),
        Table::Outbox => columns.push("tenant_id"),
        _ => {}
    }
    let places: Vec<String> = (0..columns.len()).map(|at| format!("?{}", at + 2)).collect();
    let sql =
        format!("INSERT INTO {} (scope_key, {}) VALUES (?1, {})", table.name(), columns.join(", "), places.join(", "));
    let scope_no: i64 = connection
        .query_row("SELECT scope_no FROM memory_scopes WHERE scope_key = ?1", [scope.as_str()], |row| row.get(0))
        .map_err(driver)?;
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    for row in rows {
        let mut derived = None;
        let mut values: Vec<Value> = vec![Value::Text(scope.as_str().to_owned())];
        match table {
            Table::Nodes => {
                let text = derived_text(&row)?;
                values.extend(row.into_iter().map(value));
                values.push(Value::Integer(i64::from(text.flags)));
                values.push(Value::Integer(i64::from(text.counts.len)));
                values.push(text.name_key.clone().map_or(Value::Null, Value::Text));
                derived = Some(text);
            }
            Table::Outbox => {
                values.extend(row.into_iter().map(value));
                values.push(Value::Text(scope.tenant().to_owned()));
            }
            _ => values.extend(row.into_iter().map(value)),
        }
        statement.execute(params_from_iter(values)).map_err(driver)?;
        if let Some(document) = derived.and_then(|text| document(scope_no, &text.counts)) {
            let sql = "INSERT INTO memory_lexical (rowid, terms) VALUES (?1, ?2)";
            connection
                .prepare_cached(sql)
                .and_then(|mut s| s.execute((connection.last_insert_rowid(), document)))
                .map_err(driver)?;
        }
    }
    Ok(())
}

/// What recall needs of a node that is copied.
fn derived_text(row: &Row) -> Result<DerivedText, StoreError> {
    let table = Table::Nodes;
    let unreadable =
        |column: &'static str, problem: String| inconsistent(table.name(), column, "a copied row", problem);
    let kind = text(row, table.at("type")).unwrap_or_default();
    let node_type = NodeType::parse(kind).ok_or_else(|| unreadable("type", format!("unknown value {kind:?}")))?;
    let slots = serde_json::from_str(text(row, table.at("slots")).unwrap_or_default())
        .map_err(|e| unreadable("slots", e.to_string()))?;
    Ok(DerivedText::of_stored(node_type, text(row, table.at("title")), text(row, table.at("text_summary")), &slots))
}

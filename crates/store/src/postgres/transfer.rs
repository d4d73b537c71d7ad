//! Copying scopes from and to a PostgreSQL store.

use std::fmt::Write as _;

use aionis_core::{
    canon::Digest,
    ids::ScopeKey,
    model::{Lane, NodeType, RuleState, Tier},
    ports::store::{ScopeSummary, StoreError},
    write::DerivedText,
};
use async_trait::async_trait;
use hashbrown::HashMap;
use pgvector::Vector;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{
    PostgresStore,
    error::{driver, inconsistent},
    integrity,
    rows::{choice, digest, get, signed, unsigned},
    session::{For, Transaction, begin},
    write::terms_text,
};
use crate::transfer::{
    Cell, Head, IMPORTING, KeyPart, Kind, Progress, Row, Snapshot, Table, Transfer, id, progress_key, read_progress,
    taken, text, write_progress,
};
use aionis_image::{Coding, gate_bits};

/// One transaction that sees the database as it was when it began.
struct Frozen(Transaction);

#[async_trait]
impl Snapshot for Frozen {
    async fn scopes(&mut self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError> {
        integrity::scopes(&mut self.0, tenant, scope).await
    }

    async fn head(&mut self, scope: &ScopeKey) -> Result<Option<Head>, StoreError> {
        let sql = "SELECT state, head_seq, head_hash, node_count, edge_count, created_at, updated_at \
                   FROM memory_scopes WHERE scope_key = $1";
        let row = sqlx::query(sql).bind(scope.as_str()).fetch_optional(&mut *self.0).await.map_err(driver)?;
        row.map(|row| {
            Ok(Head {
                importing: get::<&str>(&row, 0)? == IMPORTING,
                seq: unsigned(&row, 1)?,
                hash: digest(&row, 2)?,
                nodes: unsigned(&row, 3)?,
                edges: unsigned(&row, 4)?,
                created_at: get(&row, 5)?,
                updated_at: get(&row, 6)?,
            })
        })
        .transpose()
    }

    async fn page(
        &mut self,
        scope: &ScopeKey,
        table: Table,
        after: &[KeyPart],
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let selected: Vec<String> = table
            .columns()
            .iter()
            .map(|(name, kind)| match kind {
                Kind::Int => format!("{name}::bigint"),
                Kind::Json => format!("{name}::text"),
                _ => (*name).to_owned(),
            })
            .collect();
        let keys: Vec<&str> = table.columns()[..table.key_len()].iter().map(|(name, _)| *name).collect();
        let mut sql = format!(
            "SELECT {} FROM {} WHERE scope_key = $1 AND {}",
            selected.join(", "),
            table.name(),
            table.condition()
        );
        if !after.is_empty() {
            let places: Vec<String> = (0..after.len()).map(|at| format!("${}", at + 3)).collect();
            // Writing to a text cannot fail.
            let _ = write!(sql, " AND ({}) > ({})", keys.join(", "), places.join(", "));
        }
        let _ = write!(sql, " ORDER BY {} LIMIT $2", keys.join(", "));
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).bind(signed(limit as u64));
        for part in after {
            query = match part {
                KeyPart::Int(value) => query.bind(*value),
                KeyPart::Text(value) => query.bind(value.clone()),
                KeyPart::Uuid(value) => query.bind(*value),
            };
        }
        let rows = query.fetch_all(&mut *self.0).await.map_err(driver)?;
        rows.iter().map(|row| read(row, table)).collect()
    }
}

fn read(row: &PgRow, table: Table) -> Result<Row, StoreError> {
    let columns = table.columns().iter().enumerate();
    columns
        .map(|(at, (_, kind))| {
            Ok(match kind {
                Kind::Int => get::<Option<i64>>(row, at)?.map_or(Cell::Null, Cell::Int),
                Kind::Real => get::<Option<f64>>(row, at)?.map_or(Cell::Null, Cell::Real),
                Kind::Text => get::<Option<String>>(row, at)?.map_or(Cell::Null, Cell::Text),
                Kind::Json => get::<Option<String>>(row, at)?.map_or(Cell::Null, Cell::Json),
                Kind::Uuid => get::<Option<Uuid>>(row, at)?.map_or(Cell::Null, Cell::Uuid),
                Kind::Bytes => get::<Option<Vec<u8>>>(row, at)?.map_or(Cell::Null, Cell::Bytes),
                Kind::Vector => {
                    get::<Option<Vector>>(row, at)?.map_or(Cell::Null, |vector| Cell::Vector(vector.to_vec()))
                }
            })
        })
        .collect()
}

impl PostgresStore {
    async fn begin_import_of(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Tenant(scope.tenant()), self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl Transfer for PostgresStore {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        // It stands open while the other store is read.
        let frozen = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
                      SET LOCAL idle_in_transaction_session_timeout = 0";
        let timeout = self.shared.options.statement_timeout;
        Ok(Box::new(Frozen(begin(&self.shared.pool, For::Everyone, timeout, frozen).await?)))
    }

    async fn progress(&self, scope: &ScopeKey) -> Result<Option<Progress>, StoreError> {
        let row = sqlx::query("SELECT value FROM aionis_meta WHERE key = $1")
            .bind(progress_key(scope))
            .fetch_optional(&mut *self.connection().await?)
            .await
            .map_err(driver)?;
        row.map(|row| read_progress(get(&row, 0)?)).transpose()
    }

    async fn begin_import(&self, scope: &ScopeKey, progress: &Progress) -> Result<(), StoreError> {
        let mut tx = self.begin_import_of(scope).await?;
        let state = lock(&mut tx, scope).await?;
        if state.is_some_and(|state| state != IMPORTING) {
            return Err(taken(scope.as_str()));
        }
        for table in Table::ALL.iter().map(|table| table.name()).chain(["memory_scopes"]) {
            let sql = format!("DELETE FROM {table} WHERE scope_key = $1");
            sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str()).execute(&mut *tx).await.map_err(driver)?;
        }
        let sql = "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, vector_count, \
                   change_no, created_at, updated_at, state) \
                   VALUES ($1, 0, decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, 0, 0, 'importing') \
                   ON CONFLICT (scope_key) DO NOTHING";
        let made = sqlx::query(sql).bind(scope.as_str()).execute(&mut *tx).await.map_err(driver)?;
        if made.rows_affected() == 0 {
            // A scope that is not there cannot be locked: somebody wrote to it since it was looked for.
            return Err(taken(scope.as_str()));
        }
        remember(&mut tx, scope, progress).await?;
        tx.commit().await.map_err(driver)
    }

    async fn import(
        &self,
        scope: &ScopeKey,
        table: Table,
        rows: Vec<Row>,
        progress: &Progress,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_import_of(scope).await?;
        still_importing(&mut tx, scope).await?;
        insert(&mut tx, scope, table, rows).await?;
        remember(&mut tx, scope, progress).await?;
        tx.commit().await.map_err(driver)
    }

    async fn finish_import(&self, scope: &ScopeKey, head: &Head, work: Vec<Row>) -> Result<(), StoreError> {
        let mut tx = self.begin_import_of(scope).await?;
        still_importing(&mut tx, scope).await?;
        insert(&mut tx, scope, Table::Outbox, work).await?;
        let space = super::space::stamped(&mut tx).await?.ok_or_else(crate::space::unstamped)?;
        let Digest(hash) = head.hash;
        let sql = "UPDATE memory_scopes SET state = 'open', head_seq = $2, head_hash = $3, node_count = $4, edge_count = $5, \
                       vector_count = (SELECT COUNT(*) FROM memory_vectors WHERE scope_key = $1 AND model = $8), \
                       change_no = 1, created_at = $6, updated_at = $7 WHERE scope_key = $1";
        sqlx::query(sql)
            .bind(scope.as_str())
            .bind(signed(head.seq))
            .bind(hash.to_vec())
            .bind(signed(head.nodes))
            .bind(signed(head.edges))
            .bind(head.created_at)
            .bind(head.updated_at)
            .bind(space.name)
            .execute(&mut *tx)
            .await
            .map_err(driver)?;
        let sql = "DELETE FROM aionis_meta WHERE key = $1";
        sqlx::query(sql).bind(progress_key(scope)).execute(&mut *tx).await.map_err(driver)?;
        tx.commit().await.map_err(driver)?;
        self.shared.wake.committed(true);
        Ok(())
    }
}

/// Locks a scope's row, if there is one, and tells its state.
async fn lock(connection: &mut PgConnection, scope: &ScopeKey) -> Result<Option<String>, StoreError> {
    let sql = "SELECT state FROM memory_scopes WHERE scope_key = $1 FOR UPDATE";
    let row = sqlx::query(sql).bind(scope.as_str()).fetch_optional(connection).await.map_err(driver)?;
    row.map(|row| get(&row, 0)).transpose()
}

/// Rows are only stored in a scope that is being copied in.
async fn still_importing(connection: &mut PgConnection, scope: &ScopeKey) -> Result<(), StoreError> {
    match lock(connection, scope).await? {
        Some(state) if state == IMPORTING => Ok(()),
        _ => Err(taken(scope.as_str())),
    }
}

async fn remember(connection: &mut PgConnection, scope: &ScopeKey, progress: &Progress) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO aionis_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql)
        .bind(progress_key(scope))
        .bind(write_progress(progress)?)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(driver)
}

/// A column that this engine derives.
enum Derived {
    Small(Vec<i16>),
    Int(Vec<i64>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Vec<u8>>),
}

/// Stores rows with what this engine derives from them, in one statement.
async fn insert(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    table: Table,
    rows: Vec<Row>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let derived: Vec<(&str, Derived)> = match table {
        Table::Nodes => of_nodes(&rows)?,
        Table::Edges | Table::Erasures | Table::RemovedEdges => vec![("change_no", Derived::Int(vec![1; rows.len()]))],
        Table::Vectors => of_vectors(connection, scope, &rows).await?,
        _ => Vec::new(),
    };
    let (mut names, mut arrays, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let kinds = table.columns().iter().map(|(name, kind)| {
        let (array, value) = match kind {
            Kind::Int => ("bigint", ""),
            Kind::Real => ("float8", ""),
            Kind::Text => ("text", ""),
            Kind::Json => ("text", "::jsonb"),
            Kind::Uuid => ("uuid", ""),
            Kind::Bytes => ("bytea", ""),
            Kind::Vector => ("vector", ""),
        };
        (*name, array, value)
    });
    let more = derived.iter().map(|(name, column)| {
        let array = match column {
            Derived::Small(_) => "int2",
            Derived::Int(_) => "bigint",
            Derived::Text(_) => "text",
            Derived::Bytes(_) => "bytea",
        };
        (*name, array, "")
    });
    for (at, (name, array, cast)) in kinds.chain(more).enumerate() {
        names.push(name);
        arrays.push(format!("${}::{array}[]", at + 2));
        values.push(format!("q.c{at}{cast}"));
    }
    let aliases: Vec<String> = (0..names.len()).map(|at| format!("c{at}")).collect();
    let sql = format!(
        "INSERT INTO {} (scope_key, {}) SELECT $1, {} FROM UNNEST({}) AS q ({})",
        table.name(),
        names.join(", "),
        values.join(", "),
        arrays.join(", "),
        aliases.join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str());
    let mut columns: Vec<Vec<Cell>> = table.columns().iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
    }
    for ((name, kind), cells) in table.columns().iter().zip(columns) {
        query =
            bind(query, *kind, cells).map_err(|problem| inconsistent(table.name(), name, scope.as_str(), problem))?;
    }
    for (_, column) in derived {
        query = match column {
            Derived::Small(values) => query.bind(values),
            Derived::Int(values) => query.bind(values),
            Derived::Text(values) => query.bind(values),
            Derived::Bytes(values) => query.bind(values),
        };
    }
    query.execute(connection).await.map(|_| ()).map_err(driver)
}

type Insert = Query<'static, Postgres, PgArguments>;

/// Binds a column of cells as an array.
fn bind(query: Insert, kind: Kind, cells: Vec<Cell>) -> Result<Insert, String> {
    macro_rules! array {
        ($type:ty, $($pattern:pat => $value:expr),+) => {{
            let mut values: Vec<Option<$type>> = Vec::with_capacity(cells.len());
            for cell in cells {
                values.push(match cell {
                    Cell::Null => None,
                    $($pattern => Some($value),)+
                    other => return Err(format!("{other:?} is no {kind:?}")),
                });
            }
            query.bind(values)
        }};
    }
    Ok(match kind {
        Kind::Int => array!(i64, Cell::Int(value) => value),
        Kind::Real => array!(f64, Cell::Real(value) => value),
        Kind::Text => array!(String, Cell::Text(value) => value),
        Kind::Json => array!(String, Cell::Json(value) => value),
        Kind::Uuid => array!(Uuid, Cell::Uuid(value) => value),
        Kind::Bytes => array!(Vec<u8>, Cell::Bytes(value) => value),
        Kind::Vector => array!(Vector, Cell::Vector(value) => Vector::from(value)),
    })
}

/// What recall needs of nodes.
fn of_nodes(rows: &[Row]) -> Result<Vec<(&'static str, Derived)>, StoreError> {
    let table = Table::Nodes;
    let (kind_at, title, summary, slots) =
        (table.at("type"), table.at("title"), table.at("text_summary"), table.at("slots"));
    let (mut flags, mut counts, mut terms, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let kind = text(row, kind_at).unwrap_or_default();
        let node_type = super::rows::parsed(kind, NodeType::parse)?;
        let slots = super::rows::json_of(text(row, slots).unwrap_or_default())?;
        let derived = DerivedText::of_stored(node_type, text(row, title), text(row, summary), &slots);
        flags.push(i16::from(derived.flags));
        counts.push(i64::from(derived.counts.len));
        terms.push(Some(terms_text(&derived)));
        names.push(derived.name_key);
    }
    Ok(vec![
        ("recall_flags", Derived::Small(flags)),
        ("term_count", Derived::Int(counts)),
        ("lexical_terms", Derived::Text(terms)),
        ("name_key", Derived::Text(names)),
        ("change_no", Derived::Int(vec![1; rows.len()])),
    ])
}

/// Who may find vectors, and their codes; the nodes are there already.
async fn of_vectors(
    connection: &mut PgConnection,
    scope: &ScopeKey,
    rows: &[Row],
) -> Result<Vec<(&'static str, Derived)>, StoreError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| id(row, 0)).collect::<Result<_, _>>()?;
    let sql = "SELECT n.id, n.type, n.tier, n.memory_lane, n.recall_flags, r.state, n.owner_agent_id, n.owner_team_id \
               FROM UNNEST($2::uuid[]) AS q (id) \
               CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n \
               LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
                   WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = q.id LIMIT 1) r ON true";
    let found = sqlx::query(sql).bind(scope.as_str()).bind(&ids).fetch_all(connection).await.map_err(driver)?;
    let mut nodes: HashMap<Uuid, (i16, Option<String>, Option<String>)> = HashMap::with_capacity(found.len());
    for row in &found {
        let state: Option<&str> = get(row, 5)?;
        let gate = gate_bits(
            choice(row, 1, NodeType::parse)?,
            choice(row, 2, Tier::parse)?,
            choice(row, 3, Lane::parse)?,
            u8::try_from(get::<i16>(row, 4)?).unwrap_or(0),
            state.and_then(RuleState::parse).is_some_and(RuleState::is_live),
        );
        nodes.insert(get(row, 0)?, (i16::from(gate), get(row, 6)?, get(row, 7)?));
    }
    let (mut gates, mut agents, mut teams, mut codes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, id) in rows.iter().zip(&ids) {
        let (gate, agent, team) = nodes
            .get(id)
            .cloned()
            .ok_or_else(|| inconsistent("memory_vectors", "node_id", id, "there is no such node".to_owned()))?;
        let Some(Cell::Vector(vector)) = row.last() else {
            return Err(inconsistent("memory_vectors", "embedding", id, "there is no vector".to_owned()));
        };
        gates.push(gate);
        agents.push(agent);
        teams.push(team);
        codes.push(Coding::of(vector.len()).encode(vector));
    }
    Ok(vec![
        ("gate", Derived::Small(gates)),
        ("owner_agent_id", Derived::Text(agents)),
        ("owner_team_id", Derived::Text(teams)),
        ("code", Derived::Bytes(codes)),
    ])
}

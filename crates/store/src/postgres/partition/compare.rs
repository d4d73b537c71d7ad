//! Comparing the two layouts, row by row and by numbers of rows, in one state of the database.

use std::{collections::BTreeMap, time::Instant};

use aionis_core::partition::{CutoverState, Step, flat_name, twin_name};
use serde::Serialize;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError,
    catalogue::{self, Column, Shape, list},
    execute, partitioned_tables,
    progress::{Noted, event, note},
};

/// How thoroughly rows are compared.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Buckets the rows of a table are put into; a power of two.
    pub buckets: u32,
    /// Differing rows named per table at most.
    pub samples_max: u32,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { buckets: 256, samples_max: 20 }
    }
}

/// A row that differs.
#[derive(Clone, Debug, Serialize)]
pub struct SamplePair {
    /// Its key, column by column.
    pub key: Vec<String>,
    /// `missing` (only in the layout in use), `extra` (only in the other one) or `changed`.
    pub difference: &'static str,
}

/// How one table compares.
#[derive(Clone, Debug, Serialize)]
pub struct TableComparison {
    /// Name of the table.
    pub table: String,
    /// Rows of the layout in use.
    pub source_rows: u64,
    /// Rows of the other layout.
    pub target_rows: u64,
    /// Digest over the contents of all rows of the layout in use.
    pub source_digest: String,
    /// The same of the other layout.
    pub target_digest: String,
    /// Buckets whose rows differ.
    pub differing_buckets: Vec<u32>,
    /// Some of the rows that differ.
    pub samples: Vec<SamplePair>,
    /// How long it took, in ms.
    pub elapsed_ms: u64,
}

/// What `verify` found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Whether every row is the same in both layouts.
    pub ok: bool,
    /// The state afterwards.
    pub state: CutoverState,
    /// Buckets per table.
    pub buckets: u32,
    /// By table.
    pub tables: Vec<TableComparison>,
}

/// Different numbers of rows of one scope in one table.
#[derive(Clone, Debug, Serialize)]
pub struct GapRow {
    /// Name of the table.
    pub table: String,
    /// `tenant/scope`.
    pub scope_key: String,
    /// Rows of the layout in use.
    pub source_rows: i64,
    /// Rows of the other layout.
    pub target_rows: i64,
    /// The latter less the former.
    pub delta: i64,
}

/// What `gap` found.
#[derive(Clone, Debug, Serialize)]
pub struct GapReport {
    /// Whether all numbers are equal.
    pub ok: bool,
    /// Tables compared.
    pub tables: usize,
    /// Pairs of table and scope compared.
    pub compared: u64,
    /// Those that differ.
    pub rows: Vec<GapRow>,
}

/// A column in a form whose equality means equal bytes.
fn exact(column: &Column) -> String {
    let name = &column.name;
    match column.sql_type.split('(').next().unwrap_or_default() {
        "vector" => format!("vector_send({name})"),
        "halfvec" => format!("halfvec_send({name})"),
        "jsonb" | "json" => format!("{name}::text"),
        "double precision" => format!("float8send({name})"),
        "real" => format!("float4send({name})"),
        _ => name.clone(),
    }
}

/// The hash over a row's contents.
fn row_hash(shape: &Shape) -> String {
    format!("hash_record_extended(ROW({}), 1)", list(shape.columns.iter().filter(|c| !c.generated), exact))
}

fn bucket(shape: &Shape, buckets: u32) -> String {
    format!("(hash_record_extended(ROW({}), 0) & {})::int", list(shape.key.iter(), exact), buckets - 1)
}

/// Rows and hashes of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    rows: i64,
    exclusive_or: i64,
    sum_of_halves: i64,
}

async fn buckets_of(
    connection: &mut PgConnection,
    table: &str,
    shape: &Shape,
    (buckets, only): (u32, &str),
) -> Done<BTreeMap<i32, Bucket>> {
    let (row, bucket) = (row_hash(shape), bucket(shape, buckets));
    // OFFSET keeps the hash from being computed once per aggregate.
    let sql = format!(
        "SELECT b, count(*), bit_xor(h), sum(h & 4294967295)::bigint FROM (SELECT {bucket} AS b, {row} AS h FROM {table} \
         {only} OFFSET 0) r GROUP BY b"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let of_row = |row: &sqlx::postgres::PgRow| -> Done<_> {
        let sums = Bucket { rows: row.try_get(1)?, exclusive_or: row.try_get(2)?, sum_of_halves: row.try_get(3)? };
        Ok((row.try_get(0)?, sums))
    };
    rows.iter().map(of_row).collect()
}

async fn samples(
    connection: &mut PgConnection,
    (source, target): (&str, &str),
    shape: &Shape,
    (differing, options): (&[i32], &VerifyOptions),
) -> Done<Vec<SamplePair>> {
    let (row, bucket, keys) = (row_hash(shape), bucket(shape, options.buckets), shape.keys(""));
    let key = list(shape.key.iter(), |c| format!("{}::text", c.name));
    let side = |table: &str| format!("(SELECT {keys}, {row} AS h FROM {table} WHERE {bucket} = ANY ($1))");
    let sql = format!(
        "SELECT ARRAY[{key}], s.h IS NULL, t.h IS NULL FROM {} s FULL JOIN {} t USING ({keys}) \
         WHERE s.h IS DISTINCT FROM t.h ORDER BY {keys} LIMIT $2",
        side(source),
        side(target)
    );
    let asked = sqlx::query(AssertSqlSafe(sql)).bind(differing).bind(i64::from(options.samples_max));
    let mut found = Vec::new();
    for row in asked.fetch_all(connection).await? {
        let difference = match (row.try_get(1)?, row.try_get(2)?) {
            (true, _) => "extra",
            (_, true) => "missing",
            _ => "changed",
        };
        found.push(SamplePair { key: row.try_get(0)?, difference });
    }
    Ok(found)
}

fn digest(all: &BTreeMap<i32, Bucket>) -> String {
    let xor = all.values().fold(0, |sum, bucket| sum ^ bucket.exclusive_or);
    let sum = all.values().fold(0_i64, |sum, bucket| sum.wrapping_add(bucket.sum_of_halves));
    format!("{:016x}{:016x}", xor.cast_unsigned(), sum.cast_unsigned())
}

/// Compares every row of two tables, in the state the transaction sees.
pub(super) async fn compare(
    connection: &mut PgConnection,
    table: &str,
    (source, target): (&str, &str),
    options: &VerifyOptions,
) -> Done<TableComparison> {
    let started = Instant::now();
    let shape = catalogue::shape(connection, source).await?;
    let of_source = buckets_of(connection, source, &shape, (options.buckets, "")).await?;
    let of_target = buckets_of(connection, target, &shape, (options.buckets, "")).await?;
    let names: std::collections::BTreeSet<i32> = of_source.keys().chain(of_target.keys()).copied().collect();
    let differs = |bucket: &i32| of_source.get(bucket) != of_target.get(bucket);
    let differing: Vec<i32> = names.into_iter().filter(differs).collect();
    let samples = if differing.is_empty() {
        Vec::new()
    } else {
        samples(connection, (source, target), &shape, (&differing, options)).await?
    };
    let rows = |all: &BTreeMap<i32, Bucket>| all.values().map(|b| u64::try_from(b.rows).unwrap_or(0)).sum();
    Ok(TableComparison {
        table: table.to_owned(),
        source_rows: rows(&of_source),
        target_rows: rows(&of_target),
        source_digest: digest(&of_source),
        target_digest: digest(&of_target),
        differing_buckets: differing.into_iter().map(|b| u32::try_from(b).unwrap_or(0)).collect(),
        samples,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Whether two tables, or parts of them, have the same rows, in the state the transaction sees.
pub(super) async fn same_rows(
    connection: &mut PgConnection,
    shape: &Shape,
    (source, of_source): (&str, &str),
    (target, of_target): (&str, &str),
) -> Done<bool> {
    let only = |condition: &str| if condition.is_empty() { String::new() } else { format!("WHERE {condition}") };
    let source = buckets_of(connection, source, shape, (64, &only(of_source))).await?;
    Ok(source == buckets_of(connection, target, shape, (64, &only(of_target))).await?)
}

/// The tables that are compared: name, what is in use, and the other layout's.
pub(super) async fn pairs(connection: &mut PgConnection, state: CutoverState) -> Done<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for table in partitioned_tables() {
        let other = if state == CutoverState::CutOver { flat_name(table) } else { twin_name(table) };
        if catalogue::exists(connection, &other).await? {
            pairs.push((table.to_owned(), other));
        }
    }
    Ok(pairs)
}

/// Begins a transaction that sees one state of everything.
pub(super) async fn freeze(connection: &mut PgConnection) -> Done<()> {
    execute(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await
}

/// Compares every row of all tables.
pub(super) async fn compare_all(
    connection: &mut PgConnection,
    state: CutoverState,
    options: &VerifyOptions,
) -> Done<Vec<TableComparison>> {
    let pairs = pairs(connection, state).await?;
    freeze(connection).await?;
    let compared = async {
        let mut tables = Vec::new();
        for (table, other) in &pairs {
            tables.push(compare(connection, table, (table, other), options).await?);
        }
        Ok(tables)
    };
    let compared = compared.await;
    execute(connection, "ROLLBACK").await?;
    compared
}

/// Compares numbers of rows of all tables, scope by scope.
pub(super) async fn gaps(connection: &mut PgConnection, state: CutoverState) -> Done<GapReport> {
    let pairs = pairs(connection, state).await?;
    freeze(connection).await?;
    let counted = async {
        let (mut compared, mut rows) = (0, Vec::new());
        for (table, other) in &pairs {
            let count = |table: &str| format!("(SELECT scope_key, count(*) AS n FROM {table} GROUP BY 1)");
            let sql = format!(
                "SELECT scope_key, COALESCE(s.n, 0), COALESCE(t.n, 0) FROM {} s FULL JOIN {} t USING (scope_key) ORDER BY 1",
                count(table),
                count(other)
            );
            for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await? {
                compared += 1;
                let (source_rows, target_rows): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
                if source_rows != target_rows {
                    let (scope_key, delta) = (row.try_get(0)?, target_rows - source_rows);
                    rows.push(GapRow { table: table.clone(), scope_key, source_rows, target_rows, delta });
                }
            }
        }
        Ok(GapReport { ok: rows.is_empty() && !pairs.is_empty(), tables: pairs.len(), compared, rows })
    };
    let counted = counted.await;
    execute(connection, "ROLLBACK").await?;
    counted
}

impl PartitionAdmin {
    /// Compares every row of both layouts, of all scopes, in one state of the database. Rows that differ lead back to the
    /// state before.
    ///
    /// # Errors
    /// It is out of order; a failure of storage.
    pub async fn verify(&mut self, options: &VerifyOptions) -> Result<VerifyReport, PartitionError> {
        let from = self.begin(Step::Verify).await?;
        let done = self.verify_all(options, from).await;
        self.end().await?;
        done
    }

    async fn verify_all(&mut self, options: &VerifyOptions, from: CutoverState) -> Done<VerifyReport> {
        let tables = compare_all(&mut self.connection, from, options).await?;
        let ok = !tables.is_empty() && tables.iter().all(|table| table.differing_buckets.is_empty());
        let to = match (from, ok) {
            (CutoverState::CutOver, _) => CutoverState::CutOver,
            (CutoverState::Ready, true) => CutoverState::Ready,
            (_, true) => CutoverState::Verified,
            (_, false) => CutoverState::Backfilled,
        };
        let differing: Vec<&str> =
            tables.iter().filter(|t| !t.differing_buckets.is_empty()).map(|t| t.table.as_str()).collect();
        let rows: u64 = tables.iter().map(|table| table.source_rows).sum();
        let detail = json!({ "ok": ok, "rows": rows, "differing": differing });
        let (now, noted) = (self.clock.now(), Noted { command: "verify", from, to, detail });
        if from == to {
            event(&mut self.connection, &noted, now).await?;
        } else {
            note(&mut self.connection, &noted, now).await?;
        }
        Ok(VerifyReport { ok, state: to, buckets: options.buckets, tables })
    }

    /// Compares numbers of rows of both layouts, of every table and scope.
    ///
    /// # Errors
    /// It is out of order; a failure of storage.
    pub async fn gap(&mut self) -> Result<GapReport, PartitionError> {
        let state = self.begin(Step::Gap).await?;
        let done = gaps(&mut self.connection, state).await;
        self.end().await?;
        done
    }
}

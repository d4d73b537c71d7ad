//! How far the change is, as the database keeps it.

use aionis_core::{clock::Timestamp, partition::CutoverState};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::{Done, PartitionAdmin, PartitionError, partitioned_tables, refused};

/// How far the copy of a table is.
#[derive(Clone, Debug, Serialize)]
pub struct TableProgress {
    /// Name of the table.
    pub table: String,
    /// Rows looked at so far.
    pub seen: u64,
    /// Rows copied so far; the others were there already.
    pub copied: u64,
    /// Whether nothing is left to copy.
    pub done: bool,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Number, in order.
    pub seq: i64,
    /// When, in microseconds since 1970.
    pub at_us: i64,
    /// The command.
    pub command: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// What the command told.
    pub detail: Value,
}

/// What `aionis partition status` tells.
#[derive(Clone, Debug, Serialize)]
pub struct CutoverStatus {
    /// How far the change is.
    pub state: CutoverState,
    /// The command that leads on; none at the end.
    pub next: Option<&'static str>,
    /// Sub-partitions of the default partition; 0 before `ensure`.
    pub hash_partitions: i32,
    /// Run whose checks passed last.
    pub ready_run: Option<String>,
    /// When they did, in microseconds since 1970.
    pub ready_at_us: Option<i64>,
    /// When the layouts were exchanged, in microseconds since 1970.
    pub cut_over_at_us: Option<i64>,
    /// Copies, by table.
    pub tables: Vec<TableProgress>,
    /// What was done last, the newest first.
    pub events: Vec<Event>,
}

/// The stored row.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) hash_partitions: i32,
    pub(super) mirror_mark: Option<String>,
    pub(super) copied_xact: Option<i64>,
    pub(super) ready_at: Option<i64>,
    pub(super) ready_run: Option<String>,
    pub(super) cut_over_at: Option<i64>,
}

pub(super) async fn state(connection: &mut PgConnection) -> Done<CutoverState> {
    let row = sqlx::query("SELECT state FROM partition_cutover").fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(CutoverState::None) };
    let text: String = row.try_get(0)?;
    let known = CutoverState::parse(&text);
    known.map_or_else(|| refused(format!("partition_cutover.state is {text:?}, which this program does not know")), Ok)
}

pub(super) async fn record(connection: &mut PgConnection) -> Done<Record> {
    let sql =
        "SELECT hash_partitions, mirror_mark, copied_xact, ready_at, ready_run, cut_over_at FROM partition_cutover";
    let Some(row) = sqlx::query(sql).fetch_optional(connection).await? else { return Ok(Record::default()) };
    Ok(Record {
        hash_partitions: row.try_get(0)?,
        mirror_mark: row.try_get(1)?,
        copied_xact: row.try_get(2)?,
        ready_at: row.try_get(3)?,
        ready_run: row.try_get(4)?,
        cut_over_at: row.try_get(5)?,
    })
}

/// What is noted of a command that changed the state, or did something worth knowing.
pub(super) struct Noted<'a> {
    pub(super) command: &'a str,
    pub(super) from: CutoverState,
    pub(super) to: CutoverState,
    pub(super) detail: Value,
}

/// Stores a new state with what led to it. Belongs into the transaction that makes it true.
pub(super) async fn note(connection: &mut PgConnection, noted: &Noted<'_>, now: Timestamp) -> Done<()> {
    let sql = "INSERT INTO partition_cutover (id, state, hash_partitions, updated_at) VALUES (1, $1, 0, $2) \
               ON CONFLICT (id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at";
    sqlx::query(sql).bind(noted.to.as_str()).bind(now.0).execute(&mut *connection).await?;
    event(connection, noted, now).await
}

/// Notes what was done without a change of the state.
pub(super) async fn event(connection: &mut PgConnection, noted: &Noted<'_>, now: Timestamp) -> Done<()> {
    let sql =
        "INSERT INTO partition_events (at, command, from_state, to_state, detail) VALUES ($1, $2, $3, $4, $5::jsonb)";
    sqlx::query(sql)
        .bind(now.0)
        .bind(noted.command)
        .bind(noted.from.as_str())
        .bind(noted.to.as_str())
        .bind(noted.detail.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn tables(connection: &mut PgConnection) -> Done<Vec<TableProgress>> {
    let sql = "SELECT table_name, seen, copied, done_at IS NOT NULL FROM partition_tables";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
        found.push(TableProgress { table: row.try_get(0)?, seen: count(1)?, copied: count(2)?, done: row.try_get(3)? });
    }
    let place = |name: &str| partitioned_tables().position(|table| table == name);
    found.sort_by_key(|table| place(&table.table));
    Ok(found)
}

impl PartitionAdmin {
    /// How far everything is, with the newest `events_max` things that were done.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn status(&mut self, events_max: u32) -> Result<CutoverStatus, PartitionError> {
        let state = state(&mut self.connection).await?;
        let record = record(&mut self.connection).await?;
        let sql = "SELECT seq, at, command, from_state, to_state, detail::text FROM partition_events ORDER BY seq DESC \
                   LIMIT $1";
        let rows = sqlx::query(sql).bind(i64::from(events_max)).fetch_all(&mut self.connection).await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            events.push(Event {
                seq: row.try_get(0)?,
                at_us: row.try_get(1)?,
                command: row.try_get(2)?,
                from: row.try_get(3)?,
                to: row.try_get(4)?,
                detail: super::super::rows::json_of(row.try_get(5)?)?,
            });
        }
        Ok(CutoverStatus {
            state,
            next: state.next().map(aionis_core::partition::Step::as_str),
            hash_partitions: record.hash_partitions,
            ready_run: record.ready_run,
            ready_at_us: record.ready_at,
            cut_over_at_us: record.cut_over_at,
            tables: tables(&mut self.connection).await?,
            events,
        })
    }
}

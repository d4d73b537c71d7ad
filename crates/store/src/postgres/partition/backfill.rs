//! Setting the mirror up and copying the rows that were there before.

use std::time::Duration;

use aionis_core::partition::{CutoverState, Step, twin_name};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError, catalogue,
    copy::{BY_KEY, Batch, Copy, gave_way},
    ensure::todo,
    execute,
    indexes::create_concurrently,
    mirror::{self, Mirror, Target},
    progress::{Noted, note},
    refused,
    replication::not_replicated,
    window::{Locks, WindowOptions, under_locks},
};

/// Tries of a batch that gives way to writers.
const BATCH_TRIES: u32 = 50;
/// Longest wait for a writer, in ms: less than the second after which the server looks for deadlocks, so that the copy gives
/// way and not the writer.
const GIVE_WAY_MS: u32 = 300;

/// How rows are copied.
#[derive(Clone, Copy, Debug)]
pub struct BackfillOptions {
    /// Rows of a batch, each of which is one transaction.
    pub batch_size: u32,
    /// Batches after which it stops, to go on another time; none for all.
    pub batches_max: Option<u64>,
    /// Rest between two batches.
    pub pace: Duration,
    /// Only tells what would be copied.
    pub dry_run: bool,
    /// How the mirror's locks are asked for.
    pub window: WindowOptions,
}

impl Default for BackfillOptions {
    fn default() -> Self {
        let (batches_max, pace, dry_run) = (None, Duration::ZERO, false);
        Self { batch_size: 5_000, batches_max, pace, dry_run, window: WindowOptions::default() }
    }
}

/// What was copied of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableCopy {
    /// Name of the table.
    pub table: String,
    /// Rows looked at by this run; of a dry run, rows that are left to look at.
    pub seen: u64,
    /// Rows copied by this run; of a dry run, rows the twin lacks.
    pub copied: u64,
    /// Batches of this run.
    pub batches: u64,
    /// Whether nothing is left to copy.
    pub done: bool,
}

/// What `backfill` did.
#[derive(Clone, Debug, Serialize)]
pub struct BackfillReport {
    /// The state afterwards.
    pub state: CutoverState,
    /// Whether it only told.
    pub dry_run: bool,
    /// By table.
    pub tables: Vec<TableCopy>,
    /// Indexes of vectors that were made at the end.
    pub indexes: Vec<String>,
}

async fn cursor(connection: &mut PgConnection, table: &str) -> Done<(Option<Vec<String>>, bool)> {
    let sql = "SELECT cursor, done_at IS NOT NULL FROM partition_tables WHERE table_name = $1";
    let row = sqlx::query(sql).bind(table).fetch_optional(connection).await?;
    row.map_or(Ok((None, false)), |row| Ok((row.try_get(0)?, row.try_get(1)?)))
}

impl PartitionAdmin {
    /// Begins to mirror, then copies what was there before. Broken off, the next run goes on after the last batch.
    ///
    /// # Errors
    /// It is out of order; the mirror is not as it was set up; a failure of storage.
    pub async fn backfill(&mut self, options: &BackfillOptions) -> Result<BackfillReport, PartitionError> {
        let from = self.begin(Step::Backfill).await?;
        let done =
            if options.dry_run { self.backfill_plan(from).await } else { self.backfill_all(options, from).await };
        self.end().await?;
        done
    }

    /// What is left to copy. Nothing is changed.
    async fn backfill_plan(&mut self, state: CutoverState) -> Done<BackfillReport> {
        let mut tables = Vec::new();
        for table in todo(&mut self.connection, true).await? {
            let (_, done) = cursor(&mut self.connection, table).await?;
            let shape = catalogue::shape(&mut self.connection, table).await?;
            let (twin, same) = (twin_name(table), shape.same_key("t", "s"));
            let sql = format!(
                "SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT 1 FROM {twin} t WHERE {same})) FROM {table} s"
            );
            let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
            let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
            tables.push(TableCopy { table: table.to_owned(), seen: count(0)?, copied: count(1)?, batches: 0, done });
        }
        Ok(BackfillReport { state, dry_run: true, tables, indexes: Vec::new() })
    }

    async fn backfill_all(&mut self, options: &BackfillOptions, from: CutoverState) -> Done<BackfillReport> {
        let tables = todo(&mut self.connection, true).await?;
        if tables.is_empty() {
            return refused("there are no twins; run `aionis partition rollback`, then `aionis partition ensure`");
        }
        not_replicated(&mut self.connection).await?;
        self.mirror_all(&tables, options, from).await?;
        let mut left = options.batches_max;
        let mut copies = Vec::new();
        for table in &tables {
            copies.push(self.backfill_table(table, options, &mut left).await?);
        }
        let (mut state, mut indexes) = (CutoverState::Mirroring, Vec::new());
        if copies.iter().all(|copy| copy.done) {
            for table in &tables {
                let (twin, window) = (twin_name(table), &options.window);
                indexes.extend(create_concurrently(&mut self.connection, table, &twin, window).await?);
                execute(&mut self.connection, &format!("ANALYZE {}", twin_name(table))).await?;
            }
            self.copied(&copies).await?;
            state = CutoverState::Backfilled;
        }
        Ok(BackfillReport { state, dry_run: false, tables: copies, indexes })
    }

    /// Sets the mirror up, or checks that it is still the one that was set up.
    async fn mirror_all(&mut self, tables: &[&str], options: &BackfillOptions, from: CutoverState) -> Done<()> {
        let names: Vec<String> = tables.iter().map(|table| mirror::name(table)).collect();
        if from == CutoverState::Mirroring {
            let stored = super::progress::record(&mut self.connection).await?.mirror_mark;
            if stored.as_deref() == Some(&mirror::mark(&mut self.connection, &names).await?) {
                return Ok(());
            }
            return refused(
                "the mirror is not the one that was set up: changes may be missing; `aionis partition rollback \
                 --drop-twins`, then begin anew",
            );
        }
        for table in tables {
            let shape = catalogue::shape(&mut self.connection, table).await?;
            let targets = vec![Target { table: twin_name(table), only: String::new() }];
            let mirror = Mirror { name: mirror::name(table), source: (*table).to_owned(), targets, shape: &shape };
            // What was left by a run that was broken off is made anew: nothing was copied yet.
            let sql = mirror::drop_all(&mirror.name) + &mirror.function() + "; " + &mirror.triggers();
            let locks = Locks { tables: vec![(*table).to_owned()], mode: "SHARE ROW EXCLUSIVE" };
            let set_up = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
            under_locks(&mut self.connection, &locks, &options.window, set_up).await?;
        }
        let (to, now) = (CutoverState::Mirroring, self.clock.now());
        execute(&mut self.connection, "BEGIN").await?;
        let detail = json!({ "tables": tables.len() });
        note(&mut self.connection, &Noted { command: "backfill", from, to, detail }, now).await?;
        let mark = mirror::mark(&mut self.connection, &names).await?;
        let sql = "UPDATE partition_cutover SET mirror_mark = $1";
        sqlx::query(sql).bind(mark).execute(&mut self.connection).await?;
        execute(&mut self.connection, "COMMIT").await
    }

    async fn backfill_table(
        &mut self,
        table: &str,
        options: &BackfillOptions,
        left: &mut Option<u64>,
    ) -> Done<TableCopy> {
        let (mut at, done) = cursor(&mut self.connection, table).await?;
        let mut copy = TableCopy { table: table.to_owned(), done, ..TableCopy::default() };
        let shape = catalogue::shape(&mut self.connection, table).await?;
        let (twin, source) = (twin_name(table), table);
        let rows = Copy { source, target: &twin, only: "", shape: &shape };
        while !copy.done && left.is_none_or(|left| left > 0) {
            let batch = self.patient_batch(&rows, at.as_deref(), options.batch_size).await?;
            *left = left.map(|left| left - 1);
            copy.batches += 1;
            copy.seen += batch.seen;
            copy.copied += batch.copied;
            copy.done = batch.last.is_none();
            at = batch.last;
            if !copy.done && !options.pace.is_zero() {
                tokio::time::sleep(options.pace).await;
            }
        }
        Ok(copy)
    }

    async fn patient_batch(&mut self, rows: &Copy<'_>, at: Option<&[String]>, size: u32) -> Done<Batch> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.batch(rows, at, size).await {
                Err(error) if gave_way(&error) && tries < BATCH_TRIES => {
                    execute(&mut self.connection, "ROLLBACK").await?;
                    tokio::time::sleep(Duration::from_millis(20 * u64::from(tries))).await;
                }
                Err(error) => {
                    // The connection may be the reason; its error is the one that counts.
                    let _ = execute(&mut self.connection, "ROLLBACK").await;
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    /// One batch, and how far it came, in one transaction.
    async fn batch(&mut self, rows: &Copy<'_>, at: Option<&[String]>, size: u32) -> Done<Batch> {
        let now = self.clock.now().0;
        execute(&mut self.connection, &format!("BEGIN; SET LOCAL lock_timeout = {GIVE_WAY_MS}; {BY_KEY}")).await?;
        let batch = rows.batch(&mut self.connection, at, size).await?;
        let done_at = batch.last.is_none().then_some(now);
        let sql = "INSERT INTO partition_tables AS p (table_name, cursor, seen, copied, done_at) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (table_name) DO UPDATE SET cursor = COALESCE(excluded.cursor, p.cursor), \
                   seen = p.seen + excluded.seen, copied = p.copied + excluded.copied, done_at = excluded.done_at";
        sqlx::query(sql)
            .bind(rows.source)
            .bind(batch.last.clone())
            .bind(i64::try_from(batch.seen).unwrap_or(i64::MAX))
            .bind(i64::try_from(batch.copied).unwrap_or(i64::MAX))
            .bind(done_at)
            .execute(&mut self.connection)
            .await?;
        execute(&mut self.connection, "COMMIT").await?;
        Ok(batch)
    }

    /// Notes that everything is copied, by a transaction newer than all that copied.
    async fn copied(&mut self, copies: &[TableCopy]) -> Done<()> {
        let now = self.clock.now();
        let (from, to) = (CutoverState::Mirroring, CutoverState::Backfilled);
        let detail = json!({ "copied": copies.iter().map(|copy| copy.copied).sum::<u64>() });
        execute(&mut self.connection, "BEGIN").await?;
        note(&mut self.connection, &Noted { command: "backfill", from, to, detail }, now).await?;
        let sql = "UPDATE partition_cutover SET copied_xact = pg_current_xact_id()::text::bigint; COMMIT";
        execute(&mut self.connection, sql).await
    }
}

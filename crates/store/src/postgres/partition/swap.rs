//! Exchanging the layouts, taking that back, and ending it. Each is one transaction under locks on all tables.

use std::time::Duration;

use aionis_core::partition::{CutoverState, FLAT_SUFFIX, Step, TWIN_SUFFIX, flat_name, twin_name};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError, catalogue, compare,
    ensure::todo,
    execute,
    mirror::{self, Mirror, Target},
    partitioned_tables,
    progress::{self, Noted, note},
    promote::drop_left,
    refused,
    replication::not_replicated,
    window::{Locks, Went, WindowOptions, under_locks},
};

/// How long a passed readiness check is good, in microseconds.
const READY_MAX_US: i64 = 60 * 60 * 1_000_000;
/// What tells running processes to look at the layout again.
const TELL: &str = "SELECT pg_notify('aionis_work', 'layout'); ";

/// What an exchange did.
#[derive(Clone, Debug, Serialize)]
pub struct SwapReport {
    /// The state afterwards.
    pub state: CutoverState,
    /// Tables concerned.
    pub tables: usize,
    /// Tries until all locks were had.
    pub attempts: u32,
    /// From the first lock to the end of the transaction, in ms: how long requests may have waited at most.
    pub window_ms: u64,
    /// The longest try that failed, in ms.
    pub failed_window_max_ms: u64,
    /// What could not be tidied up afterwards, which takes nothing from what was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl SwapReport {
    fn of(state: CutoverState, tables: usize, went: Went) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (window_ms, failed_window_max_ms) = (ms(went.window), ms(went.failed_max));
        Self { state, tables, attempts: went.attempts, window_ms, failed_window_max_ms, note: None }
    }
}

/// Name of the mirror from the partitioned tables back to the flat ones.
fn back_name(table: &str) -> String {
    format!("aionis_back_{table}")
}

/// The names of the mirrors that are at work in a state.
pub(super) fn mirror_names(tables: &[impl AsRef<str>], state: CutoverState) -> Vec<String> {
    let name = if state == CutoverState::CutOver { back_name } else { mirror::name };
    tables.iter().map(|table| name(table.as_ref())).collect()
}

/// Renames a table with all its indexes: `from` and `to` are the suffixes of its names before and afterwards.
async fn rename_sql(connection: &mut PgConnection, table: &str, (from, to): (&str, &str)) -> Done<String> {
    let now = format!("{table}{from}");
    let mut sql = format!("ALTER TABLE {now} RENAME TO {table}{to}; ");
    for index in catalogue::indexes(connection, &now).await? {
        let Some(base) = index.name.strip_suffix(from) else {
            return refused(format!("the index {} of {now} is not named as its twin; make it anew", index.name));
        };
        sql.push_str(&format!("ALTER INDEX {} RENAME TO {base}{to}; ", index.name));
    }
    Ok(sql)
}

/// Transactions, by what the server calls them, that may see a state from before a transaction: what they read of the twins
/// would be incomplete. Whoever begins after this was asked sees everything. The oldest state anybody sees is held back by
/// transactions in other databases too, which says nothing of the copy: so it is asked once, and these are waited for.
pub(super) async fn readers_before(connection: &mut PgConnection, copied_xact: i64) -> Done<Vec<String>> {
    let sql = "SELECT COALESCE(array_agg(l.virtualtransaction), '{}') FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
               WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND a.datname = current_database() \
                   AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL \
                   AND age(a.backend_xmin) >= age((($1::bigint & 4294967295)::text)::xid)";
    Ok(sqlx::query(sql).bind(copied_xact).fetch_one(connection).await?.try_get(0)?)
}

/// Those of them that are still there, for the message; none when the copy may be read by everybody.
pub(super) async fn still_reading(connection: &mut PgConnection, readers: &[String]) -> Done<Option<String>> {
    let sql = "SELECT string_agg(format('pid %s (%s, since %s s)', a.pid, a.application_name, \
                   round(extract(epoch FROM clock_timestamp() - a.xact_start))), '; ') \
               FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
               WHERE l.locktype = 'virtualxid' AND l.virtualtransaction = ANY ($1)";
    Ok(sqlx::query(sql).bind(readers).fetch_one(connection).await?.try_get(0)?)
}

/// Tables in the order their locks are taken: the heads of scopes first, so that whoever begins a change waits there and
/// holds nothing that somebody else needs.
fn locks(tables: &[&str], also: fn(&str) -> Option<String>) -> Locks {
    let mut all = vec!["memory_scopes".to_owned()];
    for table in tables {
        all.push(format!("ONLY {table}"));
        all.extend(also(table).map(|name| format!("ONLY {name}")));
    }
    Locks { tables: all, mode: "ACCESS EXCLUSIVE" }
}

async fn store_mark(connection: &mut PgConnection, tables: &[&str], state: CutoverState) -> Done<()> {
    let mark = mirror::mark(connection, &mirror_names(tables, state)).await?;
    sqlx::query("UPDATE partition_cutover SET mirror_mark = $1").bind(mark).execute(connection).await?;
    Ok(())
}

/// What every table of a mirrored change says against going on.
pub(super) async fn mark_differs(connection: &mut PgConnection, state: CutoverState, tables: &[&str]) -> Done<bool> {
    let stored = progress::record(connection).await?.mirror_mark;
    Ok(stored.as_deref() != Some(&mirror::mark(connection, &mirror_names(tables, state)).await?))
}

impl PartitionAdmin {
    /// Exchanges the layouts: the program works on the partitioned tables from then on, and the flat ones are kept current.
    ///
    /// # Errors
    /// It is out of order; readiness was checked too long ago; the mirror was touched; definitions differ; the locks were not
    /// to be had. Nothing is changed then.
    pub async fn cutover(&mut self, window: &WindowOptions) -> Result<SwapReport, PartitionError> {
        self.begin(Step::Cutover).await?;
        let done = self.swap_in(window).await;
        self.end().await?;
        done
    }

    /// Makes the way back ready before the window: functions, and triggers on partitions nobody truncates yet.
    async fn prepare_back(&mut self, tables: &[&str], window: &WindowOptions) -> Done<()> {
        for table in tables {
            let (twin, flat) = (twin_name(table), flat_name(table));
            let differences = catalogue::differences(&mut self.connection, table, &twin).await?;
            if let Some(first) = differences.first() {
                return refused(format!(
                    "{} definition(s) of {twin} differ from {table}, the first: {first}; `aionis partition rollback \
                     --drop-twins`, then begin anew",
                    differences.len()
                ));
            }
            let shape = catalogue::shape(&mut self.connection, table).await?;
            let target = Target { table: flat.clone(), only: String::new() };
            let (name, source) = (back_name(table), (*table).to_owned());
            let back = Mirror { name, source, targets: vec![target], shape: &shape };
            let mut sql = mirror::drop_truncation(table) + &back.function() + "; " + &mirror::truncation(table, &flat);
            let leaves = mirror::leaves_with_scope(&mut self.connection, &twin).await?;
            for (leaf, scope) in &leaves {
                sql.push_str(&mirror::truncation_trigger(table, leaf, scope.as_deref()));
            }
            // With all partitions, which get the triggers; the heads first, so that no writer is in the midst of its work.
            let locks = Locks { tables: vec!["memory_scopes".to_owned(), twin], mode: "ACCESS EXCLUSIVE" };
            let made = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
            under_locks(&mut self.connection, &locks, window, made).await?;
        }
        Ok(())
    }

    async fn swap_in(&mut self, window: &WindowOptions) -> Done<SwapReport> {
        let record = progress::record(&mut self.connection).await?;
        let now = self.clock.now();
        if record.ready_at.is_none_or(|at| now.0.saturating_sub(at) > READY_MAX_US) {
            return refused("readiness was checked more than an hour ago; run `aionis partition readiness` again");
        }
        let Some(copied_xact) = record.copied_xact else {
            return refused(
                "partition_cutover.copied_xact is missing; `aionis partition rollback --drop-twins`, then begin anew",
            );
        };
        not_replicated(&mut self.connection).await?;
        let tables = todo(&mut self.connection, true).await?;
        self.prepare_back(&tables, window).await?;
        let mut sql = String::new();
        for table in &tables {
            let shape = catalogue::shape(&mut self.connection, table).await?;
            sql.push_str(&mirror::drop_all(&mirror::name(table)));
            sql.push_str(&rename_sql(&mut self.connection, table, ("", FLAT_SUFFIX)).await?);
            sql.push_str(&rename_sql(&mut self.connection, table, (TWIN_SUFFIX, "")).await?);
            let (name, source) = (back_name(table), (*table).to_owned());
            sql.push_str(&Mirror { name, source, targets: Vec::new(), shape: &shape }.triggers());
        }
        sql.push_str(TELL);
        let locks = locks(&tables, |table| Some(twin_name(table)));
        let (from, to) = (CutoverState::Ready, CutoverState::CutOver);
        let readers = readers_before(&mut self.connection, copied_xact).await?;
        let swapped = async |connection: &mut PgConnection| {
            if mark_differs(connection, from, &tables).await? {
                return refused(
                    "the mirror is not the one that was set up: changes may be missing; run `aionis partition \
                                rollback --drop-twins`, then begin anew",
                );
            }
            not_replicated(connection).await?;
            if let Some(readers) = still_reading(connection, &readers).await? {
                return Ok(Err(format!("a transaction sees a state from before the copy was complete: {readers}")));
            }
            execute(connection, &sql).await?;
            let detail = json!({ "tables": tables.len() });
            note(connection, &Noted { command: "cutover", from, to, detail }, now).await?;
            sqlx::query("UPDATE partition_cutover SET cut_over_at = $1").bind(now.0).execute(&mut *connection).await?;
            store_mark(connection, &tables, to).await?;
            Ok(Ok(()))
        };
        let ((), went) = under_locks(&mut self.connection, &locks, window, swapped).await?;
        Ok(SwapReport::of(to, tables.len(), went))
    }

    /// One step back: after a cutover to the flat tables, with the partitioned ones mirrored; before anything was copied
    /// away with the empty twins.
    ///
    /// # Errors
    /// It is out of order; the twins hold a copy, which [`Self::discard`] drops; the locks were not to be had. Nothing is
    /// changed then.
    pub async fn rollback(&mut self, window: &WindowOptions) -> Result<SwapReport, PartitionError> {
        let from = self.begin(Step::Rollback).await?;
        let done = match from {
            CutoverState::CutOver => self.swap_out(window).await,
            CutoverState::Ensured => self.drop_twins(window, from).await,
            // Whoever asks again because the answer to a rollback was lost must not lose the copy by it.
            _ => refused(format!(
                "the flat tables are in use, and their twins hold a copy (state {from}); add --drop-twins to drop them"
            )),
        };
        self.end().await?;
        done
    }

    /// Away with the twins and what they hold, before a cutover.
    ///
    /// # Errors
    /// It is out of order; the partitioned tables are in use; the locks were not to be had.
    pub async fn discard(&mut self, window: &WindowOptions) -> Result<SwapReport, PartitionError> {
        let from = self.begin(Step::Rollback).await?;
        let done = if from == CutoverState::CutOver {
            refused("the partitioned tables are in use; run `aionis partition rollback` without --drop-twins first")
        } else {
            self.drop_twins(window, from).await
        };
        self.end().await?;
        done
    }

    async fn swap_out(&mut self, window: &WindowOptions) -> Done<SwapReport> {
        not_replicated(&mut self.connection).await?;
        let pairs = compare::pairs(&mut self.connection, CutoverState::CutOver).await?;
        let tables: Vec<&str> = partitioned_tables().filter(|t| pairs.iter().any(|(table, _)| table == t)).collect();
        let mut sql = String::new();
        for table in &tables {
            let shape = catalogue::shape(&mut self.connection, table).await?;
            let target = Target { table: twin_name(table), only: String::new() };
            let (name, source) = (mirror::name(table), (*table).to_owned());
            let forward = Mirror { name, source, targets: vec![target], shape: &shape };
            execute(&mut self.connection, &forward.function()).await?;
            sql.push_str(&mirror::drop_all(&back_name(table)));
            sql.push_str(&rename_sql(&mut self.connection, table, ("", TWIN_SUFFIX)).await?);
            sql.push_str(&rename_sql(&mut self.connection, table, (FLAT_SUFFIX, "")).await?);
            sql.push_str(&forward.triggers());
        }
        sql.push_str(TELL);
        let locks = locks(&tables, |table| Some(flat_name(table)));
        let (from, to, now) = (CutoverState::CutOver, CutoverState::Backfilled, self.clock.now());
        let swapped = async |connection: &mut PgConnection| {
            if mark_differs(connection, from, &tables).await? {
                return refused(
                    "the mirror back to the flat tables is not the one that was set up: they may lack changes; \
                                `aionis partition verify` tells, `aionis partition finalize` keeps the partitioned ones",
                );
            }
            not_replicated(connection).await?;
            execute(connection, &sql).await?;
            note(connection, &Noted { command: "rollback", from, to, detail: json!({ "tables": tables.len() }) }, now)
                .await?;
            let sql = "UPDATE partition_cutover SET cut_over_at = NULL, ready_at = NULL, ready_run = NULL";
            execute(connection, sql).await?;
            store_mark(connection, &tables, to).await?;
            Ok(Ok(()))
        };
        let ((), went) = under_locks(&mut self.connection, &locks, window, swapped).await?;
        let mut report = SwapReport::of(to, tables.len(), went);
        // The way back is taken: what cannot be tidied up is left to the next cutover, or to whoever drops the twins.
        if let Err(error) = self.tidy_truncations(&tables, window).await {
            report.note = Some(format!("triggers were left on twins, which the next cutover makes anew: {error}"));
        }
        Ok(report)
    }

    /// Nobody truncates partitions of a twin.
    async fn tidy_truncations(&mut self, tables: &[&str], window: &WindowOptions) -> Done<()> {
        for table in tables {
            let locks = Locks { tables: vec!["memory_scopes".to_owned(), twin_name(table)], mode: "ACCESS EXCLUSIVE" };
            let sql = mirror::drop_truncation(table);
            let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
            under_locks(&mut self.connection, &locks, window, dropped).await?;
        }
        Ok(())
    }

    async fn drop_twins(&mut self, window: &WindowOptions, from: CutoverState) -> Done<SwapReport> {
        let tables: Vec<&str> = todo(&mut self.connection, false).await?;
        let mut longest: Option<Went> = None;
        for table in &tables {
            let twin = twin_name(table);
            let locks = Locks { tables: vec![(*table).to_owned()], mode: "ACCESS EXCLUSIVE" };
            let sql = mirror::drop_all(&mirror::name(table))
                + &mirror::drop_all(&back_name(table))
                + &format!("DROP TABLE IF EXISTS {twin}; ")
                + &mirror::drop_truncation(table);
            let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
            let ((), went) = under_locks(&mut self.connection, &locks, window, dropped).await?;
            longest = longest.filter(|l| l.window >= went.window).or(Some(went));
            drop_left(&mut self.connection, table).await?;
        }
        let (to, now) = (CutoverState::RolledBack, self.clock.now());
        let detail = json!({ "dropped": tables.len() });
        note(&mut self.connection, &Noted { command: "rollback", from, to, detail }, now).await?;
        execute(&mut self.connection, "DELETE FROM partition_tables").await?;
        let none = Went { attempts: 0, window: Duration::ZERO, failed_max: Duration::ZERO };
        Ok(SwapReport::of(to, tables.len(), longest.unwrap_or(none)))
    }

    /// Removes the flat tables. From then on there is no way back. Broken off, the next run removes what is left.
    ///
    /// # Errors
    /// It is out of order; the locks were not to be had.
    pub async fn finalize(&mut self, window: &WindowOptions) -> Result<SwapReport, PartitionError> {
        let from = self.begin(Step::Finalize).await?;
        let done = self.drop_flat(window, from).await;
        self.end().await?;
        done
    }

    async fn drop_flat(&mut self, window: &WindowOptions, from: CutoverState) -> Done<SwapReport> {
        let pairs = compare::pairs(&mut self.connection, CutoverState::CutOver).await?;
        let tables: Vec<&str> = pairs.iter().map(|(table, _)| table.as_str()).collect();
        let (to, now) = (CutoverState::Finalized, self.clock.now());
        let mut went = Went { attempts: 0, window: Duration::ZERO, failed_max: Duration::ZERO };
        if from == CutoverState::CutOver {
            let sql: String = tables.iter().map(|table| mirror::drop_all(&back_name(table))).collect();
            let ended = async |connection: &mut PgConnection| {
                execute(connection, &sql).await?;
                let detail = json!({ "tables": tables.len() });
                note(connection, &Noted { command: "finalize", from, to, detail }, now).await?;
                execute(connection, "UPDATE partition_cutover SET mirror_mark = NULL; DELETE FROM partition_tables")
                    .await?;
                Ok(Ok(()))
            };
            ((), went) = under_locks(&mut self.connection, &locks(&tables, |_| None), window, ended).await?;
        }
        // Nobody reads or writes the flat tables any more; what waits here is a truncation at most.
        for table in partitioned_tables() {
            drop_left(&mut self.connection, table).await?;
            // With all partitions, which have the triggers; the heads first, as everywhere.
            let all = vec!["memory_scopes".to_owned(), table.to_owned()];
            let mode = "ACCESS EXCLUSIVE";
            let locks = Locks { tables: all, mode };
            let sql = mirror::drop_truncation(table);
            if catalogue::exists(&mut self.connection, &flat_name(table)).await? {
                let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
                let ((), of_table) = under_locks(&mut self.connection, &locks, window, dropped).await?;
                went.window = went.window.max(of_table.window);
                // By itself, as the files of a large table take a while, and nobody has to wait for that.
                let (locks, sql) = (Locks { tables: Vec::new(), mode }, format!("DROP TABLE {}", flat_name(table)));
                let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
                under_locks(&mut self.connection, &locks, window, dropped).await?;
            }
        }
        Ok(SwapReport::of(to, tables.len(), went))
    }
}

//! Short transactions under strong locks: tried with a small time-out, again and again, so that nobody waits for long.

use std::time::{Duration, Instant};

use aionis_core::ports::store::StoreError;
use sqlx::{PgConnection, Row};

use super::{Done, PartitionError, execute, refused};

/// How strong locks are asked for.
#[derive(Clone, Copy, Debug)]
pub struct WindowOptions {
    /// Longest wait for all locks together. Less than the second after which the server looks for deadlocks, so that this
    /// side gives way and not a writer.
    pub lock_timeout: Duration,
    /// Tries before it is given up.
    pub attempts_max: u32,
    /// Wait before the second try; it doubles up to thirty times that.
    pub pause: Duration,
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_millis(400), attempts_max: 30, pause: Duration::from_millis(100) }
    }
}

/// How a window went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Went {
    /// Tries, the last one included.
    pub(super) attempts: u32,
    /// From the first lock that was asked for to the end of the transaction, in the try that succeeded.
    pub(super) window: Duration,
    /// Longest time somebody may have waited for a try that failed.
    pub(super) failed_max: Duration,
}

/// What a try is for.
pub(super) struct Locks {
    /// Tables that are locked, as `LOCK TABLE` takes them, in order; none where the work itself takes its locks.
    pub(super) tables: Vec<String>,
    /// How strong.
    pub(super) mode: &'static str,
}

/// How long the end of maintenance is waited for, in ms. More than the second after which the server asks an autovacuum to
/// give way to somebody who waits for it.
const MAINTENANCE_MS: u32 = 2_500;

/// Begins a transaction that keeps maintenance away from the tables. Neither readers nor writers wait for that, and an
/// autovacuum gives way: it would not to the short waits of [`take`], which others wait behind.
async fn without_maintenance(connection: &mut PgConnection, locks: &Locks) -> Done<()> {
    execute(connection, &format!("BEGIN; SET LOCAL lock_timeout = {MAINTENANCE_MS}")).await?;
    if locks.tables.is_empty() {
        return Ok(());
    }
    execute(connection, &format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", locks.tables.join(", "))).await
}

/// Gets all locks, or none within the time.
async fn take(connection: &mut PgConnection, locks: &Locks, limit: Duration) -> Done<()> {
    let until = Instant::now() + limit;
    for table in &locks.tables {
        let left = until.saturating_duration_since(Instant::now()).as_millis().max(1);
        execute(connection, &format!("SET LOCAL lock_timeout = {left}; LOCK TABLE {table} IN {} MODE", locks.mode))
            .await?;
    }
    // What the transaction does from here on waits for nobody who holds these locks.
    let further = if locks.tables.is_empty() { limit.as_millis().max(1) } else { 1_000 };
    execute(connection, &format!("SET LOCAL lock_timeout = {further}")).await
}

/// Whether another try may succeed.
fn is_lock_lost(error: &PartitionError) -> bool {
    matches!(error, PartitionError::Store(StoreError::Unavailable(text))
        if text.starts_with("55P03") || text.starts_with("40P01") || text.starts_with("40001"))
}

/// Who holds a table's locks, for the message.
async fn holders(connection: &mut PgConnection, locks: &Locks) -> Done<String> {
    let sql = "SELECT DISTINCT format('pid %s (%s, %s, since %s s): %s', a.pid, a.application_name, a.state, \
                   round(extract(epoch FROM clock_timestamp() - a.xact_start)), l.relation::regclass) \
               FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
               WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND l.relation IN (SELECT to_regclass(t) FROM unnest($1::text[]) t UNION ALL \
                       SELECT p.relid FROM unnest($1::text[]) t, pg_partition_tree(to_regclass(t)) p) \
                   AND a.pid <> pg_backend_pid() ORDER BY 1 LIMIT 3";
    let names: Vec<String> = locks.tables.iter().map(|table| table.trim_start_matches("ONLY ").to_owned()).collect();
    let rows = sqlx::query(sql).bind(names).fetch_all(connection).await?;
    let all: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(if all.is_empty() { "nobody any more".to_owned() } else { all.join("; ") })
}

/// Does something under locks: `work` gets the transaction and says whether it is done or has to be tried again. What it
/// did is stored with it or not at all.
pub(super) async fn under_locks<T>(
    connection: &mut PgConnection,
    locks: &Locks,
    options: &WindowOptions,
    work: impl AsyncFn(&mut PgConnection) -> Done<Result<T, String>>,
) -> Done<(T, Went)> {
    let (mut pause, mut failed_max, mut last) = (options.pause, Duration::ZERO, String::new());
    for attempt in 1..=options.attempts_max {
        let mut began = Instant::now();
        let tried = async {
            without_maintenance(connection, locks).await?;
            began = Instant::now();
            take(connection, locks, options.lock_timeout).await?;
            let done = work(connection).await?;
            if done.is_ok() {
                execute(connection, "COMMIT").await?;
            }
            Ok(done)
        };
        match tried.await {
            Ok(Ok(done)) => return Ok((done, Went { attempts: attempt, window: began.elapsed(), failed_max })),
            Ok(Err(why)) => last = why,
            Err(error) if is_lock_lost(&error) => last = String::new(),
            Err(error) => {
                // The connection may be the reason; its error is the one that counts.
                let _ = execute(connection, "ROLLBACK").await;
                return Err(error);
            }
        }
        let elapsed = began.elapsed();
        execute(connection, "ROLLBACK").await?;
        failed_max = failed_max.max(elapsed);
        if last.is_empty() {
            last = format!("the locks were not to be had; held by {}", holders(connection, locks).await?);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(options.pause * 30);
    }
    refused(format!(
        "given up after {} tries, nothing was changed: {last}; run the command again",
        options.attempts_max
    ))
}

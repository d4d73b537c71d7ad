//! Giving a scope a partition of its own in every table, out of the part of the default partition that holds it.
//!
//! Table by table, the part is made anew beside writers: the scope's rows into one table, all others into another one. One
//! short transaction puts both into the place of the part. Nobody reads a row twice or misses one. Within it the server looks
//! once at each row of the other scopes in the part, whether it is in the right one; the scope's own rows, and the other
//! parts, are known to be right by conditions on them.

use std::time::Duration;

use aionis_core::{
    ids::ScopeKey,
    partition::{CutoverState, Step, default_partition, flat_name, own_partition, staged, twin_name},
};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError, catalogue,
    catalogue::Shape,
    compare,
    copy::{BY_KEY, Copy, gave_way},
    ensure::{closed, ensure_own_everywhere},
    execute,
    mirror::{self, Mirror, Target},
    partitioned_tables,
    progress::{Noted, event},
    refused,
    swap::{readers_before, still_reading},
    window::{Locks, WindowOptions, under_locks},
};
use crate::postgres::session::literal;

/// How a scope is promoted.
#[derive(Clone, Copy, Debug)]
pub struct PromoteOptions {
    /// Rows of a batch.
    pub batch_size: u32,
    /// How strong locks are asked for.
    pub window: WindowOptions,
}

impl Default for PromoteOptions {
    fn default() -> Self {
        Self { batch_size: 5_000, window: WindowOptions::default() }
    }
}

/// What was done in one table.
#[derive(Clone, Debug, Serialize)]
pub struct PromotedTable {
    /// Name of the table.
    pub table: String,
    /// The partition that holds the scope alone.
    pub partition: String,
    /// Rows moved into it; 0 where it was there already.
    pub rows: u64,
    /// How long requests of this table may have waited at most, in ms.
    pub window_ms: u64,
}

/// What `promote-scope` did.
#[derive(Clone, Debug, Serialize)]
pub struct PromoteReport {
    /// `tenant/scope`.
    pub scope_key: String,
    /// By table; empty partitions made before the copy began are not named.
    pub tables: Vec<PromotedTable>,
}

/// The place of a scope in a table.
struct Place<'a> {
    /// Name without suffix, by which partitions are named.
    table: &'a str,
    /// The partitioned table.
    parent: String,
    rest: String,
    /// The part of the default partition that holds the scope now.
    part: String,
    own: String,
    modulus: i32,
    remainder: i32,
    /// The scope's key, as a literal.
    key: String,
    /// Those of scopes that have partitions of their own.
    own_keys: Vec<String>,
}

impl Place<'_> {
    fn stage(&self) -> String {
        stage_name(self.table)
    }

    /// Which rows go into the new part. The mirror sees those of scopes with partitions of their own, too, which may well
    /// have the hash of the part.
    fn others(&self) -> String {
        let own = self.own_keys.iter().fold(self.key.clone(), |keys, key| keys + ", " + key);
        format!(
            "scope_key NOT IN ({own}) AND satisfies_hash_partition('{}'::regclass, {}, {}, scope_key)",
            self.rest, self.modulus, self.remainder
        )
    }

    fn mine(&self) -> String {
        format!("scope_key = {}", self.key)
    }

    /// What tells the scope's names from those of others.
    fn digest(&self) -> &str {
        self.own.rsplit('_').next().unwrap_or_default()
    }

    /// How the indexes of the new part are named. They keep their names, and a part is made anew for every scope that leaves
    /// it.
    fn part_indexes(&self) -> String {
        format!("{}_{}", self.part, self.digest())
    }

    /// Name of the condition that keeps the scope out of a part; with it no part has to be searched.
    fn without(&self) -> String {
        format!("without_{}", self.digest())
    }

    fn scan_free(&self, name: &str) -> String {
        format!("ALTER TABLE {name} ADD CONSTRAINT {} CHECK (scope_key <> {}) NOT VALID", self.without(), self.key)
    }
}

async fn place<'a>(connection: &mut PgConnection, table: &'a str, parent: String, scope: &ScopeKey) -> Done<Place<'a>> {
    let rest = default_partition(table);
    // Which part it is in, and of how many, is what the server says of this table.
    let sql = "SELECT part, modulus, remainder FROM (SELECT c.oid::regclass::text AS part, b[1]::int AS modulus, \
                       b[2]::int AS remainder FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid, \
                       regexp_match(pg_get_expr(c.relpartbound, c.oid), 'modulus (\\d+), remainder (\\d+)') b \
                   WHERE h.inhparent = to_regclass($1)) p \
               WHERE satisfies_hash_partition(to_regclass($1), modulus, remainder, $2::text)";
    let asked = sqlx::query(sql).bind(&rest).bind(scope.as_str()).fetch_optional(&mut *connection).await?;
    let Some(row) = asked else {
        return refused(format!("{rest} has no part for {scope}; look at it with psql (\\d+ {rest})"));
    };
    let (part, modulus, remainder) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (own, key) = (own_partition(table, scope), literal(scope.as_str()));
    let own_keys = mirror::leaves_with_scope(connection, &parent).await?;
    let own_keys = own_keys.into_iter().filter_map(|(_, key)| key).collect();
    Ok(Place { table, parent, rest, part, own, modulus, remainder, key, own_keys })
}

/// Whether the scope has a partition of its own already.
async fn has_own(connection: &mut PgConnection, place: &Place<'_>) -> Done<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = to_regclass($2))";
    let row = sqlx::query(sql).bind(&place.own).bind(&place.parent).fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}

/// Drops tables that a promotion was filling or has replaced, and its mirror, in the partitions of a table nobody promotes
/// scopes of any more. What is attached stays.
pub(super) async fn drop_left(connection: &mut PgConnection, table: &str) -> Done<()> {
    let sql = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_class o ON o.oid = to_regclass($1) \
               WHERE c.relnamespace = o.relnamespace AND c.relkind = 'r' AND NOT c.relispartition \
                   AND starts_with(c.relname, $1 || '_p_') AND c.relname ~ '_(new|old)$' ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(&mut *connection).await?;
    let mut sql = mirror::drop_all(&stage_name(table));
    for row in &rows {
        sql.push_str(&format!("DROP TABLE {}; ", row.try_get::<String, _>(0)?));
    }
    execute(connection, &sql).await
}

/// Name of the mirror that fills new partitions.
fn stage_name(table: &str) -> String {
    format!("aionis_stage_{table}")
}

/// Removes what a promotion that was broken off has left.
async fn clean(connection: &mut PgConnection, place: &Place<'_>, window: &WindowOptions) -> Done<()> {
    let sql = mirror::drop_all(&place.stage());
    let locks = Locks { tables: vec![format!("ONLY {}", place.parent)], mode: "ACCESS EXCLUSIVE" };
    let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
    under_locks(connection, &locks, window, dropped).await?;
    for name in [staged(&place.own), staged(&place.part), format!("{}_old", place.part)] {
        execute(connection, &format!("DROP TABLE IF EXISTS {name}")).await?;
    }
    let sql = "SELECT c.conrelid::regclass::text FROM pg_constraint c JOIN pg_partition_tree(to_regclass($1)) t \
                   ON t.relid = c.conrelid WHERE t.isleaf AND c.conname = $2 ORDER BY 1";
    let rows = sqlx::query(sql).bind(&place.rest).bind(place.without()).fetch_all(&mut *connection).await?;
    for row in &rows {
        let leaf: String = row.try_get(0)?;
        let sql = format!("ALTER TABLE {leaf} DROP CONSTRAINT {}", place.without());
        let locks = Locks { tables: vec![leaf], mode: "ACCESS EXCLUSIVE" };
        let dropped = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
        under_locks(connection, &locks, window, dropped).await?;
    }
    Ok(())
}

/// Makes both new tables, and mirrors into them from then on.
async fn stage(connection: &mut PgConnection, place: &Place<'_>, shape: &Shape, window: &WindowOptions) -> Done<()> {
    let parameters = catalogue::storage_parameters(connection, &place.parent).await?;
    let with = if parameters.is_empty() { String::new() } else { format!(" WITH ({})", parameters.join(", ")) };
    let (own, part) = (staged(&place.own), staged(&place.part));
    let without = format!("scope_key <> {}", place.key);
    let checks = [(&own, vec![("mine".to_owned(), place.mine())]), (&part, vec![(place.without(), without)])];
    for (name, checks) in checks {
        let mut sql = format!(
            "CREATE TABLE {name} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY INCLUDING CONSTRAINTS \
             INCLUDING STORAGE INCLUDING COMPRESSION){with}; ALTER TABLE {name} ADD PRIMARY KEY ({}); {} ",
            place.parent,
            shape.keys(""),
            closed(name)
        );
        for (constraint, condition) in checks {
            sql.push_str(&format!("ALTER TABLE {name} ADD CONSTRAINT {constraint} CHECK ({condition}); "));
        }
        let named = if *name == own { place.own.clone() } else { place.part_indexes() };
        for (at, index) in catalogue::indexes(connection, &place.parent).await?.into_iter().enumerate() {
            match index.constraint.as_deref() {
                Some(constraint) if constraint.starts_with("UNIQUE") => {
                    sql.push_str(&format!("ALTER TABLE {name} ADD CONSTRAINT {named}_i{at} {constraint}; "));
                }
                Some(constraint) if !constraint.starts_with("PRIMARY KEY") => {
                    return refused(format!(
                        "the constraint {} ({constraint}) of {} cannot be made here",
                        index.name, place.parent
                    ));
                }
                _ => {}
            }
        }
        execute(connection, &sql).await?;
    }
    let targets = vec![Target { table: own, only: place.mine() }, Target { table: part, only: place.others() }];
    let mirror = Mirror { name: place.stage(), source: place.parent.clone(), targets, shape };
    let sql = mirror.function() + "; " + &mirror.triggers();
    let locks = Locks { tables: vec![format!("ONLY {}", place.parent)], mode: "ACCESS EXCLUSIVE" };
    let set_up = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
    under_locks(connection, &locks, window, set_up).await.map(|_| ())
}

/// Copies some rows of the part; returns how many there were.
async fn fill(connection: &mut PgConnection, rows: &Copy<'_>, size: u32) -> Done<u64> {
    let (mut at, mut total, mut tries) = (None::<Vec<String>>, 0, 0_u64);
    loop {
        execute(connection, &format!("BEGIN; SET LOCAL lock_timeout = 300; {BY_KEY}")).await?;
        let batch = match rows.batch(connection, at.as_deref(), size).await {
            Err(error) if gave_way(&error) && tries < 50 => {
                execute(connection, "ROLLBACK").await?;
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20 * tries)).await;
                continue;
            }
            Err(error) => {
                // The connection may be the reason; its error is the one that counts.
                let _ = execute(connection, "ROLLBACK").await;
                return Err(error);
            }
            Ok(batch) => batch,
        };
        execute(connection, "COMMIT").await?;
        tries = 0;
        total += batch.seen;
        if batch.last.is_none() {
            return Ok(total);
        }
        at = batch.last;
    }
}

/// Makes the indexes of the parent on a new table, beside the mirror that writes into it.
///
/// Indexes keep the names they get here, so these are made of the scope: a part is made anew for every scope that leaves it.
async fn index(connection: &mut PgConnection, place: &Place<'_>, table: &str, named: &str) -> Done<()> {
    let parent = &place.parent;
    for (at, index) in catalogue::indexes(connection, parent).await?.into_iter().enumerate() {
        // Those of constraints were made with the table.
        if index.constraint.is_some() {
            continue;
        }
        let unique = if index.unique { "UNIQUE " } else { "" };
        let (name, definition) = (format!("{named}_i{at}"), &index.definition);
        execute(connection, &format!("CREATE {unique}INDEX CONCURRENTLY {name} ON {table} {definition}")).await?;
    }
    execute(connection, &format!("ANALYZE {table}")).await
}

/// Keeps the scope out of the other parts by a condition the server trusts, so that it need not search them.
async fn exclude(connection: &mut PgConnection, place: &Place<'_>, window: &WindowOptions) -> Done<()> {
    for leaf in catalogue::leaves(connection, &place.rest).await? {
        if leaf == place.part {
            continue;
        }
        let sql = place.scan_free(&leaf);
        let locks = Locks { tables: vec![leaf.clone()], mode: "ACCESS EXCLUSIVE" };
        let added = async |connection: &mut PgConnection| execute(connection, &sql).await.map(Ok);
        under_locks(connection, &locks, window, added).await?;
        execute(connection, &format!("ALTER TABLE {leaf} VALIDATE CONSTRAINT {}", place.without())).await?;
    }
    Ok(())
}

async fn exchange_sql(connection: &mut PgConnection, place: &Place<'_>, state: CutoverState) -> Done<String> {
    let (own, part, rest, parent) = (&place.own, &place.part, &place.rest, &place.parent);
    let (key, modulus, remainder) = (&place.key, place.modulus, place.remainder);
    let mut sql = mirror::drop_all(&place.stage());
    sql.push_str(&format!(
        "ALTER TABLE {rest} DETACH PARTITION {part}; ALTER TABLE {part} RENAME TO {part}_old; \
         ALTER TABLE {new_part} RENAME TO {part}; \
         ALTER TABLE {rest} ATTACH PARTITION {part} FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder}); \
         ALTER TABLE {new_own} RENAME TO {own}; ALTER TABLE {parent} ATTACH PARTITION {own} FOR VALUES IN ({key}); \
         ALTER TABLE {own} DROP CONSTRAINT mine; DROP TABLE {part}_old; ",
        new_part = staged(part),
        new_own = staged(own),
    ));
    for leaf in catalogue::leaves(connection, rest).await? {
        sql.push_str(&format!("ALTER TABLE {leaf} DROP CONSTRAINT {}; ", place.without()));
    }
    // Of a table that was exchanged in an earlier round nothing is kept current.
    if state == CutoverState::CutOver && catalogue::exists(connection, &flat_name(place.table)).await? {
        sql.push_str(&mirror::truncation_trigger(place.table, own, Some(key)));
        sql.push_str(&mirror::truncation_trigger(place.table, part, None));
    }
    Ok(sql)
}

/// The number of a transaction newer than all that copied.
async fn newer_xact(connection: &mut PgConnection) -> Done<i64> {
    Ok(sqlx::query("SELECT pg_current_xact_id()::text::bigint").fetch_one(connection).await?.try_get(0)?)
}

async fn same(connection: &mut PgConnection, place: &Place<'_>, shape: &Shape) -> Done<bool> {
    let (own, part) = (staged(&place.own), staged(&place.part));
    let (mine, others) = (place.mine(), format!("scope_key <> {}", place.key));
    compare::freeze(connection).await?;
    let compared = async {
        let source = place.part.as_str();
        let of_own = compare::same_rows(connection, shape, (source, &mine), (&own, "")).await?;
        Ok(of_own && compare::same_rows(connection, shape, (source, &others), (&part, "")).await?)
    };
    let compared = compared.await;
    execute(connection, "ROLLBACK").await?;
    compared
}

impl PartitionAdmin {
    /// Gives a scope partitions of its own. Broken off, it is begun anew by the next run for the table it was at.
    ///
    /// # Errors
    /// It is out of order; the locks were not to be had; a failure of storage.
    pub async fn promote_scope(
        &mut self,
        scope: &ScopeKey,
        options: &PromoteOptions,
    ) -> Result<PromoteReport, PartitionError> {
        let state = self.begin(Step::PromoteScope).await?;
        let done = self.promote_all(scope, options, state).await;
        self.end().await?;
        done
    }

    async fn promote_all(
        &mut self,
        scope: &ScopeKey,
        options: &PromoteOptions,
        state: CutoverState,
    ) -> Done<PromoteReport> {
        let mut tables = Vec::new();
        if state == CutoverState::Ensured {
            ensure_own_everywhere(&mut self.connection, scope).await?;
        } else {
            for table in partitioned_tables() {
                let parent = match catalogue::is_partitioned(&mut self.connection, table).await? {
                    Some(true) => table.to_owned(),
                    _ => twin_name(table),
                };
                if catalogue::is_partitioned(&mut self.connection, &parent).await? == Some(true) {
                    let place = place(&mut self.connection, table, parent, scope).await?;
                    tables.push(self.promote_table(&place, options, state).await?);
                }
            }
        }
        let detail = json!({ "scope_key": scope.as_str(), "rows": tables.iter().map(|t| t.rows).sum::<u64>() });
        let noted = Noted { command: "promote-scope", from: state, to: state, detail };
        event(&mut self.connection, &noted, self.clock.now()).await?;
        Ok(PromoteReport { scope_key: scope.as_str().to_owned(), tables })
    }

    async fn promote_table(
        &mut self,
        place: &Place<'_>,
        options: &PromoteOptions,
        state: CutoverState,
    ) -> Done<PromotedTable> {
        let report =
            PromotedTable { table: place.table.to_owned(), partition: place.own.clone(), rows: 0, window_ms: 0 };
        if has_own(&mut self.connection, place).await? {
            return Ok(report);
        }
        let done = self.move_out(place, options, state, report).await;
        if let Err(error) = done {
            // What is left makes every write be done twice. A connection that is lost leaves it to the next run.
            if let Err(left) = clean(&mut self.connection, place, &options.window).await {
                return refused(format!(
                    "{error}; and what it made of {} could not be removed: {left}; run the command again",
                    place.part
                ));
            }
            return Err(error);
        }
        done
    }

    async fn move_out(
        &mut self,
        place: &Place<'_>,
        options: &PromoteOptions,
        state: CutoverState,
        mut report: PromotedTable,
    ) -> Done<PromotedTable> {
        let connection = &mut self.connection;
        let window = &options.window;
        clean(connection, place, window).await?;
        let shape = catalogue::shape(connection, &place.parent).await?;
        stage(connection, place, &shape, window).await?;
        let (own, part) = (staged(&place.own), staged(&place.part));
        for (target, only) in [(&own, place.mine()), (&part, format!("scope_key <> {}", place.key))] {
            let rows = Copy { source: &place.part, target, only: &only, shape: &shape };
            let seen = fill(connection, &rows, options.batch_size).await?;
            if *target == own {
                report.rows = seen;
            }
        }
        let copied_xact = newer_xact(connection).await?;
        index(connection, place, &own, &place.own).await?;
        index(connection, place, &part, &place.part_indexes()).await?;
        exclude(connection, place, window).await?;
        if !same(connection, place, &shape).await? {
            return refused(format!("the copies of {} differ from it; run the command again", place.part));
        }
        let sql = exchange_sql(connection, place, state).await?;
        // With all its partitions: attaching one locks them.
        let locks = Locks { tables: vec!["memory_scopes".to_owned(), place.parent.clone()], mode: "ACCESS EXCLUSIVE" };
        let readers = readers_before(connection, copied_xact).await?;
        let exchanged = async |connection: &mut PgConnection| {
            if let Some(readers) = still_reading(connection, &readers).await? {
                return Ok(Err(format!("a transaction sees a state from before the copy was complete: {readers}")));
            }
            execute(connection, &sql).await.map(Ok)
        };
        let ((), went) = under_locks(connection, &locks, window, exchanged).await?;
        report.window_ms = u64::try_from(went.window.as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }
}

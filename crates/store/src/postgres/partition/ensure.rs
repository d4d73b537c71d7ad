//! Making the twins, out of what the catalogue says of the flat tables.

use aionis_core::{
    ids::ScopeKey,
    partition::{
        CutoverState, HASH_PARTITIONS_MAX, Step, default_partition, flat_name, hash_partition, own_partition, twin_name,
    },
};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError, catalogue, execute,
    indexes::create_missing,
    partitioned_tables,
    progress::{Noted, note, record},
    refused,
};
use crate::postgres::session::literal;

/// What `ensure` makes.
#[derive(Clone, Copy, Debug)]
pub struct EnsureOptions {
    /// Sub-partitions of the default partition, 1 to 256.
    pub hash_partitions: u16,
    /// Scopes with as many nodes get partitions of their own; none for no scope.
    pub own_from_rows: Option<u64>,
}

/// What `ensure` made.
#[derive(Clone, Debug, Serialize)]
pub struct EnsureReport {
    /// The state afterwards.
    pub state: CutoverState,
    /// Twins that were made; the others were there.
    pub created: Vec<String>,
    /// Sub-partitions of each default partition.
    pub hash_partitions: u16,
    /// Scopes with partitions of their own, as `tenant/scope`.
    pub own: Vec<String>,
}

/// Keeps everybody but the owner out of a partition that is named itself: there is no policy that lets anybody in. By way of
/// its table the policies of the table hold.
pub(super) fn closed(partition: &str) -> String {
    format!("ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY;")
}

/// Statements that make a twin with its partitions, without keys and indexes.
pub(super) fn create_sql(table: &str, twin: &str, hash_partitions: u16, parameters: &[String]) -> String {
    let with = if parameters.is_empty() { String::new() } else { format!(" WITH ({})", parameters.join(", ")) };
    let rest = default_partition(table);
    let mut sql = format!(
        "CREATE TABLE {twin} (LIKE {table} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY INCLUDING CONSTRAINTS \
         INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS) PARTITION BY LIST (scope_key); \
         CREATE TABLE {rest} PARTITION OF {twin} DEFAULT PARTITION BY HASH (scope_key); {} ",
        closed(&rest)
    );
    for remainder in 0..hash_partitions {
        let leaf = hash_partition(table, remainder);
        sql.push_str(&format!(
            "CREATE TABLE {leaf} PARTITION OF {rest} FOR VALUES WITH (MODULUS {hash_partitions}, REMAINDER {remainder}){with}; {} ",
            closed(&leaf)
        ));
    }
    sql
}

/// Statements that give one table the row-level security and grants of another.
pub(super) async fn access_sql(connection: &mut PgConnection, from: &str, to: &str) -> Done<String> {
    let sql = "WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = to_regclass($1)) \
        SELECT 0, 'ALTER TABLE ' || $2 || ' ENABLE ROW LEVEL SECURITY' FROM t WHERE relrowsecurity \
        UNION ALL SELECT 0, 'ALTER TABLE ' || $2 || ' FORCE ROW LEVEL SECURITY' FROM t WHERE relforcerowsecurity \
        UNION ALL SELECT 1, concat_ws(' ', format('CREATE POLICY %I ON ', p.policyname) || $2, 'AS', p.permissive, \
            'FOR', p.cmd, 'TO', (SELECT string_agg(CASE r WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(r) END, ', ') \
                FROM unnest(p.roles) r), \
            'USING (' || p.qual || ')', 'WITH CHECK (' || p.with_check || ')') \
        FROM t, pg_policies p WHERE p.schemaname = t.relnamespace::regnamespace::text AND p.tablename = t.relname \
        UNION ALL SELECT 2, format('GRANT %s ON ', a.privilege_type) || $2 || ' TO ' \
            || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END \
            || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END \
        FROM t, aclexplode(t.relacl) a WHERE a.grantee <> t.relowner \
        ORDER BY 1, 2";
    let rows = sqlx::query(sql).bind(from).bind(to).fetch_all(connection).await?;
    let lines = rows.iter().map(|row| row.try_get::<String, _>(1)).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.into_iter().map(|line| line + "; ").collect())
}

/// What is said of a table that cannot be partitioned as it is.
async fn check_flat(connection: &mut PgConnection, table: &str) -> Done<()> {
    let sql = "SELECT (SELECT string_agg(conname, ', ') FROM pg_constraint \
                   WHERE to_regclass($1) IN (conrelid, confrelid) AND contype = 'f'), \
                   (SELECT string_agg(tgname, ', ') FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal)";
    let row = sqlx::query(sql).bind(table).fetch_one(&mut *connection).await?;
    if let Some(keys) = row.try_get::<Option<String>, _>(0)? {
        return refused(format!(
            "{table} takes part in foreign keys ({keys}), which a twin cannot copy; drop them first"
        ));
    }
    if let Some(triggers) = row.try_get::<Option<String>, _>(1)? {
        return refused(format!("{table} has triggers ({triggers}), which a twin would not have; drop them first"));
    }
    let shape = catalogue::shape(connection, table).await?;
    if shape.key.first().is_none_or(|column| column.name != "scope_key") {
        return refused(format!("the primary key of {table} does not begin with scope_key"));
    }
    Ok(())
}

/// Makes a twin in one transaction; false if it was there.
async fn ensure_twin(connection: &mut PgConnection, table: &str, hash_partitions: u16) -> Done<bool> {
    let twin = twin_name(table);
    if catalogue::exists(connection, &twin).await? {
        let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass($1)";
        let parts: i64 =
            sqlx::query(sql).bind(default_partition(table)).fetch_one(&mut *connection).await?.try_get(0)?;
        if parts != i64::from(hash_partitions) {
            return refused(format!("{twin} has {parts} hash partitions; use --hash-partitions {parts}"));
        }
        create_missing(connection, table, &twin, false).await?;
        return Ok(false);
    }
    check_flat(connection, table).await?;
    let parameters = catalogue::storage_parameters(connection, table).await?;
    let create = create_sql(table, &twin, hash_partitions, &parameters);
    let access = access_sql(connection, table, &twin).await?;
    execute(connection, "BEGIN").await?;
    let made = async {
        execute(connection, &create).await?;
        create_missing(connection, table, &twin, false).await?;
        execute(connection, &access).await
    };
    if let Err(error) = made.await {
        execute(connection, "ROLLBACK").await?;
        return Err(error);
    }
    execute(connection, "COMMIT").await?;
    Ok(true)
}

/// Gives a scope an empty partition in an empty twin.
async fn ensure_own(connection: &mut PgConnection, table: &str, scope: &ScopeKey) -> Done<()> {
    let (twin, own) = (twin_name(table), own_partition(table, scope));
    if catalogue::exists(connection, &own).await? {
        return Ok(());
    }
    let parameters = catalogue::storage_parameters(connection, &twin).await?;
    let with = if parameters.is_empty() { String::new() } else { format!(" WITH ({})", parameters.join(", ")) };
    let key = literal(scope.as_str());
    let closed = closed(&own);
    execute(connection, &format!("CREATE TABLE {own} PARTITION OF {twin} FOR VALUES IN ({key}){with}; {closed}")).await
}

/// Gives a scope empty partitions in all empty twins.
pub(super) async fn ensure_own_everywhere(connection: &mut PgConnection, scope: &ScopeKey) -> Done<()> {
    for table in todo(connection, true).await? {
        ensure_own(connection, table, scope).await?;
    }
    Ok(())
}

/// Tables that are flat still; with `begun` those that have twins.
pub(super) async fn todo(connection: &mut PgConnection, begun: bool) -> Done<Vec<&'static str>> {
    let mut tables = Vec::new();
    for table in partitioned_tables() {
        if catalogue::is_partitioned(connection, table).await? == Some(false)
            && (!begun || catalogue::exists(connection, &twin_name(table)).await?)
        {
            tables.push(table);
        }
    }
    Ok(tables)
}

impl PartitionAdmin {
    /// Makes the twins, empty. Run again, it makes what is missing.
    ///
    /// # Errors
    /// It is out of order; a table cannot be partitioned; a failure of storage.
    pub async fn ensure(&mut self, options: &EnsureOptions) -> Result<EnsureReport, PartitionError> {
        let from = self.begin(Step::Ensure).await?;
        let done = self.ensure_all(options, from).await;
        self.end().await?;
        done
    }

    async fn ensure_all(&mut self, options: &EnsureOptions, from: CutoverState) -> Done<EnsureReport> {
        let wanted = options.hash_partitions;
        if !(1..=HASH_PARTITIONS_MAX).contains(&wanted) {
            return refused(format!("--hash-partitions must be 1 to {HASH_PARTITIONS_MAX}"));
        }
        let before = record(&mut self.connection).await?.hash_partitions;
        if from == CutoverState::Ensured && before != i32::from(wanted) {
            return refused(format!(
                "there are twins with {before} hash partitions; use --hash-partitions {before}, or \
                 `aionis partition rollback` first"
            ));
        }
        let tables = todo(&mut self.connection, false).await?;
        if tables.is_empty() {
            return refused("every table is partitioned already; nothing is left to do");
        }
        for table in partitioned_tables() {
            if catalogue::exists(&mut self.connection, &flat_name(table)).await? {
                return refused(format!("{} is left; run `aionis partition finalize` first", flat_name(table)));
            }
        }
        let mut created = Vec::new();
        for table in &tables {
            if ensure_twin(&mut self.connection, table, wanted).await? {
                created.push(twin_name(table));
            }
        }
        let mut own = Vec::new();
        if let Some(rows) = options.own_from_rows {
            for scope in super::plan::large_scopes(&mut self.connection, rows).await? {
                ensure_own_everywhere(&mut self.connection, &scope.key).await?;
                own.push(scope.key.as_str().to_owned());
            }
        }
        let report = EnsureReport { state: CutoverState::Ensured, created, hash_partitions: wanted, own };
        let detail = json!({ "created": report.created.len(), "hash_partitions": wanted, "own": report.own });
        let now = self.clock.now();
        execute(&mut self.connection, "BEGIN").await?;
        note(&mut self.connection, &Noted { command: "ensure", from, to: CutoverState::Ensured, detail }, now).await?;
        let sql = "UPDATE partition_cutover SET hash_partitions = $1, mirror_mark = NULL, copied_xact = NULL, \
                   ready_at = NULL, ready_run = NULL, cut_over_at = NULL";
        sqlx::query(sql).bind(i32::from(wanted)).execute(&mut self.connection).await?;
        execute(&mut self.connection, "DELETE FROM partition_tables; COMMIT").await?;
        Ok(report)
    }
}

//! The mirror: triggers that keep one layout equal to the other, in the transaction of each change, whoever makes it.
//!
//! They work by statement on all rows it changed. A row that is changed by two transactions is locked by the first until
//! it ends, so that the mirrored changes come in the same order.

use std::fmt::Write as _;

use sqlx::{PgConnection, Row};

use super::{Done, catalogue::Shape};

/// Where changes are mirrored to, and which of them.
pub(super) struct Target {
    pub(super) table: String,
    /// Which rows, as a condition over columns; empty for all.
    pub(super) only: String,
}

/// A mirror of one table.
pub(super) struct Mirror<'a> {
    /// Name of its function; those of its triggers begin with it.
    pub(super) name: String,
    pub(super) source: String,
    pub(super) targets: Vec<Target>,
    pub(super) shape: &'a Shape,
}

/// Name of the mirror of a table.
pub(super) fn name(table: &str) -> String {
    format!("aionis_mirror_{table}")
}

/// Triggers of a mirror, by what they are named after its function.
const TRIGGERS: [&str; 4] = ["_insert", "_update", "_delete", "_truncate"];

impl Mirror<'_> {
    /// Makes its function. The names in it are looked up when it works.
    pub(super) fn function(&self) -> String {
        let (shape, mut insert, mut update, mut delete) = (self.shape, String::new(), String::new(), String::new());
        for Target { table, only } in &self.targets {
            let only = if only.is_empty() { String::new() } else { format!(" WHERE {only}") };
            let put = format!(
                "INSERT INTO {table} ({0}) SELECT {0} FROM new_rows{only} ON CONFLICT ({1}) {2};",
                shape.written(""),
                shape.keys(""),
                shape.overwrite()
            );
            let remove =
                |gone: &str| format!("DELETE FROM {table} t USING {gone} o WHERE {};", shape.same_key("t", "o"));
            let keys = shape.keys("");
            let moved = format!("(SELECT {keys} FROM old_rows EXCEPT SELECT {keys} FROM new_rows)");
            // Writing to a text cannot fail.
            let _ = write!(insert, "{put} ");
            let _ = write!(update, "{} {put} ", remove(&moved));
            let _ = write!(delete, "{} ", remove("old_rows"));
        }
        // Names of scopes may stand in it, with any sign.
        let body = [insert.as_str(), &update, &delete].concat();
        let quote = (0..).map(|n| format!("$mirror{n}$")).find(|quote| !body.contains(quote)).unwrap_or_default();
        // As the owner, for whom row-level security does not hold. Plans are the session's own, so that what it was told
        // about planning must not make them slow.
        format!(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = public, pg_temp SET enable_hashjoin = on SET plan_cache_mode = auto AS {quote} BEGIN \
             IF current_setting('transaction_isolation') <> 'read committed' THEN \
                 RAISE EXCEPTION 'the mirror of {source} needs READ COMMITTED' USING ERRCODE = '0A000'; \
             END IF; \
             IF TG_OP = 'INSERT' THEN {insert} ELSIF TG_OP = 'UPDATE' THEN {update} ELSIF TG_OP = 'DELETE' THEN {delete} \
             ELSE RAISE EXCEPTION 'TRUNCATE of {source} cannot be mirrored; delete instead' USING ERRCODE = '0A000'; \
             END IF; RETURN NULL; END {quote}; \
             REVOKE ALL ON FUNCTION {name}() FROM PUBLIC",
            name = self.name,
            source = self.source,
        )
    }

    /// Makes its triggers. They fire for sessions that call themselves replicas too, as some tools of import do; for what a
    /// subscription applies no trigger by statement fires, which is why there must be none (see [`super::replication`]).
    pub(super) fn triggers(&self) -> String {
        let (name, source) = (&self.name, &self.source);
        let (new, old) = ("NEW TABLE AS new_rows", "OLD TABLE AS old_rows");
        let mut sql = String::new();
        for (suffix, event) in TRIGGERS.into_iter().zip([
            format!("AFTER INSERT ON {source} REFERENCING {new}"),
            format!("AFTER UPDATE ON {source} REFERENCING {old} {new}"),
            format!("AFTER DELETE ON {source} REFERENCING {old}"),
            format!("BEFORE TRUNCATE ON {source}"),
        ]) {
            let _ = write!(
                sql,
                "CREATE TRIGGER {name}{suffix} {event} FOR EACH STATEMENT EXECUTE FUNCTION {name}(); \
                 ALTER TABLE {source} ENABLE ALWAYS TRIGGER {name}{suffix}; "
            );
        }
        sql
    }
}

/// Removes a mirror with all its triggers.
pub(super) fn drop_all(name: &str) -> String {
    format!("DROP FUNCTION IF EXISTS {name}() CASCADE; ")
}

/// Triggers of a mirror that the server says are active on a table.
pub(super) async fn active(connection: &mut PgConnection, name: &str, source: &str) -> Done<usize> {
    let sql = "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
               WHERE t.tgrelid = to_regclass($2) AND p.proname = $1 AND p.prosecdef AND t.tgenabled = 'A' \
                   AND t.tgname = ANY ($3)";
    let names: Vec<String> = TRIGGERS.iter().map(|suffix| format!("{name}{suffix}")).collect();
    let row = sqlx::query(sql).bind(name).bind(source).bind(names).fetch_one(connection).await?;
    Ok(usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
}

/// Triggers a mirror has.
pub(super) const ACTIVE: usize = TRIGGERS.len();

/// What the catalogue says of the mirrors of some tables: another text once a trigger or function was made anew, switched
/// off or switched on again.
pub(super) async fn mark(connection: &mut PgConnection, names: &[String]) -> Done<String> {
    let sql = "SELECT md5(COALESCE(string_agg(concat_ws(' ', p.proname, p.oid, p.xmin, t.tgname, t.oid, t.xmin, t.tgenabled), \
                   ',' ORDER BY p.proname, t.tgname), '')) FROM pg_proc p LEFT JOIN pg_trigger t ON t.tgfoid = p.oid \
               WHERE p.proname = ANY ($1)";
    Ok(sqlx::query(sql).bind(names).fetch_one(connection).await?.try_get(0)?)
}

/// Makes a partition's truncation remove its scope's rows in the flat table too; any other partition's is refused.
pub(super) fn truncation(table: &str, flat: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION aionis_truncate_{table}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
         SET search_path = public, pg_temp AS $mirror$ BEGIN \
         IF TG_NARGS = 0 THEN \
             RAISE EXCEPTION 'TRUNCATE of % cannot be mirrored; delete instead', TG_RELID::regclass USING ERRCODE = '0A000'; \
         END IF; \
         DELETE FROM {flat} WHERE scope_key = TG_ARGV[0]; RETURN NULL; END $mirror$; \
         REVOKE ALL ON FUNCTION aionis_truncate_{table}() FROM PUBLIC; "
    )
}

/// Makes the trigger of [`truncation`] on a leaf partition; `scope` is the literal of the one scope it holds.
pub(super) fn truncation_trigger(table: &str, leaf: &str, scope: Option<&str>) -> String {
    let scope = scope.unwrap_or_default();
    format!(
        "CREATE TRIGGER aionis_truncate BEFORE TRUNCATE ON {leaf} FOR EACH STATEMENT \
         EXECUTE FUNCTION aionis_truncate_{table}({scope}); ALTER TABLE {leaf} ENABLE ALWAYS TRIGGER aionis_truncate; "
    )
}

/// Removes what [`truncation`] made, with all triggers.
pub(super) fn drop_truncation(table: &str) -> String {
    drop_all(&format!("aionis_truncate_{table}"))
}

/// The leaves of a table with the literal of the scope, for those that hold one scope alone.
pub(super) async fn leaves_with_scope(
    connection: &mut PgConnection,
    table: &str,
) -> Done<Vec<(String, Option<String>)>> {
    // The bound of a partition with one value is that value's literal in parentheses; one with several is nobody's own.
    let sql = "SELECT t.relid::regclass::text, \
                   substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$^FOR VALUES IN \\(('(?:[^']|'')*')\\)$$re$) \
               FROM pg_partition_tree(to_regclass($1)) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

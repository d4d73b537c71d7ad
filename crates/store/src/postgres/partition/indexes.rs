//! Keys and indexes of twins.

use aionis_core::partition::twin_name;
use sqlx::{PgConnection, Row};

use super::{
    Done,
    catalogue::{self, Index},
    execute, refused,
    window::{Locks, WindowOptions, under_locks},
};

/// Indexes of a flat table that its twin lacks.
async fn missing(connection: &mut PgConnection, flat: &str, twin: &str) -> Done<Vec<Index>> {
    let there = catalogue::indexes(connection, twin).await?;
    let lacks = |index: &Index| !there.iter().any(|other| other.sense() == index.sense());
    Ok(catalogue::indexes(connection, flat).await?.into_iter().filter(|index| index.valid && lacks(index)).collect())
}

/// Makes the keys and indexes that a twin lacks, for a twin without rows. Indexes of vectors are made when the vectors are
/// there, which is many times faster; `vectors` makes them too.
pub(super) async fn create_missing(connection: &mut PgConnection, flat: &str, twin: &str, vectors: bool) -> Done<()> {
    for index in missing(connection, flat, twin).await? {
        if index.of_vectors && !vectors {
            continue;
        }
        let name = twin_name(&index.name);
        let sql = match &index.constraint {
            Some(definition) => format!("ALTER TABLE {twin} ADD CONSTRAINT {name} {definition}"),
            None => {
                let unique = if index.unique { "UNIQUE " } else { "" };
                format!("CREATE {unique}INDEX {name} ON {twin} {}", index.definition)
            }
        };
        execute(connection, &sql).await?;
    }
    Ok(())
}

/// Makes the indexes that a twin with rows lacks, without keeping writers waiting: leaf by leaf, each of them concurrently,
/// and joined to the twin's when it is there. What was left by one that was broken off is made anew. Returns their names.
pub(super) async fn create_concurrently(
    connection: &mut PgConnection,
    flat: &str,
    twin: &str,
    window: &WindowOptions,
) -> Done<Vec<String>> {
    let mut made = Vec::new();
    for index in catalogue::indexes(connection, flat).await?.into_iter().filter(|index| index.valid) {
        let name = twin_name(&index.name);
        let there = catalogue::indexes(connection, twin).await?;
        if there.iter().any(|other| other.sense() == index.sense() && other.valid) {
            continue;
        }
        if index.constraint.is_some() {
            return refused(format!(
                "{twin} lacks the key {name}; `aionis partition rollback --drop-twins`, then begin anew"
            ));
        }
        build(connection, twin, &name, &index, window).await?;
        made.push(name);
    }
    Ok(made)
}

/// A partition and the index it has to give to the index of its parent.
struct Part {
    table: String,
    is_leaf: bool,
    parent: String,
}

async fn parts(connection: &mut PgConnection, twin: &str) -> Done<Vec<Part>> {
    // Parents come after their children, so that an index is complete when it is joined to the one above.
    let sql = "SELECT relid::regclass::text, isleaf, parentrelid::regclass::text FROM pg_partition_tree(to_regclass($1)) \
               WHERE level > 0 ORDER BY level DESC, 1";
    let rows = sqlx::query(sql).bind(twin).fetch_all(connection).await?;
    let part = |row: &sqlx::postgres::PgRow| {
        Ok(Part { table: row.try_get(0)?, is_leaf: row.try_get(1)?, parent: row.try_get(2)? })
    };
    rows.iter().map(part).collect()
}

/// Name of the index of one part. The number keeps it short.
fn part_index(name: &str, at: usize) -> String {
    format!("{name}_{at}")
}

async fn is_attached(connection: &mut PgConnection, index: &str) -> Done<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1))";
    Ok(sqlx::query(sql).bind(index).fetch_one(connection).await?.try_get(0)?)
}

async fn is_valid(connection: &mut PgConnection, index: &str) -> Done<Option<bool>> {
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
    let row = sqlx::query(sql).bind(index).fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Does something whose locks writers may wait behind: in short tries, as everything else that does.
async fn patiently(connection: &mut PgConnection, sql: &str, window: &WindowOptions) -> Done<()> {
    let locks = Locks { tables: Vec::new(), mode: "SHARE" };
    let done = async |connection: &mut PgConnection| execute(connection, sql).await.map(Ok);
    under_locks(connection, &locks, window, done).await.map(|_| ())
}

async fn build(
    connection: &mut PgConnection,
    twin: &str,
    name: &str,
    index: &Index,
    window: &WindowOptions,
) -> Done<()> {
    let unique = if index.unique { "UNIQUE " } else { "" };
    let definition = &index.definition;
    if is_valid(connection, name).await?.is_none() {
        let sql = format!("CREATE {unique}INDEX {name} ON ONLY {twin} {definition}");
        patiently(connection, &sql, window).await?;
    }
    let parts = parts(connection, twin).await?;
    for (at, part) in parts.iter().enumerate() {
        let (own, table) = (part_index(name, at), &part.table);
        if is_attached(connection, &own).await? {
            continue;
        }
        if part.is_leaf {
            if is_valid(connection, &own).await? == Some(false) {
                execute(connection, &format!("DROP INDEX CONCURRENTLY {own}")).await?;
            }
            let sql = format!("CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS {own} ON {table} {definition}");
            execute(connection, &sql).await?;
        } else if is_valid(connection, &own).await?.is_none() {
            let sql = format!("CREATE {unique}INDEX {own} ON ONLY {table} {definition}");
            patiently(connection, &sql, window).await?;
        }
    }
    // Children first, so that an index becomes valid when its last child is joined to it.
    for (at, part) in parts.iter().enumerate() {
        let own = part_index(name, at);
        if !is_attached(connection, &own).await? {
            let parent = parts.iter().position(|p| p.table == part.parent);
            let above = parent.map_or_else(|| name.to_owned(), |at| part_index(name, at));
            patiently(connection, &format!("ALTER INDEX {above} ATTACH PARTITION {own}"), window).await?;
        }
    }
    if is_valid(connection, name).await? == Some(true) {
        return Ok(());
    }
    refused(format!("the index {name} did not become valid; look at its partitions with psql (\\d+ {twin})"))
}

/// Indexes of a table and its partitions that are not valid.
pub(super) async fn invalid(connection: &mut PgConnection, table: &str) -> Done<Vec<String>> {
    let sql = "SELECT i.indexrelid::regclass::text FROM pg_index i \
               WHERE (i.indrelid = to_regclass($1) OR i.indrelid IN (SELECT relid FROM pg_partition_tree(to_regclass($1)))) \
                   AND NOT (i.indisvalid AND i.indisready) ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

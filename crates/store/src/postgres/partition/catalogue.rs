//! What the server's catalogue says of tables. Twins are made from it, and compared with it, so that nothing is typed twice.

use std::collections::BTreeSet;

use aionis_core::partition::{FLAT_SUFFIX, TWIN_SUFFIX};
use sqlx::{PgConnection, Row};

use super::Done;

/// A column that is written.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) sql_type: String,
    pub(super) generated: bool,
}

/// A table's columns and primary key.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) columns: Vec<Column>,
    /// Columns of the primary key, in order.
    pub(super) key: Vec<Column>,
}

impl Shape {
    /// Names of the columns that are written, separated by commas.
    pub(super) fn written(&self, prefix: &str) -> String {
        list(self.columns.iter().filter(|column| !column.generated), |c| format!("{prefix}{}", c.name))
    }

    /// Names of the columns of the primary key.
    pub(super) fn keys(&self, prefix: &str) -> String {
        list(self.key.iter(), |c| format!("{prefix}{}", c.name))
    }

    /// What an insertion does with a row that is there already.
    pub(super) fn overwrite(&self) -> String {
        let is_key = |c: &&Column| self.key.iter().any(|key| key.name == c.name);
        let others: Vec<&Column> = self.columns.iter().filter(|c| !c.generated && !is_key(c)).collect();
        if others.is_empty() {
            return "DO NOTHING".to_owned();
        }
        format!("DO UPDATE SET {}", list(others.into_iter(), |c| format!("{0} = excluded.{0}", c.name)))
    }

    /// Whether two rows, by their prefixes, have the same key.
    pub(super) fn same_key(&self, one: &str, other: &str) -> String {
        let same = |c: &Column| format!("{one}.{0} = {other}.{0}", c.name);
        self.key.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }
}

pub(super) fn list<'a>(columns: impl Iterator<Item = &'a Column>, show: impl Fn(&Column) -> String) -> String {
    columns.map(show).collect::<Vec<_>>().join(", ")
}

/// Whether a relation is there, whatever it is.
pub(super) async fn exists(connection: &mut PgConnection, name: &str) -> Done<bool> {
    let sql = "SELECT to_regclass($1) IS NOT NULL";
    Ok(sqlx::query(sql).bind(name).fetch_one(connection).await?.try_get(0)?)
}

/// Whether a table is there and partitioned; none if it is not there.
pub(super) async fn is_partitioned(connection: &mut PgConnection, name: &str) -> Done<Option<bool>> {
    let sql = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass($1)";
    let row = sqlx::query(sql).bind(name).fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

pub(super) async fn shape(connection: &mut PgConnection, table: &str) -> Done<Shape> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', \
                   array_position((SELECT indkey::int2[] FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary), \
                       a.attnum) \
               FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
               ORDER BY a.attnum";
    let (mut columns, mut key) = (Vec::new(), Vec::new());
    for row in sqlx::query(sql).bind(table).fetch_all(connection).await? {
        let column = Column { name: row.try_get(0)?, sql_type: row.try_get(1)?, generated: row.try_get(2)? };
        if let Some(at) = row.try_get::<Option<i32>, _>(3)? {
            key.push((at, column.clone()));
        }
        columns.push(column);
    }
    key.sort_by_key(|(at, _)| *at);
    Ok(Shape { columns, key: key.into_iter().map(|(_, column)| column).collect() })
}

/// An index, by what comes after the table's name in its definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    /// From `USING` on.
    pub(super) definition: String,
    /// Whether it searches vectors, and so is dear to build.
    pub(super) of_vectors: bool,
    /// Definition of the constraint it stands behind.
    pub(super) constraint: Option<String>,
    pub(super) valid: bool,
}

impl Index {
    /// What it is, whichever layout it is of.
    pub(super) fn sense(&self) -> String {
        let unique = if self.unique { "UNIQUE " } else { "" };
        let constraint = self.constraint.as_deref().unwrap_or_default();
        format!("{unique}{} {} {constraint}", base(&self.name), self.definition)
    }
}

pub(super) async fn indexes(connection: &mut PgConnection, table: &str) -> Done<Vec<Index>> {
    let sql = "SELECT c.relname::text, i.indisunique, substring(pg_get_indexdef(c.oid) FROM ' (USING .*)$'), \
                   am.amname IN ('hnsw', 'ivfflat'), pg_get_constraintdef(k.oid), i.indisvalid AND i.indisready \
               FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam \
               LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype IN ('p', 'u', 'x') \
               WHERE i.indrelid = to_regclass($1) ORDER BY c.relname";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    let index = |row: &sqlx::postgres::PgRow| {
        Ok(Index {
            name: row.try_get(0)?,
            unique: row.try_get(1)?,
            definition: row.try_get(2)?,
            of_vectors: row.try_get(3)?,
            constraint: row.try_get(4)?,
            valid: row.try_get(5)?,
        })
    };
    rows.iter().map(index).collect()
}

/// A name without what tells the layouts apart.
fn base(name: &str) -> &str {
    name.strip_suffix(TWIN_SUFFIX).or_else(|| name.strip_suffix(FLAT_SUFFIX)).unwrap_or(name)
}

/// Storage parameters of a table, as they are written in a `WITH` clause; of a partitioned table those of its first leaf.
pub(super) async fn storage_parameters(connection: &mut PgConnection, table: &str) -> Done<Vec<String>> {
    let sql = "SELECT COALESCE(c.reloptions, '{}') FROM pg_class c WHERE c.oid = COALESCE((SELECT relid \
                   FROM pg_partition_tree(to_regclass($1)) WHERE isleaf ORDER BY relid LIMIT 1), to_regclass($1))";
    let mut options: Vec<String> = sqlx::query(sql).bind(table).fetch_one(connection).await?.try_get(0)?;
    options.sort();
    Ok(options)
}

/// Leaf partitions of a table, with their parent and their bound as the server writes it.
pub(super) async fn leaves(connection: &mut PgConnection, table: &str) -> Done<Vec<String>> {
    let sql = "SELECT relid::regclass::text FROM pg_partition_tree(to_regclass($1)) WHERE isleaf ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Everything a table's definition says that a twin has to say too, one fact a line, without the names of layouts.
pub(super) async fn facts(connection: &mut PgConnection, table: &str) -> Done<BTreeSet<String>> {
    let sql = "WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = to_regclass($1)) \
        SELECT concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod), \
            CASE WHEN a.attnotnull THEN 'NOT NULL' END, NULLIF(a.attgenerated::text, ''), NULLIF(a.attidentity::text, ''), \
            pg_get_expr(d.adbin, d.adrelid), 'storage', a.attstorage, NULLIF(a.attcompression::text, ''), l.collname) \
        FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
            LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum \
            LEFT JOIN pg_collation l ON l.oid = a.attcollation \
        UNION ALL SELECT concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid)) \
        FROM t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype IN ('c', 'f') \
        UNION ALL SELECT concat_ws(' ', 'policy', p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[]::text, \
            pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)) \
        FROM t JOIN pg_policy p ON p.polrelid = t.oid \
        UNION ALL SELECT concat_ws(' ', 'row level security', t.relrowsecurity, t.relforcerowsecurity) FROM t \
        UNION ALL SELECT concat_ws(' ', 'grant', a.grantee::regrole, a.privilege_type, a.is_grantable) \
        FROM t, aclexplode(COALESCE(t.relacl, acldefault('r', t.relowner))) a \
        UNION ALL SELECT concat_ws(' ', 'owner', t.relowner::regrole) FROM t";
    let rows = sqlx::query(sql).bind(table).fetch_all(&mut *connection).await?;
    let mut facts = BTreeSet::new();
    for row in &rows {
        facts.insert(row.try_get(0)?);
    }
    for index in indexes(connection, table).await? {
        facts.insert(format!("index {}", index.sense()));
    }
    for option in storage_parameters(connection, table).await? {
        facts.insert(format!("storage parameter {option}"));
    }
    Ok(facts)
}

/// What one layout's definition says and the other's does not, for people.
pub(super) async fn differences(connection: &mut PgConnection, flat: &str, twin: &str) -> Done<Vec<String>> {
    let (of_flat, of_twin) = (facts(connection, flat).await?, facts(connection, twin).await?);
    let lacks = of_flat.difference(&of_twin).map(|fact| format!("{twin} lacks: {fact}"));
    let has = of_twin.difference(&of_flat).map(|fact| format!("{twin} has: {fact}"));
    Ok(lacks.chain(has).collect())
}

//! Copying rows from one table to another beside writers, in the order of the primary key.

use aionis_core::ports::store::StoreError;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{Done, PartitionError, catalogue::Shape};

/// How one batch went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Rows looked at.
    pub(super) seen: u64,
    /// Rows that were not there yet.
    pub(super) copied: u64,
    /// Key of the last row; none if there was none.
    pub(super) last: Option<Vec<String>>,
}

/// From where to where, and which rows.
pub(super) struct Copy<'a> {
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    /// A condition over columns; empty for all rows.
    pub(super) only: &'a str,
    pub(super) shape: &'a Shape,
}

impl Copy<'_> {
    /// Which rows come after the one whose key is `$1`, as a list of texts.
    fn after(&self, has_cursor: bool) -> String {
        let mut conditions = Vec::new();
        if !self.only.is_empty() {
            conditions.push(format!("({})", self.only));
        }
        if has_cursor {
            let bound =
                self.shape.key.iter().enumerate().map(|(at, c)| format!("($1::text[])[{}]::{}", at + 1, c.sql_type));
            let bound = bound.collect::<Vec<_>>().join(", ");
            conditions.push(format!("({}) > ({bound})", self.shape.keys("")));
        }
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    fn sql(&self, has_cursor: bool) -> String {
        let (keys, written) = (self.shape.keys(""), self.shape.written(""));
        let as_text = self.shape.key.iter().map(|c| format!("{}::text", c.name)).collect::<Vec<_>>().join(", ");
        let backwards = self.shape.key.iter().map(|c| format!("{} DESC", c.name)).collect::<Vec<_>>().join(", ");
        // A row is locked against removal until its copy can be seen: who removes it afterwards removes the copy too. What
        // is written meanwhile by the mirror is newer and stays.
        format!(
            "WITH batch AS MATERIALIZED (SELECT {written} FROM {source}{after} ORDER BY {keys} LIMIT $2 FOR KEY SHARE), \
             copied AS (INSERT INTO {target} ({written}) SELECT {written} FROM batch ON CONFLICT ({keys}) DO NOTHING \
                 RETURNING 1) \
             SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM copied), \
                 (SELECT ARRAY[{as_text}] FROM batch ORDER BY {backwards} LIMIT 1), $1::text[] IS NULL",
            source = self.source,
            target = self.target,
            after = self.after(has_cursor),
        )
    }

    /// Copies the next rows. It belongs into a transaction that keeps the key of the last one.
    pub(super) async fn batch(
        &self,
        connection: &mut PgConnection,
        cursor: Option<&[String]>,
        size: u32,
    ) -> Done<Batch> {
        let sql = self.sql(cursor.is_some());
        let asked = sqlx::query(AssertSqlSafe(sql)).bind(cursor.map(<[String]>::to_vec)).bind(i64::from(size));
        let row = asked.fetch_one(connection).await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Batch { seen: count(0)?, copied: count(1)?, last: row.try_get(2)? })
    }
}

/// Whether the same batch may succeed when it is tried again: it gave way to a writer.
pub(super) fn gave_way(error: &PartitionError) -> bool {
    matches!(error, PartitionError::Store(StoreError::Unavailable(text))
        if text.starts_with("55P03") || text.starts_with("40P01"))
}

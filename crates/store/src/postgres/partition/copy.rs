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
    /// Key up to which everything was looked at; none when nothing is left beyond these rows.
    pub(super) last: Option<Vec<String>>,
}

/// Settings of a transaction that copies: in the order of the primary key, by way of its index, and planned for the very keys.
/// How few rows lie between two keys of several columns is not estimated well; without these a batch was seen to read all
/// rows of a scope by another index.
pub(super) const BY_KEY: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; \
                                 SET LOCAL enable_incremental_sort = off; SET LOCAL plan_cache_mode = force_custom_plan";

/// From where to where, and which rows.
pub(super) struct Copy<'a> {
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    /// A condition over columns; empty for all rows.
    pub(super) only: &'a str,
    pub(super) shape: &'a Shape,
}

impl Copy<'_> {
    /// Which rows come after the one whose key is `$1`, up to the one whose key is `$2`, as lists of texts.
    fn between(&self, after: bool, up_to: bool) -> String {
        let mut conditions = Vec::new();
        if !self.only.is_empty() {
            conditions.push(format!("({})", self.only));
        }
        for (holds, parameter, operator) in [(after, "$1", ">"), (up_to, "$2", "<=")] {
            if holds {
                let key = self.shape.key.iter().enumerate();
                let key = key.map(|(at, c)| format!("({parameter}::text[])[{}]::{}", at + 1, c.sql_type));
                let key = key.collect::<Vec<_>>().join(", ");
                conditions.push(format!("({}) {operator} ({key})", self.shape.keys("")));
            }
        }
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    /// Asks for the key of the last row of a batch of `$2` rows; nothing when there are fewer.
    fn bound_sql(&self, has_cursor: bool) -> String {
        let as_text = self.shape.key.iter().map(|c| format!("{}::text", c.name)).collect::<Vec<_>>().join(", ");
        format!(
            "SELECT ARRAY[{as_text}], $1::text[] IS NULL FROM {source}{after} ORDER BY {keys} OFFSET $2 - 1 LIMIT 1",
            source = self.source,
            after = self.between(has_cursor, false),
            keys = self.shape.keys(""),
        )
    }

    fn sql(&self, has_cursor: bool, has_bound: bool) -> String {
        let (keys, written) = (self.shape.keys(""), self.shape.written(""));
        // A row is locked against removal until its copy can be seen: who removes it afterwards removes the copy too. What
        // is written meanwhile by the mirror is newer and stays.
        format!(
            "WITH batch AS MATERIALIZED (SELECT {written} FROM {source}{between} ORDER BY {keys} FOR KEY SHARE), \
             copied AS (INSERT INTO {target} ({written}) SELECT {written} FROM batch ON CONFLICT ({keys}) DO NOTHING \
                 RETURNING 1) \
             SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM copied), $1::text[] IS NULL, $2::text[] IS NULL",
            source = self.source,
            target = self.target,
            between = self.between(has_cursor, has_bound),
        )
    }

    /// Copies the next rows. It belongs into a transaction that keeps the key of the last one.
    ///
    /// Where a batch ends is asked before its rows are locked: one whose key is changed meanwhile is seen with its new key
    /// once it is locked, and everything up to that one would be passed over. What got another key, the mirror has copied.
    pub(super) async fn batch(
        &self,
        connection: &mut PgConnection,
        cursor: Option<&[String]>,
        size: u32,
    ) -> Done<Batch> {
        let cursor = cursor.map(<[String]>::to_vec);
        let bound = AssertSqlSafe(self.bound_sql(cursor.is_some()));
        let bound = sqlx::query(bound).bind(&cursor).bind(i64::from(size)).fetch_optional(&mut *connection).await?;
        let last: Option<Vec<String>> = bound.map(|row| row.try_get(0)).transpose()?;
        let sql = AssertSqlSafe(self.sql(cursor.is_some(), last.is_some()));
        let row = sqlx::query(sql).bind(cursor).bind(&last).fetch_one(connection).await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Batch { seen: count(0)?, copied: count(1)?, last })
    }
}

/// Whether the same batch may succeed when it is tried again: it gave way to a writer.
pub(super) fn gave_way(error: &PartitionError) -> bool {
    matches!(error, PartitionError::Store(StoreError::Unavailable(text))
        if text.starts_with("55P03") || text.starts_with("40P01"))
}

//! Logical replication of the tables that are to be exchanged: it goes by tables, not by names, and past the mirror.

use aionis_core::partition::{flat_name, twin_name};
use sqlx::{PgConnection, Row};

use super::{Done, partitioned_tables, refused};

/// What takes part in logical replication, for people; nothing when nothing does.
///
/// What a subscription applies fires no trigger by statement, so that the other layout would lack it; after an exchange
/// of names it would go on to write into the table that has the other name now. What a publication sends is of the table
/// it was made for, whatever that one is called.
pub(super) async fn replicated(connection: &mut PgConnection) -> Done<Option<String>> {
    let sql = "SELECT string_agg(told, '; ') FROM ( \
                   SELECT DISTINCT format('the subscription of %s', r.srrelid::regclass) AS told FROM pg_subscription_rel r \
                       JOIN pg_class c ON c.oid = r.srrelid WHERE c.relname = ANY ($1) \
                   UNION ALL SELECT format('the publication %s of %s', p.pubname, min(p.tablename)) FROM pg_publication_tables p \
                       WHERE p.tablename = ANY ($1) GROUP BY p.pubname) t";
    let names: Vec<String> =
        partitioned_tables().flat_map(|table| [table.to_owned(), twin_name(table), flat_name(table)]).collect();
    Ok(sqlx::query(sql).bind(names).fetch_one(connection).await?.try_get(0)?)
}

/// Refuses to go on beside replication.
pub(super) async fn not_replicated(connection: &mut PgConnection) -> Done<()> {
    match replicated(connection).await? {
        None => Ok(()),
        Some(what) => refused(format!(
            "logical replication does not go with an exchange of layouts: {what}; end it first, such as by \
             `scripts/shard-onboarding.sh finish`"
        )),
    }
}

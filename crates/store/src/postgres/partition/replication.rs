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
    let sql = "WITH ours AS (SELECT to_regclass(n) AS oid FROM unnest($1::text[]) n UNION \
                   SELECT p.relid FROM unnest($1::text[]) n, pg_partition_tree(to_regclass(n)) p), \
                   found AS (SELECT format('the subscription of %s', r.srrelid::regclass) AS told FROM pg_subscription_rel r \
                       WHERE r.srrelid IN (SELECT oid FROM ours) \
                   UNION SELECT format('the publication %s of %s', p.pubname, r.prrelid::regclass) FROM pg_publication p \
                       JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE r.prrelid IN (SELECT oid FROM ours) \
                   UNION SELECT format('the publication %s of all tables', p.pubname) FROM pg_publication p \
                       WHERE p.puballtables \
                   UNION SELECT format('the publication %s of the schema', p.pubname) FROM pg_publication p \
                       JOIN pg_publication_namespace n ON n.pnpubid = p.oid \
                       WHERE n.pnnspid IN (SELECT relnamespace FROM pg_class WHERE oid IN (SELECT oid FROM ours))) \
               SELECT string_agg(told, '; ' ORDER BY told) FROM found";
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

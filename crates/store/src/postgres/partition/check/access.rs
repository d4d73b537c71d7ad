//! Who may read and write the tables of a layout.

use std::collections::BTreeSet;

use aionis_core::partition::{Check, judged};
use sqlx::{PgConnection, Row};

use super::super::{Done, catalogue, partitioned_tables};

/// Kinds of facts that say who may read and write what.
const ACCESS: [&str; 4] = ["policy ", "grant ", "row level security ", "owner "];
/// A table that is in neither layout, with the same policy, grants and owner as those that are.
const FLAT_ALWAYS: &str = "memory_scopes";

pub(super) fn is_access(fact: &str) -> bool {
    ACCESS.iter().any(|kind| fact.contains(&format!(": {kind}")))
}
/// Who may read and write a table.
async fn access_of(connection: &mut PgConnection, table: &str) -> Done<BTreeSet<String>> {
    let facts = catalogue::facts(connection, table).await?;
    Ok(facts.into_iter().filter(|fact| ACCESS.iter().any(|kind| fact.starts_with(kind))).collect())
}

/// Partitions of a table that let anybody but the owner in when they are named themselves: they have a policy or a grant, or
/// no row-level security.
async fn open_partitions(connection: &mut PgConnection, table: &str) -> Done<Vec<String>> {
    let sql = "SELECT c.oid::regclass::text FROM pg_partition_tree(to_regclass($1)) t JOIN pg_class c ON c.oid = t.relid \
               WHERE t.level > 0 AND (NOT c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid) \
                   OR EXISTS (SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner)) ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether the partitioned tables let in whom the tables that were never partitioned let in, and nobody by another way.
pub(super) async fn access_alone(connection: &mut PgConnection) -> Done<Check> {
    let wanted = access_of(connection, FLAT_ALWAYS).await?;
    let mut wrong = Vec::new();
    for table in partitioned_tables() {
        if !catalogue::exists(connection, table).await? {
            wrong.push(format!("{table} is missing"));
            continue;
        }
        let own = access_of(connection, table).await?;
        wrong.extend(wanted.difference(&own).map(|fact| format!("{table} lacks: {fact}")));
        wrong.extend(own.difference(&wanted).map(|fact| format!("{table} has: {fact}")));
        let open = open_partitions(connection, table).await?;
        wrong.extend(open.iter().map(|partition| format!("{partition} can be had without its table")));
    }
    let holds = wrong.is_empty() && wanted.iter().any(|fact| fact.starts_with("policy "));
    let first = wrong.first().cloned().unwrap_or_else(|| format!("{FLAT_ALWAYS} has no policy to compare with"));
    Ok(judged("rls_and_grants", holds, wrong.len(), format!("those of {FLAT_ALWAYS}; partitions closed"), first))
}

//! Twins say everything the flat tables say, and everything is compared with the catalogue.

use std::collections::BTreeSet;

use aionis_store::postgres::partition::{EnsureOptions, partitioned_tables};
use aionis_testkit::{fixtures::scope_of, postgres::TempDatabase};
use sqlx::Row;

use super::{Bed, ENSURE, execute, number};

/// The one list of tables is that of the catalogue, but for the small ones.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_rows_of_scopes_is_partitioned_or_known_to_stay_flat() {
    let database = TempDatabase::flat().await;
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relkind = 'r' AND a.attname = 'scope_key' AND c.relnamespace = 'public'::regnamespace";
    let rows = sqlx::query(sql).fetch_all(&mut database.owner().await).await.unwrap();
    let tables: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let stay = ["memory_scopes", "memory_purges", "job_runs", "job_states"].map(str::to_owned);
    let known: BTreeSet<String> = partitioned_tables().map(str::to_owned).chain(stay).collect();
    assert_eq!(tables, known);
}

/// Written apart from the code that makes twins: what `psql` would show of both.
const DEFINITION: &str = "\
SELECT 'column ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull::text || attstorage::text || attgenerated::text \
    || COALESCE(pg_get_expr(d.adbin, d.adrelid), '') || attcollation::text \
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
WHERE attrelid = $1::regclass AND attnum > 0 \
UNION ALL SELECT 'check ' || conname || pg_get_constraintdef(oid) FROM pg_constraint \
WHERE conrelid = $1::regclass AND contype = 'c' \
UNION ALL SELECT 'index ' || regexp_replace(regexp_replace(pg_get_indexdef(indexrelid), '_v2\\M', '', 'g'), ' ONLY ', ' ') \
FROM pg_index WHERE indrelid = $1::regclass \
UNION ALL SELECT 'key ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass AND contype <> 'c' \
UNION ALL SELECT 'policy ' || policyname::text || permissive || roles::text || cmd || qual || with_check FROM pg_policies \
WHERE tablename = $1 \
UNION ALL SELECT 'grant ' || grantee || privilege_type FROM information_schema.role_table_grants WHERE table_name = $1 \
UNION ALL SELECT 'security ' || relrowsecurity::text FROM pg_class WHERE oid = $1::regclass";

async fn definition(bed: &Bed, table: &str) -> BTreeSet<String> {
    let rows = sqlx::query(DEFINITION).bind(table).fetch_all(&mut bed.owner().await).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_lacks_nothing_of_its_table_down_to_the_leaves() {
    let bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    for table in partitioned_tables() {
        let (flat, twin) = (definition(&bed, table).await, definition(&bed, &format!("{table}_v2")).await);
        assert_eq!(twin, flat, "{table}");
        assert!(flat.iter().any(|fact| fact.starts_with("policy")) && flat.iter().any(|f| f.starts_with("key")));
        // Storage parameters and forms stand at the leaves, and the runtime role reaches none of them directly.
        let sql = format!(
            "SELECT count(*) FROM pg_partition_tree('{table}_v2') p JOIN pg_class l ON l.oid = p.relid \
             JOIN pg_class f ON f.oid = '{table}'::regclass WHERE p.isleaf AND COALESCE(l.reloptions, '{{}}') @> COALESCE(f.reloptions, '{{}}') \
             AND COALESCE(f.reloptions, '{{}}') @> COALESCE(l.reloptions, '{{}}') \
             AND l.relrowsecurity \
             AND NOT has_table_privilege('aionis_runtime', l.oid, 'SELECT') AND (SELECT count(*) FROM pg_attribute x \
                 JOIN pg_attribute y ON y.attrelid = f.oid AND y.attname = x.attname AND y.attstorage = x.attstorage \
                 WHERE x.attrelid = l.oid AND x.attnum > 0) = f.relnatts"
        );
        assert_eq!(number(&mut owner, &sql).await, 4, "{table}: every leaf is like the flat table");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn making_twins_again_makes_what_is_missing_and_large_scopes_get_their_own() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    execute(&mut owner, "DROP TABLE memory_merges_v2; DROP INDEX memory_nodes_tier_v2").await;
    let report = bed.admin.ensure(&EnsureOptions { own_from_rows: Some(6), ..ENSURE }).await.unwrap();
    assert_eq!(report.created, ["memory_merges_v2"]);
    let keys: BTreeSet<String> = bed.scopes.iter().map(|s| s.as_str().to_owned()).collect();
    assert_eq!(report.own.into_iter().collect::<BTreeSet<_>>(), keys);
    assert_eq!(definition(&bed, "memory_nodes_v2").await, definition(&bed, "memory_nodes").await);
    let other = EnsureOptions { hash_partitions: 8, ..ENSURE };
    let error = bed.admin.ensure(&other).await.unwrap_err().to_string();
    assert!(error.contains("--hash-partitions 4"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_twin_could_not_have_is_refused() {
    for (sql, wanted) in [
        ("ALTER TABLE memory_merges ADD FOREIGN KEY (scope_key) REFERENCES memory_scopes", "foreign keys"),
        (
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER mine BEFORE INSERT ON memory_merges FOR EACH ROW EXECUTE FUNCTION nothing()",
            "triggers",
        ),
    ] {
        let database = TempDatabase::flat().await;
        execute(&mut database.owner().await, sql).await;
        let error = super::admin(&database).await.ensure(&ENSURE).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("memory_merges"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_rows_and_large_scopes_and_changes_nothing() {
    let mut bed = Bed::new().await;
    let large = scope_of("acme", "large");
    super::fill(&bed.store, &large, 9).await;
    let plan = bed.admin.plan(9).await.unwrap();
    assert_eq!(plan.own, [("acme/large".to_owned(), 9)]);
    let nodes = plan.tables.iter().find(|table| table.table == "memory_nodes").unwrap();
    assert_eq!((nodes.rows, nodes.partitioned), (33, false));
    assert!(plan.bytes > 0 && plan.rows > nodes.rows && plan.lock_capacity > 0);
    assert_eq!(plan.tables.len(), partitioned_tables().count());
    assert_eq!(bed.admin.state().await.unwrap(), aionis_core::partition::CutoverState::None);
}

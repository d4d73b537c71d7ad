//! A scope with partitions of its own, and what purging does with them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::scope_purge::{PurgeMode, PurgeStrategy, plan_purge},
    ports::store::{PurgeStore, ReadStore, StoreError, WriteStore},
};
use aionis_store::postgres::{
    PostgresStore,
    partition::{BackfillOptions, PromoteOptions, VerifyOptions, WindowOptions, partitioned_tables},
};
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, WriteBuilder, node_id},
};

use sqlx::Row;

use super::{Bed, execute, number};

async fn promote(bed: &mut Bed, s: &ScopeKey) {
    let options = PromoteOptions { batch_size: 5, ..PromoteOptions::default() };
    bed.admin.promote_scope(s, &options).await.unwrap();
    let again = bed.admin.promote_scope(s, &options).await.unwrap();
    assert!(again.tables.iter().all(|table| table.rows == 0), "done already: {again:?}");
}

async fn own_tables(bed: &Bed, s: &ScopeKey) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r' \
         AND pg_get_expr(relpartbound, oid) = 'FOR VALUES IN (' || quote_literal('{}') || ')'",
        s.as_str().replace('\'', "''")
    );
    number(&mut bed.owner().await, &sql).await
}

fn all() -> i64 {
    i64::try_from(partitioned_tables().count()).unwrap()
}

/// How many rows of a scope each table has.
async fn rows(bed: &Bed, s: &ScopeKey) -> Vec<(String, i64)> {
    let mut counts = Vec::new();
    for table in partitioned_tables() {
        let key = s.as_str().replace('\'', "''");
        let sql = format!("SELECT count(*) FROM {table} WHERE scope_key = '{key}'");
        counts.push((table.to_owned(), number(&mut bed.owner().await, &sql).await));
    }
    counts
}

async fn purge(store: &PostgresStore, s: &ScopeKey, fail_on_delete: bool) -> Vec<(String, PurgeStrategy)> {
    let plan = plan_purge(s, &store.purge_survey(s).await.unwrap(), PurgeMode::Auto, fail_on_delete).unwrap();
    assert!(store.begin_purge(s, &plan, "ops", Timestamp(1)).await.unwrap());
    while store.purge_step(s, plan.hash, 1_000, Timestamp(2)).await.unwrap().done.is_none() {}
    plan.tables.into_iter().map(|table| (table.table, table.strategy)).collect()
}

/// In each state: before anything is copied, with twins, after the cutover, at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_gets_its_own_partitions_in_every_state_and_no_row_is_lost() {
    let mut bed = Bed::ensured().await;
    let scopes = bed.scopes.clone();
    promote(&mut bed, &scopes[2]).await;
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    promote(&mut bed, &scopes[0]).await;
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    bed.get_ready().await;
    bed.cutover().await;
    let before = rows(&bed, &scopes[1]).await;
    promote(&mut bed, &scopes[1]).await;
    assert_eq!(rows(&bed, &scopes[1]).await, before);
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    bed.admin.finalize(&WindowOptions::default()).await.unwrap();
    promote(&mut bed, &scopes[3]).await;
    for s in &scopes {
        assert_eq!(own_tables(&bed, s).await, all(), "{s}");
        let text = "after";
        bed.store.write(WriteBuilder::new(s).input(text).node("n1", text).prepared()).await.unwrap();
    }
    let mut owner = bed.owner().await;
    let rest = "SELECT count(*) FROM memory_nodes_p_rest";
    assert_eq!(number(&mut owner, rest).await, 0, "everything is in a partition of its own");
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '_(new|old)$' AND relkind IN ('r', 'p')";
    assert_eq!(number(&mut owner, left).await, 0);
    let constraints = "SELECT count(*) FROM pg_constraint WHERE conname ~ '^(mine|here)$'";
    assert_eq!(number(&mut owner, constraints).await, 0);
    // Indexes of the new partitions belong to those of the tables.
    let loose = "SELECT count(*) FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid WHERE t.relispartition \
                 AND NOT EXISTS (SELECT 1 FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)";
    assert_eq!(number(&mut owner, loose).await, 0);
    assert_sound(&*bed.store).await;
}

/// All scopes in one part, so that those that have left it are written to beside those that leave it.
#[tokio::test(flavor = "multi_thread")]
async fn writers_go_on_while_their_scope_and_its_neighbours_are_moved() {
    let mut bed = Bed::finalized_with(1).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = bed
        .scopes
        .iter()
        .map(|s| {
            let (s, store, stop, written) =
                (s.clone(), Arc::clone(&bed.store), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("load{n}");
                    let write = WriteBuilder::new(&s).input(&name).node(&name, &name).vector(vec![1.0; DIM]);
                    store.write(write.prepared()).await.unwrap();
                    assert_eq!(store.history(&s, node_id(&s, &name), None, 5).await.unwrap().len(), 1);
                    n += 1;
                    written.fetch_add(1, Ordering::Relaxed);
                }
                (s, n)
            })
        })
        .collect();
    while written.load(Ordering::Relaxed) < 8 {
        tokio::task::yield_now().await;
    }
    for s in &bed.scopes[..3] {
        let options = PromoteOptions { batch_size: 5, ..PromoteOptions::default() };
        let report = bed.admin.promote_scope(s, &options).await.unwrap();
        assert!(report.tables.iter().all(|table| table.window_ms <= 2_000), "{report:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let (s, n) = task.await.unwrap();
        let key = s.as_str().replace('\'', "''");
        let sql = format!("SELECT count(*) FROM memory_nodes WHERE scope_key = '{key}' AND client_id LIKE 'load%'");
        assert_eq!(number(&mut bed.owner().await, &sql).await.unsigned_abs(), n, "{s}");
    }
    assert_sound(&*bed.store).await;
}

/// The scope `perf_1` is not `perfX1`, and not that of another tenant.
#[tokio::test(flavor = "multi_thread")]
async fn ops_06_purging_truncates_the_partitions_of_the_scope_and_no_others() {
    let mut bed = Bed::cut_over().await;
    bed.admin.finalize(&WindowOptions::default()).await.unwrap();
    let scopes = bed.scopes.clone();
    for s in &scopes[..3] {
        promote(&mut bed, s).await;
    }
    let mut before = Vec::new();
    for s in &scopes {
        before.push(rows(&bed, s).await);
    }
    for tables in [purge(&bed.store, &scopes[0], false).await, purge(&bed.store, &scopes[2], false).await] {
        for (table, strategy) in tables {
            let wanted = if table == "job_states" { PurgeStrategy::Delete } else { PurgeStrategy::PartitionTruncate };
            assert_eq!(strategy, wanted, "{table}");
        }
    }
    for at in [0, 2] {
        assert!(rows(&bed, &scopes[at]).await.iter().all(|(_, rows)| *rows == 0));
        assert_eq!(own_tables(&bed, &scopes[at]).await, all(), "the emptied partitions stay");
    }
    for at in [1, 3] {
        assert_eq!(rows(&bed, &scopes[at]).await, before[at], "{}", scopes[at]);
    }
    // Written again, it is in its own partition, and purged again.
    let s = &scopes[0];
    bed.store.write(WriteBuilder::new(s).input("again").node("a", "again").prepared()).await.unwrap();
    purge(&bed.store, s, false).await;
    assert_sound(&*bed.store).await;
}

/// Until the end the flat tables are kept current, also when a partition is truncated; so that a rollback brings nothing back.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_purged_before_the_end_is_gone_after_a_rollback_too() {
    let mut bed = Bed::ensured().await;
    let scopes = bed.scopes.clone();
    promote(&mut bed, &scopes[2]).await;
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    bed.get_ready().await;
    bed.cutover().await;
    promote(&mut bed, &scopes[0]).await;
    for s in [&scopes[0], &scopes[2], &scopes[3]] {
        purge(&bed.store, s, false).await;
    }
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    // What holds several scopes cannot be truncated.
    let truncated = sqlx::raw_sql("TRUNCATE memory_nodes_p_h000").execute(&mut bed.owner().await).await;
    assert!(truncated.unwrap_err().to_string().contains("cannot be mirrored"));
    bed.admin.rollback(&WindowOptions::default()).await.unwrap();
    for s in [&scopes[0], &scopes[2], &scopes[3]] {
        assert!(rows(&bed, s).await.iter().all(|(_, rows)| *rows == 0), "{s}");
    }
    assert!(rows(&bed, &scopes[1]).await.iter().any(|(_, rows)| *rows > 0));
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    assert_sound(&*bed.store).await;
}

/// Which part a scope is in is what the table says, not what was noted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_looked_for_in_the_parts_there_are() {
    let mut bed = Bed::finalized_with(3).await;
    execute(&mut bed.owner().await, "UPDATE partition_cutover SET hash_partitions = 16").await;
    for s in bed.scopes.clone() {
        promote(&mut bed, &s).await;
        bed.store.write(WriteBuilder::new(&s).input("after").node("n1", "after").prepared()).await.unwrap();
    }
    assert_sound(&*bed.store).await;
}

/// A reader of another part keeps the scope from being shut out of it. Nothing of the try is left that writers would feel.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_fails_takes_back_what_it_has_made() {
    let mut bed = Bed::finalized_with(4).await;
    let (s, mut owner) = (bed.scopes[0].clone(), bed.owner().await);
    let held = "SELECT tableoid::regclass::text FROM memory_nodes WHERE scope_key = 'acme/perf_1' LIMIT 1";
    let mine: String = sqlx::query(held).fetch_one(&mut owner).await.unwrap().get(0);
    let other = (0..4).map(|n| format!("memory_nodes_p_h{n:03}")).rfind(|part| *part != mine).unwrap();
    let mut reader = bed.owner().await;
    execute(&mut reader, &format!("BEGIN; SELECT count(*) FROM {other}")).await;
    let window = WindowOptions { attempts_max: 1, ..WindowOptions::default() };
    let options = PromoteOptions { window, ..PromoteOptions::default() };
    let error = bed.admin.promote_scope(&s, &options).await.unwrap_err().to_string();
    assert!(error.contains(&other) && !error.contains("could not be removed"), "{error}");
    for left in [
        "SELECT count(*) FROM pg_class WHERE relname ~ '^memory_nodes_p_.*_(new|old)$'",
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'aionis\\_stage\\_%'",
        "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'without\\_%'",
    ] {
        assert_eq!(number(&mut owner, left).await, 0, "{left}");
    }
    drop(reader);
    promote(&mut bed, &s).await;
    assert_sound(&*bed.store).await;
}

/// Copies of memories that a killed promotion has left do not outlive the change.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_promotion_is_left_when_the_change_ends() {
    for ends in ["discarded", "finalized"] {
        let mut bed = if ends == "discarded" { Bed::backfilled().await } else { Bed::cut_over().await };
        let mut owner = bed.owner().await;
        execute(
            &mut owner,
            "CREATE TABLE memory_nodes_p_h000_old (a int); CREATE TABLE memory_edges_p_0123456789abcdef_new (a int); \
             CREATE FUNCTION aionis_stage_memory_edges() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        )
        .await;
        if ends == "discarded" {
            bed.admin.discard(&WindowOptions::default()).await.unwrap();
        } else {
            bed.admin.finalize(&WindowOptions::default()).await.unwrap();
        }
        let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname ~ '_(new|old)$' AND relkind = 'r') \
                    + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'aionis\\_stage\\_%')";
        assert_eq!(number(&mut owner, left).await, 0, "{ends}");
        assert_sound(&*bed.store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_was_broken_off_is_done_by_the_next_run() {
    let mut bed = Bed::cut_over().await;
    bed.admin.finalize(&WindowOptions::default()).await.unwrap();
    let s = bed.scopes[0].clone();
    // A reader of the third table keeps its exchange from being made.
    let reader = bed.database.hold("BEGIN; SELECT count(*) FROM memory_node_versions").await;
    let window = WindowOptions { attempts_max: 1, ..WindowOptions::default() };
    let options = PromoteOptions { window, ..PromoteOptions::default() };
    let error = bed.admin.promote_scope(&s, &options).await.unwrap_err().to_string();
    assert!(error.contains("memory_node_versions"), "{error}");
    // Its tables are left, and the mirror into them; writers work on.
    let text = "between";
    bed.store.write(WriteBuilder::new(&s).input(text).node("n1", text).prepared()).await.unwrap();
    drop(reader);
    promote(&mut bed, &s).await;
    assert_eq!(own_tables(&bed, &s).await, all());
    assert_sound(&*bed.store).await;
    let asked = bed.store.purge_state(&s).await;
    assert!(!matches!(asked, Err(StoreError::Driver(_))));
    execute(&mut bed.owner().await, "SELECT 1").await;
}

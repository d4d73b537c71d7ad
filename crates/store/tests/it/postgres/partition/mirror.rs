//! The mirror against the copy: whatever is changed or removed while older rows are copied.

use aionis_core::partition::CutoverState;
use aionis_store::postgres::partition::{BackfillOptions, VerifyOptions, WindowOptions};
use aionis_testkit::fixtures::Rng;
use sqlx::{AssertSqlSafe, Row};

use super::{Bed, execute, number};

fn small(batches: u64) -> BackfillOptions {
    BackfillOptions { batch_size: 3, batches_max: Some(batches), ..BackfillOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_changed_and_removed_before_and_after_their_copy_are_so_in_the_twin() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    let total = number(&mut owner, "SELECT count(*) FROM memory_nodes").await;
    // The work comes first, then nodes: some of them are copied, some not.
    let mut batches = 0;
    while number(&mut owner, "SELECT count(*) FROM memory_nodes_v2").await < 9 {
        assert_eq!(bed.admin.backfill(&small(1)).await.unwrap().state, CutoverState::Mirroring);
        batches += 1;
        assert!(batches < 1_000);
    }
    for place in ["ORDER BY scope_key, id", "ORDER BY scope_key DESC, id DESC"] {
        let some = |n: u32| format!("(SELECT ctid FROM memory_nodes {place} OFFSET {n} LIMIT 1)");
        execute(&mut owner, &format!("UPDATE memory_nodes SET title = 'changed' WHERE ctid = {}", some(0))).await;
        execute(&mut owner, &format!("DELETE FROM memory_nodes WHERE ctid = {}", some(1))).await;
        // A row that gets another key is removed and made in one.
        let moved = format!("UPDATE memory_nodes SET id = gen_random_uuid() WHERE ctid = {}", some(1));
        execute(&mut owner, &moved).await;
    }
    let end = BackfillOptions { batch_size: 7, ..BackfillOptions::default() };
    assert_eq!(bed.admin.backfill(&end).await.unwrap().state, CutoverState::Backfilled);
    let verified = bed.admin.verify(&VerifyOptions::default()).await.unwrap();
    assert!(verified.ok, "{verified:?}");
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_nodes_v2").await, total - 2);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_nodes_v2 WHERE title = 'changed'").await, 2);
    assert!(bed.admin.gap().await.unwrap().ok);
}

/// Changes at random by several connections, as fast as they can, while everything is copied three rows at a time.
#[tokio::test(flavor = "multi_thread")]
async fn ops_18_changes_at_random_beside_the_copy_leave_both_layouts_equal() {
    let mut bed = Bed::ensured().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..3_u64)
        .map(|seed| {
            let (stop, mut rng, url) = (std::sync::Arc::clone(&stop), Rng::new(seed + 1), bed.database.url());
            tokio::spawn(async move {
                let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
                let mut changed = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let at = rng.below(24);
                    let row =
                        format!("(SELECT scope_key, id FROM memory_nodes ORDER BY scope_key, id OFFSET {at} LIMIT 2)");
                    let sql = match rng.below(4) {
                        0 => format!("DELETE FROM memory_nodes WHERE (scope_key, id) IN {row}"),
                        1 => format!(
                            "UPDATE memory_nodes SET title = md5(random()::text) WHERE (scope_key, id) IN {row}"
                        ),
                        2 => format!("UPDATE memory_nodes SET id = gen_random_uuid() WHERE (scope_key, id) IN {row}"),
                        _ => {
                            "INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
                              VALUES ('acme/s', (random() * 9)::int::text, '', random()::text, 0) \
                              ON CONFLICT (scope_key, request_key) DO UPDATE SET outcome = excluded.outcome"
                                .to_owned()
                        }
                    };
                    let sql = match rng.below(5) {
                        0 => format!("BEGIN; {sql}; ROLLBACK"),
                        1 => format!("BEGIN; {sql}; SAVEPOINT s; {sql}; ROLLBACK TO s; COMMIT"),
                        _ => sql,
                    };
                    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await {
                        Ok(_) => changed += 1,
                        // Writers among themselves, without order; what they did is undone in both layouts.
                        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("40P01") => {
                            sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
                changed
            })
        })
        .collect();
    let options = BackfillOptions { batch_size: 3, ..BackfillOptions::default() };
    assert_eq!(bed.admin.backfill(&options).await.unwrap().state, CutoverState::Backfilled);
    let during = bed.admin.verify(&VerifyOptions::default()).await.unwrap();
    assert!(during.ok, "in one state of the database both are equal, also beside writers: {during:?}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut changed = 0;
    for writer in writers {
        changed += writer.await.unwrap();
    }
    assert!(changed > 0);
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
}

/// However the server guesses how many rows lie between two keys, no batch reads the table as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_copy_reads_rows_by_their_keys() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    execute(
        &mut owner,
        "INSERT INTO memory_edges (scope_key, id, type, src_id, dst_id, weight, confidence, decay_rate, created_at, commit_seq, change_no) \
         SELECT 'acme/s', gen_random_uuid(), 'related_to', gen_random_uuid(), gen_random_uuid(), 1, 1, 0, 0, 1, n \
         FROM generate_series(1, 20000) n; ANALYZE",
    )
    .await;
    let read = "SELECT (COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables \
                WHERE relname = 'memory_edges'";
    let before = number(&mut owner, read).await;
    let mut hand = super::admin(&bed.database).await;
    let options = BackfillOptions { batch_size: 500, ..BackfillOptions::default() };
    assert_eq!(hand.backfill(&options).await.unwrap().state, CutoverState::Backfilled);
    let pid = hand.backend_pid().await.unwrap();
    // The server has all figures when the connection is gone.
    drop(hand);
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    while number(&mut owner, &there).await > 0 {}
    let seen = number(&mut owner, read).await - before;
    assert!((20_000..=80_000).contains(&seen), "{seen} rows were read of 20,000");
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
}

/// A row that gets the last key of all while the copy waits for it does not make the copy believe it has come that far.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_changed_under_the_copy_does_not_make_it_pass_over_rows() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    let mut batches = 0;
    while number(&mut owner, "SELECT count(*) FROM memory_nodes_v2").await == 0 {
        bed.admin.backfill(&small(1)).await.unwrap();
        batches += 1;
        assert!(batches < 1_000);
    }
    // The last row of the next batch.
    let next = "(SELECT ctid FROM memory_nodes n WHERE NOT EXISTS (SELECT 1 FROM memory_nodes_v2 t WHERE (t.scope_key, t.id) = \
                (n.scope_key, n.id)) ORDER BY scope_key, id OFFSET 2 LIMIT 1)";
    let mut changing = bed.owner().await;
    let last = format!("BEGIN; UPDATE memory_nodes SET scope_key = 'zz/z', id = gen_random_uuid() WHERE ctid = {next}");
    assert_eq!(execute(&mut changing, &last).await, 1);
    let mut hand = super::admin(&bed.database).await;
    let pid = hand.backend_pid().await.unwrap();
    let changed = async {
        let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        while number(&mut owner, &waiting).await == 0 {}
        execute(&mut changing, "COMMIT").await;
    };
    let options = small(u64::MAX);
    let (copied, ()) = tokio::join!(hand.backfill(&options), changed);
    assert_eq!(copied.unwrap().state, CutoverState::Backfilled);
    let verified = bed.admin.verify(&VerifyOptions::default()).await.unwrap();
    assert!(verified.ok, "{verified:?}");
}

/// Without its lock the copy would bring a row back that was removed between reading and storing it. Here the removal waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_being_copied_is_removed_from_both_or_from_neither() {
    let mut bed = Bed::ensured().await;
    bed.admin.backfill(&small(1)).await.unwrap();
    let mut owner = bed.owner().await;
    let (mut copying, mut removing) = (bed.owner().await, bed.owner().await);
    // The statement of the copy, held open before it is stored.
    execute(
        &mut copying,
        "BEGIN; CREATE TEMP TABLE batch AS SELECT * FROM memory_requests ORDER BY scope_key, request_key LIMIT 3 FOR KEY SHARE",
    )
    .await;
    let pid: i32 = sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut removing).await.unwrap().get(0);
    let removal = tokio::spawn(async move { execute(&mut removing, "DELETE FROM memory_requests").await });
    let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
    while number(&mut owner, &waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    execute(
        &mut copying,
        "INSERT INTO memory_requests_v2 (scope_key, request_key, request_sha256, outcome, created_at) \
         SELECT scope_key, request_key, request_sha256, outcome, created_at FROM batch; COMMIT",
    )
    .await;
    assert!(removal.await.unwrap() > 3);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_requests_v2").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mirrored_is_refused_and_changes_neither() {
    let mut bed = Bed::backfilled().await;
    let mut owner = bed.owner().await;
    for (sql, wanted) in [
        ("TRUNCATE memory_nodes", "cannot be mirrored"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM memory_nodes", "READ COMMITTED"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE memory_nodes SET title = 'x'", "READ COMMITTED"),
    ] {
        let error = sqlx::raw_sql(sql).execute(&mut owner).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{sql}: {error}");
        execute(&mut owner, "ROLLBACK").await;
    }
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    // Changes of sessions that call themselves replicas are mirrored too.
    execute(&mut owner, "SET session_replication_role = replica; UPDATE memory_nodes SET title = 'replicated'").await;
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    assert!(number(&mut owner, "SELECT count(*) FROM memory_nodes_v2 WHERE title = 'replicated'").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ops_18_a_dry_run_ends_and_counts_each_row_once() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    let total = number(&mut owner, "SELECT count(*) FROM memory_nodes").await;
    let dry = BackfillOptions { dry_run: true, ..small(1) };
    for _ in 0..2 {
        let told = bed.admin.backfill(&dry).await.unwrap();
        let nodes = told.tables.iter().find(|table| table.table == "memory_nodes").unwrap();
        assert_eq!((nodes.seen, nodes.copied), (total.unsigned_abs(), total.unsigned_abs()));
        assert_eq!((told.state, bed.admin.state().await.unwrap()), (CutoverState::Ensured, CutoverState::Ensured));
    }
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    let none: u64 = bed.admin.status(1).await.unwrap().tables.iter().map(|table| table.copied).sum();
    assert!(none >= total.unsigned_abs());
    bed.admin.discard(&WindowOptions::default()).await.unwrap();
}

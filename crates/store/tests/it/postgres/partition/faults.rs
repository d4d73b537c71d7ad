//! What is planted against a change is found, and a command that is killed is gone on with.

use aionis_core::partition::CutoverState;
use aionis_store::postgres::partition::{BackfillOptions, VerifyOptions, WindowOptions};
use sqlx::AssertSqlSafe;

use super::{Bed, admin, checks, execute, number};

/// Every trigger of a table is switched off and on again.
const OFF_AND_ON: &str = "DO $$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM pg_trigger \
                          WHERE tgrelid = 'memory_nodes'::regclass AND NOT tgisinternal LOOP \
                              EXECUTE format('ALTER TABLE memory_nodes DISABLE TRIGGER %I', t); \
                              EXECUTE format('ALTER TABLE memory_nodes ENABLE ALWAYS TRIGGER %I', t); \
                          END LOOP; END $$";

/// A violation, the checks it fails, and a part of the reason.
const PLANTED: &[(&str, &[&str], &str)] = &[
    (
        "UPDATE memory_nodes_v2 SET text_summary = text_summary || '.' WHERE id = (SELECT min(id::text)::uuid FROM memory_nodes_v2)",
        &["verify"],
        "changed",
    ),
    (
        "DELETE FROM memory_nodes_v2 WHERE id = (SELECT min(id::text)::uuid FROM memory_nodes_v2)",
        &["verify", "gap"],
        "missing",
    ),
    (
        "INSERT INTO memory_requests_v2 (scope_key, request_key, request_sha256, outcome, created_at) VALUES ('acme/s', 'k', '', '', 0)",
        &["verify", "gap"],
        "extra",
    ),
    (
        "DELETE FROM memory_vectors_v2 WHERE scope_key = 'acme/perf_1'",
        &["verify", "gap", "shadow_read"],
        "memory_vectors",
    ),
    (
        "ALTER TABLE memory_edges DISABLE TRIGGER aionis_mirror_memory_edges_delete",
        &["mirror_active", "mirror_uninterrupted"],
        "memory_edges (3 of 4",
    ),
    (
        "ALTER TABLE memory_edges ENABLE TRIGGER aionis_mirror_memory_edges_delete",
        &["mirror_active", "mirror_uninterrupted"],
        "memory_edges (3 of 4",
    ),
    (OFF_AND_ON, &["mirror_uninterrupted"], "switched"),
    (
        "DROP TRIGGER aionis_mirror_memory_requests_update ON memory_requests",
        &["mirror_active", "mirror_uninterrupted", "mirror_probe"],
        "update",
    ),
    (
        "CREATE OR REPLACE FUNCTION aionis_mirror_memory_requests() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
      AS 'BEGIN RETURN NULL; END'",
        &["mirror_uninterrupted", "mirror_probe"],
        "insert",
    ),
    ("DROP INDEX memory_nodes_tier_v2", &["twins_match"], "memory_nodes_tier"),
    ("ALTER TABLE memory_nodes ADD COLUMN later text", &["twins_match", "verify"], "later"),
    ("DROP POLICY tenant ON memory_nodes_v2", &["rls_and_grants", "shadow_read"], "policy tenant"),
    ("CREATE PUBLICATION moved FOR TABLE memory_edges", &["not_replicated"], "publication moved of memory_edges"),
    ("GRANT TRUNCATE ON memory_nodes_v2 TO aionis_runtime", &["rls_and_grants"], "TRUNCATE"),
    ("ALTER TABLE memory_nodes_v2 DISABLE ROW LEVEL SECURITY", &["rls_and_grants"], "row level security"),
    (
        "SET allow_system_table_mods = on; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'memory_merges_p_h001_pkey'::regclass",
        &["indexes_valid"],
        "memory_merges_p_h001_pkey",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn ops_10_each_planted_violation_fails_its_checks_and_is_told() {
    let mut bed = Bed::backfilled().await;
    bed.get_ready().await;
    assert!(bed.failing().await.is_empty());
    for (sql, wanted, reason) in PLANTED {
        let mut bed = Bed::backfilled().await;
        execute(&mut bed.owner().await, sql).await;
        assert_eq!(bed.failing().await, *wanted, "{sql}");
        let reasons = bed.judged().await.readiness.fail_reasons.join("\n");
        assert!(reasons.contains(reason), "{sql}: {reasons}");
        assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Backfilled, "judging changes nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_text_fails_verification_and_takes_readiness_back() {
    let mut bed = Bed::ready().await;
    let mut owner = bed.owner().await;
    let sql = "UPDATE memory_nodes_v2 SET text_summary = 'other' WHERE scope_key = 'acme/perf_1' AND client_id = 'n2'";
    assert_eq!(execute(&mut owner, sql).await, 1);
    let report = bed.admin.readiness(&checks(), "bad").await.unwrap();
    assert!(!report.readiness.ok);
    assert_eq!(report.state, CutoverState::Backfilled);
    let error = bed.admin.cutover(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("aionis partition verify"), "{error}");
    let verified = bed.admin.verify(&VerifyOptions::default()).await.unwrap();
    assert!(!verified.ok);
    let nodes = verified.tables.iter().find(|table| table.table == "memory_nodes").unwrap();
    assert_eq!((nodes.differing_buckets.len(), nodes.samples.len()), (1, 1));
    assert_eq!((nodes.samples[0].key[0].as_str(), nodes.samples[0].difference), ("acme/perf_1", "changed"));
    assert_eq!(nodes.source_rows, nodes.target_rows, "numbers of rows say nothing");
    assert!(bed.admin.gap().await.unwrap().ok);
    execute(&mut owner, "UPDATE memory_nodes SET text_summary = text_summary WHERE client_id = 'n2'").await;
    bed.get_ready().await;
    bed.cutover().await;
}

/// What the mirror missed is not found by looking at the mirror.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_off_for_a_moment_keeps_the_cutover_and_the_copy_from_going_on() {
    let mut bed = Bed::ready().await;
    let mut owner = bed.owner().await;
    let off = OFF_AND_ON;
    execute(&mut owner, off).await;
    let error = bed.admin.cutover(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("not the one that was set up"), "{error}");
    assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Ready);
    let mut bed = Bed::ensured().await;
    let one = BackfillOptions { batches_max: Some(1), ..BackfillOptions::default() };
    bed.admin.backfill(&one).await.unwrap();
    execute(&mut bed.owner().await, off).await;
    let error = bed.admin.backfill(&one).await.unwrap_err().to_string();
    assert!(error.contains("not the one that was set up"), "{error}");
    let mut bed = Bed::cut_over().await;
    execute(&mut bed.owner().await, off).await;
    let error = bed.admin.rollback(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("may lack changes"), "{error}");
    assert_eq!(bed.failing().await, ["mirror_uninterrupted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_inconclusive() {
    let database = aionis_testkit::postgres::TempDatabase::flat().await;
    let mut hand = admin(&database).await;
    let before = hand.check_readiness(&checks()).await.unwrap();
    assert!(before.readiness.fail_reasons[0].starts_with("twins_exist"), "{:?}", before.readiness.fail_reasons);
    hand.ensure(&super::ENSURE).await.unwrap();
    hand.backfill(&BackfillOptions::default()).await.unwrap();
    hand.verify(&VerifyOptions::default()).await.unwrap();
    let report = hand.readiness(&checks(), "empty").await.unwrap();
    assert_eq!(report.readiness.fail_reasons, ["shadow_read: no vector is stored that could be asked for"]);
    assert_eq!(report.state, CutoverState::Verified);
    let accepting = aionis_store::postgres::partition::ReadinessOptions { accept_inconclusive: true, ..checks() };
    let report = hand.readiness(&accepting, "empty").await.unwrap();
    assert!(!report.readiness.ok);
    assert_eq!(report.state, CutoverState::Ready);
}

/// The server ends the command's connection at each of its steps in turn, until one run gets to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_anywhere_is_gone_on_with_by_the_next_run() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    let mut kills = 0;
    loop {
        let mut hand = admin(&bed.database).await;
        let pid = hand.backend_pid().await.unwrap();
        let options = BackfillOptions { batch_size: 4, ..BackfillOptions::default() };
        let kill = async {
            // Later with each run, by statements of the victim and not by time.
            let sql = format!("SELECT pg_terminate_backend({pid}) FROM pg_stat_activity WHERE pid = {pid}");
            for _ in 0..kills * 8 {
                sqlx::query("SELECT count(*) FROM memory_nodes").execute(&mut owner).await.unwrap();
            }
            sqlx::query(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
            std::future::pending::<()>().await;
        };
        let ran = tokio::select! {
            ran = hand.backfill(&options) => ran,
            () = kill => unreachable!(),
        };
        match ran {
            Ok(report) => {
                assert_eq!(report.state, CutoverState::Backfilled);
                break;
            }
            Err(_) => kills += 1,
        }
        // The end may be stored before the command is told of it.
        if bed.admin.state().await.unwrap() == CutoverState::Backfilled {
            break;
        }
        assert!(kills < 500, "no run gets to its end");
    }
    assert!(kills > 0);
    let mut owner = bed.owner().await;
    let total = number(&mut owner, "SELECT count(*) FROM memory_nodes").await;
    let nodes = bed.admin.status(0).await.unwrap().tables.into_iter().find(|t| t.table == "memory_nodes").unwrap();
    assert_eq!((nodes.seen, nodes.done), (total.unsigned_abs(), true), "no batch is done twice");
    bed.get_ready().await;
    // The exchange is there as a whole or not at all.
    let mut kills = 0;
    loop {
        let mut hand = admin(&bed.database).await;
        let pid = hand.backend_pid().await.unwrap();
        let kill = async {
            let sql = format!("SELECT pg_terminate_backend({pid}) FROM pg_stat_activity WHERE pid = {pid}");
            for _ in 0..kills * 40 {
                sqlx::query("SELECT 1").execute(&mut owner).await.unwrap();
            }
            sqlx::query(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
            std::future::pending::<()>().await;
        };
        let window = WindowOptions::default();
        let ran = tokio::select! {
            ran = hand.cutover(&window) => ran,
            () = kill => unreachable!(),
        };
        let flat = "SELECT count(*) FROM pg_class WHERE relname IN ('memory_nodes', 'memory_outbox') AND relkind = 'r'";
        let mut owner = bed.owner().await;
        let (flat, state) = (number(&mut owner, flat).await, bed.admin.state().await.unwrap());
        match state {
            CutoverState::CutOver => assert_eq!(flat, 0),
            state => assert_eq!((state, flat), (CutoverState::Ready, 2)),
        }
        if ran.is_ok() || state == CutoverState::CutOver {
            break;
        }
        kills += 1;
        assert!(kills < 500, "no run gets to its end");
    }
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
}

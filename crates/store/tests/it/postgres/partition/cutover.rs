//! The whole way under writers and readers, the way back, and the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aionis_core::{
    ids::ScopeKey,
    partition::CutoverState,
    ports::store::{LexicalQuery, OutboxStore, RecallAudit, RecallReader, RecallStore, WriteStore},
    text,
};
use aionis_store::postgres::{
    PostgresStore,
    partition::{BackfillOptions, PartitionError, VerifyOptions, WindowOptions},
};
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, START, WriteBuilder, anyone, everything, scope_of},
};

use super::{Bed, ENSURE, execute, number};

/// Writers and readers that never stop; each error is kept.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<(ScopeKey, u64, Vec<String>)>>,
}

async fn write(store: &PostgresStore, s: &ScopeKey, n: u64) -> Result<(), String> {
    let (name, text) = (format!("load{n}"), format!("ferry {n}"));
    let write = WriteBuilder::new(s)
        .deriving()
        .input(&text)
        .key(&text, true)
        .node(&name, &text)
        .vector(vec![1.0; DIM])
        .node("hub", &text)
        .edge(&name, "hub");
    store.write(write.prepared()).await.map(drop).map_err(|e| format!("write: {e}"))
}

async fn recall(store: &PostgresStore, s: &ScopeKey) -> Result<(), String> {
    let query =
        LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms: text::query_terms("ferry"), limit: 10 };
    store.lexical(query).await.map_err(|e| format!("recall: {e}"))?;
    store.scope_status(s).await.map_err(|e| format!("status: {e}"))?;
    let audit = RecallAudit {
        scope: s.clone(),
        endpoint: "recall",
        viewer: anyone(),
        query_sha256: "q".to_owned(),
        seeds: 1,
        nodes: 1,
        edges: 0,
        at: START,
    };
    store.record_recalls(vec![audit]).await.map_err(|e| format!("audit: {e}"))?;
    store.outbox_status().await.map(drop).map_err(|e| format!("outbox: {e}"))
}

impl Load {
    fn start(stores: &[Arc<PostgresStore>], scopes: &[ScopeKey]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for (at, s) in scopes.iter().enumerate() {
            let (s, stop, done) = (s.clone(), Arc::clone(&stop), Arc::clone(&done));
            let (store, other) = (Arc::clone(&stores[at % stores.len()]), Arc::clone(&stores[(at + 1) % stores.len()]));
            tasks.push(tokio::spawn(async move {
                let (mut n, mut errors) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match write(&store, &s, n).await {
                        Ok(()) => n += 1,
                        Err(error) => errors.push(error),
                    }
                    errors.extend(recall(&other, &s).await.err());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                (s, n, errors)
            }));
        }
        Self { stop, done, tasks }
    }

    /// Waits until everybody has done something more.
    async fn goes_on(&self) {
        let from = self.done.load(Ordering::Relaxed);
        while self.done.load(Ordering::Relaxed) < from + 3 * self.tasks.len() as u64 {
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "a writer panicked");
            tokio::task::yield_now().await;
        }
    }

    /// Acknowledged writes by scope.
    async fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = BTreeMap::new();
        for task in self.tasks {
            let (s, n, errors) = task.await.unwrap();
            assert!(errors.is_empty(), "requests failed: {errors:?}");
            written.insert(s.as_str().to_owned(), n);
        }
        written
    }
}

async fn nothing_is_lost(bed: &Bed, written: &BTreeMap<String, u64>) {
    let mut owner = bed.owner().await;
    for (s, n) in written {
        let key = s.replace('\'', "''");
        let of = |table: &str, more: &str| format!("SELECT count(*) FROM {table} WHERE scope_key = '{key}' {more}");
        let nodes = number(&mut owner, &of("memory_nodes", "AND client_id LIKE 'load%'")).await;
        assert_eq!(nodes.unsigned_abs(), *n, "{s}: every acknowledged node is there once");
        let edges = number(&mut owner, &of("memory_edges", "")).await;
        assert!(edges.unsigned_abs() >= *n);
    }
    assert_sound(&*bed.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ops_02_the_whole_way_under_writers_and_readers_fails_no_request_and_loses_nothing() {
    let mut bed = Bed::new().await;
    let stores = [Arc::clone(&bed.store), super::open(&bed.database).await];
    let mut scopes = bed.scopes.clone();
    scopes.push(scope_of("acme", "new"));
    let load = Load::start(&stores, &scopes);
    load.goes_on().await;
    bed.admin.ensure(&ENSURE).await.unwrap();
    load.goes_on().await;
    let options = BackfillOptions { batch_size: 10, ..BackfillOptions::default() };
    assert_eq!(bed.admin.backfill(&options).await.unwrap().state, CutoverState::Backfilled);
    load.goes_on().await;
    bed.get_ready().await;
    load.goes_on().await;
    let swapped = bed.cutover().await;
    assert!(swapped.window_ms <= 2_000 && swapped.failed_window_max_ms <= 2_000, "{swapped:?}");
    load.goes_on().await;
    let verified = bed.admin.verify(&VerifyOptions::default()).await.unwrap();
    assert!(verified.ok, "the flat tables are kept current: {verified:?}");
    // Back, and there again.
    let back = bed.admin.rollback(&WindowOptions::default()).await.unwrap();
    assert_eq!(back.state, CutoverState::Backfilled);
    load.goes_on().await;
    bed.get_ready().await;
    bed.cutover().await;
    load.goes_on().await;
    assert_eq!(bed.admin.finalize(&WindowOptions::default()).await.unwrap().state, CutoverState::Finalized);
    load.goes_on().await;
    let written = load.end().await;
    nothing_is_lost(&bed, &written).await;
    let mut owner = bed.owner().await;
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '_(flat|v2)$' OR relname LIKE '%\\_new'";
    assert_eq!(number(&mut owner, left).await, 0, "nothing of the change is left");
    let made = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'aionis\\_%'";
    assert_eq!(number(&mut owner, made).await, 0);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0);
    assert!(bed.judged().await.readiness.ok);
    for store in &stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_the_new_layout_is_there_after_a_rollback() {
    let mut bed = Bed::cut_over().await;
    let s = bed.scopes[0].clone();
    for n in 0..5 {
        write(&bed.store, &s, n).await.unwrap();
    }
    execute(
        &mut bed.owner().await,
        "DELETE FROM memory_nodes WHERE client_id = 'n3'; UPDATE memory_nodes SET title = 'x'",
    )
    .await;
    bed.admin.rollback(&WindowOptions::default()).await.unwrap();
    let mut owner = bed.owner().await;
    let flat = "SELECT count(*) FROM pg_class WHERE relname = 'memory_nodes' AND relkind = 'r'";
    assert_eq!(number(&mut owner, flat).await, 1);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_nodes WHERE client_id LIKE 'load%'").await, 5);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_nodes WHERE client_id = 'n3' OR title <> 'x'").await, 0);
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
    // Away with the twins; then everything from the beginning.
    let again = bed.admin.rollback(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(again.contains("--drop-twins"), "who asks twice loses nothing: {again}");
    assert_eq!(bed.admin.discard(&WindowOptions::default()).await.unwrap().state, CutoverState::RolledBack);
    assert_eq!(number(&mut owner, "SELECT count(*) FROM pg_class WHERE relname ~ '_v2$' OR relname ~ '_p_'").await, 0);
    write(&bed.store, &s, 5).await.unwrap();
    bed.admin.ensure(&ENSURE).await.unwrap();
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    bed.get_ready().await;
    bed.cutover().await;
    write(&bed.store, &s, 6).await.unwrap();
    assert_eq!(number(&mut owner, "SELECT count(*) FROM memory_nodes WHERE client_id LIKE 'load%'").await, 7);
}

/// What is left to tidy up does not make a rollback that was done look like one that was not.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_one_partition_does_not_keep_a_rollback_from_being_told() {
    let mut bed = Bed::cut_over().await;
    let error = bed.admin.discard(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("without --drop-twins"), "the tables in use are dropped by nobody: {error}");
    let reader = bed.database.hold("BEGIN; SELECT count(*) FROM memory_nodes_p_h000").await;
    let window = WindowOptions { attempts_max: 1, ..WindowOptions::default() };
    let back = bed.admin.rollback(&window).await.unwrap();
    assert_eq!(back.state, CutoverState::Backfilled);
    assert!(back.note.is_some_and(|note| note.contains("memory_nodes_p_h000")));
    drop(reader);
    bed.get_ready().await;
    bed.cutover().await;
    assert!(bed.admin.rollback(&WindowOptions::default()).await.unwrap().note.is_none());
}

/// Maintenance holds a lock that writers do not wait for. Whoever waits for its end has not asked for the locks they wait for.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_while_a_cutover_waits_for_maintenance() {
    let mut bed = Bed::ready().await;
    let maintenance = bed.database.hold("BEGIN; LOCK TABLE memory_nodes IN SHARE UPDATE EXCLUSIVE MODE").await;
    let (mut owner, mut hand) = (bed.owner().await, super::admin(&bed.database).await);
    let window = WindowOptions { attempts_max: 1, ..WindowOptions::default() };
    // Databases of other tests have tables of the same numbers.
    let of_ours = "SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let waits = format!(
        "{of_ours} AND relation = 'memory_nodes'::regclass AND NOT granted AND mode = 'ShareUpdateExclusiveLock'"
    );
    let asked = format!("{of_ours} AND relation = 'memory_scopes'::regclass AND mode = 'AccessExclusiveLock'");
    let watched = async {
        while number(&mut owner, &waits).await == 0 {}
        while number(&mut owner, &waits).await == 1 {
            assert_eq!(number(&mut owner, &asked).await, 0);
            write(&bed.store, &bed.scopes[0], 0).await.unwrap();
        }
    };
    let (cutover, ()) = tokio::join!(hand.cutover(&window), watched);
    let error = cutover.unwrap_err().to_string();
    assert!(error.contains("memory_nodes") && error.contains("1 tries"), "{error}");
    drop(maintenance);
    bed.cutover().await;
}

/// Who began to read before everything was copied would miss rows in the twins.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_sees_a_state_from_before_the_copy_keeps_the_cutover_from_being_made() {
    let mut bed = Bed::ensured().await;
    let reader = bed.database.hold("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM aionis_meta").await;
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    bed.get_ready().await;
    let window = WindowOptions { attempts_max: 2, ..WindowOptions::default() };
    let error = bed.admin.cutover(&window).await.unwrap_err();
    assert!(
        matches!(error, PartitionError::Refused(_)) && error.to_string().contains("from before the copy"),
        "{error}"
    );
    assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Ready);
    drop(reader);
    bed.cutover().await;
    // One that began between copy and cutover sees everything, whichever layout it reads.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_end_is_named_and_nothing_is_changed() {
    let mut bed = Bed::ready().await;
    let reader = bed.database.hold("BEGIN; SELECT count(*) FROM memory_edges").await;
    let window = WindowOptions { attempts_max: 2, ..WindowOptions::default() };
    let error = bed.admin.cutover(&window).await.unwrap_err().to_string();
    assert!(error.contains("memory_edges") && error.contains("pid") && error.contains("2 tries"), "{error}");
    assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Ready);
    write(&bed.store, &bed.scopes[0], 0).await.unwrap();
    drop(reader);
    assert_eq!(bed.cutover().await.state, CutoverState::CutOver);
    write(&bed.store, &bed.scopes[0], 1).await.unwrap();
    assert!(bed.admin.verify(&VerifyOptions::default()).await.unwrap().ok);
}

//! What was answered is there after any end of the process.

use std::{fs, time::Duration};

use aionis_core::{
    ids::NodeId,
    ports::store::{IntegrityStore, LexicalQuery, RecallReader, StoreError, WriteStore},
};
use aionis_testkit::{
    assert_sound,
    conformance::soon,
    fixtures::{ClusteredVectors, DIM, WriteBuilder, anyone, everything, node_id, scope},
    sqlite::TempStore,
};

/// Writes nodes `n0`, `n1`, … with a word, a vector and an edge to the one before, one write each.
async fn some_writes(temp: &TempStore, from: usize, to: usize) {
    let mut vectors = ClusteredVectors::new(from as u64, DIM, 4);
    for n in from..to {
        let write = WriteBuilder::new(&scope("s")).node(&format!("n{n}"), &format!("word{n}")).vector(vectors.any());
        let write = if n > 0 { write.edge(&format!("n{n}"), &format!("n{}", n - 1)) } else { write };
        let outcome = temp.store().write(write.prepared()).await.unwrap();
        assert_eq!(outcome.commit_seq, n as u64 + 1);
    }
}

async fn assert_all(temp: &TempStore, count: usize) {
    let (s, store) = (scope("s"), temp.store());
    let verified = assert_sound(&*store).await;
    assert_eq!(
        (verified[0].commits, verified[0].nodes, verified[0].edges),
        (count as u64, count as u64, count as u64 - 1)
    );
    let ids: Vec<NodeId> = (0..count).map(|n| node_id(&s, &format!("n{n}"))).collect();
    assert_eq!(store.rows(&s, &ids).await.unwrap().len(), count);
    assert_eq!(store.stored_vectors(&s, &ids).await.unwrap().len(), count);
    assert_eq!(store.vitals(&s, &ids, &anyone()).await.unwrap().len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_dropped_without_closing_keeps_everything() {
    let mut temp = TempStore::new();
    some_writes(&temp, 0, 20).await;
    temp.abandon();
    temp.open().unwrap();
    assert_all(&temp, 20).await;
    some_writes(&temp, 20, 25).await;
    temp.reopen().await;
    assert_all(&temp, 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_keeps_everything_that_was_answered() {
    let temp = TempStore::new();
    some_writes(&temp, 0, 20).await;
    let copy = temp.crash_copy();
    assert!(copy.log().exists(), "the log was not written back: there is something to recover");
    let crashed = copy.open();
    assert_all(&crashed, 20).await;
    some_writes(&crashed, 20, 25).await;
    assert_all(&crashed, 25).await;
}

/// A log whose end was lost or damaged gives an earlier state, and a sound one.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_gives_a_sound_earlier_state() {
    let temp = TempStore::new();
    some_writes(&temp, 0, 12).await;
    let full = fs::metadata(temp.crash_copy().log()).unwrap().len();
    let mut heads = Vec::new();
    for step in 0..10 {
        let at = full * (10 - step) / 10 - 1;
        for cut in [true, false] {
            let copy = temp.crash_copy();
            if cut {
                fs::File::options().write(true).open(copy.log()).unwrap().set_len(at).unwrap();
            } else {
                let mut bytes = fs::read(copy.log()).unwrap();
                bytes[usize::try_from(at).unwrap()] ^= 0x10;
                fs::write(copy.log(), bytes).unwrap();
            }
            let crashed = copy.open();
            let verified = assert_sound(&*crashed.port()).await;
            let head = verified.first().map_or(0, |found| found.commits);
            heads.push(head);
            if head > 0 {
                assert_all(&crashed, usize::try_from(head).unwrap()).await;
            }
            some_writes(&crashed, usize::try_from(head).unwrap(), usize::try_from(head).unwrap() + 2).await;
        }
    }
    assert!(heads.is_sorted_by(|a, b| a >= b), "the more is lost the earlier the state: {heads:?}");
    assert!(heads[0] < 12 && *heads.last().unwrap() < 4, "something was lost: {heads:?}");
}

/// A store lets go of its directory when its queued writes are done, not before: another owner must not miss them.
#[tokio::test(flavor = "multi_thread")]
async fn queued_writes_are_done_before_the_directory_is_let_go() {
    let mut temp = TempStore::new();
    some_writes(&temp, 0, 1).await;
    let raw = temp.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 1..6 {
        let store = temp.store();
        let write = WriteBuilder::new(&scope("s")).node(&format!("n{n}"), "x").prepared();
        // Asked once and forgotten: the write is queued behind the transaction above.
        assert!(tokio::time::timeout(Duration::ZERO, store.write(write)).await.is_err());
    }
    let dropping = tokio::task::spawn_blocking(move || {
        temp.abandon();
        temp
    });
    tokio::task::yield_now().await;
    raw.execute_batch("COMMIT").unwrap();
    drop(raw);
    let mut temp = soon("the end of the store", dropping).await.unwrap();
    temp.open().unwrap();
    assert_eq!(temp.store().scope_status(&scope("s")).await.unwrap().head_seq, 6);
    assert_eq!(assert_sound(&*temp.port()).await[0].commits, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_refuses_writes_and_reads_on() {
    let temp = TempStore::new();
    some_writes(&temp, 0, 3).await;
    let store = temp.store();
    store.close().await;
    store.close().await;
    let refused = store.write(WriteBuilder::new(&scope("s")).node("late", "x").prepared()).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(_)), "{refused:?}");
    assert_eq!(store.scope_status(&scope("s")).await.unwrap().head_seq, 3);
    assert!(!temp.crash_copy().log().exists() || fs::metadata(temp.crash_copy().log()).unwrap().len() == 0);
}

/// A connection that has read the inverted index before must not compare what it remembers of it with what is there now.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_not_called_damaged() {
    let temp = TempStore::with(|options| options.readers = 1);
    let (s, store) = (scope("s"), temp.store());
    for round in 0..4 {
        some_writes(&temp, round * 40, round * 40 + 20).await;
        // A word nobody asked for yet is read from the inverted index; then the index changes shape.
        let terms = vec![format!("word{}", round * 40)];
        let query = LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms, limit: 5 };
        assert_eq!(store.lexical(query).await.unwrap().docs.len(), 1);
        some_writes(&temp, round * 40 + 20, (round + 1) * 40).await;
        let found = store.physical_check().await.unwrap();
        let fresh: String = temp.raw().query_row("PRAGMA integrity_check(20)", [], |row| row.get(0)).unwrap();
        assert_eq!((found, fresh.as_str()), (Vec::new(), "ok"), "round {round}");
    }
}

/// The medium's own check sees pages that rotted.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_page_is_reported() {
    let mut temp = TempStore::new();
    some_writes(&temp, 0, 30).await;
    temp.close().await;
    let mut seen = 0;
    let pages = fs::metadata(temp.database()).unwrap().len() / 4096;
    for page in (1..pages).step_by(7) {
        let copy = temp.crash_copy();
        let mut bytes = fs::read(copy.database()).unwrap();
        let start = usize::try_from(page * 4096).unwrap();
        bytes[start..start + 64].fill(0xA5);
        fs::write(copy.database(), bytes).unwrap();
        let mut options = temp.options.clone();
        options.data_dir = copy.path().to_owned();
        let found = match aionis_store::sqlite::SqliteStore::open(&options, temp.clock.clone()) {
            Ok(store) => store.physical_check().await.map_or(true, |lines| !lines.is_empty()),
            Err(_) => true,
        };
        assert!(found, "page {page} of {pages}");
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

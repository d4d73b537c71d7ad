//! Opening a data directory, and what is said when that cannot be.

use std::{fs, sync::Arc};

use aionis_core::ports::store::{RecallReader, StoreError, WriteStore};
use aionis_store::sqlite::{EmbeddingSpace, SqliteStore};
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{DIM, FakeClock, WriteBuilder, node_id, scope},
    sqlite::{TempStore, options},
};

use super::disk::Mount;

fn refused(path: &std::path::Path) -> StoreError {
    match SqliteStore::open(&options(path), FakeClock::new()) {
        Ok(_) => panic!("{} must not open", path.display()),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_owner_is_told_who_owns_the_directory() {
    let mut temp = TempStore::new();
    let error = refused(temp.path());
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unavailable(_)), "{text}");
    for part in
        [temp.path().to_str().unwrap(), &std::process::id().to_string(), "owns the data directory", "AIONIS_DATA_DIR"]
    {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    temp.store().write(WriteBuilder::new(&scope("s")).node("a", "x").prepared()).await.unwrap();
    temp.open().unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.join("data"), file] {
        let error = refused(&path);
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("AIONIS_DATA_DIR"), "{text}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let Some(mount) = Mount::of("4m") else { return };
    drop(SqliteStore::open(&options(mount.path()), FakeClock::new()).unwrap());
    mount.remount("ro");
    let error = refused(mount.path());
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error:?}");
    assert!(error.to_string().contains(mount.path().to_str().unwrap()), "{error}");
    mount.remount("rw");
    SqliteStore::open(&options(mount.path()), FakeClock::new()).unwrap();
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("aionis.db"), "certainly not a database, and long enough to be looked at".repeat(100))
        .unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Driver(_)), "{error:?}");
    assert!(error.to_string().contains("aionis.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_space_stop_the_start() {
    let mut temp = TempStore::new();
    let write = WriteBuilder::new(&scope("s")).node("a", "x").vector(vec![1.0; DIM]);
    temp.options.space = Some(EmbeddingSpace { name: "other:model".to_owned(), dim: DIM });
    temp.open().expect("a store without vectors takes any space");
    temp.store().write(write.prepared()).await.unwrap();
    for (name, dim) in [(MODEL, DIM), ("other:model", 2 * DIM)] {
        temp.options.space = Some(EmbeddingSpace { name: name.to_owned(), dim });
        let Err(StoreError::Rejected(error)) = temp.open() else { panic!("the space must not fit") };
        assert_eq!(error.code, "embedding_space_mismatch");
        assert!(error.message.contains(name) && error.message.contains("other:model"), "{}", error.message);
    }
    temp.options.space = None;
    temp.open().expect("no space configured takes the stored one");
    assert_eq!(temp.store().space().name, "other:model");
}

/// A provider that is configured later takes over the vectors callers brought before, if they are as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_takes_over_the_vectors_of_callers() {
    let mut temp = TempStore::with(|options| options.space = None);
    let (s, vector) = (scope("s"), vec![0.5; DIM]);
    temp.store().write(WriteBuilder::new(&s).node("a", "x").vector(vector.clone()).prepared()).await.unwrap();
    temp.options.space = Some(EmbeddingSpace { name: MODEL.to_owned(), dim: 2 * DIM });
    assert!(temp.open().is_err(), "vectors of other length do not compare");
    temp.options.space = Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM });
    temp.open().unwrap();
    let a = node_id(&s, "a");
    assert_eq!(temp.store().stored_vectors(&s, &[a]).await.unwrap(), [(a, vector)]);
    temp.options.space = None;
    temp.open().unwrap();
    assert_eq!(temp.store().space().name, MODEL);
}

/// A write that does not fit into the queue is refused at once; the others are done.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_loses_nothing() {
    let temp = TempStore::with(|options| options.write_queue_max = 4);
    let (s, store) = (scope("s"), temp.store());
    store.write(WriteBuilder::new(&s).node("first", "x").prepared()).await.unwrap();
    let raw = temp.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writes: Vec<_> = (0..12)
        .map(|n| {
            let (store, s) = (Arc::clone(&store), s.clone());
            tokio::spawn(async move { store.write(WriteBuilder::new(&s).node(&format!("n{n}"), "x").prepared()).await })
        })
        .collect();
    // At most four wait and a group of four is under way: some are refused, and those answer without the lock's help.
    while !writes.iter().any(tokio::task::JoinHandle::is_finished) {
        tokio::task::yield_now().await;
    }
    raw.execute_batch("COMMIT").unwrap();
    let (mut stored, mut refused) = (1, 0);
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => stored += 1,
            Err(StoreError::QueueFull { queued }) => {
                assert!(queued <= 12);
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && stored + refused == 13, "{stored} {refused}");
    assert_eq!(store.scope_status(&s).await.unwrap().nodes, stored);
}

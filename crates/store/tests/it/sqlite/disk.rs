//! Full disks, on a small file system of memory. Needs the right to mount one; without it these tests do nothing.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    ports::store::{RecallReader, StoreError, WriteStore},
};
use aionis_store::sqlite::{DATABASE_FILE, SqliteStore};
use aionis_testkit::{
    assert_sound,
    fixtures::{FakeClock, WriteBuilder, node_id, scope},
    sqlite::options,
};
use tempfile::TempDir;

/// A file system in memory, unmounted when dropped.
pub(super) struct Mount {
    dir: TempDir,
}

impl Mount {
    /// Mounts one of some size, if that is allowed here.
    pub(super) fn of(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self { dir })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Changes an option of the file system.
    pub(super) fn remount(&self, option: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{option}")]).arg(self.path()).status().unwrap();
        assert!(status.success(), "remount,{option}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

/// A write of about so many bytes that no page holds twice.
fn large(scope: &ScopeKey, name: &str, bytes: usize) -> WriteBuilder {
    let slots = serde_json::json!({ "payload": name.repeat(bytes / name.len() + 1) });
    WriteBuilder::new(scope).node(name, name).with(|node| node.slots = Some(slots))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_keeps_what_was_stored() {
    let Some(mount) = Mount::of("4m") else { return };
    let s = scope("s");
    let store = Arc::new(SqliteStore::open(&options(mount.path()), FakeClock::new()).unwrap());
    let mut stored = 0;
    let refused = loop {
        match store.write(large(&s, &format!("n{stored}"), 100_000).prepared()).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "four megabytes must fill up");
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    assert!(stored > 5, "{stored}");
    let domain = aionis_core::error::DomainError::from(refused);
    assert_eq!(domain.code, "storage_full");
    let lost = node_id(&s, &format!("n{stored}"));
    let check = async |store: &SqliteStore| {
        let verified = assert_sound(store).await;
        assert_eq!((verified[0].commits, verified[0].nodes), (stored as u64, stored as u64));
        assert!(store.rows(&s, &[lost]).await.unwrap().is_empty(), "nothing of the refused write is stored");
        assert_eq!(store.scope_status(&s).await.unwrap().nodes, stored as u64);
    };
    check(&store).await;
    for _ in 0..3 {
        let again = store.write(large(&s, &format!("n{stored}"), 100_000).prepared()).await;
        assert!(matches!(again, Err(StoreError::Full(_))), "{again:?}");
    }
    check(&store).await;
    mount.remount("size=32m");
    let outcome = store.write(large(&s, &format!("n{stored}"), 100_000).prepared()).await.unwrap();
    assert_eq!((outcome.commit_seq, outcome.replayed), (stored as u64 + 1, false));
    let ids: Vec<NodeId> = (0..=stored).map(|n| node_id(&s, &format!("n{n}"))).collect();
    assert_eq!(store.rows(&s, &ids).await.unwrap().len(), stored + 1);
    store.close().await;
    drop(store);
    let store = SqliteStore::open(&options(mount.path()), FakeClock::new()).unwrap();
    assert_eq!(assert_sound(&store).await[0].commits, stored as u64 + 1);
    assert_eq!(store.rows(&s, &ids).await.unwrap().len(), stored + 1);
}

/// Writes that share a transaction with one that fills the disk are told the reason too.
#[tokio::test(flavor = "multi_thread")]
async fn w_02_everyone_in_a_lost_transaction_learns_that_the_disk_is_full() {
    let Some(mount) = Mount::of("4m") else { return };
    let s = scope("s");
    let store = Arc::new(SqliteStore::open(&options(mount.path()), FakeClock::new()).unwrap());
    // The scope is in memory: what is taken back must be taken back there too.
    assert_eq!(store.scope_status(&s).await.unwrap().head_seq, 0);
    let prepared: Vec<_> = (0..200).map(|n| large(&s, &format!("n{n}"), 400_000).prepared()).collect();
    // The writes wait for this transaction, so that the next one has nearly all of them. They are more than the page
    // cache holds and spill into the log before their transaction ends.
    let raw = rusqlite::Connection::open(mount.path().join(DATABASE_FILE)).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut writes: Vec<_> = prepared.into_iter().map(|write| Box::pin(store.write(write))).collect();
    for write in &mut writes {
        assert!(tokio::time::timeout(Duration::ZERO, write).await.is_err(), "the write is queued");
    }
    raw.execute_batch("COMMIT").unwrap();
    drop(raw);
    let mut stored = Vec::new();
    for (n, write) in writes.into_iter().enumerate() {
        match write.await {
            Ok(_) => stored.push(node_id(&s, &format!("n{n}"))),
            Err(StoreError::Full(_)) => {}
            Err(other) => panic!("{n}: {other:?}"),
        }
    }
    assert!(stored.len() < 20, "{}", stored.len());
    let verified = assert_sound(&*store).await;
    assert_eq!(verified.first().map_or(0, |found| found.nodes), stored.len() as u64);
    assert_eq!(store.rows(&s, &stored).await.unwrap().len(), stored.len());
    let status = store.scope_status(&s).await.unwrap();
    assert_eq!((status.head_seq, status.nodes), (stored.len() as u64, stored.len() as u64));
    mount.remount("size=64m");
    store.write(large(&s, "after", 400_000).prepared()).await.unwrap();
    assert_eq!(assert_sound(&*store).await[0].nodes, stored.len() as u64 + 1);
}

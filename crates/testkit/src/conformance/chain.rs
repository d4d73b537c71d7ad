//! Chains under concurrency.

use std::{collections::BTreeSet, sync::Arc};

use aionis_core::{
    ids::ScopeKey,
    ports::store::{Store, StoreError},
    write::{PreparedWrite, WriteOutcome},
};
use tokio::{sync::Barrier, task::JoinSet};

use super::{Subject, soon};
use crate::{
    assert_sound,
    fixtures::{WriteBuilder, node_id, scope},
};

/// Sends writes all at once, each from a task of its own; outcomes in the order of the writes.
async fn at_once(subject: &Subject, writes: Vec<PreparedWrite>) -> Vec<Result<WriteOutcome, StoreError>> {
    let barrier = Arc::new(Barrier::new(writes.len()));
    let mut tasks = JoinSet::new();
    for (at, write) in writes.into_iter().enumerate() {
        let (store, barrier): (Arc<dyn Store>, _) = (Arc::clone(&subject.store), Arc::clone(&barrier));
        tasks.spawn(async move {
            barrier.wait().await;
            (at, store.write(write).await)
        });
    }
    let mut outcomes = soon("every write", tasks.join_all()).await;
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn seqs(outcomes: &[Result<WriteOutcome, StoreError>]) -> BTreeSet<u64> {
    outcomes.iter().map(|outcome| outcome.as_ref().expect("the write is stored").commit_seq).collect()
}

/// One scope, 64 writers: a chain without gap and fork.
pub async fn w_13_many_writers_on_one_scope_make_one_linear_chain(subject: &Subject) {
    let s = scope("s");
    let write = |n: usize| WriteBuilder::new(&s).node(&format!("n{n}"), &format!("word{n}")).prepared();
    let outcomes = at_once(subject, (0..64).map(write).collect()).await;
    assert_eq!(seqs(&outcomes), (1..=64).collect());
    let verified = assert_sound(&*subject.store).await;
    assert_eq!((verified[0].commits, verified[0].nodes), (64, 64));
    for n in 0..64 {
        assert_eq!(subject.found(&s, &format!("word{n}")).await, [node_id(&s, &format!("n{n}"))]);
    }
}

/// Chains of different scopes grow side by side.
pub async fn writers_over_several_scopes_do_not_mix_their_chains(subject: &Subject) {
    let scopes: Vec<ScopeKey> = (0..8).map(|n| scope(&format!("s{n}"))).collect();
    let writes = (0..64).map(|n| WriteBuilder::new(&scopes[n % 8]).node(&format!("n{n}"), "x").prepared()).collect();
    at_once(subject, writes).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    let verified = assert_sound(&*subject.store).await;
    assert_eq!(verified.iter().map(|v| (v.commits, v.nodes)).collect::<Vec<_>>(), [(8, 8); 8]);
}

/// Writes that lock two scopes in either order do not wait for each other for ever.
pub async fn writers_over_overlapping_pairs_of_scopes_all_finish(subject: &Subject) {
    let scopes: Vec<ScopeKey> = (0..4).map(|n| scope(&format!("s{n}"))).collect();
    let write = |n: usize| {
        let (own, other) = (&scopes[n % 4], &scopes[(n + 1 + n % 3) % 4]);
        let write = WriteBuilder::new(own).node(&format!("a{n}"), "x").node(&format!("b{n}"), "y");
        write.in_scope(other).prepared()
    };
    at_once(subject, (0..48).map(write).collect()).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    let verified = assert_sound(&*subject.store).await;
    assert_eq!(verified.iter().map(|v| v.commits).sum::<u64>(), 96);
    assert_eq!(verified.iter().map(|v| v.nodes).sum::<u64>(), 96);
}

/// Writes may share a transaction, but not a fate.
pub async fn w_02_refused_writes_harm_no_neighbour(subject: &Subject) {
    let s = scope("s");
    let write = |n: usize| {
        let write = WriteBuilder::new(&s).node(&format!("n{n}"), &format!("word{n}")).deriving();
        if n.is_multiple_of(3) { write.edge(&format!("n{n}"), "nobody") } else { write }.prepared()
    };
    let outcomes = at_once(subject, (0..60).map(write).collect()).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(matches!(outcome, Err(StoreError::Rejected(_))), n % 3 == 0, "{n}: {outcome:?}");
        assert_eq!(subject.found(&s, &format!("word{n}")).await.len(), usize::from(n % 3 != 0), "{n}");
    }
    let verified = assert_sound(&*subject.store).await;
    assert_eq!((verified[0].commits, verified[0].nodes), (40, 40));
    let status = subject.status(&s).await;
    assert_eq!((status.nodes, status.pending), (40, 40));
    assert_eq!(subject.store.outbox_status().await.unwrap().pending, 40);
}

/// A retry that overtakes its original finds it done.
pub async fn equal_requests_at_once_make_one_commit(subject: &Subject) {
    let s = scope("s");
    let write = |_| WriteBuilder::new(&s).node("a", "alpha").node("b", "beta").edge("a", "b").prepared();
    let outcomes = at_once(subject, (0..16).map(write).collect()).await;
    assert_eq!(seqs(&outcomes), BTreeSet::from([1]));
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.as_ref().unwrap().replayed).count(), 1);
    assert_eq!(assert_sound(&*subject.store).await[0].commits, 1);
}

/// The same under a key; the answers are equal in full.
pub async fn equal_request_keys_at_once_make_one_commit(subject: &Subject) {
    let s = scope("s");
    let write = |_| WriteBuilder::new(&s).node("a", "alpha").key("k", true).prepared();
    let outcomes: Vec<WriteOutcome> =
        at_once(subject, (0..16).map(write).collect()).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.replayed).count(), 1);
    assert!(outcomes.iter().all(|outcome| outcome.nodes[0].1 == "created" && outcome.commit_seq == 1));
    let rivals = |n: usize| WriteBuilder::new(&s).node("a", &format!("rival {n}")).key("rivals", true).prepared();
    let outcomes = at_once(subject, (0..16).map(rivals).collect()).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one body owns a strict key");
    assert_eq!(assert_sound(&*subject.store).await[0].commits, 2);
}

/// Updates of one node from all sides: each is kept.
pub async fn w_21_many_updates_of_one_node_keep_every_version(subject: &Subject) {
    let s = scope("s");
    let write = |n: usize| WriteBuilder::new(&s).node("a", &format!("common word{n}")).prepared();
    let outcomes = at_once(subject, (0..32).map(write).collect()).await;
    assert_eq!(seqs(&outcomes), (1..=32).collect());
    let last = outcomes.iter().position(|outcome| outcome.as_ref().unwrap().commit_seq == 32).unwrap();
    let verified = assert_sound(&*subject.store).await;
    assert_eq!((verified[0].nodes, verified[0].versions), (1, 31));
    for n in 0..32 {
        let found = subject.found(&s, &format!("word{n}")).await;
        assert_eq!(found.len(), usize::from(n == last), "only the last update's word is left");
    }
    let hits = subject.words(&s, "common").await;
    assert_eq!((hits.total_docs, hits.doc_freq), (1, vec![1]));
}

/// A reader that asks for a commit to come gets it when it comes.
pub async fn a_waiter_for_a_commit_wakes_up(subject: &Subject) {
    let s = scope("s");
    let mut waiters = JoinSet::new();
    for seq in [3, 1, 2, 3, 3] {
        let (store, s) = (Arc::clone(&subject.store), s.clone());
        waiters.spawn(async move {
            store.wait_for_commit(&s, seq).await.unwrap();
            assert!(store.scope_status(&s).await.unwrap().head_seq >= seq);
            seq
        });
    }
    for n in 1..=3 {
        subject.write(WriteBuilder::new(&s).node(&format!("n{n}"), "x")).await;
        subject.write(WriteBuilder::new(&scope("other")).node(&format!("n{n}"), "x")).await;
        if n == 2 {
            assert!(
                tokio::time::timeout(std::time::Duration::ZERO, subject.store.wait_for_commit(&s, 3)).await.is_err()
            );
        }
    }
    soon("waking up", waiters.join_all()).await;
}

/// Nothing to wait for is no wait; an empty scope is at zero.
pub async fn waiting_for_a_commit_that_is_there_returns_at_once(subject: &Subject) {
    let s = scope("s");
    soon("commit 0", subject.store.wait_for_commit(&s, 0)).await.unwrap();
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    soon("commit 1", subject.store.wait_for_commit(&s, 1)).await.unwrap();
    soon("commit 0", subject.store.wait_for_commit(&s, 0)).await.unwrap();
}

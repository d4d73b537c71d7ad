//! Reading for verification.

use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{DIM, Rng, WriteBuilder, scope, scope_of},
};

async fn some_history(subject: &Subject) {
    let s = scope("s");
    for round in 0..4 {
        let mut write = WriteBuilder::new(&s).input(&format!("round {round}"));
        for n in 0..9 {
            write = write
                .node(&format!("n{n}"), &format!("text {round}"))
                .edge(&format!("n{n}"), &format!("n{}", (n + round + 1) % 9));
        }
        subject.write(write).await;
    }
}

/// Page by page is the same as all at once, whatever the size of a page.
pub async fn pages_cover_everything_once_in_order(subject: &Subject) {
    some_history(subject).await;
    let (s, store) = (scope("s"), &*subject.store);
    let all = (
        store.commits(&s, 0, 100).await.unwrap().commits,
        store.nodes(&s, None, 100).await.unwrap(),
        store.edges(&s, None, 100).await.unwrap(),
        store.versions(&s, None, 100).await.unwrap(),
    );
    assert_eq!((all.0.len(), all.1.len(), all.2.len(), all.3.len()), (4, 9, 36, 27));
    for limit in [1, 2, 5] {
        let mut seqs = Vec::new();
        loop {
            let page = store.commits(&s, seqs.last().copied().unwrap_or(0), limit).await.unwrap().commits;
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            seqs.extend(page.into_iter().map(|commit| commit.unwrap().header.seq));
        }
        assert_eq!(seqs, [1, 2, 3, 4]);
        let mut nodes: Vec<Uuid> = Vec::new();
        while let page = store.nodes(&s, nodes.last().copied(), limit).await.unwrap()
            && !page.is_empty()
        {
            nodes.extend(page.iter().map(|node| node.id));
        }
        assert_eq!(nodes, all.1.iter().map(|node| node.id).collect::<Vec<_>>());
        let mut edges: Vec<Uuid> = Vec::new();
        while let page = store.edges(&s, edges.last().copied(), limit).await.unwrap()
            && !page.is_empty()
        {
            edges.extend(page.iter().map(|edge| edge.id));
        }
        assert_eq!(edges, all.2.iter().map(|edge| edge.id).collect::<Vec<_>>());
        let mut versions: Vec<(Uuid, u32)> = Vec::new();
        while let page = store.versions(&s, versions.last().copied(), limit).await.unwrap()
            && !page.is_empty()
        {
            versions.extend(page.iter().map(|kept| (kept.id, kept.version)));
        }
        assert_eq!(versions, all.3.iter().map(|kept| (kept.id, kept.version)).collect::<Vec<_>>());
        assert!(nodes.is_sorted() && edges.is_sorted() && versions.is_sorted());
    }
}

/// A tenant's scopes are the tenant's only.
pub async fn scopes_are_listed_by_tenant_and_name(subject: &Subject) {
    let scopes = [scope_of("a", "x"), scope_of("a", "y/z"), scope_of("a.b", "x"), scope_of("b", "x")];
    for scope in scopes.iter().rev() {
        subject.write(WriteBuilder::new(scope).node("n", "text")).await;
    }
    let list = async |tenant, name| -> Vec<String> {
        let found = subject.store.scopes(tenant, name).await.unwrap();
        found.into_iter().map(|summary| summary.scope_key).collect()
    };
    assert_eq!(list(None, None).await, ["a.b/x", "a/x", "a/y/z", "b/x"]);
    assert_eq!(list(Some("a"), None).await, ["a/x", "a/y/z"]);
    assert_eq!(list(Some("a"), Some("y/z")).await, ["a/y/z"]);
    assert_eq!(list(None, Some("x")).await, ["a.b/x", "a/x", "b/x"]);
    assert!(list(Some("c"), None).await.is_empty() && list(Some("a"), Some("z")).await.is_empty());
    let summary = &subject.store.scopes(Some("b"), None).await.unwrap()[0];
    assert_eq!((summary.head_seq, summary.nodes, summary.edges), (1, 1, 0));
}

/// A snapshot is of one state, whatever is written while it is read, and sees nothing of what comes later.
pub async fn a_snapshot_is_one_state(subject: &Subject) {
    let (s, later) = (scope("s"), scope("later"));
    subject.write(WriteBuilder::new(&s).input("1").node("a", "one").node("b", "two").edge("a", "b")).await;
    let snapshot = subject.store.snapshot().await.unwrap();
    let before = snapshot.scopes(None, None).await.unwrap();
    subject.write(WriteBuilder::new(&s).input("2").node("a", "changed").node("c", "three").edge("c", "a")).await;
    subject.write(WriteBuilder::new(&later).node("a", "x")).await;
    let scopes = snapshot.scopes(None, None).await.unwrap();
    assert_eq!((scopes.len(), scopes[0].head_seq, scopes[0].nodes), (1, 1, 2));
    assert_eq!(scopes[0].head_hash, before[0].head_hash);
    assert_eq!(snapshot.commits(&s, 0, 10).await.unwrap().commits.len(), 1);
    assert_eq!(snapshot.nodes(&s, None, 10).await.unwrap().len(), 2);
    assert_eq!(snapshot.edges(&s, None, 10).await.unwrap().len(), 1);
    assert!(snapshot.versions(&s, None, 10).await.unwrap().is_empty());
    assert!(snapshot.rule_states(&s, None, 10).await.unwrap().is_empty());
    assert!(snapshot.feedback(&s, None, 10).await.unwrap().is_empty());
    assert!(snapshot.erasures(&s, None, 10).await.unwrap().is_empty());
    let now = subject.store.scopes(None, None).await.unwrap();
    assert_eq!(now.iter().map(|scope| scope.head_seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(subject.store.versions(&s, None, 10).await.unwrap().len(), 1);
    drop(snapshot);
    assert_sound(&*subject.store).await;
}

/// A bit of everything, then the whole verification.
pub async fn a_store_in_use_is_sound(subject: &Subject) {
    assert!(assert_sound(&*subject.store).await.is_empty(), "an empty store is sound");
    some_history(subject).await;
    let other = WriteBuilder::new(&scope("s")).deriving().node("a", "alpha").node("b", "beta").in_scope(&scope("t"));
    subject.write(other.node("c", "gamma").vector(Rng::new(1).vector(DIM))).await;
    subject.drain().await;
    subject.words(&scope("s"), "text alpha").await;
    let verified = assert_sound(&*subject.store).await;
    assert_eq!(
        verified.iter().map(|v| (v.commits, v.nodes, v.edges, v.versions)).collect::<Vec<_>>(),
        [(5, 11, 36, 27), (1, 1, 0, 0)]
    );
}

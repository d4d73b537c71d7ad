//! What an operator does to derived data.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::EmbeddingStatus,
    ports::{
        embed::EmbeddingSpace,
        store::{EmbeddedNode, FailedItem, GivenUp, Lacking, PendingText},
    },
};

use super::{MODEL, Subject};
use crate::fixtures::{DIM, Rng, WriteBuilder, node_id, scope, scope_of};

/// Dimension of the generation cases change to.
const OTHER_DIM: usize = 6;

fn other() -> EmbeddingSpace {
    EmbeddingSpace { name: "test:other".to_owned(), dim: OTHER_DIM }
}

/// Writes one node that waits for its vector.
async fn waiting(subject: &Subject, scope: &ScopeKey, client_id: &str) -> NodeId {
    let write = WriteBuilder::new(scope).input(client_id).deriving().node(client_id, &format!("text of {client_id}"));
    subject.write(write).await.nodes[0].0
}

/// Gives everything that is queued up for good.
async fn give_up(subject: &Subject) {
    let failed = |item| FailedItem { item, error: "no".to_owned(), retry_at: None, counts: true };
    let items = subject.claim("w", 100).await.into_iter().map(failed).collect();
    subject.store.fail(items, subject.now()).await.unwrap();
}

async fn given_up(subject: &Subject, scope: &ScopeKey) -> GivenUp {
    subject.store.given_up(scope).await.unwrap()
}

/// A dead letter that is put back has all its attempts, and its nodes wait again.
pub async fn dead_letters_are_put_back(subject: &Subject) {
    let s = scope("s");
    let (a, b) = (waiting(subject, &s, "a").await, waiting(subject, &s, "b").await);
    assert_eq!(given_up(subject, &s).await, GivenUp::default());
    give_up(subject).await;
    let found = GivenUp { dead_items: 2, unreadable_items: 0, failed_nodes: 2 };
    assert_eq!(given_up(subject, &s).await, found);
    assert_eq!(subject.status(&s).await.pending, 0);
    subject.clock.advance(Duration::from_secs(1));
    assert_eq!(subject.store.replay(&s, subject.now()).await.unwrap(), found);
    assert_eq!(given_up(subject, &s).await, GivenUp::default());
    assert_eq!(subject.status(&s).await.pending, 2);
    let items = subject.claim("w", 10).await;
    assert_eq!(items.iter().map(|item| item.attempts).collect::<Vec<_>>(), [1, 1], "the attempts are counted anew");
    assert_eq!(subject.complete(&items).await, 2);
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Ready);
    assert_eq!(subject.vector_state(&s, b).await, EmbeddingStatus::Ready);
    assert_eq!(subject.store.replay(&s, subject.now()).await.unwrap(), GivenUp::default(), "nothing is left");
}

/// A node that failed alone has no dead letter: it gets an item of its own. One without a text is left as it is.
pub async fn failed_nodes_are_queued_again(subject: &Subject) {
    let s = scope("s");
    waiting(subject, &s, "a").await;
    let write = WriteBuilder::new(&s).deriving().node("silent", "");
    subject.write(write).await;
    let items = subject.claim("w", 10).await;
    let mut nodes = subject.derive(&items).await;
    nodes[0].result = Err("the provider refuses it".to_owned());
    assert_eq!(subject.complete_with(&items, nodes).await, 0);
    let found = GivenUp { dead_items: 0, unreadable_items: 0, failed_nodes: 1 };
    assert_eq!(given_up(subject, &s).await, found);
    assert_eq!(subject.store.replay(&s, subject.now()).await.unwrap(), found);
    assert_eq!(subject.status(&s).await.pending, 1);
    let item = subject.claim_one("w").await;
    assert_eq!(item.nodes, [node_id(&s, "a")]);
    assert_eq!(subject.complete(&[item]).await, 1);
    assert_eq!(subject.vector_state(&s, node_id(&s, "silent")).await, EmbeddingStatus::Failed);
}

/// Trying again would not help what cannot be read; it is told apart and stays.
pub async fn unreadable_dead_letters_stay(subject: &Subject) {
    let (s, t) = (scope("s"), scope_of("globex", "t"));
    waiting(subject, &s, "a").await;
    subject.inspect.spoil_work(&s).await;
    waiting(subject, &t, "b").await;
    give_up(subject).await;
    let found = GivenUp { dead_items: 0, unreadable_items: 1, failed_nodes: 0 };
    assert_eq!(given_up(subject, &s).await, found);
    assert_eq!(subject.store.replay(&s, subject.now()).await.unwrap(), found);
    assert_eq!(given_up(subject, &s).await, found);
    let elsewhere = GivenUp { dead_items: 1, unreadable_items: 0, failed_nodes: 1 };
    assert_eq!(given_up(subject, &t).await, elsewhere, "another scope is left alone");
}

/// Answers kept for repeated requests go when they are old, the oldest first, so many at once.
pub async fn old_answers_are_forgotten(subject: &Subject) {
    let s = scope("s");
    for n in 0..5 {
        subject.write(WriteBuilder::new(&s).key(&format!("k{n}"), true).node(&format!("n{n}"), "text")).await;
        subject.clock.advance(Duration::from_secs(10));
    }
    let before = |seconds: i64| Timestamp(crate::fixtures::START.0 + seconds * 1_000_000);
    assert_eq!(subject.store.forget_requests(before(0), 10).await.unwrap(), 0);
    assert_eq!(subject.store.forget_requests(before(25), 2).await.unwrap(), 2);
    assert_eq!(subject.store.forget_requests(before(25), 2).await.unwrap(), 1);
    assert_eq!(subject.store.forget_requests(before(25), 2).await.unwrap(), 0);
    // A strict key that is forgotten is free, one that is kept is not.
    let again = |key: &str| WriteBuilder::new(&s).key(key, true).node("other", "something else");
    subject.write(again("k0")).await;
    assert_eq!(subject.refused(again("k4")).await.code, "idempotency_key_reused");
}

async fn lacking(subject: &Subject, page: usize) -> Vec<PendingText> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let Lacking { texts, next } = subject.store.lacking(&other(), after.as_ref(), page).await.unwrap();
        assert!(texts.len() <= page);
        all.extend(texts);
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

fn of_other(texts: &[PendingText]) -> Vec<EmbeddedNode> {
    let mut rng = Rng::new(5);
    let vector = texts.iter().map(|_| rng.vector(OTHER_DIM));
    texts
        .iter()
        .zip(vector)
        .map(|(text, vector)| EmbeddedNode {
            scope: text.scope.clone(),
            id: text.id,
            digest: text.digest,
            result: Ok(vector),
        })
        .collect()
}

/// Vectors of a new model are derived beside those of the old one, which readers go on comparing with.
pub async fn a_new_generation_grows_beside_the_old_one(subject: &Subject) {
    let (s, t) = (scope("s"), scope_of("globex", "t"));
    for n in 0..5 {
        waiting(subject, &s, &format!("n{n}")).await;
        waiting(subject, &t, &format!("n{n}")).await;
    }
    subject.drain().await;
    let near = subject.near(&s, &[1.0; DIM], 3).await;
    for page in [1, 3, 100] {
        let found = lacking(subject, page).await;
        assert_eq!(found.len(), 10, "every node, whatever the size of a page");
        assert!(found.iter().all(|node| node.text.as_deref().is_some_and(|text| text.starts_with("text of n"))));
    }
    let texts = lacking(subject, 100).await;
    let stored = subject.store.put_generation(&other(), of_other(&texts[..7]), subject.now()).await.unwrap();
    assert_eq!(stored, 7);
    let counts = subject.store.generation_counts(&other()).await.unwrap();
    assert_eq!((counts.wanted, counts.present), (10, 7));
    assert_eq!(lacking(subject, 100).await.len(), 3);
    assert_eq!(subject.near(&s, &[1.0; DIM], 3).await, near, "readers see nothing of it");
    assert_eq!(subject.store.present_generation().await.unwrap().name, MODEL);
    // What is written anew has no vector of any generation; one that was derived of the old text is not stored.
    let late = of_other(&texts.iter().filter(|text| text.id == node_id(&s, "n1")).cloned().collect::<Vec<_>>());
    subject.write(WriteBuilder::new(&s).deriving().node("n1", "another text")).await;
    assert_eq!(subject.store.put_generation(&other(), late, subject.now()).await.unwrap(), 0);
    assert!(lacking(subject, 100).await.iter().any(|node| node.id == node_id(&s, "n1")));
}

/// The switch is one moment: what has no vector of the new model by then is ordinary work, what can have none has failed.
pub async fn a_switch_queues_what_is_left(subject: &Subject) {
    let s = scope("s");
    for n in 0..3 {
        waiting(subject, &s, &format!("n{n}")).await;
    }
    subject.drain().await;
    let bare = WriteBuilder::new(&s).node("bare", "").vector(vec![1.0; DIM]);
    subject.write(bare).await;
    let texts: Vec<PendingText> = lacking(subject, 100).await;
    assert_eq!(texts.iter().filter(|node| node.text.is_none()).count(), 1);
    let ready: Vec<PendingText> =
        texts.into_iter().filter(|node| node.id == node_id(&s, "n0") || node.id == node_id(&s, "n1")).collect();
    subject.store.put_generation(&other(), of_other(&ready), subject.now()).await.unwrap();
    let queued = subject.store.switch_generation(&other(), subject.now()).await.unwrap();
    assert_eq!(queued, 1);
    assert_eq!(subject.store.present_generation().await.unwrap(), other());
    assert_eq!(subject.vector_state(&s, node_id(&s, "n0")).await, EmbeddingStatus::Ready);
    assert_eq!(subject.vector_state(&s, node_id(&s, "n2")).await, EmbeddingStatus::Pending);
    assert_eq!(subject.vector_state(&s, node_id(&s, "bare")).await, EmbeddingStatus::Failed);
    let mut after = None;
    loop {
        after = subject.store.label_generation(&other(), after.as_ref(), 2).await.unwrap();
        if after.is_none() {
            break;
        }
    }
    let label = |row: aionis_core::ports::store::NodeRow| row.embedding_model;
    assert_eq!(label(subject.row(&s, node_id(&s, "n1")).await).as_deref(), Some("test:other"));
    assert_eq!(label(subject.row(&s, node_id(&s, "n2")).await).as_deref(), Some(MODEL), "it has no vector of it yet");
    // Three derived ones and the caller's are of the old model.
    assert_eq!(subject.store.drop_other_generations(&scope("elsewhere")).await.unwrap(), 0);
    assert_eq!(subject.store.drop_other_generations(&s).await.unwrap(), 4);
    assert_eq!(subject.store.generation_counts(&other()).await.unwrap().present, 2);
}

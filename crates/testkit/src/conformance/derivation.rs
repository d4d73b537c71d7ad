//! Vectors that are derived: of what, for which node, and who waits for one.

use std::time::Duration;

use aionis_core::{
    ids::NodeId,
    model::{EmbeddingStatus, NodeType},
    ports::store::{EmbeddedNode, OutboxStatus},
};
use uuid::Uuid;

use super::{
    LEASE, Subject,
    outbox::{digest_of, fail, queue, wait_for_vector},
    subject::vector_for,
};
use crate::{
    assert_sound,
    fixtures::{DIM, Rng, WriteBuilder, node_id, scope},
};

/// A vector of words that are not there any more is worth nothing.
pub async fn w_12_vectors_of_changed_content_are_dropped(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    let stale = subject.claim_one("w").await;
    let vectors = subject.derive(std::slice::from_ref(&stale)).await;
    wait_for_vector(subject, &s, "a", "two").await;
    assert_eq!(subject.complete_with(&[stale], vectors).await, 0);
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Pending);
    assert_eq!(subject.status(&s).await.pending, 1);
    assert!(subject.near(&s, &vector_for("one"), 5).await.is_empty());
    let fresh = subject.claim_one("w").await;
    assert_eq!(subject.complete(&[fresh]).await, 1);
    assert_eq!(subject.store.stored_vectors(&s, &[a]).await.unwrap(), [(a, vector_for("two"))]);
    assert_eq!(queue(subject).await.pending, 0);
    assert_sound(&*subject.store).await;
}

/// A completion speaks for its claims only.
pub async fn vectors_of_nodes_outside_the_claim_are_dropped(subject: &Subject) {
    let s = scope("s");
    let (a, b) = (wait_for_vector(subject, &s, "a", "one").await, wait_for_vector(subject, &s, "b", "two").await);
    let lost = subject.claim_one_of("slow", a).await;
    subject.clock.advance(LEASE);
    let items = subject.claim("w", 10).await;
    assert_eq!(items.len(), 2);
    let held = items.iter().find(|item| item.nodes == [b]).unwrap().clone();
    let of = |id, client_id, text| EmbeddedNode {
        scope: s.clone(),
        id,
        digest: digest_of(&s, client_id, text),
        result: Ok(vector_for(text)),
    };
    let stored = subject.complete_with(&[lost, held], vec![of(a, "a", "one"), of(b, "b", "two")]).await;
    assert_eq!(stored, 1, "of two claims one was lost");
    assert!(subject.store.stored_vectors(&s, &[a]).await.unwrap().is_empty());
    assert_eq!(subject.store.stored_vectors(&s, &[b]).await.unwrap().len(), 1);
    assert_eq!(queue(subject).await.pending, 1);
}

/// One text a provider refuses does not take the others along.
pub async fn a_node_that_cannot_be_embedded_fails_alone(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).deriving().node("a", "one").node("b", "two")).await;
    let item = subject.claim_one("w").await;
    let mut vectors = subject.derive(std::slice::from_ref(&item)).await;
    let refused = vectors.iter_mut().find(|node| node.id == node_id(&s, "a")).unwrap();
    refused.result = Err("the text is too long".to_owned());
    assert_eq!(subject.complete_with(&[item], vectors).await, 1);
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Failed);
    assert_eq!(subject.vector_state(&s, node_id(&s, "b")).await, EmbeddingStatus::Ready);
    assert_eq!(subject.status(&s).await.pending, 0);
    assert_eq!(queue(subject).await, OutboxStatus::default());
}

/// A vector of another length, or of no direction, would spoil every search: it is not stored, whoever made it.
pub async fn vectors_that_do_not_compare_are_refused(subject: &Subject) {
    let s = scope("s");
    let long = WriteBuilder::new(&s).dim(DIM + 1).node("a", "x").vector(vec![1.0; DIM + 1]);
    assert_eq!(subject.refused(long).await.issues[0].path, "nodes.0.embedding");
    assert_eq!(subject.status(&s).await.head_seq, 0);
    let bad = [vec![1.0; DIM - 1], vec![0.0; DIM], vec![f32::NAN; DIM], vec![f32::INFINITY; DIM], Vec::new()];
    let mut write = WriteBuilder::new(&s).deriving();
    for n in 0..=bad.len() {
        write = write.node(&format!("n{n}"), &format!("text {n}"));
    }
    subject.write(write).await;
    let item = subject.claim_one("w").await;
    let mut vectors = subject.derive(std::slice::from_ref(&item)).await;
    for (n, bad) in bad.iter().enumerate() {
        vectors.iter_mut().find(|node| node.id == node_id(&s, &format!("n{n}"))).unwrap().result = Ok(bad.clone());
    }
    assert_eq!(subject.complete_with(&[item], vectors).await, 1);
    let good = node_id(&s, &format!("n{}", bad.len()));
    for n in 0..bad.len() {
        assert_eq!(subject.vector_state(&s, node_id(&s, &format!("n{n}"))).await, EmbeddingStatus::Failed, "{n}");
    }
    let hits = subject.near(&s, &Rng::new(1).vector(DIM), 50).await;
    assert_eq!(hits.iter().map(|hit| hit.id).collect::<Vec<_>>(), [good]);
    assert_eq!(subject.status(&s).await.pending, 0);
}

/// A worker embeds what stands now, by the rule of the node's type.
pub async fn pending_texts_are_what_is_stored_now(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s)
        .deriving()
        .node("event", "the summary")
        .title("The Title")
        .node("entity", "the summary")
        .title("The Title")
        .with(|n| n.node_type = NodeType::Entity)
        .node("changed", "before");
    subject.write(write).await;
    let item = subject.claim_one("w").await;
    subject.write(WriteBuilder::new(&s).deriving().node("changed", "after").vector(vec![1.0; DIM])).await;
    let mut asked = vec![item.clone()];
    asked[0].nodes.push(NodeId(Uuid::from_u128(1)));
    let texts = subject.store.pending_texts(&asked).await.unwrap();
    let found: Vec<_> = texts.iter().map(|t| (t.id, t.text.as_deref(), t.ready)).collect();
    assert_eq!(
        found,
        [
            (node_id(&s, "event"), Some("the summary"), false),
            (node_id(&s, "entity"), Some("The Title"), false),
            (node_id(&s, "changed"), Some("after"), true),
        ]
    );
    assert_eq!(texts[2].digest, digest_of(&s, "changed", "after"));
    assert!(texts.iter().all(|text| text.scope == s));
    subject.complete(std::slice::from_ref(&item)).await;
    assert!(subject.store.pending_texts(&[item]).await.unwrap().iter().all(|text| text.ready));
}

/// `force_reembed` queues nodes that have a vector, as often as it is asked.
pub async fn force_derives_again(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    subject.drain().await;
    let force = || WriteBuilder::new(&s).deriving().force().node("a", "one");
    for round in 1..=3_u64 {
        let outcome = subject.write(force()).await;
        assert_eq!((outcome.nodes[0].1.as_str(), outcome.pending_nodes), ("unchanged", 1));
        assert_eq!(subject.status(&s).await.pending, 0, "a node that has a vector is not without one");
        let item = subject.claim_one("w").await;
        assert_eq!((item.force, item.attempts, &item.nodes), (true, 1, &vec![a]));
        let vector = Rng::new(round).vector(DIM);
        let digest = digest_of(&s, "a", "one");
        let nodes = vec![EmbeddedNode { scope: s.clone(), id: a, digest, result: Ok(vector.clone()) }];
        assert_eq!(subject.complete_with(&[item], nodes).await, 1);
        assert_eq!(subject.store.stored_vectors(&s, &[a]).await.unwrap(), [(a, vector.clone())]);
        assert!(subject.near(&s, &vector, 1).await[0].similarity > 0.999);
    }
    assert_sound(&*subject.store).await;
}

/// Sending a failed node again arms its item, also when the item is a dead letter.
pub async fn a_retry_of_a_failed_node_makes_it_wait_again(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    fail(subject, item, None, true).await;
    subject.clock.advance(Duration::from_secs(5));
    let retry = subject.write(WriteBuilder::new(&s).input("one").deriving().node("a", "one")).await;
    assert_eq!((retry.replayed, retry.pending_nodes, retry.commit_seq), (true, 1, 1));
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Pending);
    assert_eq!(subject.status(&s).await.pending, 1);
    let armed = OutboxStatus { pending: 1, dead: 0, oldest_pending: Some(subject.now()) };
    assert_eq!(queue(subject).await, armed, "it waits since it was armed, not since it was first queued");
    let item = subject.claim_one("w").await;
    assert_eq!(item.attempts, 1, "with all its attempts");
    assert_eq!(subject.complete(&[item]).await, 1);
    assert_eq!(subject.status(&s).await.pending, 0);
    assert_sound(&*subject.store).await;
}

/// The same through any other request that names the node.
pub async fn another_write_of_a_failed_node_makes_it_wait_again(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "one").node("b", "two")).await;
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Failed, "nobody derives vectors");
    assert_eq!(queue(subject).await.pending, 0);
    let outcome = subject.write(WriteBuilder::new(&s).input("later").deriving().node("a", "one")).await;
    assert_eq!((outcome.nodes[0].1.as_str(), outcome.pending_nodes, outcome.commit_seq), ("unchanged", 1, 2));
    let item = subject.claim_one("w").await;
    assert_eq!(item.nodes, [node_id(&s, "a")]);
    assert_eq!(subject.complete(&[item]).await, 1);
    assert_eq!(subject.vector_state(&s, node_id(&s, "b")).await, EmbeddingStatus::Failed);
}

/// A node that waits already is not queued by a retry.
pub async fn a_waiting_node_is_not_queued_twice(subject: &Subject) {
    let s = scope("s");
    wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    for input in ["one", "other"] {
        let outcome = subject.write(WriteBuilder::new(&s).input(input).deriving().node("a", "one")).await;
        assert_eq!(outcome.pending_nodes, 0, "{input}");
    }
    assert_eq!(queue(subject).await.pending, 1);
    assert!(subject.claim("v", 10).await.is_empty(), "nor is the claim lost");
    assert_eq!(subject.complete(&[item]).await, 1);
}

/// There is nothing to derive.
pub async fn a_vector_brought_by_the_caller_queues_nothing(subject: &Subject) {
    let s = scope("s");
    let outcome = subject.write(WriteBuilder::new(&s).deriving().node("a", "one").vector(vec![1.0; DIM])).await;
    assert_eq!((outcome.pending_nodes, queue(subject).await.pending), (0, 0));
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Ready);
    assert_eq!(subject.store.stored_vectors(&s, &[node_id(&s, "a")]).await.unwrap().len(), 1);
}

/// Which of the two comes last is chance; which of the two stays is not.
pub async fn a_vector_brought_while_one_is_derived_stays(subject: &Subject) {
    let s = scope("s");
    let id = wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    let own: Vec<f32> = (0..DIM).map(|n| if n == 1 { 1.0 } else { 0.0 }).collect();
    subject.write(WriteBuilder::new(&s).input("again").node("a", "one").vector(own.clone())).await;
    assert_eq!(subject.complete(&[item]).await, 0, "the derived one is not needed any more");
    assert_eq!(subject.store.stored_vectors(&s, &[id]).await.unwrap(), [(id, own)]);
    assert_eq!(subject.vector_state(&s, id).await, EmbeddingStatus::Ready);
    assert_eq!(queue(subject).await, OutboxStatus::default());
    assert_eq!(subject.status(&s).await.pending, 0);
}

/// New vitals do not make a node look as if it had only now begun to wait.
pub async fn a_touched_node_has_waited_since_it_was_written(subject: &Subject) {
    let s = scope("s");
    let since = subject.now();
    wait_for_vector(subject, &s, "a", "one").await;
    subject.clock.advance(Duration::from_secs(5));
    subject.write(WriteBuilder::new(&s).deriving().node("a", "one").with(|node| node.salience = Some(0.9))).await;
    let status = subject.status(&s).await;
    assert_eq!((status.pending, status.oldest_pending), (1, Some(since)));
}

/// A node that was written again and again before a worker came is named by every item, and all of them are done at once.
pub async fn one_node_named_by_several_items_gets_one_vector(subject: &Subject) {
    let s = scope("s");
    for text in ["one", "two", "three"] {
        wait_for_vector(subject, &s, "a", text).await;
    }
    let items = subject.claim("w", 10).await;
    assert_eq!(items.len(), 3);
    assert!(subject.complete(&items).await >= 1);
    let id = node_id(&s, "a");
    assert_eq!(subject.store.stored_vectors(&s, &[id]).await.unwrap(), [(id, vector_for("three"))]);
    assert_eq!(queue(subject).await, OutboxStatus::default());
    assert_eq!(subject.near(&s, &vector_for("three"), 10).await.len(), 1);
}

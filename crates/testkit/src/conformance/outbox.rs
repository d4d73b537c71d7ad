//! The queue of vectors to derive.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::EmbeddingStatus,
    ports::store::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem, OutboxStatus},
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{ATTEMPTS_MAX, LEASE, MODEL, Subject, soon};
use crate::{
    assert_sound,
    fixtures::{DIM, Rng, WriteBuilder, node_id, scope, scope_of},
};

/// Writes one node that waits for its vector.
pub(super) async fn wait_for_vector(subject: &Subject, scope: &ScopeKey, client_id: &str, text: &str) -> NodeId {
    let outcome = subject.write(WriteBuilder::new(scope).input(text).deriving().node(client_id, text)).await;
    assert_eq!(outcome.pending_nodes, 1);
    outcome.nodes[0].0
}

fn failed(item: OutboxItem, retry_at: Option<Timestamp>, counts: bool) -> FailedItem {
    FailedItem { item, error: "the provider said no".to_owned(), retry_at, counts }
}

pub(super) async fn fail(subject: &Subject, item: OutboxItem, retry_at: Option<Timestamp>, counts: bool) {
    subject.store.fail(vec![failed(item, retry_at, counts)], subject.now()).await.expect("a failure can be recorded");
}

pub(super) async fn queue(subject: &Subject) -> OutboxStatus {
    subject.store.outbox_status().await.expect("the queue has a state")
}

/// A claimed item is nobody else's.
pub async fn a_claim_leases_an_item(subject: &Subject) {
    let s = scope("s");
    assert!(subject.claim("w", 10).await.is_empty());
    let written = subject.now();
    let outcome =
        subject.write(WriteBuilder::new(&s).deriving().node("a", "one").node("b", "two").node("none", "")).await;
    assert_eq!(outcome.pending_nodes, 2);
    subject.clock.advance(Duration::from_secs(1));
    let item = subject.claim_one("w").await;
    assert_eq!((&item.scope, item.attempts, item.force, item.created_at), (&s, 1, false, written));
    assert_eq!(item.nodes, [node_id(&s, "a"), node_id(&s, "b")]);
    assert!(subject.claim("v", 10).await.is_empty());
    assert!(subject.claim("w", 10).await.is_empty(), "nor the same worker's again");
    subject.clock.advance(LEASE - Duration::from_micros(1));
    assert!(subject.claim("v", 10).await.is_empty());
    assert_eq!(subject.complete(std::slice::from_ref(&item)).await, 2);
    subject.clock.advance(LEASE * 2);
    assert!(subject.claim("v", 10).await.is_empty(), "done is done");
    assert_eq!(subject.complete(&[item]).await, 0, "and cannot be done again");
}

/// A worker that was thought dead and comes back changes nothing.
pub async fn an_expired_lease_is_claimed_again_and_the_late_one_stores_nothing(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    let slow = subject.claim_one("slow").await;
    subject.clock.advance(LEASE);
    let quick = subject.claim_one("quick").await;
    assert_eq!((quick.id, quick.attempts), (slow.id, 2));
    assert!(quick.fence > slow.fence);
    let digest = digest_of(&s, "a", "one");
    let of = |seed| vec![EmbeddedNode { scope: s.clone(), id: a, digest, result: Ok(Rng::new(seed).vector(DIM)) }];
    assert_eq!(subject.complete_with(std::slice::from_ref(&slow), of(1)).await, 0);
    assert!(subject.store.stored_vectors(&s, &[a]).await.unwrap().is_empty());
    assert_eq!(queue(subject).await.pending, 1, "nor is the item done");
    fail(subject, slow.clone(), None, true).await;
    assert_eq!(queue(subject).await.dead, 0, "nor can it be given up");
    subject.store.extend(std::slice::from_ref(&slow), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!(subject.complete_with(std::slice::from_ref(&quick), of(2)).await, 1);
    assert_eq!(subject.complete_with(std::slice::from_ref(&slow), of(1)).await, 0);
    assert_eq!(subject.store.stored_vectors(&s, &[a]).await.unwrap(), [(a, Rng::new(2).vector(DIM))]);
    assert_eq!(queue(subject).await, OutboxStatus::default());
}

pub(super) fn digest_of(scope: &ScopeKey, client_id: &str, text: &str) -> aionis_core::canon::Digest {
    WriteBuilder::new(scope).node(client_id, text).prepared().parts[0].nodes[0].digest
}

/// A heartbeat keeps a long call alive; a worker whose lease ran out unnoticed may still finish.
pub async fn an_extended_lease_lasts_longer(subject: &Subject) {
    let s = scope("s");
    wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    let until = Timestamp(subject.now().0 + 3 * i64::try_from(LEASE.as_micros()).unwrap());
    subject.store.extend(std::slice::from_ref(&item), until).await.unwrap();
    subject.clock.advance(LEASE * 2);
    assert!(subject.claim("v", 10).await.is_empty());
    subject.clock.advance(LEASE);
    assert_eq!(subject.complete(&[item]).await, 1, "nobody else took it");
}

/// Four workers, twenty items: each item once.
pub async fn claims_at_once_share_the_items_out(subject: &Subject) {
    let s = scope("s");
    for n in 0..20 {
        wait_for_vector(subject, &s, &format!("n{n}"), &format!("text {n}")).await;
    }
    let mut workers = JoinSet::new();
    for worker in 0..4 {
        let (store, now) = (Arc::clone(&subject.store), subject.now());
        workers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let request = ClaimRequest { worker: worker.to_string(), now, lease: LEASE, limit: 3 };
                let items = store.claim(request).await.unwrap();
                if items.is_empty() {
                    return mine;
                }
                mine.extend(items.into_iter().map(|item| item.id));
            }
        });
    }
    let claimed: Vec<Uuid> = workers.join_all().await.into_iter().flatten().collect();
    assert_eq!((claimed.len(), claimed.into_iter().collect::<BTreeSet<_>>().len()), (20, 20));
}

/// First in, first out within a tenant.
pub async fn oldest_items_come_first(subject: &Subject) {
    let mut written = Vec::new();
    for n in 0..6 {
        let s = scope(&format!("s{}", n % 3));
        written.push(wait_for_vector(subject, &s, &format!("n{n}"), &format!("text {n}")).await);
        subject.clock.advance(Duration::from_millis(1));
    }
    let claimed: Vec<NodeId> = subject.claim("w", 4).await.into_iter().map(|item| item.nodes[0]).collect();
    assert_eq!(claimed, written[..4]);
}

/// However many items one tenant queued before, the others get their turns.
pub async fn a_tenant_with_many_items_does_not_starve_others(subject: &Subject) {
    // One write of many scopes queues one item per scope.
    let mut flood = WriteBuilder::new(&scope_of("big", "s")).deriving();
    for n in 0..2_200 {
        flood = flood.node("a", "text").in_scope(&scope_of("big", &format!("s{n}")));
    }
    subject.write(flood).await;
    subject.clock.advance(Duration::from_secs(1));
    wait_for_vector(subject, &scope_of("small", "s"), "a", "text").await;
    for n in 0..3 {
        wait_for_vector(subject, &scope_of("medium", "s"), &format!("n{n}"), &format!("text {n}")).await;
    }
    let tenants = |items: &[OutboxItem]| -> Vec<String> {
        let mut tenants: Vec<String> = items.iter().map(|item| item.scope.tenant().to_owned()).collect();
        tenants.sort_unstable();
        tenants
    };
    let first = subject.claim("w", 3).await;
    assert_eq!(tenants(&first), ["big", "medium", "small"]);
    let second = subject.claim("w", 6).await;
    assert_eq!(tenants(&second), ["big", "big", "big", "big", "medium", "medium"]);
    assert_eq!(queue(subject).await.pending, 2_204);
}

/// A failed item waits for its time.
pub async fn a_failure_is_tried_again_when_it_says(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    let retry_at = Timestamp(subject.now().0 + 5_000_000);
    fail(subject, item.clone(), Some(retry_at), true).await;
    subject.clock.set(Timestamp(retry_at.0 - 1));
    assert!(subject.claim("w", 10).await.is_empty());
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Pending);
    assert_eq!(subject.status(&s).await.pending, 1);
    subject.clock.set(retry_at);
    let again = subject.claim_one("w").await;
    assert_eq!((again.id, again.attempts, again.created_at), (item.id, 2, item.created_at));
    assert_eq!(subject.complete(&[again]).await, 1);
}

/// After its last attempt an item is given up, and its nodes say so.
pub async fn counted_failures_end_in_the_dead_letters(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    for attempt in 1..=ATTEMPTS_MAX {
        assert_eq!(queue(subject).await.dead, 0);
        let item = subject.claim_one("w").await;
        assert_eq!(item.attempts, attempt);
        fail(subject, item, Some(subject.now()), true).await;
    }
    assert!(subject.claim("w", 10).await.is_empty());
    assert_eq!(queue(subject).await, OutboxStatus { pending: 0, dead: 1, oldest_pending: None });
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Failed);
    let status = subject.status(&s).await;
    assert_eq!((status.pending, status.oldest_pending), (0, None));
    assert_eq!(subject.found(&s, "one").await, [a], "its words are still found");
    assert_sound(&*subject.store).await;
}

/// What cannot succeed is not tried again.
pub async fn a_final_failure_goes_to_the_dead_letters_at_once(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).deriving().node("a", "one").node("b", "two");
    subject.write(write).await;
    let own = WriteBuilder::new(&s).deriving().node("b", "two").vector(vec![1.0; DIM]);
    subject.write(own).await;
    let item = subject.claim_one("w").await;
    fail(subject, item, None, true).await;
    assert_eq!(queue(subject).await, OutboxStatus { pending: 0, dead: 1, oldest_pending: None });
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Failed);
    assert_eq!(subject.vector_state(&s, node_id(&s, "b")).await, EmbeddingStatus::Ready, "it got its vector otherwise");
}

/// A provider that is away is not the item's fault.
pub async fn failures_that_do_not_count_burn_no_attempt(subject: &Subject) {
    let s = scope("s");
    wait_for_vector(subject, &s, "a", "one").await;
    for _ in 0..3 * ATTEMPTS_MAX {
        let item = subject.claim_one("w").await;
        assert_eq!(item.attempts, 1);
        fail(subject, item, Some(subject.now()), false).await;
    }
    assert_eq!(queue(subject).await, OutboxStatus { pending: 1, dead: 0, oldest_pending: Some(subject.now()) });
    let item = subject.claim_one("w").await;
    assert_eq!(subject.complete(&[item]).await, 1);
}

/// Whoever reported a failure has given the item back.
pub async fn a_failed_claim_is_no_longer_held(subject: &Subject) {
    let s = scope("s");
    let a = wait_for_vector(subject, &s, "a", "one").await;
    let item = subject.claim_one("w").await;
    let (retry_at, far) = (Timestamp(subject.now().0 + 10), Timestamp(i64::MAX));
    fail(subject, item.clone(), Some(retry_at), false).await;
    assert_eq!(subject.complete(std::slice::from_ref(&item)).await, 0);
    subject.store.extend(std::slice::from_ref(&item), far).await.unwrap();
    fail(subject, item.clone(), Some(far), false).await;
    fail(subject, item, None, true).await;
    assert_eq!(subject.vector_state(&s, a).await, EmbeddingStatus::Pending);
    subject.clock.set(retry_at);
    let again = subject.claim_one("w").await;
    assert_eq!(again.attempts, 1, "the failure was recorded once");
    assert_eq!(subject.complete(&[again]).await, 1);
}

/// It becomes a dead letter; what was queued with it is claimed.
pub async fn an_unreadable_item_holds_up_no_other(subject: &Subject) {
    let s = scope("s");
    wait_for_vector(subject, &s, "a", "one").await;
    subject.inspect.spoil_work(&s).await;
    wait_for_vector(subject, &s, "b", "two").await;
    let items = subject.claim("w", 10).await;
    assert_eq!(items.iter().map(|item| item.nodes.clone()).collect::<Vec<_>>(), [[node_id(&s, "b")]]);
    assert_eq!((queue(subject).await.pending, queue(subject).await.dead), (1, 1));
}

/// A write wakes a worker, before it sleeps or after.
pub async fn waiting_workers_are_woken_by_work(subject: &Subject) {
    let s = scope("s");
    wait_for_vector(subject, &s, "a", "one").await;
    soon("waking up", subject.store.work_arrived()).await;
    let (asleep, store) = (Arc::new(tokio::sync::Notify::new()), Arc::clone(&subject.store));
    let worker = tokio::spawn({
        let asleep = Arc::clone(&asleep);
        async move {
            let woken = store.work_arrived();
            asleep.notify_one();
            woken.await;
        }
    });
    asleep.notified().await;
    wait_for_vector(subject, &s, "b", "two").await;
    soon("waking up", worker).await.unwrap();
}

/// Counts and age for operators.
pub async fn the_queue_reports_its_state(subject: &Subject) {
    assert_eq!(queue(subject).await, OutboxStatus::default());
    let s = scope("s");
    let first = subject.now();
    wait_for_vector(subject, &s, "a", "one").await;
    let second = subject.clock.advance(Duration::from_secs(1));
    wait_for_vector(subject, &s, "b", "two").await;
    assert_eq!(queue(subject).await, OutboxStatus { pending: 2, dead: 0, oldest_pending: Some(first) });
    let items = subject.claim("w", 1).await;
    assert_eq!(queue(subject).await.pending, 2, "a claim is still to be done");
    subject.complete(&items).await;
    assert_eq!(queue(subject).await, OutboxStatus { pending: 1, dead: 0, oldest_pending: Some(second) });
    let items = subject.claim("w", 1).await;
    let vectors = subject.derive(&items).await;
    assert_eq!(subject.store.complete(&items, vectors, MODEL, subject.now()).await.unwrap(), 1);
    assert_eq!(queue(subject).await, OutboxStatus::default());
}

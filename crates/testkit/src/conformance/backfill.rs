//! Nodes that lack something: a vector, an owner.

use std::collections::BTreeSet;

use aionis_core::{
    ids::{NodeId, ScopeKey},
    jobs::{
        owner_review::{COMMIT_KIND, Owner, assign},
        scope_purge::{PurgeMode, plan_purge},
    },
    model::{EmbeddingStatus, Lane, NodeType},
    operate::{NodeNames, Operation, Outcome},
    ports::{
        embed::EmbeddingSpace,
        store::{PendingText, Queued, StoreError},
    },
};
use serde_json::json;
use uuid::Uuid;

use super::{MODEL, Subject};
use crate::fixtures::{DIM, Rng, WriteBuilder, agent, anyone, node_id, operation, scope, scope_of, team};

fn present() -> EmbeddingSpace {
    EmbeddingSpace { name: MODEL.to_owned(), dim: DIM }
}

fn other() -> EmbeddingSpace {
    EmbeddingSpace { name: "test:other".to_owned(), dim: 6 }
}

async fn lacking(subject: &Subject, s: &ScopeKey, generation: &EmbeddingSpace, limit: usize) -> Vec<PendingText> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = subject.store.lacking_in(s, generation, after, limit).await.unwrap();
        all.extend(page.nodes);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn ids(nodes: &[PendingText]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| node.id).collect()
}

/// Nodes that wait, that failed and that have no text, and nothing that has a vector; neighbours are another matter.
async fn some(subject: &Subject, s: &ScopeKey) {
    let write = WriteBuilder::new(s).input("refused").deriving().node("refused", "refused");
    subject.write(write).await;
    let items = subject.claim("w", 10).await;
    let mut nodes = subject.derive(&items).await;
    nodes[0].result = Err("the provider refuses it".to_owned());
    subject.complete_with(&items, nodes).await;
    let write = WriteBuilder::new(s).input("not asked").node("not asked", "nobody asked for a vector");
    subject.write(write).await;
    subject.write(WriteBuilder::new(s).input("silent").node("silent", "")).await;
    subject.write(WriteBuilder::new(s).node("has one", "x").vector(Rng::new(1).vector(DIM))).await;
    subject.write(WriteBuilder::new(s).input("waits").deriving().node("waits", "waits in the queue")).await;
}

/// Whatever has no vector of a generation is listed, whatever the state of its vector, page by page.
pub async fn nodes_without_a_vector_are_listed_whatever_their_state(subject: &Subject) {
    let (s, t) = (scope("s"), scope("t"));
    some(subject, &s).await;
    subject.write(WriteBuilder::new(&t).node("elsewhere", "x")).await;
    let without = BTreeSet::from(["refused", "not asked", "silent", "waits"].map(|name| node_id(&s, name)));
    for limit in [1, 2, 5, 100] {
        assert_eq!(ids(&lacking(subject, &s, &present(), limit).await), without, "pages of {limit}");
    }
    let found = lacking(subject, &s, &present(), 100).await;
    let text = |name: &str| found.iter().find(|node| node.id == node_id(&s, name)).unwrap().text.clone();
    assert_eq!((text("waits"), text("silent")), (Some("waits in the queue".to_owned()), None));
    assert_eq!(lacking(subject, &s, &other(), 100).await.len(), 5, "of another generation nobody has one");
}

/// What has a text is queued and waits; what waits already is not queued twice; what has no text counts as failed.
pub async fn nodes_without_a_vector_are_queued_once(subject: &Subject) {
    let s = scope("s");
    some(subject, &s).await;
    let found = lacking(subject, &s, &present(), 100).await;
    let queued = subject.store.queue_lacking(&s, &present(), found.clone(), subject.now()).await.unwrap();
    assert_eq!(queued, Queued { queued: 2, waiting: 1, without_text: 1, moved_on: 0 });
    assert_eq!(subject.status(&s).await.pending, 3);
    let again = subject.store.queue_lacking(&s, &present(), found, subject.now()).await.unwrap();
    assert_eq!(again, Queued { queued: 0, waiting: 3, without_text: 1, moved_on: 0 });
    let before = subject.row(&s, node_id(&s, "has one")).await.embedding_model;
    subject.drain().await;
    for name in ["refused", "not asked", "waits"] {
        assert_eq!(subject.vector_state(&s, node_id(&s, name)).await, EmbeddingStatus::Ready, "{name}");
    }
    assert_eq!(subject.vector_state(&s, node_id(&s, "silent")).await, EmbeddingStatus::Failed);
    assert_eq!(ids(&lacking(subject, &s, &present(), 100).await), BTreeSet::from([node_id(&s, "silent")]));
    let row = subject.row(&s, node_id(&s, "has one")).await;
    assert_eq!(row.embedding_model, before, "ops_21: a vector keeps the label of the model it came from");
    crate::sound::assert_sound(&*subject.store).await;
}

/// Nodes that got a vector, got other content or were never there are not queued.
pub async fn what_moved_on_is_left_alone(subject: &Subject) {
    let s = scope("s");
    for name in ["a", "b"] {
        subject.write(WriteBuilder::new(&s).input(name).node(name, "text")).await;
    }
    let mut found = lacking(subject, &s, &present(), 100).await;
    subject.write(WriteBuilder::new(&s).node("a", "other text")).await;
    subject.write(WriteBuilder::new(&s).input("v").node("b", "text").vector(Rng::new(2).vector(DIM))).await;
    found.push(PendingText { id: NodeId(Uuid::from_u128(9)), ..found[0].clone() });
    let queued = subject.store.queue_lacking(&s, &present(), found.clone(), subject.now()).await.unwrap();
    assert_eq!(queued, Queued { moved_on: 3, ..Queued::default() });
    let nowhere = subject.store.queue_lacking(&scope("nowhere"), &present(), found, subject.now()).await.unwrap();
    assert_eq!(nowhere, Queued { moved_on: 3, ..Queued::default() });
    assert!(subject.claim("w", 10).await.is_empty());
}

/// While a scope is purged nothing is queued in it: nothing of it is left when the purge has ended.
pub async fn a_scope_that_is_purged_gets_no_work(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "text").node("silent", "")).await;
    let found = lacking(subject, &s, &present(), 100).await;
    assert_eq!(found.len(), 2);
    let plan = plan_purge(&s, &subject.store.purge_survey(&s).await.unwrap(), PurgeMode::Auto, false).unwrap();
    assert!(subject.store.begin_purge(&s, &plan, "ops", subject.now()).await.unwrap());
    let queued = subject.store.queue_lacking(&s, &present(), found, subject.now()).await.unwrap();
    assert_eq!(queued, Queued { moved_on: 2, ..Queued::default() });
    assert!(subject.claim("w", 10).await.is_empty());
    while subject.store.purge_step(&s, plan.hash, 100, subject.now()).await.unwrap().done.is_none() {}
    let left = subject.store.purge_survey(&s).await.unwrap();
    assert!(left.tables.iter().all(|table| table.rows == 0), "{left:?}");
}

async fn ownerless(subject: &Subject, s: &ScopeKey, limit: usize) -> Vec<NodeId> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = subject.store.ownerless(s, after, limit).await.unwrap();
        after = page.last().map(|node| node.id);
        let short = page.len() < limit;
        all.extend(page.into_iter().map(|node| node.id));
        if short {
            return all;
        }
    }
}

/// Private nodes nobody owns, of one scope, page by page; with their content as written and their vector.
pub async fn private_nodes_without_owner_are_listed(subject: &Subject) {
    let (s, t) = (scope("s"), scope_of("globex", "s"));
    for scope in [&s, &t] {
        let mut write = WriteBuilder::new(scope)
            .node("shared", "x")
            .node("mine", "x")
            .private(Some("ada"), None)
            .node("ours", "x")
            .private(None, Some("crew"));
        for n in 0..5 {
            write = write.node(&format!("lost {n}"), "lost").private(None, None);
        }
        subject.write(write).await;
    }
    let mut lost: Vec<NodeId> = (0..5).map(|n| node_id(&s, &format!("lost {n}"))).collect();
    lost.sort_unstable();
    for limit in [1, 2, 5, 9] {
        assert_eq!(ownerless(subject, &s, limit).await, lost, "pages of {limit}");
    }
    let vector = Rng::new(4).vector(DIM);
    let write = WriteBuilder::new(&s)
        .input("v")
        .node("with a vector", "x")
        .private(None, None)
        .with(|node| node.slots = Some(json!({ "a": [1] })))
        .vector(vector.clone());
    subject.write(write).await;
    let id = node_id(&s, "with a vector");
    let used = Operation::Activate {
        nodes: NodeNames { ids: vec![id], client_ids: Vec::new() },
        outcome: Outcome::Positive,
        activate: true,
        run_id: None,
        reason: None,
    };
    subject.store.operate(operation(&s, None, used)).await.unwrap();
    let page = subject.store.ownerless(&s, None, 10).await.unwrap();
    let found = page.into_iter().find(|node| node.id == id).unwrap();
    assert_eq!(found.slots, json!({ "a": [1] }), "notes are not content");
    assert_eq!(found.vector.unwrap().0, vector);
    assert_eq!(found.client_id.as_deref(), Some("with a vector"));
}

/// An owner is new content: a version, bound by the chain, in a commit of the job's kind. Lane, vitals and vector stay; the
/// owner sees the node and nobody else does.
pub async fn an_owner_is_given_by_a_write_of_a_job(subject: &Subject) {
    let s = scope("s");
    let vector = Rng::new(4).vector(DIM);
    let write = WriteBuilder::new(&s)
        .node("a", "lost things")
        .private(None, None)
        .vector(vector.clone())
        .with(|node| node.salience = Some(0.9))
        .node("b", "lost too")
        .private(None, None)
        .with(|node| node.node_type = NodeType::Topic);
    subject.write(write).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    for viewer in [anyone(), agent("ada"), team("crew")] {
        assert!(!subject.shows(&s, a, &viewer).await);
    }
    let before = subject.row(&s, a).await;
    let nodes = subject.store.ownerless(&s, None, 10).await.unwrap();
    let (ours, mine): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.id == b);
    let write = assign(&s, mine, &Owner::Agent("ada".to_owned()), (Uuid::from_u128(1), subject.now()));
    let outcome = subject.store.write(write).await.unwrap();
    assert_eq!(outcome.nodes, [(a, "updated".to_owned())]);
    let write = assign(&s, ours, &Owner::Team("crew".to_owned()), (Uuid::from_u128(1), subject.now()));
    subject.store.write(write).await.unwrap();
    assert!(ownerless(subject, &s, 10).await.is_empty());
    for (id, viewer, sees) in [
        (a, agent("ada"), true),
        (a, team("crew"), false),
        (a, anyone(), false),
        (b, team("crew"), true),
        (b, agent("ada"), false),
    ] {
        assert_eq!(subject.shows(&s, id, &viewer).await, sees, "{id} {viewer:?}");
    }
    let row = subject.row(&s, a).await;
    assert_eq!((row.lane, row.owner_agent_id.as_deref()), (Lane::Private, Some("ada")));
    assert_eq!((row.salience, row.text_summary, row.slots), (before.salience, before.text_summary, before.slots));
    assert_eq!((row.embedding_status, row.embedding_model), (EmbeddingStatus::Ready, before.embedding_model));
    assert_eq!(subject.store.stored_vectors(&s, &[a]).await.unwrap(), [(a, vector)]);
    assert_eq!(subject.store.history(&s, a, None, 5).await.unwrap().len(), 2, "the version without owner is kept");
    let commits = subject.store.newest_commits(&s, None, 2).await.unwrap();
    for commit in commits {
        assert_eq!((commit.header.kind.as_str(), commit.header.actor.as_str()), (COMMIT_KIND, "job"));
    }
    crate::sound::assert_sound(&*subject.store).await;
}

/// A node that changed, or was given an owner, after a job had read it: the job's write is refused as a whole.
pub async fn a_job_does_not_write_over_what_changed(subject: &Subject) {
    let s = scope("s");
    let lost = |text: &str| WriteBuilder::new(&s).input(text).node("a", text).private(None, None);
    subject.write(lost("before").node("b", "b").private(None, None)).await;
    let read = subject.store.ownerless(&s, None, 10).await.unwrap();
    subject.write(lost("after")).await;
    let head = subject.status(&s).await.head_seq;
    let write = assign(&s, read, &Owner::Agent("ada".to_owned()), (Uuid::from_u128(1), subject.now()));
    match subject.store.write(write).await {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "node_changed"),
        other => panic!("refused: {other:?}"),
    }
    assert_eq!(subject.status(&s).await.head_seq, head);
    assert_eq!(subject.row(&s, node_id(&s, "a")).await.text_summary.as_deref(), Some("after"));
    assert_eq!(ownerless(subject, &s, 10).await.len(), 2);
}

//! Forgetting.

use aionis_core::{
    canon::{Digest, canonical_sha256},
    error::DomainError,
    forget::{ForgetOutcome, PreparedForget},
    ids::{NodeId, ScopeKey},
    model::{EmbeddingStatus, Lane, NodeType, RuleState, Viewer},
    operate::{Operation, Outcome},
    ports::store::{EdgeQuery, StoreError},
    write::IdempotencyKey,
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{WriteBuilder, agent, anyone, decision, node_id, operation, scope, scope_of},
};

fn asked(scope: &ScopeKey, ids: &[NodeId], token: Option<Digest>) -> PreparedForget {
    PreparedForget {
        scope: scope.clone(),
        actor: "ann".to_owned(),
        ids: ids.to_vec(),
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: canonical_sha256(&json!([ids, token])),
        idempotency: None,
    }
}

fn token(outcome: &ForgetOutcome) -> Option<Digest> {
    Some(Digest::from_hex(&outcome.token).expect("a token is a digest"))
}

async fn look(subject: &Subject, scope: &ScopeKey, ids: &[NodeId]) -> ForgetOutcome {
    subject.store.forget(asked(scope, ids, None)).await.expect("there is something to look at")
}

pub(super) async fn forget_nodes(subject: &Subject, scope: &ScopeKey, ids: &[NodeId]) -> ForgetOutcome {
    let token = token(&look(subject, scope, ids).await);
    subject.store.forget(asked(scope, ids, token)).await.expect("it is erased")
}

async fn refused(subject: &Subject, asked: PreparedForget) -> DomainError {
    match subject.store.forget(asked).await {
        Err(StoreError::Rejected(error)) => error,
        other => panic!("it must be refused, got {other:?}"),
    }
}

fn around(s: &ScopeKey, ids: &[NodeId]) -> EdgeQuery {
    EdgeQuery {
        scope: s.clone(),
        viewer: anyone(),
        around: ids.to_vec(),
        min_weight: 0.0,
        min_confidence: 0.0,
        limit: 10,
    }
}

/// A look changes nothing; erasing takes the node, its versions, its vector, its words and its edges, and the chain holds.
pub async fn a_forgotten_node_is_gone_everywhere(subject: &Subject) {
    let s = scope("s");
    subject
        .write(WriteBuilder::new(&s).deriving().input("1").node("a", "zebra").node("b", "lion").edge("a", "b"))
        .await;
    subject
        .write(
            WriteBuilder::new(&s).deriving().input("2").node("a", "zebra again").node("c", "zebra too").edge("c", "a"),
        )
        .await;
    subject.drain().await;
    let (a, b, c) = (node_id(&s, "a"), node_id(&s, "b"), node_id(&s, "c"));
    let vector = subject.store.stored_vectors(&s, &[a]).await.unwrap().remove(0).1;
    assert_eq!(subject.near(&s, &vector, 1).await[0].id, a);
    let before = subject.status(&s).await;
    let seen = look(subject, &s, &[a]).await;
    assert_eq!((&seen.nodes, seen.edges, seen.versions, &seen.commit), (&vec![a], 2, 1, &None));
    assert_eq!(subject.status(&s).await, before, "a look changes nothing");

    let done = forget_nodes(subject, &s, &[a]).await;
    let commit = done.commit.expect("erasing is a commit");
    assert_eq!(commit.seq, before.head_seq + 1);
    assert!(subject.rows(&s, &[a]).await.is_empty());
    assert_eq!(subject.found(&s, "zebra").await, [c]);
    assert!(subject.near(&s, &vector, 10).await.iter().all(|hit| hit.id != a));
    assert!(subject.quoted(&s, &["a", &a.to_string()]).await.is_empty());
    assert!(subject.store.edges_around(around(&s, &[b, c])).await.unwrap().is_empty());
    assert!(subject.store.stored_vectors(&s, &[a]).await.unwrap().is_empty());
    assert!(subject.store.history(&s, a, None, 10).await.unwrap().is_empty());
    assert!(subject.inspect.version_intervals(&s, a).await.is_empty());
    assert_eq!(subject.status(&s).await.nodes, 2);
    let hits = subject.words(&s, "zebra").await;
    assert_eq!((hits.total_docs, hits.doc_freq[0]), (2, 1), "statistics are those of what is left");
    let erased = subject.store.erased(&s, &[a, b]).await.unwrap();
    assert_eq!(erased.len(), 1);
    assert_eq!((erased[0].id, erased[0].commit_seq, erased[0].commit_id), (a, commit.seq, commit.id));
    assert_sound(subject.store.as_ref()).await;
    assert_eq!(refused(subject, asked(&s, &[a], None)).await.code, "forget_no_resolved_nodes");
}

/// A token erases exactly what was looked at; what changed since is looked at again.
pub async fn a_token_is_for_what_was_looked_at(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).input("1").node("a", "one").node("b", "two")).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    let of_a = token(&look(subject, &s, &[a]).await);
    assert_eq!(refused(subject, asked(&s, &[a, b], of_a)).await.code, "forget_selection_changed");
    subject.write(WriteBuilder::new(&s).input("2").node("a", "other content")).await;
    assert_eq!(refused(subject, asked(&s, &[a], of_a)).await.code, "forget_selection_changed");
    assert_eq!(subject.rows(&s, &[a, b]).await.len(), 2, "nothing was erased");
    assert_eq!(subject.status(&s).await.head_seq, 2);
}

/// A repeated request key is answered by what was done.
pub async fn a_repeated_key_erases_once(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "one")).await;
    let a = node_id(&s, "a");
    let token = token(&look(subject, &s, &[a]).await);
    let keyed = || PreparedForget {
        idempotency: Some(IdempotencyKey { key: "k".into(), strict: true }),
        ..asked(&s, &[a], token)
    };
    let first = subject.store.forget(keyed()).await.unwrap();
    let second = subject.store.forget(keyed()).await.unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.commit, second.commit);
}

/// A forgotten node may be written again: it is new, and has no history.
pub async fn a_forgotten_node_may_be_written_again(subject: &Subject) {
    let s = scope("s");
    subject
        .write(WriteBuilder::new(&s).deriving().input("1").node("a", "zebra").node("b", "lion").edge("a", "b"))
        .await;
    subject.drain().await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    subject.found(&s, "zebra").await;
    forget_nodes(subject, &s, &[a]).await;
    let again = subject
        .write(WriteBuilder::new(&s).deriving().input("2").node("a", "giraffe").node("b", "lion").edge("a", "b"))
        .await;
    assert_eq!(again.nodes, [(a, "created".to_owned()), (b, "unchanged".to_owned())]);
    assert_eq!(again.edges[0].1, "created");
    subject.drain().await;
    assert_eq!(subject.found(&s, "giraffe").await, [a]);
    assert!(subject.found(&s, "zebra").await.is_empty());
    assert_eq!(subject.store.edges_around(around(&s, &[b])).await.unwrap().len(), 1);
    let history = subject.store.history(&s, a, None, 10).await.unwrap();
    assert_eq!(history.iter().map(|version| version.version).collect::<Vec<_>>(), [1]);
    assert!(subject.store.erased(&s, &[a]).await.unwrap().is_empty(), "it is not erased now");
    assert_sound(subject.store.as_ref()).await;
    forget_nodes(subject, &s, &[a]).await;
    assert_eq!(subject.store.erased(&s, &[a]).await.unwrap().len(), 1);
    assert_sound(subject.store.as_ref()).await;
}

/// With a rule go its feedback and what decisions kept of it; its digest in the decision stays.
pub async fn a_forgotten_rule_takes_its_feedback_and_policies(subject: &Subject) {
    let s = scope("s");
    let rule = |n: &mut aionis_core::write::NodeInput| {
        n.node_type = NodeType::Rule;
        n.slots = Some(json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } } }));
    };
    subject.write(WriteBuilder::new(&s).node("r", "deploys need a ticket").with(rule).node("x", "other")).await;
    let r = node_id(&s, "r");
    let checked = subject.store.rule(&s, r).await.unwrap().unwrap().digest;
    let live = Operation::RuleState { rule: r, state: RuleState::Active, checked };
    subject.store.operate(operation(&s, None, live)).await.unwrap();
    let note = Some("it said so".to_owned());
    let feedback = Operation::RuleFeedback { rule: r, outcome: Outcome::Positive, run_id: None, note };
    subject.store.operate(operation(&s, None, feedback)).await.unwrap();
    let made = Uuid::from_u128(5);
    subject.store.put_decision(&s, decision(made, None, &[r])).await.unwrap();
    let done = forget_nodes(subject, &s, &[r]).await;
    assert_eq!(done.feedback, 1);
    assert!(subject.store.rule(&s, r).await.unwrap().is_none());
    assert!(subject.store.live_rules(&s).await.unwrap().is_empty());
    assert!(subject.store.feedback(&s, None, 10).await.unwrap().is_empty());
    let kept = subject.store.decision(&s, made).await.unwrap().unwrap().decision;
    assert!(kept.policy.is_null());
    assert_eq!((kept.policy_sha256, kept.source_rules), ("p".repeat(64), vec![r]));
    assert_sound(subject.store.as_ref()).await;
}

/// A decision by a rule that is being forgotten keeps nothing of it, whichever of the two comes first.
pub async fn a_decision_stored_while_its_rule_is_forgotten_keeps_nothing_of_it(subject: &Subject) {
    let s = scope("s");
    let rule = |n: &mut aionis_core::write::NodeInput| {
        n.node_type = NodeType::Rule;
        n.slots = Some(json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } } }));
    };
    subject.write(WriteBuilder::new(&s).node("kept", "kept").with(rule)).await;
    let kept = node_id(&s, "kept");
    for round in 0..6_u128 {
        let name = format!("r{round}");
        subject.write(WriteBuilder::new(&s).input(&name).node(&name, "deploys need a ticket").with(rule)).await;
        let r = node_id(&s, &name);
        let mut made: Vec<_> =
            (0..12_u128).map(|n| decision(Uuid::from_u128(round * 100 + n), None, &[kept, r])).collect();
        let mut shadow = decision(Uuid::from_u128(round * 100 + 50), None, &[kept]);
        shadow.metadata = json!({ "tool_rules_with_shadow": [kept, r], "said": "psql" });
        made.push(shadow);
        // Some of them after the rule is gone for certain.
        let late = made.split_off(10);
        let mut deciding = tokio::task::JoinSet::new();
        for new in made.clone() {
            let (store, s) = (std::sync::Arc::clone(&subject.store), s.clone());
            deciding.spawn(async move { store.put_decision(&s, new).await.expect("it is stored") });
        }
        forget_nodes(subject, &s, &[r]).await;
        while let Some(stored) = deciding.join_next().await {
            assert!(stored.expect("it ends").is_some());
        }
        for new in late.clone() {
            assert!(subject.store.put_decision(&s, new).await.expect("it is stored").is_some());
        }
        for new in made.into_iter().chain(late) {
            let stored = subject.store.decision(&s, new.id).await.unwrap().unwrap().decision;
            assert!(stored.policy.is_null() && stored.metadata == json!({}), "{stored:?}");
            assert_eq!((stored.policy_sha256, stored.source_rules), (new.policy_sha256, new.source_rules));
        }
    }
    // What was made by rules that are there is kept whole.
    let whole = decision(Uuid::from_u128(9_999), None, &[kept]);
    subject.store.put_decision(&s, whole.clone()).await.unwrap();
    assert_eq!(subject.store.decision(&s, whole.id).await.unwrap().unwrap().decision, whole);
    assert_sound(subject.store.as_ref()).await;
}

/// A node that was a rule once takes what is left of that time with it.
pub async fn a_forgotten_node_that_was_a_rule_takes_its_feedback_too(subject: &Subject) {
    let s = scope("s");
    let rule = |n: &mut aionis_core::write::NodeInput| {
        n.node_type = NodeType::Rule;
        n.slots = Some(json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } } }));
    };
    subject.write(WriteBuilder::new(&s).input("1").node("r", "a rule").with(rule)).await;
    let r = node_id(&s, "r");
    let note = Some("it said so".to_owned());
    let feedback = Operation::RuleFeedback { rule: r, outcome: Outcome::Positive, run_id: None, note };
    subject.store.operate(operation(&s, None, feedback)).await.unwrap();
    let (by_rule, by_shadow) = (Uuid::from_u128(5), Uuid::from_u128(6));
    subject.store.put_decision(&s, decision(by_rule, None, &[r])).await.unwrap();
    let mut shadow = decision(by_shadow, None, &[]);
    shadow.metadata = json!({ "rules_with_shadow": [r], "said": "psql" });
    subject.store.put_decision(&s, shadow).await.unwrap();
    subject.write(WriteBuilder::new(&s).input("2").node("r", "an event now")).await;
    assert_eq!(forget_nodes(subject, &s, &[r]).await.feedback, 1);
    assert!(subject.store.feedback(&s, None, 10).await.unwrap().is_empty());
    for made in [by_rule, by_shadow] {
        let kept = subject.store.decision(&s, made).await.unwrap().unwrap().decision;
        assert!(kept.policy.is_null() && !kept.metadata.to_string().contains("psql"), "{made}");
    }
    assert_sound(subject.store.as_ref()).await;
}

/// A vector that was being derived when its node was forgotten is not stored.
pub async fn work_under_way_on_a_forgotten_node_stores_nothing(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).deriving().node("a", "zebra").node("b", "lion")).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    let items = subject.claim("w", 10).await;
    let derived = subject.derive(&items).await;
    assert_eq!(derived.len(), 2);
    forget_nodes(subject, &s, &[a]).await;
    assert_eq!(subject.complete_with(&items, derived).await, 1);
    assert!(subject.store.stored_vectors(&s, &[a]).await.unwrap().is_empty());
    assert_eq!(subject.vector_state(&s, b).await, EmbeddingStatus::Ready);
    assert_eq!(subject.status(&s).await.pending, 0);
    assert!(subject.claim("w", 10).await.is_empty());
    assert_sound(subject.store.as_ref()).await;
}

/// Nodes of others, of other scopes and of other tenants are not forgotten.
pub async fn only_what_may_be_changed_is_forgotten(subject: &Subject) {
    let (s, other) = (scope("s"), scope_of("other", "s"));
    let private = |n: &mut aionis_core::write::NodeInput| {
        n.memory_lane = Some(Lane::Private);
        n.owner_agent_id = Some("ann".into());
    };
    subject.write(WriteBuilder::new(&s).node("a", "mine").with(private).node("b", "all")).await;
    subject.write(WriteBuilder::new(&other).node("c", "theirs")).await;
    let ids = [node_id(&s, "a"), node_id(&s, "b"), node_id(&other, "c")];
    let by = |viewer: Viewer| PreparedForget { viewer: Some(viewer), ..asked(&s, &ids, None) };
    let of_bob = subject.store.forget(by(agent("bob"))).await.unwrap();
    assert_eq!((of_bob.nodes, of_bob.missing), (vec![ids[1]], vec![ids[0], ids[2]]));
    let mut of_ann = subject.store.forget(by(agent("ann"))).await.unwrap().nodes;
    of_ann.sort_unstable();
    let mut mine = vec![ids[0], ids[1]];
    mine.sort_unstable();
    assert_eq!(of_ann, mine);
    assert_eq!(subject.rows(&other, &[ids[2]]).await.len(), 1);
}

/// Writers and forgetting at once: the chain stays whole, and no edge is left that leads nowhere.
pub async fn forgetting_and_writing_at_once_keep_the_chain(subject: &Subject) {
    let s = scope("s");
    let hub = node_id(&s, "hub");
    subject.write(WriteBuilder::new(&s).input("0").node("hub", "hub")).await;
    let write = async |n: usize| {
        let name = format!("n{n}");
        let write =
            WriteBuilder::new(&s).input(&name).node(&name, &format!("text {n}")).node("hub", "hub").edge(&name, "hub");
        subject.store.write(write.prepared()).await.expect("the write is stored");
    };
    let erase = async || {
        for _ in 0..10 {
            let Ok(seen) = subject.store.forget(asked(&s, &[hub], None)).await else {
                tokio::task::yield_now().await;
                continue;
            };
            // Edges may come in between: they go with the node, whatever the look counted.
            let _ = subject.store.forget(asked(&s, &[hub], token(&seen))).await;
        }
    };
    let writers = async {
        for n in 0..30 {
            write(n).await;
        }
    };
    tokio::join!(writers, erase());
    assert_sound(subject.store.as_ref()).await;
}

/// Work that failed because it cannot be read is in nobody's way.
pub async fn unreadable_work_does_not_keep_a_node(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).deriving().node("a", "zebra")).await;
    subject.inspect.spoil_work(&s).await;
    assert!(subject.claim("w", 10).await.is_empty());
    assert_eq!(subject.store.outbox_status().await.unwrap().dead, 1);
    assert_eq!(forget_nodes(subject, &s, &[node_id(&s, "a")]).await.nodes.len(), 1);
    assert_sound(subject.store.as_ref()).await;
}

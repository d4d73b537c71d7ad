//! What a write does to nodes, edges and request keys.

use std::time::Duration;

use aionis_core::{
    canon::Digest,
    error::ErrorKind,
    ids::{CommitId, NodeId},
    model::{EmbeddingStatus, Lane, NodeType, RuleState, Tier},
    write::WriteOutcome,
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{WriteBuilder, agent, anyone, node_id, scope},
};

fn statuses(outcome: &WriteOutcome) -> (Vec<&str>, Vec<&str>) {
    (
        outcome.nodes.iter().map(|(_, status)| status.as_str()).collect(),
        outcome.edges.iter().map(|(_, status)| status.as_str()).collect(),
    )
}

async fn strength_of_the_edge(subject: &Subject, from: NodeId) -> (f64, f64) {
    let edges = super::graph::edges_of(subject, &scope("s"), &[from]).await;
    assert_eq!(edges.len(), 1);
    (edges[0].weight, edges[0].confidence)
}

/// Every item says what became of it.
pub async fn outcomes_are_created_updated_unchanged(subject: &Subject) {
    let s = scope("s");
    let first = WriteBuilder::new(&s).input("one").node("a", "alpha").node("b", "beta").edge("a", "b");
    let first = subject.write(first).await;
    assert_eq!(statuses(&first), (vec!["created", "created"], vec!["created"]));
    assert_eq!((first.commit_seq, first.replayed, first.pending_nodes), (1, false, 0));
    assert_eq!(first.nodes[0].0, node_id(&s, "a"));
    let second =
        WriteBuilder::new(&s).input("two").node("b", "beta").node("a", "gamma").edge("a", "b").strength(0.9, 0.5);
    let second = subject.write(second).await;
    assert_eq!(statuses(&second), (vec!["unchanged", "updated"], vec!["updated"]), "in the order of the request");
    let third =
        WriteBuilder::new(&s).input("three").node("b", "beta").node("a", "gamma").edge("a", "b").strength(0.9, 0.5);
    let third = subject.write(third).await;
    assert_eq!(statuses(&third), (vec!["unchanged", "unchanged"], vec!["unchanged"]));
    assert_eq!((third.commit_seq, third.replayed), (3, false), "another request is another commit");
    let verified = assert_sound(&*subject.store).await;
    assert_eq!((verified[0].commits, verified[0].nodes, verified[0].edges, verified[0].versions), (3, 2, 1, 1));
}

/// Tier and scores are no content: changing them makes no version, but a commit.
pub async fn new_vitals_touch_a_node_without_a_new_version(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    subject.write(WriteBuilder::new(&s).node("a", "alpha").with(|n| n.salience = Some(0.25))).await;
    let later = subject.clock.advance(Duration::from_secs(5));
    let touch = WriteBuilder::new(&s).node("a", "alpha").with(|n| {
        n.salience = Some(0.75);
        n.tier = Some(Tier::Warm);
    });
    let touched = subject.write(touch).await;
    assert_eq!((statuses(&touched).0, touched.commit_seq), (vec!["updated"], 2));
    let row = subject.row(&s, a).await;
    assert_eq!((row.tier, row.salience, row.importance, row.confidence), (Tier::Warm, 0.75, 0.5, 0.5));
    assert_eq!((row.commit_seq, row.commit_id, row.updated_at), (2, touched.commit_id, later));
    let vitals = subject.store.vitals(&s, &[a], &anyone()).await.unwrap();
    assert!((vitals[0].salience - 0.75).abs() < f64::EPSILON);
    assert_eq!(assert_sound(&*subject.store).await[0].versions, 0);
    let cold = WriteBuilder::new(&s).node("a", "alpha").with(|n| n.tier = Some(Tier::Cold));
    subject.write(cold).await;
    assert!(subject.found(&s, "alpha").await.is_empty(), "a cold node is out of recall at once");
}

/// An update keeps what was there, from the commit that made it to the one that replaced it.
pub async fn an_update_keeps_the_old_version_with_its_interval(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    let with_text = |text: &str| {
        WriteBuilder::new(&s).input(text).node("a", text).title(text).with(|n| {
            n.slots = Some(json!({ "k": [1, 2.5, "é\u{1F600}", null, { "z": 1, "a": -0.0 }] }));
            n.raw_ref = Some("s3://raw".to_owned());
        })
    };
    let digest_of = |write: &WriteBuilder| write.clone().prepared().parts[0].nodes[0].digest;
    let created = subject.now();
    let (one, two, three) = (with_text("one"), with_text("two"), with_text("three"));
    let digests: Vec<Digest> = [&one, &two].into_iter().map(digest_of).collect();
    subject.write(one).await;
    subject.clock.advance(Duration::from_secs(1));
    subject.write(two).await;
    subject.write(with_text("two").input("touch").with(|n| n.importance = Some(1.0))).await;
    let last = subject.clock.advance(Duration::from_secs(1));
    subject.write(three).await;
    let kept = subject.store.versions(&s, None, 10).await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|v| (v.id, v.version, v.from_seq, v.recomputed)).collect();
    assert_eq!(kept, [(a.0, 1, 1, digests[0]), (a.0, 2, 2, digests[1])]);
    let intervals = subject.inspect.version_intervals(&s, a).await;
    assert_eq!(intervals, [(1, 1, 2), (2, 2, 4)], "a touch ends no version");
    let row = subject.row(&s, a).await;
    assert_eq!((row.text_summary.as_deref(), row.created_at, row.updated_at), (Some("three"), created, last));
    assert_eq!(assert_sound(&*subject.store).await[0].versions, 2);
}

/// What an update does not mention stays.
pub async fn an_update_keeps_the_vitals_it_does_not_name(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    let first = WriteBuilder::new(&s).node("a", "one").with(|n| {
        (n.salience, n.importance, n.confidence) = (Some(0.1), Some(0.2), Some(0.3));
        n.tier = Some(Tier::Warm);
    });
    subject.write(first).await;
    subject.write(WriteBuilder::new(&s).node("a", "two").with(|n| n.importance = Some(0.9))).await;
    let row = subject.row(&s, a).await;
    assert_eq!((row.tier, row.salience, row.importance, row.confidence), (Tier::Warm, 0.1, 0.9, 0.3));
    let vitals = subject.store.vitals(&s, &[a], &anyone()).await.unwrap();
    assert_eq!((vitals[0].salience, vitals[0].confidence), (0.1, 0.3));
}

/// Edges merge: each value becomes the larger one, the id is the first one's.
pub async fn an_edge_written_again_takes_the_larger_values_and_keeps_its_id(subject: &Subject) {
    let s = scope("s");
    let edge = |input: &str, weight: f64, confidence: f64| {
        let write = WriteBuilder::new(&s).input(input).node("a", "alpha").node("b", "beta");
        write.edge("a", "b").strength(weight, confidence)
    };
    let first = subject.write(edge("one", 0.25, 0.75)).await;
    let second = subject.write(edge("two", 0.75, 0.25)).await;
    assert_eq!(statuses(&second).1, ["updated"]);
    assert_eq!(second.edges[0].0, first.edges[0].0, "another input derives another id, the stored one stays");
    assert_eq!(strength_of_the_edge(subject, node_id(&s, "a")).await, (0.75, 0.75));
    let third = subject.write(edge("three", 0.5, 0.5)).await;
    assert_eq!((statuses(&third).1, third.edges[0].0), (vec!["unchanged"], first.edges[0].0));
    assert_eq!(assert_sound(&*subject.store).await[0].edges, 1);
    let reverse = WriteBuilder::new(&s).edge("b", "a");
    assert_eq!(statuses(&subject.write(reverse).await).1, ["created"], "direction makes another edge");
}

/// A write with a dangling edge leaves no trace.
pub async fn an_unknown_edge_end_is_refused_and_nothing_is_stored(subject: &Subject) {
    let s = scope("s");
    let refused = subject.refused(WriteBuilder::new(&s).node("a", "alpha").edge("a", "nobody")).await;
    assert_eq!((refused.kind, refused.code), (ErrorKind::Invalid, "invalid_request"));
    assert_eq!(refused.issues[0].path, "edges.0.dst");
    let refused = subject.refused(WriteBuilder::new(&s).node("a", "alpha").edge("nobody", "a")).await;
    assert_eq!(refused.issues[0].path, "edges.0.src");
    assert!(subject.store.scopes(None, None).await.unwrap().is_empty());
    assert!(subject.found(&s, "alpha").await.is_empty());
    assert!(subject.rows(&s, &[node_id(&s, "a")]).await.is_empty());
    assert_eq!(subject.status(&s).await.head_seq, 0);
    subject.write(WriteBuilder::new(&s).node("a", "alpha")).await;
    let other = WriteBuilder::new(&scope("other")).node("b", "beta").edge("b", "a");
    assert_eq!(subject.refused(other).await.issues[0].path, "edges.0.dst", "a node of another scope is no end");
}

/// Edges reach back to what was written before.
pub async fn w_22_an_edge_may_name_an_earlier_node_by_its_client_id(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "alpha").node("b", "beta")).await;
    let outcome = subject.write(WriteBuilder::new(&s).node("c", "gamma").edge("c", "a").edge(" a ", "b")).await;
    assert_eq!(statuses(&outcome).1, ["created", "created"]);
    let around = super::graph::edges_of(subject, &s, &[node_id(&s, "a")]).await;
    let ends: Vec<_> = around.iter().map(|edge| (edge.src, edge.dst)).collect();
    assert!(
        ends.contains(&(node_id(&s, "c"), node_id(&s, "a"))) && ends.contains(&(node_id(&s, "a"), node_id(&s, "b")))
    );
    assert_sound(&*subject.store).await;
}

/// An id names one edge.
pub async fn an_edge_id_in_use_for_another_pair_is_refused(subject: &Subject) {
    let (s, id) = (scope("s"), Uuid::from_u128(77));
    let nodes = WriteBuilder::new(&s).node("a", "alpha").node("b", "beta").node("c", "gamma");
    let outcome = subject.write(nodes.edge("a", "b").with_edge(|e| e.id = Some(id))).await;
    assert_eq!(outcome.edges[0].0.0, id);
    let refused =
        subject.refused(WriteBuilder::new(&s).node("d", "delta").edge("a", "c").with_edge(|e| e.id = Some(id))).await;
    assert_eq!((refused.code, refused.issues[0].path.as_str()), ("invalid_request", "edges.0.id"));
    assert!(subject.found(&s, "delta").await.is_empty());
    let again = WriteBuilder::new(&s).edge("a", "b").strength(0.9, 0.9).with_edge(|e| e.id = Some(Uuid::from_u128(78)));
    let again = subject.write(again).await;
    assert_eq!((statuses(&again).1, again.edges[0].0.0), (vec!["updated"], id), "the pair keeps the id it has");
    let other = WriteBuilder::new(&scope("t")).node("a", "alpha").node("c", "gamma").edge("a", "c");
    subject.write(other.with_edge(|e| e.id = Some(id))).await;
    assert_sound(&*subject.store).await;
}

/// The chain is linear by itself; a parent is only checked.
pub async fn a_parent_commit_must_exist_and_need_not_be_the_head(subject: &Subject) {
    let s = scope("s");
    let first = subject.write(WriteBuilder::new(&s).node("a", "alpha")).await;
    let at_head = subject.write(WriteBuilder::new(&s).node("b", "beta").parent(first.commit_id)).await;
    assert!(at_head.warnings.is_empty(), "{:?}", at_head.warnings);
    let behind = subject.write(WriteBuilder::new(&s).node("c", "gamma").parent(first.commit_id)).await;
    assert_eq!(behind.commit_seq, 3);
    assert_eq!(behind.warnings.iter().map(|w| w.code.as_str()).collect::<Vec<_>>(), ["parent_not_head"]);
    let elsewhere = subject.write(WriteBuilder::new(&scope("t")).node("a", "alpha")).await;
    for unknown in [CommitId(Uuid::from_u128(1)), elsewhere.commit_id] {
        let refused = subject.refused(WriteBuilder::new(&s).node("d", "delta").parent(unknown)).await;
        assert_eq!((refused.kind, refused.issues[0].path.as_str()), (ErrorKind::Invalid, "parent_commit_id"));
    }
    assert_eq!(subject.status(&s).await.head_seq, 3);
    assert_sound(&*subject.store).await;
}

/// Sending the same again changes nothing and names the commit that did it.
pub async fn an_identical_retry_returns_the_same_commit(subject: &Subject) {
    let s = scope("s");
    let write = || WriteBuilder::new(&s).node("a", "alpha").node("b", "beta").edge("a", "b");
    let first = subject.write(write()).await;
    subject.clock.advance(Duration::from_secs(60));
    let retry = subject.write(write()).await;
    assert!(retry.replayed && !first.replayed);
    assert_eq!((retry.commit_id, retry.commit_seq, &retry.commit_hash), (first.commit_id, 1, &first.commit_hash));
    assert_eq!(statuses(&retry), (vec!["unchanged", "unchanged"], vec!["unchanged"]));
    assert_eq!(retry.edges[0].0, first.edges[0].0);
    subject.write(WriteBuilder::new(&s).node("c", "gamma")).await;
    let late = subject.write(write()).await;
    assert_eq!((late.replayed, late.commit_seq), (true, 1), "also when the chain has moved on");
    assert_eq!(assert_sound(&*subject.store).await[0].commits, 2);
}

/// Content that returns is a change, however often it was there before.
pub async fn there_and_back_again_makes_a_new_commit(subject: &Subject) {
    let s = scope("s");
    let write = |text: &str| WriteBuilder::new(&s).node("a", text);
    subject.write(write("alpha")).await;
    subject.write(write("beta")).await;
    let back = subject.write(write("alpha")).await;
    assert_eq!((back.replayed, back.commit_seq, statuses(&back).0), (false, 3, vec!["updated"]));
    assert_eq!(subject.found(&s, "alpha").await, [node_id(&s, "a")]);
    assert!(subject.found(&s, "beta").await.is_empty());
    let retry = subject.write(write("alpha")).await;
    assert_eq!((retry.replayed, retry.commit_seq), (true, 3), "the newest commit that did this is named");
    assert_eq!(assert_sound(&*subject.store).await[0].versions, 2);
}

/// A repeated key answers with what was answered first, whatever happened meanwhile.
pub async fn a_request_key_replays_the_stored_outcome(subject: &Subject) {
    let s = scope("s");
    for (key, strict) in [("strict", true), ("loose", false)] {
        let write = || WriteBuilder::new(&s).input(key).node(key, "alpha").key(key, strict);
        let first = subject.write(write()).await;
        subject.write(WriteBuilder::new(&s).input("between").node(key, "beta")).await;
        let head = subject.status(&s).await.head_seq;
        let replayed = subject.write(write()).await;
        assert_eq!(replayed, WriteOutcome { replayed: true, ..first }, "even though the node has changed since");
        assert_eq!(subject.status(&s).await.head_seq, head);
        assert_eq!(subject.row(&s, node_id(&s, key)).await.text_summary.as_deref(), Some("beta"));
    }
    assert_sound(&*subject.store).await;
}

/// An `Idempotency-Key` belongs to one body.
pub async fn a_strict_key_with_another_body_is_a_conflict(subject: &Subject) {
    let s = scope("s");
    let first = subject.write(WriteBuilder::new(&s).node("a", "alpha").key("k", true)).await;
    let refused = subject.refused(WriteBuilder::new(&s).node("a", "beta").key("k", true)).await;
    assert_eq!((refused.kind, refused.code), (ErrorKind::Conflict, "idempotency_key_reused"));
    assert_eq!(subject.status(&s).await.head_seq, 1);
    let replayed = subject.write(WriteBuilder::new(&s).node("a", "alpha").key("k", true)).await;
    assert_eq!(replayed.commit_id, first.commit_id, "the key still stands for the first body");
}

/// An `x-request-id` may be shared by several requests.
pub async fn a_loose_key_with_another_body_is_a_new_write(subject: &Subject) {
    let s = scope("s");
    let write = |text: &str| WriteBuilder::new(&s).node("a", text).key("k", false);
    subject.write(write("alpha")).await;
    let second = subject.write(write("beta")).await;
    assert_eq!((second.replayed, second.commit_seq, statuses(&second).0), (false, 2, vec!["updated"]));
    let replayed = subject.write(write("beta")).await;
    assert_eq!((replayed.replayed, replayed.commit_seq, statuses(&replayed).0), (true, 2, vec!["updated"]));
    assert_eq!(subject.status(&s).await.head_seq, 2);
}

/// A key in one scope says nothing about another.
pub async fn request_keys_belong_to_their_scope(subject: &Subject) {
    for name in ["s", "t"] {
        let outcome = subject.write(WriteBuilder::new(&scope(name)).node("a", name).key("k", true)).await;
        assert_eq!((outcome.replayed, outcome.commit_seq), (false, 1));
    }
}

/// What was not done need not be remembered.
pub async fn a_refused_request_leaves_its_key_free(subject: &Subject) {
    let s = scope("s");
    subject.refused(WriteBuilder::new(&s).node("a", "alpha").edge("a", "nobody").key("k", true)).await;
    let outcome = subject.write(WriteBuilder::new(&s).node("a", "alpha").key("k", true)).await;
    assert_eq!((outcome.replayed, outcome.commit_seq), (false, 1));
}

/// A node may lie in another scope than its request; each scope gets its commit.
pub async fn a_write_over_two_scopes_makes_one_commit_in_each(subject: &Subject) {
    let (s, t) = (scope("s"), scope("t"));
    subject.write(WriteBuilder::new(&t).node("old", "old")).await;
    let write = || WriteBuilder::new(&s).node("a", "alpha").node("b", "beta").in_scope(&t).node("c", "gamma");
    let outcome = subject.write(write()).await;
    let ids: Vec<NodeId> = outcome.nodes.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [node_id(&s, "a"), node_id(&t, "b"), node_id(&s, "c")], "in the order of the request");
    assert_eq!(outcome.commit_seq, 1, "the request's own scope is the one reported");
    assert_eq!((subject.status(&s).await.head_seq, subject.status(&t).await.head_seq), (1, 2));
    assert_eq!(subject.found(&t, "beta").await, [node_id(&t, "b")]);
    assert!(subject.found(&s, "beta").await.is_empty());
    assert!(subject.write(write()).await.replayed);
    let verified = assert_sound(&*subject.store).await;
    assert_eq!(verified.iter().map(|v| (v.commits, v.nodes)).collect::<Vec<_>>(), [(1, 2), (2, 2)]);
}

/// All scopes of a write or none.
pub async fn a_failing_part_stores_nothing_in_any_scope(subject: &Subject) {
    let (s, t) = (scope("s"), scope("t"));
    let request = WriteBuilder::new(&s).node("a", "alpha").node("b", "beta").in_scope(&t).deriving().key("k", true);
    subject.refused(request.edge("b", "nobody").with_edge(|edge| edge.scope = Some(t.clone()))).await;
    assert!(subject.store.scopes(None, None).await.unwrap().is_empty());
    for (scope, word) in [(&s, "alpha"), (&t, "beta")] {
        assert!(subject.found(scope, word).await.is_empty());
    }
    assert_eq!(subject.store.outbox_status().await.unwrap().pending, 0);
}

/// Nobody sees it, so the caller is told.
pub async fn a_private_node_without_owner_is_stored_with_a_warning(subject: &Subject) {
    let s = scope("s");
    let outcome = subject.write(WriteBuilder::new(&s).node("a", "alpha").private(None, None)).await;
    assert_eq!(outcome.warnings.iter().map(|w| w.code.as_str()).collect::<Vec<_>>(), ["private_without_owner"]);
    let row = subject.row(&s, node_id(&s, "a")).await;
    assert_eq!((row.lane, row.embedding_status), (Lane::Private, EmbeddingStatus::Failed));
    assert!(subject.found(&s, "alpha").await.is_empty());
}

/// A private node is not overwritten by those who cannot see it.
pub async fn a_private_node_is_written_to_by_its_owner_only(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "hers").private(Some("ada"), None).node("b", "ours")).await;
    let by = |who: Option<&str>, text: &str| {
        let writer = who.map(agent);
        WriteBuilder::new(&s).node("b", text).node("a", text).request(move |request| request.writer = writer)
    };
    let refused = subject.refused(by(Some("bob"), "his")).await;
    assert_eq!((refused.kind, refused.code), (ErrorKind::Forbidden, "node_belongs_to_another"));
    assert_eq!(subject.status(&s).await.head_seq, 1, "nothing of the write is stored");
    subject.write(by(Some("ada"), "hers again").with(|n| n.owner_agent_id = Some("ada".to_owned()))).await;
    assert_eq!(subject.row(&s, node_id(&s, "a")).await.text_summary.as_deref(), Some("hers again"));
    subject.write(by(None, "an administrator's")).await;
}

/// New words of a rule must be looked at before they are enforced.
pub async fn updating_a_live_rule_makes_it_a_draft_and_warns(subject: &Subject) {
    let s = scope("s");
    let rule = |text: &str| WriteBuilder::new(&s).node("r", text).with(|n| n.node_type = NodeType::Rule);
    subject.write(rule("one")).await;
    let r = node_id(&s, "r");
    subject.inspect.set_rule_state(&s, r, RuleState::Active).await;
    assert_eq!(subject.found(&s, "one").await, [r]);
    let same = subject.write(rule("one").input("same")).await;
    assert!(same.warnings.is_empty());
    assert_eq!(subject.found(&s, "one").await, [r], "the same content leaves the state alone");
    let outcome = subject.write(rule("two")).await;
    assert_eq!(outcome.warnings.iter().map(|w| w.code.as_str()).collect::<Vec<_>>(), ["rule_returned_to_draft"]);
    assert!(subject.found(&s, "two").await.is_empty());
    assert_eq!(subject.row(&s, r).await.rule.unwrap().state, RuleState::Draft);
}

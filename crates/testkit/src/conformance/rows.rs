//! What is visible, and what comes back of it.

use std::{collections::BTreeSet, time::Duration};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    model::{EmbeddingStatus, Lane, NodeType, RuleScope, RuleState, Tier, Viewer},
    ports::store::{NodeFilter, RecallAudit, ScopeStatus},
};
use serde_json::json;
use uuid::Uuid;

use super::{MODEL, Subject};
use crate::fixtures::{
    DIM, Rng, WriteBuilder, agent, anyone, everything, member, node_id, reference, scope, scope_of, team,
};

const WORD: &str = "beacon";

/// Adds a node that all three arms find: by its word, its client id and its vector.
fn beacon(write: WriteBuilder, client_id: &str, seed: u64) -> WriteBuilder {
    write.node(client_id, "lit").title("Beacon").vector(Rng::new(seed).vector(DIM))
}

/// Client ids a filter lets through; every arm must agree.
async fn seen(subject: &Subject, scope: &ScopeKey, filter: NodeFilter, all: &[&str]) -> BTreeSet<String> {
    let near = subject.near_for(scope, filter.clone(), &[1.0; DIM], 1000).await;
    let near: BTreeSet<NodeId> = near.into_iter().map(|hit| hit.id).collect();
    let words = subject.words_for(scope, filter.clone(), WORD, 1000).await;
    let words: BTreeSet<NodeId> = words.docs.into_iter().map(|doc| doc.id).collect();
    let quoted = subject.quoted_for(scope, &filter, all).await;
    assert_eq!(near, words, "vectors and words agree on what may be seen");
    assert_eq!(near, quoted.into_iter().collect(), "vectors and literals agree on what may be seen");
    all.iter().filter(|id| near.contains(&node_id(scope, id))).map(|&id| id.to_owned()).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

/// The lane predicate, in every arm and in vitals.
pub async fn who_sees_what_by_lane_owner_and_team(subject: &Subject) {
    let s = scope("s");
    let owners = [
        ("shared", None, None),
        ("ann's", Some("ann"), None),
        ("bob's", Some("bob"), None),
        ("red's", None, Some("red")),
        ("bob's and red's", Some("bob"), Some("red")),
        ("blue's", None, Some("blue")),
        ("nobody's", None, None),
    ];
    let mut write = WriteBuilder::new(&s);
    for (seed, (id, agent, team)) in owners.into_iter().enumerate() {
        write = beacon(write, id, seed as u64);
        if id != "shared" {
            write = write.private(agent, team);
        }
    }
    subject.write(write).await;
    // An agent and a team of the same name are different owners.
    let cases: [(Viewer, &[&str]); 8] = [
        (anyone(), &["shared"]),
        (agent("ann"), &["shared", "ann's"]),
        (agent("bob"), &["shared", "bob's", "bob's and red's"]),
        (team("red"), &["shared", "red's", "bob's and red's"]),
        (member("ann", "red"), &["shared", "ann's", "red's", "bob's and red's"]),
        (member("eve", "blue"), &["shared", "blue's"]),
        (agent("red"), &["shared"]),
        (member("unknown", "unknown"), &["shared"]),
    ];
    let all: Vec<&str> = owners.iter().map(|(id, ..)| *id).collect();
    for (viewer, wanted) in cases {
        assert_eq!(seen(subject, &s, everything(viewer.clone()), &all).await, set(wanted), "{viewer:?}");
        for id in &all {
            assert_eq!(subject.shows(&s, node_id(&s, id), &viewer).await, wanted.contains(id), "{id} {viewer:?}");
        }
    }
    let mine = beacon(WriteBuilder::new(&s), "shared", 0).private(Some("ann"), None);
    subject.write(mine).await;
    assert_eq!(seen(subject, &s, everything(anyone()), &all).await, set(&[]), "a new lane counts at once");
}

/// Tiers, types and states, for both kinds of questions.
pub async fn w_17_what_may_be_a_seed_by_tier_type_and_state(subject: &Subject) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s);
    let mut all: Vec<String> = Vec::new();
    for node_type in NodeType::ALL {
        all.push(node_type.to_string());
        write = beacon(write, node_type.as_str(), all.len() as u64).with(|n| n.node_type = *node_type);
    }
    for tier in Tier::ALL {
        all.push(tier.to_string());
        write = beacon(write, tier.as_str(), all.len() as u64).with(|n| n.tier = Some(*tier));
    }
    for state in RuleState::ALL {
        all.push(format!("rule {state}"));
        write = beacon(write, &format!("rule {state}"), all.len() as u64).with(|n| n.node_type = NodeType::Rule);
    }
    let slots = [
        ("topic draft", NodeType::Topic, json!({ "topic_state": "draft" })),
        ("topic active", NodeType::Topic, json!({ "topic_state": "active" })),
        ("event of a draft", NodeType::Event, json!({ "topic_state": "draft" })),
        ("alias", NodeType::Entity, json!({ "alias_of": "x" })),
        ("superseded", NodeType::Event, json!({ "superseded_by": "x" })),
        ("not superseded", NodeType::Event, json!({ "superseded_by": null })),
    ];
    for (id, node_type, slots) in slots {
        all.push(id.to_owned());
        write = beacon(write, id, all.len() as u64).with(|n| (n.node_type, n.slots) = (node_type, Some(slots)));
    }
    subject.write(write).await;
    for state in RuleState::ALL {
        subject.inspect.set_rule_state(&s, node_id(&s, &format!("rule {state}")), *state).await;
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let hidden = ["rule", "rule draft", "rule disabled", "cold", "archive", "alias", "superseded", "topic draft"];
    let shown: Vec<&str> = all.iter().copied().filter(|id| !hidden.contains(id)).collect();
    assert_eq!(seen(subject, &s, everything(anyone()), &all).await, set(&shown));
    let no_seed = ["evidence", "procedure", "self_model"];
    let seeds: Vec<&str> = shown.iter().copied().filter(|id| !no_seed.contains(id)).collect();
    assert_eq!(seen(subject, &s, reference(anyone()), &all).await, set(&seeds));
    for id in all {
        let may_be_shown = id == "topic draft" || shown.contains(&id);
        assert_eq!(subject.shows(&s, node_id(&s, id), &anyone()).await, may_be_shown, "{id}");
    }
}

/// What expansion gets of a node.
pub async fn vitals_come_in_the_order_asked_and_only_of_what_may_be_seen(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s)
        .node("a", "one")
        .with(|n| (n.salience, n.confidence) = (Some(0.9), Some(0.1)))
        .node("b", "two")
        .vector(vec![1.0; DIM])
        .node("topic", "three")
        .with(|n| (n.node_type, n.slots) = (NodeType::Topic, Some(json!({ "topic_state": "draft" }))))
        .node("mine", "four")
        .private(Some("ann"), None)
        .node("gone", "five")
        .with(|n| n.tier = Some(Tier::Cold));
    subject.write(write).await;
    let ids = ["topic", "mine", "b", "gone", "a"].map(|id| node_id(&s, id));
    let unknown = NodeId(Uuid::from_u128(9));
    let mut asked = ids.to_vec();
    asked.insert(2, unknown);
    let vitals = subject.store.vitals(&s, &asked, &anyone()).await.unwrap();
    assert_eq!(vitals.iter().map(|v| v.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[4]]);
    assert_eq!(
        vitals.iter().map(|v| (v.ready, v.draft_topic)).collect::<Vec<_>>(),
        [(false, true), (true, false), (false, false)]
    );
    assert_eq!((vitals[2].salience, vitals[2].confidence, vitals[0].node_type), (0.9, 0.1, NodeType::Topic));
    let anns = subject.store.vitals(&s, &asked, &agent("ann")).await.unwrap();
    assert_eq!(anns.iter().map(|v| v.id).collect::<Vec<_>>(), [ids[0], ids[1], ids[2], ids[4]]);
    assert!(subject.store.vitals(&scope("t"), &asked, &anyone()).await.unwrap().is_empty());
}

/// Everything that was written comes back.
pub async fn rows_come_in_full_and_in_the_order_asked(subject: &Subject) {
    let s = scope("s");
    let slots = json!({ "text": "é\u{1F600}\n", "n": [1, -2.5, 1e21, true, null], "nested": { "b": 1, "a": {} } });
    let full = WriteBuilder::new(&s)
        .node("full", "summary \u{1F600}")
        .title("Title")
        .with(|n| {
            n.node_type = NodeType::Procedure;
            n.slots = Some(slots.clone());
            (n.raw_ref, n.evidence_ref) = (Some("raw".to_owned()), Some("evidence".to_owned()));
            (n.salience, n.importance, n.confidence) = (Some(0.0), Some(1.0), Some(0.3));
            n.tier = Some(Tier::Archive);
            n.memory_lane = Some(Lane::Private);
            n.producer_agent_id = Some("producer".to_owned());
            (n.owner_agent_id, n.owner_team_id) = (Some("ann".to_owned()), Some("red".to_owned()));
            n.embedding_model = Some("their-model".to_owned());
        })
        .vector(vec![0.5; DIM]);
    let outcome = subject.write(full.node("bare", "")).await;
    let (full, bare) = (node_id(&s, "full"), node_id(&s, "bare"));
    let rows = subject.rows(&s, &[bare, NodeId(Uuid::from_u128(1)), full, bare]).await;
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [bare, full, bare]);
    let row = &rows[1];
    assert_eq!((row.node_type, row.tier, row.lane), (NodeType::Procedure, Tier::Archive, Lane::Private));
    assert_eq!((row.client_id.as_deref(), row.title.as_deref()), (Some("full"), Some("Title")));
    assert_eq!((row.text_summary.as_deref(), &row.slots), (Some("summary \u{1F600}"), &slots));
    assert_eq!((row.raw_ref.as_deref(), row.evidence_ref.as_deref()), (Some("raw"), Some("evidence")));
    let owners = (row.producer_agent_id.as_deref(), row.owner_agent_id.as_deref(), row.owner_team_id.as_deref());
    assert_eq!(owners, (Some("producer"), Some("ann"), Some("red")));
    assert_eq!((row.salience, row.importance, row.confidence), (0.0, 1.0, 0.3));
    assert_eq!(row.embedding_status, EmbeddingStatus::Ready);
    assert_eq!(row.embedding_model.as_deref(), Some("their-model"));
    assert_eq!((row.commit_seq, row.commit_id), (1, outcome.commit_id));
    assert_eq!((row.created_at, row.updated_at, row.last_activated), (subject.now(), subject.now(), None));
    assert!(row.rule.is_none());
    let row = &rows[0];
    assert_eq!((&row.title, &row.text_summary, &row.slots), (&None, &None, &json!({})));
    assert_eq!((row.salience, row.importance, row.confidence, row.tier), (0.5, 0.5, 0.5, Tier::Hot));
    assert_eq!((row.embedding_status, &row.embedding_model), (EmbeddingStatus::Failed, &None));
    assert!(subject.rows(&scope("t"), &[full]).await.is_empty());
    assert!(subject.rows(&scope_of("other", "s"), &[full]).await.is_empty());
}

/// The executable part of a rule is its slots' as last written.
pub async fn a_rule_row_has_its_executable_part(subject: &Subject) {
    let (s, r) = (scope("s"), node_id(&scope("s"), "r"));
    let rule = |slots| {
        WriteBuilder::new(&s).node("r", "rule").with(|n| (n.node_type, n.slots) = (NodeType::Rule, Some(slots)))
    };
    subject.write(rule(json!({}))).await;
    let held = subject.row(&s, r).await.rule.unwrap();
    assert_eq!(
        (held.state, held.rule_scope, held.positive, held.negative),
        (RuleState::Draft, RuleScope::Global, 0, 0)
    );
    assert_eq!((held.if_json, held.then_json, held.exceptions_json), (json!({}), json!({}), json!([])));
    let full = json!({
        "if": { "intent": "x" }, "then": { "tool": { "deny": ["rm"] } }, "exceptions": [{ "y": 1 }],
        "rule_scope": "Team", "target_team_id": " red "
    });
    subject.write(rule(full)).await;
    let held = subject.row(&s, r).await.rule.unwrap();
    assert_eq!((held.rule_scope, held.target_team_id.as_deref()), (RuleScope::Team, Some("red")));
    assert_eq!(held.then_json, json!({ "tool": { "deny": ["rm"] } }));
    assert_eq!((held.if_json, held.exceptions_json), (json!({ "intent": "x" }), json!([{ "y": 1 }])));
    subject.write(WriteBuilder::new(&s).node("r", "no rule any more")).await;
    assert!(subject.row(&s, r).await.rule.is_none());
    assert_eq!(subject.found(&s, "any more").await, [r]);
}

/// Numbers to ids.
pub async fn commit_ids_come_in_the_order_asked(subject: &Subject) {
    let s = scope("s");
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(subject.write(WriteBuilder::new(&s).node(&format!("n{n}"), "x")).await.commit_id);
    }
    let found = subject.store.commit_ids(&s, &[3, 9, 1, 0, 3]).await.unwrap();
    assert_eq!(found, [(3, ids[2]), (1, ids[0]), (3, ids[2])]);
    assert!(subject.store.commit_ids(&scope("t"), &[1]).await.unwrap().is_empty());
}

/// Not a bit is lost.
pub async fn stored_vectors_come_back_exactly(subject: &Subject) {
    let s = scope("s");
    let (a, mut b) = (Rng::new(1).vector(DIM), Rng::new(2).vector(DIM));
    (b[0], b[1], b[2], b[3]) = (f32::MIN_POSITIVE, -0.0, 1e-30, 16_777_217.0);
    let write = WriteBuilder::new(&s).node("a", "x").vector(a.clone()).node("b", "y").vector(b.clone()).node("c", "z");
    subject.write(write).await;
    let ids = ["b", "c", "a"].map(|id| node_id(&s, id));
    let stored = subject.store.stored_vectors(&s, &ids).await.unwrap();
    let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let stored: Vec<_> = stored.iter().map(|(id, vector)| (*id, bits(vector))).collect();
    assert_eq!(stored, [(ids[0], bits(&b)), (ids[2], bits(&a))]);
    assert!(subject.store.stored_vectors(&scope("t"), &ids).await.unwrap().is_empty());
}

/// Head, nodes, and how many vectors are to come since when.
pub async fn the_status_of_a_scope_follows_its_vectors(subject: &Subject) {
    let s = scope("s");
    assert_eq!(subject.status(&s).await, ScopeStatus::default());
    let started = subject.now();
    let write = WriteBuilder::new(&s).deriving().node("a", "one").node("b", "two").node("none", "");
    let outcome = subject.write(write.node("own", "three").vector(vec![1.0; DIM])).await;
    assert_eq!(outcome.pending_nodes, 2);
    let waiting = ScopeStatus { head_seq: 1, nodes: 4, pending: 2, oldest_pending: Some(started) };
    assert_eq!(subject.status(&s).await, waiting);
    let later = subject.clock.advance(Duration::from_secs(10));
    subject.write(WriteBuilder::new(&s).deriving().node("c", "four")).await;
    let items = subject.claim("w", 1).await;
    assert_eq!(
        subject.status(&s).await,
        ScopeStatus { head_seq: 2, nodes: 5, pending: 3, ..waiting },
        "claimed is not done"
    );
    assert_eq!(subject.complete(&items).await, 2);
    let waiting = ScopeStatus { head_seq: 2, nodes: 5, pending: 1, oldest_pending: Some(later) };
    assert_eq!(subject.status(&s).await, waiting);
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Ready);
    assert_eq!(subject.row(&s, node_id(&s, "a")).await.embedding_model.as_deref(), Some(MODEL));
    subject.drain().await;
    let done = ScopeStatus { pending: 0, oldest_pending: None, ..waiting };
    assert_eq!(subject.status(&s).await, done);
    subject.write(WriteBuilder::new(&s).deriving().node("c", "changed")).await;
    assert_eq!(subject.status(&s).await.pending, 1, "new content waits again");
    subject.write(WriteBuilder::new(&s).deriving().node("c", "changed").vector(vec![1.0; DIM])).await;
    assert_eq!(subject.status(&s).await.pending, 0, "until someone brings the vector");
}

/// Audit rows are stored as given.
pub async fn recalls_are_audited(subject: &Subject) {
    let audit = |scope: &ScopeKey, endpoint, viewer, seeds| RecallAudit {
        scope: scope.clone(),
        endpoint,
        viewer,
        query_sha256: "ab".repeat(32),
        seeds,
        nodes: 2,
        edges: 3,
        at: subject.now(),
    };
    let (s, t) = (scope("s"), scope("t"));
    let audits = vec![
        audit(&s, "recall", member("ann", "red"), 1),
        audit(&t, "recall", anyone(), 4),
        audit(&s, "recall_text", anyone(), 7),
    ];
    subject.store.record_recalls(audits).await.unwrap();
    subject.store.record_recalls(Vec::new()).await.unwrap();
    let stored = subject.inspect.audits(&s).await;
    let found: Vec<_> = stored.iter().map(|row| (row.endpoint.as_str(), row.agent.as_deref(), row.counts)).collect();
    assert_eq!(found, [("recall", Some("ann"), (1, 2, 3)), ("recall_text", None, (7, 2, 3))]);
    assert_eq!((stored[0].team.as_deref(), stored[0].at), (Some("red"), subject.now()));
    assert_eq!(stored[0].query_sha256, "ab".repeat(32));
    assert_eq!(subject.inspect.audits(&t).await.len(), 1);
    assert_eq!(subject.status(&s).await.head_seq, 0, "a recall is no commit");
}

//! Nodes tier by tier, planned moves, and use.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    lifecycle::{AgingNode, DAY, DecayPolicy},
    model::{NodeType, RuleState, Tier},
    operate::{NodeNames, Operation, OperationOutcome, Outcome, TierMove, prepare_maintenance},
    ports::store::TierPage,
    write::NodeInput,
};
use serde_json::json;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{self, WriteBuilder, anyone, node_id, scope, scope_of},
    verify,
};

const JOB: &str = "salience_decay";
const ONE_DAY: Duration = Duration::from_secs(86_400);

async fn page(subject: &Subject, scope: &ScopeKey, tier: Tier, after: Option<NodeId>, limit: usize) -> Vec<AgingNode> {
    let page = TierPage { scope: scope.clone(), tier, after, limit };
    subject.store.tier_page(page).await.expect("a tier can be read")
}

async fn aging(subject: &Subject, scope: &ScopeKey, name: &str) -> AgingNode {
    let id = node_id(scope, name);
    for tier in [Tier::Hot, Tier::Warm, Tier::Cold, Tier::Archive] {
        if let Some(node) = page(subject, scope, tier, None, 1_000).await.into_iter().find(|node| node.id == id) {
            return node;
        }
    }
    panic!("{name} is in no tier")
}

/// The move of a node as it is now, to the next tier.
fn planned(node: &AgingNode, to: Tier, at: Timestamp) -> TierMove {
    TierMove {
        id: node.id,
        from: node.tier,
        to,
        salience: DecayPolicy::default().salience(node.salience, &node.decay, at),
        salience_at: at,
        since: node.decay.since,
        used_at: node.decay.used_at,
        alias_of: node.alias_of,
    }
}

async fn moved(subject: &Subject, scope: &ScopeKey, moves: Vec<TierMove>) -> OperationOutcome {
    let operation = prepare_maintenance(scope.clone(), JOB, subject.now(), moves);
    subject.store.operate(operation).await.expect("the moves are made")
}

/// Pages of a tier hold each of its nodes once, by id, with what its fading depends on.
pub async fn a_tier_is_read_page_by_page(subject: &Subject) {
    let (s, other) = (scope("s"), scope_of("other", "s"));
    let mut write = WriteBuilder::new(&s);
    for n in 0..25 {
        write = write.node(&format!("n{n}"), "text").with(|node| node.tier = (n % 5 == 0).then_some(Tier::Warm));
    }
    subject.write(write).await;
    subject.write(WriteBuilder::new(&other).node("foreign", "text")).await;
    let mut seen = Vec::new();
    loop {
        let nodes = page(subject, &s, Tier::Hot, seen.last().copied(), 7).await;
        assert!(nodes.iter().all(|node| node.tier == Tier::Hot && node.moved_at.is_none()));
        seen.extend(nodes.iter().map(|node| node.id));
        if nodes.len() < 7 {
            break;
        }
    }
    let mut wanted: Vec<NodeId> = (0..25).filter(|n| n % 5 != 0).map(|n| node_id(&s, &format!("n{n}"))).collect();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
    assert_eq!(page(subject, &s, Tier::Warm, None, 100).await.len(), 5);
    assert_eq!(page(subject, &s, Tier::Cold, None, 100).await, []);
    assert_eq!(page(subject, &s, Tier::Hot, Some(NodeId(uuid::Uuid::max())), 100).await, []);
}

/// What the fading of a node depends on is read alike from pages, rows and vitals, whatever was done to the node.
pub async fn what_fading_depends_on_is_the_same_everywhere(subject: &Subject) {
    let s = scope("s");
    let with = |slots: serde_json::Value| move |node: &mut NodeInput| node.slots = Some(slots.clone());
    let pinned = with(json!({ "pin": "Yes" }));
    let write = WriteBuilder::new(&s)
        .node("plain", "one")
        .node("pinned", "two")
        .with(pinned)
        .node("held", "three")
        .with(with(json!({ "legal_hold": true, "pin": false })))
        .node("liked", "four")
        .with(with(json!({ "feedback_positive": 3, "feedback_negative": 1 })))
        .node("rule", "five")
        .with(|node| node.node_type = NodeType::Rule);
    subject.write(write).await;
    let everywhere = async |name: &str| {
        let id = node_id(&s, name);
        let (node, row) = (aging(subject, &s, name).await, subject.row(&s, id).await);
        let vitals = subject.store.vitals(&s, &[id], &anyone()).await.unwrap();
        assert_eq!((node.salience, node.decay), (row.salience, row.decay), "{name}");
        if let [vitals] = &vitals[..] {
            assert_eq!((vitals.salience, vitals.decay), (row.salience, row.decay), "{name}");
        }
        node.decay
    };
    let start = subject.now();
    for (name, held, feedback) in
        [("plain", false, 0.0), ("pinned", true, 0.0), ("held", true, 0.0), ("liked", false, 0.5), ("rule", true, 0.0)]
    {
        let decay = everywhere(name).await;
        assert_eq!((decay.held, decay.feedback, decay.since, decay.used_at), (held, feedback, start, start), "{name}");
    }
    let later = subject.clock.advance(ONE_DAY);
    let nodes = NodeNames { ids: vec![node_id(&s, "plain")], client_ids: Vec::new() };
    let activate =
        Operation::Activate { nodes, outcome: Outcome::Negative, activate: true, run_id: None, reason: None };
    subject.store.operate(fixtures::operation(&s, None, activate)).await.unwrap();
    let decay = everywhere("plain").await;
    assert_eq!((decay.used_at, decay.since, decay.feedback), (later, start, -0.2));
    subject.write(WriteBuilder::new(&s).node("plain", "one").with(|node| node.salience = Some(0.9))).await;
    assert_eq!(everywhere("plain").await.since, later, "a new salience holds from now on");
    subject.write(WriteBuilder::new(&s).input("x").node("plain", "changed")).await;
    let decay = everywhere("plain").await;
    assert_eq!((decay.since, decay.used_at, decay.feedback), (later, later, -0.2), "new content ages like the old");
    subject.write(WriteBuilder::new(&s).input("y").node("plain", "changed").with(with(json!({ "pin": true })))).await;
    assert!(everywhere("plain").await.held);
}

/// A planned move takes the node to its tier, with its salience and a note, and is in the chain.
pub async fn a_planned_move_is_made_and_noted(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "faint words").node("b", "strong words")).await;
    subject.clock.advance(20 * ONE_DAY);
    let (a, now) = (aging(subject, &s, "a").await, subject.now());
    let one = planned(&a, Tier::Warm, now);
    let done = moved(subject, &s, vec![one.clone()]).await;
    assert_eq!((done.changed, done.commit.as_ref().map(|commit| commit.seq)), (vec![a.id], Some(2)));
    let row = subject.row(&s, a.id).await;
    assert_eq!((row.tier, row.salience, row.decay.since), (Tier::Warm, one.salience, now));
    assert_eq!((row.last_activated, row.commit_seq), (None, 2));
    assert_eq!(row.slots["last_tier_transition_ms"], json!(now.0 / 1_000));
    assert_eq!(row.slots["last_tier_transition_from"], "hot");
    assert_eq!(row.slots["last_tier_transition_to"], "warm");
    assert_eq!(row.slots["last_tier_transition_job"], JOB);
    let vitals = subject.store.vitals(&s, &[a.id], &anyone()).await.unwrap();
    assert_eq!((vitals[0].salience, vitals[0].decay), (row.salience, row.decay));
    let commits = subject.store.newest_commits(&s, None, 1).await.unwrap();
    assert_eq!((commits[0].header.kind.as_str(), commits[0].header.actor.as_str()), (JOB, "job"));
    assert_eq!(aging(subject, &s, "a").await.moved_at, Some(Timestamp(now.0 / 1_000 * 1_000)));
    assert_sound(&*subject.store).await;
}

/// What changed since it was planned, is held, or moved today, stays; if that is all of them there is no commit.
pub async fn a_move_is_planned_again_against_what_is_stored(subject: &Subject) {
    let s = scope("s");
    let names = ["used", "pinned", "written", "gone", "elsewhere", "moved"];
    let write = names.iter().fold(WriteBuilder::new(&s), |write, name| write.node(name, name));
    subject.write(write.node("rule", "rule").with(|node| node.node_type = NodeType::Rule)).await;
    subject.clock.advance(20 * ONE_DAY);
    let mut moves = Vec::new();
    for name in names.iter().chain(&["rule"]) {
        moves.push(planned(&aging(subject, &s, name).await, Tier::Warm, subject.now()));
    }
    let id = |name| node_id(&s, name);
    subject.store.record_use(&s, &[id("used")], subject.now(), subject.now()).await.unwrap();
    let pin = |node: &mut NodeInput| node.slots = Some(json!({ "pin": 1 }));
    let write = WriteBuilder::new(&s).input("more").node("pinned", "pinned").with(pin);
    let write = write.node("written", "written").with(|node| node.salience = Some(0.1));
    subject.write(write.node("elsewhere", "elsewhere").with(|node| node.tier = Some(Tier::Cold))).await;
    moves[3].id = NodeId(uuid::Uuid::from_u128(404));
    assert_eq!(moved(subject, &s, vec![moves[5].clone()]).await.changed, [id("moved")]);
    subject.clock.advance(ONE_DAY / 2);
    moves[5] = planned(&aging(subject, &s, "moved").await, Tier::Cold, subject.now());
    let head = subject.status(&s).await.head_seq;
    let done = moved(subject, &s, moves.clone()).await;
    assert_eq!((done.commit, done.changed), (None, Vec::new()));
    assert_eq!(subject.status(&s).await.head_seq, head, "nothing changed: no commit");
    subject.clock.advance(ONE_DAY / 2);
    assert_eq!(moved(subject, &s, vec![moves[5].clone()]).await.changed, [id("moved")], "a day later it may");
    assert_sound(&*subject.store).await;
}

/// Nodes that leave the warm tier are found no more, and what moved is counted by when it did.
pub async fn moves_are_counted_and_hide_what_turns_cold(subject: &Subject) {
    let s = scope("s");
    let warm = |node: &mut NodeInput| node.tier = Some(Tier::Warm);
    subject.write(WriteBuilder::new(&s).node("a", "faint words").with(warm).node("b", "other")).await;
    subject.write(WriteBuilder::new(&scope("t")).node("c", "foreign")).await;
    let a = aging(subject, &s, "a").await;
    assert_eq!(subject.found(&s, "faint").await, [a.id]);
    assert_eq!(subject.store.moved_since(&s, Timestamp(0)).await.unwrap(), 0);
    let at = subject.clock.advance(50 * ONE_DAY);
    moved(subject, &s, vec![planned(&a, Tier::Cold, at)]).await;
    assert!(subject.found(&s, "faint").await.is_empty());
    let since = async |scope: &ScopeKey, at: i64| subject.store.moved_since(scope, Timestamp(at)).await.unwrap();
    assert_eq!((since(&s, at.0).await, since(&s, at.0 - DAY).await, since(&s, at.0 + 1_000).await), (1, 1, 0));
    assert_eq!(since(&scope("t"), 0).await, 0);
    // A later move of the same node counts once.
    let later = subject.clock.advance(ONE_DAY);
    let node = aging(subject, &s, "a").await;
    moved(subject, &s, vec![planned(&node, Tier::Archive, later)]).await;
    assert_eq!((since(&s, at.0).await, since(&s, later.0).await), (1, 1));
}

/// A rule holds until it is disabled, also one that is in a tier recall does not look at.
pub async fn a_live_rule_holds_in_any_tier(subject: &Subject) {
    let s = scope("s");
    let rule = |node: &mut NodeInput| {
        node.node_type = NodeType::Rule;
        node.slots = Some(json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } } }));
    };
    subject.write(WriteBuilder::new(&s).node("r", "rule").with(rule)).await;
    let id = node_id(&s, "r");
    let checked = subject.store.rule(&s, id).await.unwrap().expect("the rule is stored").digest;
    let live = Operation::RuleState { rule: id, state: RuleState::Active, checked };
    subject.store.operate(fixtures::operation(&s, None, live)).await.unwrap();
    let at = subject.clock.advance(500 * ONE_DAY);
    let node = aging(subject, &s, "r").await;
    assert!(node.decay.held);
    assert!(moved(subject, &s, vec![planned(&node, Tier::Warm, at)]).await.changed.is_empty());
    subject.write(WriteBuilder::new(&s).node("r", "rule").with(rule).with(|n| n.tier = Some(Tier::Archive))).await;
    assert_eq!(subject.store.live_rules(&s).await.unwrap().len(), 1);
}

/// Use is noted without a commit, once in the time given, and seen by whoever reads.
pub async fn use_is_noted_without_a_commit(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "one").node("b", "two")).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    subject.store.vitals(&s, &[a, b], &anyone()).await.unwrap();
    let written = subject.now();
    let at = subject.clock.advance(ONE_DAY);
    let unless = Timestamp(at.0 - 3_600_000_000);
    let nobody = NodeId(uuid::Uuid::from_u128(404));
    assert_eq!(subject.store.record_use(&s, &[a, nobody], at, unless).await.unwrap(), 1);
    assert_eq!(subject.store.record_use(&s, &[a], at, unless).await.unwrap(), 0, "noted already");
    assert_eq!(subject.store.record_use(&scope("t"), &[b], at, unless).await.unwrap(), 0, "of another scope");
    let rows = subject.rows(&s, &[a, b]).await;
    assert_eq!((rows[0].last_activated, rows[1].last_activated), (Some(at), None));
    assert_eq!((rows[0].updated_at, rows[0].commit_seq), (written, 1));
    let vitals = subject.store.vitals(&s, &[a, b], &anyone()).await.unwrap();
    assert_eq!((vitals[0].decay, vitals[1].decay), (rows[0].decay, rows[1].decay));
    assert_eq!((subject.status(&s).await.head_seq, rows[0].decay.used_at), (1, at));
    assert_sound(&*subject.store).await;
}

/// What comes back from a colder tier is as salient as something new, and was just used.
pub async fn what_comes_back_does_not_go_at_once(subject: &Subject) {
    let s = scope("s");
    let faint = |node: &mut NodeInput| (node.tier, node.salience) = (Some(Tier::Archive), Some(0.01));
    let strong = |node: &mut NodeInput| (node.tier, node.salience) = (Some(Tier::Cold), Some(0.8));
    subject.write(WriteBuilder::new(&s).node("a", "one").with(faint).node("b", "two").with(strong)).await;
    let at = subject.clock.advance(400 * ONE_DAY);
    let ids = vec![node_id(&s, "a"), node_id(&s, "b")];
    let nodes = NodeNames { ids, client_ids: Vec::new() };
    let back = Operation::Rehydrate { nodes, target: Tier::Hot, reason: None };
    subject.store.operate(fixtures::operation(&s, None, back)).await.unwrap();
    for (name, salience) in [("a", 0.5), ("b", 0.8)] {
        let node = aging(subject, &s, name).await;
        assert_eq!((node.tier, node.salience, node.decay.since, node.decay.used_at), (Tier::Hot, salience, at, at));
    }
}

/// A forgotten node leaves nothing of its moves behind.
pub async fn a_forgotten_node_is_counted_no_more(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "one").node("b", "two")).await;
    let at = subject.clock.advance(20 * ONE_DAY);
    let a = aging(subject, &s, "a").await;
    moved(subject, &s, vec![planned(&a, Tier::Warm, at)]).await;
    super::forget::forget_nodes(subject, &s, &[a.id]).await;
    assert_eq!(subject.store.moved_since(&s, Timestamp(0)).await.unwrap(), 0);
    assert_eq!(page(subject, &s, Tier::Warm, None, 10).await, []);
    verify(&*subject.store).await.expect("the chain holds");
}

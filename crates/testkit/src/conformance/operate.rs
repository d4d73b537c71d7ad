//! Operations other than writes: rule states, feedback, activation, rehydration, decisions.

use std::time::Duration;

use aionis_core::{
    canon::Digest,
    clock::Timestamp,
    error::DomainError,
    ids::{NodeId, ScopeKey},
    model::{NodeType, RuleState, Tier},
    operate::{DecisionQuery, LinkMode, NodeNames, Operation, OperationOutcome, Outcome, PreparedOperation},
    ports::store::StoreError,
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{self, WriteBuilder, agent, anyone, decision, node_id, operation, scope, scope_of, team},
    verify,
};

async fn operate(subject: &Subject, scope: &ScopeKey, operation: Operation) -> OperationOutcome {
    subject.store.operate(fixtures::operation(scope, None, operation)).await.expect("the operation is done")
}

async fn refused(subject: &Subject, scope: &ScopeKey, operation: Operation) -> DomainError {
    match subject.store.operate(fixtures::operation(scope, None, operation)).await {
        Err(StoreError::Rejected(error)) => error,
        other => panic!("the operation must be refused, got {other:?}"),
    }
}

async fn write_rule(subject: &Subject, scope: &ScopeKey, name: &str, text: &str) -> NodeId {
    let rule = |n: &mut aionis_core::write::NodeInput| {
        n.node_type = NodeType::Rule;
        n.slots = Some(json!({ "if": {}, "then": { "tool": { "prefer": ["psql"] } }, "priority": 3 }));
    };
    subject.write(WriteBuilder::new(scope).input(text).node(name, text).with(rule)).await;
    node_id(scope, name)
}

async fn set_state(subject: &Subject, scope: &ScopeKey, rule: NodeId, state: RuleState) -> OperationOutcome {
    let checked = subject.store.rule(scope, rule).await.unwrap().expect("the rule is stored").digest;
    operate(subject, scope, Operation::RuleState { rule, state, checked }).await
}

fn feedback(rule: NodeId, outcome: Outcome) -> Operation {
    Operation::RuleFeedback { rule, outcome, run_id: Some("run".to_owned()), note: Some("a note".to_owned()) }
}

fn query(run_id: Option<&str>) -> DecisionQuery {
    DecisionQuery {
        run_id: run_id.map(str::to_owned),
        selected_tool: "psql".to_owned(),
        candidates: vec!["psql".to_owned(), "curl".to_owned()],
        context_sha256: "c".repeat(64),
        newer_than: Timestamp(0),
    }
}

fn on_decision(decision: Uuid, rules: &[NodeId], outcome: Outcome) -> Operation {
    Operation::ToolFeedback {
        decision,
        link: LinkMode::Provided,
        create: None,
        rules: rules.to_vec(),
        request: aionis_core::canon::Digest([1; 32]),
        outcome,
        run_id: Some("later".to_owned()),
        note: None,
    }
}

/// A rule is found while it is live, and every change of its state is a commit.
pub async fn a_rule_goes_live_and_is_switched_off(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "deploys need a ticket").await;
    assert!(subject.found(&s, "ticket").await.is_empty(), "a draft is not shown");
    assert!(subject.store.live_rules(&s).await.unwrap().is_empty());
    subject.clock.advance(Duration::from_secs(1));
    let live = set_state(subject, &s, rule, RuleState::Active).await;
    assert_eq!(live.commit.as_ref().map(|commit| commit.seq), Some(2));
    assert_eq!(subject.found(&s, "ticket").await, [rule]);
    let rules = subject.store.live_rules(&s).await.unwrap();
    assert_eq!((rules.len(), rules[0].rule_node_id, rules[0].state), (1, rule, RuleState::Active));
    assert_eq!((rules[0].priority, rules[0].commit_id), (3, live.commit.unwrap().id));
    let row = subject.row(&s, rule).await;
    assert_eq!((row.commit_seq, row.last_activated), (1, Some(subject.now())), "its content is of the first commit");
    set_state(subject, &s, rule, RuleState::Disabled).await;
    assert!(subject.found(&s, "ticket").await.is_empty());
    assert!(subject.store.live_rules(&s).await.unwrap().is_empty());
    set_state(subject, &s, rule, RuleState::Shadow).await;
    write_rule(subject, &s, "r", "deploys need two tickets").await;
    assert_eq!(subject.row(&s, rule).await.rule.unwrap().state, RuleState::Draft, "new content is a draft");
    assert_sound(&*subject.store).await;
}

/// A state is given to the content that was checked, or not at all.
pub async fn a_rule_that_changed_since_it_was_checked_keeps_its_state(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    let state = RuleState::Active;
    let old = Operation::RuleState { rule, state, checked: Digest([7; 32]) };
    assert_eq!(refused(subject, &s, old).await.code, "rule_changed");
    assert_eq!(subject.row(&s, rule).await.rule.unwrap().state, RuleState::Draft);
    assert_eq!(subject.status(&s).await.head_seq, 1);
}

/// What is no rule of the scope is not operated on, and leaves nothing behind.
pub async fn only_rules_of_the_scope_take_feedback(subject: &Subject) {
    let (s, other) = (scope("s"), scope_of("acme", "s"));
    let rule = write_rule(subject, &s, "r", "one").await;
    subject.write(WriteBuilder::new(&s).input("event").node("e", "an event")).await;
    for (scope, id) in [(&s, node_id(&s, "e")), (&s, NodeId(Uuid::new_v4())), (&other, rule)] {
        assert_eq!(refused(subject, scope, feedback(id, Outcome::Positive)).await.code, "rule_not_found_in_scope");
    }
    assert!(subject.store.rule(&other, rule).await.unwrap().is_none());
    assert_eq!(subject.store.scopes(None, None).await.unwrap().len(), 1, "no scope came to be");
    assert_eq!(subject.status(&s).await.head_seq, 2);
}

/// Feedback counts for its rule, is kept, and is bound by the chain.
pub async fn feedback_is_counted_and_kept(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    for outcome in [Outcome::Positive, Outcome::Positive, Outcome::Negative, Outcome::Neutral] {
        assert_eq!(operate(subject, &s, feedback(rule, outcome)).await.feedback.len(), 1);
    }
    let def = subject.store.rule(&s, rule).await.unwrap().unwrap().def;
    assert_eq!((def.positive_count, def.negative_count), (2, 1));
    assert_eq!(subject.store.feedback(&s, None, 10).await.unwrap().len(), 4);
    assert_eq!(subject.status(&s).await.head_seq, 5);
    assert_sound(&*subject.store).await;
}

/// A state that no commit names is found by verification.
pub async fn a_state_without_a_commit_is_damage(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    assert_sound(&*subject.store).await;
    subject.inspect.set_rule_state(&s, rule, RuleState::Active).await;
    let broken = verify(&*subject.store).await.expect_err("the state is not bound");
    assert_eq!((broken.object.as_str(), broken.id), ("rule", rule.to_string()));
}

/// A repeated request key gives the first answer and changes nothing.
pub async fn a_repeated_key_counts_once(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    let send = |strict, outcome| subject.store.operate(operation(&s, Some(("k", strict)), feedback(rule, outcome)));
    let first = send(false, Outcome::Positive).await.unwrap();
    let again = send(false, Outcome::Positive).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((&first.commit, &first.feedback), (&again.commit, &again.feedback));
    assert_eq!(subject.store.rule(&s, rule).await.unwrap().unwrap().def.positive_count, 1);
    match send(true, Outcome::Negative).await {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "idempotency_key_reused"),
        other => panic!("another request under the same key: {other:?}"),
    }
    assert_eq!(subject.status(&s).await.head_seq, 2);
}

/// Activation notes use and outcome beside the content, which stays what it is.
pub async fn activation_is_noted_beside_the_content(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "one").with(|n| n.slots = Some(json!({ "mine": 1 })))).await;
    let a = node_id(&s, "a");
    subject.clock.advance(Duration::from_secs(5));
    let nodes =
        NodeNames { ids: vec![a, NodeId(Uuid::from_u128(7))], client_ids: vec!["a".to_owned(), "nobody".to_owned()] };
    let activate = |outcome, activate| Operation::Activate {
        nodes: nodes.clone(),
        outcome,
        activate,
        run_id: None,
        reason: Some("useful".to_owned()),
    };
    let done = operate(subject, &s, activate(Outcome::Positive, true)).await;
    assert_eq!((done.resolved, &done.found, &done.changed), (2, &vec![a], &vec![a]), "named twice, it is one node");
    assert_eq!((done.missing_ids.len(), done.missing_client_ids), (1, vec!["nobody".to_owned()]));
    let row = subject.row(&s, a).await;
    assert_eq!((row.last_activated, row.commit_seq), (Some(subject.now()), 2));
    assert_eq!(row.slots["feedback_positive"], 1);
    assert_eq!((&row.slots["feedback_quality"], &row.slots["last_feedback_reason"]), (&json!(0.2), &json!("useful")));
    assert_eq!(row.slots["mine"], 1);
    operate(subject, &s, activate(Outcome::Negative, false)).await;
    let row = subject.row(&s, a).await;
    assert_eq!((&row.slots["feedback_negative"], &row.slots["feedback_quality"]), (&json!(1), &json!(-0.04)));
    assert_eq!(subject.found(&s, "one").await, [a]);
    let nothing = NodeNames { ids: Vec::new(), client_ids: vec!["nobody".to_owned()] };
    let nobody =
        Operation::Activate { nodes: nothing, outcome: Outcome::Neutral, activate: true, run_id: None, reason: None };
    assert_eq!(refused(subject, &s, nobody).await.code, "nodes_activate_no_resolved_nodes");
    assert_sound(&*subject.store).await;
}

/// What was moved to a warmer tier is found again; what is warm enough is left alone.
pub async fn rehydrated_nodes_are_found_again(subject: &Subject) {
    let s = scope("s");
    let cold = |n: &mut aionis_core::write::NodeInput| n.tier = Some(Tier::Archive);
    subject.write(WriteBuilder::new(&s).node("a", "lost words").with(cold).node("b", "near")).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    assert!(subject.found(&s, "lost").await.is_empty());
    let rehydrate = || Operation::Rehydrate {
        nodes: NodeNames { ids: vec![a, b], client_ids: Vec::new() },
        target: Tier::Warm,
        reason: None,
    };
    let done = operate(subject, &s, rehydrate()).await;
    assert_eq!((done.found, done.changed), (vec![a, b], vec![a]));
    assert_eq!(subject.found(&s, "lost").await, [a]);
    let row = subject.row(&s, a).await;
    assert_eq!((row.tier, &row.slots["last_rehydrated_from_tier"]), (Tier::Warm, &json!("archive")));
    assert_eq!(row.slots["last_rehydrated_reason"], json!(null));
    let again = operate(subject, &s, rehydrate()).await;
    assert_eq!((again.commit, again.changed), (None, Vec::new()), "nothing to do makes no commit");
    assert_eq!(subject.store.vitals(&s, &[a], &anyone()).await.unwrap().len(), 1);
    assert_sound(&*subject.store).await;
}

/// Decisions come back as they were stored, and are found by run, or by context while nobody has reported on them.
pub async fn decisions_are_kept_and_found(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    let (old, of_run) = (decision(Uuid::new_v4(), None, &[rule]), decision(Uuid::new_v4(), Some("run"), &[rule]));
    let at = subject.store.put_decision(&s, old.clone()).await.unwrap().expect("it is new");
    let other = decision(old.id, Some("run"), &[]);
    assert_eq!(subject.store.put_decision(&s, other).await.unwrap(), None, "what is stored stays");
    subject.clock.advance(Duration::from_secs(1));
    subject.store.put_decision(&s, of_run.clone()).await.unwrap();
    let found = subject.store.decision(&s, old.id).await.unwrap().unwrap();
    assert_eq!((&found.decision, found.created_at, found.commit_seq), (&old, at, None));
    assert!(subject.store.decision(&scope_of("acme", "s"), old.id).await.unwrap().is_none());
    let find = async |query: DecisionQuery| {
        subject.store.find_decision(&s, &query).await.unwrap().map(|found| found.decision.id)
    };
    assert_eq!(find(query(Some("run"))).await, Some(of_run.id));
    assert_eq!(find(query(Some("another"))).await, Some(old.id), "one without a run will do");
    assert_eq!(find(query(None)).await, Some(old.id));
    assert_eq!(find(DecisionQuery { newer_than: Timestamp(at.0 + 1), ..query(None) }).await, None);
    assert_eq!(find(DecisionQuery { selected_tool: "curl".to_owned(), ..query(None) }).await, None);
    operate(subject, &s, on_decision(old.id, &[rule], Outcome::Positive)).await;
    assert_eq!(find(query(None)).await, None, "it has been reported on");
    let run = subject.store.decision(&s, old.id).await.unwrap().unwrap().decision.run_id;
    assert_eq!(run.as_deref(), Some("later"), "and is of that run now");
}

/// Feedback on a decision counts once per rule.
pub async fn a_decision_is_credited_once(subject: &Subject) {
    let s = scope("s");
    let rules = [write_rule(subject, &s, "r", "one").await, write_rule(subject, &s, "q", "two").await];
    let made = decision(Uuid::new_v4(), None, &rules);
    subject.store.put_decision(&s, made.clone()).await.unwrap();
    let done = operate(subject, &s, on_decision(made.id, &rules, Outcome::Positive)).await;
    assert_eq!((done.feedback.len(), done.decision_policy_sha256), (2, Some("p".repeat(64))));
    let again = operate(subject, &s, on_decision(made.id, &rules, Outcome::Positive)).await;
    assert_eq!((again.commit, again.feedback.len()), (None, 0));
    let other = refused(subject, &s, on_decision(made.id, &rules, Outcome::Negative)).await;
    assert_eq!(other.code, "decision_has_feedback");
    let missing = refused(subject, &s, on_decision(Uuid::new_v4(), &rules, Outcome::Positive)).await;
    assert_eq!(missing.code, "decision_not_found_in_scope");
    for rule in rules {
        assert_eq!(subject.store.rule(&s, rule).await.unwrap().unwrap().def.positive_count, 1);
    }
    assert_sound(&*subject.store).await;
}

/// Feedback without a decision makes one, in the same commit.
pub async fn a_decision_is_made_from_feedback(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    let made = decision(Uuid::new_v4(), None, &[rule]);
    let operation = Operation::ToolFeedback {
        decision: made.id,
        link: LinkMode::CreatedFromFeedback,
        create: Some(Box::new(made.clone())),
        rules: vec![rule],
        request: aionis_core::canon::Digest([1; 32]),
        outcome: Outcome::Negative,
        run_id: Some("run".to_owned()),
        note: None,
    };
    operate(subject, &s, operation).await;
    let stored = subject.store.decision(&s, made.id).await.unwrap().unwrap();
    assert_eq!((stored.commit_seq, stored.decision.run_id.as_deref()), (Some(2), Some("run")));
    assert_eq!(subject.store.rule(&s, rule).await.unwrap().unwrap().def.negative_count, 1);
    assert_sound(&*subject.store).await;
}

/// Nobody operates on what they cannot see: it counts as not stored.
pub async fn what_is_not_seen_is_not_operated_on(subject: &Subject) {
    let s = scope("s");
    let rule = |n: &mut aionis_core::write::NodeInput| n.node_type = NodeType::Rule;
    let of_ada = WriteBuilder::new(&s).node("r", "a rule").with(rule).private(Some("ada"), None);
    subject.write(of_ada.node("a", "one").private(None, Some("red"))).await;
    let (r, a) = (node_id(&s, "r"), node_id(&s, "a"));
    let activate = || Operation::Activate {
        nodes: NodeNames { ids: vec![a], client_ids: vec!["r".to_owned()] },
        outcome: Outcome::Neutral,
        activate: true,
        run_id: None,
        reason: None,
    };
    let as_viewer = |viewer, operation| {
        let asked = PreparedOperation { viewer: Some(viewer), ..fixtures::operation(&s, None, operation) };
        subject.store.operate(asked)
    };
    match as_viewer(agent("bob"), feedback(r, Outcome::Positive)).await {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "rule_not_found_in_scope"),
        other => panic!("feedback on a rule that is not seen: {other:?}"),
    }
    let nothing = as_viewer(agent("bob"), activate()).await.unwrap();
    assert_eq!((nothing.commit, nothing.found), (None, Vec::new()));
    assert_eq!((nothing.missing_ids, nothing.missing_client_ids), (vec![a], vec!["r".to_owned()]));
    assert_eq!(subject.status(&s).await.head_seq, 1, "nothing changed");
    assert_eq!(as_viewer(agent("ada"), activate()).await.unwrap().changed, [r]);
    assert_eq!(as_viewer(team("red"), activate()).await.unwrap().changed, [a]);
    as_viewer(agent("ada"), feedback(r, Outcome::Positive)).await.unwrap();
    assert_sound(&*subject.store).await;
}

/// Operations and writes at once make one linear chain, and no count is lost.
pub async fn w_21_operations_and_writes_at_once_lose_nothing(subject: &Subject) {
    let s = scope("s");
    let rule = write_rule(subject, &s, "r", "one").await;
    let work = (0..20).map(|n| {
        let (store, s) = (std::sync::Arc::clone(&subject.store), s.clone());
        tokio::spawn(async move {
            let text = format!("text {n}");
            let write = WriteBuilder::new(&s).input(&text).node(&format!("n{n}"), &text).prepared();
            let run = Some(n.to_string());
            let operation = Operation::RuleFeedback { rule, outcome: Outcome::Positive, run_id: run, note: None };
            store.write(write).await.expect("the write is stored");
            store.operate(fixtures::operation(&s, None, operation)).await.expect("the feedback is stored");
        })
    });
    for task in work.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    assert_eq!(subject.status(&s).await.head_seq, 41);
    assert_eq!(subject.store.rule(&s, rule).await.unwrap().unwrap().def.positive_count, 20);
    assert_sound(&*subject.store).await;
}

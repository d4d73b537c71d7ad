//! Removing what is kept for a while only.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::{
        BeginRun, EndRun, RunLease, RunQuery, RunStatus, Target,
        retention::{DecisionPlace, Expiring},
    },
    model::NodeType,
    operate::{LinkMode, NewDecision, Operation, Outcome},
    ports::store::RecallAudit,
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::fixtures::{START, WriteBuilder, anyone, decision, node_id, operation, scope, scope_of};

const HOUR: Duration = Duration::from_secs(3_600);

fn after(hours: i64) -> Timestamp {
    Timestamp(START.0 + hours * 3_600_000_000)
}

async fn recalled(subject: &Subject, scope: &ScopeKey) {
    let audit = RecallAudit {
        scope: scope.clone(),
        endpoint: "recall",
        viewer: anyone(),
        query_sha256: "q".to_owned(),
        seeds: 1,
        nodes: 1,
        edges: 0,
        at: subject.now(),
    };
    subject.store.record_recalls(vec![audit]).await.unwrap();
}

/// Work that is done and recalls that were noted go, the oldest first, so many at once; work that waits, work that was given
/// up and whatever is younger stay, and so does the chain.
pub async fn old_rows_go_in_batches_and_young_ones_stay(subject: &Subject) {
    let scopes = [scope("s"), scope_of("globex", "s")];
    for n in 0..5 {
        for s in &scopes {
            subject.write(WriteBuilder::new(s).input(&format!("{n}")).deriving().node(&format!("n{n}"), "text")).await;
            recalled(subject, s).await;
        }
        if n < 4 {
            subject.drain().await;
        }
        subject.clock.advance(HOUR);
    }
    let store = &*subject.store;
    for kind in [Expiring::Outbox, Expiring::RecallAudit] {
        assert_eq!(store.expiring(kind, after(0)).await.unwrap(), 0);
        assert_eq!(store.expire(kind, after(0), 100).await.unwrap(), 0);
        assert_eq!(store.expiring(kind, after(2)).await.unwrap(), 4);
        assert_eq!(store.expire(kind, after(2), 3).await.unwrap(), 3);
        assert_eq!(store.expire(kind, after(2), 3).await.unwrap(), 1);
        assert_eq!(store.expire(kind, after(2), 3).await.unwrap(), 0);
        let rest = if kind == Expiring::Outbox { 4 } else { 6 };
        assert_eq!(store.expiring(kind, after(100)).await.unwrap(), rest);
        assert_eq!(store.expire(kind, after(100), 100).await.unwrap(), rest);
    }
    assert!(subject.inspect.audits(&scopes[0]).await.is_empty());
    for s in &scopes {
        assert_eq!(subject.status(s).await.pending, 1, "what waits is not removed");
    }
    assert_eq!(subject.claim("w", 10).await.len(), 2);
    crate::sound::assert_sound(store).await;
}

async fn rule(subject: &Subject, s: &ScopeKey) -> NodeId {
    let write = WriteBuilder::new(s).input("rule").node("r", "a rule").with(|node| {
        node.node_type = NodeType::Rule;
        node.slots = Some(json!({ "if": {}, "then": {} }));
    });
    subject.write(write).await;
    node_id(s, "r")
}

fn credited(id: Uuid, rule: NodeId, create: Option<Box<NewDecision>>) -> Operation {
    Operation::ToolFeedback {
        decision: id,
        link: LinkMode::Provided,
        create,
        rules: vec![rule],
        request: aionis_core::canon::Digest([1; 32]),
        outcome: Outcome::Positive,
        run_id: None,
        note: None,
    }
}

/// Of old decisions those go that no feedback names and none made, page by page in their order.
pub async fn a_decision_that_feedback_names_stays(subject: &Subject) {
    let (s, t) = (scope("s"), scope_of("globex", "s"));
    let (r, store) = (rule(subject, &s).await, &*subject.store);
    for n in 0..6_u128 {
        let at = if n % 2 == 0 { &s } else { &t };
        store.put_decision(at, decision(Uuid::from_u128(n + 1), None, &[])).await.unwrap();
        subject.clock.advance(HOUR);
    }
    store.operate(operation(&s, None, credited(Uuid::from_u128(1), r, None))).await.unwrap();
    let made = Uuid::from_u128(90);
    let create = Some(Box::new(decision(made, None, &[r])));
    store.operate(operation(&s, None, credited(made, r, create))).await.unwrap();
    subject.clock.advance(HOUR);
    store.put_decision(&s, decision(Uuid::from_u128(99), None, &[])).await.unwrap();
    let before = subject.now();
    assert_eq!(store.expiring(Expiring::Decisions, before).await.unwrap(), 5);
    let (mut place, mut pages): (Option<DecisionPlace>, _) = (None, Vec::new());
    loop {
        let page = store.expire_decisions(before, place.as_ref(), 3).await.unwrap();
        pages.push((page.removed, page.kept));
        place = page.next;
        if place.is_none() {
            break;
        }
    }
    assert_eq!(pages, [(2, 1), (3, 0), (0, 1)]);
    assert_eq!(store.expiring(Expiring::Decisions, before).await.unwrap(), 0);
    for (id, scope, stays) in [(1, &s, true), (2, &t, false), (3, &s, false), (90, &s, true), (99, &s, true)] {
        assert_eq!(store.decision(scope, Uuid::from_u128(id)).await.unwrap().is_some(), stays, "{id}");
    }
    assert!(store.expire(Expiring::Decisions, before, 10).await.is_err(), "decisions are removed page by page");
    crate::sound::assert_sound(store).await;
}

/// Runs that ended long ago go; one that is under way stays however long ago it began.
pub async fn what_runs_is_kept_and_what_ended_goes(subject: &Subject) {
    let store = &*subject.store;
    for (run, ended) in [(1, Some(1)), (2, None), (3, Some(9)), (4, Some(2))] {
        let target = if run == 4 { Target::Deployment } else { Target::Scope(scope(&format!("s{run}"))) };
        let begin = BeginRun {
            run: Uuid::from_u128(run),
            job: "sweep".to_owned(),
            target: target.clone(),
            holder: "h".to_owned(),
            dry_run: false,
            params: json!({}),
            now: after(0),
            lease: Some(HOUR),
            due_before: None,
        };
        store.begin_run(begin).await.unwrap();
        if let Some(hours) = ended {
            let lease = RunLease { run: Uuid::from_u128(run), job: "sweep".to_owned(), target, fence: 1 };
            let end =
                EndRun { status: RunStatus::Done, cursor: None, result: json!({}), error: None, now: after(hours) };
            assert!(store.end_run(&lease, end).await.unwrap());
        }
    }
    assert_eq!(store.expiring(Expiring::JobRuns, after(5)).await.unwrap(), 2);
    assert_eq!(store.expire(Expiring::JobRuns, after(5), 1).await.unwrap(), 1);
    assert_eq!(store.expire(Expiring::JobRuns, after(5), 5).await.unwrap(), 1);
    let kept = store.job_runs(&RunQuery { limit: 10, ..RunQuery::default() }).await.unwrap();
    assert_eq!(kept.iter().map(|run| run.run.as_u128()).collect::<Vec<_>>(), [3, 2]);
}

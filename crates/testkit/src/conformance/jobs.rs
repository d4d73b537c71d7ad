//! Leases, cursors and the history of jobs.

use std::time::Duration;

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::{BeginRun, Begun, EndRun, RunLease, RunQuery, RunStatus, Target},
    ports::store::Store,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Subject;
use crate::fixtures::{START, WriteBuilder, scope, scope_of};

const LEASE: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp(START.0 + seconds * 1_000_000)
}

fn asked(run: u128, target: &Target, seconds: i64) -> BeginRun {
    BeginRun {
        run: Uuid::from_u128(run),
        job: "sweep".to_owned(),
        target: target.clone(),
        holder: format!("holder-{run}"),
        dry_run: false,
        params: json!({ "limit": 7 }),
        now: at(seconds),
        lease: Some(LEASE),
        due_before: None,
    }
}

fn named(run: u128, target: &Target, fence: u64) -> RunLease {
    RunLease { run: Uuid::from_u128(run), job: "sweep".to_owned(), target: target.clone(), fence }
}

fn end(status: RunStatus, cursor: Option<Value>, seconds: i64) -> EndRun {
    EndRun { status, cursor, result: json!({ "moved": 3 }), error: None, now: at(seconds) }
}

fn target(name: &str) -> Target {
    Target::Scope(scope(name))
}

async fn begun(store: &dyn Store, asked: BeginRun) -> (u64, Option<Value>) {
    match store.begin_run(asked).await.unwrap() {
        Begun::Yes { fence, cursor } => (fence, cursor),
        other => panic!("not begun: {other:?}"),
    }
}

/// One holder at a time; the next one goes on at the cursor that was left.
pub async fn a_lease_has_one_holder_and_a_cursor_is_left_to_the_next(subject: &Subject) {
    let (store, t) = (&*subject.store, target("s"));
    assert_eq!(begun(store, asked(1, &t, 0)).await, (1, None));
    let busy = store.begin_run(asked(2, &t, 10)).await.unwrap();
    assert_eq!(busy, Begun::Busy { holder: "holder-1".to_owned(), until: at(30) });
    assert_eq!(begun(store, asked(3, &target("other"), 10)).await.0, 1, "another scope is another lease");
    assert!(store.keep_run(&named(1, &t, 1), at(50), Some(&json!({ "after": "x" }))).await.unwrap());
    assert!(store.keep_run(&named(1, &t, 1), at(60), None).await.unwrap(), "without a cursor the one before stays");
    assert!(matches!(store.begin_run(asked(2, &t, 55)).await.unwrap(), Begun::Busy { .. }));
    assert!(store.end_run(&named(1, &t, 1), end(RunStatus::Stopped, Some(json!([1])), 56)).await.unwrap());
    assert_eq!(begun(store, asked(4, &t, 57)).await, (2, Some(json!([1]))));
    assert!(store.end_run(&named(4, &t, 2), end(RunStatus::Done, None, 58)).await.unwrap());
    assert_eq!(begun(store, asked(5, &t, 59)).await, (3, None));
}

/// A lease that ran out is taken over; the late holder stores nothing, and its run is noted as lost.
pub async fn a_late_holder_stores_nothing(subject: &Subject) {
    let (store, t) = (&*subject.store, target("s"));
    begun(store, asked(1, &t, 0)).await;
    assert_eq!(begun(store, asked(2, &t, 30)).await.0, 2);
    assert!(!store.keep_run(&named(1, &t, 1), at(90), Some(&json!("late"))).await.unwrap());
    assert!(!store.end_run(&named(1, &t, 1), end(RunStatus::Done, Some(json!("late")), 31)).await.unwrap());
    assert!(store.keep_run(&named(2, &t, 2), at(90), Some(&json!("mine"))).await.unwrap());
    assert!(store.end_run(&named(2, &t, 2), end(RunStatus::Failed, Some(json!("mine")), 32)).await.unwrap());
    let runs = store.job_runs(&RunQuery { limit: 10, ..RunQuery::default() }).await.unwrap();
    let statuses: Vec<_> = runs.iter().map(|run| (run.run.as_u128(), run.status)).collect();
    assert_eq!(statuses, [(2, RunStatus::Failed), (1, RunStatus::Lost)]);
    assert_eq!(begun(store, asked(3, &t, 33)).await, (3, Some(json!("mine"))));
}

/// Two that take a lease at once: one gets it.
pub async fn a_lease_asked_for_at_once_is_given_once(subject: &Subject) {
    let (store, t) = (&*subject.store, target("s"));
    let all = (1..=8).map(|run| store.begin_run(asked(run, &t, 0)));
    let mut yes = 0;
    for one in all {
        yes += usize::from(matches!(one.await.unwrap(), Begun::Yes { .. }));
    }
    assert_eq!(yes, 1);
    let (a, b) = tokio::join!(store.begin_run(asked(11, &t, 40)), store.begin_run(asked(12, &t, 40)));
    let got = [a.unwrap(), b.unwrap()];
    assert_eq!(got.iter().filter(|one| matches!(one, Begun::Yes { .. })).count(), 1, "{got:?}");
}

/// A dry run is noted and takes nothing; a run without lease is noted, and counts as a run.
pub async fn a_dry_run_and_a_run_without_lease_take_nothing(subject: &Subject) {
    let (store, t) = (&*subject.store, target("s"));
    begun(store, asked(1, &t, 0)).await;
    assert_eq!(begun(store, BeginRun { dry_run: true, ..asked(2, &t, 1) }).await, (0, None));
    assert!(store.end_run(&named(2, &t, 0), end(RunStatus::Done, None, 2)).await.unwrap());
    assert!(store.end_run(&named(1, &t, 1), end(RunStatus::Done, None, 3)).await.unwrap(), "the lease was not touched");
    let unleased = BeginRun { lease: None, ..asked(3, &Target::Deployment, 4) };
    assert_eq!(begun(store, unleased).await, (0, None));
    assert_eq!(store.last_deployment_run("sweep").await.unwrap(), Some(at(4)));
    assert_eq!(store.last_deployment_run("other").await.unwrap(), None);
}

/// A run that is asked for only when due is not begun twice.
pub async fn what_ran_meanwhile_is_not_due(subject: &Subject) {
    let (store, t) = (&*subject.store, target("s"));
    let due = |run, seconds| BeginRun { due_before: Some(at(100)), ..asked(run, &t, seconds) };
    begun(store, due(1, 100)).await;
    store.end_run(&named(1, &t, 1), end(RunStatus::Done, None, 101)).await.unwrap();
    assert_eq!(store.begin_run(due(2, 102)).await.unwrap(), Begun::NotDue);
    let unleased = |run| BeginRun { lease: None, due_before: Some(at(100)), ..asked(run, &Target::Deployment, 100) };
    begun(store, unleased(3)).await;
    assert_eq!(store.begin_run(unleased(4)).await.unwrap(), Begun::NotDue);
}

/// Scopes are due by their last run, what waits longest first, and by whether they changed.
pub async fn scopes_are_due_by_their_last_run(subject: &Subject) {
    let (store, clock) = (&*subject.store, &subject.clock);
    for name in ["a", "b", "c"] {
        store.write(WriteBuilder::new(&scope(name)).node("n", "text").prepared()).await.unwrap();
    }
    let due = async |before, now, changed| -> Vec<String> {
        let due = store.due_scopes("sweep", at(before), at(now), changed, 10).await.unwrap();
        due.iter().map(|key: &ScopeKey| key.scope().to_owned()).collect()
    };
    assert_eq!(due(0, 0, true).await, ["a", "b", "c"]);
    for (run, name, seconds) in [(1, "b", 100), (2, "a", 200)] {
        let fence = begun(store, asked(run, &target(name), seconds)).await.0;
        store.end_run(&named(run, &target(name), fence), end(RunStatus::Done, None, seconds + 1)).await.unwrap();
    }
    assert_eq!(due(1_000, 1_000, false).await, ["c", "b", "a"]);
    assert_eq!(due(200, 1_000, false).await, ["c", "b"]);
    assert_eq!(store.due_scopes("sweep", at(1_000), at(1_000), false, 1).await.unwrap().len(), 1);
    // Nothing changed since in a and b; then b changes.
    assert_eq!(due(1_000, 1_000, true).await, ["c"]);
    clock.advance(Duration::from_secs(500));
    store.write(WriteBuilder::new(&scope("b")).node("n", "other text").prepared()).await.unwrap();
    assert_eq!(due(1_000, 1_000, true).await, ["c", "b"]);
    // What is being run is not due; what was left unfinished is, changed or not.
    begun(store, asked(3, &target("c"), 1_000)).await;
    assert_eq!(due(2_000, 1_001, false).await, ["b", "a"]);
    let fence = begun(store, asked(4, &target("a"), 1_000)).await.0;
    store.end_run(&named(4, &target("a"), fence), end(RunStatus::Stopped, Some(json!(1)), 1_001)).await.unwrap();
    assert_eq!(due(2_000, 1_002, true).await, ["b", "a"]);
    // What was stopped, and what died, is due at once; what failed waits for its time.
    assert_eq!(due(0, 1_002, true).await, ["a"]);
    assert_eq!(due(0, 1_030, true).await, ["a", "c"]);
    let again = BeginRun { due_before: Some(at(0)), ..asked(5, &target("a"), 1_031) };
    let fence = begun(store, again).await.0;
    store.end_run(&named(5, &target("a"), fence), end(RunStatus::Failed, Some(json!(1)), 1_032)).await.unwrap();
    assert_eq!(due(0, 1_040, true).await, ["c"]);
}

/// The history is listed the newest first, by job, tenant and scope.
pub async fn runs_are_listed_the_newest_first(subject: &Subject) {
    let store = &*subject.store;
    let (mine, theirs) = (target("s"), Target::Scope(scope_of("other", "s")));
    for (run, target, seconds) in [(1, &mine, 0), (2, &theirs, 10), (3, &Target::Deployment, 20)] {
        begun(store, asked(run, target, seconds)).await;
    }
    let failed = EndRun { error: Some("it \"broke\"".to_owned()), ..end(RunStatus::Failed, None, 5) };
    store.end_run(&named(1, &mine, 1), failed).await.unwrap();
    let listed = async |query: RunQuery| -> Vec<u128> {
        store.job_runs(&query).await.unwrap().iter().map(|run| run.run.as_u128()).collect()
    };
    let all = RunQuery { limit: 10, ..RunQuery::default() };
    assert_eq!(listed(all.clone()).await, [3, 2, 1]);
    assert_eq!(listed(RunQuery { limit: 1, ..all.clone() }).await, [3]);
    assert_eq!(listed(RunQuery { tenant: Some("other".to_owned()), ..all.clone() }).await, [2]);
    assert_eq!(listed(RunQuery { target: Some(mine.clone()), ..all.clone() }).await, [1]);
    assert_eq!(listed(RunQuery { target: Some(Target::Deployment), ..all.clone() }).await, [3]);
    assert_eq!(listed(RunQuery { job: Some("none".to_owned()), ..all.clone() }).await, [0_u128; 0]);
    let first = store.job_runs(&RunQuery { target: Some(mine.clone()), ..all }).await.unwrap().remove(0);
    assert_eq!((first.started_at, first.finished_at, first.status), (at(0), Some(at(5)), RunStatus::Failed));
    assert_eq!((first.params, first.result), (json!({ "limit": 7 }), Some(json!({ "moved": 3 }))));
    assert_eq!((first.error.as_deref(), first.holder.as_str()), (Some("it \"broke\""), "holder-1"));
    assert_eq!((first.target, first.dry_run), (mine, false));
}

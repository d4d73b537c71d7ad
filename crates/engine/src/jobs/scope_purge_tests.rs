use std::sync::Arc;

use aionis_core::{
    canon::Digest,
    error::DomainError,
    jobs::{RunQuery, RunStatus, scope_purge::PurgeMode},
    ports::store::{IntegrityStore, JobStore, RecallReader, Store, WriteStore},
};
use aionis_store::sqlite::{SqliteOptions, SqliteStore};
use aionis_testkit::fixtures::{FakeClock, WriteBuilder, scope};
use serde_json::{Value, json};

use super::ScopePurge;
use crate::{
    jobs::{JobReport, NoProgress, RunOptions, Runner, Selection, TargetStatus},
    verify::{Progress, verify},
};

struct Quiet;

impl Progress for Quiet {
    fn scope(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
}

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    runner: Runner,
}

async fn place() -> Place {
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let store = Arc::new(SqliteStore::open(&SqliteOptions::new(dir.path()), clock.clone()).unwrap());
    for name in ["a", "b"] {
        for n in 0..20 {
            let text = format!("note {n} of {name}");
            store.write(WriteBuilder::new(&scope(name)).input(&text).node(&text, &text).prepared()).await.unwrap();
        }
    }
    let runner = Runner::new(Arc::clone(&store) as Arc<dyn Store>, clock);
    Place { _dir: dir, store, runner }
}

fn purge(plan: Option<Digest>) -> ScopePurge {
    ScopePurge {
        scope: scope("a"),
        plan,
        mode: PurgeMode::Auto,
        fail_on_delete: false,
        batch_size: 7,
        by: "ops".to_owned(),
    }
}

async fn run(place: &Place, job: &ScopePurge, options: &RunOptions) -> JobReport {
    place.runner.run(job, &Selection::default(), options, &NoProgress).await.unwrap()
}

fn dry() -> RunOptions {
    RunOptions { dry_run: true, ..RunOptions::default() }
}

async fn planned(place: &Place) -> Digest {
    let report = run(place, &purge(None), &dry()).await;
    assert!(report.ok, "{report:?}");
    Digest::from_hex(fact(&report, "plan_hash").as_str().unwrap()).unwrap()
}

fn fact(report: &JobReport, name: &str) -> Value {
    report.targets[0].report.get(name).cloned().unwrap_or_default()
}

fn error(report: &JobReport) -> &str {
    assert_eq!(report.targets[0].status, TargetStatus::Failed, "{report:?}");
    report.targets[0].error.as_deref().unwrap()
}

async fn nodes(place: &Place, name: &str) -> u64 {
    place.store.scope_status(&scope(name)).await.unwrap().nodes
}

async fn sound(place: &Place) -> u64 {
    let report = verify(&*place.store, (None, None), true, &Quiet).await.unwrap();
    assert!(report.ok, "{report:?}");
    report.purges.records
}

#[tokio::test]
async fn a_plan_is_told_and_its_hash_purges_exactly_that_scope() {
    let place = place().await;
    let plan = planned(&place).await;
    assert_eq!(nodes(&place, "a").await, 20, "a plan changes nothing");
    let done = run(&place, &purge(Some(plan)), &RunOptions::default()).await;
    assert!(done.ok, "{done:?}");
    assert!(done.targets[0].batches > 3, "20 nodes and 20 commits do not fit into one step of 7 rows");
    assert_eq!(fact(&done, "record")["rows"]["memory_nodes"], json!(20));
    assert_eq!(
        fact(&done, "rows_removed"),
        json!(fact(&done, "record")["rows"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>())
    );
    assert_eq!((nodes(&place, "a").await, nodes(&place, "b").await), (0, 20));
    assert_eq!(sound(&place).await, 1);
    let runs = place.store.job_runs(&RunQuery { limit: 10, ..RunQuery::default() }).await.unwrap();
    assert_eq!(runs.len(), 2);
    let applied = runs.iter().find(|run| !run.dry_run).unwrap();
    assert_eq!(applied.status, RunStatus::Done);
    assert_eq!(applied.result.as_ref().unwrap()["plan_hash"], json!(plan.to_hex()));
}

#[tokio::test]
async fn a_write_after_the_plan_makes_it_stale() {
    let place = place().await;
    let plan = planned(&place).await;
    place.store.write(WriteBuilder::new(&scope("a")).input("x").node("late", "late").prepared()).await.unwrap();
    let refused = run(&place, &purge(Some(plan)), &RunOptions::default()).await;
    assert!(error(&refused).starts_with("purge_plan_stale"), "{refused:?}");
    assert_eq!(nodes(&place, "a").await, 21);
    // Without a plan, and by a plan of other flags, nothing is removed either.
    let refused = run(&place, &purge(None), &RunOptions::default()).await;
    assert!(error(&refused).contains("invalid_request"), "{refused:?}");
    let again = planned(&place).await;
    let other = ScopePurge { mode: PurgeMode::Delete, ..purge(Some(again)) };
    assert!(error(&run(&place, &other, &RunOptions::default()).await).starts_with("purge_plan_stale"));
    assert_eq!(nodes(&place, "a").await, 21);
}

#[tokio::test]
async fn the_rules_hold_before_anything_is_touched() {
    let place = place().await;
    let plan = planned(&place).await;
    for job in [
        ScopePurge { fail_on_delete: true, ..purge(Some(plan)) },
        ScopePurge { mode: PurgeMode::Partition, ..purge(Some(plan)) },
    ] {
        for options in [dry(), RunOptions::default()] {
            let refused = run(&place, &job, &options).await;
            assert!(error(&refused).starts_with("purge_refused"), "{refused:?}");
        }
    }
    assert_eq!((nodes(&place, "a").await, sound(&place).await), (20, 0));
}

#[tokio::test]
async fn a_purge_that_stopped_hides_the_scope_refuses_writes_and_is_finished_by_its_plan() {
    let place = place().await;
    let plan = planned(&place).await;
    let two = RunOptions { max_batches: Some(2), ..RunOptions::default() };
    let stopped = run(&place, &purge(Some(plan)), &two).await;
    assert_eq!(stopped.targets[0].status, TargetStatus::Stopped);
    assert_eq!(nodes(&place, "a").await, 0, "to readers it is gone at once");
    assert_eq!(place.store.scopes(None, None).await.unwrap().len(), 1);
    assert_eq!(sound(&place).await, 0);
    let write = WriteBuilder::new(&scope("a")).input("x").node("late", "late").prepared();
    let refused = DomainError::from(place.store.write(write).await.unwrap_err());
    assert_eq!(refused.code, "scope_purging");
    // A look tells what is under way; another plan does not go on with it.
    let look = run(&place, &purge(None), &dry()).await;
    assert_eq!((fact(&look, "state"), fact(&look, "plan_hash")), (json!("purging"), json!(plan.to_hex())));
    let other = run(&place, &purge(Some(Digest([1; 32]))), &RunOptions::default()).await;
    assert!(error(&other).contains("under way"), "{other:?}");
    let done = run(&place, &purge(Some(plan)), &RunOptions::default()).await;
    assert!(done.ok, "{done:?}");
    let record = fact(&done, "record");
    assert_eq!((&record["rows"]["memory_nodes"], &record["rows"]["memory_commits"]), (&json!(20), &json!(20)));
    // Once more: it is done, and says so; a plan that never was is of a scope that is not there.
    let again = run(&place, &purge(Some(plan)), &RunOptions::default()).await;
    assert_eq!((again.ok, fact(&again, "record")), (true, record));
    let unknown = run(&place, &purge(Some(Digest([1; 32]))), &RunOptions::default()).await;
    assert!(error(&unknown).starts_with("scope_not_found"), "{unknown:?}");
    assert_eq!(sound(&place).await, 1);
}

#[tokio::test]
async fn a_scope_that_is_written_again_begins_a_new_chain_and_its_purge_is_another_record() {
    let place = place().await;
    for round in 1..=3 {
        let plan = planned(&place).await;
        assert!(run(&place, &purge(Some(plan)), &RunOptions::default()).await.ok);
        let text = format!("round {round}");
        let write = WriteBuilder::new(&scope("a")).input(&text).node("again", &text).prepared();
        assert_eq!(place.store.write(write).await.unwrap().commit_seq, 1);
        let stale = run(&place, &purge(Some(plan)), &RunOptions::default()).await;
        assert!(error(&stale).starts_with("purge_plan_stale"), "the old plan does not purge the new scope: {stale:?}");
        assert_eq!((nodes(&place, "a").await, sound(&place).await), (1, round));
    }
}

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aionis_core::{
    clock::{Clock, Timestamp},
    error::{DomainError, ErrorKind},
    jobs::{JobInfo, JobRun, Over, RunQuery, RunStatus, Schedule, Target},
    ports::store::{JobStore, Store, WriteStore},
};
use aionis_store::sqlite::{SqliteOptions, SqliteStore};
use aionis_testkit::fixtures::{FakeClock, WriteBuilder, scope};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

static COUNTS: JobInfo = JobInfo {
    name: "counts",
    about: "Counts to three",
    changes: true,
    over: Over::Scopes,
    schedule: Some(Schedule { every: HOUR, only_changed: false }),
};
static OF_CHANGED: JobInfo = JobInfo {
    name: "of-changed",
    about: "Counts to three where something changed",
    changes: true,
    over: Over::Scopes,
    schedule: Some(Schedule { every: HOUR, only_changed: true }),
};
static WHOLE: JobInfo = JobInfo {
    name: "whole",
    about: "Looks at everything",
    changes: false,
    over: Over::Deployment,
    schedule: Some(Schedule { every: HOUR, only_changed: false }),
};

/// Counts to three, a step each. What the steps saw is kept; a step can be made to fail, or to wait for a permit.
struct Counting {
    info: &'static JobInfo,
    seen: Mutex<Vec<(String, u64, bool)>>,
    fails_at: AtomicUsize,
    gate: Option<Arc<Semaphore>>,
    holds: bool,
}

impl Counting {
    fn new(info: &'static JobInfo) -> Self {
        Self { info, seen: Mutex::default(), fails_at: AtomicUsize::new(usize::MAX), gate: None, holds: true }
    }

    fn steps(&self) -> Vec<u64> {
        self.seen.lock().unwrap().iter().map(|(_, step, _)| *step).collect()
    }
}

#[async_trait]
impl Job for Counting {
    fn info(&self) -> &'static JobInfo {
        self.info
    }

    fn params(&self) -> Value {
        json!({ "to": 3 })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let at = on.cursor.and_then(Value::as_u64).unwrap_or(0);
        if self.fails_at.load(Ordering::SeqCst) == usize::try_from(at).unwrap() {
            return Err(DomainError::new(ErrorKind::Internal, "internal_error", "the step broke"));
        }
        self.seen.lock().unwrap().push((on.target.key().to_owned(), at, on.dry_run));
        let mut report = Report::default();
        report.count("counted", 1);
        Ok(Stepped { report, next: (at < 2).then(|| json!(at + 1)) })
    }

    fn holds(&self, _: &Report) -> bool {
        self.holds
    }
}

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<FakeClock>,
    runner: Runner,
}

async fn place(scopes: &[&str]) -> Place {
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let store = Arc::new(SqliteStore::open(&SqliteOptions::new(dir.path()), clock.clone()).unwrap());
    for name in scopes {
        write(&store, name).await;
    }
    let runner = Runner::new(Arc::clone(&store) as Arc<dyn Store>, clock.clone());
    Place { _dir: dir, store, clock, runner }
}

async fn write(store: &SqliteStore, name: &str) {
    let text = format!("text {}", uuid::Uuid::new_v4());
    store.write(WriteBuilder::new(&scope(name)).input(&text).node("n", &text).prepared()).await.unwrap();
}

async fn run(place: &Place, job: &dyn Job, options: &RunOptions) -> JobReport {
    place.runner.run(job, &Selection::default(), options, &NoProgress).await.unwrap()
}

async fn history(place: &Place) -> Vec<JobRun> {
    place.store.job_runs(&RunQuery { limit: 100, ..RunQuery::default() }).await.unwrap()
}

#[tokio::test]
async fn a_job_goes_over_all_scopes_to_its_end_and_is_kept_in_the_history() {
    let place = place(&["a", "b"]).await;
    let job = Counting::new(&COUNTS);
    let report = run(&place, &job, &RunOptions::default()).await;
    assert!(report.ok);
    assert_eq!(Value::from(report.total), json!({ "counted": 6 }));
    assert_eq!(job.steps(), [0, 1, 2, 0, 1, 2]);
    let runs = history(&place).await;
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(
            (run.status, run.params, run.result),
            (RunStatus::Done, json!({ "to": 3 }), Some(json!({ "counted": 3 })))
        );
    }
}

#[tokio::test]
async fn a_limit_stops_it_and_the_next_run_goes_on_there() {
    let place = place(&["a"]).await;
    let job = Counting::new(&COUNTS);
    let stopped = run(&place, &job, &RunOptions { max_batches: Some(2), ..RunOptions::default() }).await;
    assert!(!stopped.ok);
    assert_eq!(stopped.targets[0].status, TargetStatus::Stopped);
    let done = run(&place, &job, &RunOptions::default()).await;
    assert!(done.targets[0].resumed && done.ok);
    assert_eq!(job.steps(), [0, 1, 2]);
    run(&place, &job, &RunOptions::default()).await;
    assert_eq!(job.steps(), [0, 1, 2, 0, 1, 2], "after its end it begins anew");
}

#[tokio::test]
async fn a_deadline_that_passed_stops_it_before_a_step() {
    let place = place(&["a"]).await;
    let job = Counting::new(&COUNTS);
    let stopped = run(&place, &job, &RunOptions { deadline: Some(Duration::ZERO), ..RunOptions::default() }).await;
    assert_eq!((stopped.targets[0].status, job.steps().len()), (TargetStatus::Stopped, 0));
}

#[tokio::test]
async fn a_dry_run_takes_no_lease_and_leaves_the_cursor_alone() {
    let place = place(&["a"]).await;
    let job = Counting::new(&COUNTS);
    run(&place, &job, &RunOptions { max_batches: Some(1), ..RunOptions::default() }).await;
    let dry = run(&place, &job, &RunOptions { dry_run: true, ..RunOptions::default() }).await;
    assert!(dry.ok && !dry.targets[0].resumed);
    run(&place, &job, &RunOptions::default()).await;
    let seen: Vec<(u64, bool)> = job.seen.lock().unwrap().iter().map(|(_, step, dry)| (*step, *dry)).collect();
    assert_eq!(seen, [(0, false), (0, true), (1, true), (2, true), (1, false), (2, false)]);
}

#[tokio::test]
async fn a_failed_step_is_told_kept_and_begun_again_and_others_go_on() {
    let place = place(&["a", "b"]).await;
    let job = Counting::new(&COUNTS);
    job.fails_at.store(1, Ordering::SeqCst);
    let failed = run(&place, &job, &RunOptions::default()).await;
    assert!(!failed.ok);
    assert_eq!(failed.with(TargetStatus::Failed).count(), 2);
    assert!(failed.targets[0].error.as_ref().unwrap().contains("the step broke"));
    assert!(history(&place).await.iter().all(|run| run.status == RunStatus::Failed && run.error.is_some()));
    job.fails_at.store(usize::MAX, Ordering::SeqCst);
    assert!(run(&place, &job, &RunOptions::default()).await.ok);
    assert_eq!(job.steps(), [0, 0, 1, 2, 1, 2]);
}

#[tokio::test]
async fn what_does_not_hold_is_negative() {
    let place = place(&["a"]).await;
    let job = Counting { holds: false, ..Counting::new(&COUNTS) };
    let report = run(&place, &job, &RunOptions::default()).await;
    assert_eq!((report.ok, report.targets[0].status), (false, TargetStatus::Negative));
    assert_eq!(history(&place).await[0].status, RunStatus::Negative);
}

#[tokio::test]
async fn one_runner_at_a_time() {
    let place = place(&["a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    let slow = Arc::new(Counting { gate: Some(Arc::clone(&gate)), ..Counting::new(&COUNTS) });
    let first = {
        let (runner, slow) = (place.runner.clone(), Arc::clone(&slow));
        tokio::spawn(async move {
            let options = RunOptions { holder: "first".to_owned(), ..RunOptions::default() };
            runner.run(slow.as_ref(), &Selection::default(), &options, &NoProgress).await.unwrap()
        })
    };
    // The first one has begun as soon as its run is noted.
    while history(&place).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let second = run(&place, &Counting::new(&COUNTS), &RunOptions::default()).await;
    assert_eq!(second.targets[0].status, TargetStatus::Busy);
    assert!(second.targets[0].error.as_ref().unwrap().starts_with("first is at it"));
    gate.add_permits(3);
    assert!(first.await.unwrap().ok);
}

#[tokio::test]
async fn who_lost_the_lease_stores_nothing_more() {
    let place = place(&["a"]).await;
    let gate = Arc::new(Semaphore::new(1));
    let slow = Arc::new(Counting { gate: Some(Arc::clone(&gate)), ..Counting::new(&COUNTS) });
    let first = {
        let (runner, slow) = (place.runner.clone(), Arc::clone(&slow));
        tokio::spawn(async move {
            runner.run(slow.as_ref(), &Selection::default(), &RunOptions::default(), &NoProgress).await
        })
    };
    while slow.steps().is_empty() {
        tokio::task::yield_now().await;
    }
    // Its lease runs out while it is stalled; another one takes over and goes on where it was.
    place.clock.advance(Duration::from_secs(60));
    let other = Counting::new(&COUNTS);
    while run(&place, &other, &RunOptions::default()).await.targets[0].status == TargetStatus::Busy {
        place.clock.advance(Duration::from_secs(60));
    }
    gate.add_permits(5);
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.targets[0].status, TargetStatus::Lost);
    let statuses: Vec<RunStatus> = history(&place).await.iter().map(|run| run.status).collect();
    assert!(statuses.contains(&RunStatus::Lost) && statuses.contains(&RunStatus::Done), "{statuses:?}");
}

#[tokio::test]
async fn a_scope_that_is_not_there_is_refused() {
    let place = place(&["a"]).await;
    let selection = Selection { tenant: None, scope: Some("nowhere".to_owned()) };
    let job = Counting::new(&COUNTS);
    let refused = place.runner.run(&job, &selection, &RunOptions::default(), &NoProgress).await.unwrap_err();
    assert!(refused.message.contains("nowhere"), "{refused:?}");
}

fn scheduler(place: &Place, jobs: &[&Arc<Counting>]) -> Scheduler {
    let settings = SchedulerSettings {
        holder: "s".to_owned(),
        poll_interval: Duration::from_millis(10),
        scopes_max: 10,
        lease: Duration::from_secs(30),
    };
    let jobs = jobs.iter().map(|job| Arc::clone(*job) as Arc<dyn Job>).collect();
    Scheduler::new(place.runner.clone(), jobs, settings)
}

#[tokio::test]
async fn what_is_due_runs_once_per_period_and_what_was_missed_once() {
    let place = place(&["a", "b"]).await;
    let (counts, whole) = (Arc::new(Counting::new(&COUNTS)), Arc::new(Counting::new(&WHOLE)));
    let scheduler = scheduler(&place, &[&counts, &whole]);
    let (_stop, stopped) = watch::channel(false);
    assert_eq!(scheduler.round(&stopped).await.unwrap(), Round { done: 3, bad: 0, taken: 0 });
    place.clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(scheduler.round(&stopped).await.unwrap(), Round::default());
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(scheduler.round(&stopped).await.unwrap().done, 3);
    place.clock.advance(10 * HOUR);
    assert_eq!(scheduler.round(&stopped).await.unwrap().done, 3);
    assert_eq!(scheduler.round(&stopped).await.unwrap(), Round::default());
    assert_eq!(whole.seen.lock().unwrap()[0].0, "", "the deployment has no scope");
}

#[tokio::test]
async fn an_unchanged_scope_is_left_out() {
    let place = place(&["a", "b"]).await;
    let job = Arc::new(Counting::new(&OF_CHANGED));
    let scheduler = scheduler(&place, &[&job]);
    let (_stop, stopped) = watch::channel(false);
    assert_eq!(scheduler.round(&stopped).await.unwrap().done, 2);
    place.clock.advance(2 * HOUR);
    write(&place.store, "b").await;
    place.clock.advance(HOUR);
    assert_eq!(scheduler.round(&stopped).await.unwrap().done, 1);
    assert_eq!(job.seen.lock().unwrap().last().unwrap().0, scope("b").as_str());
}

#[tokio::test]
async fn two_schedulers_run_a_job_once() {
    let place = place(&["a", "b", "c"]).await;
    let (one, two) = (Arc::new(Counting::new(&COUNTS)), Arc::new(Counting::new(&COUNTS)));
    let (first, second) = (scheduler(&place, &[&one]), scheduler(&place, &[&two]));
    let (_stop, stopped) = watch::channel(false);
    let (a, b) = tokio::join!(first.round(&stopped), second.round(&stopped));
    assert_eq!(a.unwrap().done + b.unwrap().done, 3);
    assert_eq!(one.steps().len() + two.steps().len(), 9);
}

#[tokio::test]
async fn a_scheduler_that_is_stopped_begins_nothing_more() {
    let place = place(&["a"]).await;
    let job = Arc::new(Counting::new(&COUNTS));
    let (_stop, stopped) = watch::channel(true);
    assert_eq!(scheduler(&place, &[&job]).round(&stopped).await.unwrap(), Round::default());
}

#[test]
fn jobs_are_listed_once_and_in_order() {
    let names: Vec<&str> = ALL.iter().map(|info| info.name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted);
    assert!(ALL.iter().all(|info| info.schedule.is_none_or(|schedule| schedule.every >= Duration::from_secs(60))));
    assert!(Target::from_stored("").unwrap() == Target::Deployment && Timestamp(0) < FakeClock::new().now());
}

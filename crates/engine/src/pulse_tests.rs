use std::{sync::Arc, time::Duration};

use aionis_core::{
    error::DomainError,
    jobs::{JobInfo, Over, Schedule},
    ports::{
        embed::{EmbedErrorKind, Embedder},
        store::{Store, WriteStore},
    },
};
use aionis_store::sqlite::{EmbeddingSpace, SqliteOptions, SqliteStore};
use aionis_testkit::fixtures::{FakeClock, Reply, ScriptedEmbedder, WriteBuilder, scope};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::*;
use crate::{
    jobs::{Job, Report, Runner, STEP_MAX, Scheduler, SchedulerSettings, Step, Stepped},
    worker::{Worker, WorkerSettings},
};

fn is_overdue(pulse: &Pulse, clock: &FakeClock) -> bool {
    pulse.last().due_by < clock.now()
}

#[test]
fn a_loop_is_due_until_it_is_seen_again() {
    let clock = FakeClock::new();
    let pulse = Pulse::new(clock.clone());
    clock.advance(FIRST);
    assert!(!is_overdue(&pulse, &clock));
    clock.advance(Duration::from_secs(1));
    assert!(is_overdue(&pulse, &clock), "a loop that never started is found");
    pulse.within(Duration::from_secs(5));
    assert!(!is_overdue(&pulse, &clock));
    assert_eq!(pulse.last().seen_at, clock.now());
    pulse.trouble("the store is away");
    assert_eq!(pulse.last().trouble.as_deref(), Some("the store is away"));
    pulse.well();
    assert_eq!(pulse.last().trouble, None);
}

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<FakeClock>,
}

async fn place(embedder: &ScriptedEmbedder) -> Place {
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let mut options = SqliteOptions::new(dir.path());
    options.space = Some(EmbeddingSpace { name: embedder.name().to_owned(), dim: embedder.dim() });
    let store = Arc::new(SqliteStore::open(&options, clock.clone()).unwrap());
    store
        .write(WriteBuilder::new(&scope("a")).deriving().input("x").node("n", "The ferry leaves at noon.").prepared())
        .await
        .unwrap();
    Place { _dir: dir, store, clock }
}

fn settings() -> WorkerSettings {
    WorkerSettings {
        poll_interval: Duration::from_millis(5),
        lease: Duration::from_millis(30),
        step_max: Duration::from_secs(60),
        ..WorkerSettings::default()
    }
}

/// The lease of the work is extended all the time a call hangs; that is no sign of life.
#[tokio::test]
async fn ops_25_a_worker_whose_provider_hangs_is_overdue_although_its_lease_is_kept() {
    let embedder = Arc::new(ScriptedEmbedder::new(8));
    let (stalled, release) = Reply::stalled();
    embedder.then(stalled);
    let place = place(&embedder).await;
    let worker = Worker::new(place.store.clone(), embedder.clone(), place.clock.clone(), settings());
    let pulse = worker.pulse();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { worker.run(stopped).await });
    embedder.called(1).await;
    assert!(!is_overdue(&pulse, &place.clock), "a call may take a while");
    let hung = pulse.last();
    place.clock.advance(Duration::from_secs(61));
    // Real time, for heartbeats of the lease: there were some, and the pulse did not move.
    tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(pulse.last(), hung);
    assert!(is_overdue(&pulse, &place.clock));

    release.notify_one();
    while is_overdue(&pulse, &place.clock) {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
}

#[tokio::test]
async fn a_worker_that_rests_after_a_failure_is_not_overdue() {
    let embedder = Arc::new(ScriptedEmbedder::new(8));
    embedder.then(Reply::fail(EmbedErrorKind::RateLimited));
    let place = place(&embedder).await;
    let worker = Worker::new(place.store.clone(), embedder.clone(), place.clock.clone(), settings());
    let pulse = worker.pulse();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { worker.run(stopped).await });
    embedder.called(1).await;
    // The provider asked for 30 s, which come on top of what a step may take.
    let rests_until = later(place.clock.now(), Duration::from_secs(90));
    while pulse.last().due_by < rests_until {
        tokio::task::yield_now().await;
    }
    assert_eq!(pulse.last().trouble, None, "the store could be used");
    stop.send_replace(true);
    running.await.unwrap();
}

static HANGS: JobInfo = JobInfo {
    name: "hangs",
    about: "Never ends",
    changes: false,
    over: Over::Deployment,
    schedule: Some(Schedule { every: Duration::from_secs(3_600), only_changed: false }),
};

/// A job whose step tells that it began, and does not end.
struct Hanging(Arc<Notify>);

#[async_trait]
impl Job for Hanging {
    fn info(&self) -> &'static JobInfo {
        &HANGS
    }

    fn params(&self) -> Value {
        json!({})
    }

    async fn step(&self, _: &Step<'_>) -> Result<Stepped, DomainError> {
        self.0.notify_one();
        std::future::pending::<()>().await;
        Ok(Stepped { report: Report::default(), next: None })
    }
}

#[tokio::test]
async fn a_scheduler_whose_job_hangs_is_overdue() {
    let place = place(&ScriptedEmbedder::new(8)).await;
    let begun = Arc::new(Notify::new());
    let runner = Runner::new(Arc::clone(&place.store) as Arc<dyn Store>, place.clock.clone());
    let settings = SchedulerSettings {
        holder: "s".to_owned(),
        poll_interval: Duration::from_millis(10),
        scopes_max: 10,
        lease: Duration::from_secs(30),
    };
    let scheduler = Scheduler::new(runner, vec![Arc::new(Hanging(Arc::clone(&begun)))], settings);
    let pulse = scheduler.pulse();
    let (_stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { scheduler.run(stopped).await });
    begun.notified().await;
    assert!(!is_overdue(&pulse, &place.clock));
    place.clock.advance(STEP_MAX + Duration::from_secs(1));
    assert!(is_overdue(&pulse, &place.clock));
    running.abort();
}

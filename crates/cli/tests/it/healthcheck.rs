//! `aionis healthcheck`, and that it can fail: the service away, its store away, a worker that stands still or is gone.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aionis_testkit::postgres::PrivateServer;

use crate::support::{
    place::Place,
    program::{Ended, aionis, aionis_on, fake, run},
    server::Server,
    until,
};

/// Longer than a heartbeat may be old.
const LIMIT: Duration = Duration::from_secs(40);

fn check(place: &Path, args: &[&str]) -> Ended {
    run(aionis(place).arg("healthcheck").args(args))
}

fn check_worker(place: &Path) -> Ended {
    check(place, &["--worker", "--heartbeat-file", "heartbeat"])
}

/// Waits until the check of the worker ends so; what it said.
fn becomes(place: &Path, code: i32) -> Ended {
    until(&format!("the worker's check exits {code}"), LIMIT, || {
        let ended = check_worker(place);
        (ended.code == Some(code)).then_some(ended)
    })
}

/// A worker that is killed when the test ends.
struct Worker(Child);

impl Worker {
    fn start(place: &Path, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = aionis(place);
        fake(&mut command).args(["worker", "--data-dir", "data", "--heartbeat-file", "heartbeat"]);
        configure(&mut command);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").arg(name).arg(self.0.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_service_is_healthy_as_long_as_it_can_do_its_work() {
    let mut database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("DATABASE_URL", &url).env("DB_POOL_CONNECTION_TIMEOUT_MS", "500");
    });
    let address = format!("http://127.0.0.1:{}", server.port);
    let ended = check(place.path(), &["--url", &address]).exits(0);
    assert_eq!(ended.stdout.trim(), "/health/ready answers 200 OK");
    let by_port = run(aionis(place.path()).arg("healthcheck").env("PORT", server.port.to_string()));
    by_port.exits(0);

    database.kill();
    let ended = until("the service is not ready", LIMIT, || {
        let ended = check(place.path(), &["--url", &address]);
        (ended.code == Some(1)).then_some(ended)
    });
    assert!(ended.one_line().contains("/health/ready was answered 503"), "{ended:?}");
    check(place.path(), &["--url", &address, "--live"]).exits(0);

    server.kill();
    let ended = check(place.path(), &["--url", &address, "--live"]).exits(1);
    assert!(ended.one_line().contains("cannot be reached"), "{ended:?}");
}

#[test]
fn ops_25_a_worker_that_stands_still_or_is_gone_is_unhealthy() {
    let place = Place::new();
    let ended = check_worker(place.path()).exits(1);
    assert!(ended.one_line().contains("no worker has written heartbeat"), "{ended:?}");
    let worker = Worker::start(place.path(), |_| {});
    let ended = becomes(place.path(), 0);
    assert_eq!(ended.stdout.trim(), "at work: outbox, scheduler");

    worker.signal("-STOP");
    let ended = becomes(place.path(), 1);
    assert!(ended.one_line().contains("stands still or is gone"), "{ended:?}");
    worker.signal("-CONT");
    becomes(place.path(), 0);

    worker.signal("-KILL");
    let ended = becomes(place.path(), 1);
    assert!(ended.one_line().contains("stands still or is gone"), "{ended:?}");
}

#[test]
fn ops_25_a_worker_without_its_database_is_unhealthy_until_it_has_it_again() {
    let mut database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let _worker = Worker::start(place.path(), |command| {
        command.env("DATABASE_URL", &url).env("DB_POOL_CONNECTION_TIMEOUT_MS", "500");
        command.env("AIONIS_JOBS_POLL_INTERVAL_MS", "500");
    });
    becomes(place.path(), 0);
    database.kill();
    let ended = becomes(place.path(), 1);
    // Whichever loop noticed first says it in its own words.
    assert!(ended.one_line().contains("cannot work: storage"), "{ended:?}");
    database.restart();
    becomes(place.path(), 0);
}

#[test]
fn what_cannot_be_checked_is_told() {
    let place = Place::new();
    let ended = check(place.path(), &["--worker"]).exits(1);
    assert!(ended.one_line().contains("AIONIS_HEARTBEAT_FILE is not set"), "{ended:?}");
    std::fs::write(place.path().join("heartbeat"), "{}").unwrap();
    let ended = check_worker(place.path()).exits(1);
    assert!(ended.one_line().contains("is no heartbeat"), "{ended:?}");
    let mut command = aionis_on(&place.data(), &["worker", "--heartbeat-file", "nowhere/heartbeat"]);
    let ended = run(fake(&mut command)).exits(1);
    assert!(ended.stderr.contains("AIONIS_HEARTBEAT_FILE nowhere/heartbeat cannot be written"), "{ended:?}");
}

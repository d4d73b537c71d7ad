//! The service as a child process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    http::{Answer, Connection},
    program::{aionis, ends, fake},
    until,
};

const START_MAX: Duration = Duration::from_secs(30);

/// A running service; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    /// From the start of the process to the first healthy answer.
    pub(crate) started_in: Duration,
    log: PathBuf,
}

impl Server {
    /// The service with deterministic vectors and a worker.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, |command| {
            fake(command);
        })
    }

    /// The same, running periodic jobs by itself.
    pub(crate) fn start_with_jobs(data: &Path) -> Self {
        Self::start_with(data, |command| {
            fake(command).env("AIONIS_JOBS_ENABLED", "true");
        })
    }

    /// The service with deterministic vectors but nobody who derives them.
    pub(crate) fn start_without_worker(data: &Path) -> Self {
        Self::start_with(data, |command| {
            fake(command).arg("--no-worker");
        })
    }

    pub(crate) fn start_with(data: &Path, configure: impl FnOnce(&mut Command)) -> Self {
        let place = data.parent().unwrap();
        let (port_file, log) = (place.join("port"), place.join("log"));
        let _ = std::fs::remove_file(&port_file);
        let mut command = aionis(place);
        command.args(["serve", "--host", "127.0.0.1", "--port", "0"]);
        command.arg("--port-file").arg(&port_file).arg("--data-dir").arg(data);
        // Jobs write by themselves when they are due: a test whose server is to do that switches them on.
        command.env("RUST_LOG", "warn").env("AIONIS_JOBS_ENABLED", "false");
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        configure(&mut command);
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let mut server = Self { child, port: 0, started_in: Duration::ZERO, log };
        server.port = until("the service answers", START_MAX, || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the service ended: {status}\n{}", std::fs::read_to_string(&server.log).unwrap_or_default());
            }
            let port = std::fs::read_to_string(&port_file).ok()?.trim().parse().ok()?;
            let answer = Connection::open(port).ok()?.get("/health/live").ok()?;
            (answer.status == 200).then_some(port)
        });
        server.started_in = started.elapsed();
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.port).unwrap()
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn tell_to_stop(&self) {
        let sent = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of a service that was told to stop.
    pub(crate) fn ended(mut self, limit: Duration) -> ExitStatus {
        ends(&mut self.child, limit)
    }

    /// Stops the service in order.
    pub(crate) fn stop(self) {
        self.tell_to_stop();
        let status = self.ended(Duration::from_secs(20));
        assert!(status.success(), "{status}");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Posts on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.connect().post(path, body).unwrap()
    }

    #[track_caller]
    pub(crate) fn write(&self, body: &Value) -> Value {
        self.post("/v1/memory/write", body).ok()
    }

    #[track_caller]
    pub(crate) fn recall_text(&self, scope: &str, question: &str, limit: u32) -> Value {
        let body = json!({ "scope": scope, "query_text": question, "limit": limit });
        self.post("/v1/memory/recall_text", &body).ok()
    }

    /// Waits until no vector of a scope is missing.
    pub(crate) fn vectors_are_ready(&self, scope: &str, limit: Duration) {
        until("all vectors are derived", limit, || {
            (self.recall_text(scope, "ready", 1)["pending"]["nodes"] == 0).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("log of the service:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Ids of the seeds of an answer, best first.
pub(crate) fn seed_ids(answer: &Value) -> Vec<&str> {
    answer["seeds"].as_array().unwrap().iter().map(|seed| seed["id"].as_str().unwrap()).collect()
}

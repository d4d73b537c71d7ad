//! The service and its PostgreSQL with a bad network between them: connections that are cut, stalled, slow or refused.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aionis_testkit::{postgres::PrivateServer, proxy::ChaosProxy};
use serde_json::{Value, json};

use crate::support::{
    http::{Answer, Connection},
    place::Place,
    program::{aionis, fake, run},
    server::{Server, seed_ids},
    until,
};

const SCOPE: &str = "harbour";
const WRITE: &str = "/v1/memory/write";
const RECALL: &str = "/v1/memory/recall_text";
const LIVE: &str = "/health/live";
const READY: &str = "/health/ready";

/// Longest time something may take that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that reaches its database only through a proxy. Declared so that the service goes first.
struct Chaos {
    server: Server,
    proxy: ChaosProxy,
    database: PrivateServer,
    place: Place,
}

impl Chaos {
    fn start(settings: &[(&str, &str)]) -> Self {
        let database = PrivateServer::start(false);
        let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, database.port()));
        let proxy = ChaosProxy::start(behind);
        let place = Place::new();
        let url = database.url("postgres").replace(&behind.to_string(), &proxy.address().to_string());
        let server = Server::start_with(&place.data(), |command| {
            fake(command).env("DATABASE_URL", &url).env("OUTBOX_CLAIM_TIMEOUT_MS", "500");
            command.envs(settings.iter().copied());
        });
        assert!(proxy.connections() > 0, "the service does not use the proxy: {url}");
        Self { server, proxy, database, place }
    }

    /// Verifies what is stored, past the proxy; returns the commits of the only scope.
    fn verified_commits(&self) -> u64 {
        let mut verify = aionis(self.place.path());
        verify.args(["verify", "--json"]).env("DATABASE_URL", self.database.url("postgres"));
        let report = run(&mut verify).exits(0).json();
        assert_eq!(report["scopes"].as_array().unwrap().len(), 1, "{report}");
        report["scopes"][0]["commits"].as_u64().unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        self.server.connect().get(path).unwrap()
    }
}

fn note(number: usize) -> Value {
    json!({
        "scope": SCOPE, "memory_lane": "shared", "input_text": format!("note {number}"),
        "nodes": [{ "client_id": format!("note-{number}"), "type": "event",
                    "text_summary": format!("Ferry number {number} leaves at noon.") }],
    })
}

fn question() -> Value {
    json!({ "scope": SCOPE, "query_text": "When does the ferry leave?", "limit": 5 })
}

/// A request: its path, and the body of a POST.
type Request = (&'static str, Option<Value>);

/// Sends requests at once, each on a connection of its own; returns the answers with the time they took.
fn at_once(port: u16, requests: &[Request]) -> Vec<(Answer, Duration)> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = requests
            .iter()
            .map(|(path, body)| {
                scope.spawn(move || {
                    let started = Instant::now();
                    let mut connection = Connection::open(port).unwrap();
                    let answer = match body {
                        Some(body) => connection.post(path, body),
                        None => connection.get(path),
                    };
                    let took = started.elapsed();
                    (answer.unwrap_or_else(|e| panic!("{path} is not answered, {took:?}: {e}")), took)
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

/// A write that was answered with 200.
struct Acknowledged {
    key: String,
    body: Value,
    seq: u64,
    hash: String,
}

/// Sends a write under a key, by which it can be sent again without being stored again.
fn write_under(connection: &mut Connection, key: &str, body: &Value) -> io::Result<Answer> {
    let body = body.to_string();
    let head = format!(
        "POST {WRITE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    connection.send(format!("{head}{body}").as_bytes())?;
    connection.answer()
}

/// Writes until it is told to stop. A write that is refused or not answered is sent again until it is acknowledged, so
/// that in the end each one is.
fn write_on(port: u16, writer: usize, stop: &AtomicBool, acknowledged: &AtomicU64) -> Vec<Acknowledged> {
    let mut written = Vec::new();
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let number = written.len();
        let key = format!("write-{writer}-{number}");
        let text = format!("writer {writer} notes number {number}");
        let body = json!({
            "scope": SCOPE, "actor": format!("writer-{writer}"), "input_text": text, "memory_lane": "shared",
            "nodes": [{ "client_id": format!("note-{writer}-{number}"), "type": "event", "text_summary": text }],
        });
        let answer = until("the write is acknowledged", PATIENCE, || {
            let mut open = connection.take().or_else(|| Connection::open(port).ok())?;
            let answer = write_under(&mut open, &key, &body).ok()?;
            connection = Some(open);
            assert!(matches!(answer.status, 200 | 429 | 503), "{answer:?}");
            (answer.status == 200).then_some(answer.body)
        });
        let seq = answer["commit_seq"].as_u64().unwrap();
        let hash = answer["commit_hash"].as_str().unwrap().to_owned();
        written.push(Acknowledged { key, body, seq, hash });
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    written
}

/// Tells the writers to stop when it is dropped: also when a test fails, which would wait for them for ever.
struct Writing<'a>(&'a AtomicBool);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn writes_over_connections_that_are_cut_are_stored_exactly_once() {
    const WRITERS: usize = 64;
    const CUTS: usize = 6;
    let chaos = Chaos::start(&[("DB_POOL_CONNECTION_TIMEOUT_MS", "1000")]);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let port = chaos.server.port;
    let written: Vec<Acknowledged> = std::thread::scope(|scope| {
        let writing = Writing(&stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (stop, acknowledged) = (&stop, &acknowledged);
                scope.spawn(move || write_on(port, writer, stop, acknowledged))
            })
            .collect();
        let more = |count: u64| {
            let from = acknowledged.load(Ordering::Relaxed);
            until("more writes are acknowledged", PATIENCE, || {
                (acknowledged.load(Ordering::Relaxed) >= from + count || writers.iter().any(|w| w.is_finished()))
                    .then_some(())
            });
        };
        more(200);
        for _ in 0..CUTS {
            let before = chaos.proxy.connections();
            chaos.proxy.cut();
            more(200);
            assert!(chaos.proxy.connections() > before, "no connection was cut");
        }
        drop(writing);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    println!("{} acknowledged writes, {CUTS} cuts", written.len());
    assert_eq!(chaos.verified_commits(), written.len() as u64, "one commit for each acknowledged write");
    let seqs: HashSet<u64> = written.iter().map(|write| write.seq).collect();
    assert_eq!(seqs.len(), written.len(), "two writes were given one commit");
    let mut connection = chaos.server.connect();
    for write in &written {
        let again = write_under(&mut connection, &write.key, &write.body).unwrap().ok();
        let same = json!([write.seq, write.hash, true]);
        assert_eq!(json!([again["commit_seq"], again["commit_hash"], again["replayed"]]), same, "{}", write.body);
    }
    chaos.server.vectors_are_ready(SCOPE, PATIENCE);
    assert_eq!(chaos.verified_commits(), written.len() as u64, "what was sent again made no commits");
    chaos.server.stop();
}

/// Writes and recalls while nothing comes from the database, and after it is back. Everything asked has to be answered
/// with 503 within `limit`.
fn stall(settings: &[(&str, &str)], also: &[&'static str], limit: Duration) {
    const WRITES: usize = 3;
    let chaos = Chaos::start(settings);
    chaos.server.write(&note(0));
    // Leaves idle connections behind, which a stall takes as well.
    assert_eq!(seed_ids(&chaos.server.recall_text(SCOPE, "ferry", 5)).len(), 1);
    chaos.proxy.stall();
    let mut requests: Vec<Request> = (1..=WRITES).map(|number| (WRITE, Some(note(number)))).collect();
    requests.extend([(RECALL, Some(question())), (RECALL, Some(question()))]);
    requests.extend(also.iter().map(|path| (*path, None)));
    requests.push((LIVE, None));
    for round in 1..=2 {
        let mut answers = at_once(chaos.server.port, &requests);
        let (live, took) = answers.pop().unwrap();
        assert!(live.status == 200 && took < limit, "round {round}, {took:?}: {live:?}");
        for ((path, _), (answer, took)) in requests.iter().zip(&answers) {
            assert_eq!(answer.status, 503, "round {round}, {path} after {took:?}: {answer:?}");
            assert!(*took < limit, "round {round}, {path} took {took:?}: {answer:?}");
        }
    }
    chaos.proxy.resume();
    for number in 1..=WRITES {
        until("the service recovers", PATIENCE, || {
            (chaos.server.post(WRITE, &note(number)).status == 200).then_some(())
        });
    }
    let answer = chaos.server.recall_text(SCOPE, "When does the ferry leave?", 10);
    assert_eq!((&answer["as_of_commit"], seed_ids(&answer).len()), (&json!(1 + WRITES), 1 + WRITES), "{answer}");
    assert_eq!(chaos.get(READY).status, 200);
    chaos.server.vectors_are_ready(SCOPE, PATIENCE);
    assert_eq!(chaos.verified_commits(), 1 + WRITES as u64, "a write that was refused and sent again is one commit");
    chaos.server.stop();
}

#[test]
fn requests_to_a_stalled_database_end_in_the_time_of_a_request() {
    let settings = [("API_REQUEST_TIMEOUT_MS", "2000"), ("DB_POOL_CONNECTION_TIMEOUT_MS", "500")];
    stall(&settings, &[], Duration::from_secs(6));
}

/// The time of a request is left at its default, which is far longer than what the database is given here. Health
/// has no such time at all.
#[test]
fn requests_to_a_stalled_database_end_in_the_time_of_its_statements() {
    let settings = [("AIONIS_DB_STATEMENT_TIMEOUT_MS", "500"), ("DB_POOL_CONNECTION_TIMEOUT_MS", "500")];
    stall(&settings, &[READY], Duration::from_secs(10));
}

#[test]
fn a_stop_does_not_wait_for_a_stalled_database() {
    let chaos = Chaos::start(&[
        ("API_REQUEST_TIMEOUT_MS", "1000"),
        ("AIONIS_DB_STATEMENT_TIMEOUT_MS", "500"),
        ("DB_POOL_CONNECTION_TIMEOUT_MS", "500"),
        ("AIONIS_JOBS_ENABLED", "true"),
    ]);
    chaos.server.write(&note(0));
    chaos.server.recall_text(SCOPE, "ferry", 5);
    chaos.proxy.stall();
    for (answer, took) in at_once(chaos.server.port, &[(WRITE, Some(note(1))), (RECALL, Some(question()))]) {
        assert_eq!(answer.status, 503, "after {took:?}: {answer:?}");
    }
    chaos.server.tell_to_stop();
    let status = chaos.server.ended(Duration::from_secs(20));
    assert!(status.success(), "{status}");
}

#[test]
fn a_slow_network_makes_requests_slow_and_nothing_else() {
    const WRITES: usize = 8;
    const DELAY: Duration = Duration::from_millis(20);
    let chaos = Chaos::start(&[]);
    chaos.proxy.slow(DELAY);
    let started = Instant::now();
    chaos.server.write(&note(0));
    assert!(started.elapsed() >= 2 * DELAY, "a write goes to the database and back: {:?}", started.elapsed());
    let mut requests: Vec<Request> = (1..=WRITES).map(|number| (WRITE, Some(note(number)))).collect();
    requests.extend((0..WRITES).map(|_| (RECALL, Some(question()))));
    requests.extend([(READY, None), ("/metrics", None), (LIVE, None)]);
    for ((path, _), (answer, took)) in requests.iter().zip(at_once(chaos.server.port, &requests)) {
        assert_eq!(answer.status, 200, "{path} after {took:?}: {answer:?}");
    }
    chaos.server.vectors_are_ready(SCOPE, PATIENCE);
    let answer = chaos.server.recall_text(SCOPE, "ferry", 20);
    assert_eq!((&answer["as_of_commit"], seed_ids(&answer).len()), (&json!(1 + WRITES), 1 + WRITES), "{answer}");
    chaos.proxy.resume();
    assert_eq!(chaos.verified_commits(), 1 + WRITES as u64);
    chaos.server.stop();
}

#[test]
fn a_database_that_refuses_connections_makes_the_service_unready_until_it_takes_them() {
    let chaos = Chaos::start(&[("DB_POOL_CONNECTION_TIMEOUT_MS", "1000")]);
    assert_eq!(chaos.get(READY).status, 200);
    chaos.proxy.refuse();
    // As long as there are connections, no new one is asked for.
    chaos.proxy.cut();
    // For a moment it is said what was so just now.
    let ready =
        until("the service is unready", PATIENCE, || Some(chaos.get(READY)).filter(|ready| ready.status != 200));
    assert_eq!((ready.status, &ready.body["store"]), (503, &json!("unavailable")), "{ready:?}");
    let refused = chaos.server.post(WRITE, &note(0));
    assert_eq!((refused.status, &refused.body["error"]), (503, &json!("storage_unavailable")), "{refused:?}");
    assert_eq!(chaos.get(LIVE).status, 200);
    chaos.proxy.resume();
    until("the service is ready again", PATIENCE, || (chaos.get(READY).status == 200).then_some(()));
    assert_eq!(chaos.server.write(&note(0))["commit_seq"], 1, "nothing of the refused write was stored");
    chaos.server.vectors_are_ready(SCOPE, PATIENCE);
    chaos.server.stop();
}

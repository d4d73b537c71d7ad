//! The program on PostgreSQL: several API processes over one database, and a database server that is killed under load.

use std::{
    collections::HashSet,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use aionis_testkit::postgres::PrivateServer;
use serde_json::{Value, json};

use crate::support::{
    http::Connection,
    place::Place,
    program::{aionis, fake, run},
    server::{Server, seed_ids},
    until,
};

const PROCESSES: usize = 4;
const WRITERS: usize = 64;

fn on(command: &mut Command, url: &str) {
    fake(command)
        .env("DATABASE_URL", url)
        .env("DB_POOL_CONNECTION_TIMEOUT_MS", "1000")
        .env("OUTBOX_CLAIM_TIMEOUT_MS", "500");
}

fn start(place: &Place, url: &str) -> Server {
    Server::start_with(&place.data(), |command| on(command, url))
}

/// A write that was answered with 200.
struct Acknowledged {
    body: Value,
    seq: u64,
    hash: String,
}

/// Writes until it is told to stop, through whatever happens; a write without answer is sent again until it has one.
fn write_on(ports: &[u16], writer: usize, stop: &AtomicBool, acknowledged: &AtomicU64) -> Vec<Acknowledged> {
    let mut written = Vec::new();
    let mut connection = None;
    let (mut number, mut tries) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let text = format!("writer {writer} notes number {number}");
        let body = json!({
            "scope": "fleet", "actor": format!("writer-{writer}"), "input_text": text, "memory_lane": "shared",
            "nodes": [{ "client_id": format!("note-{writer}-{number}"), "type": "event", "text_summary": text }],
        });
        // Another process every time the connection is lost.
        let port = ports[(writer + tries) % ports.len()];
        let open = connection.take().or_else(|| Connection::open(port).ok());
        let Some(mut open) = open else {
            tries += 1;
            std::thread::yield_now();
            continue;
        };
        match open.post("/v1/memory/write", &body) {
            Ok(answer) if answer.status == 200 => {
                let seq = answer.body["commit_seq"].as_u64().unwrap();
                let hash = answer.body["commit_hash"].as_str().unwrap().to_owned();
                written.push(Acknowledged { body, seq, hash });
                acknowledged.fetch_add(1, Ordering::Relaxed);
                number += 1;
                connection = Some(open);
            }
            Ok(answer) => {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                connection = Some(open);
            }
            Err(_) => tries += 1,
        }
    }
    written
}

#[test]
fn acknowledged_writes_survive_a_database_server_and_an_api_process_that_are_killed() {
    let mut database = PrivateServer::start(false);
    let url = database.url("postgres");
    let places: Vec<Place> = (0..PROCESSES).map(|_| Place::new()).collect();
    let mut servers: Vec<Server> = places.iter().map(|place| start(place, &url)).collect();
    let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Vec<Acknowledged> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (ports, stop, acknowledged) = (&ports, &stop, &acknowledged);
                scope.spawn(move || write_on(ports, writer, stop, acknowledged))
            })
            .collect();
        let more = |count: u64| {
            let from = acknowledged.load(Ordering::Relaxed);
            until("more writes are acknowledged", Duration::from_secs(60), || {
                (acknowledged.load(Ordering::Relaxed) >= from + count || writers.iter().any(|w| w.is_finished()))
                    .then_some(())
            });
        };
        for _ in 0..2 {
            more(400);
            database.kill();
            database.restart();
        }
        more(400);
        servers.pop().unwrap().kill();
        more(400);
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    println!("{} acknowledged writes over {PROCESSES} processes", written.len());
    let mut verify = aionis(places[0].path());
    on(verify.args(["verify", "--json"]), &url);
    let report = run(&mut verify).exits(0).json();
    let commits = report["scopes"][0]["commits"].as_u64().unwrap();
    assert!(commits >= written.len() as u64, "{commits} commits for {} acknowledged writes", written.len());
    let seqs: HashSet<u64> = written.iter().map(|write| write.seq).collect();
    assert_eq!(seqs.len(), written.len(), "two writes were given one commit");
    let mut connection = servers[0].connect();
    for write in &written {
        let again = connection.post("/v1/memory/write", &write.body).unwrap().ok();
        let same = json!([write.seq, write.hash, true]);
        assert_eq!(json!([again["commit_seq"], again["commit_hash"], again["replayed"]]), same, "{}", write.body);
    }
    // What a killed process had claimed is taken over; in the end every vector is there, and only once.
    servers[0].vectors_are_ready("fleet", Duration::from_secs(60));
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn w_10_a_database_that_is_away_is_told_and_nothing_has_to_be_restarted() {
    let mut database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let server = start(&place, &url);
    let write = json!({
        "scope": "s", "memory_lane": "shared", "input_text": "x",
        "nodes": [{ "client_id": "n", "type": "event", "text_summary": "The ferry leaves at noon." }],
    });
    database.kill();
    for (path, body) in [
        ("/v1/memory/write", write.clone()),
        ("/v1/memory/recall_text", json!({ "scope": "s", "query_text": "ferry" })),
    ] {
        let answer = server.post(path, &body);
        assert_eq!((answer.status, &answer.body["error"]), (503, &json!("storage_unavailable")), "{path}: {answer:?}");
    }
    assert_eq!(server.connect().get("/health/live").unwrap().status, 200);
    let ready = server.connect().get("/health/ready").unwrap();
    assert_eq!((ready.status, &ready.body["store"]), (503, &json!("unavailable")));
    database.restart();
    until("the service recovers", Duration::from_secs(30), || {
        (server.post("/v1/memory/write", &write).status == 200).then_some(())
    });
    assert_eq!(server.recall_text("s", "When does the ferry leave?", 5)["as_of_commit"], 1);
    server.stop();
}

/// Connections that the database ends while nobody uses them end no process and fail no request.
#[test]
fn w_10_connections_the_database_ends_are_replaced() {
    let database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let mut server = start(&place, &url);
    for round in 0..3 {
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aionis' AND backend_type = \
             'client backend'",
        );
        let text = format!("The ferry leaves at {round}.");
        server.write(&json!({
            "scope": "s", "memory_lane": "shared", "input_text": text,
            "nodes": [{ "client_id": format!("n{round}"), "type": "event", "text_summary": text }],
        }));
        assert_eq!(server.recall_text("s", "When does the ferry leave?", 5)["as_of_commit"], round + 1);
    }
    assert!(server.is_alive());
    server.stop();
}

#[test]
fn the_main_path_works_on_postgres_and_over_a_restart() {
    let database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let server = start(&place, &url);
    let written = server.write(&json!({
        "scope": "s", "memory_lane": "shared", "input_text": "seating",
        "nodes": [{ "client_id": "n", "type": "event", "text_summary": "The guest at table four cannot eat peanuts." }],
    }));
    let id = written["nodes"][0]["id"].as_str().unwrap();
    assert_eq!(seed_ids(&server.recall_text("s", "peanuts", 5)), [id], "found at once by its words");
    server.vectors_are_ready("s", Duration::from_secs(20));
    server.stop();
    let server = start(&place, &url);
    let answer = server.recall_text("s", "Who cannot eat peanuts?", 5);
    assert_eq!((seed_ids(&answer), &answer["as_of_commit"]), (vec![id], &json!(1)));
    server.stop();
    let mut migrate = aionis(place.path());
    on(migrate.args(["migrate", "--json"]), &url);
    assert_eq!(run(&mut migrate).exits(0).json()["applied_now"], json!([]));
}

/// Flipping one byte behind the program's back is found, and named.
#[test]
fn a_flipped_byte_in_postgres_is_found() {
    let database = PrivateServer::start(false);
    let (place, url) = (Place::new(), database.url("postgres"));
    let server = start(&place, &url);
    server.write(&json!({
        "scope": "vault", "memory_lane": "shared", "input_text": "x",
        "nodes": [{ "client_id": "a", "type": "event", "text_summary": "A quiet evening." },
                  { "client_id": "b", "type": "event", "text_summary": "A loud evening." }],
        "edges": [{ "type": "related_to", "src": { "client_id": "a" }, "dst": { "client_id": "b" }, "weight": 0.75 }],
    }));
    server.stop();
    let verify = |code: i32| {
        let mut verify = aionis(place.path());
        on(verify.args(["verify", "--json"]), &url);
        run(&mut verify).exits(code).json()["scopes"][0]["first_break"].clone()
    };
    assert_eq!(verify(0), Value::Null);
    for (damage, repair, object) in [
        ("UPDATE memory_nodes SET title = 'x' WHERE client_id = 'a'", "UPDATE memory_nodes SET title = NULL", "node"),
        ("UPDATE memory_edges SET weight = 0.7500001", "UPDATE memory_edges SET weight = 0.75", "edge"),
        ("UPDATE memory_commits SET actor = 'else'", "UPDATE memory_commits SET actor = 'system'", "commit"),
        ("UPDATE memory_scopes SET node_count = 3", "UPDATE memory_scopes SET node_count = 2", "head"),
    ] {
        database.execute(damage);
        assert_eq!(verify(2)["object"], object, "{damage}");
        database.execute(repair);
        assert_eq!(verify(0), Value::Null, "{repair}");
    }
}

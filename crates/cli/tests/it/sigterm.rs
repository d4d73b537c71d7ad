//! SIGTERM: what has started is finished, then the process ends.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    http::Connection,
    load::{assert_stored, write_until_broken},
    place::Place,
    program::{aionis_on, run},
    server::{Server, seed_ids},
    until,
};

/// Longest time from the signal to the end.
const STOP_MAX: Duration = Duration::from_secs(10);

fn note(number: usize) -> Value {
    json!({
        "scope": "halfway", "input_text": format!("note {number}"),
        "nodes": [{ "client_id": format!("halfway-{number}"), "type": "event", "memory_lane": "shared",
                    "text_summary": format!("lighthouse keeper number {number} rows home") }],
    })
}

#[test]
fn requests_that_have_started_are_answered() {
    let place = Place::new();
    let server = Server::start(&place.data());
    let mut idle = server.connect();
    idle.get("/health").unwrap().ok();
    let mut started: Vec<(Connection, String)> = (0..20)
        .map(|number| {
            let body = note(number).to_string();
            let mut connection = server.connect();
            connection.start_post("/v1/memory/write", body.len()).unwrap();
            connection.send(&body.as_bytes()[..body.len() / 2]).unwrap();
            (connection, body)
        })
        .collect();
    server.tell_to_stop();
    let told = Instant::now();
    until("no new connection is taken", STOP_MAX, || Connection::open(server.port).is_err().then_some(()));
    let mut acknowledged = Vec::new();
    for (connection, body) in &mut started {
        connection.send(&body.as_bytes()[body.len() / 2..]).unwrap();
        let answer = connection.answer().unwrap();
        assert!(answer.closes, "the connection is not kept: {answer:?}");
        acknowledged.push(answer.ok());
    }
    let status = server.ended(STOP_MAX);
    assert_eq!(status.code(), Some(0), "{status}");
    println!("{} requests were finished; the process ended {:?} after the signal", acknowledged.len(), told.elapsed());

    run(&mut aionis_on(&place.data(), &["verify"])).exits(0);
    let server = Server::start(&place.data());
    let answer = server.recall_text("halfway", "lighthouse keeper", 50);
    let found = seed_ids(&answer);
    for write in &acknowledged {
        assert!(found.contains(&write["nodes"][0]["id"].as_str().unwrap()), "{write} is not found");
    }
    server.stop();
}

#[test]
fn a_stop_under_load_is_quick_and_keeps_every_acknowledged_write() {
    let place = Place::new();
    let server = Server::start(&place.data());
    let (port, acknowledged) = (server.port, AtomicU64::new(0));
    let written: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..20)
            .map(|writer| {
                let acknowledged = &acknowledged;
                scope.spawn(move || write_until_broken(port, "busy", 1, writer, acknowledged))
            })
            .collect();
        until("writes flow", Duration::from_secs(30), || {
            (acknowledged.load(Ordering::Relaxed) >= 200 || writers.iter().any(|w| w.is_finished())).then_some(())
        });
        server.tell_to_stop();
        let told = Instant::now();
        let status = server.ended(STOP_MAX);
        assert_eq!(status.code(), Some(0), "{status}");
        println!(
            "stopped {:?} after the signal, {} writes acknowledged",
            told.elapsed(),
            acknowledged.load(Ordering::Relaxed)
        );
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    run(&mut aionis_on(&place.data(), &["verify"])).exits(0);
    assert_stored(&place.data(), "default/busy", &written);
    let wal = place.data().join("aionis.db-wal");
    assert!(std::fs::metadata(&wal).map_or(0, |file| file.len()) == 0, "an orderly stop leaves no log behind");
}

#[test]
fn the_worker_stops_in_order_too() {
    let place = Place::new();
    let mut command = aionis_on(&place.data(), &["worker"]);
    crate::support::program::fake(&mut command).env("RUST_LOG", "info");
    let (out, log) = (place.path().join("worker.log"), place.path().join("worker.err"));
    command.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(log).unwrap());
    let mut child = command.spawn().unwrap();
    until("the worker runs", Duration::from_secs(20), || {
        std::fs::read_to_string(&out).unwrap().contains("worker started").then_some(())
    });
    let sent = std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
    let status = crate::support::program::ends(&mut child, STOP_MAX);
    assert_eq!(status.code(), Some(0), "{status}");
}

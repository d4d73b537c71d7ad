//! One process per data directory.

use serde_json::json;

use crate::support::{
    place::Place,
    program::{aionis_on, fake, run},
    server::Server,
};

fn batch() -> serde_json::Value {
    let nodes: Vec<_> = (0..5)
        .map(|number| {
            json!({ "client_id": format!("n{number}"), "type": "event", "memory_lane": "shared",
                              "text_summary": format!("apple tree number {number} stands in the orchard") })
        })
        .collect();
    json!({ "scope": "orchard", "input_text": "trees", "nodes": nodes })
}

#[test]
fn a_second_process_is_told_who_owns_the_directory() {
    let place = Place::new();
    let mut server = Server::start(&place.data());
    for args in [
        &["serve", "--port", "0"][..],
        &["worker"],
        &["worker", "--once"],
        &["migrate"],
        &["migrate", "--dry-run"],
        &["verify"],
    ] {
        let mut command = aionis_on(&place.data(), args);
        if args[0] != "migrate" && args[0] != "verify" {
            fake(&mut command);
        }
        let ended = run(&mut command).exits(1);
        // The long-running commands log to stdout; what went wrong is on stderr all the same.
        let line = ended.one_line();
        assert!(line.contains(place.data().to_str().unwrap()), "{args:?}: {line}");
        assert!(line.contains(&format!("process {}", server.pid())), "{args:?}: {line}");
    }
    let doctor = run(fake(&mut aionis_on(&place.data(), &["doctor", "--port", "0", "--json"]))).exits(2).json();
    let store = doctor.as_array().unwrap().iter().find(|finding| finding["check"] == "store").unwrap().clone();
    assert!(store["detail"].as_str().unwrap().contains(&server.pid().to_string()), "{store}");
    assert!(server.is_alive());
    server.write(&batch());
    server.stop();
    run(&mut aionis_on(&place.data(), &["verify"])).exits(0);
}

#[test]
fn a_killed_owner_leaves_the_directory_free() {
    let place = Place::new();
    Server::start(&place.data()).kill();
    Server::start(&place.data()).stop();
}

#[test]
fn a_worker_derives_what_a_server_left_to_it() {
    let place = Place::new();
    let server = Server::start_without_worker(&place.data());
    assert_eq!(server.write(&batch())["embedding_backfill"], json!({ "enqueued": true, "pending_nodes": 5 }));
    assert_eq!(server.recall_text("orchard", "apple", 5)["pending"]["nodes"], 5);
    server.stop();

    let round = run(fake(&mut aionis_on(&place.data(), &["worker", "--once"]))).exits(0).json();
    assert_eq!(
        (&round["vectors"], &round["failed"], &round["published"]),
        (&json!(5), &json!(0), &json!(1)),
        "{round}"
    );
    let again = run(fake(&mut aionis_on(&place.data(), &["worker", "--once"]))).exits(0).json();
    assert_eq!(again["claimed"], 0, "{again}");

    let server = Server::start_without_worker(&place.data());
    let answer = server.recall_text("orchard", "apple", 5);
    assert_eq!(answer["pending"]["nodes"], 0, "{answer}");
    assert_eq!(answer["seeds"].as_array().unwrap().len(), 5, "{answer}");
    server.stop();
}

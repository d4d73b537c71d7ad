//! `aionis job topic-cluster` and `aionis job compression-rollup` as an operator runs them.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{Ended, aionis_on, fake, run},
    server::Server,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn job(data: &Path, args: &[&str]) -> Ended {
    let mut command = aionis_on(data, &[&["job"], args].concat());
    run(fake(&mut command))
}

fn total(data: &Path, args: &[&str], name: &str) -> Value {
    let report = job(data, &[args, &["--json"]].concat()).exits(0).json();
    report["total"][name].clone()
}

fn events(count: usize) -> Value {
    let event = |n| json!({ "client_id": format!("e{n}"), "type": "event", "text_summary": "The pump failed again." });
    json!({ "scope": "pier", "input_text": "x", "memory_lane": "shared", "nodes": (0..count).map(event).collect::<Vec<_>>() })
}

fn of_type(data: &Path, node_type: &str) -> u64 {
    db::count(&db::read_only(data), &format!("SELECT COUNT(*) FROM memory_nodes WHERE type = '{node_type}'"))
}

#[test]
fn events_make_a_topic_the_topic_a_summary_and_both_go_when_fewer_may_see_an_event() {
    let place = Place::new();
    let data = place.data();
    let server = Server::start(&data);
    server.write(&events(6));
    server.vectors_are_ready("pier", PATIENCE);
    server.stop();
    assert_eq!(total(&data, &["topic-cluster", "--all", "--dry-run"], "created_topics"), 1);
    assert_eq!(of_type(&data, "topic"), 0, "a dry run stores nothing");
    assert_eq!(total(&data, &["topic-cluster", "--all"], "assigned"), 6);
    assert_eq!(total(&data, &["topic-cluster", "--all"], "processed_events"), 0);
    assert_eq!(total(&data, &["compression-rollup", "--scope", "pier"], "created_summaries"), 1);
    assert_eq!(total(&data, &["compression-rollup", "--scope", "pier"], "unchanged_summaries"), 1);
    assert_eq!((of_type(&data, "topic"), of_type(&data, "concept")), (1, 1));
    run(&mut aionis_on(&data, &["verify"])).exits(0);
    job(&data, &["consistency-check", "--scope", "pier"]).exits(0);
    let server = Server::start(&data);
    let mut narrowed = events(1);
    (narrowed["memory_lane"], narrowed["owner_agent_id"]) = (json!("private"), json!("ann"));
    server.write(&narrowed);
    server.stop();
    assert_eq!((of_type(&data, "topic"), of_type(&data, "concept")), (0, 0));
    run(&mut aionis_on(&data, &["verify"])).exits(0);
    job(&data, &["consistency-check", "--scope", "pier"]).exits(0);
    assert_eq!(total(&data, &["topic-cluster", "--all"], "assigned"), 5, "they are put together anew");
}

#[test]
fn bad_flags_are_refused_and_name_the_flag() {
    let place = Place::new();
    let data = place.data();
    for (args, named) in [
        (&["topic-cluster", "--all", "--topic-sim-threshold", "1.5"][..], "--topic-sim-threshold"),
        (&["topic-cluster", "--all", "--topic-min-events-per-topic", "0"], "--topic-min-events-per-topic"),
        (&["topic-cluster", "--all", "--topic-max-candidates-per-event", "51"], "--topic-max-candidates-per-event"),
        (&["topic-cluster", "--all", "--topic-cluster-batch-size", "1001"], "--topic-cluster-batch-size"),
        (&["topic-cluster", "--all", "--topic-cluster-strategy", "kmeans"], "--topic-cluster-strategy"),
        (&["topic-cluster", "--all", "--treshold", "0.5"], "--treshold"),
        (
            &["compression-rollup", "--all", "--compression-max-events-per-topic", "101"],
            "--compression-max-events-per-topic",
        ),
        (&["compression-rollup", "--all", "--compression-lookback-days", "x"], "--compression-lookback-days"),
        (&["compression-rollup"], "--all"),
    ] {
        let ended = job(&data, args).exits(1);
        assert!(ended.stderr.contains(named), "{args:?}: {ended:?}");
    }
}

//! `aionis job consolidation-…`: the whole way, and flags that are refused.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    place::Place,
    program::{Ended, aionis_on, run},
    server::{Server, seed_ids},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn job(place: &Place, arguments: &[&str]) -> Ended {
    run(&mut aionis_on(&place.data(), &[&["job"], arguments].concat()))
}

#[test]
fn duplicates_are_found_merged_and_taken_apart() {
    let place = Place::new();
    let server = Server::start(&place.data());
    let node = |id: &str, text: &str| json!({ "client_id": id, "type": "concept", "text_summary": text });
    let same = "The harbour closes at night when the wind is strong.";
    let written = server.write(&json!({
        "scope": "harbour",
        "input_text": "told twice",
        "memory_lane": "shared",
        "nodes": [node("a", same), node("b", same), node("x", "A lamp on the pier.")],
        "edges": [{ "type": "related_to", "src": { "client_id": "a" }, "dst": { "client_id": "x" } },
                  { "type": "related_to", "src": { "client_id": "b" }, "dst": { "client_id": "x" } }],
    }));
    let id = |at: usize| written["nodes"][at]["id"].as_str().unwrap().to_owned();
    server.vectors_are_ready("harbour", PATIENCE);
    server.stop();
    let found = job(&place, &["consolidation-candidates", "--all", "--json"]).exits(0).json();
    assert_eq!((&found["total"]["anchors"], &found["total"]["queued_new"]), (&json!(3), &json!(1)), "{found}");
    job(&place, &["consolidation-candidates", "--all", "--strict"]).exits(2);
    let planned = job(&place, &["consolidation-apply", "--all", "--json"]).exits(0).json();
    assert_eq!((&planned["dry_run"], &planned["total"]["planned_apply"]), (&json!(true), &json!(1)));
    let done = job(&place, &["consolidation-apply", "--all", "--apply", "--json"]).exits(0).json();
    let (merge, run_id) = (&done["targets"][0]["merges"][0], done["targets"][0]["run_id"].as_str().unwrap());
    let moved = job(&place, &["consolidation-redirect-edges", "--all", "--apply", "--json"]).exits(0).json();
    assert_eq!(moved["total"]["touched_edges"], json!(1), "{moved}");
    let seeds = || {
        let server = Server::start(&place.data());
        let answer = server.recall_text("harbour", same, 5);
        let seeds: Vec<String> = seed_ids(&answer).into_iter().map(str::to_owned).collect();
        server.stop();
        seeds
    };
    let (canonical, alias) = (merge["canonical_id"].as_str().unwrap(), merge["duplicate_id"].as_str().unwrap());
    let shown = seeds();
    assert!(shown.iter().any(|id| id == canonical) && shown.iter().all(|id| id != alias), "{shown:?}");
    job(&place, &["consolidation-undo", "--tenant", "default", "--scope", "harbour", "--all-of", run_id]).exits(0);
    let shown = seeds();
    assert!([id(0), id(1)].iter().all(|id| shown.contains(id)), "{shown:?}");
    let again =
        job(&place, &["consolidation-undo", "--tenant", "default", "--scope", "harbour", "--all-of", run_id, "--json"]);
    assert_eq!(again.exits(0).json()["total"]["undone_merges"], json!(0));
    let verified = run(&mut aionis_on(&place.data(), &["verify", "--json"])).exits(0).json();
    assert_eq!(verified["ok"], json!(true), "{verified}");
}

#[test]
fn flags_that_cannot_be_used_are_named() {
    let place = Place::new();
    let pair = "00000000-0000-0000-0000-000000000001|00000000-0000-0000-0000-000000000002|concept";
    for (arguments, why) in [
        (&["consolidation-candidates"][..], "--all"),
        (&["consolidation-candidates", "--all", "--types", "event"], "must be one of topic"),
        (&["consolidation-candidates", "--all", "--min-vector", "1.5"], "from 0 to 1"),
        (&["consolidation-candidates", "--all", "--max-anchors", "0"], "1..=2000"),
        (&["consolidation-candidates", "--all", "--accept", "x"], "must be the key of a pair"),
        (&["consolidation-candidates", "--all", "--accept", pair], "'--all' cannot be used with"),
        (&["consolidation-candidates", "--reject", pair, "--all"], "cannot be used with"),
        (&["consolidation-candidates", "--scope", "s", "--accept", pair], "--tenant"),
        (&["consolidation-candidates", "--tenant", "t", "--reject", pair], "--scope"),
        (&["consolidation-candidates", "--all", "--max-pairs", "7"], "--max-pairs"),
        (&["consolidation-apply", "--all", "--limit-apply", "501"], "1..=500"),
        (&["consolidation-redirect-edges", "--all", "--max-aliases", "many"], "--max-aliases"),
        (&["consolidation-undo", "--tenant", "t", "--scope", "s"], "--merge"),
        (&["consolidation-undo", "--merge", "00000000-0000-0000-0000-000000000001"], "--tenant"),
        (&["consolidation-undo", "--tenant", "t", "--scope", "s", "--merge", "x"], "--merge"),
    ] {
        let refused = job(&place, arguments).exits(1);
        assert!(refused.stderr.contains(why), "{arguments:?}: {refused:?}");
    }
}

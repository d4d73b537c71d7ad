//! `aionis eval locomo` on a small set of our own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    place::Place,
    program::{Ended, aionis, run},
};

fn small_set() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conversations.json")
}

fn eval(place: &Place, data: &Path, more: &[&str]) -> Ended {
    let mut command = aionis(place.path());
    command.env("EMBEDDING_PROVIDER", "none").args(["eval", "locomo", "--data"]).arg(data).args(more);
    run(&mut command)
}

#[test]
fn words_alone_find_the_evidence_of_the_small_set() {
    let place = Place::new();
    let ended = eval(&place, &small_set(), &["--arms", "lexical,hybrid", "--min-recall-at-10", "0.8", "--json"]);
    let report = ended.exits(0).json();
    assert_eq!((&report["conversations"], &report["skipped_questions"]), (&2.into(), &1.into()), "{report}");
    let names: Vec<&String> = report["arms"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["hybrid", "lexical"]);
    assert_eq!(report["overall"], report["arms"]["lexical"]["overall"], "the first arm is the one that is judged");
    for arm in ["hybrid", "lexical"] {
        let overall: &Value = &report["arms"][arm]["overall"];
        println!("{arm}: recall@5 {}, recall@10 {}, MRR {}", overall["recall@5"], overall["recall@10"], overall["mrr"]);
        assert_eq!(overall["questions"], 11);
    }
    assert_eq!(place.names(), Vec::<String>::new(), "an evaluation leaves nothing");
}

#[test]
fn a_bar_that_is_too_high_is_a_negative_verdict() {
    let place = Place::new();
    let ended = eval(&place, &small_set(), &["--arms", "lexical", "--min-recall-at-10", "1.01"]).exits(2);
    assert!(ended.stdout.contains("lexical"), "the figures are shown all the same: {ended:?}");
}

/// The bar is not only a matter of arithmetic: with the evidence exchanged for turns that do not answer, it is missed.
#[test]
fn wrong_evidence_misses_the_bar() {
    let place = Place::new();
    let mut set: Value = serde_json::from_slice(&std::fs::read(small_set()).unwrap()).unwrap();
    for sample in set.as_array_mut().unwrap() {
        for question in sample["qa"].as_array_mut().unwrap() {
            let right = question["evidence"].to_string();
            let wrong = if right.contains("D1:1\"") { "D2:4" } else { "D1:1" };
            question["evidence"] = serde_json::json!([wrong]);
        }
    }
    let file = place.path().join("wrong.json");
    std::fs::write(&file, set.to_string()).unwrap();
    eval(&place, &file, &["--arms", "lexical", "--min-recall-at-10", "0.8"]).exits(2);
}

#[test]
fn a_set_that_cannot_be_read_is_an_error() {
    let place = Place::new();
    let ended = eval(&place, Path::new("missing.json"), &[]).exits(1);
    assert!(ended.one_line().contains("missing.json"), "{ended:?}");
    let file = place.path().join("other.json");
    std::fs::write(&file, "{\"conversations\": 3}").unwrap();
    let ended = eval(&place, &file, &[]).exits(1);
    assert!(ended.one_line().contains("LoCoMo"), "{ended:?}");
}

/// No data is no pass, not even of a bar of zero.
#[test]
fn a_set_without_questions_gets_no_verdict() {
    let place = Place::new();
    let file = place.path().join("empty.json");
    std::fs::write(&file, "[]").unwrap();
    let ended = eval(&place, &file, &["--arms", "lexical", "--min-recall-at-10", "0.0"]).exits(1);
    assert!(ended.one_line().contains("no question"), "{ended:?}");
}

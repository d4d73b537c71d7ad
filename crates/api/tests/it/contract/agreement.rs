//! Random bodies: the schema and the reader agree about them.

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    REFUSALS,
    document::Document,
    world::{World, posted, setup},
};
use crate::{generated::places, harness::Service};

/// Places whose values depend on what is stored, or on each other.
const DEPENDS: &[&str] =
    &["embedding", "query_embedding", "edges", "parent_commit_id", "nodes.", "slots", "uri", "cursor"];

/// Whole numbers around the limits.
const NUMBERS: &[i64] = &[
    0,
    1,
    2,
    50,
    51,
    100,
    101,
    200,
    201,
    500,
    501,
    10_000,
    10_001,
    1_000_000,
    1_000_001,
    1 << 53,
    (1 << 53) + 1,
    i64::MAX,
];
/// Texts around the patterns.
const WORDS: &[&str] = &[
    "",
    " ",
    "\u{feff}",
    "\u{85}",
    "\u{1c}",
    "\0",
    "x",
    "\n",
    " x ",
    "a/b",
    ".",
    "..",
    "a/..",
    "a\\.\\b",
    "...",
    "/",
    "tenant:x::scope:y",
    "tenant::scope:y",
    "tenant:x:scope:y",
    " tenant:a::scope:b",
    "a\u{7f}b",
    "a\nb",
    "é\u{301}",
    "private",
    "hot",
    "warm",
    "event",
    "positive",
    "active",
    "all",
    "demo",
    "\u{2028}demo\u{3000}",
    "-x",
    "x-",
];

fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![0.0, -0.0, 1.0, 0.5, 1.5, 2.0, -1.0, 200.0, 201.0, 9_007_199_254_740_992.0, 1e39])
            .prop_map(|x| json!(x)),
        select(NUMBERS).prop_map(Value::from),
        select(WORDS).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::collection::vec(select(vec![json!(" "), json!("psql"), json!(""), json!(7), json!(null)]), 0..4)
            .prop_map(Value::from),
        Just(json!({})),
        Just(json!({ "id": "5d6092c4-30a5-5d16-980f-3aedc3e11a08" })),
        Just(json!({ "client_id": " " })),
    ]
}

#[test]
fn schema_and_reader_agree_about_random_bodies() {
    let runtime = Runtime::new().unwrap();
    let mut document = Document::new();
    let world = runtime.block_on(async { World::new(Service::with(setup)).await });
    for path in posted(&document) {
        let bases = [world.body(&document, &path, true), world.body(&document, &path, false)];
        let strategy = (any::<bool>(), prop::collection::vec((any::<Index>(), odd(), any::<bool>()), 1..4));
        let config =
            Config { cases: 400, rng_seed: RngSeed::Fixed(31), failure_persistence: None, ..Config::default() };
        let document = std::cell::RefCell::new(&mut document);
        let outcome = TestRunner::new(config).run(&strategy, |(full, changes)| {
            let mut body = bases[usize::from(!full)].clone();
            for (index, value, removes) in changes {
                spoil(&mut body, index, value, removes);
            }
            let answer = runtime.block_on(world.post(&path, &[], &body));
            let (status, code) = super::told(&answer);
            prop_assert!(status < 500, "{path}: {} for {body}", answer.text());
            let refused = status == 400 && REFUSALS.contains(&code.as_str());
            match document.borrow_mut().refuses(&path, &body) {
                Some(why) => {
                    prop_assert!(refused, "{path}: the schema says {why}, the service {} for {body}", answer.text());
                }
                None if refused && code == "invalid_request" => {
                    let beyond = answer.issues().iter().all(|(at, _)| DEPENDS.iter().any(|place| at.contains(place)));
                    prop_assert!(beyond, "{path}: refused beyond the schema: {} for {body}", answer.text());
                }
                None => {
                    prop_assert!(!refused, "{path}: refused beyond the schema: {} for {body}", answer.text());
                }
            }
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("{failure}");
        }
    }
    runtime.block_on(world.service.assert_sound());
}

fn spoil(body: &mut Value, index: Index, value: Value, removes: bool) {
    let mut found = Vec::new();
    places(body, "", &mut found);
    if found.is_empty() {
        return;
    }
    let place = index.get::<String>(&found).clone();
    if removes {
        super::cases::remove(body, &place);
    } else {
        *body.pointer_mut(&place).unwrap() = value;
    }
}

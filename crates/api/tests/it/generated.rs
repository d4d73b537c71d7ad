//! Random bodies around the valid shape: never a 5xx, nothing stored by what is refused, nothing done twice.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::harness::{DIM, RECALL, RECALL_TEXT, Service, WRITE, event};

/// Few keys and scopes, so that requests meet what earlier ones stored.
pub(crate) const KEYS: [&str; 6] = ["a", "b", "a:b", " c ", "é", "d-1"];
pub(crate) const SCOPES: [&str; 3] = ["default", "side", "x/y"];
const TENANTS: [&str; 2] = ["default", "acme"];
const IDS: [&str; 3] = [
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000002",
    "00000000-0000-4000-8000-000000000003",
];

/// Values that are wrong, or right but odd, almost anywhere.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![0.0, -0.0, 1.0, 0.5, -1.0, 2.0, 200.0, 1e39, 1e308, 5e-324]).prop_map(|x| json!(x)),
        any::<i64>().prop_map(Value::from),
        select(vec![
            "",
            " ",
            "\0",
            "\u{feff}",
            "x",
            "🦀",
            "\u{202e}",
            "tenant:x::scope:y",
            "../x",
            "private",
            "rule",
            "'; DROP TABLE memory_nodes; --",
            "%s%n",
            "a\u{0301}"
        ])
        .prop_map(Value::from),
        "\\PC{0,24}".prop_map(Value::from),
        vec(select(vec![json!(0.5), json!(null), json!({}), json!([])]), 0..4).prop_map(Value::from),
        Just(json!({})),
        Just(json!({ "id": IDS[0], "client_id": "a" })),
        Just(json!({ "rule_scope": "agent", "if": null, "then": [], "exceptions": {} })),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec!["the harbour", "mail bob@x.com", "10.0.0.1", " spaced  out ", "日本語"]).prop_map(Value::from),
        "\\PC{1,40}".prop_map(Value::from),
    ]
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    select(words.to_vec()).prop_map(Value::from)
}

/// An object of required members and a random choice of optional ones.
fn object(
    required: Vec<(&'static str, BoxedStrategy<Value>)>,
    optional: Vec<(&'static str, BoxedStrategy<Value>)>,
) -> BoxedStrategy<Value> {
    let optional: Vec<_> = optional
        .into_iter()
        .map(|(name, value)| prop::option::weighted(0.3, value).prop_map(move |value| value.map(|value| (name, value))))
        .collect();
    let required: Vec<_> =
        required.into_iter().map(|(name, value)| value.prop_map(move |value| (name, value))).collect();
    (required, optional)
        .prop_map(|(required, optional)| {
            let members = required.into_iter().chain(optional.into_iter().flatten());
            Value::Object(members.map(|(name, value)| (name.to_owned(), value)).collect())
        })
        .boxed()
}

fn share() -> BoxedStrategy<Value> {
    select(vec![0.0, 0.1, 0.5, 0.999_999_99, 1.0]).prop_map(|x| json!(x)).boxed()
}

fn flag() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::from).boxed()
}

fn numbers() -> BoxedStrategy<Value> {
    vec(-1e3_f32..1e3, DIM).prop_map(|vector| json!(vector)).boxed()
}

/// A node with a key, an id, both (which do not belong together) or neither.
fn node() -> BoxedStrategy<Value> {
    let name = prop_oneof![
        6 => one_of(&KEYS).prop_map(|key| json!({ "client_id": key })),
        3 => one_of(&IDS).prop_map(|id| json!({ "id": id })),
        1 => Just(json!({ "client_id": KEYS[0], "id": IDS[0] })),
        2 => Just(json!({})),
    ];
    (name, unnamed_node())
        .prop_map(|(name, mut node)| {
            node.as_object_mut().unwrap().extend(name.as_object().unwrap().clone());
            node
        })
        .boxed()
}

fn unnamed_node() -> BoxedStrategy<Value> {
    let types = &["event", "entity", "topic", "rule", "evidence", "concept", "procedure", "self_model"];
    object(
        vec![("type", one_of(types).boxed())],
        vec![
            ("scope", one_of(&SCOPES).boxed()),
            ("tier", one_of(&["hot", "warm", "cold", "archive"]).boxed()),
            ("memory_lane", one_of(&["private", "shared"]).boxed()),
            ("owner_agent_id", one_of(&["ann", " bob "]).boxed()),
            ("owner_team_id", one_of(&["red"]).boxed()),
            ("title", text().boxed()),
            ("text_summary", text().boxed()),
            ("slots", Just(json!({ "k": "v@x.com", "rule_scope": "global" })).boxed()),
            ("raw_ref", text().boxed()),
            ("embedding", numbers()),
            ("embedding_model", text().boxed()),
            ("salience", share()),
            ("importance", share()),
            ("confidence", share()),
        ],
    )
}

fn end() -> BoxedStrategy<Value> {
    prop_oneof![
        5 => one_of(&KEYS).prop_map(|key| json!({ "client_id": key })),
        1 => one_of(&IDS).prop_map(|id| json!({ "id": id })),
    ]
    .boxed()
}

fn edge() -> BoxedStrategy<Value> {
    object(
        vec![("type", one_of(&["part_of", "related_to", "derived_from"]).boxed()), ("src", end()), ("dst", end())],
        vec![
            ("id", one_of(&IDS).boxed()),
            ("scope", one_of(&SCOPES).boxed()),
            ("weight", share()),
            ("confidence", share()),
            ("decay_rate", share()),
        ],
    )
}

pub(crate) fn write() -> BoxedStrategy<Value> {
    let list = |item, max| vec(item, 0..max).prop_map(Value::from).boxed();
    object(
        vec![("input_text", text().boxed()), ("nodes", list(node(), 4)), ("edges", list(edge(), 3))],
        vec![
            ("tenant_id", one_of(&TENANTS).boxed()),
            ("scope", one_of(&SCOPES).boxed()),
            ("actor", text().boxed()),
            ("auto_embed", flag()),
            ("force_reembed", flag()),
            ("memory_lane", one_of(&["private", "shared"]).boxed()),
            ("producer_agent_id", one_of(&["ann"]).boxed()),
        ],
    )
}

pub(crate) fn recall() -> BoxedStrategy<Value> {
    let number = |max: u64| (1..=max).prop_map(Value::from).boxed();
    object(
        vec![("query_text", text().boxed()), ("query_embedding", numbers())],
        vec![
            ("tenant_id", one_of(&TENANTS).boxed()),
            ("scope", one_of(&SCOPES).boxed()),
            ("consumer_agent_id", one_of(&["ann", "bob"]).boxed()),
            ("consumer_team_id", one_of(&["red"]).boxed()),
            ("limit", number(200)),
            ("neighborhood_hops", number(2)),
            ("max_nodes", number(200)),
            ("max_edges", number(100)),
            ("ranked_limit", number(500)),
            ("min_edge_weight", share()),
            ("include_meta", flag()),
            ("include_slots", flag()),
            ("include_slots_preview", flag()),
            ("return_debug", flag()),
            ("token_budget", number(2_000)),
            ("min_commit", number(3)),
        ],
    )
}

/// Places inside a value, by pointer.
pub(crate) fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        places(child, &place, found);
        found.push(place);
    }
}

/// The body with some of its places holding something else.
fn spoiled(body: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    (body, vec((any::<Index>(), odd()), 0..3)).prop_map(|(mut body, changes)| {
        for (index, value) in changes {
            let mut found = Vec::new();
            places(&body, "", &mut found);
            *body.pointer_mut(index.get::<String>(&found)).unwrap() = value;
        }
        body
    })
}

/// Runs a property over a service that keeps what it was told; equal on every run.
fn check(
    cases: u32,
    bodies: impl Strategy<Value = Value>,
    property: &impl AsyncFn(&Service, Value) -> Result<(), TestCaseError>,
) {
    let runtime = Runtime::new().unwrap();
    let service = runtime.block_on(async {
        let service = Service::start();
        for (tenant, scope) in TENANTS.iter().flat_map(|tenant| SCOPES.map(|scope| (tenant, scope))) {
            // What edges may lead to.
            let nodes: Vec<Value> = KEYS.iter().map(|key| event(key, "the harbour")).collect();
            service
                .write(&json!({ "tenant_id": tenant, "scope": scope, "input_text": "before", "nodes": nodes }))
                .await;
        }
        service
    });
    let config = Config { cases, rng_seed: RngSeed::Fixed(20_260_220), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&bodies, |body| runtime.block_on(property(&service, body)));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    runtime.block_on(async {
        service.drain().await;
        let outbox = service.stored().await.outbox;
        assert_eq!((outbox.pending, outbox.dead), (0, 0), "nothing waits for ever");
        service.assert_sound().await;
        assert!(service.stored().await.commits() > u64::from(cases) / 4, "many bodies were valid");
    });
}

async fn written(service: &Service, body: Value) -> Result<(), TestCaseError> {
    let before = service.stored().await;
    let answer = service.post(WRITE, &body).await;
    let after = service.stored().await;
    if answer.status.is_client_error() {
        prop_assert_eq!(&before, &after, "refused, yet stored: {}", body);
        let refusal = answer.json();
        prop_assert!(refusal["error"].is_string() && (refusal["issues"].is_array() || refusal["message"].is_string()));
        return Ok(());
    }
    prop_assert_eq!(answer.status.as_u16(), 200, "{}: {}", answer.text(), body);
    let first = answer.json();
    for list in ["nodes", "edges"] {
        let sent = body[list].as_array().map_or(0, Vec::len);
        prop_assert_eq!(first[list].as_array().unwrap().len(), sent, "every item has an outcome: {}", body);
    }
    let again = service.post(WRITE, &body).await;
    prop_assert_eq!(again.status.as_u16(), 200, "sent again: {}: {}", again.text(), body);
    let again = again.json();
    prop_assert_eq!(&again["replayed"], &json!(true), "done twice: {}", body);
    prop_assert_eq!(&again["commit_id"], &first["commit_id"]);
    prop_assert_eq!(&service.stored().await.heads, &after.heads);
    for item in again["nodes"].as_array().unwrap().iter().chain(again["edges"].as_array().unwrap()) {
        prop_assert_eq!(&item["status"], &json!("unchanged"), "{}", body);
    }
    Ok(())
}

async fn recalled(service: &Service, body: Value) -> Result<(), TestCaseError> {
    let before = service.stored().await;
    for path in [RECALL, RECALL_TEXT] {
        let answer = service.post(path, &body).await;
        prop_assert!(!answer.status.is_server_error(), "{}: {}", answer.text(), body);
        if answer.status.is_success() {
            let found = answer.json();
            let nodes = found["subgraph"]["nodes"].as_array().unwrap();
            let within =
                |edge: &Value| ["from_id", "to_id"].iter().all(|end| nodes.iter().any(|node| node["id"] == edge[end]));
            prop_assert!(
                found["subgraph"]["edges"].as_array().unwrap().iter().all(within),
                "an edge leads out of {}",
                found
            );
        }
    }
    prop_assert_eq!(before, service.stored().await);
    Ok(())
}

#[test]
fn a_write_is_stored_once_or_refused_without_a_trace() {
    check(700, spoiled(write()), &written);
}

#[test]
fn a_recall_is_answered_or_refused_and_changes_nothing() {
    // Every second body is a write, so that there is something to find.
    let bodies = prop_oneof![spoiled(recall()), spoiled(write()), recall(), write()];
    check(600, bodies, &async |service: &Service, body: Value| {
        if body.get("input_text").is_some() { written(service, body).await } else { recalled(service, body).await }
    });
}

//! Callers' mistakes: each is a 4xx that names the field, leaves everything as it was, and the service goes on.

use serde_json::{Value, json};

use crate::harness::{Answer, DIM, RECALL, RECALL_TEXT, Service, Stored, WRITE, event, seeds, vector, writing};

/// A service with something stored, which no refused request may change.
struct Guarded {
    service: Service,
    stored: Stored,
}

impl Guarded {
    async fn start() -> Self {
        let service = Service::start();
        let edge = json!({ "id": EDGE, "type": "related_to", "src": { "client_id": "kept" }, "dst": { "client_id": "kept-2" } });
        let mut body = writing(&[event("kept", "one"), event("kept-2", "two")]);
        body["edges"] = json!([edge]);
        service.write(&body).await;
        let stored = service.stored().await;
        Self { service, stored }
    }

    /// Sends bytes that must be refused as invalid, and returns the problems.
    async fn refused(&self, path: &str, body: impl Into<axum::body::Body>, what: &str) -> Vec<(String, String)> {
        let answer = self.service.post_raw(path, &[], body).await;
        self.check(&answer, what).await;
        assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()), "{what}");
        assert!(answer.json().get("message").is_none(), "a validation error has issues and no message");
        answer.issues()
    }

    async fn check(&self, answer: &Answer, what: &str) {
        assert!(answer.status.is_client_error(), "{what}: {} {}", answer.status, answer.text());
        assert_eq!(self.service.stored().await, self.stored, "{what} changed something");
    }

    /// Sends a body whose only mistake is at `path`, explained with all of `words`.
    async fn names(&self, endpoint: &str, body: &Value, path: &str, words: &[&str]) {
        let what = body.to_string();
        let what = aionis_core::ids::clip(&what, 300);
        let issues = self.refused(endpoint, body.to_string(), what).await;
        assert_eq!(issues.len(), 1, "{what}: {issues:?}");
        assert_eq!(issues[0].0, path, "{what}: {issues:?}");
        for word in words {
            assert!(issues[0].1.contains(word), "{what}: {:?} does not say {word:?}", issues[0].1);
        }
    }

    /// The service still does its work.
    async fn end(self) {
        assert!(seeds(&self.service.ask("one").await).contains("one"));
        let written = self.service.write(&writing(&[event("after", "three")])).await;
        assert_eq!(written["commit_seq"], 2);
        self.service.assert_sound().await;
    }
}

const EDGE: &str = "00000000-0000-4000-8000-00000000000e";
const ID: &str = "00000000-0000-4000-8000-000000000001";
const SHA: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

fn node(member: &str, value: Value) -> Value {
    let mut node = json!({ "client_id": "n", "type": "event" });
    node[member] = value;
    writing(&[node])
}

fn edge(member: &str, value: Value) -> Value {
    let mut edge = json!({ "type": "part_of", "src": { "client_id": "kept" }, "dst": { "client_id": "kept-2" } });
    edge[member] = value;
    json!({ "input_text": "x", "edges": [edge] })
}

fn body(member: &str, value: Value) -> Value {
    let mut body = json!({ "input_text": "x" });
    body[member] = value;
    body
}

fn question(member: &str, value: Value) -> Value {
    let mut question = json!({ "query_text": "x" });
    question[member] = value;
    question
}

#[tokio::test]
async fn bodies_that_are_no_json_objects() {
    let guarded = Guarded::start().await;
    let lone = |escape: &str| format!("{{\"input_text\":\"{escape}\"}}").into_bytes();
    let bodies: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "empty"),
        (b" \n\t ".to_vec(), "empty"),
        (b"{".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"x\"".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"x\"}}".to_vec(), "not valid JSON"),
        (b"{'input_text':'x'}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"x\",}".to_vec(), "not valid JSON"),
        (b"\xef\xbb\xbf{\"input_text\":\"x\"}".to_vec(), "not valid JSON"),
        (b"[]".to_vec(), "must be a JSON object"),
        (b"null".to_vec(), "must be a JSON object"),
        (b"\"input_text\"".to_vec(), "must be a JSON object"),
        (b"17".to_vec(), "must be a JSON object"),
        (b"{\"input_text\":\"\xff\xfe\"}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"\xc3\"}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"\xed\xa0\x80\"}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"\x00\"}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":\"\n\"}".to_vec(), "not valid JSON"),
        (lone("\\ud800"), "not valid JSON"),
        (lone("\\udc00"), "not valid JSON"),
        (lone("\\ud800\\ud800"), "not valid JSON"),
        (lone("\\ud800x"), "not valid JSON"),
        (lone("\\u12"), "not valid JSON"),
        (lone("\\x"), "not valid JSON"),
        (b"{\"input_text\":NaN}".to_vec(), "not valid JSON"),
        (b"{\"query_embedding\":[Infinity]}".to_vec(), "not valid JSON"),
        (b"{\"query_embedding\":[-Infinity]}".to_vec(), "not valid JSON"),
        (b"{\"query_embedding\":[1e400]}".to_vec(), "not valid JSON"),
        (b"{\"query_embedding\":[01]}".to_vec(), "not valid JSON"),
        (b"{\"query_embedding\":[.5]}".to_vec(), "not valid JSON"),
        (b"{\"input_text\":undefined}".to_vec(), "not valid JSON"),
    ];
    for (bytes, words) in bodies {
        for path in [WRITE, RECALL, RECALL_TEXT] {
            let what = String::from_utf8_lossy(&bytes).into_owned();
            let issues = guarded.refused(path, bytes.clone(), &what).await;
            assert_eq!(issues[0].0, "", "{what}");
            assert!(issues[0].1.contains(words), "{what}: {:?}", issues[0].1);
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn nul_characters_wherever_they_stand() {
    let guarded = Guarded::start().await;
    let nul = "a\0b";
    for (request, path) in [
        (body("input_text", json!(nul)), "input_text"),
        (body("actor", json!(nul)), "actor"),
        (body("scope", json!(nul)), "scope"),
        (body("tenant_id", json!(nul)), "tenant_id"),
        (body("model_version", json!("\0")), "model_version"),
        (node("title", json!(nul)), "nodes.0.title"),
        (node("text_summary", json!(nul)), "nodes.0.text_summary"),
        (node("client_id", json!(nul)), "nodes.0.client_id"),
        (node("raw_ref", json!(nul)), "nodes.0.raw_ref"),
        (node("slots", json!({ "deep": [{ "text": nul }] })), "nodes.0.slots.deep.0.text"),
        (node("slots", json!({ "a\0": 1 })), "nodes.0.slots.a\\u0000"),
        (node("future", json!(nul)), "nodes.0.future"),
        (edge("src", json!({ "client_id": nul })), "edges.0.src.client_id"),
    ] {
        guarded.names(WRITE, &request, path, &["NUL"]).await;
    }
    for (request, path) in [
        (json!({ "query_text": nul }), "query_text"),
        (question("consumer_agent_id", json!(nul)), "consumer_agent_id"),
        (question("rules_context", json!({ "k": nul })), "rules_context.k"),
    ] {
        guarded.names(RECALL_TEXT, &request, path, &["NUL"]).await;
    }
    guarded.end().await;
}

/// What JSON knows, one of each.
fn one_of_each() -> [(&'static str, Value); 6] {
    [
        ("null", json!(null)),
        ("boolean", json!(true)),
        ("number", json!(17)),
        ("string", json!("x")),
        ("array", json!(["x"])),
        ("object", json!({ "x": 1 })),
    ]
}

/// A field, what kind it takes, and what a message about another kind must say.
type Field = (&'static str, &'static str, &'static str);

const BODY: &[Field] = &[
    ("tenant_id", "string", "a string"),
    ("scope", "string", "a string"),
    ("actor", "string", "a string"),
    ("parent_commit_id", "string", "UUID"),
    ("input_text", "string", "a string"),
    ("input_sha256", "string", "64 lower-case"),
    ("model_version", "string", "a string"),
    ("prompt_version", "string", "a string"),
    ("auto_embed", "boolean", "true or false"),
    ("memory_lane", "string", "private or shared"),
    ("producer_agent_id", "string", "a string"),
    ("owner_agent_id", "string", "a string"),
    ("owner_team_id", "string", "a string"),
    ("force_reembed", "boolean", "true or false"),
    ("trigger_topic_cluster", "boolean", "true or false"),
    ("topic_cluster_async", "boolean", "true or false"),
    ("nodes", "array", "an array"),
    ("edges", "array", "an array"),
];
const NODE: &[Field] = &[
    ("id", "string", "UUID"),
    ("client_id", "string", "a string"),
    ("scope", "string", "a string"),
    ("type", "string", "one of event"),
    ("tier", "string", "one of hot"),
    ("memory_lane", "string", "private or shared"),
    ("producer_agent_id", "string", "a string"),
    ("owner_agent_id", "string", "a string"),
    ("owner_team_id", "string", "a string"),
    ("title", "string", "a string"),
    ("text_summary", "string", "a string"),
    ("slots", "object", "an object"),
    ("raw_ref", "string", "a string"),
    ("evidence_ref", "string", "a string"),
    ("embedding", "array", "an array of numbers"),
    ("embedding_model", "string", "a string"),
    ("salience", "number", "between 0 and 1"),
    ("importance", "number", "between 0 and 1"),
    ("confidence", "number", "between 0 and 1"),
];
const EDGE_FIELDS: &[Field] = &[
    ("id", "string", "UUID"),
    ("scope", "string", "a string"),
    ("type", "string", "one of part_of"),
    ("src", "object", "an object"),
    ("dst", "object", "an object"),
    ("weight", "number", "between 0 and 1"),
    ("confidence", "number", "between 0 and 1"),
    ("decay_rate", "number", "between 0 and 1"),
];
const END: &[Field] = &[("id", "string", "UUID"), ("client_id", "string", "a string")];
const QUESTION: &[Field] = &[
    ("tenant_id", "string", "a string"),
    ("scope", "string", "a string"),
    ("consumer_agent_id", "string", "a string"),
    ("consumer_team_id", "string", "a string"),
    ("return_debug", "boolean", "true or false"),
    ("include_embeddings", "boolean", "true or false"),
    ("include_meta", "boolean", "true or false"),
    ("include_slots", "boolean", "true or false"),
    ("include_slots_preview", "boolean", "true or false"),
    ("slots_preview_keys", "number", "from 1 to 50"),
    ("rules_include_shadow", "boolean", "true or false"),
    ("rules_limit", "number", "from 1 to 200"),
    ("min_commit", "number", "from 1"),
    ("max_wait_ms", "number", "from 0 to 10000"),
    ("token_budget", "number", "from 1"),
];
/// Knobs, which take null as absent.
const KNOBS: &[Field] = &[
    ("limit", "number", "from 1 to 200"),
    ("neighborhood_hops", "number", "from 1 to 2"),
    ("max_nodes", "number", "from 1 to 200"),
    ("max_edges", "number", "from 1 to 100"),
    ("ranked_limit", "number", "from 1 to 500"),
    ("min_edge_weight", "number", "between 0 and 1"),
    ("min_edge_confidence", "number", "between 0 and 1"),
];

impl Guarded {
    async fn refuses_other_kinds(
        &self,
        endpoint: &str,
        fields: &[Field],
        place: &str,
        request: impl Fn(&str, Value) -> Value,
    ) {
        for (name, takes, words) in fields {
            for (kind, value) in one_of_each() {
                let knob = kind == "null" && KNOBS.iter().any(|knob| knob.0 == *name);
                if kind != *takes && !knob {
                    let words = [*words, "got"];
                    self.names(endpoint, &request(name, value), &format!("{place}{name}"), &words).await;
                }
            }
            if *takes == "string" {
                let issues = self.refused(endpoint, request(name, json!("")).to_string(), name).await;
                assert_eq!(issues[0].0, format!("{place}{name}"), "empty text in {name}");
            }
        }
    }
}

#[tokio::test]
async fn wrong_types_of_every_member_of_a_write() {
    let guarded = Guarded::start().await;
    guarded.refuses_other_kinds(WRITE, BODY, "", body).await;
    guarded.refuses_other_kinds(WRITE, NODE, "nodes.0.", node).await;
    guarded.refuses_other_kinds(WRITE, EDGE_FIELDS, "edges.0.", edge).await;
    for end in ["src", "dst"] {
        let request = |name: &str, value: Value| edge(end, json!({ name: value }));
        guarded.refuses_other_kinds(WRITE, END, &format!("edges.0.{end}."), request).await;
    }
    for (list, item) in [("nodes", json!("x")), ("nodes", json!(null)), ("edges", json!([])), ("edges", json!(1))] {
        guarded.names(WRITE, &body(list, json!([item])), &format!("{list}.0"), &["must be an object"]).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn wrong_types_of_every_member_of_a_recall() {
    let guarded = Guarded::start().await;
    for fields in [QUESTION, KNOBS, &[("query_text", "string", "a string")]] {
        guarded.refuses_other_kinds(RECALL_TEXT, fields, "", question).await;
    }
    let by_vector = |name: &str, value: Value| {
        let mut request = json!({ "query_embedding": vector("x") });
        request[name] = value;
        request
    };
    for fields in [QUESTION, KNOBS, &[("query_embedding", "array", "an array of numbers")]] {
        guarded.refuses_other_kinds(RECALL, fields, "", by_vector).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn values_out_of_range_in_a_recall() {
    let guarded = Guarded::start().await;
    for (name, low, high) in [
        ("limit", 0.0, 201.0),
        ("neighborhood_hops", 0.0, 3.0),
        ("max_nodes", 0.0, 201.0),
        ("max_edges", 0.0, 101.0),
        ("ranked_limit", 0.0, 501.0),
        ("min_edge_weight", -0.01, 1.01),
        ("min_edge_confidence", -1.0, 2.0),
        ("slots_preview_keys", 0.0, 51.0),
        ("rules_limit", 0.0, 201.0),
        ("max_wait_ms", -1.0, 10_001.0),
        ("min_commit", 0.0, 1e17),
        ("token_budget", 0.0, 1_000_001.0),
    ] {
        let mut values = vec![json!(low), json!(high), json!(-1e300), json!(1e300), json!(u64::MAX), json!(i64::MIN)];
        if !name.starts_with("min_edge") {
            values.extend([json!(1.5), json!(1e-9)]);
        }
        for value in values {
            guarded.names(RECALL_TEXT, &question(name, value.clone()), name, &["must be", "got"]).await;
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn whole_numbers_may_be_written_as_fractions() {
    let guarded = Guarded::start().await;
    for value in ["2.0", "2e0", "0.2e1", "200e-2"] {
        let body = format!("{{\"query_text\":\"one\",\"neighborhood_hops\":{value}}}");
        assert_eq!(guarded.service.post_raw(RECALL_TEXT, &[], body).await.status.as_u16(), 200, "{value}");
    }
}

#[tokio::test]
async fn values_out_of_range_in_a_write() {
    let guarded = Guarded::start().await;
    for value in [json!(-0.001), json!(1.001), json!(1e300), json!(-1e300), json!(2)] {
        for name in ["salience", "importance", "confidence"] {
            guarded
                .names(WRITE, &node(name, value.clone()), &format!("nodes.0.{name}"), &["between 0 and 1", "got"])
                .await;
        }
        for name in ["weight", "confidence", "decay_rate"] {
            guarded
                .names(WRITE, &edge(name, value.clone()), &format!("edges.0.{name}"), &["between 0 and 1", "got"])
                .await;
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn unknown_words() {
    let guarded = Guarded::start().await;
    for word in ["Event", "events", " event", "evnt", "事件"] {
        guarded.names(WRITE, &node("type", json!(word)), "nodes.0.type", &["self_model", word]).await;
    }
    guarded.names(WRITE, &node("tier", json!("lukewarm")), "nodes.0.tier", &["archive", "lukewarm"]).await;
    guarded.names(WRITE, &node("memory_lane", json!("public")), "nodes.0.memory_lane", &["shared", "public"]).await;
    guarded.names(WRITE, &body("memory_lane", json!("PRIVATE")), "memory_lane", &["private", "PRIVATE"]).await;
    guarded.names(WRITE, &edge("type", json!("likes")), "edges.0.type", &["derived_from", "likes"]).await;
    let long = "x".repeat(100_000);
    let issues = guarded.refused(WRITE, node("type", json!(long)).to_string(), "a long word").await;
    assert!(issues[0].1.len() < 300, "the caller's text is not sent back at length");
    guarded.end().await;
}

#[tokio::test]
async fn ids_in_another_spelling() {
    let guarded = Guarded::start().await;
    for id in [
        "AAFF6A04-F8F6-5AC6-9592-EBF9F29CDF4E",
        "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4E",
        "aaff6a04f8f65ac69592ebf9f29cdf4e",
        "{aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e}",
        "urn:uuid:aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e",
        "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4",
        "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4g",
        " aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e",
        "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4\u{e9}",
        "----------------8---4---4---4-----12",
    ] {
        let words = ["lower-case UUID"];
        guarded.names(WRITE, &writing(&[json!({ "type": "event", "id": id })]), "nodes.0.id", &words).await;
        guarded.names(WRITE, &edge("id", json!(id)), "edges.0.id", &words).await;
        guarded.names(WRITE, &edge("src", json!({ "id": id })), "edges.0.src.id", &words).await;
        guarded.names(WRITE, &body("parent_commit_id", json!(id)), "parent_commit_id", &words).await;
    }
    for sha in [SHA.to_uppercase(), SHA[..63].to_owned(), format!("{SHA}0"), SHA.replace('b', "g")] {
        guarded.names(WRITE, &body("input_sha256", json!(sha)), "input_sha256", &["64 lower-case"]).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn what_is_missing() {
    let guarded = Guarded::start().await;
    guarded.names(WRITE, &json!({}), "", &["input_text or input_sha256"]).await;
    guarded.names(WRITE, &json!({ "nodes": [event("n", "x")] }), "", &["input_text or input_sha256"]).await;
    guarded.names(WRITE, &writing(&[json!({ "client_id": "n" })]), "nodes.0.type", &["is required"]).await;
    let edges = |edge: Value| json!({ "input_text": "x", "edges": [edge] });
    let end = json!({ "client_id": "kept" });
    guarded.names(WRITE, &edges(json!({ "src": end, "dst": end })), "edges.0.type", &["is required"]).await;
    guarded.names(WRITE, &edges(json!({ "type": "part_of", "dst": end })), "edges.0.src", &["is required"]).await;
    guarded.names(WRITE, &edges(json!({ "type": "part_of", "src": end })), "edges.0.dst", &["is required"]).await;
    guarded.names(WRITE, &edge("src", json!({})), "edges.0.src", &["needs id or client_id"]).await;
    guarded.names(RECALL, &json!({}), "query_embedding", &["is required"]).await;
    guarded.names(RECALL, &json!({ "query_text": "x" }), "query_embedding", &["is required"]).await;
    guarded.names(RECALL_TEXT, &json!({ "query_embedding": vector("x") }), "query_text", &["is required"]).await;
    guarded.end().await;
}

#[tokio::test]
async fn what_is_blank() {
    let guarded = Guarded::start().await;
    for blank in [" ", "\n\t", "\u{a0}\u{feff}", "\u{2028}"] {
        guarded.names(WRITE, &body("input_text", json!(blank)), "input_text", &["white space"]).await;
        guarded.names(WRITE, &node("client_id", json!(blank)), "nodes.0.client_id", &["white space"]).await;
        guarded
            .names(WRITE, &edge("dst", json!({ "client_id": blank })), "edges.0.dst.client_id", &["white space"])
            .await;
    }
    guarded.names(RECALL_TEXT, &json!({ "query_text": "" }), "query_text", &["must not be empty"]).await;
    guarded.end().await;
}

#[tokio::test]
async fn vectors_that_are_none() {
    let guarded = Guarded::start().await;
    let numbers = |change: fn(&mut Vec<Value>)| {
        let mut numbers: Vec<Value> = vector("x").into_iter().map(|x| json!(x)).collect();
        change(&mut numbers);
        json!(numbers)
    };
    let dimension = format!("{DIM} numbers");
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!([]), "", &dimension),
        (numbers(|v| v.truncate(DIM - 1)), "", &dimension),
        (numbers(|v| v.push(json!(0.5))), "", &dimension),
        (json!(vec![0; DIM]), "", "zero vector"),
        (json!(vec![-0.0; DIM]), "", "zero vector"),
        (numbers(|v| v[3] = json!(1e39)), ".3", "1e+39"),
        (numbers(|v| v[0] = json!(-1e308)), ".0", "-1e+308"),
        (numbers(|v| v[DIM - 1] = json!(null)), ".15", "null"),
        (numbers(|v| v[1] = json!("0.5")), ".1", "a string"),
        (numbers(|v| v[1] = json!([0.5])), ".1", "an array"),
        (numbers(|v| v[2] = json!(true)), ".2", "a boolean"),
        (json!(vec![3e38; DIM]), "", "32-bit"),
        (json!(vec![1e-30; DIM]), "", "length"),
    ];
    for (numbers, place, words) in cases {
        guarded
            .names(RECALL, &json!({ "query_embedding": numbers }), &format!("query_embedding{place}"), &[words])
            .await;
        guarded.names(WRITE, &node("embedding", numbers), &format!("nodes.0.embedding{place}"), &[words]).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn the_same_thing_twice_in_one_write() {
    let guarded = Guarded::start().await;
    let derived = aionis_core::derive_id::node_id_by_client_id("default", "n").to_string();
    let by_client = |client_id: &str| json!({ "type": "event", "client_id": client_id });
    let by_id = |id: &str| json!({ "type": "event", "id": id });
    for nodes in [
        [by_id(ID), by_id(ID)],
        [by_client("n"), by_client("n")],
        [by_client("n"), by_client(" n ")],
        [by_client("n"), by_client("\u{feff}n")],
        [by_client("n"), by_id(&derived)],
        [by_id(&derived), by_client("n")],
        [json!({ "type": "event", "title": "same" }), json!({ "title": "same", "type": "event", "unknown": 1 })],
    ] {
        guarded.names(WRITE, &writing(&nodes), "nodes.1", &["nodes.0", "once"]).await;
    }
    let apart = json!({ "type": "event", "client_id": "n", "id": ID });
    guarded.names(WRITE, &writing(&[apart]), "nodes.0.id", &["client_id", &derived]).await;
    let together = json!({ "type": "event", "client_id": "kept", "id": aionis_core::derive_id::node_id_by_client_id("default", "kept") });
    assert_eq!(
        guarded.service.post(WRITE, &writing(&[together])).await.status.as_u16(),
        200,
        "the id that belongs to the key is fine"
    );
}

#[tokio::test]
async fn the_same_edge_twice_in_one_write() {
    let guarded = Guarded::start().await;
    let kept = aionis_core::derive_id::node_id_by_client_id("default", "kept").to_string();
    let edge = |kind: &str, src: &str, dst: &str| json!({ "type": kind, "src": { "client_id": src }, "dst": { "client_id": dst } });
    let with = |mut edge: Value, id: &str| {
        edge["id"] = json!(id);
        edge
    };
    let (there, back) = (edge("part_of", "kept", "kept-2"), edge("part_of", "kept-2", "kept"));
    let derived = aionis_core::derive_id::edge_id("default", "x", "part_of", "kept", "kept-2").to_string();
    let by_id = json!({ "type": "part_of", "src": { "id": kept }, "dst": { "client_id": "kept-2" } });
    for (edges, path) in [
        ([there.clone(), there.clone()], "edges.1"),
        ([there.clone(), by_id], "edges.1"),
        ([with(there.clone(), ID), with(back.clone(), ID)], "edges.1.id"),
        ([there.clone(), with(back.clone(), &derived)], "edges.1.id"),
        ([with(back.clone(), &derived), there.clone()], "edges.1"),
    ] {
        guarded.names(WRITE, &json!({ "input_text": "x", "edges": edges }), path, &["edges.0"]).await;
    }
    guarded
        .names(WRITE, &json!({ "input_text": "x", "edges": [with(back.clone(), EDGE)] }), "edges.0.id", &["in use"])
        .await;
    let both_ways = guarded.service.post(WRITE, &json!({ "input_text": "x", "edges": [there, back] })).await;
    assert_eq!(both_ways.status.as_u16(), 200, "there and back are two edges");
}

/// `a:b -> c` and `a -> b:c` have one derived id, because the reference joins the parts with colons.
#[tokio::test]
async fn edges_whose_derived_ids_collide() {
    let guarded = Guarded::start().await;
    let nodes: Vec<Value> = ["a", "a:b", "b:c", "c"].iter().map(|id| event(id, "x")).collect();
    let edge =
        |src: &str, dst: &str| json!({ "type": "part_of", "src": { "client_id": src }, "dst": { "client_id": dst } });
    let at_once = json!({ "input_text": "x", "nodes": nodes, "edges": [edge("a:b", "c"), edge("a", "b:c")] });
    guarded.names(WRITE, &at_once, "edges.1", &["id", "edges.0"]).await;

    let write = |edge: Value| json!({ "input_text": "x", "nodes": nodes, "edges": [edge] });
    guarded.service.write(&write(edge("a:b", "c"))).await;
    let refused = guarded.service.post(WRITE, &write(edge("a", "b:c"))).await;
    assert_eq!(refused.issues()[0].0, "edges.0");
    let mut apart = edge("a", "b:c");
    apart["id"] = json!(ID);
    guarded.service.write(&write(apart)).await;
}

#[tokio::test]
async fn edges_that_lead_nowhere() {
    let guarded = Guarded::start().await;
    for (end, at) in [("src", "edges.0.src"), ("dst", "edges.0.dst")] {
        guarded
            .names(WRITE, &edge(end, json!({ "client_id": "gone" })), at, &["neither in this request nor stored"])
            .await;
        guarded.names(WRITE, &edge(end, json!({ "id": ID })), at, &[ID]).await;
        guarded.names(WRITE, &edge(end, json!({ "id": ID, "client_id": "kept" })), at, &[ID]).await;
    }
    let kept = aionis_core::derive_id::node_id_by_client_id("default", "kept-2");
    for end in [json!({ "client_id": "kept-2" }), json!({ "client_id": " kept-2 " }), json!({ "id": kept })] {
        guarded.names(WRITE, &edge("src", end), "edges.0.dst", &["another node than src"]).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn rules_that_reach_nobody() {
    let guarded = Guarded::start().await;
    let rule =
        |slots: Value| writing(&[json!({ "client_id": "r", "type": "rule", "memory_lane": "shared", "slots": slots })]);
    for (audience, target) in [("agent", "target_agent_id"), ("team", "target_team_id"), (" TEAM ", "target_team_id")] {
        for missing in [
            json!({ "rule_scope": audience }),
            json!({ "rule_scope": audience, target: " " }),
            json!({ "rule_scope": audience, target: 7 }),
        ] {
            guarded.names(WRITE, &rule(missing), &format!("nodes.0.slots.{target}"), &["is required"]).await;
        }
    }
    let private = writing(&[json!({ "client_id": "r", "type": "rule" })]);
    let refused = guarded.service.post(WRITE, &private).await;
    guarded.check(&refused, "a private rule without owner").await;
    assert_eq!(refused.refusal(), (400, "invalid_private_rule_owner".to_owned()));
    let id = aionis_core::derive_id::node_id_by_client_id("default", "r");
    let details = json!({ "node_id": id, "client_id": "r", "memory_lane": "private", "type": "rule" });
    assert_eq!(refused.json()["details"], details);

    let mut owned = private.clone();
    owned["producer_agent_id"] = json!("ann");
    guarded.service.write(&owned).await;
}

#[tokio::test]
async fn a_parent_of_nobody() {
    let guarded = Guarded::start().await;
    guarded.names(WRITE, &body("parent_commit_id", json!(ID)), "parent_commit_id", &["no commit of this scope"]).await;
    guarded.end().await;
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() {
    let guarded = Guarded::start().await;
    let request = json!({
        "actor": 1, "memory_lane": "x", "auto_embed": "yes",
        "nodes": [{ "type": "event", "salience": 2, "title": "" }, {}, 3],
        "edges": [{ "type": "part_of", "src": {}, "dst": { "id": "x" }, "weight": null }],
    });
    let issues = guarded.refused(WRITE, request.to_string(), "many").await;
    let mut paths: Vec<&str> = issues.iter().map(|issue| issue.0.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "",
            "actor",
            "auto_embed",
            "edges.0.dst.id",
            "edges.0.src",
            "edges.0.weight",
            "memory_lane",
            "nodes.0.salience",
            "nodes.0.title",
            "nodes.1.type",
            "nodes.2",
        ]
    );
    guarded.end().await;
}

//! The checks of the contract see what they are there for.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use serde_json::{Value, json};

use super::{Table, document::Document, judge};
use crate::harness::{Answer, WRITE};

fn answer(status: u16, body: &Value) -> Answer {
    let mut headers = HeaderMap::new();
    for (name, value) in [("content-type", "application/json"), ("x-request-id", "one")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from(body.to_string()) }
}

fn written() -> Value {
    json!({
        "tenant_id": "default", "scope": "demo", "commit_id": "56e90621-99b5-5cde-b8aa-111e9e865731",
        "commit_hash": "x", "nodes": [], "edges": [], "commit_seq": 1, "replayed": false,
    })
}

fn faults(answer: &Answer) -> Vec<String> {
    Document::new().faults(WRITE, "post", answer)
}

#[test]
fn an_answer_that_is_not_as_documented_is_a_fault() {
    assert_eq!(faults(&answer(200, &written())), Vec::<String>::new());
    let spoiled = |change: fn(&mut Value)| {
        let mut body = written();
        change(&mut body);
        answer(200, &body)
    };
    for (what, answer) in [
        ("a member that is not documented", spoiled(|body| body["more"] = json!(1))),
        ("a member of another type", spoiled(|body| body["commit_seq"] = json!("1"))),
        ("a member that is missing", spoiled(|body| super::cases::remove(body, "/replayed"))),
        ("an unknown status of a node", spoiled(|body| body["nodes"] = json!([{ "status": "kept" }]))),
        ("a status that is not documented", answer(418, &json!({}))),
        ("a code of another route", answer(400, &json!({ "error": "no_tools_allowed", "message": "x" }))),
        ("a code of another status", answer(409, &json!({ "error": "invalid_scope", "message": "x" }))),
        ("a refusal without message", answer(400, &json!({ "error": "invalid_scope" }))),
        ("issues with another code", answer(400, &json!({ "error": "invalid_scope", "issues": [] }))),
        ("429 without retry-after", answer(429, &json!({ "error": "write_backpressure", "message": "x" }))),
    ] {
        assert!(!faults(&answer).is_empty(), "{what}");
    }
    let mut text = answer(200, &written());
    text.headers.insert("content-type", HeaderValue::from_static("text/plain"));
    assert!(faults(&text)[0].contains("media type"));
    let mut anonymous = answer(200, &written());
    anonymous.headers.remove("x-request-id");
    assert!(faults(&anonymous)[0].contains("x-request-id"));
}

#[test]
fn a_schema_and_a_reader_that_disagree_are_a_fault() {
    let (good, bad) = (json!({ "input_text": "x" }), json!({ "input_text": 7 }));
    let issues = json!({ "error": "invalid_request", "issues": [{ "path": "", "message": "x" }] });
    let (accepted, refused) = (answer(200, &written()), answer(400, &issues));
    for (body, answer, agree) in
        [(&good, &accepted, true), (&bad, &refused, true), (&good, &refused, false), (&bad, &accepted, false)]
    {
        let mut table = Table::default();
        judge(&mut table, &mut Document::new(), (WRITE, "case"), body, answer);
        assert_eq!(table.faults.is_empty(), agree, "{body}: {:?}", table.faults);
        assert_eq!(std::panic::catch_unwind(|| table.assert_sound()).is_ok(), agree);
    }
}

#[test]
fn our_own_bounds_are_judged() {
    let mut document = Document::new();
    let mut refused = |body: Value| document.refuses(WRITE, &body).is_some();
    let actor = |actor: String| json!({ "input_text": "x", "actor": actor });
    assert!(!refused(actor("é".repeat(256))) && refused(actor("é".repeat(257))), "bytes, not characters");
    let nested = |levels: usize| {
        let slots = (1..levels).fold(json!(1), |inner, _| json!([inner]));
        json!({ "input_text": "x", "nodes": [{ "type": "event", "slots": { "x": slots } }] })
    };
    assert!(!refused(nested(64)) && refused(nested(65)));
    assert!(refused(json!({ "input_text": "x", "unheard_of": ["a\0"] })));
    assert!(!refused(json!({ "input_text": "x", "unheard_of": ["a\\u0000"] })));
    let scope = |scope: String| json!({ "input_text": "x", "scope": scope });
    assert!(!refused(scope(format!(" {} ", "é".repeat(128)))) && refused(scope("é".repeat(129))));
}

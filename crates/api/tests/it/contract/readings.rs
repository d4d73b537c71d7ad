//! Answers of readings and of forgetting are as documented, good ones and refusals.

use std::sync::Arc;

use axum::body::Body;
use serde_json::{Value, json};

use super::{
    document::Document,
    told,
    world::{World, setup},
};
use crate::harness::{RECALL_TEXT, Service, WRITE};

const FIND: &str = "/v1/memory/find";
const FORGET: &str = "/v1/memory/forget";
const NODE: &str = "/v1/memory/nodes/{id}";
const HISTORY: &str = "/v1/memory/nodes/{id}/history";
const COMMIT: &str = "/v1/memory/commits/{id}";
const REPLAY: &str = "/v1/memory/decisions/{id}/replay";

struct Told {
    world: World,
    document: Document,
}

impl Told {
    fn judge(&mut self, (path, method): (&str, &str), wanted: (u16, &str), answer: &crate::harness::Answer) -> Value {
        let got = told(answer);
        assert_eq!((got.0, got.1.as_str()), wanted, "{path}: {}", answer.text());
        assert_eq!(self.document.faults(path, method, answer), Vec::<String>::new(), "{path}: {}", answer.text());
        answer.json()
    }

    async fn post(&mut self, path: &str, body: Value, wanted: (u16, &str)) -> Value {
        let answer = self.world.post(path, &[], &body).await;
        self.judge((path, "post"), wanted, &answer)
    }

    async fn get(&mut self, path: &str, query: &str, wanted: (u16, &str)) -> Value {
        let answer = self.world.send("get", &format!("{path}?{query}"), &[], Body::empty()).await;
        self.judge((path, "get"), wanted, &answer)
    }
}

async fn all_answers(service: Service) {
    let world = World::new(service).await;
    let mut told = Told { world, document: Document::new() };
    let again = json!({ "client_id": "guest-4", "type": "entity", "memory_lane": "shared", "title": "later" });
    told.post(WRITE, json!({ "input_text": "x", "nodes": [again] }), (200, "")).await;
    for shows in ["include_meta", "include_slots", "include_slots_preview"] {
        let mut body = json!({ "limit": 1 });
        body[shows] = json!(true);
        let found = told.post(FIND, body, (200, "")).await;
        assert!(found["next_cursor"].is_string());
    }
    told.post(FIND, json!({ "as_of": 999 }), (404, "commit_not_found")).await;
    told.post(RECALL_TEXT, json!({ "query_text": "note", "as_of": 999 }), (404, "commit_not_found")).await;
    told.post(RECALL_TEXT, json!({ "query_text": "note", "as_of": 1 }), (200, "")).await;
    told.get(NODE, "as_of=1", (200, "")).await;
    told.get(NODE, "as_of=2001-01-01T00:00:00Z", (404, "commit_not_found")).await;
    assert_eq!(told.get(HISTORY, "limit=1", (200, "")).await["next_before"], 2);
    assert_eq!(told.get("/v1/memory/commits", "limit=1", (200, "")).await["next_before"], 3);
    told.get(COMMIT, "", (200, "")).await;
    told.post("/v1/memory/verify", json!({}), (200, "")).await;
    told.post("/v1/memory/verify", json!({ "scope": "unheard-of" }), (404, "scope_not_found")).await;

    let (guest, rule) = (told.world.guest.clone(), told.world.rule.clone());
    let named = json!({ "node_ids": [guest, rule] });
    let look = told.post(FORGET, named.clone(), (200, "")).await;
    let with = |token: &Value| json!({ "node_ids": [guest, rule], "confirmation_token": token });
    told.post(FORGET, with(&json!("0".repeat(64))), (409, "forget_selection_changed")).await;
    let done = told.post(FORGET, with(&look["confirmation_token"]), (200, "")).await;
    assert_eq!((&done["nodes"], &done["versions"], &done["dry_run"]), (&json!(2), &json!(1), &json!(false)));
    told.post(FORGET, named, (404, "forget_no_resolved_nodes")).await;
    told.get(NODE, "", (410, "erased")).await;
    told.get(HISTORY, "", (410, "erased")).await;
    let listed = told.post(FIND, json!({ "ids": [guest] }), (200, "")).await;
    assert_eq!(listed["erased"].as_array().unwrap().len(), 1);
    told.post(REPLAY, json!({}), (410, "erased")).await;
    let commit = told.get("/v1/memory/commits", "limit=1", (200, "")).await["commits"][0]["seq"].clone();
    let answer = told.world.service.get(&format!("/v1/memory/commits/{commit}")).await;
    let changes = told.judge((COMMIT, "get"), (200, ""), &answer);
    assert!(changes["changes"].as_array().unwrap().iter().all(|change| change["op"] == "erase"), "{changes}");
    told.world.service.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_readings_are_as_documented() {
    all_answers(Service::with(setup)).await;
    all_answers(Service::on_postgres_with(setup).await).await;
}

/// Verifications at once: one is done, and the others are told to come back.
#[tokio::test(flavor = "multi_thread")]
async fn one_verification_at_a_time() {
    let world = Arc::new(World::new(Service::with(setup)).await);
    let mut document = Document::new();
    let (mut done, mut refused) = (0, 0);
    // Which of them meet is up to the scheduler; sooner or later some do.
    while refused == 0 || done == 0 {
        let many = (0..16).map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.post("/v1/memory/verify", &[], &json!({})).await })
        });
        for answer in many.collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            match told(&answer) {
                (200, _) => done += 1,
                (429, code) if code == "verify_in_progress" => refused += 1,
                _ => panic!("{}", answer.text()),
            }
            assert_eq!(document.faults("/v1/memory/verify", "post", &answer), Vec::<String>::new());
        }
    }
}

//! Sending a write again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Service, WRITE, event, writing, writing_to};

async fn send(service: &Service, headers: &[(&str, &str)], body: &Value) -> Answer {
    service.post_with(WRITE, headers, body).await
}

/// The answer without what may differ between a write and its repetition.
fn outcome(answer: &Value) -> Value {
    let mut outcome = answer.clone();
    outcome.as_object_mut().unwrap().remove("replayed");
    outcome
}

#[tokio::test]
async fn a_write_repeated_by_its_key_has_one_effect_and_one_answer() {
    let service = Service::start();
    let body = writing(&[event("e1", "one")]);
    let key = [("idempotency-key", " k-1 ")];
    let first = send(&service, &key, &body).await.ok();
    service.write(&writing(&[event("e1", "changed since")])).await;
    service.clock.advance(Duration::from_secs(5));
    let stored = service.stored().await;
    let second = send(&service, &key, &body).await.ok();
    assert_eq!((&first["replayed"], &second["replayed"]), (&json!(false), &json!(true)));
    assert_eq!(outcome(&first), outcome(&second), "the answer of then, although the node changed since");
    assert_eq!(service.stored().await, stored);
}

#[tokio::test]
async fn a_key_used_for_another_body_is_a_conflict() {
    let service = Service::start();
    let key = [("idempotency-key", "k-1")];
    send(&service, &key, &writing(&[event("e1", "one")])).await.ok();
    let stored = service.stored().await;
    let refused = send(&service, &key, &writing(&[event("e1", "two")])).await;
    assert_eq!(refused.refusal(), (409, "idempotency_key_reused".to_owned()));
    assert_eq!(service.stored().await, stored);
    let elsewhere = send(&service, &key, &writing_to("other", &[event("e1", "two")])).await;
    assert_eq!(elsewhere.ok()["replayed"], false, "keys are per scope");
}

#[tokio::test]
async fn a_refused_write_does_not_use_up_its_key() {
    let service = Service::start();
    let key = [("idempotency-key", "k-1")];
    let mut bad = writing(&[event("e1", "one")]);
    bad["edges"] = json!([{ "type": "part_of", "src": { "client_id": "e1" }, "dst": { "client_id": "gone" } }]);
    assert_eq!(send(&service, &key, &bad).await.status.as_u16(), 400);
    assert_eq!(send(&service, &key, &writing(&[event("e1", "one")])).await.ok()["replayed"], false);
}

#[tokio::test]
async fn a_request_id_repeats_an_equal_request_and_lets_another_pass() {
    let service = Service::start();
    let id = [("x-request-id", "r-1")];
    let body = writing(&[event("e1", "one")]);
    let first = send(&service, &id, &body).await.ok();
    service.write(&writing(&[event("e1", "changed since")])).await;
    let again = send(&service, &id, &body).await.ok();
    assert_eq!((&again["replayed"], &again["commit_id"]), (&json!(true), &first["commit_id"]));
    let other = send(&service, &id, &writing(&[event("e2", "two")])).await.ok();
    assert_eq!(
        (&other["replayed"], &other["commit_seq"]),
        (&json!(false), &json!(3)),
        "an id correlates, it promises nothing"
    );
}

#[tokio::test]
async fn the_key_wins_over_the_request_id() {
    let service = Service::start();
    let body = writing(&[event("e1", "one")]);
    send(&service, &[("idempotency-key", "k"), ("x-request-id", "r")], &body).await.ok();
    let refused =
        send(&service, &[("idempotency-key", "k"), ("x-request-id", "r")], &writing(&[event("e2", "two")])).await;
    assert_eq!(refused.refusal().0, 409);
    let key_named_like_an_id = send(&service, &[("idempotency-key", "r")], &writing(&[event("e3", "three")])).await;
    assert_eq!(key_named_like_an_id.ok()["replayed"], false, "keys and request ids do not mix");
}

#[tokio::test]
async fn a_header_of_the_inside_cannot_be_sent() {
    let service = Service::start();
    let inside = [("aionis-client-request-id", "r-1")];
    send(&service, &inside, &writing(&[event("e1", "one")])).await.ok();
    service.write(&writing(&[event("e1", "changed since")])).await;
    let again = send(&service, &inside, &writing(&[event("e1", "one")])).await.ok();
    assert_eq!((&again["replayed"], &again["nodes"][0]["status"]), (&json!(false), &json!("updated")));
}

#[tokio::test]
async fn without_any_key_an_equal_write_is_one_commit() {
    let service = Service::start();
    let mut body = writing(&[event("a", "one"), event("b", "two")]);
    body["edges"] = json!([{ "type": "part_of", "src": { "client_id": "a" }, "dst": { "client_id": "b" } }]);
    let first = service.write(&body).await;
    let second = service.write(&body).await;
    assert_eq!((&second["commit_id"], &second["replayed"]), (&first["commit_id"], &json!(true)));
    for item in second["nodes"].as_array().unwrap().iter().chain(second["edges"].as_array().unwrap()) {
        assert_eq!(item["status"], "unchanged");
    }
    assert_eq!(service.stored().await.commits(), 1);

    let mut relabelled = body.clone();
    relabelled["actor"] = json!("someone else");
    let third = service.write(&relabelled).await;
    assert_eq!(
        (&third["commit_seq"], &third["replayed"]),
        (&json!(2), &json!(false)),
        "another request is another commit"
    );
    assert_eq!(third["nodes"][0]["status"], "unchanged");
}

#[tokio::test]
async fn going_back_to_an_earlier_content_is_an_update() {
    let service = Service::start();
    let (one, two) = (writing(&[event("e1", "one")]), writing(&[event("e1", "two")]));
    for (body, status, seq) in
        [(&one, "created", 1), (&two, "updated", 2), (&one, "updated", 3), (&one, "unchanged", 3)]
    {
        let written = service.write(body).await;
        assert_eq!((&written["nodes"][0]["status"], &written["commit_seq"]), (&json!(status), &json!(seq)));
    }
    service.assert_sound().await;
}

#[tokio::test]
async fn equal_writes_at_the_same_time_are_one_commit() {
    let service = Service::start();
    let body = writing(&[event("e1", "one")]);
    let key = [("idempotency-key", "k")];
    let sends = [&body; 4].map(|body| send(&service, &key, body));
    let [a, b, c, d] = sends;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let answers = [a, b, c, d].map(|answer| answer.ok());
    assert_eq!(answers.iter().filter(|answer| answer["replayed"] == false).count(), 1);
    assert!(answers.iter().all(|answer| answer["commit_id"] == answers[0]["commit_id"]));
    assert_eq!(service.stored().await.commits(), 1);
}

#[tokio::test]
async fn keys_that_are_none_are_refused() {
    let service = Service::start();
    let body = writing(&[event("e1", "one")]);
    for key in ["", "   ", &"k".repeat(256)] {
        let refused = send(&service, &[("idempotency-key", key)], &body).await;
        assert_eq!(refused.refusal(), (400, "invalid_idempotency_key".to_owned()), "{key:?}");
    }
    assert_eq!(service.stored().await.commits(), 0);
    send(&service, &[("idempotency-key", &"k".repeat(255))], &body).await.ok();
    send(&service, &[("x-request-id", &"r".repeat(5_000))], &body).await.ok();
}

//! Bodies share a budget of bytes, and have to keep coming.

use std::{convert::Infallible, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::oneshot;

use super::{gate, until};
use crate::harness::{Answer, RECALL_TEXT, Service, Setup, WRITE, event, writing};

/// A body whose first piece comes at once and whose rest comes when it is told.
fn in_two(text: &str) -> (Body, oneshot::Sender<()>) {
    let (rest, told) = oneshot::channel::<()>();
    let (first, second) =
        (Bytes::copy_from_slice(&text.as_bytes()[..10]), Bytes::copy_from_slice(&text.as_bytes()[10..]));
    let second = stream::once(async move {
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
        second
    });
    (Body::from_stream(stream::iter([first]).chain(second).map(Ok::<_, Infallible>)), rest)
}

fn post(service: &Arc<Service>, path: &'static str, body: Body) -> tokio::task::JoinHandle<Answer> {
    let service = Arc::clone(service);
    tokio::spawn(async move { service.post_raw(path, &[], body).await })
}

fn impatient(setup: &mut Setup) {
    setup.api.body_max_bytes = 1_000;
    setup.body_bytes_max = 1_000;
    setup.recall_gate.queue_timeout = Duration::from_millis(1);
}

#[tokio::test]
async fn bodies_over_the_budget_are_refused_and_it_comes_back() {
    let service = Arc::new(Service::with(impatient));
    let note = writing(&[event("e", "herons in the reeds")]).to_string();
    // Its length is not said: it may become the longest.
    let (body, rest) = in_two(&note);
    let slow = post(&service, WRITE, body);
    until(|| service.bodies.held_bytes() == 1_000).await;
    let refused = service.post(RECALL_TEXT, &json!({ "query_text": "herons" })).await;
    assert_eq!(refused.refusal(), (429, "body_backpressure".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["details"]["bytes_max"], 1_000);
    rest.send(()).unwrap();
    slow.await.unwrap().ok();
    assert_eq!(service.bodies.held_bytes(), 0);
    service.ask("herons").await;
}

#[tokio::test]
async fn a_body_counts_with_its_own_length_until_its_request_is_answered() {
    let service = Arc::new(Service::with(|setup| setup.write_gate = gate(1, 5)));
    let place = service.engine.write_gate().enter("default").await.unwrap();
    let note = writing(&[event("e", "herons in the reeds")]).to_string();
    let (said, length) = (note.clone(), note.len());
    let waiting = [post(&service, WRITE, said.into()), post(&service, WRITE, in_two_now(&note))];
    until(|| service.engine.write_gate().load() == (1, 2)).await;
    assert_eq!(service.bodies.held_bytes(), 2 * length);
    drop(place);
    for waiting in waiting {
        waiting.await.unwrap().ok();
    }
    assert_eq!(service.bodies.held_bytes(), 0);
}

/// A body of unknown length that comes at once.
fn in_two_now(text: &str) -> Body {
    let (body, rest) = in_two(text);
    rest.send(()).unwrap();
    body
}

#[tokio::test]
async fn who_goes_away_gives_its_bytes_back() {
    let service = Arc::new(Service::with(impatient));
    let (body, _rest) = in_two(&writing(&[]).to_string());
    let gone = post(&service, WRITE, body);
    until(|| service.bodies.held_bytes() == 1_000).await;
    gone.abort();
    until(|| service.bodies.held_bytes() == 0).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_not_waited_for() {
    let service = Arc::new(Service::with(|setup| setup.api.body_pause_max = Duration::from_millis(20)));
    let (body, _rest) = in_two(&writing(&[]).to_string());
    let answer = post(&service, WRITE, body).await.unwrap();
    assert_eq!(answer.refusal(), (408, "body_too_slow".to_owned()));
    assert_eq!(answer.json()["details"], json!({ "received_bytes": 10 }));
    assert_eq!(service.bodies.held_bytes(), 0);
}

#[tokio::test]
async fn a_body_that_only_drips_is_not_waited_for() {
    let service = Service::with(|setup| setup.api.body_pause_max = Duration::from_millis(60));
    let mut every = tokio::time::interval(Duration::from_millis(5));
    // Never a long pause, and never an end.
    let drops = stream::poll_fn(move |context| {
        let mut tick = pin!(every.tick());
        match tick.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(Some(Ok::<_, Infallible>(Bytes::from_static(b" ")))),
            Poll::Pending => Poll::Pending,
        }
    });
    let answer = service.post_raw(WRITE, &[], Body::from_stream(drops)).await;
    assert_eq!(answer.refusal(), (408, "body_too_slow".to_owned()));
    assert!(answer.json()["details"]["received_bytes"].as_u64().unwrap() > 1);
}

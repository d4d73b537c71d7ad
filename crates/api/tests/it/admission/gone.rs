//! Places are given back when the client closes its connection, is too slow, or a handler panics.

use std::{net::SocketAddr, sync::Arc};

use aionis_testkit::fixtures::{Reply, ScriptedEmbedder};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{gate, until};
use crate::harness::{DIM, RECALL_TEXT, Service, Vectors, WRITE, event, writing};

/// A connection on which a request was sent.
async fn sent(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_closes_while_it_waits_leaves_the_queue() {
    let service = Service::with(|setup| setup.write_gate = gate(1, 5));
    let address = service.listen().await;
    let held = service.engine.write_gate().enter("default").await.unwrap();
    let stream = sent(address, WRITE, &writing(&[event("e", "one")])).await;
    until(|| service.engine.write_gate().load() == (1, 1)).await;
    drop(stream);
    until(|| service.engine.write_gate().load() == (1, 0)).await;
    drop(held);
    assert_eq!(service.stored().await.commits(), 0, "what nobody waits for is not begun");
}

#[tokio::test]
async fn a_client_that_closes_during_the_work_gives_its_place_to_the_next() {
    let embedder = Arc::new(ScriptedEmbedder::new(DIM));
    let (stalled, release) = Reply::stalled();
    embedder.then(stalled);
    let service = Service::with(|setup| {
        setup.recall_gate = gate(1, 5);
        setup.vectors = Vectors::From(Arc::clone(&embedder) as _);
    });
    let address = service.listen().await;
    let stream = sent(address, RECALL_TEXT, &json!({ "query_text": "who works for ever?" })).await;
    until(|| !embedder.calls().is_empty()).await;
    assert_eq!(service.engine.recall_gate().load(), (1, 0));
    let question = json!({ "query_text": "who is next?" });
    let next = service.post(RECALL_TEXT, &question);
    let closes = async {
        until(|| service.engine.recall_gate().load() == (1, 1)).await;
        drop(stream);
    };
    let (next, ()) = tokio::join!(next, closes);
    next.ok();
    assert_eq!(service.engine.recall_gate().load(), (0, 0));
    release.notify_one();
}

#[tokio::test]
async fn a_request_over_its_time_gives_its_place_back() {
    let embedder = Arc::new(ScriptedEmbedder::new(DIM));
    let (stalled, release) = Reply::stalled();
    embedder.then(stalled);
    let service = Service::with(|setup| {
        setup.recall_gate = gate(1, 0);
        setup.vectors = Vectors::From(Arc::clone(&embedder) as _);
        setup.api.request_timeout = std::time::Duration::from_millis(50);
    });
    let answer = service.post(RECALL_TEXT, &json!({ "query_text": "who works for ever?" })).await;
    assert_eq!(answer.refusal(), (503, "deadline_exceeded".to_owned()));
    // If the store was still reading for it, the place is given back when it is done.
    until(|| service.engine.recall_gate().load() == (0, 0)).await;
    release.notify_one();
}

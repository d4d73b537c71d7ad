//! A place at the gate is taken until the store is done with the work, also when its client has gone or its time is over.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{gate, until};
use crate::harness::{Service, WRITE, event, writing};

const WRITES: usize = 6;

fn note(number: usize) -> Value {
    writing(&[event(&format!("note-{number}"), &format!("heron {number} stood in the reeds"))])
}

/// While the store cannot write, so many clients ask it to and stop waiting, half of them because they go away. `release`
/// lets the store go on.
async fn clients_go_away(service: Arc<Service>, release: impl FnOnce()) {
    let gate = service.engine.write_gate();
    let clients: Vec<_> = (0..WRITES)
        .map(|number| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { service.post(WRITE, &note(number)).await })
        })
        .collect();
    until(|| gate.load() == (WRITES, 0)).await;
    clients.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
    for (number, client) in clients.into_iter().enumerate() {
        match client.await {
            Err(gone) => assert!(number % 2 == 0 && gone.is_cancelled()),
            Ok(answer) => assert_eq!(answer.refusal(), (503, "deadline_exceeded".to_owned())),
        }
    }
    assert_eq!(gate.load(), (WRITES, 0), "nobody waits any more, but the store has all of it to do");
    assert!(service.bodies.held_bytes() > 0, "and the bodies are still in memory");
    let refused = service.post(WRITE, &note(WRITES)).await;
    assert_eq!(refused.refusal(), (429, "write_backpressure".to_owned()), "no line grows behind the gate");
    release();
    until(|| gate.load() == (0, 0)).await;
    assert_eq!(service.bodies.held_bytes(), 0);
    assert_eq!(service.stored().await.commits(), WRITES as u64, "what was begun is finished");
    service.assert_sound().await;
    // Sent again until it is there: a machine that stands still may use up the short time of a request.
    until_written(&service, &note(WRITES)).await;
}

async fn until_written(service: &Service, body: &Value) {
    for _ in 0..100 {
        let answer = service.post(WRITE, body).await;
        if answer.status.as_u16() == 200 {
            return;
        }
        assert_eq!(answer.refusal().0, 503, "{}", answer.text());
    }
    panic!("no write came through");
}

fn narrow(setup: &mut crate::harness::Setup) {
    setup.write_gate = gate(WRITES, 0);
    setup.api.request_timeout = Duration::from_millis(300);
}

#[tokio::test]
async fn a_place_stays_taken_until_the_writing_thread_is_done() {
    let service = Arc::new(Service::with(narrow));
    let other = rusqlite::Connection::open(service.data_dir().join(aionis_store::sqlite::DATABASE_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    clients_go_away(service, || other.execute_batch("ROLLBACK").unwrap()).await;
}

#[tokio::test]
async fn a_place_stays_taken_until_postgres_is_done() {
    let service = Arc::new(Service::on_postgres_with(narrow).await);
    // Writes wait for it, whatever they do first.
    let lock = service.database().hold("BEGIN; LOCK TABLE memory_scopes IN ACCESS EXCLUSIVE MODE").await;
    clients_go_away(service, || drop(lock)).await;
}

//! Waiting for a commit takes no place at the gate, and has a bound of its own.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{gate, until};
use crate::harness::{Answer, RECALL_TEXT, Service, event, writing};

fn asking(tenant: &str, min_commit: u64) -> Value {
    json!({ "tenant_id": tenant, "query_text": "herons", "min_commit": min_commit, "max_wait_ms": 10_000 })
}

fn ask(service: &Arc<Service>, body: Value) -> tokio::task::JoinHandle<Answer> {
    let service = Arc::clone(service);
    tokio::spawn(async move { service.post(RECALL_TEXT, &body).await })
}

#[tokio::test]
async fn who_waits_for_a_commit_holds_no_place() {
    let service = Arc::new(Service::with(|setup| {
        setup.recall_gate = gate(1, 0);
        setup.commit_waiters_max = 4;
    }));
    let waiting = [ask(&service, asking("default", 1)), ask(&service, asking("default", 1))];
    until(|| service.engine.commit_waiters() == 2).await;
    assert_eq!(service.engine.recall_gate().load(), (0, 0));
    // The one place is free for those who wait for nothing, and for a commit that is there.
    service.ask("herons").await;
    let refused = service.post(RECALL_TEXT, &asking("default", 1)).await;
    assert_eq!(refused.refusal(), (429, "commit_waiters_full".to_owned()), "half is for others");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["details"], json!({ "waiting": 2, "max": 2 }));
    let other = ask(&service, asking("other", 1));
    until(|| service.engine.commit_waiters() == 3).await;
    other.abort();
    until(|| service.engine.commit_waiters() == 2).await;

    let written = service.write(&writing(&[event("e", "herons in the reeds")])).await;
    assert_eq!(written["commit_seq"], 1);
    for waiting in waiting {
        let answer = waiting.await.unwrap();
        // Both come at once to a gate with one place and no queue.
        assert!(answer.status == 200 || answer.refusal().1 == "recall_backpressure", "{answer:?}");
        if answer.status == 200 {
            assert_eq!(answer.json()["as_of_commit"], 1);
        }
    }
    assert_eq!(service.engine.commit_waiters(), 0);
}

#[tokio::test]
async fn a_commit_that_is_there_is_waited_for_by_nobody() {
    let service = Arc::new(Service::with(|setup| setup.commit_waiters_max = 1));
    service.write(&writing(&[event("e", "herons in the reeds")])).await;
    // From here on the head is known without a look into the database.
    service.ask("herons").await;
    let waiting = ask(&service, asking("default", 2));
    until(|| service.engine.commit_waiters() == 1).await;
    service.post(RECALL_TEXT, &asking("default", 1)).await.ok();
    let broken = json!({ "query_embedding": [1.0], "min_commit": 2, "max_wait_ms": 10_000 });
    let refused = service.post(crate::harness::RECALL, &broken).await;
    assert_eq!(refused.refusal(), (400, "invalid_request".to_owned()), "before anything is waited for");
    waiting.abort();
}

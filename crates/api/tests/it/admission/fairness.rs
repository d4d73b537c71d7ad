//! A noisy tenant and a quiet one at a small gate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::gate;
use crate::harness::{RECALL_TEXT, Service, event, recorder, writing_to};

const NOISY: usize = 40;
const QUIET_REQUESTS: usize = 40;
/// How many noisy requests are turned away before each quiet one: 20 times its load, and a line that is full when it comes.
const TURNED_AWAY: usize = 20;

fn recall(tenant: &str) -> Value {
    json!({ "tenant_id": tenant, "scope": "s", "query_text": "herons in the reeds" })
}

/// Recalls without end until told to stop; returns how many were answered and refused.
async fn noise(service: Arc<Service>, stop: Arc<AtomicBool>, tally: Arc<[AtomicUsize; 2]>) {
    while !stop.load(Ordering::Relaxed) {
        let answer = service.post(RECALL_TEXT, &recall("noisy")).await;
        let refused = answer.status.as_u16() == 429;
        assert!(refused || answer.status.as_u16() == 200, "{}", answer.text());
        tally[usize::from(refused)].fetch_add(1, Ordering::Relaxed);
        if refused {
            tokio::task::yield_now().await;
        }
    }
}

/// Forty noisy clients against one quiet one, two places and a queue of sixteen: the quiet one is never refused, and waits
/// for about one turn of the noisy tenant, however long its line is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_tenant_does_not_starve_a_quiet_one() {
    recorder();
    let service = Arc::new(Service::with(|setup| setup.recall_gate = gate(2, 16)));
    for tenant in ["noisy", "quiet"] {
        let nodes: Vec<Value> =
            (0..50).map(|n| event(&format!("e{n}"), &format!("heron {n} stood in the reeds"))).collect();
        let mut body = writing_to("s", &nodes);
        body["tenant_id"] = json!(tenant);
        service.write(&body).await;
    }
    service.drain().await;
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
    let noisy: Vec<_> =
        (0..NOISY).map(|_| tokio::spawn(noise(Arc::clone(&service), Arc::clone(&stop), Arc::clone(&tally)))).collect();
    let (mut noisy_between, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    for request in 0..QUIET_REQUESTS {
        let full = tally[1].load(Ordering::Relaxed) + TURNED_AWAY;
        while tally[1].load(Ordering::Relaxed) < full {
            assert!(Instant::now() < deadline, "the noisy line was not full before request {request}");
            tokio::task::yield_now().await;
        }
        let before = tally[0].load(Ordering::Relaxed);
        let answer = service.post(RECALL_TEXT, &recall("quiet")).await;
        assert_eq!(answer.status.as_u16(), 200, "request {request}: {}", answer.text());
        noisy_between.push(tally[0].load(Ordering::Relaxed) - before);
        assert!(Instant::now() < deadline, "only {request} quiet requests in time");
    }
    stop.store(true, Ordering::Relaxed);
    for task in noisy {
        task.await.unwrap();
    }
    noisy_between.sort_unstable();
    // Two places at work, one turn before it, and those that end while it is answered; a single line would be sixteen.
    let median = noisy_between[QUIET_REQUESTS / 2];
    assert!(median <= 8, "noisy requests answered during a quiet one: {noisy_between:?}");
    assert_eq!(service.engine.recall_gate().load(), (0, 0));
}

use std::sync::atomic::{AtomicI64, Ordering};

use aionis_core::{
    clock::Timestamp,
    recall::{Adaptive, AdaptiveReason, Profile},
};
use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::*;

/// A clock that stands still until it is moved.
#[derive(Default)]
struct Still(AtomicI64);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

impl Still {
    fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(i64::try_from(ms).unwrap() * 1_000, Ordering::SeqCst);
    }
}

fn timed(clock: &Arc<Still>, max_inflight: usize, max_queue: usize, timeout_ms: u64) -> Arc<Gate> {
    let queue_timeout = Duration::from_millis(timeout_ms);
    let settings = GateSettings { max_inflight, max_queue, queue_timeout };
    Arc::new(Gate::new("write", settings, Arc::clone(clock) as Arc<dyn Clock>))
}

fn gate(max_inflight: usize, max_queue: usize, timeout_ms: u64) -> Arc<Gate> {
    timed(&Arc::default(), max_inflight, max_queue, timeout_ms)
}

/// Somebody who comes, and waits if need be.
fn coming(gate: &Arc<Gate>, tenant: impl Into<String>) -> JoinHandle<Result<Permit, DomainError>> {
    let (gate, tenant) = (Arc::clone(gate), tenant.into());
    tokio::spawn(async move { gate.enter(&tenant).await })
}

async fn until_load(gate: &Gate, load: (usize, usize)) {
    while gate.load() != load {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_more_than_the_queue_holds_is_refused() {
    let gate = gate(1, 0, 1000);
    let held = gate.enter("a").await.unwrap();
    let refused = gate.enter("b").await.err().unwrap();
    assert_eq!((refused.code, refused.kind), ("write_backpressure", ErrorKind::TooManyRequests));
    let details = json!({ "inflight": 1, "queued": 0, "max_inflight": 1, "max_queue": 0 });
    assert_eq!((refused.details, refused.retry_after), (Some(details), Some(Duration::from_secs(1))));
    drop(held);
    gate.enter("a").await.unwrap();
}

#[tokio::test]
async fn a_wait_too_long_is_refused_and_leaves_the_queue() {
    let gate = gate(1, 5, 10);
    let _held = gate.enter("a").await.unwrap();
    let refused = gate.enter("a").await.err().unwrap();
    let details = refused.details.unwrap();
    assert_eq!((&details["queue_timeout_ms"], &details["wait_ms"]), (&json!(10), &json!(0)), "the clock stands still");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(gate.load(), (1, 0));
}

#[tokio::test]
async fn a_waiter_that_goes_away_gives_its_place_back() {
    let gate = gate(1, 1, 60_000);
    let held = gate.enter("a").await.unwrap();
    let waiter = coming(&gate, "a");
    until_load(&gate, (1, 1)).await;
    waiter.abort();
    let _ = waiter.await;
    assert_eq!(gate.load(), (1, 0));
    drop(held);
    gate.enter("a").await.unwrap();
}

#[tokio::test]
async fn a_place_handed_to_somebody_who_just_left_goes_to_the_next() {
    let gate = gate(1, 5, 60_000);
    let held = gate.enter("a").await.unwrap();
    let (leaves, stays) = (coming(&gate, "a"), coming(&gate, "a"));
    until_load(&gate, (1, 2)).await;
    // Both in one step: the place is on its way when its receiver goes.
    drop(held);
    leaves.abort();
    assert!(leaves.await.is_err());
    let permit = stays.await.unwrap().unwrap();
    assert_eq!(gate.load(), (1, 0));
    drop(permit);
    assert_eq!(gate.load(), (0, 0));
}

#[tokio::test]
async fn a_panic_gives_the_place_back() {
    let gate = gate(1, 0, 60_000);
    let panicked = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move {
            let _permit = gate.enter("a").await.unwrap();
            panic!("as a handler might");
        }
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(gate.load(), (0, 0));
}

#[tokio::test]
async fn a_full_queue_of_one_tenant_makes_room_for_another() {
    let gate = gate(1, 3, 60_000);
    let held = gate.enter("noisy").await.unwrap();
    let mut noisy = Vec::new();
    for queued in 1..=3 {
        noisy.push(coming(&gate, "noisy"));
        until_load(&gate, (1, queued)).await;
    }
    let quiet = coming(&gate, "quiet");
    let newest = noisy.pop().unwrap().await.unwrap().err().unwrap();
    assert_eq!(newest.code, "write_backpressure");
    assert_eq!(newest.details.unwrap(), json!({ "inflight": 1, "queued": 3, "max_inflight": 1, "max_queue": 3 }));
    assert_eq!(gate.enter("noisy").await.err().unwrap().code, "write_backpressure");
    drop(held);
    drop(noisy.remove(0).await.unwrap().unwrap());
    drop(quiet.await.unwrap().unwrap());
    drop(noisy.remove(0).await.unwrap().unwrap());
    assert_eq!(gate.load(), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { tenant: u8, pinned: bool },
    Leave,
    GiveUp(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..3, any::<bool>()).prop_map(|(tenant, pinned)| Step::Arrive { tenant, pinned }),
        3 => Just(Step::Leave),
        1 => (0usize..50).prop_map(Step::GiveUp),
        3 => (0u64..150).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..120)
}

struct Coming {
    since_ms: u64,
    pinned: bool,
    task: JoinHandle<Result<Permit, DomainError>>,
}

/// Lets every task go as far as it can: nothing waits for anything but the gate.
async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// Takes those in who have been admitted, checks how long they waited and what that means for their recall.
async fn take_in(coming: &mut Vec<Coming>, held: &mut Vec<Permit>, now_ms: u64) -> Result<usize, TestCaseError> {
    let (adaptive, mut refused) = (Adaptive::default(), 0);
    let mut at = 0;
    while at < coming.len() {
        if !coming[at].task.is_finished() {
            at += 1;
            continue;
        }
        let Coming { since_ms, pinned, task } = coming.remove(at);
        let Ok(permit) = task.await.unwrap() else {
            refused += 1;
            continue;
        };
        let waited_ms = now_ms - since_ms;
        prop_assert_eq!(permit.waited, Duration::from_millis(waited_ms));
        let decided = adaptive.decide(Profile::StrictEdges, pinned, permit.waited);
        let wanted = match (pinned, waited_ms >= 200) {
            (true, _) => (Profile::StrictEdges, AdaptiveReason::ExplicitKnobs),
            (false, false) => (Profile::StrictEdges, AdaptiveReason::WaitBelowThreshold),
            (false, true) => (Profile::Lean, AdaptiveReason::QueuePressure),
        };
        prop_assert_eq!((decided.profile, decided.reason), wanted);
        held.push(permit);
    }
    Ok(refused)
}

async fn drive(max_inflight: usize, max_queue: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = Arc::new(Still::default());
    let gate = timed(&clock, max_inflight, max_queue, 600_000);
    let (mut coming_in, mut held, mut now_ms): (Vec<Coming>, Vec<Permit>, u64) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        let (mut room, before) = (true, coming_in.len());
        match step {
            Step::Arrive { tenant, pinned } => {
                room = before < max_queue || held.len() < max_inflight;
                coming_in.push(Coming { since_ms: now_ms, pinned, task: coming(&gate, tenant.to_string()) });
            }
            Step::Leave => _ = held.pop(),
            Step::GiveUp(which) if before > 0 => {
                let gone = coming_in.remove(which % before);
                gone.task.abort();
                prop_assert!(gone.task.await.is_err());
            }
            Step::GiveUp(_) => {}
            Step::Pass(ms) => {
                clock.advance_ms(ms);
                now_ms += ms;
            }
        }
        settle().await;
        let refused = take_in(&mut coming_in, &mut held, now_ms).await?;
        prop_assert_eq!(refused, usize::from(!room), "one is refused exactly when there is no room");
        prop_assert_eq!(gate.load(), (held.len(), coming_in.len()));
        prop_assert!(held.len() == max_inflight || coming_in.is_empty(), "nobody waits while there is room");
    }
    while !held.is_empty() {
        held.pop();
        settle().await;
        take_in(&mut coming_in, &mut held, now_ms).await?;
    }
    prop_assert_eq!((gate.load(), coming_in.len()), ((0, 0), 0));
    Ok(())
}

proptest! {
    /// The gate over a clock that is moved by hand: waits are what the clock says, pinned requests keep their profile,
    /// others get a cheaper one exactly when they waited long, and no place is ever lost.
    #[test]
    fn gate_waits_decide_on_profiles(max_inflight in 1usize..4, max_queue in 0usize..6, steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(drive(max_inflight, max_queue, steps))?;
    }
}

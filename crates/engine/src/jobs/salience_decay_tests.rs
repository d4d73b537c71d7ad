//! Forgetting by tiers, over a store, on a clock that is set.

use std::sync::Arc;

use aionis_core::{
    clock::Clock,
    ids::NodeId,
    lifecycle::TierPolicy,
    model::Tier,
    operate::{NodeNames, Operation},
    ports::store::{
        IntegrityStore, LifecycleStore, OperateStore, ReadStore, RecallReader, Store, TierPage, WriteStore,
    },
};
use aionis_store::sqlite::{SqliteOptions, SqliteStore};
use aionis_testkit::{
    assert_sound,
    fixtures::{FakeClock, WriteBuilder, node_id, operation, scope},
};
use serde_json::{Value, json};

use super::*;
use crate::jobs::{NoProgress, RunOptions, Runner, Selection, TargetReport, TargetStatus};

const ONE_DAY: Duration = Duration::from_secs(86_400);
/// 40 hot nodes, 20 warm, 10 cold, of which every fourth is pinned.
const NODES: usize = 70;

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<FakeClock>,
    runner: Runner,
}

async fn place() -> Place {
    let (dir, clock) = (tempfile::tempdir().unwrap(), FakeClock::new());
    let store = Arc::new(SqliteStore::open(&SqliteOptions::new(dir.path()), clock.clone()).unwrap());
    let mut write = WriteBuilder::new(&scope("s"));
    for n in 0..NODES {
        write = write.node(&format!("n{n}"), &format!("text {n}")).with(|node| {
            node.tier = Some(if n < 40 {
                Tier::Hot
            } else if n < 60 {
                Tier::Warm
            } else {
                Tier::Cold
            });
            node.salience = Some(f64::from(u32::try_from(n % 10).unwrap()) / 100.0);
            node.slots = (n % 4 == 0).then(|| json!({ "pin": true }));
        });
    }
    store.write(write.prepared()).await.unwrap();
    let runner = Runner::new(Arc::clone(&store) as Arc<dyn Store>, clock.clone());
    Place { _dir: dir, store, clock, runner }
}

async fn run(place: &Place, policy: &TierPolicy, options: &RunOptions) -> TargetReport {
    let job = SalienceDecay::with_pages_of(policy.clone(), 7);
    let report = place.runner.run(&job, &Selection::default(), options, &NoProgress).await.unwrap();
    report.targets.into_iter().next().unwrap()
}

async fn tiers(place: &Place) -> Vec<(NodeId, Tier)> {
    let ids: Vec<NodeId> = (0..NODES).map(|n| node_id(&scope("s"), &format!("n{n}"))).collect();
    place.store.rows(&scope("s"), &ids).await.unwrap().iter().map(|row| (row.id, row.tier)).collect()
}

async fn head(place: &Place) -> u64 {
    place.store.scopes(None, None).await.unwrap()[0].head_seq
}

fn policy(ratio: f64) -> TierPolicy {
    TierPolicy { daily_mutation_ratio: ratio, ..TierPolicy::default() }
}

#[tokio::test]
async fn a_run_moves_what_is_due_and_says_so() {
    let place = place().await;
    let policy = policy(1.0);
    assert_eq!(run(&place, &policy, &RunOptions::default()).await.report.number("transitions_total"), 0);
    assert_eq!(head(&place).await, 1, "nothing moved: no commit");
    place.clock.advance(300 * ONE_DAY);
    let done = run(&place, &policy, &RunOptions::default()).await;
    assert_eq!(done.status, TargetStatus::Done);
    // All have faded by then; what is pinned stays.
    let said = Value::from(done.report);
    for (name, wanted) in [
        ("moved_hot_to_warm", 30),
        ("moved_warm_to_cold", 15),
        ("moved_cold_to_archive", 7),
        ("transitions_total", 52),
        ("transitions_policy_total", 52),
        ("transitions_budget_total", 0),
        ("updated_salience", 52),
        ("total_mutable", 52),
        ("used_today", 0),
        ("max_daily_mutations", 52),
        ("initial_remaining_budget", 52),
        ("remaining_budget", 0),
        ("adaptive_recent_nodes", 0),
    ] {
        assert_eq!(said[name], wanted, "{name}: {said}");
    }
    assert_eq!(said["tier_counts"], json!({ "hot": 10, "warm": 35, "cold": 18, "archive": 7 }));
    assert_eq!((&said["adaptive_decay_scale_avg"], &said["adaptive_decay_scale_max"]), (&json!(1.0), &json!(1.0)));
    assert_eq!((&said["budgets_enabled"], &said["scope_budget"]["overflow_hot_after"]), (&json!(false), &json!(0)));
    let commits = place.store.newest_commits(&scope("s"), None, 1).await.unwrap();
    assert_eq!((&said["commit_id"], &said["commit_hash"]), (&json!(commits[0].id), &json!(commits[0].hash)));
    assert_eq!(commits[0].header.kind, "salience_decay");
    assert_sound(&*place.store).await;
    // Again at the same time: nothing.
    let (before, height) = (tiers(&place).await, head(&place).await);
    assert_eq!(run(&place, &policy, &RunOptions::default()).await.report.number("transitions_total"), 0);
    assert_eq!((tiers(&place).await, head(&place).await), (before, height));
    place.clock.advance(ONE_DAY);
    let next = run(&place, &policy, &RunOptions::default()).await;
    assert_eq!(next.report.number("moved_hot_to_warm") + next.report.number("moved_cold_to_archive"), 15);
}

#[tokio::test]
async fn a_dry_run_tells_and_moves_nothing() {
    let place = place().await;
    place.clock.advance(200 * ONE_DAY);
    let (before, height) = (tiers(&place).await, head(&place).await);
    let dry = run(&place, &policy(0.1), &RunOptions { dry_run: true, ..RunOptions::default() }).await;
    assert_eq!((dry.report.number("transitions_total"), dry.report.number("max_daily_mutations")), (5, 5));
    let told = dry.report.get("would_move").unwrap().as_array().unwrap().clone();
    assert_eq!((tiers(&place).await, head(&place).await), (before.clone(), height));
    run(&place, &policy(0.1), &RunOptions::default()).await;
    let moved: Vec<NodeId> =
        before.iter().zip(tiers(&place).await).filter(|(a, b)| **a != *b).map(|(a, _)| a.0).collect();
    let mut told: Vec<NodeId> =
        told.iter().map(|one| serde_json::from_value(one["node_id"].clone()).unwrap()).collect();
    told.sort_unstable_by_key(|id| moved.iter().position(|one| one == id));
    assert_eq!(told, moved);
}

#[tokio::test]
async fn a_run_that_is_stopped_after_every_step_ends_alike() {
    let (undisturbed, stopped) = (place().await, place().await);
    let policy = TierPolicy { hot_node_budget: 20, active_node_budget: 40, ..policy(0.4) };
    for place in [&undisturbed, &stopped] {
        place.clock.advance(30 * ONE_DAY);
    }
    run(&undisturbed, &policy, &RunOptions::default()).await;
    let (mut status, mut runs) = (TargetStatus::Stopped, 0);
    while status == TargetStatus::Stopped {
        let options = RunOptions { max_batches: Some(1), ..RunOptions::default() };
        let done = run(&stopped, &policy, &options).await;
        (status, runs) = (done.status, runs + 1);
        stopped.clock.advance(Duration::from_secs(1));
    }
    assert!(status == TargetStatus::Done && runs > 10, "{status:?} {runs}");
    assert_eq!(tiers(&stopped).await, tiers(&undisturbed).await);
}

#[tokio::test]
async fn a_plan_that_is_too_old_or_unreadable_is_made_anew() {
    let place = place().await;
    place.clock.advance(200 * ONE_DAY);
    let one = RunOptions { max_batches: Some(3), ..RunOptions::default() };
    assert_eq!(run(&place, &policy(0.1), &one).await.status, TargetStatus::Stopped);
    place.clock.advance(ONE_DAY);
    let late = run(&place, &policy(0.1), &RunOptions::default()).await;
    assert!(late.resumed);
    assert_eq!((late.report.number("transitions_total"), late.report.number("total_mutable")), (5, 52));
    let s = aionis_core::jobs::Target::Scope(scope("s"));
    let on = Step {
        store: &*place.store,
        target: &s,
        cursor: Some(&json!({ "of": "another version" })),
        dry_run: true,
        now: place.clock.now(),
        run: uuid::Uuid::nil(),
    };
    assert!(SalienceDecay::new(policy(0.1)).step(&on).await.unwrap().next.is_some());
}

#[tokio::test]
async fn what_was_brought_back_stays_for_a_while() {
    let place = place().await;
    let s = scope("s");
    place.clock.advance(200 * ONE_DAY);
    run(&place, &policy(1.0), &RunOptions::default()).await;
    let page = TierPage { scope: s.clone(), tier: Tier::Archive, after: None, limit: 1 };
    let id = place.store.tier_page(page).await.unwrap()[0].id;
    place.clock.advance(300 * ONE_DAY);
    let nodes = NodeNames { ids: vec![id], client_ids: Vec::new() };
    let back = Operation::Rehydrate { nodes, target: Tier::Hot, reason: None };
    place.store.operate(operation(&s, None, back)).await.unwrap();
    // Not by its age, and not as the faintest of too many either: others are fainter.
    let write = (0..5).fold(WriteBuilder::new(&s), |write, n| {
        write.node(&format!("new {n}"), "new").with(|node| node.salience = Some(0.4))
    });
    place.store.write(write.prepared()).await.unwrap();
    let policy = TierPolicy { hot_node_budget: 11, ..policy(1.0) };
    for _ in 0..10 {
        place.clock.advance(ONE_DAY);
        run(&place, &policy, &RunOptions::default()).await;
    }
    assert_eq!(place.store.rows(&s, &[id]).await.unwrap()[0].tier, Tier::Hot);
    let page = TierPage { scope: s, tier: Tier::Hot, after: None, limit: 100 };
    assert_eq!(place.store.tier_page(page).await.unwrap().len(), 11, "the others had to go");
}

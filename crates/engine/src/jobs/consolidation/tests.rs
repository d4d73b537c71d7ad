use std::{collections::BTreeSet, sync::Arc};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    jobs::consolidation::{CandidateQuery, CandidateState, UndoWhich, pair_key},
    lifecycle::DecayPolicy,
    model::NodeType,
    ports::store::Store,
};
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, FakeClock, Rng, WriteBuilder, node_id, scope},
    sqlite::TempStore,
};
use serde_json::json;
use uuid::Uuid;

use aionis_core::jobs::consolidation::Thresholds;

use super::*;
use crate::jobs::{Job, JobReport, NoProgress, RunOptions, Runner, Selection, TargetStatus};

pub(super) struct Place {
    pub(super) store: Arc<dyn Store>,
    runner: Runner,
    pub(super) temp: TempStore,
}

pub(super) fn place() -> Place {
    let temp = TempStore::new();
    let store = temp.port();
    Place { runner: Runner::new(Arc::clone(&store), FakeClock::new()), store, temp }
}

/// A vector near the one of a seed; how near is said by `noise`.
pub(super) fn near(seed: u64, noise: f32) -> Vec<f32> {
    let (base, mut other) = (Rng::new(seed).vector(DIM), Rng::new(seed + 1_000));
    base.iter().zip(other.vector(DIM)).map(|(x, y)| x + noise * y).collect()
}

pub(super) fn concept(write: WriteBuilder, name: &str, text: &str, vector: Vec<f32>) -> WriteBuilder {
    write.node(name, text).vector(vector).with(|node| node.node_type = NodeType::Concept)
}

pub(super) async fn write(place: &Place, write: WriteBuilder) {
    place.store.write(write.prepared()).await.unwrap();
}

async fn run_with(place: &Place, job: &dyn Job, options: &RunOptions) -> JobReport {
    place.runner.run(job, &Selection::default(), options, &NoProgress).await.unwrap()
}

pub(super) async fn run(place: &Place, job: &dyn Job) -> JobReport {
    run_with(place, job, &RunOptions::default()).await
}

pub(super) fn looking() -> ConsolidationCandidates {
    ConsolidationCandidates::new(CandidateSettings::default())
}

pub(super) fn applying(limit: usize) -> ConsolidationApply {
    ConsolidationApply {
        types: CandidateSettings::default().types,
        limit,
        allow_contradictory: false,
        decay: DecayPolicy::default(),
    }
}

pub(super) async fn queued(place: &Place, s: &ScopeKey, state: CandidateState) -> BTreeSet<(NodeId, NodeId)> {
    let query = CandidateQuery { states: vec![state], after: None, limit: 10_000 };
    place.store.candidates(s, &query).await.unwrap().iter().map(|pair| (pair.low, pair.high)).collect()
}

pub(super) fn ordered(s: &ScopeKey, a: &str, b: &str) -> (NodeId, NodeId) {
    let (a, b) = (node_id(s, a), node_id(s, b));
    (a.min(b), a.max(b))
}

#[tokio::test]
async fn pairs_are_found_merged_redirected_and_taken_back() {
    let (place, s) = (place(), scope("s"));
    let write_all = concept(WriteBuilder::new(&s), "a", "nightly backup to the vault", near(1, 0.0));
    let write_all = concept(write_all, "b", "nightly backup to the vault", near(1, 0.05));
    let write_all = concept(write_all, "c", "something else entirely", near(2, 0.0)).node("x", "event");
    write(&place, write_all.edge("b", "x").edge("a", "x").edge("a", "b")).await;
    let found = run(&place, &looking()).await;
    assert!(found.ok);
    assert_eq!((found.total.number("anchors"), found.total.number("queued_new")), (3, 1));
    assert_eq!(found.targets[0].report.get("suggestions").unwrap()[0]["state"], json!("open"));
    let strict = CandidateSettings { strict: true, ..CandidateSettings::default() };
    let again = run(&place, &ConsolidationCandidates::new(strict)).await;
    assert_eq!((again.ok, again.targets[0].status), (false, TargetStatus::Negative));
    assert_eq!((again.total.number("queued_new"), again.total.number("queued_again")), (0, 1));

    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let planned = run_with(&place, &applying(20), &dry).await;
    assert_eq!(planned.total.number("planned_apply"), 1);
    assert_eq!(place.store.scope_status(&s).await.unwrap().head_seq, 1, "a plan makes no commit");
    let applied = run(&place, &applying(20)).await;
    assert_eq!((applied.total.number("applied_pairs"), applied.total.number("merged_nodes")), (1, 1));
    let moved = run(&place, &ConsolidationRedirect { aliases: 1 }).await;
    assert!(moved.ok);
    assert_eq!((moved.total.number("touched_edges"), moved.total.number("dropped_self_loops")), (2, 1));
    assert_eq!((moved.total.number("merged_into_existing"), moved.total.number("deleted_alias_edges")), (1, 2));
    assert_eq!(run(&place, &applying(20)).await.total.number("selected"), 0, "nothing waits");
    assert_eq!(run(&place, &looking()).await.total.number("pair_candidates"), 0, "an alias is not looked at");

    let undo = ConsolidationUndo { which: UndoWhich::Run(applied.targets[0].run_id), force: false };
    let undone = run(&place, &undo).await;
    assert!(undone.ok);
    assert_eq!((undone.total.number("undone_merges"), undone.total.number("restored_edges")), (1, 2));
    let decided = run(&place, &looking()).await;
    assert_eq!((decided.total.number("queued_new"), decided.total.number("decided_before")), (0, 1));
    let unknown = ConsolidationUndo { which: UndoWhich::Merge(Uuid::nil()), force: false };
    let failed = run(&place, &unknown).await;
    assert!(failed.targets[0].error.as_ref().unwrap().contains("merge_not_found"));
    assert_sound(&*place.store).await;
}

/// Reports are kept in the history; they must not hold what a node says.
#[tokio::test]
async fn reports_hold_no_texts() {
    let (place, s) = (place(), scope("s"));
    let pair = concept(WriteBuilder::new(&s), "a", "secretword one", near(1, 0.0));
    write(&place, concept(pair, "b", "secretword two", near(1, 0.01))).await;
    let min = Thresholds { min_score: 0.5, ..Thresholds::default() };
    let low = ConsolidationCandidates::new(CandidateSettings { thresholds: min, ..CandidateSettings::default() });
    let reports = [run(&place, &low).await, run(&place, &applying(20)).await];
    assert_eq!(reports[1].total.number("applied_pairs"), 1);
    for report in reports {
        assert!(!serde_json::to_string(&report).unwrap().contains("secretword"));
    }
}

#[tokio::test]
async fn ops_12_only_what_the_same_eyes_see_is_paired() {
    let (place, s) = (place(), scope("s"));
    let mut all = WriteBuilder::new(&s);
    for (n, (name, owner)) in [
        ("shared1", None),
        ("shared2", None),
        ("ann1", Some(Some("ann"))),
        ("ann2", Some(Some("ann"))),
        ("bob1", Some(Some("bob"))),
        ("nobody1", Some(None)),
        ("nobody2", Some(None)),
    ]
    .into_iter()
    .enumerate()
    {
        let noise = f32::from(u8::try_from(n).unwrap()) / 1_000.0;
        all = concept(all, name, "the same words everywhere", near(1, noise));
        if let Some(agent) = owner {
            all = all.private(agent, None);
        }
    }
    write(&place, all).await;
    let found = run(&place, &looking()).await;
    assert_eq!(found.total.number("left_out"), 2, "what is private without owner takes no part");
    let wanted = BTreeSet::from([ordered(&s, "shared1", "shared2"), ordered(&s, "ann1", "ann2")]);
    assert_eq!(queued(&place, &s, CandidateState::Open).await, wanted);
}

#[tokio::test]
async fn ops_12_a_stopped_search_goes_on_until_every_node_was_looked_at() {
    let (place, s) = (place(), scope("s"));
    let mut all = WriteBuilder::new(&s);
    for n in 0..10 {
        all = concept(all, &format!("a{n}"), &format!("word{n} text"), near(n, 0.0));
        all = concept(all, &format!("b{n}"), &format!("word{n} text"), near(n, 0.02));
    }
    write(&place, all).await;
    let settings = || CandidateSettings { anchors: 3, ..CandidateSettings::default() };
    let options = RunOptions { max_batches: Some(2), ..RunOptions::default() };
    let mut anchors = 0;
    for _ in 0..4 {
        let report = run_with(&place, &ConsolidationCandidates::new(settings()), &options).await;
        anchors += report.total.number("anchors");
        if report.targets[0].status == TargetStatus::Done {
            break;
        }
    }
    assert_eq!(anchors, 20);
    let wanted: BTreeSet<_> = (0..10).map(|n| ordered(&s, &format!("a{n}"), &format!("b{n}"))).collect();
    assert_eq!(queued(&place, &s, CandidateState::Open).await, wanted);
}

#[tokio::test]
async fn contradictions_wait_for_somebody_to_decide() {
    let (place, s) = (place(), scope("s"));
    let pairs = [("a", "logs are kept 30 days"), ("b", "logs are kept 90 days")];
    let mut all = WriteBuilder::new(&s);
    for (name, text) in pairs {
        all = concept(all, name, text, near(1, if name == "a" { 0.0 } else { 0.01 }));
    }
    write(&place, all).await;
    let found = run(&place, &looking()).await;
    assert_eq!((found.total.number("conflict_detected"), found.total.number("queued_new")), (1, 1));
    assert_eq!(run(&place, &applying(20)).await.total.number("selected"), 0);
    let key = pair_key(node_id(&s, "a"), node_id(&s, "b"), NodeType::Concept);
    let wrong = Decisions { accept: vec![key.replace("concept", "topic")], reject: Vec::new() };
    let failed = run(&place, &ConsolidationCandidates::deciding(wrong)).await;
    assert!(failed.targets[0].error.as_ref().unwrap().contains("pair_not_found"));
    let accept = Decisions { accept: vec![key.clone()], reject: Vec::new() };
    assert_eq!(run(&place, &ConsolidationCandidates::deciding(accept)).await.total.number("accepted"), 1);
    assert_eq!(run(&place, &looking()).await.total.number("queued_again"), 1);
    assert_eq!(run(&place, &applying(20)).await.total.number("applied_pairs"), 1, "what was accepted stays so");
}

#[tokio::test]
async fn ops_12_what_cannot_be_merged_does_not_use_up_the_limit() {
    let (place, s) = (place(), scope("s"));
    let mut all = WriteBuilder::new(&s);
    for n in 0..6 {
        for (side, noise) in [("a", 0.0), ("b", 0.001 * f32::from(n + 1_u8))] {
            let text = format!("alpha{n} beta{n} gamma{n}");
            all = concept(all, &format!("{side}{n}"), &text, near(u64::from(n), noise));
        }
    }
    write(&place, all).await;
    run(&place, &looking()).await;
    // The best pairs change after they were measured.
    let mut changed = WriteBuilder::new(&s).input("2");
    for n in 0..3 {
        let text = format!("alpha{n} beta{n} gamma{n}");
        changed = concept(changed, &format!("a{n}"), &format!("{text} more"), near(n, 0.0));
    }
    write(&place, changed).await;
    let applied = run(&place, &applying(2)).await;
    assert_eq!((applied.total.number("applied_pairs"), applied.total.number("skipped_pairs")), (2, 3));
}

//! The jobs that report, remove, review and queue, over a store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aionis_core::{
    ids::NodeId,
    jobs::{
        checks::Strictness,
        execution_loop::LoopThresholds,
        governance::GovernanceThresholds,
        owner_review::{Assignment, Chosen, Owner},
        policy_adaptation::PolicyThresholds,
        retention::RetentionDays,
        rule_promotion::PromotionThresholds,
    },
    model::{EmbeddingStatus, NodeType, RuleState},
    operate::{Operation, Outcome},
    ports::store::Store,
};
use aionis_testkit::{
    assert_sound,
    conformance::Subject,
    fixtures::{WriteBuilder, agent, anyone, node_id, operation, scope, scope_of},
    sqlite::subject,
};
use serde_json::{Value, json};

use super::*;

const STRICT: Strictness = Strictness { strict: true, strict_warnings: false };

async fn run(subject: &Subject, job: &dyn Job, dry_run: bool) -> JobReport {
    let clock: Arc<dyn aionis_core::clock::Clock> = subject.clock.clone();
    let runner = Runner::new(Arc::clone(&subject.store), clock);
    let options = RunOptions { dry_run, ..RunOptions::default() };
    runner.run(job, &Selection::default(), &options, &NoProgress).await.unwrap()
}

async fn rule(subject: &Subject, name: &str, state: RuleState) -> NodeId {
    let s = scope("s");
    let write = WriteBuilder::new(&s).input(name).node(name, "a secret rule").with(|node| {
        node.node_type = NodeType::Rule;
        node.slots = Some(json!({ "if": {}, "then": {} }));
    });
    subject.write(write).await;
    let rule = node_id(&s, name);
    let checked = subject.store.rule(&s, rule).await.unwrap().unwrap().digest;
    subject.store.operate(operation(&s, None, Operation::RuleState { rule, state, checked })).await.unwrap();
    rule
}

async fn says(subject: &Subject, rule: NodeId, outcome: Outcome, run: Option<&str>) {
    let feedback = Operation::RuleFeedback { rule, outcome, run_id: run.map(str::to_owned), note: None };
    subject.store.operate(operation(&scope("s"), None, feedback)).await.unwrap();
}

fn policy() -> PolicyAdaptation {
    PolicyAdaptation { thresholds: PolicyThresholds::default(), limit: 200, strictness: Strictness::default() }
}

#[tokio::test]
async fn reports_hold_no_text_and_an_empty_scope_fails_a_strict_verdict() {
    let subject = subject().await;
    rule(&subject, "r", RuleState::Shadow).await;
    let judging: [(&dyn Job, &dyn Job); 3] = [
        (
            &ExecutionLoop::new(LoopThresholds::default(), true, Strictness::default()),
            &ExecutionLoop::new(LoopThresholds::default(), true, STRICT),
        ),
        (
            &GovernanceWeeklyReport::new(GovernanceThresholds::default(), 168, Strictness::default()),
            &GovernanceWeeklyReport::new(GovernanceThresholds::default(), 168, STRICT),
        ),
        (&policy(), &PolicyAdaptation { strictness: STRICT, ..policy() }),
    ];
    for (lax, strict) in judging {
        let report = run(&subject, lax, false).await;
        assert!(report.ok, "{}", lax.info().name);
        let text = serde_json::to_string(&report).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let report = run(&subject, strict, false).await;
        assert_eq!((report.ok, report.targets[0].status), (false, TargetStatus::Negative), "{}", strict.info().name);
        assert_eq!(report.targets[0].report.get("ok"), Some(&json!(false)));
    }
    let strict = QualityEval { strictness: STRICT, ..QualityEval::default() };
    assert!(!run(&subject, &strict, false).await.ok, "no node has a vector");
}

#[tokio::test]
async fn a_rule_nobody_speaks_for_trips_the_error_check_with_default_settings() {
    let subject = subject().await;
    let bad = rule(&subject, "bad", RuleState::Active).await;
    for n in 0..10 {
        let outcome = if n < 6 { Outcome::Negative } else { Outcome::Positive };
        says(&subject, bad, outcome, Some(&format!("run {n}"))).await;
    }
    let fresh = run(&subject, &policy(), false).await;
    assert!(fresh.ok, "not yet urgent");
    assert_eq!(fresh.targets[0].report.get("summary").unwrap()["disable_candidates"], 1);
    subject.clock.advance(Duration::from_secs(337 * 3_600));
    let stale = run(&subject, &policy(), false).await;
    assert_eq!(stale.targets[0].status, TargetStatus::Negative);
    let summary = stale.targets[0].report.get("summary").unwrap();
    assert_eq!(summary["failed_errors"], json!(["urgent_disable_candidates_max"]));
}

#[tokio::test]
async fn only_different_runs_promote_and_what_they_promote_is_a_verdict_when_strict() {
    let subject = subject().await;
    let (often, earned) =
        (rule(&subject, "often", RuleState::Shadow).await, rule(&subject, "e", RuleState::Shadow).await);
    for n in 0..12 {
        says(&subject, often, Outcome::Positive, Some("one run")).await;
        says(&subject, often, Outcome::Positive, None).await;
        says(&subject, earned, Outcome::Positive, Some(&format!("run {n}"))).await;
    }
    let job = |strict| RulePromotionSuggest { thresholds: PromotionThresholds::default(), limit: 50, strict };
    let report = run(&subject, &job(false), false).await;
    let facts = &report.targets[0].report;
    assert_eq!(facts.number("suggested"), 1);
    let suggestion = &facts.get("suggestions").unwrap()[0];
    assert_eq!(suggestion["rule_node_id"], json!(earned));
    assert!(report.ok && !run(&subject, &job(true), false).await.ok);
    subject.clock.advance(Duration::from_secs(721 * 3_600));
    assert!(run(&subject, &job(true), false).await.ok, "what was said before the window promotes nothing");
}

#[tokio::test]
async fn retention_removes_what_is_old_a_batch_per_step_and_a_dry_run_nothing() {
    let subject = subject().await;
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).deriving().node("n", "text")).await;
    subject.drain().await;
    let day = Duration::from_secs(86_400);
    subject.clock.advance(6 * day);
    assert_eq!(run(&subject, &Retention::default(), false).await.total.number("outbox_rows"), 0);
    subject.clock.advance(2 * day);
    let dry = run(&subject, &Retention::default(), true).await;
    assert_eq!((dry.total.number("outbox_rows"), dry.targets[0].batches), (1, 4));
    let forever = Retention { days: RetentionDays { outbox_days: 0, ..RetentionDays::default() } };
    assert_eq!(run(&subject, &forever, false).await.total.number("outbox_rows"), 0);
    let done = run(&subject, &Retention::default(), false).await;
    assert!(done.ok && done.total.number("outbox_rows") == 1);
    assert_eq!(run(&subject, &Retention::default(), false).await.total.number("outbox_rows"), 0);
    subject.clock.advance(91 * day);
    assert!(run(&subject, &Retention::default(), false).await.total.number("job_runs") >= 5);
    assert_sound(&*subject.store).await;
}

#[tokio::test]
async fn owners_are_given_to_those_chosen_and_nobody_else_sees_them() {
    let subject = subject().await;
    let (s, other) = (scope("s"), scope_of("globex", "s"));
    for scope in [&s, &other] {
        let mut write = WriteBuilder::new(scope).node("fine", "x").private(Some("eve"), None);
        for n in 0..120 {
            write = write.node(&format!("lost {n}"), "a secret").private(None, None);
        }
        subject.write(write).await;
    }
    let listed = run(&subject, &OwnerReview::default(), true).await;
    assert_eq!((listed.total.number("without_owner"), listed.total.number("assigned")), (240, 0));
    let told = serde_json::to_string(&listed).unwrap();
    assert!(!told.contains("a secret") && !told.contains("lost 1"), "neither texts nor names that callers chose");
    let lost = node_id(&s, "lost 7");
    let assignment = |ids: Option<&[NodeId]>| OwnerReview {
        assignment: Some(Assignment {
            owner: Owner::Agent("ada".to_owned()),
            chosen: ids.map_or(Chosen::AllListed, |ids| Chosen::Ids(ids.iter().copied().collect::<BTreeSet<_>>())),
        }),
    };
    let dry = run(&subject, &assignment(None), true).await;
    assert_eq!((dry.total.number("chosen"), dry.total.number("assigned")), (240, 0));
    let clock: Arc<dyn aionis_core::clock::Clock> = subject.clock.clone();
    let runner = Runner::new(Arc::clone(&subject.store), clock);
    let selection = Selection { tenant: Some("default".to_owned()), scope: None };
    let some = assignment(Some(&[lost]));
    let done = runner.run(&some, &selection, &RunOptions::default(), &NoProgress).await.unwrap();
    assert_eq!((done.ok, done.total.number("assigned")), (true, 1));
    assert!(subject.shows(&s, lost, &agent("ada")).await && !subject.shows(&s, lost, &anyone()).await);
    let again = runner.run(&some, &selection, &RunOptions::default(), &NoProgress).await.unwrap();
    assert_eq!((again.ok, again.total.number("ids_not_listed")), (false, 1), "it has an owner by now");
    let done = run(&subject, &assignment(None), false).await;
    assert_eq!((done.ok, done.total.number("assigned")), (true, 239));
    assert!(done.targets.iter().all(|target| target.batches == 2), "a page per step");
    assert_eq!(run(&subject, &OwnerReview::default(), true).await.total.number("without_owner"), 0);
    let eve = subject.row(&s, node_id(&s, "fine")).await.owner_agent_id;
    assert_eq!(eve.as_deref(), Some("eve"), "who had an owner keeps it");
    assert_sound(&*subject.store).await;
}

#[tokio::test]
async fn a_backfill_queues_what_has_no_vector_and_labels_nothing() {
    let subject = subject().await;
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "nobody asked for a vector").node("silent", "")).await;
    let dry = run(&subject, &EmbeddingBackfill, true).await;
    assert_eq!((dry.total.number("without_vector"), dry.total.number("queued")), (2, 0));
    assert_eq!(subject.status(&s).await.pending, 0);
    let done = run(&subject, &EmbeddingBackfill, false).await;
    assert_eq!((done.total.number("queued"), done.total.number("without_text")), (1, 1));
    let again = run(&subject, &EmbeddingBackfill, false).await;
    assert_eq!((again.total.number("queued"), again.total.number("queued_before")), (0, 1));
    subject.drain().await;
    let store: &dyn Store = &*subject.store;
    assert_eq!(subject.vector_state(&s, node_id(&s, "a")).await, EmbeddingStatus::Ready);
    assert_eq!(run(&subject, &EmbeddingBackfill, true).await.total.number("without_vector"), 1);
    assert_sound(store).await;
}

#[tokio::test]
async fn the_weekly_report_is_made_once_and_taken_once() {
    let subject = subject().await;
    subject.write(WriteBuilder::new(&scope("s")).node("lost", "x").private(None, None)).await;
    let job = GovernanceWeeklyReport::new(GovernanceThresholds::default(), 168, Strictness::default());
    let report = run(&subject, &job, false).await;
    assert_eq!(report.targets[0].status, TargetStatus::Negative, "a private node without owner is an error");
    let made = job.take();
    assert_eq!((made.len(), made[0].report_week.as_str()), (1, "2025-W41"));
    assert_eq!(made[0].out_dir, format!("artifacts/governance/weekly/2025-W41_{}", made[0].run_id));
    assert!(job.take().is_empty());
    let kept = Value::from(report.targets[0].report.clone());
    assert_eq!(kept["summary"]["failed_errors"], json!(["scope_private_owner_coverage_min"]));
}

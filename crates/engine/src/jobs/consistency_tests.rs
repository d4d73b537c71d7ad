//! Every check is violated once on either engine, and only it, and the checks it cannot be told from, turn red.

use std::collections::{BTreeMap, BTreeSet};

use aionis_core::{
    canon::Digest,
    forget::PreparedForget,
    ids::ScopeKey,
    jobs::{
        Target,
        consistency::{Asked, BatchPart, CATALOGUE, CheckSet, Mode, StorageEngine, Thresholds},
    },
    model::{EdgeType, NodeType, RuleState},
    operate::{LinkMode, Operation, Outcome},
    ports::store::Store,
    write::{EdgeInput, NodeInput, PreparedWrite},
};
use aionis_testkit::{
    conformance::Subject,
    fixtures::{DIM, WriteBuilder, decision, node_id, operation, scope},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ConsistencyCheck, RunOptions, Runner, TargetReport, TargetStatus,
    consistency_seeds::{OF_SCOPES, OF_THE_DEPLOYMENT, Seed},
};

/// A scope in which everything fits, and the names of what is in it.
struct Sound {
    scope: ScopeKey,
    names: BTreeMap<&'static str, Uuid>,
}

fn slots(value: Value) -> impl FnOnce(&mut NodeInput) {
    move |node| node.slots = Some(value)
}

fn of(kind: NodeType, value: Value) -> impl FnOnce(&mut NodeInput) {
    move |node| (node.node_type, node.slots) = (kind, Some(value))
}

fn edge_of(kind: EdgeType) -> impl FnOnce(&mut EdgeInput) {
    move |edge| edge.edge_type = kind
}

impl Sound {
    async fn new(store: &dyn Store, name: &str) -> Self {
        let s = scope(name);
        let id = |client: &str| node_id(&s, client).0;
        let first = store.write(first_write(&s)).await.unwrap();
        let again = WriteBuilder::new(&s).input("again").node("updated", "second text");
        store.write(again.prepared()).await.unwrap();
        let deriving = WriteBuilder::new(&s).deriving().node("pending", "waits for its vector");
        store.write(deriving.prepared()).await.unwrap();
        let mut names: BTreeMap<&'static str, Uuid> = [
            "e1",
            "e3",
            "topic",
            "entity",
            "plain",
            "alias",
            "private",
            "derived",
            "summary",
            "updated",
            "rule",
            "private_rule",
            "pending",
        ]
        .into_iter()
        .map(|client| (client, id(client)))
        .collect();
        names.insert("edge", first.edges[2].0.0);
        names.insert("ghost", Uuid::from_u128(0x9057));
        // Decisions are found by scope and id, so every scope may have the same one.
        names.insert("decision", Uuid::from_u128(0xdec));
        let sound = Self { scope: s, names };
        sound.operate(store).await;
        sound.forget(store).await;
        sound
    }

    async fn operate(&self, store: &dyn Store) {
        let (s, rule) = (&self.scope, node_id(&self.scope, "rule"));
        let checked = store.rule(s, rule).await.unwrap().unwrap().digest;
        let set = Operation::RuleState { rule, state: RuleState::Active, checked };
        store.operate(operation(s, None, set)).await.unwrap();
        let said = Operation::RuleFeedback { rule, outcome: Outcome::Negative, run_id: None, note: None };
        store.operate(operation(s, None, said)).await.unwrap();
        store.put_decision(s, decision(self.names["decision"], Some("run-1"), &[rule])).await.unwrap();
        let feedback = Operation::ToolFeedback {
            decision: self.names["decision"],
            link: LinkMode::Provided,
            create: None,
            rules: vec![rule],
            request: Digest([1; 32]),
            outcome: Outcome::Positive,
            run_id: Some("run-1".to_owned()),
            note: None,
        };
        store.operate(operation(s, None, feedback)).await.unwrap();
    }

    async fn forget(&self, store: &dyn Store) {
        let gone = node_id(&self.scope, "forgotten");
        let asked = |token| PreparedForget {
            scope: self.scope.clone(),
            actor: "a".to_owned(),
            ids: vec![gone],
            missing_client_ids: Vec::new(),
            viewer: None,
            token,
            request_digest: Digest([2; 32]),
            idempotency: None,
        };
        let look = store.forget(asked(None)).await.unwrap();
        store.forget(asked(Digest::from_hex(&look.token).ok())).await.unwrap();
    }

    fn sql(&self, subject: &Subject, sql: &str) -> String {
        let mut sql = sql.replace("{scope}", self.scope.as_str());
        let now = aionis_core::clock::Clock::now(&*subject.clock).0;
        sql = sql.replace("{now}", &now.to_string()).replace("{now_ms}", &(now / 1_000).to_string());
        for (name, id) in &self.names {
            sql = sql.replace(&format!("{{{name}}}"), &subject.inspect.id_literal(*id));
            sql = sql.replace(&format!("<{name}>"), &id.to_string());
        }
        sql
    }

    fn target(&self) -> Target {
        Target::Scope(self.scope.clone())
    }
}

fn first_write(s: &ScopeKey) -> PreparedWrite {
    let vector = || (0..DIM).map(|at| if at == 0 { 1.0 } else { 0.1 }).collect::<Vec<f32>>();
    let cited = json!({ "summary_kind": "compression_rollup", "citations": [{ "node_id": node_id(s, "e1") }] });
    let rule = || of(NodeType::Rule, json!({ "if": {}, "then": {} }));
    WriteBuilder::new(s)
        .node("e1", "the first event")
        .vector(vector())
        .node("e2", "the second event")
        .vector(vector())
        .node("e3", "the third event")
        .vector(vector())
        .node("topic", "boats")
        .with(of(NodeType::Topic, json!({ "member_count": "2", "topic_state": "active" })))
        .node("entity", "")
        .with(of(NodeType::Entity, json!({ "pin": true })))
        .title("Ada")
        .node("plain", "nothing special")
        .node("alias", "the same as the third event")
        .with(slots(json!({ "alias_of": node_id(s, "e3"), "source_event_ids": [node_id(s, "e3"), "no id", 7] })))
        .node("private", "of Ann alone")
        .private(Some("ann"), None)
        .node("derived", "made of what is Ann's")
        .private(Some("ann"), None)
        .node("summary", "a summary")
        .with(of(NodeType::Concept, cited))
        .node("updated", "first text")
        .node("forgotten", "to be forgotten")
        .node("rule", "a rule")
        .with(rule())
        .node("private_rule", "a rule of Ann")
        .with(rule())
        .private(Some("ann"), None)
        .edge("e1", "topic")
        .with_edge(edge_of(EdgeType::PartOf))
        .edge("e2", "topic")
        .with_edge(edge_of(EdgeType::PartOf))
        .edge("e2", "updated")
        .edge("derived", "private")
        .with_edge(edge_of(EdgeType::DerivedFrom))
        .edge("e2", "forgotten")
        .prepared()
}

async fn checked(subject: &Subject, job: &ConsistencyCheck, target: &Target) -> TargetReport {
    let runner = Runner::new(subject.store.clone(), subject.clock.clone());
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    runner.run_target(job, target, &options, None).await
}

fn outcome<'a>(report: &'a TargetReport, name: &str) -> &'a Value {
    let checks = report.report.get("checks").and_then(Value::as_array).unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} is not among {checks:#?}"))
}

fn in_state(report: &TargetReport, state: &str) -> BTreeSet<String> {
    let checks = report.report.get("checks").and_then(Value::as_array).unwrap();
    let named = checks.iter().filter(|check| check["state"] == state);
    named.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

fn job(set: CheckSet, asked: Asked) -> ConsistencyCheck {
    match set {
        CheckSet::CrossTenant => ConsistencyCheck::of_the_deployment(asked),
        _ => ConsistencyCheck::of_scopes(asked),
    }
}

/// The batch of a size that holds a check.
fn batch_with(engine: StorageEngine, name: &str, size: usize) -> BatchPart {
    let holds = |index: &usize| {
        let asked = Asked { batch: Some(BatchPart { size, index: *index }), ..Asked::default() };
        asked.checks(engine).unwrap().0.iter().any(|check| check.name == name)
    };
    BatchPart { size, index: (0..).find(holds).unwrap() }
}

/// A seed turns its check red, with the right sample: in full mode it and those it cannot be told from alone, in fast mode if it
/// has a probe, and in its batch.
async fn turns_red(subject: &Subject, sound: &Sound, seed: &Seed, target: &Target) {
    let engine = subject.store.storage_engine();
    let check = CATALOGUE.iter().find(|check| check.name == seed.check).unwrap();
    let expected = sound.names.get(seed.sample.1).map_or(seed.sample.1.to_owned(), Uuid::to_string);
    let shows = |report: &TargetReport| {
        let found = outcome(report, seed.check);
        assert_eq!(found["state"], "fail", "{}: {found:#}", seed.check);
        let sample = &found["sample"][0];
        let said = sample[seed.sample.0].as_str().map_or_else(|| sample[seed.sample.0].to_string(), str::to_owned);
        assert_eq!(said, expected, "{}: {found:#}", seed.check);
        let fields: BTreeSet<&str> = sample.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, check.sample.iter().copied().collect(), "{}", seed.check);
    };
    let full = checked(subject, &job(check.set, Asked::default()), target).await;
    let red: BTreeSet<String> = [seed.check].iter().chain(seed.also).map(|name| (*name).to_owned()).collect();
    assert_eq!(in_state(&full, "fail"), red, "{}: {:#?}", seed.check, full.report);
    assert!(in_state(&full, "error").is_empty() && in_state(&full, "skipped").is_empty(), "{:#?}", full.report);
    shows(&full);
    let fast = checked(subject, &job(check.set, Asked { mode: Mode::Fast, ..Asked::default() }), target).await;
    match check.probe {
        Some(_) => shows(&fast),
        None => assert_eq!(outcome(&fast, seed.check)["note"], "full mode only"),
    }
    let batch = Some(batch_with(engine, seed.check, 6));
    shows(&checked(subject, &job(check.set, Asked { batch, ..Asked::default() }), target).await);
}

async fn every_check_turns_red_alone(subject: &Subject) {
    let engine = subject.store.storage_engine();
    let of_engine = |seed: &Seed| match engine {
        StorageEngine::Embedded => seed.embedded,
        StorageEngine::Postgres => seed.postgres,
    };
    let mut seeded = BTreeSet::new();
    for (number, seed) in OF_SCOPES.iter().enumerate() {
        let sound = Sound::new(&*subject.store, &format!("s{number}")).await;
        let full = checked(subject, &job(CheckSet::Scope, Asked::default()), &sound.target()).await;
        assert_eq!(full.status, TargetStatus::Done, "{full:#?}");
        let statements: Vec<String> = of_engine(seed).iter().map(|sql| sound.sql(subject, sql)).collect();
        subject.inspect.tamper(&statements).await;
        turns_red(subject, &sound, seed, &sound.target()).await;
        seeded.insert(seed.check);
    }
    let sound = Sound::new(&*subject.store, "common").await;
    let before = checked(subject, &job(CheckSet::CrossTenant, Asked::default()), &Target::Deployment).await;
    assert_eq!(before.status, TargetStatus::Done, "{before:#?}");
    let mut red = Vec::new();
    for seed in OF_THE_DEPLOYMENT.iter().filter(|seed| !of_engine(seed).is_empty()) {
        let statements: Vec<String> = of_engine(seed).iter().map(|sql| sound.sql(subject, sql)).collect();
        subject.inspect.tamper(&statements).await;
        // What was seeded before stays.
        let seed = Seed { also: red.clone().leak(), ..*seed };
        turns_red(subject, &sound, &seed, &Target::Deployment).await;
        red.push(seed.check);
        seeded.insert(seed.check);
    }
    let budgets = ["scope_hot_budget_exceeded", "scope_active_budget_exceeded"];
    let made: BTreeSet<&str> = CATALOGUE
        .iter()
        .filter(|check| check.only.is_none_or(|only| only == engine))
        .map(|check| check.name)
        .filter(|name| !budgets.contains(name))
        .collect();
    assert_eq!(seeded, made, "every check is seeded");
}

async fn budgets_are_checked_when_there_are_some(subject: &Subject) {
    let sound = Sound::new(&*subject.store, "s").await;
    let with = |hot_budget, active_budget| Asked {
        thresholds: Thresholds { hot_budget, active_budget, ..Thresholds::default() },
        ..Asked::default()
    };
    let wide = checked(subject, &job(CheckSet::Scope, with(100, 100)), &sound.target()).await;
    assert_eq!(outcome(&wide, "scope_hot_budget_exceeded")["state"], "pass");
    let nodes = 14;
    let narrow = checked(subject, &job(CheckSet::Scope, with(10, 12)), &sound.target()).await;
    let hot = outcome(&narrow, "scope_hot_budget_exceeded");
    assert_eq!((&hot["count"], &hot["sample"][0]), (&json!(nodes - 10), &json!({ "hot": nodes, "budget": 10 })));
    let active = outcome(&narrow, "scope_active_budget_exceeded");
    assert_eq!(
        (&active["count"], &active["sample"][0]),
        (&json!(nodes - 12), &json!({ "active": nodes, "budget": 12 }))
    );
    assert_eq!(narrow.status, TargetStatus::Done, "warnings alone do not make it negative");
}

/// A row that cannot be read is an error of the checks that need it, which name it and still see the others.
async fn a_malformed_row_breaks_nothing_else(subject: &Subject) {
    let sound = Sound::new(&*subject.store, "s").await;
    let slots = match subject.store.storage_engine() {
        StorageEngine::Embedded => "{secret text",
        StorageEngine::Postgres => r#"["secret text"]"#,
    };
    let statements = [
        format!("UPDATE memory_nodes SET slots = '{slots}' WHERE id = {{plain}}"),
        r#"UPDATE memory_nodes SET activity = '{"last_tier_transition_ms":-5}' WHERE id = {e1}"#.to_owned(),
        "UPDATE memory_nodes SET activity = '{\"alias_of\":\"------------------------------------\"}' WHERE id = {alias}"
            .to_owned(),
    ];
    subject.inspect.tamper(&statements.map(|sql| sound.sql(subject, &sql))).await;
    let full = checked(subject, &job(CheckSet::Scope, Asked::default()), &sound.target()).await;
    let errored = in_state(&full, "error");
    let need_slots = [
        "adaptive_feedback_counts_invalid",
        "adaptive_feedback_quality_invalid",
        "alias_cycle",
        "alias_self_reference",
        "alias_target_missing",
        "alias_target_type_mismatch",
        "aliased_nodes_with_incident_edges",
        "compression_citation_node_missing",
        "consolidation_conflict_detected_without_override",
        "content_digest_mismatch",
        "derived_wider_than_sources",
        "protected_nodes_recently_tiered",
        "superseded_target_missing",
        "tier_transition_marker_invalid",
        "topic_member_count_mismatch",
    ];
    assert_eq!(errored, need_slots.iter().map(|name| (*name).to_owned()).collect());
    assert!(in_state(&full, "fail").is_empty(), "{full:#?}");
    for name in &errored {
        let error = outcome(&full, name)["error"].as_str().unwrap();
        assert!(error.contains(&sound.names["plain"].to_string()), "{name}: {error}");
        assert!(!error.contains("secret"), "{name}: {error}");
    }
    assert_eq!(outcome(&full, "tier_transition_marker_invalid")["count"], 1, "the other row is seen");
    assert_eq!(full.status, TargetStatus::Negative);
}

async fn what_cannot_be_held_is_skipped_and_never_passes(subject: &Subject) {
    let sound = Sound::new(&*subject.store, "s").await;
    let asked = Asked { thresholds: Thresholds { rows_max: 3, ..Thresholds::default() }, ..Asked::default() };
    let full = checked(subject, &job(CheckSet::Scope, asked), &sound.target()).await;
    let skipped = in_state(&full, "skipped");
    for name in ["alias_cycle", "commit_chain_broken", "content_digest_mismatch", "scope_counters_mismatch"] {
        assert!(skipped.contains(name), "{name} is not among {skipped:?}");
        assert!(outcome(&full, name)["note"].as_str().unwrap().contains("more than 3 rows"));
    }
    assert!(in_state(&full, "pass").contains("topic_state_invalid"), "what a row tells by itself is judged");
    assert!(in_state(&full, "fail").is_empty() && in_state(&full, "error").is_empty());
}

macro_rules! on_both_engines {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(&aionis_testkit::sqlite::subject().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(&aionis_testkit::postgres::subject().await).await;
            })+
        }
    };
}

on_both_engines!(
    every_check_turns_red_alone,
    budgets_are_checked_when_there_are_some,
    a_malformed_row_breaks_nothing_else,
    what_cannot_be_held_is_skipped_and_never_passes,
);

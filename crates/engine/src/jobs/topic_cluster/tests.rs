use std::{sync::Arc, time::Duration};

use aionis_core::{
    ids::NodeId,
    model::{Lane, NodeType},
    ports::store::SourceNode,
};
use aionis_testkit::{
    assert_narrow, assert_sound,
    conformance::Subject,
    fixtures::{ClusteredVectors, DIM, Rng, WriteBuilder, node_id, scope},
    stored_edges, stored_nodes,
};
use proptest::{prelude::*, strategy::Strategy as Generator};
use serde_json::{Value, json};

use super::{Strategy, *};
use crate::jobs::{
    CompressionRollup, JobReport, NoProgress, RollupSettings, RunOptions, Runner, Selection, TargetStatus,
};

fn runner(subject: &Subject) -> Runner {
    Runner::new(Arc::clone(&subject.store), subject.clock.clone())
}

async fn run(subject: &Subject, job: &dyn Job) -> JobReport {
    let report = runner(subject).run(job, &Selection::default(), &RunOptions::default(), &NoProgress).await.unwrap();
    assert!(report.ok, "{:?}", report.targets);
    report
}

fn topics(batch_size: usize) -> TopicCluster {
    TopicCluster::new(TopicSettings { similarity_min: 0.6, events_min: 3, batch_size, ..TopicSettings::default() })
}

fn rollup() -> CompressionRollup {
    CompressionRollup::new(RollupSettings { events_min: 2, topics_max: 3, ..RollupSettings::default() })
}

async fn events(subject: &Subject, names: impl Iterator<Item = usize>, vectors: &mut ClusteredVectors) {
    let mut write = WriteBuilder::new(&scope("s"));
    for n in names {
        write = write.node(&format!("e{n}"), &format!("event {n} says")).vector(vectors.of(n % 2));
    }
    subject.write(write).await;
}

async fn of_type(subject: &Subject, node_type: NodeType) -> Vec<SourceNode> {
    let nodes = stored_nodes(&*subject.store, &scope("s")).await;
    nodes.into_iter().filter(|node| node.node_type == node_type).collect()
}

async fn head(subject: &Subject) -> u64 {
    subject.status(&scope("s")).await.head_seq
}

#[tokio::test]
async fn alike_events_make_topics_a_second_run_changes_nothing_and_a_summary_is_written_once() {
    let subject = aionis_testkit::sqlite::subject().await;
    events(&subject, 0..10, &mut ClusteredVectors::new(3, DIM, 2)).await;
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let planned = runner(&subject).run(&topics(4), &Selection::default(), &dry, &NoProgress).await.unwrap();
    assert!(planned.total.number("created_topics") >= 2 && head(&subject).await == 1, "a dry run stores nothing");
    let report = run(&subject, &topics(100)).await;
    assert_eq!(report.total.number("processed_events"), 10);
    let quality = report.targets[0].report.get("quality").unwrap().clone();
    assert!(quality["cohesion"].as_f64().unwrap() > 0.5 && quality["orphan_rate_after"] == json!(0.0), "{quality}");
    let after = head(&subject).await;
    let again = run(&subject, &topics(100)).await;
    assert_eq!((again.total.number("processed_events"), head(&subject).await), (0, after));
    let newest = subject.store.newest_commits(&scope("s"), None, 1).await.unwrap().remove(0);
    assert_eq!((newest.header.kind.as_str(), newest.header.actor.as_str()), ("topic_cluster", "job"));
    let report = run(&subject, &rollup()).await;
    assert!(report.total.number("created_summaries") >= 1, "{:?}", report.targets);
    let summary = of_type(&subject, NodeType::Concept).await.remove(0);
    assert!(summary.text_summary.as_ref().unwrap().starts_with("Topic summary: event"), "{summary:?}");
    let after = head(&subject).await;
    let again = run(&subject, &rollup()).await;
    assert_eq!((again.total.number("updated_summaries"), head(&subject).await), (0, after));
    assert_eq!(again.total.number("unchanged_summaries"), report.total.number("created_summaries"));
    assert_narrow(&*subject.store, &scope("s")).await;
    assert_sound(&*subject.store).await;
}

#[tokio::test]
async fn ops_13_near_identical_events_of_a_batch_make_one_topic() {
    let subject = aionis_testkit::sqlite::subject().await;
    let mut write = WriteBuilder::new(&scope("s"));
    for n in 0..20_u16 {
        let mut vector = vec![1.0; DIM];
        vector[0] += f32::from(n) * 1e-4;
        write = write.node(&format!("e{n}"), "the same").vector(vector);
    }
    subject.write(write).await;
    let report = run(&subject, &TopicCluster::default()).await;
    assert_eq!((report.total.number("created_topics"), report.total.number("assigned")), (1, 20));
    let topic = of_type(&subject, NodeType::Topic).await.remove(0);
    assert_eq!((&topic.slots["member_count"], &topic.slots["topic_state"]), (&json!(20), &json!("active")));
}

#[tokio::test]
async fn a_run_that_is_stopped_between_steps_converges() {
    let (whole, cut) = (aionis_testkit::sqlite::subject().await, aionis_testkit::sqlite::subject().await);
    for subject in [&whole, &cut] {
        events(subject, 0..30, &mut ClusteredVectors::new(5, DIM, 2)).await;
    }
    run(&whole, &topics(4)).await;
    let one = RunOptions { max_batches: Some(1), ..RunOptions::default() };
    let mut runs = 0;
    loop {
        let report = runner(&cut).run(&topics(4), &Selection::default(), &one, &NoProgress).await.unwrap();
        runs += 1;
        if report.targets[0].status == TargetStatus::Done {
            break;
        }
        // What was done before the cursor was lost is done again without harm.
        run(&cut, &topics(1)).await;
    }
    assert!(runs >= 1);
    let ids =
        |nodes: Vec<SourceNode>| nodes.into_iter().map(|node| node.slots["member_count"].clone()).collect::<Vec<_>>();
    let (a, b) = (ids(of_type(&whole, NodeType::Topic).await), ids(of_type(&cut, NodeType::Topic).await));
    let total = |counts: &[Value]| counts.iter().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!((total(&a), total(&b)), (30, 30), "every event is in one topic, once");
}

#[tokio::test]
async fn density_leaves_out_what_lies_alone() {
    let subject = aionis_testkit::sqlite::subject().await;
    let mut write = WriteBuilder::new(&scope("s"));
    let mut rng = Rng::new(9);
    for n in 0..24_usize {
        let mut vector = vec![0.0; DIM];
        vector[n % 2] = 1.0;
        vector.iter_mut().for_each(|x| *x += 0.02 * rng.gaussian());
        write = write.node(&format!("e{n}"), &format!("event {n}")).vector(vector);
    }
    for n in 0..3 {
        let mut vector = vec![0.0; DIM];
        vector[5 + n] = 1.0;
        write = write.node(&format!("alone{n}"), "alone").vector(vector);
    }
    subject.write(write).await;
    let settings = TopicSettings { strategy: Strategy::OfflineHdbscan, ..TopicSettings::default() };
    let report = run(&subject, &TopicCluster::new(settings)).await;
    let of = &report.targets[0].report;
    assert_eq!(
        (of.get("strategy_requested"), of.get("strategy_executed")),
        (Some(&json!("offline_hdbscan")), Some(&json!("offline_hdbscan")))
    );
    assert_eq!((of.number("created_topics"), of.number("assigned"), of.number("alone")), (2, 24, 0));
    assert_eq!(of.get("quality").unwrap()["orphan_rate_after"], json!(0.1111));
    assert!(of.get("quality").unwrap()["coverage"].as_f64().unwrap() < 1.0, "what lies alone is not covered");
}

#[tokio::test]
async fn equal_vectors_are_one_cluster_and_too_few_are_none() {
    let subject = aionis_testkit::sqlite::subject().await;
    let mut write = WriteBuilder::new(&scope("s"));
    for n in 0..8 {
        write = write.node(&format!("e{n}"), "the same").vector(vec![1.0; DIM]);
    }
    subject.write(write.node("few", "x").private(Some("ann"), None).vector(vec![1.0; DIM])).await;
    let settings = TopicSettings { strategy: Strategy::OfflineHdbscan, ..TopicSettings::default() };
    let report = run(&subject, &TopicCluster::new(settings)).await;
    assert_eq!((report.total.number("created_topics"), report.total.number("assigned")), (1, 8));
}

#[tokio::test]
async fn events_that_wait_for_their_vector_bring_the_job_back() {
    let subject = aionis_testkit::sqlite::subject().await;
    subject.write(WriteBuilder::new(&scope("s")).deriving().node("e", "waits")).await;
    subject.clock.advance(Duration::from_secs(1));
    run(&subject, &topics(10)).await;
    subject.clock.advance(Duration::from_secs(7_200));
    let due = || async {
        let before = aionis_core::clock::Timestamp(subject.now().0 - 3_600_000_000);
        subject.store.due_scopes(INFO.name, before, subject.now(), true, 10).await.unwrap()
    };
    assert_eq!(due().await, [scope("s")], "nothing was committed, and it looks again");
    let claimed = subject.store.claim(aionis_core::ports::store::ClaimRequest {
        worker: "w".to_owned(),
        now: subject.now(),
        lease: Duration::from_secs(60),
        limit: 10,
    });
    let items = claimed.await.unwrap();
    let texts = subject.store.pending_texts(&items).await.unwrap();
    let vectors = texts.into_iter().map(|text| aionis_core::ports::store::EmbeddedNode {
        scope: text.scope,
        id: text.id,
        digest: text.digest,
        result: Ok(vec![1.0; DIM]),
    });
    let model = aionis_testkit::conformance::MODEL;
    subject.store.complete(&items, vectors.collect(), model, subject.now()).await.unwrap();
    assert_eq!(run(&subject, &topics(10)).await.total.number("processed_events"), 1);
}

#[tokio::test]
async fn a_topic_id_that_is_taken_blocks_one_event_and_not_the_job() {
    let subject = aionis_testkit::sqlite::subject().await;
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("e", "says").vector(vec![1.0; DIM])).await;
    let event = subject.store.source_nodes(&s, &[node_id(&s, "e")]).await.unwrap().remove(0);
    let id = topic_id("s", &event);
    subject
        .write(WriteBuilder::new(&s).node("x", "in its place").with(|node| {
            (node.id, node.client_id) = (Some(id.0), None);
        }))
        .await;
    let report = run(&subject, &TopicCluster::default()).await;
    assert_eq!((report.total.number("blocked_events"), report.total.number("created_topics")), (1, 0));
}

/// What is random: who writes where, with what vector, and what runs in between.
#[derive(Clone, Debug)]
enum Act {
    Write { owner: usize, cluster: usize, count: usize },
    Cluster { batch: usize, density: bool },
    Roll,
    Forget { nth: usize },
    JoinAcross { event: usize, topic: usize },
    Narrow { nth: usize, owner: usize },
}

fn act() -> impl Generator<Value = Act> {
    prop_oneof![
        4 => (0..6_usize, 0..3_usize, 1..5_usize).prop_map(|(owner, cluster, count)| Act::Write { owner, cluster, count }),
        2 => (1..6_usize, any::<bool>()).prop_map(|(batch, density)| Act::Cluster { batch, density }),
        2 => Just(Act::Roll),
        1 => (0..50_usize).prop_map(|nth| Act::Forget { nth }),
        1 => (0..50_usize, 0..50_usize).prop_map(|(event, topic)| Act::JoinAcross { event, topic }),
        1 => (0..50_usize, 2..6_usize).prop_map(|(nth, owner)| Act::Narrow { nth, owner }),
    ]
}

fn of_owner(write: WriteBuilder, owner: usize) -> WriteBuilder {
    match owner {
        0 | 1 => write,
        2 => write.private(Some("ann"), None),
        3 => write.private(Some("bob"), Some("red")),
        4 => write.private(None, Some("red")),
        _ => write.private(None, None),
    }
}

/// Applies a history; returns what is stored at its end, without what depends on the time of day.
async fn live(subject: &Subject, acts: &[Act]) -> (Vec<Value>, usize) {
    let s = scope("s");
    let mut vectors = ClusteredVectors::new(11, DIM, 3);
    let mut written = 0;
    for act in acts {
        subject.clock.advance(Duration::from_secs(1));
        match act {
            Act::Write { owner, cluster, count } => {
                let mut write = WriteBuilder::new(&s).input(&written.to_string());
                for _ in 0..*count {
                    write =
                        write.node(&format!("e{written}"), &format!("event {written}")).vector(vectors.of(*cluster));
                    write = of_owner(write, *owner);
                    written += 1;
                }
                subject.write(write).await;
            }
            Act::Cluster { batch, density } => {
                let strategy = if *density { Strategy::OfflineHdbscan } else { Strategy::OnlineKnn };
                let settings = TopicSettings { strategy, ..topics(*batch).settings };
                run(subject, &TopicCluster::new(settings)).await;
            }
            Act::Roll => drop(run(subject, &rollup()).await),
            Act::Forget { nth } => forget(subject, *nth).await,
            Act::JoinAcross { event, topic } => join(subject, *event, *topic).await,
            Act::Narrow { nth, owner } => narrow(subject, *nth, *owner).await,
        }
        assert_narrow(&*subject.store, &s).await;
    }
    assert_sound(&*subject.store).await;
    let nodes = stored_nodes(&*subject.store, &s).await;
    assert!(nodes.iter().all(|node| node.audience.lane == Lane::Shared
        || node.node_type == NodeType::Event
        || !node.audience.is_nobody()));
    let shown = |node: &SourceNode| {
        json!([node.id, node.title, node.text_summary, node.slots, node.audience.value(), node.tier])
    };
    (nodes.iter().map(shown).collect(), stored_edges(&*subject.store, &s).await.len())
}

async fn nth(subject: &Subject, node_type: NodeType, nth: usize) -> Option<NodeId> {
    let nodes = of_type(subject, node_type).await;
    (!nodes.is_empty()).then(|| nodes[nth % nodes.len()].id)
}

/// Somebody puts an event into a topic of other readers.
async fn join(subject: &Subject, event: usize, topic: usize) {
    let (Some(event), Some(topic)) =
        (nth(subject, NodeType::Event, event).await, nth(subject, NodeType::Topic, topic).await)
    else {
        return;
    };
    let edge = aionis_core::jobs::topics::edge_input(
        ("s", "by hand"),
        aionis_core::model::EdgeType::PartOf,
        (event, topic),
        (0.9, 0.9, 0.0),
    );
    subject
        .write(WriteBuilder::new(&scope("s")).input(&format!("{event} {topic}")).request(|r| r.edges.push(edge)))
        .await;
}

/// An event gets other readers.
async fn narrow(subject: &Subject, nth_event: usize, owner: usize) {
    let Some(id) = nth(subject, NodeType::Event, nth_event).await else { return };
    let event = subject.store.source_nodes(&scope("s"), &[id]).await.unwrap().remove(0);
    let (name, said) = (event.client_id.unwrap(), event.text_summary.unwrap());
    subject
        .write(of_owner(WriteBuilder::new(&scope("s")).input(&format!("{id} {owner}")).node(&name, &said), owner))
        .await;
}

/// An event is forgotten; nothing that is left repeats what it said.
async fn forget(subject: &Subject, nth_event: usize) {
    let Some(id) = nth(subject, NodeType::Event, nth_event).await else { return };
    let said = subject.store.source_nodes(&scope("s"), &[id]).await.unwrap().remove(0).text_summary.unwrap();
    let asked = |token: Option<aionis_core::canon::Digest>| aionis_core::forget::PreparedForget {
        scope: scope("s"),
        actor: "a".to_owned(),
        ids: vec![id],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: aionis_core::canon::canonical_sha256(&json!([id, token])),
        idempotency: None,
    };
    let look = subject.store.forget(asked(None)).await.unwrap();
    let token = aionis_core::canon::Digest::from_hex(&look.token).ok();
    subject.store.forget(asked(token)).await.unwrap();
    let left = stored_nodes(&*subject.store, &scope("s")).await;
    let words =
        |text: &Option<String>| text.as_ref().is_some_and(|text| format!("{text} ").contains(&format!("{said} ")));
    let repeats = |node: &&SourceNode| {
        words(&node.title) || words(&node.text_summary) || node.slots.to_string().contains(&format!("{said}\""))
    };
    assert_eq!(left.iter().filter(repeats).count(), 0, "{said} is repeated");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ops_13_nothing_derived_is_seen_by_who_does_not_see_its_sources(acts in prop::collection::vec(act(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { live(&aionis_testkit::sqlite::subject().await, &acts).await });
    }
}

#[test]
fn both_engines_derive_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let write = |owner, cluster| Act::Write { owner, cluster, count: 4 };
    let acts = [
        write(0, 0),
        write(2, 0),
        Act::Cluster { batch: 3, density: false },
        write(0, 1),
        write(3, 0),
        Act::JoinAcross { event: 5, topic: 0 },
        Act::Cluster { batch: 50, density: true },
        Act::Roll,
        Act::Forget { nth: 2 },
        write(0, 0),
        write(4, 2),
        write(5, 2),
        Act::Cluster { batch: 50, density: false },
        Act::Roll,
        Act::Forget { nth: 7 },
        Act::Narrow { nth: 3, owner: 2 },
        Act::Narrow { nth: 9, owner: 4 },
        Act::Cluster { batch: 2, density: false },
        Act::Roll,
    ];
    runtime.block_on(async {
        let sqlite = live(&aionis_testkit::sqlite::subject().await, &acts).await;
        let postgres = live(&aionis_testkit::postgres::subject().await, &acts).await;
        assert_eq!(sqlite.0.len(), postgres.0.len());
        for (a, b) in sqlite.0.iter().zip(&postgres.0) {
            assert_eq!(a, b);
        }
        assert_eq!(sqlite.1, postgres.1);
    });
}

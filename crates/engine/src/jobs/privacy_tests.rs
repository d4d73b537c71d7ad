//! Whatever jobs do, in whatever order, between writes of several agents and teams: nobody reads, or finds, what they may not
//! read where it was written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aionis_core::jobs::consolidation::UndoWhich;
use aionis_core::{
    canon::{Digest, canonical_sha256},
    forget::PreparedForget,
    ids::NodeId,
    jobs::{
        Over,
        owner_review::{Assignment, Chosen, Owner},
        retention::RetentionDays,
        topics::edge_input,
    },
    lifecycle::{DecayPolicy, TierPolicy},
    model::{EdgeType, NodeType, RuleState, Viewer},
    operate::{NodeNames, Operation, Outcome},
    ports::store::{ClaimRequest, EmbeddedNode, SourceNode},
    write::NodeInput,
};
use aionis_testkit::{
    Leak, Words, assert_narrow, assert_sound,
    conformance::{MODEL, Subject},
    fixtures::{DIM, Rng, WriteBuilder, agent, anyone, member, node_id, operation, scope, team},
    found_by_asking, leaks, stored_nodes, wider_than_sources,
};
use proptest::{prelude::*, strategy::Strategy as Generator};
use serde_json::json;

use super::{Strategy, *};

const CLUSTERS: usize = 3;
const KINDS: [NodeType; 6] =
    [NodeType::Event, NodeType::Event, NodeType::Event, NodeType::Entity, NodeType::Topic, NodeType::Rule];
/// Jobs that change memories, but the one that takes away all of it.
const JOBS: [&str; 11] = [
    "compression-rollup",
    "consolidation-apply",
    "consolidation-candidates",
    "consolidation-redirect-edges",
    "consolidation-undo",
    "embedding-backfill",
    "outbox-replay",
    "owner-review",
    "retention",
    "salience-decay",
    "topic-cluster",
];

/// What is random: who writes what where, and what runs in between.
#[derive(Clone, Debug)]
enum Act {
    Write {
        owner: usize,
        kind: usize,
        cluster: usize,
        count: usize,
    },
    /// Somebody says something else.
    Rewrite {
        nth: usize,
    },
    /// Others may see it from now on.
    Reown {
        nth: usize,
        owner: usize,
    },
    /// Somebody puts an event into any topic.
    Join {
        event: usize,
        topic: usize,
    },
    /// A node was used; a rule served.
    Use {
        nth: usize,
    },
    Forget {
        nth: usize,
    },
    /// Vectors that wait are derived.
    Embed,
    Days(u8),
    Job {
        job: usize,
        how: u8,
    },
}

fn act() -> impl Generator<Value = Act> {
    let nth = || 0..200_usize;
    prop_oneof![
        6 => (0..7_usize, 0..KINDS.len(), 0..CLUSTERS, 1..6_usize)
            .prop_map(|(owner, kind, cluster, count)| Act::Write { owner, kind, cluster, count }),
        1 => nth().prop_map(|nth| Act::Rewrite { nth }),
        3 => (nth(), 0..7_usize).prop_map(|(nth, owner)| Act::Reown { nth, owner }),
        1 => (nth(), nth()).prop_map(|(event, topic)| Act::Join { event, topic }),
        1 => nth().prop_map(|nth| Act::Use { nth }),
        2 => nth().prop_map(|nth| Act::Forget { nth }),
        1 => Just(Act::Embed),
        1 => (1..60_u8).prop_map(Act::Days),
        14 => (0..JOBS.len(), any::<u8>()).prop_map(|(job, how)| Act::Job { job, how }),
    ]
}

/// Lane and owners by number.
fn owned(write: WriteBuilder, owner: usize) -> WriteBuilder {
    match owner {
        0 | 1 => write,
        2 => write.private(Some("ann"), None),
        3 => write.private(Some("bob"), Some("red")),
        4 => write.private(None, Some("red")),
        5 => write.private(None, Some("blue")),
        _ => write.private(None, None),
    }
}

fn viewers() -> [Viewer; 6] {
    [anyone(), agent("ann"), agent("bob"), team("red"), member("bob", "red"), member("cid", "blue")]
}

/// A word of consonants: analysers of words leave it as it is.
fn word(n: usize) -> String {
    let digits = ['b', 'c', 'd', 'f', 'g', 'h', 'k', 'm', 'p', 't'];
    format!(
        "zq{}",
        n.to_string().chars().filter_map(|c| c.to_digit(10)).map(|d| digits[d as usize]).collect::<String>()
    )
}

/// A vector near the middle of a cluster.
fn near(cluster: usize, n: usize) -> Vec<f32> {
    let (middle, noise) = (Rng::new(cluster as u64 + 1).vector(DIM), Rng::new(n as u64 + 1_000).vector(DIM));
    middle.iter().zip(noise).map(|(x, y)| x + 0.2 * y).collect()
}

struct Mine {
    name: String,
    kind: NodeType,
    cluster: usize,
    owner: usize,
    text: String,
}

/// A memory and what was written into it.
struct World {
    subject: Subject,
    written: Vec<Mine>,
    words: Words,
    /// Nodes that existed once may have said them.
    said: usize,
    merges: Vec<Uuid>,
    tally: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(subject: Subject) -> Self {
        Self { subject, written: Vec::new(), words: Words::new(), said: 0, merges: Vec::new(), tally: BTreeMap::new() }
    }

    fn text(&mut self, name: &str) -> String {
        self.said += 1;
        let word = word(self.said);
        self.words.insert(word.clone(), node_id(&scope("s"), name));
        format!("{word} was seen by the old mill near the river")
    }

    fn put(&self, write: WriteBuilder, at: usize) -> WriteBuilder {
        let mine = &self.written[at];
        let shape = |node: &mut NodeInput| {
            node.node_type = mine.kind;
            node.slots = (mine.kind == NodeType::Rule).then(|| json!({ "if": {}, "then": {} }));
        };
        // A private rule without owner is refused.
        let owner = if mine.kind == NodeType::Rule { mine.owner.min(5) } else { mine.owner };
        owned(write.node(&mine.name, &mine.text).vector(near(mine.cluster, at)).with(shape), owner)
    }

    fn builder(&mut self) -> WriteBuilder {
        self.said += 1;
        WriteBuilder::new(&scope("s")).input(&format!("write {}", self.said))
    }

    async fn write(&mut self, (owner, kind, cluster): (usize, NodeType, usize), count: usize) {
        let mut write = self.builder();
        for _ in 0..count {
            let name = format!("n{}", self.written.len());
            let text = self.text(&name);
            self.written.push(Mine { name, kind, cluster, owner, text });
            write = self.put(write, self.written.len() - 1);
        }
        self.subject.write(write).await;
    }

    async fn again(&mut self, nth: usize, change: impl FnOnce(&mut Self, usize)) {
        if self.written.is_empty() {
            return;
        }
        let at = nth % self.written.len();
        change(self, at);
        let write = self.builder();
        self.subject.write(self.put(write, at)).await;
    }

    async fn stored(&self, kinds: &[NodeType], nth: usize) -> Option<SourceNode> {
        let mut nodes = stored_nodes(&*self.subject.store, &scope("s")).await;
        nodes.retain(|node| kinds.is_empty() || kinds.contains(&node.node_type));
        (!nodes.is_empty()).then(|| nodes.swap_remove(nth % nodes.len()))
    }

    async fn join(&mut self, event: usize, topic: usize) {
        let ends = (self.stored(&[NodeType::Event], event).await, self.stored(&[NodeType::Topic], topic).await);
        let (Some(event), Some(topic)) = ends else { return };
        let edge = edge_input(("s", "by hand"), EdgeType::PartOf, (event.id, topic.id), (0.9, 0.9, 0.0));
        let write = self.builder().request(|request| request.edges.push(edge));
        self.subject.write(write).await;
    }

    async fn used(&self, nth: usize) {
        let Some(node) = self.stored(&[], nth).await else { return };
        let (s, store) = (scope("s"), &self.subject.store);
        let operations = if node.node_type == NodeType::Rule {
            let rule = node.id;
            let state = if nth.is_multiple_of(2) { RuleState::Active } else { RuleState::Shadow };
            let note = Some("it served".to_owned());
            vec![
                Operation::RuleState { rule, state, checked: node.digest },
                Operation::RuleFeedback { rule, outcome: Outcome::Positive, run_id: None, note },
            ]
        } else {
            let nodes = NodeNames { ids: vec![node.id], client_ids: Vec::new() };
            let reason = Some("it was asked for".to_owned());
            vec![Operation::Activate { nodes, outcome: Outcome::Positive, activate: true, run_id: None, reason }]
        };
        for done in operations {
            store.operate(operation(&s, None, done)).await.unwrap();
        }
    }

    async fn forget(&self, nth: usize) {
        let Some(node) = self.stored(&[], nth).await else { return };
        let asked = |token: Option<Digest>| PreparedForget {
            scope: scope("s"),
            actor: "a".to_owned(),
            ids: vec![node.id],
            missing_client_ids: Vec::new(),
            viewer: None,
            token,
            request_digest: canonical_sha256(&json!([node.id, token, self.said])),
            idempotency: None,
        };
        let look = self.subject.store.forget(asked(None)).await.unwrap();
        self.subject.store.forget(asked(Digest::from_hex(&look.token).ok())).await.unwrap();
    }

    async fn embed(&self) {
        let (now, store) = (self.subject.now(), &self.subject.store);
        let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 100 };
        let items = store.claim(claim).await.unwrap();
        let texts = store.pending_texts(&items).await.unwrap();
        let vectors = texts.into_iter().filter_map(|text| {
            let said = text.text?;
            let result = Ok(near(said.len() % CLUSTERS, said.len()));
            Some(EmbeddedNode { scope: text.scope, id: text.id, digest: text.digest, result })
        });
        store.complete(&items, vectors.collect(), MODEL, now).await.unwrap();
    }

    async fn run(&mut self, job: &dyn Job) -> JobReport {
        let runner = Runner::new(Arc::clone(&self.subject.store), self.subject.clock.clone());
        let report = runner.run(job, &Selection::default(), &RunOptions::default(), &NoProgress).await.unwrap();
        for counted in [
            "created_topics",
            "assigned",
            "created_summaries",
            "merged_nodes",
            "redirected_edges",
            "undone_merges",
            "moved",
        ] {
            *self.tally.entry(counted).or_default() += report.total.number(counted);
        }
        report
    }

    /// Runs a job, in one of its ways.
    async fn job(&mut self, name: &str, how: u8) {
        let is_odd = how % 2 == 1;
        let job: Box<dyn Job> = match name {
            "compression-rollup" => Box::new(CompressionRollup::new(RollupSettings {
                events_min: 2,
                topics_max: 3,
                ..RollupSettings::default()
            })),
            "consolidation-apply" => Box::new(ConsolidationApply {
                types: CandidateSettings::default().types,
                limit: 1 + usize::from(how),
                allow_contradictory: is_odd,
                decay: DecayPolicy::default(),
            }),
            "consolidation-candidates" => Box::new(ConsolidationCandidates::new(CandidateSettings::default())),
            "consolidation-redirect-edges" => Box::new(ConsolidationRedirect { aliases: 3 }),
            "consolidation-undo" => {
                let Some(id) = self.merges.pop() else { return };
                Box::new(ConsolidationUndo { which: UndoWhich::Merge(id), force: is_odd })
            }
            "embedding-backfill" => Box::new(EmbeddingBackfill),
            "outbox-replay" => Box::new(OutboxReplay),
            "owner-review" => {
                let owner = if is_odd { Owner::Agent("ann".into()) } else { Owner::Team("red".into()) };
                Box::new(OwnerReview { assignment: Some(Assignment { owner, chosen: Chosen::AllListed }) })
            }
            "retention" => {
                let days = RetentionDays { outbox_days: 1, audit_days: 1, decision_days: 1, run_days: 1 };
                Box::new(Retention { days })
            }
            "salience-decay" => {
                Box::new(SalienceDecay::new(TierPolicy { daily_mutation_ratio: 1.0, ..TierPolicy::default() }))
            }
            "topic-cluster" => Box::new(TopicCluster::new(TopicSettings {
                strategy: if is_odd { Strategy::OfflineHdbscan } else { Strategy::OnlineKnn },
                // With the highest of them each event begins a topic.
                similarity_min: [0.6, 0.9, 0.9999][usize::from(how / 2) % 3],
                events_min: 1 + u32::from(how / 8) % 3,
                batch_size: 1 + usize::from(how) % 7,
                ..TopicSettings::default()
            })),
            _ => panic!("{name} is not here"),
        };
        let report = self.run(&*job).await;
        // A merge that was taken further cannot be taken back before that one.
        assert!(report.ok || name == "consolidation-undo", "{name}: {:?}", report.targets);
        let merges = report.targets.iter().filter_map(|target| target.report.get("merges")?.as_array());
        let ids = merges.flatten().filter_map(|merge| merge["merge_id"].as_str()?.parse::<Uuid>().ok());
        if name == "consolidation-apply" {
            self.merges.extend(ids);
        }
    }

    async fn act(&mut self, act: &Act) {
        self.subject.clock.advance(Duration::from_secs(1));
        match *act {
            Act::Write { owner, kind, cluster, count } => self.write((owner, KINDS[kind], cluster), count).await,
            Act::Rewrite { nth } => {
                self.again(nth, |world, at| {
                    let name = world.written[at].name.clone();
                    world.written[at].text = world.text(&name);
                })
                .await;
            }
            Act::Reown { nth, owner } => self.again(nth, |world, at| world.written[at].owner = owner).await,
            Act::Join { event, topic } => self.join(event, topic).await,
            Act::Use { nth } => self.used(nth).await,
            Act::Forget { nth } => self.forget(nth).await,
            Act::Embed => self.embed().await,
            Act::Days(days) => _ = self.subject.clock.advance(Duration::from_secs(u64::from(days) * 86_400)),
            Act::Job { job, how } => self.job(JOBS[job], how).await,
        }
    }

    async fn leaks(&self) -> Vec<Leak> {
        leaks(&*self.subject.store, &scope("s"), &self.words, &viewers()).await
    }

    /// Lives through a history; nobody learns anything on the way.
    async fn live(&mut self, acts: &[Act]) {
        let s = scope("s");
        for act in acts {
            self.act(act).await;
            assert_narrow(&*self.subject.store, &s).await;
            assert_eq!(self.leaks().await, [], "after {act:?}");
        }
        let vectors: Vec<Vec<f32>> = (0..CLUSTERS).map(|cluster| near(cluster, 0)).collect();
        let found = found_by_asking(&*self.subject.store, &s, (&self.words, &vectors), &viewers()).await;
        assert_eq!(found, []);
        assert_sound(&*self.subject.store).await;
    }
}

/// How many histories; `AIONIS_TEST_PRIVACY_CASES=500` for the full show.
fn cases() -> u32 {
    std::env::var("AIONIS_TEST_PRIVACY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(12)
}

fn histories(cases: u32, subject: impl Fn(&tokio::runtime::Runtime) -> Subject) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases, max_shrink_iters: 200, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let done = runner.run(&prop::collection::vec(act(), 10..40), |acts| {
        let subject = subject(&runtime);
        runtime.block_on(World::new(subject).live(&acts));
        Ok(())
    });
    assert!(done.is_ok(), "{}", done.unwrap_err());
}

#[test]
fn nobody_learns_from_jobs_what_they_may_not_see_on_the_embedded_engine() {
    histories(cases(), |runtime| runtime.block_on(aionis_testkit::sqlite::subject()));
}

#[test]
fn nobody_learns_from_jobs_what_they_may_not_see_on_postgres() {
    histories(cases().div_ceil(4), |runtime| runtime.block_on(aionis_testkit::postgres::subject()));
}

/// One history in which everything happens: topics, summaries, merges, moved edges, and what narrows and forgets them.
async fn all_of_it(subject: Subject) {
    let write = |owner, kind, cluster, count| Act::Write { owner, kind, cluster, count };
    let job = |name: &str, how| Act::Job { job: JOBS.iter().position(|job| *job == name).unwrap(), how };
    let mut acts = Vec::new();
    for owner in [0, 2, 3, 4, 6] {
        acts.extend([write(owner, 0, 0, 5), write(owner, 0, 1, 4), write(owner, 3, 2, 3), write(owner, 4, 0, 2)]);
    }
    acts.extend([
        job("topic-cluster", 4),
        job("topic-cluster", 5),
        write(0, 0, 0, 5),
        write(2, 0, 1, 5),
        job("topic-cluster", 0),
        job("compression-rollup", 0),
        Act::Embed,
        job("consolidation-candidates", 0),
        job("consolidation-apply", 255),
        job("consolidation-redirect-edges", 0),
        job("owner-review", 1),
        job("compression-rollup", 0),
        job("topic-cluster", 1),
        Act::Embed,
    ]);
    acts.extend((0..12).map(|nth| Act::Reown { nth: nth * 5, owner: 2 + nth % 5 }));
    acts.extend(JOBS.map(|name| job(name, 0)));
    acts.extend((0..6).map(|nth| Act::Forget { nth: nth * 7 }));
    acts.push(Act::Days(50));
    acts.extend(JOBS.map(|name| job(name, 1)));
    let mut world = World::new(subject);
    world.live(&acts).await;
    for happened in ["created_topics", "created_summaries", "merged_nodes", "redirected_edges", "undone_merges"] {
        assert!(world.tally[happened] > 0, "{happened}: {:?}", world.tally);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_in_which_everything_happens_leaks_nothing_on_either_engine() {
    all_of_it(aionis_testkit::sqlite::subject().await).await;
    all_of_it(aionis_testkit::postgres::subject().await).await;
}

#[test]
fn every_job_that_changes_memories_is_among_them() {
    let changing = ALL.iter().filter(|info| info.changes && info.name != "scope-purge").map(|info| info.name);
    assert_eq!(changing.collect::<Vec<_>>(), JOBS);
}

/// A job that tells everyone what one node says.
struct Telling(NodeId);

const TELLING: JobInfo =
    JobInfo { name: "telling", about: "Tell everyone", changes: true, over: Over::Scopes, schedule: None };

#[async_trait]
impl Job for Telling {
    fn info(&self) -> &'static JobInfo {
        &TELLING
    }

    fn params(&self) -> Value {
        json!({})
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let source = on.store.source_nodes(on.scope()?, &[self.0]).await?.remove(0);
        let edge =
            edge_input(("s", "told"), EdgeType::DerivedFrom, (node_id(on.scope()?, "told"), self.0), (1.0, 1.0, 0.0));
        let write = WriteBuilder::new(on.scope()?).input("told").node("told", source.text().unwrap_or_default());
        on.store.write(write.request(|request| request.edges.push(edge)).prepared()).await?;
        Ok(Stepped { report: Report::default(), next: None })
    }
}

#[tokio::test]
async fn a_job_that_tells_others_is_noticed() {
    let mut world = World::new(aionis_testkit::sqlite::subject().await);
    world.live(&[Act::Write { owner: 2, kind: 0, cluster: 0, count: 1 }]).await;
    let (s, source) = (scope("s"), node_id(&scope("s"), "n0"));
    world.run(&Telling(source)).await;
    assert_eq!(wider_than_sources(&*world.subject.store, &s).await, [(node_id(&s, "told"), source)]);
    let told: Vec<Viewer> = world.leaks().await.into_iter().map(|leak| leak.viewer).collect();
    let others: Vec<Viewer> = viewers().into_iter().filter(|viewer| *viewer != agent("ann")).collect();
    assert_eq!(told, others);
    let found = found_by_asking(&*world.subject.store, &s, (&world.words, &[]), &viewers()).await;
    assert_eq!(found.len(), others.len());
}

//! The image in memory answers like the database it was made from.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aionis_core::{
    canon::Digest,
    clock::{Clock, Timestamp},
    ids::{NodeId, ScopeKey},
    model::{EdgeType, NodeType, Tier},
    ports::store::{
        ClaimRequest, DenseQuery, EdgeQuery, EmbeddedNode, FailedItem, LexicalQuery, NodeFilter, OutboxItem,
        RecallReader, Store, StoreError, SurroundingsQuery, WriteStore,
    },
    text,
};
use aionis_store::sqlite::SqliteStore;
use aionis_testkit::{
    assert_sound,
    conformance::MODEL,
    fixtures::{DIM, Rng, WriteBuilder, agent, anyone, everything, member, node_id, reference, scope},
    sqlite::TempStore,
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use serde_json::json;
use tokio::task::JoinSet;

const KEYS: usize = 9;
const WORDS: [&str; 8] = ["alder", "birch", "cedar", "running", "elm", "Čapek", "数据库", "2024"];
const TITLES: [&str; 4] = ["Alder", "Birch Running", "cedar elm 2024", "a title of more than five terms"];
const OWNERS: [(Option<&str>, Option<&str>); 5] =
    [(None, None), (Some("ann"), None), (None, Some("red")), (Some("bob"), Some("red")), (Some("bob"), Some("blue"))];

#[derive(Clone, Debug)]
struct NodeSpec {
    key: usize,
    by_id: bool,
    node_type: usize,
    words: Vec<usize>,
    title: Option<usize>,
    owner: usize,
    private: bool,
    tier: Option<usize>,
    salience: Option<u8>,
    vector: Option<u64>,
    slots: usize,
}

#[derive(Clone, Debug)]
struct EdgeSpec {
    src: usize,
    dst: usize,
    edge_type: usize,
    weight: u8,
    confidence: u8,
}

#[derive(Clone, Debug)]
enum Work {
    Complete,
    Refuse,
    Stale,
    Retry,
    GiveUp,
}

#[derive(Clone, Debug)]
enum Step {
    Write { second: bool, derive: bool, force: bool, nodes: Vec<NodeSpec>, edges: Vec<EdgeSpec> },
    Work { limit: usize, how: Work },
    Ask { second: bool, which: u64 },
    Compare,
}

fn node_spec() -> impl Strategy<Value = NodeSpec> {
    let look = (0..NodeType::ALL.len(), prop::collection::vec(0..WORDS.len(), 0..7), prop::option::of(0..TITLES.len()));
    let rights = (0..OWNERS.len(), prop::bool::weighted(0.3), prop::option::weighted(0.3, 0..Tier::ALL.len()));
    let numbers = (prop::option::weighted(0.3, 0_u8..=4), prop::option::weighted(0.5, 0_u64..6), 0_usize..6);
    ((0..KEYS, prop::bool::weighted(0.2)), look, rights, numbers).prop_map(
        |((key, by_id), (node_type, words, title), (owner, private, tier), (salience, vector, slots))| NodeSpec {
            key,
            by_id,
            // Mostly events and topics, which are always visible.
            node_type: if slots < 3 { 0 } else { node_type },
            words,
            title,
            owner,
            private,
            tier,
            salience,
            vector,
            slots,
        },
    )
}

fn edge_spec() -> impl Strategy<Value = EdgeSpec> {
    (0..KEYS, 1..KEYS, 0..EdgeType::ALL.len(), 0_u8..=4, 0_u8..=4).prop_map(
        |(src, offset, edge_type, weight, confidence)| EdgeSpec {
            src,
            dst: (src + offset) % KEYS,
            edge_type,
            weight,
            confidence,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let second = || prop::bool::weighted(0.2);
    let items = (prop::collection::vec(node_spec(), 0..5), prop::collection::vec(edge_spec(), 0..4));
    let how = prop_oneof![
        4 => Just(Work::Complete),
        1 => Just(Work::Refuse),
        1 => Just(Work::Stale),
        1 => Just(Work::Retry),
        1 => Just(Work::GiveUp),
    ];
    prop_oneof![
        8 => (second(), any::<bool>(), prop::bool::weighted(0.1), items)
            .prop_map(|(second, derive, force, (nodes, edges))| Step::Write { second, derive, force, nodes, edges }),
        3 => (1_usize..4, how).prop_map(|(limit, how)| Step::Work { limit, how }),
        5 => (second(), any::<u64>()).prop_map(|(second, which)| Step::Ask { second, which }),
        1 => Just(Step::Compare),
    ]
}

fn a_scope(second: bool) -> ScopeKey {
    scope(if second { "second" } else { "first" })
}

fn key(n: usize) -> String {
    format!("key-{n}")
}

fn write_of(s: &ScopeKey, (derive, force): (bool, bool), nodes: &[NodeSpec], edges: &[EdgeSpec]) -> WriteBuilder {
    let mut write = WriteBuilder::new(s);
    if derive {
        write = write.deriving();
    }
    if force {
        write = write.force();
    }
    let (mut seen, mut places) = (BTreeSet::new(), BTreeSet::new());
    for spec in nodes.iter().filter(|spec| seen.insert(spec.key)) {
        let words: Vec<&str> = spec.words.iter().map(|&word| WORDS[word]).collect();
        write = write.node(&key(spec.key), &words.join(" "));
        if spec.private {
            let (owner_agent, owner_team) = OWNERS[spec.owner];
            write = write.private(owner_agent, owner_team);
        }
        write = write.with(|node| {
            if spec.by_id {
                (node.id, node.client_id) = (Some(node_id(s, &key(spec.key)).0), None);
            }
            node.node_type = NodeType::ALL[spec.node_type];
            if node.node_type == NodeType::Rule && spec.private && OWNERS[spec.owner] == (None, None) {
                node.memory_lane = None;
            }
            node.title = spec.title.map(|at| TITLES[at].to_owned());
            node.tier = spec.tier.map(|at| Tier::ALL[at]);
            node.salience = spec.salience.map(|quarter| f64::from(quarter) / 4.0);
            node.confidence = spec.salience.map(|quarter| 1.0 - f64::from(quarter) / 4.0);
            node.slots = match spec.slots {
                4 => Some(json!({ "topic_state": "draft" })),
                5 => Some(json!({ "superseded_by": "x" })),
                _ => None,
            };
            node.embedding = spec.vector.map(|seed| Rng::new(seed).vector(DIM));
        });
    }
    for spec in edges.iter().filter(|spec| places.insert((spec.src, spec.dst, spec.edge_type))) {
        write = write.edge(&key(spec.src), &key(spec.dst)).with_edge(|edge| {
            edge.edge_type = EdgeType::ALL[spec.edge_type];
            (edge.weight, edge.confidence) = (f64::from(spec.weight) / 4.0, f64::from(spec.confidence) / 4.0);
        });
    }
    write
}

async fn write(store: &dyn Store, write: WriteBuilder) {
    match store.write(write.prepared()).await {
        // A dangling edge, or an edge id that the same input made before: nothing is stored then.
        Ok(_) | Err(StoreError::Rejected(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
}

async fn work(store: &dyn Store, now: Timestamp, limit: usize, how: &Work) {
    let request = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(1), limit };
    let items: Vec<OutboxItem> = store.claim(request).await.unwrap();
    if let Work::Retry | Work::GiveUp = how {
        let retry_at = matches!(how, Work::Retry).then_some(now);
        let failed = |item| FailedItem { item, error: "no".to_owned(), retry_at, counts: true };
        store.fail(items.into_iter().map(failed).collect(), now).await.unwrap();
        return;
    }
    let texts = store.pending_texts(&items).await.unwrap();
    let nodes = texts.into_iter().map(|pending| EmbeddedNode {
        result: match how {
            Work::Refuse => Err("refused".to_owned()),
            _ => Ok(Rng::new(pending.text.map_or(99, |text| text.len() as u64)).vector(DIM)),
        },
        digest: if matches!(how, Work::Stale) { Digest([7; 32]) } else { pending.digest },
        scope: pending.scope,
        id: pending.id,
    });
    store.complete(&items, nodes.collect(), MODEL, now).await.unwrap();
}

/// Every question the tests know, by number.
async fn answer(store: &dyn Store, s: &ScopeKey, which: u64) -> String {
    let mut rng = Rng::new(which);
    let ids: Vec<NodeId> = (0..KEYS).map(|n| node_id(s, &key(n))).collect();
    let viewer = [anyone(), agent("ann"), agent("bob"), member("eve", "red")][rng.below(4)].clone();
    let filter: NodeFilter = if rng.below(3) == 0 { reference(viewer.clone()) } else { everything(viewer.clone()) };
    let limit = [1, 2, 3, 50][rng.below(4)];
    match rng.below(7) {
        0 | 1 => {
            let (vector, exact) = (Rng::new(rng.below(8) as u64).vector(DIM), rng.below(4) == 0);
            let query = DenseQuery { scope: s.clone(), filter, vector, limit, scored: limit, exact };
            format!("{query:?}: {:?}", store.dense(query.clone()).await.unwrap())
        }
        2 | 3 => {
            let words: Vec<&str> = (0..=rng.below(3)).map(|_| WORDS[rng.below(WORDS.len())]).collect();
            let query = LexicalQuery { scope: s.clone(), filter, terms: text::query_terms(&words.join(" ")), limit };
            format!("{query:?}: {:?}", store.lexical(query.clone()).await.unwrap())
        }
        4 => {
            let names = ["alder", "birch run", "cedar elm 2024"].map(str::to_owned).to_vec();
            let literals: Vec<String> = (0..rng.below(4)).map(|_| key(rng.below(KEYS))).collect();
            let quoted = store.quoted(s, &filter, &literals).await.unwrap();
            let mut around: Vec<NodeId> = (0..rng.below(6)).map(|_| ids[rng.below(KEYS)]).collect();
            around.sort_unstable();
            around.dedup();
            let limit = [3, 50][rng.below(2)];
            let edges = EdgeQuery { scope: s.clone(), viewer, around, min_weight: 0.0, min_confidence: 0.0, limit };
            let query = SurroundingsQuery { edges, names };
            let mut found = store.surroundings(query.clone()).await.unwrap();
            found.links.sort_by(|a, b| {
                (a.src, a.dst)
                    .cmp(&(b.src, b.dst))
                    .then(a.weight.total_cmp(&b.weight))
                    .then(a.edge_type.cmp(&b.edge_type))
            });
            format!("{query:?} {filter:?} {literals:?}: {found:?} {quoted:?}")
        }
        5 => {
            let around = (0..rng.below(5)).map(|_| ids[rng.below(KEYS)]).collect();
            let (min_weight, min_confidence) = (rng.below(3) as f64 / 4.0, rng.below(3) as f64 / 4.0);
            let query = EdgeQuery { scope: s.clone(), viewer, around, min_weight, min_confidence, limit };
            let mut edges = store.edges_around(query.clone()).await.unwrap();
            edges.sort_by_key(|edge| edge.id);
            format!("{query:?}: {edges:?}")
        }
        _ => {
            let vitals = store.vitals(s, &ids, &viewer).await.unwrap();
            let rows = store.rows(s, &ids).await.unwrap();
            format!("{viewer:?}: {:?} {vitals:?} {rows:?}", store.scope_status(s).await.unwrap())
        }
    }
}

/// Compares a store in use with a fresh one on the same data; tells the first difference.
async fn compare(temp: &TempStore) -> Result<(), String> {
    let warm = temp.port();
    let fresh_temp = temp.crash_copy().open();
    let fresh = fresh_temp.port();
    for second in [false, true] {
        let s = a_scope(second);
        for which in 0..50 {
            let (held, loaded) = (answer(&*warm, &s, which).await, answer(&*fresh, &s, which).await);
            if held != loaded {
                return Err(format!("in {s}\nin memory: {held}\n   loaded: {loaded}"));
            }
        }
    }
    assert_eq!(assert_sound(&*warm).await, assert_sound(&*fresh).await);
    Ok(())
}

async fn replay(tight: bool, history: &[Step]) -> Result<(), String> {
    let temp = TempStore::with(|options| {
        options.readers = 2;
        if tight {
            // Less than any image needs: each scope's image pushes the other's out.
            options.image_bytes_max = 1;
        }
    });
    let store = temp.port();
    for (n, step) in history.iter().enumerate() {
        let now = temp.clock.advance(Duration::from_secs(2));
        match step {
            Step::Write { second, derive, force, nodes, edges } => {
                let request = write_of(&a_scope(*second), (*derive, *force), nodes, edges);
                // Some requests share an input, so that some edges share a derived id.
                write(&*store, request.input(&format!("input {}", n % 5))).await;
            }
            Step::Work { limit, how } => work(&*store, now, *limit, how).await,
            Step::Ask { second, which } => drop(answer(&*store, &a_scope(*second), *which).await),
            Step::Compare => compare(&temp).await?,
        }
    }
    compare(&temp).await
}

/// Any history, asked in between, ends in an image that equals a fresh one.
#[test]
fn any_history_leaves_an_image_that_equals_a_fresh_load() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases: 64, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let histories = (any::<bool>(), prop::collection::vec(step(), 1..24));
    let result = runner
        .run(&histories, |(tight, history)| runtime.block_on(replay(tight, &history)).map_err(TestCaseError::fail));
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

fn random_nodes(rng: &mut Rng) -> Vec<NodeSpec> {
    (0..=rng.below(3))
        .map(|_| NodeSpec {
            key: rng.below(KEYS),
            by_id: rng.below(5) == 0,
            node_type: 0,
            words: (0..rng.below(6)).map(|_| rng.below(WORDS.len())).collect(),
            title: (rng.below(2) == 0).then(|| rng.below(TITLES.len())),
            owner: rng.below(OWNERS.len()),
            private: rng.below(3) == 0,
            tier: (rng.below(4) == 0).then(|| rng.below(Tier::ALL.len())),
            salience: (rng.below(3) == 0).then(|| u8::try_from(rng.below(5)).unwrap()),
            vector: (rng.below(2) == 0).then(|| rng.below(6) as u64),
            slots: rng.below(6),
        })
        .collect()
}

fn random_edges(rng: &mut Rng) -> Vec<EdgeSpec> {
    (0..rng.below(3))
        .map(|_| {
            let src = rng.below(KEYS);
            let strength = u8::try_from(rng.below(5)).unwrap();
            let dst = (src + 1 + rng.below(KEYS - 1)) % KEYS;
            EdgeSpec { src, dst, edge_type: rng.below(3), weight: strength, confidence: strength }
        })
        .collect()
}

/// The same with everyone at once: writers, a worker, and readers that load images and lists in the middle of it.
async fn all_at_once(tight: bool) {
    let temp = TempStore::with(|options| options.image_bytes_max = if tight { 1 } else { 1 << 30 });
    let mut tasks = JoinSet::new();
    for seed in 0..3 {
        let (store, clock): (Arc<SqliteStore>, _) = (temp.store(), temp.clock.clone());
        tasks.spawn(async move {
            let mut rng = Rng::new(seed);
            for n in 0..120 {
                let s = a_scope(rng.below(4) == 0);
                let (nodes, edges) = (random_nodes(&mut rng), random_edges(&mut rng));
                let request = write_of(&s, (rng.below(2) == 0, rng.below(12) == 0), &nodes, &edges);
                write(&*store, request.input(&format!("input {seed} {n}"))).await;
                if n % 3 == 0 {
                    let how = [Work::Complete, Work::Complete, Work::Refuse, Work::Retry][rng.below(4)].clone();
                    work(&*store, clock.now(), 3, &how).await;
                }
            }
        });
    }
    for seed in 10..13 {
        let store = temp.store();
        tasks.spawn(async move {
            let mut rng = Rng::new(seed);
            for _ in 0..400 {
                answer(&*store, &a_scope(rng.below(4) == 0), rng.bits() % 1000).await;
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
    compare(&temp).await.unwrap_or_else(|difference| panic!("{difference}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_at_once_leaves_an_image_that_equals_a_fresh_load() {
    all_at_once(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_at_once_with_little_memory_leaves_an_image_that_equals_a_fresh_load() {
    all_at_once(true).await;
}

/// A hit's similarity is always that of its own vector, also when row numbers of vectors are used again meanwhile.
async fn similarities_are_of_own_vectors(image_bytes_max: usize) {
    let temp = TempStore::with(|options| options.image_bytes_max = image_bytes_max);
    let (s, t) = (scope("first"), scope("second"));
    let axis = |at: usize| (0..DIM).map(|n| if n == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let store = temp.store();
    for n in 0..40 {
        store.write(WriteBuilder::new(&s).node(&format!("n{n}"), "").vector(axis(1)).prepared()).await.unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (store, s, question, done) = (temp.store(), s.clone(), axis(0), Arc::clone(&done));
        readers.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let filter = everything(anyone());
                let query = DenseQuery {
                    scope: s.clone(),
                    filter,
                    vector: question.clone(),
                    limit: 50,
                    scored: 50,
                    exact: false,
                };
                for hit in store.dense(query).await.unwrap() {
                    assert!(hit.similarity < 0.5, "nothing in this scope is near: {hit:?}");
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..60 {
        // The newest vector goes and its row number with it; the next vector, in another scope, takes the number.
        let replaced = WriteBuilder::new(&s).node("moving", &format!("{round}"));
        store.write(replaced.vector(axis(1)).prepared()).await.unwrap();
        store.write(WriteBuilder::new(&s).node("moving", &format!("{round} gone")).prepared()).await.unwrap();
        let other = WriteBuilder::new(&t).node(&format!("t{round}"), "").vector(axis(0));
        store.write(other.prepared()).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    readers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_similarity_is_never_of_another_nodes_vector() {
    similarities_are_of_own_vectors(1 << 30).await;
}

/// With so little memory the vectors are read from the database after the scan.
#[tokio::test(flavor = "multi_thread")]
async fn a_similarity_is_never_of_another_nodes_vector_with_little_memory() {
    similarities_are_of_own_vectors(1).await;
}

/// What is written while an image loads is in it: loads are made to take long by size and to happen often by pushing the
/// image out each time.
#[tokio::test(flavor = "multi_thread")]
async fn writes_during_a_load_are_in_the_image() {
    let temp = TempStore::with(|options| options.image_bytes_max = 1);
    let (large, small, store) = (scope("large"), scope("small"), temp.store());
    let mut fill = WriteBuilder::new(&large);
    for n in 0..2_500 {
        fill = fill.node(&format!("n{n}"), "filler").vector(Rng::new(n).vector(DIM));
    }
    store.write(fill.prepared()).await.unwrap();
    let mut seq = 1;
    for round in 0..12 {
        store.scope_status(&small).await.unwrap();
        let loading = tokio::spawn({
            let (store, large) = (temp.store(), large.clone());
            async move { store.scope_status(&large).await.unwrap() }
        });
        while !loading.is_finished() {
            seq += 1;
            let name = format!("late {round} {seq}");
            let late = WriteBuilder::new(&large).node(&name, "late").vector(Rng::new(seq).vector(DIM));
            let late = late.edge(&name, "n1").prepared();
            assert_eq!(store.write(late).await.unwrap().commit_seq, seq);
        }
        loading.await.unwrap();
        let status = store.scope_status(&large).await.unwrap();
        assert_eq!((status.head_seq, status.nodes), (seq, 2_499 + seq), "round {round}");
        let around = vec![node_id(&large, "n1")];
        let viewer = anyone();
        let query =
            EdgeQuery { scope: large.clone(), viewer, around, min_weight: 0.0, min_confidence: 0.0, limit: 100_000 };
        assert_eq!(store.edges_around(query).await.unwrap().len() as u64, seq - 1, "round {round}");
        let filter = everything(anyone());
        let query = DenseQuery {
            scope: large.clone(),
            filter,
            vector: Rng::new(seq).vector(DIM),
            limit: 1,
            scored: 1,
            exact: false,
        };
        assert!(store.dense(query).await.unwrap()[0].similarity > 0.999, "round {round}");
    }
    assert!(seq > 12, "something was written meanwhile: {seq}");
}

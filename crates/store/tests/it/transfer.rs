//! Scopes copied between the engines, in both directions.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aionis_core::{
    clock::Clock,
    forget::PreparedForget,
    ids::ScopeKey,
    jobs::consolidation::{CandidateQuery, CandidateState, MergeAction, UndoWhich},
    model::{RuleState, Viewer},
    operate::{LinkMode, NodeNames, Operation, Outcome},
    ports::store::{DenseQuery, FailedItem, LexicalQuery, StoreError},
    text,
    write::EdgeInput,
};
use aionis_store::{
    CopyError, CopyProgress, CopySettings, CopyStatus, Deployment, EmbeddingSpace, StoreOptions, copy,
    sqlite::SqliteOptions,
};
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{
        DIM, FakeClock, Rng, WriteBuilder, act, anyone, candidate, consolidate, decision, everything, node_id,
        operation, scope, scope_of,
    },
    postgres::{TempDatabase, options},
};
use tokio::sync::Notify;

/// A store, and what it lives in.
struct Place {
    store: Arc<dyn Deployment>,
    options: StoreOptions,
    clock: Arc<FakeClock>,
    _home: Box<dyn std::any::Any + Send + Sync>,
}

async fn place(options: StoreOptions, home: impl std::any::Any + Send + Sync) -> Place {
    let clock = FakeClock::new();
    let store = aionis_store::open(&options, clock.clone()).await.unwrap();
    Place { store, options, clock, _home: Box::new(home) }
}

fn space() -> Option<EmbeddingSpace> {
    Some(EmbeddingSpace { name: MODEL.to_owned(), dim: DIM })
}

async fn embedded() -> Place {
    let home = tempfile::tempdir().unwrap();
    let mut options = SqliteOptions::new(home.path());
    options.space = space();
    place(StoreOptions::Embedded(options), home).await
}

async fn postgres() -> Place {
    let home = TempDatabase::new().await;
    let mut options = options(&home.url());
    options.space = space();
    place(StoreOptions::Postgres(options), home).await
}

/// Copied silently; tells when so many rows have come.
#[derive(Default)]
struct Told {
    calls: AtomicUsize,
    tell_at: usize,
    told: Notify,
}

impl CopyProgress for Told {
    fn scope(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == self.tell_at {
            self.told.notify_one();
        }
    }
}

fn everything_of(page: usize) -> CopySettings {
    CopySettings { tenant: None, scope: None, dry_run: false, page }
}

async fn copied(from: &Place, to: &Place, settings: &CopySettings) -> Result<Vec<aionis_store::ScopeCopy>, CopyError> {
    copy(&from.store, &to.store, settings, &Told::default()).await
}

/// A history with a bit of everything: updates, edges, rules, lanes, vectors of both origins, waiting and given-up work,
/// kept answers, in scopes of two tenants.
async fn some_history(place: &Place) -> Vec<ScopeKey> {
    let scopes = vec![scope("s"), scope("other"), scope_of("globex", "s")];
    let mut rng = Rng::new(3);
    for s in &scopes {
        for round in 0..3 {
            let mut write = WriteBuilder::new(s).deriving().key(&format!("k{round}"), true);
            for n in 0..12 {
                write = write.node(&format!("n{n}"), &format!("round {round} of number {n}, Größe 大きさ"));
                if n % 3 == 0 {
                    write = write.vector(rng.vector(DIM));
                }
                if n % 5 == 4 {
                    write = write.private(Some("agent-x"), (n % 2 == 0).then_some("team-y"));
                }
            }
            for n in 0..12 {
                let to = (n + round + 1) % 12;
                write = write.edge(&format!("n{n}"), &format!("n{to}")).with_edge(|edge: &mut EdgeInput| {
                    edge.weight = 0.25;
                });
            }
            place.store.write(write.prepared()).await.unwrap();
            place.clock.advance(std::time::Duration::from_millis(1_500));
        }
        govern(place, s).await;
        merge(place, s).await;
    }
    let claim = aionis_core::ports::store::ClaimRequest {
        worker: "w".to_owned(),
        now: place.clock.now(),
        lease: std::time::Duration::from_secs(60),
        limit: 3,
    };
    let items = place.store.claim(claim).await.unwrap();
    assert_eq!(items.len(), 3);
    let failed = FailedItem { item: items[0].clone(), error: "no".to_owned(), retry_at: None, counts: true };
    place.store.fail(vec![failed], place.clock.now()).await.unwrap();
    scopes
}

/// A live rule that was credited for a decision, and nodes that were used.
async fn govern(place: &Place, s: &ScopeKey) {
    let rule = |node: &mut aionis_core::write::NodeInput| {
        node.node_type = aionis_core::model::NodeType::Rule;
        node.slots = Some(serde_json::json!({ "if": {}, "then": { "tool": { "deny": ["rm"] } } }));
    };
    place.store.write(WriteBuilder::new(s).node("rule", "a rule of number 3").with(rule).prepared()).await.unwrap();
    let rule = node_id(s, "rule");
    let checked = place.store.rule(s, rule).await.unwrap().unwrap().digest;
    let made = uuid::Uuid::from_u128(11);
    place.store.put_decision(s, decision(made, None, &[rule])).await.unwrap();
    let nodes = NodeNames { ids: vec![node_id(s, "n3")], client_ids: vec!["n4".to_owned()] };
    let (outcome, run_id) = (Outcome::Positive, Some("run".to_owned()));
    for done in [
        Operation::RuleState { rule, state: RuleState::Active, checked },
        Operation::ToolFeedback {
            decision: made,
            link: LinkMode::Provided,
            create: None,
            rules: vec![rule],
            request: aionis_core::canon::Digest([1; 32]),
            outcome,
            run_id: run_id.clone(),
            note: Some("Größe 大きさ".to_owned()),
        },
        Operation::Activate { nodes, outcome, activate: true, run_id, reason: None },
    ] {
        place.store.operate(operation(s, Some((done.kind(), true)), done)).await.unwrap();
    }
    place.store.write(WriteBuilder::new(s).input("gone").node("gone", "forgotten").prepared()).await.unwrap();
    let asked = |token| PreparedForget {
        scope: s.clone(),
        actor: "a".to_owned(),
        ids: vec![node_id(s, "gone")],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: aionis_core::canon::sha256("forget"),
        idempotency: None,
    };
    let look = place.store.forget(asked(None)).await.unwrap();
    place.store.forget(asked(aionis_core::canon::Digest::from_hex(&look.token).ok())).await.unwrap();
}

/// Two nodes that are one, with moved edges, and a pair that waits.
async fn merge(place: &Place, s: &ScopeKey) {
    let concept = |node: &mut aionis_core::write::NodeInput| node.node_type = aionis_core::model::NodeType::Concept;
    let names = ["same 1", "same 2", "same 3"];
    let write = names.iter().fold(WriteBuilder::new(s).input("same"), |write, name| {
        write.node(name, "round number 3").vector(vec![1.0; DIM]).with(concept).edge(name, "n3")
    });
    place.store.write(write.edge("same 1", "same 2").prepared()).await.unwrap();
    let ids = names.map(|name| node_id(s, name));
    consolidate(&*place.store, s, 1, (ids[0], ids[1])).await;
    let pair = candidate(&*place.store, s, ids[1].max(ids[0]), ids[2]).await;
    place.store.queue_candidates(s, &[pair], place.clock.now()).await.unwrap();
}

/// What a reader sees of a scope.
async fn seen(place: &Place, scope: &ScopeKey) -> String {
    let store = &place.store;
    let viewers = [anyone(), Viewer { agent: Some("agent-x".to_owned()), team: None }];
    let mut all = format!("{:?}", store.scope_status(scope).await.unwrap().head_seq);
    all += &format!("{:?}", store.erased(scope, &[node_id(scope, "gone")]).await.unwrap());
    for viewer in viewers {
        let filter = everything(viewer.clone());
        let dense = DenseQuery {
            scope: scope.clone(),
            filter: filter.clone(),
            vector: Rng::new(9).vector(DIM),
            limit: 20,
            scored: 20,
            exact: true,
        };
        let near: Vec<_> = store.dense(dense).await.unwrap().into_iter().map(|hit| hit.id).collect();
        let terms = text::query_terms("round number Größe 大きさ 3");
        let words = store.lexical(LexicalQuery { scope: scope.clone(), filter, terms, limit: 20 }).await.unwrap();
        let found: Vec<_> = words.docs.iter().map(|doc| doc.id).collect();
        let rows = store.rows(scope, &found).await.unwrap();
        let rules = store.live_rules(scope).await.unwrap();
        let made = store.decision(scope, uuid::Uuid::from_u128(11)).await.unwrap();
        let feedback = store.feedback(scope, None, 10).await.unwrap();
        all += &format!("{near:?} {words:?} {rows:?} {rules:?} {made:?} {feedback:?}");
    }
    all
}

async fn sound(place: &Place, scopes: usize) {
    let subject: &dyn Deployment = &*place.store;
    let mut count = 0;
    for summary in subject.scopes(None, None).await.unwrap() {
        assert!(summary.head_seq > 0, "{summary:?}");
        count += 1;
    }
    assert_eq!(count, scopes);
}

async fn there_and_back(a: Place, b: Place, c: Place) {
    let scopes = some_history(&a).await;
    let planned = copied(&a, &b, &CopySettings { dry_run: true, ..everything_of(5) }).await.unwrap();
    assert!(planned.len() == 3 && planned.iter().all(|scope| scope.status == CopyStatus::Planned));
    sound(&b, 0).await;
    // One tenant, then the rest, then back into a third store.
    let one = CopySettings { tenant: Some("globex".to_owned()), ..everything_of(5) };
    assert_eq!(copied(&a, &b, &one).await.unwrap().len(), 1);
    sound(&b, 1).await;
    let all = copied(&a, &b, &everything_of(7)).await.unwrap();
    let status: Vec<_> = all.iter().map(|scope| scope.status).collect();
    assert_eq!(status.iter().filter(|status| **status == CopyStatus::Copied).count(), 2);
    assert_eq!(status.iter().filter(|status| **status == CopyStatus::Present).count(), 1);
    assert_eq!(copied(&b, &c, &everything_of(1_000)).await.unwrap().len(), 3);
    for s in &scopes {
        let original = seen(&a, s).await;
        assert_eq!(original, seen(&b, s).await);
        assert_eq!(original, seen(&c, s).await);
        // So did pairs and merges: what was merged there is taken back here.
        let pairs = CandidateQuery { states: CandidateState::ALL.to_vec(), after: None, limit: 10 };
        assert_eq!(a.store.candidates(s, &pairs).await.unwrap(), c.store.candidates(s, &pairs).await.unwrap());
        c.clock.set(a.clock.now());
        for place in [&a, &c] {
            let which = UndoWhich::Run(uuid::Uuid::from_u128(1));
            let undone = act(&*place.store, s, 2, MergeAction::Undo { which, force: false }).await;
            assert_eq!((undone.restored_edges, undone.conflicts), (2, Vec::new()));
        }
        assert_eq!(seen(&a, s).await, seen(&c, s).await);
        // The queue came along, waiting and given up, and so did the kept answers and the chain.
        assert_eq!(a.store.given_up(s).await.unwrap(), c.store.given_up(s).await.unwrap());
        let again = WriteBuilder::new(s).deriving().key("k2", true).node("x", "y");
        let refused = c.store.write(again.prepared()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Rejected(error) if error.code == "idempotency_key_reused"));
        let next = WriteBuilder::new(s).node("n1", "a new text");
        let (on_a, on_c) =
            (a.store.write(next.clone().prepared()).await.unwrap(), c.store.write(next.prepared()).await.unwrap());
        assert_eq!(on_a.commit_seq, on_c.commit_seq);
    }
    let (left, right) = (a.store.outbox_status().await.unwrap(), c.store.outbox_status().await.unwrap());
    assert_eq!((left.pending, left.dead), (right.pending, right.dead));
    for place in [&b, &c] {
        assert_eq!(aionis_testkit::assert_sound(&*place.store).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_embedded_engine_to_postgres_and_back() {
    there_and_back(embedded().await, postgres().await, embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres_to_the_embedded_engine_and_back() {
    there_and_back(postgres().await, embedded().await, postgres().await).await;
}

async fn a_broken_copy_goes_on(from: Place, to: Place) {
    let scopes = some_history(&from).await;
    let told = Arc::new(Told { tell_at: 9, ..Told::default() });
    let (a, b, progress) = (Arc::clone(&from.store), Arc::clone(&to.store), Arc::clone(&told));
    let task = tokio::spawn(async move { copy(&a, &b, &everything_of(4), &*progress).await.map(|_| ()) });
    told.told.notified().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // What is not complete is neither read nor written.
    let half =
        from.store.scopes(None, None).await.unwrap().into_iter().map(|s| ScopeKey::from_stored(&s.scope_key).unwrap());
    let mut incomplete = 0;
    for s in half {
        let importing = |error: &StoreError| matches!(error, StoreError::Rejected(e) if e.code == "scope_importing");
        if let Err(error) = to.store.scope_status(&s).await {
            assert!(importing(&error), "{error}");
            let refused = to.store.write(WriteBuilder::new(&s).node("x", "y").prepared()).await.unwrap_err();
            assert!(importing(&refused), "{refused}");
            incomplete += 1;
        }
    }
    assert_eq!(incomplete, 1);
    let all = copied(&from, &to, &everything_of(4)).await.unwrap();
    assert_eq!(all.iter().filter(|scope| scope.resumed).count(), 1);
    for s in &scopes {
        assert_eq!(seen(&from, s).await, seen(&to, s).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_broken_off_goes_on_where_it_stopped() {
    a_broken_copy_goes_on(embedded().await, postgres().await).await;
    a_broken_copy_goes_on(postgres().await, embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_written_meanwhile_is_copied_anew() {
    let (from, to) = (postgres().await, embedded().await);
    some_history(&from).await;
    let told = Arc::new(Told { tell_at: 9, ..Told::default() });
    let (a, b, progress) = (Arc::clone(&from.store), Arc::clone(&to.store), Arc::clone(&told));
    let task = tokio::spawn(async move { copy(&a, &b, &everything_of(4), &*progress).await.map(|_| ()) });
    told.told.notified().await;
    task.abort();
    let _ = task.await;
    for summary in from.store.scopes(None, None).await.unwrap() {
        let s = ScopeKey::from_stored(&summary.scope_key).unwrap();
        from.store.write(WriteBuilder::new(&s).node("n1", "written meanwhile").prepared()).await.unwrap();
    }
    let done = copied(&from, &to, &everything_of(4)).await;
    // A scope that was complete before has another history now.
    match done {
        Ok(all) => assert!(all.iter().all(|scope| !scope.resumed)),
        Err(CopyError::Refused(why)) => assert!(why.contains("another history"), "{why}"),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_no_copy_is_refused_and_changes_nothing() {
    let (from, to) = (embedded().await, postgres().await);
    let scopes = some_history(&from).await;
    let refused = |done: Result<Vec<_>, CopyError>| match done {
        Err(CopyError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(copied(&from, &from, &everything_of(10)).await).contains("the same store"));
    to.store.write(WriteBuilder::new(&scopes[0]).node("mine", "text").prepared()).await.unwrap();
    assert!(refused(copied(&from, &to, &everything_of(10)).await).contains("another history"));
    sound(&to, 1).await;
    let mut other = options(&match &to.options {
        StoreOptions::Postgres(options) => options.url.clone(),
        StoreOptions::Embedded(_) => unreachable!(),
    });
    other.space = None;
    let elsewhere = TempDatabase::new().await;
    let mut options = options(&elsewhere.url());
    options.space = Some(EmbeddingSpace { name: "test:other".to_owned(), dim: DIM });
    let to = place(StoreOptions::Postgres(options), elsewhere).await;
    to.store.write(WriteBuilder::new(&scope("mine")).node("a", "b").vector(vec![1.0; DIM]).prepared()).await.unwrap();
    assert!(refused(copied(&from, &to, &everything_of(10)).await).contains("reembed"));
    sound(&to, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_changed_on_the_way_is_noticed() {
    let (from, home) = (embedded().await, TempDatabase::new().await);
    some_history(&from).await;
    let mut owner = home.owner().await;
    let spoil = "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.weight = 0.5; RETURN NEW; END $$; \
                 CREATE TRIGGER spoil BEFORE INSERT ON memory_edges FOR EACH ROW EXECUTE FUNCTION spoil();";
    sqlx::raw_sql(spoil).execute(&mut owner).await.unwrap();
    let mut options = options(&home.url());
    options.space = space();
    let to = place(StoreOptions::Postgres(options), home).await;
    let done = copied(&from, &to, &everything_of(100)).await;
    assert!(matches!(done, Err(CopyError::Differs { table: "memory_edges", .. })), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_the_destination_meanwhile_is_left_alone() {
    let (from, to) = (embedded().await, postgres().await);
    some_history(&from).await;
    let mut keys: Vec<_> = from.store.scopes(None, None).await.unwrap().into_iter().map(|s| s.scope_key).collect();
    keys.sort();
    // The last one to be copied: its turn comes after many small pages of the others.
    let last = ScopeKey::from_stored(keys.last().unwrap()).unwrap();
    let told = Arc::new(Told { tell_at: 1, ..Told::default() });
    let (a, b, progress) = (Arc::clone(&from.store), Arc::clone(&to.store), Arc::clone(&told));
    let task = tokio::spawn(async move { copy(&a, &b, &everything_of(1), &*progress).await.map(|_| ()) });
    told.told.notified().await;
    let mine = to.store.write(WriteBuilder::new(&last).node("mine", "acknowledged").prepared()).await.unwrap();
    let done = task.await.unwrap();
    assert!(
        matches!(&done, Err(CopyError::Store { side: "to", error: StoreError::Rejected(e) }) if e.code == "scope_exists"),
        "{done:?}"
    );
    assert_eq!(to.store.scope_status(&last).await.unwrap().head_seq, mine.commit_seq);
    assert_eq!(to.store.rows(&last, &[mine.nodes[0].0]).await.unwrap().len(), 1);
}

/// A store that has no vectors yet is stamped all the same: a command that looks at it must not change that, or running
/// services would find another model, and a copy that was broken off early could not go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_command_leaves_the_embedding_space_as_it_is() {
    for place in [embedded().await, postgres().await] {
        place.store.write(WriteBuilder::new(&scope("s")).deriving().node("a", "text").prepared()).await.unwrap();
        let configured = place.store.space().clone();
        place.store.close().await;
        let Place { store, options, clock, _home } = place;
        drop(store);
        let mut without = options.clone();
        match &mut without {
            StoreOptions::Embedded(options) => options.space = None,
            StoreOptions::Postgres(options) => options.space = None,
        }
        let store = aionis_store::open(&without.with_any_space(), clock.clone()).await.unwrap();
        assert_eq!(store.space(), &configured);
        assert_eq!(store.present_generation().await.unwrap(), configured);
        store.close().await;
        drop(store);
        let store = aionis_store::open(&options, clock).await.unwrap();
        assert_eq!(store.outbox_status().await.unwrap().pending, 1, "the service goes on");
    }
}

//! Events and topics, read for what is derived from them, and the writes that store it.

use std::time::Duration;

use aionis_core::{
    canon::{Digest, canonical_sha256},
    clock::Timestamp,
    forget::PreparedForget,
    ids::{NodeId, ScopeKey},
    jobs::{Audience, BeginRun, EndRun, RunLease, RunStatus, Target},
    model::{EdgeType, Lane, NodeType, Tier, Viewer},
    ports::store::{EventQuery, StoreError, TopicGroup},
    write::{JobWrite, NODE_CHANGED, NodeInput},
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{DIM, START, WriteBuilder, cosine, node_id, scope},
};

/// A vector that leans from the first axis towards another one.
pub(super) fn leaning(axis: usize, by: f32) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    vector[0] = 1.0;
    vector[axis] += by;
    vector
}

pub(super) fn member(write: WriteBuilder, event: &str, topic: &str) -> WriteBuilder {
    write.edge(event, topic).with_edge(|edge| edge.edge_type = EdgeType::PartOf)
}

pub(super) fn of_type(node_type: NodeType) -> impl Fn(&mut NodeInput) {
    move |node| node.node_type = node_type
}

fn query(limit: usize, scan_max: usize) -> EventQuery {
    EventQuery { after: None, limit, scan_max, merged_since: Timestamp(0) }
}

fn shared(model: &str) -> TopicGroup {
    let audience = Audience { lane: Lane::Shared, owner_agent_id: None, owner_team_id: None };
    TopicGroup { audience, embedding_model: Some(model.to_owned()) }
}

/// Hot and warm events with a vector and without topic, each once, oldest first, however they are cut into pages.
pub async fn events_in_no_topic_come_in_pages_oldest_first(subject: &Subject) {
    let s = scope("s");
    for n in 0..7 {
        subject.clock.advance(Duration::from_secs(1));
        let name = format!("e{n}");
        let write = WriteBuilder::new(&s).input(&name).node(&name, "said").vector(leaning(1, 0.1));
        let write = match n {
            1 => member(write.node("topic", "").with(of_type(NodeType::Topic)), &name, "topic"),
            2 => write.with(|node| node.tier = Some(Tier::Cold)),
            3 => write.with(|node| node.slots = Some(json!({ "alias_of": "another" }))),
            4 => write.node("no vector", "said").edge(&name, "no vector"),
            // An entity is no topic: to be part of it is not to be in one.
            5 => member(write.node("entity", "").with(of_type(NodeType::Entity)), &name, "entity"),
            _ => write,
        };
        subject.write(write).await;
    }
    let wanted: Vec<NodeId> = ["e0", "e4", "e5", "e6"].iter().map(|name| node_id(&s, name)).collect();
    for limit in [1, 3, 10] {
        let (mut query, mut found) = (query(limit, 100), Vec::new());
        loop {
            let page = subject.store.unassigned_events(&s, query).await.unwrap();
            assert!(page.events.len() <= limit && page.events.iter().all(|event| event.vector.is_some()));
            found.extend(page.events.iter().map(|event| event.id));
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(found, wanted, "in pages of {limit}");
    }
}

/// A page ends after so many nodes; what was seen is counted once; what nobody owns is counted and not given.
pub async fn a_look_for_events_is_bounded_and_counts_what_it_sees(subject: &Subject) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s).deriving().node("ownerless", "x").private(None, None).vector(leaning(1, 0.0));
    for n in 0..5 {
        write = write.node(&format!("c{n}"), "x").with(of_type(NodeType::Concept));
    }
    subject.write(write.node("waits", "x").node("e", "x").vector(leaning(1, 0.0))).await;
    let old = json!({ "alias_of": "another" });
    subject
        .write(
            WriteBuilder::new(&s)
                .node("c0", "x")
                .with(of_type(NodeType::Concept))
                .with(|n| n.slots = Some(old.clone())),
        )
        .await;
    let (mut query, mut pages, mut sums, mut found) = (query(10, 3), 0, [0; 6], Vec::new());
    loop {
        let page = subject.store.unassigned_events(&s, query).await.unwrap();
        let counts = page.counts;
        let seen = [
            counts.ready_events,
            counts.unassigned_events,
            counts.ownerless_events,
            counts.pending_events,
            counts.kinds,
            counts.merged_kinds,
        ];
        sums.iter_mut().zip(seen).for_each(|(sum, n)| *sum += n);
        found.extend(page.events.iter().map(|event| event.id));
        pages += 1;
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!((pages, sums, found), (3, [2, 2, 1, 1, 5, 1], vec![node_id(&s, "e")]));
    let later = EventQuery { merged_since: Timestamp(subject.now().0 + 1), ..super::topics::query(10, 100) };
    assert_eq!(subject.store.unassigned_events(&s, later).await.unwrap().counts.merged_kinds, 0);
}

/// Topics of other owners, models and tiers, and aliases, are never near.
pub async fn the_nearest_topics_are_those_of_the_group(subject: &Subject) {
    let s = scope("s");
    let topic = of_type(NodeType::Topic);
    let mut write = WriteBuilder::new(&s);
    for n in 1..6 {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let by = n as f32 * 0.3;
        write = write.node(&format!("t{n}"), "x").with(&topic).vector(leaning(n, by));
    }
    let write = write
        .node("private", "x")
        .with(&topic)
        .private(Some("ann"), None)
        .vector(leaning(1, 0.0))
        .node("other model", "x")
        .with(&topic)
        .vector(leaning(1, 0.0))
        .with(|n| n.embedding_model = Some("m2".into()))
        .node("cold", "x")
        .with(&topic)
        .vector(leaning(1, 0.0))
        .with(|node| node.tier = Some(Tier::Cold))
        .node("alias", "x")
        .with(&topic)
        .vector(leaning(1, 0.0))
        .with(|n| n.slots = Some(json!({ "alias_of": "t1" })))
        .node("draft", "x")
        .with(&topic)
        .vector(leaning(1, 2.0))
        .with(|n| n.slots = Some(json!({ "topic_state": "draft" })))
        .node("no topic", "x")
        .vector(leaning(1, 0.0));
    subject.write(write).await;
    let asked = [leaning(1, 0.3), leaning(5, 1.5), leaning(1, 9.0)];
    let found = subject.store.nearest_topics(&s, &shared("client"), &asked, 2).await.unwrap();
    let named = |names: [&str; 2]| names.map(|name| node_id(&s, name)).to_vec();
    assert_eq!(found[0], named(["t1", "t2"]));
    assert_eq!(found[1][0], node_id(&s, "t5"));
    assert_eq!(found[2][0], node_id(&s, "draft"), "drafts take events");
    let audience = Audience { lane: Lane::Private, owner_agent_id: Some("ann".to_owned()), owner_team_id: None };
    let of_ann = TopicGroup { audience, ..shared("client") };
    let found = subject.store.nearest_topics(&s, &of_ann, &asked[..1], 5).await.unwrap();
    assert_eq!(found, [vec![node_id(&s, "private")]]);
    assert_eq!(subject.store.nearest_topics(&s, &shared("m3"), &asked, 5).await.unwrap(), vec![Vec::new(); 3]);
    assert_eq!(subject.store.topics(&s, None, 100).await.unwrap().len(), 9, "all but the cold one");
    let (all, mut paged) = (subject.store.topics(&s, None, 100).await.unwrap(), Vec::new());
    while let page @ [_, ..] = &subject.store.topics(&s, paged.last().copied(), 4).await.unwrap()[..] {
        paged.extend_from_slice(page);
    }
    assert_eq!(paged, all);
}

/// The mean and the count of a topic's own members; others of other owners do not move it.
pub async fn a_mean_is_that_of_the_members_of_the_group(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s)
        .deriving()
        .node("t", "x")
        .with(of_type(NodeType::Topic))
        .vector(leaning(1, 0.0))
        .node("empty", "x")
        .with(of_type(NodeType::Topic))
        .vector(leaning(1, 0.0))
        .node("a", "x")
        .vector(leaning(1, 1.0))
        .node("b", "x")
        .vector(leaning(2, 3.0))
        .node("waits", "x")
        .node("private", "x")
        .private(Some("ann"), None)
        .vector(leaning(3, 9.0))
        .node("concept", "x")
        .with(of_type(NodeType::Concept))
        .vector(leaning(3, 9.0));
    let write = ["a", "b", "private", "concept"].iter().fold(write, |write, name| member(write, name, "t"));
    subject.write(write.edge("waits", "t")).await;
    let ids = [node_id(&s, "empty"), node_id(&s, "t")];
    let means = subject.store.topic_means(&s, &ids).await.unwrap();
    assert_eq!((means[0].topic, means[0].members, means[0].mean.clone()), (ids[0], 0, None));
    assert_eq!((means[1].topic, means[1].members, means[1].with_vector), (ids[1], 2, 2));
    let mut wanted = leaning(1, 0.5);
    wanted[2] = 1.5;
    assert!(cosine(means[1].mean.as_ref().unwrap(), &wanted) > 0.999_999);
    // An edge that came after what an image has seen counts too.
    subject.write(member(WriteBuilder::new(&s).node("c", "x").vector(leaning(1, 1.0)), "c", "t")).await;
    assert_eq!(subject.store.topic_means(&s, &ids[1..]).await.unwrap()[0].members, 3);
}

/// Hot and warm events of the time asked for, newest first, so many per topic.
pub async fn events_of_a_topic_come_newest_first(subject: &Subject) {
    let s = scope("s");
    let topics = WriteBuilder::new(&s)
        .node("t", "x")
        .with(of_type(NodeType::Topic))
        .node("u", "x")
        .with(of_type(NodeType::Topic));
    subject.write(topics).await;
    for n in 0..5 {
        subject.clock.advance(Duration::from_secs(1));
        let name = format!("e{n}");
        let write =
            WriteBuilder::new(&s).input(&name).node(&name, "said").private(Some("ann"), (n == 2).then_some("red"));
        let write = if n == 3 { write.with(|node| node.tier = Some(Tier::Archive)) } else { write };
        subject.write(member(member(write, &name, "t"), &name, "u")).await;
    }
    let since = Timestamp(START.0 + 2_000_000);
    let ids = [node_id(&s, "t"), node_id(&s, "u")];
    let found = subject.store.topic_events(&s, &ids, since, 2).await.unwrap();
    for topic in ids {
        let events: Vec<NodeId> = found.iter().filter(|event| event.topic == topic).map(|event| event.event).collect();
        assert_eq!(events, [node_id(&s, "e4"), node_id(&s, "e2")]);
    }
    let third = found.iter().find(|event| event.event == node_id(&s, "e2")).unwrap();
    assert_eq!(third.audience.owner_team_id.as_deref(), Some("red"));
    assert_eq!(subject.store.topic_events(&s, &ids[..1], Timestamp(0), 100).await.unwrap().len(), 4);
}

/// Attributes as they were written, notes beside them, the vector of the store's space.
pub async fn sources_come_in_full_and_in_the_order_asked(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s)
        .node("a", "what a says")
        .title("A")
        .vector(leaning(1, 0.5))
        .with(|n| n.slots = Some(json!({ "pin": true })))
        .node("b", "what b says")
        .private(None, Some("red"));
    subject.write(write).await;
    let ids = [node_id(&s, "b"), NodeId(Uuid::from_u128(1)), node_id(&s, "a")];
    let found = subject.store.source_nodes(&s, &ids).await.unwrap();
    assert_eq!(found.iter().map(|node| node.id).collect::<Vec<_>>(), [ids[0], ids[2]]);
    let [b, a] = &found[..] else { panic!("two are stored") };
    assert_eq!((b.audience.owner_team_id.as_deref(), &b.vector), (Some("red"), &None));
    assert_eq!(
        (a.slots.clone(), a.title.as_deref(), a.text()),
        (json!({ "pin": true }), Some("A"), Some("what a says"))
    );
    assert_eq!((a.vector.clone(), a.embedding_model.as_deref()), (Some(leaning(1, 0.5)), Some("client")));
    assert_eq!(a.created_at, subject.now());
}

/// What was made of nodes is stored only while they are what it was made of, and then under its own kind of commit.
pub async fn what_was_made_of_changed_sources_is_not_stored(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("source", "as it was")).await;
    let source = subject.store.source_nodes(&s, &[node_id(&s, "source")]).await.unwrap().remove(0);
    let made = |stands| {
        let mut write = WriteBuilder::new(&s).input("made").node("made", "of it").edge("made", "source").prepared();
        write.job = Some(JobWrite { kind: "topic_cluster", stands });
        write
    };
    let write = made(vec![(source.id, Some(source.digest)), (node_id(&s, "made"), None)]);
    subject.store.write(write.clone()).await.unwrap();
    let newest = subject.store.newest_commits(&s, None, 1).await.unwrap().remove(0);
    assert_eq!(newest.header.kind, "topic_cluster");
    let refused = |write| async {
        match subject.store.write(write).await {
            Err(StoreError::Rejected(error)) => error.code,
            other => panic!("it must be refused: {other:?}"),
        }
    };
    assert_eq!(refused(write).await, NODE_CHANGED, "it is there already");
    subject.write(WriteBuilder::new(&s).node("source", "as it is now")).await;
    let write = made(vec![(source.id, Some(source.digest))]);
    assert_eq!(refused(write).await, NODE_CHANGED);
    assert_sound(&*subject.store).await;
}

pub(super) async fn forget(subject: &Subject, s: &ScopeKey, id: NodeId, viewer: Option<Viewer>) -> usize {
    let asked = |token: Option<Digest>| PreparedForget {
        scope: s.clone(),
        actor: "ann".to_owned(),
        ids: vec![id],
        missing_client_ids: Vec::new(),
        viewer: viewer.clone(),
        token,
        request_digest: canonical_sha256(&json!([id, token])),
        idempotency: None,
    };
    let look = subject.store.forget(asked(None)).await.unwrap();
    let done = subject.store.forget(asked(Digest::from_hex(&look.token).ok())).await.unwrap();
    assert_eq!((done.nodes, done.derived), (vec![id], look.derived));
    look.derived
}

/// A summary goes with each of its sources, a topic with the event it began with, and a summary with its topic; what merely
/// has edges to them stays.
pub async fn what_jobs_made_is_forgotten_with_what_it_quotes(subject: &Subject) {
    let s = scope("s");
    let seed = json!({ "created_by": "job:topic_cluster", "seed_event_id": node_id(&s, "seed") });
    fill(subject, &s, &seed).await;
    let ann = Viewer { agent: Some("ann".to_owned()), team: None };
    // Whoever owns it: it quotes what is to be forgotten.
    assert_eq!(forget(subject, &s, node_id(&s, "other"), Some(ann)).await, 1, "the summary");
    let left = |name: &'static str| {
        let id = node_id(&s, name);
        async move { !subject.store.source_nodes(&scope("s"), &[id]).await.unwrap().is_empty() }
    };
    assert!(left("topic").await && !left("summary").await && left("note").await);
    assert_eq!(forget(subject, &s, node_id(&s, "seed"), None).await, 1, "the topic");
    assert!(!left("topic").await && left("note").await);
    assert_sound(&*subject.store).await;
}

/// What jobs made of a node, and others see too, goes in the write that lets fewer see the node; what its readers see stays.
pub async fn what_jobs_made_goes_when_fewer_may_see_its_source(subject: &Subject) {
    let s = scope("s");
    let seed = json!({ "created_by": "job:topic_cluster", "seed_event_id": node_id(&s, "seed") });
    fill(subject, &s, &seed).await;
    let of_ann = |name: &str, text: &str| WriteBuilder::new(&s).node(name, text).private(Some("ann"), None);
    let summary = |owner| {
        let own = WriteBuilder::new(&s).node("own", "zebra, for one").private(Some(owner), None);
        let own = own
            .with(of_type(NodeType::Concept))
            .with(|node| node.slots = Some(json!({ "generated_by": "job:compression_rollup" })));
        own.edge("own", "seed").with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom)
    };
    subject.write(summary("ann")).await;
    let stored = |name: &'static str| {
        let id = node_id(&s, name);
        async move { !subject.store.source_nodes(&scope("s"), &[id]).await.unwrap().is_empty() }
    };
    // Other texts, and more readers, are no reason.
    subject.write(WriteBuilder::new(&s).node("seed", "zebras")).await;
    assert!(stored("topic").await && stored("summary").await);
    let head = subject.status(&s).await.head_seq;
    let written = subject.write(of_ann("seed", "zebras")).await;
    assert!(!stored("topic").await, "its title repeats the event");
    assert!(!stored("summary").await, "it repeats the title of the topic");
    assert!(stored("own").await, "who sees it sees the event");
    assert!(stored("seed").await && stored("other").await && stored("note").await);
    let commits = subject.store.newest_commits(&s, None, 2).await.unwrap();
    let kinds: Vec<(u64, &str)> =
        commits.iter().map(|commit| (commit.header.seq, commit.header.kind.as_str())).collect();
    assert_eq!(kinds, [(head + 2, "forget"), (head + 1, "write")]);
    assert_eq!(written.commit_seq, head + 1, "the write is answered with its own commit");
    assert_eq!(subject.write(of_ann("seed", "zebras")).await.commit_seq, head + 1, "nothing changes");
    // The same readers under another name are others.
    subject.write(WriteBuilder::new(&s).node("seed", "zebras").private(Some("bob"), None)).await;
    assert!(!stored("own").await);
    assert_sound(&*subject.store).await;
}

/// A topic goes with a member that it did not begin with too: its vector has a share of it.
pub async fn a_topic_goes_when_fewer_may_see_a_member(subject: &Subject) {
    let s = scope("s");
    let seed = json!({ "created_by": "job:topic_cluster", "seed_event_id": node_id(&s, "seed") });
    fill(subject, &s, &seed).await;
    let mine = WriteBuilder::new(&s).node("mine", "by hand").with(of_type(NodeType::Topic));
    let mine = member(mine, "other", "mine").edge("mine", "other");
    subject.write(mine.with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom)).await;
    subject.write(WriteBuilder::new(&s).node("other", "lion").private(None, Some("red"))).await;
    let ids = ["topic", "summary", "mine", "seed"].map(|name| node_id(&s, name));
    let left = subject.store.source_nodes(&s, &ids).await.unwrap();
    assert_eq!(left.iter().map(|node| node.id).collect::<Vec<_>>(), ids[2..], "a topic that somebody wrote is theirs");
    assert_sound(&*subject.store).await;
}

async fn fill(subject: &Subject, s: &ScopeKey, seed: &serde_json::Value) {
    let derived = |write: WriteBuilder, from: &str, to: &str| {
        write.edge(from, to).with_edge(|edge| edge.edge_type = EdgeType::DerivedFrom)
    };
    let write = WriteBuilder::new(s)
        .node("seed", "zebra")
        .node("other", "lion")
        .node("note", "a note about zebra")
        .node("topic", "zebra")
        .with(of_type(NodeType::Topic))
        .with(|node| node.slots = Some(seed.clone()))
        .node("summary", "zebra, lion")
        .private(Some("bob"), None)
        .with(of_type(NodeType::Concept))
        .with(|node| node.slots = Some(json!({ "generated_by": "job:compression_rollup" })));
    let write = member(member(member(write, "seed", "topic"), "other", "topic"), "summary", "topic");
    let edges = [("topic", "seed"), ("topic", "other"), ("summary", "other"), ("note", "seed")];
    subject.write(edges.iter().fold(write, |write, (from, to)| derived(write, from, to))).await;
    // Somebody rewrote it; its first content still says what it was made of.
    let rewritten =
        WriteBuilder::new(s).node("summary", "lions").private(Some("bob"), None).with(of_type(NodeType::Concept));
    subject.write(rewritten).await;
}

/// A job that ran is due again at once, and only that job in that scope.
pub async fn a_job_is_made_due(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    subject.clock.advance(Duration::from_secs(1));
    let target = Target::Scope(s.clone());
    for (n, job) in ["one", "two"].iter().enumerate() {
        let run = Uuid::from_u128(n as u128 + 1);
        let begin = BeginRun {
            run,
            job: (*job).to_owned(),
            target: target.clone(),
            holder: "h".to_owned(),
            dry_run: false,
            params: json!({}),
            now: subject.now(),
            lease: Some(Duration::from_secs(30)),
            due_before: None,
        };
        subject.store.begin_run(begin).await.unwrap();
        let lease = RunLease { run, job: (*job).to_owned(), target: target.clone(), fence: 1 };
        let end = EndRun { status: RunStatus::Done, cursor: None, result: json!({}), error: None, now: subject.now() };
        assert!(subject.store.end_run(&lease, end).await.unwrap());
    }
    let due = |job: &'static str| async move {
        let before = Timestamp(subject.now().0 - 3_600_000_000);
        subject.store.due_scopes(job, before, subject.now(), true, 10).await.unwrap()
    };
    assert!(due("one").await.is_empty() && due("two").await.is_empty());
    subject.store.make_due("one", &s).await.unwrap();
    assert_eq!((due("one").await, due("two").await), (vec![s], Vec::new()));
    subject.store.make_due("one", &scope("nowhere")).await.unwrap();
}

//! Reading apart from recall: pages of nodes, histories, commits, earlier states.

use aionis_core::{
    chain::parse_changes,
    ids::{NodeId, ScopeKey},
    model::{Lane, NodeType, Tier, Viewer},
    ports::store::{EdgeQuery, FindPage, FindQuery, LexicalQuery, RecallReader, StoreError},
    read::{AsOf, Eyes, FindFilter, Position},
    text,
};
use serde_json::json;

use super::Subject;
use crate::fixtures::{WriteBuilder, agent, anyone, everything, member, node_id, scope, scope_of, team};

const PAST_MAX: u64 = 1_000;

fn all(scope: &ScopeKey) -> FindQuery {
    FindQuery {
        scope: scope.clone(),
        filter: FindFilter::default(),
        eyes: Eyes::Of(anyone()),
        as_of: None,
        after: None,
        offset: 0,
        limit: 100,
        scan_max: 1_000,
        maybe_named: Vec::new(),
    }
}

async fn find(subject: &Subject, query: FindQuery) -> FindPage {
    subject.store.find(query).await.expect("nodes can be found")
}

fn ids(page: &FindPage) -> Vec<NodeId> {
    page.nodes.iter().map(|node| node.row.id).collect()
}

fn names(scope: &ScopeKey, page: &FindPage) -> Vec<String> {
    page.nodes.iter().map(|node| node.row.client_id.clone().unwrap_or_else(|| format!("{scope}?"))).collect()
}

/// Five nodes of several kinds, one write each.
async fn some_nodes(subject: &Subject, s: &ScopeKey) {
    for (name, kind, tags) in [
        ("a", NodeType::Event, json!({ "tags": ["x"], "n": 1 })),
        ("b", NodeType::Topic, json!({ "tags": ["x", "y"], "state": "active" })),
        ("c", NodeType::Event, json!({ "n": 2 })),
        ("d", NodeType::Entity, json!({ "tags": [] })),
        ("e", NodeType::Event, json!({})),
    ] {
        let made = |n: &mut aionis_core::write::NodeInput| {
            n.node_type = kind;
            n.slots = Some(tags.clone());
            n.title = Some(format!("Title {}", name.to_uppercase()));
        };
        subject.write(WriteBuilder::new(s).input(name).node(name, &format!("text of {name}")).with(made)).await;
        subject.clock.advance(std::time::Duration::from_secs(60));
    }
}

/// Nodes come newest first, page by page, each once.
pub async fn pages_hold_every_node_once_newest_first(subject: &Subject) {
    let s = scope("s");
    some_nodes(subject, &s).await;
    assert_eq!(names(&s, &find(subject, all(&s)).await), ["e", "d", "c", "b", "a"]);
    let (mut seen, mut after): (Vec<String>, Option<Position>) = (Vec::new(), None);
    loop {
        let page = find(subject, FindQuery { after, limit: 2, ..all(&s) }).await;
        assert!(page.nodes.len() <= 2);
        seen.extend(names(&s, &page));
        after = page.next.map(|place| place.after);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"]);
    let later = find(subject, FindQuery { offset: 3, ..all(&s) }).await;
    assert_eq!(names(&s, &later), ["b", "a"]);
    // Written in one commit, so in one instant: ordered by id.
    let t = scope("t");
    subject.write(WriteBuilder::new(&t).node("a", "x").node("b", "x").node("c", "x")).await;
    let page = find(subject, all(&t)).await;
    let mut sorted = ids(&page);
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(ids(&page), sorted);
    let first = find(subject, FindQuery { limit: 1, ..all(&t) }).await;
    let rest = find(subject, FindQuery { after: first.next.map(|place| place.after), ..all(&t) });
    assert_eq!(ids(&rest.await), sorted[1..]);
}

/// Every part of a filter restricts.
pub async fn a_filter_lets_through_what_it_says(subject: &Subject) {
    let s = scope("s");
    some_nodes(subject, &s).await;
    let at = |name: &str| node_id(&s, name);
    let created = subject.row(&s, at("c")).await.created_at;
    let d = FindFilter::default;
    for (filter, expected) in [
        (FindFilter { types: vec![NodeType::Event], ..d() }, vec!["e", "c", "a"]),
        (FindFilter { types: vec![NodeType::Topic, NodeType::Entity], ..d() }, vec!["d", "b"]),
        (FindFilter { ids: vec![at("a"), at("d")], ..d() }, vec!["d", "a"]),
        (FindFilter { client_ids: vec!["b".into(), "nobody".into()], ids: vec![at("c")], ..d() }, vec!["c", "b"]),
        (FindFilter { ids: vec![at("a"), at("b")], types: vec![NodeType::Topic], ..d() }, vec!["b"]),
        (FindFilter { title_contains: Some("title b".into()), ..d() }, vec!["b"]),
        (FindFilter { text_contains: Some("TEXT OF".into()), ..d() }, vec!["e", "d", "c", "b", "a"]),
        (FindFilter { text_contains: Some("of d".into()), ..d() }, vec!["d"]),
        (FindFilter { slots_contains: Some(json!({ "tags": ["x"] })), ..d() }, vec!["b", "a"]),
        (FindFilter { slots_contains: Some(json!({ "n": 2.0 })), ..d() }, vec!["c"]),
        (FindFilter { tiers: vec![Tier::Archive], ..d() }, vec![]),
        (FindFilter { tiers: vec![Tier::Hot], lane: Some(Lane::Shared), ..d() }, vec!["e", "d", "c", "b", "a"]),
        (FindFilter { lane: Some(Lane::Private), ..d() }, vec![]),
        (FindFilter { created_from: Some(created), ..d() }, vec!["e", "d", "c"]),
        (FindFilter { created_before: Some(created), ..d() }, vec!["b", "a"]),
        (FindFilter { updated_from: Some(created), updated_before: Some(created), ..d() }, vec![]),
        (FindFilter { owner_agent_id: Some("ann".into()), ..d() }, vec![]),
    ] {
        let said = format!("{filter:?}");
        let query = FindQuery { filter, ..all(&s) };
        assert_eq!(names(&s, &find(subject, query.clone()).await), expected, "{said}");
        // An earlier state is filtered by reading, the present one by storage too: both say the same.
        let head = subject.status(&s).await.head_seq;
        assert_eq!(names(&s, &find(subject, FindQuery { as_of: Some(head), ..query }).await), expected, "then: {said}");
    }
}

/// Where few are let through, a page ends after so many rows and says where to go on.
pub async fn a_page_looks_at_so_many_rows(subject: &Subject) {
    let s = scope("s");
    some_nodes(subject, &s).await;
    let filter = FindFilter { text_contains: Some("of a".into()), ..FindFilter::default() };
    let first = find(subject, FindQuery { filter: filter.clone(), scan_max: 3, ..all(&s) }).await;
    assert!(first.nodes.is_empty() && first.next.is_some());
    let after = first.next.map(|place| place.after);
    let second = find(subject, FindQuery { filter, after, scan_max: 3, ..all(&s) }).await;
    assert_eq!(names(&s, &second), ["a"]);
    assert!(second.next.is_none());
    // What storage itself can tell apart, whom a node is hidden from, and what is passed over is looked at all the same.
    let entities = FindFilter { types: vec![NodeType::Entity], ..FindFilter::default() };
    let topics = FindFilter { types: vec![NodeType::Topic], ..FindFilter::default() };
    let of_nobody = FindFilter { owner_agent_id: Some("nobody".into()), ..FindFilter::default() };
    for (query, pages) in [
        (FindQuery { filter: entities, ..all(&s) }, vec![vec!["d"], vec![], vec![]]),
        (FindQuery { filter: topics, ..all(&s) }, vec![vec![], vec!["b"], vec![]]),
        (FindQuery { filter: of_nobody, ..all(&s) }, vec![vec![], vec![], vec![]]),
        (FindQuery { offset: 3, ..all(&s) }, vec![vec![], vec!["b"], vec!["a"]]),
        (FindQuery { as_of: Some(2), ..all(&s) }, vec![vec![], vec!["b"], vec!["a"]]),
    ] {
        let mut next = Some((query.after, query.offset));
        for expected in &pages {
            let (after, offset) = next.expect("there is another page");
            let page = find(subject, FindQuery { after, offset, scan_max: 2, ..query.clone() }).await;
            assert_eq!(&names(&s, &page), expected, "{query:?}");
            next = page.next.map(|place| (Some(place.after), place.offset));
        }
        assert_eq!(next, None, "{query:?}");
    }
}

/// Windows grow, and no row between two of them is lost.
pub async fn pages_over_many_rows_lose_none(subject: &Subject) {
    let s = scope("s");
    let mut many = WriteBuilder::new(&s);
    for n in 0..1_400 {
        let kind = if n % 100 == 0 { NodeType::Topic } else { NodeType::Event };
        many = many.node(&format!("n{n}"), "x").with(|node| node.node_type = kind);
    }
    subject.write(many).await;
    for (limit, scan_max) in [(5, 10_000), (5, 300), (200, 10_000), (3, 40)] {
        let filter = FindFilter { types: vec![NodeType::Topic], ..FindFilter::default() };
        let query = FindQuery { filter, limit, scan_max, ..all(&s) };
        let (mut seen, mut place) = (Vec::new(), None);
        loop {
            let (after, offset) =
                place.map_or((None, 0), |place: aionis_core::read::Place| (Some(place.after), place.offset));
            let page = find(subject, FindQuery { after, offset, ..query.clone() }).await;
            assert!(page.nodes.len() <= limit);
            seen.extend(ids(&page));
            place = page.next;
            if place.is_none() {
                break;
            }
        }
        let mut each_once = seen.clone();
        each_once.sort_unstable_by(|a, b| b.cmp(a));
        each_once.dedup();
        assert_eq!((seen.len(), seen == each_once), (14, true), "{limit} {scan_max}");
    }
}

/// Private nodes are listed for their owners only, of other scopes none.
pub async fn find_shows_what_the_eyes_see(subject: &Subject) {
    let (s, other) = (scope("s"), scope_of("other", "s"));
    let private = |owner: Option<&'static str>, team: Option<&'static str>| {
        move |n: &mut aionis_core::write::NodeInput| {
            n.memory_lane = Some(Lane::Private);
            n.owner_agent_id = owner.map(str::to_owned);
            n.owner_team_id = team.map(str::to_owned);
        }
    };
    subject
        .write(WriteBuilder::new(&s).node("shared", "all").node("ann", "mine").with(private(Some("ann"), None)))
        .await;
    subject.write(WriteBuilder::new(&s).input("2").node("red", "ours").with(private(None, Some("red")))).await;
    subject.write(WriteBuilder::new(&other).node("foreign", "theirs")).await;
    let sees = async |eyes: Eyes, filter: FindFilter| {
        let mut names = names(&s, &find(subject, FindQuery { eyes, filter, ..all(&s) }).await);
        names.sort();
        names
    };
    let named = || FindFilter {
        ids: vec![node_id(&s, "ann"), node_id(&s, "red"), node_id(&s, "shared")],
        ..Default::default()
    };
    for (viewer, expected) in [
        (anyone(), vec!["shared"]),
        (agent("ann"), vec!["ann", "shared"]),
        (agent("bob"), vec!["shared"]),
        (team("red"), vec!["red", "shared"]),
        (member("ann", "red"), vec!["ann", "red", "shared"]),
    ] {
        assert_eq!(sees(Eyes::Of(viewer.clone()), FindFilter::default()).await, expected, "{viewer:?}");
        assert_eq!(sees(Eyes::Of(viewer.clone()), named()).await, expected, "{viewer:?}");
    }
    assert_eq!(sees(Eyes::MayChange(None), FindFilter::default()).await, ["ann", "red", "shared"]);
    assert_eq!(sees(Eyes::MayChange(Some(agent("bob"))), named()).await, ["shared"]);
}

/// A history holds every content with the commit that made it, newest first.
pub async fn a_history_holds_every_content(subject: &Subject) {
    let s = scope("s");
    let made = [
        subject.write(WriteBuilder::new(&s).input("1").node("a", "first")).await,
        subject.write(WriteBuilder::new(&s).input("2").node("a", "second")).await,
        subject.write(WriteBuilder::new(&s).input("3").node("a", "third")).await,
    ];
    let id = node_id(&s, "a");
    let history = subject.store.history(&s, id, None, 10).await.unwrap();
    let shown: Vec<_> =
        history.iter().map(|v| (v.version, v.from_seq, v.to_seq, v.content["text_summary"].clone())).collect();
    assert_eq!(
        shown,
        [(3, 3, None, json!("third")), (2, 2, Some(3), json!("second")), (1, 1, Some(2), json!("first"))]
    );
    let commits: Vec<_> = history.iter().rev().map(|version| version.commit_id).collect();
    assert_eq!(commits, made.map(|outcome| outcome.commit_id));
    for version in &history {
        assert_eq!(version.digest, aionis_core::canon::canonical_sha256(&version.content), "{}", version.version);
    }
    let page = subject.store.history(&s, id, Some(3), 1).await.unwrap();
    assert_eq!(page.iter().map(|v| v.version).collect::<Vec<_>>(), [2]);
    assert!(subject.store.history(&s, node_id(&s, "nobody"), None, 10).await.unwrap().is_empty());
}

/// A state is named by number, id or time of its commit.
pub async fn a_state_is_named_in_three_ways(subject: &Subject) {
    let s = scope("s");
    let first = subject.write(WriteBuilder::new(&s).input("1").node("a", "first")).await;
    let then = subject.now();
    subject.clock.advance(std::time::Duration::from_secs(5));
    let second = subject.write(WriteBuilder::new(&s).input("2").node("a", "second")).await;
    let at = async |state| {
        subject.store.commit_at(&s, state).await.unwrap().map(|commit| (commit.header.seq, commit.id, commit.changes))
    };
    for (state, expected) in [
        (AsOf::Seq(1), &first),
        (AsOf::Commit(first.commit_id), &first),
        (AsOf::Time(then), &first),
        (AsOf::Time(subject.now()), &second),
        (AsOf::Seq(2), &second),
    ] {
        let (seq, id, changes) = at(state).await.expect("there is such a commit");
        assert_eq!((seq, id), (expected.commit_seq, expected.commit_id), "{state:?}");
        assert_eq!(parse_changes(&changes).unwrap().len(), 1);
    }
    for unknown in [AsOf::Seq(3), AsOf::Time(aionis_core::clock::Timestamp(1))] {
        assert!(at(unknown).await.is_none(), "{unknown:?}");
    }
    assert!(subject.store.commit_at(&scope("t"), AsOf::Commit(first.commit_id)).await.unwrap().is_none());
    let seqs = async |before, limit| {
        let commits = subject.store.newest_commits(&s, before, limit).await.unwrap();
        commits.iter().map(|commit| commit.header.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(None, 10).await, [2, 1]);
    assert_eq!(seqs(None, 1).await, [2]);
    assert_eq!(seqs(Some(2), 10).await, [1]);
}

/// Nodes are found as they were: content, owners and lane of that commit, and none that came later.
pub async fn nodes_are_found_as_they_were(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).input("1").node("a", "before").node("b", "always")).await;
    let private = |n: &mut aionis_core::write::NodeInput| {
        n.memory_lane = Some(Lane::Private);
        n.owner_agent_id = Some("ann".into());
    };
    subject.write(WriteBuilder::new(&s).input("2").node("a", "after").with(private).node("c", "later")).await;
    let at = async |seq: u64, viewer: Viewer, filter: FindFilter| {
        let eyes = Eyes::Of(viewer);
        let page = find(subject, FindQuery { as_of: Some(seq), eyes, filter, ..all(&s) }).await;
        let mut found: Vec<_> =
            page.nodes.iter().map(|n| (n.row.text_summary.clone().unwrap(), n.version, n.row.commit_seq)).collect();
        found.sort();
        found
    };
    let (now, d) = (2, FindFilter::default);
    assert_eq!(at(1, anyone(), d()).await, [("always".into(), 1, 1), ("before".into(), 1, 1)]);
    assert_eq!(at(now, anyone(), d()).await, [("always".into(), 1, 1), ("later".into(), 1, 2)]);
    assert_eq!(at(now, agent("ann"), d()).await.len(), 3);
    let by_id = || FindFilter { ids: vec![node_id(&s, "a"), node_id(&s, "c")], ..d() };
    assert_eq!(at(1, anyone(), by_id()).await, [("before".into(), 1, 1)]);
    assert_eq!(at(now, agent("ann"), by_id()).await, [("after".into(), 2, 2), ("later".into(), 1, 2)]);
    let text = FindFilter { text_contains: Some("before".into()), ..d() };
    assert_eq!(at(1, anyone(), text.clone()).await.len(), 1);
    assert!(at(now, agent("ann"), text).await.is_empty());
}

async fn words_then(past: &dyn RecallReader, s: &ScopeKey, question: &str) -> Vec<NodeId> {
    let terms = text::query_terms(question);
    let query = LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms, limit: 10 };
    past.lexical(query).await.unwrap().docs.into_iter().map(|doc| doc.id).collect()
}

/// An earlier state is searched by its own words, vectors and edges.
pub async fn an_earlier_state_is_searched(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).deriving().input("1").node("a", "zebra one").node("b", "lion")).await;
    subject.drain().await;
    let edge = WriteBuilder::new(&s).deriving().input("2").node("a", "giraffe").node("c", "zebra two").edge("a", "c");
    subject.write(edge).await;
    subject.drain().await;
    let (a, b, c) = (node_id(&s, "a"), node_id(&s, "b"), node_id(&s, "c"));
    let then = subject.store.past(&s, 1, PAST_MAX).await.unwrap();
    let now = subject.store.past(&s, 2, PAST_MAX).await.unwrap();
    assert_eq!(words_then(&*then, &s, "zebra").await, [a]);
    assert_eq!(words_then(&*now, &s, "zebra").await, [c]);
    assert!(words_then(&*then, &s, "giraffe").await.is_empty());
    let rows = then.rows(&s, &[a, b, c]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.text_summary.as_deref().unwrap()).collect::<Vec<_>>(), ["zebra one", "lion"]);
    let status = then.scope_status(&s).await.unwrap();
    assert_eq!((status.head_seq, status.nodes, status.pending), (1, 2, 0));
    // Of the present content there is a vector; of an earlier one none is kept.
    assert_eq!(then.stored_vectors(&s, &[a, b]).await.unwrap().iter().map(|v| v.0).collect::<Vec<_>>(), [b]);
    let dense = |vector| aionis_core::ports::store::DenseQuery {
        scope: s.clone(),
        filter: everything(anyone()),
        vector,
        limit: 5,
        scored: 5,
        exact: false,
    };
    let of_b = super::subject::vector_for("lion");
    assert_eq!(then.dense(dense(of_b.clone())).await.unwrap()[0].id, b);
    let present = subject.store.dense(dense(of_b.clone())).await.unwrap();
    let newest = now.dense(dense(of_b)).await.unwrap();
    assert_eq!(
        newest.iter().map(|hit| hit.id).collect::<Vec<_>>(),
        present.iter().map(|hit| hit.id).collect::<Vec<_>>()
    );
    for (then, now) in newest.iter().zip(&present) {
        assert!((then.similarity - now.similarity).abs() < 1e-6, "the newest state is the present one");
    }
    let around = |ids: &[NodeId]| EdgeQuery {
        scope: s.clone(),
        viewer: anyone(),
        around: ids.to_vec(),
        min_weight: 0.0,
        min_confidence: 0.0,
        limit: 10,
    };
    assert!(then.edges_around(around(&[a, b])).await.unwrap().is_empty());
    assert_eq!(now.edges_around(around(&[a])).await.unwrap().len(), 1);
    match subject.store.past(&s, 1, 1).await.map(|_| ()) {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "as_of_scope_too_large"),
        other => panic!("a scope of more than one node must be refused, got {other:?}"),
    }
}

/// An earlier content of a rule says what it said, not what the rule says now.
pub async fn a_rule_says_what_it_said(subject: &Subject) {
    let s = scope("s");
    let rule = |tool: &'static str| {
        move |n: &mut aionis_core::write::NodeInput| {
            n.node_type = NodeType::Rule;
            n.slots = Some(json!({ "if": { "x": tool }, "then": { "tool": { "prefer": [tool] } } }));
        }
    };
    subject.write(WriteBuilder::new(&s).input("1").node("r", "a rule").with(rule("psql"))).await;
    subject.write(WriteBuilder::new(&s).input("2").node("r", "a rule").with(rule("curl"))).await;
    let r = node_id(&s, "r");
    let said = async |seq| {
        let past = subject.store.past(&s, seq, PAST_MAX).await.unwrap();
        let row = past.rows(&s, &[r]).await.unwrap().remove(0);
        let rule = row.rule.expect("it is a rule");
        (rule.if_json, rule.then_json["tool"]["prefer"][0].clone())
    };
    assert_eq!(said(1).await, (json!({ "x": "psql" }), json!("psql")));
    assert_eq!(said(2).await, (json!({ "x": "curl" }), json!("curl")));
}

//! The queue of pairs, merges, moved edges, and taking them back.

use aionis_core::{
    canon::{Digest, canonical_sha256},
    forget::PreparedForget,
    ids::{NodeId, ScopeKey},
    jobs::consolidation::{
        Candidate, CandidateQuery, CandidateState, Conflict, ConflictKind, MergeAction, MergeOutcome, PairScore,
        PreparedMerge, Queued, TYPES, UndoWhich, pair_key,
    },
    jobs::scope_purge::{PurgeMode, plan_purge},
    lifecycle::{AgingNode, DecayPolicy},
    model::{NodeType, Tier},
    operate::{TierMove, prepare_maintenance},
    ports::store::{EdgeQuery, LexicalQuery, StoreError, TierPage},
    text,
};
use serde_json::json;
use uuid::Uuid;

use super::{Subject, graph::edges_of, subject::vector_for};
use crate::{
    assert_sound,
    fixtures::{Rng, WriteBuilder, anyone, everything, node_id, scope},
};

/// Concepts, each with a vector of its text.
fn concepts(s: &ScopeKey, input: &str, names: &[&str]) -> WriteBuilder {
    names.iter().fold(WriteBuilder::new(s).input(input), |write, name| {
        let text = format!("zebra {name}");
        write.node(name, &text).vector(vector_for(&text)).with(|node| node.node_type = NodeType::Concept)
    })
}

async fn candidate(subject: &Subject, s: &ScopeKey, (a, b): (&str, &str), score: f64) -> Candidate {
    let (a, b) = (node_id(s, a), node_id(s, b));
    let (low, high) = (a.min(b), a.max(b));
    let nodes = subject.store.merge_nodes(s, &[low, high]).await.unwrap();
    let digest = |id| nodes.iter().find(|node| node.id == id).map_or(Digest([0; 32]), |node| node.digest);
    Candidate {
        pair_key: pair_key(low, high, NodeType::Concept),
        low,
        high,
        node_type: NodeType::Concept,
        digests: (digest(low), digest(high)),
        score: PairScore { score, vector_similarity: score, lexical_similarity: 0.5, conflict: None },
        state: CandidateState::Open,
    }
}

async fn queue(subject: &Subject, s: &ScopeKey, pairs: &[Candidate]) -> Queued {
    subject.store.queue_candidates(s, pairs, subject.now()).await.unwrap()
}

async fn waiting(subject: &Subject, s: &ScopeKey, states: &[CandidateState]) -> Vec<Candidate> {
    let query = CandidateQuery { states: states.to_vec(), after: None, limit: 100 };
    subject.store.candidates(s, &query).await.unwrap()
}

fn asked(s: &ScopeKey, run: u128, action: MergeAction) -> PreparedMerge {
    PreparedMerge { scope: s.clone(), actor: "job".to_owned(), run: Uuid::from_u128(run), action, dry_run: false }
}

async fn act(subject: &Subject, s: &ScopeKey, run: u128, action: MergeAction) -> MergeOutcome {
    subject.store.merge(&asked(s, run, action)).await.expect("the merge is planned and stored")
}

fn applying(pairs: &[Candidate]) -> MergeAction {
    let pairs = pairs.iter().map(|pair| pair.pair_key.clone()).collect();
    MergeAction::Apply { pairs, types: TYPES.to_vec(), allow_contradictory: false, decay: DecayPolicy::default() }
}

/// Queues pairs and merges them.
async fn merged(subject: &Subject, s: &ScopeKey, run: u128, pairs: &[(&str, &str)]) -> MergeOutcome {
    let mut found = Vec::new();
    for pair in pairs {
        let pair = candidate(subject, s, *pair, 0.9).await;
        if !found.contains(&pair) {
            found.push(pair);
        }
    }
    queue(subject, s, &found).await;
    act(subject, s, run, applying(&found)).await
}

async fn redirected(subject: &Subject, s: &ScopeKey) -> MergeOutcome {
    let aliases = subject.store.aliases(s, None, 1_000).await.unwrap();
    act(subject, s, 77, MergeAction::Redirect { aliases }).await
}

async fn forgotten(subject: &Subject, s: &ScopeKey, id: NodeId) {
    let forget = |token| PreparedForget {
        scope: s.clone(),
        actor: "ann".to_owned(),
        ids: vec![id],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: canonical_sha256(&json!([id])),
        idempotency: None,
    };
    let look = subject.store.forget(forget(None)).await.unwrap();
    subject.store.forget(forget(Some(Digest::from_hex(&look.token).unwrap()))).await.unwrap();
}

fn undoing(run: u128, force: bool) -> MergeAction {
    MergeAction::Undo { which: UndoWhich::Run(Uuid::from_u128(run)), force }
}

/// Pairs wait best first, in pages; a new look brings what waits up to date and leaves what was decided alone.
pub async fn pairs_wait_until_they_are_decided(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b", "c", "d"])).await;
    let conflict = Conflict { kind: ConflictKind::NumberMismatch, score: 0.7, shared_tokens: 3 };
    let mut pairs = vec![
        candidate(subject, &s, ("a", "b"), 0.90).await,
        candidate(subject, &s, ("a", "c"), 0.95).await,
        candidate(subject, &s, ("b", "c"), 0.85).await,
        candidate(subject, &s, ("a", "nobody"), 0.99).await,
    ];
    pairs[2].score.conflict = Some(conflict);
    pairs[2].state = CandidateState::Review;
    assert_eq!(queue(subject, &s, &pairs).await, Queued { new: 3, ..Queued::default() });
    let all = [CandidateState::Open, CandidateState::Review];
    assert_eq!(waiting(subject, &s, &all).await, [pairs[1].clone(), pairs[0].clone(), pairs[2].clone()]);
    let after = CandidateQuery { states: all.to_vec(), after: Some((0.95, pairs[1].pair_key.clone())), limit: 1 };
    assert_eq!(subject.store.candidates(&s, &after).await.unwrap(), [pairs[0].clone()]);
    assert!(waiting(subject, &scope("t"), &all).await.is_empty());

    let decide = async |pair: &Candidate, state| {
        subject.store.decide_candidate(&s, &pair.pair_key, state, subject.now()).await.unwrap()
    };
    assert!(decide(&pairs[1], CandidateState::Rejected).await);
    assert!(!decide(&pairs[1], CandidateState::Open).await, "it was decided");
    assert!(decide(&pairs[2], CandidateState::Open).await);
    pairs[0].score.score = 0.91;
    pairs[0].score.conflict = Some(conflict);
    pairs[0].state = CandidateState::Review;
    let found = queue(subject, &s, &pairs).await;
    assert_eq!((found.new, found.waiting, found.decided), (0, 2, 1));
    let open = waiting(subject, &s, &[CandidateState::Open]).await;
    assert_eq!(open.iter().map(|pair| &pair.pair_key).collect::<Vec<_>>(), [&pairs[2].pair_key], "it was accepted");
    assert_eq!(waiting(subject, &s, &[CandidateState::Review]).await, [pairs[0].clone()]);
    pairs[0].score.conflict = None;
    pairs[0].state = CandidateState::Open;
    queue(subject, &s, &pairs[..1]).await;
    assert_eq!(waiting(subject, &s, &[CandidateState::Review]).await, []);
}

/// Ids of all nodes come in pages; nodes with their notes and vectors come by id.
pub async fn nodes_are_paged_by_id(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b", "c"]).node("e", "an event without vector")).await;
    let mut ids: Vec<NodeId> = ["a", "b", "c", "e"].iter().map(|name| node_id(&s, name)).collect();
    ids.sort_unstable();
    let mut found = Vec::new();
    while let Some((last, _)) = subject.store.node_ids(&s, found.last().copied(), 3).await.unwrap().last() {
        let page = subject.store.node_ids(&s, found.last().copied(), 3).await.unwrap();
        found.extend(page.iter().map(|(id, _)| *id));
        assert_eq!(found.last(), Some(last));
    }
    assert_eq!(found, ids);
    let asked = [node_id(&s, "e"), node_id(&s, "a"), node_id(&s, "nobody")];
    let nodes = subject.store.merge_nodes(&s, &asked).await.unwrap();
    assert!(nodes.is_sorted_by_key(|node| node.id));
    let of = |name: &str| nodes.iter().find(|node| node.id == node_id(&s, name));
    assert_eq!(of("a").unwrap().vector_model.as_deref(), Some("client"), "a vector that the caller brought");
    assert_eq!(of("e").unwrap().vector_model, None);
    assert!(of("nobody").is_none());
}

/// An alias leads to its canonical node by meaning, words, name and id; it is itself not shown but read by id.
pub async fn ops_12_an_alias_counts_for_its_canonical_node(subject: &Subject) {
    let s = scope("s");
    let far = WriteBuilder::new(&s).input("0").node("far", "far away").edge("b", "far");
    subject
        .write(
            concepts(&s, "1", &["a", "c"])
                .node("b", "giraffe long neck")
                .title("Giraffe")
                .vector(vector_for("b"))
                .with(|n| n.node_type = NodeType::Concept),
        )
        .await;
    subject.write(far).await;
    let (a, b, c, far) = (node_id(&s, "a"), node_id(&s, "b"), node_id(&s, "c"), node_id(&s, "far"));
    // What recall holds in memory is brought up to date, not only loaded.
    assert_eq!(subject.near(&s, &vector_for("b"), 1).await[0].id, b);
    assert_eq!(subject.found(&s, "giraffe").await, [b]);
    let done = merged(subject, &s, 1, &[("a", "b")]).await;
    let (canonical, alias) = (done.merges[0].canonical_id, done.merges[0].duplicate_id);
    assert_eq!([canonical, alias].iter().collect::<std::collections::BTreeSet<_>>(), [&a, &b].into_iter().collect());
    // The one that stays is asked for by what only the other one says.
    let (vector, word) = if alias == b { (vector_for("b"), "giraffe") } else { (vector_for("zebra a"), "zebra") };
    let near = subject.near(&s, &vector, 3).await;
    assert_eq!(near[0].id, canonical);
    assert!((near[0].similarity - 1.0).abs() < 1e-6, "the better similarity counts: {near:?}");
    assert_eq!(near.iter().filter(|hit| hit.id == canonical).count(), 1);
    assert!(near.iter().all(|hit| hit.id != alias));
    let words = subject.found(&s, word).await;
    assert!(words.contains(&canonical) && !words.contains(&alias), "{words:?}");
    let client_id = if alias == b { "b" } else { "a" };
    assert_eq!(subject.quoted(&s, &[client_id]).await, [canonical]);
    assert_eq!(subject.quoted(&s, &[&alias.to_string()]).await, [canonical]);
    if alias == b {
        assert_eq!(subject.named(&s, &["giraffe"], &[a, c]).await, [a]);
    }
    assert!(subject.shows(&s, canonical, &anyone()).await && !subject.shows(&s, alias, &anyone()).await);
    assert!(edges_of(subject, &s, &[alias, far]).await.iter().all(|edge| edge.src != alias && edge.dst != alias));
    assert_eq!(subject.row(&s, alias).await.slots["alias_of"], json!(canonical));
    assert_eq!(subject.row(&s, canonical).await.slots["merged_from"], json!([alias]));
    // Two hits for one node do not use up the limit.
    assert_eq!(subject.near(&s, &vector, 2).await.len(), 2);
    assert_sound(&*subject.store).await;
    let undone = act(subject, &s, 2, undoing(1, false)).await;
    assert_eq!(undone.conflicts, []);
    assert!(subject.shows(&s, alias, &anyone()).await);
    assert_eq!(subject.near(&s, &vector, 1).await[0].id, alias);
    assert_sound(&*subject.store).await;
}

/// Edges go to the final node whatever the order; the counts add up; earlier states have what they had.
pub async fn ops_05_edges_are_moved_and_none_is_lost(subject: &Subject) {
    let s = scope("s");
    let write = concepts(&s, "1", &["a", "b", "c", "d", "e"]).node("x", "event");
    let write = write.edge("c", "x").strength(0.3, 0.7).edge("b", "x").strength(0.6, 0.4);
    subject.write(write.edge("c", "e").strength(0.4, 0.5).edge("b", "c").edge("a", "x").strength(0.1, 0.1)).await;
    let ids: Vec<NodeId> = ["a", "b", "c", "d", "e", "x"].iter().map(|name| node_id(&s, name)).collect();
    assert_eq!(edges_of(subject, &s, &ids).await.len(), 5);
    let before = subject.inspect.graph(&s).await;
    let head = subject.status(&s).await.head_seq;
    let done = merged(subject, &s, 1, &[("a", "b"), ("b", "c"), ("d", "e")]).await;
    assert_eq!((done.merges.len(), done.commit.as_ref().unwrap().seq), (3, head + 1));
    let moved = redirected(subject, &s).await;
    let parts = moved.redirected_edges + moved.merged_into_existing + moved.dropped_self_loops;
    assert_eq!((moved.touched_edges, moved.deleted_edges), (parts, parts));
    let stands = |name: &str| {
        let id = node_id(&s, name);
        done.merges.iter().find(|merge| merge.duplicate_id == id).map_or(id, |merge| merge.canonical_id)
    };
    let edges = edges_of(subject, &s, &ids).await;
    assert_eq!(edges.len(), 2, "{edges:?}");
    let to_x = edges.iter().find(|edge| edge.dst == node_id(&s, "x")).unwrap();
    assert_eq!(to_x.src, stands("a"));
    assert!((to_x.weight - 0.6).abs() < 1e-9 && (to_x.confidence - 0.7).abs() < 1e-9);
    assert!(edges.iter().any(|edge| edge.src == stands("c") && edge.dst == stands("e")));
    assert_eq!(redirected(subject, &s).await.commit, None, "nothing is left to move");
    assert_sound(&*subject.store).await;

    let around = EdgeQuery {
        scope: s.clone(),
        viewer: anyone(),
        around: ids.clone(),
        min_weight: 0.0,
        min_confidence: 0.0,
        limit: 100,
    };
    for (seq, count) in [(head, 5), (head + 2, 2)] {
        let then = subject.store.past(&s, seq, 100).await.unwrap();
        assert_eq!(then.edges_around(around.clone()).await.unwrap().len(), count, "as of commit {seq}");
        let shown = then.vitals(&s, &ids, &anyone()).await.unwrap().len();
        assert_eq!(shown, if seq == head { 6 } else { 3 }, "as of commit {seq}");
    }
    let undone = act(subject, &s, 2, undoing(1, false)).await;
    assert_eq!((undone.restored_edges, undone.conflicts.len()), (moved.touched_edges, 0));
    assert_eq!(subject.inspect.graph(&s).await, before);
    assert_eq!(edges_of(subject, &s, &ids).await.len(), 5);
    let then = subject.store.past(&s, head + 2, 100).await.unwrap();
    assert_eq!(then.edges_around(around).await.unwrap().len(), 2, "the moved edges were there before they were undone");
    assert_sound(&*subject.store).await;
}

/// A plan alone changes nothing.
pub async fn a_dry_run_changes_nothing(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b"])).await;
    let pairs = [candidate(subject, &s, ("a", "b"), 0.9).await];
    queue(subject, &s, &pairs).await;
    let (before, status) = (subject.inspect.graph(&s).await, subject.status(&s).await);
    let plan = PreparedMerge { dry_run: true, ..asked(&s, 1, applying(&pairs)) };
    let planned = subject.store.merge(&plan).await.unwrap();
    assert_eq!((planned.merges.len(), planned.commit), (1, None));
    assert_eq!((subject.inspect.graph(&s).await, subject.status(&s).await), (before, status));
    assert_eq!(waiting(subject, &s, &[CandidateState::Open]).await, pairs);
    match subject.store.merge(&asked(&scope("none"), 1, undoing(9, false))).await {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "merge_not_found"),
        other => panic!("there is nothing to take back: {other:?}"),
    }
    let scopes = subject.store.scopes(None, None).await.unwrap();
    assert_eq!(scopes.len(), 1, "asking makes no scope");
}

/// Forgetting a node takes its pairs, merges and moved edges along; its aliases are shown again.
pub async fn forgetting_takes_what_consolidation_keeps(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b", "c"]).edge("a", "c").edge("b", "c")).await;
    let done = merged(subject, &s, 1, &[("a", "b")]).await;
    let pair = candidate(subject, &s, ("b", "c"), 0.9).await;
    queue(subject, &s, &[pair]).await;
    redirected(subject, &s).await;
    assert!(subject.inspect.kept_of(&s, done.merges[0].canonical_id).await > 0);
    let (canonical, alias) = (done.merges[0].canonical_id, done.merges[0].duplicate_id);
    forgotten(subject, &s, canonical).await;
    assert_eq!(subject.inspect.kept_of(&s, canonical).await, 0);
    assert!(subject.shows(&s, alias, &anyone()).await, "what stood for it is gone");
    assert!(subject.store.aliases(&s, None, 10).await.unwrap().is_empty());
    match subject.store.merge(&asked(&s, 2, undoing(1, false))).await {
        Err(StoreError::Rejected(error)) => assert_eq!(error.code, "merge_not_found"),
        other => panic!("the merge was forgotten: {other:?}"),
    }
    assert_sound(&*subject.store).await;
}

/// Random graphs, merged in rounds with writes in between: the chain holds, no edge is lost, and all is taken back.
pub async fn random_graphs_are_merged_and_taken_back(subject: &Subject) {
    for seed in 0..6_u64 {
        let (s, mut rng) = (scope(&format!("random-{seed}")), Rng::new(seed + 1));
        let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut write = concepts(&s, "1", &refs);
        let mut drawn = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let (from, to) = (rng.below(10), rng.below(10));
            if from != to && drawn.insert((from, to)) {
                let weight = f64::from(u32::try_from(rng.below(100)).unwrap()) / 100.0;
                write = write.edge(&names[from], &names[to]).strength(weight, 1.0 - weight);
            }
        }
        subject.write(write).await;
        let ids: Vec<NodeId> = names.iter().map(|name| node_id(&s, name)).collect();
        let all = edges_of(subject, &s, &ids).await;
        let before = subject.inspect.graph(&s).await;
        for run in 1..=2 {
            let mut pairs: Vec<(&str, &str)> = Vec::new();
            for _ in 0..3 {
                let (a, b) = (rng.below(10), rng.below(10));
                if a != b {
                    pairs.push((&names[a], &names[b]));
                }
            }
            merged(subject, &s, run, &pairs).await;
            let moved = redirected(subject, &s).await;
            let parts = moved.redirected_edges + moved.merged_into_existing + moved.dropped_self_loops;
            assert_eq!((moved.touched_edges, moved.deleted_edges), (parts, parts));
        }
        let nodes = subject.store.merge_nodes(&s, &ids).await.unwrap();
        let stands = |id: NodeId| nodes.iter().find(|node| node.id == id).and_then(|n| n.alias_of()).unwrap_or(id);
        let wanted: std::collections::BTreeSet<(NodeId, NodeId)> =
            all.iter().map(|edge| (stands(edge.src), stands(edge.dst))).filter(|(src, dst)| src != dst).collect();
        let found: std::collections::BTreeSet<(NodeId, NodeId)> =
            edges_of(subject, &s, &ids).await.iter().map(|edge| (edge.src, edge.dst)).collect();
        assert_eq!(found, wanted, "seed {seed}");
        assert_sound(&*subject.store).await;
        for run in [2, 1] {
            match subject.store.merge(&asked(&s, 9, undoing(run, false))).await {
                Ok(undone) => assert_eq!(undone.conflicts, [], "seed {seed}"),
                Err(StoreError::Rejected(error)) => assert_eq!(error.code, "merge_not_found"),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(subject.inspect.graph(&s).await, before, "seed {seed}");
        assert_sound(&*subject.store).await;
    }
}

/// What is written to an alias while it is merged is not lost, and what changed since is told.
pub async fn writes_between_merge_and_undo_are_told(subject: &Subject) {
    let s = scope("s");
    subject
        .write(concepts(&s, "1", &["a", "b"]).node("x", "event").edge("b", "x").edge("a", "x").strength(0.2, 0.2))
        .await;
    let done = merged(subject, &s, 1, &[("a", "b")]).await;
    redirected(subject, &s).await;
    let (canonical, alias) = (done.merges[0].canonical_id, done.merges[0].duplicate_id);
    let name = |id| if id == node_id(&s, "a") { "a" } else { "b" };
    let stronger = WriteBuilder::new(&s).input("2").node("y", "event");
    subject.write(stronger.edge(name(canonical), "x").strength(0.99, 0.99)).await;
    let undone = act(subject, &s, 2, undoing(1, false)).await;
    assert_eq!(undone.conflicts.len(), 1);
    assert_eq!(undone.conflicts[0].reason, "moved_edge_was_changed_since");
    assert_eq!(undone.restored_edges, 1);
    let edges = edges_of(subject, &s, &[node_id(&s, "x")]).await;
    assert!(edges.iter().any(|edge| edge.src == alias));
    assert!(edges.iter().any(|edge| edge.src == canonical && edge.weight > 0.98), "the later write stays");
    assert_sound(&*subject.store).await;
    let pairs = waiting(subject, &s, &[CandidateState::Undone]).await;
    assert_eq!(pairs.len(), 1, "it is not merged again by itself");
    assert_eq!(queue(subject, &s, &pairs).await.decided, 1);
}

/// However faint an alias has become, it stays where recall searches for as long as it leads to its canonical node: what was
/// planned before the merge is not done, and nothing is planned after it. Its fading itself goes on.
pub async fn an_alias_leads_as_long_as_its_canonical_node_is_there(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b"])).await;
    let (a, b) = (node_id(&s, "a"), node_id(&s, "b"));
    subject.clock.advance(std::time::Duration::from_secs(2_000 * 86_400));
    let aging = async |id| {
        let page = TierPage { scope: s.clone(), tier: Tier::Hot, after: None, limit: 10 };
        let node = subject.store.tier_page(page).await.unwrap().into_iter().find(|node| node.id == id);
        node.expect("it is hot")
    };
    for id in [a, b] {
        let (node, known) = (aging(id).await, subject.store.merge_nodes(&s, &[id]).await.unwrap());
        assert_eq!(
            (node.decay, node.salience),
            (known[0].decay, known[0].salience),
            "both read what fading depends on"
        );
        assert!(node.may_move(subject.now()) && node.alias_of.is_none());
    }
    let cooled = async |node: &AgingNode| {
        let moves = vec![TierMove {
            id: node.id,
            from: Tier::Hot,
            to: Tier::Cold,
            salience: 0.01,
            salience_at: subject.now(),
            since: node.decay.since,
            used_at: node.decay.used_at,
            alias_of: node.alias_of,
        }];
        let operation = prepare_maintenance(s.clone(), "salience_decay", subject.now(), moves);
        subject.store.operate(operation).await.unwrap().commit.is_some()
    };
    let before = [aging(a).await, aging(b).await];
    let done = merged(subject, &s, 1, &[("a", "b")]).await;
    let (canonical, alias) = (done.merges[0].canonical_id, done.merges[0].duplicate_id);
    let before = before.iter().find(|node| node.id == alias).unwrap();
    assert!(!cooled(before).await, "the move was planned for a node that led nowhere");
    let leading = aging(alias).await;
    assert_eq!((leading.alias_of, leading.leads), (Some(canonical), true));
    assert!(!leading.may_move(subject.now()) && leading.decay == before.decay);
    let vector = vector_for(if alias == b { "zebra b" } else { "zebra a" });
    assert_eq!(subject.near(&s, &vector, 1).await[0].id, canonical);
    act(subject, &s, 2, undoing(1, false)).await;
    assert_eq!(aging(alias).await, *before, "it fades on as before");

    // Once the canonical node is forgotten, what was its alias is a node as others are.
    subject.write(concepts(&s, "2", &["c"])).await;
    let done = merged(subject, &s, 3, &[("b", "c")]).await;
    let (canonical, alias) = (done.merges[0].canonical_id, done.merges[0].duplicate_id);
    assert!(aging(alias).await.leads);
    forgotten(subject, &s, canonical).await;
    let left = aging(alias).await;
    assert_eq!((left.alias_of, left.leads), (Some(canonical), false));
    assert!(left.may_move(subject.now()) && cooled(&left).await);
    assert_sound(&*subject.store).await;
}

/// The statistics of words are those of the documents, aliases among them.
pub async fn words_of_aliases_are_counted_as_before(subject: &Subject) {
    let s = scope("s");
    subject.write(concepts(&s, "1", &["a", "b", "c"])).await;
    let query =
        || LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms: text::query_terms("zebra"), limit: 2 };
    let before = subject.store.lexical(query()).await.unwrap();
    merged(subject, &s, 1, &[("a", "b")]).await;
    let after = subject.store.lexical(query()).await.unwrap();
    assert_eq!((before.total_docs, &before.doc_freq), (after.total_docs, &after.doc_freq));
    assert_eq!(after.docs.len(), 2, "two documents of one node do not use up the limit");
}

/// A scope that is being purged has no pairs, aliases or nodes to show, and takes none in; what consolidation kept goes too.
pub async fn while_a_scope_is_purged_nothing_is_queued_or_merged(subject: &Subject) {
    let (s, store) = (scope("s"), &subject.store);
    subject.write(concepts(&s, "1", &["a", "b", "c", "d"]).edge("a", "c").edge("b", "c")).await;
    merged(subject, &s, 1, &[("a", "b")]).await;
    redirected(subject, &s).await;
    let pair = candidate(subject, &s, ("c", "d"), 0.9).await;
    assert_eq!(queue(subject, &s, std::slice::from_ref(&pair)).await.new, 1);
    let survey = store.purge_survey(&s).await.unwrap();
    let plan = plan_purge(&s, &survey, PurgeMode::Auto, false).unwrap();
    assert!(store.begin_purge(&s, &plan, "ops", subject.now()).await.unwrap());
    assert!(waiting(subject, &s, &[CandidateState::Open, CandidateState::Applied]).await.is_empty());
    assert!(store.aliases(&s, None, 10).await.unwrap().is_empty());
    assert!(store.node_ids(&s, None, 10).await.unwrap().is_empty());
    assert!(store.merge_nodes(&s, &[pair.low, pair.high]).await.unwrap().is_empty());
    let refused = |error| aionis_core::error::DomainError::from(error).code;
    let queued = store.queue_candidates(&s, std::slice::from_ref(&pair), subject.now()).await;
    assert_eq!(refused(queued.unwrap_err()), "scope_purging");
    let decided = store.decide_candidate(&s, &pair.pair_key, CandidateState::Rejected, subject.now()).await;
    assert_eq!(refused(decided.unwrap_err()), "scope_purging");
    for action in [applying(std::slice::from_ref(&pair)), undoing(1, false)] {
        assert_eq!(refused(store.merge(&asked(&s, 2, action)).await.unwrap_err()), "scope_purging");
    }
    let record = loop {
        if let Some(record) = store.purge_step(&s, plan.hash, 3, subject.now()).await.unwrap().done {
            break record;
        }
    };
    for table in ["memory_consolidation_candidates", "memory_merges", "memory_removed_edges"] {
        assert!(record.rows.contains_key(table), "{table}: {:?}", record.rows);
    }
    assert_eq!(queue(subject, &s, &[pair]).await.new, 0, "its nodes are gone");
    assert_eq!(store.purge_survey(&s).await.unwrap().rows(), 0);
    assert_sound(&**store).await;
}

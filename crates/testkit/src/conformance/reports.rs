//! Counting for reports.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    jobs::counts::{Activity, FeedbackCounts, LaneCounts, QualityCounts, RecallCounts, RuleCounts, RuleSignals, Votes},
    model::{EdgeType, NodeType, RuleState, Tier, Viewer},
    operate::{LinkMode, Operation, Outcome},
    ports::store::{RecallAudit, RuleSignalQuery},
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::fixtures::{
    DIM, Rng, START, WriteBuilder, agent, anyone, decision, member, node_id, operation, scope, scope_of, team,
};

const HOUR: Duration = Duration::from_secs(3_600);
/// Every state.
const ANY: &[RuleState] = RuleState::ALL;

fn after(hours: i64) -> Timestamp {
    Timestamp(START.0 + hours * 3_600_000_000)
}

async fn rule(subject: &Subject, scope: &ScopeKey, name: &str, state: RuleState) -> NodeId {
    let write = WriteBuilder::new(scope).input(name).node(name, "a rule").with(|node| {
        node.node_type = NodeType::Rule;
        node.slots = Some(json!({ "if": {}, "then": {} }));
    });
    subject.write(write).await;
    let rule = node_id(scope, name);
    let checked = subject.store.rule(scope, rule).await.unwrap().unwrap().digest;
    if state != RuleState::Draft {
        let set = operation(scope, None, Operation::RuleState { rule, state, checked });
        subject.store.operate(set).await.unwrap();
    }
    rule
}

async fn says(subject: &Subject, scope: &ScopeKey, rule: NodeId, outcome: Outcome, run: Option<&str>) {
    let feedback = Operation::RuleFeedback { rule, outcome, run_id: run.map(str::to_owned), note: None };
    subject.store.operate(operation(scope, None, feedback)).await.unwrap();
}

async fn says_of_a_tool(subject: &Subject, scope: &ScopeKey, rule: NodeId, id: u128) {
    let id = Uuid::from_u128(id);
    subject.store.put_decision(scope, decision(id, None, &[rule])).await.unwrap();
    let feedback = Operation::ToolFeedback {
        decision: id,
        link: LinkMode::Provided,
        create: None,
        rules: vec![rule],
        request: aionis_core::canon::Digest([1; 32]),
        outcome: Outcome::Positive,
        run_id: Some(format!("run of {id}")),
        note: None,
    };
    subject.store.operate(operation(scope, None, feedback)).await.unwrap();
}

async fn recalled(subject: &Subject, scope: &ScopeKey, viewer: Viewer) {
    let audit = RecallAudit {
        scope: scope.clone(),
        endpoint: "recall",
        viewer,
        query_sha256: "q".to_owned(),
        seeds: 1,
        nodes: 1,
        edges: 0,
        at: subject.now(),
    };
    subject.store.record_recalls(vec![audit]).await.unwrap();
}

async fn activity(subject: &Subject, scope: &ScopeKey, since: Timestamp) -> Activity {
    subject.store.activity(std::slice::from_ref(scope), since).await.unwrap().remove(0).activity
}

async fn signals(subject: &Subject, scope: &ScopeKey, since: Timestamp) -> HashMap<NodeId, RuleSignals> {
    let query = RuleSignalQuery { scope: scope.clone(), states: ANY, since, limit: 100 };
    let page = subject.store.rule_signals(&query).await.unwrap();
    assert_eq!(page.left_out, 0);
    page.rules.into_iter().map(|rule| (rule.rule, rule)).collect()
}

/// Feedback, rules, recalls and lanes of each scope alone; of what happens only what is young enough.
pub async fn what_happened_is_counted_by_scope_and_time(subject: &Subject) {
    let (s, other, empty) = (scope("s"), scope_of("globex", "s"), scope("empty"));
    for scope in [&s, &other] {
        rule(subject, scope, "draft", RuleState::Draft).await;
        rule(subject, scope, "shadow", RuleState::Shadow).await;
        rule(subject, scope, "off", RuleState::Disabled).await;
    }
    let (old, young) =
        (rule(subject, &s, "old", RuleState::Active).await, rule(subject, &s, "young", RuleState::Active).await);
    says(subject, &s, old, Outcome::Negative, Some("long ago")).await;
    recalled(subject, &s, agent("ada")).await;
    subject.clock.advance(2 * HOUR);
    for (outcome, run) in [(Outcome::Positive, Some("1")), (Outcome::Negative, Some("1")), (Outcome::Neutral, None)] {
        says(subject, &s, young, outcome, run).await;
    }
    says_of_a_tool(subject, &s, young, 7).await;
    for viewer in [anyone(), agent("ada"), agent("ada"), team("crew"), member("ada", "crew")] {
        recalled(subject, &s, viewer).await;
    }
    let write = WriteBuilder::new(&s)
        .node("mine", "x")
        .private(Some("ada"), None)
        .node("ours", "x")
        .private(None, Some("crew"))
        .node("nobody's", "x")
        .private(None, None);
    subject.write(write).await;
    let lately = activity(subject, &s, after(1)).await;
    let expected = Activity {
        feedback: FeedbackCounts {
            total: 4,
            with_run_id: 3,
            distinct_runs: 2,
            positive: 2,
            negative: 1,
            neutral: 1,
            tools: 1,
            tools_with_decision: 1,
            tools_linked: 1,
        },
        rules: RuleCounts { draft: 1, shadow: 1, active: 2, disabled: 1, active_with_feedback: 1 },
        recall: RecallCounts { total: 5, with_identity: 4, distinct_consumers: 3 },
        lanes: LaneCounts { private: 3, private_with_owner: 2, shared: 5 },
    };
    assert_eq!(lately, expected);
    let ever = activity(subject, &s, after(0)).await;
    assert_eq!((ever.feedback.total, ever.rules.active_with_feedback, ever.recall.total), (5, 2, 6));
    let asked = [empty.clone(), other.clone(), s.clone(), other.clone()];
    let all = subject.store.activity(&asked, after(1)).await.unwrap();
    assert_eq!(all.iter().map(|one| one.scope.clone()).collect::<Vec<_>>(), asked, "in the order asked");
    assert_eq!((all[0].activity, all[2].activity), (Activity::default(), expected));
    assert_eq!((all[1].activity.rules.shadow, all[1].activity.feedback.total), (1, 0));
    assert_eq!(all[1].activity, all[3].activity);
    assert!(subject.store.activity(&[], after(0)).await.unwrap().is_empty());
}

/// A run has one vote however often it speaks, the worst it said; feedback without a run is a vote of no run. The window
/// counts what was said in it.
pub async fn a_run_has_one_vote(subject: &Subject) {
    let s = scope("s");
    let rule = rule(subject, &s, "r", RuleState::Shadow).await;
    for _ in 0..3 {
        says(subject, &s, rule, Outcome::Positive, Some("often")).await;
    }
    says(subject, &s, rule, Outcome::Negative, Some("changes its mind")).await;
    subject.clock.advance(2 * HOUR);
    for (outcome, run) in [
        (Outcome::Positive, Some("changes its mind")),
        (Outcome::Positive, None),
        (Outcome::Positive, None),
        (Outcome::Negative, None),
        (Outcome::Neutral, Some("shrugs")),
        (Outcome::Positive, Some("torn")),
        (Outcome::Negative, Some("torn")),
    ] {
        says(subject, &s, rule, outcome, run).await;
    }
    subject.clock.advance(HOUR);
    says(subject, &s, rule, Outcome::Neutral, Some("shrugs")).await;
    let found = signals(subject, &s, after(1)).await.remove(&rule).unwrap();
    let window = Votes { positive: 3, negative: 2, neutral: 1, runs: 3, positive_runs: 1, negative_runs: 1 };
    let lifetime = Votes { positive: 3, negative: 3, neutral: 1, runs: 4, positive_runs: 1, negative_runs: 2 };
    assert_eq!((found.window, found.lifetime), (window, lifetime));
    assert_eq!((found.positive_count, found.negative_count), (7, 3), "as counted with the rule");
    assert_eq!((found.last_feedback_at, found.last_positive_at), (Some(after(3)), Some(after(2))));
    let now = signals(subject, &s, after(4)).await.remove(&rule).unwrap();
    assert_eq!((now.window, now.lifetime), (Votes::default(), lifetime));
}

/// Rules of the asked states, those last changed first; the limit says how many it left out.
pub async fn rules_are_asked_for_by_state_and_limit(subject: &Subject) {
    let (s, other) = (scope("s"), scope_of("globex", "s"));
    let mut rules = Vec::new();
    for (name, state) in
        [("a", RuleState::Shadow), ("b", RuleState::Active), ("c", RuleState::Shadow), ("d", RuleState::Draft)]
    {
        rules.push(rule(subject, &s, name, state).await);
        subject.clock.advance(HOUR);
    }
    rule(subject, &other, "a", RuleState::Shadow).await;
    let asked = async |states, limit| {
        let query = RuleSignalQuery { scope: s.clone(), states, since: after(0), limit };
        let page = subject.store.rule_signals(&query).await.unwrap();
        (page.rules.iter().map(|rule| rule.rule).collect::<Vec<_>>(), page.left_out)
    };
    assert_eq!(asked(ANY, 10).await, (vec![rules[3], rules[2], rules[1], rules[0]], 0));
    assert_eq!(asked(&[RuleState::Shadow], 10).await, (vec![rules[2], rules[0]], 0));
    assert_eq!(asked(&[RuleState::Shadow], 1).await, (vec![rules[2]], 1));
    assert_eq!(asked(&[RuleState::Disabled], 10).await, (Vec::new(), 0));
    let found = signals(subject, &s, after(0)).await.remove(&rules[1]).unwrap();
    assert_eq!((found.state, found.window, found.lifetime), (RuleState::Active, Votes::default(), Votes::default()));
    assert_eq!((found.last_feedback_at, found.last_positive_at), (None, None));
    assert_eq!((found.created_at, found.updated_at), (after(1), after(1)));
    assert!(found.commit_id.is_some());
}

/// Everything quality is judged by, of one scope.
pub async fn quality_is_counted(subject: &Subject) {
    let s = scope("s");
    assert_eq!(subject.store.quality(&s, after(0)).await.unwrap(), QualityCounts::default());
    let of = |node_type| move |node: &mut aionis_core::write::NodeInput| node.node_type = node_type;
    let vector = |at: usize| (0..DIM).map(|n| if n == at { 1.0 } else { 0.1 }).collect::<Vec<f32>>();
    let write = WriteBuilder::new(&s)
        .node("topic", "t")
        .with(of(NodeType::Topic))
        .node("double", "t")
        .with(|node| {
            node.node_type = NodeType::Entity;
            node.slots = Some(json!({ "alias_of": "x" }));
        })
        .node("not double", "t")
        .with(|node| {
            node.node_type = NodeType::Concept;
            node.slots = Some(json!({ "alias_of": "" }));
        })
        .node("summary", "t")
        .with(|node| {
            node.node_type = NodeType::Concept;
            node.slots = Some(json!({ "summary_kind": "compression_rollup", "citations": [{}, {}, {}] }));
        })
        .node("odd summary", "t")
        .with(|node| {
            node.node_type = NodeType::Concept;
            node.slots = Some(json!({ "summary_kind": "compression_rollup", "citations": "none" }));
        })
        .node("procedure", "p")
        .with(|node| {
            node.node_type = NodeType::Procedure;
            node.slots = Some(json!({ "alias_of": null }));
        });
    subject.write(write).await;
    subject.clock.advance(2 * HOUR);
    let write = WriteBuilder::new(&s)
        .input("later")
        .node("in", "e")
        .vector(vector(1))
        .node("orphan", "e")
        .vector(vector(2))
        .node("cold", "e")
        .vector(vector(3))
        .with(|node| node.tier = Some(Tier::Cold))
        .node("put away", "e")
        .with(|node| node.tier = Some(Tier::Archive))
        .node("warm", "e")
        .with(|node| node.tier = Some(Tier::Warm))
        .edge("in", "topic")
        .with_edge(|edge| edge.edge_type = EdgeType::PartOf)
        .strength(0.75, 0.5)
        .edge("warm", "topic")
        .with_edge(|edge| edge.edge_type = EdgeType::PartOf)
        .strength(0.5, 0.5)
        .edge("orphan", "topic")
        .edge("orphan", "summary")
        .with_edge(|edge| edge.edge_type = EdgeType::PartOf)
        .edge("summary", "topic")
        .with_edge(|edge| edge.edge_type = EdgeType::PartOf);
    subject.write(write).await;
    let expected = QualityCounts {
        nodes: 11,
        tiers: [8, 1, 1, 1],
        ready: 3,
        dedupe_candidates: 5,
        aliased: 1,
        fresh: 5,
        edges: 5,
        summaries: 2,
        citations: 3,
        mergeable: 6,
        merged: 0,
        part_of: 2,
        part_of_weight: 1.25,
        eligible_events: 2,
        orphan_events: 1,
    };
    assert_eq!(subject.store.quality(&s, after(1)).await.unwrap(), expected);
    let ever = subject.store.quality(&s, after(0)).await.unwrap();
    assert_eq!((ever.fresh, ever.merged), (11, 1));
}

/// Counts of a random history are those of a plain reckoning beside it: on every engine the same numbers.
pub async fn a_random_history_is_counted_as_it_was_told(subject: &Subject) {
    let s = scope("s");
    let mut rules = Vec::new();
    for (n, state) in ANY.iter().enumerate() {
        rules.push(rule(subject, &s, &format!("r{n}"), *state).await);
    }
    let mut rng = Rng::new(11);
    let mut told: Vec<(usize, Outcome, Option<String>, Timestamp)> = Vec::new();
    for _ in 0..150 {
        subject.clock.advance(Duration::from_secs(rng.below(400) as u64));
        let (at, outcome) = (rng.below(4), [Outcome::Positive, Outcome::Negative, Outcome::Neutral][rng.below(3)]);
        let run = (rng.below(4) > 0).then(|| format!("run {}", rng.below(9)));
        says(subject, &s, rules[at], outcome, run.as_deref()).await;
        told.push((at, outcome, run, subject.now()));
    }
    for since in [after(0), after(3), after(5), after(1_000)] {
        let lately: Vec<_> = told.iter().filter(|(.., when)| *when >= since).collect();
        let count = |outcome| lately.iter().filter(|(_, o, ..)| *o == outcome).count() as u64;
        let mut runs: Vec<_> = lately.iter().filter_map(|(_, _, run, _)| run.clone()).collect();
        let named = runs.len() as u64;
        runs.sort();
        runs.dedup();
        let found = activity(subject, &s, since).await.feedback;
        assert_eq!(
            (found.total, found.with_run_id, found.distinct_runs),
            (lately.len() as u64, named, runs.len() as u64)
        );
        assert_eq!(
            [found.positive, found.negative, found.neutral],
            [Outcome::Positive, Outcome::Negative, Outcome::Neutral].map(count)
        );
        let signals = signals(subject, &s, since).await;
        for (at, rule) in rules.iter().enumerate() {
            let of = |all: &[&(usize, Outcome, Option<String>, Timestamp)]| {
                reckoned(all.iter().filter(|(of, ..)| *of == at).map(|(_, o, run, _)| (*o, run.clone())))
            };
            assert_eq!(signals[rule].window, of(&lately), "rule {at} since {since:?}");
            assert_eq!(signals[rule].lifetime, of(&told.iter().collect::<Vec<_>>()));
        }
    }
}

fn reckoned(said: impl Iterator<Item = (Outcome, Option<String>)>) -> Votes {
    let mut voters: BTreeMap<(Option<String>, usize), Vec<Outcome>> = BTreeMap::new();
    for (at, (outcome, run)) in said.enumerate() {
        let own = if run.is_some() { 0 } else { at };
        voters.entry((run, own)).or_default().push(outcome);
    }
    let mut votes = Votes::default();
    for ((run, _), outcomes) in voters {
        let of_run = u64::from(run.is_some());
        votes.runs += of_run;
        if outcomes.contains(&Outcome::Negative) {
            votes.negative += 1;
            votes.negative_runs += of_run;
        } else if outcomes.contains(&Outcome::Positive) {
            votes.positive += 1;
            votes.positive_runs += of_run;
        } else {
            votes.neutral += 1;
        }
    }
    votes
}

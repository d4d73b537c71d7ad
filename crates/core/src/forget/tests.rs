use super::*;
use crate::ids::TenantId;

fn node(n: u8, lane: Lane, owner: Option<&str>) -> ForgettableNode {
    ForgettableNode {
        digest: sha256([n]),
        was_rule: false,
        lane,
        owner_agent_id: owner.map(str::to_owned),
        owner_team_id: None,
        made: None,
    }
}

fn id(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn asked(ids: &[u128], token: Option<Digest>) -> PreparedForget {
    PreparedForget {
        scope: ScopeKey::new(&TenantId::parse("t").unwrap(), "s").unwrap(),
        actor: "ann".into(),
        ids: ids.iter().map(|n| id(*n)).collect(),
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: sha256("request"),
        idempotency: None,
    }
}

fn state() -> ForgetState {
    let edge = |src, dst, n| ForgettableEdge {
        edge_type: EdgeType::DerivedFrom,
        src: id(src),
        dst: id(dst),
        digest: sha256([n]),
    };
    ForgetState {
        head: (4, sha256("head")),
        nodes: [(id(1), node(1, Lane::Shared, None)), (id(2), node(2, Lane::Private, Some("ann")))].into(),
        edges: [(EdgeId(Uuid::from_u128(9)), edge(1, 7, 9)), (EdgeId(Uuid::from_u128(8)), edge(7, 2, 8))].into(),
        feedback: BTreeMap::new(),
        versions: [(id(1), 2), (id(2), 1)].into(),
        ..ForgetState::default()
    }
}

const NOW: Timestamp = Timestamp(5);

#[test]
fn a_look_changes_nothing_and_its_token_erases_exactly_that() {
    let look = plan_forget(&asked(&[2, 1, 3], None), state(), NOW).unwrap();
    assert!(look.commit.is_none());
    assert_eq!((look.outcome.nodes.len(), look.outcome.edges, look.outcome.versions), (2, 2, 3));
    assert_eq!(look.outcome.missing, [id(3)]);
    let token = Digest::from_hex(&look.outcome.token).unwrap();
    let plan = plan_forget(&asked(&[1, 2, 3], Some(token)), state(), NOW).unwrap();
    let commit = plan.commit.unwrap();
    assert_eq!((commit.header.seq, commit.header.kind.as_str()), (5, "forget"));
    assert!(commit.changes.iter().all(|change| change.op == ChangeOp::Erase));
    assert_eq!(commit.changes.len(), 4);
}

#[test]
fn a_token_of_something_else_erases_nothing() {
    let look = plan_forget(&asked(&[1], None), state(), NOW).unwrap();
    let token = Digest::from_hex(&look.outcome.token).ok();
    let mut other = state();
    other.nodes.get_mut(&id(1)).unwrap().digest = sha256("new content");
    other.nodes.remove(&id(2));
    assert_eq!(plan_forget(&asked(&[1], token), other, NOW).unwrap_err().code, "forget_selection_changed");
}

#[test]
fn what_others_own_counts_as_not_stored() {
    let mut of_bob = asked(&[1, 2], None);
    of_bob.viewer = Some(Viewer { agent: Some("bob".into()), team: None });
    let look = plan_forget(&of_bob, state(), NOW).unwrap();
    assert_eq!((look.outcome.nodes, look.outcome.missing, look.outcome.edges), (vec![id(1)], vec![id(2)], 1));
    of_bob.ids = vec![id(2)];
    let mut only = state();
    only.nodes.remove(&id(1));
    assert_eq!(plan_forget(&of_bob, only, NOW).unwrap_err().code, "forget_no_resolved_nodes");
}

#[test]
fn too_much_at_once_is_refused() {
    let mut many = state();
    many.nodes = (0..=NODES_MAX as u128).map(|n| (id(n), node(1, Lane::Shared, None))).collect();
    let ids: Vec<u128> = (0..=NODES_MAX as u128).collect();
    assert_eq!(plan_forget(&asked(&ids, None), many, NOW).unwrap_err().code, "forget_too_large");
}

/// A topic that node 2 began, and a summary that quotes the topic.
fn with_derived() -> ForgetState {
    let mut state = state();
    let made = |n, owner, made| ForgettableNode { made: Some(made), ..node(n, Lane::Private, owner) };
    let edge = |edge_type, src, dst, n| ForgettableEdge { edge_type, src: id(src), dst: id(dst), digest: sha256([n]) };
    state.edges.insert(EdgeId(Uuid::from_u128(20)), edge(EdgeType::DerivedFrom, 20, 2, 20));
    let topics = state.to_look_at();
    assert_eq!(topics, [id(7), id(20)], "what has an edge to what goes is looked at");
    let found = [(id(7), node(7, Lane::Shared, None)), (id(20), made(20, Some("ann"), Made::TopicOf(id(2))))];
    assert_eq!(state.look_at(&topics, found.into()), [id(20)]);
    state.edges.insert(EdgeId(Uuid::from_u128(21)), edge(EdgeType::PartOf, 21, 20, 21));
    let summaries = state.to_look_at();
    assert_eq!(summaries, [id(21)]);
    let found = [(id(21), made(21, Some("bob"), Made::Summary))];
    assert_eq!(state.look_at(&summaries, found.into()), [id(21)]);
    assert!(state.to_look_at().is_empty());
    state
}

#[test]
fn what_was_made_of_a_node_goes_with_it_whoever_owns_it() {
    let mut asked = asked(&[2], None);
    asked.viewer = Some(Viewer { agent: Some("ann".into()), team: None });
    let mut state = with_derived();
    state.nodes.remove(&id(1));
    let look = plan_forget(&asked, state, NOW).unwrap();
    assert_eq!((look.outcome.nodes.clone(), look.outcome.derived), (vec![id(2)], 2));
    let going: Vec<NodeId> = look.nodes.iter().map(|(id, _)| *id).collect();
    assert_eq!(going, [id(2), id(20), id(21)]);
    assert_eq!(look.edges.len(), 3);
}

/// A merge moves the edges of an alias; what it says it goes on saying.
#[test]
fn what_was_made_of_a_node_is_found_by_an_edge_that_was_moved() {
    let mut state = ForgetState { nodes: [(id(2), node(2, Lane::Shared, None))].into(), ..ForgetState::default() };
    assert!(state.to_look_at().is_empty());
    state.former.insert((EdgeType::DerivedFrom, id(20), id(2)));
    state.former.insert((EdgeType::RelatedTo, id(22), id(2)));
    assert_eq!(state.to_look_at(), [id(20)]);
    let topic = ForgettableNode { made: Some(Made::TopicOf(id(2))), ..node(20, Lane::Shared, None) };
    assert_eq!(state.look_at(&[id(20)], [(id(20), topic)].into()), [id(20)]);
    let look = plan_forget(&asked(&[2], None), state, NOW).unwrap();
    assert_eq!((look.nodes.len(), look.outcome.derived, look.edges.len()), (2, 1, 0));
}

#[test]
fn what_was_made_of_a_node_that_may_not_be_changed_stays() {
    let mut asked = asked(&[1, 2], None);
    asked.viewer = Some(Viewer { agent: Some("bob".into()), team: None });
    let look = plan_forget(&asked, with_derived(), NOW).unwrap();
    assert_eq!((look.outcome.nodes, look.outcome.derived), (vec![id(1)], 0));
}

#[test]
fn attributes_say_what_a_node_was_made_of() {
    assert_eq!(made_of(&json!({ "generated_by": "job:compression_rollup" })), Some(Made::Summary));
    let seeded = json!({ "created_by": "job:topic_cluster", "seed_event_id": id(3) });
    assert_eq!(made_of(&seeded), Some(Made::TopicOf(id(3))));
    assert_eq!(made_of(&json!({ "created_by": "me", "seed_event_id": id(3) })), None);
}

fn audience(owner: Option<&str>) -> Audience {
    let lane = if owner.is_some() { Lane::Private } else { Lane::Shared };
    Audience { lane, owner_agent_id: owner.map(str::to_owned), owner_team_id: None }
}

/// Node 2 is for `owner` from now on; node 20 is a topic, 21 a summary of it.
fn narrowed_to(owner: &str, sources: Sources, seed: u128, topic: Option<&str>) -> Vec<NodeId> {
    let narrowing = Narrowing { asked: asked(&[2], None), audiences: [(id(2), audience(Some(owner)))].into() };
    let made = |n, made| {
        let of = audience(topic);
        ForgettableNode { made: Some(made), ..node(n, of.lane, topic) }
    };
    let mut state = ForgetState { sources, ..with_derived() };
    state.derived = [(id(20), made(20, Made::TopicOf(id(seed)))), (id(21), made(21, Made::Summary))].into();
    let plan = narrowing.plan(state, NOW);
    plan.map(|plan| {
        let commit = plan.commit.unwrap();
        assert_eq!(
            (commit.header.seq, commit.header.kind.as_str(), commit.header.actor.as_str()),
            (5, "forget", "ann")
        );
        assert_eq!(plan.outcome.derived, plan.nodes.len());
        plan.nodes.into_iter().map(|(id, _)| id).collect()
    })
    .unwrap_or_default()
}

#[test]
fn what_others_see_of_a_narrowed_node_goes_and_what_its_readers_see_stays() {
    assert_eq!(narrowed_to("ann", Sources::All, 2, None), [id(20), id(21)]);
    assert_eq!(narrowed_to("ann", Sources::All, 2, Some("bob")), [id(20), id(21)]);
    assert_eq!(narrowed_to("ann", Sources::All, 2, Some("ann")), []);
}

#[test]
fn a_topic_goes_with_a_narrowed_member_too() {
    assert_eq!(narrowed_to("ann", Sources::All, 7, None), [id(20), id(21)]);
    assert_eq!(narrowed_to("ann", Sources::Quoted, 7, None), []);
}

#[test]
fn a_topic_that_is_narrowed_with_its_event_goes_if_its_readers_are_others() {
    let audiences = [(id(2), audience(Some("ann"))), (id(20), audience(Some("bob")))];
    let narrowing = Narrowing { asked: asked(&[2, 20], None), audiences: audiences.into() };
    let mut state = ForgetState { sources: Sources::All, ..with_derived() };
    let mut topic = state.derived.remove(&id(20)).unwrap();
    topic.owner_agent_id = Some("bob".into());
    state.nodes.insert(id(20), topic);
    let going: Vec<NodeId> = narrowing.plan(state, NOW).unwrap().nodes.into_iter().map(|(id, _)| id).collect();
    assert_eq!(going, [id(20), id(21)], "and the summary with it");
}

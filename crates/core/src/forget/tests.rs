use super::*;
use crate::ids::TenantId;

fn node(n: u8, lane: Lane, owner: Option<&str>) -> ForgettableNode {
    ForgettableNode {
        digest: sha256([n]),
        was_rule: false,
        lane,
        owner_agent_id: owner.map(str::to_owned),
        owner_team_id: None,
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
    let edge = |src, dst, n| ForgettableEdge { src: id(src), dst: id(dst), digest: sha256([n]) };
    ForgetState {
        head: (4, sha256("head")),
        nodes: [(id(1), node(1, Lane::Shared, None)), (id(2), node(2, Lane::Private, Some("ann")))].into(),
        edges: [(EdgeId(Uuid::from_u128(9)), edge(1, 7, 9)), (EdgeId(Uuid::from_u128(8)), edge(7, 2, 8))].into(),
        feedback: BTreeMap::new(),
        versions: [(id(1), 2), (id(2), 1)].into(),
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

//! Forgetting: nodes and everything that holds their content are erased, in one commit that keeps their digests.
//!
//! What is named is looked at first, which changes nothing and gives a token; the token is made of exactly what would be
//! erased, and erasing requires it. Whatever changes in between makes the token worthless.
//!
//! What jobs made of a node quotes it and goes with it, whoever owns that: summaries, and topics that it began. They are made
//! again, without it, from what is left.

mod derived;
mod narrowed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

pub use self::{
    derived::{Made, Sources, made_of},
    narrowed::Narrowing,
};
use crate::{
    canon::{Digest, canonical_json, sha256},
    chain::{Change, ChangeOp, CommitHeader, ObjectKind, changes_sha256},
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::{EdgeId, NodeId, ScopeKey},
    jobs::{Audience, consolidation::EdgeKey},
    model::{EdgeType, Lane, Viewer},
    operate::CommitRef,
    write::{IdempotencyKey, NewCommit},
};

/// Most nodes forgotten at once.
pub const NODES_MAX: usize = 1_000;
/// Most edges that may go with them: their digests stand in the commit.
pub const EDGES_MAX: usize = 100_000;
/// Kind of the commit.
pub const COMMIT_KIND: &str = "forget";

/// Nodes to forget.
#[derive(Clone, Debug)]
pub struct PreparedForget {
    /// Scope.
    pub scope: ScopeKey,
    /// Who.
    pub actor: String,
    /// The nodes, distinct.
    pub ids: Vec<NodeId>,
    /// Keys named that no node has; told in the answer.
    pub missing_client_ids: Vec<String>,
    /// Whose eyes it is done with: nodes they may not change count as not stored. None may change everything.
    pub viewer: Option<Viewer>,
    /// The token of what was looked at before; without one nothing is erased.
    pub token: Option<Digest>,
    /// Digest of the whole request.
    pub request_digest: Digest,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
}

/// A stored node, as far as forgetting needs it.
#[derive(Clone, Debug)]
pub struct ForgettableNode {
    /// Content digest.
    pub digest: Digest,
    /// Whether it is a rule, or was one: feedback and policies of its time are left.
    pub was_rule: bool,
    /// Visibility.
    pub lane: Lane,
    /// Owner of a private node.
    pub owner_agent_id: Option<String>,
    /// Owning team of a private node.
    pub owner_team_id: Option<String>,
    /// What a job made it of, or once made it of.
    pub made: Option<Made>,
}

/// What is stored of a scope, as far as forgetting needs to know.
#[derive(Debug, Default)]
pub struct ForgetState {
    /// Number and hash of the newest commit.
    pub head: (u64, Digest),
    /// Stored nodes among those named.
    pub nodes: BTreeMap<NodeId, ForgettableNode>,
    /// Edges at those nodes: their ends and digests.
    pub edges: BTreeMap<EdgeId, ForgettableEdge>,
    /// Edges to those nodes that merges moved away from where they began.
    pub former: BTreeSet<EdgeKey>,
    /// Feedback on those nodes, of rules: the rule and the digest.
    pub feedback: BTreeMap<Uuid, (NodeId, Digest)>,
    /// Kept earlier versions of each node.
    pub versions: HashMap<NodeId, usize>,
    /// Nodes that were made of those named, or of one another.
    pub derived: BTreeMap<NodeId, ForgettableNode>,
    /// Nodes that were looked at and are not.
    pub others: HashSet<NodeId>,
    /// Which edges count.
    pub sources: Sources,
}

/// A stored edge, as far as forgetting needs it.
#[derive(Clone, Copy, Debug)]
pub struct ForgettableEdge {
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: NodeId,
    /// To.
    pub dst: NodeId,
    /// Content digest.
    pub digest: Digest,
}

/// What was, or would be, forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetOutcome {
    /// The commit; none when this was only a look.
    pub commit: Option<CommitRef>,
    /// The nodes, ordered.
    pub nodes: Vec<NodeId>,
    /// Ids named that no node has.
    pub missing: Vec<NodeId>,
    /// Keys named that no node has.
    pub missing_client_ids: Vec<String>,
    /// How many edges.
    pub edges: usize,
    /// How many earlier versions.
    pub versions: usize,
    /// How many rows of feedback.
    pub feedback: usize,
    /// The token that erases exactly this, in hex.
    pub token: String,
    /// How many nodes that jobs made of them go with them.
    #[serde(default)]
    pub derived: usize,
    /// Whether this answer repeats an earlier one.
    pub replayed: bool,
}

/// What is erased.
#[derive(Clone, Debug)]
pub struct ForgetPlan {
    /// The commit to append; none when this is only a look.
    pub commit: Option<NewCommit>,
    /// The nodes, with what is kept of each.
    pub nodes: Vec<(NodeId, ForgettableNode)>,
    /// The edges.
    pub edges: Vec<EdgeId>,
    /// Those among the nodes that are rules, or were.
    pub rules: Vec<NodeId>,
    /// The answer.
    pub outcome: ForgetOutcome,
}

/// The token of what would be erased: SHA-256 over `aionis.forget.v1`, a line feed and
/// `canonical_json([scope_key, [[node_id, digest], …]])`, nodes ordered by id.
pub fn token<'a>(scope: &ScopeKey, nodes: impl Iterator<Item = (&'a NodeId, &'a ForgettableNode)>) -> Digest {
    let rows: Vec<_> = nodes.map(|(id, node)| json!([id, node.digest])).collect();
    sha256(format!("aionis.forget.v1\n{}", canonical_json(&json!([scope.as_str(), rows]))))
}

/// Plans what is erased.
///
/// # Errors
/// Nothing to forget, too much at once, or a token of something else.
pub fn plan_forget(asked: &PreparedForget, mut state: ForgetState, now: Timestamp) -> Result<ForgetPlan, DomainError> {
    let may_change = |node: &ForgettableNode| {
        let owners = (node.owner_agent_id.as_deref(), node.owner_team_id.as_deref());
        asked.viewer.as_ref().is_none_or(|viewer| viewer.may_change(node.lane, owners))
    };
    let (nodes, hidden): (BTreeMap<_, _>, BTreeMap<_, _>) =
        std::mem::take(&mut state.nodes).into_iter().partition(|(_, node)| may_change(node));
    // What others own goes only with what it was made of.
    state.derived.extend(hidden);
    state.nodes = nodes;
    let ForgetState { head, mut nodes, mut edges, former, mut feedback, versions, derived, sources, .. } = state;
    let missing: Vec<NodeId> = asked.ids.iter().copied().filter(|id| !nodes.contains_key(id)).collect();
    if nodes.is_empty() {
        return Err(DomainError::new(
            ErrorKind::NotFound,
            "forget_no_resolved_nodes",
            "nothing that was named is stored in this scope; check the scope and the ids",
        ));
    }
    let named: Vec<NodeId> = nodes.keys().copied().collect();
    let links: Vec<EdgeKey> = derived::links(&edges, &former).collect();
    nodes.extend(derived::made_of_going(&named, &derived, (&links, sources), |_, _| true));
    let derived = nodes.len() - named.len();
    let going: HashSet<NodeId> = nodes.keys().copied().collect();
    edges.retain(|_, edge| going.contains(&edge.src) || going.contains(&edge.dst));
    feedback.retain(|_, (rule, _)| going.contains(rule));
    if named.len() > NODES_MAX || derived > NODES_MAX || edges.len() > EDGES_MAX {
        return Err(DomainError::new(
            ErrorKind::Invalid,
            "forget_too_large",
            format!("at most {NODES_MAX} nodes with {EDGES_MAX} edges are forgotten at once; name fewer"),
        )
        .with_details(json!({ "nodes": nodes.len(), "edges": edges.len() })));
    }
    let token = token(&asked.scope, nodes.iter());
    let mut outcome = outcome(asked, named, (&nodes, &edges, &feedback), &versions);
    outcome.missing = missing;
    let commit = match asked.token {
        None => None,
        Some(given) if given == token => Some(commit(asked, head, (&nodes, &edges, &feedback), now)),
        Some(_) => {
            return Err(DomainError::new(
                ErrorKind::Conflict,
                "forget_selection_changed",
                "what would be erased is not what confirmation_token was given for; look at it again without the token",
            )
            .with_details(json!({ "nodes": nodes.len() })));
        }
    };
    Ok(ForgetPlan::of(commit, nodes, edges, outcome))
}

fn outcome(
    asked: &PreparedForget,
    named: Vec<NodeId>,
    (nodes, edges, feedback): Going<'_>,
    versions: &HashMap<NodeId, usize>,
) -> ForgetOutcome {
    ForgetOutcome {
        commit: None,
        missing: Vec::new(),
        missing_client_ids: asked.missing_client_ids.clone(),
        edges: edges.len(),
        versions: nodes.keys().filter_map(|id| versions.get(id)).sum(),
        feedback: feedback.len(),
        token: token(&asked.scope, nodes.iter()).to_hex(),
        derived: nodes.len() - named.len(),
        nodes: named,
        replayed: false,
    }
}

impl ForgetPlan {
    fn of(
        commit: Option<NewCommit>,
        nodes: BTreeMap<NodeId, ForgettableNode>,
        edges: BTreeMap<EdgeId, ForgettableEdge>,
        mut outcome: ForgetOutcome,
    ) -> Self {
        outcome.commit = commit.as_ref().map(|c| CommitRef { id: c.id, seq: c.header.seq, hash: c.hash.to_hex() });
        let rules = nodes.iter().filter(|(_, node)| node.was_rule).map(|(id, _)| *id).collect();
        Self { commit, nodes: nodes.into_iter().collect(), edges: edges.into_keys().collect(), rules, outcome }
    }
}

impl ForgettableNode {
    fn audience(&self) -> Audience {
        Audience {
            lane: self.lane,
            owner_agent_id: self.owner_agent_id.clone(),
            owner_team_id: self.owner_team_id.clone(),
        }
    }
}

type Going<'a> = (
    &'a BTreeMap<NodeId, ForgettableNode>,
    &'a BTreeMap<EdgeId, ForgettableEdge>,
    &'a BTreeMap<Uuid, (NodeId, Digest)>,
);

fn commit(
    asked: &PreparedForget,
    head: (u64, Digest),
    (nodes, edges, feedback): Going<'_>,
    now: Timestamp,
) -> NewCommit {
    let erase = |kind, id, digest| Change { kind, op: ChangeOp::Erase, id, digest };
    let mut changes: Vec<Change> = nodes.iter().map(|(id, node)| erase(ObjectKind::Node, id.0, node.digest)).collect();
    changes.extend(edges.iter().map(|(id, edge)| erase(ObjectKind::Edge, id.0, edge.digest)));
    changes.extend(feedback.iter().map(|(id, (_, digest))| erase(ObjectKind::Feedback, *id, *digest)));
    let request = asked.request_digest;
    let header = CommitHeader {
        scope_key: asked.scope.as_str().to_owned(),
        seq: head.0 + 1,
        parent_hash: head.1,
        kind: COMMIT_KIND.to_owned(),
        actor: asked.actor.clone(),
        model_version: None,
        prompt_version: None,
        input_sha256: request.to_hex(),
        request_sha256: request,
        changes_sha256: changes_sha256(&changes),
        created_at: now,
    };
    let hash = header.hash();
    NewCommit { id: CommitHeader::id_of(&hash), header, changes, hash }
}

#[cfg(test)]
mod tests;

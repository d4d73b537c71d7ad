//! What jobs made of nodes that fewer may see from now on.
//!
//! A summary and the title of a topic repeat what a node says, and the vector of a topic is the mean of its members'. When a write lets
//! fewer see such a node, what was made of it and is seen by others too is erased in the same transaction, with its earlier contents:
//! hiding it would end when it is made again. The next runs make it anew of what is left.

use std::collections::{BTreeMap, HashSet};

use serde_json::json;

use super::{ForgetPlan, ForgetState, ForgettableNode, PreparedForget, Sources, commit, derived, outcome};
use crate::{
    canon::canonical_sha256,
    clock::Timestamp,
    ids::NodeId,
    jobs::{Audience, consolidation::EdgeKey},
    write::{PreparedPart, PreparedWrite, StoredNode},
};

/// Nodes that fewer may see after a part of a write.
#[derive(Debug)]
pub struct Narrowing {
    /// What is read for it, as if they were to be forgotten.
    pub asked: PreparedForget,
    /// Who may see each of them from now on.
    pub(super) audiences: BTreeMap<NodeId, Audience>,
}

impl Narrowing {
    /// Those of a part, given what was stored before; nothing if there are none.
    pub fn of<'s>(
        write: &PreparedWrite,
        part: &PreparedPart,
        stored: impl Fn(NodeId) -> Option<&'s StoredNode>,
    ) -> Option<Self> {
        let mut audiences = BTreeMap::new();
        for node in &part.nodes {
            let Some(before) = stored(node.id) else { continue };
            let is_same = before.lane == node.lane
                && before.owner_agent_id == node.owner_agent_id
                && before.owner_team_id == node.owner_team_id;
            let after = Audience {
                lane: node.lane,
                owner_agent_id: node.owner_agent_id.clone(),
                owner_team_id: node.owner_team_id.clone(),
            };
            if !is_same && !of_stored(before).is_within(&after) {
                audiences.insert(node.id, after);
            }
        }
        if audiences.is_empty() {
            return None;
        }
        let ids: Vec<NodeId> = audiences.keys().copied().collect();
        let asked = PreparedForget {
            scope: part.scope.clone(),
            actor: write.actor.clone(),
            // Not the write's own: a repetition of the write is not answered with this commit.
            request_digest: canonical_sha256(&json!(["aionis.narrowed.v1", write.request_digest, ids])),
            ids,
            missing_client_ids: Vec::new(),
            viewer: None,
            token: None,
            idempotency: None,
        };
        Some(Self { asked, audiences })
    }

    /// Where what is stored is read into.
    pub fn state() -> ForgetState {
        ForgetState { sources: Sources::All, ..ForgetState::default() }
    }

    /// Plans what is erased, in a commit that follows the write's; nothing if nobody sees more than they may. There is no limit: what
    /// may not be seen is not left standing because it is much.
    pub fn plan(&self, state: ForgetState, now: Timestamp) -> Option<ForgetPlan> {
        let ForgetState { head, nodes: narrowed, mut edges, former, mut feedback, versions, derived, sources, .. } =
            state;
        let named: Vec<NodeId> = self.audiences.keys().copied().collect();
        // A node that is narrowed itself may be made of another one that is.
        let candidates: BTreeMap<NodeId, ForgettableNode> = derived.into_iter().chain(narrowed).collect();
        let is_seen_by_others = |source: &NodeId, node: &ForgettableNode| {
            // What is made of something that goes repeats it, whoever sees it.
            self.audiences.get(source).is_none_or(|audience| !node.audience().is_within(audience))
        };
        let links: Vec<EdgeKey> = derived::links(&edges, &former).collect();
        let nodes = derived::made_of_going(&named, &candidates, (&links, sources), is_seen_by_others);
        if nodes.is_empty() {
            return None;
        }
        let going: HashSet<NodeId> = nodes.keys().copied().collect();
        edges.retain(|_, edge| going.contains(&edge.src) || going.contains(&edge.dst));
        feedback.retain(|_, (rule, _)| going.contains(rule));
        let all = (&nodes, &edges, &feedback);
        let commit = commit(&self.asked, head, all, now);
        let outcome = outcome(&self.asked, Vec::new(), all, &versions);
        Some(ForgetPlan::of(Some(commit), nodes, edges, outcome))
    }
}

fn of_stored(node: &StoredNode) -> Audience {
    Audience { lane: node.lane, owner_agent_id: node.owner_agent_id.clone(), owner_team_id: node.owner_team_id.clone() }
}

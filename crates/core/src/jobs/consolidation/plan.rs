//! Planning inside the transaction: what is needed of the store, and everything that is stored.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;

use super::{
    APPLY_KIND, Candidate, CandidateState, EdgeKey, MergeAction, MergeEdge, MergeNode, MergeOutcome, MergeRow,
    PreparedMerge, REDIRECT_KIND, RemovedEdge, UNDO_KIND, UndoWhich, apply, notes::Notes, redirect, undo,
};
use crate::{
    canon::{Digest, canonical_sha256},
    chain::{Change, ChangeOp, CommitHeader, ObjectKind, changes_sha256},
    clock::Timestamp,
    error::DomainError,
    ids::{EdgeId, NodeId},
    operate::CommitRef,
    write::{NewCommit, edge_digest},
};

/// What of the store planning needs to know, or knows already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Nodes by id.
    pub nodes: BTreeSet<NodeId>,
    /// All edges at these nodes.
    pub edges_at: BTreeSet<NodeId>,
    /// Edges by kind and ends.
    pub edge_keys: BTreeSet<EdgeKey>,
    /// Edges by id.
    pub edge_ids: BTreeSet<EdgeId>,
    /// Queued pairs that one of these nodes is in, however they stand.
    pub candidates_at: BTreeSet<NodeId>,
    /// Merges by id, with those they brought about.
    pub merges: BTreeSet<Uuid>,
    /// Merges by run.
    pub runs: BTreeSet<Uuid>,
    /// Merges in force whose duplicate is one of these nodes.
    pub merges_of: BTreeSet<NodeId>,
    /// Removed edges at these nodes that were not put back.
    pub removed_at: BTreeSet<NodeId>,
    /// Removed edges that became part of these and were not put back.
    pub removed_to: BTreeSet<EdgeId>,
}

impl Needs {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn without(&self, known: &Self) -> Self {
        fn less<T: Ord + Copy>(of: &BTreeSet<T>, known: &BTreeSet<T>) -> BTreeSet<T> {
            of.difference(known).copied().collect()
        }
        Self {
            nodes: less(&self.nodes, &known.nodes),
            edges_at: less(&self.edges_at, &known.edges_at),
            edge_keys: less(&self.edge_keys, &known.edge_keys),
            edge_ids: less(&self.edge_ids, &known.edge_ids),
            candidates_at: less(&self.candidates_at, &known.candidates_at),
            merges: less(&self.merges, &known.merges),
            runs: less(&self.runs, &known.runs),
            merges_of: less(&self.merges_of, &known.merges_of),
            removed_at: less(&self.removed_at, &known.removed_at),
            removed_to: less(&self.removed_to, &known.removed_to),
        }
    }

    fn add(&mut self, mut other: Self) {
        self.nodes.append(&mut other.nodes);
        self.edges_at.append(&mut other.edges_at);
        self.edge_keys.append(&mut other.edge_keys);
        self.edge_ids.append(&mut other.edge_ids);
        self.candidates_at.append(&mut other.candidates_at);
        self.merges.append(&mut other.merges);
        self.runs.append(&mut other.runs);
        self.merges_of.append(&mut other.merges_of);
        self.removed_at.append(&mut other.removed_at);
        self.removed_to.append(&mut other.removed_to);
    }
}

/// What is stored, as far as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct MergeState {
    /// Number and hash of the newest commit.
    pub head: (u64, Digest),
    /// Nodes.
    pub nodes: BTreeMap<NodeId, MergeNode>,
    /// Edges.
    pub edges: BTreeMap<EdgeId, MergeEdge>,
    /// Queued pairs by key.
    pub candidates: BTreeMap<String, Candidate>,
    /// Merges.
    pub merges: BTreeMap<Uuid, MergeRow>,
    /// Removed edges by id and the commit that removed them.
    pub removed: BTreeMap<(EdgeId, u64), RemovedEdge>,
    known: Needs,
}

impl MergeState {
    /// What was needed has been read.
    pub fn loaded(&mut self, needs: Needs) {
        self.known.add(needs);
    }

    /// What of `wanted` has not been read yet.
    pub(super) fn lacks(&self, wanted: &Needs) -> Option<Needs> {
        let lacking = wanted.without(&self.known);
        (!lacking.is_empty()).then_some(lacking)
    }

    /// What a node is an alias of in the end: itself if it is none. A canonical node that is not stored stands for nobody.
    /// None while nodes on the way have to be read; they are added to `wanted`.
    pub(super) fn root(&self, id: NodeId, wanted: &mut Needs) -> Option<NodeId> {
        let (mut at, mut seen) = (id, BTreeSet::from([id]));
        wanted.nodes.insert(at);
        while let Some(to) = self.nodes.get(&at).and_then(MergeNode::alias_of) {
            wanted.nodes.insert(to);
            if !self.known.nodes.contains(&to) {
                return None;
            }
            if !self.nodes.contains_key(&to) || !seen.insert(to) {
                break;
            }
            at = to;
        }
        self.known.nodes.contains(&id).then_some(at)
    }
}

/// What planning came to.
#[derive(Debug)]
pub enum Planned {
    /// This has to be read first.
    Needs(Box<Needs>),
    /// The plan.
    Done(Box<MergePlan>),
}

/// Everything a change of consolidation stores.
#[derive(Debug)]
pub struct MergePlan {
    /// The commit to append; none when nothing changes or this is only a plan.
    pub commit: Option<NewCommit>,
    /// Nodes with the notes they have afterwards.
    pub notes: Vec<(NodeId, Notes)>,
    /// Edges to remove; before the others are put.
    pub removed: Vec<EdgeId>,
    /// Edges to make or to give these values.
    pub put: Vec<MergeEdge>,
    /// How the number of edges changes.
    pub edges_delta: i64,
    /// Merges to keep.
    pub merges: Vec<MergeRow>,
    /// Merges that are taken back.
    pub undone: Vec<Uuid>,
    /// Removed edges to keep.
    pub kept: Vec<RemovedEdge>,
    /// Removed edges that are put back or given up, by id and the commit that removed them.
    pub restored: Vec<(EdgeId, u64)>,
    /// Queued pairs and how they stand afterwards. Stored even without a commit.
    pub candidates: Vec<(String, CandidateState)>,
    /// The answer.
    pub outcome: MergeOutcome,
}

/// Plans a change of consolidation.
///
/// # Errors
/// A merge that is not there, or that cannot be taken back.
pub fn plan_merge(asked: &PreparedMerge, state: &MergeState, now: Timestamp) -> Result<Planned, DomainError> {
    let mut draft = Draft::new(asked, state, now);
    let needs = match &asked.action {
        MergeAction::Apply { pairs, types, allow_contradictory, decay } => {
            apply::plan(&mut draft, pairs, (types, *allow_contradictory), decay)
        }
        MergeAction::Redirect { aliases } => redirect::plan(&mut draft, aliases)?,
        MergeAction::Undo { which, force } => undo::plan(&mut draft, which, *force)?,
    };
    Ok(match needs {
        Some(needs) => Planned::Needs(Box::new(needs)),
        None => Planned::Done(Box::new(draft.finish())),
    })
}

/// What a plan changes, and how the commit says it.
struct Changed {
    changes: Vec<Change>,
    notes: Vec<(NodeId, Notes)>,
    removed: Vec<EdgeId>,
    put: Vec<MergeEdge>,
}

/// A plan in the making: notes and edges as they will be.
pub(super) struct Draft<'a> {
    pub(super) asked: &'a PreparedMerge,
    pub(super) state: &'a MergeState,
    pub(super) now: Timestamp,
    pub(super) notes: BTreeMap<NodeId, Notes>,
    pub(super) edges: BTreeMap<EdgeId, MergeEdge>,
    pub(super) merges: Vec<MergeRow>,
    pub(super) undone: Vec<Uuid>,
    pub(super) kept: Vec<RemovedEdge>,
    pub(super) restored: Vec<(EdgeId, u64)>,
    pub(super) candidates: BTreeMap<String, CandidateState>,
    pub(super) outcome: MergeOutcome,
}

impl<'a> Draft<'a> {
    fn new(asked: &'a PreparedMerge, state: &'a MergeState, now: Timestamp) -> Self {
        Self {
            asked,
            state,
            now,
            notes: BTreeMap::new(),
            edges: state.edges.clone(),
            merges: Vec::new(),
            undone: Vec::new(),
            kept: Vec::new(),
            restored: Vec::new(),
            candidates: BTreeMap::new(),
            outcome: MergeOutcome::default(),
        }
    }

    /// Number of the commit this becomes.
    pub(super) const fn seq(&self) -> u64 {
        self.state.head.0 + 1
    }

    /// Notes of a node as they are by now.
    pub(super) fn notes_of(&self, id: NodeId) -> Notes {
        let stored = || self.state.nodes.get(&id).and_then(|node| node.activity.clone());
        self.notes.get(&id).cloned().unwrap_or_else(stored)
    }

    /// What differs from what is stored.
    fn changes(&self) -> Changed {
        let (mut changes, mut notes, mut removed, mut put) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, after) in &self.notes {
            let Some(node) = self.state.nodes.get(id).filter(|node| node.activity != *after) else { continue };
            changes.push(Change { kind: ObjectKind::Node, op: ChangeOp::Touch, id: id.0, digest: node.digest });
            notes.push((*id, after.clone()));
        }
        for (id, edge) in &self.state.edges {
            if !self.edges.contains_key(id) {
                let digest = digest(edge);
                changes.push(Change { kind: ObjectKind::Edge, op: ChangeOp::Erase, id: id.0, digest });
                removed.push(*id);
            }
        }
        for (id, edge) in &self.edges {
            let before = self.state.edges.get(id);
            if before.is_some_and(|before| before.strength == edge.strength && before.key() == edge.key()) {
                continue;
            }
            let op = match before {
                None => ChangeOp::Create,
                Some(before) if digest(before) == digest(edge) => ChangeOp::Touch,
                Some(_) => ChangeOp::Update,
            };
            changes.push(Change { kind: ObjectKind::Edge, op, id: id.0, digest: digest(edge) });
            put.push(MergeEdge { commit_seq: self.seq(), ..edge.clone() });
        }
        Changed { changes, notes, removed, put }
    }

    fn finish(mut self) -> MergePlan {
        let Changed { changes, notes, removed, put } = self.changes();
        let made = put.iter().filter(|edge| !self.state.edges.contains_key(&edge.id)).count();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let edges_delta = count(made) - count(removed.len());
        self.outcome.deleted_edges = removed.len() as u64;
        let commit = (!changes.is_empty() && !self.asked.dry_run).then(|| self.commit(changes));
        self.outcome.commit = commit.as_ref().map(|c| CommitRef { id: c.id, seq: c.header.seq, hash: c.hash.to_hex() });
        MergePlan {
            commit,
            notes,
            removed,
            put,
            edges_delta,
            merges: self.merges,
            undone: self.undone,
            kept: self.kept,
            restored: self.restored,
            candidates: self.candidates.into_iter().collect(),
            outcome: self.outcome,
        }
    }

    fn commit(&self, changes: Vec<Change>) -> NewCommit {
        let (kind, asked) = match &self.asked.action {
            MergeAction::Apply { pairs, .. } => (APPLY_KIND, json!(pairs)),
            MergeAction::Redirect { aliases } => (REDIRECT_KIND, json!(aliases)),
            MergeAction::Undo { which: UndoWhich::Merge(id), force } => (UNDO_KIND, json!(["merge", id, force])),
            MergeAction::Undo { which: UndoWhich::Run(id), force } => (UNDO_KIND, json!(["run", id, force])),
        };
        let request = canonical_sha256(&json!({ "v": 1, "kind": kind, "run": self.asked.run, "asked": asked }));
        let header = CommitHeader {
            scope_key: self.asked.scope.as_str().to_owned(),
            seq: self.seq(),
            parent_hash: self.state.head.1,
            kind: kind.to_owned(),
            actor: self.asked.actor.clone(),
            model_version: None,
            prompt_version: None,
            input_sha256: request.to_hex(),
            request_sha256: request,
            changes_sha256: changes_sha256(&changes),
            created_at: self.now,
        };
        let hash = header.hash();
        NewCommit { id: CommitHeader::id_of(&hash), header, changes, hash }
    }
}

fn digest(edge: &MergeEdge) -> Digest {
    let strength = edge.strength;
    let values = (strength.weight, strength.confidence, strength.decay_rate);
    edge_digest(edge.id, edge.edge_type, (edge.src, edge.dst), values)
}

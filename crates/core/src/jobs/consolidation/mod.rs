//! Consolidation: nodes that say the same become one.
//!
//! Pairs that look alike are scored and queued ([`score`](score_pair)); a merge makes one of a group the canonical node and
//! notes on the others that they are its aliases; the edges of aliases are moved to the canonical node; and all of it can be
//! undone. A merge changes no content: what it notes lies beside the slots of the nodes.
//!
//! [`plan_merge`] is planned inside the transaction that applies it. It says what of the store it still [`Needs`]; the
//! storage engine reads that and asks again, so that every engine decides alike.

mod apply;
mod edges;
mod notes;
mod plan;
mod redirect;
mod score;
#[cfg(test)]
mod tests;
mod undo;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::{
    notes::without_merge_notes,
    plan::{MergePlan, MergeState, Needs, Planned, plan_merge},
    score::{Conflict, ConflictKind, PairScore, Side, Thresholds, pair_key, parse_pair_key, score_pair, tokens},
};
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{EdgeId, NodeId, ScopeKey},
    jobs::rollup::GENERATED_BY,
    lifecycle::{DecayBasis, DecayPolicy, is_pinned},
    model::{EdgeType, Lane, NodeType, Tier, text_enum},
    operate::CommitRef,
};

/// Kind of the commit of a merge.
pub const APPLY_KIND: &str = "consolidation_apply";
/// Kind of the commit that moves edges.
pub const REDIRECT_KIND: &str = "consolidation_redirect_edges";
/// Kind of the commit that takes merges back.
pub const UNDO_KIND: &str = "consolidation_undo";

/// Kinds of nodes that can be merged.
pub const TYPES: [NodeType; 5] =
    [NodeType::Topic, NodeType::Concept, NodeType::Entity, NodeType::Procedure, NodeType::SelfModel];

/// Most pairs that a run merges in one scope.
pub const PAIRS_MAX: u16 = 500;

text_enum!(
    /// How a queued pair stands.
    CandidateState {
        /// To be merged.
        Open = "open",
        /// The two may contradict each other: somebody has to decide.
        Review = "review",
        /// Merged.
        Applied = "applied",
        /// Somebody decided that they are not the same.
        Rejected = "rejected",
        /// Merged and taken apart again.
        Undone = "undone",
        /// One of them can no longer be merged: it is merged with another node, protected or out of recall.
        Gone = "gone",
    }
);

/// A pair of nodes that look alike, as it is queued.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// `<smaller id>|<larger id>|<type>`.
    pub pair_key: String,
    /// The smaller id.
    pub low: NodeId,
    /// The larger id.
    pub high: NodeId,
    /// Kind of both.
    pub node_type: NodeType,
    /// Content digests of both as they were measured: what was changed since is measured again before it is merged.
    pub digests: (Digest, Digest),
    /// What was measured.
    pub score: PairScore,
    /// How it stands.
    pub state: CandidateState,
}

/// What is asked of the queue.
#[derive(Clone, Debug)]
pub struct CandidateQuery {
    /// In one of these states.
    pub states: Vec<CandidateState>,
    /// Only after this score and pair, in the order of the queue.
    pub after: Option<(f64, String)>,
    /// Most pairs, the best first (score, then pair key).
    pub limit: usize,
}

/// What storing candidates did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Pairs that were not known.
    pub new: u64,
    /// Pairs that were waiting already; what was measured is brought up to date.
    pub waiting: u64,
    /// Pairs that were decided before; they stay so.
    pub decided: u64,
}

/// A node as far as consolidation needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeNode {
    /// Id.
    pub id: NodeId,
    /// Kind.
    pub node_type: NodeType,
    /// Content digest.
    pub digest: Digest,
    /// Title.
    pub title: Option<String>,
    /// Summary.
    pub text_summary: Option<String>,
    /// Slots of its content.
    pub slots: Value,
    /// Notes beside its slots.
    pub activity: Option<Value>,
    /// Lane.
    pub lane: Lane,
    /// Owner.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
    /// Tier.
    pub tier: Tier,
    /// 0…1, as stored.
    pub salience: f64,
    /// What the fading of its salience depends on.
    pub decay: DecayBasis,
    /// When it was first written.
    pub created_at: Timestamp,
    /// Model of the vector of its present content, when it has one.
    pub vector_model: Option<String>,
}

/// What a node is an alias of by its notes, when a merge has made it one.
pub fn alias_of(id: NodeId, notes: Option<&Value>) -> Option<NodeId> {
    let noted = notes?.get("alias_of")?.as_str()?;
    Uuid::parse_str(noted).ok().map(NodeId).filter(|to| *to != id)
}

impl MergeNode {
    /// A note or slot; notes win.
    fn noted(&self, key: &str) -> Option<&Value> {
        let note = self.activity.as_ref().and_then(|notes| notes.get(key));
        note.or_else(|| self.slots.get(key)).filter(|value| !value.is_null())
    }

    /// The node this one is an alias of, when a merge has made it one.
    pub fn alias_of(&self) -> Option<NodeId> {
        alias_of(self.id, self.activity.as_ref())
    }

    /// Whether it is pinned or on legal hold.
    pub fn is_protected(&self) -> bool {
        is_pinned(&self.slots, self.activity.as_ref())
    }

    /// Why it takes no part in consolidation, if it does not.
    pub fn excluded(&self, types: &[NodeType]) -> Option<&'static str> {
        let is_alias =
            self.alias_of().is_some() || ["alias_of", "superseded_by"].iter().any(|k| self.noted(k).is_some());
        let says = |key: &str| self.noted(key).and_then(Value::as_str);
        if !types.contains(&self.node_type) {
            Some("type")
        } else if is_alias {
            Some("alias")
        } else if self.is_protected() {
            Some("protected")
        } else if self.lane == Lane::Private && self.owner_agent_id.is_none() && self.owner_team_id.is_none() {
            Some("private_without_owner")
        } else if self.node_type == NodeType::Topic && says("topic_state").is_some_and(|state| state != "active") {
            Some("draft")
        } else if says("generated_by") == Some(GENERATED_BY) {
            // Each topic has its own; it is made anew when they become one.
            Some("summary")
        } else if !self.tier.is_recallable() {
            Some("tier")
        } else if self.vector_model.is_none() {
            Some("without_vector")
        } else {
            None
        }
    }

    /// Whether two nodes are seen by the same eyes, are of one kind and have vectors that compare. Merging them then shows
    /// nobody anything new.
    pub fn matches(&self, other: &Self) -> bool {
        let of = |node: &Self| {
            let owners = (node.owner_agent_id.clone(), node.owner_team_id.clone());
            (node.node_type, node.lane, owners, node.vector_model.clone())
        };
        self.id != other.id && of(self) == of(other)
    }

    /// The text pairs are compared by.
    pub fn text(&self) -> String {
        let parts: Vec<&str> = [&self.title, &self.text_summary].into_iter().flatten().map(String::as_str).collect();
        parts.join(" ")
    }

    /// Order of those that may be canonical: higher salience now, older, smaller id; the first is the canonical one.
    fn before(&self, other: &Self, policy: &DecayPolicy, now: Timestamp) -> std::cmp::Ordering {
        let salience = |node: &Self| policy.salience(node.salience, &node.decay, now);
        salience(other)
            .total_cmp(&salience(self))
            .then(self.created_at.cmp(&other.created_at))
            .then(self.id.cmp(&other.id))
    }
}

/// What makes an edge unique in its scope.
pub type EdgeKey = (EdgeType, NodeId, NodeId);

/// An edge with all its columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeEdge {
    /// Id.
    pub id: EdgeId,
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: NodeId,
    /// To.
    pub dst: NodeId,
    /// Strength.
    pub strength: Strength,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its last commit.
    pub commit_seq: u64,
}

impl MergeEdge {
    /// What makes it unique.
    pub const fn key(&self) -> EdgeKey {
        (self.edge_type, self.src, self.dst)
    }
}

/// The values of an edge that moving it may change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// 0…1.
    pub decay_rate: f64,
    /// When it was last activated.
    pub last_activated: Option<Timestamp>,
}

impl Strength {
    /// Of two edges that become one: the larger weight and confidence, the smaller decay, the later activation.
    pub fn with(self, other: Self) -> Self {
        Self {
            weight: self.weight.max(other.weight),
            confidence: self.confidence.max(other.confidence),
            decay_rate: self.decay_rate.min(other.decay_rate),
            last_activated: self.last_activated.max(other.last_activated),
        }
    }
}

text_enum!(
    /// Why an edge was removed.
    RemovalRole {
        /// It became part of an edge at the canonical node.
        Redirected = "redirected",
        /// Both its ends became the same node.
        SelfLoop = "self_loop",
        /// An undo removed it: what it was made of is there again.
        Undone = "undone",
    }
);

/// An edge that a job removed, kept so that it can be put back.
#[derive(Clone, Debug, PartialEq)]
pub struct RemovedEdge {
    /// The edge as it was.
    pub edge: MergeEdge,
    /// The commit that removed it.
    pub removed_seq: u64,
    /// Why.
    pub role: RemovalRole,
    /// The edge it became part of.
    pub target: Option<EdgeId>,
    /// What that edge was before anything became part of it; none if it was made for this.
    pub base: Option<Strength>,
    /// The commit that put it back.
    pub restored_seq: Option<u64>,
}

/// A node that was made the alias of another.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeRow {
    /// Id.
    pub id: Uuid,
    /// Run it was made in.
    pub run: Uuid,
    /// Its place among those of its commit.
    pub ordinal: u32,
    /// The merge that brought this one about: an alias of what was merged follows to the new canonical node.
    pub cause: Option<Uuid>,
    /// The node that stays.
    pub canonical: NodeId,
    /// The node that became its alias.
    pub duplicate: NodeId,
    /// The best pair behind it.
    pub pair_key: Option<String>,
    /// That pair's score.
    pub score: Option<f64>,
    /// Notes of the duplicate before.
    pub prior_duplicate: Option<Value>,
    /// Notes of the canonical node before.
    pub prior_canonical: Option<Value>,
    /// The commit.
    pub applied_seq: u64,
    /// When.
    pub applied_at: Timestamp,
    /// The commit that took it back.
    pub undone_seq: Option<u64>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum MergeAction {
    /// Merges pairs. Pairs that can no longer be merged are noted as gone.
    Apply {
        /// Keys of queued pairs.
        pairs: Vec<String>,
        /// Kinds of nodes that may be merged.
        types: Vec<NodeType>,
        /// Whether pairs under review are merged too.
        allow_contradictory: bool,
        /// How salience fades: of a group, the node that is salient now stays.
        decay: DecayPolicy,
    },
    /// Moves the edges of aliases to what they are aliases of.
    Redirect {
        /// The aliases.
        aliases: Vec<NodeId>,
    },
    /// Takes merges back.
    Undo {
        /// Which.
        which: UndoWhich,
        /// Whether what was changed since is overwritten.
        force: bool,
    },
}

/// Which merges are taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum UndoWhich {
    /// One.
    Merge(Uuid),
    /// All of a run of the job that merged.
    Run(Uuid),
}

/// A change of consolidation, ready to be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedMerge {
    /// Scope.
    pub scope: ScopeKey,
    /// Who.
    pub actor: String,
    /// Run of the job.
    pub run: Uuid,
    /// What.
    pub action: MergeAction,
    /// Whether it is only planned.
    pub dry_run: bool,
}

/// A merge as reports show it: ids, no texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeShown {
    /// Id of the merge; what undo takes.
    pub merge_id: Uuid,
    /// The node that stays.
    pub canonical_id: NodeId,
    /// Its alias.
    pub duplicate_id: NodeId,
    /// The best pair behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair_key: Option<String>,
    /// That pair's score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The merge that brought it about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause_id: Option<Uuid>,
}

/// A pair that was not merged, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SkippedPair {
    /// The pair.
    pub pair_key: String,
    /// Why.
    pub reason: &'static str,
}

/// Something an undo found changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UndoConflict {
    /// `node` or `edge`.
    pub object: &'static str,
    /// Its id.
    pub id: Uuid,
    /// What it is about.
    pub reason: &'static str,
    /// Whether it was overwritten.
    pub overwritten: bool,
}

/// What was, or would be, done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeOutcome {
    /// The commit; none when nothing changed or this was only a plan.
    pub commit: Option<CommitRef>,
    /// Merges made, or taken back.
    pub merges: Vec<MergeShown>,
    /// Pairs left out.
    pub skipped: Vec<SkippedPair>,
    /// Edges at the aliases.
    pub touched_edges: u64,
    /// Of these, edges that were moved.
    pub redirected_edges: u64,
    /// Of these, edges that became part of one that is there.
    pub merged_into_existing: u64,
    /// Of these, edges whose ends became one node.
    pub dropped_self_loops: u64,
    /// Edges removed from storage.
    pub deleted_edges: u64,
    /// Edges put back.
    pub restored_edges: u64,
    /// What was changed since.
    pub conflicts: Vec<UndoConflict>,
}

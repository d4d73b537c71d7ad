//! What a prepared write does to what is stored: the outcome of every item, and the commit.

use std::collections::HashMap;

use serde_json::json;

use super::prepare::{PreparedEdge, PreparedNode, PreparedPart, PreparedWrite};
use crate::{
    canon::Digest,
    chain::{Change, ChangeOp, CommitHeader, ObjectKind, changes_sha256},
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::{CommitId, EdgeId, NodeId},
    model::{EdgeType, EmbeddingStatus, Lane, RuleState, Tier},
};

/// What is stored of a scope, as far as one part of a write needs to know.
#[derive(Debug, Default)]
pub struct PartState {
    /// Sequence number and hash of the newest commit; zero and the zero digest for an empty scope.
    pub head: (u64, Digest),
    /// Stored nodes among the part's nodes and edge ends.
    pub nodes: HashMap<NodeId, StoredNode>,
    /// Stored edges among the part's (type, src, dst).
    pub edges: HashMap<(EdgeType, NodeId, NodeId), StoredEdge>,
    /// Stored edges among the part's explicit edge ids: where each lies.
    pub edge_ids: HashMap<EdgeId, (EdgeType, NodeId, NodeId)>,
    /// The newest commit with the same request digest.
    pub same_request: Option<Replay>,
    /// Whether `parent_commit_id` exists in the scope, and whether it is the head.
    pub parent: Option<ParentState>,
}

/// What is known of the commit a caller named as parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentState {
    /// No such commit in the scope.
    Missing,
    /// It is the newest commit.
    Head,
    /// Newer commits exist.
    Older,
}

/// A commit that already did what is asked.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Its number.
    pub seq: u64,
    /// Its id.
    pub id: CommitId,
    /// Its hash.
    pub hash: Digest,
}

/// A node as stored, as far as planning needs it.
#[derive(Clone, Debug)]
pub struct StoredNode {
    /// Content digest.
    pub digest: Digest,
    /// Version number, from 1.
    pub version: u32,
    /// Tier.
    pub tier: Tier,
    /// Salience.
    pub salience: f64,
    /// Importance.
    pub importance: f64,
    /// Confidence.
    pub confidence: f64,
    /// Whether a vector is stored, is to come, or will not come.
    pub embedding_status: EmbeddingStatus,
    /// The stored vector, loaded only when the request brings one.
    pub embedding: Option<Vec<f32>>,
    /// State of its rule, for rules.
    pub rule_state: Option<RuleState>,
    /// Visibility.
    pub lane: Lane,
    /// Owner of a private node.
    pub owner_agent_id: Option<String>,
    /// Owning team of a private node.
    pub owner_team_id: Option<String>,
}

/// An edge as stored.
#[derive(Clone, Debug)]
pub struct StoredEdge {
    /// Id.
    pub id: EdgeId,
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// 0…1 per day.
    pub decay_rate: f64,
}

/// What happens to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOp {
    /// Stored for the first time.
    Create,
    /// New content: the old version is kept, this one gets `version`.
    Update {
        /// Number of the new version.
        version: u32,
    },
    /// Same content, other vitals or another vector.
    Touch,
    /// Nothing.
    Keep,
}

/// What happens to one edge.
#[derive(Clone, Debug)]
pub enum EdgeOp {
    /// Stored for the first time.
    Create,
    /// The stored edge gets these merged values.
    Update(PreparedEdge),
    /// Nothing; the stored id is given.
    Keep(EdgeId),
}

/// The commit to append.
#[derive(Clone, Debug)]
pub struct NewCommit {
    /// The bound fields.
    pub header: CommitHeader,
    /// What it changes.
    pub changes: Vec<Change>,
    /// Its hash.
    pub hash: Digest,
    /// Its id.
    pub id: CommitId,
}

/// Everything one part of a write does.
#[derive(Debug)]
pub struct PartPlan {
    /// The commit to append, or none when an equal request was already committed and nothing changed since.
    pub commit: Option<NewCommit>,
    /// The commit to report: the new one, or the earlier one.
    pub reported: Replay,
    /// Per node of the part.
    pub nodes: Vec<NodeOp>,
    /// Per edge of the part.
    pub edges: Vec<EdgeOp>,
    /// Nodes whose vector is to be derived.
    pub embed: Vec<NodeId>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
}

/// Something a caller should know that is not an error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Warning {
    /// Stable machine-readable code.
    pub code: String,
    /// What it means and what can be done.
    pub message: String,
}

impl Warning {
    /// A warning.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// What a write did, in request order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WriteOutcome {
    /// Commit of the request's scope.
    pub commit_id: CommitId,
    /// Its number.
    pub commit_seq: u64,
    /// Its hash.
    pub commit_hash: String,
    /// Per node: id and status `created`, `updated` or `unchanged`.
    pub nodes: Vec<(NodeId, String)>,
    /// Per edge: id and status.
    pub edges: Vec<(EdgeId, String)>,
    /// How many nodes wait for their vector because of this write.
    pub pending_nodes: usize,
    /// Whether this answer repeats an earlier one.
    pub replayed: bool,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
}

impl NodeOp {
    /// The status reported to the caller.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Update { .. } | Self::Touch => "updated",
            Self::Keep => "unchanged",
        }
    }
}

impl EdgeOp {
    /// The status reported to the caller.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Update(_) => "updated",
            Self::Keep(_) => "unchanged",
        }
    }

    /// Id the edge has in storage after the operation.
    pub const fn id(&self, asked: EdgeId) -> EdgeId {
        match self {
            Self::Create => asked,
            Self::Update(merged) => merged.id,
            Self::Keep(id) => *id,
        }
    }
}

/// Plans one part of a write. Parts of one write are all planned before any is applied.
///
/// # Errors
/// A caller's mistake that only storage can show: unknown edge end, unknown parent, edge id in use elsewhere.
pub fn plan_part(
    write: &PreparedWrite,
    part: &PreparedPart,
    state: &PartState,
    now: Timestamp,
) -> Result<PartPlan, DomainError> {
    let mut warnings = Vec::new();
    check_parent(write, state, &mut warnings)?;
    let mut changes = Vec::new();
    let mut embed = Vec::new();
    let mut nodes = Vec::with_capacity(part.nodes.len());
    for node in &part.nodes {
        let stored = state.nodes.get(&node.id);
        check_writer(write, node, stored)?;
        check_stands(write, node, stored)?;
        let op = plan_node(node, stored);
        if let Some(change) = node_change(node, op) {
            changes.push(change);
        }
        if needs_vector(node, stored, op, write.force_reembed) {
            embed.push(node.id);
        }
        if matches!(op, NodeOp::Update { .. }) && stored.is_some_and(|s| s.rule_state.is_some_and(RuleState::is_live)) {
            warnings.push(Warning::new(
                "rule_returned_to_draft",
                format!("rule {} was live and has new content: it is a draft again until it is promoted", node.id),
            ));
        }
        nodes.push(op);
    }
    let mut edges = Vec::with_capacity(part.edges.len());
    for edge in &part.edges {
        check_ends(edge, state)?;
        let op = plan_edge(edge, state)?;
        if let Some(change) = edge_change(edge, &op) {
            changes.push(change);
        }
        edges.push(op);
    }
    warn_invisible(part, &mut warnings);
    let (commit, reported) = match &state.same_request {
        Some(earlier) if changes.is_empty() => (None, earlier.clone()),
        _ => {
            let commit = new_commit(write, part, state, changes, now);
            let reported = Replay { seq: commit.header.seq, id: commit.id, hash: commit.hash };
            (Some(commit), reported)
        }
    };
    Ok(PartPlan { commit, reported, nodes, edges, embed, warnings })
}

fn check_parent(write: &PreparedWrite, state: &PartState, warnings: &mut Vec<Warning>) -> Result<(), DomainError> {
    match state.parent {
        Some(ParentState::Missing) => Err(DomainError::field(
            "parent_commit_id",
            "names no commit of this scope; leave it out, the chain is linear by itself",
        )
        .with_details(json!({ "parent_commit_id": write.parent_commit_id }))),
        Some(ParentState::Older) => {
            warnings.push(Warning::new(
                "parent_not_head",
                "parent_commit_id is not the newest commit; the chain is linear, so this commit follows the newest one",
            ));
            Ok(())
        }
        Some(ParentState::Head) | None => Ok(()),
    }
}

/// A private node is written to by those who see it. To others it looks like an id that is taken.
fn check_writer(write: &PreparedWrite, node: &PreparedNode, stored: Option<&StoredNode>) -> Result<(), DomainError> {
    let (Some(writer), Some(stored)) = (&write.writer, stored) else { return Ok(()) };
    if writer.may_change(stored.lane, (stored.owner_agent_id.as_deref(), stored.owner_team_id.as_deref())) {
        return Ok(());
    }
    Err(DomainError::new(
        ErrorKind::Forbidden,
        "node_belongs_to_another",
        format!("nodes.{} has the id or client_id of a private node of another owner; choose another", node.position),
    )
    .with_details(json!({ "path": format!("nodes.{}", node.position) })))
}

/// What a job read must still be what is stored: it writes whole nodes, and must not take a caller's change back.
fn check_stands(write: &PreparedWrite, node: &PreparedNode, stored: Option<&StoredNode>) -> Result<(), DomainError> {
    let Some(job) = &write.job else { return Ok(()) };
    let read = job.stands.iter().find(|(id, _)| *id == node.id).map(|(_, digest)| *digest);
    if read.is_none() || read == stored.map(|stored| stored.digest) {
        return Ok(());
    }
    let message =
        format!("node {} got new content, or was erased, after the job had read it; run the job again", node.id);
    Err(DomainError::new(ErrorKind::Conflict, "node_changed", message).with_details(json!({ "node_id": node.id })))
}

fn plan_node(node: &PreparedNode, stored: Option<&StoredNode>) -> NodeOp {
    let Some(stored) = stored else { return NodeOp::Create };
    if stored.digest != node.digest {
        return NodeOp::Update { version: stored.version + 1 };
    }
    let differs = |asked: Option<f64>, held: f64| asked.is_some_and(|asked| (asked - held).abs() > f64::EPSILON);
    let other_vitals = node.tier.is_some_and(|tier| tier != stored.tier)
        || differs(node.salience, stored.salience)
        || differs(node.importance, stored.importance)
        || differs(node.confidence, stored.confidence);
    let other_vector = node.embedding.is_some() && node.embedding != stored.embedding;
    if other_vitals || other_vector { NodeOp::Touch } else { NodeOp::Keep }
}

fn node_change(node: &PreparedNode, op: NodeOp) -> Option<Change> {
    let op = match op {
        NodeOp::Create => ChangeOp::Create,
        NodeOp::Update { .. } => ChangeOp::Update,
        NodeOp::Touch => ChangeOp::Touch,
        NodeOp::Keep => return None,
    };
    Some(Change { kind: ObjectKind::Node, op, id: node.id.0, digest: node.digest })
}

/// A vector is derived for new content, for a node that failed before, and on demand; never twice for a node that
/// already waits.
fn needs_vector(node: &PreparedNode, stored: Option<&StoredNode>, op: NodeOp, force: bool) -> bool {
    if !node.wants_embedding {
        return false;
    }
    match (op, stored) {
        (NodeOp::Create | NodeOp::Update { .. }, _) => true,
        (_, Some(stored)) => force || stored.embedding_status == EmbeddingStatus::Failed,
        (_, None) => true,
    }
}

fn check_ends(edge: &PreparedEdge, state: &PartState) -> Result<(), DomainError> {
    for (name, end) in [("src", edge.src), ("dst", edge.dst)] {
        if !end.in_request && !state.nodes.contains_key(&end.id) {
            return Err(DomainError::field(
                format!("edges.{}.{name}", edge.position),
                format!(
                    "names node {}, which is neither in this request nor stored in the scope; write the node first or with it",
                    end.id
                ),
            ));
        }
    }
    Ok(())
}

fn plan_edge(edge: &PreparedEdge, state: &PartState) -> Result<EdgeOp, DomainError> {
    let place = (edge.edge_type, edge.src.id, edge.dst.id);
    if let Some(stored) = state.edges.get(&place) {
        let merged = PreparedEdge {
            id: stored.id,
            weight: stored.weight.max(edge.weight),
            confidence: stored.confidence.max(edge.confidence),
            decay_rate: stored.decay_rate,
            ..edge.clone()
        };
        let same = (merged.weight - stored.weight).abs() < f64::EPSILON
            && (merged.confidence - stored.confidence).abs() < f64::EPSILON;
        return Ok(if same { EdgeOp::Keep(stored.id) } else { EdgeOp::Update(merged) });
    }
    if state.edge_ids.contains_key(&edge.id) {
        let path =
            if edge.explicit_id { format!("edges.{}.id", edge.position) } else { format!("edges.{}", edge.position) };
        return Err(DomainError::field(path, format!("edge id {} is in use for another pair of nodes", edge.id)));
    }
    Ok(EdgeOp::Create)
}

fn edge_change(edge: &PreparedEdge, op: &EdgeOp) -> Option<Change> {
    let (op, held) = match op {
        EdgeOp::Create => (ChangeOp::Create, edge),
        EdgeOp::Update(merged) => (ChangeOp::Update, merged),
        EdgeOp::Keep(_) => return None,
    };
    Some(Change { kind: ObjectKind::Edge, op, id: held.id.0, digest: held.digest() })
}

fn warn_invisible(part: &PreparedPart, warnings: &mut Vec<Warning>) {
    use crate::model::Lane;
    let invisible = part
        .nodes
        .iter()
        .filter(|n| n.lane == Lane::Private && n.owner_agent_id.is_none() && n.owner_team_id.is_none())
        .count();
    if invisible > 0 {
        warnings.push(Warning::new(
            "private_without_owner",
            format!(
                "{invisible} node(s) are private and have no owner, so no recall can return them; \
                 set owner_agent_id, owner_team_id or memory_lane \"shared\""
            ),
        ));
    }
}

fn new_commit(
    write: &PreparedWrite,
    part: &PreparedPart,
    state: &PartState,
    changes: Vec<Change>,
    now: Timestamp,
) -> NewCommit {
    let header = CommitHeader {
        scope_key: part.scope.as_str().to_owned(),
        seq: state.head.0 + 1,
        parent_hash: state.head.1,
        kind: write.job.as_ref().map_or("write", |job| job.kind).to_owned(),
        actor: write.actor.clone(),
        model_version: write.model_version.clone(),
        prompt_version: write.prompt_version.clone(),
        input_sha256: write.input_sha256.clone(),
        request_sha256: write.request_digest,
        changes_sha256: changes_sha256(&changes),
        created_at: now,
    };
    let hash = header.hash();
    NewCommit { id: CommitHeader::id_of(&hash), header, changes, hash }
}

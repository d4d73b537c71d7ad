//! Reading what is stored, apart from recall: which nodes a filter lets through, pages of them, and the state of a scope
//! at an earlier commit.

mod contains;
mod page;

use serde_json::Value;

pub use self::{
    contains::{contains, holds_text},
    page::{Place, Position},
};
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{CommitId, NodeId},
    model::{EmbeddingStatus, Lane, NodeType, Tier, Viewer},
    ports::store::NodeRow,
};

/// Which nodes are asked for; an empty list or none restricts nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindFilter {
    /// Ids.
    pub ids: Vec<NodeId>,
    /// Callers' keys.
    pub client_ids: Vec<String>,
    /// Kinds.
    pub types: Vec<NodeType>,
    /// Tiers.
    pub tiers: Vec<Tier>,
    /// Lane.
    pub lane: Option<Lane>,
    /// Owner.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// State of the vector.
    pub embedding_status: Option<EmbeddingStatus>,
    /// Text the title holds, whatever its case.
    pub title_contains: Option<String>,
    /// Text the title or the summary holds, whatever its case.
    pub text_contains: Option<String>,
    /// JSON the attributes contain, as [`contains`] says.
    pub slots_contains: Option<Value>,
    /// First written at or after.
    pub created_from: Option<Timestamp>,
    /// First written before.
    pub created_before: Option<Timestamp>,
    /// Last changed at or after.
    pub updated_from: Option<Timestamp>,
    /// Last changed before.
    pub updated_before: Option<Timestamp>,
}

fn among<T: PartialEq>(list: &[T], value: &T) -> bool {
    list.is_empty() || list.contains(value)
}

fn equals(wanted: Option<&String>, value: Option<&String>) -> bool {
    wanted.is_none() || wanted == value
}

fn within(from: Option<Timestamp>, before: Option<Timestamp>, at: Timestamp) -> bool {
    from.is_none_or(|from| at >= from) && before.is_none_or(|before| at < before)
}

impl FindFilter {
    /// Whether nodes are named one by one.
    pub fn names_nodes(&self) -> bool {
        !self.ids.is_empty() || !self.client_ids.is_empty()
    }

    /// Whether it restricts anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it lets a node through. Storage may look at fewer nodes, never at other ones.
    pub fn lets_through(&self, node: &NodeRow) -> bool {
        let named = !self.names_nodes()
            || self.ids.contains(&node.id)
            || node.client_id.as_ref().is_some_and(|client_id| self.client_ids.contains(client_id));
        named
            && among(&self.types, &node.node_type)
            && among(&self.tiers, &node.tier)
            && self.lane.is_none_or(|lane| lane == node.lane)
            && self.embedding_status.is_none_or(|status| status == node.embedding_status)
            && equals(self.owner_agent_id.as_ref(), node.owner_agent_id.as_ref())
            && equals(self.owner_team_id.as_ref(), node.owner_team_id.as_ref())
            && equals(self.producer_agent_id.as_ref(), node.producer_agent_id.as_ref())
            && within(self.created_from, self.created_before, node.created_at)
            && within(self.updated_from, self.updated_before, node.updated_at)
            && self.holds(node)
    }

    fn holds(&self, node: &NodeRow) -> bool {
        let texts = [node.title.as_deref(), node.text_summary.as_deref()];
        let title = |needle: &String| texts[0].is_some_and(|title| holds_text(title, needle));
        let any = |needle: &String| texts.iter().flatten().any(|text| holds_text(text, needle));
        self.title_contains.as_ref().is_none_or(title)
            && self.text_contains.as_ref().is_none_or(any)
            && self.slots_contains.as_ref().is_none_or(|wanted| contains(&node.slots, wanted))
    }
}

/// Through whose eyes nodes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// What recall shows them: shared nodes, and private ones of their own.
    Of(Viewer),
    /// What they may change; none may change everything.
    MayChange(Option<Viewer>),
}

impl Eyes {
    /// Whether they see a node of this lane and these owners.
    pub fn see(&self, lane: Lane, owner_agent: Option<&str>, owner_team: Option<&str>) -> bool {
        match self {
            Self::Of(viewer) => viewer.may_see(lane, owner_agent, owner_team),
            Self::MayChange(viewer) => {
                viewer.as_ref().is_none_or(|viewer| viewer.may_change(lane, (owner_agent, owner_team)))
            }
        }
    }
}

/// A state of a scope: as it was right after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// The commit with this number.
    Seq(u64),
    /// The commit with this id.
    Commit(CommitId),
    /// The newest commit that is not newer than this.
    Time(Timestamp),
}

/// A node as it is or was, with what its content is bound by.
#[derive(Clone, Debug)]
pub struct FoundNode {
    /// The row. Of an earlier state its content, its last change and its commit are those of that state; tier, scores and
    /// activation are not kept and are the present ones.
    pub row: NodeRow,
    /// Number of this content, from 1.
    pub version: u32,
    /// Its digest.
    pub digest: Digest,
    /// The commit that made it.
    pub content_seq: u64,
}

/// One content of a node.
#[derive(Clone, Debug)]
pub struct NodeVersion {
    /// Number, from 1.
    pub version: u32,
    /// Commit that made it.
    pub from_seq: u64,
    /// Its id.
    pub commit_id: CommitId,
    /// When.
    pub at: Timestamp,
    /// Commit that replaced it; none for the present content.
    pub to_seq: Option<u64>,
    /// Digest of the content.
    pub digest: Digest,
    /// The content as it was hashed.
    pub content: Value,
}

impl NodeVersion {
    /// Whether someone sees this content: it has a lane and owners of its own.
    pub fn is_seen_by(&self, eyes: &Eyes) -> bool {
        let text = |name: &str| self.content.get(name).and_then(Value::as_str);
        let lane = text("memory_lane").and_then(Lane::parse).unwrap_or(Lane::Private);
        eyes.see(lane, text("owner_agent_id"), text("owner_team_id"))
    }
}

/// What is kept of a node that was erased.
#[derive(Clone, Debug)]
pub struct ErasedNode {
    /// The node.
    pub id: NodeId,
    /// Digest of its last content.
    pub digest: Digest,
    /// Lane it had.
    pub lane: Lane,
    /// Owner it had.
    pub owner_agent_id: Option<String>,
    /// Owning team it had.
    pub owner_team_id: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Commit that erased it.
    pub commit_seq: u64,
    /// Its id.
    pub commit_id: CommitId,
}

/// Puts an earlier content in the place of the present one.
///
/// # Errors
/// What is wrong with a kept content.
pub fn as_it_was(row: &mut NodeRow, content: &Value) -> Result<(), String> {
    let text = |name: &str| content.get(name).and_then(Value::as_str).map(str::to_owned);
    let needed = |name: &str| text(name).ok_or_else(|| format!("has no {name}"));
    let kind = needed("type")?;
    row.node_type = NodeType::parse(&kind).ok_or_else(|| format!("has the unknown type {kind:?}"))?;
    let lane = needed("memory_lane")?;
    row.lane = Lane::parse(&lane).ok_or_else(|| format!("has the unknown lane {lane:?}"))?;
    row.client_id = text("client_id");
    row.title = text("title");
    row.text_summary = text("text_summary");
    row.slots = content.get("slots").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    row.raw_ref = text("raw_ref");
    row.evidence_ref = text("evidence_ref");
    row.producer_agent_id = text("producer_agent_id");
    row.owner_agent_id = text("owner_agent_id");
    row.owner_team_id = text("owner_team_id");
    Ok(())
}

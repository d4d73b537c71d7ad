use async_trait::async_trait;
use serde_json::Value;

use super::StoreError;
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::Audience,
    model::{EmbeddingStatus, NodeType, Tier},
    operate::merged_slots,
    read::Position,
};

/// A node as what is derived from it needs it.
#[derive(Clone, Debug)]
pub struct SourceNode {
    /// The node.
    pub id: NodeId,
    /// Kind.
    pub node_type: NodeType,
    /// Caller's key.
    pub client_id: Option<String>,
    /// Title.
    pub title: Option<String>,
    /// Summary.
    pub text_summary: Option<String>,
    /// Attributes as written.
    pub slots: Value,
    /// What operations noted beside them.
    pub activity: Option<Value>,
    /// Pointer to a raw payload.
    pub raw_ref: Option<String>,
    /// Pointer to evidence.
    pub evidence_ref: Option<String>,
    /// Who may see it.
    pub audience: Audience,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// Tier.
    pub tier: Tier,
    /// State of the vector.
    pub embedding_status: EmbeddingStatus,
    /// Label of the vector's model.
    pub embedding_model: Option<String>,
    /// Content digest.
    pub digest: Digest,
    /// Id of its last commit.
    pub commit_id: CommitId,
    /// When it was first written.
    pub created_at: Timestamp,
    /// Its vector in the store's space.
    pub vector: Option<Vec<f32>>,
}

impl SourceNode {
    /// Attributes with what operations noted beside them.
    pub fn merged(&self) -> Value {
        merged_slots(self.slots.clone(), self.activity.as_ref())
    }

    /// Whether another node stands for this one.
    pub fn is_alias(&self) -> bool {
        let merged = self.merged();
        ["alias_of", "superseded_by"].iter().any(|key| merged.get(key).is_some_and(|value| !value.is_null()))
    }

    /// Its text: the summary, else the title.
    pub fn text(&self) -> Option<&str> {
        self.text_summary.as_deref().or(self.title.as_deref())
    }
}

/// What a look over stored nodes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Hot and warm events with a vector.
    pub ready_events: u64,
    /// Those of them that are in no topic.
    pub unassigned_events: u64,
    /// Those of them that are private and have no owner: they are in no page.
    pub ownerless_events: u64,
    /// Hot and warm events whose vector is still to come.
    pub pending_events: u64,
    /// Topics, concepts, entities, procedures and self-models.
    pub kinds: u64,
    /// Those of them that stand for another one and changed lately.
    pub merged_kinds: u64,
}

/// Events that are in no topic.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// The events, oldest first, with their vectors. Aliases are among them when only a note says what they are.
    pub events: Vec<SourceNode>,
    /// What was counted on the way.
    pub counts: ScanCounts,
    /// Where the next page begins; nothing at the end.
    pub next: Option<Position>,
}

/// Where and for what events are looked for.
#[derive(Clone, Copy, Debug)]
pub struct EventQuery {
    /// Where the page before ended.
    pub after: Option<Position>,
    /// Most events of the page.
    pub limit: usize,
    /// Most stored nodes looked at; the page ends there.
    pub scan_max: usize,
    /// Since when an alias counts as merged lately.
    pub merged_since: Timestamp,
}

/// Topics and events that may be put together: seen by the same viewers, with vectors that compare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicGroup {
    /// Who may see them.
    pub audience: Audience,
    /// Label of their vectors' model.
    pub embedding_model: Option<String>,
}

/// The members of a topic that are of its own group.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicMean {
    /// The topic.
    pub topic: NodeId,
    /// Members.
    pub members: u64,
    /// Those of them that have a vector.
    pub with_vector: u64,
    /// The mean of those vectors.
    pub mean: Option<Vec<f32>>,
}

/// An event of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEvent {
    /// The topic.
    pub topic: NodeId,
    /// The event.
    pub event: NodeId,
    /// Who may see the event.
    pub audience: Audience,
    /// When it was first written.
    pub created_at: Timestamp,
}

/// Reading events and topics, for what is derived from them.
#[async_trait]
pub trait TopicStore: Send + Sync {
    /// Hot and warm events with a vector that are in no topic and no alias, oldest first, and counts of all that was looked at.
    ///
    /// # Errors
    /// A failure of storage.
    async fn unassigned_events(&self, scope: &ScopeKey, query: EventQuery) -> Result<EventPage, StoreError>;

    /// For each vector the topics of a group that are nearest to it, of those that are hot or warm, have a vector and are
    /// no alias; best first, at most `limit` each, by comparing all of them.
    ///
    /// # Errors
    /// A failure of storage.
    async fn nearest_topics(
        &self,
        scope: &ScopeKey,
        group: &TopicGroup,
        vectors: &[Vec<f32>],
        limit: usize,
    ) -> Result<Vec<Vec<NodeId>>, StoreError>;

    /// Those of `ids` that are stored, with their vectors, in the order asked.
    ///
    /// # Errors
    /// A failure of storage.
    async fn source_nodes(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<SourceNode>, StoreError>;

    /// The members of topics, in the order asked: events with a `part_of` edge to the topic that the same viewers see and
    /// whose vector is of the same model.
    ///
    /// # Errors
    /// A failure of storage.
    async fn topic_means(&self, scope: &ScopeKey, topics: &[NodeId]) -> Result<Vec<TopicMean>, StoreError>;

    /// Topics with an id above `after` that are hot or warm, ordered by id, at most `limit`.
    ///
    /// # Errors
    /// A failure of storage.
    async fn topics(&self, scope: &ScopeKey, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>, StoreError>;

    /// Hot and warm events with a `part_of` edge to a topic that were first written at `since` or later: newest first, ties by
    /// id downwards, at most `limit` per topic.
    ///
    /// # Errors
    /// A failure of storage.
    async fn topic_events(
        &self,
        scope: &ScopeKey,
        topics: &[NodeId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<TopicEvent>, StoreError>;
}

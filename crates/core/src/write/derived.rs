//! What is stored beside a node's content because it follows from it: its terms, its name, its flags, the state of its
//! vector; and the work queued for vectors.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    plan::{PartPlan, WriteOutcome},
    prepared::{PreparedNode, PreparedWrite},
    request::IdempotencyKey,
};
use crate::{
    canon::{Digest, canonical_sha256, job_key},
    derive_id::stable_uuid,
    error::{DomainError, ErrorKind},
    ids::NodeId,
    model::{EmbeddingStatus, NodeType},
    slots,
    text::{self, TermCounts},
};

/// Longest title that counts as a name, in terms.
pub const NAME_TERMS_MAX: usize = 5;

/// What recall needs of a node's text and slots, computed once when it is written.
#[derive(Clone, Debug)]
pub struct DerivedText {
    /// Analysed terms of title and summary with their counts.
    pub counts: TermCounts,
    /// The analysed title, when it is short enough to be a name.
    pub name_key: Option<String>,
    /// [`slots::recall_flags`].
    pub flags: u8,
}

impl DerivedText {
    /// Of a node that is written.
    pub fn of(node: &PreparedNode) -> Self {
        Self::of_stored(node.node_type, node.title.as_deref(), node.text_summary.as_deref(), &node.slots)
    }

    /// Of a node's stored content.
    pub fn of_stored(node_type: NodeType, title: Option<&str>, summary: Option<&str>, slots: &Value) -> Self {
        Self {
            counts: term_counts(title, summary),
            name_key: title.and_then(name_key),
            flags: slots::recall_flags(node_type, slots),
        }
    }
}

/// The terms of a node's title and summary.
pub fn term_counts(title: Option<&str>, summary: Option<&str>) -> TermCounts {
    let texts: Vec<&str> = [title, summary].into_iter().flatten().collect();
    text::term_counts(&texts)
}

/// The analysed form of a title, when it is short enough to be a name.
pub fn name_key(title: &str) -> Option<String> {
    let mut terms = Vec::new();
    text::analyze(title, &mut terms);
    (!terms.is_empty() && terms.len() <= NAME_TERMS_MAX).then(|| terms.join(" "))
}

impl PreparedNode {
    /// State of the vector of a node that is written with new content, and why none will come, when so.
    pub fn initial_status(&self) -> (EmbeddingStatus, Option<&'static str>) {
        if self.embedding.is_some() {
            (EmbeddingStatus::Ready, None)
        } else if self.wants_embedding {
            (EmbeddingStatus::Pending, None)
        } else {
            (EmbeddingStatus::Failed, self.no_embedding_reason)
        }
    }
}

/// One queued piece of work: the vectors of one commit's nodes.
#[derive(Clone, Debug)]
pub struct EmbedJob {
    /// Id of the queue row, derived from scope and key.
    pub id: Uuid,
    /// Key that makes the row unique in its scope (runtime specification 3.6).
    pub key: String,
    /// Names of nodes, never their text.
    pub payload: Value,
}

impl EmbedJob {
    /// The work of one part; none when it has none.
    pub fn of(scope: &str, plan: &PartPlan, force: bool) -> Option<Self> {
        if plan.embed.is_empty() {
            return None;
        }
        let mut payload = json!({ "nodes": plan.embed.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>() });
        if force {
            payload["force_reembed"] = json!(true);
        }
        let payload_sha256 = canonical_sha256(&payload).to_hex();
        let key = job_key(scope, &plan.reported.id.to_string(), "embed_nodes", &payload_sha256);
        let id = stable_uuid(&format!("outbox:{scope}:{key}"));
        Some(Self { id, key, payload })
    }

    /// Work put back into the queue for some nodes of a scope.
    pub fn again(scope: &str, nodes: &[NodeId]) -> Self {
        let payload = json!({ "nodes": nodes.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>() });
        let payload_sha256 = canonical_sha256(&payload).to_hex();
        let key = job_key(scope, "again", "embed_nodes", &payload_sha256);
        let id = stable_uuid(&format!("outbox:{scope}:{key}"));
        Self { id, key, payload }
    }

    /// The nodes a stored payload names, and whether their vectors are wanted even where there are some.
    ///
    /// # Errors
    /// What is wrong with a payload that is not one of these.
    pub fn read(payload: &str) -> Result<(Vec<NodeId>, bool), String> {
        #[derive(serde::Deserialize)]
        struct Payload {
            nodes: Vec<Node>,
            #[serde(default)]
            force_reembed: bool,
        }
        #[derive(serde::Deserialize)]
        struct Node {
            id: Uuid,
        }
        let payload: Payload = serde_json::from_str(payload).map_err(|e| e.to_string())?;
        Ok((payload.nodes.into_iter().map(|node| NodeId(node.id)).collect(), payload.force_reembed))
    }
}

impl WriteOutcome {
    /// The outcome of a whole write from the plans of its parts.
    pub fn of(write: &PreparedWrite, plans: &[PartPlan]) -> Self {
        let primary = &plans[0].reported;
        let nodes = write
            .node_order
            .iter()
            .map(|&(part, at)| (write.parts[part].nodes[at].id, plans[part].nodes[at].status().to_owned()))
            .collect();
        let edges = write
            .edge_order
            .iter()
            .map(|&(part, at)| {
                let op = &plans[part].edges[at];
                (op.id(write.parts[part].edges[at].id), op.status().to_owned())
            })
            .collect();
        Self {
            commit_id: primary.id,
            commit_seq: primary.seq,
            commit_hash: primary.hash.to_hex(),
            nodes,
            edges,
            pending_nodes: plans.iter().map(|plan| plan.embed.len()).sum(),
            replayed: plans.iter().all(|plan| plan.commit.is_none()),
            warnings: plans.iter().flat_map(|plan| plan.warnings.clone()).collect(),
        }
    }
}

impl IdempotencyKey {
    /// What a request key that was used before means for a request: the stored answer may be given, or the request is a
    /// new one that shares a correlation id.
    ///
    /// # Errors
    /// A strict key came with another request.
    pub fn answers(&self, asked_before: Digest, asked_now: Digest) -> Result<bool, DomainError> {
        if asked_before == asked_now {
            return Ok(true);
        }
        if !self.strict {
            return Ok(false);
        }
        Err(DomainError::new(
            ErrorKind::Conflict,
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request in this scope; send a new key for a new request",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_back_and_rubbish_is_said_to_be_rubbish() {
        let id = Uuid::from_u128(7);
        let (nodes, force) = EmbedJob::read(&format!(r#"{{"nodes":[{{"id":"{id}"}}],"force_reembed":true}}"#)).unwrap();
        assert_eq!((nodes, force), (vec![NodeId(id)], true));
        assert!(EmbedJob::read("{}").is_err() && EmbedJob::read("nonsense").is_err());
    }

    #[test]
    fn long_titles_are_no_names() {
        assert!(name_key("Ada Lovelace").is_some());
        assert!(name_key("one two three four five six").is_none() && name_key("…").is_none());
    }
}

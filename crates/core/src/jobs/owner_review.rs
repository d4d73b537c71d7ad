//! Private nodes without owner: nobody sees them, and an operator says whose they are. They are never shared.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    canon::{Digest, canonical_sha256, sha256_hex},
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::{Lane, NodeType},
    write::{JobWrite, PreparedNode, PreparedPart, PreparedWrite, embed_text, node_digest, rule_of_slots},
};

/// Kind of the commits that give nodes an owner.
pub const COMMIT_KIND: &str = "private_lane_owner_backfill";

/// A private node without owner, as it is stored: what was noted beside its slots is not among them.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerlessNode {
    /// Id.
    pub id: NodeId,
    /// Caller's key.
    pub client_id: Option<String>,
    /// Kind.
    pub node_type: NodeType,
    /// Title.
    pub title: Option<String>,
    /// Summary.
    pub text_summary: Option<String>,
    /// Attributes as written.
    pub slots: Value,
    /// Pointer to a raw payload.
    pub raw_ref: Option<String>,
    /// Pointer to evidence.
    pub evidence_ref: Option<String>,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// Content digest.
    pub digest: Digest,
    /// Its vector, if it has one of its present content, and the label of its model.
    pub vector: Option<(Vec<f32>, Option<String>)>,
}

/// Who becomes the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An agent.
    Agent(String),
    /// A team.
    Team(String),
}

/// Which of the listed nodes get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// These.
    Ids(BTreeSet<NodeId>),
    /// All that are listed.
    AllListed,
}

/// What is to be done with what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The owner.
    pub owner: Owner,
    /// The nodes.
    pub chosen: Chosen,
}

impl Assignment {
    /// Whether a node gets the owner.
    pub fn concerns(&self, id: NodeId) -> bool {
        match &self.chosen {
            Chosen::Ids(ids) => ids.contains(&id),
            Chosen::AllListed => true,
        }
    }
}

/// The write that gives nodes an owner and changes nothing else of them: the lane stays private. It holds only while each of
/// them says what it said when it was read. A vector stays with its node; what waits for one goes on waiting.
pub fn assign(
    scope: &ScopeKey,
    nodes: Vec<OwnerlessNode>,
    owner: &Owner,
    (run, now): (uuid::Uuid, Timestamp),
) -> PreparedWrite {
    let stands: Vec<(NodeId, Digest)> = nodes.iter().map(|node| (node.id, node.digest)).collect();
    let prepared: Vec<PreparedNode> =
        nodes.into_iter().enumerate().map(|(position, node)| owned(position, node, owner)).collect();
    let input_sha256 = sha256_hex(format!("job:owner-review:{}:{}:{run}", scope.as_str(), now.to_iso()));
    let digests: Vec<Value> = prepared.iter().map(|node| json!([node.id, node.digest])).collect();
    let request_digest = canonical_sha256(&json!({
        "v": 1, "job": COMMIT_KIND, "input_sha256": input_sha256, "scope": scope.as_str(), "nodes": digests,
    }));
    PreparedWrite {
        node_order: (0..prepared.len()).map(|at| (0, at)).collect(),
        parts: vec![PreparedPart { scope: scope.clone(), nodes: prepared, edges: Vec::new() }],
        actor: "job".to_owned(),
        input_sha256,
        model_version: None,
        prompt_version: None,
        parent_commit_id: None,
        force_reembed: false,
        request_digest,
        idempotency: None,
        received_at: now,
        edge_order: Vec::new(),
        writer: None,
        job: Some(JobWrite { kind: COMMIT_KIND, stands }),
    }
}

fn owned(position: usize, node: OwnerlessNode, owner: &Owner) -> PreparedNode {
    let (agent, team) = match owner {
        Owner::Agent(agent) => (Some(agent.clone()), None),
        Owner::Team(team) => (None, Some(team.clone())),
    };
    let (embedding, label) = node.vector.unzip();
    let has_text = embed_text(node.node_type, node.title.as_deref(), node.text_summary.as_deref()).is_some();
    let wants = embedding.is_none() && has_text;
    let rule = (node.node_type == NodeType::Rule).then(|| rule_of_slots(&node.slots));
    let mut prepared = PreparedNode {
        position,
        id: node.id,
        client_id: node.client_id,
        node_type: node.node_type,
        title: node.title,
        text_summary: node.text_summary,
        slots: node.slots,
        raw_ref: node.raw_ref,
        evidence_ref: node.evidence_ref,
        lane: Lane::Private,
        producer_agent_id: node.producer_agent_id,
        owner_agent_id: agent,
        owner_team_id: team,
        tier: None,
        salience: None,
        importance: None,
        confidence: None,
        no_embedding_reason: (embedding.is_none() && !has_text).then_some("no_embed_text"),
        embedding_model: label.flatten(),
        embedding,
        wants_embedding: wants,
        rule,
        digest: Digest::default(),
    };
    prepared.digest = node_digest(&prepared.content());
    prepared
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::TenantId;

    fn node(id: u128, text: Option<String>, vector: bool) -> OwnerlessNode {
        OwnerlessNode {
            id: NodeId(Uuid::from_u128(id)),
            client_id: Some(format!("c{id}")),
            node_type: NodeType::Event,
            title: None,
            text_summary: text,
            slots: json!({ "a": id.to_string() }),
            raw_ref: None,
            evidence_ref: None,
            producer_agent_id: None,
            digest: Digest([7; 32]),
            vector: vector.then(|| (vec![1.0, 2.0], Some("m".to_owned()))),
        }
    }

    fn scope() -> ScopeKey {
        ScopeKey::new(&TenantId::parse("t").unwrap(), "s").unwrap()
    }

    #[test]
    fn chosen_are_those_named_or_all() {
        let (one, two) = (NodeId(Uuid::from_u128(1)), NodeId(Uuid::from_u128(2)));
        let ids = Assignment { owner: Owner::Team("t".into()), chosen: Chosen::Ids(BTreeSet::from([one])) };
        assert!(ids.concerns(one) && !ids.concerns(two));
        assert!(Assignment { chosen: Chosen::AllListed, ..ids }.concerns(two));
    }

    proptest! {
        #[test]
        fn nothing_but_the_owner_changes_and_nothing_is_ever_shared(
            seed in prop::collection::vec((any::<u128>(), prop::option::of("[a-z ]{0,9}"), any::<bool>()), 0..6),
            team in any::<bool>(),
        ) {
            let nodes: Vec<OwnerlessNode> = seed.into_iter().map(|(id, text, vector)| node(id, text, vector)).collect();
            let owner = if team { Owner::Team("x".into()) } else { Owner::Agent("x".into()) };
            let write = assign(&scope(), nodes.clone(), &owner, (Uuid::nil(), Timestamp(0)));
            let job = write.job.unwrap();
            prop_assert_eq!(job.kind, COMMIT_KIND);
            prop_assert_eq!(job.stands.len(), nodes.len());
            for (before, after) in nodes.iter().zip(&write.parts[0].nodes) {
                prop_assert_eq!(after.lane, Lane::Private);
                prop_assert_eq!(after.owner_agent_id.is_some(), !team);
                prop_assert_eq!(after.owner_team_id.is_some(), team);
                prop_assert_eq!((&after.text_summary, &after.slots), (&before.text_summary, &before.slots));
                prop_assert_eq!((&after.client_id, after.id), (&before.client_id, before.id));
                prop_assert_eq!(after.tier, None);
                prop_assert_eq!(after.embedding.is_some(), before.vector.is_some());
                prop_assert!(!(after.wants_embedding && after.embedding.is_some()));
                prop_assert_ne!(after.digest, before.digest);
            }
        }
    }
}

//! What a group of writes stores in one scope: columns of arrays, and the one statement that stores them.

use aionis_core::{
    chain::changes_json,
    ids::NodeId,
    model::Tier,
    ports::store::StoreError,
    write::{
        DerivedText, EdgeOp, EmbedJob, NodeOp, PartPlan, PreparedEdge, PreparedNode, PreparedPart, PreparedWrite,
        WriteOutcome,
    },
};
use pgvector::Vector;
use uuid::Uuid;

use super::stored::Held;
use crate::postgres::rows::signed;
use aionis_image::{Coding, gate_bits};

/// Everything a group stores in one scope.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) head_seq: i64,
    pub(super) head_hash: Vec<u8>,
    pub(super) nodes_added: i64,
    pub(super) edges_added: i64,
    pub(super) commits: Commits,
    pub(super) versions: Versions,
    pub(super) nodes: Nodes,
    pub(super) touches: Touches,
    pub(super) edges: Edges,
    pub(super) vectors: Vectors,
    pub(super) gates: Gates,
    /// Nodes with new content: their vectors of the old content go.
    pub(super) replaced: Vec<Uuid>,
    pub(super) rules: Rules,
    /// Nodes with new content that are no rules: they keep no executable part.
    pub(super) no_rules: Vec<Uuid>,
    pub(super) outbox: Outbox,
    /// Nodes that failed before and wait again.
    pub(super) rearmed: Vec<Uuid>,
    pub(super) requests: Requests,
}

macro_rules! columns {
    ($(#[$doc:meta])* $name:ident { $($column:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name { $(pub(super) $column: Vec<$type>),+ }
    };
}

columns!(Commits {
    seq: i64, id: Uuid, parent_hash: Vec<u8>, hash: Vec<u8>, kind: String, actor: String,
    model_version: Option<String>, prompt_version: Option<String>, input_sha256: String, request_sha256: Vec<u8>,
    changes: String,
});
columns!(Versions { node_id: Uuid, version: i64, from_seq: i64, to_seq: i64, content: String });
columns!(Nodes {
    id: Uuid, client_id: Option<String>, node_type: &'static str, title: Option<String>, text_summary: Option<String>,
    slots: String, raw_ref: Option<String>, evidence_ref: Option<String>, lane: &'static str,
    producer_agent_id: Option<String>, owner_agent_id: Option<String>, owner_team_id: Option<String>,
    tier: &'static str, salience: f64, importance: f64, confidence: f64, version: i64, digest: Vec<u8>, seq: i64,
    commit_id: Uuid, status: &'static str, model: Option<String>, last_error: Option<&'static str>,
    flags: i16, term_count: i32, terms: String, name_key: Option<String>,
});
columns!(Touches {
    id: Uuid, tier: Option<&'static str>, salience: Option<f64>, importance: Option<f64>, confidence: Option<f64>,
    seq: i64, commit_id: Uuid, has_vector: bool, model: Option<String>,
});
columns!(Edges {
    src: Uuid, edge_type: &'static str, dst: Uuid, id: Uuid, weight: f64, confidence: f64, decay_rate: f64, seq: i64,
});
columns!(Vectors {
    node_id: Uuid, digest: Vec<u8>, gate: i16, owner_agent_id: Option<String>, owner_team_id: Option<String>,
    embedding: Vector, code: Vec<u8>,
});
columns!(Gates { node_id: Uuid, gate: i16 });
columns!(Rules {
    node_id: Uuid, if_json: String, then_json: String, exceptions_json: String, rule_scope: &'static str,
    target_agent_id: Option<String>, target_team_id: Option<String>, seq: i64,
});
columns!(Outbox { id: Uuid, key: String, seq: i64, payload: String });
columns!(Requests { key: String, digest: Vec<u8>, outcome: String });

impl Rows {
    /// Adds what one part of one write stores. `held` gives the stored nodes.
    pub(super) fn add<'h>(
        &mut self,
        write: &PreparedWrite,
        part: &PreparedPart,
        plan: &PartPlan,
        held: impl Fn(NodeId) -> Option<&'h Held>,
    ) -> Result<(), StoreError> {
        if let Some(commit) = &plan.commit {
            let header = &commit.header;
            let at = Commit { seq: signed(header.seq), id: commit.id.0 };
            self.head_seq = at.seq;
            self.head_hash = commit.hash.0.to_vec();
            self.commits.seq.push(at.seq);
            self.commits.id.push(at.id);
            self.commits.parent_hash.push(header.parent_hash.0.to_vec());
            self.commits.hash.push(commit.hash.0.to_vec());
            self.commits.kind.push(header.kind.clone());
            self.commits.actor.push(header.actor.clone());
            self.commits.model_version.push(header.model_version.clone());
            self.commits.prompt_version.push(header.prompt_version.clone());
            self.commits.input_sha256.push(header.input_sha256.clone());
            self.commits.request_sha256.push(header.request_sha256.0.to_vec());
            self.commits.changes.push(changes_json(&commit.changes));
            for (node, op) in part.nodes.iter().zip(&plan.nodes) {
                let stored = held(node.id);
                match op {
                    NodeOp::Create => {
                        self.nodes_added += 1;
                        self.node(node, 1, None, &at);
                    }
                    NodeOp::Update { version } => {
                        let stored = stored.ok_or_else(|| missing("an update"))?;
                        self.version(stored, &at);
                        self.node(node, i64::from(*version), Some(stored), &at);
                    }
                    NodeOp::Touch => self.touch(node, stored.ok_or_else(|| missing("a touch"))?, &at),
                    NodeOp::Keep => {}
                }
            }
            for (edge, op) in part.edges.iter().zip(&plan.edges) {
                match op {
                    EdgeOp::Create => {
                        self.edges_added += 1;
                        self.edge(edge, at.seq);
                    }
                    EdgeOp::Update(merged) => self.edge(merged, at.seq),
                    EdgeOp::Keep(_) => {}
                }
            }
        }
        if let Some(job) = EmbedJob::of(part.scope.as_str(), plan, write.force_reembed) {
            self.outbox.id.push(job.id);
            self.outbox.key.push(job.key);
            self.outbox.seq.push(signed(plan.reported.seq));
            self.outbox.payload.push(job.payload.to_string());
            // New content is pending already; only what is asked for again may have failed before.
            let again = part.nodes.iter().zip(&plan.nodes).filter(|(_, op)| matches!(op, NodeOp::Keep | NodeOp::Touch));
            self.rearmed.extend(again.filter(|(node, _)| plan.embed.contains(&node.id)).map(|(node, _)| node.id.0));
        }
        Ok(())
    }

    /// Adds the answer kept for a repeated request key.
    pub(super) fn remember(&mut self, write: &PreparedWrite, outcome: &WriteOutcome) -> Result<(), StoreError> {
        let Some(idempotency) = &write.idempotency else { return Ok(()) };
        self.requests.key.push(idempotency.key.clone());
        self.requests.digest.push(write.request_digest.0.to_vec());
        self.requests.outcome.push(serde_json::to_string(outcome).map_err(|e| StoreError::Driver(e.to_string()))?);
        Ok(())
    }

    /// Whether there is anything to store.
    pub(super) fn is_empty(&self) -> bool {
        self.commits.seq.is_empty() && self.outbox.id.is_empty() && self.requests.key.is_empty()
    }

    /// Whether a worker gets something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.outbox.id.is_empty()
    }

    fn version(&mut self, held: &Held, at: &Commit) {
        self.versions.node_id.push(held.content.id.0);
        self.versions.version.push(i64::from(held.stored.version));
        self.versions.from_seq.push(held.content_seq);
        self.versions.to_seq.push(at.seq);
        self.versions.content.push(held.content.content().canonical());
    }

    fn node(&mut self, node: &PreparedNode, version: i64, before: Option<&Held>, at: &Commit) {
        let derived = DerivedText::of(node);
        let tier = node.tier.or_else(|| before.map(|held| held.stored.tier)).unwrap_or(Tier::Hot);
        let vital = |asked: Option<f64>, held: fn(&Held) -> f64| asked.or_else(|| before.map(held)).unwrap_or(0.5);
        let (status, last_error) = node.initial_status();
        let rows = &mut self.nodes;
        rows.id.push(node.id.0);
        rows.client_id.push(node.client_id.clone());
        rows.node_type.push(node.node_type.as_str());
        rows.title.push(node.title.clone());
        rows.text_summary.push(node.text_summary.clone());
        rows.slots.push(node.slots.to_string());
        rows.raw_ref.push(node.raw_ref.clone());
        rows.evidence_ref.push(node.evidence_ref.clone());
        rows.lane.push(node.lane.as_str());
        rows.producer_agent_id.push(node.producer_agent_id.clone());
        rows.owner_agent_id.push(node.owner_agent_id.clone());
        rows.owner_team_id.push(node.owner_team_id.clone());
        rows.tier.push(tier.as_str());
        rows.salience.push(vital(node.salience, |held| held.stored.salience));
        rows.importance.push(vital(node.importance, |held| held.stored.importance));
        rows.confidence.push(vital(node.confidence, |held| held.stored.confidence));
        rows.version.push(version);
        rows.digest.push(node.digest.0.to_vec());
        rows.seq.push(at.seq);
        rows.commit_id.push(at.id);
        rows.status.push(status.as_str());
        rows.model.push(node.embedding_model.clone());
        rows.last_error.push(last_error);
        rows.flags.push(i16::from(derived.flags));
        rows.term_count.push(i32::try_from(derived.counts.len).unwrap_or(i32::MAX));
        rows.terms.push(terms_text(&derived));
        rows.name_key.push(derived.name_key);
        if before.is_some() {
            self.replaced.push(node.id.0);
        }
        // A rule that is written is a draft.
        self.vector(node, gate_bits(node.node_type, tier, node.lane, derived.flags, false));
        match &node.rule {
            Some(rule) => {
                self.rules.node_id.push(node.id.0);
                self.rules.if_json.push(rule.if_json.to_string());
                self.rules.then_json.push(rule.then_json.to_string());
                self.rules.exceptions_json.push(rule.exceptions_json.to_string());
                self.rules.rule_scope.push(rule.rule_scope.as_str());
                self.rules.target_agent_id.push(rule.target_agent_id.clone());
                self.rules.target_team_id.push(rule.target_team_id.clone());
                self.rules.seq.push(at.seq);
            }
            None if before.is_some_and(|held| held.stored.rule_state.is_some()) => self.no_rules.push(node.id.0),
            None => {}
        }
    }

    fn touch(&mut self, node: &PreparedNode, held: &Held, at: &Commit) {
        let rows = &mut self.touches;
        rows.id.push(node.id.0);
        rows.tier.push(node.tier.map(Tier::as_str));
        rows.salience.push(node.salience);
        rows.importance.push(node.importance);
        rows.confidence.push(node.confidence);
        rows.seq.push(at.seq);
        rows.commit_id.push(at.id);
        rows.has_vector.push(node.embedding.is_some());
        rows.model.push(node.embedding_model.clone());
        let live = held.stored.rule_state.is_some_and(aionis_core::model::RuleState::is_live);
        let tier = node.tier.unwrap_or(held.stored.tier);
        let gate = gate_bits(node.node_type, tier, node.lane, held.flags, live);
        if node.embedding.is_some() {
            self.vector(node, gate);
        } else if tier != held.stored.tier {
            self.gates.node_id.push(node.id.0);
            self.gates.gate.push(i16::from(gate));
        }
    }

    fn vector(&mut self, node: &PreparedNode, gate: u8) {
        let Some(vector) = &node.embedding else { return };
        self.vectors.node_id.push(node.id.0);
        self.vectors.digest.push(node.digest.0.to_vec());
        self.vectors.gate.push(i16::from(gate));
        self.vectors.owner_agent_id.push(node.owner_agent_id.clone());
        self.vectors.owner_team_id.push(node.owner_team_id.clone());
        self.vectors.code.push(Coding::of(vector.len()).encode(vector));
        self.vectors.embedding.push(Vector::from(vector.clone()));
    }

    fn edge(&mut self, edge: &PreparedEdge, seq: i64) {
        let rows = &mut self.edges;
        rows.src.push(edge.src.id.0);
        rows.edge_type.push(edge.edge_type.as_str());
        rows.dst.push(edge.dst.id.0);
        rows.id.push(edge.id.0);
        rows.weight.push(edge.weight);
        rows.confidence.push(edge.confidence);
        rows.decay_rate.push(edge.decay_rate);
        rows.seq.push(seq);
    }
}

/// The commit rows belong to.
struct Commit {
    seq: i64,
    id: Uuid,
}

fn missing(what: &str) -> StoreError {
    StoreError::Driver(format!("{what} was planned without a stored node"))
}

/// Terms with their counts as `memory_nodes.lexical_terms` holds them.
pub(crate) fn terms_text(derived: &DerivedText) -> String {
    let mut text = String::with_capacity(derived.counts.terms.len() * 10);
    for (term, count) in &derived.counts.terms {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(term);
        text.push(' ');
        text.push_str(&count.to_string());
    }
    text
}

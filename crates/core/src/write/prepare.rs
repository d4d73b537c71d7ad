//! From a request to normalised, redacted, identified items: everything that needs no storage (runtime specification 3.5).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::{
    digest::node_digest,
    request::{EdgeInput, EndInput, IdempotencyKey, NodeInput, WriteRequest},
};
use crate::{
    canon::{Digest, canonical_sha256, sha256_hex},
    clock::Timestamp,
    derive_id,
    error::{DomainError, ErrorKind, Issue},
    ids::{EdgeId, NodeId, ScopeKey},
    model::{EdgeType, Lane, NodeType, RuleScope, Tier, Viewer, real},
    redact::{RedactionCounts, Redactor},
    text,
};

/// Settings that shape a write.
#[derive(Debug)]
pub struct WriteSettings {
    /// Tenant whose scope names stay unprefixed in derived ids (`MEMORY_TENANT_ID`).
    pub default_tenant: String,
    /// Longest text in UTF-16 units (`MAX_TEXT_LEN`).
    pub text_max_len: usize,
    /// Redactor, when `PII_REDACTION` is on.
    pub redactor: Option<Redactor>,
    /// Dimension of every vector.
    pub embedding_dim: usize,
    /// Whether a provider can derive vectors, now or once its model is there.
    pub can_embed: bool,
}

/// A write ready to be planned against what is stored.
#[derive(Clone, Debug)]
pub struct PreparedWrite {
    /// Changes per scope; the first part is the request's own scope and is always there.
    pub parts: Vec<PreparedPart>,
    /// Who writes.
    pub actor: String,
    /// Digest of the input.
    pub input_sha256: String,
    /// Caller's label.
    pub model_version: Option<String>,
    /// Caller's label.
    pub prompt_version: Option<String>,
    /// A commit the caller has seen.
    pub parent_commit_id: Option<uuid::Uuid>,
    /// Derive vectors again even where one is stored.
    pub force_reembed: bool,
    /// Digest of everything asked for: equal requests are equal here.
    pub request_digest: Digest,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// (part, index in part) of each node in request order.
    pub node_order: Vec<(usize, usize)>,
    /// (part, index in part) of each edge in request order.
    pub edge_order: Vec<(usize, usize)>,
    /// Who writes, when that is known.
    pub writer: Option<Viewer>,
    /// What a job says about its write.
    pub job: Option<JobWrite>,
}

/// What a job says about its write beyond what a caller may say.
#[derive(Clone, Debug)]
pub struct JobWrite {
    /// Kind of its commits.
    pub kind: &'static str,
    /// Nodes and their content digests as they were read: where one says something else by now, the write is refused.
    pub stands: Vec<(NodeId, Digest)>,
}

/// The items of one scope.
#[derive(Clone, Debug)]
pub struct PreparedPart {
    /// The scope.
    pub scope: ScopeKey,
    /// Its nodes.
    pub nodes: Vec<PreparedNode>,
    /// Its edges.
    pub edges: Vec<PreparedEdge>,
}

/// A node ready to be stored.
#[derive(Clone, Debug)]
pub struct PreparedNode {
    /// Position in the request, for messages.
    pub position: usize,
    /// Id.
    pub id: NodeId,
    /// Caller's key, trimmed.
    pub client_id: Option<String>,
    /// Kind.
    pub node_type: NodeType,
    /// Title, normalised and redacted.
    pub title: Option<String>,
    /// Summary, normalised and redacted.
    pub text_summary: Option<String>,
    /// Attributes, redacted.
    pub slots: Value,
    /// Pointer to a raw payload.
    pub raw_ref: Option<String>,
    /// Pointer to evidence.
    pub evidence_ref: Option<String>,
    /// Lane.
    pub lane: Lane,
    /// Producer.
    pub producer_agent_id: Option<String>,
    /// Owner.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
    /// Tier, when asked for.
    pub tier: Option<Tier>,
    /// Salience, when asked for.
    pub salience: Option<f64>,
    /// Importance, when asked for.
    pub importance: Option<f64>,
    /// Confidence, when asked for.
    pub confidence: Option<f64>,
    /// Vector brought by the caller.
    pub embedding: Option<Vec<f32>>,
    /// Its label, or `client`.
    pub embedding_model: Option<String>,
    /// Whether a vector is to be derived.
    pub wants_embedding: bool,
    /// Why there is no vector and none will come, when so.
    pub no_embedding_reason: Option<&'static str>,
    /// Executable part, for rules.
    pub rule: Option<PreparedRule>,
    /// Content digest.
    pub digest: Digest,
}

impl PreparedNode {
    /// The text a vector is derived from (runtime specification 3.5 step 7).
    pub fn embed_text(&self) -> Option<&str> {
        embed_text(self.node_type, self.title.as_deref(), self.text_summary.as_deref())
    }
}

/// The text a node's vector is derived from: the summary first for what was said or done, the title first for names.
pub fn embed_text<'a>(node_type: NodeType, title: Option<&'a str>, summary: Option<&'a str>) -> Option<&'a str> {
    let text = match node_type {
        NodeType::Entity | NodeType::Topic | NodeType::Concept => title.or(summary),
        _ => summary.or(title),
    };
    text.filter(|text| !text.trim().is_empty())
}

/// The executable form of a rule node.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRule {
    /// Condition.
    pub if_json: Value,
    /// Policy patch.
    pub then_json: Value,
    /// Exceptions.
    pub exceptions_json: Value,
    /// Audience.
    pub rule_scope: RuleScope,
    /// Agent of an agent rule.
    pub target_agent_id: Option<String>,
    /// Team of a team rule.
    pub target_team_id: Option<String>,
}

/// One end of an edge, resolved to an id.
#[derive(Clone, Copy, Debug)]
pub struct EdgeEnd {
    /// The node.
    pub id: NodeId,
    /// Whether the node is written by the same request.
    pub in_request: bool,
}

/// An edge ready to be stored.
#[derive(Clone, Debug)]
pub struct PreparedEdge {
    /// Position in the request, for messages.
    pub position: usize,
    /// Id for a new edge.
    pub id: EdgeId,
    /// Whether the caller chose the id.
    pub explicit_id: bool,
    /// Kind.
    pub edge_type: EdgeType,
    /// From.
    pub src: EdgeEnd,
    /// To.
    pub dst: EdgeEnd,
    /// 0…1.
    pub weight: f64,
    /// 0…1.
    pub confidence: f64,
    /// 0…1 per day.
    pub decay_rate: f64,
}

/// Normalises, redacts and identifies a request.
///
/// # Errors
/// A caller's mistake, with the path of the field: blank after normalisation, wrong dimension, unusable vector,
/// duplicate id, self loop, private rule without owner, rule audience without target.
pub fn prepare(request: WriteRequest, settings: &WriteSettings) -> Result<PreparedWrite, DomainError> {
    Preparation::new(&request, settings)?.run(request)
}

struct Preparation<'a> {
    settings: &'a WriteSettings,
    redactions: RedactionCounts,
    actor: String,
    default_lane: Lane,
    producer: Option<String>,
    owner_agent: Option<String>,
    owner_team: Option<String>,
    auto_embed: bool,
    input_text: Option<String>,
    parts: Vec<PreparedPart>,
    part_of_scope: HashMap<ScopeKey, usize>,
    ids_by_client: HashMap<(usize, String), NodeId>,
    node_at: HashMap<(usize, NodeId), usize>,
    edge_ids: HashMap<(usize, EdgeId), usize>,
    edge_at: HashMap<(usize, EdgeType, NodeId, NodeId), usize>,
    node_order: Vec<(usize, usize)>,
    edge_order: Vec<(usize, usize)>,
}

/// Trimmed by ECMAScript's white space, as ids derive from trimmed keys; nothing when nothing is left.
fn trimmed(text: Option<&String>) -> Option<String> {
    text.map(|t| t.trim_matches(text::is_ecmascript_whitespace)).filter(|t| !t.is_empty()).map(str::to_owned)
}

impl<'a> Preparation<'a> {
    fn new(request: &WriteRequest, settings: &'a WriteSettings) -> Result<Self, DomainError> {
        let mut this = Self {
            settings,
            redactions: RedactionCounts::default(),
            actor: request.actor.clone().unwrap_or_else(|| "system".to_owned()),
            default_lane: request.memory_lane.unwrap_or(Lane::Private),
            producer: trimmed(request.producer_agent_id.as_ref()),
            owner_agent: trimmed(request.owner_agent_id.as_ref()),
            owner_team: trimmed(request.owner_team_id.as_ref()),
            auto_embed: request.auto_embed && settings.can_embed,
            input_text: None,
            parts: Vec::new(),
            part_of_scope: HashMap::new(),
            ids_by_client: HashMap::new(),
            node_at: HashMap::new(),
            edge_ids: HashMap::new(),
            edge_at: HashMap::new(),
            node_order: Vec::with_capacity(request.nodes.len()),
            edge_order: Vec::with_capacity(request.edges.len()),
        };
        this.part(&request.scope);
        if let Some(input) = &request.input_text {
            let clean = this.clean(input);
            if clean.is_empty() {
                return Err(DomainError::field("input_text", "must hold more than white space"));
            }
            this.input_text = Some(clean);
        }
        Ok(this)
    }

    fn run(mut self, request: WriteRequest) -> Result<PreparedWrite, DomainError> {
        let input_sha256 = match (&request.input_sha256, &self.input_text) {
            (Some(sha), _) => sha.clone(),
            (None, Some(text)) => sha256_hex(text),
            (None, None) => return Err(DomainError::field("", "one of input_text or input_sha256 is required")),
        };
        let scope = request.scope.clone();
        for (position, node) in request.nodes.into_iter().enumerate() {
            self.node(position, node, &scope)?;
        }
        for (position, edge) in request.edges.into_iter().enumerate() {
            self.edge(position, &edge, &scope, &input_sha256)?;
        }
        let labels = (&request.model_version, &request.prompt_version);
        let request_digest = self.request_digest(&input_sha256, labels, request.force_reembed);
        Ok(PreparedWrite {
            parts: self.parts,
            actor: self.actor,
            input_sha256,
            model_version: request.model_version,
            prompt_version: request.prompt_version,
            parent_commit_id: request.parent_commit_id,
            force_reembed: request.force_reembed,
            request_digest,
            idempotency: request.idempotency,
            received_at: request.received_at,
            writer: request.writer,
            job: None,
            node_order: self.node_order,
            edge_order: self.edge_order,
        })
    }

    fn part(&mut self, scope: &ScopeKey) -> usize {
        if let Some(&at) = self.part_of_scope.get(scope) {
            return at;
        }
        self.parts.push(PreparedPart { scope: scope.clone(), nodes: Vec::new(), edges: Vec::new() });
        self.part_of_scope.insert(scope.clone(), self.parts.len() - 1);
        self.parts.len() - 1
    }

    /// Normalised and, when switched on, redacted.
    fn clean(&mut self, raw: &str) -> String {
        let normal = text::normalize(raw, self.settings.text_max_len);
        match &self.settings.redactor {
            Some(redactor) => redactor.redact(&normal, &mut self.redactions).into_owned(),
            None => normal,
        }
    }

    fn reference_key(&self, scope: &ScopeKey) -> String {
        derive_id::reference_scope_key(scope.tenant(), scope.scope(), &self.settings.default_tenant)
    }

    fn node(&mut self, position: usize, mut node: NodeInput, request_scope: &ScopeKey) -> Result<(), DomainError> {
        let scope = node.scope.clone().unwrap_or_else(|| request_scope.clone());
        let part = self.part(&scope);
        let client_id = match &node.client_id {
            Some(raw) => Some(trimmed(Some(raw)).ok_or_else(|| {
                DomainError::field(format!("nodes.{position}.client_id"), "must hold more than white space")
            })?),
            None => None,
        };
        let id = self.node_id(position, &node, client_id.as_deref(), &scope)?;
        if let Some(&first) = self.node_at.get(&(part, id)) {
            return Err(DomainError::field(
                format!("nodes.{position}"),
                format!("has the same id {id} as nodes.{first}; send each node once"),
            ));
        }
        let title = node.title.as_deref().map(|raw| self.clean(raw));
        let text_summary = node.text_summary.as_deref().map(|raw| self.clean(raw));
        let model_label = node.embedding_model.as_deref().map(|raw| self.clean(raw)).filter(|label| !label.is_empty());
        let mut slots = node.slots.take().unwrap_or_else(|| Value::Object(Map::new()));
        if let Some(redactor) = &self.settings.redactor {
            redactor.redact_value(&mut slots, &mut self.redactions);
        }
        let lane = node.memory_lane.unwrap_or(self.default_lane);
        let producer = trimmed(node.producer_agent_id.as_ref()).or_else(|| self.producer.clone());
        let owner_agent =
            trimmed(node.owner_agent_id.as_ref()).or_else(|| self.owner_agent.clone()).or_else(|| producer.clone());
        let owner_team = trimmed(node.owner_team_id.as_ref()).or_else(|| self.owner_team.clone());
        if node.node_type == NodeType::Rule && lane == Lane::Private && owner_agent.is_none() && owner_team.is_none() {
            return Err(private_rule_without_owner(id, client_id.as_deref()));
        }
        let rule = (node.node_type == NodeType::Rule).then(|| prepare_rule(position, &slots)).transpose()?;
        let embedding = node.embedding.take();
        check_vector(position, embedding.as_deref(), self.settings.embedding_dim)?;
        let mut prepared = PreparedNode {
            position,
            id,
            client_id: client_id.clone(),
            node_type: node.node_type,
            title,
            text_summary,
            slots,
            raw_ref: node.raw_ref,
            evidence_ref: node.evidence_ref,
            lane,
            producer_agent_id: producer,
            owner_agent_id: owner_agent,
            owner_team_id: owner_team,
            tier: node.tier,
            salience: node.salience.map(real),
            importance: node.importance.map(real),
            confidence: node.confidence.map(real),
            embedding_model: embedding.is_some().then(|| model_label.unwrap_or_else(|| "client".to_owned())),
            embedding,
            wants_embedding: false,
            no_embedding_reason: None,
            rule,
            digest: Digest([0; 32]),
        };
        if prepared.embedding.is_none() {
            if !self.auto_embed {
                prepared.no_embedding_reason = Some("auto_embed_disabled_or_no_provider");
            } else if prepared.embed_text().is_none() {
                prepared.no_embedding_reason = Some("no_embed_text");
            } else {
                prepared.wants_embedding = true;
            }
        }
        prepared.digest = node_digest(&prepared.content());
        if let Some(client_id) = client_id {
            self.ids_by_client.insert((part, client_id), id);
        }
        self.node_at.insert((part, id), position);
        self.node_order.push((part, self.parts[part].nodes.len()));
        self.parts[part].nodes.push(prepared);
        Ok(())
    }

    fn node_id(
        &self,
        position: usize,
        node: &NodeInput,
        client_id: Option<&str>,
        scope: &ScopeKey,
    ) -> Result<NodeId, DomainError> {
        let reference_key = self.reference_key(scope);
        let derived = client_id.map(|client_id| derive_id::node_id_by_client_id(&reference_key, client_id));
        match (node.id, derived) {
            (Some(id), Some(derived)) if id != derived => Err(DomainError::field(
                format!("nodes.{position}.id"),
                format!("does not belong to client_id; leave id out or send {derived}"),
            )),
            (Some(id), _) | (None, Some(id)) => Ok(NodeId(id)),
            (None, None) => {
                let received = node.received.as_ref().ok_or_else(|| {
                    DomainError::internal("a node without id and client_id came without its received form")
                })?;
                Ok(NodeId(derive_id::node_id_by_content(&reference_key, received)))
            }
        }
    }

    fn edge(
        &mut self,
        position: usize,
        edge: &EdgeInput,
        request_scope: &ScopeKey,
        input_sha256: &str,
    ) -> Result<(), DomainError> {
        let scope = edge.scope.clone().unwrap_or_else(|| request_scope.clone());
        let part = self.part(&scope);
        let src = self.end(&format!("edges.{position}.src"), &edge.src, part, &scope)?;
        let dst = self.end(&format!("edges.{position}.dst"), &edge.dst, part, &scope)?;
        if src.id == dst.id {
            return Err(DomainError::field(format!("edges.{position}.dst"), "must be another node than src"));
        }
        let id = EdgeId(edge.id.unwrap_or_else(|| {
            derive_id::edge_id(
                &self.reference_key(&scope),
                self.input_text.as_deref().unwrap_or(input_sha256),
                edge.edge_type.as_str(),
                end_as_sent(&edge.src),
                end_as_sent(&edge.dst),
            )
        }));
        if let Some(first) = self.edge_at.insert((part, edge.edge_type, src.id, dst.id), position) {
            return Err(DomainError::field(
                format!("edges.{position}"),
                format!("has the same type, src and dst as edges.{first}; send each edge once"),
            ));
        }
        // Derived ids count too: `a:b` to `c` and `a` to `b:c` derive the same one.
        if let Some(first) = self.edge_ids.insert((part, id), position) {
            return Err(if edge.id.is_some() {
                let message = format!("is the id of edges.{first} too; every edge needs one of its own");
                DomainError::field(format!("edges.{position}.id"), message)
            } else {
                let message = format!("derives the id {id}, which edges.{first} has; send an id of its own");
                DomainError::field(format!("edges.{position}"), message)
            });
        }
        self.edge_order.push((part, self.parts[part].edges.len()));
        self.parts[part].edges.push(PreparedEdge {
            position,
            id,
            explicit_id: edge.id.is_some(),
            edge_type: edge.edge_type,
            src,
            dst,
            weight: real(edge.weight),
            confidence: real(edge.confidence),
            decay_rate: real(edge.decay_rate),
        });
        Ok(())
    }

    /// An end by id, by a key of this request, or by the key of an earlier node: its id is a function of scope and key.
    fn end(&self, path: &str, end: &EndInput, part: usize, scope: &ScopeKey) -> Result<EdgeEnd, DomainError> {
        if let Some(id) = end.id {
            let id = NodeId(id);
            return Ok(EdgeEnd { id, in_request: self.node_at.contains_key(&(part, id)) });
        }
        let client_id = trimmed(end.client_id.as_ref())
            .ok_or_else(|| DomainError::field(format!("{path}.client_id"), "must hold more than white space"))?;
        let in_request = self.ids_by_client.get(&(part, client_id.clone())).copied();
        let id = in_request
            .unwrap_or_else(|| NodeId(derive_id::node_id_by_client_id(&self.reference_key(scope), &client_id)));
        Ok(EdgeEnd { id, in_request: in_request.is_some() })
    }

    fn request_digest(
        &self,
        input_sha256: &str,
        (model_version, prompt_version): (&Option<String>, &Option<String>),
        force_reembed: bool,
    ) -> Digest {
        let parts: BTreeMap<&str, Value> = self
            .parts
            .iter()
            .map(|part| {
                let nodes: Vec<Value> = part
                    .nodes
                    .iter()
                    .map(|n| {
                        json!([
                            n.digest,
                            n.tier,
                            n.salience,
                            n.importance,
                            n.confidence,
                            n.wants_embedding,
                            n.embedding_model,
                            n.embedding.as_deref().map(vector_sha256)
                        ])
                    })
                    .collect();
                let edges: Vec<Value> = part
                    .edges
                    .iter()
                    .map(|e| json!([e.edge_type, e.src.id, e.dst.id, e.weight, e.confidence, e.decay_rate]))
                    .collect();
                (part.scope.as_str(), json!([nodes, edges]))
            })
            .collect();
        canonical_sha256(&json!({
            "v": 2,
            "actor": self.actor,
            "input_sha256": input_sha256,
            "model_version": model_version,
            "prompt_version": prompt_version,
            "force_reembed": force_reembed,
            "parts": parts,
        }))
    }
}

fn vector_sha256(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    sha256_hex(bytes)
}

fn end_as_sent(end: &EndInput) -> &str {
    end.id_as_sent.as_deref().or(end.client_id.as_deref()).unwrap_or_default()
}

fn private_rule_without_owner(id: NodeId, client_id: Option<&str>) -> DomainError {
    DomainError::new(
        ErrorKind::Invalid,
        "invalid_private_rule_owner",
        "a private rule needs owner_agent_id or owner_team_id; name one, or write it to the shared lane",
    )
    .with_details(json!({ "node_id": id, "client_id": client_id, "memory_lane": "private", "type": "rule" }))
}

fn check_vector(position: usize, vector: Option<&[f32]>, dim: usize) -> Result<(), DomainError> {
    vector.map_or(Ok(()), |vector| check_vector_at(&format!("nodes.{position}.embedding"), vector, dim))
}

/// Refuses a vector of the wrong dimension, with a number that is not finite, or of no direction.
///
/// # Errors
/// `invalid_request` naming `path`.
pub fn check_vector_at(path: &str, vector: &[f32], dim: usize) -> Result<(), DomainError> {
    let fail = |message: String| Err(DomainError::issues(vec![Issue { path: path.to_owned(), message }]));
    if vector.len() != dim {
        return fail(format!("must hold {dim} numbers, the dimension of the configured model; got {}", vector.len()));
    }
    if vector.iter().any(|x| !x.is_finite()) {
        return fail("must hold numbers that fit 32-bit floats".to_owned());
    }
    let norm: f32 = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if !norm.is_normal() {
        return fail(
            "must not be the zero vector, which has no direction, and its length must fit a 32-bit float".to_owned(),
        );
    }
    Ok(())
}

/// The executable part that a rule's attributes say.
pub fn rule_of_slots(slots: &Value) -> PreparedRule {
    let text = |key: &str| slots.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let body = |key: &str, default: Value| slots.get(key).filter(|v| !v.is_null()).cloned().unwrap_or(default);
    let rule_scope = match text("rule_scope").map(str::to_lowercase).as_deref() {
        Some("team") => RuleScope::Team,
        Some("agent") => RuleScope::Agent,
        _ => RuleScope::Global,
    };
    PreparedRule {
        if_json: body("if", json!({})),
        then_json: body("then", json!({})),
        exceptions_json: body("exceptions", json!([])),
        rule_scope,
        target_agent_id: text("target_agent_id").map(str::to_owned),
        target_team_id: text("target_team_id").map(str::to_owned),
    }
}

fn prepare_rule(position: usize, slots: &Value) -> Result<PreparedRule, DomainError> {
    let rule = rule_of_slots(slots);
    let missing = match rule.rule_scope {
        RuleScope::Agent if rule.target_agent_id.is_none() => Some("target_agent_id"),
        RuleScope::Team if rule.target_team_id.is_none() => Some("target_team_id"),
        _ => None,
    };
    match missing {
        Some(field) => Err(DomainError::field(
            format!("nodes.{position}.slots.{field}"),
            format!("is required for a rule of rule_scope {}", rule.rule_scope),
        )),
        None => Ok(rule),
    }
}

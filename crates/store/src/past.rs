//! A scope as it was right after a commit, built for one question.
//!
//! What is searched is an image like that of the present state, so that both states answer by the same code. Contents,
//! visibility and edges are those of that commit. Vectors are kept for the present content alone: a node that was changed
//! since is found by its words. Tiers, scores, weights and states of rules have no history and are the present ones.

use aionis_core::{
    chain::{ChangeOp, ObjectKind, parse_changes},
    error::{DomainError, ErrorKind},
    ids::{NodeId, ScopeKey},
    model::{EmbeddingStatus, Viewer},
    ports::store::{
        DenseHit, DenseQuery, EdgeQuery, LexicalQuery, NodeFilter, NodeRow, RecallReader, ScopeStatus, StoreError,
        SurroundingsQuery,
    },
    read::FoundNode,
    recall::{EdgeView, NodeVitals, Surroundings, bm25::LexicalHits},
    write::DerivedText,
};
use async_trait::async_trait;
use hashbrown::HashMap;
use serde_json::json;
use uuid::Uuid;

use crate::space::EmbeddingSpace;
use aionis_image::{Near, NodeFacts, ScopeImage};

/// A scope at a commit.
pub(crate) struct PastScope {
    image: ScopeImage,
    rows: HashMap<NodeId, NodeRow>,
    vectors: HashMap<NodeId, Vec<f32>>,
    aliases: HashMap<NodeId, NodeId>,
}

/// Refuses a scope that is too large to be built for one question.
pub(crate) fn check_size(scope: &ScopeKey, nodes: u64, nodes_max: u64) -> Result<(), StoreError> {
    if nodes <= nodes_max {
        return Ok(());
    }
    let message = format!(
        "an earlier state can be recalled from in scopes of at most {nodes_max} nodes (AIONIS_AS_OF_NODES_MAX); \
         use find with as_of"
    );
    let error = DomainError::new(ErrorKind::Invalid, "as_of_scope_too_large", message);
    Err(error.with_details(json!({ "scope": scope.scope(), "nodes": nodes, "nodes_max": nodes_max })).into())
}

/// Which edges there were, from the change lists of later commits.
#[derive(Default)]
pub(crate) struct EdgesThen {
    /// What first became of an edge since: whether it was there.
    first: HashMap<Uuid, bool>,
}

impl EdgesThen {
    /// Whether an edge that is stored now was there, or whether one that was removed since was.
    pub(crate) fn had(&self, id: Uuid, is_stored: bool) -> bool {
        self.first.get(&id).copied().unwrap_or(is_stored)
    }
}

/// Reads the change list of the next later commit, oldest first.
pub(crate) fn edges_changed(changes: &str, into: &mut EdgesThen) -> Result<(), StoreError> {
    let changes = parse_changes(changes).map_err(|problem| StoreError::Inconsistent {
        table: "memory_commits",
        column: "changes",
        row: String::new(),
        problem,
    })?;
    for change in changes.iter().filter(|change| change.kind == ObjectKind::Edge) {
        let was_there = match change.op {
            ChangeOp::Create => false,
            ChangeOp::Erase => true,
            ChangeOp::Update | ChangeOp::Touch => continue,
        };
        into.first.entry(change.id).or_insert(was_there);
    }
    Ok(())
}

impl PastScope {
    pub(crate) fn new(space: &EmbeddingSpace, seq: u64) -> Self {
        let mut image = ScopeImage::empty(space.dim, usize::MAX);
        image.hold_all_postings();
        image.head_seq = seq;
        Self { image, rows: HashMap::new(), vectors: HashMap::new(), aliases: HashMap::new() }
    }

    /// Says which nodes were aliases then, before any node is taken in.
    pub(crate) fn with_aliases(mut self, aliases: impl IntoIterator<Item = (NodeId, NodeId)>) -> Self {
        self.aliases.extend(aliases);
        self
    }

    /// Takes a node in, with the vector of that content if there is one.
    pub(crate) fn put_node(&mut self, node: FoundNode, vector: Option<Vec<f32>>) {
        let mut row = node.row;
        let text = DerivedText::of_stored(row.node_type, row.title.as_deref(), row.text_summary.as_deref(), &row.slots);
        let slot = self.image.put_facts(&NodeFacts {
            id: row.id.0,
            node_no: 0,
            node_type: row.node_type,
            tier: row.tier,
            lane: row.lane,
            owner_agent: row.owner_agent_id.as_deref(),
            owner_team: row.owner_team_id.as_deref(),
            flags: text.flags,
            terms: text.counts.len,
            live_rule: row.rule.as_ref().is_some_and(|rule| rule.state.is_live()),
            pending: false,
            ready: false,
            salience: row.salience,
            decay: row.decay,
            confidence: row.confidence,
            name_key: text.name_key.as_deref(),
            client_id: row.client_id.as_deref(),
            alias_of: self.aliases.get(&row.id).map(|to| to.0),
        });
        for (term, count) in &text.counts.terms {
            self.image.add_term(slot, term, *count);
        }
        match vector {
            Some(vector) => {
                self.image.put_vector(row.id, 0, &vector);
                self.vectors.insert(row.id, vector);
            }
            None => (row.embedding_status, row.embedding_model) = (EmbeddingStatus::Failed, None),
        }
        self.rows.insert(row.id, row);
    }

    /// Takes an edge in, when both its ends were there.
    pub(crate) fn put_edge(&mut self, edge: EdgeView) {
        if self.rows.contains_key(&edge.src) && self.rows.contains_key(&edge.dst) {
            self.image.put_edge(edge);
        }
    }
}

#[async_trait]
impl RecallReader for PastScope {
    async fn scope_status(&self, _: &ScopeKey) -> Result<ScopeStatus, StoreError> {
        let (nodes, pending) = self.image.counts();
        Ok(ScopeStatus { head_seq: self.image.head_seq, nodes, pending, oldest_pending: None })
    }

    async fn dense(&self, query: DenseQuery) -> Result<Vec<DenseHit>, StoreError> {
        let mut hits = match self.image.near(&query.filter, &query.vector, self.image.reach(query.limit), true) {
            Near::Scored(hits) => self.image.resolved(&query.filter, hits),
            Near::Candidates(_) => {
                return Err(StoreError::Driver("an earlier state does not hold its vectors".to_owned()));
            }
        };
        hits.sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.id.cmp(&b.id)));
        hits.truncate(query.limit);
        Ok(hits)
    }

    async fn lexical(&self, query: LexicalQuery) -> Result<LexicalHits, StoreError> {
        Ok(self.image.lexical(&query.filter, &query.terms, query.limit))
    }

    async fn quoted(&self, _: &ScopeKey, filter: &NodeFilter, literals: &[String]) -> Result<Vec<NodeId>, StoreError> {
        Ok(self.image.quoted(filter, literals))
    }

    async fn edges_around(&self, query: EdgeQuery) -> Result<Vec<EdgeView>, StoreError> {
        Ok(self.image.edges_around(&query))
    }

    async fn surroundings(&self, query: SurroundingsQuery) -> Result<Surroundings, StoreError> {
        Ok(self.image.surroundings(&query))
    }

    async fn vitals(&self, _: &ScopeKey, ids: &[NodeId], viewer: &Viewer) -> Result<Vec<NodeVitals>, StoreError> {
        Ok(self.image.vitals(ids, viewer))
    }

    async fn rows(&self, _: &ScopeKey, ids: &[NodeId]) -> Result<Vec<NodeRow>, StoreError> {
        Ok(ids.iter().filter_map(|id| self.rows.get(id).cloned()).collect())
    }

    async fn stored_vectors(&self, _: &ScopeKey, ids: &[NodeId]) -> Result<Vec<(NodeId, Vec<f32>)>, StoreError> {
        Ok(ids.iter().filter_map(|id| self.vectors.get(id).map(|vector| (*id, vector.clone()))).collect())
    }
}

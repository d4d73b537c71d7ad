//! Looking through all nodes for pairs that look alike, and keeping them in a queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aionis_core::{
    error::{DomainError, ErrorKind},
    ids::NodeId,
    jobs::{
        JobInfo, Over,
        consolidation::{Candidate, CandidateState, MergeNode, Queued, Side, Thresholds, pair_key, score_pair},
    },
    model::{NodeType, Viewer},
    ports::store::{DenseHit, DenseQuery, NodeFilter, SeedRules},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    super::{Job, Report, Step, Stepped},
    after,
};

/// Neighbours that are asked for first: kinds and owners are told apart only afterwards.
const REACH: usize = 64;
/// Neighbours that are asked for when those are all near and too few of them fit.
const REACH_MAX: usize = 1_024;

pub(in crate::jobs) const INFO: JobInfo = JobInfo {
    name: "consolidation-candidates",
    about: "Look for nodes that say the same and queue them in pairs",
    changes: true,
    over: Over::Scopes,
    schedule: None,
};

/// What counts as alike, and how much is looked at.
#[derive(Clone, Debug)]
pub struct CandidateSettings {
    /// Kinds of nodes that are looked at.
    pub types: Vec<NodeType>,
    /// Nodes that are looked at in one step.
    pub anchors: usize,
    /// Nearest nodes that each is compared with.
    pub neighbors: usize,
    /// When a pair counts as alike.
    pub thresholds: Thresholds,
    /// Whether the job ends negative when a pair is queued.
    pub strict: bool,
}

impl Default for CandidateSettings {
    fn default() -> Self {
        Self {
            types: vec![NodeType::Topic, NodeType::Concept, NodeType::Entity],
            anchors: 300,
            neighbors: 8,
            thresholds: Thresholds::default(),
            strict: false,
        }
    }
}

/// Pairs that somebody decides.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// Keys of pairs that are the same: they are merged next.
    pub accept: Vec<String>,
    /// Keys of pairs that are not.
    pub reject: Vec<String>,
}

/// Finds pairs, or decides some.
#[derive(Debug, Default)]
pub struct ConsolidationCandidates {
    settings: CandidateSettings,
    decisions: Decisions,
}

impl ConsolidationCandidates {
    /// Looks for pairs.
    pub fn new(settings: CandidateSettings) -> Self {
        Self { settings, decisions: Decisions::default() }
    }

    /// Decides pairs that wait, and looks for none.
    pub fn deciding(decisions: Decisions) -> Self {
        Self { settings: CandidateSettings::default(), decisions }
    }
}

#[async_trait]
impl Job for ConsolidationCandidates {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        let Thresholds { min_vector, min_score, conflict_min_shared_tokens, conflict_negation_lexical_min } =
            self.settings.thresholds;
        json!({
            "types": self.settings.types,
            "anchors": self.settings.anchors,
            "neighbors_per_node": self.settings.neighbors,
            "min_vector": min_vector,
            "min_score": min_score,
            "conflict_min_shared_tokens": conflict_min_shared_tokens,
            "conflict_negation_lexical_min": conflict_negation_lexical_min,
            "strict": self.settings.strict,
            "accept": self.decisions.accept,
            "reject": self.decisions.reject,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        if !(self.decisions.accept.is_empty() && self.decisions.reject.is_empty()) {
            return decide(&self.decisions, on).await;
        }
        let scope = on.scope()?;
        let page = on.store.node_ids(scope, after(on.cursor)?, self.settings.anchors).await?;
        let mut report = Report::default();
        let ids: Vec<NodeId> =
            page.iter().filter(|(_, kind)| self.settings.types.contains(kind)).map(|(id, _)| *id).collect();
        let found = Search { settings: &self.settings, on }.pairs(&ids, &mut report).await?;
        let queued = match on.dry_run || found.is_empty() {
            true => Queued::default(),
            false => on.store.queue_candidates(scope, &found, on.now).await?,
        };
        report.count("pair_candidates", found.len() as u64);
        report.count("suggested", if on.dry_run { found.len() as u64 } else { queued.new + queued.waiting });
        report.count("queued_new", queued.new);
        report.count("queued_again", queued.waiting);
        report.count("decided_before", queued.decided);
        report.count("conflict_detected", found.iter().filter(|pair| pair.score.conflict.is_some()).count() as u64);
        for pair in &found {
            report.list("suggestions", shown(pair));
        }
        let next = page.last().filter(|_| page.len() == self.settings.anchors);
        Ok(Stepped { report, next: next.map(|(id, _)| json!({ "after": id })) })
    }

    fn holds(&self, report: &Report) -> bool {
        !self.settings.strict || report.number("suggested") == 0
    }
}

/// A pair as reports show it: ids and numbers.
fn shown(pair: &Candidate) -> Value {
    let conflict = pair.score.conflict.map(|conflict| {
        json!({
            "kind": conflict.kind,
            "score": conflict.score,
            "shared_content_tokens": conflict.shared_tokens,
        })
    });
    json!({
        "pair_key": pair.pair_key,
        "type": pair.node_type,
        "score": pair.score.score,
        "vector_similarity": pair.score.vector_similarity,
        "lexical_similarity": pair.score.lexical_similarity,
        "conflict": conflict,
        "state": pair.state,
    })
}

async fn decide(decisions: &Decisions, on: &Step<'_>) -> Result<Stepped, DomainError> {
    let scope = on.scope()?;
    let mut report = Report::default();
    let of = |keys: &[String], state| keys.iter().map(|key| (key.clone(), state)).collect::<Vec<_>>();
    let all = [of(&decisions.accept, CandidateState::Open), of(&decisions.reject, CandidateState::Rejected)].concat();
    for (key, state) in all {
        if !on.dry_run && !on.store.decide_candidate(scope, &key, state, on.now).await? {
            let message = format!("no pair {key} waits in {scope}; consolidation-candidates reports what it queues");
            return Err(DomainError::new(ErrorKind::NotFound, "pair_not_found", message));
        }
        let name = if state == CandidateState::Open { "accepted" } else { "rejected" };
        report.count(name, 1);
        report.list("pairs", json!(key));
    }
    Ok(Stepped { report, next: None })
}

/// One step's search.
struct Search<'a> {
    settings: &'a CandidateSettings,
    on: &'a Step<'a>,
}

impl Search<'_> {
    async fn pairs(&self, ids: &[NodeId], report: &mut Report) -> Result<Vec<Candidate>, DomainError> {
        let scope = self.on.scope()?;
        let mut anchors = self.on.store.merge_nodes(scope, ids).await?;
        let before = anchors.len();
        anchors.retain(|node| node.excluded(&self.settings.types).is_none());
        report.count("left_out", (before - anchors.len()) as u64);
        report.count("anchors", anchors.len() as u64);
        let ids: Vec<NodeId> = anchors.iter().map(|node| node.id).collect();
        let vectors: HashMap<NodeId, Vec<f32>> = self.on.store.stored_vectors(scope, &ids).await?.into_iter().collect();
        let mut known: BTreeMap<NodeId, MergeNode> = anchors.iter().map(|node| (node.id, node.clone())).collect();
        let mut near: Vec<(NodeId, Vec<DenseHit>)> = Vec::with_capacity(anchors.len());
        for anchor in &anchors {
            let Some(vector) = vectors.get(&anchor.id) else { continue };
            near.push((anchor.id, self.near(anchor, vector, REACH).await?));
        }
        self.learn(near.iter().flat_map(|(_, hits)| hits), &mut known).await?;
        for (id, hits) in &mut near {
            let (Some(anchor), Some(vector)) = (known.get(id).cloned(), vectors.get(id)) else { continue };
            if self.fitting(&anchor, hits, &known).len() < self.settings.neighbors && self.is_cut(hits, REACH) {
                *hits = self.near(&anchor, vector, REACH_MAX).await?;
                self.learn(hits.iter(), &mut known).await?;
                report.count("neighborhoods_cut", u64::from(self.is_cut(hits, REACH_MAX)));
            }
        }
        let sides: BTreeSet<NodeId> =
            near.iter().flat_map(|(id, hits)| hits.iter().map(|h| h.id).chain([*id])).collect();
        let sides: HashMap<NodeId, Side> =
            sides.into_iter().filter_map(|id| known.get(&id)).map(|node| (node.id, Side::of(&node.text()))).collect();
        let mut pairs: BTreeMap<String, Candidate> = BTreeMap::new();
        for (id, hits) in &near {
            let Some(anchor) = known.get(id) else { continue };
            let fitting = self.fitting(anchor, hits, &known);
            report.count("neighbors_examined", fitting.len() as u64);
            for (other, similarity) in fitting {
                if let Some(pair) = self.pair((anchor, other), similarity, &sides) {
                    pairs.insert(pair.pair_key.clone(), pair);
                }
            }
        }
        Ok(pairs.into_values().collect())
    }

    async fn near(&self, anchor: &MergeNode, vector: &[f32], limit: usize) -> Result<Vec<DenseHit>, DomainError> {
        let viewer = Viewer { agent: anchor.owner_agent_id.clone(), team: anchor.owner_team_id.clone() };
        let query = DenseQuery {
            scope: self.on.scope()?.clone(),
            filter: NodeFilter { viewer, rules: SeedRules::Everything },
            vector: vector.to_vec(),
            limit,
            scored: limit,
            exact: false,
        };
        let mut hits = self.on.store.dense(query).await?;
        hits.retain(|hit| hit.id != anchor.id);
        Ok(hits)
    }

    /// Whether there may be more that is near.
    fn is_cut(&self, hits: &[DenseHit], reach: usize) -> bool {
        hits.len() + 1 >= reach && hits.last().is_some_and(|hit| hit.similarity >= self.settings.thresholds.min_vector)
    }

    /// Reads nodes that are not known yet.
    async fn learn<'h>(
        &self,
        hits: impl Iterator<Item = &'h DenseHit>,
        known: &mut BTreeMap<NodeId, MergeNode>,
    ) -> Result<(), DomainError> {
        let min = self.settings.thresholds.min_vector;
        let wanted: BTreeSet<NodeId> =
            hits.filter(|hit| hit.similarity >= min && !known.contains_key(&hit.id)).map(|hit| hit.id).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted: Vec<NodeId> = wanted.into_iter().collect();
        let nodes = self.on.store.merge_nodes(self.on.scope()?, &wanted).await?;
        known.extend(nodes.into_iter().map(|node| (node.id, node)));
        Ok(())
    }

    /// The nearest nodes that may be merged with an anchor.
    fn fitting<'k>(
        &self,
        anchor: &MergeNode,
        hits: &[DenseHit],
        known: &'k BTreeMap<NodeId, MergeNode>,
    ) -> Vec<(&'k MergeNode, f64)> {
        let fits = |hit: &DenseHit| {
            let node = known.get(&hit.id)?;
            let fits = hit.similarity >= self.settings.thresholds.min_vector
                && anchor.matches(node)
                && node.excluded(&self.settings.types).is_none();
            fits.then_some((node, hit.similarity))
        };
        hits.iter().filter_map(fits).take(self.settings.neighbors).collect()
    }

    fn pair(
        &self,
        (a, b): (&MergeNode, &MergeNode),
        similarity: f64,
        sides: &HashMap<NodeId, Side>,
    ) -> Option<Candidate> {
        let (low, high) = if a.id < b.id { (a, b) } else { (b, a) };
        let score = score_pair(sides.get(&low.id)?, sides.get(&high.id)?, similarity, &self.settings.thresholds)?;
        let state = if score.conflict.is_some() { CandidateState::Review } else { CandidateState::Open };
        Some(Candidate {
            pair_key: pair_key(low.id, high.id, low.node_type),
            low: low.id,
            high: high.id,
            node_type: low.node_type,
            digests: (low.digest, high.digest),
            score,
            state,
        })
    }
}

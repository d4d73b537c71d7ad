//! From seeds to the whole answer: edges, activation, subgraph, context (runtime specification 3.10, stage 2).

use std::time::Instant;

use aionis_core::{
    canon::audit_vector_sha256,
    error::DomainError,
    ids::NodeId,
    ports::store::{EdgeQuery, NodeRow, ScopeStatus},
    recall::{
        ContextBlock, ContextLimits, ContextRow, EdgeView, NodeVitals, Ranked, Seed, Subgraph, activate, assemble,
        build_context, context_candidates, hop_limit, keep_best, select_edges,
    },
};
use hashbrown::{HashMap, HashSet};

use crate::stages::{Work, timed, timed_now};

use super::{DebugEmbedding, Question, RecallAnswer, Run, millis};

/// Debugging shows this many seeds' embeddings.
const DEBUG_SEEDS: usize = 5;
const DEBUG_PREVIEW: usize = 16;

impl Run<'_> {
    pub(super) async fn expand(&mut self, seeds: &[Seed]) -> Result<RecallAnswer, DomainError> {
        let seed_ids: Vec<NodeId> = seeds.iter().map(|seed| seed.id).collect();
        let started = Instant::now();
        let edges = timed(Work::Recall, "expand", self.edges(&seed_ids)).await?;
        self.timings.edges_ms = millis(started);
        let started = Instant::now();
        let ids = keep_best(&seed_ids, &edges, self.knobs.max_nodes);
        let vitals = self.store.vitals(&self.request.scope, &ids, &self.request.viewer);
        let fetched = timed(Work::Recall, "vitals", vitals).await?;
        // Salience is what it is now.
        let (decay, now) = (&self.engine.settings.decay, self.engine.clock.now());
        let aged = |node: NodeVitals| NodeVitals { salience: decay.salience(node.salience, &node.decay, now), ..node };
        let vitals: HashMap<NodeId, NodeVitals> = fetched.into_iter().map(|node| (node.id, aged(node))).collect();
        let edges: Vec<EdgeView> =
            edges.into_iter().filter(|e| vitals.contains_key(&e.src) && vitals.contains_key(&e.dst)).collect();
        let seen_seeds: Vec<Seed> = seeds.iter().filter(|seed| vitals.contains_key(&seed.id)).copied().collect();
        let scored = self.scored(&vitals, &seen_seeds);
        let between: Vec<EdgeView> =
            edges.iter().filter(|e| scored.contains(&e.src) && scored.contains(&e.dst)).copied().collect();
        let mut ranked = activate(&seen_seeds, &vitals, &between, self.knobs.neighborhood_hops);
        let subgraph =
            assemble(&seed_ids, &ranked, &vitals, &edges, (self.knobs.max_nodes, self.knobs.max_edges), |node| {
                scored.contains(&node.id)
            });
        let limits = ContextLimits::new(self.request.token_budget);
        let in_context = context_candidates(&ranked, |id| vitals.get(id), &limits);
        let rows = timed(Work::Recall, "rows", self.rows(&seed_ids, &subgraph, &in_context)).await?;
        self.timings.nodes_ms = millis(started);
        let context = timed_now(Work::Recall, "pack", || context(&in_context, &rows, &limits));
        let neighborhood = (vitals.len(), edges.len());
        ranked.truncate(self.knobs.ranked_limit);
        self.finish(seen_seeds, subgraph, ranked, rows, context, neighborhood).await
    }

    async fn finish(
        &self,
        seeds: Vec<Seed>,
        subgraph: Subgraph,
        ranked: Vec<Ranked>,
        rows: HashMap<NodeId, NodeRow>,
        context: ContextBlock,
        neighborhood: (usize, usize),
    ) -> Result<RecallAnswer, DomainError> {
        let commit_ids = if self.request.include_meta && !subgraph.edges.is_empty() {
            let mut seqs: Vec<u64> = subgraph.edges.iter().map(|edge| edge.commit_seq).collect();
            seqs.sort_unstable();
            seqs.dedup();
            self.engine.store.commit_ids(&self.request.scope, &seqs).await?.into_iter().collect()
        } else {
            HashMap::new()
        };
        let debug_embeddings =
            if self.request.include_embeddings { Some(self.debug_embeddings(&seeds).await?) } else { None };
        Ok(RecallAnswer {
            seeds,
            nodes: subgraph.nodes,
            edges: subgraph.edges,
            ranked,
            rows,
            commit_ids,
            context,
            neighborhood,
            debug_embeddings,
            query: None,
            as_of_commit: 0,
            pending: ScopeStatus::default(),
            rules: None,
            warnings: Vec::new(),
            profile: self.profile,
            timings: self.timings,
        })
    }

    /// Nodes that take part in scoring. The vector endpoint leaves out nodes without a vector; the text endpoint does
    /// not, because such a node can be found by its words.
    fn scored(&self, vitals: &HashMap<NodeId, NodeVitals>, seeds: &[Seed]) -> HashSet<NodeId> {
        let by_text = matches!(self.request.question, Question::Text(_));
        let seeds: HashSet<NodeId> = seeds.iter().map(|seed| seed.id).collect();
        vitals
            .values()
            .filter(|node| !node.draft_topic && (by_text || node.ready || seeds.contains(&node.id)))
            .map(|node| node.id)
            .collect()
    }

    async fn edges(&self, seeds: &[NodeId]) -> Result<Vec<EdgeView>, DomainError> {
        if seeds.is_empty() {
            return Ok(Vec::new());
        }
        let (total, per_hop) = hop_limit(self.knobs.max_edges);
        let around = |nodes: Vec<NodeId>| EdgeQuery {
            scope: self.request.scope.clone(),
            viewer: self.request.viewer.clone(),
            around: nodes,
            min_weight: self.knobs.min_edge_weight,
            min_confidence: self.knobs.min_edge_confidence,
            limit: per_hop,
        };
        let first = self.store.edges_around(around(seeds.to_vec())).await?;
        if self.knobs.neighborhood_hops < 2 || first.is_empty() {
            return Ok(select_edges(first, Vec::new(), total));
        }
        let mut reached: Vec<NodeId> =
            first.iter().flat_map(|edge| [edge.src, edge.dst]).chain(seeds.to_vec()).collect();
        reached.sort_unstable();
        reached.dedup();
        let second = self.store.edges_around(around(reached)).await?;
        Ok(select_edges(first, second, total))
    }

    async fn rows(
        &self,
        seeds: &[NodeId],
        subgraph: &Subgraph,
        in_context: &[NodeId],
    ) -> Result<HashMap<NodeId, NodeRow>, DomainError> {
        let mut ids: Vec<NodeId> = seeds.iter().chain(&subgraph.nodes).chain(in_context).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = self.store.rows(&self.request.scope, &ids).await?;
        Ok(rows.into_iter().map(|row| (row.id, self.engine.aged(row))).collect())
    }

    async fn debug_embeddings(&self, seeds: &[Seed]) -> Result<Vec<DebugEmbedding>, DomainError> {
        let first: Vec<NodeId> = seeds.iter().take(DEBUG_SEEDS).map(|seed| seed.id).collect();
        let vectors = self.store.stored_vectors(&self.request.scope, &first).await?;
        Ok(vectors
            .into_iter()
            .map(|(node_id, vector)| {
                let preview = vector.iter().take(DEBUG_PREVIEW).copied().collect();
                DebugEmbedding { node_id, dims: vector.len(), sha256: audit_vector_sha256(&vector), preview }
            })
            .collect())
    }
}

fn context(candidates: &[NodeId], rows: &HashMap<NodeId, NodeRow>, limits: &ContextLimits) -> ContextBlock {
    let rows: Vec<ContextRow> = candidates.iter().filter_map(|id| rows.get(id)).map(context_row).collect();
    build_context(&rows.iter().collect::<Vec<_>>(), limits)
}

fn context_row(row: &NodeRow) -> ContextRow {
    ContextRow {
        id: row.id,
        node_type: row.node_type,
        title: row.title.clone(),
        text_summary: row.text_summary.clone(),
        slots: row.slots.clone(),
        raw_ref: row.raw_ref.clone(),
        evidence_ref: row.evidence_ref.clone(),
        commit_id: row.commit_id,
        rule: row.rule.clone(),
    }
}

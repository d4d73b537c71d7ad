//! The write use case.

use aionis_core::{
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    model::NodeType,
    write::{PreparedPart, Warning, WriteOutcome, WriteRequest, prepare},
};
use serde_json::json;

use crate::{
    Engine, NoVectors,
    jobs::TOPIC_CLUSTER,
    stages::{self, Work},
};

/// How large one write may be.
#[derive(Clone, Copy, Debug)]
pub struct WriteLimits {
    /// Nodes.
    pub nodes_max: usize,
    /// Edges.
    pub edges_max: usize,
}

/// What a write did, with what the edge needs to name it.
#[derive(Debug)]
pub struct WriteAnswer {
    /// The outcome.
    pub outcome: WriteOutcome,
    /// Per node in request order: its client id and type.
    pub nodes: Vec<(Option<String>, aionis_core::model::NodeType)>,
    /// Per edge in request order: its type and ends.
    pub edges: Vec<(aionis_core::model::EdgeType, aionis_core::ids::NodeId, aionis_core::ids::NodeId)>,
    /// Whether topics are to be clustered soon, as asked.
    pub topic_cluster_enqueued: bool,
}

impl Engine {
    /// Stores a write. When this returns, it is durable and can be recalled by its words.
    ///
    /// # Errors
    /// A caller's mistake, a limit, or a failure of storage; nothing is stored then.
    pub async fn write(&self, request: WriteRequest) -> Result<WriteAnswer, DomainError> {
        stages::note_tenant(request.scope.tenant());
        self.check_size(&request)?;
        let mut warnings = self.write_warnings(&request);
        let wants_topics = request.trigger_topic_cluster == Some(true);
        let prepared = stages::timed_now(Work::Write, "prepare", || prepare(request, &self.settings.write))?;
        let has_events = |part: &&PreparedPart| part.nodes.iter().any(|node| node.node_type == NodeType::Event);
        let scopes: Vec<ScopeKey> = prepared.parts.iter().filter(has_events).map(|part| part.scope.clone()).collect();
        let nodes = prepared
            .node_order
            .iter()
            .map(|&(part, at)| {
                let node = &prepared.parts[part].nodes[at];
                (node.client_id.clone(), node.node_type)
            })
            .collect();
        let edges = prepared
            .edge_order
            .iter()
            .map(|&(part, at)| {
                let edge = &prepared.parts[part].edges[at];
                (edge.edge_type, edge.src.id, edge.dst.id)
            })
            .collect();
        let mut outcome = stages::timed(Work::Write, "store", self.store.write(prepared)).await?;
        self.chain_height.note(outcome.commit_seq);
        metrics::counter!("aionis_commits_total").increment(u64::from(!outcome.replayed));
        metrics::counter!("aionis_nodes_written_total").increment(outcome.nodes.len() as u64);
        outcome.warnings.append(&mut warnings);
        let topic_cluster_enqueued = wants_topics && self.ask_for_topics(&scopes, &mut outcome.warnings).await;
        Ok(WriteAnswer { outcome, nodes, edges, topic_cluster_enqueued })
    }

    /// Makes the clustering of topics due in scopes that got events. The write is stored whatever comes of it.
    async fn ask_for_topics(&self, scopes: &[ScopeKey], warnings: &mut Vec<Warning>) -> bool {
        for scope in scopes {
            if let Err(error) = self.store.make_due(TOPIC_CLUSTER, scope).await {
                tracing::warn!(%error, scope_key = scope.as_str(), "the clustering of topics could not be asked for");
                let said = "topics could not be asked for now; they are clustered with the next periodic run";
                warnings.push(Warning::new("topic_cluster_not_run", said));
                return false;
            }
        }
        !scopes.is_empty()
    }

    fn check_size(&self, request: &WriteRequest) -> Result<(), DomainError> {
        let limits = self.settings.write_limits;
        for (field, count, max) in
            [("nodes", request.nodes.len(), limits.nodes_max), ("edges", request.edges.len(), limits.edges_max)]
        {
            if count > max {
                return Err(DomainError::new(
                    ErrorKind::TooLarge,
                    "batch_too_large",
                    format!("{field} holds {count} items, at most {max} are allowed; split the write"),
                )
                .with_details(json!({ "field": field, "count": count, "max": max })));
            }
        }
        Ok(())
    }

    fn write_warnings(&self, request: &WriteRequest) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if request.auto_embed && !request.nodes.is_empty() {
            match &self.queries {
                Ok(_) => {}
                Err(NoVectors::ModelMissing) => warnings.push(Warning::new(
                    "embedding_model_missing",
                    "the built-in model is not installed, so vectors wait; run `aionis model pull`. Recall by words works",
                )),
                Err(NoVectors::Disabled) => warnings.push(Warning::new(
                    "no_embedding_provider",
                    "EMBEDDING_PROVIDER=none: no vectors are derived. Recall by words works",
                )),
            }
        }
        warnings
    }
}

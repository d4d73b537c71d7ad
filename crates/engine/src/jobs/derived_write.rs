//! Writing what jobs derive: an ordinary write, stored only while its sources are what it was made of.

use aionis_core::{
    canon::{Digest, sha256_hex},
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::{NodeId, ScopeKey},
    ports::store::{Store, StoreError},
    write::{EdgeInput, JobWrite, NODE_CHANGED, NodeInput, WriteOutcome, WriteRequest, WriteSettings, prepare},
};

/// How often what changed meanwhile is derived anew before a step is given up.
pub(super) const TRIES: usize = 5;

/// What a step derived.
pub(super) struct Derived {
    pub(super) kind: &'static str,
    pub(super) nodes: Vec<NodeInput>,
    pub(super) edges: Vec<EdgeInput>,
    pub(super) expected: Vec<(NodeId, Option<Digest>)>,
}

/// How it is written.
pub(super) struct Writing<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) scope: &'a ScopeKey,
    /// Tenant whose scope names stay unprefixed in derived ids.
    pub(super) default_tenant: &'a str,
    /// Whether there is a provider that derives vectors.
    pub(super) can_embed: bool,
    pub(super) now: Timestamp,
}

impl Writing<'_> {
    /// Writes it; nothing is returned, and nothing stored, when a source has changed.
    pub(super) async fn write(&self, derived: Derived) -> Result<Option<WriteOutcome>, DomainError> {
        let dim = derived.nodes.iter().find_map(|node| node.embedding.as_ref().map(Vec::len)).unwrap_or(0);
        let started = self.now.to_iso();
        let input = format!("job:{}:{}:{started}:{}", derived.kind, self.scope.as_str(), derived.expected.len());
        let request = WriteRequest {
            scope: self.scope.clone(),
            actor: Some("job".to_owned()),
            parent_commit_id: None,
            input_text: None,
            input_sha256: Some(sha256_hex(input)),
            model_version: None,
            prompt_version: None,
            auto_embed: true,
            memory_lane: None,
            producer_agent_id: None,
            owner_agent_id: None,
            owner_team_id: None,
            force_reembed: false,
            trigger_topic_cluster: None,
            nodes: derived.nodes,
            edges: derived.edges,
            idempotency: None,
            received_at: self.now,
            writer: None,
        };
        // Texts come from what is stored: normalised and redacted as it was written.
        let settings = WriteSettings {
            default_tenant: self.default_tenant.to_owned(),
            text_max_len: usize::MAX,
            redactor: None,
            embedding_dim: dim,
            can_embed: self.can_embed,
        };
        let mut write = prepare(request, &settings)?;
        write.job = Some(JobWrite { kind: derived.kind, stands: derived.expected });
        match self.store.write(write).await {
            Ok(outcome) => Ok(Some(outcome)),
            Err(StoreError::Rejected(error)) if error.code == NODE_CHANGED => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sources changed again and again.
pub(super) fn never_still() -> DomainError {
    DomainError::new(
        ErrorKind::Conflict,
        NODE_CHANGED,
        format!("what it works on changed {TRIES} times while it was at it; the next run begins this step again"),
    )
}

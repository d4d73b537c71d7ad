//! Forgetting.

use aionis_core::{
    canon::{Digest, canonical_sha256},
    error::{DomainError, ErrorKind},
    forget::{COMMIT_KIND, ForgetOutcome, NODES_MAX, PreparedForget},
    ids::{NodeId, ScopeKey},
    model::Viewer,
    ports::store::FindQuery,
    read::{Eyes, FindFilter},
    write::IdempotencyKey,
};
use serde_json::{Value, json};

use crate::Engine;

/// Stored nodes looked at per reading.
const SCAN: usize = 20_000;

/// What is to be forgotten: nodes named, and nodes a filter lets through.
#[derive(Clone, Debug)]
pub struct ForgetRequest {
    /// Scope.
    pub scope: ScopeKey,
    /// Who; `system` if the request names nobody.
    pub actor: Option<String>,
    /// Nodes.
    pub ids: Vec<NodeId>,
    /// Nodes by the callers' keys.
    pub client_ids: Vec<String>,
    /// Nodes a filter lets through.
    pub filter: Option<FindFilter>,
    /// The request's selection as it was sent, which makes two requests the same.
    pub selection: Value,
    /// Whose eyes it is done with: nodes they may not change count as not stored. None may change everything.
    pub viewer: Option<Viewer>,
    /// The token of what was looked at before; without one nothing is erased.
    pub token: Option<Digest>,
    /// Repetition key, if any.
    pub idempotency: Option<IdempotencyKey>,
}

impl Engine {
    /// Looks at what would be erased, or erases it with the token of that look.
    ///
    /// # Errors
    /// Nothing to forget, too much at once, a token of something else, or a failure of storage; nothing is erased then.
    pub async fn forget(&self, request: ForgetRequest) -> Result<ForgetOutcome, DomainError> {
        let mut ids = request.ids.clone();
        let mut missing_client_ids = Vec::new();
        if !request.client_ids.is_empty() {
            let filter = FindFilter { client_ids: request.client_ids.clone(), ..FindFilter::default() };
            let found = self.matching(&request, filter, Eyes::MayChange(request.viewer.clone())).await?;
            missing_client_ids.extend(request.client_ids.iter().cloned());
            for (id, client_id) in found {
                missing_client_ids.retain(|named| client_id.as_ref() != Some(named));
                ids.push(id);
            }
        }
        if let Some(filter) = request.filter.clone() {
            // What a filter lets through tells what nodes say: only of what the caller sees.
            let eyes = request.viewer.clone().map_or(Eyes::MayChange(None), Eyes::Of);
            ids.extend(self.matching(&request, filter, eyes).await?.into_iter().map(|(id, _)| id));
        }
        ids.sort_unstable();
        ids.dedup();
        let actor = request.actor.as_deref().map(str::trim).filter(|actor| !actor.is_empty()).unwrap_or("system");
        let request_digest = canonical_sha256(&json!({
            "v": 1,
            "kind": COMMIT_KIND,
            "actor": actor,
            "selection": request.selection,
            "token": request.token,
        }));
        let prepared = PreparedForget {
            scope: request.scope,
            actor: actor.to_owned(),
            ids,
            missing_client_ids,
            viewer: request.viewer,
            token: request.token,
            request_digest,
            idempotency: request.idempotency,
        };
        let scope = prepared.scope.clone();
        let erases = prepared.token.is_some();
        let outcome = self.store.forget(prepared).await;
        if erases {
            // Also after a failure: the answer may be lost and the erasure done.
            self.rule_cache.forget(&scope);
        }
        Ok(outcome?)
    }

    async fn matching(
        &self,
        request: &ForgetRequest,
        filter: FindFilter,
        eyes: Eyes,
    ) -> Result<Vec<(NodeId, Option<String>)>, DomainError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self
                .store
                .find(FindQuery {
                    scope: request.scope.clone(),
                    filter: filter.clone(),
                    eyes: eyes.clone(),
                    as_of: None,
                    after,
                    offset: 0,
                    limit: NODES_MAX,
                    scan_max: SCAN,
                    maybe_named: Vec::new(),
                })
                .await?;
            found.extend(page.nodes.into_iter().map(|node| (node.row.id, node.row.client_id)));
            if found.len() > NODES_MAX {
                return Err(DomainError::new(
                    ErrorKind::Invalid,
                    "forget_too_large",
                    format!("the filter lets more than {NODES_MAX} nodes through; narrow it and forget in parts"),
                )
                .with_details(json!({ "nodes_max": NODES_MAX })));
            }
            after = page.next.map(|place| place.after);
            if after.is_none() {
                return Ok(found);
            }
        }
    }
}

//! Reading what is stored, apart from recall: nodes, their history, commits, verification of a scope.

use std::sync::Arc;

use aionis_core::{
    canon::{Digest, canonical_sha256},
    chain::{Change, StoredCommit, parse_changes},
    derive_id::{node_id_by_client_id, reference_scope_key},
    error::{DomainError, ErrorKind},
    held,
    ids::{NodeId, ScopeKey},
    model::Viewer,
    ports::store::{FindPage, FindQuery, StoreError},
    read::{AsOf, ErasedNode, Eyes, FindFilter, FoundNode, NodeVersion, Place},
};
use serde_json::json;

use crate::{
    Engine,
    verify::{Progress, ScopeReport, verify},
};

/// Most stored nodes that one page looks at.
const SCAN_MAX: usize = 10_000;

/// Which nodes are asked for.
#[derive(Clone, Debug)]
pub struct FindRequest {
    /// Scope.
    pub scope: ScopeKey,
    /// For whom.
    pub viewer: Viewer,
    /// Which.
    pub filter: FindFilter,
    /// An earlier state.
    pub as_of: Option<AsOf>,
    /// Where an earlier page ended, as it was told.
    pub cursor: Option<String>,
    /// Nodes passed over first.
    pub offset: usize,
    /// Most nodes of the page.
    pub limit: usize,
}

/// A page of nodes.
#[derive(Debug)]
pub struct Found {
    /// The nodes, newest first.
    pub nodes: Vec<FoundNode>,
    /// Those among the ids asked for that were erased.
    pub erased: Vec<ErasedNode>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
    /// The commit whose state this is; of the present state the newest one there was before.
    pub as_of_commit: u64,
}

/// A commit and what it changed, as far as someone may see it.
#[derive(Debug)]
pub struct CommitView {
    /// The commit.
    pub commit: StoredCommit,
    /// Its changes.
    pub changes: Vec<Change>,
    /// Whether these are all.
    pub complete: bool,
}

struct Silent;

impl Progress for Silent {
    fn scope(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
}

impl Engine {
    /// Nodes that a filter lets through.
    ///
    /// # Errors
    /// A cursor of another question, an unknown earlier state, or a failure of storage.
    pub async fn find(&self, request: FindRequest) -> Result<Found, DomainError> {
        let as_of = match request.as_of {
            Some(state) => Some(self.state_of(&request.scope, state).await?),
            None => None,
        };
        let question = question(&request, as_of);
        let key = &self.settings.cursor_key;
        let place = request.cursor.as_deref().map(|text| key.open(text, &question)).transpose()?;
        if place.is_some() && request.offset > 0 {
            return Err(DomainError::field("offset", "goes with the first page only: the cursor says where to go on"));
        }
        let offset = place.map_or(request.offset, |place| place.offset);
        let maybe_named = match as_of {
            Some(_) => self.ids_of(&request.scope, &request.filter.client_ids),
            None => Vec::new(),
        };
        let head = match as_of {
            Some(seq) => seq,
            None => self.store.scope_status(&request.scope).await?.head_seq,
        };
        let eyes = Eyes::Of(request.viewer);
        let ids = request.filter.ids.clone();
        let FindPage { mut nodes, next } = self
            .store
            .find(FindQuery {
                scope: request.scope.clone(),
                filter: request.filter,
                eyes: eyes.clone(),
                as_of,
                after: place.map(|place| place.after),
                offset,
                limit: request.limit,
                scan_max: SCAN_MAX,
                maybe_named,
            })
            .await?;
        nodes = nodes.into_iter().map(|node| FoundNode { row: self.aged(node.row), ..node }).collect();
        let erased = if ids.is_empty() { Vec::new() } else { self.erased(&request.scope, &ids, &eyes).await? };
        let next_cursor = next.map(|place: Place| key.seal(place, &question)).transpose()?;
        Ok(Found { nodes, erased, next_cursor, as_of_commit: head })
    }

    /// One node as it is, or as it was.
    ///
    /// # Errors
    /// `node_not_found`, `erased`, an unknown earlier state, or a failure of storage.
    pub async fn node(
        &self,
        scope: &ScopeKey,
        id: NodeId,
        viewer: Viewer,
        as_of: Option<AsOf>,
    ) -> Result<(FoundNode, u64), DomainError> {
        let found = self
            .find(FindRequest {
                scope: scope.clone(),
                viewer,
                filter: FindFilter { ids: vec![id], ..FindFilter::default() },
                as_of,
                cursor: None,
                offset: 0,
                limit: 1,
            })
            .await?;
        match (found.nodes.into_iter().next(), found.erased.first()) {
            (Some(node), _) => Ok((node, found.as_of_commit)),
            (None, Some(erased)) => Err(gone(erased)),
            (None, None) => Err(node_not_found(id, scope)),
        }
    }

    /// The contents a node had, newest first; at most `limit` older than version `before`.
    ///
    /// # Errors
    /// `node_not_found`, `erased`, or a failure of storage.
    pub async fn history(
        &self,
        scope: &ScopeKey,
        id: NodeId,
        viewer: Viewer,
        (before, limit): (Option<u32>, usize),
    ) -> Result<(Vec<NodeVersion>, Option<u32>), DomainError> {
        // Who does not see the node does not learn that it had a history.
        self.node(scope, id, viewer.clone(), None).await?;
        let mut versions = self.store.history(scope, id, before, limit + 1).await?;
        let more = versions.len() > limit;
        versions.truncate(limit);
        let next = versions.last().filter(|_| more).map(|version| version.version);
        let eyes = Eyes::Of(viewer);
        versions.retain(|version| version.is_seen_by(&eyes));
        Ok((versions, next))
    }

    /// Commits of a scope, newest first, and the number below which the next page begins.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn commits(
        &self,
        scope: &ScopeKey,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<StoredCommit>, Option<u64>), DomainError> {
        let mut commits = self.store.newest_commits(scope, before, limit + 1).await?;
        let more = commits.len() > limit;
        commits.truncate(limit);
        let next = commits.last().filter(|_| more).map(|commit| commit.header.seq);
        Ok((commits, next))
    }

    /// One commit with its changes: all of them, or those of nodes that `viewer` sees.
    ///
    /// # Errors
    /// `commit_not_found`, or a failure of storage.
    pub async fn commit(
        &self,
        scope: &ScopeKey,
        named: AsOf,
        viewer: Option<Viewer>,
    ) -> Result<CommitView, DomainError> {
        let commit = self.commit_at(scope, named).await?;
        let mut changes = parse_changes(&commit.changes).map_err(|problem| StoreError::Inconsistent {
            table: "memory_commits",
            column: "changes",
            row: commit.id.to_string(),
            problem,
        })?;
        let Some(viewer) = viewer else { return Ok(CommitView { commit, changes, complete: true }) };
        let mut ids: Vec<NodeId> = changes.iter().map(|change| NodeId(change.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let seen = self
            .store
            .find(FindQuery {
                scope: scope.clone(),
                limit: ids.len(),
                scan_max: usize::MAX,
                filter: FindFilter { ids, ..FindFilter::default() },
                eyes: Eyes::Of(viewer),
                as_of: None,
                after: None,
                offset: 0,
                maybe_named: Vec::new(),
            })
            .await?;
        let seen: std::collections::HashSet<_> = seen.nodes.iter().map(|node| node.row.id.0).collect();
        let all = changes.len();
        changes.retain(|change| seen.contains(&change.id));
        Ok(CommitView { commit, complete: changes.len() == all, changes })
    }

    /// Verifies one scope, as `aionis verify` does. One at a time: it reads everything the scope holds.
    ///
    /// # Errors
    /// Another verification is under way, no such scope, or a failure of storage.
    pub async fn verify_scope(&self, scope: &ScopeKey) -> Result<ScopeReport, DomainError> {
        let one = Arc::clone(&self.verifying).try_acquire_owned().map_err(|_| {
            DomainError::new(
                ErrorKind::TooManyRequests,
                "verify_in_progress",
                "a verification is under way in this process; retry when it is done",
            )
            .with_retry_after(std::time::Duration::from_secs(1))
        })?;
        // It is being read on also when the request is over.
        held::holding(Arc::new((held::share(), one)), self.verify_alone(scope)).await
    }

    async fn verify_alone(&self, scope: &ScopeKey) -> Result<ScopeReport, DomainError> {
        let of_scope = (Some(scope.tenant()), Some(scope.scope()));
        let report = verify(self.store.as_ref(), of_scope, false, &Silent).await?;
        report.scopes.into_iter().next().ok_or_else(|| {
            DomainError::new(ErrorKind::NotFound, "scope_not_found", "nothing was ever written to this scope")
        })
    }

    /// The number of the commit a state is named by.
    pub(crate) async fn state_of(&self, scope: &ScopeKey, state: AsOf) -> Result<u64, DomainError> {
        Ok(self.commit_at(scope, state).await?.header.seq)
    }

    async fn commit_at(&self, scope: &ScopeKey, named: AsOf) -> Result<StoredCommit, DomainError> {
        self.store.commit_at(scope, named).await?.ok_or_else(|| {
            DomainError::new(
                ErrorKind::NotFound,
                "commit_not_found",
                "no commit of this scope is named so; list them with GET /v1/memory/commits",
            )
        })
    }

    /// The ids that nodes with these client ids have at all times: an id given beside a client id has to be that one. What
    /// a node is called now may be something it was not called then.
    fn ids_of(&self, scope: &ScopeKey, client_ids: &[String]) -> Vec<NodeId> {
        let key = reference_scope_key(scope.tenant(), scope.scope(), &self.settings.write.default_tenant);
        client_ids.iter().map(|client_id| NodeId(node_id_by_client_id(&key, client_id))).collect()
    }

    async fn erased(&self, scope: &ScopeKey, ids: &[NodeId], eyes: &Eyes) -> Result<Vec<ErasedNode>, DomainError> {
        let mut erased = self.store.erased(scope, ids).await?;
        erased.retain(|node| eyes.see(node.lane, node.owner_agent_id.as_deref(), node.owner_team_id.as_deref()));
        Ok(erased)
    }
}

/// What makes a question the same, so that a cursor of one is not used for another.
fn question(request: &FindRequest, as_of: Option<u64>) -> Digest {
    let FindRequest { scope, viewer, filter, .. } = request;
    let times = [filter.created_from, filter.created_before, filter.updated_from, filter.updated_before];
    canonical_sha256(&json!({
        "scope": scope.as_str(),
        "viewer": [viewer.agent, viewer.team],
        "as_of": as_of,
        "named": [json!(filter.ids), json!(filter.client_ids)],
        "kinds": [json!(filter.types), json!(filter.tiers), json!(filter.lane), json!(filter.embedding_status)],
        "owners": [filter.owner_agent_id, filter.owner_team_id, filter.producer_agent_id],
        "holds": [json!(filter.title_contains), json!(filter.text_contains), json!(filter.slots_contains)],
        "times": times,
    }))
}

fn node_not_found(id: NodeId, scope: &ScopeKey) -> DomainError {
    DomainError::new(ErrorKind::NotFound, "node_not_found", "no node of this scope that you may see has this id")
        .with_details(json!({ "node_id": id, "scope": scope.scope(), "tenant_id": scope.tenant() }))
}

fn gone(node: &ErasedNode) -> DomainError {
    DomainError::new(ErrorKind::Gone, "erased", "the node was forgotten; its commits keep the digest of what it said")
        .with_details(erased_json(node))
}

/// What is told of an erased node.
pub fn erased_json(node: &ErasedNode) -> serde_json::Value {
    json!({
        "node_id": node.id,
        "erased": true,
        "erased_at": node.at.to_iso(),
        "digest": node.digest,
        "commit_id": node.commit_id,
        "commit_seq": node.commit_seq,
    })
}

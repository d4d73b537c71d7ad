//! Verification: walks every chain, recomputes every digest, names the first break of each scope.

use aionis_core::{
    chain::{ChainBreak, ChainVerifier, ObjectKind},
    error::DomainError,
    ids::ScopeKey,
    jobs::scope_purge::PurgeChain,
    ports::store::{IntegrityStore, ScopeSummary, Store},
};
use serde::Serialize;

const PAGE: usize = 2_000;

/// What verification found.
#[derive(Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Whether everything holds.
    pub ok: bool,
    /// Per scope.
    pub scopes: Vec<ScopeReport>,
    /// The records of purges, of all tenants.
    pub purges: PurgesReport,
    /// What the medium's own check reports, if it was asked for.
    pub physical: Vec<String>,
}

/// What verification found of the records of purges.
#[derive(Debug, Default, Serialize)]
pub struct PurgesReport {
    /// Whether everything holds.
    pub ok: bool,
    /// Records accepted.
    pub records: u64,
    /// The first thing that does not hold.
    pub first_break: Option<String>,
}

/// What verification found of one scope.
#[derive(Debug, Serialize)]
pub struct ScopeReport {
    /// Tenant.
    pub tenant_id: String,
    /// Scope.
    pub scope: String,
    /// Whether everything holds.
    pub ok: bool,
    /// Commits accepted.
    pub commits: u64,
    /// Objects checked.
    pub objects: u64,
    /// Kept earlier versions checked.
    pub versions: u64,
    /// Number of the newest commit.
    pub head_seq: u64,
    /// Hash of the newest commit.
    pub head_hash: String,
    /// The first thing that does not hold.
    pub first_break: Option<ChainBreak>,
}

/// Told how far a scope's verification is.
pub trait Progress: Send + Sync {
    /// `total` steps are expected for this scope.
    fn scope(&self, scope: &str, total: u64);
    /// So many more are done.
    fn advance(&self, steps: u64);
}

/// Verifies scopes of a store, all of them as of one state of it: what is written meanwhile is not seen.
///
/// # Errors
/// A failure to list the scopes. What does not hold, or cannot be read, is reported and not an error.
pub async fn verify(
    store: &dyn Store,
    (tenant, scope): (Option<&str>, Option<&str>),
    physical: bool,
    progress: &dyn Progress,
) -> Result<VerifyReport, DomainError> {
    let mut report = VerifyReport::default();
    if physical {
        report.physical = store.physical_check().await?;
    }
    // Pages that are read while somebody writes do not fit together, and would tell of breaks that are none.
    let snapshot = store.snapshot().await?;
    let store = snapshot.as_ref();
    for summary in store.scopes(tenant, scope).await? {
        let (tenant_id, scope) = summary.scope_key.split_once('/').unwrap_or(("", &summary.scope_key));
        progress.scope(&summary.scope_key, summary.head_seq + summary.nodes + summary.edges);
        let mut found = ScopeReport {
            tenant_id: tenant_id.to_owned(),
            scope: scope.to_owned(),
            ok: false,
            commits: 0,
            objects: 0,
            versions: 0,
            head_seq: summary.head_seq,
            head_hash: summary.head_hash.to_hex(),
            first_break: None,
        };
        match ScopeKey::from_stored(&summary.scope_key) {
            Ok(key) => {
                if let Err(e) = verify_scope(store, &key, &summary, &mut found, progress).await {
                    let problem = format!("cannot be read: {}", e.internal.unwrap_or(e.message));
                    found.first_break = Some(broken(&summary.scope_key, "storage", &summary.scope_key, problem));
                }
            }
            Err(e) => found.first_break = Some(broken(&summary.scope_key, "head", &summary.scope_key, e.to_string())),
        }
        found.ok = found.first_break.is_none();
        report.scopes.push(found);
    }
    report.purges = verify_purges(store).await;
    let whole = report.physical.is_empty() && report.purges.ok;
    report.ok = whole && report.scopes.iter().all(|scope| scope.ok);
    Ok(report)
}

async fn verify_purges(store: &dyn IntegrityStore) -> PurgesReport {
    let mut chain = PurgeChain::default();
    let first_break = match walk_purges(store, &mut chain).await {
        Ok(walked) => walked.err(),
        Err(e) => Some(format!("cannot be read: {}", e.internal.unwrap_or(e.message))),
    };
    PurgesReport { ok: first_break.is_none(), records: chain.records(), first_break }
}

/// The inner error is the first break.
async fn walk_purges(store: &dyn IntegrityStore, chain: &mut PurgeChain) -> Result<Result<(), String>, DomainError> {
    loop {
        let page = store.purges(chain.records(), PAGE).await?;
        if page.is_empty() {
            return Ok(chain.finish(store.purges_head().await?));
        }
        for record in &page {
            if let Err(found) = chain.record(record) {
                return Ok(Err(found));
            }
        }
    }
}

fn broken(scope: &str, object: &str, id: impl ToString, problem: impl Into<String>) -> ChainBreak {
    ChainBreak {
        scope_key: scope.to_owned(),
        seq: None,
        object: object.to_owned(),
        id: id.to_string(),
        problem: problem.into(),
    }
}

/// A scope's checks stop at the first break, which is carried as the error of the inner result.
type Checked = Result<Result<(), Box<ChainBreak>>, DomainError>;

macro_rules! first_break {
    ($checked:expr) => {
        if let Err(found) = $checked {
            return Ok(Err(found));
        }
    };
}

async fn verify_scope(
    store: &dyn IntegrityStore,
    key: &ScopeKey,
    summary: &ScopeSummary,
    found: &mut ScopeReport,
    progress: &dyn Progress,
) -> Result<(), DomainError> {
    let mut walk = Walk { store, key, verifier: ChainVerifier::new(key.as_str()), found, progress };
    let result = walk.run(summary).await?;
    walk.found.commits = walk.verifier.commits();
    walk.found.first_break = result.err().map(|b| *b);
    Ok(())
}

struct Walk<'a> {
    store: &'a dyn IntegrityStore,
    key: &'a ScopeKey,
    verifier: ChainVerifier,
    found: &'a mut ScopeReport,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    async fn run(&mut self, summary: &ScopeSummary) -> Checked {
        first_break!(self.commits().await?);
        first_break!(self.verifier.stored_head(summary.head_seq, &summary.head_hash));
        let nodes = match self.nodes().await? {
            Ok(nodes) => nodes,
            Err(found) => return Ok(Err(found)),
        };
        let edges = match self.edges().await? {
            Ok(edges) => edges,
            Err(found) => return Ok(Err(found)),
        };
        first_break!(self.rules().await?);
        first_break!(self.feedback().await?);
        first_break!(self.erasures().await?);
        first_break!(self.verifier.finish());
        first_break!(self.versions().await?);
        if (nodes, edges) != (summary.nodes, summary.edges) {
            let problem = format!(
                "the scope counts {} nodes and {} edges, stored are {nodes} and {edges}",
                summary.nodes, summary.edges
            );
            return Ok(Err(Box::new(broken(self.key.as_str(), "head", self.key, problem))));
        }
        Ok(Ok(()))
    }

    async fn commits(&mut self) -> Checked {
        let mut after = 0;
        loop {
            let page = self.store.commits(self.key, after, PAGE).await?.commits;
            let Some(last) = page.last() else { return Ok(Ok(())) };
            after = match last {
                Ok(commit) => commit.header.seq,
                Err((seq, _)) => *seq,
            };
            for commit in &page {
                match commit {
                    Ok(commit) => first_break!(self.verifier.commit(commit)),
                    Err((seq, problem)) => {
                        let mut found = broken(self.key.as_str(), "commit", seq, format!("cannot be read: {problem}"));
                        found.seq = Some(*seq);
                        return Ok(Err(Box::new(found)));
                    }
                }
            }
            self.progress.advance(page.len() as u64);
        }
    }

    async fn nodes(&mut self) -> Result<Result<u64, Box<ChainBreak>>, DomainError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.store.nodes(self.key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Ok(count)) };
            after = Some(last.id);
            for node in &page {
                let unsound = |problem: String| Box::new(broken(self.key.as_str(), "node", node.id, problem));
                let recomputed = match &node.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => return Ok(Err(unsound(format!("cannot be read: {problem}")))),
                };
                if let Err(found) = self.verifier.object(ObjectKind::Node, node.id, recomputed, node.commit_seq) {
                    return Ok(Err(found));
                }
                if *recomputed != node.stored {
                    return Ok(Err(unsound("the stored digest column differs from the content".to_owned())));
                }
                if self.verifier.commit_id(node.commit_seq) != Some(node.commit_id) {
                    return Ok(Err(unsound("the stored commit id is not that of its commit number".to_owned())));
                }
            }
            count += page.len() as u64;
            self.found.objects += page.len() as u64;
            self.progress.advance(page.len() as u64);
        }
    }

    async fn rules(&mut self) -> Checked {
        let mut after = None;
        loop {
            let page = self.store.rule_states(self.key, after, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(Ok(())) };
            after = Some(last.0);
            for (id, state) in &page {
                first_break!(self.verifier.rule(*id, *state));
            }
            self.found.objects += page.len() as u64;
        }
    }

    async fn feedback(&mut self) -> Checked {
        let mut after = None;
        loop {
            let page = self.store.feedback(self.key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Ok(())) };
            after = Some(last.id);
            for row in &page {
                let recomputed = match &row.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => {
                        let problem = format!("cannot be read: {problem}");
                        return Ok(Err(Box::new(broken(self.key.as_str(), "feedback", row.id, problem))));
                    }
                };
                first_break!(self.verifier.object(ObjectKind::Feedback, row.id, recomputed, row.commit_seq));
            }
            self.found.objects += page.len() as u64;
        }
    }

    async fn erasures(&mut self) -> Checked {
        let mut after = None;
        loop {
            let page = self.store.erasures(self.key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Ok(())) };
            after = Some(last.id);
            for row in &page {
                first_break!(self.verifier.erasure(row.id, row.commit_seq, &row.digest));
            }
        }
    }

    async fn edges(&mut self) -> Result<Result<u64, Box<ChainBreak>>, DomainError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.store.edges(self.key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Ok(count)) };
            after = Some(last.id);
            for edge in &page {
                let unsound = |problem: String| Box::new(broken(self.key.as_str(), "edge", edge.id, problem));
                let recomputed = match &edge.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => return Ok(Err(unsound(format!("cannot be read: {problem}")))),
                };
                if let Err(found) = self.verifier.object(ObjectKind::Edge, edge.id, recomputed, edge.commit_seq) {
                    return Ok(Err(found));
                }
                if !edge.ends_stored {
                    return Ok(Err(unsound("one of its nodes is not stored".to_owned())));
                }
            }
            count += page.len() as u64;
            self.found.objects += page.len() as u64;
            self.progress.advance(page.len() as u64);
        }
    }

    async fn versions(&mut self) -> Checked {
        let (mut after, mut count) = (None, 0_u64);
        loop {
            let page = self.store.versions(self.key, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.id, last.version));
            for version in &page {
                first_break!(self.verifier.version(version.id, version.version, version.from_seq, &version.recomputed));
            }
            count += page.len() as u64;
        }
        self.found.versions = count;
        let expected = self.verifier.versions() as u64;
        if count != expected {
            let problem = format!("the chain names {expected} earlier versions, {count} are stored");
            return Ok(Err(Box::new(broken(self.key.as_str(), "version", self.key, problem))));
        }
        Ok(Ok(()))
    }
}

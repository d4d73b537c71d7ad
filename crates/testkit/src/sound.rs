//! Verification through the integrity port: walks every chain, recomputes every digest, counts everything.

use std::collections::{BTreeMap, BTreeSet};

use aionis_core::{
    chain::{ChainBreak, ChainVerifier, ChangeOp, ObjectKind, parse_changes},
    ids::ScopeKey,
    ports::store::{ScopeSummary, Store},
};
use uuid::Uuid;

/// Small, so that tests cross page borders.
const PAGE: usize = 50;

/// A scope that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedScope {
    /// Its key.
    pub scope_key: String,
    /// Commits.
    pub commits: u64,
    /// Nodes.
    pub nodes: u64,
    /// Edges.
    pub edges: u64,
    /// Kept earlier versions.
    pub versions: u64,
}

/// Verifies everything a store holds; tells the first thing that does not hold.
///
/// # Errors
/// The first break, in order of scopes.
pub async fn verify(store: &dyn Store) -> Result<Vec<VerifiedScope>, ChainBreak> {
    let mut verified = Vec::new();
    for summary in store.scopes(None, None).await.expect("scopes can be listed") {
        verified.push(Walk::new(store, &summary).run(&summary).await.map_err(|broken| *broken)?);
    }
    Ok(verified)
}

/// Verifies everything a store holds, its files included, and panics at the first thing that does not hold.
pub async fn assert_sound(store: &dyn Store) -> Vec<VerifiedScope> {
    let physical = store.physical_check().await.expect("the medium can be checked");
    assert!(physical.is_empty(), "the medium is damaged: {physical:?}");
    verify(store).await.unwrap_or_else(|broken| panic!("the store is not sound: {broken:?}"))
}

struct Walk<'a> {
    store: &'a dyn Store,
    key: ScopeKey,
    verifier: ChainVerifier,
    /// Per node how many earlier versions the chain says are kept.
    updates: BTreeMap<Uuid, u32>,
}

impl<'a> Walk<'a> {
    fn new(store: &'a dyn Store, summary: &ScopeSummary) -> Self {
        let key = ScopeKey::from_stored(&summary.scope_key).expect("stored scope keys are keys");
        Self { store, verifier: ChainVerifier::new(key.as_str()), key, updates: BTreeMap::new() }
    }

    async fn run(mut self, summary: &ScopeSummary) -> Result<VerifiedScope, Box<ChainBreak>> {
        self.commits().await?;
        self.verifier.stored_head(summary.head_seq, &summary.head_hash)?;
        let nodes = self.nodes().await?;
        let edges = self.edges().await?;
        self.rules().await?;
        self.feedback().await?;
        self.erasures().await?;
        self.verifier.finish()?;
        let versions = self.versions().await?;
        if (nodes, edges) != (summary.nodes, summary.edges) {
            let problem = format!(
                "the scope counts {} nodes and {} edges, stored are {nodes} and {edges}",
                summary.nodes, summary.edges
            );
            return Err(self.broken("head", self.key.as_str(), problem));
        }
        Ok(VerifiedScope {
            scope_key: self.key.as_str().to_owned(),
            commits: self.verifier.commits(),
            nodes,
            edges,
            versions,
        })
    }

    fn broken(&self, object: &str, id: &(impl ToString + ?Sized), problem: impl Into<String>) -> Box<ChainBreak> {
        Box::new(ChainBreak {
            scope_key: self.key.as_str().to_owned(),
            seq: None,
            object: object.to_owned(),
            id: id.to_string(),
            problem: problem.into(),
        })
    }

    async fn commits(&mut self) -> Result<(), Box<ChainBreak>> {
        let mut after = 0;
        loop {
            let page = self.store.commits(&self.key, after, PAGE).await.expect("commits can be read").commits;
            if page.is_empty() {
                return Ok(());
            }
            for commit in page {
                match commit {
                    Ok(commit) => {
                        after = commit.header.seq;
                        self.verifier.commit(&commit)?;
                        self.count_updates(&commit.changes);
                    }
                    Err((seq, problem)) => {
                        let mut broken = self.broken("commit", &seq, format!("cannot be read: {problem}"));
                        broken.seq = Some(seq);
                        return Err(broken);
                    }
                }
            }
        }
    }

    fn count_updates(&mut self, changes: &str) {
        for change in parse_changes(changes).expect("the verifier has read them") {
            if change.kind == ObjectKind::Node && change.op == ChangeOp::Update {
                *self.updates.entry(change.id).or_default() += 1;
            }
            if change.kind == ObjectKind::Node && change.op == ChangeOp::Erase {
                self.updates.remove(&change.id);
            }
        }
    }

    async fn nodes(&mut self) -> Result<u64, Box<ChainBreak>> {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.store.nodes(&self.key, after, PAGE).await.expect("nodes can be read");
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(last.id);
            for node in &page {
                let recomputed = match &node.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => return Err(self.broken("node", &node.id, format!("cannot be read: {problem}"))),
                };
                self.verifier.object(ObjectKind::Node, node.id, recomputed, node.commit_seq)?;
                if *recomputed != node.stored {
                    return Err(self.broken("node", &node.id, "the stored digest column differs from the content"));
                }
                if self.verifier.commit_id(node.commit_seq) != Some(node.commit_id) {
                    return Err(self.broken("node", &node.id, "the stored commit id is not that of its commit number"));
                }
                count += 1;
            }
        }
    }

    async fn rules(&mut self) -> Result<(), Box<ChainBreak>> {
        let mut after = None;
        loop {
            let page = self.store.rule_states(&self.key, after, PAGE).await.expect("rules can be read");
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.0);
            page.iter().try_for_each(|(id, state)| self.verifier.rule(*id, *state))?;
        }
    }

    async fn feedback(&mut self) -> Result<(), Box<ChainBreak>> {
        let mut after = None;
        loop {
            let page = self.store.feedback(&self.key, after, PAGE).await.expect("feedback can be read");
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for row in &page {
                let recomputed = match &row.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => return Err(self.broken("feedback", &row.id, format!("cannot be read: {problem}"))),
                };
                self.verifier.object(ObjectKind::Feedback, row.id, recomputed, row.commit_seq)?;
            }
        }
    }

    async fn erasures(&mut self) -> Result<(), Box<ChainBreak>> {
        let mut after = None;
        loop {
            let page = self.store.erasures(&self.key, after, PAGE).await.expect("erasures can be read");
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for row in &page {
                self.verifier.erasure(row.id, row.commit_seq, &row.digest)?;
            }
        }
    }

    async fn edges(&mut self) -> Result<u64, Box<ChainBreak>> {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.store.edges(&self.key, after, PAGE).await.expect("edges can be read");
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(last.id);
            for edge in &page {
                let recomputed = match &edge.recomputed {
                    Ok(digest) => digest,
                    Err(problem) => return Err(self.broken("edge", &edge.id, format!("cannot be read: {problem}"))),
                };
                self.verifier.object(ObjectKind::Edge, edge.id, recomputed, edge.commit_seq)?;
                if !edge.ends_stored {
                    return Err(self.broken("edge", &edge.id, "one of its nodes is not stored"));
                }
                count += 1;
            }
        }
    }

    async fn versions(&self) -> Result<u64, Box<ChainBreak>> {
        let (mut after, mut stored) = (None, BTreeSet::new());
        loop {
            let page = self.store.versions(&self.key, after, PAGE).await.expect("versions can be read");
            let Some(last) = page.last() else { break };
            after = Some((last.id, last.version));
            for kept in &page {
                self.verifier.version(kept.id, kept.version, kept.from_seq, &kept.recomputed)?;
                stored.insert((kept.id, kept.version));
            }
        }
        for (id, count) in &self.updates {
            if let Some(missing) = (1..=*count).find(|version| !stored.contains(&(*id, *version))) {
                return Err(self.broken(
                    "version",
                    &format!("{id}/{missing}"),
                    "the chain names it but it is not stored",
                ));
            }
        }
        Ok(stored.len() as u64)
    }
}

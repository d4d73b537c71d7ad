//! What the chain says, and whether it is one.

use uuid::Uuid;

use super::{
    RawRow, Told,
    facts::{Facts, NodeFact, first_bytes},
};
use crate::{
    canon::Digest,
    chain::{ChainVerifier, Change, ChangeOp, CommitHeader, ObjectKind, StoredCommit, changes_sha256, parse_changes},
    clock::Timestamp,
    ids::CommitId,
};

/// Walks a scope's commits.
#[derive(Debug)]
pub(super) struct ChainWalk {
    scope_key: String,
    verifier: Option<ChainVerifier>,
    pub(super) broken: bool,
}

impl ChainWalk {
    pub(super) fn new(scope_key: &str) -> Self {
        Self { scope_key: scope_key.to_owned(), verifier: None, broken: false }
    }

    /// Number and hash of the last commit.
    pub(super) fn head(&self) -> (u64, Digest) {
        self.verifier.as_ref().map_or((0, Digest([0; 32])), ChainVerifier::head)
    }

    /// Compares a commit with the one before. Where a walk begins in the middle (`tail`), the first one is taken at its word.
    pub(super) fn commit(&mut self, commit: &StoredCommit, tail: bool) -> Result<(), String> {
        let verifier = self.verifier.get_or_insert_with(|| match commit.header.seq {
            seq @ 2.. if tail => ChainVerifier::after(&self.scope_key, seq - 1, commit.header.parent_hash),
            _ => ChainVerifier::new(&self.scope_key),
        });
        verifier.link(commit).map_err(|broken| {
            self.broken = true;
            broken.problem
        })
    }
}

/// A commit as its row tells.
pub(super) fn stored_commit(row: &RawRow, scope_key: &str) -> Told<StoredCommit> {
    Ok(StoredCommit {
        header: CommitHeader {
            scope_key: scope_key.to_owned(),
            seq: row.count("seq")?,
            parent_hash: row.digest("parent_hash")?,
            kind: row.needed_text("kind")?.to_owned(),
            actor: row.needed_text("actor")?.to_owned(),
            model_version: row.text("model_version")?.map(str::to_owned),
            prompt_version: row.text("prompt_version")?.map(str::to_owned),
            input_sha256: row.needed_text("input_sha256")?.to_owned(),
            request_sha256: row.digest("request_sha256")?,
            // Not stored: it is a function of the change list.
            changes_sha256: changes_sha256(&[]),
            created_at: Timestamp(row.int("created_at")?.ok_or("created_at is missing")?),
        },
        changes: row.needed_text("changes")?.to_owned(),
        hash: row.digest("hash")?,
        id: CommitId(row.needed_id("id")?),
    })
}

/// Notes what a commit says of nodes and edges.
pub(super) fn note_changes(facts: &mut Facts, commit: &StoredCommit) -> Told<()> {
    let seq = u32::try_from(commit.header.seq).unwrap_or(u32::MAX);
    for change in parse_changes(&commit.changes)? {
        match change.kind {
            ObjectKind::Node => note_node(facts, seq, &change),
            ObjectKind::Edge if change.op == ChangeOp::Erase => {
                facts.edges.remove(&change.id);
            }
            ObjectKind::Edge => {
                facts.edges.insert(change.id, first_bytes(&change.digest));
            }
            ObjectKind::Rule | ObjectKind::Feedback => {}
        }
    }
    Ok(())
}

fn note_node(facts: &mut Facts, seq: u32, change: &Change) {
    let id: Uuid = change.id;
    match change.op {
        ChangeOp::Erase => {
            facts.nodes.remove(&id);
        }
        ChangeOp::Touch => {}
        ChangeOp::Create | ChangeOp::Update => {
            let digest = first_bytes(&change.digest);
            if let Some(before) = facts.nodes.get(&id) {
                facts.earlier.insert((id, before.content_seq), before.digest);
            }
            facts.nodes.insert(id, NodeFact { digest, content_seq: seq, ..NodeFact::default() });
        }
    }
}

//! The commit chain: what a commit binds, how it is hashed, and how a chain is verified.
//!
//! **Commit hash, version 2.** The hash of a commit is SHA-256 over these bytes:
//!
//! ```text
//! "aionis.commit.v2" LF canonical_json({
//!     "actor", "changes_sha256", "created_at_us", "input_sha256", "kind", "model_version", "parent_hash",
//!     "prompt_version", "request_sha256", "scope_key", "seq" })
//! ```
//!
//! `parent_hash` is the lowercase hex hash of the commit before, sixty-four zeros for the first. `changes_sha256` is
//! SHA-256 over `canonical_json([[kind, op, id, digest], …])` in the order stored, where `digest` is the content digest
//! of the object after the change (see [`crate::write::node_digest`], [`crate::write::edge_digest`]). A commit thereby
//! binds content without holding any text: text can be erased and the chain still verifies.

mod verify;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    canon::{Digest, canonical_json, sha256},
    clock::Timestamp,
    derive_id::stable_uuid,
    ids::CommitId,
};

pub use verify::{ChainBreak, ChainVerifier, ExpectedObject};

/// The fields a commit's hash binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitHeader {
    /// Scope.
    pub scope_key: String,
    /// Number, from 1 without gaps.
    pub seq: u64,
    /// Hash of the commit before; the zero digest for the first.
    pub parent_hash: Digest,
    /// What kind of change: `write`, `job`, …
    pub kind: String,
    /// Who.
    pub actor: String,
    /// Caller's label.
    pub model_version: Option<String>,
    /// Caller's label.
    pub prompt_version: Option<String>,
    /// Digest of the input.
    pub input_sha256: String,
    /// Digest of the whole request.
    pub request_sha256: Digest,
    /// Digest of the change list.
    pub changes_sha256: Digest,
    /// When.
    pub created_at: Timestamp,
}

impl CommitHeader {
    /// The hash, version 2.
    pub fn hash(&self) -> Digest {
        let body = canonical_json(&json!({
            "actor": self.actor,
            "changes_sha256": self.changes_sha256,
            "created_at_us": self.created_at,
            "input_sha256": self.input_sha256,
            "kind": self.kind,
            "model_version": self.model_version,
            "parent_hash": self.parent_hash,
            "prompt_version": self.prompt_version,
            "request_sha256": self.request_sha256,
            "scope_key": self.scope_key,
            "seq": self.seq,
        }));
        sha256(format!("aionis.commit.v2\n{body}"))
    }

    /// The id of a commit, a function of its hash.
    pub fn id_of(hash: &Digest) -> CommitId {
        CommitId(stable_uuid(&format!("commit:{}", hash.to_hex())))
    }
}

/// What a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A node.
    Node,
    /// An edge.
    Edge,
    /// The state of a rule.
    Rule,
    /// Feedback on a rule.
    Feedback,
}

impl ObjectKind {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Edge => "edge",
            Self::Rule => "rule",
            Self::Feedback => "feedback",
        }
    }
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOp {
    /// It came to be.
    Create,
    /// It got new content.
    Update,
    /// Its vitals changed, its content did not.
    Touch,
    /// It was forgotten: its content is erased, the digest stays.
    Erase,
}

impl ChangeOp {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Touch => "touch",
            Self::Erase => "erase",
        }
    }
}

/// One entry of a commit's change list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it concerns.
    pub kind: ObjectKind,
    /// What was done.
    pub op: ChangeOp,
    /// The object.
    pub id: Uuid,
    /// Content digest of the object afterwards; of one that was erased, the last it had.
    pub digest: Digest,
}

/// The change list as stored: canonical JSON `[[kind, op, id, digest], …]`.
pub fn changes_json(changes: &[Change]) -> String {
    let rows: Vec<Value> = changes.iter().map(|c| json!([c.kind.as_str(), c.op.as_str(), c.id, c.digest])).collect();
    canonical_json(&Value::Array(rows))
}

/// SHA-256 over [`changes_json`].
pub fn changes_sha256(changes: &[Change]) -> Digest {
    sha256(changes_json(changes))
}

/// Reads a stored change list.
///
/// # Errors
/// What is wrong with it, for a report of damage.
pub fn parse_changes(stored: &str) -> Result<Vec<Change>, String> {
    let rows: Vec<(String, String, Uuid, Digest)> = serde_json::from_str(stored).map_err(|e| e.to_string())?;
    rows.into_iter()
        .map(|(kind, op, id, digest)| {
            let kind = match kind.as_str() {
                "node" => ObjectKind::Node,
                "edge" => ObjectKind::Edge,
                "rule" => ObjectKind::Rule,
                "feedback" => ObjectKind::Feedback,
                other => return Err(format!("unknown object kind {other:?}")),
            };
            let op = match op.as_str() {
                "create" => ChangeOp::Create,
                "update" => ChangeOp::Update,
                "touch" => ChangeOp::Touch,
                "erase" => ChangeOp::Erase,
                other => return Err(format!("unknown change {other:?}")),
            };
            Ok(Change { kind, op, id, digest })
        })
        .collect()
}

/// A commit as read back from storage.
#[derive(Clone, Debug)]
pub struct StoredCommit {
    /// Header fields as stored; its `changes_sha256` is recomputed by the verifier.
    pub header: CommitHeader,
    /// The change list's text.
    pub changes: String,
    /// The stored hash.
    pub hash: Digest,
    /// The stored id.
    pub id: CommitId,
}

#[cfg(test)]
mod tests;

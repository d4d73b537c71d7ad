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

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    canon::{Digest, canonical_json, sha256},
    clock::Timestamp,
    derive_id::stable_uuid,
    ids::{CommitId, NodeId},
    model::RuleState,
    operate::rule_state_digest,
};

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
}

impl ChangeOp {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Touch => "touch",
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
    /// Content digest of the object afterwards.
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

/// The first thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChainBreak {
    /// Scope.
    pub scope_key: String,
    /// Commit number the break was found at, if it concerns a commit.
    pub seq: Option<u64>,
    /// `commit`, `node`, `edge`, `rule`, `feedback`, `version` or `head`.
    pub object: String,
    /// Id of the object.
    pub id: String,
    /// What does not hold.
    pub problem: String,
}

/// What the chain says about one object.
#[derive(Clone, Debug)]
pub struct ExpectedObject {
    /// Digest after the last change.
    pub digest: Digest,
    /// Number of the last commit that changed it, touches included.
    pub last_seq: u64,
    /// Digests of earlier contents, oldest first, each with the commit that made it.
    pub earlier: Vec<(u64, Digest)>,
    content_seq: u64,
    seen: bool,
}

/// Walks one scope's chain from its first commit on, then checks the objects against it.
#[derive(Debug)]
pub struct ChainVerifier {
    scope_key: String,
    seq: u64,
    hash: Digest,
    commit_ids: Vec<CommitId>,
    objects: HashMap<(ObjectKind, Uuid), ExpectedObject>,
}

impl ChainVerifier {
    /// A verifier for one scope.
    pub fn new(scope_key: impl Into<String>) -> Self {
        Self {
            scope_key: scope_key.into(),
            seq: 0,
            hash: Digest([0; 32]),
            commit_ids: Vec::new(),
            objects: HashMap::new(),
        }
    }

    /// How many commits were accepted.
    pub const fn commits(&self) -> u64 {
        self.seq
    }

    /// How many objects the chain names.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Number and hash of the last accepted commit.
    pub const fn head(&self) -> (u64, Digest) {
        (self.seq, self.hash)
    }

    /// Id of an accepted commit.
    pub fn commit_id(&self, seq: u64) -> Option<CommitId> {
        let at = usize::try_from(seq).ok()?.checked_sub(1)?;
        self.commit_ids.get(at).copied()
    }

    fn broken(&self, seq: Option<u64>, object: &str, id: impl ToString, problem: impl Into<String>) -> Box<ChainBreak> {
        Box::new(ChainBreak {
            scope_key: self.scope_key.clone(),
            seq,
            object: object.to_owned(),
            id: id.to_string(),
            problem: problem.into(),
        })
    }

    /// Accepts the next commit in order of its number.
    ///
    /// # Errors
    /// The first thing that does not hold about it.
    pub fn commit(&mut self, commit: &StoredCommit) -> Result<(), Box<ChainBreak>> {
        let seq = commit.header.seq;
        let fail = |this: &Self, problem: String| Err(this.broken(Some(seq), "commit", commit.id, problem));
        if seq != self.seq + 1 {
            return fail(self, format!("expected commit number {}, found {seq}: the sequence has a gap", self.seq + 1));
        }
        if commit.header.parent_hash != self.hash {
            return fail(
                self,
                format!("parent hash {} is not the hash of commit {}", commit.header.parent_hash, self.seq),
            );
        }
        if commit.header.scope_key != self.scope_key {
            return fail(self, format!("belongs to scope {:?}", commit.header.scope_key));
        }
        let mut header = commit.header.clone();
        header.changes_sha256 = sha256(&commit.changes);
        let hash = header.hash();
        if hash != commit.hash {
            return fail(self, format!("recomputed hash {hash} differs from the stored hash {}", commit.hash));
        }
        if CommitHeader::id_of(&hash) != commit.id {
            return fail(self, "the stored id is not the id of its hash".to_owned());
        }
        let changes = match parse_changes(&commit.changes) {
            Ok(changes) => changes,
            Err(problem) => return fail(self, format!("the change list cannot be read: {problem}")),
        };
        for change in &changes {
            if let Err(problem) = self.change(seq, change) {
                return Err(self.broken(Some(seq), change.kind.as_str(), change.id, problem));
            }
        }
        self.seq = seq;
        self.hash = hash;
        self.commit_ids.push(commit.id);
        Ok(())
    }

    fn change(&mut self, seq: u64, change: &Change) -> Result<(), String> {
        if change.kind == ObjectKind::Rule {
            return self.rule_state(seq, change);
        }
        if change.kind == ObjectKind::Node && change.op == ChangeOp::Update {
            // New content makes a draft of a rule.
            self.objects.remove(&(ObjectKind::Rule, change.id));
        }
        let known = self.objects.get_mut(&(change.kind, change.id));
        match (change.op, known) {
            (ChangeOp::Create, None) => {
                let object = ExpectedObject {
                    digest: change.digest,
                    last_seq: seq,
                    earlier: Vec::new(),
                    content_seq: seq,
                    seen: false,
                };
                self.objects.insert((change.kind, change.id), object);
                Ok(())
            }
            (ChangeOp::Create, Some(_)) => Err("is created twice".to_owned()),
            (_, None) => Err("is changed before it is created".to_owned()),
            (ChangeOp::Update, Some(object)) => {
                object.earlier.push((object.content_seq, object.digest));
                object.digest = change.digest;
                object.content_seq = seq;
                object.last_seq = seq;
                Ok(())
            }
            (ChangeOp::Touch, Some(object)) if object.digest == change.digest => {
                object.last_seq = seq;
                Ok(())
            }
            (ChangeOp::Touch, Some(_)) => Err("is touched with another digest than it has".to_owned()),
        }
    }

    fn rule_state(&mut self, seq: u64, change: &Change) -> Result<(), String> {
        if change.op != ChangeOp::Update {
            return Err(format!("a rule's state cannot {}", change.op.as_str()));
        }
        if !self.objects.contains_key(&(ObjectKind::Node, change.id)) {
            return Err("gets a state before its node is created".to_owned());
        }
        let object =
            ExpectedObject { digest: change.digest, last_seq: seq, earlier: Vec::new(), content_seq: seq, seen: false };
        self.objects.insert((ObjectKind::Rule, change.id), object);
        Ok(())
    }

    /// Checks a stored rule's state: the one its last change of state names, or draft.
    ///
    /// # Errors
    /// When the chain names another.
    pub fn rule(&mut self, id: NodeId, state: RuleState) -> Result<(), Box<ChainBreak>> {
        let stored = rule_state_digest(id, state);
        let (expected, seq) = match self.objects.get_mut(&(ObjectKind::Rule, id.0)) {
            Some(object) => {
                object.seen = true;
                (object.digest, Some(object.last_seq))
            }
            None => (rule_state_digest(id, RuleState::Draft), None),
        };
        if stored == expected {
            return Ok(());
        }
        let problem = format!("is {state} where it is stored; its commits say otherwise");
        Err(self.broken(seq, "rule", id, problem))
    }

    /// Checks the stored head against the walked chain.
    ///
    /// # Errors
    /// When they differ.
    pub fn stored_head(&self, seq: u64, hash: &Digest) -> Result<(), Box<ChainBreak>> {
        if (seq, *hash) == (self.seq, self.hash) {
            return Ok(());
        }
        let problem =
            format!("stored head is commit {seq} ({hash}), the chain ends at commit {} ({})", self.seq, self.hash);
        Err(self.broken(None, "head", &self.scope_key, problem))
    }

    /// Checks one stored object: recomputed digest and the number of the last commit that touched it.
    ///
    /// # Errors
    /// When the chain does not name it, or names another digest or commit.
    pub fn object(
        &mut self,
        kind: ObjectKind,
        id: Uuid,
        recomputed: &Digest,
        commit_seq: u64,
    ) -> Result<(), Box<ChainBreak>> {
        let name = kind.as_str();
        let Some(expected) = self.objects.get_mut(&(kind, id)) else {
            return Err(self.broken(None, name, id, "is stored but no commit names it"));
        };
        expected.seen = true;
        let (digest, last_seq) = (expected.digest, expected.last_seq);
        if digest != *recomputed {
            let problem = format!("content digest {recomputed} differs from {digest}, which commit {last_seq} binds");
            return Err(self.broken(Some(last_seq), name, id, problem));
        }
        if last_seq != commit_seq {
            let problem = format!("says its last commit is {commit_seq}, the chain says {last_seq}");
            return Err(self.broken(Some(last_seq), name, id, problem));
        }
        Ok(())
    }

    /// Checks one kept earlier version of a node; versions come oldest first and count from 1.
    ///
    /// # Errors
    /// When the chain has no such version or another digest for it.
    pub fn version(&self, id: Uuid, version: u32, from_seq: u64, recomputed: &Digest) -> Result<(), Box<ChainBreak>> {
        let earlier = self.objects.get(&(ObjectKind::Node, id)).map(|o| &o.earlier);
        let found = earlier.and_then(|list| list.get(usize::try_from(version).ok()?.checked_sub(1)?));
        match found {
            Some((seq, digest)) if *seq == from_seq && digest == recomputed => Ok(()),
            Some((seq, digest)) => Err(self.broken(
                Some(*seq),
                "version",
                format!("{id}/{version}"),
                format!("digest {recomputed} from commit {from_seq} differs from {digest}, which commit {seq} binds"),
            )),
            None => Err(self.broken(None, "version", format!("{id}/{version}"), "is stored but no commit names it")),
        }
    }

    /// How many earlier versions the chain says are kept in all. Of edges none are: a commit binds their values.
    pub fn versions(&self) -> usize {
        self.objects.iter().filter(|((kind, _), _)| *kind == ObjectKind::Node).map(|(_, o)| o.earlier.len()).sum()
    }

    /// Checks that every object the chain names was seen.
    ///
    /// # Errors
    /// The first missing one, in order of kind and id.
    pub fn finish(&self) -> Result<(), Box<ChainBreak>> {
        let missing = self.objects.iter().filter(|(_, o)| !o.seen).min_by_key(|(key, _)| **key);
        match missing {
            Some(((kind, id), object)) => Err(self.broken(
                Some(object.last_seq),
                kind.as_str(),
                id,
                format!("commit {} names it but it is not stored", object.last_seq),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(seq: u64, parent: Digest, changes: &[Change]) -> StoredCommit {
        let header = CommitHeader {
            scope_key: "default/s".into(),
            seq,
            parent_hash: parent,
            kind: "write".into(),
            actor: "system".into(),
            model_version: None,
            prompt_version: None,
            input_sha256: "00".repeat(32),
            request_sha256: sha256(seq.to_string()),
            changes_sha256: changes_sha256(changes),
            created_at: Timestamp(1_000_000 + i64::try_from(seq).unwrap()),
        };
        let hash = header.hash();
        StoredCommit { id: CommitHeader::id_of(&hash), header, changes: changes_json(changes), hash }
    }

    fn node(n: u128, op: ChangeOp, content: &str) -> Change {
        Change { kind: ObjectKind::Node, op, id: Uuid::from_u128(n), digest: sha256(content) }
    }

    fn chain(length: u64) -> Vec<StoredCommit> {
        let mut parent = Digest([0; 32]);
        (1..=length)
            .map(|seq| {
                let op = if seq == 1 { ChangeOp::Create } else { ChangeOp::Update };
                let made = commit(seq, parent, &[node(1, op, &format!("text {seq}"))]);
                parent = made.hash;
                made
            })
            .collect()
    }

    fn walk(commits: &[StoredCommit]) -> Result<ChainVerifier, Box<ChainBreak>> {
        let mut verifier = ChainVerifier::new("default/s");
        commits.iter().try_for_each(|c| verifier.commit(c))?;
        Ok(verifier)
    }

    #[test]
    fn the_hash_binds_exact_bytes() {
        let made = commit(1, Digest([0; 32]), &[node(1, ChangeOp::Create, "x")]);
        let text = format!(
            "aionis.commit.v2\n{{\"actor\":\"system\",\"changes_sha256\":\"{}\",\"created_at_us\":1000001,\"input_sha256\":\"{}\",\"kind\":\"write\",\"model_version\":null,\"parent_hash\":\"{}\",\"prompt_version\":null,\"request_sha256\":\"{}\",\"scope_key\":\"default/s\",\"seq\":1}}",
            sha256(&made.changes),
            "00".repeat(32),
            "00".repeat(32),
            sha256("1"),
        );
        assert_eq!(made.hash, sha256(text));
        assert_eq!(made.changes, format!("[[\"node\",\"create\",\"{}\",\"{}\"]]", Uuid::from_u128(1), sha256("x")));
    }

    #[test]
    fn a_sound_chain_with_its_objects_is_accepted() {
        let mut verifier = walk(&chain(3)).unwrap();
        verifier.object(ObjectKind::Node, Uuid::from_u128(1), &sha256("text 3"), 3).unwrap();
        verifier.version(Uuid::from_u128(1), 1, 1, &sha256("text 1")).unwrap();
        verifier.version(Uuid::from_u128(1), 2, 2, &sha256("text 2")).unwrap();
        verifier.finish().unwrap();
        let (seq, hash) = verifier.head();
        verifier.stored_head(seq, &hash).unwrap();
    }

    #[test]
    fn gap_fork_and_reorder_are_named() {
        let mut gap = chain(3);
        gap.remove(1);
        assert!(walk(&gap).unwrap_err().problem.contains("gap"));
        let mut fork = chain(3);
        fork[2] = commit(3, fork[0].hash, &[node(1, ChangeOp::Update, "fork")]);
        assert!(walk(&fork).unwrap_err().problem.contains("parent hash"));
        let mut swapped = chain(3);
        swapped.swap(1, 2);
        assert_eq!(walk(&swapped).unwrap_err().seq, Some(3));
    }

    #[test]
    fn an_updated_edge_has_no_kept_version() {
        let edge = |op, content| Change { kind: ObjectKind::Edge, op, id: Uuid::from_u128(7), digest: sha256(content) };
        let first = commit(1, Digest([0; 32]), &[edge(ChangeOp::Create, "0.5")]);
        let second = commit(2, first.hash, &[edge(ChangeOp::Update, "0.9")]);
        let mut verifier = walk(&[first, second]).unwrap();
        verifier.object(ObjectKind::Edge, Uuid::from_u128(7), &sha256("0.9"), 2).unwrap();
        verifier.finish().unwrap();
        assert_eq!(verifier.versions(), 0);
    }

    #[test]
    fn missing_changed_and_foreign_objects_are_named() {
        let mut verifier = walk(&chain(2)).unwrap();
        assert!(verifier.finish().unwrap_err().problem.contains("not stored"));
        let id = Uuid::from_u128(1);
        assert!(verifier.object(ObjectKind::Node, id, &sha256("other"), 2).unwrap_err().problem.contains("differs"));
        assert!(
            verifier.object(ObjectKind::Node, id, &sha256("text 2"), 1).unwrap_err().problem.contains("last commit")
        );
        let foreign = Uuid::from_u128(9);
        assert!(verifier.object(ObjectKind::Node, foreign, &sha256("x"), 1).unwrap_err().problem.contains("no commit"));
        assert!(verifier.stored_head(1, &Digest([0; 32])).is_err());
        assert!(verifier.version(id, 2, 2, &sha256("text 2")).is_err());
    }

    proptest::proptest! {
        /// Whatever single field of whatever commit is altered, the walk stops.
        #[test]
        fn w_13_any_alteration_breaks_the_chain(length in 1_u64..8, at in 0_usize..8, field in 0_usize..11) {
            let mut commits = chain(length);
            let at = at % commits.len();
            let c = &mut commits[at];
            match field {
                0 => c.header.actor.push('x'),
                1 => c.header.created_at.0 += 1,
                2 => c.header.model_version = Some(String::new()),
                3 => c.header.prompt_version = Some("p".into()),
                4 => c.header.input_sha256.replace_range(0..1, "1"),
                5 => c.header.request_sha256.0[0] ^= 1,
                6 => c.changes = c.changes.replacen("node", "edge", 1),
                7 => c.hash.0[31] ^= 1,
                8 => c.id = CommitId(Uuid::from_u128(c.id.0.as_u128() ^ 1)),
                9 => c.header.kind.push('x'),
                _ => c.header.parent_hash.0[0] ^= 1,
            }
            let broken = walk(&commits).unwrap_err();
            proptest::prop_assert_eq!(broken.seq, Some(u64::try_from(at).unwrap() + 1));
        }
    }
}

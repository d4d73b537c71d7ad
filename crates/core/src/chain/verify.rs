//! Walks a chain and checks the stored objects against it.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Change, ChangeOp, CommitHeader, ObjectKind, StoredCommit, parse_changes};
use crate::{
    canon::{Digest, sha256},
    ids::{CommitId, NodeId},
    model::RuleState,
    operate::rule_state_digest,
};

/// The first thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChainBreak {
    /// Scope.
    pub scope_key: String,
    /// Commit number the break was found at, if it concerns a commit.
    pub seq: Option<u64>,
    /// `commit`, `node`, `edge`, `rule`, `feedback`, `version`, `erasure` or `head`.
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
    /// What was erased, with the commit that did it and the digest it had; an object may come to be once more after that.
    erased: HashMap<(ObjectKind, Uuid), Erasure>,
}

#[derive(Debug)]
struct Erasure {
    seq: u64,
    digest: Digest,
    seen: bool,
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
            erased: HashMap::new(),
        }
    }

    /// A verifier that goes on after a commit whose number and hash are known.
    pub fn after(scope_key: impl Into<String>, seq: u64, hash: Digest) -> Self {
        Self { seq, hash, ..Self::new(scope_key) }
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

    /// Accepts the next commit in order of its number by its place in the chain, its hash and its id alone: what it changed is
    /// left out, so that nothing is held of it.
    ///
    /// # Errors
    /// The first thing that does not hold about it.
    pub fn link(&mut self, commit: &StoredCommit) -> Result<(), Box<ChainBreak>> {
        self.hash = self.linked(commit)?;
        self.seq = commit.header.seq;
        Ok(())
    }

    /// The hash of the next commit.
    fn linked(&self, commit: &StoredCommit) -> Result<Digest, Box<ChainBreak>> {
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
        Ok(hash)
    }

    /// Accepts the next commit in order of its number.
    ///
    /// # Errors
    /// The first thing that does not hold about it.
    pub fn commit(&mut self, commit: &StoredCommit) -> Result<(), Box<ChainBreak>> {
        let hash = self.linked(commit)?;
        let seq = commit.header.seq;
        let fail = |this: &Self, problem: String| Err(this.broken(Some(seq), "commit", commit.id, problem));
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
        if change.op == ChangeOp::Erase {
            return self.erase(seq, change);
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
            // What is erased has been dealt with above.
            (ChangeOp::Touch | ChangeOp::Erase, Some(_)) => {
                Err("is touched with another digest than it has".to_owned())
            }
        }
    }

    fn erase(&mut self, seq: u64, change: &Change) -> Result<(), String> {
        let key = (change.kind, change.id);
        match self.objects.remove(&key) {
            None => return Err("is erased before it is created".to_owned()),
            Some(object) if object.digest != change.digest => {
                return Err("is erased with another digest than it has".to_owned());
            }
            Some(_) => {}
        }
        if change.kind == ObjectKind::Node {
            self.objects.remove(&(ObjectKind::Rule, change.id));
        }
        self.erased.insert(key, Erasure { seq, digest: change.digest, seen: false });
        Ok(())
    }

    /// Checks what is kept of an erased node: the commit that erased it, and the digest it had.
    ///
    /// # Errors
    /// When the chain says otherwise.
    pub fn erasure(&mut self, id: Uuid, seq: u64, digest: &Digest) -> Result<(), Box<ChainBreak>> {
        let said = match self.erased.get_mut(&(ObjectKind::Node, id)) {
            Some(erasure) => {
                erasure.seen = true;
                (erasure.seq, erasure.digest)
            }
            None => return Err(self.broken(None, "erasure", id, "is said to be erased but no commit erased it")),
        };
        if said == (seq, *digest) {
            return Ok(());
        }
        let problem = format!("is said to be erased by commit {seq} with digest {digest}, the chain says {}", said.0);
        Err(self.broken(Some(said.0), "erasure", id, problem))
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
        if !self.objects.contains_key(&(ObjectKind::Node, id.0)) {
            return Err(self.broken(None, "rule", id, "is stored but no commit names its node, or one erased it"));
        }
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
            return Err(match self.erased.get(&(kind, id)) {
                Some(erasure) => {
                    let problem = format!("is stored although commit {} erased it", erasure.seq);
                    self.broken(Some(erasure.seq), name, id, problem)
                }
                None => self.broken(None, name, id, "is stored but no commit names it"),
            });
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
            None => self.all_erasures_are_kept(),
        }
    }

    fn all_erasures_are_kept(&self) -> Result<(), Box<ChainBreak>> {
        let of_nodes = self.erased.iter().filter(|((kind, _), erasure)| *kind == ObjectKind::Node && !erasure.seen);
        match of_nodes.min_by_key(|(key, _)| **key) {
            Some(((_, id), erasure)) => {
                let problem = format!("commit {} erased it but nothing is stored that says so", erasure.seq);
                Err(self.broken(Some(erasure.seq), "erasure", id, problem))
            }
            None => Ok(()),
        }
    }
}

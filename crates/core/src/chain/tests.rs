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
    assert!(verifier.object(ObjectKind::Node, id, &sha256("text 2"), 1).unwrap_err().problem.contains("last commit"));
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

#[test]
fn what_is_erased_is_not_stored_and_kept_as_erased() {
    let id = Uuid::from_u128(1);
    let mut commits = chain(2);
    commits.push(commit(3, commits[1].hash, &[node(1, ChangeOp::Erase, "text 2")]));
    let mut verifier = walk(&commits).unwrap();
    assert_eq!(verifier.versions(), 0, "earlier versions go too");
    assert!(verifier.finish().unwrap_err().problem.contains("nothing is stored that says so"));
    assert!(verifier.object(ObjectKind::Node, id, &sha256("text 2"), 3).unwrap_err().problem.contains("erased it"));
    assert!(verifier.erasure(id, 2, &sha256("text 2")).unwrap_err().problem.contains("the chain says 3"));
    assert!(verifier.erasure(id, 3, &sha256("text 1")).is_err());
    assert!(verifier.erasure(Uuid::from_u128(9), 3, &sha256("text 2")).unwrap_err().problem.contains("no commit"));
    verifier.erasure(id, 3, &sha256("text 2")).unwrap();
    verifier.finish().unwrap();
}

#[test]
fn an_erased_object_may_come_to_be_once_more() {
    let mut commits = chain(2);
    commits.push(commit(3, commits[1].hash, &[node(1, ChangeOp::Erase, "text 2")]));
    commits.push(commit(4, commits[2].hash, &[node(1, ChangeOp::Create, "again")]));
    let mut verifier = walk(&commits).unwrap();
    verifier.object(ObjectKind::Node, Uuid::from_u128(1), &sha256("again"), 4).unwrap();
    verifier.erasure(Uuid::from_u128(1), 3, &sha256("text 2")).unwrap();
    verifier.finish().unwrap();
}

#[test]
fn an_erasure_of_what_is_not_there_breaks_the_chain() {
    for (op, content, problem) in [(1_u128, "other", "another digest"), (2, "text 2", "before it is created")] {
        let mut commits = chain(2);
        commits.push(commit(3, commits[1].hash, &[node(op, ChangeOp::Erase, content)]));
        assert!(walk(&commits).unwrap_err().problem.contains(problem), "{problem}");
    }
}

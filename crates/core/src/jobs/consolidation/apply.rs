//! Merging pairs: groups of nodes that are alike, each with one canonical node.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Candidate, CandidateState, MergeNode, MergeRow, MergeShown, Needs, SkippedPair,
    notes::{aliased, followed, merged_from, taking},
    parse_pair_key,
    plan::Draft,
};
use crate::{derive_id::stable_uuid, ids::NodeId, lifecycle::DecayPolicy, model::NodeType};

pub(super) fn plan(
    draft: &mut Draft<'_>,
    pairs: &[String],
    (types, allow_contradictory): (&[NodeType], bool),
    decay: &DecayPolicy,
) -> Option<Needs> {
    let mut wanted = Needs::default();
    for (low, high, _) in pairs.iter().filter_map(|key| parse_pair_key(key)) {
        wanted.nodes.extend([low, high]);
        wanted.candidates_at.extend([low, high]);
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Some(needs);
    }
    let mut viable: Vec<&Candidate> = Vec::new();
    for key in pairs {
        match judged(draft, key, types, allow_contradictory) {
            Ok(pair) => viable.push(pair),
            Err((reason, gone)) => {
                if gone {
                    draft.candidates.insert(key.clone(), CandidateState::Gone);
                }
                draft.outcome.skipped.push(SkippedPair { pair_key: key.clone(), reason });
            }
        }
    }
    let best_first = |a: &&Candidate, b: &&Candidate| {
        b.score.score.total_cmp(&a.score.score).then_with(|| a.pair_key.cmp(&b.pair_key))
    };
    viable.sort_by(best_first);
    let groups = groups(draft, &viable, allow_contradictory);
    // Who is merged takes those along that were merged with it.
    for member in groups.iter().flat_map(|group| &group.members) {
        wanted.nodes.extend(merged_from(&draft.notes_of(*member)));
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Some(needs);
    }
    for group in &groups {
        merge(draft, group, decay);
    }
    None
}

/// The pair, or why it is not merged and whether it never will be.
fn judged<'a>(
    draft: &Draft<'a>,
    key: &str,
    types: &[NodeType],
    allow_contradictory: bool,
) -> Result<&'a Candidate, (&'static str, bool)> {
    let pair = draft.state.candidates.get(key).ok_or(("not_queued", false))?;
    match pair.state {
        CandidateState::Open => {}
        CandidateState::Review if allow_contradictory => {}
        CandidateState::Review => return Err(("under_review", false)),
        _ => return Err(("decided", false)),
    }
    let node = |id| draft.state.nodes.get(&id).ok_or(("missing_node", true));
    let (low, high) = (node(pair.low)?, node(pair.high)?);
    for node in [low, high] {
        match node.excluded(types) {
            // Which kinds are merged is a choice of the run.
            Some("type") => return Err(("type", false)),
            Some(reason) => return Err((reason, true)),
            None => {}
        }
    }
    if !low.matches(high) {
        return Err(("other_visibility_kind_or_model", true));
    }
    if pair.digests != (low.digest, high.digest) {
        return Err(("changed_since_measured", false));
    }
    Ok(pair)
}

/// Nodes that become one.
struct Group<'a> {
    members: BTreeSet<NodeId>,
    pairs: Vec<&'a Candidate>,
}

/// Joins pairs to groups, the best first. A pair that would bring together what was decided to stay apart, or is under
/// review, is left out.
fn groups<'a>(draft: &mut Draft<'_>, viable: &[&'a Candidate], allow_contradictory: bool) -> Vec<Group<'a>> {
    let apart: Vec<(NodeId, NodeId)> = draft
        .state
        .candidates
        .values()
        .filter(|pair| match pair.state {
            CandidateState::Rejected | CandidateState::Undone => true,
            CandidateState::Review => !allow_contradictory,
            _ => false,
        })
        .map(|pair| (pair.low, pair.high))
        .collect();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for pair in viable {
        let of = |id: NodeId, groups: &[Group<'a>]| groups.iter().position(|group| group.members.contains(&id));
        let (low, high) = (of(pair.low, &groups), of(pair.high, &groups));
        let mut members: BTreeSet<NodeId> = BTreeSet::from([pair.low, pair.high]);
        for at in [low, high].into_iter().flatten() {
            members.extend(&groups[at].members);
        }
        if apart.iter().any(|(a, b)| members.contains(a) && members.contains(b)) {
            let skipped = SkippedPair { pair_key: pair.pair_key.clone(), reason: "group_was_decided_apart" };
            draft.outcome.skipped.push(skipped);
            continue;
        }
        let mut joined: Vec<usize> = [low, high].into_iter().flatten().collect();
        joined.sort_unstable();
        joined.dedup();
        let mut pairs: Vec<&Candidate> = Vec::new();
        for at in joined.into_iter().rev() {
            pairs.append(&mut groups.remove(at).pairs);
        }
        pairs.push(pair);
        groups.push(Group { members, pairs });
    }
    groups
}

fn merge(draft: &mut Draft<'_>, group: &Group<'_>, decay: &DecayPolicy) {
    let nodes: BTreeMap<NodeId, &MergeNode> =
        group.members.iter().filter_map(|id| draft.state.nodes.get(id).map(|node| (*id, node))).collect();
    let first = nodes.values().min_by(|a, b| a.before(b, decay, draft.now));
    let Some(canonical) = first.map(|node| node.id) else { return };
    for pair in &group.pairs {
        draft.candidates.insert(pair.pair_key.clone(), CandidateState::Applied);
    }
    for duplicate in group.members.iter().copied().filter(|id| *id != canonical) {
        let of_it = |pair: &&&Candidate| pair.low == duplicate || pair.high == duplicate;
        let best = group.pairs.iter().filter(of_it).max_by(|a, b| a.score.score.total_cmp(&b.score.score));
        let Some(pair) = best else { continue };
        let followers: Vec<NodeId> = merged_from(&draft.notes_of(duplicate))
            .into_iter()
            .filter(|id| draft.state.nodes.get(id).and_then(MergeNode::alias_of) == Some(duplicate))
            .collect();
        let cause = keep(draft, (canonical, duplicate), None, Some(pair));
        let notes = aliased(&draft.notes_of(duplicate), canonical, pair, draft.now);
        draft.notes.insert(duplicate, notes);
        let taken: Vec<NodeId> = std::iter::once(duplicate).chain(followers.iter().copied()).collect();
        for follower in followers {
            keep(draft, (canonical, follower), Some(cause), None);
            draft.notes.insert(follower, followed(&draft.notes_of(follower), canonical));
        }
        draft.notes.insert(canonical, taking(&draft.notes_of(canonical), &taken, draft.now));
    }
}

/// Keeps what is needed to take a merge back; returns its id.
fn keep(
    draft: &mut Draft<'_>,
    (canonical, duplicate): (NodeId, NodeId),
    cause: Option<uuid::Uuid>,
    pair: Option<&Candidate>,
) -> uuid::Uuid {
    let (scope, seq, ordinal) = (draft.asked.scope.as_str(), draft.seq(), draft.merges.len());
    let row = MergeRow {
        id: stable_uuid(&format!("merge:{scope}:{seq}:{ordinal}")),
        run: draft.asked.run,
        ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
        cause,
        canonical,
        duplicate,
        pair_key: pair.map(|pair| pair.pair_key.clone()),
        score: pair.map(|pair| pair.score.score),
        prior_duplicate: draft.notes_of(duplicate),
        prior_canonical: cause.is_none().then(|| draft.notes_of(canonical)).flatten(),
        applied_seq: seq,
        applied_at: draft.now,
        undone_seq: None,
    };
    let id = row.id;
    draft.outcome.merges.push(shown(&row));
    draft.merges.push(row);
    id
}

pub(super) fn shown(row: &MergeRow) -> MergeShown {
    MergeShown {
        merge_id: row.id,
        canonical_id: row.canonical,
        duplicate_id: row.duplicate,
        pair_key: row.pair_key.clone(),
        score: row.score,
        cause_id: row.cause,
    }
}

//! Taking merges back: notes and edges become what they were.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;
use uuid::Uuid;

use super::{
    CandidateState, EdgeKey, MergeEdge, MergeNode, MergeRow, Needs, RemovalRole, RemovedEdge, UndoConflict, UndoWhich,
    apply::shown,
    edges::{common_base, made_of, parts_of},
    notes::{OF_ALIAS, OF_CANONICAL, restored, same, taking, without},
    plan::Draft,
};
use crate::{
    error::{DomainError, ErrorKind},
    ids::{EdgeId, NodeId},
};

/// Notes that say what a canonical node took in.
const OF_TAKING: [&str; 4] = ["merged_from", "merged_count", "last_consolidation_at", "last_consolidation_job"];

pub(super) fn plan(draft: &mut Draft<'_>, which: &UndoWhich, force: bool) -> Result<Option<Needs>, DomainError> {
    let mut wanted = Needs::default();
    match which {
        UndoWhich::Merge(id) => wanted.merges.insert(*id),
        UndoWhich::Run(id) => wanted.runs.insert(*id),
    };
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    let named = |row: &&MergeRow| match which {
        UndoWhich::Merge(id) => row.id == *id || row.cause == Some(*id),
        UndoWhich::Run(id) => row.run == *id,
    };
    let rows: Vec<&MergeRow> = draft.state.merges.values().filter(named).collect();
    if rows.is_empty() {
        return Err(not_found(which));
    }
    let mut rows: Vec<&MergeRow> = rows.into_iter().filter(|row| row.undone_seq.is_none()).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.applied_seq, row.ordinal)));
    for row in &rows {
        wanted.nodes.extend([row.canonical, row.duplicate]);
        wanted.merges_of.insert(row.duplicate);
        wanted.removed_at.insert(row.duplicate);
        wanted.candidates_at.insert(row.duplicate);
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    refuse_superseded(draft, &rows)?;
    let returning = returning(draft, &rows);
    for row in &returning {
        wanted.edge_ids.insert(row.edge.id);
        wanted.edge_keys.insert(row.edge.key());
        wanted.edge_ids.extend(row.target);
        wanted.removed_to.extend(row.target);
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    for row in &rows {
        take_back(draft, row, force);
    }
    unmake_targets(draft, &returning, force);
    put_back(draft, &returning, force);
    Ok(None)
}

fn not_found(which: &UndoWhich) -> DomainError {
    let message = match which {
        UndoWhich::Merge(id) => format!("no merge of this scope has the id {id}; consolidation-apply reports them"),
        UndoWhich::Run(id) => format!("no merge of this scope was made by run {id}; `aionis job runs` lists runs"),
    };
    DomainError::new(ErrorKind::NotFound, "merge_not_found", message)
}

/// A merge can be taken back only when its duplicate has not been taken further since.
fn refuse_superseded(draft: &Draft<'_>, rows: &[&MergeRow]) -> Result<(), DomainError> {
    let going: BTreeSet<Uuid> = rows.iter().map(|row| row.id).collect();
    for row in rows {
        let later = draft.state.merges.values().find(|other| {
            other.duplicate == row.duplicate
                && other.undone_seq.is_none()
                && !going.contains(&other.id)
                && (other.applied_seq, other.ordinal) > (row.applied_seq, row.ordinal)
        });
        if let Some(later) = later {
            let first = later.cause.unwrap_or(later.id);
            let message = format!(
                "node {} was taken further by merge {first} since merge {}; take that one back first",
                row.duplicate, row.id
            );
            let details = json!({ "merge_id": row.id, "later_merge_id": first });
            return Err(DomainError::new(ErrorKind::Conflict, "merge_superseded", message).with_details(details));
        }
    }
    Ok(())
}

/// Removed edges that come back: those at a duplicate that were removed since its merge.
fn returning<'a>(draft: &Draft<'a>, rows: &[&MergeRow]) -> Vec<&'a RemovedEdge> {
    let since = |id: NodeId| rows.iter().filter(|row| row.duplicate == id).map(|row| row.applied_seq).min();
    let is_returning = |row: &&RemovedEdge| {
        let merged = [row.edge.src, row.edge.dst].into_iter().filter_map(since).min();
        row.restored_seq.is_none()
            && row.role != RemovalRole::Undone
            && merged.is_some_and(|merged| row.removed_seq > merged)
    };
    draft.state.removed.values().filter(is_returning).collect()
}

fn take_back(draft: &mut Draft<'_>, row: &MergeRow, force: bool) {
    draft.outcome.merges.push(shown(row));
    draft.undone.push(row.id);
    let applied = draft.state.candidates.values().filter(|pair| {
        let of_it = pair.low == row.duplicate || pair.high == row.duplicate;
        of_it && pair.state == CandidateState::Applied
    });
    let applied: Vec<String> = applied.map(|pair| pair.pair_key.clone()).collect();
    if row.cause.is_none() {
        draft.candidates.extend(applied.into_iter().map(|key| (key, CandidateState::Undone)));
    }
    if draft.state.nodes.contains_key(&row.duplicate) {
        let notes = draft.notes_of(row.duplicate);
        let says = notes.as_ref().and_then(|notes| notes.get("alias_of")).and_then(|to| to.as_str());
        let is_as_left = says == Some(row.canonical.to_string().as_str());
        if !is_as_left {
            draft.outcome.conflicts.push(UndoConflict {
                object: "node",
                id: row.duplicate.0,
                reason: "is_no_longer_an_alias_of_the_canonical_node",
                overwritten: force,
            });
        }
        if is_as_left || force {
            draft.notes.insert(row.duplicate, restored(&notes, &row.prior_duplicate, &OF_ALIAS));
        }
    }
    if row.cause.is_none() && draft.state.nodes.contains_key(&row.canonical) {
        let followers = draft.state.merges.values().filter(|other| other.cause == Some(row.id));
        // In the order in which they were taken in.
        let mut followers: Vec<&MergeRow> = followers.collect();
        followers.sort_by_key(|other| other.ordinal);
        let taken: Vec<NodeId> = std::iter::once(row.duplicate).chain(followers.iter().map(|f| f.duplicate)).collect();
        let notes = draft.notes_of(row.canonical);
        let left = taking(&row.prior_canonical, &taken, row.applied_at);
        let back = if same(&notes, &left, &OF_TAKING) {
            restored(&notes, &row.prior_canonical, &OF_CANONICAL)
        } else {
            without(&notes, &taken)
        };
        draft.notes.insert(row.canonical, back);
    }
}

/// Gives the edges that the returning ones became part of what they would be without them.
fn unmake_targets(draft: &mut Draft<'_>, returning: &[&RemovedEdge], force: bool) {
    let going: BTreeSet<(EdgeId, u64)> = returning.iter().map(|row| (row.edge.id, row.removed_seq)).collect();
    let targets: BTreeSet<EdgeId> = returning.iter().filter_map(|row| row.target).collect();
    for target in targets {
        let Some(edge) = draft.state.edges.get(&target) else {
            draft.outcome.conflicts.push(UndoConflict {
                object: "edge",
                id: target.0,
                reason: "moved_edge_is_gone",
                overwritten: false,
            });
            continue;
        };
        let parts: Vec<&RemovedEdge> = parts_of(draft.state.removed.values(), target).collect();
        let base = common_base(&parts);
        let is_as_left = base.is_some_and(|base| made_of(base, parts.iter().copied()) == Some(edge.strength));
        if !is_as_left {
            draft.outcome.conflicts.push(UndoConflict {
                object: "edge",
                id: target.0,
                reason: "moved_edge_was_changed_since",
                overwritten: force,
            });
            if !force {
                continue;
            }
        }
        let newest = parts.iter().max_by_key(|row| row.removed_seq).and_then(|row| row.base);
        let left = parts.iter().copied().filter(|row| !going.contains(&(row.edge.id, row.removed_seq)));
        match made_of(base.unwrap_or(newest), left) {
            Some(strength) => {
                draft.edges.insert(target, MergeEdge { strength, ..edge.clone() });
            }
            None => remove(draft, edge),
        }
    }
}

/// Removes an edge that an undo makes needless, and keeps what it was for earlier states.
fn remove(draft: &mut Draft<'_>, edge: &MergeEdge) {
    draft.edges.remove(&edge.id);
    draft.kept.push(RemovedEdge {
        edge: edge.clone(),
        removed_seq: draft.seq(),
        role: RemovalRole::Undone,
        target: None,
        base: None,
        restored_seq: None,
    });
}

fn put_back(draft: &mut Draft<'_>, returning: &[&RemovedEdge], force: bool) {
    let mut there: HashMap<EdgeKey, EdgeId> = draft.edges.values().map(|edge| (edge.key(), edge.id)).collect();
    // One edge may have been removed, put back and removed again: it comes back as it was at last.
    let mut newest: BTreeMap<EdgeId, &RemovedEdge> = BTreeMap::new();
    for row in returning {
        draft.restored.push((row.edge.id, row.removed_seq));
        let known = newest.entry(row.edge.id).or_insert(row);
        if known.removed_seq < row.removed_seq {
            *known = row;
        }
    }
    for (id, row) in newest {
        let in_the_way = there.get(&row.edge.key()).copied().or_else(|| draft.edges.contains_key(&id).then_some(id));
        if let Some(other) = in_the_way {
            draft.outcome.conflicts.push(UndoConflict {
                object: "edge",
                id: id.0,
                reason: "an_edge_was_written_in_its_place",
                overwritten: force,
            });
            if !force {
                continue;
            }
            if let Some(edge) = draft.state.edges.get(&other) {
                remove(draft, edge);
            }
        }
        let ends = [row.edge.src, row.edge.dst];
        if ends.iter().any(|end| is_known_missing(draft.state.nodes.get(end), *end, draft)) {
            continue;
        }
        there.insert(row.edge.key(), id);
        draft.edges.insert(id, row.edge.clone());
        draft.outcome.restored_edges += 1;
    }
}

/// Removed edges at forgotten nodes are erased with them; an end that was asked for and is not there is one.
fn is_known_missing(node: Option<&MergeNode>, end: NodeId, draft: &Draft<'_>) -> bool {
    let mut wanted = Needs::default();
    wanted.nodes.insert(end);
    node.is_none() && draft.state.lacks(&wanted).is_none()
}

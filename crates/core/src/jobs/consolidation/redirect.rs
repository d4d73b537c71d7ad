//! Moving the edges of aliases to what they are aliases of, in one pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    EdgeKey, MergeEdge, Needs, RemovalRole, RemovedEdge, Strength,
    edges::{common_base, made_of, parts_of},
    notes::redirected,
    plan::Draft,
};
use crate::{
    derive_id::stable_uuid,
    error::{DomainError, ErrorKind},
    ids::{EdgeId, NodeId},
};

pub(super) fn plan(draft: &mut Draft<'_>, aliases: &[NodeId]) -> Result<Option<Needs>, DomainError> {
    let aliases: BTreeSet<NodeId> = aliases.iter().copied().collect();
    let mut wanted = Needs { nodes: aliases.clone(), edges_at: aliases.clone(), ..Needs::default() };
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    let at_alias = |edge: &&MergeEdge| aliases.contains(&edge.src) || aliases.contains(&edge.dst);
    let edges: Vec<&MergeEdge> = draft.state.edges.values().filter(at_alias).collect();
    let mut moved: Vec<(&MergeEdge, EdgeKey)> = Vec::new();
    for edge in edges {
        // Both ends go to the final node in one step, also when both are aliases.
        let roots = (draft.state.root(edge.src, &mut wanted), draft.state.root(edge.dst, &mut wanted));
        if let (Some(src), Some(dst)) = roots
            && (src, dst) != (edge.src, edge.dst)
        {
            moved.push((edge, (edge.edge_type, src, dst)));
        }
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    for (_, key) in moved.iter().filter(|(_, key)| key.1 != key.2) {
        wanted.edge_keys.insert(*key);
        wanted.edge_ids.insert(made_id(draft, *key));
    }
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    let there: HashMap<EdgeKey, EdgeId> = draft.state.edges.values().map(|edge| (edge.key(), edge.id)).collect();
    wanted.removed_to.extend(moved.iter().filter_map(|(_, key)| there.get(key)));
    if let Some(needs) = draft.state.lacks(&wanted) {
        return Ok(Some(needs));
    }
    let mut by_target: BTreeMap<EdgeKey, Vec<&MergeEdge>> = BTreeMap::new();
    for (edge, key) in &moved {
        by_target.entry(*key).or_default().push(edge);
    }
    for (key, parts) in by_target {
        join(draft, key, &parts, there.get(&key).copied())?;
    }
    note(draft, &moved);
    draft.outcome.touched_edges = moved.len() as u64;
    Ok(None)
}

fn made_id(draft: &Draft<'_>, (edge_type, src, dst): EdgeKey) -> EdgeId {
    let scope = draft.asked.scope.as_str();
    EdgeId(stable_uuid(&format!("{scope}:edge:consolidation_redirect:{edge_type}:{src}:{dst}")))
}

/// Makes parts one edge, or drops them when it would begin where it ends.
fn join(draft: &mut Draft<'_>, key: EdgeKey, parts: &[&MergeEdge], there: Option<EdgeId>) -> Result<(), DomainError> {
    let is_loop = key.1 == key.2;
    let base = there.and_then(|id| base_of(draft, id));
    let target = if is_loop { None } else { Some(there.unwrap_or_else(|| made_id(draft, key))) };
    for part in parts {
        draft.edges.remove(&part.id);
        draft.kept.push(RemovedEdge {
            edge: (*part).clone(),
            removed_seq: draft.seq(),
            role: if is_loop { RemovalRole::SelfLoop } else { RemovalRole::Redirected },
            target,
            base,
            restored_seq: None,
        });
    }
    let count = parts.len() as u64;
    let Some(target) = target else {
        draft.outcome.dropped_self_loops += count;
        return Ok(());
    };
    let sum = parts.iter().map(|part| part.strength).reduce(Strength::with);
    let Some(sum) = sum else { return Ok(()) };
    match draft.edges.get_mut(&target) {
        Some(edge) if edge.key() == key => {
            edge.strength = edge.strength.with(sum);
            draft.outcome.merged_into_existing += count;
        }
        Some(_) => {
            let message = format!("the id {target} that a moved edge gets is in use for another pair of nodes");
            return Err(DomainError::new(ErrorKind::Conflict, "edge_id_in_use", message));
        }
        None => {
            let (edge_type, src, dst) = key;
            let seq = draft.seq();
            let edge =
                MergeEdge { id: target, edge_type, src, dst, strength: sum, created_at: draft.now, commit_seq: seq };
            draft.edges.insert(target, edge);
            draft.outcome.redirected_edges += 1;
            draft.outcome.merged_into_existing += count - 1;
        }
    }
    Ok(())
}

/// What an edge was before anything became part of it. One that was given other values since begins anew.
fn base_of(draft: &Draft<'_>, id: EdgeId) -> Option<Strength> {
    let strength = draft.state.edges.get(&id)?.strength;
    let parts: Vec<&RemovedEdge> = parts_of(draft.state.removed.values(), id).collect();
    match common_base(&parts) {
        Some(base) if made_of(base, parts.iter().copied()) == Some(strength) => base,
        _ => Some(strength),
    }
}

fn note(draft: &mut Draft<'_>, moved: &[(&MergeEdge, EdgeKey)]) {
    let ends = moved.iter().flat_map(|(edge, key)| [(edge.src, key.1), (edge.dst, key.2)]);
    let noted: BTreeSet<NodeId> = ends.filter(|(from, to)| from != to).flat_map(|(from, to)| [from, to]).collect();
    for id in noted {
        draft.notes.insert(id, redirected(&draft.notes_of(id), draft.now));
    }
}

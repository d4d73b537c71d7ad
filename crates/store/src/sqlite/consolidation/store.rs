//! Storing what a merge is planned to change.

use aionis_core::{
    clock::Timestamp,
    jobs::consolidation::{MergeEdge, MergePlan, MergeRow, RemovedEdge},
    ports::store::StoreError,
    write::NewCommit,
};
use rusqlite::{Connection, params};

use super::run;
use crate::{
    consolidation::aliases_after,
    sqlite::{
        rows::{blob, signed},
        write::append,
    },
};
use aionis_image::{Delta, EdgeDelta};

pub(super) fn store(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    scope: &str,
    plan: &MergePlan,
    now: Timestamp,
) -> Result<(), StoreError> {
    for (key, state) in &plan.candidates {
        let sql = "UPDATE memory_consolidation_candidates SET state = ?3, updated_at = ?4 \
                   WHERE scope_key = ?1 AND pair_key = ?2";
        run(connection, sql, params![scope, key, state.as_str(), now.0])?;
    }
    let Some(commit) = &plan.commit else { return Ok(()) };
    append(connection, deltas, commit, (0, 0), now)?;
    let sql = "UPDATE memory_scopes SET edge_count = edge_count + ?2 WHERE scope_key = ?1";
    run(connection, sql, params![scope, plan.edges_delta])?;
    notes(connection, deltas, scope, (plan, commit), now)?;
    edges(connection, deltas, scope, (plan, commit))?;
    for row in &plan.merges {
        keep_merge(connection, scope, row)?;
    }
    let seq = signed(commit.header.seq);
    for id in &plan.undone {
        let sql = "UPDATE memory_merges SET undone_seq = ?3 WHERE scope_key = ?1 AND id = ?2";
        run(connection, sql, params![scope, blob(*id), seq])?;
    }
    for (id, removed_seq) in &plan.restored {
        let sql = "UPDATE memory_removed_edges SET restored_seq = ?4 \
                   WHERE scope_key = ?1 AND edge_id = ?2 AND removed_seq = ?3";
        run(connection, sql, params![scope, blob(id.0), signed(*removed_seq), seq])?;
    }
    plan.kept.iter().try_for_each(|row| keep_edge(connection, scope, row))
}

fn notes(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    scope: &str,
    (plan, commit): (&MergePlan, &NewCommit),
    now: Timestamp,
) -> Result<(), StoreError> {
    for (id, notes) in &plan.notes {
        let sql = "UPDATE memory_nodes SET activity = ?3, updated_at = ?4, commit_seq = ?5, commit_id = ?6 \
                   WHERE scope_key = ?1 AND id = ?2";
        let notes = notes.as_ref().map(ToString::to_string);
        run(connection, sql, params![scope, blob(id.0), notes, now.0, signed(commit.header.seq), blob(commit.id.0)])?;
    }
    deltas.extend(aliases_after(plan).map(|(id, alias_of)| Delta::Alias { scope: scope.to_owned(), id, alias_of }));
    Ok(())
}

fn edges(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    scope: &str,
    (plan, commit): (&MergePlan, &NewCommit),
) -> Result<(), StoreError> {
    for id in &plan.removed {
        let sql = "DELETE FROM memory_edges WHERE scope_key = ?1 AND id = ?2";
        if run(connection, sql, params![scope, blob(id.0)])? != 1 {
            return Err(StoreError::Driver(format!("edge {id} was read and is not there to be removed")));
        }
    }
    if !plan.removed.is_empty() {
        deltas.push(Delta::EdgesRemoved { scope: scope.to_owned(), ids: plan.removed.clone() });
    }
    for edge in &plan.put {
        put_edge(connection, scope, edge, signed(commit.header.seq))?;
        deltas.push(Delta::Edge(EdgeDelta::of(edge, scope)));
    }
    Ok(())
}

fn put_edge(connection: &Connection, scope: &str, edge: &MergeEdge, seq: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO memory_edges (scope_key, id, type, src_id, dst_id, weight, confidence, decay_rate, last_activated, \
                   created_at, commit_seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
               ON CONFLICT (scope_key, src_id, type, dst_id) DO UPDATE SET weight = excluded.weight, \
                   confidence = excluded.confidence, decay_rate = excluded.decay_rate, \
                   last_activated = excluded.last_activated, commit_seq = excluded.commit_seq";
    let strength = edge.strength;
    let values = params![
        scope,
        blob(edge.id.0),
        edge.edge_type.as_str(),
        blob(edge.src.0),
        blob(edge.dst.0),
        strength.weight,
        strength.confidence,
        strength.decay_rate,
        strength.last_activated.map(|at| at.0),
        edge.created_at.0,
        seq,
    ];
    run(connection, sql, values).map(|_| ())
}

fn keep_merge(connection: &Connection, scope: &str, row: &MergeRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO memory_merges (scope_key, id, run_id, ordinal, cause_id, canonical_id, duplicate_id, pair_key, score, \
                   prior_duplicate, prior_canonical, applied_seq, applied_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let values = params![
        scope,
        blob(row.id),
        blob(row.run),
        row.ordinal,
        row.cause.map(blob),
        blob(row.canonical.0),
        blob(row.duplicate.0),
        row.pair_key,
        row.score,
        row.prior_duplicate.as_ref().map(ToString::to_string),
        row.prior_canonical.as_ref().map(ToString::to_string),
        signed(row.applied_seq),
        row.applied_at.0,
    ];
    run(connection, sql, values).map(|_| ())
}

fn keep_edge(connection: &Connection, scope: &str, row: &RemovedEdge) -> Result<(), StoreError> {
    let sql = "INSERT INTO memory_removed_edges (scope_key, edge_id, removed_seq, src_id, type, dst_id, weight, confidence, \
                   decay_rate, last_activated, created_at, commit_seq, role, target_id, base_weight, base_confidence, \
                   base_decay_rate, base_last_activated) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    let (edge, strength, base) = (&row.edge, row.edge.strength, row.base);
    let values = params![
        scope,
        blob(edge.id.0),
        signed(row.removed_seq),
        blob(edge.src.0),
        edge.edge_type.as_str(),
        blob(edge.dst.0),
        strength.weight,
        strength.confidence,
        strength.decay_rate,
        strength.last_activated.map(|at| at.0),
        edge.created_at.0,
        signed(edge.commit_seq),
        row.role.as_str(),
        row.target.map(|id| blob(id.0)),
        base.map(|base| base.weight),
        base.map(|base| base.confidence),
        base.map(|base| base.decay_rate),
        base.and_then(|base| base.last_activated).map(|at| at.0),
    ];
    run(connection, sql, values).map(|_| ())
}

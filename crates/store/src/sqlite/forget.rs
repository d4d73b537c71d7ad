//! Forgetting, inside the writing thread's transaction.

use std::collections::BTreeMap;

use aionis_core::{
    chain::ObjectKind,
    clock::Timestamp,
    forget::{
        ForgetOutcome, ForgetPlan, ForgetState, ForgettableEdge, ForgettableNode, Narrowing, PreparedForget,
        plan_forget,
    },
    ids::{EdgeId, NodeId},
    model::Lane,
    operate::feedback_digest,
    ports::store::{ForgetStore, StoreError},
    write::{NewCommit, edge_digest},
};
use async_trait::async_trait;
use hashbrown::HashMap;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    error::driver,
    integrity::feedback_row,
    rows::{blob, choice, digest, edge_type, json, signed, unreadable, unsigned, uuid},
    write::{answered, append, remember},
};
use crate::{forget::made, purge::check_state};
use aionis_image::Delta;

/// Characters of an id as it is written.
const ID_LEN: usize = 36;

/// Name of the fact that forgotten texts may still lie in parts of the database's file that are not in use.
pub(crate) const RESIDUE: &str = "forgotten_residue";

#[async_trait]
impl ForgetStore for SqliteStore {
    async fn forget(&self, forget: PreparedForget) -> Result<ForgetOutcome, StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        if forget.token.is_none() {
            let look = move |connection: &Connection| {
                let (state, _) = read(connection, &forget, ForgetState::default())?;
                Ok(plan_forget(&forget, state, shared.clock.now())?.outcome)
            };
            return self.readers.run(look).await;
        }
        self.writer.submit(move |connection, deltas| run(connection, deltas, &forget, shared.clock.now())).await
    }
}

fn run(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    asked: &PreparedForget,
    now: Timestamp,
) -> Result<ForgetOutcome, StoreError> {
    let (scope, key) = (asked.scope.as_str(), asked.idempotency.as_ref());
    let request = asked.request_digest;
    if let Some(earlier) = answered::<ForgetOutcome>(connection, scope, key, request)? {
        return Ok(ForgetOutcome { replayed: true, ..earlier });
    }
    let (state, numbers) = read(connection, asked, ForgetState::default())?;
    let mut plan = plan_forget(asked, state, now)?;
    let Some(commit) = plan.commit.take() else { return Ok(plan.outcome) };
    append(connection, deltas, &commit, (0, 0), now)?;
    erased(connection, deltas, scope, (&plan, &commit, &numbers))?;
    remember(connection, scope, key, request, (&plan.outcome, now))?;
    Ok(plan.outcome)
}

/// Erases what jobs made of nodes that a write lets fewer see, and what those see too who no longer may.
pub(crate) fn narrow(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    narrowing: &Narrowing,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (state, numbers) = read(connection, &narrowing.asked, Narrowing::state())?;
    let Some(mut plan) = narrowing.plan(state, now) else { return Ok(()) };
    let Some(commit) = plan.commit.take() else { return Ok(()) };
    append(connection, deltas, &commit, (0, 0), now)?;
    erased(connection, deltas, narrowing.asked.scope.as_str(), (&plan, &commit, &numbers))
}

fn erased(
    connection: &Connection,
    deltas: &mut Vec<Delta>,
    scope: &str,
    (plan, commit, numbers): (&ForgetPlan, &NewCommit, &HashMap<NodeId, i64>),
) -> Result<(), StoreError> {
    erase(connection, scope, plan, commit)?;
    let nodes = plan.nodes.iter().filter_map(|(id, _)| numbers.get(id).map(|number| (*id, *number))).collect();
    deltas.push(Delta::Erased { scope: scope.to_owned(), nodes });
    Ok(())
}

/// What is stored of the nodes, and the numbers of their rows.
fn read(
    connection: &Connection,
    asked: &PreparedForget,
    mut state: ForgetState,
) -> Result<(ForgetState, HashMap<NodeId, i64>), StoreError> {
    let (scope, mut numbers) = (asked.scope.as_str(), HashMap::new());
    let head: Option<(u64, _, String)> = connection
        .prepare_cached("SELECT head_seq, head_hash, state FROM memory_scopes WHERE scope_key = ?1")
        .and_then(|mut statement| {
            statement.query_row([scope], |row| Ok((unsigned(row, 0)?, digest(row, 1)?, row.get(2)?))).optional()
        })
        .map_err(|e| unreadable("memory_scopes", scope, e))?;
    if let Some((seq, hash, mark)) = head {
        check_state(&mark, scope)?;
        state.head = (seq, hash);
    }
    for id in &asked.ids {
        if let Some(node) = node(connection, scope, *id, &mut state, &mut numbers)? {
            around(connection, scope, (*id, node.was_rule), &mut state)?;
            state.nodes.insert(*id, node);
        }
    }
    // What jobs made of them, of that, and so on.
    loop {
        let ids = state.to_look_at();
        if ids.is_empty() {
            return Ok((state, numbers));
        }
        let mut found = BTreeMap::new();
        for id in &ids {
            found.extend(node(connection, scope, *id, &mut state, &mut numbers)?.map(|node| (*id, node)));
        }
        for id in state.look_at(&ids, found) {
            let was_rule = state.derived.get(&id).is_some_and(|node| node.was_rule);
            around(connection, scope, (id, was_rule), &mut state)?;
        }
    }
}

fn node(
    connection: &Connection,
    scope: &str,
    id: NodeId,
    state: &mut ForgetState,
    numbers: &mut HashMap<NodeId, i64>,
) -> Result<Option<ForgettableNode>, StoreError> {
    let sql = "SELECT digest, type = 'rule' OR EXISTS (SELECT 1 FROM memory_node_versions v WHERE v.scope_key = n.scope_key \
                       AND v.node_id = n.id AND instr(v.content, '\"type\":\"rule\"') > 0), \
                   memory_lane, owner_agent_id, owner_team_id, node_no, \
                   (SELECT COUNT(*) FROM memory_node_versions v WHERE v.scope_key = n.scope_key AND v.node_id = n.id), \
                   slots, (SELECT v.content FROM memory_node_versions v WHERE v.scope_key = n.scope_key AND v.node_id = n.id \
                       ORDER BY v.version LIMIT 1) \
               FROM memory_nodes n WHERE scope_key = ?1 AND id = ?2";
    let found = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let first = row.get::<_, Option<String>>(8)?.map(|_| json(row, 8)).transpose()?;
                let node = ForgettableNode {
                    digest: digest(row, 0)?,
                    was_rule: row.get(1)?,
                    lane: choice(row, 2, Lane::parse)?,
                    owner_agent_id: row.get(3)?,
                    owner_team_id: row.get(4)?,
                    made: made(&json(row, 7)?, first.as_ref()),
                };
                Ok((node, row.get::<_, i64>(5)?, row.get::<_, i64>(6)?))
            };
            statement.query_row((scope, blob(id.0)), read).optional()
        })
        .map_err(|e| unreadable("memory_nodes", id, e))?;
    let Some((node, number, versions)) = found else { return Ok(None) };
    numbers.insert(id, number);
    state.versions.insert(id, usize::try_from(versions).unwrap_or(0));
    Ok(Some(node))
}

/// Reads the edges at a node, and the feedback on it if it was a rule.
fn around(
    connection: &Connection,
    scope: &str,
    (id, was_rule): (NodeId, bool),
    state: &mut ForgetState,
) -> Result<(), StoreError> {
    for which in ["src_id", "dst_id"] {
        edges(connection, scope, which, id, state)?;
    }
    former(connection, scope, id, state)?;
    if was_rule {
        let sql = "SELECT id, rule_node_id, outcome, run_id, note, source, decision_id FROM memory_rule_feedback \
                   WHERE scope_key = ?1 AND rule_node_id = ?2";
        let mut statement = connection.prepare_cached(sql).map_err(driver)?;
        let rows = statement.query_map((scope, blob(id.0)), feedback_row).map_err(driver)?;
        for row in rows {
            let row = row.map_err(|e| unreadable("memory_rule_feedback", id, e))?;
            state.feedback.insert(row.id, (id, feedback_digest(&row)));
        }
    }
    Ok(())
}

fn edges(
    connection: &Connection,
    scope: &str,
    which: &str,
    id: NodeId,
    state: &mut ForgetState,
) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT id, type, src_id, dst_id, weight, confidence, decay_rate FROM memory_edges \
         WHERE scope_key = ?1 AND {which} = ?2"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let read = |row: &rusqlite::Row<'_>| {
        let (edge, ends) = (EdgeId(uuid(row, 0)?), (NodeId(uuid(row, 2)?), NodeId(uuid(row, 3)?)));
        let edge_type = edge_type(row, 1)?;
        let digest = edge_digest(edge, edge_type, ends, (row.get(4)?, row.get(5)?, row.get(6)?));
        Ok((edge, ForgettableEdge { edge_type, src: ends.0, dst: ends.1, digest }))
    };
    let rows = statement.query_map((scope, blob(id.0)), read).map_err(driver)?;
    for row in rows {
        let (edge, ends) = row.map_err(|e| unreadable("memory_edges", id, e))?;
        state.edges.insert(edge, ends);
    }
    Ok(())
}

/// Reads edges to a node that merges moved away.
fn former(connection: &Connection, scope: &str, id: NodeId, state: &mut ForgetState) -> Result<(), StoreError> {
    let sql = "SELECT type, src_id FROM memory_removed_edges WHERE scope_key = ?1 AND dst_id = ?2";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let read = |row: &rusqlite::Row<'_>| Ok((edge_type(row, 0)?, NodeId(uuid(row, 1)?), id));
    let rows = statement.query_map((scope, blob(id.0)), read).map_err(driver)?;
    for row in rows {
        state.former.insert(row.map_err(|e| unreadable("memory_removed_edges", id, e))?);
    }
    Ok(())
}

/// Tables whose rows of a node go with it, and the column that names the node.
const OF_A_NODE: [(&str, &str); 5] = [
    ("memory_nodes", "id"),
    ("memory_node_versions", "node_id"),
    ("memory_vectors", "node_id"),
    ("memory_rule_defs", "rule_node_id"),
    ("memory_rule_feedback", "rule_node_id"),
];

/// Tables of consolidation whose rows go with either of two nodes: pairs, merges with the notes both nodes had, and edges
/// that were moved.
const AT_A_NODE: [(&str, [&str; 2]); 3] = [
    ("memory_consolidation_candidates", ["low_id", "high_id"]),
    ("memory_merges", ["canonical_id", "duplicate_id"]),
    ("memory_removed_edges", ["src_id", "dst_id"]),
];

fn erase(connection: &Connection, scope: &str, plan: &ForgetPlan, commit: &NewCommit) -> Result<(), StoreError> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map(|_| ()).map_err(driver)
    };
    // Rows are overwritten where they lie, not only left out of the lists of what is in use.
    connection.execute_batch("PRAGMA secure_delete = ON").map_err(driver)?;
    let seq = signed(commit.header.seq);
    for (id, node) in &plan.nodes {
        for (table, column) in OF_A_NODE {
            run(&format!("DELETE FROM {table} WHERE scope_key = ?1 AND {column} = ?2"), params![scope, blob(id.0)])?;
        }
        let sql = "INSERT INTO memory_erasures (scope_key, id, digest, memory_lane, owner_agent_id, owner_team_id, \
                   commit_seq, erased_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (scope_key, id) DO UPDATE SET \
                   digest = excluded.digest, memory_lane = excluded.memory_lane, owner_agent_id = excluded.owner_agent_id, \
                   owner_team_id = excluded.owner_team_id, commit_seq = excluded.commit_seq, erased_at = excluded.erased_at";
        let (lane, agent, team) = (node.lane.as_str(), &node.owner_agent_id, &node.owner_team_id);
        run(sql, params![scope, blob(id.0), node.digest.0, lane, agent, team, seq, commit.header.created_at.0])?;
    }
    // What a provider said about a text it would not take may repeat the text.
    let ids = plan.nodes.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
    let sql = "SELECT outbox_no, payload FROM memory_outbox \
               WHERE scope_key = ?1 AND (last_error IS NOT NULL OR failed_reason IS NOT NULL)";
    for number in naming(connection, sql, scope, &ids)? {
        run("UPDATE memory_outbox SET last_error = NULL, failed_reason = NULL WHERE outbox_no = ?1", params![number])?;
    }
    if !plan.rules.is_empty() {
        // A policy is made of what its rules said; shadow rules stand in the metadata.
        let ids = plan.rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        let sql = "SELECT id, source_rules || tool_rules || metadata FROM memory_decisions WHERE scope_key = ?1";
        for id in naming(connection, sql, scope, &ids)? {
            let sql = "UPDATE memory_decisions SET policy = 'null', metadata = '{}' WHERE scope_key = ?1 AND id = ?2";
            run(sql, params![scope, id])?;
        }
    }
    for (id, _) in &plan.nodes {
        for (table, columns) in AT_A_NODE {
            let sql = format!("DELETE FROM {table} WHERE scope_key = ?1 AND {} = ?2", columns[0]);
            run(&sql, params![scope, blob(id.0)])?;
            let sql = format!("DELETE FROM {table} WHERE scope_key = ?1 AND {} = ?2", columns[1]);
            run(&sql, params![scope, blob(id.0)])?;
        }
    }
    for edge in commit.changes.iter().filter(|change| change.kind == ObjectKind::Edge) {
        run("DELETE FROM memory_edges WHERE scope_key = ?1 AND id = ?2", params![scope, blob(edge.id)])?;
    }
    let sql =
        "UPDATE memory_scopes SET node_count = node_count - ?2, edge_count = edge_count - ?3 WHERE scope_key = ?1";
    let count = |n: usize| signed(n as u64);
    run(sql, params![scope, count(plan.nodes.len()), count(plan.edges.len())])?;
    let sql = "INSERT INTO aionis_meta (key, value) VALUES (?1, 'true') ON CONFLICT (key) DO NOTHING";
    run(sql, params![RESIDUE])
}

/// Keys of rows whose text names one of some ids; the scope's rows are gone through once, however many ids there are.
fn naming(
    connection: &Connection,
    sql: &str,
    scope: &str,
    ids: &[String],
) -> Result<Vec<rusqlite::types::Value>, StoreError> {
    let wanted: std::collections::HashSet<&[u8]> = ids.iter().map(|id| id.as_bytes()).collect();
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut rows = statement.query([scope]).map_err(driver)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(driver)? {
        let text = row.get_ref(1).and_then(|text| Ok(text.as_bytes()?)).map_err(driver)?;
        if text.windows(ID_LEN).any(|part| wanted.contains(part)) {
            found.push(row.get(0).map_err(driver)?);
        }
    }
    Ok(found)
}

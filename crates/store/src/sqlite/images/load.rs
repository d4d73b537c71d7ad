//! Reading an image from the database, inside one read transaction.

use aionis_core::{
    ids::{EdgeId, NodeId},
    model::{Lane, NodeType, RuleState, Tier},
    ports::store::StoreError,
    recall::EdgeView,
};
use rusqlite::{Connection, OptionalExtension};

use crate::sqlite::{
    error::driver,
    rows::{choice, decay_basis, edge_type, unreadable, unsigned, uuid, vector},
    vector_index,
};
use crate::{
    purge::{PURGING, check_state},
    space::EmbeddingSpace,
};
use aionis_image::{NodeFacts, Router, ScopeImage};

/// Reads everything of a scope but its posting lists, which are read when a question needs them.
pub(super) fn load(
    connection: &Connection,
    scope: &str,
    space: &EmbeddingSpace,
    exact_bytes_max: usize,
) -> Result<ScopeImage, StoreError> {
    let tx = connection.unchecked_transaction().map_err(driver)?;
    let mut image = ScopeImage::empty(space.dim, exact_bytes_max);
    let sql = "SELECT scope_no, head_seq, node_count, state FROM memory_scopes WHERE scope_key = ?1";
    let found: Option<(i64, u64, u64, String)> = tx
        .query_row(sql, [scope], |row| Ok((row.get(0)?, unsigned(row, 1)?, unsigned(row, 2)?, row.get(3)?)))
        .optional()
        .map_err(driver)?;
    let Some((scope_no, head_seq, count, state)) = found else { return Ok(image) };
    if state == PURGING {
        return Ok(image);
    }
    check_state(&state, scope)?;
    image.scope_no = Some(scope_no);
    image.head_seq = head_seq;
    image.reserve_with_vectors(usize::try_from(count).unwrap_or(0));
    nodes(&mut image, &tx, scope)?;
    vectors(&mut image, &tx, scope, space)?;
    edges(&mut image, &tx, scope)?;
    Ok(image)
}

fn nodes(image: &mut ScopeImage, connection: &Connection, scope: &str) -> Result<(), StoreError> {
    let sql = "SELECT n.id, n.node_no, n.type, n.tier, n.memory_lane, n.owner_agent_id, n.owner_team_id, \
                   n.recall_flags, n.term_count, n.salience, n.confidence, n.embedding_status, n.name_key, n.client_id, \
                   CASE WHEN n.type = 'rule' THEN (SELECT r.state FROM memory_rule_defs r \
                       WHERE r.scope_key = n.scope_key AND r.rule_node_id = n.id) END, \
                   n.salience_at, n.last_activated, n.created_at, \
                   CASE WHEN instr(n.slots, '\"pin\"') > 0 OR instr(n.slots, '\"legal_hold\"') > 0 \
                       OR instr(n.slots, '\"feedback_') > 0 THEN n.slots END, n.activity, \
                   CASE WHEN instr(n.activity, 'alias_of') > 0 THEN n.activity ->> 'alias_of' END \
                   FROM memory_nodes n WHERE n.scope_key = ?1 ORDER BY n.node_no";
    let mut statement = connection.prepare(sql).map_err(driver)?;
    let mut rows = statement.query([scope]).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        node(image, row).map_err(|e| unreadable("memory_nodes", scope, e))?;
    }
    Ok(())
}

fn node(image: &mut ScopeImage, row: &rusqlite::Row<'_>) -> rusqlite::Result<()> {
    let rule_state: Option<String> = row.get(14)?;
    let text = |at: usize| row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from);
    let (node_type, tier) = (choice(row, 2, NodeType::parse)?, choice(row, 3, Tier::parse)?);
    image.put_facts(&NodeFacts {
        id: uuid(row, 0)?,
        node_no: row.get(1)?,
        node_type,
        tier,
        lane: choice(row, 4, Lane::parse)?,
        owner_agent: text(5)?,
        owner_team: text(6)?,
        flags: row.get(7)?,
        terms: row.get(8)?,
        live_rule: rule_state.as_deref().and_then(RuleState::parse).is_some_and(RuleState::is_live),
        pending: row.get_ref(11)?.as_str()? == "pending",
        ready: false,
        salience: row.get(9)?,
        decay: decay_basis(row, (node_type, tier), 15)?,
        confidence: row.get(10)?,
        name_key: text(12)?,
        client_id: text(13)?,
        alias_of: text(20)?.and_then(|to| uuid::Uuid::parse_str(to).ok()),
    });
    Ok(())
}

fn vectors(
    image: &mut ScopeImage,
    connection: &Connection,
    scope: &str,
    space: &EmbeddingSpace,
) -> Result<(), StoreError> {
    let index = vector_index::read(connection, scope, space)?;
    let router = index.as_ref().and_then(|index| Router::from_stored(&index.router, space));
    let index = index.filter(|_| router.is_some());
    if let (Some(router), Some(index)) = (router, &index) {
        image.adopt_router(router, index.members.len());
    }
    let sql = "SELECT node_id, vector_no, vector, created_at FROM memory_vectors \
                   WHERE scope_key = ?1 AND model = ?2 AND dim = ?3 ORDER BY vector_no";
    let mut statement = connection.prepare(sql).map_err(driver)?;
    let dim = i64::try_from(space.dim).unwrap_or(i64::MAX);
    let mut rows = statement.query((scope, &space.name, dim)).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        let id = uuid(row, 0).map_err(|e| unreadable("memory_vectors", scope, e))?;
        let bytes = row.get_ref(2).map_err(driver)?;
        let bytes = bytes
            .as_blob()
            .map_err(|e| crate::sqlite::error::inconsistent("memory_vectors", "vector", id, e.to_string()))?;
        let (vector_no, created_at) = (row.get(1).map_err(driver)?, row.get(3).map_err(driver)?);
        match index.as_ref().and_then(|index| index.list_of(vector_no, created_at)) {
            Some(list) => image.put_vector_in(list, NodeId(id), vector_no, &vector(bytes)),
            None => image.put_vector(NodeId(id), vector_no, &vector(bytes)),
        }
    }
    Ok(())
}

fn edges(image: &mut ScopeImage, connection: &Connection, scope: &str) -> Result<(), StoreError> {
    let sql = "SELECT id, type, src_id, dst_id, weight, confidence, commit_seq FROM memory_edges WHERE scope_key = ?1";
    let mut statement = connection.prepare(sql).map_err(driver)?;
    let edges = statement
        .query_map([scope], |row| {
            Ok(EdgeView {
                id: EdgeId(uuid(row, 0)?),
                edge_type: edge_type(row, 1)?,
                src: NodeId(uuid(row, 2)?),
                dst: NodeId(uuid(row, 3)?),
                weight: row.get(4)?,
                confidence: row.get(5)?,
                commit_seq: unsigned(row, 6)?,
            })
        })
        .map_err(driver)?;
    for edge in edges {
        image.put_edge(edge.map_err(|e| unreadable("memory_edges", scope, e))?);
    }
    Ok(())
}

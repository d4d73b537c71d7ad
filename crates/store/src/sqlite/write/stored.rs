//! What is stored of what a write touches.

use std::collections::HashMap;

use aionis_core::{
    ids::{CommitId, EdgeId, NodeId},
    model::{EdgeType, EmbeddingStatus, Lane, RuleState, Tier},
    ports::store::StoreError,
    write::{ParentState, PartState, PreparedEdge, PreparedPart, PreparedWrite, Replay, StoredEdge, StoredNode},
};
use rusqlite::{OptionalExtension, params};
use uuid::Uuid;

use super::Application;
use crate::{
    purge::check_state,
    sqlite::{
        error::driver,
        rows::{blob, choice, digest, edge_type, unreadable, unsigned, uuid, vector},
    },
};

impl Application<'_> {
    pub(super) fn state(
        &self,
        write: &PreparedWrite,
        part: &PreparedPart,
        primary: bool,
    ) -> Result<PartState, StoreError> {
        let scope = part.scope.as_str();
        let mut state = PartState::default();
        let head: Option<(u64, _, String)> = self
            .statement("SELECT head_seq, head_hash, state FROM memory_scopes WHERE scope_key = ?1")?
            .query_row([scope], |row| Ok((unsigned(row, 0)?, digest(row, 1)?, row.get(2)?)))
            .optional()
            .map_err(|e| unreadable("memory_scopes", scope, e))?;
        if let Some((seq, hash, mark)) = head {
            check_state(&mark, scope)?;
            state.head = (seq, hash);
        }
        for node in &part.nodes {
            if let Some(stored) = self.stored_node(scope, node.id, node.embedding.is_some())? {
                state.nodes.insert(node.id, stored);
            }
        }
        let mut known: HashMap<NodeId, bool> = HashMap::new();
        for edge in &part.edges {
            for end in [edge.src, edge.dst] {
                if !end.in_request && !known.contains_key(&end.id) {
                    let stored = self.stored_node(scope, end.id, false)?;
                    known.insert(end.id, stored.is_some());
                    if let Some(stored) = stored {
                        state.nodes.insert(end.id, stored);
                    }
                }
            }
            self.stored_edge(scope, edge, &mut state)?;
        }
        state.same_request = self.same_request(scope, write)?;
        if primary && let Some(parent) = write.parent_commit_id {
            state.parent = Some(self.parent_state(scope, parent, state.head.0)?);
        }
        Ok(state)
    }

    fn stored_node(&self, scope: &str, id: NodeId, with_vector: bool) -> Result<Option<StoredNode>, StoreError> {
        let sql = "SELECT n.digest, n.version, n.tier, n.salience, n.importance, n.confidence, n.embedding_status, r.state, \
                   n.memory_lane, n.owner_agent_id, n.owner_team_id \
                   FROM memory_nodes n LEFT JOIN memory_rule_defs r \
                   ON r.scope_key = n.scope_key AND r.rule_node_id = n.id \
                   WHERE n.scope_key = ?1 AND n.id = ?2";
        let found = self
            .statement(sql)?
            .query_row((scope, blob(id.0)), |row| {
                let rule_state: Option<String> = row.get(7)?;
                Ok(StoredNode {
                    digest: digest(row, 0)?,
                    version: row.get(1)?,
                    tier: choice(row, 2, Tier::parse)?,
                    salience: row.get(3)?,
                    importance: row.get(4)?,
                    confidence: row.get(5)?,
                    embedding_status: choice(row, 6, EmbeddingStatus::parse)?,
                    embedding: None,
                    rule_state: rule_state.as_deref().and_then(RuleState::parse),
                    lane: choice(row, 8, Lane::parse)?,
                    owner_agent_id: row.get(9)?,
                    owner_team_id: row.get(10)?,
                })
            })
            .optional()
            .map_err(|e| unreadable("memory_nodes", id, e))?;
        let Some(mut found) = found else { return Ok(None) };
        if with_vector {
            let sql = "SELECT vector FROM memory_vectors WHERE scope_key = ?1 AND node_id = ?2 AND model = ?3";
            let held: Option<Vec<u8>> = self
                .statement(sql)?
                .query_row((scope, blob(id.0), &self.shared.space.name), |row| row.get(0))
                .optional()
                .map_err(driver)?;
            found.embedding = held.map(|bytes| vector(&bytes));
        }
        Ok(Some(found))
    }

    fn stored_edge(&self, scope: &str, edge: &PreparedEdge, state: &mut PartState) -> Result<(), StoreError> {
        let place = (edge.edge_type, edge.src.id, edge.dst.id);
        let sql = "SELECT id, weight, confidence, decay_rate FROM memory_edges \
                   WHERE scope_key = ?1 AND src_id = ?2 AND type = ?3 AND dst_id = ?4";
        let held = self
            .statement(sql)?
            .query_row(params![scope, blob(place.1.0), place.0.as_str(), blob(place.2.0)], |row| {
                Ok(StoredEdge {
                    id: EdgeId(uuid(row, 0)?),
                    weight: row.get(1)?,
                    confidence: row.get(2)?,
                    decay_rate: row.get(3)?,
                })
            })
            .optional()
            .map_err(|e| unreadable("memory_edges", edge.id, e))?;
        if let Some(held) = held {
            state.edges.insert(place, held);
            return Ok(());
        }
        let sql = "SELECT type, src_id, dst_id FROM memory_edges WHERE scope_key = ?1 AND id = ?2";
        let elsewhere: Option<(EdgeType, NodeId, NodeId)> = self
            .statement(sql)?
            .query_row((scope, blob(edge.id.0)), |row| {
                Ok((edge_type(row, 0)?, NodeId(uuid(row, 1)?), NodeId(uuid(row, 2)?)))
            })
            .optional()
            .map_err(|e| unreadable("memory_edges", edge.id, e))?;
        if let Some(elsewhere) = elsewhere {
            state.edge_ids.insert(edge.id, elsewhere);
        }
        Ok(())
    }

    fn same_request(&self, scope: &str, write: &PreparedWrite) -> Result<Option<Replay>, StoreError> {
        let sql = "SELECT seq, id, hash FROM memory_commits WHERE scope_key = ?1 AND request_sha256 = ?2 \
                   ORDER BY seq DESC LIMIT 1";
        self.statement(sql)?
            .query_row((scope, write.request_digest.0), |row| {
                Ok(Replay { seq: unsigned(row, 0)?, id: CommitId(uuid(row, 1)?), hash: digest(row, 2)? })
            })
            .optional()
            .map_err(driver)
    }

    fn parent_state(&self, scope: &str, parent: Uuid, head: u64) -> Result<ParentState, StoreError> {
        let seq: Option<u64> = self
            .statement("SELECT seq FROM memory_commits WHERE scope_key = ?1 AND id = ?2")?
            .query_row((scope, blob(parent)), |row| unsigned(row, 0))
            .optional()
            .map_err(driver)?;
        Ok(match seq {
            None => ParentState::Missing,
            Some(seq) if seq == head => ParentState::Head,
            Some(_) => ParentState::Older,
        })
    }
}

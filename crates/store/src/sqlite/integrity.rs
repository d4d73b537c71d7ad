//! Reading for verification, straight from the database.

use std::{path::Path, sync::Arc};

use aionis_core::{
    canon::{Digest, sha256},
    chain::{CommitHeader, StoredCommit, changes_sha256},
    clock::Timestamp,
    ids::{CommitId, EdgeId, NodeId, ScopeKey},
    jobs::scope_purge::PurgeRecord,
    model::{Lane, NodeType, RuleState},
    operate::{FeedbackRow, Outcome, feedback_digest},
    ports::store::{
        CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoreError, StoredEdgeRow, StoredErasure,
        StoredFeedbackRow, StoredNodeRow,
    },
    write::{edge_digest, node_digest},
};
use async_trait::async_trait;
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::{
    SqliteStore, connect,
    error::driver,
    purge,
    readers::Readers,
    rows::{blob, choice, digest, edge_type, json, optional_uuid, signed, unreadable, unsigned, uuid},
};
use crate::{content::StoredContent, operate::feedback_source};

pub(crate) const CONTENT_COLUMNS: &str = "id, client_id, type, title, text_summary, slots, raw_ref, evidence_ref, memory_lane, \
     producer_agent_id, owner_agent_id, owner_team_id";

/// A content, from the first columns of a row.
pub(crate) fn read_content(row: &Row<'_>) -> rusqlite::Result<StoredContent> {
    Ok(StoredContent {
        id: NodeId(uuid(row, 0)?),
        client_id: row.get(1)?,
        node_type: choice(row, 2, NodeType::parse)?,
        title: row.get(3)?,
        text_summary: row.get(4)?,
        slots: json(row, 5)?,
        raw_ref: row.get(6)?,
        evidence_ref: row.get(7)?,
        lane: choice(row, 8, Lane::parse)?,
        producer_agent_id: row.get(9)?,
        owner_agent_id: row.get(10)?,
        owner_team_id: row.get(11)?,
    })
}

/// Reads one node's content.
pub(crate) fn stored_content(connection: &Connection, scope: &str, id: NodeId) -> Result<StoredContent, StoreError> {
    let sql = format!("SELECT {CONTENT_COLUMNS} FROM memory_nodes WHERE scope_key = ?1 AND id = ?2");
    connection
        .prepare_cached(&sql)
        .map_err(driver)?
        .query_row((scope, blob(id.0)), read_content)
        .map_err(|e| unreadable("memory_nodes", id, e))
}

/// Lists every scope that any table knows: rows without a head must not escape verification. One index seek per scope
/// and table.
fn scopes_sql() -> String {
    let tables = ["memory_scopes", "memory_commits", "memory_nodes", "memory_node_versions", "memory_edges"];
    let walks: Vec<String> = tables
        .iter()
        .map(|table| {
            format!(
                "{table}_keys (k) AS (SELECT MIN(scope_key) FROM {table} UNION ALL \
                 SELECT (SELECT MIN(scope_key) FROM {table} WHERE scope_key > k) FROM {table}_keys WHERE k IS NOT NULL)"
            )
        })
        .collect();
    let union: Vec<String> =
        tables.iter().map(|table| format!("SELECT k FROM {table}_keys WHERE k IS NOT NULL")).collect();
    format!(
        "WITH RECURSIVE {} SELECT k, COALESCE(head_seq, 0), COALESCE(head_hash, zeroblob(32)), COALESCE(node_count, 0), \
         COALESCE(edge_count, 0) FROM ({}) LEFT JOIN memory_scopes ON scope_key = k \
         WHERE COALESCE(state, 'open') <> 'purging' AND (?1 IS NULL OR substr(k, 1, instr(k, '/') - 1) = ?1) \
           AND (?2 IS NULL OR substr(k, instr(k, '/') + 1) = ?2) ORDER BY k",
        walks.join(", "),
        union.join(" UNION ")
    )
}

/// A lower bound for ids: nothing is below it, and an empty blob sorts before every id.
pub(super) fn after_id(after: Option<Uuid>) -> Vec<u8> {
    after.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}

impl SqliteStore {
    /// What reads for verification.
    pub(crate) const fn integrity(&self) -> &Readers {
        &self.readers
    }
}

#[async_trait]
impl IntegrityStore for Readers {
    async fn scopes(&self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError> {
        let (tenant, scope) = (tenant.map(str::to_owned), scope.map(str::to_owned));
        self.run(move |connection| {
            let mut statement = connection.prepare(&scopes_sql()).map_err(driver)?;
            statement
                .query_map((tenant, scope), |row| {
                    Ok(ScopeSummary {
                        scope_key: row.get(0)?,
                        head_seq: unsigned(row, 1)?,
                        head_hash: digest(row, 2)?,
                        nodes: unsigned(row, 3)?,
                        edges: unsigned(row, 4)?,
                    })
                })
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_scopes", "all", e))
        })
        .await
    }

    async fn commits(&self, scope: &ScopeKey, after: u64, limit: usize) -> Result<CommitPage, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = format!(
                "SELECT {COMMIT_COLUMNS} FROM memory_commits WHERE scope_key = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
            let key = (scope.as_str(), signed(after), signed(limit as u64));
            let mut rows = statement.query(key).map_err(driver)?;
            let mut page = CommitPage::default();
            while let Some(row) = rows.next().map_err(driver)? {
                let seq = unsigned(row, 0).map_err(driver)?;
                page.commits.push(stored_commit(row, scope.as_str()).map_err(|e| (seq, e.to_string())));
            }
            Ok(page)
        })
        .await
    }

    async fn nodes(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredNodeRow>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = format!(
                "SELECT {CONTENT_COLUMNS}, digest, commit_seq, commit_id FROM memory_nodes \
                     WHERE scope_key = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
            let key = (scope.as_str(), after_id(after), signed(limit as u64));
            statement
                .query_map(key, stored_node_row)
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_nodes", scope.as_str(), e))
        })
        .await
    }

    async fn edges(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredEdgeRow>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
                let sql = "SELECT e.id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate, e.commit_seq, \
                           EXISTS (SELECT 1 FROM memory_nodes n WHERE n.scope_key = e.scope_key AND n.id = e.src_id) \
                           AND EXISTS (SELECT 1 FROM memory_nodes n WHERE n.scope_key = e.scope_key AND n.id = e.dst_id) \
                           FROM memory_edges e WHERE e.scope_key = ?1 AND e.id > ?2 ORDER BY e.id LIMIT ?3";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                let key = (scope.as_str(), after_id(after), signed(limit as u64));
                statement
                    .query_map(key, |row| {
                        let read = || Ok((stored_edge_digest(row)?, unsigned(row, 7)?));
                        // What cannot be read is told with the edge it belongs to.
                        let (recomputed, commit_seq) = match read() {
                            Ok((digest, commit_seq)) => (Ok(digest), commit_seq),
                            Err::<_, rusqlite::Error>(e) => (Err(e.to_string()), 0),
                        };
                        Ok(StoredEdgeRow { id: uuid(row, 0)?, recomputed, commit_seq, ends_stored: row.get(8)? })
                    })
                    .and_then(Iterator::collect)
                    .map_err(|e| unreadable("memory_edges", scope.as_str(), e))
            })
            .await
    }

    async fn versions(
        &self,
        scope: &ScopeKey,
        after: Option<(Uuid, u32)>,
        limit: usize,
    ) -> Result<Vec<NodeVersionRow>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = "SELECT node_id, version, from_seq, content FROM memory_node_versions \
                           WHERE scope_key = ?1 AND (node_id, version) > (?2, ?3) ORDER BY node_id, version LIMIT ?4";
            let mut statement = connection.prepare_cached(sql).map_err(driver)?;
            let (node, version) = after.map_or((Vec::new(), 0), |(id, version)| (after_id(Some(id)), version));
            statement
                .query_map((scope.as_str(), node, version, signed(limit as u64)), |row| {
                    // Bytes, not text: damaged text may not be UTF-8. Zero is no version and no commit.
                    let content = row.get_ref(3)?.as_bytes().map_err(rusqlite::Error::from)?;
                    Ok(NodeVersionRow {
                        id: uuid(row, 0)?,
                        version: u32::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                        from_seq: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                        recomputed: sha256(content),
                    })
                })
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_node_versions", scope.as_str(), e))
        })
        .await
    }

    async fn rule_states(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(NodeId, RuleState)>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = "SELECT rule_node_id, state FROM memory_rule_defs WHERE scope_key = ?1 AND rule_node_id > ?2 \
                           ORDER BY rule_node_id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql).map_err(driver)?;
            statement
                .query_map((scope.as_str(), after_id(after), signed(limit as u64)), |row| {
                    Ok((NodeId(uuid(row, 0)?), choice(row, 1, RuleState::parse)?))
                })
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_rule_defs", scope.as_str(), e))
        })
        .await
    }

    async fn feedback(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredFeedbackRow>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = "SELECT id, rule_node_id, outcome, run_id, note, source, decision_id, commit_seq \
                           FROM memory_rule_feedback WHERE scope_key = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql).map_err(driver)?;
            statement
                .query_map((scope.as_str(), after_id(after), signed(limit as u64)), |row| {
                    let id = uuid(row, 0)?;
                    let recomputed = feedback_row(row).map(|row| feedback_digest(&row)).map_err(|e| e.to_string());
                    Ok(StoredFeedbackRow { id, recomputed, commit_seq: unsigned(row, 7)? })
                })
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_rule_feedback", scope.as_str(), e))
        })
        .await
    }

    async fn erasures(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredErasure>, StoreError> {
        let scope = scope.clone();
        self.run(move |connection| {
            let sql = "SELECT id, digest, commit_seq FROM memory_erasures WHERE scope_key = ?1 AND id > ?2 \
                           ORDER BY id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql).map_err(driver)?;
            statement
                .query_map((scope.as_str(), after_id(after), signed(limit as u64)), |row| {
                    Ok(StoredErasure { id: uuid(row, 0)?, digest: digest(row, 1)?, commit_seq: unsigned(row, 2)? })
                })
                .and_then(Iterator::collect)
                .map_err(|e| unreadable("memory_erasures", scope.as_str(), e))
        })
        .await
    }

    async fn purges(&self, after: u64, limit: usize) -> Result<Vec<PurgeRecord>, StoreError> {
        self.run(move |connection| purge::records(connection, after, limit)).await
    }

    async fn purges_head(&self) -> Result<Option<(u64, Digest)>, StoreError> {
        self.run(purge::newest).await
    }

    async fn physical_check(&self) -> Result<Vec<String>, StoreError> {
        self.run(|connection| {
            // A connection of its own: FTS5 checks against the segments a connection remembers, and reports damage
            // where another one has merged them since.
            let path = connection.path().unwrap_or_default();
            let fresh = connect(Path::new(path))?;
            let mut statement = fresh.prepare("PRAGMA integrity_check(20)").map_err(driver)?;
            let lines: Vec<String> =
                statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(driver)?;
            Ok(lines.into_iter().filter(|line| line != "ok").collect())
        })
        .await
    }

    async fn snapshot(&self) -> Result<Arc<dyn IntegrityStore>, StoreError> {
        Ok(Arc::new(self.of_one(self.run(frozen).await?)))
    }
}

/// A connection of its own, so that requests keep theirs, in a transaction that sees one state and changes nothing.
pub(super) fn frozen(beside: &Connection) -> Result<Connection, StoreError> {
    let path = beside.path().ok_or_else(|| StoreError::Driver("the database has no file".to_owned()))?;
    let own = connect(Path::new(path))?;
    own.pragma_update(None, "query_only", true).map_err(driver)?;
    // The first reading settles what is seen.
    own.execute_batch("BEGIN; SELECT 1 FROM memory_scopes LIMIT 1").map_err(driver)?;
    Ok(own)
}

/// Feedback, from the first columns of a row.
pub(crate) fn feedback_row(row: &Row<'_>) -> rusqlite::Result<FeedbackRow> {
    Ok(FeedbackRow {
        id: uuid(row, 0)?,
        rule: NodeId(uuid(row, 1)?),
        outcome: choice(row, 2, Outcome::parse)?,
        run_id: row.get(3)?,
        note: row.get(4)?,
        source: choice(row, 5, feedback_source)?,
        decision: optional_uuid(row, 6)?,
    })
}

/// The columns of [`stored_commit`], in its order.
pub(crate) const COMMIT_COLUMNS: &str = "seq, id, parent_hash, hash, kind, actor, model_version, prompt_version, \
     input_sha256, request_sha256, changes, created_at";

/// Reads a commit.
pub(crate) fn stored_commit(row: &Row<'_>, scope: &str) -> rusqlite::Result<StoredCommit> {
    let changes: String = row.get(10)?;
    Ok(StoredCommit {
        header: CommitHeader {
            scope_key: scope.to_owned(),
            seq: unsigned(row, 0)?,
            parent_hash: digest(row, 2)?,
            kind: row.get(4)?,
            actor: row.get(5)?,
            model_version: row.get(6)?,
            prompt_version: row.get(7)?,
            input_sha256: row.get(8)?,
            request_sha256: digest(row, 9)?,
            // Not stored: it is a function of the change list.
            changes_sha256: changes_sha256(&[]),
            created_at: Timestamp(row.get(11)?),
        },
        changes,
        hash: digest(row, 3)?,
        id: CommitId(uuid(row, 1)?),
    })
}

/// A node to verify; what cannot be read is told with the node it belongs to.
fn stored_node_row(row: &Row<'_>) -> rusqlite::Result<StoredNodeRow> {
    let id = uuid(row, 0)?;
    let read = || -> rusqlite::Result<StoredNodeRow> {
        Ok(StoredNodeRow {
            id,
            recomputed: Ok(node_digest(&read_content(row)?.content())),
            stored: digest(row, 12)?,
            commit_seq: unsigned(row, 13)?,
            commit_id: CommitId(uuid(row, 14)?),
        })
    };
    Ok(read().unwrap_or_else(|e| StoredNodeRow {
        id,
        recomputed: Err(e.to_string()),
        stored: Digest([0; 32]),
        commit_seq: 0,
        commit_id: CommitId(Uuid::nil()),
    }))
}

fn stored_edge_digest(row: &Row<'_>) -> rusqlite::Result<Digest> {
    Ok(edge_digest(
        EdgeId(uuid(row, 0)?),
        edge_type(row, 1)?,
        (NodeId(uuid(row, 2)?), NodeId(uuid(row, 3)?)),
        (row.get(4)?, row.get(5)?, row.get(6)?),
    ))
}

//! Reading for verification, straight from the database.

use std::sync::{Arc, Mutex};

use aionis_core::{
    canon::{Digest, sha256},
    chain::{CommitHeader, StoredCommit, changes_sha256},
    clock::Timestamp,
    ids::{CommitId, EdgeId, NodeId, ScopeKey},
    jobs::scope_purge::PurgeRecord,
    model::{EdgeType, Lane, NodeType, RuleState},
    operate::{FeedbackRow, Outcome, feedback_digest},
    ports::store::{
        CommitPage, IntegrityStore, NodeVersionRow, ScopeSummary, StoreError, StoredEdgeRow, StoredErasure,
        StoredFeedbackRow, StoredNodeRow,
    },
    write::{edge_digest, node_digest},
};
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    error::driver,
    purge::{self, unless_purging},
    rows::{choice, digest, digest_of, get, json, signed, unsigned},
    session::{FROZEN, For, Transaction, begin, literal},
};
use crate::{consistency::leaps, content::StoredContent, operate::feedback_source};

/// Every scope that any table knows: rows without a head must not escape verification. One look into an index per scope and
/// table.
fn scopes_sql() -> String {
    let tables = ["memory_scopes", "memory_commits", "memory_nodes", "memory_node_versions", "memory_edges"];
    let keys: Vec<String> =
        tables.iter().enumerate().map(|(at, table)| format!("SELECT k FROM ({}) leaps{at}", leaps(table))).collect();
    format!(
        "SELECT k.k, COALESCE(s.head_seq, 0), s.head_hash, COALESCE(s.node_count, 0), COALESCE(s.edge_count, 0) \
         FROM ({}) k LEFT JOIN memory_scopes s ON s.scope_key = k.k \
         WHERE s.state IS DISTINCT FROM 'purging' AND ($1::text IS NULL OR split_part(k.k, '/', 1) = $1) \
             AND ($2::text IS NULL OR substr(k.k, strpos(k.k, '/') + 1) = $2) ORDER BY k.k COLLATE \"C\"",
        keys.join(" UNION ")
    )
}

/// Scopes, ordered by key; all, those of a tenant, or one.
pub(crate) async fn scopes(
    connection: &mut PgConnection,
    tenant: Option<&str>,
    scope: Option<&str>,
) -> Result<Vec<ScopeSummary>, StoreError> {
    let rows = sqlx::query(AssertSqlSafe(scopes_sql()))
        .bind(tenant)
        .bind(scope)
        .fetch_all(connection)
        .await
        .map_err(driver)?;
    rows.iter()
        .map(|row| {
            let hash: Option<&[u8]> = get(row, 2)?;
            Ok(ScopeSummary {
                scope_key: get(row, 0)?,
                head_seq: unsigned(row, 1)?,
                head_hash: hash.map_or(Ok(Digest::default()), digest_of)?,
                nodes: unsigned(row, 3)?,
                edges: unsigned(row, 4)?,
            })
        })
        .collect()
}

impl PostgresStore {
    /// What reads for verification.
    pub(crate) fn integrity(&self) -> Pages {
        Pages { shared: Arc::clone(&self.shared), snapshot: None }
    }

    /// Reads rows of a scope; none while it is purged.
    pub(super) async fn page(
        &self,
        scope: &ScopeKey,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let timeout = self.shared.options.statement_timeout;
                let guard = unless_purging(scope);
                let mut tx = begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, &guard).await?;
                query.fetch_all(&mut *tx).await.map_err(driver)
            })
            .await
    }
}

/// Reading page by page, each in a transaction of its own; all of them of one state, if there is a snapshot.
pub(crate) struct Pages {
    shared: Arc<Shared>,
    snapshot: Option<Snapshot>,
}

/// A state of the database other transactions can read.
struct Snapshot {
    /// What makes a transaction see it.
    sql: String,
    /// The transaction that holds it; it ends when this is dropped.
    _held: Mutex<Transaction>,
}

impl Pages {
    fn snapshot_sql(&self) -> &str {
        self.snapshot.as_ref().map_or("", |snapshot| &snapshot.sql)
    }

    async fn page(
        &self,
        scope: &ScopeKey,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let timeout = self.shared.options.statement_timeout;
                let tenant = For::Tenant(scope.tenant());
                let mut tx = begin(&self.shared.pool, tenant, timeout, self.snapshot_sql()).await?;
                query.fetch_all(&mut *tx).await.map_err(driver)
            })
            .await
    }
}

#[async_trait]
impl IntegrityStore for Pages {
    async fn scopes(&self, tenant: Option<&str>, scope: Option<&str>) -> Result<Vec<ScopeSummary>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let timeout = self.shared.options.statement_timeout;
                let mut tx = begin(&self.shared.pool, For::Everyone, timeout, self.snapshot_sql()).await?;
                scopes(&mut tx, tenant, scope).await
            })
            .await
    }

    async fn commits(&self, scope: &ScopeKey, after: u64, limit: usize) -> Result<CommitPage, StoreError> {
        let sql = "SELECT seq, id, parent_hash, hash, kind, actor, model_version, prompt_version, input_sha256, \
                   request_sha256, changes, created_at FROM memory_commits \
                   WHERE scope_key = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(signed(after)).bind(signed(limit as u64));
        let mut page = CommitPage::default();
        for row in self.page(scope, query).await? {
            let seq = unsigned(&row, 0)?;
            page.commits.push(stored_commit(&row, scope.as_str()).map_err(|e| (seq, e.to_string())));
        }
        Ok(page)
    }

    async fn nodes(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredNodeRow>, StoreError> {
        let sql = "SELECT id, client_id, type, title, text_summary, slots::text, raw_ref, evidence_ref, memory_lane, \
                   producer_agent_id, owner_agent_id, owner_team_id, digest, commit_seq, commit_id FROM memory_nodes \
                   WHERE scope_key = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
        self.page(scope, query).await?.iter().map(stored_node_row).collect()
    }

    async fn edges(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredEdgeRow>, StoreError> {
        let sql = "SELECT e.id, e.type, e.src_id, e.dst_id, e.weight, e.confidence, e.decay_rate, e.commit_seq, \
                   EXISTS (SELECT 1 FROM memory_nodes n WHERE n.scope_key = e.scope_key AND n.id = e.src_id) \
                   AND EXISTS (SELECT 1 FROM memory_nodes n WHERE n.scope_key = e.scope_key AND n.id = e.dst_id) \
                   FROM memory_edges e WHERE e.scope_key = $1 AND ($2::uuid IS NULL OR e.id > $2) ORDER BY e.id LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
        self.page(scope, query)
            .await?
            .iter()
            .map(|row| {
                let read = || Ok((stored_edge_digest(row)?, unsigned(row, 7)?));
                // What cannot be read is told with the edge it belongs to.
                let (recomputed, commit_seq) = match read() {
                    Ok((digest, commit_seq)) => (Ok(digest), commit_seq),
                    Err::<_, StoreError>(e) => (Err(e.to_string()), 0),
                };
                let place = || Ok::<_, StoreError>((get(row, 1)?, get(row, 2)?, get(row, 3)?));
                let (id, place, ends_stored) = (get(row, 0)?, place().ok(), get(row, 8)?);
                Ok(StoredEdgeRow { id, recomputed, commit_seq, place, ends_stored })
            })
            .collect()
    }

    async fn versions(
        &self,
        scope: &ScopeKey,
        after: Option<(Uuid, u32)>,
        limit: usize,
    ) -> Result<Vec<NodeVersionRow>, StoreError> {
        let sql = "SELECT node_id, version, from_seq, content FROM memory_node_versions \
                   WHERE scope_key = $1 AND ($2::uuid IS NULL OR (node_id, version) > ($2, $3)) \
                   ORDER BY node_id, version LIMIT $4";
        let query = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(after.map(|(id, _)| id))
            .bind(after.map_or(0, |(_, version)| i64::from(version)))
            .bind(signed(limit as u64));
        self.page(scope, query)
            .await?
            .iter()
            .map(|row| {
                Ok(NodeVersionRow {
                    id: get(row, 0)?,
                    version: u32::try_from(get::<i64>(row, 1)?).unwrap_or(0),
                    from_seq: u64::try_from(get::<i64>(row, 2)?).unwrap_or(0),
                    recomputed: sha256(get::<&str>(row, 3)?),
                })
            })
            .collect()
    }

    async fn rule_states(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(NodeId, RuleState)>, StoreError> {
        let sql = "SELECT rule_node_id, state FROM memory_rule_defs \
                   WHERE scope_key = $1 AND ($2::uuid IS NULL OR rule_node_id > $2) ORDER BY rule_node_id LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
        let rows = self.page(scope, query).await?;
        rows.iter().map(|row| Ok((NodeId(get(row, 0)?), choice(row, 1, RuleState::parse)?))).collect()
    }

    async fn feedback(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredFeedbackRow>, StoreError> {
        let sql = "SELECT id, rule_node_id, outcome, run_id, note, source, decision_id, commit_seq FROM memory_rule_feedback \
                   WHERE scope_key = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
        let rows = self.page(scope, query).await?;
        rows.iter()
            .map(|row| {
                let id = get(row, 0)?;
                let recomputed = feedback_row(row).map(|row| feedback_digest(&row)).map_err(|e| e.to_string());
                Ok(StoredFeedbackRow { id, recomputed, commit_seq: unsigned(row, 7)? })
            })
            .collect()
    }

    async fn erasures(
        &self,
        scope: &ScopeKey,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<StoredErasure>, StoreError> {
        let sql = "SELECT id, digest, commit_seq FROM memory_erasures \
                   WHERE scope_key = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(after).bind(signed(limit as u64));
        let rows = self.page(scope, query).await?;
        rows.iter()
            .map(|row| Ok(StoredErasure { id: get(row, 0)?, digest: digest(row, 1)?, commit_seq: unsigned(row, 2)? }))
            .collect()
    }

    async fn purges(&self, after: u64, limit: usize) -> Result<Vec<PurgeRecord>, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        let mut tx = begin(&self.shared.pool, For::Everyone, timeout, self.snapshot_sql()).await?;
        purge::records(&mut tx, after, limit).await
    }

    async fn purges_head(&self) -> Result<Option<(u64, Digest)>, StoreError> {
        let timeout = self.shared.options.statement_timeout;
        let mut tx = begin(&self.shared.pool, For::Everyone, timeout, self.snapshot_sql()).await?;
        purge::newest(&mut tx).await
    }

    async fn physical_check(&self) -> Result<Vec<String>, StoreError> {
        // Pages are the server's to check: data checksums, pg_amcheck.
        Ok(Vec::new())
    }

    async fn snapshot(&self) -> Result<Arc<dyn IntegrityStore>, StoreError> {
        let shared = &self.shared;
        let snapshot = shared.patience.bounded(async {
            let mut held = begin(&shared.pool, For::Everyone, shared.options.statement_timeout, FROZEN).await?;
            let row = sqlx::query("SELECT pg_export_snapshot()").fetch_one(&mut *held).await.map_err(driver)?;
            let name: &str = get(&row, 0)?;
            let name = literal(name);
            let sql =
                format!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT {name}");
            Ok(Snapshot { sql, _held: Mutex::new(held) })
        });
        Ok(Arc::new(Self { shared: Arc::clone(shared), snapshot: Some(snapshot.await?) }))
    }
}

/// Feedback, from the first columns of a row.
pub(crate) fn feedback_row(row: &PgRow) -> Result<FeedbackRow, StoreError> {
    Ok(FeedbackRow {
        id: get(row, 0)?,
        rule: NodeId(get(row, 1)?),
        outcome: choice(row, 2, Outcome::parse)?,
        run_id: get(row, 3)?,
        note: get(row, 4)?,
        source: choice(row, 5, feedback_source)?,
        decision: get(row, 6)?,
    })
}

/// The columns of [`stored_commit`], in its order.
pub(crate) const COMMIT_COLUMNS: &str = "seq, id, parent_hash, hash, kind, actor, model_version, prompt_version, \
     input_sha256, request_sha256, changes, created_at";

/// Reads a commit.
pub(crate) fn stored_commit(row: &PgRow, scope: &str) -> Result<StoredCommit, StoreError> {
    Ok(StoredCommit {
        header: CommitHeader {
            scope_key: scope.to_owned(),
            seq: unsigned(row, 0)?,
            parent_hash: digest(row, 2)?,
            kind: get(row, 4)?,
            actor: get(row, 5)?,
            model_version: get(row, 6)?,
            prompt_version: get(row, 7)?,
            input_sha256: get(row, 8)?,
            request_sha256: digest(row, 9)?,
            // Not stored: it is a function of the change list.
            changes_sha256: changes_sha256(&[]),
            created_at: Timestamp(get(row, 11)?),
        },
        changes: get(row, 10)?,
        hash: digest(row, 3)?,
        id: CommitId(get(row, 1)?),
    })
}

/// A content, from the first columns of a row.
pub(crate) fn read_content(row: &PgRow) -> Result<StoredContent, StoreError> {
    Ok(StoredContent {
        id: NodeId(get(row, 0)?),
        client_id: get(row, 1)?,
        node_type: choice(row, 2, NodeType::parse)?,
        title: get(row, 3)?,
        text_summary: get(row, 4)?,
        slots: json(row, 5)?,
        raw_ref: get(row, 6)?,
        evidence_ref: get(row, 7)?,
        lane: choice(row, 8, Lane::parse)?,
        producer_agent_id: get(row, 9)?,
        owner_agent_id: get(row, 10)?,
        owner_team_id: get(row, 11)?,
    })
}

/// A node to verify; what cannot be read is told with the node it belongs to.
fn stored_node_row(row: &PgRow) -> Result<StoredNodeRow, StoreError> {
    let id: Uuid = get(row, 0)?;
    let read = || -> Result<StoredNodeRow, StoreError> {
        let content = read_content(row)?;
        Ok(StoredNodeRow {
            id,
            recomputed: Ok(node_digest(&content.content())),
            stored: digest(row, 12)?,
            commit_seq: unsigned(row, 13)?,
            commit_id: CommitId(get(row, 14)?),
        })
    };
    Ok(read().unwrap_or_else(|e| StoredNodeRow {
        id,
        recomputed: Err(e.to_string()),
        stored: Digest::default(),
        commit_seq: 0,
        commit_id: CommitId(Uuid::nil()),
    }))
}

fn stored_edge_digest(row: &PgRow) -> Result<Digest, StoreError> {
    Ok(edge_digest(
        EdgeId(get(row, 0)?),
        choice(row, 1, EdgeType::parse)?,
        (NodeId(get(row, 2)?), NodeId(get(row, 3)?)),
        (get(row, 4)?, get(row, 5)?, get(row, 6)?),
    ))
}

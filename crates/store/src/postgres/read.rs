//! Reading apart from recall.

use std::sync::Arc;

use aionis_core::{
    canon::sha256,
    chain::StoredCommit,
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::consolidation::without_merge_notes,
    model::{EmbeddingStatus, Lane, NodeType, Tier},
    operate::merged_slots,
    ports::store::{FindPage, FindQuery, ReadStore, RecallReader, StoreError},
    read::{AsOf, ErasedNode, Eyes, FoundNode, NodeVersion, Position, as_it_was},
};
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, postgres::PgRow, query::Query};
use uuid::Uuid;

use super::{
    PostgresStore,
    integrity::{COMMIT_COLUMNS, read_content, stored_commit},
    past,
    recall::{NODE_COLUMNS, RULE_OF_NODE, node_row},
    rows::{choice, digest, get, json, json_of, signed, unsigned},
};
use crate::read::{Pager, Step, content, rule_as_it_was, unreadable_version};

/// The columns of a found node after those of its row.
const FOUND: &str = "n.version, n.digest, n.content_seq, v.version, v.content, c.seq, c.id, c.created_at";

/// Joins what a node `n` of the scope `$1` was right after the commit `$2`, when one is given. Row-level security lets a
/// commit be looked up by CASE, but not by COALESCE.
const AS_OF: &str = "\
LEFT JOIN LATERAL (SELECT version, content, from_seq FROM memory_node_versions \
    WHERE $2::bigint IS NOT NULL AND n.content_seq > $2 AND scope_key = $1 AND node_id = n.id \
        AND from_seq <= $2 AND to_seq > $2 LIMIT 1) v ON true \
LEFT JOIN LATERAL (SELECT seq, id, created_at FROM memory_commits \
    WHERE $2::bigint IS NOT NULL AND scope_key = $1 \
        AND seq = CASE WHEN v.from_seq IS NULL THEN n.content_seq ELSE v.from_seq END LIMIT 1) c ON true";

/// Whether the node was there.
const WAS_THERE: &str = "($2::bigint IS NULL OR n.content_seq <= $2 OR v.version IS NOT NULL)";

/// Every node of the scope as it was after the commit `$2`.
pub(crate) fn all_sql() -> String {
    format!(
        "SELECT {NODE_COLUMNS}, {FOUND} FROM memory_nodes n {RULE_OF_NODE} {AS_OF} \
         WHERE n.scope_key = $1 AND {WAS_THERE} ORDER BY n.id"
    )
}

/// Nodes named by id (`$3`) or client id (`$4`).
fn named_sql() -> String {
    format!(
        "SELECT {NODE_COLUMNS}, {FOUND} FROM UNNEST($3::uuid[]) AS q (id) \
         CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n \
         {RULE_OF_NODE} {AS_OF} WHERE {WAS_THERE} \
         UNION ALL \
         SELECT {NODE_COLUMNS}, {FOUND} FROM UNNEST($4::text[]) AS q (client_id) \
         CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND client_id = q.client_id LIMIT 1) n \
         {RULE_OF_NODE} {AS_OF} WHERE {WAS_THERE}"
    )
}

/// The last row of a window of a page. Nothing but the order and what never changes: a window is bounded by what is looked
/// at.
const FLOOR: &str = "\
SELECT n.created_at, n.id FROM memory_nodes n \
WHERE n.listing_no = hashtextextended($1, 1) AND n.scope_key || '' = $1 AND (n.created_at, n.id) < ($2, $3::uuid) \
    AND ($4::bigint IS NULL OR n.created_at >= $4) AND ($5::bigint IS NULL OR n.created_at < $5) \
ORDER BY n.created_at DESC, n.id DESC LIMIT 1 OFFSET $6";

/// A page of nodes, newest first, by way of the index of that order. Of an earlier state only what never changes narrows.
fn page_sql() -> String {
    format!(
        "SELECT {NODE_COLUMNS}, {FOUND} FROM memory_nodes n {RULE_OF_NODE} {AS_OF} \
         WHERE n.listing_no = hashtextextended($1, 1) AND n.scope_key || '' = $1 AND (n.created_at, n.id) < ($3, $4::uuid) \
             AND (n.created_at, n.id) >= ($20, $21::uuid) AND {WAS_THERE} \
             AND ($5::bigint IS NULL OR n.created_at >= $5) AND ($6::bigint IS NULL OR n.created_at < $6) \
             AND ($7::text[] IS NULL OR n.type = ANY($7)) AND ($8::text[] IS NULL OR n.tier = ANY($8)) \
             AND ($9::text IS NULL OR n.memory_lane = $9) AND ($10::text IS NULL OR n.owner_agent_id = $10) \
             AND ($11::text IS NULL OR n.owner_team_id = $11) AND ($12::text IS NULL OR n.producer_agent_id = $12) \
             AND ($13::text IS NULL OR n.embedding_status = $13) \
             AND ($18::bigint IS NULL OR n.updated_at >= $18) AND ($19::bigint IS NULL OR n.updated_at < $19) \
             AND ($14 OR n.memory_lane = 'shared' OR n.owner_agent_id = $15 OR n.owner_team_id = $16) \
         ORDER BY n.created_at DESC, n.id DESC LIMIT $17"
    )
}

/// Reads a row of these statements.
pub(crate) fn found(row: &PgRow, as_of: Option<u64>) -> Result<FoundNode, StoreError> {
    let number = |at: usize| get::<i64>(row, at).map(|version| u32::try_from(version).unwrap_or(0));
    let mut node = FoundNode {
        row: node_row(row)?,
        version: number(28)?,
        digest: digest(row, 29)?,
        content_seq: unsigned(row, 30)?,
    };
    if as_of.is_none() {
        return Ok(node);
    }
    // Notes have no history; those of a merge would say of an earlier state what came later.
    let activity = without_merge_notes(get::<Option<&str>>(row, 26)?.map(json_of).transpose()?);
    node.row.slots = merged_slots(json(row, 5)?, activity.as_ref());
    if let Some(text) = get::<Option<&str>>(row, 32)? {
        let id = node.row.id;
        node.version = number(31)?;
        node.digest = sha256(text);
        as_it_was(&mut node.row, &content(id, node.version, text)?)
            .map_err(|problem| unreadable_version(id, node.version, &problem))?;
        rule_as_it_was(&mut node.row);
    }
    node.content_seq = unsigned(row, 33)?;
    node.row.commit_seq = node.content_seq;
    (node.row.commit_id, node.row.updated_at) = (CommitId(get(row, 34)?), Timestamp(get(row, 35)?));
    Ok(node)
}

/// A place as it is bound; without one its end of the order.
fn place(position: Option<Position>, end: (i64, Uuid)) -> (i64, Uuid) {
    position.map_or(end, |position| (position.created_at.0, position.id.0))
}

fn page<'q>(query: &'q FindQuery, sql: String, pager: &Pager<'_>) -> Query<'q, Postgres, PgArguments> {
    let filter = &query.filter;
    let (created_at, id) = place(pager.after(), (i64::MAX, Uuid::max()));
    let (floor_at, floor_id) = place(pager.floor(), (i64::MIN, Uuid::nil()));
    // What a filter says of content is about the content then.
    let now = query.as_of.is_none();
    let some = |texts: Vec<&'static str>| (now && !texts.is_empty()).then_some(texts);
    let text = |value: Option<&'q str>| value.filter(|_| now);
    let viewer = match &query.eyes {
        Eyes::Of(viewer) if now => Some(viewer),
        _ => None,
    };
    sqlx::query(AssertSqlSafe(sql))
        .bind(query.scope.as_str())
        .bind(query.as_of.map(signed))
        .bind(created_at)
        .bind(id)
        .bind(filter.created_from.map(|at| at.0))
        .bind(filter.created_before.map(|at| at.0))
        .bind(some(filter.types.iter().map(|kind| NodeType::as_str(*kind)).collect()))
        .bind(some(filter.tiers.iter().map(|tier| Tier::as_str(*tier)).collect()))
        .bind(text(filter.lane.map(Lane::as_str)))
        .bind(text(filter.owner_agent_id.as_deref()))
        .bind(text(filter.owner_team_id.as_deref()))
        .bind(text(filter.producer_agent_id.as_deref()))
        .bind(text(filter.embedding_status.map(EmbeddingStatus::as_str)))
        .bind(viewer.is_none())
        .bind(viewer.and_then(|viewer| viewer.agent.as_deref()))
        .bind(viewer.and_then(|viewer| viewer.team.as_deref()))
        .bind(signed(pager.batch() as u64))
        .bind(filter.updated_from.filter(|_| now).map(|at| at.0))
        .bind(filter.updated_before.filter(|_| now).map(|at| at.0))
        .bind(floor_at)
        .bind(floor_id)
}

impl PostgresStore {
    async fn found(
        &self,
        query: &FindQuery,
        sql: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<FoundNode>, StoreError> {
        self.page(&query.scope, sql).await?.iter().map(|row| found(row, query.as_of)).collect()
    }

    /// The last row of the window that begins where the pager stands.
    async fn floor(&self, query: &FindQuery, pager: &Pager<'_>) -> Result<Option<Position>, StoreError> {
        let (created_at, id) = place(pager.after(), (i64::MAX, Uuid::max()));
        let sql = sqlx::query(FLOOR)
            .bind(query.scope.as_str())
            .bind(created_at)
            .bind(id)
            .bind(query.filter.created_from.map(|at| at.0))
            .bind(query.filter.created_before.map(|at| at.0))
            .bind(signed(pager.window() as u64 - 1));
        let rows = self.page(&query.scope, sql).await?;
        rows.first()
            .map(|row| Ok(Position { created_at: Timestamp(get(row, 0)?), id: NodeId(get(row, 1)?) }))
            .transpose()
    }

    async fn commits_by(&self, scope: &ScopeKey, which: &str, value: Bound) -> Result<Vec<StoredCommit>, StoreError> {
        let sql = format!("SELECT {COMMIT_COLUMNS} FROM memory_commits WHERE {which}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(scope.as_str());
        let query = match value {
            Bound::Number(number, limit) => query.bind(number).bind(signed(limit as u64)),
            Bound::Id(id) => query.bind(id),
        };
        self.page(scope, query).await?.iter().map(|row| stored_commit(row, scope.as_str())).collect()
    }
}

/// What a commit is looked for by.
enum Bound {
    /// A number, and how many.
    Number(i64, usize),
    Id(Uuid),
}

#[async_trait]
impl ReadStore for PostgresStore {
    async fn find(&self, query: FindQuery) -> Result<FindPage, StoreError> {
        let mut pager = Pager::new(&query);
        if query.filter.names_nodes() {
            let sql = sqlx::query(AssertSqlSafe(named_sql()))
                .bind(query.scope.as_str())
                .bind(query.as_of.map(signed))
                .bind(query.filter.ids.iter().chain(&query.maybe_named).map(|id| id.0).collect::<Vec<_>>())
                .bind(&query.filter.client_ids);
            let rows = self.found(&query, sql).await?;
            return Ok(pager.of_named(rows));
        }
        let mut step = Step::Window;
        loop {
            match step {
                Step::Window => {
                    let floor = self.floor(&query, &pager).await?;
                    pager.open(floor);
                }
                Step::Rows => {}
                Step::Page => return Ok(pager.page()),
            }
            let asked = pager.batch();
            let rows = self.found(&query, page(&query, page_sql(), &pager)).await?;
            step = pager.take(rows, asked);
        }
    }

    async fn history(
        &self,
        scope: &ScopeKey,
        id: NodeId,
        before: Option<u32>,
        limit: usize,
    ) -> Result<Vec<NodeVersion>, StoreError> {
        let sql = "SELECT n.id, n.client_id, n.type, n.title, n.text_summary, n.slots::text, n.raw_ref, n.evidence_ref, \
                       n.memory_lane, n.producer_agent_id, n.owner_agent_id, n.owner_team_id, NULL::text, n.version, \
                       n.content_seq, NULL::bigint, n.digest, c.id, c.created_at \
                   FROM memory_nodes n CROSS JOIN LATERAL (SELECT id, created_at FROM memory_commits \
                       WHERE scope_key = $1 AND seq = n.content_seq LIMIT 1) c \
                   WHERE n.scope_key = $1 AND n.id = $2 AND n.version < $3 \
                   UNION ALL \
                   SELECT * FROM (SELECT NULL::uuid, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, \
                       NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, v.content, v.version, v.from_seq, v.to_seq, \
                       NULL::bytea, c.id, c.created_at \
                   FROM memory_node_versions v CROSS JOIN LATERAL (SELECT id, created_at FROM memory_commits \
                       WHERE scope_key = $1 AND seq = v.from_seq LIMIT 1) c \
                   WHERE v.scope_key = $1 AND v.node_id = $2 AND v.version < $3 ORDER BY v.version DESC LIMIT $4) earlier";
        let query = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(id.0)
            .bind(before.map_or(i64::MAX, i64::from))
            .bind(signed(limit as u64));
        let rows = self.page(scope, query).await?;
        let mut versions = rows.iter().map(|row| version_of(id, row)).collect::<Result<Vec<_>, _>>()?;
        versions.sort_unstable_by_key(|version| std::cmp::Reverse(version.version));
        versions.truncate(limit);
        Ok(versions)
    }

    async fn erased(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<ErasedNode>, StoreError> {
        let sql = "SELECT e.id, e.digest, e.memory_lane, e.owner_agent_id, e.owner_team_id, e.erased_at, e.commit_seq, c.id \
                   FROM UNNEST($2::uuid[]) AS q (id) \
                   CROSS JOIN LATERAL (SELECT * FROM memory_erasures WHERE scope_key = $1 AND id = q.id LIMIT 1) e \
                   CROSS JOIN LATERAL (SELECT id FROM memory_commits WHERE scope_key = $1 AND seq = e.commit_seq LIMIT 1) c \
                   WHERE (SELECT 1 FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) IS NULL";
        let query = sqlx::query(sql).bind(scope.as_str()).bind(ids.iter().map(|id| id.0).collect::<Vec<_>>());
        let rows = self.page(scope, query).await?;
        rows.iter()
            .map(|row| {
                Ok(ErasedNode {
                    id: NodeId(get(row, 0)?),
                    digest: digest(row, 1)?,
                    lane: choice(row, 2, Lane::parse)?,
                    owner_agent_id: get(row, 3)?,
                    owner_team_id: get(row, 4)?,
                    at: Timestamp(get(row, 5)?),
                    commit_seq: unsigned(row, 6)?,
                    commit_id: CommitId(get(row, 7)?),
                })
            })
            .collect()
    }

    async fn newest_commits(
        &self,
        scope: &ScopeKey,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        let before = Bound::Number(before.map_or(i64::MAX, signed), limit);
        self.commits_by(scope, "scope_key = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3", before).await
    }

    async fn commit_at(&self, scope: &ScopeKey, state: AsOf) -> Result<Option<StoredCommit>, StoreError> {
        let (which, value) = match state {
            AsOf::Seq(seq) => ("scope_key = $1 AND seq = $2 LIMIT $3", Bound::Number(signed(seq), 1)),
            // By the index of ids: see migration 0002.
            AsOf::Commit(id) => ("id = $2 AND scope_key = $1", Bound::Id(id.0)),
            // Times follow the chain but for steps of the clock: the newest commit decides.
            AsOf::Time(at) => {
                ("scope_key = $1 AND created_at <= $2 ORDER BY seq DESC LIMIT $3", Bound::Number(at.0, 1))
            }
        };
        Ok(self.commits_by(scope, which, value).await?.into_iter().next())
    }

    async fn past(&self, scope: &ScopeKey, seq: u64, nodes_max: u64) -> Result<Arc<dyn RecallReader>, StoreError> {
        let past = past::load(&self.shared, scope, seq, nodes_max);
        Ok(Arc::new(self.shared.patience.bounded(past).await?))
    }
}

fn version_of(id: NodeId, row: &PgRow) -> Result<NodeVersion, StoreError> {
    let version = u32::try_from(get::<i64>(row, 13)?).unwrap_or(0);
    let (digest, content) = match get::<Option<&str>>(row, 12)? {
        Some(text) => (sha256(text), content(id, version, text)?),
        None => (digest(row, 16)?, read_content(row)?.content().value()),
    };
    Ok(NodeVersion {
        version,
        from_seq: unsigned(row, 14)?,
        commit_id: CommitId(get(row, 17)?),
        at: Timestamp(get(row, 18)?),
        to_seq: get::<Option<i64>>(row, 15)?.and_then(|seq| u64::try_from(seq).ok()),
        digest,
        content,
    })
}

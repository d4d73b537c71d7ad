//! Reading apart from recall.

use std::sync::Arc;

use aionis_core::{
    canon::sha256,
    chain::StoredCommit,
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::consolidation::without_merge_notes,
    model::{Lane, NodeType},
    operate::merged_slots,
    ports::store::{FindPage, FindQuery, ReadStore, RecallReader, StoreError},
    read::{AsOf, ErasedNode, Eyes, FoundNode, NodeVersion, Position, as_it_was},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params_from_iter};

use super::{
    SqliteStore,
    error::driver,
    integrity::{COMMIT_COLUMNS, read_content, stored_commit},
    past,
    purge::is_purging,
    rows::{NODE_COLUMNS, blob, choice, digest, json, node_row, rule_of, signed, unreadable, unsigned, uuid},
};
use crate::read::{Pager, Step, content, rule_as_it_was, unreadable_version};

/// The columns of a found node; of an earlier state also what it was then.
pub(crate) fn found_sql(as_of: Option<u64>) -> String {
    let columns = NODE_COLUMNS.split(", ").map(|column| format!("n.{}", column.trim())).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {columns}, n.version, n.digest, n.content_seq");
    match as_of {
        None => format!("{sql} FROM memory_nodes n WHERE n.scope_key = ?1"),
        Some(_) => format!(
            "{sql}, v.version, v.content, c.seq, c.id, c.created_at FROM memory_nodes n \
             LEFT JOIN memory_node_versions v ON n.content_seq > ?2 AND v.scope_key = n.scope_key AND v.node_id = n.id \
                 AND v.from_seq <= ?2 AND v.to_seq > ?2 \
             LEFT JOIN memory_commits c ON c.scope_key = n.scope_key AND c.seq = COALESCE(v.from_seq, n.content_seq) \
             WHERE n.scope_key = ?1 AND (n.content_seq <= ?2 OR v.version IS NOT NULL)"
        ),
    }
}

/// Reads a row of [`found_sql`].
pub(crate) fn found(
    connection: &Connection,
    scope: &str,
    row: &Row<'_>,
    as_of: Option<u64>,
) -> Result<FoundNode, StoreError> {
    let damaged = |e| unreadable("memory_nodes", scope, e);
    let read = || -> rusqlite::Result<FoundNode> {
        Ok(FoundNode {
            row: node_row(row)?,
            version: row.get(25)?,
            digest: digest(row, 26)?,
            content_seq: unsigned(row, 27)?,
        })
    };
    let mut node = read().map_err(damaged)?;
    if node.row.node_type == NodeType::Rule {
        node.row.rule = rule_of(connection, scope, node.row.id.0)?;
    }
    if as_of.is_some() {
        // Notes have no history; those of a merge would say of an earlier state what came later.
        let activity = row.get::<_, Option<String>>(23).map_err(damaged)?.map(|_| json(row, 23)).transpose();
        let activity = without_merge_notes(activity.map_err(damaged)?);
        node.row.slots = merged_slots(json(row, 5).map_err(damaged)?, activity.as_ref());
        if let Some(text) = row.get::<_, Option<String>>(29).map_err(damaged)? {
            node.version = row.get(28).map_err(damaged)?;
            node.digest = sha256(&text);
            let id = node.row.id;
            as_it_was(&mut node.row, &content(id, node.version, &text)?)
                .map_err(|problem| unreadable_version(id, node.version, &problem))?;
            rule_as_it_was(&mut node.row);
        }
        let then = || Ok((unsigned(row, 30)?, CommitId(uuid(row, 31)?), Timestamp(row.get(32)?)));
        (node.content_seq, node.row.commit_id, node.row.updated_at) = then().map_err(damaged)?;
        node.row.commit_seq = node.content_seq;
    }
    Ok(node)
}

/// Conditions with their values, in order.
struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn new(query: &FindQuery) -> Self {
        let mut conditions =
            Self { sql: found_sql(query.as_of), values: vec![Box::new(query.scope.as_str().to_owned())] };
        if let Some(seq) = query.as_of {
            conditions.values.push(Box::new(signed(seq)));
        }
        conditions
    }

    /// Adds SQL whose question marks stand for the values.
    fn add(&mut self, sql: &str, values: Vec<Box<dyn ToSql>>) {
        let mut parts = sql.split('?');
        self.sql.push_str(parts.next().unwrap_or_default());
        for (part, value) in parts.zip(values) {
            self.values.push(value);
            self.sql.push_str(&format!("?{}{part}", self.values.len()));
        }
    }

    fn and(&mut self, condition: &str, value: impl ToSql + 'static) {
        self.add(&format!(" AND {condition}"), vec![Box::new(value)]);
    }

    /// What never changes.
    fn created(mut self, query: &FindQuery) -> Self {
        if let Some(at) = query.filter.created_from {
            self.and("n.created_at >= ?", at.0);
        }
        if let Some(at) = query.filter.created_before {
            self.and("n.created_at < ?", at.0);
        }
        self
    }

    /// Rows after the place where the pager stands.
    fn after(mut self, pager: &Pager<'_>) -> Self {
        if let Some(Position { created_at, id }) = pager.after() {
            let place: Vec<Box<dyn ToSql>> = vec![Box::new(created_at.0), Box::new(created_at.0), Box::new(blob(id.0))];
            self.add(" AND n.created_at <= ? AND (n.created_at < ? OR n.id < ?)", place);
        }
        self
    }

    /// Rows of the window after the place where the pager stands.
    fn between(mut self, pager: &Pager<'_>) -> Self {
        if let Some(Position { created_at, id }) = pager.floor() {
            let place: Vec<Box<dyn ToSql>> = vec![Box::new(created_at.0), Box::new(created_at.0), Box::new(blob(id.0))];
            self.add(" AND n.created_at >= ? AND (n.created_at > ? OR n.id >= ?)", place);
        }
        self.after(pager)
    }

    /// What storage can tell of the present state; the rest is told by reading.
    fn narrowed(self, query: &FindQuery) -> Self {
        let filter = &query.filter;
        let mut conditions = self.created(query);
        if query.as_of.is_some() {
            return conditions;
        }
        if let Some(at) = filter.updated_from {
            conditions.and("n.updated_at >= ?", at.0);
        }
        if let Some(at) = filter.updated_before {
            conditions.and("n.updated_at < ?", at.0);
        }
        let list = |texts: Vec<&str>| serde_json::json!(texts).to_string();
        if !filter.types.is_empty() {
            let types = list(filter.types.iter().map(|kind| kind.as_str()).collect());
            conditions.and("n.type IN (SELECT value FROM json_each(?))", types);
        }
        if !filter.tiers.is_empty() {
            let tiers = list(filter.tiers.iter().map(|tier| tier.as_str()).collect());
            conditions.and("n.tier IN (SELECT value FROM json_each(?))", tiers);
        }
        let texts = [
            ("n.memory_lane = ?", filter.lane.map(|lane| lane.as_str().to_owned())),
            ("n.owner_agent_id = ?", filter.owner_agent_id.clone()),
            ("n.owner_team_id = ?", filter.owner_team_id.clone()),
            ("n.producer_agent_id = ?", filter.producer_agent_id.clone()),
            ("n.embedding_status = ?", filter.embedding_status.map(|status| status.as_str().to_owned())),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                conditions.and(condition, value);
            }
        }
        if let Eyes::Of(viewer) = &query.eyes {
            let mine = list(viewer.agent.iter().map(String::as_str).collect());
            let ours = list(viewer.team.iter().map(String::as_str).collect());
            let condition = " AND (n.memory_lane = 'shared' OR n.owner_agent_id IN (SELECT value FROM json_each(?)) \
                 OR n.owner_team_id IN (SELECT value FROM json_each(?)))";
            conditions.add(condition, vec![Box::new(mine), Box::new(ours)]);
        }
        conditions
    }

    fn read(&self, connection: &Connection, query: &FindQuery) -> Result<Vec<FoundNode>, StoreError> {
        let mut statement = connection.prepare_cached(&self.sql).map_err(driver)?;
        let mut rows = statement.query(params_from_iter(self.values.iter())).map_err(driver)?;
        let mut nodes = Vec::new();
        while let Some(row) = rows.next().map_err(driver)? {
            nodes.push(found(connection, query.scope.as_str(), row, query.as_of)?);
        }
        Ok(nodes)
    }
}

fn find(connection: &Connection, query: &FindQuery) -> Result<FindPage, StoreError> {
    let mut pager = Pager::new(query);
    if is_purging(connection, query.scope.as_str())? {
        return Ok(pager.of_named(Vec::new()));
    }
    if query.filter.names_nodes() {
        let mut rows = Vec::new();
        for id in query.filter.ids.iter().chain(&query.maybe_named) {
            let mut one = Conditions::new(query);
            one.and("n.id = ?", blob(id.0));
            rows.extend(one.read(connection, query)?);
        }
        for client_id in &query.filter.client_ids {
            let mut one = Conditions::new(query);
            one.and("n.client_id = ?", client_id.clone());
            rows.extend(one.read(connection, query)?);
        }
        return Ok(pager.of_named(rows));
    }
    // One snapshot for the windows and their rows.
    let tx = connection.unchecked_transaction().map_err(driver)?;
    let mut step = Step::Window;
    loop {
        match step {
            Step::Window => {
                let floor = floor(&tx, query, &pager)?;
                pager.open(floor);
            }
            Step::Rows => {}
            Step::Page => return Ok(pager.page()),
        }
        let mut page = Conditions::new(query).narrowed(query).between(&pager);
        let asked = pager.batch();
        page.add(" ORDER BY n.created_at DESC, n.id DESC LIMIT ?", vec![Box::new(signed(asked as u64))]);
        let rows = page.read(&tx, query)?;
        step = pager.take(rows, asked);
    }
}

/// The last row of the window that begins where the pager stands.
fn floor(connection: &Connection, query: &FindQuery, pager: &Pager<'_>) -> Result<Option<Position>, StoreError> {
    let mut window = Conditions {
        sql: "SELECT n.created_at, n.id FROM memory_nodes n WHERE n.scope_key = ?1".to_owned(),
        values: vec![Box::new(query.scope.as_str().to_owned())],
    }
    .created(query)
    .after(pager);
    let last = vec![Box::new(signed(pager.window() as u64 - 1)) as Box<dyn ToSql>];
    window.add(" ORDER BY n.created_at DESC, n.id DESC LIMIT 1 OFFSET ?", last);
    let read = |row: &Row<'_>| Ok(Position { created_at: Timestamp(row.get(0)?), id: NodeId(uuid(row, 1)?) });
    connection
        .prepare_cached(&window.sql)
        .and_then(|mut statement| statement.query_row(params_from_iter(window.values.iter()), read).optional())
        .map_err(|e| unreadable("memory_nodes", query.scope.as_str(), e))
}

/// The present content of a node, and when it was made.
fn present(connection: &Connection, scope: &str, id: NodeId) -> Result<Option<NodeVersion>, StoreError> {
    let sql = "SELECT n.id, n.client_id, n.type, n.title, n.text_summary, n.slots, n.raw_ref, n.evidence_ref, n.memory_lane, \
                   n.producer_agent_id, n.owner_agent_id, n.owner_team_id, n.version, n.content_seq, n.digest, c.id, \
                   c.created_at \
               FROM memory_nodes n JOIN memory_commits c ON c.scope_key = n.scope_key AND c.seq = n.content_seq \
               WHERE n.scope_key = ?1 AND n.id = ?2";
    let read = |row: &Row<'_>| {
        Ok(NodeVersion {
            version: row.get(12)?,
            from_seq: unsigned(row, 13)?,
            commit_id: CommitId(uuid(row, 15)?),
            at: Timestamp(row.get(16)?),
            to_seq: None,
            digest: digest(row, 14)?,
            content: read_content(row)?.content().value(),
        })
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row((scope, blob(id.0)), read).optional())
        .map_err(|e| unreadable("memory_nodes", id, e))
}

fn history(
    connection: &Connection,
    scope: &str,
    id: NodeId,
    before: Option<u32>,
    limit: usize,
) -> Result<Vec<NodeVersion>, StoreError> {
    let tx = connection.unchecked_transaction().map_err(driver)?;
    if is_purging(&tx, scope)? {
        return Ok(Vec::new());
    }
    let mut versions: Vec<NodeVersion> =
        present(&tx, scope, id)?.into_iter().filter(|now| before.is_none_or(|before| now.version < before)).collect();
    let sql = "SELECT v.version, v.from_seq, v.to_seq, v.content, c.id, c.created_at FROM memory_node_versions v \
               JOIN memory_commits c ON c.scope_key = v.scope_key AND c.seq = v.from_seq \
               WHERE v.scope_key = ?1 AND v.node_id = ?2 AND v.version < ?3 ORDER BY v.version DESC LIMIT ?4";
    let mut statement = tx.prepare_cached(sql).map_err(driver)?;
    let before = before.map_or(i64::MAX, i64::from);
    let left = limit.saturating_sub(versions.len());
    let mut rows = statement.query((scope, blob(id.0), before, signed(left as u64))).map_err(driver)?;
    while let Some(row) = rows.next().map_err(driver)? {
        let damaged = |e| unreadable("memory_node_versions", id, e);
        let (version, text): (u32, String) = (row.get(0).map_err(damaged)?, row.get(3).map_err(damaged)?);
        let read = || Ok((unsigned(row, 1)?, unsigned(row, 2)?, CommitId(uuid(row, 4)?), Timestamp(row.get(5)?)));
        let (from_seq, to_seq, commit_id, at) = read().map_err(damaged)?;
        let (digest, content) = (sha256(&text), content(id, version, &text)?);
        versions.push(NodeVersion { version, from_seq, commit_id, at, to_seq: Some(to_seq), digest, content });
    }
    Ok(versions)
}

fn erased(connection: &Connection, scope: &str, ids: &[NodeId]) -> Result<Vec<ErasedNode>, StoreError> {
    let sql = "SELECT e.digest, e.memory_lane, e.owner_agent_id, e.owner_team_id, e.erased_at, e.commit_seq, c.id \
               FROM memory_erasures e JOIN memory_commits c ON c.scope_key = e.scope_key AND c.seq = e.commit_seq \
               WHERE e.scope_key = ?1 AND e.id = ?2 \
                   AND NOT EXISTS (SELECT 1 FROM memory_nodes n WHERE n.scope_key = e.scope_key AND n.id = e.id)";
    let mut gone = Vec::new();
    if is_purging(connection, scope)? {
        return Ok(gone);
    }
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    for id in ids {
        let row = statement
            .query_row((scope, blob(id.0)), |row| {
                Ok(ErasedNode {
                    id: *id,
                    digest: digest(row, 0)?,
                    lane: choice(row, 1, Lane::parse)?,
                    owner_agent_id: row.get(2)?,
                    owner_team_id: row.get(3)?,
                    at: Timestamp(row.get(4)?),
                    commit_seq: unsigned(row, 5)?,
                    commit_id: CommitId(uuid(row, 6)?),
                })
            })
            .optional()
            .map_err(|e| unreadable("memory_erasures", id, e))?;
        gone.extend(row);
    }
    Ok(gone)
}

fn commits(
    connection: &Connection,
    scope: &str,
    which: &str,
    value: impl ToSql,
    limit: usize,
) -> Result<Vec<StoredCommit>, StoreError> {
    if is_purging(connection, scope)? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {COMMIT_COLUMNS} FROM memory_commits WHERE scope_key = ?1 AND {which} LIMIT ?3");
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_map(rusqlite::params![scope, value, signed(limit as u64)], |row| stored_commit(row, scope))
                .and_then(Iterator::collect)
        })
        .map_err(|e| unreadable("memory_commits", scope, e))
}

#[async_trait]
impl ReadStore for SqliteStore {
    async fn find(&self, query: FindQuery) -> Result<FindPage, StoreError> {
        self.readers.run(move |connection| find(connection, &query)).await
    }

    async fn history(
        &self,
        scope: &ScopeKey,
        id: NodeId,
        before: Option<u32>,
        limit: usize,
    ) -> Result<Vec<NodeVersion>, StoreError> {
        let scope = scope.clone();
        self.readers.run(move |connection| history(connection, scope.as_str(), id, before, limit)).await
    }

    async fn erased(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<ErasedNode>, StoreError> {
        let (scope, ids) = (scope.clone(), ids.to_vec());
        self.readers.run(move |connection| erased(connection, scope.as_str(), &ids)).await
    }

    async fn newest_commits(
        &self,
        scope: &ScopeKey,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        let scope = scope.clone();
        let before = before.map_or(i64::MAX, signed);
        self.readers
            .run(move |connection| commits(connection, scope.as_str(), "seq < ?2 ORDER BY seq DESC", before, limit))
            .await
    }

    async fn commit_at(&self, scope: &ScopeKey, state: AsOf) -> Result<Option<StoredCommit>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let found = match state {
                    AsOf::Seq(seq) => commits(connection, scope.as_str(), "seq = ?2", signed(seq), 1),
                    AsOf::Commit(id) => commits(connection, scope.as_str(), "id = ?2", blob(id.0), 1),
                    // Times follow the chain but for steps of the clock: the newest commit decides.
                    AsOf::Time(at) => {
                        commits(connection, scope.as_str(), "created_at <= ?2 ORDER BY seq DESC", at.0, 1)
                    }
                };
                found.map(|found| found.into_iter().next())
            })
            .await
    }

    async fn past(&self, scope: &ScopeKey, seq: u64, nodes_max: u64) -> Result<Arc<dyn RecallReader>, StoreError> {
        let (scope, shared) = (scope.clone(), Arc::clone(&self.shared));
        let (wanted, waiting) = past::Wanted::pair();
        let build =
            move |connection: &Connection| past::load(connection, (&scope, seq), nodes_max, &shared.space, &wanted);
        let past = self.readers.run(build).await;
        drop(waiting);
        Ok(Arc::new(past?))
    }
}

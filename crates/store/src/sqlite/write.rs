//! Applying a prepared write inside the writing thread's transaction.

use std::collections::HashMap;

use aionis_core::{
    canon::job_key,
    chain::changes_json,
    clock::Timestamp,
    ids::{CommitId, EdgeId, NodeId},
    model::{EdgeType, EmbeddingStatus, RuleState, Tier},
    ports::store::{StoreError, WriteStore},
    text,
    write::{
        EdgeOp, NewCommit, NodeOp, ParentState, PartPlan, PartState, PreparedEdge, PreparedNode, PreparedPart,
        PreparedWrite, Replay, StoredEdge, StoredNode, WriteOutcome, check_vector_at, plan_part,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    Shared, SqliteStore,
    error::driver,
    image::{Delta, EdgeDelta, NodeDelta},
    rows::{blob, choice, digest, edge_type, signed, unreadable, unsigned, uuid, vector, vector_bytes},
};

/// How long answers are kept for repeated requests.
const REQUEST_TTL_US: i64 = 24 * 3600 * 1_000_000;

#[async_trait]
impl WriteStore for SqliteStore {
    async fn write(&self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        // Texts are analysed here, not on the one writing thread.
        let terms = write.parts.iter().map(|part| part.nodes.iter().map(|n| Some(Terms::of(n))).collect()).collect();
        self.writer
            .submit(move |connection, deltas| Application { connection, shared: &shared, deltas, terms }.write(&write))
            .await
    }
}

/// Forgets answers kept for repeated requests after a day; a failure only delays that.
pub(crate) fn prune_requests(connection: &Connection, now: Timestamp) {
    let sql = "DELETE FROM memory_requests WHERE rowid IN \
               (SELECT rowid FROM memory_requests WHERE created_at < ?1 ORDER BY created_at LIMIT 1000)";
    if let Err(e) = connection.execute(sql, [now.0 - REQUEST_TTL_US]) {
        tracing::warn!(error = %e, "old request answers could not be pruned");
    }
}

struct Application<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    deltas: &'a mut Vec<Delta>,
    /// Per part and node, taken when the node is stored.
    terms: Vec<Vec<Option<Terms>>>,
}

impl Application<'_> {
    fn write(mut self, write: &PreparedWrite) -> Result<WriteOutcome, StoreError> {
        if let Some(earlier) = self.repeated(write)? {
            return Ok(earlier);
        }
        for node in write.parts.iter().flat_map(|part| &part.nodes) {
            // Checked against the settings before; the store's own dimension is what its vectors compare in.
            if let Some(vector) = &node.embedding {
                check_vector_at(&format!("nodes.{}.embedding", node.position), vector, self.shared.space.dim)?;
            }
        }
        let now = self.shared.clock.now();
        let mut plans = Vec::with_capacity(write.parts.len());
        for (at, part) in write.parts.iter().enumerate() {
            let state = self.state(write, part, at == 0)?;
            let plan = plan_part(write, part, &state, now)?;
            plans.push((plan, state));
        }
        for (at, ((plan, state), part)) in plans.iter().zip(&write.parts).enumerate() {
            let terms = std::mem::take(&mut self.terms[at]);
            self.apply(write, part, (plan, state), terms, now)?;
        }
        let plans: Vec<PartPlan> = plans.into_iter().map(|(plan, _)| plan).collect();
        let outcome = outcome_of(write, &plans);
        self.remember(write, &outcome, now)?;
        Ok(outcome)
    }

    /// The stored answer for a repeated request key.
    fn repeated(&self, write: &PreparedWrite) -> Result<Option<WriteOutcome>, StoreError> {
        let Some(idempotency) = &write.idempotency else { return Ok(None) };
        let scope = write.parts[0].scope.as_str();
        let sql = "SELECT request_sha256, outcome FROM memory_requests WHERE scope_key = ?1 AND request_key = ?2";
        let found: Option<(_, String)> = self
            .statement(sql)?
            .query_row((scope, &idempotency.key), |row| Ok((digest(row, 0)?, row.get(1)?)))
            .optional()
            .map_err(driver)?;
        let Some((asked_before, outcome)) = found else { return Ok(None) };
        if asked_before != write.request_digest {
            if !idempotency.strict {
                return Ok(None);
            }
            return Err(StoreError::Rejected(aionis_core::error::DomainError::new(
                aionis_core::error::ErrorKind::Conflict,
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request in this scope; send a new key for a new request",
            )));
        }
        let mut outcome: WriteOutcome = serde_json::from_str(&outcome)
            .map_err(|e| super::error::inconsistent("memory_requests", "outcome", &idempotency.key, e.to_string()))?;
        outcome.replayed = true;
        Ok(Some(outcome))
    }

    fn remember(&self, write: &PreparedWrite, outcome: &WriteOutcome, now: Timestamp) -> Result<(), StoreError> {
        let Some(idempotency) = &write.idempotency else { return Ok(()) };
        let json = serde_json::to_string(outcome).map_err(|e| StoreError::Driver(e.to_string()))?;
        let sql = "INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (scope_key, request_key) DO UPDATE SET \
                   request_sha256 = excluded.request_sha256, outcome = excluded.outcome, created_at = excluded.created_at";
        let scope = write.parts[0].scope.as_str();
        self.run(sql, params![scope, idempotency.key, write.request_digest.0, json, now.0])
    }

    fn statement(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, StoreError> {
        self.connection.prepare_cached(sql).map_err(driver)
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        self.statement(sql)?.execute(params).map(|_| ()).map_err(driver)
    }

    fn state(&self, write: &PreparedWrite, part: &PreparedPart, primary: bool) -> Result<PartState, StoreError> {
        let scope = part.scope.as_str();
        let mut state = PartState::default();
        let head: Option<(u64, _)> = self
            .statement("SELECT head_seq, head_hash FROM memory_scopes WHERE scope_key = ?1")?
            .query_row([scope], |row| Ok((unsigned(row, 0)?, digest(row, 1)?)))
            .optional()
            .map_err(|e| unreadable("memory_scopes", scope, e))?;
        if let Some(head) = head {
            state.head = head;
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
        let sql = "SELECT n.digest, n.version, n.tier, n.salience, n.importance, n.confidence, n.embedding_status, r.state \
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

    fn apply(
        &mut self,
        write: &PreparedWrite,
        part: &PreparedPart,
        (plan, state): (&PartPlan, &PartState),
        mut terms: Vec<Option<Terms>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(commit) = &plan.commit else {
            return self.enqueue(write, part, plan, now);
        };
        let scope_no = self.append(commit, plan, now)?;
        for ((node, op), terms) in part.nodes.iter().zip(&plan.nodes).zip(&mut terms) {
            let stored = state.nodes.get(&node.id);
            let terms = terms.take().unwrap_or_else(|| Terms::of(node));
            let place = Place { scope: part.scope.as_str(), scope_no, commit, now };
            match op {
                NodeOp::Create => self.create_node(node, terms, &place)?,
                NodeOp::Update { version } => self.update_node(node, terms, (*version, stored), &place)?,
                NodeOp::Touch => self.touch_node(node, &place)?,
                NodeOp::Keep => {}
            }
        }
        for (edge, op) in part.edges.iter().zip(&plan.edges) {
            match op {
                EdgeOp::Create => self.put_edge(edge, commit, part.scope.as_str(), now)?,
                EdgeOp::Update(merged) => self.put_edge(merged, commit, part.scope.as_str(), now)?,
                EdgeOp::Keep(_) => {}
            }
        }
        self.enqueue(write, part, plan, now)
    }

    /// Appends the commit and moves the head; returns the scope's short number.
    fn append(&mut self, commit: &NewCommit, plan: &PartPlan, now: Timestamp) -> Result<i64, StoreError> {
        let header = &commit.header;
        let nodes = plan.nodes.iter().filter(|op| **op == NodeOp::Create).count();
        let edges = plan.edges.iter().filter(|op| matches!(op, EdgeOp::Create)).count();
        let sql = "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, created_at, updated_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (scope_key) DO UPDATE SET \
                   head_seq = excluded.head_seq, head_hash = excluded.head_hash, \
                   node_count = node_count + excluded.node_count, edge_count = edge_count + excluded.edge_count, \
                   updated_at = excluded.updated_at RETURNING scope_no";
        let scope_no = self
            .statement(sql)?
            .query_row(
                params![
                    header.scope_key,
                    signed(header.seq),
                    commit.hash.0,
                    signed(nodes as u64),
                    signed(edges as u64),
                    now.0
                ],
                |row| row.get(0),
            )
            .map_err(driver)?;
        let sql = "INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, model_version, \
                   prompt_version, input_sha256, request_sha256, changes, created_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        self.run(
            sql,
            params![
                header.scope_key,
                signed(header.seq),
                blob(commit.id.0),
                header.parent_hash.0,
                commit.hash.0,
                header.kind,
                header.actor,
                header.model_version,
                header.prompt_version,
                header.input_sha256,
                header.request_sha256.0,
                changes_json(&commit.changes),
                header.created_at.0,
            ],
        )?;
        self.deltas.push(Delta::Head { scope: header.scope_key.clone(), scope_no, seq: header.seq });
        Ok(scope_no)
    }

    fn create_node(&mut self, node: &PreparedNode, terms: Terms, place: &Place<'_>) -> Result<(), StoreError> {
        let tier = node.tier.unwrap_or(Tier::Hot);
        let vitals = [node.salience, node.importance, node.confidence].map(|v| v.unwrap_or(0.5));
        let (status, last_error) = initial_status(node);
        let sql = "INSERT INTO memory_nodes (scope_key, id, client_id, type, title, text_summary, slots, raw_ref, \
                   evidence_ref, memory_lane, producer_agent_id, owner_agent_id, owner_team_id, tier, salience, \
                   salience_at, importance, confidence, version, digest, content_seq, commit_seq, commit_id, created_at, updated_at, \
                   embedding_status, embedding_model, embedding_last_error, embedding_ready_at, recall_flags, \
                   term_count, name_key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
                   ?17, ?18, 1, ?19, ?20, ?20, ?21, ?16, ?16, ?22, ?23, ?24, ?25, ?26, ?27, ?28)";
        self.run(
            sql,
            params![
                place.scope,
                blob(node.id.0),
                node.client_id,
                node.node_type.as_str(),
                node.title,
                node.text_summary,
                node.slots.to_string(),
                node.raw_ref,
                node.evidence_ref,
                node.lane.as_str(),
                node.producer_agent_id,
                node.owner_agent_id,
                node.owner_team_id,
                tier.as_str(),
                vitals[0],
                place.now.0,
                vitals[1],
                vitals[2],
                node.digest.0,
                signed(place.commit.header.seq),
                blob(place.commit.id.0),
                status.as_str(),
                node.embedding_model,
                last_error,
                (status == EmbeddingStatus::Ready).then_some(place.now.0),
                i64::from(terms.flags),
                i64::from(terms.counts.len),
                terms.name_key,
            ],
        )?;
        let node_no = self.connection.last_insert_rowid();
        if node.rule.is_some() {
            self.put_rule(node, place)?;
        }
        let vector_no = self.put_vector(node, place)?;
        self.deltas.push(Delta::Node(Box::new(NodeDelta::new(
            node,
            (place.scope, place.scope_no),
            node_no,
            (tier, vitals),
            terms,
            None,
        ))));
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    fn update_node(
        &mut self,
        node: &PreparedNode,
        terms: Terms,
        (version, stored): (u32, Option<&StoredNode>),
        place: &Place<'_>,
    ) -> Result<(), StoreError> {
        let stored =
            stored.ok_or_else(|| StoreError::Driver("an update was planned without a stored node".to_owned()))?;
        let replaced_terms = self.keep_version(node.id, place)?;
        let tier = node.tier.unwrap_or(stored.tier);
        let vitals = [
            node.salience.unwrap_or(stored.salience),
            node.importance.unwrap_or(stored.importance),
            node.confidence.unwrap_or(stored.confidence),
        ];
        let (status, last_error) = initial_status(node);
        let sql = "UPDATE memory_nodes SET client_id = ?3, type = ?4, title = ?5, text_summary = ?6, slots = ?7, \
                   raw_ref = ?8, evidence_ref = ?9, memory_lane = ?10, producer_agent_id = ?11, owner_agent_id = ?12, \
                   owner_team_id = ?13, tier = ?14, salience_at = CASE WHEN salience = ?15 THEN salience_at ELSE ?16 END, \
                   salience = ?15, importance = ?17, confidence = ?18, version = ?19, digest = ?20, content_seq = ?21, commit_seq = ?21, \
                   commit_id = ?22, updated_at = ?16, embedding_status = ?23, embedding_model = ?24, \
                   embedding_attempts = 0, embedding_last_error = ?25, embedding_ready_at = ?26, recall_flags = ?27, \
                   term_count = ?28, name_key = ?29 WHERE scope_key = ?1 AND id = ?2 RETURNING node_no";
        let node_no: i64 = self
            .statement(sql)?
            .query_row(
                params![
                    place.scope,
                    blob(node.id.0),
                    node.client_id,
                    node.node_type.as_str(),
                    node.title,
                    node.text_summary,
                    node.slots.to_string(),
                    node.raw_ref,
                    node.evidence_ref,
                    node.lane.as_str(),
                    node.producer_agent_id,
                    node.owner_agent_id,
                    node.owner_team_id,
                    tier.as_str(),
                    vitals[0],
                    place.now.0,
                    vitals[1],
                    vitals[2],
                    version,
                    node.digest.0,
                    signed(place.commit.header.seq),
                    blob(place.commit.id.0),
                    status.as_str(),
                    node.embedding_model,
                    last_error,
                    (status == EmbeddingStatus::Ready).then_some(place.now.0),
                    i64::from(terms.flags),
                    i64::from(terms.counts.len),
                    terms.name_key,
                ],
                |row| row.get(0),
            )
            .map_err(driver)?;
        self.put_rule(node, place)?;
        // The old vector is of the old text: it goes at once, so that recall never compares with it.
        let sql = "DELETE FROM memory_vectors WHERE scope_key = ?1 AND node_id = ?2";
        self.run(sql, (place.scope, blob(node.id.0)))?;
        let vector_no = self.put_vector(node, place)?;
        self.deltas.push(Delta::Node(Box::new(NodeDelta::new(
            node,
            (place.scope, place.scope_no),
            node_no,
            (tier, vitals),
            terms,
            Some(replaced_terms),
        ))));
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    /// Keeps the content that is about to be replaced, as the text its digest was taken of; returns its terms.
    fn keep_version(&self, id: NodeId, place: &Place<'_>) -> Result<Vec<String>, StoreError> {
        let stored = super::integrity::stored_content(self.connection, place.scope, id)?;
        let content = stored.content().canonical();
        let sql = "INSERT INTO memory_node_versions (scope_key, node_id, version, from_seq, to_seq, content) \
                   SELECT scope_key, id, version, content_seq, ?3, ?4 FROM memory_nodes WHERE scope_key = ?1 AND id = ?2";
        self.run(sql, params![place.scope, blob(id.0), signed(place.commit.header.seq), content])?;
        let texts: Vec<&str> =
            [&stored.title, &stored.text_summary].into_iter().flatten().map(String::as_str).collect();
        Ok(text::term_counts(&texts).terms.into_iter().map(|(term, _)| term).collect())
    }

    fn touch_node(&mut self, node: &PreparedNode, place: &Place<'_>) -> Result<(), StoreError> {
        let sql = "UPDATE memory_nodes SET tier = COALESCE(?3, tier), \
                   salience_at = CASE WHEN ?4 IS NULL THEN salience_at ELSE ?7 END, salience = COALESCE(?4, salience), \
                   importance = COALESCE(?5, importance), confidence = COALESCE(?6, confidence), updated_at = ?7, \
                   commit_seq = ?8, commit_id = ?9 WHERE scope_key = ?1 AND id = ?2 \
                   RETURNING tier, salience, importance, confidence";
        let (tier, salience, confidence) = self
            .statement(sql)?
            .query_row(
                params![
                    place.scope,
                    blob(node.id.0),
                    node.tier.map(Tier::as_str),
                    node.salience,
                    node.importance,
                    node.confidence,
                    place.now.0,
                    signed(place.commit.header.seq),
                    blob(place.commit.id.0),
                ],
                |row| Ok((choice(row, 0, Tier::parse)?, row.get(1)?, row.get(3)?)),
            )
            .map_err(driver)?;
        self.deltas.push(Delta::Vitals { scope: place.scope.to_owned(), id: node.id, tier, salience, confidence });
        let vector_no = self.put_vector(node, place)?;
        if vector_no.is_some() {
            let sql = "UPDATE memory_nodes SET embedding_status = 'ready', embedding_model = ?3, embedding_last_error = NULL, \
                       embedding_ready_at = ?4 WHERE scope_key = ?1 AND id = ?2";
            self.run(sql, params![place.scope, blob(node.id.0), node.embedding_model, place.now.0])?;
        }
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    fn put_rule(&self, node: &PreparedNode, place: &Place<'_>) -> Result<(), StoreError> {
        let Some(rule) = &node.rule else {
            // A node that stops being a rule keeps no executable part.
            return self.run(
                "DELETE FROM memory_rule_defs WHERE scope_key = ?1 AND rule_node_id = ?2",
                (place.scope, blob(node.id.0)),
            );
        };
        let sql = "INSERT INTO memory_rule_defs (scope_key, rule_node_id, state, if_json, then_json, exceptions_json, \
                   rule_scope, target_agent_id, target_team_id, commit_seq, created_at, updated_at) \
                   VALUES (?1, ?2, 'draft', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10) \
                   ON CONFLICT (scope_key, rule_node_id) DO UPDATE SET state = 'draft', if_json = excluded.if_json, \
                   then_json = excluded.then_json, exceptions_json = excluded.exceptions_json, \
                   rule_scope = excluded.rule_scope, target_agent_id = excluded.target_agent_id, \
                   target_team_id = excluded.target_team_id, commit_seq = excluded.commit_seq, \
                   updated_at = excluded.updated_at";
        self.run(
            sql,
            params![
                place.scope,
                blob(node.id.0),
                rule.if_json.to_string(),
                rule.then_json.to_string(),
                rule.exceptions_json.to_string(),
                rule.rule_scope.as_str(),
                rule.target_agent_id,
                rule.target_team_id,
                signed(place.commit.header.seq),
                place.now.0,
            ],
        )
    }

    fn put_vector(&self, node: &PreparedNode, place: &Place<'_>) -> Result<Option<i64>, StoreError> {
        let Some(vector) = &node.embedding else { return Ok(None) };
        let key = (place.scope, node.id);
        put_vector(self.connection, key, &self.shared.space.name, (&node.digest.0, "client"), vector, place.now)
            .map(Some)
    }

    fn vector_delta(&mut self, node: &PreparedNode, place: &Place<'_>, vector_no: Option<i64>) {
        if let (Some(vector), Some(vector_no)) = (&node.embedding, vector_no) {
            self.deltas.push(Delta::Vector {
                scope: place.scope.to_owned(),
                id: node.id,
                vector_no,
                vector: vector.clone(),
            });
        }
    }

    fn put_edge(
        &mut self,
        edge: &PreparedEdge,
        commit: &NewCommit,
        scope: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO memory_edges (scope_key, src_id, type, dst_id, id, weight, confidence, decay_rate, \
                   created_at, commit_seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                   ON CONFLICT (scope_key, src_id, type, dst_id) DO UPDATE SET weight = excluded.weight, \
                   confidence = excluded.confidence, commit_seq = excluded.commit_seq, last_activated = excluded.created_at";
        self.run(
            sql,
            params![
                scope,
                blob(edge.src.id.0),
                edge.edge_type.as_str(),
                blob(edge.dst.id.0),
                blob(edge.id.0),
                edge.weight,
                edge.confidence,
                edge.decay_rate,
                now.0,
                signed(commit.header.seq),
            ],
        )?;
        self.deltas.push(Delta::Edge(EdgeDelta::new(edge, scope, commit.header.seq)));
        Ok(())
    }

    /// One outbox row per commit that has nodes without vector. Nodes that failed before wait again.
    fn enqueue(
        &mut self,
        write: &PreparedWrite,
        part: &PreparedPart,
        plan: &PartPlan,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if plan.embed.is_empty() {
            return Ok(());
        }
        let scope = part.scope.as_str();
        let mut payload = json!({ "nodes": plan.embed.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>() });
        if write.force_reembed {
            payload["force_reembed"] = json!(true);
        }
        let payload_sha256 = aionis_core::canon::canonical_sha256(&payload).to_hex();
        let key = job_key(scope, &plan.reported.id.to_string(), "embed_nodes", &payload_sha256);
        let sql = "INSERT INTO memory_outbox (scope_key, id, tenant_id, event_type, job_key, commit_seq, payload, created_at, \
                   available_at) VALUES (?1, ?2, ?3, 'embed_nodes', ?4, ?5, ?6, ?7, ?7) \
                   ON CONFLICT (scope_key, event_type, job_key) DO UPDATE SET published_at = NULL, failed_at = NULL, \
                   failed_reason = NULL, attempts = 0, claimed_by = NULL, lease_until = NULL, available_at = excluded.available_at, \
                   created_at = excluded.created_at";
        let id = aionis_core::derive_id::stable_uuid(&format!("outbox:{scope}:{key}"));
        self.run(
            sql,
            params![scope, blob(id), part.scope.tenant(), key, signed(plan.reported.seq), payload.to_string(), now.0],
        )?;
        let sql = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_last_error = NULL \
                   WHERE scope_key = ?1 AND id = ?2 AND embedding_status = 'failed'";
        // New content is pending already; only what is asked for again may have failed before.
        let again = part.nodes.iter().zip(&plan.nodes).filter(|(_, op)| matches!(op, NodeOp::Keep | NodeOp::Touch));
        for (node, _) in again.filter(|(node, _)| plan.embed.contains(&node.id)) {
            self.run(sql, (scope, blob(node.id.0)))?;
        }
        self.deltas.push(Delta::Work { scope: scope.to_owned(), waiting: plan.embed.clone() });
        Ok(())
    }
}

/// Brings the inverted index up to date with the nodes a transaction stored.
pub(crate) fn index_texts(connection: &Connection, deltas: &[Delta]) -> Result<(), StoreError> {
    for delta in deltas {
        let Delta::Node(node) = delta else { continue };
        if node.replaces() {
            let sql = "DELETE FROM memory_lexical WHERE rowid = ?1";
            connection.prepare_cached(sql).and_then(|mut s| s.execute([node.node_no()])).map_err(driver)?;
        }
        if let Some(document) = node.document() {
            let sql = "INSERT INTO memory_lexical (rowid, terms) VALUES (?1, ?2)";
            connection.prepare_cached(sql).and_then(|mut s| s.execute((node.node_no(), document))).map_err(driver)?;
        }
    }
    Ok(())
}

/// Stores a vector and returns its row number.
pub(crate) fn put_vector(
    connection: &Connection,
    (scope, id): (&str, NodeId),
    model: &str,
    (source_digest, origin): (&[u8; 32], &str),
    vector: &[f32],
    now: Timestamp,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO memory_vectors (scope_key, node_id, model, dim, source_digest, origin, vector, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (scope_key, node_id, model) DO UPDATE SET \
               dim = excluded.dim, source_digest = excluded.source_digest, origin = excluded.origin, \
               vector = excluded.vector, created_at = excluded.created_at RETURNING vector_no";
    connection
        .prepare_cached(sql)
        .map_err(driver)?
        .query_row(
            params![
                scope,
                blob(id.0),
                model,
                signed(vector.len() as u64),
                source_digest,
                origin,
                vector_bytes(vector),
                now.0
            ],
            |row| row.get(0),
        )
        .map_err(driver)
}

/// Where a node is written.
struct Place<'a> {
    scope: &'a str,
    scope_no: i64,
    commit: &'a NewCommit,
    now: Timestamp,
}

/// What recall needs of a node's text, computed once when it is written.
pub(crate) struct Terms {
    pub(crate) counts: text::TermCounts,
    pub(crate) name_key: Option<String>,
    pub(crate) flags: u8,
}

impl Terms {
    fn of(node: &PreparedNode) -> Self {
        let texts: Vec<&str> = [&node.title, &node.text_summary].into_iter().flatten().map(String::as_str).collect();
        Self {
            counts: text::term_counts(&texts),
            name_key: node.title.as_deref().and_then(name_key),
            flags: aionis_core::slots::recall_flags(node.node_type, &node.slots),
        }
    }
}

/// Longest title that counts as a name, in terms.
pub(crate) const NAME_TERMS_MAX: usize = 5;

/// The analysed form of a title, when it is short enough to be a name.
fn name_key(title: &str) -> Option<String> {
    let mut terms = Vec::new();
    text::analyze(title, &mut terms);
    (!terms.is_empty() && terms.len() <= NAME_TERMS_MAX).then(|| terms.join(" "))
}

fn initial_status(node: &PreparedNode) -> (EmbeddingStatus, Option<&'static str>) {
    if node.embedding.is_some() {
        (EmbeddingStatus::Ready, None)
    } else if node.wants_embedding {
        (EmbeddingStatus::Pending, None)
    } else {
        (EmbeddingStatus::Failed, node.no_embedding_reason)
    }
}

fn outcome_of(write: &PreparedWrite, plans: &[PartPlan]) -> WriteOutcome {
    let primary = &plans[0].reported;
    let nodes = write
        .node_order
        .iter()
        .map(|&(part, at)| (write.parts[part].nodes[at].id, plans[part].nodes[at].status().to_owned()))
        .collect();
    let edges = write
        .edge_order
        .iter()
        .map(|&(part, at)| {
            let op = &plans[part].edges[at];
            (op.id(write.parts[part].edges[at].id), op.status().to_owned())
        })
        .collect();
    WriteOutcome {
        commit_id: primary.id,
        commit_seq: primary.seq,
        commit_hash: primary.hash.to_hex(),
        nodes,
        edges,
        pending_nodes: plans.iter().map(|plan| plan.embed.len()).sum(),
        replayed: plans.iter().all(|plan| plan.commit.is_none()),
        warnings: plans.iter().flat_map(|plan| plan.warnings.clone()).collect(),
    }
}

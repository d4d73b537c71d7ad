//! Applying a prepared write inside the writing thread's transaction.

mod commit;
mod nodes;
mod stored;
mod vectors;

use aionis_core::{
    clock::Timestamp,
    forget::Narrowing,
    ports::store::{StoreError, WriteStore},
    write::{
        DerivedText, EdgeOp, EmbedJob, NewCommit, NodeOp, PartPlan, PartState, PreparedEdge, PreparedPart,
        PreparedWrite, WriteOutcome, check_vector_at, plan_part,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, params};

use self::nodes::Place;
pub(crate) use self::{
    commit::{answered, append, remember},
    nodes::index_texts,
    vectors::put_vector,
};
use super::{
    Shared, SqliteStore,
    error::driver,
    forget::narrow,
    rows::{blob, signed},
};
use aionis_image::{Delta, EdgeDelta};

#[async_trait]
impl WriteStore for SqliteStore {
    async fn write(&self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        // Texts are analysed here, not on the one writing thread.
        let terms =
            write.parts.iter().map(|part| part.nodes.iter().map(|n| Some(DerivedText::of(n))).collect()).collect();
        self.writer
            .submit(move |connection, deltas| Application { connection, shared: &shared, deltas, terms }.write(&write))
            .await
    }
}

/// Forgets the oldest answers kept for repeated requests from before a time; returns how many.
pub(crate) fn prune_requests(connection: &Connection, before: Timestamp, limit: usize) -> Result<u64, StoreError> {
    let sql = "DELETE FROM memory_requests WHERE rowid IN \
               (SELECT rowid FROM memory_requests WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)";
    connection.execute(sql, (before.0, signed(limit as u64))).map(|n| n as u64).map_err(driver)
}

struct Application<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    deltas: &'a mut Vec<Delta>,
    /// Per part and node, taken when the node is stored.
    terms: Vec<Vec<Option<DerivedText>>>,
}

impl Application<'_> {
    fn write(mut self, write: &PreparedWrite) -> Result<WriteOutcome, StoreError> {
        let (scope, key) = (write.parts[0].scope.as_str(), write.idempotency.as_ref());
        if let Some(earlier) = answered::<WriteOutcome>(self.connection, scope, key, write.request_digest)? {
            return Ok(WriteOutcome { replayed: true, ..earlier });
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
            if plan.commit.is_some()
                && let Some(narrowing) = Narrowing::of(write, part, |id| state.nodes.get(&id))
            {
                narrow(self.connection, self.deltas, &narrowing, now)?;
            }
        }
        let plans: Vec<PartPlan> = plans.into_iter().map(|(plan, _)| plan).collect();
        let outcome = WriteOutcome::of(write, &plans);
        remember(self.connection, scope, key, write.request_digest, (&outcome, now))?;
        Ok(outcome)
    }

    fn statement(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, StoreError> {
        self.connection.prepare_cached(sql).map_err(driver)
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        self.statement(sql)?.execute(params).map(|_| ()).map_err(driver)
    }

    fn apply(
        &mut self,
        write: &PreparedWrite,
        part: &PreparedPart,
        (plan, state): (&PartPlan, &PartState),
        mut terms: Vec<Option<DerivedText>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(commit) = &plan.commit else {
            return self.enqueue(write, part, plan, now);
        };
        let scope_no = self.append(commit, plan, now)?;
        for ((node, op), terms) in part.nodes.iter().zip(&plan.nodes).zip(&mut terms) {
            let stored = state.nodes.get(&node.id);
            let terms = terms.take().unwrap_or_else(|| DerivedText::of(node));
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
        let nodes = plan.nodes.iter().filter(|op| **op == NodeOp::Create).count();
        let edges = plan.edges.iter().filter(|op| matches!(op, EdgeOp::Create)).count();
        append(self.connection, self.deltas, commit, (nodes, edges), now)
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
        let scope = part.scope.as_str();
        let Some(job) = EmbedJob::of(scope, plan, write.force_reembed) else { return Ok(()) };
        let sql = "INSERT INTO memory_outbox (scope_key, id, tenant_id, event_type, job_key, commit_seq, payload, created_at, \
                   available_at) VALUES (?1, ?2, ?3, 'embed_nodes', ?4, ?5, ?6, ?7, ?7) \
                   ON CONFLICT (scope_key, event_type, job_key) DO UPDATE SET published_at = NULL, failed_at = NULL, \
                   failed_reason = NULL, attempts = 0, claimed_by = NULL, lease_until = NULL, available_at = excluded.available_at, \
                   created_at = excluded.created_at";
        self.run(
            sql,
            params![
                scope,
                blob(job.id),
                part.scope.tenant(),
                job.key,
                signed(plan.reported.seq),
                job.payload.to_string(),
                now.0
            ],
        )?;
        let sql = "UPDATE memory_nodes SET embedding_status = 'pending', embedding_pending_at = ?3, embedding_last_error = NULL \
                   WHERE scope_key = ?1 AND id = ?2 AND embedding_status = 'failed'";
        // New content is pending already; only what is asked for again may have failed before.
        let again = part.nodes.iter().zip(&plan.nodes).filter(|(_, op)| matches!(op, NodeOp::Keep | NodeOp::Touch));
        for (node, _) in again.filter(|(node, _)| plan.embed.contains(&node.id)) {
            self.run(sql, (scope, blob(node.id.0), now.0))?;
        }
        self.deltas.push(Delta::Work { scope: scope.to_owned(), waiting: plan.embed.clone() });
        Ok(())
    }
}

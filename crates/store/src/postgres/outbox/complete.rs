//! Completing claims: storing derived vectors.

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    model::{Lane, NodeType, RuleState, Tier},
    ports::{
        embed::EmbeddingSpace,
        store::{EmbeddedNode, OutboxItem, StoreError},
    },
    write::check_vector_at,
};
use hashbrown::{HashMap, HashSet};
use pgvector::Vector;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{HELD, columns};
use crate::postgres::{
    PostgresStore,
    error::driver,
    rows::{choice, get},
    session::{For, Transaction, begin},
};
use aionis_image::{Coding, gate_bits};

/// A node whose vector is about to be stored, as it is now.
pub(crate) struct Target {
    /// Whether it has no vector yet.
    fresh: bool,
    gate: u8,
    owner_agent: Option<String>,
    owner_team: Option<String>,
}

/// Derived vectors that can be stored, column by column, and why others cannot.
#[derive(Default)]
pub(crate) struct Derived {
    ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
    fresh: Vec<bool>,
    gates: Vec<i16>,
    agents: Vec<Option<String>>,
    teams: Vec<Option<String>>,
    vectors: Vec<Vector>,
    codes: Vec<Vec<u8>>,
    bad_ids: Vec<Uuid>,
    bad_digests: Vec<Vec<u8>>,
    reasons: Vec<String>,
}

impl Derived {
    /// How many can be stored.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn of(nodes: &[&EmbeddedNode], targets: &HashMap<NodeId, Target>, dim: usize) -> Self {
        let mut sorted = Self::default();
        // Several items may name one node; its content is the same for all, and so is its vector.
        let mut seen = HashSet::new();
        for node in nodes {
            let Some(target) = targets.get(&node.id).filter(|_| seen.insert(node.id)) else { continue };
            // A vector that cannot be compared with the others is none.
            let usable = node.result.as_ref().map_err(Clone::clone).and_then(|vector| {
                check_vector_at("embedding", vector, dim).map(|()| vector).map_err(|e| {
                    e.issues.into_iter().map(|issue| format!("the derived vector {}", issue.message)).collect()
                })
            });
            match usable {
                Ok(vector) => {
                    sorted.ids.push(node.id.0);
                    sorted.digests.push(node.digest.0.to_vec());
                    sorted.fresh.push(target.fresh);
                    sorted.gates.push(i16::from(target.gate));
                    sorted.agents.push(target.owner_agent.clone());
                    sorted.teams.push(target.owner_team.clone());
                    sorted.codes.push(Coding::of(dim).encode(vector));
                    sorted.vectors.push(Vector::from(vector.clone()));
                }
                Err(reason) => {
                    sorted.bad_ids.push(node.id.0);
                    sorted.bad_digests.push(node.digest.0.to_vec());
                    sorted.reasons.push(reason);
                }
            }
        }
        sorted
    }

    /// Removes vectors whose node has other content by now. Under the lock of the scope, after they were put.
    pub(crate) async fn remove_stale(
        &self,
        connection: &mut PgConnection,
        scope: &ScopeKey,
        space: &EmbeddingSpace,
    ) -> Result<(), StoreError> {
        let sql = "DELETE FROM memory_vectors v USING UNNEST(array_fill($1::text, ARRAY[cardinality($3)]), \
                       array_fill($2::text, ARRAY[cardinality($3)]), $3::uuid[], $4::bytea[]) \
                       AS q (scope_key, model, id, digest) \
                   WHERE v.scope_key = q.scope_key AND v.node_id = q.id AND v.model = q.model AND v.source_digest = q.digest \
                       AND NOT EXISTS (SELECT 1 FROM memory_nodes n \
                           WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.digest = q.digest)";
        sqlx::query(sql)
            .bind(scope.as_str())
            .bind(&space.name)
            .bind(&self.ids)
            .bind(&self.digests)
            .execute(connection)
            .await
            .map(|_| ())
            .map_err(driver)
    }

    /// Stores the vectors, beside those of other spaces.
    pub(crate) async fn put(
        &self,
        tx: &mut Transaction,
        scope: &ScopeKey,
        space: &EmbeddingSpace,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO memory_vectors (scope_key, model, node_id, dim, source_digest, origin, gate, owner_agent_id, \
                       owner_team_id, created_at, embedding, code) \
                   SELECT $1, $2, q.id, $3, q.digest, 'derived', q.gate, q.agent, q.team, $4, q.embedding, q.code \
                   FROM UNNEST($5::uuid[], $6::bytea[], $7::int2[], $8::text[], $9::text[], $10::vector[], $11::bytea[]) \
                       AS q (id, digest, gate, agent, team, embedding, code) \
                   ON CONFLICT (scope_key, model, node_id) DO UPDATE SET dim = excluded.dim, \
                       source_digest = excluded.source_digest, origin = excluded.origin, gate = excluded.gate, \
                       owner_agent_id = excluded.owner_agent_id, owner_team_id = excluded.owner_team_id, \
                       created_at = excluded.created_at, embedding = excluded.embedding, code = excluded.code";
        sqlx::query(sql)
            .bind(scope.as_str())
            .bind(&space.name)
            .bind(i32::try_from(space.dim).unwrap_or(i32::MAX))
            .bind(now.0)
            .bind(&self.ids)
            .bind(&self.digests)
            .bind(&self.gates)
            .bind(&self.agents)
            .bind(&self.teams)
            .bind(&self.vectors)
            .bind(&self.codes)
            .execute(&mut **tx)
            .await
            .map(|_| ())
            .map_err(driver)
    }
}

impl PostgresStore {
    /// Locks a scope for a change and returns the number the change gets; none when there is no such scope, or not for
    /// long any more.
    pub(crate) async fn next_change(
        connection: &mut PgConnection,
        scope: &ScopeKey,
    ) -> Result<Option<i64>, StoreError> {
        let sql = "UPDATE memory_scopes SET change_no = change_no + 1 WHERE scope_key = $1 AND state <> 'purging' \
                   RETURNING change_no";
        let row = sqlx::query(sql).bind(scope.as_str()).fetch_optional(connection).await.map_err(driver)?;
        row.map(|row| get(&row, 0)).transpose()
    }

    pub(super) async fn complete_scope(
        &self,
        scope: &ScopeKey,
        items: &[&OutboxItem],
        nodes: &[&EmbeddedNode],
        model: &str,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.shared.patience.bounded(async {
        let timeout = self.shared.options.statement_timeout;
        let mut tx = begin(&self.shared.pool, For::Tenant(scope.tenant()), timeout, "").await?;
        let (scopes, ids, fences) = columns(items.iter().copied());
        let sql = format!(
            "UPDATE memory_outbox o SET published_at = $4, claimed_by = NULL, lease_until = NULL, last_error = NULL \
             FROM UNNEST($1::text[], $2::uuid[], $3::bigint[]) AS q (scope_key, id, fence) WHERE {HELD} RETURNING o.id"
        );
        let published = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(scopes)
            .bind(ids)
            .bind(fences)
            .bind(now.0)
            .fetch_all(&mut *tx)
            .await
            .map_err(driver)?;
        let held: HashSet<Uuid> = published.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        // A claim that was taken over is the other worker's to complete; its vectors are not stored twice.
        let mut forced: HashMap<NodeId, bool> = HashMap::new();
        for item in items.iter().filter(|item| held.contains(&item.id)) {
            for id in &item.nodes {
                *forced.entry(*id).or_insert(false) |= item.force;
            }
        }
        let nodes: Vec<&EmbeddedNode> = nodes.iter().copied().filter(|node| forced.contains_key(&node.id)).collect();
        let space = &self.shared.space;
        let targets = Self::targets(&mut tx, scope, &nodes, space, &forced).await?;
        let derived = Derived::of(&nodes, &targets, space.dim);
        // Putting a vector into an HNSW index takes milliseconds: the scope, which writers wait for, is locked after it.
        derived.put(&mut tx, scope, space, now).await?;
        let Some(change_no) = Self::next_change(&mut tx, scope).await? else { return Ok(0) };
        let stored = self.settle(&mut tx, scope, &derived, (model, change_no), now).await?;
        tx.commit().await.map_err(driver)?;
        self.shared.images.note(scope, change_no);
        self.shared.wake.committed(false);
        Ok(stored)
        }).await
    }

    /// Under the lock of the scope: vectors of content that was replaced meanwhile go again, the others make their nodes
    /// ready. Returns how many do.
    async fn settle(
        &self,
        tx: &mut Transaction,
        scope: &ScopeKey,
        derived: &Derived,
        (label, change_no): (&str, i64),
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        if derived.ids.is_empty() && derived.bad_ids.is_empty() {
            return Ok(0);
        }
        let sql = "\
            WITH stale AS ( \
                DELETE FROM memory_vectors v USING UNNEST(array_fill($1::text, ARRAY[cardinality($3)]), \
                       array_fill($2::text, ARRAY[cardinality($3)]), $3::uuid[], $4::bytea[]) \
                    AS q (scope_key, model, id, digest) \
                WHERE v.scope_key = q.scope_key AND v.node_id = q.id AND v.model = q.model AND v.source_digest = q.digest \
                    AND NOT EXISTS (SELECT 1 FROM memory_nodes n \
                        WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.digest = q.digest) \
            ), failed AS ( \
                UPDATE memory_nodes n SET embedding_status = 'failed', embedding_attempts = embedding_attempts + 1, \
                    embedding_last_error = q.reason, embedding_last_attempt_at = $5, change_no = $7 \
                FROM UNNEST(array_fill($1::text, ARRAY[cardinality($8)]), $8::uuid[], $9::text[], $10::bytea[]) \
                    AS q (scope_key, id, reason, digest) \
                WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.digest = q.digest \
            ), ready AS ( \
                UPDATE memory_nodes n SET embedding_status = 'ready', embedding_model = $6, \
                    embedding_attempts = embedding_attempts + 1, embedding_last_error = NULL, \
                    embedding_last_attempt_at = $5, embedding_ready_at = $5, change_no = $7 \
                FROM UNNEST(array_fill($1::text, ARRAY[cardinality($3)]), $3::uuid[], $4::bytea[], $11::bool[]) \
                    AS q (scope_key, id, digest, fresh) \
                WHERE n.scope_key = q.scope_key AND n.id = q.id AND n.digest = q.digest RETURNING q.fresh \
            ), counted AS ( \
                UPDATE memory_scopes SET vector_count = vector_count + (SELECT COUNT(*) FROM ready WHERE fresh) \
                WHERE scope_key = $1 \
            ) \
            SELECT COUNT(*) FROM ready";
        let row = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(&self.shared.space.name)
            .bind(&derived.ids)
            .bind(&derived.digests)
            .bind(now.0)
            .bind(label)
            .bind(change_no)
            .bind(&derived.bad_ids)
            .bind(&derived.reasons)
            .bind(&derived.bad_digests)
            .bind(&derived.fresh)
            .fetch_one(&mut **tx)
            .await
            .map_err(driver)?;
        Ok(usize::try_from(get::<i64>(&row, 0)?).unwrap_or(0))
    }

    /// Those of the nodes that still have the content a vector was derived from and want it: a vector that the caller
    /// brought meanwhile stays, unless deriving was forced.
    pub(crate) async fn targets(
        tx: &mut Transaction,
        scope: &ScopeKey,
        nodes: &[&EmbeddedNode],
        space: &EmbeddingSpace,
        forced: &HashMap<NodeId, bool>,
    ) -> Result<HashMap<NodeId, Target>, StoreError> {
        let sql = "SELECT n.id, n.type, n.tier, n.memory_lane, n.recall_flags, r.state, n.owner_agent_id, n.owner_team_id, \
                   v.source_digest IS NOT DISTINCT FROM n.digest AND v.origin = 'client', v.origin IS NULL \
                   FROM UNNEST($2::uuid[], $3::bytea[]) AS q (id, digest) \
                   CROSS JOIN LATERAL (SELECT * FROM memory_nodes \
                       WHERE scope_key = $1 AND id = q.id AND digest = q.digest LIMIT 1) n \
                   LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
                       WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = q.id LIMIT 1) r ON true \
                   LEFT JOIN LATERAL (SELECT source_digest, origin FROM memory_vectors \
                       WHERE scope_key = $1 AND node_id = q.id AND model = $4 LIMIT 1) v ON true";
        let rows = sqlx::query(sql)
            .bind(scope.as_str())
            .bind(nodes.iter().map(|node| node.id.0).collect::<Vec<_>>())
            .bind(nodes.iter().map(|node| node.digest.0.to_vec()).collect::<Vec<_>>())
            .bind(&space.name)
            .fetch_all(&mut **tx)
            .await
            .map_err(driver)?;
        let mut targets = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id = NodeId(get(row, 0)?);
            let callers: bool = get(row, 8)?;
            if callers && !forced.get(&id).copied().unwrap_or(false) {
                continue;
            }
            let state: Option<&str> = get(row, 5)?;
            let gate = gate_bits(
                choice(row, 1, NodeType::parse)?,
                choice(row, 2, Tier::parse)?,
                choice(row, 3, Lane::parse)?,
                u8::try_from(get::<i16>(row, 4)?).unwrap_or(0),
                state.and_then(RuleState::parse).is_some_and(RuleState::is_live),
            );
            targets
                .insert(id, Target { fresh: get(row, 9)?, gate, owner_agent: get(row, 6)?, owner_team: get(row, 7)? });
        }
        Ok(targets)
    }
}

//! The statements that store what a group of writes changes in one scope.

use aionis_core::{clock::Timestamp, ports::store::StoreError};
use sqlx::PgConnection;

use super::rows::Rows;
use crate::postgres::error::driver;

// Statements are planned once per connection, perhaps while the tables are empty, and without knowing how long arrays are.
// Where stored rows are changed the scope comes with every key, so that a row can only be looked up by its whole key.
const APPLY: &str = "\
WITH head AS (
    UPDATE memory_scopes SET head_seq = $2, head_hash = $3, node_count = node_count + $4, edge_count = edge_count + $5,
        vector_count = vector_count
            - (SELECT COUNT(*) FROM (SELECT UNNEST($8::uuid[]) UNION SELECT UNNEST($57::uuid[])) AS q (id),
               LATERAL (SELECT 1 FROM memory_vectors
                   WHERE scope_key = $1 AND node_id = q.id AND model = $7 LIMIT 1) v)
            + cardinality($57::uuid[]),
        change_no = $6, updated_at = $9
    WHERE scope_key = $1
), commits AS (
    INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, model_version, prompt_version,
        input_sha256, request_sha256, changes, created_at)
    SELECT $1, q.*, $9 FROM UNNEST($10::bigint[], $11::uuid[], $12::bytea[], $13::bytea[], $14::text[], $15::text[],
        $16::text[], $17::text[], $18::text[], $19::bytea[], $20::text[]) q
), versions AS (
    INSERT INTO memory_node_versions (scope_key, node_id, version, from_seq, to_seq, content)
    SELECT $1, q.* FROM UNNEST($21::uuid[], $22::bigint[], $23::bigint[], $24::bigint[], $25::text[]) q
), nodes AS (
    INSERT INTO memory_nodes (scope_key, id, client_id, type, title, text_summary, slots, raw_ref, evidence_ref,
        memory_lane, producer_agent_id, owner_agent_id, owner_team_id, tier, salience, salience_at, importance,
        confidence, version, digest, content_seq, commit_seq, commit_id, created_at, updated_at, embedding_status,
        embedding_model, embedding_last_error, embedding_ready_at, embedding_pending_at, recall_flags, term_count,
        lexical_terms, name_key, change_no)
    SELECT $1, q.id, q.client_id, q.type, q.title, q.text_summary, q.slots::jsonb, q.raw_ref, q.evidence_ref, q.lane,
        q.producer, q.owner_agent, q.owner_team, q.tier, q.salience, $9, q.importance, q.confidence, q.version, q.digest,
        q.seq, q.seq, q.commit_id, $9, $9, q.status, q.model, q.last_error,
        CASE WHEN q.status = 'ready' THEN $9 END, CASE WHEN q.status = 'pending' THEN $9 END, q.flags, q.term_count,
        q.terms, q.name_key, $6
    FROM UNNEST($26::uuid[], $27::text[], $28::text[], $29::text[], $30::text[], $31::text[], $32::text[], $33::text[],
        $34::text[], $35::text[], $36::text[], $37::text[], $38::text[], $39::float8[], $40::float8[], $41::float8[],
        $42::bigint[], $43::bytea[], $44::bigint[], $45::uuid[], $46::text[], $47::text[], $48::text[], $49::int2[],
        $50::int4[], $51::text[], $52::text[])
        AS q (id, client_id, type, title, text_summary, slots, raw_ref, evidence_ref, lane, producer, owner_agent,
            owner_team, tier, salience, importance, confidence, version, digest, seq, commit_id, status, model,
            last_error, flags, term_count, terms, name_key)
    ON CONFLICT (scope_key, id) DO UPDATE SET client_id = excluded.client_id, type = excluded.type,
        title = excluded.title, text_summary = excluded.text_summary, slots = excluded.slots,
        raw_ref = excluded.raw_ref, evidence_ref = excluded.evidence_ref, memory_lane = excluded.memory_lane,
        producer_agent_id = excluded.producer_agent_id, owner_agent_id = excluded.owner_agent_id,
        owner_team_id = excluded.owner_team_id, tier = excluded.tier,
        salience_at = CASE WHEN memory_nodes.salience = excluded.salience THEN memory_nodes.salience_at
            ELSE excluded.salience_at END,
        salience = excluded.salience, importance = excluded.importance, confidence = excluded.confidence,
        version = excluded.version, digest = excluded.digest, content_seq = excluded.content_seq,
        commit_seq = excluded.commit_seq, commit_id = excluded.commit_id, updated_at = excluded.updated_at,
        embedding_status = excluded.embedding_status, embedding_model = excluded.embedding_model,
        embedding_attempts = 0, embedding_last_error = excluded.embedding_last_error,
        embedding_ready_at = excluded.embedding_ready_at, embedding_pending_at = excluded.embedding_pending_at,
        recall_flags = excluded.recall_flags, term_count = excluded.term_count, lexical_terms = excluded.lexical_terms,
        name_key = excluded.name_key, change_no = excluded.change_no
), edges AS (
    INSERT INTO memory_edges (scope_key, src_id, type, dst_id, id, weight, confidence, decay_rate, created_at,
        commit_seq, change_no)
    SELECT $1, q.src, q.type, q.dst, q.id, q.weight, q.confidence, q.decay_rate, $9, q.seq, $6
    FROM UNNEST($62::uuid[], $63::text[], $64::uuid[], $65::uuid[], $66::float8[], $67::float8[], $68::float8[],
        $69::bigint[]) AS q (src, type, dst, id, weight, confidence, decay_rate, seq)
    ON CONFLICT (scope_key, src_id, type, dst_id) DO UPDATE SET weight = excluded.weight,
        confidence = excluded.confidence, commit_seq = excluded.commit_seq, last_activated = excluded.created_at,
        change_no = excluded.change_no
), gone AS (
    DELETE FROM memory_vectors v USING UNNEST(array_fill($1::text, ARRAY[cardinality($8)]), $8::uuid[]) AS q (scope_key, id)
    WHERE v.scope_key = q.scope_key AND v.node_id = q.id AND NOT (v.model = $7 AND v.node_id = ANY($57::uuid[]))
), vectors AS (
    INSERT INTO memory_vectors (scope_key, model, node_id, dim, source_digest, origin, gate, owner_agent_id,
        owner_team_id, created_at, embedding, code)
    SELECT $1, $7, q.node_id, $53, q.digest, 'client', q.gate, q.owner_agent, q.owner_team, $9, q.embedding, q.code
    FROM UNNEST($57::uuid[], $58::bytea[], $59::int2[], $60::text[], $61::text[], $54::vector[], $77::bytea[])
        AS q (node_id, digest, gate, owner_agent, owner_team, embedding, code)
    ON CONFLICT (scope_key, model, node_id) DO UPDATE SET dim = excluded.dim, source_digest = excluded.source_digest,
        origin = excluded.origin, gate = excluded.gate, owner_agent_id = excluded.owner_agent_id,
        owner_team_id = excluded.owner_team_id, created_at = excluded.created_at, embedding = excluded.embedding,
        code = excluded.code
), gates AS (
    UPDATE memory_vectors v SET gate = q.gate
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($55)]), $55::uuid[], $56::int2[]) AS q (scope_key, node_id, gate)
    WHERE v.scope_key = q.scope_key AND v.node_id = q.node_id AND v.gate <> q.gate
), requests AS (
    INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at)
    SELECT $1, q.*, $9 FROM UNNEST($70::text[], $71::bytea[], $72::text[]) q
    ON CONFLICT (scope_key, request_key) DO UPDATE SET request_sha256 = excluded.request_sha256,
        outcome = excluded.outcome, created_at = excluded.created_at
)
INSERT INTO memory_outbox (scope_key, id, event_type, job_key, commit_seq, payload, created_at, available_at)
SELECT $1, q.id, 'embed_nodes', q.key, q.seq, q.payload, $9, $9
FROM UNNEST($73::uuid[], $74::text[], $75::bigint[], $76::text[]) AS q (id, key, seq, payload)
ON CONFLICT (scope_key, id) DO UPDATE SET published_at = NULL, failed_at = NULL, failed_reason = NULL,
    attempts = 0, claimed_by = NULL, lease_until = NULL, available_at = excluded.available_at,
    created_at = excluded.created_at";

/// What few groups need: stored nodes touched, failed ones armed again, rules.
const APPLY_RARE: &str = "\
WITH touched AS (
    UPDATE memory_nodes n SET tier = COALESCE(q.tier, n.tier),
        salience_at = CASE WHEN q.salience IS NULL THEN n.salience_at ELSE $2 END,
        salience = COALESCE(q.salience, n.salience), importance = COALESCE(q.importance, n.importance),
        confidence = COALESCE(q.confidence, n.confidence), updated_at = $2, commit_seq = q.seq, commit_id = q.commit_id,
        embedding_status = CASE WHEN q.has_vector THEN 'ready' WHEN n.id = ANY($13::uuid[]) AND n.embedding_status = 'failed'
            THEN 'pending' ELSE n.embedding_status END,
        embedding_model = CASE WHEN q.has_vector THEN q.model ELSE n.embedding_model END,
        embedding_last_error = CASE WHEN q.has_vector OR n.id = ANY($13::uuid[]) THEN NULL ELSE n.embedding_last_error END,
        embedding_ready_at = CASE WHEN q.has_vector THEN $2 ELSE n.embedding_ready_at END,
        embedding_pending_at = CASE WHEN n.id = ANY($13::uuid[]) AND n.embedding_status = 'failed' THEN $2
            ELSE n.embedding_pending_at END,
        change_no = $3
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($4)]), $4::uuid[], $5::text[], $6::float8[], $7::float8[], $8::float8[],
        $9::bigint[], $10::uuid[], $11::bool[], $12::text[])
        AS q (scope_key, id, tier, salience, importance, confidence, seq, commit_id, has_vector, model)
    WHERE n.scope_key = q.scope_key AND n.id = q.id
), rearmed AS (
    UPDATE memory_nodes n SET embedding_status = 'pending', embedding_pending_at = $2, embedding_last_error = NULL,
        change_no = $3
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($13)]), $13::uuid[]) AS q (scope_key, id)
    WHERE n.scope_key = q.scope_key AND n.id = q.id AND NOT n.id = ANY($4::uuid[])
        AND n.embedding_status || '' = 'failed'
), no_rules AS (
    DELETE FROM memory_rule_defs r USING UNNEST(array_fill($1::text, ARRAY[cardinality($14)]), $14::uuid[]) AS q (scope_key, id)
    WHERE r.scope_key = q.scope_key AND r.rule_node_id = q.id
)
INSERT INTO memory_rule_defs (scope_key, rule_node_id, state, if_json, then_json, exceptions_json, rule_scope,
    target_agent_id, target_team_id, commit_seq, created_at, updated_at)
SELECT $1, q.id, 'draft', q.if_json::jsonb, q.then_json::jsonb, q.exceptions::jsonb, q.rule_scope, q.agent, q.team, q.seq,
    $2, $2
FROM UNNEST($15::uuid[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::bigint[])
    AS q (id, if_json, then_json, exceptions, rule_scope, agent, team, seq)
ON CONFLICT (scope_key, rule_node_id) DO UPDATE SET state = 'draft', if_json = excluded.if_json,
    then_json = excluded.then_json, exceptions_json = excluded.exceptions_json, rule_scope = excluded.rule_scope,
    target_agent_id = excluded.target_agent_id, target_team_id = excluded.target_team_id,
    commit_seq = excluded.commit_seq, updated_at = excluded.updated_at";

impl Rows {
    fn has_rare(&self) -> bool {
        !(self.touches.id.is_empty()
            && self.rearmed.is_empty()
            && self.rules.node_id.is_empty()
            && self.no_rules.is_empty())
    }

    /// Stores everything.
    pub(super) async fn store(
        self,
        connection: &mut PgConnection,
        scope: &str,
        (model, dim): (&str, usize),
        change_no: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let has_rare = self.has_rare();
        let Self { commits, versions, nodes, touches, edges, vectors, gates, rules, outbox, requests, .. } = self;
        sqlx::query(APPLY)
            .persistent(true)
            .bind(scope)
            .bind(self.head_seq)
            .bind(self.head_hash)
            .bind(self.nodes_added)
            .bind(self.edges_added)
            .bind(change_no)
            .bind(model)
            .bind(self.replaced)
            .bind(now.0)
            .bind(commits.seq)
            .bind(commits.id)
            .bind(commits.parent_hash)
            .bind(commits.hash)
            .bind(commits.kind)
            .bind(commits.actor)
            .bind(commits.model_version)
            .bind(commits.prompt_version)
            .bind(commits.input_sha256)
            .bind(commits.request_sha256)
            .bind(commits.changes)
            .bind(versions.node_id)
            .bind(versions.version)
            .bind(versions.from_seq)
            .bind(versions.to_seq)
            .bind(versions.content)
            .bind(nodes.id)
            .bind(nodes.client_id)
            .bind(nodes.node_type)
            .bind(nodes.title)
            .bind(nodes.text_summary)
            .bind(nodes.slots)
            .bind(nodes.raw_ref)
            .bind(nodes.evidence_ref)
            .bind(nodes.lane)
            .bind(nodes.producer_agent_id)
            .bind(nodes.owner_agent_id)
            .bind(nodes.owner_team_id)
            .bind(nodes.tier)
            .bind(nodes.salience)
            .bind(nodes.importance)
            .bind(nodes.confidence)
            .bind(nodes.version)
            .bind(nodes.digest)
            .bind(nodes.seq)
            .bind(nodes.commit_id)
            .bind(nodes.status)
            .bind(nodes.model)
            .bind(nodes.last_error)
            .bind(nodes.flags)
            .bind(nodes.term_count)
            .bind(nodes.terms)
            .bind(nodes.name_key)
            .bind(i32::try_from(dim).unwrap_or(i32::MAX))
            .bind(vectors.embedding)
            .bind(gates.node_id)
            .bind(gates.gate)
            .bind(vectors.node_id)
            .bind(vectors.digest)
            .bind(vectors.gate)
            .bind(vectors.owner_agent_id)
            .bind(vectors.owner_team_id)
            .bind(edges.src)
            .bind(edges.edge_type)
            .bind(edges.dst)
            .bind(edges.id)
            .bind(edges.weight)
            .bind(edges.confidence)
            .bind(edges.decay_rate)
            .bind(edges.seq)
            .bind(requests.key)
            .bind(requests.digest)
            .bind(requests.outcome)
            .bind(outbox.id)
            .bind(outbox.key)
            .bind(outbox.seq)
            .bind(outbox.payload)
            .bind(vectors.code)
            .execute(&mut *connection)
            .await
            .map_err(driver)?;
        if !has_rare {
            return Ok(());
        }
        sqlx::query(APPLY_RARE)
            .bind(scope)
            .bind(now.0)
            .bind(change_no)
            .bind(touches.id)
            .bind(touches.tier)
            .bind(touches.salience)
            .bind(touches.importance)
            .bind(touches.confidence)
            .bind(touches.seq)
            .bind(touches.commit_id)
            .bind(touches.has_vector)
            .bind(touches.model)
            .bind(self.rearmed)
            .bind(self.no_rules)
            .bind(rules.node_id)
            .bind(rules.if_json)
            .bind(rules.then_json)
            .bind(rules.exceptions_json)
            .bind(rules.rule_scope)
            .bind(rules.target_agent_id)
            .bind(rules.target_team_id)
            .bind(rules.seq)
            .execute(connection)
            .await
            .map(|_| ())
            .map_err(driver)
    }
}

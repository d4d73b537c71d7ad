//! Operations other than writes: lock the scope, read, plan, store; and what they are decided by.

use aionis_core::{
    chain::changes_json,
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    model::{Lane, NodeType, RuleScope, RuleState, Tier},
    operate::{
        Decision, DecisionQuery, Effects, NewDecision, OperatedNode, OperationOutcome, OperationPlan, OperationState,
        Outcome, PreparedOperation, plan_operation,
    },
    ports::store::{OperateStore, StoreError, StoredRule},
    rules::RuleDef,
    write::NewCommit,
};
use async_trait::async_trait;
use hashbrown::HashMap;
use sqlx::{PgConnection, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    error::{driver, inconsistent, is_transient, vanished},
    purge::{beside_purge, is_purging},
    rows::{choice, digest, digest_of, get, json, json_of, parsed, signed, unsigned},
    session::{For, begin},
    write::lock_sql,
};
use crate::{
    decay::basis,
    operate::{DECISION_COLUMNS, DecisionColumns, FORGOTTEN_METADATA, FORGOTTEN_POLICY, text},
    purge::{check_state, purging},
};
use aionis_image::gate_bits;

/// How often a transaction that lost against another one is run again.
const TRIES: u32 = 4;

/// Head, nodes, decision, credits and an earlier answer in one shape: kind, id, texts, numbers, bytes.
const READ: &str = "\
SELECT 0::int2, NULL::uuid, ARRAY[state], ARRAY[head_seq, change_no], head_hash FROM memory_scopes WHERE scope_key = $1 \
UNION ALL \
SELECT 1::int2, n.id, ARRAY[n.client_id, n.type, n.tier, n.memory_lane, n.slots::text, n.activity::text, r.state, \
       n.owner_agent_id, n.owner_team_id, n.salience::text], \
       ARRAY[n.recall_flags::bigint, n.salience_at, n.last_activated, n.created_at], n.digest \
FROM UNNEST($2::uuid[]) AS q (id) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1) n \
LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
    WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = q.id LIMIT 1) r ON true \
UNION ALL \
SELECT 1::int2, n.id, ARRAY[n.client_id, n.type, n.tier, n.memory_lane, n.slots::text, n.activity::text, r.state, \
       n.owner_agent_id, n.owner_team_id, n.salience::text], \
       ARRAY[n.recall_flags::bigint, n.salience_at, n.last_activated, n.created_at], n.digest \
FROM UNNEST($3::text[]) AS q (client_id) \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND client_id = q.client_id LIMIT 1) n \
LEFT JOIN LATERAL (SELECT state FROM memory_rule_defs \
    WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = n.id LIMIT 1) r ON true \
UNION ALL \
SELECT 2::int2, f.rule_node_id, ARRAY[f.outcome], NULL, NULL \
FROM UNNEST(ARRAY[$4::uuid]) AS q (decision_id) \
CROSS JOIN LATERAL (SELECT * FROM memory_rule_feedback \
    WHERE scope_key || '' = $1 AND decision_id = q.decision_id) f \
UNION ALL \
SELECT 3::int2, NULL, ARRAY[outcome], NULL, request_sha256 FROM memory_requests WHERE scope_key = $1 AND request_key = $5";

/// Everything an operation stores, but its decision.
const APPLY: &str = "\
WITH commits AS (
    INSERT INTO memory_commits (scope_key, seq, id, parent_hash, hash, kind, actor, input_sha256, request_sha256, changes,
        created_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 WHERE $2::bigint IS NOT NULL
), heads AS (
    UPDATE memory_scopes SET head_seq = COALESCE($2, head_seq), head_hash = COALESCE($5, head_hash), change_no = $12,
        updated_at = $11
    WHERE scope_key = $1
), touched AS (
    UPDATE memory_nodes n SET tier = COALESCE(q.tier, n.tier), salience = COALESCE(q.salience, n.salience),
        salience_at = COALESCE(q.salience_at, n.salience_at),
        last_activated = CASE WHEN q.used THEN $11 ELSE n.last_activated END,
        activity = COALESCE(q.activity::jsonb, n.activity), updated_at = $11,
        commit_seq = CASE WHEN q.committed THEN $2 ELSE n.commit_seq END,
        commit_id = CASE WHEN q.committed THEN $3 ELSE n.commit_id END, change_no = $12
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($13)]), $13::uuid[], $14::text[], $15::bool[], $16::text[], $17::bool[],
            $34::float8[], $35::bigint[]) AS q (scope_key, id, tier, used, activity, committed, salience, salience_at)
    WHERE n.scope_key = q.scope_key AND n.id = q.id
), gates AS (
    UPDATE memory_vectors v SET gate = q.gate
    FROM UNNEST(array_fill($1::text, ARRAY[cardinality($18)]), $18::uuid[], $19::int2[]) AS q (scope_key, node_id, gate)
    WHERE v.scope_key = q.scope_key AND v.node_id = q.node_id AND v.gate <> q.gate
), states AS (
    UPDATE memory_rule_defs r SET state = $21, commit_seq = $2, updated_at = $11
    WHERE r.scope_key = $1 AND r.rule_node_id = $20
), feedback AS (
    INSERT INTO memory_rule_feedback (scope_key, id, rule_node_id, outcome, run_id, note, source, decision_id, commit_seq,
        created_at)
    SELECT $1, q.*, $2, $11
    FROM UNNEST($22::uuid[], $23::uuid[], $24::text[], $25::text[], $26::text[], $27::text[], $28::uuid[])
        AS q (id, rule, outcome, run_id, note, source, decision)
), counts AS (
    UPDATE memory_rule_defs r SET positive_count = r.positive_count + q.positive,
        negative_count = r.negative_count + q.negative, last_evaluated_at = $11
    FROM (SELECT rule, count(*) FILTER (WHERE outcome = 'positive') AS positive,
                 count(*) FILTER (WHERE outcome = 'negative') AS negative
          FROM UNNEST($23::uuid[], $24::text[]) AS q (rule, outcome) GROUP BY rule) q
    WHERE r.scope_key = $1 AND r.rule_node_id = q.rule
), runs AS (
    UPDATE memory_decisions SET run_id = $30 WHERE scope_key = $1 AND id = $29 AND run_id IS NULL
)
INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at)
SELECT $1, $31, $32, $33, $11 WHERE $31::text IS NOT NULL
ON CONFLICT (scope_key, request_key) DO UPDATE SET request_sha256 = excluded.request_sha256,
    outcome = excluded.outcome, created_at = excluded.created_at";

const RULES: &str = "\
SELECT r.rule_node_id, r.state, r.rule_scope, r.target_agent_id, r.target_team_id, r.if_json::text, r.then_json::text, \
       r.exceptions_json::text, r.positive_count, r.negative_count, c.id, n.memory_lane, n.owner_agent_id, n.owner_team_id, \
       n.text_summary, n.slots::text, n.digest \
FROM memory_rule_defs r \
CROSS JOIN LATERAL (SELECT * FROM memory_nodes WHERE scope_key = $1 AND id = r.rule_node_id LIMIT 1) n \
CROSS JOIN LATERAL (SELECT id FROM memory_commits WHERE scope_key = $1 AND seq = r.commit_seq LIMIT 1) c";

/// What gates are made of, beside what planning needs.
struct Filed {
    node_type: NodeType,
    tier: Tier,
    lane: Lane,
    flags: u8,
    live_rule: bool,
}

#[derive(Default)]
struct Held {
    state: OperationState,
    change_no: i64,
    filed: HashMap<NodeId, Filed>,
    earlier: Option<(aionis_core::canon::Digest, String)>,
}

async fn read(tx: &mut PgConnection, asked: &PreparedOperation) -> Result<Held, StoreError> {
    let names = asked.operation.names();
    let rows = sqlx::query(READ)
        .bind(asked.scope.as_str())
        .bind(names.ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(names.client_ids)
        .bind(asked.operation.decision())
        .bind(asked.idempotency.as_ref().map(|idempotency| &idempotency.key))
        .fetch_all(&mut *tx)
        .await
        .map_err(driver)?;
    let mut held = Held::default();
    let mut found = false;
    for row in &rows {
        let texts: Vec<Option<String>> = get(row, 2)?;
        let of = |at: usize| texts.get(at).and_then(Option::as_deref);
        let needed = |at: usize| of(at).ok_or_else(|| inconsistent("memory_nodes", "text", at, "is missing"));
        match get::<i16>(row, 0)? {
            0 => {
                check_state(needed(0)?, asked.scope.as_str())?;
                found = true;
                let numbers: Vec<i64> = get(row, 3)?;
                let head = numbers.first().and_then(|seq| u64::try_from(*seq).ok()).unwrap_or(0);
                held.state.head = (head, digest(row, 4)?);
                held.change_no = numbers.get(1).copied().unwrap_or(0);
            }
            1 => {
                let id = NodeId(get(row, 1)?);
                let numbers: Vec<Option<i64>> = get(row, 3)?;
                let number = |at: usize| numbers.get(at).copied().flatten();
                let time = |at| number(at).ok_or_else(|| inconsistent("memory_nodes", "time", id, "is missing"));
                let kind = (parsed(needed(1)?, NodeType::parse)?, parsed(needed(2)?, Tier::parse)?);
                let salience = needed(9)?;
                let node = OperatedNode {
                    node_type: kind.0,
                    digest: digest_of(get(row, 4)?)?,
                    tier: kind.1,
                    salience: salience
                        .parse()
                        .map_err(|_| inconsistent("memory_nodes", "salience", id, "is no number"))?,
                    decay: basis(kind, (time(1)?, number(2), time(3)?), of(4), of(5))
                        .map_err(|e| inconsistent("memory_nodes", "slots", id, e.to_string()))?,
                    slots: json_of(needed(4)?)?,
                    activity: of(5).map(json_of).transpose()?,
                    rule_state: of(6).map(|state| parsed(state, RuleState::parse)).transpose()?,
                    lane: parsed(needed(3)?, Lane::parse)?,
                    owner_agent_id: of(7).map(str::to_owned),
                    owner_team_id: of(8).map(str::to_owned),
                };
                held.filed.insert(
                    id,
                    Filed {
                        node_type: node.node_type,
                        tier: node.tier,
                        lane: node.lane,
                        flags: number(0).and_then(|flags| u8::try_from(flags).ok()).unwrap_or(0),
                        live_rule: node.rule_state.is_some_and(RuleState::is_live),
                    },
                );
                if let Some(client_id) = of(0) {
                    held.state.clients.insert(client_id.to_owned(), id);
                }
                held.state.nodes.insert(id, node);
            }
            2 => held.state.credited.push((NodeId(get(row, 1)?), parsed(needed(0)?, Outcome::parse)?)),
            _ => held.earlier = Some((digest(row, 4)?, needed(0)?.to_owned())),
        }
    }
    if !found {
        return Err(vanished(asked.scope.as_str()));
    }
    if let Some(id) = asked.operation.decision() {
        held.state.decision = decision(tx, &asked.scope, id).await?;
    }
    Ok(held)
}

async fn decision(tx: &mut PgConnection, scope: &ScopeKey, id: Uuid) -> Result<Option<Decision>, StoreError> {
    let sql = format!("SELECT {DECISION_COLUMNS} FROM memory_decisions WHERE scope_key = $1 AND id = $2");
    let row =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(scope.as_str()).bind(id).fetch_optional(tx).await.map_err(driver)?;
    row.as_ref().map(decision_of).transpose()
}

fn decision_of(row: &PgRow) -> Result<Decision, StoreError> {
    DecisionColumns {
        id: get(row, 0)?,
        run_id: get(row, 1)?,
        selected_tool: get(row, 2)?,
        candidates: get(row, 3)?,
        context_sha256: get(row, 4)?,
        policy_sha256: get(row, 5)?,
        policy: get(row, 6)?,
        source_rules: get(row, 7)?,
        tool_rules: get(row, 8)?,
        metadata: get(row, 9)?,
        created_at: get(row, 10)?,
        commit_seq: get(row, 11)?,
        rules: Vec::new(),
    }
    .read()
}

/// Stores a decision; false if one with its id is stored already. One that was made by a rule which was forgotten since is
/// stored as the forgetting would have left it: which of the two came first is chance, and the caller has done no wrong.
///
/// The rules are held until the decision is stored, in the order of their ids. That keeps off nobody but who deletes them:
/// a forgetting holds them too before it looks for decisions, so that it waits for this one and finds it.
async fn put_decision(tx: &mut PgConnection, scope: &ScopeKey, decision: DecisionColumns) -> Result<bool, StoreError> {
    let sql = format!(
        "WITH held AS (SELECT n.id FROM UNNEST($14::uuid[]) AS q (id) CROSS JOIN LATERAL \
                  (SELECT id FROM memory_nodes WHERE scope_key = $1 AND id = q.id LIMIT 1 FOR KEY SHARE) n), \
              sound AS (SELECT (SELECT count(*) FROM held) = cardinality($14) AS all_stored) \
         INSERT INTO memory_decisions (scope_key, {DECISION_COLUMNS}) \
         SELECT $1, $2, $3, $4, $5, $6, $7, CASE WHEN all_stored THEN $8 ELSE $15 END, $9, $10, \
             CASE WHEN all_stored THEN $11 ELSE $16 END, $12, $13 FROM sound \
         ON CONFLICT (scope_key, id) DO NOTHING"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(scope.as_str())
        .bind(decision.id)
        .bind(decision.run_id)
        .bind(decision.selected_tool)
        .bind(decision.candidates)
        .bind(decision.context_sha256)
        .bind(decision.policy_sha256)
        .bind(decision.policy)
        .bind(decision.source_rules)
        .bind(decision.tool_rules)
        .bind(decision.metadata)
        .bind(decision.created_at)
        .bind(decision.commit_seq)
        .bind(decision.rules)
        .bind(FORGOTTEN_POLICY)
        .bind(FORGOTTEN_METADATA)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() > 0)
        .map_err(driver)
}

/// Gates of vectors after the effects: of nodes whose tier moves, and of the rule that gets another state.
fn gates(effects: &Effects, filed: &HashMap<NodeId, Filed>) -> (Vec<Uuid>, Vec<i16>) {
    let state = effects.rule_state.map(|(id, state)| (id, None, Some(state.is_live())));
    let moved = effects.touches.iter().filter_map(|touch| touch.tier.map(|tier| (touch.id, Some(tier), None)));
    state
        .into_iter()
        .chain(moved)
        .filter_map(|(id, tier, live)| {
            let filed = filed.get(&id)?;
            let tier = tier.unwrap_or(filed.tier);
            let live = live.unwrap_or(filed.live_rule);
            Some((id.0, i16::from(gate_bits(filed.node_type, tier, filed.lane, filed.flags, live))))
        })
        .unzip()
}

async fn store(
    tx: &mut PgConnection,
    asked: &PreparedOperation,
    (commit, effects, outcome): (&NewCommit, Effects, &OperationOutcome),
    held: &Held,
    now: Timestamp,
) -> Result<(), StoreError> {
    let header = &commit.header;
    let (gate_ids, gates) = gates(&effects, &held.filed);
    let touches = &effects.touches;
    let feedback = &effects.feedback;
    let (of_run, run) = effects.decision_run.unzip();
    let remembered = asked.idempotency.as_ref().map(|key| (key.key.clone(), asked.request_digest.0.to_vec()));
    let (key, key_digest) = remembered.unzip();
    sqlx::query(APPLY)
        .bind(asked.scope.as_str())
        .bind(signed(header.seq))
        .bind(commit.id.0)
        .bind(header.parent_hash.0.to_vec())
        .bind(commit.hash.0.to_vec())
        .bind(&header.kind)
        .bind(&header.actor)
        .bind(&header.input_sha256)
        .bind(header.request_sha256.0.to_vec())
        .bind(changes_json(&commit.changes))
        .bind(now.0)
        .bind(held.change_no + 1)
        .bind(touches.iter().map(|touch| touch.id.0).collect::<Vec<_>>())
        .bind(touches.iter().map(|touch| touch.tier.map(Tier::as_str)).collect::<Vec<_>>())
        .bind(touches.iter().map(|touch| touch.used).collect::<Vec<_>>())
        .bind(touches.iter().map(|touch| touch.activity.as_ref().map(ToString::to_string)).collect::<Vec<_>>())
        .bind(touches.iter().map(|touch| touch.committed).collect::<Vec<_>>())
        .bind(gate_ids)
        .bind(gates)
        .bind(effects.rule_state.map(|(id, _)| id.0))
        .bind(effects.rule_state.map(|(_, state)| state.as_str()))
        .bind(feedback.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.rule.0).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.run_id.clone()).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.note.clone()).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.source).collect::<Vec<_>>())
        .bind(feedback.iter().map(|row| row.decision).collect::<Vec<_>>())
        .bind(of_run)
        .bind(run)
        .bind(key)
        .bind(key_digest)
        .bind(text(outcome)?)
        .bind(touches.iter().map(|touch| touch.salience.map(|(salience, _)| salience)).collect::<Vec<_>>())
        .bind(touches.iter().map(|touch| touch.salience.map(|(_, at)| at.0)).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await
        .map_err(driver)?;
    if let Some(decision) = effects.decision {
        let columns = DecisionColumns::of(decision, now, Some(signed(header.seq)))?;
        if !put_decision(tx, &asked.scope, columns).await? {
            return Err(StoreError::Driver("a decision made from feedback has the id of another".to_owned()));
        }
    }
    Ok(())
}

async fn operate(shared: &Shared, asked: &PreparedOperation) -> Result<OperationOutcome, StoreError> {
    let now = shared.clock.now();
    let lock = lock_sql(std::iter::once(&asked.scope), now);
    let tenant = For::Tenant(asked.scope.tenant());
    let mut tx = begin(&shared.pool, tenant, shared.options.statement_timeout, &lock).await?;
    let held = read(&mut tx, asked).await?;
    if let (Some(key), Some((asked_before, outcome))) = (&asked.idempotency, &held.earlier)
        && key.answers(*asked_before, asked.request_digest)?
    {
        let mut earlier: OperationOutcome = serde_json::from_str(outcome)
            .map_err(|e| inconsistent("memory_requests", "outcome", &key.key, e.to_string()))?;
        earlier.replayed = true;
        tx.rollback().await.map_err(driver)?;
        return Ok(earlier);
    }
    let OperationPlan { commit, effects, outcome } = plan_operation(asked, &held.state, now)?;
    let Some(commit) = commit else {
        tx.rollback().await.map_err(driver)?;
        return Ok(outcome);
    };
    store(&mut tx, asked, (&commit, effects, &outcome), &held, now).await?;
    tx.commit().await.map_err(driver)?;
    shared.images.note(&asked.scope, held.change_no + 1);
    shared.wake.committed(false);
    Ok(outcome)
}

fn rule_of(row: &PgRow) -> Result<StoredRule, StoreError> {
    let slots = json(row, 15)?;
    let def = RuleDef {
        rule_node_id: NodeId(get(row, 0)?),
        state: choice(row, 1, RuleState::parse)?,
        rule_scope: choice(row, 2, RuleScope::parse)?,
        target_agent_id: get(row, 3)?,
        target_team_id: get(row, 4)?,
        if_json: json(row, 5)?,
        then_json: json(row, 6)?,
        exceptions_json: json(row, 7)?,
        positive_count: unsigned(row, 8)?,
        negative_count: unsigned(row, 9)?,
        commit_id: CommitId(get(row, 10)?),
        lane: choice(row, 11, Lane::parse)?,
        owner_agent_id: get(row, 12)?,
        owner_team_id: get(row, 13)?,
        summary: get(row, 14)?,
        priority: aionis_core::rules::priority(&slots),
        weight: aionis_core::rules::weight(&slots),
    };
    Ok(StoredRule { def, digest: digest(row, 16)? })
}

#[async_trait]
impl OperateStore for PostgresStore {
    async fn operate(&self, operation: PreparedOperation) -> Result<OperationOutcome, StoreError> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.shared.patience.bounded(operate(&self.shared, &operation)).await {
                Err(error) if is_transient(&error) && tried < TRIES => {
                    tokio::time::sleep(std::time::Duration::from_millis(20 << tried)).await;
                }
                done => return done,
            }
        }
    }

    async fn rule(&self, scope: &ScopeKey, id: NodeId) -> Result<Option<StoredRule>, StoreError> {
        let sql = format!("{RULES} WHERE r.scope_key = $1 AND r.rule_node_id = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(scope.as_str()).bind(id.0);
        self.page(scope, query).await?.first().map(rule_of).transpose()
    }

    async fn live_rules(&self, scope: &ScopeKey) -> Result<Vec<RuleDef>, StoreError> {
        let sql = format!(
            "{RULES} WHERE r.scope_no = hashtextextended($1, 0) AND r.scope_key || '' = $1 \
             AND r.state IN ('active', 'shadow') ORDER BY r.rule_node_id"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(scope.as_str());
        self.page(scope, query).await?.iter().map(|row| rule_of(row).map(|rule| rule.def)).collect()
    }

    async fn put_decision(&self, scope: &ScopeKey, decision: NewDecision) -> Result<Option<Timestamp>, StoreError> {
        let shared = &self.shared;
        shared
            .patience
            .bounded(async {
                let now = shared.clock.now();
                let tenant = For::Tenant(scope.tenant());
                let beside = beside_purge(scope);
                let mut tx = begin(&shared.pool, tenant, shared.options.statement_timeout, &beside).await?;
                if is_purging(&mut tx, scope).await? {
                    return Err(purging(scope.as_str()));
                }
                let is_new = put_decision(&mut tx, scope, DecisionColumns::of(decision, now, None)?).await?;
                tx.commit().await.map_err(driver)?;
                Ok(is_new.then_some(now))
            })
            .await
    }

    async fn decision(&self, scope: &ScopeKey, id: Uuid) -> Result<Option<Decision>, StoreError> {
        let sql = format!("SELECT {DECISION_COLUMNS} FROM memory_decisions WHERE scope_key = $1 AND id = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(scope.as_str()).bind(id);
        self.page(scope, query).await?.first().map(decision_of).transpose()
    }

    async fn find_decision(&self, scope: &ScopeKey, query: &DecisionQuery) -> Result<Option<Decision>, StoreError> {
        // A run's own decision first, credited or not; else one without a run that nobody has reported on.
        let sql = format!(
            "SELECT {DECISION_COLUMNS} FROM memory_decisions d \
             WHERE scope_key = $1 AND context_sha256 = $2 AND selected_tool = $3 AND candidates = $4 \
               AND (run_id = $5 OR (run_id IS NULL AND created_at > $6 AND (SELECT 1 FROM memory_rule_feedback f \
                    WHERE f.scope_key || '' = $1 AND f.decision_id = d.id LIMIT 1) IS NULL)) \
             ORDER BY run_id IS NULL, created_at DESC, id LIMIT 1"
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(scope.as_str())
            .bind(&query.context_sha256)
            .bind(&query.selected_tool)
            .bind(text(&query.candidates)?)
            .bind(&query.run_id)
            .bind(query.newer_than.0);
        self.page(scope, found).await?.first().map(decision_of).transpose()
    }
}

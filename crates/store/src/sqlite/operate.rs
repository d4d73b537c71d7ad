//! Operations other than writes, inside the writing thread's transaction; and what they are decided by.

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    model::{Lane, NodeType, RuleScope, RuleState, Tier},
    operate::{
        Decision, DecisionQuery, Effects, FeedbackRow, NewDecision, NodeTouch, OperatedNode, OperationOutcome,
        OperationPlan, OperationState, Outcome, PreparedOperation, plan_operation,
    },
    ports::store::{OperateStore, StoreError, StoredRule},
    rules::RuleDef,
    write::NewCommit,
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use uuid::Uuid;

use super::{
    SqliteStore,
    error::driver,
    purge::is_purging,
    rows::{blob, choice, decay_basis, digest, json, signed, unreadable, unsigned, uuid},
    write::{answered, append, remember},
};
use crate::{
    operate::{DECISION_COLUMNS, DecisionColumns, FORGOTTEN_METADATA, FORGOTTEN_POLICY, text},
    purge::{check_state, purging},
};
use aionis_image::Delta;

const RULES: &str = "\
SELECT r.rule_node_id, r.state, r.rule_scope, r.target_agent_id, r.target_team_id, r.if_json, r.then_json, \
       r.exceptions_json, r.positive_count, r.negative_count, c.id, n.memory_lane, n.owner_agent_id, n.owner_team_id, \
       n.text_summary, n.slots, n.digest \
FROM memory_rule_defs r \
JOIN memory_nodes n ON n.scope_key = r.scope_key AND n.id = r.rule_node_id \
JOIN memory_commits c ON c.scope_key = r.scope_key AND c.seq = r.commit_seq";

/// Whether the scope is there for readers.
const IS_THERE: &str = "NOT EXISTS (SELECT 1 FROM memory_scopes WHERE scope_key = ?1 AND state = 'purging')";

fn run(connection: &Connection, sql: &str, values: impl Params) -> Result<usize, StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(driver)
}

struct Operating<'a> {
    connection: &'a Connection,
    deltas: &'a mut Vec<Delta>,
    asked: &'a PreparedOperation,
    now: Timestamp,
}

impl Operating<'_> {
    fn operate(mut self) -> Result<OperationOutcome, StoreError> {
        let (scope, key) = (self.asked.scope.as_str(), self.asked.idempotency.as_ref());
        let digest = self.asked.request_digest;
        if let Some(earlier) = answered::<OperationOutcome>(self.connection, scope, key, digest)? {
            return Ok(OperationOutcome { replayed: true, ..earlier });
        }
        let state = self.state()?;
        let OperationPlan { commit, effects, outcome } = plan_operation(self.asked, &state, self.now)?;
        let Some(commit) = commit else { return Ok(outcome) };
        append(self.connection, self.deltas, &commit, (0, 0), self.now)?;
        self.store(&commit, effects)?;
        remember(self.connection, scope, key, digest, (&outcome, self.now))?;
        Ok(outcome)
    }

    fn state(&self) -> Result<OperationState, StoreError> {
        let scope = self.asked.scope.as_str();
        let mut state = OperationState::default();
        let head: Option<(u64, _, String)> = self
            .connection
            .prepare_cached("SELECT head_seq, head_hash, state FROM memory_scopes WHERE scope_key = ?1")
            .and_then(|mut statement| {
                statement.query_row([scope], |row| Ok((unsigned(row, 0)?, digest(row, 1)?, row.get(2)?))).optional()
            })
            .map_err(|e| unreadable("memory_scopes", scope, e))?;
        if let Some((seq, hash, mark)) = head {
            check_state(&mark, scope)?;
            state.head = (seq, hash);
        }
        let names = self.asked.operation.names();
        for id in names.ids {
            if let Some((_, node)) = self.node("n.id = ?2", blob(id.0))? {
                state.nodes.insert(id, node);
            }
        }
        for client_id in names.client_ids {
            if let Some((id, node)) = self.node("n.client_id = ?2", &client_id)? {
                state.clients.insert(client_id, id);
                state.nodes.insert(id, node);
            }
        }
        if let Some(id) = self.asked.operation.decision() {
            state.decision = decision(self.connection, scope, id)?;
            let sql =
                "SELECT rule_node_id, outcome FROM memory_rule_feedback WHERE scope_key = ?1 AND decision_id = ?2";
            state.credited = self
                .connection
                .prepare_cached(sql)
                .and_then(|mut statement| {
                    statement
                        .query_map((scope, blob(id)), |row| {
                            Ok((NodeId(uuid(row, 0)?), choice(row, 1, Outcome::parse)?))
                        })
                        .and_then(Iterator::collect)
                })
                .map_err(|e| unreadable("memory_rule_feedback", id, e))?;
        }
        Ok(state)
    }

    fn node(&self, which: &str, key: impl rusqlite::ToSql) -> Result<Option<(NodeId, OperatedNode)>, StoreError> {
        let scope = self.asked.scope.as_str();
        let sql = format!(
            "SELECT n.id, n.type, n.digest, n.tier, n.slots, n.activity, r.state, n.memory_lane, \
             n.owner_agent_id, n.owner_team_id, n.salience, n.salience_at, n.last_activated, n.created_at, n.slots, \
             n.activity FROM memory_nodes n \
             LEFT JOIN memory_rule_defs r ON r.scope_key = n.scope_key AND r.rule_node_id = n.id \
             WHERE n.scope_key = ?1 AND {which}"
        );
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement
                    .query_row(params![scope, key], |row| {
                        let activity: Option<String> = row.get(5)?;
                        let rule_state: Option<String> = row.get(6)?;
                        let (node_type, tier) = (choice(row, 1, NodeType::parse)?, choice(row, 3, Tier::parse)?);
                        Ok((
                            NodeId(uuid(row, 0)?),
                            OperatedNode {
                                node_type,
                                digest: digest(row, 2)?,
                                tier,
                                salience: row.get(10)?,
                                decay: decay_basis(row, (node_type, tier), 11)?,
                                slots: json(row, 4)?,
                                activity: activity.map(|_| json(row, 5)).transpose()?,
                                rule_state: rule_state.as_deref().and_then(RuleState::parse),
                                lane: choice(row, 7, Lane::parse)?,
                                owner_agent_id: row.get(8)?,
                                owner_team_id: row.get(9)?,
                            },
                        ))
                    })
                    .optional()
            })
            .map_err(|e| unreadable("memory_nodes", "one", e))
    }

    fn store(&mut self, commit: &NewCommit, effects: Effects) -> Result<(), StoreError> {
        let scope = self.asked.scope.as_str();
        let seq = signed(commit.header.seq);
        if let Some((id, state)) = effects.rule_state {
            let sql = "UPDATE memory_rule_defs SET state = ?3, commit_seq = ?4, updated_at = ?5 \
                       WHERE scope_key = ?1 AND rule_node_id = ?2";
            run(self.connection, sql, params![scope, blob(id.0), state.as_str(), seq, self.now.0])?;
            self.deltas.push(Delta::Rule { scope: scope.to_owned(), id, live: state.is_live() });
        }
        for touch in effects.touches {
            self.touch(&touch, commit)?;
        }
        for row in &effects.feedback {
            self.feedback(row, seq)?;
        }
        if let Some(new) = effects.decision
            && !put_decision(self.connection, scope, DecisionColumns::of(new, self.now, Some(seq))?)?
        {
            return Err(StoreError::Driver("a decision made from feedback has the id of another".to_owned()));
        }
        if let Some((id, run_id)) = effects.decision_run {
            let sql = "UPDATE memory_decisions SET run_id = ?3 WHERE scope_key = ?1 AND id = ?2 AND run_id IS NULL";
            run(self.connection, sql, params![scope, blob(id), run_id])?;
        }
        Ok(())
    }

    fn touch(&mut self, touch: &NodeTouch, commit: &NewCommit) -> Result<(), StoreError> {
        let scope = self.asked.scope.as_str();
        let sql = "UPDATE memory_nodes SET tier = COALESCE(?3, tier), \
                   last_activated = CASE WHEN ?4 THEN ?5 ELSE last_activated END, activity = COALESCE(?6, activity), \
                   updated_at = ?5, commit_seq = CASE WHEN ?7 THEN ?8 ELSE commit_seq END, \
                   commit_id = CASE WHEN ?7 THEN ?9 ELSE commit_id END, salience = COALESCE(?10, salience), \
                   salience_at = COALESCE(?11, salience_at) WHERE scope_key = ?1 AND id = ?2 \
                   RETURNING tier, salience, confidence, type, salience_at, last_activated, created_at, slots, activity";
        let values = params![
            scope,
            blob(touch.id.0),
            touch.tier.map(Tier::as_str),
            touch.used,
            self.now.0,
            touch.activity.as_ref().map(ToString::to_string),
            touch.committed,
            signed(commit.header.seq),
            blob(commit.id.0),
            touch.salience.map(|(salience, _)| salience),
            touch.salience.map(|(_, at)| at.0),
        ];
        let (tier, salience, confidence, decay) = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| {
                statement.query_row(values, |row| {
                    let (tier, node_type) = (choice(row, 0, Tier::parse)?, choice(row, 3, NodeType::parse)?);
                    Ok((tier, row.get(1)?, row.get(2)?, decay_basis(row, (node_type, tier), 4)?))
                })
            })
            .map_err(driver)?;
        self.deltas.push(Delta::Vitals { scope: scope.to_owned(), id: touch.id, tier, salience, decay, confidence });
        Ok(())
    }

    fn feedback(&self, row: &FeedbackRow, seq: i64) -> Result<(), StoreError> {
        let scope = self.asked.scope.as_str();
        let sql = "INSERT INTO memory_rule_feedback (scope_key, id, rule_node_id, outcome, run_id, note, source, decision_id, \
                   commit_seq, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let values = params![
            scope,
            blob(row.id),
            blob(row.rule.0),
            row.outcome.as_str(),
            row.run_id,
            row.note,
            row.source,
            row.decision.map(blob),
            seq,
            self.now.0,
        ];
        run(self.connection, sql, values)?;
        let (positive, negative) = row.outcome.counts();
        let sql = "UPDATE memory_rule_defs SET positive_count = positive_count + ?3, negative_count = negative_count + ?4, \
                   last_evaluated_at = ?5 WHERE scope_key = ?1 AND rule_node_id = ?2";
        run(self.connection, sql, params![scope, blob(row.rule.0), positive, negative, self.now.0]).map(|_| ())
    }
}

/// Stores a decision; false if one with its id is stored already. One that was made by a rule which was forgotten since is
/// stored as the forgetting would have left it: which of the two came first is chance, and the caller has done no wrong.
fn put_decision(connection: &Connection, scope: &str, mut decision: DecisionColumns) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM memory_nodes WHERE scope_key = ?1 AND id = ?2";
    let mut is_stored = connection.prepare_cached(sql).map_err(driver)?;
    for rule in &decision.rules {
        if !is_stored.exists((scope, blob(*rule))).map_err(driver)? {
            (decision.policy, decision.metadata) = (FORGOTTEN_POLICY.to_owned(), FORGOTTEN_METADATA.to_owned());
            break;
        }
    }
    drop(is_stored);
    let sql = format!(
        "INSERT INTO memory_decisions (scope_key, {DECISION_COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (scope_key, id) DO NOTHING"
    );
    let values = params![
        scope,
        blob(decision.id),
        decision.run_id,
        decision.selected_tool,
        decision.candidates,
        decision.context_sha256,
        decision.policy_sha256,
        decision.policy,
        decision.source_rules,
        decision.tool_rules,
        decision.metadata,
        decision.created_at,
        decision.commit_seq,
    ];
    run(connection, &sql, values).map(|stored| stored > 0)
}

fn decision(connection: &Connection, scope: &str, id: Uuid) -> Result<Option<Decision>, StoreError> {
    one_decision(connection, ("scope_key = ?1 AND id = ?2", ""), (scope, blob(id)))
}

fn one_decision(
    connection: &Connection,
    (which, order): (&str, &str),
    key: impl Params,
) -> Result<Option<Decision>, StoreError> {
    let sql = format!("SELECT {DECISION_COLUMNS} FROM memory_decisions d WHERE {which} AND {IS_THERE} {order}");
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_row(key, decision_columns).optional())
        .map_err(|e| unreadable("memory_decisions", "one", e))?
        .map(DecisionColumns::read)
        .transpose()
}

fn decision_columns(row: &Row<'_>) -> rusqlite::Result<DecisionColumns> {
    Ok(DecisionColumns {
        id: uuid(row, 0)?,
        run_id: row.get(1)?,
        selected_tool: row.get(2)?,
        candidates: row.get(3)?,
        context_sha256: row.get(4)?,
        policy_sha256: row.get(5)?,
        policy: row.get(6)?,
        source_rules: row.get(7)?,
        tool_rules: row.get(8)?,
        metadata: row.get(9)?,
        created_at: row.get(10)?,
        commit_seq: row.get(11)?,
        rules: Vec::new(),
    })
}

fn rule_of(row: &Row<'_>) -> rusqlite::Result<StoredRule> {
    let slots = json(row, 15)?;
    let def = RuleDef {
        rule_node_id: NodeId(uuid(row, 0)?),
        state: choice(row, 1, RuleState::parse)?,
        rule_scope: choice(row, 2, RuleScope::parse)?,
        target_agent_id: row.get(3)?,
        target_team_id: row.get(4)?,
        if_json: json(row, 5)?,
        then_json: json(row, 6)?,
        exceptions_json: json(row, 7)?,
        positive_count: unsigned(row, 8)?,
        negative_count: unsigned(row, 9)?,
        commit_id: CommitId(uuid(row, 10)?),
        lane: choice(row, 11, Lane::parse)?,
        owner_agent_id: row.get(12)?,
        owner_team_id: row.get(13)?,
        summary: row.get(14)?,
        priority: aionis_core::rules::priority(&slots),
        weight: aionis_core::rules::weight(&slots),
    };
    Ok(StoredRule { def, digest: digest(row, 16)? })
}

#[async_trait]
impl OperateStore for SqliteStore {
    async fn operate(&self, operation: PreparedOperation) -> Result<OperationOutcome, StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        self.writer
            .submit(move |connection, deltas| {
                Operating { connection, deltas, asked: &operation, now: shared.clock.now() }.operate()
            })
            .await
    }

    async fn rule(&self, scope: &ScopeKey, id: NodeId) -> Result<Option<StoredRule>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let sql = format!("{RULES} WHERE r.scope_key = ?1 AND r.rule_node_id = ?2 AND {IS_THERE}");
                connection
                    .prepare_cached(&sql)
                    .and_then(|mut statement| statement.query_row((scope.as_str(), blob(id.0)), rule_of).optional())
                    .map_err(|e| unreadable("memory_rule_defs", id, e))
            })
            .await
    }

    async fn live_rules(&self, scope: &ScopeKey) -> Result<Vec<RuleDef>, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let sql = format!(
                    "{RULES} WHERE r.scope_key = ?1 AND r.state IN ('active', 'shadow') AND {IS_THERE} ORDER BY r.rule_node_id"
                );
                connection
                    .prepare_cached(&sql)
                    .and_then(|mut statement| {
                        statement
                            .query_map([scope.as_str()], |row| rule_of(row).map(|rule| rule.def))
                            .and_then(Iterator::collect)
                    })
                    .map_err(|e| unreadable("memory_rule_defs", scope.as_str(), e))
            })
            .await
    }

    async fn put_decision(&self, scope: &ScopeKey, new: NewDecision) -> Result<Option<Timestamp>, StoreError> {
        let (scope, now) = (scope.clone(), self.shared.clock.now());
        let columns = DecisionColumns::of(new, now, None)?;
        self.writer
            .submit(move |connection, _| {
                if is_purging(connection, scope.as_str())? {
                    return Err(purging(scope.as_str()));
                }
                put_decision(connection, scope.as_str(), columns).map(|is_new| is_new.then_some(now))
            })
            .await
    }

    async fn decision(&self, scope: &ScopeKey, id: Uuid) -> Result<Option<Decision>, StoreError> {
        let scope = scope.clone();
        self.readers.run(move |connection| decision(connection, scope.as_str(), id)).await
    }

    async fn find_decision(&self, scope: &ScopeKey, query: &DecisionQuery) -> Result<Option<Decision>, StoreError> {
        let (scope, query) = (scope.clone(), query.clone());
        self.readers
            .run(move |connection| {
                // A run's own decision first, credited or not; else one without a run that nobody has reported on.
                let which = "scope_key = ?1 AND context_sha256 = ?2 AND selected_tool = ?3 AND candidates = ?4 \
                     AND (run_id = ?5 OR (run_id IS NULL AND created_at > ?6 AND NOT EXISTS \
                          (SELECT 1 FROM memory_rule_feedback f WHERE f.scope_key = ?1 AND f.decision_id = d.id)))";
                let order = "ORDER BY run_id IS NULL, created_at DESC, id LIMIT 1";
                let candidates = text(&query.candidates)?;
                let key = params![
                    scope.as_str(),
                    query.context_sha256,
                    query.selected_tool,
                    candidates,
                    query.run_id,
                    query.newer_than.0
                ];
                one_decision(connection, (which, order), key)
            })
            .await
    }
}

//! Counting for reports.

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    jobs::counts::{
        Activity, FeedbackCounts, LaneCounts, QualityCounts, RecallCounts, RuleCounts, RuleSignalPage, RuleSignals,
        ScopeActivity, Votes,
    },
    model::RuleState,
    ports::store::{ReportStore, RuleSignalQuery, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::{
    SqliteStore,
    error::driver,
    rows::{choice, optional_uuid, signed, unreadable, unsigned, uuid},
};

const ACTIVITY: &str = "\
SELECT f.*, r.*, a.*, n.* FROM \
( \
    SELECT count(*), count(f.run_id), count(DISTINCT f.run_id), \
        count(*) FILTER (WHERE f.outcome = 'positive'), count(*) FILTER (WHERE f.outcome = 'negative'), \
        count(*) FILTER (WHERE f.outcome = 'neutral'), count(*) FILTER (WHERE f.source = 'tools_feedback'), \
        count(f.decision_id) FILTER (WHERE f.source = 'tools_feedback'), \
        count(*) FILTER (WHERE f.source = 'tools_feedback' AND EXISTS ( \
            SELECT 1 FROM memory_decisions d WHERE d.scope_key = ?1 AND d.id = f.decision_id)) \
    FROM memory_rule_feedback f WHERE f.scope_key = ?1 AND f.created_at >= ?2 \
) f, \
( \
    SELECT count(*) FILTER (WHERE r.state = 'draft'), count(*) FILTER (WHERE r.state = 'shadow'), \
        count(*) FILTER (WHERE r.state = 'active'), count(*) FILTER (WHERE r.state = 'disabled'), \
        count(*) FILTER (WHERE r.state = 'active' AND EXISTS (SELECT 1 FROM memory_rule_feedback f \
            WHERE f.scope_key = ?1 AND f.rule_node_id = r.rule_node_id AND f.created_at >= ?2)) \
    FROM memory_rule_defs r WHERE r.scope_key = ?1 \
) r, \
( \
    SELECT coalesce(sum(times), 0), coalesce(sum(times) FILTER (WHERE known), 0), count(*) FILTER (WHERE known) \
    FROM (SELECT count(*) AS times, consumer_agent_id IS NOT NULL OR consumer_team_id IS NOT NULL AS known \
        FROM memory_recall_audit WHERE scope_key = ?1 AND created_at >= ?2 \
        GROUP BY consumer_agent_id, consumer_team_id) \
) a, \
( \
    SELECT count(*) FILTER (WHERE memory_lane = 'private'), \
        count(*) FILTER (WHERE memory_lane = 'private' AND (owner_agent_id IS NOT NULL OR owner_team_id IS NOT NULL)), \
        count(*) FILTER (WHERE memory_lane = 'shared') \
    FROM memory_nodes WHERE scope_key = ?1 \
) n";

/// A run has one vote: what it said is gathered first, then votes are counted.
const SIGNALS: &str = "\
WITH asked AS ( \
    SELECT * FROM memory_rule_defs WHERE scope_key = ?1 AND state IN (SELECT value FROM json_each(?2)) \
    ORDER BY updated_at DESC, rule_node_id LIMIT ?4 \
), said AS ( \
    SELECT f.rule_node_id, f.run_id, max(f.outcome = 'positive') AS good, max(f.outcome = 'negative') AS bad, \
        max(f.created_at >= ?3) AS new, max(f.outcome = 'positive' AND f.created_at >= ?3) AS new_good, \
        max(f.outcome = 'negative' AND f.created_at >= ?3) AS new_bad, max(f.created_at) AS last_at, \
        max(f.created_at) FILTER (WHERE f.outcome = 'positive') AS last_good_at \
    FROM asked r CROSS JOIN memory_rule_feedback f ON f.scope_key = ?1 AND f.rule_node_id = r.rule_node_id \
    GROUP BY f.rule_node_id, f.run_id, CASE WHEN f.run_id IS NULL THEN f.id END \
) \
SELECT r.rule_node_id, r.state, r.positive_count, r.negative_count, \
    (SELECT c.id FROM memory_commits c WHERE c.scope_key = ?1 AND c.seq = r.commit_seq), \
    r.created_at, r.updated_at, r.last_evaluated_at, \
    count(*) FILTER (WHERE v.new AND v.new_good AND NOT v.new_bad), count(*) FILTER (WHERE v.new_bad), \
    count(*) FILTER (WHERE v.new AND NOT v.new_good AND NOT v.new_bad), count(v.run_id) FILTER (WHERE v.new), \
    count(v.run_id) FILTER (WHERE v.new_good AND NOT v.new_bad), count(v.run_id) FILTER (WHERE v.new_bad), \
    count(*) FILTER (WHERE v.good AND NOT v.bad), count(*) FILTER (WHERE v.bad), \
    count(*) FILTER (WHERE NOT v.good AND NOT v.bad), count(v.run_id), \
    count(v.run_id) FILTER (WHERE v.good AND NOT v.bad), count(v.run_id) FILTER (WHERE v.bad), \
    max(v.last_at), max(v.last_good_at) \
FROM asked r LEFT JOIN said v ON v.rule_node_id = r.rule_node_id \
GROUP BY r.rule_node_id ORDER BY r.updated_at DESC, r.rule_node_id";

const RULES: &str = "SELECT count(*) FROM memory_rule_defs \
                     WHERE scope_key = ?1 AND state IN (SELECT value FROM json_each(?2))";

const QUALITY: &str = "\
SELECT n.*, e.*, p.*, o.* FROM \
( \
    SELECT count(*), count(*) FILTER (WHERE tier = 'hot'), count(*) FILTER (WHERE tier = 'warm'), \
        count(*) FILTER (WHERE tier = 'cold'), count(*) FILTER (WHERE tier = 'archive'), \
        count(*) FILTER (WHERE embedding_status = 'ready'), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity')), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity') AND alias), \
        count(*) FILTER (WHERE coalesce(last_activated, created_at) >= ?2), \
        count(*) FILTER (WHERE summary), \
        coalesce(sum(CASE WHEN summary AND json_type(slots, '$.citations') = 'array' \
            THEN json_array_length(slots, '$.citations') ELSE 0 END), 0), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity', 'procedure', 'self_model')), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity', 'procedure', 'self_model') AND alias \
            AND updated_at >= ?2) \
    FROM (SELECT *, \
            nullif(coalesce(json_extract(activity, '$.alias_of'), json_extract(slots, '$.alias_of')), '') \
                IS NOT NULL AS alias, \
            type = 'concept' AND coalesce(json_extract(slots, '$.summary_kind') = 'compression_rollup', 0) AS summary \
        FROM memory_nodes WHERE scope_key = ?1) \
) n, \
(SELECT count(*) FROM memory_edges WHERE scope_key = ?1) e, \
( \
    SELECT count(*), coalesce(sum(x.weight), 0.0) FROM memory_edges x \
    WHERE x.scope_key = ?1 AND x.type = 'part_of' \
        AND EXISTS (SELECT 1 FROM memory_nodes s WHERE s.scope_key = ?1 AND s.id = x.src_id AND s.type = 'event') \
        AND EXISTS (SELECT 1 FROM memory_nodes t WHERE t.scope_key = ?1 AND t.id = x.dst_id AND t.type = 'topic') \
) p, \
( \
    SELECT count(*), coalesce(sum(NOT EXISTS (SELECT 1 FROM memory_edges x \
        JOIN memory_nodes t ON t.scope_key = ?1 AND t.id = x.dst_id AND t.type = 'topic' \
        WHERE x.scope_key = ?1 AND x.src_id = m.id AND x.type = 'part_of')), 0) \
    FROM memory_nodes m \
    WHERE m.scope_key = ?1 AND m.type = 'event' AND m.tier IN ('hot', 'warm') AND m.embedding_status = 'ready' \
) o";

#[async_trait]
impl ReportStore for SqliteStore {
    async fn activity(&self, scopes: &[ScopeKey], since: Timestamp) -> Result<Vec<ScopeActivity>, StoreError> {
        let scopes = scopes.to_vec();
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(ACTIVITY).map_err(driver)?;
                let mut all = Vec::with_capacity(scopes.len());
                for scope in scopes {
                    let activity = statement.query_row(params![scope.as_str(), since.0], activity).map_err(driver)?;
                    all.push(ScopeActivity { scope, activity });
                }
                Ok(all)
            })
            .await
    }

    async fn rule_signals(&self, query: &RuleSignalQuery) -> Result<RuleSignalPage, StoreError> {
        let query = query.clone();
        self.readers.run(move |connection| rule_signals(connection, &query)).await
    }

    async fn quality(&self, scope: &ScopeKey, since: Timestamp) -> Result<QualityCounts, StoreError> {
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(QUALITY).map_err(driver)?;
                statement.query_row(params![scope.as_str(), since.0], quality).map_err(driver)
            })
            .await
    }
}

fn rule_signals(connection: &Connection, query: &RuleSignalQuery) -> Result<RuleSignalPage, StoreError> {
    let scope = query.scope.as_str();
    let states: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
    let states = serde_json::Value::from(states).to_string();
    let mut statement = connection.prepare_cached(SIGNALS).map_err(driver)?;
    let asked = params![scope, states, query.since.0, signed(query.limit as u64)];
    let rules: Vec<RuleSignals> = statement
        .query_map(asked, signals_of)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable("memory_rule_defs", scope, e))?;
    let all = connection.query_row(RULES, params![scope, states], |row| unsigned(row, 0)).map_err(driver)?;
    Ok(RuleSignalPage { left_out: all.saturating_sub(rules.len() as u64), rules })
}

fn quality(row: &Row<'_>) -> rusqlite::Result<QualityCounts> {
    let n = |at| unsigned(row, at);
    Ok(QualityCounts {
        nodes: n(0)?,
        tiers: [n(1)?, n(2)?, n(3)?, n(4)?],
        ready: n(5)?,
        dedupe_candidates: n(6)?,
        aliased: n(7)?,
        fresh: n(8)?,
        summaries: n(9)?,
        citations: n(10)?,
        mergeable: n(11)?,
        merged: n(12)?,
        edges: n(13)?,
        part_of: n(14)?,
        part_of_weight: row.get(15)?,
        eligible_events: n(16)?,
        orphan_events: n(17)?,
    })
}

fn activity(row: &Row<'_>) -> rusqlite::Result<Activity> {
    let n = |at| unsigned(row, at);
    Ok(Activity {
        feedback: FeedbackCounts {
            total: n(0)?,
            with_run_id: n(1)?,
            distinct_runs: n(2)?,
            positive: n(3)?,
            negative: n(4)?,
            neutral: n(5)?,
            tools: n(6)?,
            tools_with_decision: n(7)?,
            tools_linked: n(8)?,
        },
        rules: RuleCounts {
            draft: n(9)?,
            shadow: n(10)?,
            active: n(11)?,
            disabled: n(12)?,
            active_with_feedback: n(13)?,
        },
        recall: RecallCounts { total: n(14)?, with_identity: n(15)?, distinct_consumers: n(16)? },
        lanes: LaneCounts { private: n(17)?, private_with_owner: n(18)?, shared: n(19)? },
    })
}

fn votes(row: &Row<'_>, from: usize) -> rusqlite::Result<Votes> {
    Ok(Votes {
        positive: unsigned(row, from)?,
        negative: unsigned(row, from + 1)?,
        neutral: unsigned(row, from + 2)?,
        runs: unsigned(row, from + 3)?,
        positive_runs: unsigned(row, from + 4)?,
        negative_runs: unsigned(row, from + 5)?,
    })
}

fn signals_of(row: &Row<'_>) -> rusqlite::Result<RuleSignals> {
    let time = |at| row.get::<_, Option<i64>>(at).map(|time| time.map(Timestamp));
    Ok(RuleSignals {
        rule: NodeId(uuid(row, 0)?),
        state: choice(row, 1, RuleState::parse)?,
        positive_count: unsigned(row, 2)?,
        negative_count: unsigned(row, 3)?,
        commit_id: optional_uuid(row, 4)?.map(CommitId),
        created_at: Timestamp(row.get(5)?),
        updated_at: Timestamp(row.get(6)?),
        last_evaluated_at: time(7)?,
        window: votes(row, 8)?,
        lifetime: votes(row, 14)?,
        last_feedback_at: time(20)?,
        last_positive_at: time(21)?,
    })
}

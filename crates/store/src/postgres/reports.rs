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
use sqlx::postgres::PgRow;

use super::{
    PostgresStore,
    error::driver,
    rows::{choice, get, signed, unsigned},
    session::{For, Transaction, begin},
};

/// Every part looks at one scope by its key and by nothing else, whatever the planner knows of the tables.
const ACTIVITY: &str = "\
SELECT q.place, f.*, r.*, a.*, n.* \
FROM UNNEST($1::text[]) WITH ORDINALITY AS q (scope_key, place) \
CROSS JOIN LATERAL ( \
    SELECT count(*), count(f.run_id), count(DISTINCT f.run_id), \
        count(*) FILTER (WHERE f.outcome = 'positive'), count(*) FILTER (WHERE f.outcome = 'negative'), \
        count(*) FILTER (WHERE f.outcome = 'neutral'), count(*) FILTER (WHERE f.source = 'tools_feedback'), \
        count(f.decision_id) FILTER (WHERE f.source = 'tools_feedback'), \
        count(d.found) FILTER (WHERE f.source = 'tools_feedback') \
    FROM memory_rule_feedback f \
    LEFT JOIN LATERAL (SELECT true AS found FROM memory_decisions \
        WHERE scope_key = q.scope_key AND id = f.decision_id LIMIT 1) d ON true \
    WHERE f.scope_no = hashtextextended(q.scope_key, 0) AND f.scope_key || '' = q.scope_key AND f.created_at >= $2 \
) f \
CROSS JOIN LATERAL ( \
    SELECT count(*) FILTER (WHERE r.state = 'draft'), count(*) FILTER (WHERE r.state = 'shadow'), \
        count(*) FILTER (WHERE r.state = 'active'), count(*) FILTER (WHERE r.state = 'disabled'), \
        count(l.found) FILTER (WHERE r.state = 'active') \
    FROM memory_rule_defs r \
    LEFT JOIN LATERAL (SELECT true AS found FROM memory_rule_feedback \
        WHERE rule_node_id = r.rule_node_id AND scope_key = q.scope_key AND created_at >= $2 LIMIT 1) l ON true \
    WHERE r.scope_key = q.scope_key \
) r \
CROSS JOIN LATERAL ( \
    SELECT count(*), count(*) FILTER (WHERE consumer_agent_id IS NOT NULL OR consumer_team_id IS NOT NULL), \
        count(DISTINCT (consumer_agent_id, consumer_team_id)) \
            FILTER (WHERE consumer_agent_id IS NOT NULL OR consumer_team_id IS NOT NULL) \
    FROM memory_recall_audit WHERE scope_key = q.scope_key AND created_at >= $2 \
) a \
CROSS JOIN LATERAL ( \
    SELECT count(*) FILTER (WHERE memory_lane = 'private'), \
        count(*) FILTER (WHERE memory_lane = 'private' AND (owner_agent_id IS NOT NULL OR owner_team_id IS NOT NULL)), \
        count(*) FILTER (WHERE memory_lane = 'shared') \
    FROM memory_nodes WHERE scope_key = q.scope_key \
) n \
ORDER BY q.place";

/// A run has one vote: what it said is gathered first, then votes are counted.
const SIGNALS: &str = "\
SELECT r.rule_node_id, r.state, r.positive_count, r.negative_count, c.id, r.created_at, r.updated_at, \
    r.last_evaluated_at, v.* \
FROM (SELECT * FROM memory_rule_defs WHERE scope_key = $1 AND state = ANY($2) \
    ORDER BY updated_at DESC, rule_node_id LIMIT $4) r \
LEFT JOIN LATERAL (SELECT id FROM memory_commits WHERE scope_key = $1 AND seq = r.commit_seq LIMIT 1) c ON true \
CROSS JOIN LATERAL ( \
    SELECT count(*) FILTER (WHERE v.new AND v.new_good AND NOT v.new_bad), count(*) FILTER (WHERE v.new_bad), \
        count(*) FILTER (WHERE v.new AND NOT v.new_good AND NOT v.new_bad), count(v.run_id) FILTER (WHERE v.new), \
        count(v.run_id) FILTER (WHERE v.new_good AND NOT v.new_bad), count(v.run_id) FILTER (WHERE v.new_bad), \
        count(*) FILTER (WHERE v.good AND NOT v.bad), count(*) FILTER (WHERE v.bad), \
        count(*) FILTER (WHERE NOT v.good AND NOT v.bad), count(v.run_id), \
        count(v.run_id) FILTER (WHERE v.good AND NOT v.bad), count(v.run_id) FILTER (WHERE v.bad), \
        max(v.last_at), max(v.last_good_at) \
    FROM ( \
        SELECT f.run_id, bool_or(f.outcome = 'positive') AS good, bool_or(f.outcome = 'negative') AS bad, \
            bool_or(f.created_at >= $3) AS new, \
            bool_or(f.outcome = 'positive' AND f.created_at >= $3) AS new_good, \
            bool_or(f.outcome = 'negative' AND f.created_at >= $3) AS new_bad, \
            max(f.created_at) AS last_at, max(f.created_at) FILTER (WHERE f.outcome = 'positive') AS last_good_at \
        FROM memory_rule_feedback f WHERE f.rule_node_id = r.rule_node_id AND f.scope_key = $1 \
        GROUP BY f.run_id, CASE WHEN f.run_id IS NULL THEN f.id END \
    ) v \
) v \
ORDER BY r.updated_at DESC, r.rule_node_id";

const RULES: &str = "SELECT count(*) AS rules_of_states FROM memory_rule_defs WHERE scope_key = $1 AND state = ANY($2)";

/// The kind of what an edge leads to is looked at in the row that is found by its id: the index of topics would be gone through whole.
const QUALITY: &str = "\
SELECT n.*, e.*, p.*, o.* \
FROM ( \
    SELECT count(*), count(*) FILTER (WHERE tier = 'hot'), count(*) FILTER (WHERE tier = 'warm'), \
        count(*) FILTER (WHERE tier = 'cold'), count(*) FILTER (WHERE tier = 'archive'), \
        count(*) FILTER (WHERE embedding_status = 'ready'), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity')), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity') AND alias), \
        count(*) FILTER (WHERE coalesce(last_activated, created_at) >= $2), \
        count(*) FILTER (WHERE summary), \
        coalesce(sum(CASE WHEN summary AND jsonb_typeof(slots->'citations') = 'array' \
            THEN jsonb_array_length(slots->'citations') ELSE 0 END), 0)::bigint, \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity', 'procedure', 'self_model')), \
        count(*) FILTER (WHERE type IN ('topic', 'concept', 'entity', 'procedure', 'self_model') AND alias \
            AND updated_at >= $2) \
    FROM (SELECT *, nullif(coalesce(activity->>'alias_of', slots->>'alias_of'), '') IS NOT NULL AS alias, \
            type = 'concept' AND coalesce(slots->>'summary_kind' = 'compression_rollup', false) AS summary \
        FROM memory_nodes WHERE scope_key = $1) m \
) n, \
(SELECT count(*) FROM memory_edges WHERE scope_key = $1) e, \
( \
    SELECT count(*), coalesce(sum(x.weight), 0)::float8 FROM memory_edges x \
    CROSS JOIN LATERAL (SELECT 1 FROM memory_nodes \
        WHERE scope_key = $1 AND id = x.src_id AND type = 'event' LIMIT 1) src \
    CROSS JOIN LATERAL (SELECT 1 FROM memory_nodes \
        WHERE scope_key = $1 AND id = x.dst_id AND type || '' = 'topic' LIMIT 1) dst \
    WHERE x.scope_key = $1 AND x.type = 'part_of' \
) p, \
( \
    SELECT count(*), count(*) FILTER (WHERE t.found IS NULL) FROM memory_nodes m \
    LEFT JOIN LATERAL (SELECT true AS found FROM memory_edges x \
        CROSS JOIN LATERAL (SELECT 1 FROM memory_nodes \
            WHERE scope_key = $1 AND id = x.dst_id AND type || '' = 'topic' LIMIT 1) dst \
        WHERE x.scope_key = $1 AND x.src_id = m.id AND x.type = 'part_of' LIMIT 1) t ON true \
    WHERE m.scope_key = $1 AND m.type = 'event' AND m.tier IN ('hot', 'warm') AND m.embedding_status = 'ready' \
) o";

impl PostgresStore {
    async fn begin_report(&self, scopes: &[ScopeKey]) -> Result<Transaction, StoreError> {
        let alone = scopes.first().filter(|first| scopes.iter().all(|scope| scope.tenant() == first.tenant()));
        let whose = alone.map_or(For::Everyone, |scope| For::Tenant(scope.tenant()));
        begin(&self.shared.pool, whose, self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl ReportStore for PostgresStore {
    async fn activity(&self, scopes: &[ScopeKey], since: Timestamp) -> Result<Vec<ScopeActivity>, StoreError> {
        let mut tx = self.begin_report(scopes).await?;
        let keys: Vec<&str> = scopes.iter().map(ScopeKey::as_str).collect();
        let rows = sqlx::query(ACTIVITY).bind(keys).bind(since.0).fetch_all(&mut *tx).await.map_err(driver)?;
        scopes
            .iter()
            .zip(&rows)
            .map(|(scope, row)| Ok(ScopeActivity { scope: scope.clone(), activity: activity(row)? }))
            .collect()
    }

    async fn rule_signals(&self, query: &RuleSignalQuery) -> Result<RuleSignalPage, StoreError> {
        let scope = &query.scope;
        let states: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
        let mut tx = self.begin_report(std::slice::from_ref(scope)).await?;
        let signals = sqlx::query(SIGNALS).bind(scope.as_str()).bind(&states).bind(query.since.0);
        let rows = signals.bind(signed(query.limit as u64)).fetch_all(&mut *tx).await.map_err(driver)?;
        let all = sqlx::query(RULES).bind(scope.as_str()).bind(&states).fetch_one(&mut *tx).await.map_err(driver)?;
        let rules: Vec<RuleSignals> = rows.iter().map(signals_of).collect::<Result<_, _>>()?;
        Ok(RuleSignalPage { left_out: unsigned(&all, 0)?.saturating_sub(rules.len() as u64), rules })
    }

    async fn quality(&self, scope: &ScopeKey, since: Timestamp) -> Result<QualityCounts, StoreError> {
        let mut tx = self.begin_report(std::slice::from_ref(scope)).await?;
        let quality = sqlx::query(QUALITY).bind(scope.as_str()).bind(since.0);
        let row = quality.fetch_one(&mut *tx).await.map_err(driver)?;
        let n = |at| unsigned(&row, at);
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
            part_of_weight: get(&row, 15)?,
            eligible_events: n(16)?,
            orphan_events: n(17)?,
        })
    }
}

fn activity(row: &PgRow) -> Result<Activity, StoreError> {
    let n = |at| unsigned(row, at);
    Ok(Activity {
        feedback: FeedbackCounts {
            total: n(1)?,
            with_run_id: n(2)?,
            distinct_runs: n(3)?,
            positive: n(4)?,
            negative: n(5)?,
            neutral: n(6)?,
            tools: n(7)?,
            tools_with_decision: n(8)?,
            tools_linked: n(9)?,
        },
        rules: RuleCounts {
            draft: n(10)?,
            shadow: n(11)?,
            active: n(12)?,
            disabled: n(13)?,
            active_with_feedback: n(14)?,
        },
        recall: RecallCounts { total: n(15)?, with_identity: n(16)?, distinct_consumers: n(17)? },
        lanes: LaneCounts { private: n(18)?, private_with_owner: n(19)?, shared: n(20)? },
    })
}

fn votes(row: &PgRow, from: usize) -> Result<Votes, StoreError> {
    Ok(Votes {
        positive: unsigned(row, from)?,
        negative: unsigned(row, from + 1)?,
        neutral: unsigned(row, from + 2)?,
        runs: unsigned(row, from + 3)?,
        positive_runs: unsigned(row, from + 4)?,
        negative_runs: unsigned(row, from + 5)?,
    })
}

fn signals_of(row: &PgRow) -> Result<RuleSignals, StoreError> {
    let time = |at| get::<Option<i64>>(row, at).map(|time| time.map(Timestamp));
    Ok(RuleSignals {
        rule: NodeId(get(row, 0)?),
        state: choice(row, 1, RuleState::parse)?,
        positive_count: unsigned(row, 2)?,
        negative_count: unsigned(row, 3)?,
        commit_id: get::<Option<_>>(row, 4)?.map(CommitId),
        created_at: Timestamp(get(row, 5)?),
        updated_at: Timestamp(get(row, 6)?),
        last_evaluated_at: time(7)?,
        window: votes(row, 8)?,
        lifetime: votes(row, 14)?,
        last_feedback_at: time(20)?,
        last_positive_at: time(21)?,
    })
}

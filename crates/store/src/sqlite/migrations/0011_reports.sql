-- What happened in a scope lately is counted for reports.
CREATE INDEX memory_rule_feedback_time ON memory_rule_feedback (scope_key, created_at);

-- Private nodes without owner are listed for review.
CREATE INDEX memory_nodes_ownerless ON memory_nodes (scope_key, id)
    WHERE memory_lane = 'private' AND owner_agent_id IS NULL AND owner_team_id IS NULL;

-- What is kept for a while is removed by its age.
CREATE INDEX memory_outbox_published ON memory_outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX memory_recall_audit_old ON memory_recall_audit (created_at);
CREATE INDEX memory_decisions_old ON memory_decisions (created_at, scope_key, id);

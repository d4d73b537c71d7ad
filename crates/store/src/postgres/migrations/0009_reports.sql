-- What happened in a scope lately is counted for reports: by a number made of the scope, for the reason given in 0002.
ALTER TABLE memory_rule_feedback
    ADD COLUMN scope_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED;
CREATE INDEX memory_rule_feedback_time ON memory_rule_feedback (scope_no, created_at);

-- Private nodes without owner are listed for review. By a number made of the scope too.
CREATE INDEX memory_nodes_ownerless ON memory_nodes (scope_no, id)
    WHERE memory_lane = 'private' AND owner_agent_id IS NULL AND owner_team_id IS NULL;

-- What is kept for a while is removed by its age.
CREATE INDEX memory_outbox_published ON memory_outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX memory_recall_audit_old ON memory_recall_audit (created_at);
CREATE INDEX memory_decisions_old ON memory_decisions (created_at, scope_key, id);

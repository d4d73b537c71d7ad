-- What operations note beside a node's content: use, feedback, moves between tiers.
ALTER TABLE memory_nodes ADD COLUMN activity jsonb;

-- Decisions of tool selection, with the policy they were made by.
CREATE TABLE memory_decisions (
    scope_key      text   NOT NULL,
    id             uuid   NOT NULL,
    tenant_id      text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    run_id         text,
    selected_tool  text,
    candidates     text   NOT NULL,
    context_sha256 text   NOT NULL,
    policy_sha256  text   NOT NULL,
    policy         text   NOT NULL,
    source_rules   text   NOT NULL,
    tool_rules     text   NOT NULL,
    metadata       text   NOT NULL,
    created_at     bigint NOT NULL,
    commit_seq     bigint,
    PRIMARY KEY (scope_key, id)
);
-- Found by their context: statements that look for a row by its key can never take this index.
CREATE INDEX memory_decisions_context ON memory_decisions (context_sha256, scope_key, created_at);

CREATE TABLE memory_rule_feedback (
    scope_key    text   NOT NULL,
    id           uuid   NOT NULL,
    tenant_id    text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    rule_node_id uuid   NOT NULL,
    outcome      text   NOT NULL CHECK (outcome IN ('positive', 'negative', 'neutral')),
    run_id       text,
    note         text,
    source       text   NOT NULL CHECK (source IN ('rule_feedback', 'tools_feedback')),
    decision_id  uuid,
    commit_seq   bigint NOT NULL,
    created_at   bigint NOT NULL,
    PRIMARY KEY (scope_key, id)
);
CREATE UNIQUE INDEX memory_rule_feedback_decision ON memory_rule_feedback (decision_id, rule_node_id, scope_key)
    WHERE decision_id IS NOT NULL;
CREATE INDEX memory_rule_feedback_rule ON memory_rule_feedback (rule_node_id, scope_key, created_at);

-- Few rules of a scope are live, and they are asked for as a whole: by a number made of the scope, for the reason given
-- in the migration before.
ALTER TABLE memory_rule_defs
    ADD COLUMN scope_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED;
CREATE INDEX memory_rule_defs_live ON memory_rule_defs (scope_no) WHERE state IN ('active', 'shadow');

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['memory_decisions', 'memory_rule_feedback']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'') '
            'WITH CHECK (split_part(scope_key, ''/'', 1) = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'')', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO aionis_runtime', name);
    END LOOP;
END
$$;

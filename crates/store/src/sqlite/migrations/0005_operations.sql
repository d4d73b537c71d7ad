-- What operations note beside a node's content: use, feedback, moves between tiers.
ALTER TABLE memory_nodes ADD COLUMN activity TEXT;

-- Decisions of tool selection, with the policy they were made by.
CREATE TABLE memory_decisions (
    scope_key      TEXT    NOT NULL,
    id             BLOB    NOT NULL,
    run_id         TEXT,
    selected_tool  TEXT,
    candidates     TEXT    NOT NULL,
    context_sha256 TEXT    NOT NULL,
    policy_sha256  TEXT    NOT NULL,
    policy         TEXT    NOT NULL,
    source_rules   TEXT    NOT NULL,
    tool_rules     TEXT    NOT NULL,
    metadata       TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    commit_seq     INTEGER,
    PRIMARY KEY (scope_key, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_decisions_context ON memory_decisions (scope_key, context_sha256, created_at);

CREATE TABLE memory_rule_feedback (
    scope_key    TEXT    NOT NULL,
    id           BLOB    NOT NULL,
    rule_node_id BLOB    NOT NULL,
    outcome      TEXT    NOT NULL CHECK (outcome IN ('positive', 'negative', 'neutral')),
    run_id       TEXT,
    note         TEXT,
    source       TEXT    NOT NULL CHECK (source IN ('rule_feedback', 'tools_feedback')),
    decision_id  BLOB,
    commit_seq   INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (scope_key, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX memory_rule_feedback_decision ON memory_rule_feedback (scope_key, decision_id, rule_node_id)
    WHERE decision_id IS NOT NULL;
CREATE INDEX memory_rule_feedback_rule ON memory_rule_feedback (scope_key, rule_node_id, created_at);

CREATE INDEX memory_rule_defs_live ON memory_rule_defs (scope_key) WHERE state IN ('active', 'shadow');

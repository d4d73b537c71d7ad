-- What is kept of nodes that were forgotten: that they were there, and whose they were; nothing of what they said.
-- change_no tells images of other processes.
CREATE TABLE memory_erasures (
    scope_key      text   NOT NULL,
    id             uuid   NOT NULL,
    tenant_id      text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    scope_no       bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED,
    digest         bytea  NOT NULL CHECK (length(digest) = 32),
    memory_lane    text   NOT NULL,
    owner_agent_id text,
    owner_team_id  text,
    commit_seq     bigint NOT NULL,
    erased_at      bigint NOT NULL,
    change_no      bigint NOT NULL,
    PRIMARY KEY (scope_key, id)
);
CREATE INDEX memory_erasures_change ON memory_erasures (scope_no, change_no);

-- The order in which nodes are listed. By a number made of the scope: see 0002. By another one than that of changes, lest one
-- index be taken for the other while tables are empty.
ALTER TABLE memory_nodes ADD COLUMN listing_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 1)) STORED;
CREATE INDEX memory_nodes_created ON memory_nodes (listing_no, created_at, id);

ALTER TABLE memory_erasures ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON memory_erasures USING (tenant_id = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*')
    WITH CHECK (split_part(scope_key, '/', 1) = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_erasures TO aionis_runtime;

-- A scope that is being purged is not there for readers, and refuses writers, until its last row is gone. purge says how
-- far it is. A scope that is written again is another one: incarnation tells images of other processes.
ALTER TABLE memory_scopes DROP CONSTRAINT memory_scopes_state_check;
ALTER TABLE memory_scopes ADD CONSTRAINT memory_scopes_state_check CHECK (state IN ('open', 'importing', 'purging'));
ALTER TABLE memory_scopes ADD COLUMN purge text;
ALTER TABLE memory_scopes ADD COLUMN incarnation uuid NOT NULL DEFAULT gen_random_uuid();

-- Purges that ended. Each record names the digest of the one before, of whatever scope; aionis_meta holds the newest.
CREATE TABLE memory_purges (
    scope_key     text   NOT NULL,
    seq           bigint NOT NULL CHECK (seq > 0),
    tenant_id     text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    plan_sha256   bytea  NOT NULL CHECK (length(plan_sha256) = 32),
    head_seq      bigint NOT NULL,
    head_hash     bytea  NOT NULL CHECK (length(head_hash) = 32),
    mode          text   NOT NULL,
    -- Rows removed, by table.
    row_counts    text   NOT NULL,
    purged_by     text   NOT NULL,
    began_at      bigint NOT NULL,
    purged_at     bigint NOT NULL,
    parent_digest bytea  NOT NULL CHECK (length(parent_digest) = 32),
    digest        bytea  NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (scope_key, seq)
);
CREATE UNIQUE INDEX memory_purges_seq ON memory_purges (seq, scope_key);

ALTER TABLE memory_purges ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON memory_purges USING (tenant_id = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*')
    WITH CHECK (split_part(scope_key, '/', 1) = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*');
-- Records are neither changed nor removed.
GRANT SELECT, INSERT ON memory_purges TO aionis_runtime;

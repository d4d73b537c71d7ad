-- API keys: who a key stands for, and the SHA-256 of the key. The key itself is nowhere. They belong to a deployment and to
-- no scope; the service looks them up before it knows the tenant, as '*'.
CREATE TABLE api_keys (
    id          uuid   NOT NULL PRIMARY KEY,
    tenant_id   text   COLLATE "C" NOT NULL CHECK (tenant_id <> '' AND tenant_id <> '*'),
    name        text,
    prefix      text   NOT NULL CHECK (length(prefix) = 12),
    digest      bytea  NOT NULL UNIQUE CHECK (length(digest) = 32),
    role        text   NOT NULL CHECK (role IN ('reader', 'writer', 'admin')),
    agent_id    text,
    team_id     text,
    created_at  bigint NOT NULL,
    -- From when on it is not accepted. A rotation sets it to the end of the old key's grace.
    expires_at  bigint,
    revoked_at  bigint,
    replaced_by uuid
);
-- The order in which keys are listed.
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, created_at, id);

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON api_keys USING (tenant_id = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*')
    WITH CHECK (tenant_id = (SELECT current_setting('aionis.tenant', true))
    OR (SELECT current_setting('aionis.tenant', true)) = '*');
-- Keys are revoked, not removed: what a key stood for is known afterwards too.
GRANT SELECT, INSERT, UPDATE ON api_keys TO aionis_runtime;

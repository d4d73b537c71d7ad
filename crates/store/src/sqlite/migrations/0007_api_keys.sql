-- API keys: who a key stands for, and the SHA-256 of the key. The key itself is nowhere. They belong to a deployment and to
-- no scope.
CREATE TABLE api_keys (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant_id   TEXT    NOT NULL CHECK (tenant_id <> '' AND tenant_id <> '*'),
    name        TEXT,
    prefix      TEXT    NOT NULL CHECK (length(prefix) = 12),
    digest      BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    role        TEXT    NOT NULL CHECK (role IN ('reader', 'writer', 'admin')),
    agent_id    TEXT,
    team_id     TEXT,
    created_at  INTEGER NOT NULL,
    -- From when on it is not accepted. A rotation sets it to the end of the old key's grace.
    expires_at  INTEGER,
    revoked_at  INTEGER,
    replaced_by BLOB    CHECK (length(replaced_by) = 16)
) STRICT, WITHOUT ROWID;

-- The order in which keys are listed.
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, created_at, id);
